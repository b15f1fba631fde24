"""``eventlog group list``: the groups of a topic, or of all topics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import click

from eventlog import EventLogError, Topic, TopicNotFoundError
from eventlog.blobs import BlobStore
from eventlog.cli import output
from eventlog.cli.display import Value, show_table
from eventlog.cli.failures import describe, warn
from eventlog.cli.group.existing import json_option, lag_document, seconds_text
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import log_and_store, store_option
from eventlog.group import Lag

__all__ = ["list_groups"]

COLUMNS: Final = ("topic", "group", "members", "lag", "lag seconds")


class _Summary(NamedTuple):
    """A group in a list; what cannot be told is None."""

    topic: str
    group: str
    members: list[str] | None = None
    lag: Lag | None = None

    def row(self) -> tuple[Value, ...]:
        members = None if self.members is None else len(self.members)
        if self.lag is None:
            return self.topic, self.group, members, None, None
        return self.topic, self.group, members, self.lag.events, seconds_text(self.lag)

    def document(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "group": self.group,
            "members": self.members,
            **lag_document(self.lag),
        }


@click.command("list")
@common_options
@click.argument("name", metavar="[TOPIC]", required=False)
@store_option
@json_option
@pass_invocation
def list_groups(
    invocation: Invocation, /, *, name: str | None, store_url: str | None, as_json: bool
) -> None:
    """List the groups of TOPIC, or of all topics, in the order of their names.

    Where the output is no terminal: a line for each, without a header, columns separated by tabs:
    topic, group, number of members, events not finished, age of the oldest of them in seconds.
    """
    with log_and_store(invocation, store_url) as (log, store):
        topics = log.topics() if name is None else [log.topic(name)]
        found = [summary for topic in topics for summary in _summaries(topic, store)]
    if as_json:
        output.write_json([summary.document() for summary in found])
    else:
        show_table(COLUMNS, [summary.row() for summary in found])


def _summaries(topic: Topic, store: BlobStore | None) -> Iterator[_Summary]:
    with contextlib.suppress(TopicNotFoundError):  # deleted since
        for found in topic.groups(store):
            try:
                yield _Summary(topic.name, found.name, found.members(), _total(found.lag()))
            except TopicNotFoundError:
                raise
            except EventLogError as error:  # one damaged document does not hide other groups
                warn(describe(error))
                yield _Summary(topic.name, found.name)


def _total(lags: Mapping[int, Lag]) -> Lag:
    return Lag(
        sum(lag.events for lag in lags.values()),
        max((lag.seconds for lag in lags.values()), default=0.0),
    )
