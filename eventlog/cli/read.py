"""``eventlog read``: print the events of a topic."""

from __future__ import annotations

from typing import Literal

import click

from eventlog import LATEST, CorruptBatchError
from eventlog.cli import arguments, output
from eventlog.cli.event_formats import CSV_HEADER, Format, csv_rows, json_lines, text_lines
from eventlog.cli.event_ranges import Position, fetched, followed, resolve
from eventlog.cli.failures import Failure
from eventlog.cli.invocation import Invocation, common_options, pass_invocation

__all__ = ["read"]


@click.command(short_help="Print the events of a topic.")
@common_options
@click.argument("name", metavar="TOPIC")
@click.option(
    "--partition",
    "partitions",
    type=int,
    metavar="N",
    multiple=True,
    help="Read this one; may be given several times. Otherwise all, one after the other.",
)
@click.option(
    "--from",
    "start",
    type=arguments.position,
    metavar="POSITION",
    default="earliest",
    show_default=True,
    help="The first event: an offset, a time (2026-03-01T12:00Z), an age (-24h), earliest, latest.",
)
@click.option(
    "--to",
    "end",
    type=arguments.position,
    metavar="POSITION",
    help="The event to stop before. Otherwise the end as it is when reading begins ('latest').",
)
@click.option(
    "--follow", "-f", is_flag=True, help="Go on with what is appended, until --to or Ctrl-C."
)
@click.option(
    "--max", "most", metavar="N", type=click.IntRange(min=0), help="Print at most so many in all."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
    help="text: bodies, one a line, as they are. json: an object a line, which append takes.",
)
@click.option("--with-offset", is_flag=True, help="text: partition and offset before each body.")
@click.option("--with-key", is_flag=True, help="text: the key before each body; empty if none.")
@click.option("--skip-damaged", is_flag=True, help="Warn of damaged batches and go on behind them.")
@pass_invocation
def read(
    invocation: Invocation,
    /,
    *,
    name: str,
    partitions: tuple[int, ...],
    start: Position,
    end: Position | None,
    follow: bool,
    most: int | None,
    form: Literal["text", "json", "csv"],
    with_offset: bool,
    with_key: bool,
    skip_damaged: bool,
) -> None:
    """Print the events of TOPIC, partition after partition, each in the order of its offsets.

    Reading ends where the partitions ended when it began, even if others go on appending. With
    --follow it goes on; then the partitions take turns.
    """
    encode = _format(form, with_offset=with_offset, with_key=with_key)
    with invocation.open_log(read_only=True) as log:
        topic = log.topic(name)
        numbers = list(dict.fromkeys(partitions))
        if form == "csv":
            output.write(CSV_HEADER)
        if follow:
            consumer = topic.consumer(partitions=numbers or None, start=start, end=end, follow=True)
            found = followed(consumer, most, skip_damaged=skip_damaged)
        else:
            stop = LATEST if end is None else end
            ranges = [
                resolve(topic, partition, start, stop)
                for partition in numbers or range(topic.partitions)
            ]
            found = fetched(topic, ranges, most, skip_damaged=skip_damaged)
        try:
            for events in found:
                output.write(encode(events))
                if follow:
                    output.flush()
        except CorruptBatchError as error:
            raise Failure(f"{error}, which --skip-damaged does") from error


def _format(form: str, *, with_offset: bool, with_key: bool) -> Format:
    if form == "text":
        return text_lines(with_offset=with_offset, with_key=with_key)
    if with_offset or with_key:
        raise click.UsageError(f"--format {form} has offsets and keys in any case")
    return json_lines if form == "json" else csv_rows
