"""A few connections, made when they are needed and kept.

Invariants:

1. There are never more than a pool may have, and none is used by two threads at a time. Who asks
   first is served first: what must be in time does not wait for what came later.
2. One that fails takes with it those that are idle: they lead to the same server.
3. In a child process there are none at first, from the moment of the fork: those that are there are
   the parent's, and the server hears nothing of their being let go.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Final

from eventlog.blobs.postgresql.connection import Connection
from eventlog.blobs.postgresql.failures import Refusal
from eventlog.blobs.remote import LateUndone, Undone, Unsure

__all__ = ["MAX_CONNECTIONS", "Pool"]

MAX_CONNECTIONS: Final = 4
_MAX_IDLE_SECONDS: Final = 60.0
"""What stands between, and forgets connections, seldom does so sooner."""

_pools: Final[weakref.WeakSet[Pool]] = weakref.WeakSet()


class Pool:
    """Connections to one place. Thread-safe.

    Args:
        connect: makes one until some time by the monotonic clock, or raises.
        most: how many there may be.
    """

    def __init__(self, connect: Callable[[float], Connection], most: int = MAX_CONNECTIONS) -> None:
        self._connect = connect
        self.most = most
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._waiting: collections.deque[object] = collections.deque()  # the first is at the left
        self._idle: list[Connection] = []  # the one used last is at the end
        self._busy: set[Connection] = set()
        self._being_made = 0
        self._is_closed = False

    @contextlib.contextmanager
    def lend(self, until: float, turn_until: float | None = None) -> Iterator[Connection]:
        """A connection, for a while. What fails with it, but for a refusal, is the end of it.

        Args:
            until: when to give up, by the monotonic clock.
            turn_until: when to give up waiting for one that others use, if that is sooner.

        Raises:
            LateUndone: there is none until then.
            Exception: what `connect` raises.
        """
        connection = self._take(until, until if turn_until is None else turn_until)
        try:
            yield connection
        except Refusal as refusal:
            self._take_back(connection, is_good=not refusal.is_of_server)
            raise
        except BaseException:
            self._take_back(connection, is_good=False)
            raise
        self._take_back(connection, is_good=True)

    def _take(self, until: float, turn_until: float) -> Connection:
        connection = self._in_turn(turn_until)
        if connection is not None:
            return connection
        try:
            connection = self._connect(until)
        except Unsure as error:
            raise Undone(*error.args) from None  # nothing was asked yet
        finally:
            with self._changed:
                self._being_made -= 1
                if connection is not None:
                    self._busy.add(connection)
                self._changed.notify_all()
        return connection

    def _in_turn(self, until: float) -> Connection | None:
        """An idle one; None if one is to be made, for which there is room then."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                if not self._changed.wait_for(
                    lambda: self._waiting[0] is turn and self._has_room(),
                    max(until - time.monotonic(), 0),
                ):
                    raise LateUndone(f"all its connections are in use, {self.most} at most")
                connection = self._idle_one()
                if connection is None:
                    self._being_made += 1
                else:
                    self._busy.add(connection)
                return connection
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return bool(self._idle) or len(self._busy) + self._being_made < self.most

    def _idle_one(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_ended and not _is_old(connection):
                return connection
            connection.close()
        return None

    def _take_back(self, connection: Connection, *, is_good: bool) -> None:
        with self._changed:
            self._busy.discard(connection)
            if not is_good:
                connection.abort()
                self._close_idle()
            elif self._is_closed:
                connection.close()
            else:
                self._idle.append(connection)
            self._changed.notify_all()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """Close all, now or when they are given back."""
        with self._changed:
            self._is_closed = True
            self._close_idle()

    def _forget(self) -> None:
        for connection in (*self._idle, *self._busy):
            connection.forget()
        self._begin()


def _is_old(connection: Connection) -> bool:
    return time.monotonic() - connection.used_at > _MAX_IDLE_SECONDS


def _forget_all() -> None:
    """In a child process, before anything else runs there."""
    for pool in _pools:
        pool._forget()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_forget_all)
