"""The power-cut harness, on programs and histories small enough to know the answer.

A harness that never finds anything proves nothing: most tests here come in pairs, a program that
keeps its promises in every state, and the same one with a sync left out, which must be caught.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.crash.power import (
    NEVER,
    PAGE,
    ROOT,
    SECTOR,
    Ack,
    History,
    Naming,
    Operation,
    Outcome,
    RecordingError,
    Report,
    Resize,
    State,
    Sync,
    Tree,
    Write,
    check_states,
    checker,
    choose_seed,
    program,
    record,
    recording,
    skip_unless_available,
)
from tests.crash.power.calls import read_calls

FILE = 1
ONE_FILE = {ROOT: {"file": FILE}}


@pytest.fixture
def seed() -> int:
    """The seed of this test's random choices, printed for the report of a failure."""
    seed = choose_seed()
    print(f"POWER_SEED={seed}")
    return seed


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory, where programs can be recorded."""
    skip_unless_available()
    (tmp_path / "recorded").mkdir()
    return tmp_path / "recorded"


def loses(history: History, read: Callable[[State], Iterable[str]], seed: int) -> State | None:
    """The first state that lacks something acknowledged."""
    for state in history.states(seed=seed):
        if set(state.acknowledged) - set(read(state)):
            return state
    return None


def describe(state: State | None) -> str:
    return "no state" if state is None else state.describe()


# ---- Recorded programs: files --------------------------------------------------------------------

LINES = """
def line(number):
    os.write(file, b"line %d\\n" % number)

