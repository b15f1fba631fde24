"""Copies and deletions beside live traffic: backup, compact, delete_topic, and their remains."""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb
import pytest

import eventlog
from eventlog import (
    ClosedError,
    EventLog,
    EventLogError,
    Topic,
    TopicExistsError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.embedded import appender, engine, keys
from eventlog.embedded import directory as files
from eventlog.embedded.retention import remove_deleted
from eventlog.embedded.writer import STEP_ROWS, Writer

if TYPE_CHECKING:
    from tests.conftest import Start

SEED = 20_240_608
PATIENCE = 30.0
FIRST, SECOND = "events-1.mdb", "events-2.mdb"


@pytest.fixture
def log(fast_path: Path) -> Iterator[EventLog]:
    """A log, closed after the test, opened again, and found to be whole."""
    with eventlog.open(fast_path) as log:
        yield log
    with eventlog.open(fast_path, create=False) as again:
        assert again.check().damaged == []


def path_of(log: EventLog) -> Path:
    return Path(log.location)


def bodies(topic: Topic, partition: int = 0) -> list[bytes]:
    return [event.body for event in topic.read(partition, max_events=1_000_000)]


def numbers(topic: Topic, partition: int = 0) -> list[int]:
    return [int(body.split()[0]) for body in bodies(topic, partition)]


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def environments(path: Path) -> set[str]:
    return {name for name in names(path) if name.startswith("events-")}


def junk(count: int, size: int = 4000) -> list[bytes]:
    """Bodies that do not compress."""
    source = random.Random(SEED)
    return [source.randbytes(size) for _ in range(count)]


class Worker:
    """Does one thing again and again on a thread, until it is stopped or fails."""

    def __init__(self, do: Callable[[int], object]) -> None:
        self.rounds = 0
        self._do = do
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._do(self.rounds)
                with self._moved:
                    self.rounds += 1
                    self._moved.notify_all()
        except BaseException as error:  # noqa: BLE001 - `stop` shows it
            with self._moved:
                self._error = error
                self._moved.notify_all()

    def go_on(self, rounds: int = 1) -> None:
        """Wait until it has done so many rounds more than now."""
        with self._moved:
            goal = self.rounds + rounds
            assert self._moved.wait_for(lambda: self.rounds >= goal or self._error, PATIENCE)
        if self._error is not None:
            raise self._error

    def stop(self) -> int:
        """End it; how many rounds it did. What it failed of is raised here."""
        self._stopping.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self.rounds


@contextmanager
def working(do: Callable[[int], object]) -> Iterator[Worker]:
    worker = Worker(do)
    try:
        yield worker
    finally:
        worker.stop()


# ---- Backup --------------------------------------------------------------------------------------


def test_a_backup_made_beside_an_appender_is_a_prefix_of_each_partition(
    log: EventLog, tmp_path: Path
) -> None:
    """And one moment of the log: an append that touches two partitions is in both or in neither."""
    topic = log.create_topic("t", partitions=3)
    both = [
        next(f"k{n}" for n in range(99) if topic.append(b"-1", key=f"k{n}").partition == number)
        for number in (0, 1)
    ]
    begin = [topic.partition_info(number).next_offset for number in range(3)]

    def append(number: int) -> None:
        body = b"%d" % number
        topic.append_batch([eventlog.Event(body, key=key) for key in both])
        topic.append(body, partition=2)

    with working(append) as worker:
        backups = []
        for number in range(4):
            worker.go_on(5)
            backups.append((worker.rounds, tmp_path / f"backup-{number}"))
            log.backup(backups[-1][1])
        worker.go_on(5)
    for least, path in backups:
        with eventlog.open(path, create=False) as copy:
            assert copy.check().ok
            found = [numbers(copy.topic("t"), number)[begin[number] :] for number in range(3)]
            assert all(some == list(range(len(some))) for some in found)
            assert len(found[0]) == len(found[1])
            assert len(found[0]) - len(found[2]) in (0, 1)
            assert least <= len(found[2]) < worker.rounds


def test_a_backup_and_its_log_go_their_own_ways(log: EventLog, tmp_path: Path) -> None:
    topic = log.create_topic("t", partitions=1)
    topic.append(b"0")
    log.backup(tmp_path / "backup")
    with eventlog.open(tmp_path / "backup") as copy:
        theirs = copy.topic("t")
        assert theirs.append(b"theirs").offset == topic.append(b"mine").offset == 1
        assert bodies(topic) == [b"0", b"mine"]
        assert bodies(theirs) == [b"0", b"theirs"]
        copy.delete_topic("t")
        copy.compact()
        assert [t.name for t in log.topics()] == ["t"]
    log.delete_topic("t")


def test_a_backup_holds_topics_settings_and_where_emptied_partitions_go_on(
    fast_path: Path, tmp_path: Path
) -> None:
    now_us = 1_700_000_000_000_000
    with eventlog.open(fast_path, durability="process", clock=lambda: now_us) as log:
        old = log.create_topic("old", partitions=1, retention=60)
        old.append_batch([b"a", b"b"])
        log.create_topic("new", partitions=2, compression="none", partitioner="kafka")
        now_us += 61_000_000
        assert old.expire() == 2
        log.backup(tmp_path / "backup")
    with eventlog.open(tmp_path / "backup", create=False, durability="process") as copy:
        assert copy.topic("old").partition_info(0)[:3] == (2, 2, 1)
        assert copy.topic("old").append(b"c").offset == 2
        new = copy.topic("new")
        assert (new.partitions, new.compression, new.partitioner) == (2, "none", "kafka")
    with pytest.raises(UnsupportedOperationError):
        eventlog.open(tmp_path / "backup", durability="disk")


def test_a_backup_is_a_dense_log_of_the_first_generation(log: EventLog, tmp_path: Path) -> None:
    topic = log.create_topic("t", partitions=1, compression="none")
    log.create_topic("gone", partitions=1, compression="none").append_batch(junk(300))
    topic.append(b"0")
    log.delete_topic("gone")
    log.compact()
    log.backup(tmp_path / "made" / "on the way" / "backup")
    assert names(tmp_path / "made" / "on the way") == {"backup"}
    assert names(tmp_path / "made" / "on the way" / "backup") == {FIRST, files.CONTROL_NAME}
    assert (tmp_path / "made" / "on the way" / "backup" / FIRST).stat().st_size < 100_000


def test_a_log_opened_to_be_read_can_be_backed_up(log: EventLog, tmp_path: Path) -> None:
    log.create_topic("t", partitions=1).append(b"0")
    with eventlog.open(log.location, read_only=True) as reader:
        reader.backup(tmp_path / "backup")
    with eventlog.open(tmp_path / "backup", create=False) as copy:
        assert bodies(copy.topic("t")) == [b"0"]


@pytest.mark.parametrize("kind", ["file", "empty directory", "log"])
def test_a_backup_refuses_a_path_where_something_is(
    log: EventLog, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_bytes(b"mine")
    elif kind == "empty directory":
        target.mkdir()
    else:
        log.backup(target)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="target exists"):
        log.backup(target)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_backup_refuses_a_path_inside_the_log(log: EventLog, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(log.location)
    before = names(path_of(log))
    for target in (
        path_of(log),
        path_of(log) / "backup",
        path_of(log) / "a" / "b",
        tmp_path / "way" / "backup",
        path_of(log) / ".." / path_of(log).name / "backup",
    ):
        with pytest.raises(ValueError, match="inside the log"):
            log.backup(target)
    assert names(path_of(log)) == before
    log.backup(path_of(log).with_name(path_of(log).name + "-backup"))


@pytest.mark.parametrize("error", [OSError(5, "the disk"), KeyboardInterrupt()], ids=["os", "key"])
@pytest.mark.parametrize("step", ["create_control", "copy"])
def test_a_backup_that_fails_leaves_nothing_behind(
    log: EventLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    step: str,
) -> None:
    topic = log.create_topic("t", partitions=1)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        if step == "copy":
            patched.setattr(os, "fsync", fail)
        else:
            patched.setattr(files, "create_control", fail)
        with pytest.raises(type(error)):
            log.backup(tmp_path / "backup")
    assert names(tmp_path) == set()
    topic.append(b"0")
    log.backup(tmp_path / "backup")


def test_a_backup_below_a_file_is_refused(log: EventLog, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((FileExistsError, NotADirectoryError)):
        log.backup(tmp_path / "file" / "backup")
    assert names(tmp_path) == {"file"}


# ---- Compaction ----------------------------------------------------------------------------------


def test_compact_gives_back_what_a_deleted_topic_took_and_keeps_the_rest(log: EventLog) -> None:
    kept = log.create_topic("kept", partitions=2)
    kept.append_batch([b"%d" % n for n in range(1000)], partition=1)
    gone = log.create_topic("gone", partitions=1, compression="none")
    gone.append_batch(junk(1000))
    log.delete_topic("gone")
    info = kept.partition_info(1)
    before = (path_of(log) / FIRST).stat().st_size
    log.compact()
    assert environments(path_of(log)) == {SECOND, f"{SECOND}-lock"}
    assert before > 4_000_000
    assert (path_of(log) / SECOND).stat().st_size < 1_000_000
    assert numbers(kept, 1) == list(range(1000))
    assert kept.partition_info(1) == info
    assert kept.append(b"1000", partition=1).offset == 1000
    log.compact()
    assert environments(path_of(log)) == {"events-3.mdb", "events-3.mdb-lock"}
    assert numbers(kept, 1) == list(range(1001))


def test_a_log_opened_to_be_read_is_not_compacted(log: EventLog) -> None:
    with (
        eventlog.open(log.location, read_only=True) as reader,
        pytest.raises(UnsupportedOperationError),
    ):
        reader.compact()
    assert FIRST in names(path_of(log))


def test_offsets_of_an_emptied_partition_go_on_over_a_compaction(log: EventLog) -> None:
    topic = log.create_topic("t", partitions=1, retention_bytes=1, compression="none")
    topic.append_batch([b"a", b"b"])
    topic.append(b"c")
    topic.configure(retention=1e-6)
    topic.expire()
    log.compact()
    assert topic.partition_info(0)[:3] == (3, 3, 2)
    assert topic.append(b"d").offset == 3


def test_threads_append_and_read_through_compactions_and_nothing_is_lost(log: EventLog) -> None:
    topic = log.create_topic("t", partitions=3)
    log.create_topic("ballast", partitions=1, compression="none").append_batch(junk(500))
    with eventlog.open(log.location) as second:
        handles = [topic, second.topic("t"), log.topic("t")]

        def append(partition: int, number: int) -> None:
            receipt = handles[partition].append(b"%d" % number, partition=partition)
            assert receipt.offset == number

        def read(number: int) -> None:
            partition = number % 3
            found = numbers(handles[-partition], partition)
            assert found == list(range(len(found)))

        with (
            working(functools.partial(append, 0)) as first,
            working(functools.partial(append, 1)) as other,
            working(functools.partial(append, 2)) as third,
            working(read) as reader,
        ):
            for _ in range(5):
                log.compact()
                for worker in (first, other, third, reader):
                    worker.go_on(3)
        for partition, worker in enumerate((first, other, third)):
            assert numbers(topic, partition) == list(range(worker.rounds))
    assert environments(path_of(log)) == {"events-6.mdb", "events-6.mdb-lock"}


def test_readers_go_on_while_a_compaction_is_under_way_and_appends_wait(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t", partitions=1)
    topic.append(b"0")
    copied = threading.Event()
    released = threading.Event()
    replace_control = files.replace_control

    def held_up(directory: Path, control: files.Control) -> None:
        copied.set()
        assert released.wait(PATIENCE)
        replace_control(directory, control)

    monkeypatch.setattr(files, "replace_control", held_up)
    compaction = threading.Thread(target=log.compact)
    compaction.start()
    try:
        assert copied.wait(PATIENCE)
        assert bodies(topic) == [b"0"]
        assert topic.partition_info(0).next_offset == 1
        with pytest.raises(eventlog.LogBusyError):
            topic.append(b"late", timeout=0.05)
    finally:
        released.set()
        compaction.join(PATIENCE)
    assert not compaction.is_alive()
    assert topic.append(b"1").offset == 1
    assert bodies(topic) == [b"0", b"1"]


APPENDER = """
import sys
import eventlog

with eventlog.open(sys.argv[1]) as log:
    topic = log.topic("t")
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            print(topic.append(line.strip(), partition=0).offset, len(topic.read(0)), flush=True)
        except eventlog.EventLogError as error:
            print(type(error).__name__, flush=True)
"""

FREE_APPENDER = """
import select, sys
import eventlog

with eventlog.open(sys.argv[1]) as log:
    topic = log.topic("t")
    print("ready", flush=True)
    number = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        assert topic.append(b"%d" % number, partition=0).offset == number
        assert len(topic.read(0, max_events=10**6)) == number + 1
        number += 1
    print(number, flush=True)
"""


def test_a_handle_in_another_process_goes_on_in_the_new_generation(
    log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    child = start(APPENDER, log.location)
    assert child.line() == "ready"
    expected = 0
    for _ in range(3):
        child.say(str(expected))
        assert child.line() == f"{expected} {expected + 1}"
        log.compact()
        assert topic.append(b"%d" % (expected + 1)).offset == expected + 1
        expected += 2
    child.say(str(expected))
    assert child.line() == f"{expected} {expected + 1}"
    assert numbers(topic) == list(range(expected + 1))


def test_a_process_that_appends_all_the_time_loses_nothing_to_compactions(
    log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=2)
    child = start(FREE_APPENDER, log.location)
    assert child.line() == "ready"
    with working(lambda number: topic.append(b"%d" % number, partition=1)) as worker:
        for _ in range(6):
            log.compact()
            reached = topic.partition_info(0).next_offset
            deadline = time.monotonic() + PATIENCE
            while topic.partition_info(0).next_offset < reached + 3:
                assert time.monotonic() < deadline
            worker.go_on(2)
        child.say()
        count = int(child.line())
    assert child.wait() == 0
    assert numbers(topic) == list(range(count))
    assert numbers(topic, 1) == list(range(worker.rounds))


READER = """
import sys
import eventlog

with eventlog.open(sys.argv[1], read_only=True) as log:
    topic = log.topic("t")
    print("ready", flush=True)
    for line in sys.stdin:
        print(len(topic.read(0)), flush=True)
"""


def test_a_process_that_only_reads_follows_a_compaction(log: EventLog, start: Start) -> None:
    topic = log.create_topic("t", partitions=1)
    child = start(READER, log.location)
    assert child.line() == "ready"
    for count in range(1, 4):
        topic.append(b"0")
        log.compact()
        child.say()
        assert child.line() == str(count)


COMPACTOR = """
import os, pathlib, sys
import eventlog
from eventlog.embedded import copies, directory

path, step = sys.argv[1:]
def die(*_, **__):
    os._exit(9)
copy = copies._copy
def half(environment, target):
    copy(environment, target)
    os.truncate(target, target.stat().st_size // 2)
    die()
log = eventlog.open(path)
if step == "half a copy":
    copies._copy = half
elif step == "a copy":
    pathlib.Path.rename = die
elif step == "a new generation":
    directory.replace_control = die
elif step == "its number":
    directory.remove_leftovers = die
log.compact()
"""

KILLED = {
    "half a copy": {FIRST, f"{SECOND}-copy"},
    "a copy": {FIRST, f"{SECOND}-copy"},
    "a new generation": {FIRST, SECOND},
    "its number": {FIRST, SECOND, f"{SECOND}-lock"},
}


@pytest.mark.parametrize("step", KILLED)
@pytest.mark.parametrize("read_only", [False, True], ids=["to write", "to read"])
def test_a_compaction_killed_at_any_step_leaves_the_log_with_all_events(
    fast_path: Path, start: Start, step: str, read_only: bool
) -> None:
    with eventlog.open(fast_path) as log:
        log.create_topic("t", partitions=1).append_batch([b"%d" % n for n in range(100)])
    assert start(COMPACTOR, fast_path, step).wait() == 9
    assert environments(fast_path) == KILLED[step] | {f"{FIRST}-lock"}
    if read_only:
        with eventlog.open(fast_path, read_only=True) as log:
            assert numbers(log.topic("t")) == list(range(100))
            assert KILLED[step] <= names(fast_path)
    with eventlog.open(fast_path) as log:
        number = 2 if step == "its number" else 1
        current = files.environment_name(number)
        assert environments(fast_path) == {current, f"{current}-lock"}
        assert numbers(log.topic("t")) == list(range(100))
        assert log.topic("t").append(b"100").offset == 100
        log.compact()
        following = files.environment_name(number + 1)
        assert environments(fast_path) == {following, f"{following}-lock"}
        assert numbers(log.topic("t")) == list(range(101))
        assert log.check().ok


@pytest.mark.parametrize("step", KILLED)
def test_who_has_the_log_open_survives_a_compaction_killed_in_another_process(
    log: EventLog, start: Start, step: str
) -> None:
    topic = log.create_topic("t", partitions=1)
    topic.append(b"0")
    assert start(COMPACTOR, log.location, step).wait() == 9
    assert numbers(topic) == [0]
    assert topic.append(b"1").offset == 1
    log.compact()
    assert len(environments(path_of(log))) == 2
    assert topic.append(b"2").offset == 2
    assert numbers(topic) == [0, 1, 2]


def test_an_old_copy_left_by_a_killed_compaction_is_never_taken_for_the_log(
    fast_path: Path, start: Start
) -> None:
    """It lacks what was appended since."""
    with eventlog.open(fast_path) as log:
        log.create_topic("t", partitions=1).append(b"0")
        assert start(COMPACTOR, fast_path, "a new generation").wait() == 9
        log.topic("t").append(b"1")
        assert SECOND in names(fast_path)
        log.compact()
        assert numbers(log.topic("t")) == [0, 1]
    with eventlog.open(fast_path) as log:
        assert numbers(log.topic("t")) == [0, 1]


@pytest.mark.parametrize("name", [f"{SECOND}-copy", SECOND])
def test_leftovers_of_any_content_are_removed_unread(fast_path: Path, name: str) -> None:
    with eventlog.open(fast_path) as log:
        log.create_topic("t", partitions=1).append(b"0")
    (fast_path / name).write_bytes(random.Random(SEED).randbytes(10_000))
    with eventlog.open(fast_path) as log:
        assert name not in names(fast_path)
        assert numbers(log.topic("t")) == [0]


@pytest.mark.parametrize("step", ["replace_control", "sync_directory"])
def test_a_compaction_that_fails_leaves_the_log_as_it_was(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    topic = log.create_topic("t", partitions=1)
    topic.append(b"0")

    def fail(*_: object) -> None:
        raise OSError(5, "the disk")

    with monkeypatch.context() as patched:
        patched.setattr(files, step, fail)
        with pytest.raises(OSError, match="the disk"):
            log.compact()
    assert topic.append(b"1").offset == 1
    assert f"{SECOND}-copy" not in names(path_of(log))
    log.compact()
    assert topic.append(b"2").offset == 2
    assert numbers(topic) == [0, 1, 2]


def test_a_compaction_that_fails_after_its_last_step_has_happened(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is written but its flush fails: whatever the control file says is the log."""
    topic = log.create_topic("t", partitions=1)
    topic.append(b"0")
    replace_control = files.replace_control

    def fail(directory: Path, control: files.Control) -> None:
        replace_control(directory, control)
        raise OSError(5, "the disk")

    with monkeypatch.context() as patched:
        patched.setattr(files, "replace_control", fail)
        with pytest.raises(OSError, match="the disk"):
            log.compact()
    assert numbers(topic) == [0]
    assert topic.append(b"1").offset == 1
    log.compact()
    assert numbers(topic) == [0, 1]
    assert environments(path_of(log)) == {"events-3.mdb", "events-3.mdb-lock"}


# ---- Deleting a topic ----------------------------------------------------------------------------


def rows(path: Path, prefix: bytes) -> int:
    """Rows of a closed log whose keys begin with `prefix`."""
    data = next(path.glob("events-*.mdb"))
    with (
        lmdb.open(str(data), subdir=False, readonly=True, lock=False, lib_version=0) as environment,
        environment.begin() as transaction,
    ):
        return sum(key.startswith(prefix) for key, _ in transaction.cursor())


def batches_of(topic_id: int) -> bytes:
    return keys.encode_batch_key(topic_id, 0, 0)[:5]


def test_a_topic_of_thousands_of_chunks_goes_in_small_steps_beside_an_appender(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are commits of its own, some go with the appends."""
    steps: Counter[int] = Counter()

    def counted(writer: Writer, most_rows: int) -> bool:
        before = writer.transaction.stat()["entries"]
        more = remove_deleted(writer, most_rows)
        steps[writer.transaction.id()] += before - writer.transaction.stat()["entries"]
        return more

    monkeypatch.setattr(engine, "remove_deleted", counted)
    monkeypatch.setattr(appender, "remove_deleted", counted)
    with eventlog.open(fast_path) as log:
        big = log.create_topic("big", partitions=2, compression="none")
        for partition in (0, 1):
            big.append_batch(junk(1500), partition=partition)
        elsewhere = log.create_topic("elsewhere", partitions=1)
        with working(lambda number: elsewhere.append(b"%d" % number)) as worker:
            worker.go_on()
            log.delete_topic("big")
            worker.go_on()
        assert numbers(elsewhere) == list(range(worker.rounds))
        assert [topic.name for topic in log.topics()] == ["elsewhere"]
        report = log.check()
        assert (report.ok, report.notes) == (True, [])
        assert max(steps.values()) <= STEP_ROWS + 1  # the topic's mark goes with the last step
        assert steps.total() > 2900
    assert rows(fast_path, batches_of(1)) == 0
    assert rows(fast_path, b"D") == rows(fast_path, b"F") == 0


class Killed(BaseException):
    """Stands for the death of the process."""


def delete_half(log: EventLog, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deletion that dies after the commit that marks the topic."""

    def die(*_: object) -> bool:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(engine, "remove_deleted", die)
        with pytest.raises((Killed, EventLogError)):
            log.delete_topic(name)


@pytest.mark.parametrize("finish", ["expire", "appends", "another delete"])
@pytest.mark.parametrize("again", [True, False], ids=["opened again", "still open"])
def test_a_deletion_killed_after_its_first_commit_is_finished_later(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch, finish: str, again: bool
) -> None:
    log = eventlog.open(fast_path)
    log.create_topic("big", partitions=1, compression="none").append_batch(junk(900))
    other = log.create_topic("other", partitions=1)
    other.append(b"0")
    log.create_topic("third", partitions=1)
    delete_half(log, "big", monkeypatch)
    with pytest.raises(TopicNotFoundError):
        log.topic("big")
    assert "deleted topic" in " ".join(log.check().notes)
    if again:
        log.close()
        assert rows(fast_path, batches_of(1)) > 800
        log = eventlog.open(fast_path)
        other = log.topic("other")
    if finish == "expire":
        other.expire()
    elif finish == "another delete":
        log.delete_topic("third")
    else:
        for number in range(1, 15):
            other.append(b"%d" % number)
        assert numbers(other) == list(range(15))
    assert log.check().notes == []
    assert log.check().ok
    log.close()
    assert rows(fast_path, batches_of(1)) == rows(fast_path, b"D") == 0
    assert rows(fast_path, batches_of(2)) > 0


DELETER = """
import os, sys
import eventlog
from eventlog.embedded import engine

steps = int(sys.argv[2])
remove_deleted = engine.remove_deleted
def die(writer, most_rows):
    global steps
    if not steps:
        os._exit(9)
    steps -= 1
    return remove_deleted(writer, most_rows)
engine.remove_deleted = die
eventlog.open(sys.argv[1]).delete_topic("big")
"""


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_deletion_in_a_process_that_dies_is_finished_by_another(
    fast_path: Path, start: Start, steps: int
) -> None:
    with eventlog.open(fast_path) as log:
        log.create_topic("big", partitions=1, compression="none").append_batch(junk(900))
        log.create_topic("other", partitions=1).append(b"0")
    whole = rows(fast_path, batches_of(1))
    assert start(DELETER, fast_path, steps).wait() == 9
    assert rows(fast_path, batches_of(1)) == whole - steps * STEP_ROWS
    with eventlog.open(fast_path) as log:
        assert [topic.name for topic in log.topics()] == ["other"]
        assert log.check().ok
        log.topic("other").expire()
        assert log.check().notes == []
    assert rows(fast_path, batches_of(1)) == rows(fast_path, b"D") == 0


@pytest.mark.parametrize("half", [False, True], ids=["deleted", "half deleted"])
def test_a_topic_made_anew_under_the_old_name_shares_nothing_with_the_old(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    old = log.create_topic("t", partitions=2, retention_bytes=10, compression="none")
    for body in junk(20):
        old.append(body, partition=1)
    if half:
        delete_half(log, "t", monkeypatch)
    else:
        log.delete_topic("t")
    new = log.create_topic("t", partitions=2)
    assert new.partition_info(1) == (0, 0, -1, None, True, 0)
    assert new.read(1) == []
    assert (new.retention_bytes, new.compression) == (None, "zstd")
    assert new.append(b"0", partition=1).offset == 0
    assert bodies(new, 1) == [b"0"]
    log.delete_topic("t")
    newest = log.create_topic("t", partitions=1)
    assert bodies(newest) == []
    assert log.check().notes == []


HANDLE_USES: dict[str, Callable[[Topic], object]] = {
    "append": lambda topic: topic.append(b"x"),
    "append to a partition": lambda topic: topic.append(b"x", partition=0, expect_next=1),
    "append with a key": lambda topic: topic.append(b"x", key="k"),
    "append where there is no such partition": lambda topic: topic.append(b"x", partition=7),
    "append_batch": lambda topic: topic.append_batch([b"x", b"y"]),
    "read": lambda topic: topic.read(0),
    "read at the end": lambda topic: topic.read(0, eventlog.LATEST),
    "partition_info": lambda topic: topic.partition_info(0),
    "offset_at": lambda topic: topic.offset_at(0, "-1h"),
    "expire": lambda topic: topic.expire(),
    "configure": lambda topic: topic.configure(retention=60),
    "add_partitions": lambda topic: topic.add_partitions(1),
}


@pytest.mark.parametrize("use", HANDLE_USES.values(), ids=HANDLE_USES)
@pytest.mark.parametrize("anew", [False, True], ids=["deleted", "made anew"])
def test_a_handle_of_a_deleted_topic_raises_topic_not_found(
    log: EventLog, use: Callable[[Topic], object], anew: bool
) -> None:
    old = log.create_topic("t", partitions=1)
    old.append(b"0")
    with eventlog.open(log.location) as second:
        theirs = second.topic("t")
        log.delete_topic("t")
        new = log.create_topic("t", partitions=1) if anew else None
        for handle in (old, theirs):
            with pytest.raises(TopicNotFoundError, match="'t'"):
                use(handle)
    if new is not None:
        assert new.partition_info(0).next_offset == 0
        assert (new.retention, new.partitions) == (None, 1)


def test_a_handle_in_another_process_learns_that_its_topic_was_deleted(
    log: EventLog, start: Start
) -> None:
    log.create_topic("t", partitions=1)
    child = start(APPENDER, log.location)
    assert child.line() == "ready"
    child.say("0")
    assert child.line() == "0 1"
    log.delete_topic("t")
    child.say("0")
    assert child.line() == "TopicNotFoundError"
    new = log.create_topic("t", partitions=1)
    child.say("0")
    assert child.line() == "TopicNotFoundError"
    assert bodies(new) == []


def test_only_a_topic_that_exists_can_be_deleted(log: EventLog) -> None:
    log.create_topic("t")
    with pytest.raises(TopicExistsError):
        log.create_topic("t")
    log.delete_topic("t")
    with pytest.raises(TopicNotFoundError):
        log.delete_topic("t")


def test_maintenance_of_a_closed_log_is_refused(log: EventLog, tmp_path: Path) -> None:
    with eventlog.open(log.location) as other:
        pass
    for do in (other.compact, other.check, lambda: other.backup(tmp_path / "backup")):
        with pytest.raises(ClosedError):
            do()
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - not even a hidden one
