"""Keeps worker processes going: starts them, starts another for one that died, ends them together.

Decides, and does nothing by itself: processes, the clock and signals are handed in, and so is what
to say. `eventlog.cli.worker_processes` has the real ones.

Invariants:

1. Each worker has one process at most; another is started only when the one before has ended.
2. Nothing is started any more once the end was asked for, or a worker could not begin.
3. The end comes when no process is left. Whoever has not ended in time is killed, once.

What this module deliberately does not do: know what workers do. That the partitions of one that
died go to others is the hosts' business, and needs no supervisor.
"""

from __future__ import annotations

import math
import queue
import signal
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from eventlog.cli.failures import FAILED, USAGE, describe

__all__ = ["CANNOT_BEGIN", "Event", "Supervisor", "Worker", "ending", "supervise"]

CANNOT_BEGIN: Final = 118
"""The exit code of a worker that was told something wrong: another one would fare no better.

No handler means that by it: it is none of the small numbers that programs choose, none of
``sysexits.h`` (64 to 78), of a shell (from 125), of a signal (128 and the signal) or of a negative
number (256 less that).
"""

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
"""Seconds before another process is started; twice as many with each that died soon."""

RAN_WELL: Final = 60.0
"""Seconds after which a process that dies does not count as one that died soon."""

_GOOD_ORDER: Final = (0, -signal.SIGTERM)
"""How workers end that were asked to; who asked may have asked all of them, one still starting."""

SAME_SIGNAL: Final = 0.1
"""Seconds in which a signal may come twice and is one: some tools send it to the process, and then
to all of its group. Nobody presses Ctrl-C so fast."""

Event: TypeAlias = Callable[[], object]
"""Something that happened: tells a supervisor so."""


class Worker(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def drain(self) -> None:
        """Ask it to finish what it is at, and end. No error if it has ended."""

    def kill(self) -> None:
        """End it at once. No error if it has ended."""


class _Place:
    """A worker, whichever process it is just now."""

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.process: Worker | None = None
        self.started_at = 0.0
        self.delay = FIRST_DELAY
        self.due_at = math.inf  # when a process is to be started

    def __str__(self) -> str:
        process = "" if self.process is None else f" (process {self.process.pid})"
        return f"worker {self.number}{process}"


class Supervisor:
    """Looks after `count` workers. To be used by one thread; see `supervise`.

    Args:
        start: starts the process of a worker, given its number from 1. Raises OSError if it cannot.
        count: how many workers.
        patience: seconds that they have to end when they are asked to.
        clock: gives seconds.
        say: called with a line for people.
    """

    def __init__(
        self,
        start: Callable[[int], Worker],
        count: int,
        *,
        patience: float,
        clock: Callable[[], float],
        say: Callable[[str], object],
    ) -> None:
        self._start = start
        self._places = {number: _Place(number) for number in range(1, count + 1)}
        self._patience = patience
        self._clock = clock
        self._say = say
        self._signalled_at = -math.inf
        self._kill_at = math.inf
        self._ending = False
        self._exit_code = 0

    @property
    def is_done(self) -> bool:
        """Whether the end was asked for, and no process is left."""
        return self._ending and not self._running()

    @property
    def exit_code(self) -> int:
        """What to exit with when it is done: 0 if all workers ended in good order when asked to."""
        return self._exit_code

    @property
    def due_in(self) -> float:
        """Seconds until there is something to do even if nothing happens; infinity if never."""
        due = [place.due_at for place in self._places.values()]
        return max(min([*due, self._kill_at]) - self._clock(), 0.0)

    # What happens

    def begin(self) -> None:
        """Start all."""
        for place in self._places.values():
            self._begin(place)

    def tick(self) -> None:
        """Time has gone by: do what is due."""
        now = self._clock()
        if now >= self._kill_at:
            self._kill_at = math.inf
            self._exit_code = self._exit_code or FAILED
            for place in self._running():
                self._say(f"{place} has not ended in {self._patience:g} s: it is killed")
            self._kill()
        for place in self._places.values():
            if now >= place.due_at:
                self._begin(place)

    def ended(self, number: int, code: int) -> None:
        """The process of a worker has ended, with `code`: negative if a signal killed it."""
        place = self._places[number]
        name = str(place)
        place.process = None
        if self._ending:
            if code not in _GOOD_ORDER and not self._exit_code:
                self._say(f"{name} {ending(code)}")
                self._exit_code = FAILED
        elif code == CANNOT_BEGIN:
            self._say(f"{name} could not begin: the others end too")
            self._exit_code = USAGE
            self._end()
        else:
            self._start_again(place, f"{name} {ending(code)}")

    def signalled(self, number: int) -> None:
        """This process was told to end: the first time in good order, the second time at once."""
        now = self._clock()
        if now - self._signalled_at < SAME_SIGNAL:
            return
        self._signalled_at = now
        if not self._ending:
            self._say(f"{_name(number)}: the workers finish what they are at")
            self._end()
        else:
            self._say(f"{_name(number)}: the workers that are left are killed")
            self._exit_code = 128 + number
            self._kill()

    # What is done about it

    def _running(self) -> list[_Place]:
        return [place for place in self._places.values() if place.process is not None]

    def _begin(self, place: _Place) -> None:
        assert place.process is None
        assert not self._ending
        place.due_at = math.inf
        place.started_at = self._clock()
        try:
            place.process = self._start(place.number)
        except OSError as error:
            self._start_again(place, f"{place} could not be started: {describe(error)}")

    def _start_again(self, place: _Place, what: str) -> None:
        now = self._clock()
        if now - place.started_at >= RAN_WELL:
            place.delay = FIRST_DELAY
        self._say(f"{what}; another is started in {place.delay:g} s")
        place.due_at = now + place.delay
        place.delay = min(place.delay * 2, LONGEST_DELAY)

    def _end(self) -> None:
        """Ask all to end, and start none any more."""
        self._ending = True
        self._kill_at = self._clock() + self._patience
        for place in self._places.values():
            place.due_at = math.inf
            if place.process is not None:
                place.process.drain()

    def _kill(self) -> None:
        assert self._ending
        self._kill_at = math.inf
        for place in self._running():
            assert place.process is not None
            place.process.kill()


def supervise(supervisor: Supervisor, events: queue.SimpleQueue[Event]) -> int:
    """Run workers until they are to end and have ended; the exit code.

    Args:
        events: what happens, put there by whoever notices: threads, signal handlers.
    """
    supervisor.begin()
    while not supervisor.is_done:
        due_in = supervisor.due_in
        try:
            happened = events.get(timeout=None if due_in == math.inf else due_in)
        except queue.Empty:
            pass
        else:
            happened()
        supervisor.tick()
    return supervisor.exit_code


def ending(code: int) -> str:
    """How a process ended, for people: ``ended with exit code 1``, ``was killed by SIGKILL``."""
    return f"was killed by {_name(-code)}" if code < 0 else f"ended with exit code {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
