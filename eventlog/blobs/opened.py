"""Stores that were named by URLs, each opened once for all in a log who name it."""

from __future__ import annotations

import threading

import eventlog.blobs
from eventlog.blobs.store import BlobStore

__all__ = ["OpenedStores"]


class OpenedStores:
    """Opens stores, and closes those that it has opened. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._opened: dict[str, BlobStore] = {}

    def get(self, store: BlobStore | str, argument: str = "store") -> BlobStore:
        """The store itself, or the one that a URL names.

        Args:
            argument: what it was given as, for errors.

        Raises:
            TypeError: it is neither.
            Exception: see `eventlog.blobs.open`.
        """
        if isinstance(store, BlobStore):
            return store
        if not isinstance(store, str):
            raise TypeError(f"{argument} is a BlobStore or a URL, not {type(store).__name__}")
        with self._mutex:
            opened = self._opened.get(store)
            if opened is None:
                opened = self._opened[store] = eventlog.blobs.open(store)
            return opened

    def close(self) -> None:
        """Close them."""
        with self._mutex:
            opened, self._opened = self._opened, {}
        for store in opened.values():
            store.close()
