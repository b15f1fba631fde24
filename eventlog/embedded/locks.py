"""Two locks: one between the processes that write a log, one between the threads of a process.

`ProcessLock` is a POSIX record lock, because the kernel releases it when its holder dies, names
the holder, and keeps it out of forked children. LMDB's own write lock is behind it and therefore
always free: it cannot be waited for with a time limit, and does not say who holds it.

`Gate` lets threads pass in any number up to a limit, and lets one close it behind the last one
out: before a fork, and before the environment is opened anew.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import fcntl
import os
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Final, NamedTuple

from eventlog.errors import LogBusyError

__all__ = ["Gate", "ProcessLock"]

_BUSY: Final = (errno.EACCES, errno.EAGAIN)
_DEADLOCK_PAUSE: Final = 0.001
_GATE_PAUSE: Final = 0.0002


class ProcessLock:
    """A lock that one process at a time holds. One thread at a time may use it.

    The file must be opened nowhere else in the process: closing any descriptor of a file drops
    all the process's record locks on it.

    The kernel's wait has no time limit, so a thread of its own does it (`_Waiter`). A wait that
    was given up goes on; whoever comes next takes it over, and if nobody does, the thread gives
    the lock back when it gets it. While there is a waiter nobody else asks the kernel: to it all
    threads of a process are one owner, and one's unlock would be the other's. That is so even if
    the lock is closed meanwhile, and its file is locked again by another `ProcessLock`: so the file
    stays open for the waiter, and is handed over with it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process = os.getpid()
        left = _take_left(path)
        if left is None:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            left = _Left(file, threading.Lock(), None)
        self._file, self._mutex, self._waiter = left

    def acquire(self, timeout: float) -> None:
        """Take the lock.

        Raises:
            LogBusyError: another process kept it for `timeout` seconds.
        """
        deadline = time.monotonic() + min(timeout, threading.TIMEOUT_MAX)
        while (waiter := self._try_or_queue(wait=timeout > 0)) is not None:
            if self._await(waiter, deadline - time.monotonic()):
                return
            if not waiter.given_back or time.monotonic() >= deadline:
                raise self._busy(timeout)

    def _try_or_queue(self, *, wait: bool) -> _Waiter | None:
        """None if the lock could be had at once; otherwise who waits for it."""
        with self._mutex:
            if self._waiter is not None and self._waiter.ended:
                self._waiter = None  # it gave the lock back, or failed
            if self._waiter is None and self._try():
                return None
            if not wait:
                raise self._busy(0)
            if self._waiter is None:
                self._waiter = _Waiter(self._file, self._mutex)
                self._waiter.start()
            return self._waiter

    def release(self) -> None:
        """Give it back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close its file; a lock still held is gone."""
        file, self._file = self._file, -1
        if os.getpid() != self._process:  # a child's copy: the waiter is the parent's
            os.close(file)
            return
        with self._mutex:
            if self._waiter is None or self._waiter.ended:
                os.close(file)
            else:
                with _left_mutex:
                    _left.append(_Left(file, self._mutex, self._waiter))

    def holder(self) -> int | None:
        """Process id of another process that holds it, where the system tells."""
        if not sys.platform.startswith("linux"):
            return None
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(self._file, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else pid

    def _busy(self, timeout: float) -> LogBusyError:
        holder = self.holder()
        who = "another process" if holder is None else f"process {holder}"
        return LogBusyError(
            f"{who} kept the log locked for {timeout:g} s ({self._path})", holder=holder
        )

    def _try(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _await(self, waiter: _Waiter, timeout: float) -> bool:
        """Wait for the waiter to be granted the lock; Ctrl-C gives it up like a time-out."""
        try:
            waiter.wanted = True
            waiter.signal.acquire(timeout=min(max(timeout, 0), threading.TIMEOUT_MAX))
        except BaseException:
            if self._end(waiter):
                self.release()
            raise
        granted = self._end(waiter)
        if waiter.error is not None:
            raise waiter.error
        return granted

    def _end(self, waiter: _Waiter) -> bool:
        """Stop waiting; whether the lock was granted meanwhile."""
        with self._mutex:
            waiter.wanted = False
            if waiter.ended:
                self._waiter = None
            return waiter.granted


class _Waiter:
    """A thread that waits for the kernel to grant the lock; it gives back what nobody wants."""

    def __init__(self, file: int, mutex: threading.Lock) -> None:
        self._file = file
        self._mutex = mutex
        self.wanted = False
        self.granted = False
        self.given_back = False
        self.error: OSError | None = None
        self.ended = False
        self.signal = threading.Lock()  # an Event could be interrupted with its own lock held
        self.signal.acquire()

    def start(self) -> None:
        """Start waiting. Not a `threading.Thread`: starting one can be interrupted halfway."""
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            self._block()
        except OSError as error:
            self.error = error
        with self._mutex:
            if self.error is None:
                self.granted = self.wanted
                self.given_back = not self.wanted
                if self.given_back:
                    fcntl.lockf(self._file, fcntl.LOCK_UN)
            self.ended = True
            self.signal.release()
            _close_left(self)

    def _block(self) -> None:
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX)
            except OSError as error:
                # The kernel looks for cycles between processes and knows no threads: two
                # processes that write two logs from two threads look like one to it.
                if error.errno != errno.EDEADLK:
                    raise
                time.sleep(_DEADLOCK_PAUSE)
            else:
                return


class _Left(NamedTuple):
    """What a `ProcessLock` has."""

    file: int
    mutex: threading.Lock
    waiter: _Waiter | None


_left: Final[list[_Left]] = []
"""Of locks that were closed while their waiters waited."""

_left_mutex = threading.Lock()


def _take_left(path: Path) -> _Left | None:
    """What was left of a lock on the same file, and is the caller's now."""
    with _left_mutex:
        for number, left in enumerate(_left):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(left.file), path.stat()):
                    return _left.pop(number)
    return None


