"""``Topic`` on a Kafka cluster."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from eventlog import topic_settings as settings
from eventlog.appending import check_partition
from eventlog.consuming.source import ParsedPosition
from eventlog.engine.topic import EngineTopic
from eventlog.errors import (
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    UnsupportedOperationError,
)
from eventlog.event import StoredEvent
from eventlog.kafka.cluster import EARLIEST as FIRST
from eventlog.kafka.cluster import LATEST as LAST
from eventlog.kafka.reading.positions import offset_for, spec_for
from eventlog.kafka.topic_record import TopicRecord, TopicState, config_of
from eventlog.kafka.writing.append import Appender
from eventlog.log import PartitionInfo
from eventlog.positions import (
    EARLIEST,
    Position,
    PositionMap,
    of_partition,
    parse,
)

if TYPE_CHECKING:
    from eventlog.kafka.engine import KafkaLog
    from eventlog.kafka.intake import KafkaIntake
    from eventlog.kafka.reading.source import KafkaSource
    from eventlog.kafka.writing.outlet import KafkaOutlet

__all__ = ["KafkaTopic", "TopicRecord", "TopicState"]

_FRESH_SECONDS: Final = 1.0
"""How long a topic is taken to be what it was."""

_LOOKED_BACK: Final = (8, *[256] * 16)
"""How many offsets at a time are looked at for the last event, from the end on."""
_LOOKED_FURTHER_BACK: Final = 1000
"""How many then, if it has to be found."""


class KafkaTopic(EngineTopic):
    """See `Topic`."""

    state: TopicState
    appender: Appender
    _log: KafkaLog

    def __init__(self, log: KafkaLog, record: TopicRecord) -> None:
        self._log = log
        self._mutex = threading.Lock()
        self._seen = time.monotonic()
        self._generation = log.generation
        self.appender = Appender(self)
        self._last: dict[int, tuple[int, StoredEvent | None]] = {}
        self._take_record(record)

    # What it is

    @property
    def log(self) -> KafkaLog:
        return self._log

    @property
    def id(self) -> str:
        return self.state.record.id

    @property
    def created_at(self) -> datetime:
        """When it was made; 1970 if another program made it, since Kafka does not remember."""
        return super().created_at

    def _take_record(self, record: TopicRecord) -> TopicState:
        self.state = TopicState(record, *self._log.placing(record.partitioner, record.partitions))
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
                raise self.gone()
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
                raise self.gone()
            known = self._log.partition_function(record.partitioner) is not None
            if record != self.state.record or (known and self.state.partitioner is None):
                self._take_record(record)
            self._seen, self._generation = started, generation
            return self.state

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

    def _configure(self, changes: dict[str, Any]) -> None:
        self._log.refuse_reader()
        self.refresh()
        try:
            if changes:
                self._log.cluster.set_configs(self.name, config_of(**changes))
        finally:
            self._log.changed()
        self.refresh()

    def _add_partitions(self, count: int) -> None:
        self._log.refuse_reader()
        total = self.refresh().record.partitions + count
        settings.check_count(total, "the number of partitions", settings.MAX_PARTITIONS)
        self._log.cluster.add_partitions(self.name, total)
        self._log.changed()
        self.refresh()

    # What producers and consumers stand on

    def _outlet(self) -> KafkaOutlet:
        from eventlog.kafka.writing.outlet import KafkaOutlet

        return KafkaOutlet(self)

    def _source(self) -> KafkaSource:
        from eventlog.kafka.reading.source import KafkaSource

        return KafkaSource(self)

    def intake(self) -> KafkaIntake:
        from eventlog.kafka.intake import KafkaIntake

        return KafkaIntake(self)

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
        beginning, following = self._bounds(number)
        last = self._last_event(number, beginning, following, _LOOKED_BACK)
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

    def last_event(self, partition: int) -> StoredEvent | None:
        """The last event there is, however far before the end."""
        widths = itertools.chain(_LOOKED_BACK, itertools.repeat(_LOOKED_FURTHER_BACK))
        return self._last_event(partition, *self._bounds(partition), widths)

    def _bounds(self, partition: int) -> tuple[int, int]:
        """Where it begins, and where it ends."""
        asked = [(partition, FIRST), (partition, LAST)]
        beginning, following = self._log.cluster.offsets(self.name, asked)
        return beginning.offset, following.offset

    def _last_event(
        self, partition: int, beginning: int, following: int, widths: Iterable[int]
    ) -> StoredEvent | None:
        """The last event there is: markers and what was aborted may stand behind it.

        Looked for from the end backwards, as far as `widths` reach.
        """
        known_at, known = self._last.get(partition, (None, None))
        if known_at == following and (known is not None or widths is _LOOKED_BACK):
            return known
        last, stop = None, following
        for width in widths:
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
        found, following = self._log.cluster.offsets(
            self.name, [(number, spec_for(parsed)), (number, LAST)]
        )
        return offset_for(self, number, parsed, found, following.offset)

    def expire(self) -> int:
        raise UnsupportedOperationError(
            f"the brokers of {self._log.location} remove expired events by themselves; expire() "
            "is not needed (how soon: log.retention.check.interval.ms, segment.ms)"
        )
