"""The directory store: files that people and several processes share, and what may go wrong there.

What every store does is in `tests/blobs/test_contract.py`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from eventlog import (
    InvalidNameError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore
from eventlog.blobs import directory as module
from eventlog.blobs.directory import DirectoryBlobs
from eventlog.blobs.directory_lock import DirectoryLock

if TYPE_CHECKING:
    from tests.conftest import Start

NAME = "groups/cars/group.json"


@pytest.fixture
def place(fast_path: Path) -> Path:
    """Where a store may be made; nothing is there."""
    return fast_path


@pytest.fixture
def store(place: Path) -> Iterator[DirectoryBlobs]:
    with DirectoryBlobs(place) as store:
        yield store


def blob_at(store: BlobStore, name: str) -> Blob:
    blob = store.get(name)
    assert isinstance(blob, Blob)
    return blob


def files_in(place: Path) -> list[str]:
    """All there is, directories with a slash behind them, as an `ls` would not hide it."""
    return sorted(
        path.relative_to(place).as_posix() + "/" * path.is_dir() for path in place.rglob("*")
    )


# ---- The files -----------------------------------------------------------------------------------


def test_a_blob_is_the_file_of_its_name_and_nothing_else_is_there(
    store: BlobStore, place: Path
) -> None:
    store.put(NAME, b'{"generation": 1}')
    store.put(NAME, b'{"generation": 2}')
    assert files_in(place) == ["groups/", "groups/cars/", NAME]
    assert (place / NAME).read_bytes() == b'{"generation": 2}'


def test_that_hosts_have_their_locks_there_changes_nothing_about_the_first_put(
    store: DirectoryBlobs, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way to the directory is made durable with it, whoever made the directory."""
    synced: list[Path] = []
    monkeypatch.setattr(module, "sync_with_ancestors", synced.append)
    store.shared_directory.mkdir(parents=True)
    store.put("a", b"1")
    store.put("b", b"1")
    assert synced == [place]
    assert store.list("") == [(name, blob_at(store, name).etag) for name in ("a", "b")]


def test_looking_makes_nothing(store: BlobStore, place: Path) -> None:
    assert store.get(NAME) is None
    assert store.list("groups/") == []
    store.delete(NAME)
    with pytest.raises(PreconditionFailedError):
        store.delete(NAME, if_match="0")
    assert not place.exists()


def test_a_deletion_takes_along_the_directories_it_leaves_empty(
    store: BlobStore, place: Path
) -> None:
    store.put("a/b/c/d", b"1")
    store.put("a/e", b"2")
    store.delete("a/b/c/d")
    assert files_in(place) == ["a/", "a/e"]
    store.delete("a/e")
    assert files_in(place) == []


def test_a_store_may_be_named_by_a_link_to_its_directory(place: Path) -> None:
    place.mkdir()
    link = place.with_name("link")
    link.symlink_to(place)
    with DirectoryBlobs(link) as store:
        store.put(NAME, b"1")
    assert (place / NAME).read_bytes() == b"1"


