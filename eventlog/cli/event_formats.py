"""What `read` prints of events: bodies, JSON Lines or CSV. Bytes, since bodies are bytes."""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from eventlog import StoredEvent
from eventlog.cli.display import instant_text
from eventlog.cli.event_json import encode_events, encode_properties

__all__ = ["Format", "csv_rows", "json_lines", "text_lines"]

Format: TypeAlias = Callable[[Sequence[StoredEvent]], bytes]
"""Events as they are printed."""

json_lines: Final = encode_events

CSV_HEADER: Final = b"partition,offset,enqueued_at,key,key_base64,body,body_base64,properties\n"

_CRLF: Final = "\r\n"


def text_lines(*, with_offset: bool, with_key: bool) -> Format:
    """A line for each event: its body as it is; before it what is asked for, a tab after each."""
    if not (with_offset or with_key):
        return _bodies

    def lines(events: Sequence[StoredEvent]) -> bytes:
        return b"".join(_text_line(event, with_offset, with_key) for event in events)

    return lines


def _bodies(events: Sequence[StoredEvent]) -> bytes:
    return b"\n".join([*(event.body for event in events), b""])


def _text_line(event: StoredEvent, with_offset: bool, with_key: bool) -> bytes:  # noqa: FBT001  # once per event
    columns = [event.body]
    if with_key:
        columns.insert(0, _key_bytes(event))
    if with_offset:
        columns.insert(0, f"{event.partition}\t{event.offset}".encode())
    return b"\t".join(columns) + b"\n"


def _key_bytes(event: StoredEvent) -> bytes:
    key = event.key
    if key is None:
        return b""
    return key.encode() if isinstance(key, str) else key


class _Rows:
    """A file for `csv.writer`: its rows, ending in a newline.

    The writer must believe that they end in CR LF, or it leaves a CR in a field unquoted.
    """

    def __init__(self) -> None:
        self.rows: list[str] = []

    def write(self, row: str) -> None:
        """Take one row."""
        self.rows.append(row.removesuffix(_CRLF) + "\n")


def csv_rows(events: Sequence[StoredEvent]) -> bytes:
    """A row for each event, in the columns of `CSV_HEADER`; what is absent is empty."""
    file = _Rows()
    csv.writer(file, lineterminator=_CRLF).writerows(map(_csv_row, events))
    return "".join(file.rows).encode()


def _csv_row(event: StoredEvent) -> Sequence[object]:
    key: tuple[str, str] = ("", "")
    if isinstance(event.key, bytes):
        key = ("", _base64(event.key))
    elif event.key is not None:
        key = (event.key, "")
    try:
        body = (event.body.decode(), "")
    except UnicodeDecodeError:
        body = ("", _base64(event.body))
    properties = encode_properties(event.properties) if event.properties else ""
    when = instant_text(event.enqueued_at)
    return event.partition, event.offset, when, *key, *body, properties


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
