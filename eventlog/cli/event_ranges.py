"""Ranges of offsets: positions resolved once, and the events between them, some at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from eventlog import EARLIEST, CorruptBatchError, OffsetOutOfRangeError, StoredEvent, Topic
from eventlog.cli.failures import warn
from eventlog.consumer import Consumer
from eventlog.positions import Anchor

__all__ = ["Position", "Range", "fetched", "fetches", "followed", "resolve"]

FETCH_EVENTS: Final = 10_000
FETCH_BYTES: Final = 4 * 2**20
"""What is in memory at one time, whatever the topic holds: as many events, about as many bytes."""

Position: TypeAlias = Anchor | int | datetime


class Range(NamedTuple):
    """Offsets of a partition, from `start` to before `stop`."""

    partition: int
    start: int
    stop: int


def resolve(topic: Topic, partition: int, start: Position, end: Position) -> Range:
    """The offsets that positions mean now; what is appended later is not among them.

    Raises:
        OffsetOutOfRangeError: `start` is an offset that is not there.
        PartitionNotFoundError: there is no such partition.
    """
    info = topic.partition_info(partition)

    def offset_of(position: Position) -> int:
        if isinstance(position, datetime):
            return topic.offset_at(partition, position)
        if isinstance(position, Anchor):
            return info.beginning_offset if position is EARLIEST else info.next_offset
        return position

    if isinstance(start, int):
        topic.read(partition, start, end=EARLIEST)  # reads nothing, but refuses a wrong start
    return Range(partition, offset_of(start), min(offset_of(end), info.next_offset))


def fetches(
    topic: Topic, wanted: Range, most: int | None = None, *, skip_damaged: bool = False
) -> Iterator[Sequence[StoredEvent]]:
    """The events of a range in order, at most `most` of them in all.

    What expires before it is read is warned of, and so is what is damaged if `skip_damaged`.

    Raises:
        CorruptBatchError: a batch is damaged. What comes before it was given.
    """
    at, stop = wanted.start, wanted.stop
    left = stop - at if most is None else most
    while at < stop and left > 0:
        count = min(FETCH_EVENTS, left)
        try:
            events = topic.read(
                wanted.partition, at, end=stop, max_events=count, max_bytes=FETCH_BYTES
            )
        except CorruptBatchError as error:
            if not skip_damaged:
                raise
            warn(f"skipped: {error}")
            at = error.last_offset + 1
        except OffsetOutOfRangeError as error:
            at = _behind_expired(wanted, at, error)
        else:
            if not events:
                return  # what is left are gaps
            yield events
            at = events[-1].offset + 1
            left -= len(events)


def fetched(
    topic: Topic, ranges: Iterable[Range], most: int | None, *, skip_damaged: bool
) -> Iterator[Sequence[StoredEvent]]:
    """The events of several ranges, one after the other, at most `most` of them; see `fetches`."""
    left = most
    for wanted in ranges:
        for events in fetches(topic, wanted, left, skip_damaged=skip_damaged):
            yield events
            left = None if left is None else left - len(events)


def followed(
    consumer: Consumer, most: int | None, *, skip_damaged: bool
) -> Iterator[Sequence[StoredEvent]]:
    """The events of a consumer as they come, at most `most` of them.

    Raises:
        CorruptBatchError: a batch is damaged, and `skip_damaged` is false.
    """
    left = most
    with consumer:
        batches = consumer.batches()
        while left is None or left > 0:
            try:
                events = next(batches, None)
            except CorruptBatchError as error:
                if not skip_damaged:
                    raise
                warn(f"skipped: {error}")
                consumer.seek(error.partition, error.last_offset + 1)
                continue
            if events is None:
                return
            yield events[:left]
            left = None if left is None else left - len(events)


def _behind_expired(wanted: Range, at: int, error: OffsetOutOfRangeError) -> int:
    """Retention was faster than reading: say what is lost, and go on behind it."""
    following = min(error.beginning_offset, wanted.stop)
    if following <= at:
        raise error
    lost = f"offsets {at} to {following - 1}"
    warn(f"partition {wanted.partition}: {lost} expired before they were read")
    return following
