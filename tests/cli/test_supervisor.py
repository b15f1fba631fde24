"""Workers are kept going, and ended together; decided without a process and without a clock."""

from __future__ import annotations

import math
import queue
import signal
from functools import partial

import pytest

from eventlog.cli.supervisor import (
    CANNOT_BEGIN,
    FIRST_DELAY,
    LONGEST_DELAY,
    RAN_WELL,
    SAME_SIGNAL,
    Event,
    Supervisor,
    ending,
    supervise,
)

PATIENCE = 35.0


class FakeWorker:
    """A process that only notes what it is told."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.told: list[str] = []

    def drain(self) -> None:
        self.told.append("drain")

    def kill(self) -> None:
        self.told.append("kill")


class World:
    """Fake processes, a clock that is set by hand, and what was said."""

    def __init__(self, count: int) -> None:
        self.now = 100.0
        self.started: list[tuple[int, float]] = []
        self.workers: dict[int, FakeWorker] = {}
        self.said: list[str] = []
        self.refused = 0
        self.supervisor = Supervisor(
            self._start,
            count,
            patience=PATIENCE,
            clock=lambda: self.now,
            say=self.said.append,
        )

    def _start(self, number: int) -> FakeWorker:
        self.started.append((number, self.now))
        if self.refused:
            self.refused -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        worker = self.workers[number] = FakeWorker(1000 + len(self.started))
        return worker

    def wait(self, seconds: float | None = None) -> None:
        """Let time go by: until the supervisor has something to do, if not told how much."""
        due_in = self.supervisor.due_in
        assert due_in < math.inf
        self.now += due_in if seconds is None else seconds
        self.supervisor.tick()

    def is_done(self) -> bool:
        return self.supervisor.is_done

    def told(self) -> list[list[str]]:
        return [worker.told for _, worker in sorted(self.workers.items())]


@pytest.fixture
def world() -> World:
    """Three workers that have been started."""
    world = World(3)
    world.supervisor.begin()
    return world


# Keeping them going


def test_all_workers_are_started_at_once(world: World) -> None:
    assert world.started == [(1, 100), (2, 100), (3, 100)]
    assert world.supervisor.due_in == math.inf
    assert not world.is_done()
    assert world.said == []


def test_one_that_dies_is_replaced_after_a_moment_and_others_are_left_alone(world: World) -> None:
    world.supervisor.ended(2, 1)
    assert world.said == [
        "worker 2 (process 1002) ended with exit code 1; another is started in 0.5 s"
    ]
    assert world.supervisor.due_in == FIRST_DELAY
    world.wait(FIRST_DELAY / 2)
    assert len(world.started) == 3
    world.wait()
    assert world.started[3:] == [(2, 100 + FIRST_DELAY)]
    assert world.told() == [[], [], []]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "ended with exit code 0"),
        (2, "ended with exit code 2"),
        (-9, "was killed by SIGKILL"),
        (-11, "was killed by SIGSEGV"),
        (-200, "was killed by signal 200"),
    ],
)
def test_how_one_ended_is_said_in_words(world: World, code: int, words: str) -> None:
    assert ending(code) == words
    world.supervisor.ended(1, code)
    assert world.said == [f"worker 1 (process 1001) {words}; another is started in 0.5 s"]


def test_one_that_keeps_dying_waits_twice_as_long_each_time_up_to_a_limit(world: World) -> None:
    delays = []
    for _ in range(9):
        world.supervisor.ended(1, 1)
        delays.append(world.supervisor.due_in)
        world.wait()
    assert delays == [0.5, 1, 2, 4, 8, 16, LONGEST_DELAY, LONGEST_DELAY, LONGEST_DELAY]


def test_the_delay_is_short_again_for_one_that_has_run_well(world: World) -> None:
    for seconds in (0, 0, RAN_WELL - 1):
        world.now += seconds
        world.supervisor.ended(1, 1)
        world.wait()
    world.supervisor.ended(1, 1)
    assert world.supervisor.due_in == 8 * FIRST_DELAY
    world.wait()
    world.now += RAN_WELL
    world.supervisor.ended(1, 1)
    assert world.supervisor.due_in == FIRST_DELAY


def test_each_worker_has_a_delay_of_its_own(world: World) -> None:
    world.supervisor.ended(1, 1)
    world.wait()
    world.supervisor.ended(1, 1)
    world.supervisor.ended(2, 1)
    assert world.supervisor.due_in == FIRST_DELAY
    world.wait()
    assert [number for number, _ in world.started[3:]] == [1, 2]
    world.wait()
    assert [number for number, _ in world.started[3:]] == [1, 2, 1]


def test_one_that_cannot_be_started_is_tried_again(world: World) -> None:
    world.supervisor.ended(3, 1)
    world.refused = 1
    world.wait()
    assert world.said[1:] == [
        "worker 3 could not be started: Resource temporarily unavailable; another is started in 1 s"
    ]
    world.wait()
    assert world.workers[3].pid == 1005
    assert world.supervisor.due_in == math.inf


# Ending them


def test_the_end_is_in_good_order_when_all_end_that_were_asked_to(world: World) -> None:
    world.supervisor.signalled(signal.SIGTERM)
    assert world.told() == [["drain"]] * 3
    for number in (2, 1, 3):
        assert not world.is_done()
        world.supervisor.ended(number, 0)
    assert world.is_done()
    assert world.supervisor.exit_code == 0
    assert world.said == ["SIGTERM: the workers finish what they are at"]


def test_nothing_is_started_any_more_when_the_end_was_asked_for(world: World) -> None:
    world.supervisor.ended(1, -9)
    world.supervisor.signalled(signal.SIGINT)
    assert world.supervisor.due_in == PATIENCE
    world.supervisor.ended(2, 0)
    world.supervisor.ended(3, 0)
    assert len(world.started) == 3
    assert world.is_done()
    assert world.supervisor.exit_code == 0


def test_who_does_not_end_in_time_is_killed_and_that_is_no_good_order(world: World) -> None:
    world.supervisor.signalled(signal.SIGTERM)
    world.supervisor.ended(1, 0)
    world.wait(PATIENCE - 1)
    assert world.workers[2].told == ["drain"]
    world.wait()
    assert world.told() == [["drain"], ["drain", "kill"], ["drain", "kill"]]
    assert world.said[1:] == [
        "worker 2 (process 1002) has not ended in 35 s: it is killed",
        "worker 3 (process 1003) has not ended in 35 s: it is killed",
    ]
    assert not world.is_done()
    assert world.supervisor.due_in == math.inf
    world.supervisor.ended(2, -9)
    world.supervisor.ended(3, -9)
    assert world.is_done()
    assert world.supervisor.exit_code == 1
    assert len(world.said) == 3


def test_a_second_signal_kills_at_once(world: World) -> None:
    world.supervisor.signalled(signal.SIGINT)
    world.supervisor.ended(2, 0)
    world.now += 2 * SAME_SIGNAL
    world.supervisor.signalled(signal.SIGINT)
    assert world.told() == [["drain", "kill"], ["drain"], ["drain", "kill"]]
    world.supervisor.ended(1, -9)
    world.supervisor.ended(3, -9)
    assert world.is_done()
    assert world.supervisor.exit_code == 130
    assert world.said[1:] == ["SIGINT: the workers that are left are killed"]


def test_a_signal_that_comes_twice_at_once_is_one(world: World) -> None:
    world.supervisor.signalled(signal.SIGTERM)
    world.now += SAME_SIGNAL / 2
    world.supervisor.signalled(signal.SIGTERM)
    assert world.told() == [["drain"]] * 3


def test_a_worker_that_fails_while_it_is_to_end_is_said_and_told_by_the_exit_code(
    world: World,
) -> None:
    world.supervisor.signalled(signal.SIGTERM)
    world.supervisor.ended(1, 1)
    world.supervisor.ended(2, 0)
    world.supervisor.ended(3, 0)
    assert world.said[1:] == ["worker 1 (process 1001) ended with exit code 1"]
    assert world.supervisor.exit_code == 1


def test_one_that_was_signalled_too_before_it_could_take_signals_ended_well(world: World) -> None:
    world.supervisor.signalled(signal.SIGTERM)
    for number in (1, 2, 3):
        world.supervisor.ended(number, -signal.SIGTERM)
    assert world.supervisor.exit_code == 0
    assert len(world.said) == 1


def test_a_worker_that_cannot_begin_ends_all(world: World) -> None:
    world.supervisor.ended(2, CANNOT_BEGIN)
    assert world.told() == [["drain"], [], ["drain"]]
    world.supervisor.ended(1, CANNOT_BEGIN)
    world.supervisor.ended(3, 0)
    assert world.is_done()
    assert world.supervisor.exit_code == 2
    assert world.said == ["worker 2 (process 1002) could not begin: the others end too"]


def test_who_cannot_wait_for_the_others_to_end_signals_once(world: World) -> None:
    world.supervisor.ended(2, CANNOT_BEGIN)
    world.supervisor.signalled(signal.SIGINT)
    assert world.told() == [["drain", "kill"], [], ["drain", "kill"]]


# The loop


def test_events_are_taken_in_turn_until_nobody_is_left() -> None:
    world = World(2)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for happened in (
        partial(world.supervisor.ended, 1, 1),
        partial(world.supervisor.signalled, signal.SIGTERM),
        partial(world.supervisor.ended, 2, 0),
    ):
        events.put(happened)
    assert supervise(world.supervisor, events) == 0
    assert events.empty()
    assert [number for number, _ in world.started] == [1, 2]


def test_time_goes_by_while_nothing_happens() -> None:
    """The clock jumps ahead whenever it is asked how long to wait."""
    world = World(1)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    events.put(partial(world.supervisor.ended, 1, -9))

    def start(number: int) -> FakeWorker:
        world.started.append((number, world.now))
        if len(world.started) == 2:
            events.put(partial(world.supervisor.signalled, signal.SIGTERM))
            events.put(partial(world.supervisor.ended, 1, 0))
        return FakeWorker(1)

    def clock() -> float:
        world.now += FIRST_DELAY
        return world.now

    world.supervisor._start = start
    world.supervisor._clock = clock
    assert supervise(world.supervisor, events) == 0
    assert len(world.started) == 2
