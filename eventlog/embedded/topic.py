"""``Topic`` on the embedded engine."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import lmdb

from eventlog import topic_settings as settings
from eventlog.appending import check_expected, check_partition, gather, gather_one
from eventlog.callbacks import Callback
from eventlog.embedded import keys
from eventlog.embedded.append import TopicState
from eventlog.embedded.appender import Appender
from eventlog.embedded.catalog import TopicRecord
from eventlog.embedded.fetch import Fetched, Wanted, fetch
from eventlog.embedded.outlet import EmbeddedOutlet
from eventlog.embedded.partition import PartitionView, Tail
from eventlog.embedded.retention import trim
from eventlog.embedded.writer import STEP_ROWS, Writer
from eventlog.errors import (
    CorruptBatchError,
    OffsetOutOfRangeError,
    TopicNotFoundError,
)
from eventlog.event import Event, Key, PropertyValue, StoredEvent
from eventlog.log import Body, Duration, PartitionInfo, Receipt, Topic
from eventlog.partitioning import KeyPartitioner, RoundRobin
from eventlog.positions import (
    EARLIEST,
    LATEST,
    Anchor,
    Position,
    PositionMap,
    instant,
    microseconds,
    of_partition,
    parse,
)
from eventlog.producer import Producer
from eventlog.producing.delivery import Delivery

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.consumer import Consumer, LostRange
    from eventlog.embedded.engine import EmbeddedLog
    from eventlog.embedded.intake import EmbeddedIntake
    from eventlog.group import ConsumerGroup

__all__ = ["EmbeddedTopic"]

_UNCHANGED: Final[Any] = object()
_CATCH_UP_SECONDS: Final = 0.5


class EmbeddedTopic(Topic):
    """See `Topic`."""

    def __init__(self, log: EmbeddedLog, record: TopicRecord, stored: bytes) -> None:
        self._log = log
        self._key = keys.topic_key(record.name)
        self.appender = Appender(self, log)
        self._take_record(record, stored)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} of {self.partitions} partitions in {self._log.location}>"

    # What it is

    @property
    def log(self) -> EmbeddedLog:
        return self._log

    @property
    def id(self) -> str:
        return str(self.state.record.id)

    @property
    def name(self) -> str:
        return self.state.record.name

    @property
    def partitions(self) -> int:
        return self.state.record.partitions

    @property
    def retention(self) -> timedelta | None:
        length = self.state.record.retention_us
        return None if length is None else timedelta(microseconds=length)

    @property
    def retention_bytes(self) -> int | None:
        return self.state.record.retention_bytes

    @property
    def compression(self) -> str:
        return self.state.record.compression

    @property
    def partitioner(self) -> str:
        return self.state.record.partitioner

    @property
    def max_event_bytes(self) -> int:
        return self.state.record.max_event_bytes

    @property
    def created_at(self) -> datetime:
        return instant(self.state.record.created_us)

    def _take_record(self, record: TopicRecord, stored: bytes) -> None:
        function = self._log.partition_function(record.partitioner)
        self.state = TopicState(
            record,
            stored,
            None if function is None else KeyPartitioner(function, record.partitions),
            RoundRobin(record.partitions),
        )

    def look(self, transaction: lmdb.Transaction | Writer) -> TopicState:
        """What the topic is now; the log may have been changed by another process."""
        stored = transaction.get(self._key)
        state = self.state
        if stored is None:
            raise self._gone()
        if stored != state.stored:
            record = TopicRecord.decode(stored)
            if record.id != state.record.id:
                raise self._gone()
            self._take_record(record, bytes(stored))
        return self.state

    def refresh(self) -> TopicState:
        """What the topic is now."""
        state = self._log.look(self.look)
        if state.partitioner is None and self._log.partition_function(state.record.partitioner):
            self._take_record(state.record, state.stored)  # it was handed in since
        return self.state

    def _gone(self) -> TopicNotFoundError:
        return TopicNotFoundError(
            f"topic {self.name!r} was deleted from the log at {self._log.location}"
        )

    # Changing it

    def configure(
        self,
        *,
        retention: Duration | None = _UNCHANGED,
        retention_bytes: int | None = _UNCHANGED,
        max_event_bytes: int = _UNCHANGED,
        compression: Literal["zstd", "none"] = _UNCHANGED,
    ) -> None:
        changes: dict[str, Any] = {}
        if retention is not _UNCHANGED:
            changes["retention_us"] = settings.retention_us(retention)
        if retention_bytes is not _UNCHANGED:
            changes["retention_bytes"] = settings.check_bytes(retention_bytes, "retention_bytes")
        if max_event_bytes is not _UNCHANGED:
            changes["max_event_bytes"] = settings.check_count(
                max_event_bytes, "max_event_bytes", settings.MAX_EVENT_BYTES
            )
        if compression is not _UNCHANGED:
            changes["compression"] = settings.check_compression(compression)
        self._change(lambda _: changes)

    def add_partitions(self, count: int) -> None:
        settings.check_count(count, "count", settings.MAX_PARTITIONS)

        def more(record: TopicRecord) -> dict[str, Any]:
            total = record.partitions + count
            settings.check_count(total, "the number of partitions", settings.MAX_PARTITIONS)
            return {"partitions": total}

        self._change(more)
        warnings.warn(
            f"topic {self.name!r} has {self.partitions} partitions now: keys move to others, and "
            "a key's events are in order only among those appended since",
            stacklevel=2,
        )

    def _change(self, changes_to: Any) -> None:
        def work(writer: Writer) -> tuple[TopicRecord, bytes]:
            record = self.look(writer).record
            old = {name: getattr(record, name) for name in record.__struct_fields__}
            changed = TopicRecord(**{**old, **changes_to(record)})
            stored = changed.encode()
            writer.put(self._key, stored)
            return changed, stored

        self._take_record(*self._log.commit(work))

    # Appending

    def append(
        self,
        body: Body,
        *,
        key: Key | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
        partition: int | None = None,
        expect_next: int | None = None,
        timeout: Duration | None = None,
    ) -> Receipt:
        if expect_next is not None:
            check_expected(expect_next, partition, key)
        columns = gather_one(body, key, properties)
        return self.appender.store(columns, partition, expect_next, timeout)[0]

    def append_batch(
        self,
        events: Iterable[Event | Body],
        *,
        key: Key | None = None,
        partition: int | None = None,
        timeout: Duration | None = None,
    ) -> list[Receipt]:
        columns = gather(events, key)
        if not columns.bodies:
            return []
        return self.appender.store(columns, partition, None, timeout)

    def producer(
        self,
        *,
        linger: Duration = 0.005,
        max_batch_events: int = 10_000,
        max_batch_bytes: int = 2**20,
        max_buffered_bytes: int = 64 * 2**20,
        producer_id: str | None = None,
        on_delivery: Callback[Delivery] | None = None,
    ) -> Producer:
        self._log.refuse_reader()
        producer = Producer(
            EmbeddedOutlet(self),
            linger=linger,
            max_batch_events=max_batch_events,
            max_batch_bytes=max_batch_bytes,
            max_buffered_bytes=max_buffered_bytes,
            producer_id=producer_id,
            on_delivery=on_delivery,
        )
        self._log.producers.add(producer)
        return producer

    # Consuming

    def consumer(
        self,
        *,
        partitions: int | Iterable[int] | None = None,
        start: Position | PositionMap = EARLIEST,
        end: Position | PositionMap | None = None,
        follow: bool | None = None,
        group: str | None = None,
        order: Literal["partition", "time"] = "partition",
        max_wait: Duration | None = None,
        prefetch_bytes: int = 8 * 2**20,
        on_lost: Callback[LostRange] | None = None,
    ) -> Consumer:
        from eventlog.consumer import Consumer
        from eventlog.embedded.source import EmbeddedSource
        from eventlog.group import group_store

        consumer = Consumer(
            EmbeddedSource(self),
            partitions=partitions,
            start=start,
            end=end,
            follow=follow,
            group=None
            if group is None
            else group_store(self, group, self._log.blobs, clock=self._log.now_us),
            order=order,
            max_wait=max_wait,
            prefetch_bytes=prefetch_bytes,
            on_lost=on_lost,
        )
        self._log.consumers.add(consumer)
        return consumer

    def is_gapless(self) -> bool:
        return True

    def intake(self) -> EmbeddedIntake:
        from eventlog.embedded.intake import EmbeddedIntake

        return EmbeddedIntake(self)

    def group(self, name: str, store: BlobStore | str | None = None) -> ConsumerGroup:
        from eventlog.group import ConsumerGroup

        return ConsumerGroup(self, name, self._log.store(store), clock=self._log.now_us)

    def groups(self, store: BlobStore | str | None = None) -> list[ConsumerGroup]:
        from eventlog.group import groups_of

        return groups_of(self, self._log.store(store))

    # Reading

    def read(
        self,
        partition: int,
        start: Position | PositionMap = EARLIEST,
        *,
        end: Position | PositionMap | None = None,
        max_events: int = 1000,
        max_bytes: int | None = None,
    ) -> list[StoredEvent]:
        settings.check_count(max_events, "max_events", 2**62)
        settings.check_bytes(max_bytes, "max_bytes")
        now_us = self._log.now_us()
        stop = of_partition(end, partition, None)
        wanted = Wanted(
            parse(of_partition(start, partition, EARLIEST), now_us),
            None if stop is None else parse(stop, now_us),
            max_events,
            max_bytes,
        )
        events = self._fetch(partition, now_us, wanted)
        while events and (rest := wanted.rest(events)) is not None:
            try:
                more = self._fetch(partition, now_us, rest)
            except (CorruptBatchError, OffsetOutOfRangeError):
                break  # the next read says so
            if not more or len(more[0].body) > (rest.max_bytes or 0):
                break
            events += more
        return events

    def _fetch(self, partition: int, now_us: int, wanted: Wanted) -> list[StoredEvent]:
        def find(transaction: lmdb.Transaction) -> Fetched:
            record = self.look(transaction).record
            view = PartitionView(transaction, record.id, check_partition(record, partition))
            return fetch(view, record.name, record.retention(now_us), wanted)

        return self._log.look(find).events()

    def partition_info(self, partition: int) -> PartitionInfo:
        def look(transaction: lmdb.Transaction) -> PartitionInfo:
            view, beginning, tail = self._view(transaction, partition)
            return PartitionInfo(
                beginning_offset=beginning,
                next_offset=tail.next_offset,
                last_enqueued_offset=tail.next_offset - 1,
                last_enqueued_at=instant(tail.enqueued_us) if tail.next_offset else None,
                is_empty=beginning == tail.next_offset,
                size_bytes=view.size_from(beginning, tail),
            )

        return self._log.look(look)

    def offset_at(self, partition: int, when: datetime | str) -> int:
        parsed = parse(when, self._log.now_us())
        if isinstance(parsed, int):
            raise TypeError(f"offset_at takes a time, not the offset {parsed}")

        def look(transaction: lmdb.Transaction) -> int:
            view, beginning, tail = self._view(transaction, partition)
            if isinstance(parsed, Anchor):
                return tail.next_offset if parsed is LATEST else beginning
            return view.offset_at(microseconds(parsed), beginning, tail)

        return self._log.look(look)

    def _view(
        self, transaction: lmdb.Transaction, partition: int
    ) -> tuple[PartitionView, int, Tail]:
        """A partition, where it begins now, and its tail."""
        record = self.look(transaction).record
        view = PartitionView(transaction, record.id, check_partition(record, partition))
        tail = view.tail()
        return view, view.beginning(record.retention(self._log.now_us()), tail), tail

    def expire(self) -> int:
        removed = 0
        partition: int | None = 0
        while partition is not None:
            events, partition = self._log.commit(
                lambda writer, begin=partition: self._expire_some(writer, begin)  # type: ignore[misc]
            )
            removed += events
        self._log.remove_deleted()
        return removed

    def _expire_some(self, writer: Writer, partition: int) -> tuple[int, int | None]:
        """Remove what a step allows from `partition` on; the events, and where to go on."""
        record = self.look(writer).record
        removed = 0
        for number in range(partition, record.partitions):
            step = trim(writer, record.id, number, record.retention(writer.now_us), STEP_ROWS)
            removed += step.events
            if step.more:
                return removed, number
        return removed, None
