"""Which partitions a consumer reads, from where, and up to where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from eventlog.consuming.backlog import Backlog
from eventlog.consuming.source import ParsedPosition, Source, Span, out_of_range
from eventlog.positions import EARLIEST, Position, PositionMap, microseconds, of_partition, parse

if TYPE_CHECKING:
    from eventlog.consuming.claims import Claims

__all__ = ["Scope", "check_range"]


class Scope:
    """What a consumer was asked to read; positions get their meaning when reading begins.

    Args:
        now_us: the log's clock.

    Attributes:
        numbers: the partitions; None for all there are and will be.
        follow: whether to wait for what is not there yet.

    Raises:
        TypeError, ValueError: what it was asked makes no sense.
    """

    def __init__(
        self,
        partitions: int | Iterable[int] | None,
        start: Position | PositionMap,
        end: Position | PositionMap | None,
        follow: bool | None,  # noqa: FBT001 - None leaves it to `end`
        now_us: int,
    ) -> None:
        self.numbers = None if partitions is None else _numbers(partitions)
        self.follow = end is None if follow is None else follow
        self._start = start
        self._end = end
        for given in (start, EARLIEST if end is None else end):
            of_partition(given, 0, None)
            for position in given.values() if isinstance(given, Mapping) else [given]:
                parse(position, now_us)

    @property
    def grows(self) -> bool:
        """Whether partitions that are added later are read too."""
        return self.follow and self.numbers is None

    @property
    def is_endless(self) -> bool:
        """Whether there is always more to come."""
        return self.follow and self._end is None

    def begin(
        self,
        source: Source,
        numbers: Sequence[int],
        claims: Claims | None,
        *,
        from_start: bool = True,
    ) -> list[Backlog]:
        """These partitions as they are when reading begins; claimed, if it is for a group.

        Args:
            from_start: begin where was asked; otherwise as early as can be.

        Raises:
            OffsetOutOfRangeError: an offset to begin at is not there.
            ConsumerDisconnectedError: they cannot be claimed.
            PartitionNotFoundError, TopicNotFoundError: there is none.
        """
        now_us = source.now_us()
        start: Any = self._start if from_start else EARLIEST
        known = 0
        if claims is not None:
            there = source.partitions() if self.numbers else max(numbers) + 1
            known = claims.known_partitions(there)  # and none that comes just now is passed over
        starts = {
            number: parse(of_partition(start, number, EARLIEST), now_us)
            if number < known or not known
            else EARLIEST  # it was added since the group was last here
            for number in numbers
        }
        ends: dict[int, ParsedPosition] = {}
        for number in numbers:
            end = of_partition(self._end, number, None)
            if end is not None:
                ends[number] = parse(end, now_us)
        spans = source.resolve(starts, ends)
        began = {} if claims is None else claims.store.checkpoints()
        for number in numbers:
            if number not in began:
                check_range(source, number, spans[number])
        offsets = {number: spans[number].start for number in numbers}
        if claims is not None:
            offsets = {number: claims.claim(number, offsets[number]) for number in numbers}
            _check_resumed(source, spans, offsets)
        return [
            self._backlog(source.name, number, offsets[number], spans[number], ends.get(number))
            for number in numbers
        ]

    def _backlog(
        self, topic: str, number: int, offset: int, span: Span, end: ParsedPosition | None
    ) -> Backlog:
        last = span.end
        until_us = None
        if not self.follow:
            last = span.next_offset if last is None else min(last, span.next_offset)
        elif last is not None and isinstance(end, datetime) and last >= span.next_offset:
            # No event of that time is there yet, and the next one may come before it.
            last, until_us = None, microseconds(end)
        is_there = last is not None and last <= span.next_offset
        return Backlog(topic, number, offset, end=last, until_us=until_us, end_is_there=is_there)


def _numbers(partitions: int | Iterable[int]) -> tuple[int, ...]:
    """Numbers of partitions, each once."""
    if isinstance(partitions, str | bytes) or not isinstance(partitions, int | Iterable):
        raise TypeError(f"partitions is an int, or several, not {type(partitions).__name__}")
    numbers = [partitions] if isinstance(partitions, int) else list(partitions)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"a partition is an int, not {type(number).__name__}")
    if not numbers:
        raise ValueError("partitions names none: None reads all")
    return tuple(dict.fromkeys(numbers))


def check_range(source: Source, number: int, span: Span) -> None:
    """Nothing, if reading can start where `span` says.

    Raises:
        OffsetOutOfRangeError: it cannot.
    """
    if not span.beginning_offset <= span.start <= span.next_offset:
        raise out_of_range(source.name, number, span.start, span.beginning_offset, span.next_offset)


def _check_resumed(source: Source, spans: dict[int, Span], offsets: dict[int, int]) -> None:
    """Checkpoints before the beginning are of events that have expired: those behind the end are
    of a log that has lost some. The topic may have grown since the first look.
    """
    beyond = {
        number: offset for number, offset in offsets.items() if offset > spans[number].next_offset
    }
    if not beyond:
        return
    for number, span in source.resolve(beyond, {}).items():
        if span.start > span.next_offset:
            check_range(source, number, span)
