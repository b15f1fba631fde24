"""``Watch`` on the embedded engine. Who wakes its readers stands in `eventlog.embedded.wakeup`."""

from __future__ import annotations

import math
import operator
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from eventlog.embedded.wakeup import Waiter
from eventlog.embedded.wakeup_file import ANNOUNCED, EVERYTHING, Place, slot_of
from eventlog.waiting import Notifier, Watch, current_notifier, run_soon

if TYPE_CHECKING:
    from eventlog.embedded.listening import Listener
    from eventlog.embedded.wakeup import Wakeup

__all__ = ["PlacesWatch"]

_MOST_PARKED: Final = 64
"""Counters a waiter is parked under; who watches more is looked at whenever there is anything."""


class PlacesWatch(Watch):
    """Watches places of one environment, for one reader.

    Attributes:
        parked_under: slots of the counters one of which is raised when it may be concerned.
    """

    def __init__(self, wakeup: Wakeup, places: Iterable[Place]) -> None:
        slots = sorted({slot_of(EVERYTHING), *map(slot_of, places)})
        self.parked_under = (
            tuple(slots) if len(slots) <= _MOST_PARKED else (ANNOUNCED, slot_of(EVERYTHING))
        )
        self._wakeup = wakeup
        self._pick = operator.itemgetter(*slots)
        self._waiters: set[Waiter] = set()
        self._interrupted = False
        self.mark()

    def mark(self) -> None:
        """Remember the counters as they are."""
        if not self._wakeup.file.exists:
            self._wakeup.poll()  # what it finds is in the log already, and no news
        self._marked = self._state()

    def changed(self) -> bool:
        """Whether one is another now, or the log was closed."""
        return self._wakeup.closed or self._state() != self._marked

    def _state(self) -> tuple[object, int]:
        return self._pick(self._wakeup.file.counters), self._wakeup.missed

    def _is_over(self) -> bool:
        return self._interrupted or self.changed()

    def _outcome(self) -> bool:
        return not self._interrupted and self.changed()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as a thread."""
        if self._is_over():
            return self._outcome()
        end = math.inf if timeout is None else time.monotonic() + timeout
        waiter = _ThreadWaiter(self)
        try:
            self._waiters.add(waiter)
            while True:
                listener = self._wakeup.enter(waiter)
                left = end - time.monotonic()
                if left <= 0 or self._is_over():
                    return self._outcome()
                if listener is None:
                    waiter.signal.acquire(timeout=min(left, threading.TIMEOUT_MAX))
                else:
                    self._wakeup.listen(listener, left)
        finally:
            self._leave(waiter)

    async def wait_async(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the contract
        """Wait as a task."""
        await anyio.lowlevel.checkpoint()
        if self._is_over():
            return self._outcome()
        waiter = _TaskWaiter(self, current_notifier())
        try:
            self._waiters.add(waiter)
            with anyio.move_on_after(timeout):
                await self._until_over(waiter)
            return self._outcome()
        finally:
            self._leave(waiter)

    async def _until_over(self, waiter: _TaskWaiter) -> None:
        while True:
            listener = self._wakeup.enter(waiter)
            if self._is_over():
                return
            if listener is None:
                await waiter.event.wait()
                waiter.event = anyio.Event()
            else:
                await self._listen(listener)

    async def _listen(self, listener: Listener) -> None:
        """`Wakeup.listen` on an event loop: the poll, which may have to wait, is made elsewhere."""
        assert listener.descriptor is not None
        with anyio.move_on_after(self._wakeup.until_poll()):
            await anyio.wait_readable(listener.descriptor)
        listener.wait(0)
        if self._wakeup.poll_is_due():
            _ = run_soon(self._wakeup.poll)  # what it finds wakes this task

    def _leave(self, waiter: Waiter) -> None:
        self._waiters.discard(waiter)
        self._wakeup.leave(waiter)

    def interrupt(self) -> None:
        """End all waiting for good."""
        self._interrupted = True
        for waiter in list(self._waiters):
            waiter.wake()

    def close(self) -> None:
        """Nothing is held that would have to be closed; but who waits is not left waiting."""
        self.interrupt()


class _ThreadWaiter(Waiter):
    """Waits for a lock. (An Event could be interrupted with its own lock held.)"""

    def __init__(self, watch: PlacesWatch) -> None:
        super().__init__(watch)
        self.signal = threading.Lock()
        self.signal.acquire()

    def awaken(self) -> None:
        try:  # noqa: SIM105 - suppress() is calls, and between calls a signal handler may run
            self.signal.release()
        except RuntimeError:
            pass  # it is awake


class _TaskWaiter(Waiter):
    """Waits for an event of its loop's."""

    needs_descriptor = True

    def __init__(self, watch: PlacesWatch, notify: Notifier) -> None:
        super().__init__(watch)
        self.event = anyio.Event()
        self._notify = notify

    def awaken(self) -> None:
        self._notify(self.event.set)
