"""Calling what users hand in: plain functions or coroutine functions, from a thread of ours."""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeAlias, TypeVar

import anyio

from eventlog.waiting import Completion, current_library, current_notifier

__all__ = ["Callback", "Caller"]

T = TypeVar("T")

Callback: TypeAlias = Callable[[T], object] | Callable[[T], Awaitable[object]]

_logger = logging.getLogger("eventlog")
_calling: contextvars.ContextVar[Caller[Any] | None] = contextvars.ContextVar(
    "eventlog_calling", default=None
)


class Caller(Generic[T]):
    """Calls one function, if there is one. What it raises is logged, and goes no further.

    Coroutines run one after the other: on the event loop that `use_current_loop` was called on,
    or, if it never was, in the calling thread, on a loop of their own.
    """

    def __init__(self, function: Callback[T] | None) -> None:
        if function is not None and not callable(function):
            raise TypeError(f"a callback is a function, not {type(function).__name__}")
        self.function = function
        self._queue: _LoopQueue | None = None

    def use_current_loop(self) -> None:
        """Have coroutines run on the event loop this is called on."""
        self._queue = _LoopQueue(self)

    @property
    def is_calling(self) -> bool:
        """Whether whoever asks was called by this."""
        return _calling.get() is self

    def call(self, value: T) -> None:
        """Call the function; a coroutine is started and not waited for, if it has a loop."""
        self.call_all([value])

    def call_all(self, values: Iterable[T]) -> None:
        """`call` for several values, in order."""
        if self.function is None:
            return
        started: list[Awaitable[object]] = []
        before = _calling.set(self)
        try:
            for value in values:
                result = self._call(value)
                if result is not None and inspect.isawaitable(result):
                    started.append(result)
            if started and self._queue is None:
                anyio.run(self._finish_all, started)
        except BaseException:  # not even SystemExit may end a thread of ours
            _logger.exception("a callback failed: %r", self.function)
        finally:
            _calling.reset(before)
        if started and self._queue is not None:
            self._queue.add(started)

    def _call(self, value: T) -> object:
        assert self.function is not None
        try:
            return self.function(value)
        except BaseException:
            _logger.exception("a callback failed: %r", self.function)
            return None

    async def _finish_all(self, started: list[Awaitable[object]]) -> None:
        for awaitable in started:
            await self.finish(awaitable)

    async def finish(self, started: Awaitable[object]) -> None:
        """Wait for what the function returned."""
        _calling.set(self)
        try:
            await started
        except Exception:
            _logger.exception("a callback failed: %r", self.function)

    def finished(self) -> Completion[None]:
        """Done when the coroutines started so far have ended."""
        return Completion.of(None) if self._queue is None else self._queue.finished()


class _LoopQueue:
    """Finishes what a caller has started, in order, on the event loop that this is made on."""

    def __init__(self, caller: Caller[Any]) -> None:
        self._caller = caller
        self._notify = current_notifier()
        self._spawn = _spawn_trio if current_library() == "trio" else self._spawn_asyncio
        self._mutex = threading.Lock()
        self._waiting: deque[Awaitable[object]] = deque()
        self._running = False
        self._idle: Completion[None] = Completion.of(None)
        self._task: Any = None

    def add(self, started: Iterable[Awaitable[object]]) -> None:
        """Let them run behind those that were added before."""
        with self._mutex:
            self._waiting.extend(started)
            if self._running:
                return
            self._running = True
            self._idle = Completion()
        if not self._notify(functools.partial(self._spawn, self._run)):
            self._stop()

    def finished(self) -> Completion[None]:
        """Done when all that were added have run, or cannot run any more."""
        return self._idle

    async def _run(self) -> None:
        try:
            while (started := self._next()) is not None:
                await self._caller.finish(started)
        except BaseException:
            self._stop()
            raise

    def _next(self) -> Awaitable[object] | None:
        with self._mutex:
            if self._waiting:
                return self._waiting.popleft()
            self._running = False
            idle = self._idle
        idle.complete(None)
        return None

    def _stop(self) -> None:
        """The loop ends, or has ended."""
        with self._mutex:
            dropped = list(self._waiting)
            self._waiting.clear()
            self._running = False
            idle = self._idle
        for started in dropped:
            if inspect.iscoroutine(started):
                started.close()
        if dropped:
            _logger.error(
                "the event loop ended before %d calls of %r", len(dropped), self._caller.function
            )
        idle.complete(None)

    def _spawn_asyncio(self, do: Callable[[], Any]) -> None:
        import asyncio

        self._task = asyncio.ensure_future(do())  # a loop itself keeps only weak references


def _spawn_trio(do: Callable[[], Any]) -> None:
    import trio

    trio.lowlevel.spawn_system_task(do)
