"""What calls of a log report: receipts, the state of a partition, damage."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

__all__ = ["CheckReport", "Damage", "PartitionInfo", "Receipt"]


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What an append stored: `count` consecutive events from `offset` in one partition.

    Of a `duplicate` nothing was stored this time: `offset` is -1, `count` is 0, and `enqueued_at`
    is when the producer last stored something.
    """

    partition: int
    offset: int
    count: int
    enqueued_at: datetime
    duplicate: bool = False


class PartitionInfo(NamedTuple):
    """A partition at one moment.

    Attributes:
        beginning_offset: the first offset that can be read; `next_offset` if none can.
        next_offset: the offset the next event will get.
        last_enqueued_offset: offset of the last event ever stored; -1 if there was none.
        last_enqueued_at: when that was; None if there was none.
        is_empty: whether no event can be read.
        size_bytes: what the events that can be read take as stored.
    """

    beginning_offset: int
    next_offset: int
    last_enqueued_offset: int
    last_enqueued_at: datetime | None
    is_empty: bool
    size_bytes: int


class Damage(NamedTuple):
    """A place where a log is not what it should be.

    What cannot be told of it is ``""`` and -1: the topic of a row that belongs to none, or offsets
    where the record of a topic or partition is meant.
    """

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    reason: str


class CheckReport(NamedTuple):
    """What `EventLog.check` found.

    Attributes:
        topics, partitions, batches, events, stored_bytes: how much was looked at.
        damaged: every batch that does not check out, every gap between batches, and all else that
            does not belong where it is.
        notes: what is not damage, but worth knowing: times in the future, leftovers of deletion.
        rows: of what the log is made: chunks of batches, and the records of topics and others.
    """

    topics: int
    partitions: int
    batches: int
    events: int
    stored_bytes: int
    damaged: list[Damage]
    notes: list[str]
    rows: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged
