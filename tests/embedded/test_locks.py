"""The lock between processes and the gate between threads: who gets in, who waits, who gives up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eventlog import LogBusyError
from eventlog.embedded import locks
from eventlog.embedded.locks import Gate, ProcessLock
from tests.conftest import PATIENCE, Child, Start

HOLDER = """
import sys
from pathlib import Path
from eventlog.embedded.locks import ProcessLock

lock = ProcessLock(Path(sys.argv[1]))
lock.acquire(60)
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""

TRIER = """
import sys
from pathlib import Path
from eventlog import LogBusyError
from eventlog.embedded.locks import ProcessLock

try:
    ProcessLock(Path(sys.argv[1])).acquire(float(sys.argv[2]))
    print("got it", flush=True)
except LogBusyError as error:
    print(error.holder, flush=True)
"""

CROSSED = """
import sys
from pathlib import Path
from eventlog.embedded.locks import ProcessLock

mine, other = (ProcessLock(Path(path)) for path in sys.argv[1:])
mine.acquire(60)
print("held", flush=True)
sys.stdin.readline()
other.acquire(60)
print("both", flush=True)
"""

WAIT_BRIEFLY = 0.01


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread to get somewhere."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        os.sched_yield()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def lock(path: Path) -> Iterator[ProcessLock]:
    lock = ProcessLock(path)
    yield lock
    lock.close()


# Between processes


def test_a_free_lock_is_taken_without_waiting(lock: ProcessLock) -> None:
    """Even a caller that will not wait at all gets it, again and again."""
    for _ in range(3):
        lock.acquire(0)
        assert lock.holder() is None
        lock.release()


@pytest.mark.parametrize("timeout", [0, WAIT_BRIEFLY])
def test_a_lock_held_elsewhere_is_refused_by_name_of_its_holder(
    lock: ProcessLock, path: Path, start: Start, timeout: float
) -> None:
    """Who waited long enough is told which process to look at."""
    child = start(HOLDER, path)
    assert child.line() == "held"
    with pytest.raises(LogBusyError, match=f"process {child.pid} ") as caught:
        lock.acquire(timeout)
    assert caught.value.holder == child.pid == lock.holder()


def test_a_lock_held_here_is_refused_to_other_processes(
    lock: ProcessLock, path: Path, start: Start
) -> None:
    """The other side of the same: this process is named there, until it lets go."""
    lock.acquire(0)
    assert start(TRIER, path, 0).rest() == [str(os.getpid())]
    lock.release()
    assert start(TRIER, path, 0).rest() == ["got it"]


def test_a_waiter_gets_the_lock_when_it_is_released(
    lock: ProcessLock, path: Path, start: Start, threads: ThreadPoolExecutor
) -> None:
    """Waiting ends as soon as the holder lets go, and then others are kept out."""
    child = start(HOLDER, path)
    assert child.line() == "held"
    waiting = threads.submit(lock.acquire, PATIENCE)
    until(lambda: lock._waiter is not None)
    child.say()
    waiting.result(PATIENCE)
    assert start(TRIER, path, 0).rest() == [str(os.getpid())]


def test_a_waiter_gets_the_lock_when_its_holder_is_killed(
    lock: ProcessLock, path: Path, start: Start, threads: ThreadPoolExecutor
) -> None:
    """The kernel releases what a killed process held."""
    child = start(HOLDER, path)
    assert child.line() == "held"
    waiting = threads.submit(lock.acquire, PATIENCE)
    until(lambda: lock._waiter is not None)
    child.kill()
    waiting.result(PATIENCE)


def test_a_wait_given_up_does_not_keep_the_lock(
    lock: ProcessLock, path: Path, start: Start
) -> None:
    """Nobody wants it any more when it is granted: it is given back, and others can have it."""
    child = start(HOLDER, path)
    assert child.line() == "held"
    with pytest.raises(LogBusyError):
        lock.acquire(WAIT_BRIEFLY)
    waiter = lock._waiter
    assert waiter is not None
    child.say()
    assert child.line() == "released"
    until(lambda: waiter.given_back)
    assert start(TRIER, path, 0).rest() == ["got it"]


