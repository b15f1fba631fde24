"""Azure's SDK on blob stores: ownership and checkpoints of real Event Hubs, kept here.

`CheckpointStore` is what `azure.eventhub.EventHubConsumerClient` takes as ``checkpoint_store``, and
`eventlog.azure.aio.CheckpointStore` the same for `azure.eventhub.aio`::

    from azure.eventhub import EventHubConsumerClient
    from eventlog.azure import CheckpointStore

    client = EventHubConsumerClient.from_connection_string(
        connection, consumer_group="fraud", checkpoint_store=CheckpointStore("checkpoints")
    )

Both do what Azure's own stores on Blob Storage do; `eventlog.azure.keeping` says where they differ.
Events stay on Event Hubs, and no log is needed. This package needs the extra ``azure``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from eventlog.azure.keeping import Keeper
from eventlog.blobs import BlobStore

try:
    import azure.eventhub  # the SDK's: the package you are reading is eventlog.azure
except ModuleNotFoundError as error:
    if error.name not in ("azure", "azure.eventhub"):
        raise
    raise ModuleNotFoundError(
        'eventlog.azure needs azure-eventhub: pip install "embedded-eventlog[azure]"',
        name=error.name,
    ) from error

__all__ = ["CheckpointStore"]


class CheckpointStore(azure.eventhub.CheckpointStore):
    """Ownership and checkpoints of event processors, in a blob store. Thread-safe.

    Use it with ``with``, or close it, once the client is closed. Whatever is opened on the same
    store with the same prefix shares them, synchronous or not, in any process.

    Args:
        store: a `BlobStore`, such as ``log.blobs``, which stays open; or a path or URL, as
            `eventlog.blobs.open` takes it, which is closed with this.
        prefix: what the names of its blobs begin with; one or more segments.

    The methods may raise what those of `BlobStore` do, and

        EventLogError: a blob is damaged; the message names it.
        ValueError: what is to be stored is no ownership, or no checkpoint.

    They take the keyword arguments that Azure's stores take, and ignore them.
    """

    def __init__(self, store: BlobStore | str | os.PathLike[str], *, prefix: str = "azure") -> None:
        self._keeper = Keeper(store, prefix)

    def __repr__(self) -> str:
        return f"<CheckpointStore {self._keeper}>"

    def list_ownership(
        self,
        fully_qualified_namespace: str,
        eventhub_name: str,
        consumer_group: str,
        **kwargs: Any,  # noqa: ARG002 - ignored, as is said above; so below
    ) -> list[dict[str, Any]]:
        """Who owns which partitions: as claimed last, or released, by whom and when."""
        return self._keeper.list_ownership(fully_qualified_namespace, eventhub_name, consumer_group)

    def claim_ownership(
        self,
        ownership_list: Iterable[dict[str, Any]],
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """Claim partitions; those that were won, with their new etags.

        Each is won if its ``etag`` is still that of the partition's ownership, or if it has none
        and neither has the partition.
        """
        return self._keeper.claim_ownership(ownership_list)

    def update_checkpoint(
        self,
        checkpoint: dict[str, Any],
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Store a checkpoint in place of what is there, whatever that is. Durable on return."""
        self._keeper.update_checkpoint(checkpoint)

    def list_checkpoints(
        self,
        fully_qualified_namespace: str,
        eventhub_name: str,
        consumer_group: str,
        **kwargs: Any,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """The last checkpoint of each partition that has one."""
        return self._keeper.list_checkpoints(
            fully_qualified_namespace, eventhub_name, consumer_group
        )

    def close(self) -> None:
        """Close the store if it was opened here. Closing twice is fine."""
        self._keeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
