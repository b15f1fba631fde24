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
from itertools import chain
from typing import Final, NamedTuple

from confluent_kafka import Message

from eventlog.consuming.source import Wanted
from eventlog.kafka.reading.news import News
from eventlog.kafka.reading.runs import fitting, index_of, offset_of

__all__ = ["Lane", "Taken"]

_MESSAGE_BYTES: Final = 128
"""What a message takes in memory besides its body, about."""

_LEAST_ROOM: Final = 64 * 1024


class Taken(NamedTuple):
    """Messages taken of a lane.

    Attributes:
        first: where they were asked for.
        stop: the offset behind them, and behind what Kafka keeps there: up to it there are none.
        at_end: whether nothing was there behind them when that was last seen.
    """

    messages: list[Message]
    first: int
    stop: int
    at_end: bool


class _Segment(NamedTuple):
    """Messages that came together; `stop` is the offset behind the last of them."""

    messages: list[Message]
    stop: int
    body_bytes: int

    @property
    def size(self) -> int:
        return self.body_bytes + _MESSAGE_BYTES * len(self.messages)

    def split(self, count: int) -> tuple[_Segment, _Segment]:
        """The first so many, and the others, which must not be none."""
        some, others = self.messages[:count], self.messages[count:]
        size = sum(map(len, some))
        return (
            _Segment(some, offset_of(others[0]), size),
            _Segment(others, self.stop, self.body_bytes - size),
        )


class Lane:
    """See the module.

    Attributes:
        news: the reader's.
        next: the offset behind all that has come: messages, or the end of the partition.
        end_seen: whether the end was seen at `next`.
        size: about how many bytes wait to be taken.
        room: how many it should hold at most.
        error: what librdkafka said of the partition; behind what has come.
        is_expired: whether there is no offset `next` any more, or not yet.
        heard: whether anything has come at all.
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
        self.paused = False
        self._begin = offset
        self._taken = offset  # the offset behind what was taken
        self._given: list[_Segment] = []  # what was taken
        self._waiting: deque[_Segment] = deque()  # what was not

    def __repr__(self) -> str:
        return f"<Lane of partition {self.partition} from {self._begin} to {self.next}>"

    # For who fetches

    def put(self, messages: list[Message]) -> None:
        """Messages came, in the order of their offsets."""
        self.heard = True
        self.end_seen = False
        self.next = offset_of(messages[-1]) + 1
        segment = _Segment(messages, self.next, sum(map(len, messages)))
        self._waiting.append(segment)
        self.size += segment.size

    def put_end(self, offset: int) -> bool:
        """The end of the partition was seen at `offset`; whether that is further than known."""
        self.heard = True
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
            least: but one message at least.
        """
        self._go_to(wanted.offset)
        left = room
        while self._waiting:
            segment = self._waiting[0]
            is_cut = wanted.stop is not None and wanted.stop < segment.stop
            if is_cut or segment.body_bytes > left:
                least = least and not self._given
                count = fitting(segment.messages, left, least=least)
                if wanted.stop is not None:
                    count = min(count, index_of(segment.messages, wanted.stop))
                self._give(count)
                break
            self._give(len(segment.messages))
            left -= segment.body_bytes
        self._taken = offset_of(self._waiting[0].messages[0]) if self._waiting else self.next
        if wanted.stop is not None:
            self._taken = min(self._taken, wanted.stop)
        at_end = self.end_seen and self._taken == self.next
        messages = list(chain.from_iterable([one.messages for one in self._given]))
        return Taken(messages, wanted.offset, self._taken, at_end)

    def _go_to(self, offset: int) -> None:
        """All before `offset` is finished; all behind it is to be taken, perhaps once more."""
        if offset < self._taken:
            self._waiting.extendleft(reversed(self._given))
            self.size += sum([segment.size for segment in self._given])
        self._given = []
        while self._waiting and offset_of(self._waiting[0].messages[0]) < offset:
            segment = self._waiting.popleft()
            if segment.stop > offset:
                before, rest = segment.split(index_of(segment.messages, offset))
                self._waiting.appendleft(rest)
                self.size -= before.size
                break
            self.size -= segment.size
        self._begin = self._taken = offset

    def _give(self, count: int) -> None:
        """So many messages of the first segment that waits are taken."""
        segment = self._waiting.popleft()
        if count < len(segment.messages):
            segment, rest = segment.split(count)
            self._waiting.appendleft(rest)
        if segment.messages:
            self._given.append(segment)
            self.size -= segment.size
