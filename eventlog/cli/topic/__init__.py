"""``eventlog topic``: the verbs about topics themselves."""

from __future__ import annotations

import click

from eventlog.cli.invocation import common_options
from eventlog.cli.topic.create import create
from eventlog.cli.topic.delete import delete
from eventlog.cli.topic.list import list_topics
from eventlog.cli.topic.set import set_topic
from eventlog.cli.topic.show import show

__all__ = ["topic"]


@click.group
@common_options
def topic() -> None:
    """Create, list, show, change and delete topics."""


for _verb in (create, delete, list_topics, set_topic, show):
    topic.add_command(_verb)
