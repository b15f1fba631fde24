"""One log in many hands: handles, threads, forked and spawned processes, interrupts, readers."""

from __future__ import annotations

import contextlib
import dis
import gc
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Self

import pytest

import eventlog
from eventlog import (
    ClosedError,
    EventLog,
    LogBusyError,
    LogNotFoundError,
    Topic,
    UnsupportedOperationError,
)
from eventlog.embedded import environment_file
from tests.conftest import Child
from tests.crash.test_kill import TOPIC, Promise, append_witnessed, require_kept

if TYPE_CHECKING:
    from tests.conftest import Start

PATIENCE = 30.0


def bodies(topic: Topic, partition: int = 0) -> list[bytes]:
    return [event.body for event in topic.read(partition, max_events=100_000)]


def in_time(do: Callable[[], object], seconds: float = PATIENCE) -> object:
    """What `do` returns, run on a thread; fails if it hangs."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(do())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to show it
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"it hangs: {do}"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


# ---- Handles -------------------------------------------------------------------------------------


def test_two_handles_in_one_process_see_each_others_events_at_once(log: EventLog) -> None:
    mine = log.create_topic("t", partitions=1)
    with eventlog.open(log.location) as other:
        theirs = other.topic("t")
        assert [mine.append(b"0").offset, theirs.append(b"1").offset, mine.append(b"2").offset] == [
            *range(3)
        ]
        assert bodies(mine) == bodies(theirs) == [b"0", b"1", b"2"]


def test_another_way_to_the_same_directory_is_the_same_log(log: EventLog, tmp_path: Path) -> None:
    mine = log.create_topic("t", partitions=1)
    (tmp_path / "link").symlink_to(log.location)
    for way in ("link", "link/../log", "log/."):
        with eventlog.open(tmp_path / way) as other:
            other.topic("t").append(way)
    assert bodies(mine) == [b"link", b"link/../log", b"log/."]


def test_a_closed_handle_leaves_the_others_open(log: EventLog) -> None:
    topic = log.create_topic("t", partitions=1)
    for number in range(3):
        with eventlog.open(log.location) as other:
            other.topic("t").append(b"theirs")
        assert topic.append(b"mine").offset == 2 * number + 1


def test_what_belongs_to_a_closed_handle_is_closed_though_another_is_open(log: EventLog) -> None:
    log.create_topic("t", partitions=1)
    other = eventlog.open(log.location)
    topic = other.topic("t")
    other.close()
    with pytest.raises(ClosedError):
        topic.append(b"x")
    with pytest.raises(ClosedError):
        topic.read(0)


USES: dict[str, Callable[[EventLog, Topic], object]] = {
    "create_topic": lambda log, topic: log.create_topic("u"),
    "topic": lambda log, topic: log.topic("t"),
    "topics": lambda log, topic: log.topics(),
    "delete_topic": lambda log, topic: log.delete_topic("t"),
    "check": lambda log, topic: log.check(),
    "backup": lambda log, topic: log.backup(Path(log.location).with_name("backup")),
    "compact": lambda log, topic: log.compact(),
    "append": lambda log, topic: topic.append(b"x"),
    "append_batch": lambda log, topic: topic.append_batch([b"x"]),
    "read": lambda log, topic: topic.read(0),
    "partition_info": lambda log, topic: topic.partition_info(0),
    "offset_at": lambda log, topic: topic.offset_at(0, "-1h"),
    "expire": lambda log, topic: topic.expire(),
    "configure": lambda log, topic: topic.configure(retention=1),
    "add_partitions": lambda log, topic: topic.add_partitions(1),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_using_a_log_that_was_closed_is_a_closed_error(
    use: Callable[[EventLog, Topic], object], log_path: Path
) -> None:
    log = eventlog.open(log_path)
    topic = log.create_topic("t", partitions=1)
    log.close()
    log.close()
    with pytest.raises(ClosedError, match=str(log_path)):
        use(log, topic)


def test_with_ends_a_log_that_was_closed_inside(log_path: Path) -> None:
    with eventlog.open(log_path) as log:
        log.close()
    with eventlog.open(log_path) as again:
        assert again.topics() == []


def test_threads_that_append_while_the_log_is_closed_get_a_receipt_or_a_closed_error(
    fast_path: Path,
) -> None:
    appended = [0] * 4

    def write(topic: Topic, writer: int, ready: threading.Barrier) -> None:
        with contextlib.suppress(ClosedError):
            while True:
                topic.append(b"%d %d" % (writer, appended[writer]))
                appended[writer] += 1
                if appended[writer] % 20 == 1:
                    with contextlib.suppress(threading.BrokenBarrierError):
                        ready.wait()

    for _ in range(60):
        log = eventlog.open(fast_path)
        topic = log.create_topic("t", partitions=1, exist_ok=True)
        ready = threading.Barrier(5)
        threads = [
            threading.Thread(target=in_time, args=(lambda n=n, t=topic, r=ready: write(t, n, r),))
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        ready.wait(PATIENCE)
        ready.abort()
        in_time(log.close)
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
    with eventlog.open(fast_path) as log:
        found = sorted(tuple(map(int, body.split())) for body in bodies(log.topic("t")))
    assert found == [(writer, n) for writer in range(4) for n in range(appended[writer])]


def test_a_file_that_grows_while_an_opener_looks_at_it_is_not_taken_for_truncated(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = log.create_topic("t", partitions=1, compression="none")
    look = environment_file._metas

    def look_while_it_grows(file: Any) -> Any:
        topic.append(os.urandom(200_000))
        return look(file)

    monkeypatch.setattr(environment_file, "_metas", look_while_it_grows)
    (path,) = Path(log.location).glob("events-*.mdb")
    environment_file.check_environment_file(path)


# ---- Timeouts ------------------------------------------------------------------------------------

# Takes the lock that writers share, and gives it back, as it is told.
HOLDER = """
import fcntl, os, sys

