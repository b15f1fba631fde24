"""Events of one partition as they were read, in pieces; and as runs, as a `Consumer` takes them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, groupby, pairwise
from operator import attrgetter
from typing import Final, NamedTuple

from confluent_kafka import Message

from eventlog.event import StoredEvent
from eventlog.kafka.origin import time_of
from eventlog.positions import microseconds

__all__ = ["KafkaRun", "Piece", "index_of", "offset_of", "runs_of"]


class Piece(NamedTuple):
    """Events that came together, one at least. They are never added to.

    Attributes:
        stop: the offset behind the last of them.
        body_bytes: of all together.
    """

    events: list[StoredEvent]
    stop: int
    body_bytes: int

    @property
    def first(self) -> int:
        """The offset of its first event."""
        return self.events[0].offset

    def first_part(self, count: int) -> Piece:
        """The first so many of its events, not all of them."""
        events = self.events[:count]
        return Piece(events, self.events[count].offset, _size_of(events))

    def behind(self, offset: int) -> Piece:
        """Its events from `offset` on, which is before its stop."""
        if offset <= self.first:
            return self
        events = self.events[self.index_of(offset) :]
        return Piece(events, self.stop, _size_of(events))

    def index_of(self, offset: int) -> int:
        """How many of its events come before `offset`."""
        return bisect_left(self.events, offset, key=_offset)

    def fitting(self, room: int) -> int:
        """How many of its events have together no more bytes than there is room for."""
        return bisect_right(list(accumulate(map(len, map(_body, self.events)))), room)


class KafkaRun:
    """Events that follow each other; see `eventlog.consuming.source.Run`.

    It may have none: then it says that there is nothing before `stop` but what Kafka itself keeps
    there, such as the ends of transactions.
    """

    __slots__ = ("_events", "enqueued_us", "first", "size", "stop")

    def __init__(
        self, events: list[StoredEvent], first: int, stop: int, enqueued_us: int, size: int
    ) -> None:
        self._events = events
        self.first = first
        self.stop = stop
        self.enqueued_us = enqueued_us
        self.size = size

    def __repr__(self) -> str:
        return f"<KafkaRun of {len(self._events)} from {self.first} to {self.stop}>"

    def events(self) -> list[StoredEvent]:
        """The events."""
        return self._events.copy()


def runs_of(pieces: Iterable[Piece], stop: int, *, by_time: bool) -> list[KafkaRun]:
    """Pieces as runs, whose stops are where the next one begins.

    Args:
        stop: the offset behind the last of them, or behind what Kafka itself keeps there.
        by_time: whether the events of a run must all have one time.
    """
    if by_time:
        pieces = _pieces_by_time(pieces)
    runs = [
        KafkaRun(
            piece.events,
            piece.first,
            stop,
            microseconds(time_of(piece.events[-1])),
            piece.body_bytes,
        )
        for piece in pieces
    ]
    for run, following in pairwise(runs):
        run.stop = following.first
    return runs


def _pieces_by_time(pieces: Iterable[Piece]) -> list[Piece]:
    every = chain.from_iterable([piece.events for piece in pieces])
    parts = [list(some) for _, some in groupby(every, time_of)]
    return [Piece(some, some[-1].offset + 1, _size_of(some)) for some in parts]


def _size_of(events: Iterable[StoredEvent]) -> int:
    return sum(map(len, map(_body, events)))


_body: Final = attrgetter("body")
_offset: Final = attrgetter("offset")


def offset_of(message: Message) -> int:
    """The offset of a message that was read."""
    return message.offset()  # type: ignore[return-value]


def index_of(messages: Sequence[Message], offset: int) -> int:
    """How many of them, in the order of their offsets, come before `offset`."""
    return bisect_left(messages, offset, key=offset_of)
