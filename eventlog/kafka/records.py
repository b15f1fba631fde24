"""Events as Kafka's messages, and back: pure functions, no I/O.

Any other client can read them. The body is the message's value, the key its key (of a ``str`` its
UTF-8), each property a header, whose value is text::

    str       as it is, in UTF-8            bytes     as they are
    int       -12                           datetime  2024-02-29T12:00:00.123456+00:00
    float     0.1                           None      a header without a value
    bool      true

Which property is of which type, one header tells, ``eventlog-types``: a JSON object from names to
``bool``, ``int``, ``float``, ``bytes`` or ``datetime``, of those that are none of ``str`` and None.
A key that is ``bytes`` but would pass for text has the header ``eventlog-key: bytes``, as the last
one. An event without properties and with a ``str`` key therefore has no headers at all.

Messages of other clients are read as far as they can be: headers and keys that are UTF-8 are
``str`` and others ``bytes``; of headers of the same name the last counts; a value that is missing
is an empty body; a time that is missing, or beyond what a datetime holds, is the nearest there is;
a header's name that is not UTF-8 is what the client makes of it, or if it fails all headers of that
message are left out. Nothing in a message makes reading fail.

What this module deliberately does not do: compare sizes with limits, or place events.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain, repeat, starmap
from operator import itemgetter, length_hint
from typing import Any, Final, NamedTuple, TypeAlias, cast

import msgspec
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from eventlog.errors import UnsupportedOperationError
from eventlog.event import (
    EVENTS_PER_ORIGIN,
    NO_PROPERTIES,
    Key,
    Origin,
    PropertyValue,
    StoredEvent,
    unpack_properties,
)
from eventlog.kafka.origin import OwnOrigin, instant_ms
from eventlog.kafka.properties import (
    KEY_HEADER,
    TYPES_HEADER,
    HeaderProperties,
    ReadHeaders,
    pack,
    unpack,
)
from eventlog.positions import LAST_INSTANT_US

__all__ = [
    "KEY_HEADER",
    "RESERVED",
    "TYPES_HEADER",
    "Decoded",
    "Headers",
    "all_headers",
    "all_headers_packed",
    "check_names",
    "decoded",
    "from_messages",
    "to_headers",
    "to_key",
]

Headers: TypeAlias = dict[str, bytes | str | None]
"""As librdkafka is given them, in this order."""

RESERVED: Final = frozenset({TYPES_HEADER, KEY_HEADER})
"""The names no property can have."""

_PLACES: Final = list(range(EVENTS_PER_ORIGIN))
_MOST_STRETCHES: Final = 16
_SAMPLE_EVENTS: Final = 4000
"""Of so many events it is looked whether their properties repeat."""

_LAST_MS: Final = LAST_INSTANT_US // 1000
_NO_HEADERS: Final = pack(None)
_KEY_IS_BYTES: Final = (KEY_HEADER, b"bytes")
_KEY_IS_BYTES_PACKED: Final = pack(_KEY_IS_BYTES)
_encode: Final = msgspec.json.Encoder().encode


# --- to messages ----------------------------------------------------------------------------------


def to_key(key: Key | None, headers: Headers | None) -> tuple[bytes | None, Headers | None]:
    """The key of a message, of an event's that was checked, and its headers then."""
    if key is None:
        return None, headers
    if isinstance(key, str):
        return str.encode(key), headers
    if _text_or_none(key) is not None:
        headers = {**(headers or {}), KEY_HEADER: b"bytes"}
    return bytes(key), headers


def all_headers(
    properties: Sequence[Mapping[str, PropertyValue] | None] | None,
) -> list[Headers | None] | None:
    """The headers of many events; None if none has any."""
    if properties is None:
        return None
    return [to_headers(own) if own else None for own in properties]


def all_headers_packed(packed: Sequence[bytes | None] | None) -> list[Headers | None] | None:
    """The same, from properties as `pack_properties` has them; nobody may change the headers.

    Of properties that repeat, as they mostly do, the headers are made once.
    """
    if packed is None:
        return None
    sample = packed[:_SAMPLE_EVENTS]
    if 2 * len({*sample}) > len(sample):
        return _unpacked(packed)
    known = {*packed} - {None}
    found: dict[bytes | None, Headers | None] = dict(zip(known, _unpacked([*known]), strict=True))
    return list(map(found.get, packed))


def _unpacked(packed: Sequence[bytes | None]) -> list[Headers | None]:
    if None in packed:
        return [None if own is None else to_headers(unpack_properties(own)) for own in packed]
    unpacked: list[Any] = list(map(unpack_properties, cast("Sequence[bytes]", packed)))
    return unpacked if _are_written(unpacked) else list(map(to_headers, unpacked))


