"""``eventlog topic list``: the topics of a log."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import click

from eventlog import Topic, TopicNotFoundError
from eventlog.cli import output
from eventlog.cli.display import Size, Value, show_table, shown_size
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.topic.settings import settings_document

__all__ = ["list_topics"]

COLUMNS: Final = ("topic", "partitions", "events", "size", "retention", "retention bytes")


@click.command("list")
@common_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@pass_invocation
def list_topics(invocation: Invocation, /, *, as_json: bool) -> None:
    """List the topics, in the order of their names.

    Where the output is no terminal: a line for each, without a header, columns separated by tabs:
    name, partitions, events, bytes stored (- where a cluster keeps them), retention, retention
    bytes.
    """
    rows: list[tuple[Value, ...]] = []
    documents: list[dict[str, Any]] = []
    with invocation.open_log(read_only=True) as log:
        for topic in log.topics():
            with contextlib.suppress(TopicNotFoundError):  # deleted since
                events, size = _contents(topic)
                limit = topic.retention_bytes
                kept = None if limit is None else Size(limit)
                rows.append(
                    (
                        topic.name,
                        topic.partitions,
                        events,
                        shown_size(events, size),
                        topic.retention,
                        kept,
                    )
                )
                document = settings_document(topic)
                documents.append({**document, "events": events, "size_bytes": size})
    if as_json:
        output.write_json(documents)
    else:
        show_table(COLUMNS, rows)


def _contents(topic: Topic) -> tuple[int, int]:
    """How many events can be read, and the bytes they take as stored."""
    parts = [topic.partition_info(partition) for partition in range(topic.partitions)]
    events = sum(part.next_offset - part.beginning_offset for part in parts)
    return events, sum(part.size_bytes for part in parts)