def test_where_case_does_not_count_file_names_differ_in_more(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_folds_case", lambda directory: True)
    with DirectoryBlobs(place) as store:
        for name in ("Cars", "cars", "CARS"):
            store.put(f"groups/{name}", b"1")
        assert files_in(place) == ["groups/", "groups/!c!a!r!s", "groups/!cars", "groups/cars"]
        (place / "groups" / "By-Hand!").touch()
        (place / "groups" / "By-Hand").touch()
    with DirectoryBlobs(place) as again:
        names = ["groups/CARS", "groups/Cars", "groups/by-hand", "groups/cars"]
        assert [name for name, _ in again.list("")] == names


def test_whether_case_counts_is_asked_of_the_file_system(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.mkdir()
    (place / "a").touch()
    directory = os.open(place, os.O_RDONLY)
    try:
        assert module._folds_case(directory) == (place / "A").exists()
        if sys.platform == "linux":
            flags = (0x4000_0000).to_bytes(8, sys.byteorder)
            monkeypatch.setattr(fcntl, "ioctl", lambda *_: flags)
            assert module._folds_case(directory)
    finally:
        os.close(directory)


# ---- People --------------------------------------------------------------------------------------


def test_an_edit_by_hand_is_a_new_version(store: BlobStore, place: Path) -> None:
    etag = store.put(NAME, b"first")
    (place / NAME).write_bytes(b"FIRST")
    edited = blob_at(store, NAME)
    assert edited.data == b"FIRST"
    assert edited.etag != etag
    assert store.list("") == [(NAME, edited.etag)]
    with pytest.raises(PreconditionFailedError):
        store.put(NAME, b"second", if_match=etag)
    store.put(NAME, b"second", if_match=edited.etag)
    assert (place / NAME).read_bytes() == b"second"


def test_a_file_made_by_hand_is_a_blob_and_one_removed_by_hand_is_none(
    store: BlobStore, place: Path
) -> None:
    (place / "notes").mkdir(parents=True)
    (place / "notes" / "a.txt").write_text("by hand")
    assert blob_at(store, "notes/a.txt").data == b"by hand"
    with pytest.raises(PreconditionFailedError):
        store.put("notes/a.txt", b"", if_absent=True)
    (place / "notes" / "a.txt").unlink()
    assert store.get("notes/a.txt") is None
    store.put("notes/a.txt", b"again", if_absent=True)


def test_what_editors_and_others_leave_is_no_blob(store: BlobStore, place: Path) -> None:
    store.put("a", b"1")
    for name in (".a.swp", "a~", "#a#", "b c", "ä", ".hidden/a", "d e/a"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"2")
    (place / "empty" / "empty").mkdir(parents=True)
    assert [name for name, _ in store.list("")] == ["a"]


def test_times_set_by_hand_do_no_harm(store: BlobStore, place: Path) -> None:
    store.put(NAME, b"0")
    etags = set()
    for seconds in (0, -1, 4_000_000_000, 3_999_999_999, 1):
        os.utime(place / NAME, (seconds, seconds))
        blob = blob_at(store, NAME)
        assert int(blob.modified_at.timestamp()) == seconds
        etags.add(store.put(NAME, b"1", if_match=blob.etag))
    assert len(etags) == 5


def test_a_file_larger_than_any_blob_is_named_and_can_be_replaced(
    store: BlobStore, place: Path
) -> None:
    place.mkdir()
    with (place / "a").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreUnavailableError, match=r"'a' in .* has 1,099,511,627,776 bytes"):
        store.get("a")
    ((_, etag),) = store.list("")
    store.put("a", b"small", if_match=etag)
    assert blob_at(store, "a").data == b"small"


# ---- What is in the way --------------------------------------------------------------------------


def test_a_blob_cannot_stand_where_blobs_are_under_its_name_nor_under_a_blob(
    store: BlobStore, place: Path
) -> None:
    store.put("a/b", b"1")
    store.put("c", b"2")
    before = files_in(place)
    for name in ("a", "c/d", "c/d/e"):
        with pytest.raises(InvalidNameError, match=r"no plain file|no directory"):
            store.put(name, b"3")
        assert store.get(name) is None
        store.delete(name)
    assert files_in(place) == before


def test_empty_directories_give_way(store: BlobStore, place: Path) -> None:
    (place / "a" / "b" / "c").mkdir(parents=True)
    (place / "a" / "d").mkdir()
    store.put("a", b"1", if_absent=True)
    assert files_in(place) == ["a"]


@pytest.fixture
def outside(place: Path) -> Path:
    """A directory with a file, to which links lead out of the store."""
    outside = place.with_name("outside")
    (outside / "d").mkdir(parents=True)
    (outside / "file").write_bytes(b"not yours")
    place.mkdir()
    (place / "file").symlink_to(outside / "file")
    (place / "dangling").symlink_to(outside / "nothing")
    (place / "d").symlink_to(outside / "d")
    (place / "up").symlink_to("..")
    return outside


@pytest.mark.parametrize("name", ["file", "dangling", "d/new", "d", "up/outside/file", "up/x"])
def test_no_link_leads_out_of_the_store(
    name: str, store: BlobStore, outside: Path, place: Path
) -> None:
    before = files_in(place.parent)
    assert store.get(name) is None
    assert store.list("") == store.list("up/") == store.list("d/") == []
    for if_absent in (False, True):
        with pytest.raises(InvalidNameError, match=r"no plain file|no directory"):
            store.put(name, b"mine", if_absent=if_absent)
    store.delete(name)
    assert files_in(place.parent) == before
    assert (outside / "file").read_bytes() == b"not yours"


def test_what_is_no_plain_file_is_no_blob_and_is_not_waited_for(
    store: BlobStore, place: Path
) -> None:
    place.mkdir()
    os.mkfifo(place / "pipe")
    assert store.get("pipe") is None
    assert store.list("") == []
    with pytest.raises(InvalidNameError):
        store.put("pipe", b"1")
    store.delete("pipe")
    assert stat.S_ISFIFO((place / "pipe").stat().st_mode)


# ---- Permissions ---------------------------------------------------------------------------------


def test_files_have_the_permissions_that_the_process_gives_files(
    store: BlobStore, place: Path
) -> None:
    before = os.umask(0o027)
    try:
        store.put(NAME, b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / NAME).stat().st_mode) == 0o640
    assert stat.S_IMODE((place / NAME).parent.stat().st_mode) == 0o750


