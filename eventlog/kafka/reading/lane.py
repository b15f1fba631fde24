"""One partition as one reader reads it: what came of it ahead of the reader.

Invariants:

1. A lane goes one way: from the offset it was made for to `next`, behind which nothing has come. To
   read elsewhere another lane is made.
2. What was taken stays until something behind it is asked for: a look may be given up halfway, and
   then the same is asked for again.
3. `size` is that of what was not taken yet.

Nothing here waits, or knows of threads: whoever uses a lane holds its fetchers' mutex.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from eventlog.consuming.source import Wanted
from eventlog.kafka.reading.news import News
from eventlog.kafka.reading.runs import Piece
from eventlog.kafka.records import Decoded

__all__ = ["PIECE_EVENTS", "Lane", "Taken"]

PIECE_EVENTS: Final = 500
"""Pieces with fewer events are put together, while they wait to be taken."""

_EVENT_BYTES: Final = 128
"""What an event takes in memory besides its body, about."""

_LEAST_ROOM: Final = 64 * 1024


class Taken(NamedTuple):
    """Events taken of a lane.

    Attributes:
        stop: the offset behind them, and behind what Kafka keeps there: up to it there are none.
        at_end: whether nothing was there behind them when that was last seen.
    """

    pieces: list[Piece]
    stop: int
    at_end: bool

    @property
    def body_bytes(self) -> int:
        """Of all together."""
        return sum([piece.body_bytes for piece in self.pieces])


class Lane:
    """See the module.

    Attributes:
        news: the reader's.
        next: the offset behind all that has come: events, or the end of the partition.
        end_seen: whether the end was seen at `next`.
        size: about how many bytes wait to be taken.
        room: how many it should hold at most.
        error: what librdkafka said of the partition; behind what has come.
        is_expired: whether there is no offset `next` any more, or not yet.
        heard: whether anything has come at all.
        doubts: how many looks have found nothing since something came.
        is_awaited: whether somebody waits until something comes.
        paused: whether librdkafka was told to fetch no more.
    """

    def __init__(self, news: News, partition: int, offset: int, room: int) -> None:
        self.news: Final = news
        self.partition: Final = partition
        self.next = offset
        self.end_seen = False
        self.size = 0
        self.room = max(room, _LEAST_ROOM)
        self.error: Exception | None = None
        self.is_expired = False
        self.heard = False
        self.doubts = 0
        self.is_awaited = False
        self.paused = False
        self._begin = offset
        self._taken = offset  # the offset behind what was taken
        self._given: list[Piece] = []  # what was taken
        self._waiting: deque[Piece] = deque()  # what was not

    def __repr__(self) -> str:
        return f"<Lane of partition {self.partition} from {self._begin} to {self.next}>"

    # For who fetches

    def put(self, found: Decoded) -> None:
        """Events came, one at least, in the order of their offsets."""
        self.heard = True
        self.doubts = 0
        self.is_awaited = False
        self.end_seen = False
        self.next = found.events[-1].offset + 1
        piece = Piece(found.events, self.next, found.body_bytes)
        self.size += _size_of(piece)
        if self._waiting and len(self._waiting[-1].events) + len(piece.events) <= PIECE_EVENTS:
            before = self._waiting.pop()
            size = before.body_bytes + piece.body_bytes
            piece = Piece(before.events + piece.events, self.next, size)
        self._waiting.append(piece)

    def put_end(self, offset: int) -> bool:
        """The end of the partition was seen at `offset`; whether that is further than known."""
        self.heard = True
        self.doubts = 0
        self.is_awaited = False
        self.end_seen = True
        if offset <= self.next:
            return False
        self.next = offset
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not self.size

    @property
    def is_full(self) -> bool:
        """Whether as much waits as it should hold."""
        return self.size > self.room

    # For who reads

    def holds(self, offset: int) -> bool:
        """Whether it can be read from there."""
        return self._begin <= offset <= self.next

    def has(self, wanted: Wanted) -> bool:
        """Whether something of what is wanted has come, or that there is nothing."""
        return self.next > wanted.offset

    def take(self, wanted: Wanted, room: int, *, least: bool) -> Taken:
        """What has come of what is wanted.

        Args:
            room: at most as many bytes,
            least: but one event at least.
        """
        self._go_to(wanted.offset)
        left = room
        while self._waiting:
            piece = self._waiting[0]
            is_cut = wanted.stop is not None and wanted.stop < piece.stop
            if is_cut or piece.body_bytes > left:
                count = max(piece.fitting(left), 1 if least and not self._given else 0)
                if wanted.stop is not None:
                    count = min(count, piece.index_of(wanted.stop))
                self._give(count)
                break
            self._give(len(piece.events))
            left -= piece.body_bytes
        self._taken = self._waiting[0].first if self._waiting else self.next
        if wanted.stop is not None:
            self._taken = min(self._taken, wanted.stop)
        at_end = self.end_seen and self._taken == self.next
        return Taken([*self._given], self._taken, at_end)

    def _go_to(self, offset: int) -> None:
        """All before `offset` is finished; all behind it is to be taken, perhaps once more."""
        if offset < self._taken:
            self._waiting.extendleft(reversed(self._given))
            self.size += sum(map(_size_of, self._given))
        self._given = []
        while self._waiting and self._waiting[0].first < offset:
            piece = self._waiting.popleft()
            count = piece.index_of(offset)
            if count < len(piece.events):
                piece, rest = piece.split(count)
                self._waiting.appendleft(rest)
            self.size -= _size_of(piece)
        self._begin = self._taken = offset

    def _give(self, count: int) -> None:
        """So many events of the first piece that waits are taken."""
        if not count:
            return
        piece = self._waiting.popleft()
        if count < len(piece.events):
            piece, rest = piece.split(count)
            self._waiting.appendleft(rest)
        self._given.append(piece)
        self.size -= _size_of(piece)


def _size_of(piece: Piece) -> int:
    return piece.body_bytes + _EVENT_BYTES * len(piece.events)