directory = os.open(sys.argv[1], os.O_RDONLY)
file = os.open(sys.argv[1] + "/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.fsync(directory)
"""
SYNC_THEN_ACKNOWLEDGE = """
for number in range(20):
    line(number)
    os.fdatasync(file)
    acknowledge("line %d" % number)
"""
ACKNOWLEDGE_THEN_SYNC = """
for number in range(20):
    line(number)
    acknowledge("line %d" % number)
    os.fdatasync(file)
"""


def lines(state: State) -> list[str]:
    """The whole lines of the file `log`."""
    content = state.contents().get("log") or b""
    return content.decode(errors="replace").split("\n")[:-1]


def test_a_line_synced_before_it_is_acknowledged_is_in_every_state(
    directory: Path, seed: int
) -> None:
    history = record(program(LINES + SYNC_THEN_ACKNOWLEDGE, directory), directory)
    assert history.acknowledged == tuple(f"line {number}" for number in range(20))
    assert (lost := loses(history, lines, seed)) is None, describe(lost)


def test_a_line_acknowledged_before_it_is_synced_is_lost_in_some_state(
    directory: Path, seed: int
) -> None:
    history = record(program(LINES + ACKNOWLEDGE_THEN_SYNC, directory), directory)
    assert loses(history, lines, seed) is not None


def test_a_file_whose_name_was_never_synced_is_missing_in_some_state(
    directory: Path, seed: int
) -> None:
    source = LINES.replace("os.fsync(directory)", "") + SYNC_THEN_ACKNOWLEDGE
    history = record(program(source, directory), directory)
    assert any("log" not in state.contents() for state in history.states(seed=seed))


REPLACE = """
directory = os.open(sys.argv[1], os.O_RDONLY)
for version in range(5):
    draft = os.open(sys.argv[1] + "/draft", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(draft, b"%d" % version * 2000)
    if "file" in sys.argv:
        os.fsync(draft)
    os.close(draft)
    os.rename(sys.argv[1] + "/draft", sys.argv[1] + "/document")
    if "name" in sys.argv:
        os.fsync(directory)
    acknowledge("at least %d" % version)
"""


def versions(state: State) -> list[str]:
    """What the file `document` vouches for; nothing when it is missing or damaged."""
    content = state.contents().get("document") or b""
    whole = len(content) == 2000 and len(set(content)) == 1 and content[:1].isdigit()
    return [f"at least {version}" for version in range(int(content[:1]) + 1)] if whole else []


def test_a_document_is_replaced_whole_when_file_and_name_are_synced(
    directory: Path, seed: int
) -> None:
    history = record(program(REPLACE, directory, "file", "name"), directory)
    assert (lost := loses(history, versions, seed)) is None, describe(lost)


@pytest.mark.parametrize("synced", [(), ("file",), ("name",)], ids=["nothing", "file", "name"])
def test_a_document_is_damaged_or_old_in_some_state_when_a_sync_is_left_out(
    synced: Sequence[str], directory: Path, seed: int
) -> None:
    history = record(program(REPLACE, directory, *synced), directory)
    assert loses(history, versions, seed) is not None


# ---- Recorded programs: threads and processes ----------------------------------------------------

THREADS = """
import threading

def append(thread):
    file = os.open(sys.argv[1] + "/log", os.O_WRONLY | os.O_APPEND)
    for number in range(25):
        line = "thread %d line %d %s" % (thread, number, "x" * (number * 37 % 300))
        os.write(file, line.encode() + b"\\n")
        os.fdatasync(file)
        acknowledge(line)

threads = [threading.Thread(target=append, args=(each,)) for each in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_that_append_through_descriptors_of_their_own_lose_nothing_synced(
    directory: Path, seed: int
) -> None:
    history = record(program(LINES + THREADS, directory), directory)
    assert len(history.acknowledged) == 100
    assert (lost := loses(history, lines, seed)) is None, describe(lost)


CHILDREN = """
import subprocess
line(0)
if (child := os.fork()) == 0:
    line(1)
    os._exit(0)
os.waitpid(child, 0)
line(2)
subprocess.run(["sh", "-c", "echo line 3 >&3"], pass_fds=[3], preexec_fn=lambda: os.dup2(file, 3))
os.chdir(sys.argv[1])
subprocess.run(["sh", "-c", "echo line 4 >> log; mkdir made; mv log made/moved"])
acknowledge("done")
"""


def test_children_and_what_they_inherit_are_recorded(directory: Path) -> None:
    source = LINES.replace(" | os.O_APPEND", "") + CHILDREN
    history = record(program(source, directory), directory)
    last = list(history.states(seed=0))[-1]
    everything = last.model.tree(last.disk, Outcome(frozenset(last.disk.waiting))).contents()
    expected = b"".join(b"line %d\n" % number for number in range(5))
    assert everything == {"made": None, "made/moved": expected}


def test_a_program_killed_in_the_middle_is_recorded_up_to_there(directory: Path, seed: int) -> None:
    source = LINES + SYNC_THEN_ACKNOWLEDGE + "line(20)\nos.kill(os.getpid(), 9)\n"
    history = record(program(source, directory), directory, expect=-9)
    assert (lost := loses(history, lines, seed)) is None, describe(lost)
    assert "line 20" in {line for state in history.states(seed=seed) for line in lines(state)}


def test_what_the_directory_held_before_is_certain(directory: Path, seed: int) -> None:
    record(program(LINES + "line(0)", directory), directory)
    history = record(program(LINES + "line(1)", directory), directory)
    assert {len(lines(state)) for state in history.states(seed=seed)} == {1, 2}


# ---- Recorded programs: what cannot be recorded faithfully ---------------------------------------


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import mmap\nos.ftruncate(file, 9)\nmmap.mmap(file, 9)", "mapped shared and writable"),
        ("os.sendfile(file, os.open(sys.executable, os.O_RDONLY), 0, 99)", "cannot be recorded"),
        ("os.copy_file_range(os.open(sys.executable, 0), file, 99)", "cannot be recorded"),
        ("os.symlink('log', sys.argv[1] + '/link')", "neither a file nor a directory"),
        ("os.rename(sys.argv[1] + '/log', os.environ['POWER_ACK'])", "border"),
        ("os.open(sys.argv[1], os.O_TMPFILE | os.O_RDWR)", "without a name"),
        ("os.write(_ack, b'half a line')", "not whole lines"),
        ("sys.exit(3)", "ended with 3"),
        ("print('what went wrong'); sys.exit(1)", "what went wrong"),
        ("import time; time.sleep(60)", "still ran"),
    ],
)
def test_what_the_model_cannot_know_is_an_error(
    source: str, complaint: str, directory: Path
) -> None:
    opened = LINES.replace("O_WRONLY", "O_RDWR").replace(" | os.O_APPEND", "")
    with pytest.raises(RecordingError, match=complaint):
        record(program(opened + source, directory), directory, timeout=2.0)


def test_bytes_that_reached_a_file_unseen_are_an_error(directory: Path) -> None:
    source = """
import ctypes
os.ftruncate(file, 4096)
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
read, read_write, shared = 1, 3, 1
address = libc.mmap(None, ctypes.c_size_t(4096), read, shared, file, ctypes.c_long(0))
assert libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), read_write) == 0
ctypes.memset(address, 65, 9)
"""
    with pytest.raises(RecordingError, match="log has other bytes"):
        record(program(LINES.replace("O_WRONLY", "O_RDWR") + source, directory), directory)


def test_a_descriptor_that_came_through_a_socket_is_an_error(directory: Path) -> None:
    source = """
import socket
ours, theirs = socket.socketpair()
socket.send_fds(ours, [b"x"], [file])
_, (received,), _, _ = socket.recv_fds(theirs, 1, 1)
os.write(received, b"unseen")
"""
    with pytest.raises(RecordingError, match="by a way unseen"):
        record(program(LINES + source, directory), directory)


def test_calls_are_joined_over_the_lines_of_other_threads(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(
        r"""
7 pwrite64(3<\x2f\x61>, "\x61\x62\x63", 3, 16 <unfinished ...>
8 fdatasync(3<\x2f\x61>) = 0
7 <... pwrite64 resumed>)           = 2
7 write(3<\x2f\x61>, "\x64", 1)      = ? ERESTARTSYS (To be restarted)
8 write(3<\x2f\x61>, "\x65", 1 <unfinished ...>
7 pwrite64(3<\x2f\x61>, "\x66", 1, 9 <unfinished ...>
7 <... pwrite64 resumed> <unfinished ...>) = ?
7 +++ killed by SIGKILL +++
8 +++ killed by SIGKILL +++
"""
    )
    torn, sync, again, endless, resumed = read_calls(tmp_path / "trace")
    assert (torn.data, torn.offset, torn.value) == (b"ab", 16, 2)
    assert torn.begin < sync.begin < sync.end < torn.end
    assert again.value == -1
    assert (endless.data, endless.value, endless.end) == (b"e", None, NEVER)
    assert (resumed.data, resumed.offset, resumed.end) == (b"f", 9, NEVER)


def test_missing_strace_is_a_skip_at_home_and_a_failure_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "available", lambda: "strace is not installed")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        skip_unless_available()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="not installed"):
        skip_unless_available()


