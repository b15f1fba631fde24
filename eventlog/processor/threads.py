"""Threads: one for the plain functions of a processor, and a few for store calls.

They are daemons: a handler that never returns must not keep the program from ending. What one of
them is doing then ends as if the process had been killed, which is safe for log and checkpoints.
"""

from __future__ import annotations

import contextvars
import functools
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias, TypeVar

from eventlog.waiting import Completion

__all__ = ["HandlerThread", "in_thread"]

T = TypeVar("T")

_STORE_THREADS: Final = 32
"""How many store calls of all pumps of the process are under way at a time. A thread is started
when one is needed; most stores answer before the next one is."""

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


def in_thread(do: Callable[[], T]) -> Completion[T]:
    """Run something that calls a store in a thread; it goes on even if nobody waits any more."""
    completion: Completion[T] = Completion()
    _pool().submit(_complete, completion, do)
    return completion


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="eventlog-store")


os.register_at_fork(after_in_child=_pool.cache_clear)
