"""Values and tables for people on a terminal, and for programs in a pipe.

On a terminal a table has a header, numbers have separators and sizes units. In a pipe a row is a
line, columns are separated by tabs, numbers and sizes are plain, and nothing is wrapped or
coloured. What is absent or unlimited reads ``none`` in both.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from eventlog.cli import output

__all__ = ["Size", "Value", "duration_text", "instant_text", "show_fields", "show_table"]

_MICROSECOND: Final = timedelta(microseconds=1)
_DURATION_UNITS: Final = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


class Size(int):
    """A number of bytes."""


Value: TypeAlias = str | int | datetime | timedelta | None


@functools.lru_cache(maxsize=64)  # events of a batch share one
def instant_text(when: datetime) -> str:
    """ISO 8601 in UTC, always with microseconds: as text in the order of time."""
    utc = when.astimezone(UTC).replace(tzinfo=None)
    return f"{utc.isoformat(timespec='microseconds')}Z"


def duration_text(length: timedelta) -> str:
    """In the largest unit it is a whole number of: ``7d``, ``36h``, ``90s``."""
    for unit, one in _DURATION_UNITS.items():
        if not length % one:
            return f"{length // one}{unit}"
    milliseconds, rest = divmod(length // _MICROSECOND, 1000)
    return f"{milliseconds}.{rest:03}ms"


def size_text(size: int) -> str:
    """With a binary unit: ``512 B``, ``1.5 MiB``."""
    if size < 1024:
        return f"{size} B"
    scaled = float(size)
    for unit in ("KiB", "MiB", "GiB"):
        scaled /= 1024
        if scaled < 1023.95:
            return f"{scaled:.1f} {unit}".replace(".0 ", " ")
    return f"{scaled / 1024:,.1f} TiB".replace(".0 ", " ")


def plain(value: Value) -> str:
    """As a program reads it."""
    if value is None:
        return "none"
    if isinstance(value, datetime):
        return instant_text(value)
    return duration_text(value) if isinstance(value, timedelta) else str(value)


def pretty(value: Value) -> str:
    """As a person reads it."""
    if isinstance(value, Size):
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) else plain(value)


def show_table(
    titles: Sequence[str], rows: Sequence[Sequence[Value]], *, header: bool = False
) -> None:
    """Print a table; `header` asks for a line of titles in a pipe too."""
    if output.is_terminal():
        _show_on_terminal(titles, rows)
        return
    if header:
        output.write_line("\t".join(titles))
    for row in rows:
        output.write_line("\t".join(map(plain, row)))


def show_fields(fields: Sequence[tuple[str, Value]]) -> None:
    """Print names and values, a line each."""
    if not output.is_terminal():
        for name, value in fields:
            output.write_line(f"{name}\t{plain(value)}")
        return
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        output.write_line(f"{name:<{width}}  {pretty(value)}")


def _show_on_terminal(titles: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column, title in enumerate(titles):
        numeric = any(isinstance(row[column], int) for row in rows)
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(pretty, row))
    output.flush()
    Console(file=sys.stdout, highlight=False, markup=False, emoji=False).print(table)
