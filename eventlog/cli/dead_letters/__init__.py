"""``eventlog dead-letters``: events that were put aside: looking at them, and giving them back."""

from __future__ import annotations

import click

from eventlog.cli.dead_letters.list import list_letters
from eventlog.cli.dead_letters.replay import replay
from eventlog.cli.dead_letters.show import show
from eventlog.cli.invocation import common_options

__all__ = ["dead_letters"]


@click.group("dead-letters", short_help="List, show and replay events that were put aside.")
@common_options
def dead_letters() -> None:
    """List, show and replay events that could not be processed, and were put aside."""


for _verb in (list_letters, replay, show):
    dead_letters.add_command(_verb)
