"""``Topic`` on a Kafka cluster."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from eventlog import topic_settings as settings
from eventlog.appending import check_expected, check_partition, gather, gather_one
from eventlog.callbacks import Callback
from eventlog.consuming.source import ParsedPosition
from eventlog.errors import (
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.event import Event, Key, PropertyValue, StoredEvent
from eventlog.kafka.cluster import EARLIEST as FIRST
from eventlog.kafka.cluster import LATEST as LAST
from eventlog.kafka.topic_record import TopicRecord, TopicState, config_of
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
    from eventlog.group import ConsumerGroup
    from eventlog.kafka.engine import KafkaLog
    from eventlog.kafka.writing.append import Appender

__all__ = ["KafkaTopic", "TopicRecord", "TopicState"]

_UNCHANGED: Final[Any] = object()

_FRESH_SECONDS: Final = 1.0
"""How long a topic is taken to be what it was."""

_LOOKED_BACK: Final = (8, *[256] * 16)
"""How many offsets at a time are looked at for the last event, from the end on."""


class KafkaTopic(Topic):
    """See `Topic`."""

    def __init__(self, log: KafkaLog, record: TopicRecord) -> None:
        self._log = log
        self._mutex = threading.Lock()
        self._seen = time.monotonic()
        self._generation = log.generation
        self._appender: Appender | None = None
        self._last: dict[int, tuple[int, StoredEvent | None]] = {}
        self._take_record(record)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} of {self.partitions} partitions in {self._log.location}>"

    # What it is

    @property
    def log(self) -> KafkaLog:
        return self._log

    @property
    def id(self) -> str:
        return self.state.record.id

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
        """When it was made; 1970 if another program made it, since Kafka does not remember."""
        return instant(self.state.record.created_us)

    def _take_record(self, record: TopicRecord) -> TopicState:
        function = self._log.partition_function(record.partitioner)
        self.state = TopicState(
            record,
            None if function is None else KeyPartitioner(function, record.partitions),
            RoundRobin(record.partitions),
        )
        return self.state

    def current(self, timeout: float | None = None) -> TopicState:
        """What the topic is, as of a second ago at most.

        Args:
            timeout: seconds to wait for an answer, if not those of the log.

        Raises:
            TopicNotFoundError: it was deleted; another of its name is not the same one.
        """
        self._log.check_open()
        fresh = time.monotonic() - self._seen < _FRESH_SECONDS
        if fresh and self._generation == self._log.generation:
            return self.state
        generation = self._log.generation
        started = time.monotonic()
        record = self.state.record
        found = self._log.cluster.look_up(record.name, timeout=timeout)
        with self._mutex:
            if found.id != record.id:
                raise self._gone()
            if found.partitions != self.state.record.partitions:
                self._take_record(self.state.record._replace(partitions=found.partitions))
            self._seen, self._generation = started, generation
            return self.state

    def refresh(self) -> TopicState:
        """What the topic is now, with all its settings.

        Raises:
            TopicNotFoundError: it was deleted.
        """
        self._log.check_open()
        generation = self._log.generation
        started = time.monotonic()
        (record,) = self._log.records([self.name])
        with self._mutex:
            if record.id != self.state.record.id:
                raise self._gone()
            known = self._log.partition_function(record.partitioner) is not None
            if record != self.state.record or (known and self.state.partitioner is None):
                self._take_record(record)
            self._seen, self._generation = started, generation
            return self.state

    def _gone(self) -> TopicNotFoundError:
        return TopicNotFoundError(
            f"topic {self.name!r} was deleted from the log at {self._log.location}"
        )

    def partition(self, partition: object) -> int:
        """`partition`, if the topic has it, perhaps since a moment.

        Raises:
            PartitionNotFoundError: it has not.
        """
        try:
            return check_partition(self.current().record, partition)
        except PartitionNotFoundError:
            return check_partition(self.refresh().record, partition)

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
        self._log.refuse_reader()
        self.refresh()
        if changes:
            self._log.cluster.set_configs(self.name, config_of(**changes))
        self._log.changed()
        self.refresh()

    def add_partitions(self, count: int) -> None:
        settings.check_count(count, "count", settings.MAX_PARTITIONS)
        self._log.refuse_reader()
        total = self.refresh().record.partitions + count
        settings.check_count(total, "the number of partitions", settings.MAX_PARTITIONS)
        self._log.cluster.add_partitions(self.name, total)
        self._log.changed()
        self.refresh()
        warnings.warn(
            f"topic {self.name!r} has {self.partitions} partitions now: keys move to others, and "
            "a key's events are in order only among those appended since",
            stacklevel=2,
        )

    # Appending

    @property
    def appender(self) -> Appender:
        """What puts events into it."""
        if self._appender is None:
            from eventlog.kafka.writing.append import Appender

            self._appender = Appender(self)
        return self._appender

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
        self._log.refuse_reader()
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
        self._log.refuse_reader()
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
        from eventlog.kafka.writing.outlet import KafkaOutlet

        producer = Producer(
            KafkaOutlet(self),
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
        from eventlog.group import group_store
        from eventlog.kafka.reading.source import KafkaSource

        consumer = Consumer(
            KafkaSource(self),
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
        return self._read(
            self.partition(partition),
            parse(of_partition(start, partition, EARLIEST), now_us),
            None if stop is None else parse(stop, now_us),
            max_events,
            max_bytes,
        )

    def _read(
        self,
        partition: int,
        start: ParsedPosition,
        end: ParsedPosition | None,
        max_events: int,
        max_bytes: int | None,
    ) -> list[StoredEvent]:
        from eventlog.kafka.reading.read import read

        return read(self, partition, start, end, max_events, max_bytes)

    def partition_info(self, partition: int) -> PartitionInfo:
        number = self.partition(partition)
        beginning, following = (
            at.offset
            for at in self._log.cluster.offsets(self.name, [(number, FIRST), (number, LAST)])
        )
        last = self._last_event(number, beginning, following)
        if beginning == following:
            return PartitionInfo(
                following, following, following - 1, None, is_empty=True, size_bytes=0
            )
        return PartitionInfo(
            beginning_offset=beginning,
            next_offset=following,
            last_enqueued_offset=following - 1 if last is None else last.offset,
            last_enqueued_at=None if last is None else last.enqueued_at,
            is_empty=False,
            size_bytes=0,  # brokers tell it only to Kafka's own tools
        )

    def _last_event(self, partition: int, beginning: int, following: int) -> StoredEvent | None:
        """The last event there is: markers and what was aborted may stand behind it.

        Looked for from the end backwards, but not without end.
        """
        known = self._last.get(partition)
        if known is not None and known[0] == following:
            return known[1]
        last, stop = None, following
        for width in _LOOKED_BACK:
            start = max(beginning, stop - width)
            if last is not None or start == stop:
                break
            try:
                events = self._read(partition, start, stop, width, None)
            except OffsetOutOfRangeError:  # expired a moment ago
                return None
            last, stop = (events[-1] if events else None), start
        self._last[partition] = following, last
        return last

    def offset_at(self, partition: int, when: datetime | str) -> int:
        parsed = parse(when, self._log.now_us())
        if isinstance(parsed, int):
            raise TypeError(f"offset_at takes a time, not the offset {parsed}")
        number = self.partition(partition)
        if isinstance(parsed, Anchor):
            asked = [(number, LAST if parsed is LATEST else FIRST)]
            return self._log.cluster.offsets(self.name, asked)[0].offset
        first, following = self._log.cluster.offsets(
            self.name, [(number, max(0, -(-microseconds(parsed) // 1000))), (number, LAST)]
        )
        return following.offset if first.offset < 0 else min(first.offset, following.offset)

    def expire(self) -> int:
        raise UnsupportedOperationError(
            f"the brokers of {self._log.location} remove expired events by themselves; expire() "
            "is not needed (how soon: log.retention.check.interval.ms, segment.ms)"
        )
