"""Ways to hear of an announcement in the wakeup file: the kernel tells, or one looks again.

`KernelListener` is woken by the kernel's file notification (inotify, on Linux). Where there is
none, or no more of it (a user has 128 instances by default), `PollingListener` looks every now and
then: every millisecond right after something was announced, and ever more seldom, down to every
50 milliseconds, while nothing is.

What this module deliberately does not do: say *what* changed. What the kernel reports is thrown
away unread, so that it does not matter that it merges reports, or drops some when there are too
many; the counters tell.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import os
import select
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["KernelListener", "Listener", "Notification", "PollingListener"]

_IN_MODIFY: Final = 2
_REPORT_BYTES: Final = 4096
_MS: Final = 0.001
_POLLED_SECONDS: Final = (1 * _MS, 50 * _MS)
_POLLED_SHARE: Final = 0.1
"""How long polling waits, as a share of how long nothing has happened: it costs so much latency."""


class Descriptor:
    """A file descriptor that is closed with the last reference to it.

    Nobody else may do it: a thread that waits on a number which was closed meanwhile would wait
    on whatever file got that number next.
    """

    number = -1

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        """Close it now; for a forked child, where no other thread is left."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        self.close()


class Notification(Descriptor):
    """The kernel's reports on one file, for one process.

    The file's length or times are never looked at: that makes the next write to it dearer.
    """

    def __init__(self, path: Path) -> None:
        """Begin to watch the file at `path`.

        Raises:
            OSError: there is no such notification here, or no more of it.
        """
        super().__init__(_inotify("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC))
        _inotify("inotify_add_watch", self.number, os.fsencode(path), _IN_MODIFY)

    def drain(self) -> None:
        """Forget what was reported."""
        with contextlib.suppress(BlockingIOError):  # another thread was faster
            os.read(self.number, _REPORT_BYTES)


@functools.cache
def _libc() -> Any:
    import ctypes  # only who waits needs it

    return ctypes.CDLL(None, use_errno=True)


def _inotify(name: str, *arguments: object) -> int:
    import ctypes

    function = getattr(_libc(), name, None)
    if function is None:
        raise OSError(f"{name}() does not exist here")
    found: int = function(*arguments)
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return found


class Listener(abc.ABC):
    """Hears of announcements; used by one thread or task at a time, which anybody may wake."""

    descriptor: int | None = None
    """A file descriptor that is readable when `wait` would return, where there is one."""

    @abc.abstractmethod
    def wait(self, timeout: float) -> None:
        """Until something may have been announced, `ring` was called, or `timeout` is over."""

    @abc.abstractmethod
    def rest(self, timeout: float) -> None:
        """Until `ring` was called or `timeout` is over, whatever is announced."""

    @abc.abstractmethod
    def ring(self) -> None:
        """End the wait that is under way, or the next one. May be called in a signal handler."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close what it has open; for a forked child."""


class KernelListener(Listener):
    """Is woken by the kernel. Several may listen to one `Notification`.

    One of them may then drain a report before another has noticed it. Who drains therefore looks
    on behalf of all (`Wakeup`).
    """

    def __init__(self, notification: Notification) -> None:
        self._notification = notification
        self._bell = Descriptor(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._both = select.epoll()
        self._both.register(notification.number, select.EPOLLIN)
        self._both.register(self._bell.number, select.EPOLLIN)
        self.descriptor = self._both.fileno()

    def wait(self, timeout: float) -> None:
        """Until the kernel has something to report, or the bell."""
        for number, _ in self._both.poll(timeout):
            if number == self._bell.number:
                self._silence()
            else:
                self._notification.drain()

    def rest(self, timeout: float) -> None:
        """Until the bell rings."""
        bell = select.poll()
        bell.register(self._bell.number, select.POLLIN)
        if bell.poll(timeout * 1000):
            self._silence()

    def _silence(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell.number)

    def ring(self) -> None:
        """Ring the bell."""
        try:  # noqa: SIM105 - suppress() is calls, and between calls a signal handler may run
            os.eventfd_write(self._bell.number, 1)
        except OSError:
            pass  # it was closed: nobody listens

    def close(self) -> None:
        """Close its descriptors; the notification is not its own."""
        self._both.close()
        self._bell.close()


class PollingListener(Listener):
    """Looks again and again.

    Args:
        look: what it looks at; something was announced when it returns something else.
    """

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self._seen = look()
        self._changed_at = time.monotonic()
        self._bell = threading.Lock()
        self._bell.acquire()

    def wait(self, timeout: float) -> None:
        """Until it looks otherwise, or the bell rings."""
        now = time.monotonic()
        end = now + timeout
        while now < end:
            seen = self._look()
            if seen != self._seen:
                self._seen, self._changed_at = seen, now
                return
            least, most = _POLLED_SECONDS
            pause = min(max(_POLLED_SHARE * (now - self._changed_at), least), most, end - now)
            if self._bell.acquire(timeout=pause):
                return
            now = time.monotonic()

    def rest(self, timeout: float) -> None:
        """Until the bell rings."""
        self._bell.acquire(timeout=timeout)

    def ring(self) -> None:
        """Ring the bell."""
        try:  # noqa: SIM105 - as in `KernelListener.ring`
            self._bell.release()
        except RuntimeError:
            pass  # it rings already

    def close(self) -> None:
        """Nothing is open."""
