"""One partition as one reader reads it: what came of it ahead of the reader.

Invariants:

1. A lane goes one way: from the offset it was made for to `next`, behind which nothing has come. To
   read elsewhere another lane is made.
2. What was taken stays until something behind it is asked for: a look may be given up halfway, and
   then the same is asked for again.
3. `size` and `next` may be read by any thread. All else is used under the fetchers' mutex.
4. A signal handler may end anything here anywhere: what has come is added in one step, `next` with
   it, and let go only once what follows it is asked for.

Nothing here waits.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
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
        end_seen: whether the end was seen at `next`.
        room: how many it should hold at most.
        error: what librdkafka said of the partition; behind what has come.
        is_expired: whether there is no offset `next` any more, or not yet.
        heard: whether anything has come at all.
        doubts: how many looks have found nothing since something came.
        paused: whether librdkafka was told to fetch no more.
    """

    def __init__(self, news: News, partition: int, offset: int, room: int) -> None:
        self.news: Final = news
        self.partition: Final = partition
        self.end_seen = False
        self.room = max(room, _LEAST_ROOM)
        self.error: Exception | None = None
        self.is_expired = False
        self.heard = False
        self.doubts = 0
        self.paused = False
        self._begin = offset
        self._behind = offset  # the offset behind all that has come, but for the pieces
        self._taken = offset  # the offset behind what was taken
        self._pieces: list[Piece] = []  # from `_begin` on; others may iterate it meanwhile

    def __repr__(self) -> str:
        return f"<Lane of partition {self.partition} from {self._begin} to {self.next}>"

    # For who fetches

    def put(self, found: Decoded) -> None:
        """Events came, one at least, in the order of their offsets."""
        self.heard = True
        self.doubts = 0
        self.end_seen = False
        stop = found.events[-1].offset + 1
        last = self._pieces[-1] if self._pieces else None
        if last is not None and self._can_grow(last, len(found.events)):
            size = last.body_bytes + found.body_bytes
            self._pieces[-1] = Piece(last.events + found.events, stop, size)
        else:
            self._pieces.append(Piece(found.events, stop, found.body_bytes))

    def _can_grow(self, piece: Piece, events: int) -> bool:
        return len(piece.events) + events <= PIECE_EVENTS and piece.first >= self._taken

    def put_end(self, offset: int) -> bool:
        """The end of the partition was seen at `offset`; whether that is further than known."""
        self.heard = True
        self.doubts = 0
        self.end_seen = True
        if offset <= self.next:
            return False
        self._behind = offset
        return True

    @property
    def next(self) -> int:
        """The offset behind all that has come: events, or the end of the partition."""
        try:
            return max(self._behind, self._pieces[-1].stop)
        except IndexError:  # there is none, or none any more
            return self._behind

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not self._pieces or self._pieces[-1].stop <= self._taken

    @property
    def size(self) -> int:
        """About how many bytes wait to be taken."""
        return sum([_size_of(piece) for piece in self._pieces if piece.stop > self._taken])

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
        self._let_go_before(wanted.offset)
        left = room
        given: list[Piece] = []
        taken = self.next
        for piece in self._pieces:
            part = piece.behind(wanted.offset)
            is_cut = wanted.stop is not None and wanted.stop < part.stop
            if is_cut or part.body_bytes > left:
                count = max(part.fitting(left), 1 if least and not given else 0)
                if wanted.stop is not None:
                    count = min(count, part.index_of(wanted.stop))
                if count < len(part.events):
                    taken = part.events[count].offset
                    given += [part.first_part(count)] if count else []
                    break
            given.append(part)
            left -= part.body_bytes
        self._taken = taken if wanted.stop is None else min(taken, wanted.stop)
        at_end = self.end_seen and self._taken == self.next
        return Taken(given, self._taken, at_end)

    def _let_go_before(self, offset: int) -> None:
        """All before `offset` is finished."""
        self._behind = self.next
        self._begin = offset
        del self._pieces[: bisect_right(self._pieces, offset, key=_stop)]


_stop: Final = attrgetter("stop")


def _size_of(piece: Piece) -> int:
    return piece.body_bytes + _EVENT_BYTES * len(piece.events)
