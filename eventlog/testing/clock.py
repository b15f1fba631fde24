"""A clock that stands still until it is moved: what waits by it is tested without waiting."""

from __future__ import annotations

import contextvars
import heapq
import itertools
import threading
from datetime import datetime
from typing import Final, NamedTuple

import anyio.lowlevel

from eventlog.checks import seconds
from eventlog.log import Duration
from eventlog.positions import aware, instant, microseconds
from eventlog.testing.events import WHEN
from eventlog.waiting import Completion

__all__ = ["VirtualClock", "at_work"]

at_work: Final[contextvars.ContextVar[object]] = contextvars.ContextVar(
    "eventlog_testing_at_work", default=None
)
"""The call of a processor's method that whoever asks was called by; None if by none."""

_EXACT: Final = 1e-6
"""What is due within a microsecond is due: sums of seconds are not exact."""


class _Sleeper(NamedTuple):
    """Somebody who waits. In the order of when they wake, and of when they came."""

    due: float
    number: int
    done: Completion[None]
    call: object


class VirtualClock:
    """Shows a time of its own, which passes only when it is moved. Thread-safe.

    It has what a host asks of its clock (`eventlog.processor.clock.Clock`).

    Args:
        starts_at: the wall time that it shows first.
    """

    def __init__(self, starts_at: datetime = WHEN) -> None:
        self._starts_us = microseconds(aware(starts_at))
        self._now = 0.0
        self._mutex = threading.Lock()
        self._numbers = itertools.count()
        self._sleepers: list[_Sleeper] = []
        self._woken: set[int] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self._now:g} s, {self.time().isoformat()}>"

    def now(self) -> float:
        """Seconds since it began."""
        return self._now

    def wall_us(self) -> int:
        """Microseconds since 1970; also for ``eventlog.open(..., clock=clock.wall_us)``."""
        return self._starts_us + round(self._now * 1_000_000)

    def time(self) -> datetime:
        """The same as an aware datetime in UTC."""
        return instant(self.wall_us())

    async def sleep(self, duration: Duration) -> None:
        """Wait until so many seconds have passed here; on any event loop."""
        length = seconds(duration, "duration")
        if not length:
            await anyio.lowlevel.checkpoint()
            return
        sleeper = self._add(length)
        try:
            await sleeper.done
        finally:
            self._remove(sleeper)

    def block(self, duration: Duration) -> None:
        """Wait, in a thread: what `time.sleep` is elsewhere."""
        length = seconds(duration, "duration")
        if length:
            sleeper = self._add(length)
            try:
                sleeper.done.result()
            finally:
                self._remove(sleeper)

    # For who moves it

    def is_asleep(self, call: object) -> bool:
        """Whether a call of the processor waits by this clock."""
        with self._mutex:
            return any(sleeper.call is call for sleeper in self._sleepers)

    @property
    def is_waking(self) -> bool:
        """Whether somebody was woken and does not run yet."""
        return bool(self._woken)

    def is_past(self, moment: float) -> bool:
        """Whether what was due then has been woken."""
        return self._now + _EXACT >= moment

    def wake_next(self, moment: float) -> bool:
        """Move on to when the first sleeper is due, unless that is later than `moment`, and wake
        it; whether there was one.
        """
        with self._mutex:
            if not self._sleepers or self._sleepers[0].due > moment + _EXACT:
                return False
            self._now = max(self._now, self._sleepers[0].due)
            due = []
            while self._sleepers and self.is_past(self._sleepers[0].due):
                due.append(heapq.heappop(self._sleepers))
            self._woken.update(sleeper.number for sleeper in due)
        for sleeper in due:
            sleeper.done.complete(None)
        return True

    def move_to(self, moment: float) -> None:
        """Show that time, when all that is due by then was woken. It never goes back."""
        self._now = max(self._now, moment)

    def _add(self, length: float) -> _Sleeper:
        with self._mutex:
            due = self._now + length
            sleeper = _Sleeper(due, next(self._numbers), Completion(), at_work.get())
            heapq.heappush(self._sleepers, sleeper)
        self._changed()
        return sleeper

    def _remove(self, sleeper: _Sleeper) -> None:
        with self._mutex:
            self._woken.discard(sleeper.number)
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)
        self._changed()

    def _changed(self) -> None:
        """Somebody begins to wait, or does so no more; in any thread."""
