"""From columns to batches ready to be stored: what comes before the transaction.

Events that were gathered and placed (`eventlog.appending`) are *encoded*, in the caller's thread
and outside any lock. What comes out, a list of `Part`, only needs offsets and a time.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from eventlog.appending import Columns, check_sizes, place
from eventlog.embedded.batch import EncodedBatch, encode, encode_all
from eventlog.embedded.catalog import TopicRecord
from eventlog.partitioning import KeyPartitioner, RoundRobin
from eventlog.positions import instant
from eventlog.reports import Receipt

__all__ = [
    "ChangedError",
    "Part",
    "TopicState",
    "encode_parts",
    "prepare",
    "receipts",
    "size_of",
]


class TopicState(NamedTuple):
    """A topic's record as this process knows it; replaced whole when another changes it."""

    record: TopicRecord
    stored: bytes
    partitioner: KeyPartitioner | None
    turns: RoundRobin


class Part(msgspec.Struct, gc=False):
    """What one append stores in one partition."""

    partition: int
    count: int
    batches: list[EncodedBatch]
    behind: bool = False
    """Whether more had expired in the partition than could be removed with the append."""


class ChangedError(Exception):
    """The topic is not what the work was prepared for; look again and prepare it anew."""


def size_of(parts: list[Part]) -> int:
    """Bytes that parts take as stored."""
    return sum([batch.size for part in parts for batch in part.batches])


def receipts(parts: list[Part], stored: list[tuple[int, int]]) -> list[Receipt]:
    """The receipts of parts, from the offset and the time each was stored at."""
    return [
        Receipt(part.partition, offset, part.count, instant(enqueued_us))
        for part, (offset, enqueued_us) in zip(parts, stored, strict=True)
    ]


def prepare(state: TopicState, columns: Columns, partition: int | None) -> list[Part]:
    """Place events on partitions and encode them.

    Raises:
        EventTooLargeError: a body, or all together, are over their limit.
        PartitionNotFoundError: there is no such partition.
        UnsupportedOperationError: there are keys, and what places them is not known here.
    """
    check_sizes(state.record, columns)
    return encode_parts(state.record, place(state, columns, partition))


def encode_parts(record: TopicRecord, placed: list[tuple[int, Columns]]) -> list[Part]:
    """Encode events that have their partitions, one part for each."""
    compress = record.compression == "zstd"
    rows = [((part.bodies, part.keys, part.properties), part.size) for _, part in placed]
    if len(rows) == 1:
        encoded = [encode(*rows[0], compress=compress)]
    else:
        encoded = encode_all(rows, compress=compress)
    return [
        Part(number, len(part.bodies), batches)
        for (number, part), batches in zip(placed, encoded, strict=True)
    ]
