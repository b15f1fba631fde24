"""Events as a processor gets them, made without a log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from eventlog.event import EVENTS_PER_ORIGIN, Event, Key, Origin, PropertyValue, StoredEvent
from eventlog.log import Body
from eventlog.names import check_name
from eventlog.positions import aware

__all__ = ["WHEN", "stored_event"]

WHEN: Final = datetime(2020, 1, 1, tzinfo=UTC)
"""When things happen in tests that do not say when: always the same, so that they can be compared.
"""

_OFFSETS: Final = range(2**63)
_PARTITIONS: Final = range(10_000)


def stored_event(
    body: Body,
    *,
    key: Key | None = None,
    properties: Mapping[str, PropertyValue] | None = None,
    topic: str = "topic",
    partition: int = 0,
    offset: int = 0,
    enqueued_at: datetime = WHEN,
) -> StoredEvent:
    """An event as it is read from a topic: for functions that are given some.

    It equals the event that would be read if everything about it were stored so.

    Args:
        body, key, properties: see `Event`.
        enqueued_at: as an aware datetime; WHEN (the first moment of 2020) unless given.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or out of range; see also `Event`.
        InvalidNameError: no topic can have that name.
    """
    event = Event(body, key, properties)
    origin = Origin(
        check_name(topic, "topic"),
        _number(partition, "partition", _PARTITIONS),
        aware(_instant(enqueued_at)),
        _number(offset, "offset", _OFFSETS) // EVENTS_PER_ORIGIN * EVENTS_PER_ORIGIN,
    )
    place = offset % EVENTS_PER_ORIGIN
    return StoredEvent(event.body, event.key, event.properties, place, origin)


def _number(value: object, what: str, among: range) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is an int, not {type(value).__name__}: {value!r:.80}")
    if value not in among:
        raise ValueError(f"{what} is from {among[0]} to {among[-1]}, not {value}")
    return value


def _instant(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"enqueued_at is a datetime, not {type(value).__name__}: {value!r:.80}")
    return value
