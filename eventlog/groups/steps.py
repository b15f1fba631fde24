"""Store calls as steps: code that decides, apart from whoever makes the calls.

A function that needs a blob store is written as a generator. It yields each call instead of making
it, and is sent the answer, or has what the call raised thrown in. `perform` makes the calls one
after the other, blocking; a simulation makes them when its virtual time comes, lets others go in
between, loses answers. Inside a write transaction the same steps run on a view of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, Listing, NotModified
from eventlog.errors import PreconditionFailedError, StoreUnavailableError

__all__ = ["Steps", "StoreCall", "delete", "get", "list_names", "nothing", "perform", "put", "swap"]

T = TypeVar("T")

StoreCall: TypeAlias = Callable[[BlobStore], Any]
"""One call of a store."""

Steps: TypeAlias = Generator[StoreCall, Any, T]
"""Store calls in turn, and what comes of them."""


def perform(steps: Steps[T], store: BlobStore) -> T:
    """Make the calls; what the steps return. Raises what they raise."""
    try:
        call = next(steps)
        while True:
            try:
                answer = call(store)
            except Exception as error:  # noqa: BLE001 - the steps decide what it means
                call = steps.throw(error)
            else:
                call = steps.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value


def nothing() -> Steps[None]:
    """No call at all."""
    yield from ()


def get(name: str, *, if_none_match: str | None = None) -> Steps[Blob | NotModified | None]:
    """`BlobStore.get` as a step."""
    found: Blob | NotModified | None = yield lambda store: store.get(
        name, if_none_match=if_none_match
    )
    return found


def put(
    name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
) -> Steps[str]:
    """`BlobStore.put` as a step."""
    etag: str = yield lambda store: store.put(name, data, if_match=if_match, if_absent=if_absent)
    return etag


def list_names(prefix: str) -> Steps[Listing]:
    """`BlobStore.list` as a step."""
    listing: Listing = yield lambda store: store.list(prefix)
    return listing


def delete(name: str, *, if_match: str | None = None) -> Steps[None]:
    """`BlobStore.delete` as a step."""
    yield lambda store: store.delete(name, if_match=if_match)


def swap(name: str, etag: str | None, data: bytes) -> Steps[str | None]:
    """Put `data` in place of what had `etag`, or where nothing was; None if another came before.

    No two writes of documents are equal, so what is read back tells whether only the answer of
    this one was lost.

    Raises:
        StoreUnavailableError: it may have been written, and may yet be.
    """
    try:
        return (yield from put(name, data, if_match=etag, if_absent=etag is None))
    except (PreconditionFailedError, StoreUnavailableError) as error:
        blob = yield from get(name)
        if blob is not None and blob is not NOT_MODIFIED and blob.data == data:
            return blob.etag
        if isinstance(error, StoreUnavailableError):
            raise
        return None
