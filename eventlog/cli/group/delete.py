"""``eventlog group delete``: forget how far a group is."""

from __future__ import annotations

import sys
from typing import Final

import click

from eventlog import EventLogError
from eventlog.cli import output
from eventlog.cli.failures import Failure
from eventlog.cli.group.existing import existing
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import log_and_store, store_option
from eventlog.errors import StoreUnavailableError
from eventlog.group import ConsumerGroup

__all__ = ["delete"]

_MOST_NAMED: Final = 3


@click.command
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also while hosts or consumers are members.")
@store_option
@pass_invocation
def delete(
    invocation: Invocation,
    /,
    *,
    name: str,
    group_name: str,
    yes: bool,
    force: bool,
    store_url: str | None,
) -> None:
    """Delete the group GROUP of TOPIC: all it has finished is forgotten. Asks first, on a terminal.

    Refused while it has members, unless forced. Then consumers are disconnected; hosts come back,
    make it anew, and begin at their start.
    """
    with log_and_store(invocation, store_url, to_change=True) as (log, store):
        found = existing(log.topic(name), group_name, store)
        if not force:
            _refuse_members(found, name)
        asked = not yes and sys.stdin is not None and sys.stdin.isatty()
        if asked and not click.confirm(f"Delete group {group_name} of topic {name}?", err=True):
            raise Failure(f"group {group_name} of topic {name} was not deleted")
        found.delete()
    output.announce(f"group {group_name} of topic {name} deleted")


def _refuse_members(found: ConsumerGroup, topic: str) -> None:
    """Raises `Failure` if anybody is there. Of a damaged group that cannot be told."""
    try:
        members = found.members()
    except StoreUnavailableError:
        raise
    except EventLogError:
        return
    if not members:
        return
    named = ", ".join(members[:_MOST_NAMED])
    more = f" and {len(members) - _MOST_NAMED:,} more" if len(members) > _MOST_NAMED else ""
    raise Failure(
        f"group {found.name} of topic {topic} is in use by {named}{more}: stop that first, or "
        "--force it; hosts come back then, and begin at their start"
    )
