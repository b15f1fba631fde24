"""Dead letters: events put aside, with what is known of why, and back again.

A dead letter is an event of the dead-letter topic with the key and the body of the event that was
put aside, the properties that this had, and these:

==================== ======== ===================================================================
property             type     what it says
==================== ======== ===================================================================
``deadLetterReason`` str      why it was put aside
``deliveryAttempts`` int      how often it was handed over, as far as is known
``lastError``        str      type and message of what the last attempt raised; or None
``originTopic``      str      where it was
``originPartition``  int
``originOffset``     int
``originEnqueuedAt`` datetime when it was enqueued there
``firstAttemptAt``   datetime when it was first handed over, by the host's clock; or None
``lastAttemptAt``    datetime when it was last handed over; or None
``group``            str      the group that put it aside
==================== ======== ===================================================================

A property of the event's own that has such a name is kept as ``own:`` and the name; and so is one
whose name begins with ``own:``. Thus `original` gives back what was put aside, as it was: also of a
dead letter that was put aside itself.

What this module deliberately does not do: append anything.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from eventlog.errors import EventTooLargeError
from eventlog.event import Event, PropertyValue, StoredEvent

__all__ = ["Attempts", "DeadLetter", "dead_letter", "describe", "original", "read_dead_letter"]

_OWN: Final = "own:"
_MOST_CHARACTERS: Final = 1000
"""Of a reason, and of an error."""


class Attempts(msgspec.Struct, frozen=True):
    """What is known of an event's way to the processor.

    Attributes:
        count: how often it was handed over.
        first_at, last_at: when; None if it was not by this host.
        error: what the last attempt raised; None if it raised nothing.
    """

    count: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    error: BaseException | None = None


class DeadLetter(msgspec.Struct, frozen=True):
    """What a dead letter says of itself; see the module for what each means."""

    reason: str
    attempts: int
    last_error: str | None
    topic: str
    partition: int
    offset: int
    enqueued_at: datetime
    first_attempt_at: datetime | None
    last_attempt_at: datetime | None
    group: str


class _Field(NamedTuple):
    """A property of a dead letter: where `DeadLetter` has it, and of what type it is."""

    name: str
    kind: type
    optional: bool = False


_PROPERTIES: Final = {
    "deadLetterReason": _Field("reason", str),
    "deliveryAttempts": _Field("attempts", int),
    "lastError": _Field("last_error", str, optional=True),
    "originTopic": _Field("topic", str),
    "originPartition": _Field("partition", int),
    "originOffset": _Field("offset", int),
    "originEnqueuedAt": _Field("enqueued_at", datetime),
    "firstAttemptAt": _Field("first_attempt_at", datetime, optional=True),
    "lastAttemptAt": _Field("last_attempt_at", datetime, optional=True),
    "group": _Field("group", str),
}


def dead_letter(event: StoredEvent, group: str, reason: str, attempts: Attempts) -> Event:
    """The event to append to the dead-letter topic. One that is there can always be made.

    If its own properties leave no room for these, the largest of its own are left out.
    """
    properties: dict[str, PropertyValue] = {
        "deadLetterReason": _text(reason),
        "deliveryAttempts": attempts.count,
        "lastError": None if attempts.error is None else describe(attempts.error),
        "originTopic": event.topic,
        "originPartition": event.partition,
        "originOffset": event.offset,
        "originEnqueuedAt": event.enqueued_at,
        "firstAttemptAt": attempts.first_at,
        "lastAttemptAt": attempts.last_at,
        "group": group,
    }
    own = {_escaped(name): value for name, value in event.properties.items()}
    while True:
        try:
            return Event(event.body, event.key, {**own, **properties})
        except EventTooLargeError:
            del own[max(own, key=lambda name: _size(name, own[name]))]


def read_dead_letter(event: Event) -> DeadLetter | None:
    """What a dead letter says of itself; None if the event is none."""
    found: dict[str, Any] = {}
    for name, field in _PROPERTIES.items():
        value = event.properties.get(name)
        if not (isinstance(value, field.kind) or (field.optional and value is None)):
            return None
        found[field.name] = value
    return DeadLetter(**found)


def original(event: Event) -> Event:
    """The event that was put aside, to be appended again where it came from."""
    own = {
        name.removeprefix(_OWN): value
        for name, value in event.properties.items()
        if name not in _PROPERTIES
    }
    return Event(event.body, event.key, own)


def describe(error: BaseException) -> str:
    """Type and message of an error, in one line that can be stored."""
    name = type(error).__qualname__
    try:
        message = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - it may be of any class
        message = ""
    return _text(f"{name}: {message}" if message else name)


def _text(text: str) -> str:
    """`text` as it can be stored: no lone surrogates, not too long."""
    whole = text.encode(errors="backslashreplace").decode()
    return whole if len(whole) <= _MOST_CHARACTERS else whole[: _MOST_CHARACTERS - 3] + "..."


def _escaped(name: str) -> str:
    return _OWN + name if name in _PROPERTIES or name.startswith(_OWN) else name


def _size(name: str, value: PropertyValue) -> int:
    return len(name) + (len(value) if isinstance(value, str | bytes) else 8)