lock = os.open(sys.argv[1] + "/eventlog.lock", os.O_RDWR)
while True:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
    fcntl.lockf(lock, fcntl.LOCK_UN)
    print("free", flush=True)
    if not sys.stdin.readline():
        break
"""
APPENDER = """
import sys
import eventlog

topic = eventlog.open(sys.argv[1]).topic("t")
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(topic.append(line.strip(), timeout=20).offset, flush=True)
    except eventlog.LogBusyError as error:
        print(error, flush=True)
"""


def hold(start: Start, log: EventLog) -> Child:
    holder = start(HOLDER, log.location)
    assert holder.line() == "held"
    return holder


def free(holder: Child) -> None:
    holder.say()
    assert holder.line() == "free"


def test_each_thread_waits_as_long_as_it_was_told_whoever_leads(
    log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    hold(start, log)
    waited: dict[float, float] = {}

    def append(timeout: float) -> None:
        begin = time.monotonic()
        with pytest.raises(LogBusyError):
            topic.append(b"refused", timeout=timeout)
        waited[timeout] = time.monotonic() - begin

    threads = [threading.Thread(target=append, args=(each,)) for each in (0.1, 3.0, 0.4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert 0.09 < waited[0.1] < 2
    assert 0.36 < waited[0.4] < 2
    assert 2.7 < waited[3.0] < PATIENCE
    assert bodies(topic) == []


def test_an_append_refused_for_lack_of_time_is_not_stored(fast_path: Path) -> None:
    """`LogBusyError` promises that: whoever tries again must not store an event twice."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    stored: list[bytes] = []
    refused: list[bytes] = []
    interval = sys.getswitchinterval()
    with eventlog.open(fast_path) as log:
        topic = log.create_topic("t", partitions=1)

        def write(writer: int) -> None:
            rng = random.Random(f"{seed} {writer}")
            for number in range(400):
                body = b"%d %d" % (writer, number)
                try:
                    topic.append(body, timeout=rng.choice((0, 0.00005, 0.0002, 0.001)))
                    stored.append(body)
                except LogBusyError:
                    refused.append(body)

        try:
            sys.setswitchinterval(1e-6)
            threads = [threading.Thread(target=write, args=(each,)) for each in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
        finally:
            sys.setswitchinterval(interval)
        assert len(stored) + len(refused) == 8 * 400
        assert min(len(stored), len(refused)) > 50
        assert sorted(bodies(topic)) == sorted(stored)


@pytest.mark.parametrize("timeout", [float("inf"), 1e300])
def test_a_timeout_may_be_endless(timeout: float, log_path: Path, start: Start) -> None:
    with eventlog.open(log_path, lock_timeout=timeout) as log:
        topic = log.create_topic("t", partitions=1)
        holder = hold(start, log)
        threads = [
            threading.Thread(target=in_time, args=(lambda: topic.append(b"x"),)),
            threading.Thread(target=in_time, args=(lambda: topic.append(b"x", timeout=timeout),)),
        ]
        for thread in threads:
            thread.start()
        free(holder)
        for thread in threads:
            thread.join(PATIENCE)
        assert bodies(topic) == [b"x", b"x"]


# ---- Forks ---------------------------------------------------------------------------------------

# What every program below begins with: a log, a topic, and witnessed appends whose receipts are
# printed. They run in processes of their own: pytest's has threads and warning filters.
WITNESS = """
import os, random, signal, subprocess, sys, threading
import eventlog
from tests.crash.test_kill import TOPIC, append_witnessed

log = eventlog.open(sys.argv[1])
topic = log.create_topic(TOPIC, partitions=3, exist_ok=True)

def write(writer, batches, topic=topic):
    rng = random.Random(writer)
    for batch in batches:
        promise = append_witnessed(topic, writer, batch, rng)
        os.write(1, f"{promise}\\n".encode())

def events():
    return sum(topic.partition_info(each).next_offset for each in range(3))

def succeed(child):
    assert os.waitpid(child, 0)[1] == 0
"""


def run_witnesses(start: Start, path: Path, source: str) -> list[Promise]:
    """Run a program to its end; the log keeps what was promised."""
    child = start(WITNESS + source, path)
    promises = [Promise.of(line) for line in child.rest()]
    assert child.wait() == 0
    with eventlog.open(path, create=False) as log:
        require_kept(log, promises)
    assert promises
    return promises


FORKS_AND_APPENDS = """
write("parent", range(5))
before = events()
child = os.fork()
if not child:
    write("child", range(20))
    assert events() > before
    sys.exit()
write("parent", range(5, 25))
succeed(child)
write("parent", range(25, 30))
log.close()
"""
FORKS_BESIDE_THREADS = """
stop = threading.Event()

def keep_writing(writer):
    for batch in range(100_000):
        write(writer, [batch])
        if stop.is_set():
            return

threads = [threading.Thread(target=keep_writing, args=(f"thread-{each}",)) for each in range(2)]
for thread in threads:
    thread.start()
for number in range(12):
    child = os.fork()
    if not child:
        write(f"child-{number}", range(5))
        log.check()
        os._exit(0)
    write(f"parent-{number}", range(3))
    succeed(child)
stop.set()
for thread in threads:
    thread.join()
log.close()
"""
FORKS_DEEPLY = """
children = []
for level in range(4):
    child = os.fork()
    write(f"{os.getpid()}-{level}", range(5))
    if child:
        children.append(child)
    else:
        children.clear()
for child in children:
    succeed(child)
log.close()
"""
FORKS_AND_EXECS = """
stop = threading.Event()

def keep_writing():
    for batch in range(100_000):
        write("thread", [batch])
        if stop.is_set():
            return

thread = threading.Thread(target=keep_writing)
thread.start()
other = f'''
import eventlog, sys
log = eventlog.open({sys.argv[1]!r})
print(log.topic({TOPIC!r}).read(0)[0].offset, file=sys.stderr)
log.close()
'''
for number in range(3):
    subprocess.run([sys.executable, "-c", other], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["true"], check=True, preexec_fn=lambda: None)
    child = os.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", other])
    succeed(child)
    write("main", range(3 * number, 3 * number + 3))
stop.set()
thread.join()
log.close()
"""


@pytest.mark.parametrize(
    "source",
    [FORKS_AND_APPENDS, FORKS_BESIDE_THREADS, FORKS_DEEPLY, FORKS_AND_EXECS],
    ids=["appends", "beside threads", "deeply", "exec"],
)
def test_parents_and_forked_children_append_and_lose_nothing(
    source: str, log_path: Path, start: Start
) -> None:
    run_witnesses(start, log_path, source)


# The commit goes on once the fork is waiting for it: hooks registered later run earlier.
FORKS_DURING_A_COMMIT = """
from eventlog.embedded.commit import Committer

inside, forking = threading.Event(), threading.Event()
commit = Committer._commit_transaction

def commit_during_fork(self, transaction):
    Committer._commit_transaction = commit
    inside.set()
    assert forking.wait(30)
    commit(self, transaction)

write("before", [0])
Committer._commit_transaction = commit_during_fork
thread = threading.Thread(target=write, args=("thread", range(3)))
thread.start()
inside.wait()
os.register_at_fork(before=forking.set)
child = os.fork()
write("child" if not child else "parent", range(5))
if child:
    thread.join()
    succeed(child)
log.close()
"""


def test_a_fork_waits_for_the_commit_that_is_in_progress(log_path: Path, start: Start) -> None:
    promises = run_witnesses(start, log_path, FORKS_DURING_A_COMMIT)
    assert {promise.writer for promise in promises} == {"before", "thread", "child", "parent"}


# A transaction that does not end: the fork goes on, and the child must not use the parent's pages.
FORKS_DURING_A_LONG_TRANSACTION = """
from eventlog.embedded import storage

storage._FORK_WAIT_SECONDS = 0.05
reading, done = threading.Event(), threading.Event()

def read():
    log.environment.look(lambda _: (reading.set(), done.wait()))

write("before", [0])
thread = threading.Thread(target=read)
thread.start()
reading.wait()
child = os.fork()
if not child:
    try:
        write("child", [0])
    except eventlog.EventLogError as error:
        assert "fork" in str(error), error
    os._exit(0)
succeed(child)
done.set()
thread.join()
write("parent", range(5))
log.close()
"""


def test_a_child_forked_from_a_transaction_that_would_not_end_is_refused_not_damaged(
    log_path: Path, start: Start
) -> None:
    run_witnesses(start, log_path, FORKS_DURING_A_LONG_TRANSACTION)


@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)", "log.close(); sys.exit(0)"])
def test_a_forked_child_that_ends_without_using_the_log_does_not_disturb_the_parent(
    ending: str, log_path: Path, start: Start
) -> None:
    source = f"""
write("parent", range(3))
for number in range(3, 9):
    child = os.fork()
    if not child:
        {ending}
    succeed(child)
    write("parent", [number])
    assert len(topic.read(0)) > 0
log.close()
"""
    run_witnesses(start, log_path, source)


