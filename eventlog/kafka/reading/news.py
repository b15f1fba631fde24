"""What tells a reader that something came for it: in threads and on event loops.

There are no locks that a signal handler could meet: what is waited for is a lock of the waiter's
own, and who waits looks again after each sign.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

from eventlog.waiting import Notifier, Watch, current_notifier

__all__ = ["Bell", "KafkaWatch", "News"]


class Bell:
    """Wakes one thread; rung while nobody waits, it wakes the next who does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake it."""
        try:  # noqa: SIM105 - suppress() is calls, and between calls a signal handler may run
            self._lock.release()
        except RuntimeError:
            pass  # it was rung already

    def wait(self, timeout: float) -> None:
        """Wait until it is rung, or for so many seconds."""
        self._lock.acquire(timeout=min(max(timeout, 0), threading.TIMEOUT_MAX))


class News:
    """What has come for one reader.

    Attributes:
        count: grows when it should look: something came, or its topic has changed.
        steps: grows when anything has changed for it, also that the end was seen.
        is_awaited: whether the reader waits, and cannot take what comes itself.
        is_over: whether the reader is gone: what was read ahead for it can go too.
    """

    def __init__(self) -> None:
        self.count = 0
        self.steps = 0
        self.is_awaited = False
        self.is_over = False
        self._wakers: set[Callable[[], object]] = set()

    def tell(self, *, looked_for: bool = True) -> None:
        """Something has changed; if `looked_for`, there is something to look at."""
        self.steps += 1
        if looked_for:
            self.count += 1
            self.is_awaited = False
        for wake in tuple(self._wakers):
            wake()

    def enter(self, wake: Callable[[], object]) -> None:
        """Have `wake` called at each change, in any thread."""
        self._wakers.add(wake)

    def leave(self, wake: Callable[[], object]) -> None:
        """No more."""
        self._wakers.discard(wake)

    def wait_for_step(self, seen: int, timeout: float) -> None:
        """Wait until there are more steps than were seen, or for so many seconds."""
        bell = Bell()
        self.enter(bell.ring)
        try:
            if self.steps == seen:
                bell.wait(timeout)
        finally:
            self.leave(bell.ring)


class KafkaWatch(Watch):
    """Tells one reader of its news.

    Args:
        on_close: called when it is closed.
    """

    def __init__(self, news: News, on_close: Callable[[], object]) -> None:
        self._news: Final = news
        self._on_close = on_close
        self._interrupted = False
        self._wakers: set[Callable[[], object]] = set()
        self.mark()

    def mark(self) -> None:
        """Remember what was told so far."""
        self._marked = self._news.count

    def changed(self) -> bool:
        """Whether there was more since."""
        return self._news.count != self._marked

    def _is_over(self) -> bool:
        return self._interrupted or self.changed()

    def _outcome(self) -> bool:
        return not self._interrupted and self.changed()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as a thread."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        bell = Bell()
        self._enter(bell.ring)
        try:
            while not self._is_over() and (left := end - time.monotonic()) > 0:
                bell.wait(left)
            return self._outcome()
        finally:
            self._leave(bell.ring)

    async def wait_async(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the contract
        """Wait as a task."""
        await anyio.lowlevel.checkpoint()
        waiter = _TaskWaiter(current_notifier())
        self._enter(waiter.wake)
        try:
            with anyio.move_on_after(timeout):
                while not self._is_over():
                    await waiter.event.wait()
                    waiter.event = anyio.Event()
            return self._outcome()
        finally:
            self._leave(waiter.wake)

    def _enter(self, wake: Callable[[], object]) -> None:
        self._wakers.add(wake)
        self._news.enter(wake)

    def _leave(self, wake: Callable[[], object]) -> None:
        self._news.leave(wake)
        self._wakers.discard(wake)

    def interrupt(self) -> None:
        """End all waiting for good."""
        self._interrupted = True
        for wake in tuple(self._wakers):
            wake()

    def close(self) -> None:
        """The reader is gone."""
        self.interrupt()
        self._on_close()


class _TaskWaiter:
    """Waits for an event of its loop's."""

    def __init__(self, notify: Notifier) -> None:
        self.event = anyio.Event()
        self._notify = notify

    def wake(self) -> None:
        event = self.event  # there is another when it was waited for
        self._notify(event.set)
