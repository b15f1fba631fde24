"""Group documents of ten thousand partitions, decoded and looked through once for all hosts.

A hundred hosts read the same bytes. In reality they have as many processors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest import mock

from eventlog.groups.documents import GroupDocument, GroupIds, HostDocument, Share, StoredCheckpoint
from eventlog.groups.documents import decode as really_decode
from eventlog.groups.documents import encode as really_encode
from eventlog.processor.group import _is_arranged as really_is_arranged

__all__ = ["remembered_documents"]

_MOST: Final = 50


class _Remembering:
    def __init__(self) -> None:
        self._known: dict[bytes, GroupDocument] = {}
        self._owned: dict[int, tuple[GroupDocument, dict[str | None, dict[int, Share]]]] = {}
        self._arranged: dict[tuple[int, frozenset[str], int], tuple[GroupDocument, bool]] = {}

    def decode(self, name: str, data: bytes, kind: Any, ids: GroupIds) -> Any:
        if kind is not GroupDocument:
            return really_decode(name, data, kind, ids)
        found = self._known.get(data)
        if found is None:
            found = really_decode(name, data, kind, ids)
            assert found is not None
            self._remember(data, found)
        return found

    def encode(self, document: StoredCheckpoint | GroupDocument | HostDocument) -> bytes:
        data = really_encode(document)
        if isinstance(document, GroupDocument):
            self._remember(data, document)
        return data

    def owned_by(self, document: GroupDocument, me: str) -> dict[int, Share]:
        if id(document) not in self._owned:  # which it keeps, so that no other gets its id
            owned: defaultdict[str | None, dict[int, Share]] = defaultdict(dict)
            for partition, share in document.partitions.items():
                owned[share.owner][partition] = share
            self._owned[id(document)] = document, owned
            _forget_first(self._owned)
        return self._owned[id(document)][1].get(me, {})

    def is_arranged(
        self, document: GroupDocument, takers: Collection[str], partitions: int
    ) -> bool:
        key = id(document), frozenset(takers), partitions
        if key not in self._arranged:
            self._arranged[key] = document, really_is_arranged(document, takers, partitions)
            _forget_first(self._arranged)
        return self._arranged[key][1]

    def _remember(self, data: bytes, document: GroupDocument) -> None:
        self._known[data] = document
        _forget_first(self._known)


def _forget_first(known: dict[Any, Any]) -> None:
    if len(known) > _MOST:
        del known[next(iter(known))]


@contextmanager
def remembered_documents() -> Iterator[None]:
    """While this lasts, no version of a group document is decoded twice."""
    one = _Remembering()
    with (
        mock.patch("eventlog.processor.group.owned_by", one.owned_by),
        mock.patch("eventlog.processor.group._is_arranged", one.is_arranged),
        mock.patch("eventlog.processor.membership.decode", one.decode),
        mock.patch("eventlog.processor.membership.encode", one.encode),
        mock.patch("eventlog.processor.checkpoint.decode", one.decode),
        mock.patch("tests.processor.simulation.truth.decode", one.decode),
    ):
        yield