def test_a_forked_child_may_close_its_handle_and_open_the_log_again(
    log_path: Path, start: Start
) -> None:
    source = """
write("parent", range(3))
child = os.fork()
if not child:
    log.close()
    with eventlog.open(sys.argv[1]) as log:
        write("child", range(3), log.topic(TOPIC))
    os._exit(0)
succeed(child)
write("parent", range(3, 6))
log.close()
"""
    run_witnesses(start, log_path, source)


def test_a_lock_that_the_parent_waits_for_is_not_the_childs(log: EventLog, start: Start) -> None:
    topic = log.create_topic(TOPIC, partitions=3)
    holder = hold(start, log)
    child = start(
        WITNESS
        + """
thread = threading.Thread(target=write, args=("thread", range(3)))
thread.start()
while not log.environment.process_lock._waiter:
    pass
child = os.fork()
if not child:
    print("forked", flush=True)
    write("child", range(3))
    os._exit(0)
thread.join()
succeed(child)
log.close()
""",
        log.location,
    )
    assert child.line() == "forked"
    free(holder)
    promises = [Promise.of(line) for line in child.rest()]
    assert child.wait() == 0
    assert len(promises) == 6
    assert topic.name == TOPIC
    require_kept(log, promises)


# ---- Logs in memory and forks --------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)", "log.close(); sys.exit(0)"])
@pytest.mark.parametrize("location", ["memory:", "memory:shared"])
def test_a_log_in_memory_outlives_a_forked_child_and_takes_its_events(
    location: str, ending: str, start: Start
) -> None:
    source = f"""
write("parent", range(3))
child = os.fork()
if not child:
    write("child", range(3))
    {ending}
succeed(child)
write("parent", range(3, 5))
if sys.argv[1] == "memory:shared":
    with eventlog.open("memory:shared") as again:
        write("again", range(3), again.topic(TOPIC))
from tests.crash.test_kill import contents
writers = {{label.writer for labels in contents(topic).values() for label in labels}}
assert writers >= {{"parent", "child"}}, writers
assert log.check().ok
directory = log._directory
log.close()
assert not directory.exists()
"""
    child = start(WITNESS + source, location)
    child.rest()
    assert child.wait() == 0