def test_a_put_keeps_the_permissions_that_somebody_gave_the_file(
    store: BlobStore, place: Path
) -> None:
    store.put(NAME, b"1")
    (place / NAME).chmod(0o600)
    store.put(NAME, b"2")
    assert stat.S_IMODE((place / NAME).stat().st_mode) == 0o600


UNPRIVILEGED = """
import os, sys
from eventlog import StoreUnavailableError
from eventlog.blobs import directory

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
store = directory.DirectoryBlobs(sys.argv[1])
for do in (
    lambda: store.get("a").data,
    lambda: store.get("secret"),
    lambda: [name for name, etag in store.list("")],
    lambda: store.put("a", b"2"),
    lambda: store.delete("a"),
):
    try:
        print(do(), flush=True)
    except StoreUnavailableError as error:
        print("unavailable:", str(error.__cause__.strerror).lower(), flush=True)
"""


def test_who_may_only_read_gets_and_lists(store: BlobStore, place: Path, start: Start) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a process another user")
    store.put("a", b"1")
    store.put("secret", b"1")
    place.parent.chmod(0o755)
    place.chmod(0o755)
    (place / "a").chmod(0o644)
    (place / "secret").chmod(0o600)
    assert start(UNPRIVILEGED, place).rest() == [
        "b'1'",
        "unavailable: permission denied",
        "['a', 'secret']",
        "unavailable: permission denied",
        "unavailable: permission denied",
    ]
    assert files_in(place) == ["a", "secret"]


# ---- Failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("function", ["write", "utime", "fsync", "rename"])
def test_what_fails_changes_nothing_and_leaves_nothing(
    function: str, there: bool, store: BlobStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a/other", b"1")
    if there:
        store.put(NAME, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, function, fail)
        with pytest.raises(StoreUnavailableError, match="No space left") as caught:
            store.put(NAME, b"new")
    assert isinstance(caught.value.__cause__, OSError)
    blob = store.get(NAME)
    assert (blob is not None) == there
    assert blob is None or blob_at(store, NAME).data == b"old"
    assert [path for path in files_in(place) if "." in path] == [NAME] * there
    store.put(NAME, b"new")


def test_data_that_are_written_in_pieces_are_whole(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:7]))
    store.put("a", bytes(range(100)))
    assert blob_at(store, "a").data == bytes(range(100))


def test_etags_differ_and_times_do_not_go_back_whatever_the_clock_does(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10**18, 10**18, 10**18 - 1, 5, 10**18, 10**18 + 50, 10**18 + 50])
    monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=lambda: next(times)))
    blobs = []
    for _ in range(7):
        store.put("a", b"x")
        blobs.append(blob_at(store, "a"))
    assert len({blob.etag for blob in blobs}) == 7
    modified = [blob.modified_at for blob in blobs]
    assert modified == sorted(modified)


