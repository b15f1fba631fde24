"""From what a caller hands in to events by partition: the part of an append that engines share.

An append is *gathered* into columns (and checked) and *placed* on partitions, in the caller's
thread. What becomes of the columns is the engine's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from eventlog.errors import EventTooLargeError, PartitionNotFoundError, UnsupportedOperationError
from eventlog.event import (
    NO_PROPERTIES,
    Event,
    Key,
    PropertyValue,
    StoredEvent,
    body_bytes,
    checked_key,
    checked_properties,
)
from eventlog.log import Body
from eventlog.partitioning import KeyPartitioner, RoundRobin
from eventlog.topic_settings import MAX_APPEND_BYTES

__all__ = [
    "Columns",
    "TopicFacts",
    "TopicState",
    "check_expected",
    "check_partition",
    "check_sizes",
    "gather",
    "gather_one",
    "place",
    "place_key",
    "sized",
]

_bodies_of = attrgetter("body")
_keys_of = attrgetter("key")
_properties_of = attrgetter("properties")
_JOINED_AT_ONCE: Final = 512
_EVENT_KINDS: Final = frozenset({Event, StoredEvent})

_ROUGH_BYTES: Final = 96 * 1024
"""Of no more than this, a part is said to be as large as the whole: no engine cuts so little."""


class TopicFacts(Protocol):
    """What is known of a topic where events are placed on its partitions."""

    @property
    def name(self) -> str:
        """The topic's name."""

    @property
    def partitions(self) -> int:
        """How many it has."""

    @property
    def partitioner(self) -> str:
        """The name of what places keys."""

    @property
    def max_event_bytes(self) -> int:
        """The largest body."""


class TopicState(Protocol):
    """A topic as this process knows it, with what places events."""

    @property
    def record(self) -> TopicFacts:
        """What is known of it."""

    @property
    def partitioner(self) -> KeyPartitioner | None:
        """What places keys; None if it is not known here."""

    @property
    def turns(self) -> RoundRobin:
        """What places events without one."""


class Columns(NamedTuple):
    """Events on their way in, as columns; a column in which nothing stands is None.

    `size` is about how many bytes they are together, and never less than any body.
    """

    bodies: list[bytes]
    keys: list[Key | None] | None
    properties: list[dict[str, PropertyValue] | None] | None
    size: int

    def take(self, rows: list[int]) -> Columns:
        """Some of them."""
        bodies = [self.bodies[row] for row in rows]
        keys = self.keys and [self.keys[row] for row in rows]
        properties = self.properties and [self.properties[row] for row in rows]
        if self.size <= _ROUGH_BYTES:
            return Columns(bodies, keys, properties, self.size)  # nobody cuts so little
        return sized(bodies, keys, properties)


def gather_one(
    body: Body, key: Key | None, properties: Mapping[str, PropertyValue] | None
) -> Columns:
    """One event as columns, checked."""
    if isinstance(body, Event):
        raise TypeError("append takes a body; use append_batch([event]) for an Event")
    body = body if type(body) is bytes else body_bytes(body)
    if key is None and properties is None:
        return Columns([body], None, None, len(body))
    return sized(
        [body],
        None if key is None else [checked_key(key)],
        None if properties is None else _plain([checked_properties(properties)]),
    )


def gather(events: Iterable[Event | Body], key: Key | None) -> Columns:
    """Several events as columns, checked; `key` is that of those without."""
    if isinstance(events, bytes | str | bytearray | memoryview | Event | Mapping):
        raise TypeError(f"append_batch takes several events, not one {type(events).__name__}")
    key = None if key is None else checked_key(key)
    rows: list[Any] = list(events)
    kinds = set(map(type, rows))
    if kinds == {bytes}:
        return sized(rows, None if key is None else [key] * len(rows), None)
    if not kinds <= _EVENT_KINDS:
        rows = [row if isinstance(row, Event) else Event(body_bytes(row)) for row in rows]
    keys = list(map(_keys_of, rows))
    if key is not None:
        keys = [key if own is None else own for own in keys]
    properties = list(map(_properties_of, rows))
    return sized(
        list(map(_bodies_of, rows)),
        None if keys.count(None) == len(rows) else keys,
        None if properties.count(NO_PROPERTIES) == len(rows) else _plain(properties),
    )


def sized(
    bodies: list[bytes],
    keys: list[Key | None] | None,
    properties: list[dict[str, PropertyValue] | None] | None,
) -> Columns:
    """Columns, and how many bytes they are."""
    size = _length(bodies)
    if keys is not None:
        size += sum(map(len, filter(None, keys)))
    if properties is not None:
        size += len(msgspec.msgpack.encode(properties))
    return Columns(bodies, keys, properties, size)


