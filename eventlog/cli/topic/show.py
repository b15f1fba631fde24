"""``eventlog topic show``: the settings and the partitions of a topic."""

from __future__ import annotations

from typing import Final

import click

from eventlog import PartitionInfo
from eventlog.cli import output
from eventlog.cli.display import Value, instant_text, show_fields, show_table, shown_size
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.topic.settings import settings_document, settings_fields

__all__ = ["show"]

COLUMNS: Final = ("partition", "beginning", "next", "last enqueued", "size")


@click.command
@common_options
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@pass_invocation
def show(invocation: Invocation, /, *, name: str, as_json: bool) -> None:
    """Print the settings of the topic NAME, and where each of its partitions begins and ends."""
    with invocation.open_log(read_only=True) as log:
        topic = log.topic(name)
        parts = [topic.partition_info(partition) for partition in range(topic.partitions)]
    if as_json:
        infos = [_document(*numbered) for numbered in enumerate(parts)]
        output.write_json({**settings_document(topic), "partition_info": infos})
        return
    show_fields(settings_fields(topic))
    output.write_line("")
    show_table(COLUMNS, [_row(*numbered) for numbered in enumerate(parts)], header=True)


def _document(partition: int, info: PartitionInfo) -> dict[str, object]:
    when = info.last_enqueued_at
    last = None if when is None else instant_text(when)
    return {"partition": partition, **info._asdict(), "last_enqueued_at": last}


def _row(partition: int, info: PartitionInfo) -> tuple[Value, ...]:
    return (
        partition,
        info.beginning_offset,
        info.next_offset,
        info.last_enqueued_at,
        shown_size(info.next_offset - info.beginning_offset, info.size_bytes),
    )
