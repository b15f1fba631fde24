"""One suspect at a time: events that were at work when their process ended.

When a process ends, each event that it had been given alone may have ended it, and that is noted of
all of them. If they were at work together again, the innocent would go down again with the one that
does it, and in the end be put aside with it. So of the events of which it is noted, a process has
one at work at a time, whatever their partitions and hosts.

That is one event of each partition at most. One that takes long is not waited for without end: what
ends a process mostly does so soon.
"""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["TURN", "Turn"]

_LONGEST_SECONDS: Final = 10.0


class Turn:
    """Whose turn it is. Thread-safe, and never waits."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._who: object = None
        self._until = 0.0

    def take(self, who: object, now: float) -> bool:
        """Whether it is the turn of `who`: since nobody else has it, or had it for too long.

        Args:
            now: seconds.
        """
        with self._mutex:
            if self._who is not None and self._who is not who and now < self._until:
                return False
            self._who, self._until = who, now + _LONGEST_SECONDS
            return True

    def give_back(self, who: object) -> None:
        """`who` has done; nothing if it was not their turn."""
        with self._mutex:
            if self._who is who:
                self._who = None


TURN: Final = Turn()
"""The process's."""
