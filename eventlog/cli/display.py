"""Values and tables for people on a terminal, and for programs in a pipe.

On a terminal a table has a header, numbers have separators and sizes units. In a pipe a row is a
line, columns are separated by tabs, numbers and sizes are plain, and nothing is wrapped or
coloured. What is absent or unlimited reads ``none`` in both.

On a terminal that is too narrow, titles take several lines, and then columns are left out that the
verb says can be; only if that does not do are values folded. In a pipe all columns are there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventlog.cli import output
from eventlog.topic_settings import duration_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = [
    "Size",
    "Value",
    "age_text",
    "duration_text",
    "field_lines",
    "instant_text",
    "printable",
    "rich_table",
    "show_fields",
    "show_row",
    "show_table",
    "shown_size",
    "terminal",
]

_UNLIMITED: Final = 100_000


class Size(int):
    """A number of bytes."""


Value: TypeAlias = str | int | datetime | timedelta | None


@functools.lru_cache(maxsize=64)  # events of a batch share one
def instant_text(when: datetime) -> str:
    """ISO 8601 in UTC, always with microseconds: as text in the order of time."""
    utc = when.astimezone(UTC).replace(tzinfo=None)
    return f"{utc.isoformat(timespec='microseconds')}Z"


def age_text(age: timedelta) -> str:
    """How long ago, for a person: ``0.4 s ago``, ``12 m ago``, ``3 d ago``; never in the future."""
    seconds = max(age.total_seconds(), 0.0)
    if seconds < 59.95:
        return f"{seconds:.1f} s ago"
    for unit, length in (("d", 86_400), ("h", 3600)):
        if seconds >= length:
            return f"{seconds // length:,.0f} {unit} ago"
    return f"{seconds / 60:.0f} m ago"


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


def shown_size(events: int, size: int) -> Value:
    """What events take; ``-`` where they cannot take nothing: the engine does not know."""
    return "-" if events and not size else Size(size)


def printable(text: str) -> str:
    """In one line and one column, and without power over a terminal, whoever wrote it."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def plain(value: Value) -> str:
    """As a program reads it."""
    if value is None:
        return "none"
    if isinstance(value, datetime):
        return instant_text(value)
    if isinstance(value, str):
        return printable(value)
    return duration_text(value) if isinstance(value, timedelta) else str(value)


def pretty(value: Value) -> str:
    """As a person reads it."""
    if isinstance(value, Size):
        return size_text(value)
    return f"{value:,}" if isinstance(value, int) else plain(value)


def show_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[Value]],
    *,
    header: bool = False,
    optional: Sequence[str] = (),
) -> None:
    """Print a table.

    Args:
        titles: of the columns.
        rows: a value for each column.
        header: whether to print a line of titles in a pipe too.
        optional: titles of columns that a narrow terminal does without, least important first.
    """
    if output.is_terminal():
        output.flush()
        console = terminal()
        console.print(rich_table(console, titles, rows, optional=optional))
        return
    if header:
        output.write_line("\t".join(titles))
    for row in rows:
        show_row(row)


def show_row(row: Sequence[Value]) -> None:
    """Print a row for a program: of a table that is too long to be gathered."""
    output.write_line("\t".join(map(plain, row)))


def show_fields(fields: Sequence[tuple[str, Value]]) -> None:
    """Print names and values, a line each."""
    if not output.is_terminal():
        for name, value in fields:
            output.write_line(f"{name}\t{plain(value)}")
        return
    for line in field_lines(fields):
        output.write_line(line)


def field_lines(fields: Sequence[tuple[str, Value]]) -> list[str]:
    """Names and values as a person reads them."""
    width = max(len(name) for name, _ in fields)
    return [f"{name:<{width}}  {pretty(value)}" for name, value in fields]


def terminal() -> Console:
    """Standard output, for tables."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def rich_table(
    console: Console,
    titles: Sequence[str],
    rows: Sequence[Sequence[Value]],
    *,
    optional: Sequence[str] = (),
) -> Table:
    """A table as a person reads it, as wide as `console` at most; see `show_table`."""
    unlimited = console.options.update(width=_UNLIMITED)
    for narrower in _narrower(titles, optional):
        table = _table(titles, rows, narrower)
        if console.measure(table, options=unlimited).maximum <= console.width:
            return table
    kept = {title: title for title in titles if title not in optional}
    return _table(titles, rows, kept)


def _narrower(titles: Sequence[str], optional: Sequence[str]) -> Iterator[dict[str, str]]:
    """What is shown, narrower each time: the columns that are left, and how they are titled."""
    yield {title: title for title in titles}
    for count in range(len(optional) + 1):
        left_out = optional[:count]
        yield {title: title.replace(" ", "\n") for title in titles if title not in left_out}


def _table(
    titles: Sequence[str], rows: Sequence[Sequence[Value]], shown: Mapping[str, str]
) -> Table:
    """Of the columns `shown`, with other titles; if it has no room, values are folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    columns = [column for column, title in enumerate(titles) if title in shown]
    for column in columns:
        numeric = any(isinstance(row[column], int) for row in rows)
        justify: Literal["left", "right"] = "right" if numeric else "left"
        table.add_column(shown[titles[column]], justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(pretty(row[column])) for column in columns))
    return table
