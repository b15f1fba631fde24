"""Two locks: one between the processes that write a log, one between the threads of a process.

`ProcessLock` is a POSIX record lock, because the kernel releases it when its holder dies, names
the holder, and keeps it out of forked children. LMDB's own write lock is behind it and therefore
always free: it cannot be waited for with a time limit, and does not say who holds it.

`Gate` lets threads pass in any number up to a limit, and lets one close it behind the last one
out: before a fork, and before the environment is opened anew.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from eventlog.errors import LogBusyError

__all__ = ["Gate", "ProcessLock"]

_BUSY: Final = (errno.EACCES, errno.EAGAIN)
_DEADLOCK_PAUSE: Final = 0.001


class ProcessLock:
    """A lock that one process at a time holds. One thread at a time may use it.

    The file must be opened nowhere else in the process: closing any descriptor of a file drops
    all the process's record locks on it.

    The kernel's wait has no time limit, so a thread of its own does it (`_Waiter`). A wait that
    was given up goes on; whoever comes next takes it over, and if nobody does, the thread gives
    the lock back when it gets it. While there is a waiter nobody else asks the kernel: to it all
    threads of a process are one owner, and one's unlock would be the other's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._mutex = threading.Lock()
        self._waiter: _Waiter | None = None

    def acquire(self, timeout: float) -> None:
        """Take the lock.

        Raises:
            LogBusyError: another process kept it for `timeout` seconds.
        """
        with self._mutex:
            if self._waiter is not None and self._waiter.given_back:
                self._waiter = None
            if self._waiter is None and self._try():
                return
            if timeout <= 0:
                raise self._busy(timeout)
            waiter = self._waiter = self._waiter or _Waiter(self._file, self._mutex)
            waiter.wanted = True
        if not self._await(waiter, timeout):
            raise self._busy(timeout)

    def release(self) -> None:
        """Give it back."""
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close its file; a lock still held is gone."""
        os.close(self._file)
        self._file = -1

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
            waiter.arrived.wait(min(timeout, threading.TIMEOUT_MAX))
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
            if not waiter.arrived.is_set():
                return False
            self._waiter = None
            return waiter.error is None


class _Waiter:
    """A thread that waits for the kernel to grant the lock."""

    def __init__(self, file: int, mutex: threading.Lock) -> None:
        self._file = file
        self._mutex = mutex
        self.wanted = True
        self.given_back = False
        self.error: OSError | None = None
        self.arrived = threading.Event()
        threading.Thread(target=self._run, name="eventlog-lock", daemon=True).start()

    def _run(self) -> None:
        try:
            self._block()
        except OSError as error:
            self.error = error
        with self._mutex:
            if self.wanted or self.error is not None:
                self.arrived.set()
            else:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
                self.given_back = True

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


class Gate:
    """A door that many threads may be behind, and that one can close after the last has left.

    A thread is inside or not: entering twice is entering once, and leaving is always allowed, so
    that ``try: enter() ... finally: leave()`` is right wherever Ctrl-C comes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: set[int] = set()
        self._closed = 0
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)

    def enter(self) -> None:
        """Go in; wait while it is closed or `limit` threads are inside."""
        thread = threading.get_ident()
        with self._mutex:
            if thread not in self._inside:
                while self._closed or len(self._inside) >= self._limit:
                    self._changed.wait()
                self._inside.add(thread)

    def leave(self) -> None:
        """Go out."""
        with self._mutex:
            self._inside.discard(threading.get_ident())
            if self._closed or len(self._inside) == self._limit - 1:
                self._changed.notify_all()

    def close(self, timeout: float | None = None) -> bool:
        """Let nobody in any more and wait until all are out; False if that took too long."""
        with self._changed:
            self._closed += 1
            return self._changed.wait_for(lambda: not self._inside, timeout)

    def open(self) -> None:
        """Let threads in again."""
        with self._changed:
            self._closed -= 1
            self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Closed, with nobody inside, for the length of a block."""
        self.close()
        try:
            yield
        finally:
            self.open()
