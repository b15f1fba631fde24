"""``eventlog topic delete``: delete a topic and its events."""

from __future__ import annotations

import sys

import click

from eventlog.cli import output
from eventlog.cli.failures import Failure
from eventlog.cli.invocation import Invocation, common_options, pass_invocation

__all__ = ["delete"]


@click.command
@common_options
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_invocation
def delete(invocation: Invocation, /, *, name: str, yes: bool) -> None:
    """Delete the topic NAME and all its events, for good. Asks first, on a terminal."""
    with invocation.open_log() as log:
        log.topic(name)
        if not yes:
            _ask(name)
        log.delete_topic(name)
    output.announce(f"topic {name} deleted")


def _ask(name: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at: give --yes")
    if not click.confirm(f"Delete topic {name} and all its events?", err=True):
        raise Failure(f"topic {name} was not deleted")
