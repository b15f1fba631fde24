"""Events as Kafka's messages, and back: pure functions, no I/O.

Any other client can read them. The body is the message's value, the key its key (of a ``str`` its
UTF-8), each property a header, whose value is text::

    str       as it is, in UTF-8            bytes     as they are
    int       -12                           datetime  2024-02-29T12:00:00.123456+00:00
    float     0.1                           None      a header without a value
    bool      true

Which property is of which type, one header tells, ``eventlog-types``: a JSON object from names to
``bool``, ``int``, ``float``, ``bytes`` or ``datetime``, of those that are none of ``str`` and None.
A key that is ``bytes`` but would pass for text has the header ``eventlog-key: bytes``. An event
without properties and with a ``str`` key therefore has no headers at all.

Messages of other clients are read as far as they can be: headers and keys that are UTF-8 are
``str`` and others ``bytes``; of headers of the same name the last counts; a value that is missing
is an empty body; a time that is missing, or beyond what a datetime holds, is the nearest there is.
Nothing in a message makes reading fail.

What this module deliberately does not do: compare sizes with limits, or place events.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import repeat
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec
from confluent_kafka import Message

from eventlog.errors import UnsupportedOperationError
from eventlog.event import (
    EVENTS_PER_ORIGIN,
    NO_PROPERTIES,
    Key,
    Origin,
    PropertyValue,
    StoredEvent,
)
from eventlog.positions import LAST_INSTANT_US, instant

__all__ = ["KEY_HEADER", "RESERVED", "TYPES_HEADER", "Headers", "from_messages", "to_message"]

Headers: TypeAlias = list[tuple[str, bytes | str | None]]

TYPES_HEADER: Final = "eventlog-types"
KEY_HEADER: Final = "eventlog-key"
RESERVED: Final = frozenset({TYPES_HEADER, KEY_HEADER})
"""The names no property can have."""

_LAST_MS: Final = LAST_INSTANT_US // 1000
_INTEGERS: Final = range(-(2**63), 2**64)
_LONGEST_INTEGER: Final = 20  # characters of -2**63, and of 2**64 - 1
_encode: Final = msgspec.json.Encoder().encode
_decode_types: Final = msgspec.json.Decoder(dict[str, str]).decode


# --- to messages ----------------------------------------------------------------------------------


def to_message(
    body: bytes, key: Key | None, properties: Mapping[str, PropertyValue] | None
) -> tuple[bytes, bytes | None, Headers | None]:
    """The value, key and headers of an event that was checked (see `eventlog.appending`).

    Raises:
        UnsupportedOperationError: a property has a name that no header can have.
    """
    headers: Headers | None = _headers(properties) if properties else None
    if key is None:
        return body, None, headers
    if isinstance(key, str):
        return body, str.encode(key), headers
    if _text_or_none(key) is not None:
        headers = [*(headers or ()), (KEY_HEADER, b"bytes")]
    return body, bytes(key), headers


def _headers(properties: Mapping[str, PropertyValue]) -> Headers:
    headers: Headers = []
    types: dict[str, str] = {}
    for name, value in properties.items():
        if name in RESERVED or "\0" in name:  # librdkafka would cut it there
            raise UnsupportedOperationError(
                f"no property can be named {name!r} on a Kafka cluster: give it another name"
            )
        kind = type(value).__name__
        if value is None or kind == "str":
            headers.append((name, value))  # type: ignore[arg-type]
        else:
            headers.append((name, _WRITERS[kind](value)))
            types[name] = kind
    if types:
        headers.append((TYPES_HEADER, _encode(types)))
    return headers


def _written_datetime(value: datetime) -> bytes:
    with contextlib.suppress(OverflowError):  # in the calendar's first or last hours: as it is
        value = value.astimezone(UTC)
    return value.isoformat().encode()


_WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "bool": lambda value: b"true" if value else b"false",
    "int": lambda value: b"%d" % value,
    "float": lambda value: repr(value).encode(),
    "bytes": lambda value: value,
    "datetime": _written_datetime,
}


# --- from messages --------------------------------------------------------------------------------


def from_messages(topic: str, partition: int, messages: Sequence[Message]) -> list[StoredEvent]:
    """The events of messages of one partition, in the order of their offsets."""
    offsets: list[int] = list(map(Message.offset, messages))  # type: ignore[arg-type]
    headers: list[Any] = list(map(Message.headers, messages))
    bodies: list[Any] = list(map(Message.value, messages))
    if None in bodies:
        bodies = [b"" if body is None else body for body in bodies]
    raw_keys: list[bytes | None] = list(map(Message.key, messages))
    plain = headers.count(None) == len(headers)
    return list(
        map(
            StoredEvent,
            bodies,
            _keys(raw_keys, None if plain else headers),
            repeat(NO_PROPERTIES) if plain else [_properties(one) for one in headers],
            [offset % EVENTS_PER_ORIGIN for offset in offsets],
            _origins(topic, partition, offsets, list(map(Message.timestamp, messages))),
        )
    )


def _origins(
    topic: str, partition: int, offsets: list[int], timestamps: list[tuple[int, int]]
) -> list[Origin]:
    """Where each event comes from: shared by neighbours of one time."""
    origins = []
    origin, first, time = None, -1, -1
    for offset, (_, timestamp) in zip(offsets, timestamps, strict=True):
        if offset - first >= EVENTS_PER_ORIGIN or timestamp != time or origin is None:
            first, time = offset - offset % EVENTS_PER_ORIGIN, timestamp
            origin = Origin(topic, partition, _instant(timestamp), first)
        origins.append(origin)
    return origins


def _instant(timestamp_ms: int) -> datetime:
    """Milliseconds since 1970 as a datetime, or the nearest there is; -1 stands for none."""
    return instant(min(max(timestamp_ms, 0), _LAST_MS) * 1000)


def _keys(keys: list[bytes | None], headers: list[Any] | None) -> list[Key | None]:
    if keys.count(None) == len(keys):
        return keys  # type: ignore[return-value]
    if headers is None:
        try:
            return [None if key is None else key.decode() for key in keys]
        except UnicodeDecodeError:
            headers = [None] * len(keys)
    return [_key(key, own) for key, own in zip(keys, headers, strict=True)]


def _key(key: bytes | None, headers: list[tuple[str, bytes | None]] | None) -> Key | None:
    if key is None or (headers and (KEY_HEADER, b"bytes") in headers):
        return key
    text = _text_or_none(key)
    return key if text is None else text


def _properties(
    headers: list[tuple[str, bytes | None]] | None,
) -> Mapping[str, PropertyValue]:
    if not headers:
        return NO_PROPERTIES
    values: dict[str, bytes | None] = dict(headers)
    types = _types(values.pop(TYPES_HEADER, None))
    values.pop(KEY_HEADER, None)
    if not values:
        return NO_PROPERTIES
    return MappingProxyType(
        {name: _property(value, types.get(name, "str")) for name, value in values.items()}
    )


def _types(header: bytes | None) -> Mapping[str, str]:
    if header is None:
        return {}
    try:
        return _decode_types(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}  # some other client's header of that name


def _property(value: bytes | None, kind: str) -> PropertyValue:
    """A header's value, of the type it is said to be; if it cannot be, text or bytes."""
    if value is None or kind == "bytes":
        return value
    text = _text_or_none(value)
    if text is None:
        return value
    reader = _READERS.get(kind)
    if reader is None:
        return text
    try:
        return reader(text)
    except (ValueError, OverflowError, KeyError):
        return text


def _text_or_none(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _read_integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER or (number := int(text)) not in _INTEGERS:
        raise ValueError(text)
    return number


def _read_datetime(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError(text)
    return when.astimezone(UTC)


_READERS: Final[dict[str, Callable[[str], PropertyValue]]] = {
    "bool": {"true": True, "false": False}.__getitem__,
    "int": _read_integer,
    "float": float,
    "datetime": _read_datetime,
}
