"""`Lease`: until when a host may trust that nobody takes its partitions."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["TRUSTED", "Lease"]

TRUSTED: Final = 0.9
"""The part of the lease after which a host stops itself: it stops before others may begin, although
no two clocks run at quite the same rate."""


class Lease:
    """What one member of a group lives on. Thread-safe.

    It is over for ever once it has run out, whether anybody noticed or not: an answer that comes
    later does not revive it. Who goes on does so as another member.

    Args:
        clock: seconds, running through suspension.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._mutex = threading.Lock()
        self._expires_at = -math.inf
        self._lost = False

    @property
    def expires_at(self) -> float:
        """When it runs out, on its clock; minus infinity if it never began."""
        return self._expires_at

    @property
    def lost(self) -> bool:
        """Whether it began and is over."""
        return self._expires_at != -math.inf and not self.held()

    def held(self) -> bool:
        """Whether it holds now."""
        if self._lost or self._clock() >= self._expires_at:
            with self._mutex:
                self._lost = self._lost or self._expires_at != -math.inf
            return False
        return True

    def extend(self, expires_at: float) -> bool:
        """It was renewed; whether it still held, so that this counts."""
        with self._mutex:
            began = self._expires_at != -math.inf
            if self._lost or (began and self._clock() >= self._expires_at):
                self._lost = True
                return False
            self._expires_at = max(expires_at, self._expires_at)
        return True

    def shorten(self, expires_at: float) -> None:
        """It lasts no longer than that: others will not wait any longer."""
        with self._mutex:
            self._expires_at = min(expires_at, self._expires_at)

    def lose(self) -> None:
        """It is over, for another reason than time."""
        with self._mutex:
            self._lost = True
            self._expires_at = max(self._expires_at, -1e308)