# ---- Recorded programs: LMDB ---------------------------------------------------------------------

# Every commit replaces a value of several pages, so that later ones reuse what earlier ones freed.
STORE = """
import lmdb

path, options = sys.argv[1] + "/store", eval(sys.argv[2])
env = lmdb.open(path, subdir=True, lib_version=0, map_size=1 << 26, **options)
for directory in (path, sys.argv[1]):
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)

def commit(number):
    with env.begin(write=True) as transaction:
        transaction.put(b"key %d" % number, b"%d" % number * 150 * number)
        transaction.put(b"churn", b"%d" % number * 9000)
        transaction.delete(b"gone %d" % (number - 1))
        transaction.put(b"gone %d" % number, bytes(1500))
    return "key %d" % number
"""
AFTER_COMMIT = """
for number in range(12):
    acknowledge(commit(number))
"""
AFTER_NEXT_COMMIT = """
behind = commit(0)
for number in range(1, 12):
    key = commit(number)
    acknowledge(behind)
    behind = key
"""
AFTER_SYNC = """
for number in range(12):
    key = commit(number)
    env.sync(True)
    acknowledge(key)
"""
# Opens a state, reads everything, goes on writing, and reads everything again.
OPEN = """
import lmdb

def read(env):
    with env.begin() as transaction:
        pairs = list(transaction.cursor())
    for key, value in pairs:
        assert not key.startswith(b"key ") or value == key[4:] * 150 * int(key[4:]), key
    return [key.decode() for key, _ in pairs]

def check(directory):
    with lmdb.open(directory + "/store", create=False, lib_version=0, map_size=1 << 26) as env:
        found = read(env)
        for number in range(3):
            with env.begin(write=True) as transaction:
                transaction.put(b"after %d" % number, bytes(9000))
        assert set(found) <= set(read(env))
        return found
"""