def test_after_a_wait_given_up_the_lock_can_be_had_without_waiting(
    lock: ProcessLock, path: Path, start: Start
) -> None:
    """A time-out once does not make later callers wait for a lock that is free."""
    child = start(HOLDER, path)
    assert child.line() == "held"
    with pytest.raises(LogBusyError):
        lock.acquire(WAIT_BRIEFLY)
    waiter = lock._waiter
    assert waiter is not None
    child.say()
    until(lambda: waiter.given_back)
    lock.acquire(0)
    assert start(TRIER, path, 0).rest() == [str(os.getpid())]


def test_a_wait_given_up_is_taken_over_by_who_comes_next(
    lock: ProcessLock, path: Path, start: Start, threads: ThreadPoolExecutor
) -> None:
    """It keeps its place in the kernel's line, and the lock it gets is the newcomer's."""
    child = start(HOLDER, path)
    assert child.line() == "held"
    for _ in range(3):
        with pytest.raises(LogBusyError):
            lock.acquire(WAIT_BRIEFLY)
    given_up = lock._waiter
    waiting = threads.submit(lock.acquire, PATIENCE)
    until(lambda: given_up is not None and given_up.wanted)
    child.say()
    waiting.result(PATIENCE)
    assert start(TRIER, path, 0).rest() == [str(os.getpid())]
    lock.release()
    lock.acquire(0)


def test_a_lock_that_is_closed_while_a_wait_goes_on_keeps_its_file_until_that_has_ended(
    path: Path, start: Start
) -> None:
    """What has the number of a closed file next would be unlocked instead."""
    waiter = given_up(path, child := start(HOLDER, path))
    (left,) = locks._left
    assert os.path.samestat(os.fstat(left.file), path.stat())
    child.say()
    until(lambda: not locks._left)
    assert waiter.given_back
    assert start(TRIER, path, 0).rest() == ["got it"]


def test_a_lock_that_is_opened_again_is_not_lost_to_a_wait_that_was_given_up(
    path: Path, start: Start, threads: ThreadPoolExecutor
) -> None:
    """To the kernel both are one process, and the unlock of one would be the other's."""
    waiter = given_up(path, child := start(HOLDER, path))
    lock = ProcessLock(path)
    assert lock._waiter is waiter
    waiting = threads.submit(lock.acquire, PATIENCE)
    until(lambda: waiter.wanted)
    child.say()
    waiting.result(PATIENCE)
    assert start(TRIER, path, 0).rest() == [str(os.getpid())]
    lock.close()
    assert not locks._left
    assert start(TRIER, path, 0).rest() == ["got it"]


def given_up(path: Path, child: Child) -> locks._Waiter:
    """The waiter of a lock that was closed while it waits for the child."""
    assert child.line() == "held"
    lock = ProcessLock(path)
    with pytest.raises(LogBusyError):
        lock.acquire(WAIT_BRIEFLY)
    waiter = lock._waiter
    assert waiter is not None
    lock.close()
    return waiter


def test_two_processes_may_wait_for_each_others_locks(
    tmp_path: Path, start: Start, threads: ThreadPoolExecutor
) -> None:
    """The kernel takes threads that write two logs for a deadlock; it is none, and none is seen."""
    paths = tmp_path / "one", tmp_path / "two"
    one, two = map(ProcessLock, paths)
    one.acquire(0)
    child = start(CROSSED, paths[1], paths[0])
    assert child.line() == "held"
    waiting = threads.submit(two.acquire, PATIENCE)
    until(lambda: two._waiter is not None)
    child.say()  # now it waits for the first, while we wait for the second
    with pytest.raises(TimeoutError):
        waiting.result(0.05)
    one.release()
    assert child.line() == "both"
    waiting.result(PATIENCE)
    one.close()
    two.close()


def test_closing_gives_the_lock_back(path: Path, start: Start) -> None:
    """A log closed with the lock held holds up nobody."""
    lock = ProcessLock(path)
    lock.acquire(0)
    lock.close()
    assert start(TRIER, path, 0).rest() == ["got it"]


# Between threads


