"""Virtual time: what happens, happens when its time comes, one thing after the other."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

__all__ = ["Timeline"]


class Timeline:
    """Runs actions in the order of their times; those of one time in the order they were given.

    Attributes:
        now: the true time, in seconds. Hosts do not know it: each has a clock of its own.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._coming: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Do it then; now, if that has passed."""
        heapq.heappush(self._coming, (max(when, self.now), next(self._numbers), action))

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do it so much later."""
        self.at(self.now + seconds, action)

    def run_until(self, end: float) -> None:
        """Let the time pass."""
        coming = self._coming
        while coming and coming[0][0] <= end:
            self.now, _, action = heapq.heappop(coming)
            action()
        self.now = end