def check_store(source: str, options: str, directory: Path, seed: int) -> Report:
    """Records a program on LMDB and has all states of it opened."""
    history = record(program(STORE + source, directory, options), directory)
    report = check_states(history, checker(OPEN), scratch=directory.parent / "states", seed=seed)
    print(report)
    return report


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (AFTER_COMMIT, "{}"),
        (AFTER_NEXT_COMMIT, "{'metasync': False}"),
        (AFTER_SYNC, "{'metasync': False}"),
    ],
    ids=["synced commit", "metasync=False, next commit", "metasync=False, sync"],
)
def test_what_lmdb_made_durable_is_there_in_every_state(
    source: str, options: str, directory: Path, seed: int
) -> None:
    report = check_store(source, options, directory, seed)
    report.require_ok()
    assert report.states > 100


@pytest.mark.parametrize(
    ("source", "options"),
    [
        (AFTER_COMMIT, "{'metasync': False}"),
        (AFTER_COMMIT, "{'sync': False}"),
        (AFTER_NEXT_COMMIT, "{'sync': False}"),
    ],
    ids=["metasync=False, commit", "sync=False, commit", "sync=False, next commit"],
)
def test_what_lmdb_did_not_make_durable_is_lost_in_some_state(
    source: str, options: str, directory: Path, seed: int
) -> None:
    report = check_store(source, options, directory, seed)
    assert report.failures, report


# ---- The model, on histories made by hand --------------------------------------------------------


def history_of(*operations: Operation, content: bytes = b"") -> History:
    """A history of one file that was there before."""
    return History(operations, Tree({FILE: content}, ONE_FILE))


def contents(history: History, **options: int) -> set[bytes | None]:
    """Everything that the file may hold after any cut."""
    return {state.contents()["file"] for state in history.states(seed=1, **options)}


def last_contents(history: History, **options: int) -> set[bytes | None]:
    """Everything that the file may hold when the power fails at the very end."""
    states = list(history.states(seed=1, **options))
    last = states[-1].disk.moment
    return {state.contents()["file"] for state in states if state.disk.moment == last}


def test_a_sync_covers_only_what_had_ended_before_it_began() -> None:
    covered = history_of(Write(1, 2, FILE, 0, b"new"), Sync(3, 4, FILE), content=b"old")
    overlapping = history_of(Write(1, 3, FILE, 0, b"new"), Sync(2, 4, FILE), content=b"old")
    assert last_contents(covered) == {b"new"}
    assert last_contents(overlapping) == {b"new", b"old"}


def test_a_sync_covers_one_file_and_a_sync_of_everything_all() -> None:
    def both(*operations: Operation) -> set[tuple[bytes | None, ...]]:
        before = Tree({1: b"", 2: b""}, {ROOT: {"one": 1, "two": 2}})
        writes = (Write(1, 2, 1, 0, b"1"), Write(3, 4, 2, 0, b"2"))
        history = History((*writes, *operations), before)
        last = list(history.states(seed=1))[-1].disk.moment
        states = [state for state in history.states(seed=1) if state.disk.moment == last]
        return {tuple(state.contents().values()) for state in states}

    assert both(Sync(5, 6, 1)) == {(b"1", b""), (b"1", b"2"), (b"1", b"\0")}
    assert both(Sync(5, 6, 2)) == {(b"", b"2"), (b"1", b"2"), (b"\0", b"2")}
    neither_covered = {(one, two) for one in (b"", b"1") for two in (b"", b"2")}
    assert both(Sync(5, 6, ROOT)) >= neither_covered
    assert both(Sync(5, 6, None)) == {(b"1", b"2")}


