"""Positions as Kafka is asked for them, and its answers as offsets.

Where a copy was made (`eventlog.kafka.intake`), old events have Kafka's marks of its transactions
between them, and those have the time of the copy. To Kafka a mark is a record like others; so of
what is as late as an old time, it finds a mark too early. There the event is looked for by reading:
times of events do not decrease.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from eventlog.consuming.source import ParsedPosition
from eventlog.errors import OffsetOutOfRangeError
from eventlog.kafka.cluster import EARLIEST as FIRST
from eventlog.kafka.cluster import LATEST as LAST
from eventlog.kafka.cluster import OffsetAt, Spec
from eventlog.positions import EARLIEST, Anchor, microseconds

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["offset_for", "spec_for"]


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
    """The first offset from `start` on from which on no event is before `when`."""

    def before(low: int, high: int) -> int | None:
        """The first event of a range, if it is before `when`."""
        for event in topic.read(partition, low, end=high, max_events=1):
            return event.offset if event.enqueued_at < when else None
        return None

    low = before(start, following)
    if low is None:
        return start
    found = following
    while found - low > 1:
        middle = (low + found) // 2
        first = before(middle, found)
        if first is None:
            found = middle
        else:
            low = first
    return found
