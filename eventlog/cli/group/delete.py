"""``eventlog group delete``: forget how far a group is."""

from __future__ import annotations

import sys

import click

from eventlog.cli import output
from eventlog.cli.failures import Failure
from eventlog.cli.group.existing import existing
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import log_and_store, store_option

__all__ = ["delete"]


@click.command
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@pass_invocation
def delete(
    invocation: Invocation, /, *, name: str, group_name: str, yes: bool, store_url: str | None
) -> None:
    """Delete the group GROUP of TOPIC: all it has finished is forgotten. Asks first, on a terminal.

    Whoever reads for it is disconnected.
    """
    with log_and_store(invocation, store_url, to_change=True) as (log, store):
        found = existing(log.topic(name), group_name, store)
        asked = not yes and sys.stdin is not None and sys.stdin.isatty()
        if asked and not click.confirm(f"Delete group {group_name} of topic {name}?", err=True):
            raise Failure(f"group {group_name} of topic {name} was not deleted")
        found.delete()
    output.announce(f"group {group_name} of topic {name} deleted")
