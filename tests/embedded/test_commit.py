"""Group commit: who shares a commit, whom an error concerns, and what a time-out leaves."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import pytest

import eventlog
from eventlog import (
    ClosedError,
    EventLogError,
    LogBusyError,
    Receipt,
    Topic,
    UnexpectedOffsetError,
)
from eventlog.embedded import commit, locks, storage, ticket
from eventlog.embedded.commit import Committer
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.writer import Writer
from tests.conftest import PATIENCE, Start

WAIT_BRIEFLY = 0.01

LOCKER = """
import sys
from pathlib import Path
from eventlog.embedded.locks import ProcessLock

lock = ProcessLock(Path(sys.argv[1]) / "eventlog.lock")
for line in sys.stdin:
    if line == "take\\n":
        lock.acquire(60)
        print("taken", flush=True)
    else:
        lock.release()
        print("released", flush=True)
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread to get somewhere."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        os.sched_yield()


@pytest.fixture(params=["disk", "process"])
def log(request: pytest.FixtureRequest, log_path: Path) -> Iterator[EmbeddedLog]:
    """A log of either durability, whole after the test."""
    with eventlog.open(log_path, durability=request.param) as log:
        assert isinstance(log, EmbeddedLog)
        yield log
    with eventlog.open(log_path, durability=None) as again:
        assert again.check().ok


@pytest.fixture
def topic(log: EmbeddedLog) -> Topic:
    return log.create_topic("cars", partitions=8)


@pytest.fixture
def committer(log: EmbeddedLog) -> Committer:
    return log.environment.committer


