"""``Topic`` on the embedded engine."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import lmdb

from eventlog.embedded import keys, settings
from eventlog.embedded.append import (
    Columns,
    Part,
    TopicState,
    check_partition,
    gather,
    gather_one,
    prepare,
)
from eventlog.embedded.catalog import TopicRecord
from eventlog.embedded.fetch import Fetched, Wanted, fetch
from eventlog.embedded.partition import PartitionView, Tail
from eventlog.embedded.retention import Removed, remove_deleted, trim
from eventlog.embedded.writer import STEP_ROWS, Writer
from eventlog.errors import (
    CorruptBatchError,
    EventLogError,
    EventTooLargeError,
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    TopicNotFoundError,
    UnexpectedOffsetError,
    UnsupportedOperationError,
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

if TYPE_CHECKING:
    from eventlog.embedded.engine import EmbeddedLog

__all__ = ["EmbeddedTopic"]

_UNCHANGED: Final[Any] = object()
_CATCH_UP_SECONDS: Final = 0.5


class _ChangedError(Exception):
    """The topic is not what the work was prepared for; look again and prepare it anew."""


class EmbeddedTopic(Topic):
    """See `Topic`."""

    def __init__(self, log: EmbeddedLog, record: TopicRecord, stored: bytes) -> None:
        self._log = log
        self._key = keys.topic_key(record.name)
        self._take_record(record, stored)

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} of {self.partitions} partitions in {self._log.location}>"

    # What it is

    @property
    def name(self) -> str:
        return self._state.record.name

    @property
    def partitions(self) -> int:
        return self._state.record.partitions

    @property
    def retention(self) -> timedelta | None:
        length = self._state.record.retention_us
        return None if length is None else timedelta(microseconds=length)

    @property
    def retention_bytes(self) -> int | None:
        return self._state.record.retention_bytes

    @property
    def compression(self) -> str:
        return self._state.record.compression

    @property
    def partitioner(self) -> str:
        return self._state.record.partitioner

    @property
    def max_event_bytes(self) -> int:
        return self._state.record.max_event_bytes

    @property
    def created_at(self) -> datetime:
        return instant(self._state.record.created_us)

    def _take_record(self, record: TopicRecord, stored: bytes) -> None:
        function = self._log.partition_function(record.partitioner)
        self._state = TopicState(
            record,
            stored,
            None if function is None else KeyPartitioner(function, record.partitions),
            RoundRobin(record.partitions),
        )

    def _look(self, transaction: lmdb.Transaction | Writer) -> TopicState:
        """What the topic is now; the log may have been changed by another process."""
        stored = transaction.get(self._key)
        state = self._state
        if stored is None:
            raise self._gone()
        if stored != state.stored:
            record = TopicRecord.decode(stored)
            if record.id != state.record.id:
                raise self._gone()
            self._take_record(record, bytes(stored))
        return self._state

    def _refresh(self) -> TopicState:
        """What the topic is now."""
        state = self._log.look(self._look)
        if state.partitioner is None and self._log.partition_function(state.record.partitioner):
            self._take_record(state.record, state.stored)  # it was handed in since
        return self._state

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
            record = self._look(writer).record
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
            _check_expected(expect_next, partition, key)
        columns = gather_one(body, key, properties)
        return self._store(columns, partition, expect_next, timeout)[0]

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
        return self._store(columns, partition, None, timeout)

    def _store(
        self,
        columns: Columns,
        partition: int | None,
        expect_next: int | None,
        timeout: Duration | None,
    ) -> list[Receipt]:
        """Encode, commit, and do both again if the topic was changed in between."""
        while True:
            state = self._state
            try:
                parts = prepare(state, columns, partition)
            except (PartitionNotFoundError, EventTooLargeError, UnsupportedOperationError):
                if self._refresh() is state:
                    raise
                continue

            def work(
                writer: Writer, state: TopicState = state, parts: list[Part] = parts
            ) -> list[tuple[int, int]]:
                return self._write(writer, state, parts, expect_next)

            size = sum(batch.size for part in parts for batch in part.batches)
            try:
                stored = self._log.commit(work, timeout=timeout, size=size)
            except _ChangedError:
                continue
            for part in parts:
                if part.behind:
                    self._catch_up(part)
            return [
                Receipt(part.partition, offset, part.count, instant(enqueued_us))
                for part, (offset, enqueued_us) in zip(parts, stored, strict=True)
            ]

    def _write(
        self, writer: Writer, state: TopicState, parts: list[Part], expect_next: int | None
    ) -> list[tuple[int, int]]:
        """The work of an append inside the transaction: refuse first, then change."""
        if self._look(writer) is not state:
            raise _ChangedError
        record = state.record
        if expect_next is not None:
            actual = writer.tail(record.id, parts[0].partition).next_offset
            if actual != expect_next:
                raise UnexpectedOffsetError(
                    f"the next offset of partition {parts[0].partition} of topic {record.name!r} "
                    f"is {actual}, not {expect_next}",
                    expected=expect_next,
                    actual=actual,
                )
        writer.require_room([batch for part in parts for batch in part.batches])
        stored = [writer.append(record.id, part.partition, part.batches) for part in parts]
        if record.retention_us is not None or record.retention_bytes is not None:
            writer.at_end(lambda: self._trim(writer, record, parts))
        if self._log.leftovers:
            self._log.leftovers = remove_deleted(writer, STEP_ROWS // 4)
        return stored

    def _trim(self, writer: Writer, record: TopicRecord, parts: list[Part]) -> None:
        """Remove what has expired in the partitions just appended to: about twice what came."""
        retention = record.retention(writer.now_us)
        for part in parts:
            trimmed = trim(writer, record.id, part.partition, retention, 2 * self._rows(part) + 1)
            part.behind = trimmed.more

    def _catch_up(self, part: Part) -> None:
        """After a large append: remove in steps of their own what did not go with it.

        The append is stored, so nothing that goes wrong here is an error of its: what is not
        removed now is removed later. For the same reason others are waited for only briefly.
        """
        with contextlib.suppress(EventLogError):
            steps = 2 * self._rows(part) // STEP_ROWS
            while part.behind and steps:
                part.behind = self._expire_step(part.partition).more
                steps -= 1

    def _rows(self, part: Part) -> int:
        chunk_bytes = self._log.environment.chunk_bytes
        return sum(-(-batch.size // chunk_bytes) for batch in part.batches)

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
            record = self._look(transaction).record
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
        record = self._look(transaction).record
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
        record = self._look(writer).record
        removed = 0
        for number in range(partition, record.partitions):
            step = trim(writer, record.id, number, record.retention(writer.now_us), STEP_ROWS)
            removed += step.events
            if step.more:
                return removed, number
        return removed, None

    def _expire_step(self, partition: int) -> Removed:
        def work(writer: Writer) -> Removed:
            record = self._look(writer).record
            retention = record.retention(writer.now_us)
            return trim(writer, record.id, partition, retention, STEP_ROWS)

        return self._log.commit(work, timeout=_CATCH_UP_SECONDS)


def _check_expected(expect_next: object, partition: object, key: object) -> None:
    if type(expect_next) is not int:
        raise TypeError(f"expect_next is an int, not {type(expect_next).__name__}")
    if partition is None and key is None:
        raise ValueError("expect_next needs a partition or a key: whose next offset is meant?")