def _are_written(properties: list[dict[str, Any]]) -> bool:
    """Make headers of properties that are all of the same names and types, name by name.

    That is faster than event by event. They are left as they are if they differ.
    """
    names = [*next(iter(properties), {})]
    if {*map(len, properties)} != {len(names)}:
        return False
    try:
        columns = {name: list(map(itemgetter(name), properties)) for name in names}
    except KeyError:
        return False
    kinds = [{*map(type, column)} for column in columns.values()]
    if any(len(some) > 1 for some in kinds):
        return False
    plan = _plan((*names, *chain.from_iterable(kinds)))
    for name, write in plan.writers:
        for own, value in zip(properties, map(write, columns[name]), strict=True):
            own[name] = value
    if plan.types is not None:
        for own in properties:
            own[TYPES_HEADER] = plan.types
    return True


def to_headers(properties: Mapping[str, PropertyValue]) -> Headers:
    """The headers of an event's properties, which were checked (see `eventlog.event`).

    Raises:
        UnsupportedOperationError: a property has a name that no header can have.
    """
    kinds = (*properties, *map(type, properties.values()))
    plan = _plans.get(kinds) or _plan(kinds)
    headers: dict[str, Any] = dict(properties)
    for name, write in plan.writers:
        headers[name] = write(headers[name])
    if plan.types is not None:
        headers[TYPES_HEADER] = plan.types
    return headers


def check_names(names: Iterable[str]) -> None:
    """Refuse names that no header can have.

    Raises:
        UnsupportedOperationError: there is one.
    """
    for name in names:
        if name in RESERVED or "\0" in name:  # librdkafka would cut it there
            raise UnsupportedOperationError(
                f"no property can be named {name!r} on a Kafka cluster: give it another name"
            )


class _Plan(NamedTuple):
    """How properties of certain names and types become headers: mostly those of the event before.

    Attributes:
        writers: by name, of those values that are not written as they are.
        types: the header that tells of types.
    """

    writers: list[tuple[str, Callable[[Any], bytes | str]]]
    types: bytes | None


_plans: Final[dict[tuple[Any, ...], _Plan]] = {}
_MOST_PLANS: Final = 256