class Held:
    """A commit that goes on for as long as the test likes, so that others queue up behind it."""

    def __init__(
        self,
        committer: Committer,
        threads: ThreadPoolExecutor,
        interrupter: Interrupter | None = None,
    ) -> None:
        self._committer = committer
        self._threads = threads
        self._interrupter = interrupter
        self._begun = threading.Event()
        self._end = threading.Event()
        self._result = threads.submit(self._run)
        assert self._begun.wait(PATIENCE)

    def _run(self) -> None:
        try:
            self._committer.run(self._work, timeout=PATIENCE)
        except KeyboardInterrupt:
            assert self._interrupter is not None
        finally:
            sys.setprofile(None)

    def _work(self, writer: Writer) -> None:
        self._begun.set()
        assert self._end.wait(PATIENCE)
        sys.setprofile(self._interrupter)

    def queue(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Let a thread call something that commits; return when it waits."""
        waiting = len(self._committer._queue)
        future = self._threads.submit(call, *arguments, **options)
        until(lambda: len(self._committer._queue) > waiting or future.done())
        return future

    def let_go(self) -> None:
        self._end.set()
        self._result.result(PATIENCE)


@pytest.fixture
def held(committer: Committer, threads: ThreadPoolExecutor) -> Iterator[Held]:
    held = Held(committer, threads)
    yield held
    held._end.set()


def transactions(log: EmbeddedLog) -> int:
    number = log.environment.lmdb.info()["last_txnid"]
    assert isinstance(number, int)
    return number


def bodies(topic: Topic, partition: int = 0) -> list[bytes]:
    return [event.body for event in topic.read(partition)]


# Sharing


def test_callers_that_arrive_during_a_commit_share_the_next(
    log: EmbeddedLog, topic: Topic, held: Held
) -> None:
    """However many wait, one transaction stores what all of them brought, in their order."""
    before = transactions(log)
    appends = [held.queue(topic.append, b"%d" % number, partition=0) for number in range(8)]
    held.let_go()
    receipts = [append.result(PATIENCE) for append in appends]
    assert transactions(log) == before + 1
    assert [receipt.offset for receipt in receipts] == list(range(8))
    assert bodies(topic) == [b"%d" % number for number in range(8)]
    assert len({receipt.enqueued_at for receipt in receipts}) == 1


def test_one_caller_alone_commits_at_once(log: EmbeddedLog, topic: Topic) -> None:
    """Nobody waits for company."""
    before = transactions(log)
    for number in range(3):
        topic.append(b"", partition=0)
        assert transactions(log) == before + number + 1


def test_a_commit_takes_only_so_many_bytes(
    log: EmbeddedLog, topic: Topic, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers with much to store do not make one endless commit."""
    monkeypatch.setattr(commit, "MAX_COMMIT_BYTES", 400)
    before = transactions(log)
    appends = [held.queue(topic.append, os.urandom(100), partition=0) for _ in range(6)]
    held.let_go()
    assert [append.result(PATIENCE).offset for append in appends] == list(range(6))
    assert transactions(log) == before + 2


def test_all_appends_of_many_threads_are_stored_once_and_in_each_threads_order(
    topic: Topic, threads: ThreadPoolExecutor
) -> None:
    """Offsets have no gaps and no doubles, whoever led and whoever followed."""

    def append(writer: int) -> list[Receipt]:
        return [topic.append(b"%d %d" % (writer, count), partition=0) for count in range(60)]

    receipts = list(threads.map(append, range(8), timeout=PATIENCE))
    assert sorted(own.offset for each in receipts for own in each) == list(range(480))
    stored = bodies(topic)
    for writer, own in enumerate(receipts):
        assert [stored[receipt.offset] for receipt in own] == [
            b"%d %d" % (writer, count) for count in range(60)
        ]


def test_work_that_only_looks_commits_nothing(log: EmbeddedLog, committer: Committer) -> None:
    """A transaction without changes leaves no trace in the file."""
    before = transactions(log)
    assert committer.run(lambda writer: writer.get(b"L"), timeout=PATIENCE) is None
    assert transactions(log) == before


# Errors


def test_a_refusal_concerns_nobody_else(log: EmbeddedLog, topic: Topic, held: Held) -> None:
    """An expectation that does not hold is that caller's error; one commit has the rest."""
    before = transactions(log)
    good = held.queue(topic.append, b"good", partition=0)
    bad = held.queue(topic.append, b"bad", partition=0, expect_next=7)
    better = held.queue(topic.append, b"better", partition=0)
    held.let_go()
    with pytest.raises(UnexpectedOffsetError) as caught:
        bad.result(PATIENCE)
    assert (caught.value.expected, caught.value.actual) == (7, 1)
    assert (good.result(PATIENCE).offset, better.result(PATIENCE).offset) == (0, 1)
    assert bodies(topic) == [b"good", b"better"]
    assert transactions(log) == before + 1


def test_work_that_fails_after_a_change_is_undone_and_spoils_nobody(
    log: EmbeddedLog, topic: Topic, committer: Committer, held: Held
) -> None:
    """Half of a caller's work is never stored; the others' is done again without it."""

    def fail(writer: Writer) -> None:
        writer.put(b"Zhalf", b"done")
        raise KeyError("the other half")

    before = held.queue(topic.append, b"before", partition=0)
    failing = held.queue(committer.run, fail, timeout=PATIENCE)
    after = held.queue(topic.append, b"after", partition=0)
    held.let_go()
    with pytest.raises(KeyError, match="the other half"):
        failing.result(PATIENCE)
    assert (before.result(PATIENCE).offset, after.result(PATIENCE).offset) == (0, 1)
    assert bodies(topic) == [b"before", b"after"]
    assert committer.run(lambda writer: writer.get(b"Zhalf"), timeout=PATIENCE) is None


@pytest.mark.parametrize("after_a_change", [False, True])
def test_an_error_of_lmdb_is_translated_and_spoils_nobody(
    topic: Topic, committer: Committer, held: Held, after_a_change: bool
) -> None:
    """What LMDB refuses (here: a key too long for it) is an `EventLogError` of that caller."""

    def fail(writer: Writer) -> None:
        if after_a_change:
            writer.put(b"Zhalf", b"done")
        writer.put(b"Z" * 600, b"")

    before = held.queue(topic.append, b"before", partition=0)
    failing = held.queue(committer.run, fail, timeout=PATIENCE)
    after = held.queue(topic.append, b"after", partition=0)
    held.let_go()
    with pytest.raises(EventLogError, match="MDB_BAD_VALSIZE"):
        failing.result(PATIENCE)
    assert (before.result(PATIENCE).offset, after.result(PATIENCE).offset) == (0, 1)
    assert bodies(topic) == [b"before", b"after"]
    assert committer.run(lambda writer: writer.get(b"Zhalf"), timeout=PATIENCE) is None


def test_after_a_failed_commit_offsets_go_on_where_they_were(
    topic: Topic, committer: Committer
) -> None:
    """What a commit that failed would have stored is not remembered as stored."""
    topic.append(b"0", partition=0)
    handle: Any = topic

    def fail(writer: Writer) -> None:
        record = handle.state.record
        _, batches = record, commit_batches(b"lost")
        writer.append(record.id, 0, batches)
        raise KeyError

    with pytest.raises(KeyError):
        committer.run(fail, timeout=PATIENCE)
    assert topic.append(b"1", partition=0).offset == 1
    assert bodies(topic) == [b"0", b"1"]


def commit_batches(body: bytes) -> list[Any]:
    from eventlog.embedded.batch import encode

    return encode(([body], None, None), len(body), compress=False)


class FailingFlush:
    """An LMDB environment whose disk refuses to flush."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment

    def __getattr__(self, name: str) -> Any:
        return getattr(self._environment, name)

    def sync(self, force: bool = False) -> None:
        raise lmdb.DiskError("mdb_env_sync: Input/output error")


def test_after_a_failed_flush_nothing_is_accepted_until_the_log_is_opened_again(
    log_path: Path,
) -> None:
    """A flush that failed once may seem to succeed with the data lost: nobody is told so."""
    with eventlog.open(log_path) as log:
        topic = log.create_topic("cars", partitions=1)
        topic.append(b"safe")
        assert isinstance(log, EmbeddedLog)
        environment: Any = log.environment
        real = environment._lmdb
        environment._lmdb = FailingFlush(real)
        with pytest.raises(EventLogError, match="uncertain"):
            topic.append(b"who knows")
        environment._lmdb = real
        with pytest.raises(EventLogError, match="open it again"):
            topic.append(b"not before it was opened again")
        assert bodies(topic)[:1] == [b"safe"]
    with eventlog.open(log_path) as log:
        assert log.topic("cars").append(b"works again").offset in (1, 2)


# Waiting


def test_who_waits_too_long_for_this_process_stores_nothing(topic: Topic, held: Held) -> None:
    """The time-out is an error, and it is certain that nothing came of the call."""
    for timeout in (0, WAIT_BRIEFLY):
        with pytest.raises(LogBusyError) as caught:
            topic.append(b"late", partition=0, timeout=timeout)
        assert caught.value.holder in (None, os.getpid())
    patient = held.queue(topic.append, b"patient", partition=0)
    held.let_go()
    assert patient.result(PATIENCE).offset == 0
    assert bodies(topic) == [b"patient"]


@pytest.mark.parametrize("timeout", [0, WAIT_BRIEFLY])
def test_who_waits_too_long_for_another_process_stores_nothing(
    topic: Topic, log_path: Path, start: Start, timeout: float
) -> None:
    """The error names the process that holds the log, and later appends work as ever."""
    child = start(LOCKER, log_path)
    child.say("take")
    assert child.line() == "taken"
    with pytest.raises(LogBusyError, match=str(child.pid)) as caught:
        topic.append(b"late", partition=0, timeout=timeout)
    assert caught.value.holder == child.pid
    child.kill()
    assert topic.append(b"in time", partition=0).offset == 0
    assert bodies(topic) == [b"in time"]


def test_the_logs_lock_timeout_holds_where_a_call_names_none(log_path: Path, start: Start) -> None:
    """`open` says how long every append waits at most."""
    with eventlog.open(log_path, lock_timeout=WAIT_BRIEFLY) as log:
        topic = log.create_topic("cars", partitions=1)
        child = start(LOCKER, log_path)
        child.say("take")
        assert child.line() == "taken"
        for call in (lambda: topic.append(b""), topic.expire, log.compact):
            with pytest.raises(LogBusyError):
                call()


def test_a_caller_behind_a_patient_one_gives_up_in_its_own_time(
    *,
    log: EmbeddedLog,
    topic: Topic,
    log_path: Path,
    held: Held,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who shares a commit with one that waits long for another process need not wait as long."""
    child = start(LOCKER, log_path)
    lock = log.environment.process_lock
    assert lock is not None
    release = lock.release

    def release_to_the_child() -> None:
        release()
        monkeypatch.undo()
        child.say("take")
        assert child.line() == "taken"

    monkeypatch.setattr(lock, "release", release_to_the_child)
    patient = held.queue(topic.append, b"patient", partition=0, timeout=PATIENCE)
    hasty = held.queue(topic.append, b"hasty", partition=0, timeout=0.5)
    held.let_go()
    with pytest.raises(LogBusyError) as caught:
        hasty.result(PATIENCE)
    assert caught.value.holder == child.pid
    assert not patient.done()
    child.say("release")
    assert patient.result(PATIENCE).offset == 0
    assert bodies(topic) == [b"patient"]


def test_a_leader_that_gives_up_leaves_the_others_waiting(
    topic: Topic,
    committer: Committer,
    log_path: Path,
    start: Start,
    threads: ThreadPoolExecutor,
) -> None:
    """Another goes on in its place; nobody else's work is lost or refused."""
    child = start(LOCKER, log_path)
    child.say("take")
    assert child.line() == "taken"
    hasty = threads.submit(topic.append, b"hasty", partition=0, timeout=0.5)
    until(lambda: committer._leader is not None)
    patient = [
        threads.submit(topic.append, b"patient", partition=0, timeout=PATIENCE) for _ in range(3)
    ]
    with pytest.raises(LogBusyError):
        hasty.result(PATIENCE)
    child.say("release")
    assert sorted(append.result(PATIENCE).offset for append in patient) == [0, 1, 2]
    assert bodies(topic) == [b"patient"] * 3


def test_waiting_for_ever_can_be_asked_for(topic: Topic, held: Held) -> None:
    """An infinite time-out is one, not an overflow."""
    append = held.queue(topic.append, b"", partition=0, timeout=float("inf"))
    held.let_go()
    assert append.result(PATIENCE).offset == 0


# Alone


def test_what_runs_alone_shares_its_time_with_no_commit(
    log: EmbeddedLog, topic: Topic, committer: Committer, held: Held
) -> None:
    """Appends queued before it are committed before, those queued behind it after."""
    seen: list[int] = []
    before = held.queue(topic.append, b"before", partition=0)
    alone = held.queue(
        committer.run_alone, lambda: seen.append(transactions(log)), timeout=PATIENCE
    )
    after = held.queue(topic.append, b"after", partition=0)
    start = transactions(log)
    held.let_go()
    assert alone.result(PATIENCE) is None
    assert (before.result(PATIENCE).offset, after.result(PATIENCE).offset) == (0, 1)
    assert seen == [start + 1]
    assert transactions(log) == start + 2


def test_what_fails_alone_is_its_callers_error(
    topic: Topic, committer: Committer, held: Held
) -> None:
    """A compaction that fails stops nobody."""

    def fail() -> None:
        raise OSError("no room for the copy")

    alone = held.queue(committer.run_alone, fail, timeout=PATIENCE)
    after = held.queue(topic.append, b"after", partition=0)
    held.let_go()
    with pytest.raises(OSError, match="no room"):
        alone.result(PATIENCE)
    assert after.result(PATIENCE).offset == 0


# Closing


def test_closing_first_does_what_was_accepted(log_path: Path, threads: ThreadPoolExecutor) -> None:
    """Appends under way are stored and acknowledged; later ones are refused."""
    opened = eventlog.open(log_path)
    assert isinstance(opened, EmbeddedLog)
    log = opened
    topic = log.create_topic("cars", partitions=1)
    held = Held(log.environment.committer, threads)
    append = held.queue(topic.append, b"accepted")
    closing = threads.submit(log.close)
    until(lambda: log._environment is None)
    with pytest.raises(ClosedError):
        topic.append(b"too late")
    assert not closing.done()
    held.let_go()
    assert append.result(PATIENCE).offset == 0
    closing.result(PATIENCE)
    with eventlog.open(log_path) as again:
        assert bodies(again.topic("cars")) == [b"accepted"]


# Interruptions


class Interrupter:
    """Raises KeyboardInterrupt where CPython would run a signal handler: at the n-th call.

    That is on entering a Python function and on coming back from one written in C; counted are
    the calls of whatever takes part in a commit.
    """

    FILES = frozenset(module.__file__ for module in (commit, locks, storage, ticket))

    def __init__(self, count: int) -> None:
        self._left = count
        self.where = ""

    def __call__(self, frame: Any, event: str, argument: object) -> None:
        code = frame.f_code
        if event not in ("call", "c_return") or code.co_filename not in self.FILES:
            return
        if code.co_name == "<genexpr>":
            return  # one being thrown away swallows what is raised in it
        self._left -= 1
        if not self._left:
            self.where = f"{code.co_qualname}:{frame.f_lineno} {event} {argument}"
            raise KeyboardInterrupt


@contextlib.contextmanager
def interrupted(interrupter: Interrupter) -> Iterator[None]:
    """Interrupt this thread; Ctrl-C ends the block."""
    sys.setprofile(interrupter)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)


