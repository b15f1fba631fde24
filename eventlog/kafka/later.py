"""What is to be done later, and holds up nobody: in a thread that is there while it is needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from typing import Final

__all__ = ["Later"]

_logger: Final = logging.getLogger("eventlog")

_PATIENCE: Final = 1.0
"""Seconds that who closes it waits for what is under way."""


class Later:
    """Calls functions when their time has come, one after the other. Thread-safe.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._condition = threading.Condition()
        self._due: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def within(self, seconds: float, key: Hashable, do: Callable[[], object]) -> None:
        """Have it done in so many seconds; sooner, if that was said of the key before."""
        self._plan(self._clock() + seconds, key, do, sooner=True)

    def after(self, seconds: float, key: Hashable, do: Callable[[], object]) -> None:
        """Have it done in so many seconds, and not before, whatever was said of the key."""
        self._plan(self._clock() + seconds, key, do, sooner=False)

    def _plan(self, at: float, key: Hashable, do: Callable[[], object], *, sooner: bool) -> None:
        with self._condition:
            if self._closed:
                return
            known = self._due.get(key)
            self._due[key] = (at if known is None or not sooner else min(at, known[0])), do
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="eventlog-later", daemon=True
                )
                self._thread.start()
            self._condition.notify_all()

    def _run(self) -> None:
        while (do := self._next()) is not None:
            try:
                do()
            except Exception:
                if not self._closed:  # or what it needs may be closed as well
                    _logger.exception("what was left for later has failed")

    def _next(self) -> Callable[[], object] | None:
        """What is to be done now; None if there is nothing left to do."""
        with self._condition:
            while self._due:
                key = min(self._due, key=lambda one: self._due[one][0])
                at, do = self._due[key]
                left = at - self._clock()
                if left <= 0:
                    del self._due[key]
                    return do
                self._condition.wait(left)
            self._thread = None
            return None

    def close(self) -> None:
        """Do at once what is planned, as far as that takes a moment; then nothing more."""
        with self._condition:
            self._closed = True
            self._due = {key: (self._clock(), do) for key, (_, do) in self._due.items()}
            thread = self._thread
            self._condition.notify_all()
        if thread is not None:
            thread.join(_PATIENCE)
        with self._condition:
            self._due.clear()