def test_a_write_may_be_on_the_disk_from_its_begin_on_and_a_sync_counts_from_its_end() -> None:
    running = history_of(Write(1, NEVER, FILE, 0, b"new"), Sync(2, NEVER, FILE), content=b"old")
    assert last_contents(running) == {b"new", b"old"}


def test_an_acknowledgement_counts_from_its_begin() -> None:
    history = history_of(Write(1, 2, FILE, 0, b"new"), Ack(3, NEVER, "new"), content=b"old")
    promises = {(state.acknowledged, state.contents()["file"]) for state in history.states(seed=1)}
    assert promises == {(("new",), b"new"), (("new",), b"old")}


def test_a_synced_write_makes_itself_certain_and_nothing_else() -> None:
    history = history_of(
        Write(1, 2, FILE, 0, b"a"),
        Write(3, 4, FILE, SECTOR, b"b", synced=True),
        content=bytes(SECTOR + 1),
    )
    ends = bytes(SECTOR - 1) + b"b"
    assert last_contents(history) == {b"a" + ends, b"\0" + ends}
    assert contents(history) == last_contents(history) | {bytes(SECTOR + 1), b"a" + bytes(SECTOR)}


def test_a_synced_write_takes_along_what_its_sector_held_in_the_page_cache() -> None:
    history = history_of(
        Write(1, 2, FILE, 0, b"early"),
        Write(3, 4, FILE, 2, b"late", synced=True),
        Write(5, 6, FILE, 9, b"x"),
        content=bytes(10),
    )
    assert last_contents(history) == {b"ealate" + bytes(4), b"ealate" + bytes(3) + b"x"}


def test_a_write_is_torn_at_sectors_and_not_within() -> None:
    history = history_of(Write(1, 2, FILE, 0, b"n" * 4 * SECTOR), content=b"o" * 4 * SECTOR)
    found = contents(history, torn=3000)
    assert found == {
        b"".join(piece * SECTOR for piece in pieces)
        for pieces in itertools.product((b"o", b"n"), repeat=4)
    }


def test_a_write_without_its_first_sector_and_with_only_that_is_always_tried() -> None:
    history = history_of(Write(1, 2, FILE, 0, b"n" * 4 * SECTOR), content=b"o" * 4 * SECTOR)
    old, new = b"o" * SECTOR, b"n" * SECTOR
    assert contents(history, torn=0) == {old * 4, new * 4, new + old * 3, old + new * 3}


def test_with_pages_as_the_grain_a_page_is_not_torn() -> None:
    history = history_of(Write(1, 2, FILE, 0, b"n" * 2 * PAGE), content=b"o" * 2 * PAGE)
    old, new = b"o" * PAGE, b"n" * PAGE
    assert contents(history, grain=PAGE) == {old + old, old + new, new + old, new + new}


def test_a_file_may_grow_without_its_bytes_and_keep_its_size_without_its_growth() -> None:
    history = history_of(Write(1, 2, FILE, 2, b"new"), content=b"old")
    assert contents(history) == {b"old", b"ol" + b"new", b"old\0\0", b"oln"}


def test_a_hole_left_by_a_lost_write_reads_as_zeroes() -> None:
    history = history_of(Write(1, 2, FILE, 0, b"a" * SECTOR), Write(3, 4, FILE, SECTOR, b"b"))
    assert bytes(SECTOR) + b"b" in contents(history)


def test_what_is_written_after_shrinking_is_never_there_without_it() -> None:
    history = history_of(
        Resize(1, 2, FILE, 3, 0), Write(3, 4, FILE, 1, b"N", synced=True), content=b"old"
    )
    assert last_contents(history) == {b"\0N"}
    assert contents(history) == {b"old", b"", b"\0N"}


