"""A store in this process's memory: for tests, and for what need not outlive the process."""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from datetime import UTC, datetime

from eventlog.blobs.store import (
    NOT_MODIFIED,
    Blob,
    BlobStore,
    Listing,
    NotModified,
    check_etag,
    check_name,
    check_prefix,
    check_put,
    require,
)
from eventlog.errors import ClosedError

__all__ = ["MemoryBlobs"]


class _Contents:
    """What the stores of one name share; it goes with the last of them."""

    def __init__(self) -> None:
        self.blobs: dict[str, Blob] = {}


_mutex = threading.Lock()
_named: weakref.WeakValueDictionary[str, _Contents] = weakref.WeakValueDictionary()


def _renew_mutex() -> None:
    global _mutex  # noqa: PLW0603 - its copy may be held by a thread of the parent's
    _mutex = threading.Lock()


os.register_at_fork(after_in_child=_renew_mutex)


class MemoryBlobs(BlobStore):
    """Blobs in a dict.

    Args:
        name: stores of one name, in one process, hold the same, until all of them are closed; one
            without a name has its own. A forked child goes on with a copy.
    """

    def __init__(self, name: str = "") -> None:
        self._location = f"memory:{name}"
        with _mutex:
            contents = (_named.get(name) if name else None) or _Contents()
            if name:
                _named[name] = contents
        self._contents: _Contents | None = contents

    def __repr__(self) -> str:
        return f"<BlobStore at {self._location}>"

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        """See `BlobStore.get`."""
        check_name(name)
        check_etag(if_none_match)
        blob = self._blobs.get(name)
        return NOT_MODIFIED if blob and blob.etag == if_none_match else blob

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """See `BlobStore.put`."""
        check_put(name, data, if_match, if_absent=if_absent)
        with _mutex:
            blobs = self._blobs
            require(name, _etag(blobs.get(name)), if_match=if_match, if_absent=if_absent)
            etag = secrets.token_hex(8)
            blobs[name] = Blob(name, data, etag, datetime.now(UTC))
        return etag

    def list(self, prefix: str) -> Listing:
        """See `BlobStore.list`."""
        check_prefix(prefix)
        with _mutex:
            blobs = list(self._blobs.values())
        return sorted((blob.name, blob.etag) for blob in blobs if blob.name.startswith(prefix))

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """See `BlobStore.delete`."""
        check_name(name)
        check_etag(if_match)
        with _mutex:
            blobs = self._blobs
            require(name, _etag(blobs.get(name)), if_match=if_match)
            blobs.pop(name, None)

    def close(self) -> None:
        """See `BlobStore.close`."""
        self._contents = None

    @property
    def _blobs(self) -> dict[str, Blob]:
        contents = self._contents
        if contents is None:
            raise ClosedError(f"the store at {self._location} was closed")
        return contents.blobs


def _etag(blob: Blob | None) -> str | None:
    return None if blob is None else blob.etag
