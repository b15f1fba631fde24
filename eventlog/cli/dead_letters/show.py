"""``eventlog dead-letters show``: one event that was put aside, all of it."""

from __future__ import annotations

from typing import Final, Literal

import click

from eventlog import Event
from eventlog.cli import output
from eventlog.cli.dead_letters.replayed import replayed_text, was_replayed
from eventlog.cli.dead_letters.selection import Letter, Place, Selection, letters, place
from eventlog.cli.display import Value, show_fields
from eventlog.cli.event_formats import json_lines
from eventlog.cli.event_json import encode_properties
from eventlog.cli.failures import Failure
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import store_option
from eventlog.processor.dead_letters import original

__all__ = ["show"]

FORMATS: Final = ("text", "json")


@click.command
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("where", metavar="PARTITION:OFFSET", type=place)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="text",
    show_default=True,
    help="text: what is known, a line each, a blank line, and the body as it is. json: the event "
    "as 'read --format json' prints it.",
)
@store_option
@pass_invocation
def show(
    invocation: Invocation,
    /,
    *,
    name: str,
    where: Place,
    form: Literal["text", "json"],
    store_url: str | None,
) -> None:
    """Print the dead letter of TOPIC that stands at PARTITION:OFFSET, as 'list' shows it."""
    with invocation.open_log(read_only=True) as log:
        topic = log.topic(name)
        found = [one for some in letters(topic, Selection((where,))) for one in some]
        if not found:
            raise Failure(f"what stands at {where} in topic {name!r} is no dead letter")
        replayed = was_replayed(topic, store_url)(where.partition, where.offset)
    (letter,) = found
    if form == "json":
        output.write(json_lines([letter.event]))
        return
    event = original(letter.event)
    show_fields([*_fields(letter), ("replayed", replayed_text(replayed)), *_own(event)])
    output.write_line("")
    output.write(event.body + b"\n")


def _fields(letter: Letter) -> list[tuple[str, Value]]:
    says = letter.says
    return [
        ("place", str(letter.place)),
        ("put aside", letter.event.enqueued_at),
        ("reason", says.reason),
        ("last error", says.last_error),
        ("attempts", says.attempts),
        ("first attempt", says.first_attempt_at),
        ("last attempt", says.last_attempt_at),
        ("group", says.group),
        ("origin topic", says.topic),
        ("origin partition", says.partition),
        ("origin offset", says.offset),
        ("origin enqueued", says.enqueued_at),
    ]


def _own(event: Event) -> list[tuple[str, Value]]:
    """What the event itself has, beside its body."""
    key = repr(event.key) if isinstance(event.key, bytes) else event.key
    properties = encode_properties(event.properties) if event.properties else None
    return [("key", key), ("properties", properties)]
