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
@click.option("--partitions", metavar="N", type=int, help="1 to 10,000; 4 unless given.")
@setting_options
@click.option(
    "--partitioner",
    type=click.Choice(["eventhubs", "kafka"]),
    help="Whose hash places keys on partitions; eventhubs unless given.",
)
@click.option(
    "--exist-ok",
    is_flag=True,
    help="Leave a topic alone that is there already; an error only if it has other partitions, or "
    "another partitioner, than are given.",
)
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
    partitions: int | None,
    partitioner: Literal["eventhubs", "kafka"] | None,
    exist_ok: bool,
    durability: Literal["disk", "process"] | None,
    **settings: Any,
) -> None:
    """Make the topic NAME; and the log, if it is not there."""
    given = {"partitions": partitions, "partitioner": partitioner}
    chosen = {
        **{name: value for name, value in given.items() if value is not None},
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
        there = log.topic(name)
        same = {"partitions": there.partitions, "partitioner": there.partitioner}
        log.create_topic(name, **{**same, **chosen}, exist_ok=True)
        return "exists"
    return "created"