def _plan(kinds: tuple[Any, ...]) -> _Plan:
    """The plan for names, and as many types behind them."""
    names, types = kinds[: len(kinds) // 2], kinds[len(kinds) // 2 :]
    check_names(names)
    pairs = [*zip(names, types, strict=True)]
    told = {name: kind.__name__ for name, kind in pairs if kind not in (str, type(None))}
    writers = [(name, _WRITERS[kind]) for name, kind in pairs if kind in _WRITERS]
    plan = _Plan(writers, _encode(told) if told else None)
    if len(_plans) >= _MOST_PLANS:
        _plans.clear()
    _plans[kinds] = plan
    return plan


def _written_datetime(value: datetime) -> bytes:
    with contextlib.suppress(OverflowError):  # in the calendar's first or last hours: as it is
        value = value.astimezone(UTC)
    return value.isoformat().encode()


_WRITERS: Final[dict[type, Callable[[Any], bytes | str]]] = {
    str: str.encode,  # of text confluent-kafka takes what comes before the first NUL
    bool: {True: b"true", False: b"false"}.__getitem__,
    int: str,
    float: repr,
    datetime: _written_datetime,
}


# --- from messages --------------------------------------------------------------------------------
#
# Events come by the million, so nothing here takes a step in Python for each of them unless it has
# headers, and nothing that the garbage collector looks at is made, or kept.


class Decoded(NamedTuple):
    """Events, and how many bytes their bodies have together."""

    events: list[StoredEvent]
    body_bytes: int


def from_messages(topic: str, partition: int, messages: Sequence[Message]) -> list[StoredEvent]:
    """The events of messages of one partition, in the order of their offsets."""
    return decoded(topic, partition, list(messages)).events


def decoded(topic: str, partition: int, messages: list[Message]) -> Decoded:
    """The same, and their size. The list may be empty afterwards: who keeps no messages elsewhere
    saves the garbage collector work.
    """
    if not messages:
        return Decoded([], 0)
    bodies: list[Any] = list(map(Message.value, messages))
    try:
        body_bytes = sum(map(len, bodies))
    except TypeError:  # one has no value
        bodies = [b"" if body is None else body for body in bodies]
        body_bytes = sum(map(len, bodies))
    keys: list[bytes | None] = list(map(Message.key, messages))
    places, origins = _places(topic, partition, messages)
    headers = _take_headers(messages)
    properties: Iterable[Any]
    if headers is None:
        properties = repeat(NO_PROPERTIES)
    elif _NO_HEADERS in headers:
        properties = [
            NO_PROPERTIES if own == _NO_HEADERS else HeaderProperties(own) for own in headers
        ]
    else:
        properties = map(HeaderProperties, headers)
    events = list(map(StoredEvent, bodies, _keys(keys, headers), properties, places, origins))
    return Decoded(events, body_bytes)


def _take_headers(messages: list[Message]) -> list[bytes] | None:
    """The headers of each, packed; None if none has any. The messages are let go of.

    A message keeps what it was asked for, and the garbage collector counts each list and tuple.

    The client may fail at a name that is no UTF-8 (confluent-kafka 2.16 puts other characters into
    it). Such a message has no headers: it may not be asked for them once more, since what it keeps
    of its first try is not fit to be looked at.
    """
    rest = iter(messages)
    try:
        if not any(map(Message.headers, rest)):
            return None
        bare = len(messages) - length_hint(rest) - 1
    except (SystemError, UnicodeDecodeError):
        bare = len(messages) - length_hint(rest)
    found = [_NO_HEADERS] * bare
    del messages[:bare]
    messages.reverse()
    while messages:
        each = starmap(messages.pop, repeat((), len(messages)))
        try:
            found.extend(map(pack, map(Message.headers, each)))
        except (SystemError, UnicodeDecodeError):
            found.append(_NO_HEADERS)  # what came before stays in the list
    return found


def _places(
    topic: str, partition: int, messages: Sequence[Message]
) -> tuple[Iterable[int], Iterable[Any]]:
    """Where events stand behind the first ones of their origins, and these origins."""
    first, last = _offset(messages[0]), _offset(messages[-1])
    if last - first == len(messages) - 1:
        skipped = first % EVENTS_PER_ORIGIN
        turns = (skipped + len(messages)) // EVENTS_PER_ORIGIN + 1
        places: list[int] = (_PLACES * turns)[skipped : skipped + len(messages)]
        stretches = _stretches(messages)
        if stretches is not None:
            return places, _shared_origins(topic, partition, first, stretches)
        firsts = [offset - offset % EVENTS_PER_ORIGIN for offset in range(first, last + 1)]
    else:
        offsets = list(map(_offset, messages))
        places = [offset % EVENTS_PER_ORIGIN for offset in offsets]
        firsts = [offset - place for offset, place in zip(offsets, places, strict=True)]
    return places, map(OwnOrigin, repeat(topic), repeat(partition), _times(messages), firsts)


class _Stretch(NamedTuple):
    """So many messages, one after the other, that have one time."""

    events: int
    time_ms: int


def _stretches(messages: Sequence[Message]) -> list[_Stretch] | None:
    """Messages by time; None where that is not soon seen.

    To ask each for its time would take twice as long as to make events of them. But times that a
    broker has set do not decrease, and those of one batch are the same. (Where a broker's clock was
    set back neighbours may be given each other's.)
    """
    kind, latest = messages[-1].timestamp()
    if kind != TIMESTAMP_LOG_APPEND_TIME:
        return [_Stretch(1, _within(latest))] if len(messages) == 1 else None
    found: list[_Stretch] = []
    start = 0
    while start < len(messages):
        if len(found) == _MOST_STRETCHES:
            return None
        kind, time_ms = messages[start].timestamp()
        if kind != TIMESTAMP_LOG_APPEND_TIME:
            return None  # those were stored while a copy brought their times along
        stop = len(messages)
        if time_ms != latest:
            stop = bisect_right(messages, time_ms, start, stop, key=_time_ms)
        found.append(_Stretch(stop - start, _within(time_ms)))
        start = stop
    return found


def _shared_origins(
    topic: str, partition: int, offset: int, stretches: Iterable[_Stretch]
) -> list[Origin]:
    """The origin of each event, from an offset on; neighbours share one."""
    found: list[Origin] = []
    for stretch in stretches:
        enqueued_at = instant_ms(stretch.time_ms)
        stop = offset + stretch.events
        while offset < stop:
            start = offset - offset % EVENTS_PER_ORIGIN
            behind = min(start + EVENTS_PER_ORIGIN, stop)
            found += [Origin(topic, partition, enqueued_at, start)] * (behind - offset)
            offset = behind
    return found


def _time_ms(message: Message) -> int:
    return message.timestamp()[1]


def _times(messages: Sequence[Message]) -> list[int]:
    """Of each, in milliseconds since 1970."""
    times: list[int] = list(map(_milliseconds, map(Message.timestamp, messages)))
    if min(times) < 0 or max(times) > _LAST_MS:
        return list(map(_within, times))
    return times


def _within(milliseconds: int) -> int:
    """The nearest time there is; -1 stands for none."""
    return min(max(milliseconds, 0), _LAST_MS)


_milliseconds: Final[Callable[[tuple[int, int]], int]] = itemgetter(1)
_offset: Final[Callable[[Message], int]] = Message.offset  # type: ignore[assignment]
"""Of one that was read, which always has it."""


def _keys(keys: list[bytes | None], headers: Sequence[bytes] | None) -> Sequence[Key | None]:
    """The keys of events; `headers` are packed, None where no event has any."""
    if keys[0] is None and keys.count(None) == len(keys):
        return keys
    if headers is not None and _KEY_IS_BYTES_PACKED in b"".join(headers):
        return [_key(key, unpack(own)) for key, own in zip(keys, headers, strict=True)]
    try:
        return list(map(bytes.decode, keys))  # type: ignore[arg-type]
    except (TypeError, UnicodeDecodeError):  # one is none, or no text
        return [_key(key, None) for key in keys]


def _key(key: bytes | None, headers: ReadHeaders | None) -> Key | None:
    if key is None or (headers and headers[-1] == _KEY_IS_BYTES):
        return key
    text = _text_or_none(key)
    return key if text is None else text


def _text_or_none(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