def test_whatever_interrupts_a_lone_caller_leaves_the_log_usable(
    log: EmbeddedLog, topic: Topic
) -> None:
    """Ctrl-C anywhere in a commit: the event is there whole or not at all, and the next works."""
    for count in itertools.count(1):
        expected = topic.partition_info(0).next_offset
        with interrupted(interrupter := Interrupter(count)):
            topic.append(b"interrupted", partition=0)
        receipt = topic.append(b"next", partition=0, timeout=PATIENCE)
        assert receipt.offset in (expected, expected + 1), interrupter.where
        assert not log.environment.gate._inside, interrupter.where
        assert topic.read(0)[-1].body == b"next"
        if not interrupter.where:
            break


@pytest.mark.parametrize("first", [True, False])
def test_whatever_interrupts_a_leader_its_followers_are_served_once(
    topic: Topic, committer: Committer, threads: ThreadPoolExecutor, first: bool
) -> None:
    """Ctrl-C in the thread that commits for others: theirs is stored once, by someone.

    Without a flush to wait for, the first to queue up behind a commit leads the next; with one,
    who led the commit before goes on.
    """
    interrupter = Interrupter(0)

    def lead() -> None:
        with interrupted(interrupter):
            topic.append(b"leader", partition=0)

    for count in itertools.count(1):
        interrupter = Interrupter(count)
        held = Held(committer, threads, None if first else interrupter)
        leader = held.queue(lead if first else int)
        followers = [held.queue(topic.append, b"follower", partition=1) for _ in range(3)]
        begin = topic.partition_info(1).next_offset
        held.let_go()
        offsets = sorted(follower.result(PATIENCE).offset for follower in followers)
        leader.result(PATIENCE)
        assert offsets == [begin, begin + 1, begin + 2], interrupter.where
        assert topic.partition_info(1).next_offset == begin + 3, interrupter.where
        if not interrupter.where:
            break
