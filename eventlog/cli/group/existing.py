"""What the verbs about groups share: finding one, and how lag is printed."""

from __future__ import annotations

from typing import Any, Final

import click

from eventlog import Topic
from eventlog.blobs import BlobStore
from eventlog.cli.failures import Failure
from eventlog.group import ConsumerGroup, Lag

__all__ = ["existing", "json_option", "lag_document", "no_group", "seconds_text"]

json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for programs."
)


def existing(topic: Topic, name: str, store: BlobStore | None) -> ConsumerGroup:
    """The group of that name.

    Raises:
        Failure: there is none.
    """
    wanted = topic.group(name, store)
    if name not in {there.name for there in topic.groups(store)}:
        raise no_group(topic, name)
    return wanted


def no_group(topic: Topic, name: str) -> Failure:
    """There is no such group."""
    return Failure(f"topic {topic.name!r} has no group {name!r}")


def lag_document(lag: Lag | None) -> dict[str, Any]:
    """A lag in JSON; null where it is not known."""
    events, seconds = (None, None) if lag is None else lag
    return {"lag_events": events, "lag_seconds": seconds}


def seconds_text(lag: Lag) -> str:
    """The age of what is not finished, in seconds."""
    return f"{lag.seconds:.3f}"
