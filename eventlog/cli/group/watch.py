"""A group on a terminal, drawn again and again until Ctrl-C: as `top` does, on a screen of its own.

What does not fit on the screen is cut; the terminal is as it was afterwards.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from eventlog.cli import output
from eventlog.cli.display import field_lines, rich_table
from eventlog.cli.failures import describe
from eventlog.cli.group.picture import MEMBER_COLUMNS, PARTITION_COLUMNS, Picture
from eventlog.errors import StoreUnavailableError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["watch"]


def watch(look: Callable[[], Picture], seconds: float) -> None:
    """Draw what `look` gives, every so many seconds.

    A store that cannot be reached is no reason to end: that is when people watch. Whatever else
    `look` raises ends it.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    from rich.console import Console
    from rich.live import Live

    drawn = _drawn(look(), seconds)  # a group that is not there is told where it can be read
    output.flush()
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(drawn, refresh=True)
            time.sleep(seconds)
            try:
                drawn = _drawn(look(), seconds)
            except StoreUnavailableError as error:
                drawn = describe(error)


def _drawn(picture: Picture, seconds: float) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    now = datetime.now(UTC)
    shown_at = now.astimezone().strftime("%H:%M:%S")
    lines = [*field_lines(picture.fields()), f"{shown_at}, every {seconds:g} s; Ctrl-C ends", ""]
    members = rich_table(MEMBER_COLUMNS, picture.member_rows(now))
    partitions = rich_table(PARTITION_COLUMNS, picture.partition_rows(now))
    return Group(Text("\n".join(lines)), members, partitions)
