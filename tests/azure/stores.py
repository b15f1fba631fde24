"""Stores that Azure's SDK is tried on, and both kinds of checkpoint store with one face."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import eventlog.azure
import eventlog.azure.aio
import eventlog.blobs
from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, Listing, NotModified
from eventlog.blobs.store import check_name, check_put, require
from eventlog.testing import Opener

T = TypeVar("T")

NAMESPACE: Final = "Fleet.servicebus.windows.net"
SCOPE: Final = (NAMESPACE, "Cars", "$Default")


@contextlib.contextmanager
def embedded(path: Path) -> Iterator[BlobStore]:
    """The store in the log at `path`."""
    with eventlog.open(path) as log:
        yield log.blobs


SHARED: Final[dict[str, Callable[[Path], Opener]]] = {
    "directory": lambda path: functools.partial(eventlog.blobs.open, path / "store"),
    "embedded": lambda path: functools.partial(embedded, path / "log"),
}
"""Stores that several processes can use: what opens them, from a directory that is empty."""


REMOTE: Final = ["azurite", "s3", "google", "postgresql"]
"""Those behind a network: names of fixtures, see `tests.servers`."""


class ContentEtags(BlobStore):
    """An etag is a hash of the content, as on S3: what is put again unchanged keeps its own."""

    def __init__(self) -> None:
        self._blobs: dict[str, Blob] = {}
        self._mutex = threading.Lock()

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        blob = self._blobs.get(check_name(name))
        return NOT_MODIFIED if blob is not None and blob.etag == if_none_match else blob

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        check_put(name, data, if_match, if_absent=if_absent)
        with self._mutex:
            self._require(name, if_match, if_absent=if_absent)
            etag = hashlib.md5(data).hexdigest()
            self._blobs[name] = Blob(name, data, etag, datetime.now(UTC))
        return etag

    def list(self, prefix: str) -> Listing:
        with self._mutex:
            blobs = sorted(self._blobs.items())
        return [(name, blob.etag) for name, blob in blobs if name.startswith(prefix)]

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        with self._mutex:
            self._require(name, if_match)
            self._blobs.pop(name, None)

    def _require(self, name: str, if_match: str | None, *, if_absent: bool = False) -> None:
        blob = self._blobs.get(name)
        etag = None if blob is None else blob.etag
        require(name, etag, if_match=if_match, if_absent=if_absent)

    def close(self) -> None:
        pass


class CheckpointStore(Protocol):
    """What Azure's synchronous processors call."""

    def list_ownership(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> list[dict[str, Any]]: ...

    def claim_ownership(
        self, ownership_list: list[dict[str, Any]], **kwargs: Any
    ) -> list[dict[str, Any]]: ...

    def update_checkpoint(self, checkpoint: dict[str, Any], **kwargs: Any) -> None: ...

    def list_checkpoints(
        self, fully_qualified_namespace: str, eventhub_name: str, consumer_group: str, **kwargs: Any
    ) -> list[dict[str, Any]]: ...

    def close(self) -> None: ...


class Awaited:
    """An asynchronous checkpoint store whose calls are waited for: a face like the other's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._store = eventlog.azure.aio.CheckpointStore(*arguments, **options)

    def __repr__(self) -> str:
        return repr(self._store)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method: Callable[..., Coroutine[Any, Any, Any]] = getattr(self._store, name)
        return lambda *arguments, **options: asyncio.run(method(*arguments, **options))


Face = Callable[..., CheckpointStore]

FACES: Final[dict[str, Face]] = {"sync": eventlog.azure.CheckpointStore, "async": Awaited}


def scoped(partition: object, scope: tuple[str, str, str] = SCOPE, **more: Any) -> dict[str, Any]:
    """What the SDK's dictionaries say of a partition."""
    names = ("fully_qualified_namespace", "eventhub_name", "consumer_group")
    return {**dict(zip(names, scope, strict=True)), "partition_id": str(partition), **more}


def owners(store: CheckpointStore, scope: tuple[str, str, str] = SCOPE) -> dict[str, str]:
    """Who owns which partition."""
    return {one["partition_id"]: one["owner_id"] for one in store.list_ownership(*scope)}
