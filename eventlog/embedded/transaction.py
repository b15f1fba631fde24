"""``Transaction`` on the embedded engine: one LMDB transaction at the end of the block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from eventlog import topic_settings as settings
from eventlog.appending import Columns, check_expected, check_partition, gather, gather_one
from eventlog.embedded.append import ChangedError, Part, TopicState, receipts, size_of
from eventlog.embedded.blobs import WriterBlobs
from eventlog.embedded.catalog import TopicRecord
from eventlog.embedded.partition import PartitionView
from eventlog.embedded.writer import Writer
from eventlog.errors import (
    EventTooLargeError,
    OffsetOutOfRangeError,
)
from eventlog.event import Event, Key, PropertyValue
from eventlog.groups.checkpoints import GroupIds, GroupStore
from eventlog.log import Body, Receipt, Topic
from eventlog.names import check_name
from eventlog.positions import instant
from eventlog.transaction import Fence, Transaction

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.embedded.engine import EmbeddedLog
    from eventlog.embedded.topic import EmbeddedTopic

__all__ = ["EmbeddedTransaction"]


class _Append(NamedTuple):
    """One call of `append` or `append_batch`."""

    topic: EmbeddedTopic
    columns: Columns
    partition: int | None
    expect_next: int | None


class _Prepared(NamedTuple):
    """The same, placed and encoded for the topic as it was then."""

    topic: EmbeddedTopic
    state: TopicState
    parts: list[Part]
    expect_next: int | None


class EmbeddedTransaction(Transaction):
    """See `Transaction`."""

    def __init__(self, log: EmbeddedLog) -> None:
        super().__init__()
        self._log = log
        self._appends: list[_Append] = []
        self._checkpoints: dict[tuple[EmbeddedTopic, str, int], int] = {}
        self._bytes = 0

    def append(
        self,
        topic: str | Topic,
        body: Body,
        *,
        key: Key | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
        partition: int | None = None,
        expect_next: int | None = None,
    ) -> None:
        if expect_next is not None:
            check_expected(expect_next, partition, key)
        self._add(topic, gather_one(body, key, properties), partition, expect_next)

    def append_batch(
        self,
        topic: str | Topic,
        events: Iterable[Event | Body],
        *,
        key: Key | None = None,
        partition: int | None = None,
    ) -> None:
        self._add(topic, gather(events, key), partition, None)

    def _add(
        self, topic: str | Topic, columns: Columns, partition: int | None, expect_next: int | None
    ) -> None:
        append = _Append(self._log.handle(topic), columns, partition, expect_next)
        with self._mutex:
            self._check_open()
            if self._bytes + columns.size > settings.MAX_APPEND_BYTES:
                raise EventTooLargeError(
                    f"one transaction takes {settings.MAX_APPEND_BYTES:,} bytes of bodies, keys "
                    f"and properties, this one would have {self._bytes + columns.size:,}"
                )
            self._bytes += columns.size
            if columns.bodies:
                self._appends.append(append)

    def checkpoint(self, topic: str | Topic, group: str, *, partition: int, offset: int) -> None:
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise TypeError(f"an offset is an int, not {type(offset).__name__}: {offset!r:.80}")
        if offset < 0:
            raise ValueError(f"a checkpoint is at an offset from 0, not {offset}")
        handle = self._log.handle(topic)
        self._log.require_own_blobs()
        where = handle, check_name(group, "group"), check_partition(handle.state.record, partition)
        with self._mutex:
            self._check_open()
            self._checkpoints[where] = max(offset, self._checkpoints.get(where, offset))

    # Committing

    def _commit(self) -> list[Receipt]:
        fences = [participant.fence() for participant in self._participants]
        if not (self._appends or self._checkpoints or fences):
            return []
        while True:
            try:
                prepared = [self._prepare(append) for append in self._appends]
                stored = self._log.commit(
                    lambda writer, some=prepared: self._write(writer, some, fences),  # type: ignore[misc]
                    size=sum(size_of(each.parts) for each in prepared),
                )
            except ChangedError:
                continue
            break
        for fence in fences:
            fence.committed()
        for each in prepared:
            each.topic.appender.catch_up(each.parts)
        return [
            receipt
            for each, places in zip(prepared, stored, strict=True)
            for receipt in receipts(each.parts, places)
        ]

    def _prepare(self, append: _Append) -> _Prepared:
        state = append.topic.state
        parts = append.topic.appender.prepared(state, append.columns, append.partition)
        return _Prepared(append.topic, state, parts, append.expect_next)

    def _write(
        self, writer: Writer, prepared: list[_Prepared], fences: list[Fence]
    ) -> list[list[tuple[int, int]]]:
        """Refuse first, then change."""
        ahead: Counter[tuple[int, int]] = Counter()
        for each in prepared:
            topic_id = each.state.record.id
            before = ahead[topic_id, each.parts[0].partition]
            each.topic.appender.refuse(writer, each.state, each.parts, each.expect_next, before)
            for part in each.parts:
                ahead[topic_id, part.partition] += part.count
        if self._checkpoints or fences:
            self._write_checkpoints(writer, fences, ahead)
        return [each.topic.appender.write(writer, each.state, each.parts) for each in prepared]

    def _write_checkpoints(
        self, writer: Writer, fences: list[Fence], ahead: Counter[tuple[int, int]]
    ) -> None:
        blobs = WriterBlobs(writer)
        for (topic, group, partition), offset in self._checkpoints.items():
            record = topic.look(writer).record
            coming = ahead[record.id, partition]
            enqueued_at = _enqueued_at(writer, record, partition, offset, coming)
            self._group(topic, group, blobs).advance_unowned(partition, offset, enqueued_at)
        for fence in fences:
            fence.check(blobs)

    def _group(self, topic: EmbeddedTopic, group: str, blobs: BlobStore) -> GroupStore:
        return GroupStore(
            blobs, GroupIds(self._log.id, topic.name, topic.id, group), self._log.now_us
        )


def _enqueued_at(
    writer: Writer, record: TopicRecord, partition: int, offset: int, coming: int
) -> datetime | None:
    """When an event that is to be checkpointed was enqueued; None if it has expired.

    Args:
        coming: how many events the same transaction appends to the partition.

    Raises:
        OffsetOutOfRangeError: there is no event of that offset yet: a checkpoint there would make
            the group skip what comes.
    """
    next_offset = writer.tail(record.id, partition).next_offset
    if offset >= next_offset + coming:
        raise OffsetOutOfRangeError(
            f"a checkpoint names the last event that was finished, and partition {partition} of "
            f"topic {record.name!r} goes on at {next_offset + coming}: there is no event {offset}",
            offset=offset,
            next_offset=next_offset + coming,
        )
    if offset >= next_offset:
        return instant(writer.now_us)
    writer.store(record.id, partition)
    batch = PartitionView(writer.transaction, record.id, partition).batch_at(offset)
    if batch is None or batch.header is None or offset <= batch.last_offset - batch.header.count:
        return None
    return instant(batch.header.enqueued_us)
