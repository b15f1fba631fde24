"""Senders that nobody uses just now."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from eventlog.kafka.deadline import Deadline
from eventlog.kafka.writing.sender import Sender

__all__ = ["Pool"]

S = TypeVar("S", bound=Sender)

_MOST: Final = 16
"""So many are kept at most."""

_KEPT_SECONDS: Final = 300.0
"""None is kept for longer without being used: its connections may be, or its id at the brokers."""

_SURE_SECONDS: Final = 1.0
"""Who was used a shorter time ago is not looked at: that costs the broker a request."""


class Pool(Generic[S]):
    """Senders of one kind. Thread-safe.

    Args:
        make: makes one more, within a time limit.
    """

    def __init__(self, make: Callable[[Deadline], S]) -> None:
        self._make = make
        self._mutex = threading.Lock()
        self._idle: deque[tuple[float, S]] = deque()  # the one used last at the right
        self._closed = False

    def take(self, deadline: Deadline) -> S:
        """The one that was used last and has a broker, or a new one."""
        old: list[S] = []
        with self._mutex:
            found, surely_before = None, time.monotonic() - _SURE_SECONDS
            while found is None and self._idle:
                used, sender = self._idle.pop()
                if used > surely_before or sender.has_broker:
                    found = sender
                else:
                    old.append(sender)
            old += self._too_old()
        del old  # let go of without the mutex
        return self._make(deadline) if found is None else found

    def give_back(self, sender: S) -> None:
        """It is not used any more. One that cannot be used again is let go of.

        And so are those that were idle meanwhile: if it had lost its brokers so may they have, and
        the next caller would find that out only when its time is up.
        """
        old: list[S] = []
        with self._mutex:
            if not sender.usable:
                old = [] if sender.has_broker else self._all()
            elif not self._closed:
                self._idle.append((time.monotonic(), sender))
                old = self._too_old()
                if len(self._idle) > _MOST:
                    old.append(self._idle.popleft()[1])
        del old

    def _too_old(self) -> list[S]:
        """Take out who was not used for long."""
        before = time.monotonic() - _KEPT_SECONDS
        old = []
        while self._idle and self._idle[0][0] < before:
            old.append(self._idle.popleft()[1])
        return old

    def close(self) -> None:
        """Keep none from now on."""
        with self._mutex:
            self._closed = True
            idle = self._all()
        del idle

    def _all(self) -> list[S]:
        """Take out all."""
        idle = [sender for _, sender in self._idle]
        self._idle.clear()
        return idle