def _close_left(waiter: _Waiter) -> None:
    """A waiter has ended: if nobody has its file any more, close that."""
    with _left_mutex:
        for number, left in enumerate(_left):
            if left.waiter is waiter:
                os.close(_left.pop(number).file)
                return


def _drop_left() -> None:
    """In a forked child: the waiters are the parent's."""
    global _left_mutex  # noqa: PLW0603 - its copy may be held by a thread of the parent's
    _left_mutex = threading.Lock()
    while _left:
        os.close(_left.pop().file)


os.register_at_fork(after_in_child=_drop_left)


class Gate:
    """A door that many threads may be behind, and that one can close after the last has left.

    A thread is inside or it is not: entering twice is entering once, and leaving is always
    allowed, so that ``try: enter() ... finally: leave(get_ident())`` is right wherever Ctrl-C
    comes; closing and opening likewise. For the same reason `leave` and `open` are single calls
    into C, and nobody is woken: who waits, which is rare (a fork, a compaction), looks again after
    a moment.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: set[int] = set()
        self._closers: set[int] = set()
        self._mutex = threading.Lock()
        self.leave: Final = self._inside.discard
        """Go out: ``leave(threading.get_ident())``."""
        self.open: Final = self._closers.discard
        """Let threads in again that this one kept out: ``open(threading.get_ident())``."""

    def enter(self) -> None:
        """Go in; wait while it is closed or `limit` threads are inside."""
        thread = threading.get_ident()
        while not self._admits(thread):
            time.sleep(_GATE_PAUSE)

    def _admits(self, thread: int) -> bool:
        with self._mutex:
            if thread not in self._inside:
                if self._closers or len(self._inside) >= self._limit:
                    return False
                self._inside.add(thread)
            return True

    def close(self, timeout: float = threading.TIMEOUT_MAX) -> bool:
        """Let nobody in any more and wait until all are out; False if that took too long.

        Whoever closes it is not inside.
        """
        deadline = time.monotonic() + timeout
        with self._mutex:
            self._closers.add(threading.get_ident())
        self.leave(threading.get_ident())
        while self._inside and time.monotonic() < deadline:
            time.sleep(_GATE_PAUSE)
        return not self._inside
