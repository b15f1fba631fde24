"""A group on a terminal, drawn again and again until Ctrl-C: as `top` does, on a screen of its own.

What does not fit on the screen is left out, which the screen says; the terminal is as it was
afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from eventlog.cli import output
from eventlog.cli.display import Value, field_lines, rich_table, terminal
from eventlog.cli.failures import describe
from eventlog.cli.group.picture import (
    MEMBER_COLUMNS,
    OPTIONAL_COLUMNS,
    PARTITION_COLUMNS,
    Picture,
)
from eventlog.errors import StoreUnavailableError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["watch"]


def watch(look: Callable[[], Picture], seconds: float) -> None:
    """Draw what `look` gives, every so many seconds.

    A store that cannot be reached is no reason to end: that is when people watch. Whatever else
    `look` raises ends it.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    from rich.live import Live

    console = terminal()
    drawn = _drawn(console, look(), seconds)  # that it is not there is told where it can be read
    output.flush()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(drawn, refresh=True)
            time.sleep(seconds)
            try:
                drawn = _drawn(console, look(), seconds)
            except StoreUnavailableError as error:
                drawn = describe(error)


def _drawn(console: Console, picture: Picture, seconds: float) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    now = datetime.now(UTC)
    shown_at = now.astimezone().strftime("%H:%M:%S")
    lines = [*field_lines(picture.fields()), f"{shown_at}, every {seconds:g} s; Ctrl-C ends", ""]
    room = console.height - len(lines)
    members = _cut(console, "members", MEMBER_COLUMNS, picture.member_rows(now), room // 2)
    room -= _height(console, members)
    partitions = _cut(console, "partitions", PARTITION_COLUMNS, picture.partition_rows(now), room)
    return Group(Text("\n".join(lines)), members, partitions)


def _cut(
    console: Console,
    what: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[Value]],
    room: int,
) -> RenderableType:
    """As many rows as there is room for, in lines, and how many there is none for."""
    from rich.console import Group
    from rich.text import Text

    table = partial(rich_table, console, titles, optional=OPTIONAL_COLUMNS)
    some = rows[: max(room, 0)]
    drawn = table(some)
    too_many = _height(console, drawn) - room
    if too_many <= 0:  # and so these are all, since a table has more lines than rows
        return drawn
    kept = max(len(some) - too_many - 1, 0)
    left_out = f" {len(rows) - kept:,} more {what}, for which there is no room"
    return Group(table(some[:kept]), Text(left_out))


def _height(console: Console, drawn: RenderableType) -> int:
    return len(console.render_lines(drawn))
