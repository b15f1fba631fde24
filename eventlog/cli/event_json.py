"""Events as JSON Lines: what ``read --format json`` prints and ``append --format json`` takes.

One object a line::

    {"partition": 0, "offset": 41, "enqueued_at": "2026-03-01T12:00:00.000000Z",
     "key": "VIN-123", "body": "...", "properties": {"lap": 3, "seen": {"datetime": "..."}}}

=================  ==============================================================================
``partition``      where it stands; taken with ``--keep-partitions`` only
``offset``         its offset there; never taken
``enqueued_at``    when the log took it; never taken
``key``            a key that is text; null where there is none
``key_base64``     instead of ``key``: a key that is bytes, even if they happen to be UTF-8
``body``           a body that is UTF-8
``body_base64``    instead of ``body``: one that is not
``properties``     names to values
=================  ==============================================================================

A property's value is null, true, false, a number or a string; a number is a float if it has a
fraction or an exponent. What JSON has no notation for is an object of one field, which no other
value can be: ``{"datetime": "2026-03-01T12:00:00Z"}`` (with any offset from UTC), ``{"base64":
"AAE="}``, ``{"float": "nan"}`` (or ``"inf"``, ``"-inf"``).

Only one of ``body`` and ``body_base64`` must be there. A field of any other name is refused: a
misspelt one would be lost without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from eventlog import Event, StoredEvent
from eventlog.cli.display import instant_text
from eventlog.event import Key, PropertyValue

__all__ = ["Incoming", "decode_event", "encode_events", "encode_properties"]


class _Special(msgspec.Struct, forbid_unknown_fields=True):
    """A property value that JSON has no notation for; exactly one field is set."""

    of_bytes: bytes | UnsetType = msgspec.field(default=UNSET, name="base64")
    of_datetime: Annotated[datetime, msgspec.Meta(tz=True)] | UnsetType = msgspec.field(
        default=UNSET, name="datetime"
    )
    of_float: Literal["nan", "inf", "-inf"] | UnsetType = msgspec.field(default=UNSET, name="float")

    def value(self) -> PropertyValue:
        """What it stands for."""
        given = [getattr(self, name) for name in self.__struct_fields__]
        values = [value for value in given if value is not UNSET]
        if len(values) != 1:
            raise ValueError("give one of 'base64', 'datetime' and 'float'")
        return values[0] if self.of_float is UNSET else float(self.of_float)


_Notation: TypeAlias = bool | int | float | str | _Special | None


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One line, in either direction."""

    partition: int | UnsetType = UNSET
    offset: Any = UNSET
    enqueued_at: Any = UNSET
    key: str | UnsetType | None = UNSET
    key_base64: bytes | UnsetType = UNSET
    body: str | UnsetType = UNSET
    body_base64: bytes | UnsetType = UNSET
    properties: dict[str, _Notation] | None = None


class Incoming(NamedTuple):
    """An event to be appended, and the partition it names, if any."""

    event: Event | bytes
    partition: int | None = None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Line)


# Out


def encode_events(events: Sequence[StoredEvent]) -> bytes:
    """A line for each event."""
    return _encoder.encode_lines(map(_line, events))


def encode_properties(properties: Mapping[str, PropertyValue]) -> str:
    """Properties alone, as one JSON object."""
    return _encoder.encode(_notations(properties)).decode()


def _line(event: StoredEvent) -> _Line:
    enqueued_at = instant_text(event.enqueued_at)
    line = _Line(
        event.partition, event.offset, enqueued_at, properties=_notations(event.properties)
    )
    if isinstance(event.key, bytes):
        line.key_base64 = event.key
    else:
        line.key = event.key
    try:
        line.body = event.body.decode()
    except UnicodeDecodeError:
        line.body_base64 = event.body
    return line


def _notations(properties: Mapping[str, PropertyValue]) -> dict[str, _Notation]:
    return {name: _notation(value) for name, value in properties.items()}


def _notation(value: PropertyValue) -> _Notation:
    if isinstance(value, datetime):
        return _Special(of_datetime=value)
    if isinstance(value, bytes):
        return _Special(of_bytes=value)
    if isinstance(value, float) and math.isnan(value):
        return _Special(of_float="nan")
    if isinstance(value, float) and math.isinf(value):
        return _Special(of_float="inf" if value > 0 else "-inf")
    return value


# In


def decode_event(line: bytes, defaults: Mapping[str, PropertyValue]) -> Incoming:
    """The event a line describes; `defaults` are properties it has unless it says otherwise.

    Raises:
        ValueError: the line is not of the form above, or no event can be as it says.
    """
    read = _decoder.decode(line)
    properties = dict(defaults)
    for name, notation in (read.properties or {}).items():
        properties[name] = notation.value() if isinstance(notation, _Special) else notation
    event = Event(_body(read), _key(read), properties)
    return Incoming(event, None if read.partition is UNSET else read.partition)


def _body(read: _Line) -> bytes:
    body, body_base64 = read.body, read.body_base64
    if body is UNSET and body_base64 is UNSET:
        raise ValueError("it has neither 'body' nor 'body_base64'")
    if body is UNSET:
        assert body_base64 is not UNSET
        return body_base64
    if body_base64 is not UNSET:
        raise ValueError("it has both 'body' and 'body_base64'")
    return body.encode()


def _key(read: _Line) -> Key | None:
    key = None if read.key is UNSET else read.key
    if read.key_base64 is UNSET:
        return key
    if key is not None:
        raise ValueError("it has both 'key' and 'key_base64'")
    return read.key_base64
