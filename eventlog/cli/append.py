"""``eventlog append``: store the lines of a file or of standard input."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, cast

import click

from eventlog import Event, Topic
from eventlog.cli import arguments
from eventlog.cli.batch_writer import BatchWriter
from eventlog.cli.event_json import Incoming
from eventlog.cli.failures import Failure, Interrupted
from eventlog.cli.input_lines import InputError, numbered_lines
from eventlog.cli.interrupts import Interrupts
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.line_formats import Parse, body_lines, event_lines, keyed_lines
from eventlog.cli.progress import rate_text, shown_progress

__all__ = ["append"]

READ_BYTES: Final = 256 * 1024

LONGEST_ESCAPE: Final = 6
"""Bytes that one byte of a body takes at most in JSON, as in ``\\u0000``."""

JSON_REST_BYTES: Final = 2**20
"""More than all of an event but its body takes in JSON."""


@click.command(short_help="Store lines as events of a topic.")
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("file", metavar="[FILE]", default="-")
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "json"]),
    default="lines",
    show_default=True,
    help="lines: a line, without its newline, is a body, an empty one too. json: a line is an "
    "event as 'read --format json' prints it.",
)
@click.option("--key", metavar="KEY", help="The key of events that have none of their own.")
@click.option(
    "--key-field",
    metavar="FIELD",
    help="lines: each is a JSON object, and this field of it is the key; where it is missing or "
    "null, --key is, or there is none.",
)
@click.option(
    "--partition", metavar="N", type=int, help="Where all events go; otherwise their keys decide."
)
@click.option("--keep-partitions", is_flag=True, help="json: events go where they say they were.")
@click.option(
    "--property",
    "properties",
    type=arguments.text_property,
    metavar="NAME=VALUE",
    multiple=True,
    help="A property of every event; several may be given.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    metavar="N",
    default=1000,
    show_default=True,
    help="Events in one append; fewer where they are large.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary.")
@pass_invocation
def append(
    invocation: Invocation,
    /,
    *,
    name: str,
    file: str,
    form: Literal["lines", "json"],
    key: str | None,
    key_field: str | None,
    partition: int | None,
    keep_partitions: bool,
    properties: tuple[tuple[str, str], ...],
    batch: int,
    quiet: bool,
) -> None:
    """Append the lines of FILE, or of standard input, to TOPIC.

    At a line that cannot be taken everything before it is stored, and the command fails and names
    it. Ctrl-C stores what was read, and says up to which line that is.
    """
    parse = _parser(form, key_field, dict(properties), keep_partitions=keep_partitions)
    if keep_partitions and partition is not None:
        raise click.UsageError("give --partition or --keep-partitions, not both")
    with (
        _opened(file) as read,
        invocation.open_log() as log,
        Interrupts() as interrupts,
        shown_progress(quiet=quiet) as progress,
    ):
        topic = log.topic(name)
        if partition is not None:
            topic.partition_info(partition)  # refuses one that is not there

        def store(events: list[Event | bytes], named: int | None) -> object:
            where = partition if named is None else named
            return topic.append_batch(events, key=key, partition=where)

        writer = BatchWriter(store, most=batch, appended=progress.show)
        lines = numbered_lines(lambda: interrupts.wait_for(read), _longest_line(form, topic))
        _store(lines, _checked(parse, topic, keep_partitions=keep_partitions), writer)
    if not quiet:
        seconds = progress.seconds
        events = "1 event" if writer.stored == 1 else f"{writer.stored:,} events"
        rate = rate_text(writer.stored, seconds)
        click.echo(f"{events} stored in {seconds:.1f} s, {rate}", err=True)


# Where lines come from, and what they are


@contextmanager
def _opened(file: str) -> Iterator[Callable[[], bytes]]:
    """A function that gives what there is next, without waiting for more than something."""
    if file != "-":
        with Path(file).open("rb") as stream:
            yield lambda: stream.read1(READ_BYTES)
    elif sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed", "standard input")
    else:
        standard = cast("io.BufferedIOBase", sys.stdin.buffer)
        yield lambda: standard.read1(READ_BYTES)


def _longest_line(form: str, topic: Topic) -> int:
    if form == "lines":
        return topic.max_event_bytes
    return LONGEST_ESCAPE * topic.max_event_bytes + JSON_REST_BYTES


def _parser(
    form: str, key_field: str | None, properties: Mapping[str, str], *, keep_partitions: bool
) -> Parse:
    if form == "json":
        if key_field is not None:
            raise click.UsageError("--key-field is for --format lines; events in json have keys")
        return event_lines(properties)
    if keep_partitions:
        raise click.UsageError("--keep-partitions needs --format json: lines name no partition")
    return body_lines(properties) if key_field is None else keyed_lines(key_field, properties)


def _checked(parse: Parse, topic: Topic, *, keep_partitions: bool) -> Parse:
    """`parse`, which also refuses what would make the append of a whole batch fail."""
    most_bytes, partitions = topic.max_event_bytes, topic.partitions

    def checked(line: bytes) -> Incoming | None:
        incoming = parse(line)
        if incoming is None:
            return None
        event, partition = incoming
        size = len(event if isinstance(event, bytes) else event.body)
        if size > most_bytes:
            raise ValueError(
                f"its body has {size:,} bytes; topic {topic.name!r} takes {most_bytes:,} "
                "(max_event_bytes)"
            )
        if not keep_partitions:
            return incoming if partition is None else Incoming(event)
        if partition is None:
            raise ValueError("it names no partition")
        if not 0 <= partition < partitions:
            raise ValueError(f"topic {topic.name!r} has no partition {partition}")
        return incoming

    return checked


# Storing them


def _store(lines: Iterator[tuple[int, bytes]], parse: Parse, writer: BatchWriter) -> None:
    """Append all lines; in whatever way that ends, everything read is stored or accounted for.

    Raises:
        Failure: a line that cannot be taken, an append that failed, or Ctrl-C.
    """
    try:
        ending = _take(lines, parse, writer)
        writer.flush()
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted while appending; {writer.account()}; {writer.doubt()}"
        ) from error
    if isinstance(ending, InputError):
        raise Failure(f"{ending}; {writer.account()}") from ending
    if ending is not None:
        raise Interrupted(f"interrupted; {writer.account()}") from ending


def _take(
    lines: Iterator[tuple[int, bytes]], parse: Parse, writer: BatchWriter
) -> InputError | KeyboardInterrupt | None:
    """Hand the events of all lines to `writer`; what ended that before the end of input."""
    try:
        for number, line in lines:
            try:
                incoming = parse(line)
            except ValueError as error:
                raise InputError(f"line {number}: {error}") from error
            if incoming is not None:
                writer.add(number, incoming, len(line))
    except InputError as error:
        return error
    except KeyboardInterrupt as error:
        if writer.appending:
            raise
        return error
    return None
