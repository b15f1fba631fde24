"""``eventlog topic create``: make a topic, and the log if there is none."""

from __future__ import annotations

from typing import Any, Literal

import click

from eventlog import EventLog, TopicExistsError
from eventlog.cli import output
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.topic.settings import given_settings, setting_options

__all__ = ["create"]


@click.command
@common_options
@click.argument("name")
@click.option(
    "--partitions", metavar="N", type=int, default=4, show_default=True, help="1 to 10,000."
)
@setting_options
@click.option(
    "--partitioner",
    type=click.Choice(["eventhubs", "kafka"]),
    default="eventhubs",
    show_default=True,
    help="Whose hash places keys on partitions.",
)
@click.option("--exist-ok", is_flag=True, help="Leave a topic alone that is there already.")
@click.option(
    "--durability",
    type=click.Choice(["disk", "process"]),
    help="For a new log: what an acknowledged append survives, a power cut (disk, unless given) "
    "or killed processes only.",
)
@pass_invocation
def create(
    invocation: Invocation,
    /,
    *,
    name: str,
    partitions: int,
    partitioner: Literal["eventhubs", "kafka"],
    exist_ok: bool,
    durability: Literal["disk", "process"] | None,
    **settings: Any,
) -> None:
    """Make the topic NAME; and the log, if it is not there."""
    chosen = {
        "partitions": partitions,
        "partitioner": partitioner,
        **given_settings(**settings),
    }
    with invocation.open_log(create=True, durability=durability) as log:
        done = _create(log, name, chosen, exist_ok=exist_ok)
    output.announce(f"topic {name} {done}")


def _create(log: EventLog, name: str, chosen: dict[str, Any], *, exist_ok: bool) -> str:
    """Make it, or look at the one that is there; which of the two it was."""
    try:
        log.create_topic(name, **chosen)
    except TopicExistsError:
        if not exist_ok:
            raise
        log.create_topic(name, **chosen, exist_ok=True)
        return "exists"
    return "created"
