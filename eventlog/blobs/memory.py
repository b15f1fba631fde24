"""A store in this process's memory: for tests, and for what need not outlive the process."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import anyio
import anyio.lowlevel

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
from eventlog.waiting import Completion, Watch

__all__ = ["MemoryBlobs"]


class _Contents:
    """What the stores of one name share; it goes with the last of them.

    Attributes:
        waiters: who waits for a change of a blob, by its name.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, Blob] = {}
        self.waiters: dict[str, set[Completion[None]]] = {}

    def wake(self, name: str) -> None:
        """Let those look who wait for a change of that blob."""
        with _mutex:
            waiters = self.waiters.pop(name, ())
        for waiter in waiters:
            waiter.complete(None)


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
        self._watches: weakref.WeakSet[_MemoryWatch] = weakref.WeakSet()

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
        self._wake(name)
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
        self._wake(name)

    def watch(self, name: str) -> Watch:
        """See `BlobStore.watch`. Of a forked process' changes it cannot tell."""
        check_name(name)
        _ = self._blobs  # the store is open
        assert self._contents is not None
        watch = _MemoryWatch(self._contents, name, lambda: self._contents is None)
        self._watches.add(watch)
        return watch

    @property
    def is_closed(self) -> bool:
        """See `BlobStore.is_closed`."""
        return self._contents is None

    def close(self) -> None:
        """See `BlobStore.close`."""
        self._contents = None
        for watch in list(self._watches):
            watch.wake()

    def _wake(self, name: str) -> None:
        contents = self._contents
        if contents is not None and contents.waiters:
            contents.wake(name)

    @property
    def _blobs(self) -> dict[str, Blob]:
        contents = self._contents
        if contents is None:
            raise ClosedError(f"the store at {self._location} was closed")
        return contents.blobs


class _MemoryWatch(Watch):
    """Watches one blob of one store.

    Who waits is registered before it looks, so a change that it does not see wakes it.
    """

    def __init__(self, contents: _Contents, name: str, store_is_closed: Callable[[], bool]) -> None:
        self._contents = contents
        self._name = name
        self._store_is_closed = store_is_closed
        self._interrupted = False
        self.mark()

    def mark(self) -> None:
        """See `Watch.mark`."""
        self._marked = self._etag()

    def changed(self) -> bool:
        """See `Watch.changed`."""
        return self._store_is_closed() or self._etag() != self._marked

    def _etag(self) -> str | None:
        return _etag(self._contents.blobs.get(self._name))

    def wait(self, timeout: float | None = None) -> bool:
        """See `Watch.wait`."""
        end = None if timeout is None else time.monotonic() + timeout
        with contextlib.suppress(TimeoutError):
            while not self._is_over():
                with self._waiting() as waiter:
                    if not self._is_over():
                        waiter.result(None if end is None else end - time.monotonic())
        return self._outcome()

    async def wait_async(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the contract
        """See `Watch.wait_async`."""
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(timeout):
            while not self._is_over():
                with self._waiting() as waiter:
                    if not self._is_over():
                        await waiter
        return self._outcome()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[Completion[None]]:
        """What is completed by changes from now on."""
        waiter: Completion[None] = Completion()
        waiters = self._contents.waiters
        with _mutex:
            waiters.setdefault(self._name, set()).add(waiter)
        try:
            yield waiter
        finally:
            with _mutex:
                others = waiters.get(self._name, set())
                others.discard(waiter)
                if not others:
                    waiters.pop(self._name, None)

    def _is_over(self) -> bool:
        return self._interrupted or self.changed()

    def _outcome(self) -> bool:
        return not self._interrupted and self.changed()

    def wake(self) -> None:
        """Let all look who wait for this blob."""
        self._contents.wake(self._name)

    def interrupt(self) -> None:
        """See `Watch.interrupt`."""
        self._interrupted = True
        self.wake()

    def close(self) -> None:
        """See `Watch.close`."""
        self.interrupt()


def _etag(blob: Blob | None) -> str | None:
    return None if blob is None else blob.etag
