"""``eventlog group``: how far consumer groups are, moving them, and deleting them."""

from __future__ import annotations

import click

from eventlog.cli.group.delete import delete
from eventlog.cli.group.lag import lag
from eventlog.cli.group.list import list_groups
from eventlog.cli.group.reset import reset
from eventlog.cli.group.show import show
from eventlog.cli.invocation import common_options

__all__ = ["group"]


@click.group
@common_options
def group() -> None:
    """List, show, move and delete consumer groups."""


for _verb in (delete, lag, list_groups, reset, show):
    group.add_command(_verb)