def _length(bodies: list[bytes]) -> int:
    """Bytes of all together.

    Joining is several times faster than adding up lengths, as long as what is joined is small
    enough for the allocator to have it at hand.
    """
    if len(bodies) <= _JOINED_AT_ONCE:
        return len(b"".join(bodies))
    steps = range(0, len(bodies), _JOINED_AT_ONCE)
    return sum(len(b"".join(bodies[start : start + _JOINED_AT_ONCE])) for start in steps)


def _plain(properties: list[Mapping[str, PropertyValue]]) -> list[dict[str, PropertyValue] | None]:
    """Properties as msgpack takes them: nil for an event that has none."""
    return [dict(own) if own else None for own in properties]


def check_sizes(record: TopicFacts, columns: Columns) -> None:
    """Refuse what is too large.

    Raises:
        EventTooLargeError: a body, or all together, are over their limit.
    """
    if columns.size <= record.max_event_bytes:
        return
    for row, body in enumerate(columns.bodies):
        if len(body) > record.max_event_bytes:
            which = f"event {row} of the batch" if len(columns.bodies) > 1 else "the event"
            raise EventTooLargeError(
                f"{which} has a body of {len(body):,} bytes; topic {record.name!r} takes "
                f"{record.max_event_bytes:,} (max_event_bytes)"
            )
    if columns.size > MAX_APPEND_BYTES:
        raise EventTooLargeError(
            f"one append takes {MAX_APPEND_BYTES:,} bytes of bodies, keys and "
            f"properties, this one has {columns.size:,}: append it in parts"
        )


def place(state: TopicState, columns: Columns, partition: int | None) -> list[tuple[int, Columns]]:
    """Which events go to which partition.

    Raises:
        PartitionNotFoundError: there is no such partition.
        UnsupportedOperationError: there are keys, and what places them is not known here.
    """
    if partition is not None:
        return [(check_partition(state.record, partition), columns)]
    if columns.keys is None:
        return [(state.turns.next(), columns)]
    return _place_by_key(columns, columns.keys, _partitioner(state), state.turns)


def _partitioner(state: TopicState) -> KeyPartitioner:
    if state.partitioner is None:
        raise UnsupportedOperationError(
            f"topic {state.record.name!r} places keys with {state.record.partitioner!r}, which "
            "this process does not have: hand it to create_topic(..., exist_ok=True), or name "
            "the partition"
        )
    return state.partitioner


def place_key(state: TopicState, key: Key) -> int:
    """Where events of a key go.

    Raises:
        UnsupportedOperationError: what places keys is not known here.
    """
    return _partitioner(state).partition(key)


def _place_by_key(
    columns: Columns,
    keys: list[Key | None],
    partitioner: KeyPartitioner,
    turns: RoundRobin,
) -> list[tuple[int, Columns]]:
    """Keyed events where their keys say; all without one together to the next in turn."""
    if len(keys) == 1 and keys[0] is not None:
        return [(partitioner.partition(keys[0]), columns)]
    keyed = [key for key in keys if key is not None]
    numbers = partitioner.partition_all(keyed)
    if len(keyed) < len(keys):
        turn = turns.next()
        placed = iter(numbers)
        numbers = [turn if key is None else next(placed) for key in keys]
    rows: dict[int, list[int]] = {number: [] for number in sorted(set(numbers))}
    if len(rows) == 1:
        return [(numbers[0], columns)]
    for row, number in enumerate(numbers):
        rows[number].append(row)
    return [(number, columns.take(own)) for number, own in rows.items()]


def check_partition(record: TopicFacts, partition: object) -> int:
    """`partition`, if the topic has it.

    Raises:
        PartitionNotFoundError: it has not.
    """
    if isinstance(partition, bool) or not isinstance(partition, int):
        raise TypeError(f"a partition is an int, not {type(partition).__name__}")
    if not 0 <= partition < record.partitions:
        raise PartitionNotFoundError(
            f"topic {record.name!r} has partitions 0 to {record.partitions - 1}, "
            f"no partition {partition}"
        )
    return partition


def check_expected(expect_next: object, partition: object, key: object) -> None:
    """Refuse an `expect_next` that says nothing."""
    if type(expect_next) is not int:
        raise TypeError(f"expect_next is an int, not {type(expect_next).__name__}")
    if partition is None and key is None:
        raise ValueError("expect_next needs a partition or a key: whose next offset is meant?")