@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_log_in_memory_that_was_not_closed_goes_with_the_process(
    ending: str, start: Start
) -> None:
    source = f"""
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(log._directory, flush=True)
write("parent", range(3))
{ending}
"""
    child = start(WITNESS + source, "memory:")
    directory = Path(child.line())
    child.rest()
    assert child.wait() == 0
    assert not directory.exists()


# ---- multiprocessing -----------------------------------------------------------------------------


def append_in_process(topic: str, path: str, writer: str, batches: range) -> list[str]:
    """What a worker does: open the log itself, append, and say what it was promised."""
    rng = random.Random(writer)
    with eventlog.open(path) as log:
        own = log.topic(topic)
        return [str(append_witnessed(own, writer, batch, rng)) for batch in batches]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_append_beside_their_parent(method: str, log: EventLog) -> None:
    topic = log.create_topic(TOPIC, partitions=3)
    context: Any = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        tasks = [(TOPIC, log.location, f"worker-{each}", range(10)) for each in range(4)]
        result = pool.starmap_async(append_in_process, tasks)
        rng = random.Random(0)
        mine = [append_witnessed(topic, "parent", batch, rng) for batch in range(10)]
        theirs = [Promise.of(line) for lines in result.get(PATIENCE) for line in lines]
        pool.close()
        pool.join()
    mine.append(append_witnessed(topic, "parent", 10, rng))
    assert len(theirs) == 40
    require_kept(log, mine + theirs)


