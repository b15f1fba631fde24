"""Events that may end their process, in turns: so that it can be told which of them did.

When a process ends, each event that it had been given alone may have ended it, and that is noted of
all of them. If they were at work together again, the innocent would go down again with the one that
does it, and in the end be put aside with it. So an event of which it is noted is at work alone: as
long as it is, the process is given no other event that goes alone, whatever its partition and host.

That is one event of each partition at most. One that takes long is not waited for without end: what
ends a process mostly does so soon.

What this module deliberately does not do: wait.
"""

from __future__ import annotations

import threading
from typing import Final

__all__ = ["TURNS", "Turns"]

_LONGEST_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 1.0
"""Who has not asked for so long does not wait any more."""


class Turns:
    """Whose turn it is: that of several at a time, or of one alone. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._at_work: dict[object, float] = {}  # until when others heed them
        self._alone: object = None  # who is at work alone, or waits to be
        self._asked_at = 0.0

    def take(self, who: object, now: float, *, alone: bool) -> bool:
        """Whether it is the turn of `who`; if it is not, they are to ask again, soon.

        Args:
            now: seconds.
            alone: while nobody else is at work.
        """
        with self._mutex:
            self._at_work = {one: end for one, end in self._at_work.items() if now < end}
            if self._alone not in self._at_work and now - self._asked_at > _PATIENCE_SECONDS:
                self._alone = None
            if self._alone is not None and self._alone is not who:
                return False
            if alone:
                self._alone, self._asked_at = who, now
                if self._at_work.keys() - {who}:
                    return False
            self._at_work[who] = now + _LONGEST_SECONDS
            return True

    def give_back(self, who: object) -> None:
        """`who` has done, or does not wait any more; nothing if it was not their turn."""
        with self._mutex:
            self._at_work.pop(who, None)
            if self._alone is who:
                self._alone = None


TURNS: Final = Turns()
"""The process's."""
