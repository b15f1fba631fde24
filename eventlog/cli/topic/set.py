"""``eventlog topic set``: change what can be changed about a topic."""

from __future__ import annotations

from typing import Any

import click

from eventlog.cli import output
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.topic.settings import given_settings, setting_options

__all__ = ["set_topic"]


@click.command("set")
@common_options
@click.argument("name")
@setting_options
@click.option("--add-partitions", type=int, metavar="N", help="Have N more. Keys move!")
@pass_invocation
def set_topic(
    invocation: Invocation, /, *, name: str, add_partitions: int | None, **settings: Any
) -> None:
    """Change settings of the topic NAME; what is not given stays."""
    given = given_settings(**settings)
    if not given and add_partitions is None:
        raise click.UsageError("nothing to set: give an option")
    with invocation.open_log() as log:
        topic = log.topic(name)
        if given:
            topic.configure(**given)
        if add_partitions is not None:
            topic.add_partitions(add_partitions)
    output.announce(f"topic {name} changed")
