"""``Event``: body bytes, an optional key, properties; and the same once stored.

Events are made by the million when a log is read, so both classes are ``msgspec.Struct``: one C
call makes one, and the garbage collector need not look at it (``gc=False``: an event refers only
to scalars, to flat mappings and to its origin, so it can be part of no cycle).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec.structs import force_setattr

from eventlog.errors import EventTooLargeError

__all__ = ["NO_PROPERTIES", "Event", "Key", "Origin", "PropertyValue", "StoredEvent"]

Key: TypeAlias = str | bytes
PropertyValue: TypeAlias = bool | int | float | str | bytes | datetime | None

MAX_KEY_BYTES: Final = 1024
"""Length of a key in bytes, of its UTF-8 if it is a ``str``."""

MAX_PROPERTIES_BYTES: Final = 64 * 1024
"""All property names and values of one event, in bytes as stored."""

MAX_PROPERTY_NAME_BYTES: Final = 256
"""Length of a property's name in bytes of UTF-8."""

NO_PROPERTIES: Final[Mapping[str, PropertyValue]] = MappingProxyType({})
"""What an event without properties has: one empty mapping for all of them."""

_PROPERTY_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes, datetime})
_SOUND_TYPES: Final = _PROPERTY_TYPES - {datetime}
"""Of these encoding finds what cannot be stored."""
_SHORT_NAME: Final = MAX_PROPERTY_NAME_BYTES // 4
"""Characters that have not too many bytes, whichever they are."""
_INT_RANGE: Final = range(-(2**63), 2**64)
_encode: Final = msgspec.msgpack.Encoder().encode


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event: a body, and optionally a key and properties. Immutable.

    Args:
        body: the payload. ``str`` is stored as its UTF-8; ``bytearray`` and ``memoryview`` are
            copied.
        key: events with equal keys land on the same partition, in order. At most 1024 bytes. A
            ``str`` and the ``bytes`` of its UTF-8 land on the same partition, and each comes
            back as it was given.
        properties: names to ``None, bool, int, float, str, bytes`` or aware ``datetime``; they
            come back with their types (a datetime in UTC, in microseconds). At most 64 KiB.

    Raises:
        TypeError: a body, key, property name or value of another type. For a ``dict`` as body
            see `Event.from_json`.
        ValueError: text that is not valid Unicode, a naive datetime, an integer that does not
            fit 64 bits.
        EventTooLargeError: a key or properties over their limit. (A body is measured against
            its topic's ``max_event_bytes`` when it is appended.)
    """

    body: bytes
    key: Key | None = None
    properties: Mapping[str, PropertyValue] = NO_PROPERTIES

    if TYPE_CHECKING:  # what is taken is wider than what is kept

        def __init__(
            self,
            body: bytes | str | bytearray | memoryview,
            key: Key | None = None,
            properties: Mapping[str, PropertyValue] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if type(self.body) is not bytes:
            force_setattr(self, "body", body_bytes(self.body))
        if self.key is not None:
            force_setattr(self, "key", checked_key(self.key))
        if self.properties is not NO_PROPERTIES:
            force_setattr(self, "properties", checked_properties(self.properties))

    @classmethod
    def from_json(
        cls,
        value: Any,
        *,
        key: Key | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
    ) -> Event:
        """An event whose body is `value` as compact JSON.

        Raises:
            TypeError: something in `value` has no JSON form.
        """
        body = msgspec.json.encode(value)
        return Event(body, key, NO_PROPERTIES if properties is None else properties)

    def text(self) -> str:
        """The body decoded from UTF-8.

        Raises:
            UnicodeDecodeError: it is not UTF-8.
        """
        return self.body.decode()

    def json(self) -> Any:
        """The body decoded from JSON.

        Raises:
            ValueError: it is not JSON (`msgspec.DecodeError`, which says where).
        """
        return msgspec.json.decode(self.body)

    def __hash__(self) -> int:
        return hash((self.body, self.key))

    def __reduce__(self) -> tuple[Any, ...]:
        return Event, (self.body, self.key, dict(self.properties))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._described())})"

    def _described(self) -> list[str]:
        """Its parts as a reader wants them: long bodies cut, absent parts left out."""
        body = self.body
        parts = [repr(body) if len(body) <= 80 else f"{body[:77]!r}... {len(body)} bytes"]
        if self.key is not None:
            parts.append(f"key={self.key!r}")
        if self.properties:
            parts.append(f"properties={dict(self.properties)!r}")
        return parts


class Origin(msgspec.Struct, frozen=True):
    """Where up to 256 neighbouring stored events come from; they share one.

    An event knows its place behind `first_offset`, a multiple of 256, as a small number, which
    CPython keeps one object of: so an event needs no number of its own.
    """

    topic: str
    partition: int
    enqueued_at: datetime
    first_offset: int


EVENTS_PER_ORIGIN: Final = 256


# What was stored was checked when it was stored. msgspec binds __post_init__ when a class is made,
# so StoredEvent is made without, and reading does not pay for a Python call per event. Should
# msgspec ever change that, reading gets slower and stays right; a test tells.
_check_on_construction = Event.__post_init__
del Event.__post_init__


class StoredEvent(Event, frozen=True, gc=False):
    """An event as read from a topic: it also knows where it stands."""

    _place: int = 0
    _origin: Origin | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            body: bytes,
            key: Key | None = None,
            properties: Mapping[str, PropertyValue] = NO_PROPERTIES,
            _place: int = 0,
            _origin: Origin | None = None,
        ) -> None: ...

    @property
    def offset(self) -> int:
        """Its position in its partition: 0, 1, 2, ... with no gaps."""
        try:
            return self._origin.first_offset + self._place  # type: ignore[union-attr]
        except AttributeError:
            return self._stored().first_offset + self._place

    @property
    def topic(self) -> str:
        """Name of the topic it was read from."""
        return self._stored().topic

    @property
    def partition(self) -> int:
        """Number of its partition, from 0."""
        return self._stored().partition

    @property
    def enqueued_at(self) -> datetime:
        """When the log took it: an aware datetime in UTC; never decreases along a partition."""
        try:
            return self._origin.enqueued_at  # type: ignore[union-attr]
        except AttributeError:
            return self._stored().enqueued_at

    def _stored(self) -> Origin:
        if self._origin is None:
            raise AttributeError("this event was made without an origin")
        return self._origin

    def __hash__(self) -> int:
        return hash((self.body, self.key, self._place))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (
            self.body,
            self.key,
            dict(self.properties),
            self._place,
            self._origin,
        )

    def _described(self) -> list[str]:
        parts = super()._described()
        if self._origin is not None:
            parts += [
                f"topic={self.topic!r}",
                f"partition={self.partition}",
                f"offset={self.offset}",
            ]
        return parts


Event.__post_init__ = _check_on_construction  # type: ignore[method-assign]


def _restore(
    body: bytes,
    key: Key | None,
    properties: dict[str, PropertyValue],
    place: int,
    origin: Origin | None,
) -> StoredEvent:
    """Unpickle a stored event."""
    return StoredEvent(
        body, key, MappingProxyType(properties) if properties else NO_PROPERTIES, place, origin
    )


def body_bytes(body: object) -> bytes:
    """`body` as the bytes to store; see `Event`."""
    if isinstance(body, bytes):
        return bytes(body)
    if isinstance(body, str):
        return _utf8(body, "body")
    if isinstance(body, bytearray | memoryview):
        return bytes(body)
    if isinstance(body, dict | list):
        raise TypeError(
            f"a body is bytes or str, not {type(body).__name__}; "
            "for JSON use Event.from_json(value, key=...)"
        )
    raise TypeError(f"a body is bytes or str, not {type(body).__name__}")


def checked_key(key: object) -> Key:
    """`key` as a plain ``str`` or ``bytes``, checked; see `Event`."""
    if isinstance(key, str):
        key = str(key)
        size = len(_utf8(key, "key"))
    elif isinstance(key, bytes):
        key = bytes(key)
        size = len(key)
    else:
        raise TypeError(f"a key is str or bytes, not {type(key).__name__}: {key!r:.80}")
    if size > MAX_KEY_BYTES:
        raise EventTooLargeError(
            f"a key has at most {MAX_KEY_BYTES} bytes, this one {size}: {key[:40]!r}..."
        )
    return key


def checked_properties(properties: object) -> Mapping[str, PropertyValue]:
    """An immutable copy of `properties`, checked; see `Event`."""
    copy = copied_properties(properties)
    if not copy:
        return NO_PROPERTIES
    pack_properties(copy)
    return MappingProxyType(copy)


def copied_properties(properties: object) -> dict[str, PropertyValue]:
    """A copy, whose names and values are not checked yet.

    Raises:
        TypeError: it is no mapping.
    """
    if type(properties) is not dict:
        if properties is None:
            return {}
        if not isinstance(properties, Mapping):
            raise TypeError(f"properties is a mapping, not {type(properties).__name__}")
    return dict(properties)


def pack_properties(properties: dict[str, PropertyValue]) -> bytes:
    """Properties that nobody else changes, checked as for an `Event`, as they are stored."""
    for name, value in properties.items():
        if type(name) is not str or len(name) > _SHORT_NAME or type(value) not in _SOUND_TYPES:
            _check_property(name, value)
    try:
        packed = _encode(properties)
    except (ValueError, OverflowError):  # something of a sound type that is not sound
        for name, value in properties.items():
            _check_property(name, value)
        raise
    if len(packed) > MAX_PROPERTIES_BYTES:
        raise EventTooLargeError(
            f"properties have at most {MAX_PROPERTIES_BYTES} bytes as stored, these "
            f"{len(packed)}: {', '.join(properties)[:80]}"
        )
    return packed


unpack_properties: Final[Callable[[bytes], dict[str, PropertyValue]]] = msgspec.msgpack.Decoder(
    dict[str, Any]
).decode
"""What `pack_properties` has packed."""


def _check_property(name: object, value: object) -> None:
    if type(name) is not str:
        raise TypeError(f"a property's name is a str, not {type(name).__name__}: {name!r:.80}")
    if len(_utf8(name, "property name")) > MAX_PROPERTY_NAME_BYTES:
        raise EventTooLargeError(
            f"a property's name has at most {MAX_PROPERTY_NAME_BYTES} bytes: {name[:40]!r}..."
        )
    if type(value) not in _PROPERTY_TYPES:
        raise TypeError(
            f"property {name!r} is of type {type(value).__name__}; "
            "None, bool, int, float, str, bytes and datetime can be stored"
        )
    if type(value) is int and value not in _INT_RANGE:
        raise ValueError(f"property {name!r} does not fit 64 bits: {value}")
    if type(value) is str:
        _utf8(value, f"property {name!r}")
    if type(value) is datetime and value.tzinfo is None:
        raise ValueError(f"property {name!r} is a naive datetime, give it a timezone: {value}")


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} is not valid Unicode: {text!r:.80} ({error.reason})") from None
