"""What `append` makes of a line: the body of an event, or a whole event as `read` prints it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET

from eventlog import Event
from eventlog.cli.event_json import Incoming, decode_event

__all__ = ["Parse", "body_lines", "event_lines", "keyed_lines"]

Parse: TypeAlias = Callable[[bytes], Incoming | None]
"""The event a line is; None if it is none. Raises ValueError for what it must not be."""

_decode_text: Final = msgspec.json.Decoder(str).decode


def body_lines(properties: Mapping[str, str]) -> Parse:
    """A line is a body."""
    if not properties:
        return Incoming
    return lambda line: Incoming(Event(line, None, properties))


def keyed_lines(field: str, properties: Mapping[str, str]) -> Parse:
    """A line is a body, a JSON object whose `field` is the key.

    A string is the key; a number, true or false is so as it is written; null or no such field
    means no key. The body is the line, unchanged.
    """
    # A struct of one field: msgspec skips the others without making objects of them.
    keyed = msgspec.defstruct("Keyed", [("key", msgspec.Raw, UNSET)], rename={"key": field})
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(keyed).decode

    def parse(line: bytes) -> Incoming:
        key = _key_of(decode(line).key, field)
        if key is None and not properties:
            return Incoming(line)
        return Incoming(Event(line, key, properties))

    return parse


def _key_of(value: Any, field: str) -> str | None:
    if value is UNSET:
        return None
    text = bytes(value)
    if text.startswith(b'"'):
        return _decode_text(text)
    if text.startswith((b"{", b"[")):
        raise ValueError(f"its field {field!r} is no string, number or other scalar")
    return None if text == b"null" else text.decode()


def event_lines(properties: Mapping[str, str]) -> Parse:
    """A line is an event as in `eventlog.cli.event_json`; a blank one is nothing."""

    def parse(line: bytes) -> Incoming | None:
        return None if not line or line.isspace() else decode_event(line, properties)

    return parse
