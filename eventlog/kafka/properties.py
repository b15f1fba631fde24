"""An event's properties, read from headers when somebody looks at them.

To make them of headers takes as long as everything else that is done for an event, and many readers
look at bodies only. Headers are kept as bytes until then: as the lists and tuples that librdkafka
makes of them, of thousands of events, the garbage collector would go through them again and again.

A header that is not what it is said to be is text, or bytes: nothing in it makes reading fail.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, ValuesView
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from eventlog.event import NO_PROPERTIES, PropertyValue

__all__ = ["KEY_HEADER", "TYPES_HEADER", "HeaderProperties", "ReadHeaders", "pack", "unpack"]

ReadHeaders: TypeAlias = list[tuple[str, bytes | None]]

TYPES_HEADER: Final = "eventlog-types"
"""The header that tells which property is of which type."""

KEY_HEADER: Final = "eventlog-key"
"""The header that tells what the key is. It is no property either."""

_INTEGERS: Final = range(-(2**63), 2**64)
_LONGEST_INTEGER: Final = 20  # characters of -2**63, and of 2**64 - 1
_LONGEST_KNOWN: Final = 1024  # bytes of a header of types that is worth remembering
_decode_types: Final = msgspec.json.Decoder(dict[str, str]).decode


pack: Final = msgspec.msgpack.Encoder().encode
"""Headers, or None for none, as bytes."""

unpack: Final = msgspec.msgpack.Decoder(list[tuple[str, Any]] | None).decode
"""What `pack` has packed."""


class HeaderProperties(msgspec.Struct, gc=False, eq=False):
    """Properties that are still headers: a mapping as `types.MappingProxyType` is one, unchanging.

    Args:
        _packed: headers, as `pack` gives them; of names that occur more than once the last counts.
            They are let go once they were looked at.

    It refers only to scalars, so it can be part of no cycle, and the garbage collector need not
    look at it (``gc=False``).
    """

    _packed: bytes | None
    _decoded: Mapping[str, PropertyValue] = NO_PROPERTIES

    def _mapping(self) -> Mapping[str, PropertyValue]:
        packed = self._packed
        if packed is not None:
            self._decoded = _properties(unpack(packed) or [])
            self._packed = None  # afterwards: another thread may do the same meanwhile
        return self._decoded

    def __getitem__(self, name: str) -> PropertyValue:
        return self._mapping()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._mapping())

    def __reversed__(self) -> Iterator[str]:
        return reversed(dict(self._mapping()))

    def __len__(self) -> int:
        return len(self._mapping())

    def __contains__(self, name: object) -> bool:
        return name in self._mapping()

    def __eq__(self, other: object) -> bool:
        return self._mapping() == other

    __hash__ = None  # type: ignore[assignment]  # as a dict

    def __or__(self, other: Any) -> dict[str, Any]:
        return {**self._mapping(), **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Any) -> dict[str, Any]:
        return {**other, **self._mapping()} if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        return repr(self._mapping())

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a property, or `default`."""
        return self._mapping().get(name, default)

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._mapping().keys()

    def values(self) -> ValuesView[PropertyValue]:
        """The values."""
        return self._mapping().values()

    def items(self) -> ItemsView[str, PropertyValue]:
        """Names and values."""
        return self._mapping().items()

    def copy(self) -> dict[str, PropertyValue]:
        """A dict of its own."""
        return dict(self._mapping())


Mapping.register(HeaderProperties)


def _properties(headers: ReadHeaders) -> dict[str, PropertyValue]:
    values: dict[str, Any] = dict(headers)
    types = _types(values.pop(TYPES_HEADER, None))
    values.pop(KEY_HEADER, None)
    for name, value in values.items():
        if value is not None:
            values[name] = _property(value, types.get(name, "str"))
    return values


def _types(header: bytes | None) -> Mapping[str, str]:
    if header is None:
        return {}
    return _known_types(header) if len(header) <= _LONGEST_KNOWN else _read_types(header)


def _read_types(header: bytes) -> Mapping[str, str]:
    try:
        return _decode_types(header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}  # some other client's header of that name


_known_types: Final = lru_cache(maxsize=256)(_read_types)


def _property(value: bytes, kind: str) -> PropertyValue:
    """A header's value, of the type it is said to be; if it cannot be, text or bytes."""
    if kind == "bytes":
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value
    reader = _READERS.get(kind)
    if reader is None:
        return text
    try:
        return reader(text)
    except (ValueError, OverflowError, KeyError):
        return text


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
