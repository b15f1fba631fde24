"""Messages of one partition as runs of events: cut where the time changes, decoded when wanted."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate, chain, cycle, groupby, islice, repeat
from typing import Any, Final, NamedTuple

from confluent_kafka import Message

from eventlog.event import EVENTS_PER_ORIGIN, NO_PROPERTIES, Origin, StoredEvent
from eventlog.kafka.records import from_messages
from eventlog.positions import LAST_INSTANT_US, instant

__all__ = ["KafkaRun", "Place", "fitting", "index_of", "offset_of", "runs_of"]

_PLACES: Final = range(EVENTS_PER_ORIGIN)
_LAST_MS: Final = LAST_INSTANT_US // 1000


class Place(NamedTuple):
    """Where messages come from.

    Attributes:
        append_time: whether their times are the broker's, which do not decrease.
    """

    topic: str
    partition: int
    append_time: bool


class KafkaRun:
    """Messages of one time; see `eventlog.consuming.source.Run`.

    It may have none: then it says that there is nothing before `stop` but what Kafka itself keeps
    there, such as the ends of transactions.
    """

    __slots__ = ("_messages", "_place", "enqueued_us", "first", "size", "stop")

    def __init__(
        self, place: Place, messages: list[Message], first: int, stop: int, enqueued_us: int
    ) -> None:
        self._place = place
        self._messages = messages
        self.first = first
        self.stop = stop
        self.enqueued_us = enqueued_us
        self.size = sum(map(len, messages))

    def __repr__(self) -> str:
        return f"<KafkaRun of {len(self._messages)} from {self.first} to {self.stop}>"

    def events(self) -> list[StoredEvent]:
        """The events."""
        messages = self._messages
        if not messages or not _is_plain(messages):
            return from_messages(self._place.topic, self._place.partition, messages)
        bodies: Any = map(Message.value, messages)
        skipped = self.first % EVENTS_PER_ORIGIN
        at = instant(self.enqueued_us)
        origins = [
            repeat(Origin(self._place.topic, self._place.partition, at, offset), EVENTS_PER_ORIGIN)
            for offset in range(self.first - skipped, self.first + len(messages), EVENTS_PER_ORIGIN)
        ]
        return list(
            map(
                StoredEvent,
                bodies,
                repeat(None),
                repeat(NO_PROPERTIES),
                islice(cycle(_PLACES), skipped, None),
                islice(chain.from_iterable(origins), skipped, None),
            )
        )


def _is_plain(messages: list[Message]) -> bool:
    """Whether they are bodies only, and without gaps: of these each event costs half as much."""
    return (
        offset_of(messages[-1]) - offset_of(messages[0]) == len(messages) - 1
        and not any(map(Message.headers, messages))
        and not _any_key(messages)
        and None not in map(Message.value, messages)
    )


def _any_key(messages: list[Message]) -> bool:
    keys: list[bytes | None] = list(map(Message.key, messages))
    return keys.count(None) < len(keys)


def offset_of(message: Message) -> int:
    """The offset of a message that was read."""
    return message.offset()  # type: ignore[return-value]


def index_of(messages: list[Message], offset: int) -> int:
    """How many of them, in the order of their offsets, come before `offset`."""
    return bisect_left(messages, offset, key=offset_of)


def fitting(messages: list[Message], room: int, *, least: bool) -> int:
    """How many of them have together no more bytes than there is room for.

    Args:
        least: at least one.
    """
    if sum(map(len, messages)) <= room:
        return len(messages)
    sizes = list(accumulate(map(len, messages)))
    return max(bisect_right(sizes, room), 1 if least else 0)


def runs_of(place: Place, messages: list[Message], stop: int) -> list[KafkaRun]:
    """Messages as runs, one for each time; `stop` is the offset behind the last of them, or behind
    what Kafka itself keeps there.
    """
    if not messages:
        return []
    parts = list(_by_time(place, messages))
    firsts = [offset_of(some[0]) for _, some in parts]
    return [
        KafkaRun(place, some, first, behind, time_ms * 1000)
        for (time_ms, some), first, behind in zip(parts, firsts, [*firsts[1:], stop], strict=True)
    ]


def _by_time(place: Place, messages: list[Message]) -> Iterator[tuple[int, list[Message]]]:
    if not place.append_time:
        for time_ms, some in groupby(messages, _time):
            yield time_ms, list(some)
        return
    # To ask each message for its time would cost as much as to make an event of it.
    begin, end = 0, len(messages)
    while begin < end:
        time_ms = _time(messages[begin])
        known, step = begin, 1
        while known + step < end and _time(messages[known + step]) <= time_ms:
            known += step
            step *= 4
        behind = bisect_right(messages, time_ms, known, min(known + step, end), key=_time)
        yield time_ms, messages[begin:behind]
        begin = behind


def _time(message: Message) -> int:
    """Milliseconds since 1970, or the nearest there is to a time that is missing."""
    return min(max(message.timestamp()[1], 0), _LAST_MS)
