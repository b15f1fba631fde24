"""``Transaction`` on the embedded engine: one LMDB transaction at the end of the block."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from eventlog.embedded.append import ChangedError, Part, TopicState, receipts, size_of
from eventlog.embedded.blobs import WriterBlobs
from eventlog.embedded.catalog import TopicRecord
from eventlog.embedded.partition import PartitionView
from eventlog.embedded.writer import Writer
from eventlog.engine.transaction import Append, EngineTransaction
from eventlog.errors import (
    OffsetOutOfRangeError,
)
from eventlog.groups.checkpoints import GroupIds, GroupStore
from eventlog.log import Receipt, Topic
from eventlog.positions import instant
from eventlog.transaction import Fence

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.embedded.engine import EmbeddedLog
    from eventlog.embedded.topic import EmbeddedTopic

__all__ = ["EmbeddedTransaction"]


class _Prepared(NamedTuple):
    """The same, placed and encoded for the topic as it was then."""

    topic: EmbeddedTopic
    state: TopicState
    parts: list[Part]
    expect_next: int | None


class EmbeddedTransaction(EngineTransaction["EmbeddedTopic"]):
    """See `Transaction`."""

    def __init__(self, log: EmbeddedLog) -> None:
        super().__init__()
        self._log = log

    def _handle(self, topic: str | Topic) -> EmbeddedTopic:
        return self._log.handle(topic)

    def _require_store(self) -> None:
        self._log.require_own_blobs()

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

    def _prepare(self, append: Append[EmbeddedTopic]) -> _Prepared:
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