def test_shrinking_ends_what_was_pending_behind_the_new_size() -> None:
    history = history_of(
        Write(1, 2, FILE, 0, b"abc"), Resize(3, 4, FILE, 3, 1), Write(5, 6, FILE, 2, b"C")
    )
    assert b"a\0C" in contents(history)
    assert not any(found and found[1:2] == b"b" and b"C" in found for found in contents(history))


def namings(state: State) -> list[str]:
    return sorted(path for path, content in state.contents().items() if content is not None)


def test_names_of_one_directory_appear_in_order_and_of_two_in_any() -> None:
    history = History(
        (
            Naming(1, 2, "create", ((1, "a", 10),)),
            Naming(3, 4, "create", ((2, "b", 11),)),
            Naming(5, 6, "create", ((1, "c", 12),)),
        ),
        Tree({}, {ROOT: {"one": 1, "two": 2}, 1: {}, 2: {}}),
    )
    found = {tuple(namings(state)) for state in history.states(seed=1)}
    first = ((), ("one/a",), ("one/a", "one/c"))
    assert found == {(*names, *more) for names in first for more in ((), ("two/b",))}


def test_a_rename_over_two_directories_is_one_step_that_a_sync_of_either_makes_certain() -> None:
    moved = Naming(3, 4, "rename", ((1, "a", None), (2, "b", 10)))
    made = Naming(1, 2, "create", ((1, "a", 10),))
    before = Tree({}, {ROOT: {"one": 1, "two": 2}, 1: {}, 2: {}})
    pending = {tuple(namings(s)) for s in History((made, moved), before).states(seed=1)}
    assert pending == {(), ("one/a",), ("two/b",)}
    synced = list(History((made, moved, Sync(5, 6, 2)), before).states(seed=1))
    assert namings(synced[-1]) == ["two/b"]


def test_files_in_a_directory_whose_name_is_lost_are_lost_with_it() -> None:
    history = History(
        (
            Naming(1, 2, "mkdir", ((ROOT, "made", 1),)),
            Naming(3, 4, "create", ((1, "file", 2),)),
            Write(5, 6, 2, 0, b"x"),
            Sync(7, 8, 2),
            Sync(9, 10, 1),
        )
    )
    found = {tuple(state.contents().items()) for state in history.states(seed=1)}
    assert () in found
    assert (("made", None), ("made/file", b"x")) in found


def test_the_cuts_are_before_something_becomes_certain_after_promises_and_at_the_end() -> None:
    history = history_of(
        Write(1, 2, FILE, 0, b"a"), Sync(3, 4, FILE), Ack(5, 6, "a"), Write(7, 8, FILE, 0, b"b")
    )
    assert history.cuts() == [4, 6, 9]


def test_the_same_seed_makes_the_same_states() -> None:
    writes = [Write(2 * n + 1, 2 * n + 2, FILE, n * SECTOR, b"x" * 2000) for n in range(30)]
    history = history_of(*writes)

    def outcomes(seed: int) -> list[Outcome]:
        return [state.outcome for state in history.states(seed=seed)]

    assert outcomes(7) == outcomes(7)
    assert outcomes(7) != outcomes(8)