def test_a_file_system_with_coarse_times_is_refused(
    store: BlobStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utime = os.utime

    def coarse(file: int, ns: tuple[int, int]) -> None:
        utime(file, ns=(ns[0] // 10**9 * 10**9, ns[1] // 10**9 * 10**9))

    with monkeypatch.context() as patched:
        patched.setattr(os, "utime", coarse)
        with pytest.raises(UnsupportedOperationError, match="nanosecond"):
            store.put("a", b"1")
    assert files_in(place) == []


def test_a_network_file_system_is_refused(
    store: BlobStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path) -> None:
        raise UnsupportedOperationError(f"{directory} is on a network file system")

    store.put("a", b"1")
    monkeypatch.setattr(module, "refuse_network", refuse)
    for do in (
        lambda: DirectoryBlobs(place).get("a"),
        lambda: DirectoryBlobs(place).put("a", b"2"),
        lambda: DirectoryBlobs(place).list(""),
    ):
        with pytest.raises(UnsupportedOperationError, match="network"):
            do()


# ---- Reading no more than needed -----------------------------------------------------------------


def test_an_unchanged_blob_is_not_read_and_a_list_reads_none(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    etag = store.put(NAME, b"1")

    def fail(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(DirectoryBlobs, "_read", fail)
    assert store.get(NAME, if_none_match=etag) is NOT_MODIFIED
    assert store.list("") == [(NAME, etag)]


# ---- Killed writers ------------------------------------------------------------------------------

KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from eventlog.blobs import directory

place, names = Path(sys.argv[1]), ("open", "mkdir", "write", "fchmod", "utime", "fsync", "rename",
    "unlink", "rmdir", "close", "stat", "scandir")

def run(do, number):
    '''Run `do` in a child that is killed before its system call `number`, if it gets there.'''
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    calls = itertools.count(1)
    def dying(function):
        def call(*arguments, **options):
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call
    for name in names:
        setattr(os, name, dying(getattr(os, name)))
    do(directory.DirectoryBlobs(place))
    os._exit(0)

def found():
    store = directory.DirectoryBlobs(place, lock_timeout=0)
    return {name: store.get(name).data for name, _ in store.list("")}

def check(do, before, after):
    '''Whenever it is killed, things are as before or as after, and the next writer goes on.'''
    outcomes = set()
    for number in itertools.count(1):
        store = directory.DirectoryBlobs(place, lock_timeout=0)
        for name in found():
            store.delete(name)
        for name, data in before.items():
            store.put(name, data)
        status = run(do, number)
        there = found()
        assert there in (before, after), (number, there)
        outcomes.add(there == after)
        store.put("next", b"1")
        store.delete("next")
        hidden = [path for path in place.rglob("*") if path.name.startswith(".")]
        assert not hidden, (number, hidden)
        if status == 0:
            break
        assert status == signal.SIGKILL
    assert there == after
    assert outcomes == {True, False} and number > 10, number
    print(number, flush=True)

big = bytes(100_000)
check(lambda store: store.put("a/b/c", big), {}, {"a/b/c": big})
check(lambda store: store.put("a/b/c", big), {"x": b"1"}, {"x": b"1", "a/b/c": big})
check(lambda store: store.put("a/b/c", big), {"a/b/c": b"old"}, {"a/b/c": big})
check(lambda store: store.delete("a/b/c"), {"a/b/c": b"old"}, {})
"""


def test_a_writer_killed_anywhere_leaves_the_old_blob_or_the_new_one_and_no_litter(
    place: Path, start: Start
) -> None:
    child = start(KILLED, place)
    assert len(child.rest()) == 4
    assert child.wait() == 0


# ---- The lock ------------------------------------------------------------------------------------

HOLDER = """
import fcntl, os, sys
directory = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(directory, getattr(fcntl, sys.argv[2]))
print("held", flush=True)
sys.stdin.readline()
"""


def test_who_cannot_have_the_lock_in_time_is_told_so_and_readers_need_none(
    store: BlobStore, place: Path, start: Start
) -> None:
    store.put("a", b"1")
    holder = start(HOLDER, place, "LOCK_EX")
    assert holder.line() == "held"
    waiting = DirectoryBlobs(place, lock_timeout=0.02)
    for do in (
        lambda: waiting.put("a", b"2"),
        lambda: waiting.delete("a"),
        lambda: waiting.list(""),
    ):
        with pytest.raises(StoreUnavailableError, match="locked"):
            do()
    assert blob_at(waiting, "a").data == b"1"
    holder.kill()
    waiting.put("a", b"2")
    assert [name for name, _ in waiting.list("")] == ["a"]


def test_lists_do_not_wait_for_each_other(store: BlobStore, place: Path, start: Start) -> None:
    store.put("a", b"1")
    holder = start(HOLDER, place, "LOCK_SH")
    assert holder.line() == "held"
    waiting = DirectoryBlobs(place, lock_timeout=0.02)
    assert [name for name, _ in waiting.list("")] == ["a"]
    with pytest.raises(StoreUnavailableError):
        waiting.put("a", b"2")


FORKED_WHILE_HELD = """
import os, sys, threading
from eventlog.blobs import directory

inside = threading.Event()

def hang(file):
    inside.set()
    threading.Event().wait()

os.fsync = hang
store = directory.DirectoryBlobs(sys.argv[1])
threading.Thread(target=store.put, args=("a", b"1"), daemon=True).start()
inside.wait()
if os.fork():
    threading.Event().wait()
print("forked", flush=True)
sys.stdin.readline()
"""


def test_a_child_forked_while_its_parent_holds_the_lock_does_not_keep_it(
    place: Path, start: Start
) -> None:
    place.mkdir()
    (place / "b").touch()
    parent = start(FORKED_WHILE_HELD, place)
    assert parent.line() == "forked"
    store = DirectoryBlobs(place, lock_timeout=0)
    with pytest.raises(StoreUnavailableError):
        store.put("a", b"2")
    parent.kill()  # its child goes on, until it has nothing to read any more
    store.put("a", b"2")


FORKING = """
import os, sys, threading
from eventlog.blobs import directory

store = directory.DirectoryBlobs(sys.argv[1])
stopped = threading.Event()

def keep_putting(name):
    while not stopped.is_set():
        store.put(name, b"1")

threads = [threading.Thread(target=keep_putting, args=(f"thread-{each}",)) for each in range(3)]
for thread in threads:
    thread.start()
for number in range(50):
    pid = os.fork()
    if not pid:
        store.put(f"child-{number}", b"1")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stopped.set()
for thread in threads:
    thread.join()
print(len(store.list("child-")), len(os.listdir("/dev/fd")))
"""


def test_children_forked_while_threads_put_can_put(place: Path, start: Start) -> None:
    (line,) = start(FORKING, place).rest()
    children, files = map(int, line.split())
    assert children == 50
    assert files < 10, "no descriptor is left open"


STARTING = """
import sys
from eventlog import blobs
with blobs.open(sys.argv[1]) as store:
    sys.stdin.readline()
    store.put(f"a/b/{sys.argv[2]}", b"1")
    print(len(store.list("a/b/")))
"""


def test_processes_that_start_together_make_the_directory_together(
    place: Path, start: Start
) -> None:
    children = [start(STARTING, place / "x" / "y", number) for number in range(8)]
    for child in children:
        child.say()
    counts = [int(child.line()) for child in children]
    assert max(counts) == 8
    assert len(DirectoryBlobs(place / "x" / "y").list("")) == 8


def test_a_directory_that_is_replaced_while_its_lock_is_waited_for_is_not_written_to(
    store: BlobStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"1")
    flock = fcntl.flock
    old = place.with_name("old")

    def replace_once(file: int, kind: int) -> None:
        flock(file, kind)
        if not old.exists():
            place.rename(old)
            place.mkdir()

    monkeypatch.setattr(fcntl, "flock", replace_once)
    store.put("b", b"2")
    assert files_in(old) == ["a"]
    assert files_in(place) == ["b"]


def test_a_directory_that_is_removed_under_a_store_is_made_again(
    store: BlobStore, place: Path
) -> None:
    etag = store.put(NAME, b"1")
    shutil.rmtree(place)
    assert store.get(NAME) is None
    with pytest.raises(PreconditionFailedError):
        store.put(NAME, b"2", if_match=etag)
    store.put(NAME, b"3", if_absent=True)
    assert blob_at(store, NAME).data == b"3"


def test_a_lock_that_nobody_has_any_more_is_free(store: BlobStore, place: Path) -> None:
    """Ctrl-C may come on the way to giving it back, and nobody would be left to do it."""
    store.put("a", b"1")
    lock = DirectoryLock(place)
    lock.acquire(fcntl.LOCK_EX, 0)
    with pytest.raises(StoreUnavailableError):
        DirectoryBlobs(place, lock_timeout=0).put("a", b"2")
    del lock
    DirectoryBlobs(place, lock_timeout=0).put("a", b"2")


INTERRUPTED = """
import contextlib, itertools, sys
from eventlog.blobs import directory
from tests.embedded.test_processes import Interrupter

store = directory.DirectoryBlobs(sys.argv[1])
other = directory.DirectoryBlobs(sys.argv[1], lock_timeout=0)
other.put("a/b/c", b"0")
store.list("")  # what it learns once, it has learned
uses = {
    "put": lambda number: store.put("a/b/c", b"%d" % number),
    "list": lambda number: store.list(""),
    "delete": lambda number: store.delete("a/b/c"),
    "get": lambda number: store.get("a/b/c"),
}
for name, use in uses.items():
    for number in itertools.count(1):
        interrupter = Interrupter(number)
        with contextlib.suppress(KeyboardInterrupt), interrupter:
            use(number)
        other.put("other", b"%d" % number)
        there = other.get("a/b/c")
        assert there is None or there.data in (b"0", b"%d" % number), (name, number, there)
        other.put("a/b/c", b"0")
        if not interrupter.where:
            break
    assert number > (20 if name == "get" else 70), number
    print(name, number, flush=True)
"""


def test_ctrl_c_leaves_the_lock_to_others_wherever_it_comes(place: Path, start: Start) -> None:
    child = start(INTERRUPTED, place)
    assert len(child.rest()) == 4
    assert child.wait() == 0