class Visitor:
    """A thread that goes through a gate and stays inside until it is told to leave."""

    def __init__(self, gate: Gate, threads: ThreadPoolExecutor) -> None:
        self._gate = gate
        self._arrived = threading.Event()
        self._inside = threading.Event()
        self._leave = threading.Event()
        self._done = threads.submit(self._visit)

    def _visit(self) -> None:
        self._arrived.set()
        try:
            self._gate.enter()
            self._inside.set()
            assert self._leave.wait(PATIENCE)
        finally:
            self._gate.leave(threading.get_ident())

    def is_inside(self, within: float = PATIENCE) -> bool:
        assert self._arrived.wait(PATIENCE)
        return self._inside.wait(within)

    def leave(self) -> None:
        self._leave.set()
        self._done.result(PATIENCE)


def test_threads_pass_up_to_the_limit(threads: ThreadPoolExecutor) -> None:
    """One more than the limit waits, and goes in as soon as one comes out."""
    gate = Gate(2)
    one, other = Visitor(gate, threads), Visitor(gate, threads)
    assert one.is_inside()
    assert other.is_inside()
    third = Visitor(gate, threads)
    assert not third.is_inside(WAIT_BRIEFLY)
    one.leave()
    assert third.is_inside()
    third.leave()
    other.leave()


def test_every_thread_that_waits_gets_in_in_the_end(threads: ThreadPoolExecutor) -> None:
    """However many wait behind a limit of one, each has its turn, and is alone."""
    gate = Gate(1)
    inside: list[int] = []

    def pass_through(number: int) -> None:
        for _ in range(20):
            gate.enter()
            inside.append(number)
            assert inside == [number]
            inside.remove(number)
            gate.leave(threading.get_ident())

    list(threads.map(pass_through, range(8), timeout=PATIENCE))


def test_entering_twice_is_entering_once(threads: ThreadPoolExecutor) -> None:
    """A thread is inside or it is not; leaving once more than entering does no harm."""
    gate = Gate(1)
    gate.enter()
    gate.enter()
    gate.leave(threading.get_ident())
    gate.leave(threading.get_ident())
    visitor = Visitor(gate, threads)
    assert visitor.is_inside()
    gate.leave(threading.get_ident())
    other = Visitor(gate, threads)
    assert not other.is_inside(WAIT_BRIEFLY)
    visitor.leave()
    other.leave()


def test_closing_waits_for_the_last_one_out_and_lets_nobody_in(
    threads: ThreadPoolExecutor,
) -> None:
    """Behind a closed gate nobody is left, and who comes waits until it is opened."""
    gate = Gate(8)
    visitor = Visitor(gate, threads)
    assert visitor.is_inside()
    closed, may_open = threading.Event(), threading.Event()

    def close() -> None:
        gate.close()
        closed.set()
        assert may_open.wait(PATIENCE)
        gate.open(threading.get_ident())

    closing = threads.submit(close)
    assert not closed.wait(WAIT_BRIEFLY)
    newcomer = Visitor(gate, threads)
    assert not newcomer.is_inside(WAIT_BRIEFLY)
    visitor.leave()
    assert closed.wait(PATIENCE)
    assert not newcomer.is_inside(WAIT_BRIEFLY)
    may_open.set()
    closing.result(PATIENCE)
    assert newcomer.is_inside()
    newcomer.leave()


def test_closing_says_when_somebody_stayed_inside_too_long(threads: ThreadPoolExecutor) -> None:
    """A fork must not wait for ever for a thread that does not come out."""
    gate = Gate(8)
    visitor = Visitor(gate, threads)
    assert visitor.is_inside()
    assert gate.close(timeout=WAIT_BRIEFLY) is False
    visitor.leave()
    assert gate.close(timeout=WAIT_BRIEFLY) is True


def test_a_gate_that_two_closed_both_must_open(threads: ThreadPoolExecutor) -> None:
    """One who opens it does not undo another's closing."""
    gate = Gate(8)
    assert threads.submit(gate.close).result(PATIENCE)
    gate.close()
    gate.open(threading.get_ident())
    visitor = Visitor(gate, threads)
    assert not visitor.is_inside(WAIT_BRIEFLY)
    gate._closers.clear()
    visitor.leave()
