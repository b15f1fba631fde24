"""Finding out how far a partition is copied, where the target does not remember it.

A cluster forgets that when nothing was copied for a week or so; and who goes back to where a topic
came from, copies onto its own beginning. The last event of the target tells: if it is one of the
source's, of the same time, and those before it are the same on both sides, then what comes behind
it in the source is what there is to copy. If it might be several of the source's, nothing is known.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from eventlog.copying.reading import batches, last_events
from eventlog.errors import CorruptBatchError
from eventlog.event import StoredEvent
from eventlog.log import Topic
from eventlog.positions import EPOCH, LAST_INSTANT_US, microseconds

__all__ = ["is_same", "recollected"]

_COMPARED: Final = 100
"""So many events are compared at most."""

_MOST_CANDIDATES: Final = 20
"""Of one time, and equal to the last one of the target."""

_TICK: Final = timedelta(milliseconds=1)
"""The coarsest times that engines keep."""

_LAST_TICK: Final = EPOCH + timedelta(microseconds=LAST_INSTANT_US) - _TICK


def recollected(source: Topic, target: Topic, partition: int) -> int:
    """The offset in the source of which the last event of the target is the copy.

    -1 if there is none, or it cannot be told. Times in the target must be those of the source.
    """
    try:
        return _recollected(source, target, partition)
    except CorruptBatchError:
        return -1


def _recollected(source: Topic, target: Topic, partition: int) -> int:
    there = last_events(target, partition, _COMPARED)
    if not there:
        return -1
    candidates = _equals(source, partition, there[-1])
    if len(candidates) > _MOST_CANDIDATES:
        return -1
    found = -1
    for offset in candidates:
        here = last_events(source, partition, _COMPARED, before=offset + 1)
        if all(map(is_same, reversed(here), reversed(there))):
            if found >= 0:
                return -1
            found = offset
    return found


def _equals(source: Topic, partition: int, event: StoredEvent) -> list[int]:
    """Offsets of the source's events that `event` may be the copy of; a few too many at most."""
    tick = _floor(event.enqueued_at)
    if tick > _LAST_TICK:
        return []
    start, stop = (source.offset_at(partition, when) for when in (tick, tick + _TICK))
    lists = batches(source, partition, start, stop, on_lost=lambda _: None)
    found = (one.offset for events in lists for one in events if is_same(one, event))
    return list(islice(found, _MOST_CANDIDATES + 1))


def is_same(one: StoredEvent, other: StoredEvent) -> bool:
    """Whether they are equal, as far as every engine keeps what they have."""
    return (
        one.body == other.body
        and one.key == other.key
        and one.properties == other.properties
        and _floor(one.enqueued_at) == _floor(other.enqueued_at)
    )


def _floor(when: datetime) -> datetime:
    return when - timedelta(microseconds=microseconds(when) % 1000)
