"""What a pump was told to do, and waiting for that. All of it on one event loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import anyio

from eventlog.processor.processor import CloseReason
from eventlog.processor.threads import in_thread
from eventlog.waiting import Completion

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.processor.clock import Clock

__all__ = ["CutShortError", "Orders"]

T = TypeVar("T")


class CutShortError(Exception):
    """A store call goes on, and nobody waits for it: the pump is to end now, or time is up."""


class Orders:
    """What was ordered; and a bell that rings with every order, and with whatever else happens.

    Args:
        store: which is called.
        on_rest: called when it begins to be waited for the bell.

    Attributes:
        ending: why to finish, when what is under way is done; None while there is no such order.
        cancelled: why to end now.
        paused: whether nothing more is to be handed over.
        look: whether to look at the checkpoint.
        resting: whether it is waited for the bell, which has not rung.
    """

    def __init__(
        self, clock: Clock, store: BlobStore, on_rest: Callable[[], object] | None = None
    ) -> None:
        self.ending: CloseReason | None = None
        self.cancelled: CloseReason | None = None
        self.paused = False
        self.look = False
        self.resting = False
        self._clock = clock
        self._store = store
        self._on_rest = on_rest
        self._bell = anyio.Event()
        self._store_call: anyio.CancelScope | None = None

    def cancel(self, reason: CloseReason) -> None:
        """End now. That the lease is over outweighs other reasons."""
        if self.cancelled is None or reason is CloseReason.LEASE_LOST:
            self.cancelled = reason
        if self._store_call is not None:
            self._store_call.cancel()
        self.ring()

    def ring(self) -> None:
        """Something has happened."""
        self.resting = False
        self._bell.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait for the bell, at most so long. What rang before does not count: look first."""
        bell = self._bell = anyio.Event()
        try:
            if seconds is None:
                self._rest()
                await bell.wait()
                return
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ring_at, self._clock.now() + seconds)
                await bell.wait()
                tasks.cancel_scope.cancel()
        finally:
            self.resting = False

    def _rest(self) -> None:
        self.resting = not self._bell.is_set()
        if self._on_rest is not None:
            self._on_rest()

    async def _ring_at(self, until: float) -> None:
        self._rest()  # only now: who sees it rest finds its clock told for how long
        await self._after(max(until - self._clock.now(), 0), self.ring)

    async def call_store(self, do: Callable[[], T], limit: float | None = None) -> T:
        """Call a store, in a thread.

        Args:
            limit: seconds to wait for it.

        Raises:
            CutShortError: the pump was cancelled meanwhile, or the time is up.
            Exception: what it raised.
        """
        completion = in_thread(do, self._store)
        with anyio.CancelScope() as scope:
            self._store_call = scope
            try:
                if limit is not None:
                    await self._settled(completion, limit, scope)
                return await completion
            finally:
                self._store_call = None
        raise CutShortError("a store call takes too long")

    async def _settled(
        self, completion: Completion[T], limit: float, scope: anyio.CancelScope
    ) -> None:
        """Wait until it is done; if it is not in time, cancel the scope."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._after, limit, scope.cancel)
            with contextlib.suppress(Exception):
                await completion
            tasks.cancel_scope.cancel()

    async def _after(self, seconds: float, do: Callable[[], object]) -> None:
        await self._clock.sleep(seconds)
        do()
