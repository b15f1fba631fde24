"""``eventlog dead-letters list``: what was put aside, and why."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, Literal

import click
import msgspec

from eventlog.cli import output
from eventlog.cli.dead_letters.replayed import replayed_text, was_replayed
from eventlog.cli.dead_letters.selection import Letter, Selection, letters, selection_options
from eventlog.cli.display import Value, age_text, instant_text, show_row, show_table
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import store_option

__all__ = ["list_letters"]

COLUMNS: Final = (
    *("place", "origin", "group", "reason", "attempts"),
    *("last error", "first attempt", "last attempt", "replayed"),
)

_encode: Final = msgspec.json.Encoder().encode


@click.command("list")
@common_options
@click.argument("name", metavar="TOPIC")
@selection_options
@click.option(
    "--max", "most", metavar="N", type=click.IntRange(min=0), help="Print at most so many."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="text: a table. json: an object a line, without keys, bodies and other properties.",
)
@store_option
@pass_invocation
def list_letters(
    invocation: Invocation,
    /,
    *,
    name: str,
    form: Literal["text", "json"],
    store_url: str | None,
    **selected: Any,
) -> None:
    """List the dead letters in TOPIC, partition after partition, in the order of their offsets.

    Where the output is no terminal: a line for each, without a header, columns separated by tabs:
    place (as 'show' takes it), origin, group, reason, attempts, last error, first attempt, last
    attempt, and whether it was replayed: on a Kafka cluster that is known with --store only, and
    otherwise - (null in json).
    """
    with invocation.open_log(read_only=True) as log:
        topic = log.topic(name)
        replayed = was_replayed(topic, store_url)
        found = (
            (letter, replayed(letter.event.partition, letter.event.offset))
            for some in letters(topic, Selection(**selected))
            for letter in some
        )
        if form == "json":
            _print_documents(found)
        elif output.is_terminal():
            now = datetime.now(UTC)
            show_table(COLUMNS, [_row(letter, done, now) for letter, done in found])
        else:
            for letter, done in found:
                show_row(_row(letter, done))


def _print_documents(found: Iterator[tuple[Letter, bool | None]]) -> None:
    for letter, done in found:
        output.write(_encode(_document(letter, done)) + b"\n")


def _row(
    letter: Letter,
    replayed: bool | None,  # noqa: FBT001
    now: datetime | None = None,
) -> tuple[Value, ...]:
    says = letter.says
    return (
        *(str(letter.place), f"{says.topic} {says.partition}:{says.offset}", says.group),
        *(says.reason, says.attempts, says.last_error),
        *(_time(says.first_attempt_at, now), _time(says.last_attempt_at, now)),
        replayed_text(replayed),
    )


def _time(when: datetime | None, now: datetime | None) -> Value:
    return when if when is None or now is None else age_text(now - when)


def _document(letter: Letter, replayed: bool | None) -> dict[str, Any]:  # noqa: FBT001
    event, says = letter.event, letter.says
    return {
        "partition": event.partition,
        "offset": event.offset,
        "enqueued_at": instant_text(event.enqueued_at),
        "origin_topic": says.topic,
        "origin_partition": says.partition,
        "origin_offset": says.offset,
        "origin_enqueued_at": instant_text(says.enqueued_at),
        "group": says.group,
        "reason": says.reason,
        "attempts": says.attempts,
        "last_error": says.last_error,
        "first_attempt_at": says.first_attempt_at and instant_text(says.first_attempt_at),
        "last_attempt_at": says.last_attempt_at and instant_text(says.last_attempt_at),
        "replayed": replayed,
    }
