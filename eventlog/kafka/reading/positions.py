"""Positions as Kafka is asked for them, and its answers as offsets.

To Kafka the marks that it keeps of transactions are records like others; so of what is as late as a
time it may find a mark too early, before events that are earlier:

- Where a copy was made (`eventlog.kafka.intake`) old events have marks of the time of the copy
  between them. There the event is looked for by halves: times of events do not decrease.
- Where those who send have set the times, in transactions, nothing is known of their order: then it
  is read on from the mark, however far.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Final

from eventlog.consuming.source import ParsedPosition
from eventlog.errors import CorruptBatchError, OffsetOutOfRangeError
from eventlog.kafka.cluster import EARLIEST as FIRST
from eventlog.kafka.cluster import LATEST as LAST
from eventlog.kafka.cluster import OffsetAt, Spec
from eventlog.kafka.stamping import Stamping
from eventlog.positions import EARLIEST, Anchor, microseconds

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["offset_for", "spec_for"]

_READ_EVENTS: Final = 10_000
_READ_BYTES: Final = 8 * 2**20


def spec_for(position: ParsedPosition) -> Spec:
    """What to ask for; of an offset, which needs no answer, the end."""
    if isinstance(position, Anchor | int):
        spec: Spec = FIRST if position is EARLIEST else LAST
        return spec
    return max(0, -(-microseconds(position) // 1000))  # the first millisecond that is not before


def offset_for(
    topic: KafkaTopic, partition: int, position: ParsedPosition, answer: OffsetAt, following: int
) -> int:
    """The offset a position stands for.

    Args:
        following: the partition's next offset; what no transaction has committed is behind it.
    """
    if isinstance(position, int):
        return position
    if answer.offset < 0 or answer.offset >= following:  # nothing is as late as that
        return following
    if isinstance(position, Anchor):
        return answer.offset

    try:
        return _found(topic, partition, position, answer.offset, following)
    except OffsetOutOfRangeError:  # it has expired by now, and so has all that is before
        return answer.offset


def _found(topic: KafkaTopic, partition: int, when: datetime, start: int, following: int) -> int:
    """The offset, from `start` on, of the first event that is not before `when`.

    It may be less, if no events are in between.
    """
    low = _before(topic, partition, when, start, following)
    if low is None:
        return start
    if Stamping(topic).is_by_brokers():
        return _halved(topic, partition, when, low, following)
    return _read_on(topic, partition, when, low, following)


def _before(topic: KafkaTopic, partition: int, when: datetime, low: int, high: int) -> int | None:
    """The first event of a range, if it is before `when`."""
    for event in topic.read(partition, low, end=high, max_events=1):
        return event.offset if event.enqueued_at < when else None
    return None


def _halved(topic: KafkaTopic, partition: int, when: datetime, low: int, found: int) -> int:
    """The same where times do not decrease; the event at `low` is before `when`."""
    while found - low > 1:
        middle = (low + found) // 2
        first = _before(topic, partition, when, middle, found)
        if first is None:
            found = middle
        else:
            low = first
    return found


def _read_on(topic: KafkaTopic, partition: int, when: datetime, low: int, following: int) -> int:
    """The same where nothing is known of times; no further than to what is damaged."""
    with contextlib.suppress(CorruptBatchError):  # who reads from there is told
        while events := topic.read(
            partition, low, end=following, max_events=_READ_EVENTS, max_bytes=_READ_BYTES
        ):
            for event in events:
                if event.enqueued_at >= when:
                    return event.offset
            low = events[-1].offset + 1
        return following
    return low
