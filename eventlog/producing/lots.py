"""Several batches of a producer as the columns of each partition."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from eventlog.event import Key
from eventlog.producing.delivery import Batch

__all__ = ["Lot", "by_partition"]

T = TypeVar("T")


class Lot(NamedTuple):
    """Events as columns; a column in which nothing stands is None.

    A key may be of a class derived from ``str`` or ``bytes``; see `Batch.columns`.

    Attributes:
        packed: properties as `eventlog.event.pack_properties` has them.
    """

    bodies: list[bytes]
    keys: list[Key | None] | None
    packed: list[bytes | None] | None


def by_partition(batches: Iterable[Batch]) -> dict[int, Lot]:
    """The events of batches by partition, in the order given."""
    found: dict[int, list[Batch]] = {}
    for batch in batches:
        found.setdefault(batch.partition, []).append(batch)
    return {number: _together(some) for number, some in found.items()}


def _together(batches: list[Batch]) -> Lot:
    """The events of several batches, one after the other."""
    columns = [batch.columns() for batch in batches]
    bodies = _joined([some.bodies for some in columns])
    keys = _joined([some.keys for some in columns])
    packed = None
    if any(some.packed is not None for some in columns):
        packed = _joined([some.packed or [None] * len(some.bodies) for some in columns])
    has_keys = keys[0] is not None or keys.count(None) < len(keys)
    return Lot(bodies, keys if has_keys else None, packed)


def _joined(columns: list[list[T]]) -> list[T]:
    return columns[0] if len(columns) == 1 else list(itertools.chain.from_iterable(columns))
