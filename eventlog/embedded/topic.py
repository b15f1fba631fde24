"""``Topic`` on the embedded engine."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import lmdb

from eventlog import topic_settings as settings
from eventlog.appending import check_partition
from eventlog.embedded import keys
from eventlog.embedded.append import TopicState
from eventlog.embedded.appender import Appender
from eventlog.embedded.catalog import TopicRecord
from eventlog.embedded.fetch import Fetched, Wanted, fetch
from eventlog.embedded.outlet import EmbeddedOutlet
from eventlog.embedded.partition import PartitionView, Tail
from eventlog.embedded.retention import trim
from eventlog.embedded.writer import STEP_ROWS, Writer
from eventlog.engine.topic import EngineTopic
from eventlog.errors import (
    CorruptBatchError,
    OffsetOutOfRangeError,
)
from eventlog.event import StoredEvent
from eventlog.log import PartitionInfo
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

if TYPE_CHECKING:
    from eventlog.embedded.engine import EmbeddedLog
    from eventlog.embedded.intake import EmbeddedIntake
    from eventlog.embedded.source import EmbeddedSource

__all__ = ["EmbeddedTopic"]

_UNCHANGED: Final[Any] = object()
_CATCH_UP_SECONDS: Final = 0.5


class EmbeddedTopic(EngineTopic):
    """See `Topic`."""

    state: TopicState
    appender: Appender
    _log: EmbeddedLog

    def __init__(self, log: EmbeddedLog, record: TopicRecord, stored: bytes) -> None:
        self._log = log
        self._key = keys.topic_key(record.name)
        self.appender = Appender(self, log)
        self._take_record(record, stored)

    # What it is

    @property
    def log(self) -> EmbeddedLog:
        return self._log

    @property
    def id(self) -> str:
        return str(self.state.record.id)

    def _take_record(self, record: TopicRecord, stored: bytes) -> None:
        by_key, turns = self._log.placing(record.partitioner, record.partitions)
        self.state = TopicState(record, stored, by_key, turns)

    def look(self, transaction: lmdb.Transaction | Writer) -> TopicState:
        """What the topic is now; the log may have been changed by another process."""
        stored = transaction.get(self._key)
        state = self.state
        if stored is None:
            raise self.gone()
        if stored != state.stored:
            record = TopicRecord.decode(stored)
            if record.id != state.record.id:
                raise self.gone()
            self._take_record(record, bytes(stored))
        return self.state

    def refresh(self) -> TopicState:
        """What the topic is now."""
        state = self._log.look(self.look)
        if state.partitioner is None and self._log.partition_function(state.record.partitioner):
            self._take_record(state.record, state.stored)  # it was handed in since
        return self.state

    def partition(self, partition: object) -> int:
        return check_partition(self.state.record, partition)

    # Changing it

    def _configure(self, changes: dict[str, Any]) -> None:
        self._change(lambda _: changes)

    def _add_partitions(self, count: int) -> None:
        def more(record: TopicRecord) -> dict[str, Any]:
            total = record.partitions + count
            settings.check_count(total, "the number of partitions", settings.MAX_PARTITIONS)
            return {"partitions": total}

        self._change(more)

    def _change(self, changes_to: Any) -> None:
        def work(writer: Writer) -> tuple[TopicRecord, bytes]:
            record = self.look(writer).record
            old = {name: getattr(record, name) for name in record.__struct_fields__}
            changed = TopicRecord(**{**old, **changes_to(record)})
            stored = changed.encode()
            writer.put(self._key, stored)
            return changed, stored

        self._take_record(*self._log.commit(work))

    # What producers and consumers stand on

    def _outlet(self) -> EmbeddedOutlet:
        return EmbeddedOutlet(self)

    def _source(self) -> EmbeddedSource:
        from eventlog.embedded.source import EmbeddedSource

        return EmbeddedSource(self)

    def is_gapless(self) -> bool:
        return True

    def intake(self) -> EmbeddedIntake:
        from eventlog.embedded.intake import EmbeddedIntake

        return EmbeddedIntake(self)

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
