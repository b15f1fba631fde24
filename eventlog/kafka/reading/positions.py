"""Positions as Kafka is asked for them, and its answers as offsets."""

from __future__ import annotations

from eventlog.consuming.source import ParsedPosition
from eventlog.kafka.cluster import EARLIEST as FIRST
from eventlog.kafka.cluster import LATEST as LAST
from eventlog.kafka.cluster import OffsetAt, Spec
from eventlog.positions import EARLIEST, Anchor, microseconds

__all__ = ["offset_for", "spec_for"]


def spec_for(position: ParsedPosition) -> Spec:
    """What to ask for; of an offset, which needs no answer, the end."""
    if isinstance(position, Anchor | int):
        spec: Spec = FIRST if position is EARLIEST else LAST
        return spec
    return max(0, -(-microseconds(position) // 1000))  # the first millisecond that is not before


def offset_for(position: ParsedPosition, answer: OffsetAt, following: int) -> int:
    """The offset a position stands for.

    Args:
        following: the partition's next offset; what no transaction has committed is behind it.
    """
    if isinstance(position, int):
        return position
    if answer.offset < 0:  # nothing is as late as that
        return following
    return min(answer.offset, following)