GRAIN = 4


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Writes to one small file, some synced, some files synced, all one after the other."""
    operations: list[Operation] = []
    for number in range(draw(st.integers(1, 6))):
        begin, end = 2 * number + 1, 2 * number + 2
        if draw(st.integers(0, 3)) == 0:
            operations.append(Sync(begin, end, FILE))
        else:
            data = bytes([ord("a") + number]) * draw(st.integers(1, 10))
            offset = draw(st.integers(0, 12))
            operations.append(Write(begin, end, FILE, offset, data, draw(st.booleans())))
    return history_of(*operations, content=b"#" * draw(st.integers(0, 14)))


def page_cache(history: History, moment: int) -> Iterator[tuple[Write | None, bytes]]:
    """The file as programs saw it, after each write begun before `moment`."""
    content = history.before.files[FILE]
    yield None, content
    for write in history.operations:
        if isinstance(write, Write) and write.begin < moment:
            padded = content.ljust(write.stop, b"\0")
            content = padded[: write.offset] + write.data + padded[write.stop :]
            yield write, content


def certain(history: History, write: Write, moment: int) -> bool:
    """Whether a write cannot be undone by a cut at `moment`, in so many words."""
    syncs = [each for each in history.operations if isinstance(each, Sync)]
    covered = any(sync.begin > write.end and sync.end < moment for sync in syncs)
    return covered or (write.synced and write.end < moment)


def possible(history: History, moment: int, start: int) -> set[bytes]:
    """What the grain at `start` may hold: any version of the page cache since it was certain."""
    versions: set[bytes] = set()
    for write, content in page_cache(history, moment):
        grain = content[start : start + GRAIN].ljust(GRAIN, b"\0")
        if write is None:
            versions = {grain}
        elif write.offset < start + GRAIN and start < write.stop:
            versions = {grain} | (set() if certain(history, write, moment) else versions)
    return versions


@given(histories())
def test_every_grain_holds_some_version_of_the_page_cache_since_it_was_certain(
    history: History,
) -> None:
    for state in history.states(seed=1, grain=GRAIN):
        content = state.contents()["file"] or b""
        for start in range(0, len(content), GRAIN):
            grain = content[start : start + GRAIN]
            versions = possible(history, state.disk.moment, start)
            assert any(each.startswith(grain) for each in versions), state.describe()


@given(histories())
def test_every_version_of_every_grain_is_tried_with_every_other(history: History) -> None:
    grains = range(0, 24, GRAIN)
    found: dict[int, set[bytes]] = {}
    for state in history.states(seed=1, grain=GRAIN, torn=200):
        content = (state.contents()["file"] or b"").ljust(24, b"\0")
        found.setdefault(state.disk.moment, set()).add(content)
    for moment, contents in found.items():
        each = (sorted(possible(history, moment, start)) for start in grains)
        inside_one = all(
            write.offset // GRAIN == (write.stop - 1) // GRAIN
            for write in history.operations
            if isinstance(write, Write)
        )
        if inside_one:
            assert {b"".join(parts) for parts in itertools.product(*each)} <= contents


# ---- The judge -----------------------------------------------------------------------------------


def test_an_opener_that_dies_is_a_failure_and_the_next_state_gets_a_new_one(tmp_path: Path) -> None:
    history = history_of(Write(1, 2, FILE, 0, b"new"), content=b"old")
    source = """
import os, signal
def check(directory):
    content = open(directory + "/file", "rb").read()
    if content == b"old":
        print("about to die")
        os.kill(os.getpid(), signal.SIGBUS)
    return [content.decode()]
"""
    report = check_states(history, checker(source), scratch=tmp_path, failures=9)
    assert report.states == 2
    (failure,) = report.failures
    assert "died with status -7 about to die" in failure.reason
    assert (failure.directory / "file").read_bytes() == b"old"


def test_an_opener_that_hangs_is_a_failure(tmp_path: Path) -> None:
    source = "import time\ndef check(directory): time.sleep(60)"
    report = check_states(history_of(), checker(source), scratch=tmp_path, timeout=0.5)
    with pytest.raises(AssertionError, match="did not answer within"):
        report.require_ok()


def test_a_directory_that_cannot_be_opened_is_forgiven_until_something_is_acknowledged(
    tmp_path: Path,
) -> None:
    history = history_of(Ack(1, 2, "promise"))
    opener = checker("def check(directory): raise OSError('damaged')")
    assert not check_states(history_of(), opener, scratch=tmp_path).failures
    (failure,) = check_states(history, opener, scratch=tmp_path).failures
    assert "OSError: damaged" in failure.reason


def test_a_judge_sees_the_state_and_the_answer(tmp_path: Path) -> None:
    def judge(state: State, answer: object) -> str | None:
        return None if answer == sorted(state.contents()) else f"not {answer}"

    opener = checker("import os\ndef check(directory): return sorted(os.listdir(directory))")
    check_states(history_of(), opener, judge=judge, scratch=tmp_path).require_ok()


def test_a_seed_from_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "POWER_SEED", "42")
    assert choose_seed() == 42
