"""One fetch: find the batches of a range inside a transaction, decode them after it has ended."""

from __future__ import annotations

from datetime import datetime
from itertools import chain, cycle, islice, repeat
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from eventlog.consuming.source import corrupt, out_of_range
from eventlog.embedded.batch import BatchDamagedError, Columns, Header, open_payload
from eventlog.embedded.partition import KEEP_FOR_EVER, Batch, PartitionView, Retention, Tail
from eventlog.errors import CorruptBatchError
from eventlog.event import EVENTS_PER_ORIGIN, NO_PROPERTIES, Origin, StoredEvent
from eventlog.positions import EARLIEST, Anchor, instant, microseconds

__all__ = ["Fetched", "Loaded", "Wanted", "decode", "fetch", "find", "load", "offset_of"]

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


class Loaded(NamedTuple):
    """A batch that holds events of a range: its first offset, and its payload as stored."""

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
    batches: list[Loaded]
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
                some = decode((self.topic, self.partition), found, self.start, self.stop)
            except CorruptBatchError:
                if events:
                    return self._within_bytes(events)
                raise
            if events:
                events += some
            else:
                events = some
        if self.damage is not None and not events:
            raise self.damage
        return self._within_bytes(events)

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


def decode(place: tuple[str, int], found: Loaded, start: int, stop: int) -> list[StoredEvent]:
    """Decode those events of a batch that are in a range; `place` is its topic and partition.

    Raises:
        CorruptBatchError: it is damaged.
    """
    last = found.first_offset + found.header.count - 1
    begin = max(start, found.first_offset)
    try:
        columns = open_payload(found.header, found.payload)
        return _events(place, found, columns, range(begin, min(stop, last + 1)))
    except BatchDamagedError as error:
        raise corrupt(place, found.first_offset, last, str(error)) from error


def _events(
    place: tuple[str, int], found: Loaded, columns: Columns, offsets: range
) -> list[StoredEvent]:
    topic, partition = place
    begin, end = offsets.start - found.first_offset, offsets.stop - found.first_offset
    keys = columns.keys(begin, end)
    properties = columns.properties(begin, end)
    enqueued_at = instant(found.header.enqueued_us)
    skipped = offsets.start % EVENTS_PER_ORIGIN
    origins = [
        repeat(Origin(topic, partition, enqueued_at, offset), EVENTS_PER_ORIGIN)
        for offset in range(offsets.start - skipped, offsets.stop, EVENTS_PER_ORIGIN)
    ]
    return list(
        map(
            StoredEvent,
            columns.bodies(begin, end),
            repeat(None) if keys is None else keys,
            repeat(NO_PROPERTIES)
            if properties is None
            else [MappingProxyType(own) if own else NO_PROPERTIES for own in properties],
            islice(cycle(_PLACES), skipped, None),
            islice(chain.from_iterable(origins), skipped, None),
        )
    )


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
    start = offset_of(view, wanted.start, beginning, tail)
    if not beginning <= start <= tail.next_offset:
        raise out_of_range(topic, view.partition, start, beginning, tail.next_offset)
    stop = min(tail.next_offset, start + wanted.max_events)
    if wanted.end is not None:
        stop = min(stop, offset_of(view, wanted.end, beginning, tail))
    return start, stop


def offset_of(view: PartitionView, position: _Parsed, beginning: int, tail: Tail) -> int:
    """The offset a position stands for."""
    if isinstance(position, datetime):
        return view.offset_at(microseconds(position), beginning, tail)
    if isinstance(position, Anchor):
        return beginning if position is EARLIEST else tail.next_offset
    return position


def _collect(
    view: PartitionView, topic: str, start: int, stop: int, max_bytes: int | None
) -> tuple[list[Loaded], CorruptBatchError | None]:
    """The batches of a range, up to the first damaged one or until they hold `max_bytes`."""
    found: list[Loaded] = []
    raw_bytes = 0
    at = start
    try:
        while at < stop and (max_bytes is None or raw_bytes <= max_bytes):
            batch = find(view, topic, at)
            if batch is None:
                break
            some = load(view, topic, batch)
            found.append(some)
            raw_bytes += some.header.raw_bytes
            at = batch.last_offset + 1
    except CorruptBatchError as error:
        return found, error
    return found, None


def find(view: PartitionView, topic: str, offset: int) -> Batch | None:
    """The batch that holds the event at `offset`; None if nothing is there, nor behind it.

    Raises:
        CorruptBatchError: it is damaged, or missing.
    """
    batch = view.batch_at(offset)
    if batch is None:
        return None
    place = (topic, view.partition)
    if batch.header is None:
        raise corrupt(place, offset, batch.last_offset, batch.damage)
    first = batch.last_offset + 1 - batch.header.count
    if first > offset:
        raise corrupt(place, offset, first - 1, "they are missing")
    return batch


def load(view: PartitionView, topic: str, batch: Batch) -> Loaded:
    """The payload of a batch just found, which the cursor still stands on.

    Raises:
        CorruptBatchError: a part of it is missing.
    """
    assert batch.header is not None
    first = batch.last_offset + 1 - batch.header.count
    try:
        return Loaded(first, batch.header, view.payload(batch))
    except BatchDamagedError as error:
        place = (topic, view.partition)
        raise corrupt(place, first, batch.last_offset, str(error)) from error
