"""One fetch: find the batches of a range inside a transaction, decode them after it has ended."""

from __future__ import annotations

from datetime import datetime
from itertools import chain, cycle, islice, repeat
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from eventlog.embedded.batch import BatchDamagedError, Columns, Header, open_payload
from eventlog.embedded.partition import KEEP_FOR_EVER, PartitionView, Retention, Tail
from eventlog.errors import CorruptBatchError, OffsetOutOfRangeError
from eventlog.event import EVENTS_PER_ORIGIN, NO_PROPERTIES, Origin, StoredEvent
from eventlog.positions import EARLIEST, Anchor, instant, microseconds

__all__ = ["Fetched", "Wanted", "fetch"]

_PLACES: Final = range(EVENTS_PER_ORIGIN)

_Parsed: TypeAlias = Anchor | int | datetime


class Wanted(NamedTuple):
    """What a caller of `Topic.read` asked for."""

    start: _Parsed
    end: _Parsed | None
    max_events: int
    max_bytes: int | None

    def rest(self, events: list[StoredEvent]) -> Wanted | None:
        """What is still wanted when `events` are had, as far as bytes cut the fetch short."""
        if self.max_bytes is None:
            return None
        most_events = self.max_events - len(events)
        most_bytes = self.max_bytes - sum(len(event.body) for event in events)
        if most_events <= 0 or most_bytes <= 0:
            return None
        return Wanted(events[-1].offset + 1, self.end, most_events, most_bytes)


class _Found(NamedTuple):
    """A batch that holds events of the range: its first offset, and its payload as stored."""

    first_offset: int
    header: Header
    payload: bytes


class Fetched(NamedTuple):
    """What a fetch found: batches, and the range of offsets wanted of them."""

    topic: str
    partition: int
    start: int
    stop: int
    max_bytes: int | None
    batches: list[_Found]
    damage: CorruptBatchError | None

    def events(self) -> list[StoredEvent]:
        """Decode the events of the range.

        Raises:
            CorruptBatchError: the first batch of the range is damaged. What comes before a
                damaged batch is returned, so that the next fetch begins with it.
        """
        events: list[StoredEvent] = []
        for found in self.batches:
            try:
                some = self._decode(found, open_payload(found.header, found.payload))
            except BatchDamagedError as error:
                if events:
                    return self._within_bytes(events)
                last = found.first_offset + found.header.count - 1
                place = (self.topic, self.partition)
                raise corrupt(place, found.first_offset, last, str(error)) from error
            if events:
                events += some
            else:
                events = some
        if self.damage is not None and not events:
            raise self.damage
        return self._within_bytes(events)

    def _decode(self, found: _Found, columns: Columns) -> list[StoredEvent]:
        first = found.first_offset
        begin = max(self.start - first, 0)
        end = min(self.stop - first, found.header.count)
        keys = columns.keys(begin, end)
        properties = columns.properties(begin, end)
        enqueued_at = instant(found.header.enqueued_us)
        place = (first + begin) % EVENTS_PER_ORIGIN
        origins = [
            repeat(Origin(self.topic, self.partition, enqueued_at, offset), EVENTS_PER_ORIGIN)
            for offset in range(first + begin - place, first + end, EVENTS_PER_ORIGIN)
        ]
        return list(
            map(
                StoredEvent,
                columns.bodies(begin, end),
                repeat(None) if keys is None else keys,
                repeat(NO_PROPERTIES)
                if properties is None
                else [MappingProxyType(own) if own else NO_PROPERTIES for own in properties],
                islice(cycle(_PLACES), place, None),
                islice(chain.from_iterable(origins), place, None),
            )
        )

    def _within_bytes(self, events: list[StoredEvent]) -> list[StoredEvent]:
        """As many of them as `max_bytes` allows, but one at least."""
        if self.max_bytes is None:
            return events
        left = self.max_bytes
        for count, event in enumerate(events):
            left -= len(event.body)
            if left < 0 and count:
                return events[:count]
        return events


def fetch(view: PartitionView, topic: str, retention: Retention, wanted: Wanted) -> Fetched:
    """Find what was `wanted` of a partition.

    Raises:
        OffsetOutOfRangeError: it starts at an offset that is not there.
    """
    start, stop = _range(view, topic, retention, wanted)
    batches, damage = _collect(view, topic, start, stop, wanted.max_bytes)
    if start < stop and not batches and damage is None:
        damage = corrupt((topic, view.partition), start, stop - 1, "they are missing")
    return Fetched(topic, view.partition, start, stop, wanted.max_bytes, batches, damage)


def _range(
    view: PartitionView, topic: str, retention: Retention, wanted: Wanted
) -> tuple[int, int]:
    """The offsets that are wanted: from, and up to."""
    if (
        isinstance(wanted.start, int)
        and wanted.end is None
        and retention == KEEP_FOR_EVER
        and view.holds(wanted.start)
    ):
        # The usual fetch of who reads along: nothing more need be known of the partition.
        return wanted.start, wanted.start + wanted.max_events
    tail = view.tail()
    beginning = view.beginning(retention, tail)
    start = _offset(view, wanted.start, beginning, tail)
    if not beginning <= start <= tail.next_offset:
        there = f"has offsets {beginning} to {tail.next_offset - 1}"
        raise OffsetOutOfRangeError(
            f"partition {view.partition} of topic {topic!r} "
            f"{there if beginning < tail.next_offset else 'is empty'} and goes on at "
            f"{tail.next_offset}: there is no offset {start}",
            offset=start,
            beginning_offset=beginning,
            next_offset=tail.next_offset,
        )
    stop = min(tail.next_offset, start + wanted.max_events)
    if wanted.end is not None:
        stop = min(stop, _offset(view, wanted.end, beginning, tail))
    return start, stop


def _offset(view: PartitionView, position: _Parsed, beginning: int, tail: Tail) -> int:
    """The offset a position stands for."""
    if isinstance(position, datetime):
        return view.offset_at(microseconds(position), beginning, tail)
    if isinstance(position, Anchor):
        return beginning if position is EARLIEST else tail.next_offset
    return position


def _collect(
    view: PartitionView, topic: str, start: int, stop: int, max_bytes: int | None
) -> tuple[list[_Found], CorruptBatchError | None]:
    """The batches of a range, up to the first damaged one or until they hold `max_bytes`."""
    found: list[_Found] = []
    raw_bytes = 0
    at = start
    while at < stop and (max_bytes is None or raw_bytes <= max_bytes):
        batch = view.batch_at(at)
        if batch is None:
            break
        if batch.header is None:
            return found, corrupt((topic, view.partition), at, batch.last_offset, batch.damage)
        first = batch.last_offset + 1 - batch.header.count
        if first > at:
            return found, corrupt((topic, view.partition), at, first - 1, "they are missing")
        try:
            found.append(_Found(first, batch.header, view.payload(batch)))
        except BatchDamagedError as error:
            return found, corrupt((topic, view.partition), at, batch.last_offset, str(error))
        raw_bytes += batch.header.raw_bytes
        at = batch.last_offset + 1
    return found, None


def corrupt(place: tuple[str, int], first: int, last: int, reason: str) -> CorruptBatchError:
    """The error for a batch that does not check out; `place` is its topic and partition."""
    topic, partition = place
    return CorruptBatchError(
        f"topic {topic!r}, partition {partition}, offsets {first} to {last}: {reason}; "
        f"reading can go on at {last + 1}",
        topic=topic,
        partition=partition,
        first_offset=first,
        last_offset=last,
    )
