"""Reading a stretch of a partition, for who copies it or counts in it; offsets may have gaps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from eventlog.consuming.source import LostRange
from eventlog.errors import CorruptBatchError, OffsetOutOfRangeError
from eventlog.event import StoredEvent
from eventlog.log import Topic

__all__ = ["batches", "event_at", "last_events", "was_used"]

_PREFETCH_BYTES: Final = 8 * 2**20


def batches(
    topic: Topic,
    partition: int,
    start: int,
    stop: int,
    *,
    on_lost: Callable[[LostRange], object],
    on_damage: Callable[[CorruptBatchError], object] | None = None,
) -> Iterator[list[StoredEvent]]:
    """The events from `start` on and before `stop`, in lists.

    Args:
        on_lost: called with what expired before it was read.
        on_damage: called with what is damaged, which is passed over then.

    Raises:
        CorruptBatchError: something is damaged, and nobody wants to be called.
    """
    start = _beginning(topic, partition, start, stop, on_lost)
    if start >= stop:
        return
    consumer = topic.consumer(
        partitions=partition,
        start=start,
        end=stop,
        follow=False,
        prefetch_bytes=_PREFETCH_BYTES,
        on_lost=on_lost,
    )
    with consumer:
        lists = consumer.batches()
        while True:
            try:
                events = next(lists, None)
            except CorruptBatchError as error:
                if on_damage is None:
                    raise
                on_damage(error)
                consumer.seek(partition, error.last_offset + 1)
                continue
            if events is None:
                return
            yield events


def _beginning(
    topic: Topic, partition: int, start: int, stop: int, on_lost: Callable[[LostRange], object]
) -> int:
    """Where there is something to read, from `start` on."""
    beginning = min(topic.partition_info(partition).beginning_offset, stop)
    if beginning <= start:
        return start
    on_lost(LostRange(partition, start, beginning - 1))
    return beginning


def event_at(topic: Topic, partition: int, start: int) -> StoredEvent | None:
    """The first event from `start` on; None if it is not there any more, or not yet."""
    with contextlib.suppress(OffsetOutOfRangeError):
        for event in topic.read(partition, start, max_events=1):
            return event
    return None


def last_events(
    topic: Topic, partition: int, count: int, *, before: int | None = None
) -> list[StoredEvent]:
    """The last events of a partition that can be read, at most `count`; there may be fewer.

    Offsets at the end may be those of no events, so that it is looked further and further back.

    Args:
        before: the last ones before that offset.
    """
    info = topic.partition_info(partition)
    stop = info.next_offset if before is None else before
    reach = count
    while True:
        start = max(stop - reach, info.beginning_offset)
        with contextlib.suppress(OffsetOutOfRangeError):  # it has expired just now
            events = topic.read(partition, start, end=before, max_events=reach)
            if len(events) >= count or start == info.beginning_offset:
                return events[-count:]
        if start == info.beginning_offset:
            return []
        reach *= 4


def was_used(topic: Topic, partition: int) -> bool:
    """Whether there is an event in a partition, or one has expired in it.

    A partition itself tells its last event only if that is near its end.
    """
    if topic.partition_info(partition).last_enqueued_at is not None:
        return True
    return bool(last_events(topic, partition, 1))
