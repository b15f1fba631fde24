"""A lock on a directory, between threads and processes alike.

It is a `flock` of the directory itself. So there is no lock file that somebody could delete, or
that would be copied along; the kernel releases it when its holder dies; and since every holder
opens the directory anew, threads of one process keep each other out as processes do.

A forked child inherits what its parent has open, and with it a share in the parent's locks: if the
parent were killed, the child would keep them. So it closes them before it does anything else.

Waiting is asking again after a moment, since the kernel's own waiting has no time limit. Nobody
is sure to come next, but the lock is held for a few milliseconds at a time.
"""

from __future__ import annotations

import fcntl
import os
import random
import threading
import time
import weakref
from pathlib import Path
from typing import Final

from eventlog.errors import StoreUnavailableError

__all__ = ["DirectoryLock"]

_FIRST_PAUSE: Final = 0.0002
_LONGEST_PAUSE: Final = 0.01

_locks: weakref.WeakSet[DirectoryLock] = weakref.WeakSet()
_fork_lock = threading.RLock()
"""Held while a descriptor is opened or closed, so that a child knows of all that it inherits."""


class DirectoryLock:
    """One holding of the lock, by one thread.

    `release` is always allowed, so that ``try: acquire() ... finally: release()`` is right
    wherever Ctrl-C comes; what comes in the midst of `release` is left to `__del__`.

    Attributes:
        file: the directory, open; -1 while it is not held.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file = -1
        _locks.add(self)

    def acquire(self, kind: int, timeout: float) -> None:
        """Take the lock.

        Args:
            kind: ``fcntl.LOCK_EX``, or ``fcntl.LOCK_SH`` to keep out only who wants it to itself.
            timeout: seconds to wait for others.

        Raises:
            StoreUnavailableError: they kept it for so long.
            OSError: the directory is not there, or cannot be opened.
        """
        deadline = time.monotonic() + timeout
        self._open()
        self._wait(kind, deadline)
        while not self._is_in_place():
            self.release()
            self._open()
            self._wait(kind, deadline)

    def release(self) -> None:
        """Give it back."""
        with _fork_lock:
            if self.file >= 0:
                # A child that was just forked, and is about to exec, may still have it open.
                fcntl.flock(self.file, fcntl.LOCK_UN)
                file, self.file = self.file, -1
                os.close(file)

    __del__ = release

    def abandon(self) -> None:
        """In a child just forked: close it. The parent keeps the lock."""
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)

    def _open(self) -> None:
        with _fork_lock:
            self.file = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _wait(self, kind: int, deadline: float) -> None:
        pause = _FIRST_PAUSE
        while not self._try(kind):
            if time.monotonic() >= deadline:
                raise StoreUnavailableError(
                    f"another process or thread kept the store at {self._directory} locked"
                )
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - only to spread them
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self.file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _is_in_place(self) -> bool:
        """Whether the directory was not removed, or replaced, before it was locked."""
        try:
            return os.path.samestat(os.fstat(self.file), self._directory.stat())
        except FileNotFoundError:
            return False


def _before_fork() -> None:
    _fork_lock.acquire()


def _after_fork_in_parent() -> None:
    _fork_lock.release()


def _after_fork_in_child() -> None:
    global _fork_lock  # noqa: PLW0603 - its copy is held by the thread that forked
    _fork_lock = threading.RLock()
    for lock in list(_locks):
        lock.abandon()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
