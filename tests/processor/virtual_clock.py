"""A clock that is moved by hand, for whatever takes its time from a `Clock`."""

from __future__ import annotations

import itertools
import threading
from typing import Final

import anyio.lowlevel

from eventlog.waiting import Completion

NOON_US: Final = 1_709_208_000_000_000
"""Noon of 2024-02-29, in microseconds since 1970."""


class VirtualClock:
    """See `eventlog.processor.clock.Clock`. Thread-safe: any thread may `advance` it.

    Whoever sleeps wakes when the time has been moved to where the sleep ends, or beyond.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._now = 1000.0
        self._numbers = itertools.count()
        self._sleepers: dict[int, tuple[float, Completion[None]]] = {}

    def now(self) -> float:
        return self._now

    def wall_us(self) -> int:
        return NOON_US + round((self._now - 1000) * 1e6)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        completion: Completion[None] = Completion()
        number = next(self._numbers)
        with self._mutex:
            self._sleepers[number] = self._now + seconds, completion
        try:
            await completion
        finally:
            with self._mutex:
                self._sleepers.pop(number, None)

    def advance(self, seconds: float) -> None:
        """Let so much time pass, at once."""
        with self._mutex:
            self._now += seconds
            due = sorted(self._sleepers.items(), key=lambda item: (item[1][0], item[0]))
            woken = [one for _, (end, one) in due if end <= self._now]
        for completion in woken:
            completion.complete(None)

    def waits(self) -> list[float]:
        """For how long those that sleep now will go on, the shortest first."""
        with self._mutex:
            return sorted(end - self._now for end, one in self._sleepers.values() if not one.done)
