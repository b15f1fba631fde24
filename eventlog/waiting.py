"""Waiting for what another thread, or another process, will do: in threads and on event loops.

`Completion` is a result to come that can be had either way, with ``result()`` or with ``await``,
on asyncio and on trio. `Watch` is how a reader learns that there may be something new.

What this module deliberately does not do: run an event loop, or anything on one.
"""

from __future__ import annotations

import abc
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Completion",
    "Notifier",
    "Watch",
    "current_library",
    "current_notifier",
    "on_event_loop",
    "run_soon",
]

T = TypeVar("T")

Notifier: TypeAlias = Callable[[Callable[[], object]], bool]
"""Has a function called soon, on one event loop; may be called from any thread.

Returns: whether it will be; not if the loop is closed.
"""

_POOL_THREADS = 8

_logger = logging.getLogger("eventlog")


def current_library() -> str | None:
    """The library whose event loop the caller runs on: ``"trio"`` or ``"asyncio"``; None if none.

    Neither is imported for that: who runs on one has imported it. (Another thread may be importing
    it just now: then it may have no such function yet.)
    """
    in_trio_task = getattr(sys.modules.get("trio.lowlevel"), "in_trio_task", None)
    if in_trio_task is not None and in_trio_task():
        return "trio"
    running_loop = getattr(sys.modules.get("asyncio.events"), "_get_running_loop", None)
    if running_loop is not None and running_loop() is not None:
        return "asyncio"
    return None


def on_event_loop() -> bool:
    """Whether the caller runs on an event loop, which must not be kept waiting."""
    return current_library() is not None


def current_notifier() -> Notifier:
    """What schedules calls on the event loop this is called on, from any thread.

    Once the loop is closed its calls are dropped: nobody is left there to wait.

    Raises:
        RuntimeError: there is no event loop here.
    """
    library = current_library()
    if library == "trio":
        import trio

        return functools.partial(_notify_trio, trio.lowlevel.current_trio_token())
    if library == "asyncio":
        import asyncio

        return functools.partial(_notify_asyncio, asyncio.get_running_loop())
    raise RuntimeError("there is no event loop of asyncio or trio here")


def _notify_asyncio(loop: asyncio.AbstractEventLoop, do: Callable[[], object]) -> bool:
    try:
        loop.call_soon_threadsafe(do)
    except RuntimeError:  # it was closed
        return False
    return True


def _notify_trio(token: Any, do: Callable[[], object]) -> bool:
    import trio

    try:
        token.run_sync_soon(do)
    except trio.RunFinishedError:
        return False
    return True


class Completion(Generic[T]):
    """A result to come. Thread-safe; giving up on waiting changes nothing about it.

    Who waits in a thread waits for a lock of its own, not for an Event: Ctrl-C inside the standard
    library's conditions may give away locks that another thread holds.
    """

    __slots__ = ("_callbacks", "_done", "_error", "_mutex", "_value")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._callbacks: dict[object, Callable[[Completion[T]], object]] = {}

    @classmethod
    def of(cls, value: T) -> Self:
        """One that is done."""
        completion = cls()
        completion.complete(value)
        return completion

    @property
    def done(self) -> bool:
        """Whether the result is there, or the error."""
        return self._done

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result.

        Raises:
            TimeoutError: it was not there within `timeout` seconds.
            Exception: what went wrong.
        """
        error = self.exception(timeout)
        if error is not None:
            try:
                raise error
            finally:
                del self, error  # the error has this frame now
        return self._value  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait until it is done; what went wrong, if anything did.

        Raises:
            TimeoutError: it was not done within `timeout` seconds.
        """
        if not self._done:
            self._block(timeout)
        return self._error

    def _block(self, timeout: float | None) -> None:
        signal = threading.Lock()
        signal.acquire()
        token = self._add(lambda _: signal.release())
        try:
            wait = -1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX)
            if not signal.acquire(timeout=wait):
                raise TimeoutError(f"not done within {timeout:g} s")
        finally:
            self._remove(token)

    def add_done_callback(self, callback: Callable[[Completion[T]], object]) -> None:
        """Have `callback` called with this when it is done, at once if it is; in any thread.

        What it raises is logged.
        """
        self._add(callback)

    def _add(self, callback: Callable[[Completion[T]], object]) -> object:
        """Likewise; by what is returned it can be removed."""
        token = object()
        with self._mutex:
            if not self._done:
                self._callbacks[token] = callback
                return token
        self._call(callback)
        return token

    def _remove(self, token: object) -> None:
        if self._callbacks:
            with self._mutex:
                self._callbacks.pop(token, None)

    def complete(self, value: T) -> None:
        """The result is there."""
        self._settle(value, None)

    def fail(self, error: BaseException) -> None:
        """There will be no result."""
        self._settle(None, error)

    def _settle(self, value: T | None, error: BaseException | None) -> None:
        with self._mutex:
            if self._done:
                return
            self._value, self._error, self._done = value, error, True
            callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks.values():
            self._call(callback)

    def _call(self, callback: Callable[[Completion[T]], object]) -> None:
        try:
            callback(self)
        except BaseException as error:
            _logger.exception("a callback failed: %r", callback)
            if not isinstance(error, Exception) and _in_main_thread():
                raise  # Ctrl-C is the main thread's; a thread of ours must not end of it

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        if self._done:
            await anyio.lowlevel.checkpoint()
        else:
            event, notify = anyio.Event(), current_notifier()
            token = self._add(lambda _: notify(event.set))
            try:
                await event.wait()
            finally:
                self._remove(token)
        return self.result()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def run_soon(do: Callable[[], T]) -> Completion[T]:
    """Run `do` in one of a few threads kept for that."""
    completion: Completion[T] = Completion()

    def run() -> None:
        try:
            completion.complete(do())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            completion.fail(error)

    _pool().submit(run)
    return completion


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="eventlog")


os.register_at_fork(after_in_child=_pool.cache_clear)


class Watch(abc.ABC):
    """Tells one reader that there may be something new in the partitions it reads.

    The order is: `mark`, look at the log, and `wait` if there was nothing. What is committed
    after the mark ends the wait, wherever in between it comes.
    """

    @abc.abstractmethod
    def mark(self) -> None:
        """Remember how things stand; call it before looking at the log."""

    @abc.abstractmethod
    def changed(self) -> bool:
        """Whether something may have been committed since the mark. Costs no input or output."""

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Block until something changed, it is interrupted, or `timeout` seconds are over.

        Returns: whether something changed.
        """

    @abc.abstractmethod
    async def wait_async(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - as wait()
        """`wait` on an event loop; it can be cancelled."""

    @abc.abstractmethod
    def interrupt(self) -> None:
        """End all waiting, now and in future; from any thread."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what it holds."""
