"""``eventlog expire``: remove what has expired."""

from __future__ import annotations

import click

from eventlog.cli.display import show_table
from eventlog.cli.invocation import Invocation, common_options, pass_invocation

__all__ = ["expire"]


@click.command(short_help="Remove the events that have expired.")
@common_options
@click.argument("names", metavar="[TOPIC]...", nargs=-1)
@pass_invocation
def expire(invocation: Invocation, /, *, names: tuple[str, ...]) -> None:
    """Remove the events that have expired from each TOPIC, or from all of them.

    Expired events are never read, removed or not; this makes their space free for new ones. (The
    file itself gets smaller only by compact.) Prints a line for each topic: its name, and how many
    events were removed, separated by a tab where the output is no terminal.
    """
    with invocation.open_log() as log:
        topics = [log.topic(name) for name in names] or log.topics()
        rows = [(topic.name, topic.expire()) for topic in topics]
    show_table(["topic", "events removed"], rows)