# ---- Ctrl-C --------------------------------------------------------------------------------------

LOOKS_FOR_SIGNALS = {
    dis.opmap[name]
    for name in ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "RESUME")
    if name in dis.opmap
}


PUSH_EXC_INFO = dis.opmap["PUSH_EXC_INFO"]  # the call raised: then Python does not look


class Interrupter:
    """Raises KeyboardInterrupt in the calling thread, at one of the places where Python might.

    A signal handler runs after the instructions above, and nowhere else. Tracing goes through them
    one by one, in this package and in what it calls, and interrupts the one whose turn it is.
    """

    def __init__(self, number: int) -> None:
        self._left = number
        self._last: dict[int, int] = {}
        self._code: dict[CodeType, bytes] = {}
        self.where = ""

    def __enter__(self) -> Self:
        gc.disable()  # callbacks of the collector's swallow what is raised in them
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        gc.enable()

    def _called(self, frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        self._last[id(frame)] = -1
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            code = self._code.setdefault(frame.f_code, frame.f_code.co_code)
            last, self._last[id(frame)] = self._last[id(frame)], code[frame.f_lasti]
            if last in LOOKS_FOR_SIGNALS and code[frame.f_lasti] != PUSH_EXC_INFO:
                self._left -= 1
                if self._left == 0:
                    name = Path(frame.f_code.co_filename).name
                    self.where = f"{name}:{frame.f_lineno}, in {frame.f_code.co_qualname}"
                    raise KeyboardInterrupt
        return self._step


def interrupted(number: int, use: Callable[[EventLog, Topic], object], log: EventLog) -> str:
    """Where `use` was interrupted at its place `number`; nothing if it has fewer.

    The standard library's own `threading` makes a RuntimeError of an interrupt here and there.
    """
    topic = log.topic("t")
    interrupter = Interrupter(number)
    with contextlib.suppress(KeyboardInterrupt, RuntimeError), interrupter:
        use(log, topic)
    return interrupter.where


INTERRUPTED_USES: dict[str, Callable[[EventLog, Topic], object]] = {
    "append": lambda log, topic: topic.append(b"1"),
    "append_batch": lambda log, topic: topic.append_batch([b"1", b"2"], partition=0),
    "read": lambda log, topic: topic.read(0, max_events=2),
    "partition_info": lambda log, topic: topic.partition_info(0),
    "expire": lambda log, topic: topic.expire(),
    "configure": lambda log, topic: topic.configure(retention_bytes=10_000),
    "create_topic": lambda log, topic: log.create_topic("u", partitions=1, exist_ok=True),
    "compact": lambda log, topic: log.compact(),
}


def use_shared_log(name: str, path: str) -> None:
    """Interrupt a use at each of its places; other threads and processes must be able to go on."""
    log = eventlog.open(path)
    topic = log.create_topic("t", partitions=1)
    other_process = Child(APPENDER, path)
    assert other_process.line() == "ready"
    for number in itertools.count(1):
        where = in_time(lambda n=number: interrupted(n, INTERRUPTED_USES[name], log))  # type: ignore[misc]
        print(f"interrupted at {where}")
        in_time(log.environment.reopen)  # type: ignore[attr-defined]  # nobody is inside
        begin = topic.partition_info(0).next_offset
        other_process.say("from another process")
        assert other_process.line() == str(begin)
        assert in_time(lambda: topic.append(b"from another thread").offset) == begin + 1
        if not where:
            break
    other_process.close()
    assert number > 50
    assert log.check().damaged == []
    in_time(log.close)


def use_and_close(name: str, path: str) -> None:
    """Interrupt a use at each of its places, on its way out of ``with``: it must be closed."""
    with eventlog.open(path) as log:
        log.create_topic("t", partitions=1)

    def use(number: int) -> str:
        interrupter = Interrupter(number)
        interrupts = (KeyboardInterrupt, RuntimeError)
        with contextlib.suppress(*interrupts), eventlog.open(path) as log:
            topic = log.topic("t")
            with interrupter:
                INTERRUPTED_USES[name](log, topic)
        return interrupter.where

    for number in itertools.count(1):
        where = in_time(lambda n=number: use(n))  # type: ignore[misc]
        print(f"interrupted at {where}")
        if not where:
            break
    assert number > 50


def wait_for_the_log(name: str, path: str) -> None:
    """Interrupt a use that has to wait for another process; the lock must go to who wants it."""
    log = eventlog.open(path, lock_timeout=0.05)
    topic = log.create_topic("t", partitions=1)
    holder, third = Child(HOLDER, path), Child(APPENDER, path)
    assert (holder.line(), third.line()) == ("held", "ready")

    def wait_and_be_interrupted(number: int) -> str:
        with contextlib.suppress(LogBusyError):
            return interrupted(number, INTERRUPTED_USES[name], log)
        return ""

    for number in itertools.count(1):
        where = in_time(lambda n=number: wait_and_be_interrupted(n))  # type: ignore[misc]
        print(f"interrupted at {where}")
        free(holder)
        third.say("third")
        assert third.line() == str(number - 1)
        holder.say()
        assert holder.line() == "held"
        if not where:
            break
    holder.close()
    third.close()
    assert number > 10  # a slow machine gives up waiting before more places are come to
    assert set(bodies(topic)) == {b"third"}
    in_time(log.close)


def append_beside_others(name: str, path: str) -> None:
    """Interrupt a use at each of its places while others append: all they store is there once."""
    sys.setswitchinterval(1e-6)
    log = eventlog.open(path)
    topic = log.create_topic("t", partitions=1)
    stopped = threading.Event()
    stored: list[bytes] = []

    def keep_appending(writer: int) -> None:
        number = 0
        while not stopped.is_set():
            topic.append(b"%d %d" % (writer, number))
            stored.append(b"%d %d" % (writer, number))
            number += 1

    def append_own(number: int) -> str:
        body = b"interrupted %d" % number
        return interrupted(number, lambda log, topic: topic.append(body), log)

    threads = [threading.Thread(target=keep_appending, args=(each,)) for each in range(3)]
    for thread in threads:
        thread.start()
    for number in itertools.chain(*[range(1, 200)] * 4):
        print(f"interrupted at {in_time(lambda n=number: append_own(n))}")  # type: ignore[misc]
    stopped.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    counts = Counter(body for body in bodies(topic) if not body.startswith(b"interrupted"))
    assert sorted(counts) == sorted(stored)
    assert max(counts.values()) == 1
    in_time(log.close)


# What hangs must not hang what is tested next, so each runs in a process of its own.
EVERYWHERE = """
import os, sys, traceback
from tests.embedded import test_processes

status = 1
try:
    getattr(test_processes, sys.argv[1])(*sys.argv[2:])
    status = 0
except BaseException:
    traceback.print_exc()
sys.stdout.flush()
os._exit(status)
"""


def interrupt_everywhere(start: Start, check: Callable[..., None], name: str, path: Path) -> None:
    child = start(EVERYWHERE, check.__name__, name, path)
    lines = child.rest()
    assert child.wait() == 0, lines[-1:]


@pytest.mark.parametrize("name", INTERRUPTED_USES)
def test_ctrl_c_leaves_a_log_that_other_threads_and_processes_use_wherever_it_comes(
    name: str, fast_path: Path, start: Start
) -> None:
    interrupt_everywhere(start, use_shared_log, name, fast_path)


@pytest.mark.parametrize("name", ["append", "read", "expire"])
def test_ctrl_c_inside_with_closes_the_log_wherever_it_comes(
    name: str, fast_path: Path, start: Start
) -> None:
    interrupt_everywhere(start, use_and_close, name, fast_path)


def test_ctrl_c_doubles_and_loses_nothing_of_other_threads_wherever_it_comes(
    fast_path: Path, start: Start
) -> None:
    interrupt_everywhere(start, append_beside_others, "append", fast_path)


@pytest.mark.parametrize("name", ["append", "compact"])
def test_ctrl_c_while_another_process_holds_the_log_gives_nothing_away_and_keeps_nothing(
    name: str, fast_path: Path, start: Start
) -> None:
    interrupt_everywhere(start, wait_for_the_log, name, fast_path)


INTERRUPTED = (
    WITNESS
    + """
stop = False

def stop_soon(*_):
    global stop
    stop = True

signal.signal(signal.SIGTERM, stop_soon)

def keep_writing(writer):
    for batch in range(1_000_000):
        write(writer, [batch])
        if stop:
            return

threads = [threading.Thread(target=keep_writing, args=(f"thread-{each}",)) for each in range(2)]
for thread in threads:
    thread.start()
batch = 0
rng = random.Random(0)
while not stop:
    try:
        while not stop:
            batch += 1
            promise = append_witnessed(topic, "main", batch, rng)
            os.write(1, f"{promise}\\n".encode())
            topic.read(batch % 3, max_events=10)
    except KeyboardInterrupt:
        os.write(1, b"interrupted\\n")
for thread in threads:
    thread.join()
log.close()
"""
)


def lines_until(child: Child, beginning: str) -> list[str]:
    """Lines up to the first that begins like that; fails if others come and come."""
    deadline = time.monotonic() + PATIENCE
    lines = [child.line()]
    while not lines[-1].startswith(beginning):
        if time.monotonic() > deadline:
            child.send(signal.SIGABRT)  # faulthandler says where its threads are
            raise AssertionError(f"no {beginning!r} in {len(lines)} lines, {lines[-3:]}")
        lines.append(child.line())
    return lines


def test_ctrl_c_at_random_moments_loses_nothing_and_doubles_nothing(
    log_path: Path, start: Start
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    child = start(INTERRUPTED, log_path)
    lines = lines_until(child, "main")
    for _ in range(150):
        lines += [child.line() for _ in range(rng.randrange(5))]
        time.sleep(rng.uniform(0, 0.002))  # not to wait for anything: to choose the moment
        child.send(signal.SIGINT)
        lines += lines_until(child, "interrupted")
        lines += lines_until(child, "main")
    child.send(signal.SIGTERM)
    lines += child.rest()
    assert child.wait() == 0
    with eventlog.open(log_path) as log:
        require_kept(log, [Promise.of(line) for line in lines if line != "interrupted"])


def test_ctrl_c_while_waiting_for_another_process_does_not_keep_the_lock_from_a_third(
    log: EventLog, start: Start
) -> None:
    log.create_topic("t", partitions=1)
    holder = hold(start, log)
    waiting = start(
        """
import sys
import eventlog

log = eventlog.open(sys.argv[1])
topic = log.topic("t")
print("appending", flush=True)
try:
    topic.append(b"interrupted", timeout=60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
""",
        log.location,
    )
    assert waiting.line() == "appending"
    wait_for_lock_thread(waiting.pid)
    waiting.send(signal.SIGINT)
    assert waiting.line() == "interrupted"
    free(holder)
    third = start(APPENDER, log.location)
    assert third.line() == "ready"
    third.say("third")
    assert third.line() == "0"


def wait_for_lock_thread(pid: int) -> None:
    """Until a process waits for the lock, which it does on a thread of its own."""
    deadline = time.monotonic() + PATIENCE
    while len(list(Path(f"/proc/{pid}/task").iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.001)


# ---- Readers that may not write ------------------------------------------------------------------


def test_a_read_only_handle_sees_what_a_writer_appends_in_another_process(
    log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    reader = start(
        """
import sys
import eventlog

topic = eventlog.open(sys.argv[1], read_only=True).topic("t")
for line in sys.stdin:
    print(topic.partition_info(0).next_offset, topic.read(0, int(line))[0].text(), flush=True)
""",
        log.location,
    )
    for number in range(100):
        topic.append(f"body {number}")
        reader.say(str(number))
        assert reader.line() == f"{number + 1} body {number}"


@pytest.mark.parametrize(
    "name",
    ["create_topic", "delete_topic", "compact", "append", "append_batch", "expire", "configure"],
)
def test_a_read_only_handle_refuses_to_write(name: str, log: EventLog) -> None:
    log.create_topic("t", partitions=1).append(b"x")
    with eventlog.open(log.location, read_only=True) as reader:
        with pytest.raises(UnsupportedOperationError, match="read_only"):
            USES[name](reader, reader.topic("t"))
        assert bodies(reader.topic("t")) == [b"x"]


def test_a_read_only_handle_may_come_first_and_a_writer_join_it(log_path: Path) -> None:
    eventlog.open(log_path).close()
    with (
        eventlog.open(log_path, read_only=True) as reader,
        eventlog.open(log_path) as writer,
    ):
        writer.create_topic("t", partitions=1).append(b"x")
        assert bodies(reader.topic("t")) == [b"x"]
        with pytest.raises(UnsupportedOperationError):
            reader.topic("t").append(b"y")


def test_a_read_only_open_of_nothing_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        with pytest.raises(LogNotFoundError):
            eventlog.open(tmp_path / name, read_only=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


NOBODY = 65534
UNPRIVILEGED = """
import os, sys
import eventlog
import eventlog.embedded.engine  # as long as the modules can be read

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    with eventlog.open(sys.argv[1], read_only=sys.argv[2] == "read_only") as log:
        print(len(log.topic("t").read(0)), flush=True)
        log.topic("t").append(b"x")
        print("appended")
except Exception as error:
    print(type(error).__name__, isinstance(error, PermissionError))
"""


@pytest.fixture
def readable_log(fast_path: Path) -> Path:
    """A log of root's with an event, which others may read."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a process another user")
    fast_path.parent.chmod(0o755)
    with eventlog.open(fast_path) as log:
        log.create_topic("t", partitions=1).append(b"x")
    for path in (fast_path, *fast_path.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return fast_path


@pytest.mark.parametrize("mode", ["read_only", "write"])
def test_who_may_not_write_a_log_is_refused_with_a_permission_error(
    mode: str, readable_log: Path, start: Start
) -> None:
    before = sorted(path.name for path in readable_log.iterdir())
    assert start(UNPRIVILEGED, readable_log, mode).rest() == ["PermissionError True"]
    assert sorted(path.name for path in readable_log.iterdir()) == before


def test_who_may_write_only_the_readers_table_can_read(readable_log: Path, start: Start) -> None:
    (table,) = readable_log.glob("*-lock")
    os.chown(table, NOBODY, NOBODY)
    assert start(UNPRIVILEGED, readable_log, "read_only").rest() == [
        "1",
        "UnsupportedOperationError False",
    ]


def test_a_directory_nobody_may_enter_is_a_permission_error(
    readable_log: Path, start: Start
) -> None:
    readable_log.chmod(0o700)
    assert start(UNPRIVILEGED, readable_log, "read_only").rest() == ["PermissionError True"]


@pytest.fixture
def read_only_mount(readable_log: Path) -> Iterator[Path]:
    """The same log, mounted where nobody can write."""
    place = readable_log.with_name("mounted")
    place.mkdir()
    bind = ["mount", "--bind", str(readable_log), str(place)]
    if subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_log_on_a_read_only_file_system_can_be_read(read_only_mount: Path, start: Start) -> None:
    with eventlog.open(read_only_mount, read_only=True) as log:
        assert bodies(log.topic("t")) == [b"x"]
        assert log.check().ok
    assert start(UNPRIVILEGED, read_only_mount, "read_only").rest()[0] == "1"


def test_a_log_on_a_read_only_file_system_cannot_be_opened_to_write(read_only_mount: Path) -> None:
    with pytest.raises(OSError, match=r"[Rr]ead-only") as caught:
        eventlog.open(read_only_mount)
    assert str(read_only_mount) in str(caught.value)
