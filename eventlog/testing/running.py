"""One driver for plain and for asynchronous tests: where its coroutines run, and who waits.

``async with``
    They run on the test's own event loop, as do coroutines of the processor. What is called gives
    something to be awaited.
``with``
    They run on an event loop in a thread, and what is called blocks.
neither
    Likewise in a thread, from the first call on. What is called blocks; on an event loop it gives
    something to be awaited.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Final, TypeAlias

from anyio.from_thread import BlockingPortal, start_blocking_portal

from eventlog.errors import ClosedError
from eventlog.testing.driving import Drive
from eventlog.waiting import Completion, on_event_loop

__all__ = ["Runner"]

_Do: TypeAlias = Callable[[], Awaitable[None]]


class _Mode(enum.Enum):
    """How it was entered."""

    NOT = enum.auto()
    PLAIN = enum.auto()
    ASYNC = enum.auto()
    CLOSED = enum.auto()


class Runner:
    """Has a drive's coroutines run.

    Args:
        backend: the library of the event loop in a thread.
    """

    def __init__(self, drive: Drive, backend: str) -> None:
        self._drive: Final = drive
        self._backend = backend
        self._mode = _Mode.NOT
        self._mutex = threading.Lock()
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None

    def do(self, do: _Do) -> Any:
        """Run a coroutine function of the drive. Raises what a host would be ended by.

        Raises:
            ClosedError: the driver was closed.
        """
        if self._mode is _Mode.CLOSED:
            raise ClosedError("the driver was closed")
        if self._mode is _Mode.ASYNC:
            return self._run(do)
        portal = self._begun()
        if self._mode is _Mode.NOT and on_event_loop():
            return _awaited(portal.start_task_soon(self._outcome, do))
        _raise(portal.call(self._outcome, do))
        return None

    async def _run(self, do: _Do) -> None:
        _raise(await self._outcome(do))

    async def _outcome(self, do: _Do) -> BaseException | None:
        """Run it; what it has raised, or ended the pump with that is no mere Exception.

        That has to be carried: what is no Exception would end the event loop on its way.
        """
        try:
            await do()
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            return error
        failure = self._drive.failure
        if failure is None or isinstance(failure, Exception):
            return None
        self._drive.failure = None
        return failure

    # Plain

    def enter(self) -> None:
        """Begin, for ``with``."""
        self._refuse_twice()
        self._mode = _Mode.PLAIN
        self._begun()

    def _begun(self) -> BlockingPortal:
        with self._mutex:
            if self._portal is None:
                with ExitStack() as stack:
                    portal = stack.enter_context(start_blocking_portal(self._backend))
                    stack.enter_context(portal.wrap_async_context_manager(self._drive))
                    self._stack = stack.pop_all()
                    self._portal = portal
            return self._portal

    def close(self) -> None:
        """End; blocks. Closing twice is fine, and so is closing what never began."""
        with self._mutex:
            stack, self._stack = self._stack, None
            self._mode = _Mode.CLOSED
        if stack is not None:
            stack.close()

    # Asynchronous

    async def enter_async(self) -> None:
        """Begin, for ``async with``."""
        self._refuse_twice()
        await self._drive.__aenter__()
        self._mode = _Mode.ASYNC

    async def close_async(self) -> None:
        """End."""
        self._mode = _Mode.CLOSED
        await self._drive.__aexit__(None, None, None)

    def _refuse_twice(self) -> None:
        if self._mode is not _Mode.NOT or self._portal is not None:
            raise RuntimeError("the driver was begun before: make another one")


async def _awaited(future: Future[BaseException | None]) -> None:
    completion: Completion[BaseException | None] = Completion()
    future.add_done_callback(lambda done: completion.complete(done.result()))
    _raise(await completion)


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error
