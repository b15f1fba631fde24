"""Threads: one for the plain functions of a processor, and for each store a few for its calls.

One store that hangs keeps nobody waiting but those who call it.

They are daemons: a handler that never returns must not keep the program from ending. What one of
them is doing then ends as if the process had been killed, which is safe for log and checkpoints.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from eventlog.waiting import Completion

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore

__all__ = ["HandlerThread", "in_thread"]

T = TypeVar("T")

_STORE_THREADS: Final = 32
"""How many calls of one store by all pumps of the process are under way at a time. A thread is
started when one is needed; most stores answer before the next one is."""

_Call: TypeAlias = tuple[contextvars.Context, Callable[[], Any], Completion[Any]]


class HandlerThread:
    """Runs the plain functions of one processor, one after the other, always in the same thread.

    So a processor may keep what belongs to a thread: a connection to SQLite, a `threading.local`.
    The thread begins with the first call, and ends after `end` when the last one has returned.

    Attributes:
        ended: done when it has ended.
    """

    def __init__(self, name: str) -> None:
        self.ended: Final[Completion[None]] = Completion()
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, do: Callable[[], T]) -> Completion[T]:
        """Have `do` run, behind what was called before, in the caller's context."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        completion: Completion[T] = Completion()
        self._calls.put((contextvars.copy_context(), do, completion))
        return completion

    def end(self) -> None:
        """Take no more calls."""
        self._calls.put(None)
        if self._thread is None:
            self.ended.complete(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            context, do, completion = call
            context.run(_complete, completion, do)
            del call, context, do, completion  # it may be long until the next one
        self.ended.complete(None)


def _complete(completion: Completion[T], do: Callable[[], T]) -> None:
    try:
        completion.complete(do())
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
        completion.fail(error)


def in_thread(do: Callable[[], T], store: BlobStore | None = None) -> Completion[T]:
    """Run something that blocks in a thread; it goes on even if nobody waits any more.

    Args:
        store: which it calls, if it calls one.
    """
    completion: Completion[T] = Completion()
    _pools.of(store).submit(_complete, completion, do)
    return completion


class _Pools:
    """Threads for each store: they end when it is of no use to anybody any more."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._mutex = threading.Lock()
        self._storeless = _pool()
        self._pools: WeakKeyDictionary[BlobStore, ThreadPoolExecutor] = WeakKeyDictionary()

    def of(self, store: BlobStore | None) -> ThreadPoolExecutor:
        if store is None:
            return self._storeless
        with self._mutex:
            pool = self._pools.get(store)
            if pool is None:
                pool = self._pools[store] = _pool()
            return pool


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="eventlog-store")


_pools: Final = _Pools()
