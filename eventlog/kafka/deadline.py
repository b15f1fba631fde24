"""How much time a call has left."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["Deadline"]


class Deadline:
    """Runs from now for so many seconds, on a clock that nobody sets.

    Attributes:
        seconds: how long it was at the beginning.
    """

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds: Final = seconds
        self._end: Final = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; never less than 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether nothing is left."""
        return time.monotonic() >= self._end
