"""``eventlog backup``: copy a log that is in use."""

from __future__ import annotations

import click

from eventlog.cli import output
from eventlog.cli.invocation import Invocation, common_options, pass_invocation

__all__ = ["backup"]


@click.command(short_help="Copy a log that is in use.")
@common_options
@click.argument("path", type=click.Path())
@pass_invocation
def backup(invocation: Invocation, /, *, path: str) -> None:
    """Copy the log, as it is at this moment, to the new directory PATH."""
    with invocation.open_log(read_only=True) as log:
        log.backup(path)
    output.announce(f"copied to {path}")
