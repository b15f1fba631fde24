"""`CheckpointStore` for `azure.eventhub.aio`, which runs on asyncio only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import azure.eventhub.aio

from eventlog.azure.keeping import Keeper
from eventlog.blobs import BlobStore

__all__ = ["CheckpointStore"]


class CheckpointStore(azure.eventhub.aio.CheckpointStore):
    """See `eventlog.azure.CheckpointStore`. Use it with ``async with``, or close it.

    Store calls run in threads of the loop's default executor. A call that is cancelled goes on
    there, and what it stores is stored. Only opening a store by its URL is done at once, which may
    take a moment where it is remote.
    """

    def __init__(self, store: BlobStore | str | os.PathLike[str], *, prefix: str = "azure") -> None:
        self._keeper = Keeper(store, prefix)

    def __repr__(self) -> str:
        return f"<CheckpointStore {self._keeper}>"

    async def list_ownership(
        self,
        fully_qualified_namespace: str,
        eventhub_name: str,
        consumer_group: str,
        **kwargs: Any,  # noqa: ARG002 - ignored; so below
    ) -> list[dict[str, Any]]:
        """See `eventlog.azure.CheckpointStore.list_ownership`."""
        return await asyncio.to_thread(
            self._keeper.list_ownership, fully_qualified_namespace, eventhub_name, consumer_group
        )

    async def claim_ownership(
        self,
        ownership_list: Iterable[dict[str, Any]],
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """See `eventlog.azure.CheckpointStore.claim_ownership`."""
        claims = [dict(claim) for claim in ownership_list]  # the caller's, who may go on meanwhile
        return await asyncio.to_thread(self._keeper.claim_ownership, claims)

    async def update_checkpoint(
        self,
        checkpoint: dict[str, Any],
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """See `eventlog.azure.CheckpointStore.update_checkpoint`."""
        await asyncio.to_thread(self._keeper.update_checkpoint, dict(checkpoint))

    async def list_checkpoints(
        self,
        fully_qualified_namespace: str,
        eventhub_name: str,
        consumer_group: str,
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """See `eventlog.azure.CheckpointStore.list_checkpoints`."""
        return await asyncio.to_thread(
            self._keeper.list_checkpoints, fully_qualified_namespace, eventhub_name, consumer_group
        )

    async def close(self) -> None:
        """See `eventlog.azure.CheckpointStore.close`."""
        await asyncio.to_thread(self._keeper.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
