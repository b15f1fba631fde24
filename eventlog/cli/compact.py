"""``eventlog compact``: give the disk back what was deleted or has expired."""

from __future__ import annotations

import click

from eventlog.cli import output
from eventlog.cli.invocation import Invocation, common_options, pass_invocation

__all__ = ["compact"]


@click.command(short_help="Give the disk back what was deleted.")
@common_options
@pass_invocation
def compact(invocation: Invocation) -> None:
    """Give the disk back what deleted and expired events took.

    The log is copied and the copy takes its place, so there must be room for it. Appends by other
    processes wait for that long.
    """
    with invocation.open_log() as log:
        log.compact()
    output.announce("compacted")
