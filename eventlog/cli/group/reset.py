"""``eventlog group reset``: have a group go on at another position."""

from __future__ import annotations

from datetime import datetime

import click

from eventlog.cli import arguments, output
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import log_and_store, store_option
from eventlog.positions import Anchor

__all__ = ["reset"]


@click.command
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.option(
    "--to",
    "position",
    type=arguments.position,
    metavar="POSITION",
    required=True,
    help="Where to go on: an offset, a time, an age such as -24h, earliest or latest.",
)
@click.option(
    "--partition",
    "partitions",
    type=int,
    metavar="N",
    multiple=True,
    help="Only this partition; several may be given.",
)
@click.option("--force", is_flag=True, help="Also where a consumer or host is reading just now.")
@store_option
@pass_invocation
def reset(
    invocation: Invocation,
    /,
    *,
    name: str,
    group_name: str,
    position: Anchor | int | datetime,
    partitions: tuple[int, ...],
    force: bool,
    store_url: str | None,
) -> None:
    """Have the group GROUP go on at another position of TOPIC; it is made if it is not there.

    Refused while it is in use, unless forced: then whoever reads goes on there soon after.
    """
    with log_and_store(invocation, store_url, to_change=True) as (log, store):
        found = log.topic(name).group(group_name, store)
        found.reset(position, partitions or None, force=force)
    output.announce(f"group {group_name} of topic {name} reset")
