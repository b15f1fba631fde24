"""Stores that were named by URLs, each opened once for all in a log who name it.

To open one behind a network may take seconds: who names another, or closes the log, does not wait.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final

import eventlog.blobs
from eventlog.blobs.store import BlobStore
from eventlog.errors import ClosedError

__all__ = ["OpenedStores"]

_all: Final[weakref.WeakSet[OpenedStores]] = weakref.WeakSet()


class _Place:
    """Where a URL leads to.

    Attributes:
        opening: held by who opens it.
        store: what is there, if it has been opened.
    """

    def __init__(self) -> None:
        self.opening = threading.Lock()
        self.store: BlobStore | None = None


class OpenedStores:
    """Opens stores, and closes those that it has opened. Thread-safe."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._is_closed = False
        _all.add(self)

    def get(self, store: BlobStore | str, argument: str = "store") -> BlobStore:
        """The store itself, or the one that a URL names; anew if somebody has closed it.

        Args:
            argument: what it was given as, for errors.

        Raises:
            TypeError: it is neither.
            ClosedError: they were closed.
            Exception: see `eventlog.blobs.open`.
        """
        if isinstance(store, BlobStore):
            return store
        if not isinstance(store, str):
            raise TypeError(f"{argument} is a BlobStore or a URL, not {type(store).__name__}")
        self._require_open()
        place = self._places.setdefault(store, _Place())  # one step: no lock to be forked with
        with place.opening:
            opened = place.store
            if opened is None or opened.is_closed:
                opened = place.store = eventlog.blobs.open(store)
        if self._is_closed:  # meanwhile
            opened.close()
        self._require_open()
        return opened

    def _require_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the log was closed, and its stores with it")

    def close(self) -> None:
        """Close them. Who is just opening one closes it."""
        self._is_closed = True
        for place in list(self._places.values()):
            if place.store is not None:
                place.store.close()

    def _renew_locks(self) -> None:
        """Who held one stayed with the parent."""
        for place in self._places.values():
            place.opening = threading.Lock()


def _after_fork() -> None:
    for stores in _all:
        stores._renew_locks()  # noqa: SLF001 - of this module


os.register_at_fork(after_in_child=_after_fork)
