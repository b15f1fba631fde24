"""``eventlog group show``: the members of a group, who owns what, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import click

from eventlog.cli import output
from eventlog.cli.display import show_fields, show_table
from eventlog.cli.group.existing import json_option
from eventlog.cli.group.picture import (
    MEMBER_COLUMNS,
    OPTIONAL_COLUMNS,
    PARTITION_COLUMNS,
    Picture,
    look,
)
from eventlog.cli.group.watch import watch
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import log_and_store, store_option

__all__ = ["show"]

WATCH: Final = "--watch"
WATCH_SECONDS: Final = "2"
SHORTEST_SECONDS: Final = 0.05


class _Show(click.Command):
    """Lets ``--watch`` stand anywhere without its number: what follows it may be a name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`."""
        given = []
        for argument, following in zip(args, [*args[1:], ""], strict=True):
            alone = argument == WATCH and not _is_number(following)
            given.append(f"{WATCH}={WATCH_SECONDS}" if alone else argument)
        return super().parse_args(ctx, given)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@click.command(cls=_Show)
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.option(
    WATCH,
    "seconds",
    type=click.FloatRange(min=SHORTEST_SECONDS),
    metavar="[SECONDS]",
    help=f"Go on showing it, again each so many seconds ({WATCH_SECONDS} unless given), until "
    "Ctrl-C.",
)
@store_option
@json_option
@pass_invocation
def show(
    invocation: Invocation,
    /,
    *,
    name: str,
    group_name: str,
    seconds: float | None,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Print the members of GROUP, who of them owns which partition of TOPIC, and how far it is.

    A checkpoint is the offset of the last event that was finished: -1 before the first, none where
    the group never began. An epoch counts the hosts that owned the partition; next is the host it
    is about to be handed over to. What machines say of their times is by their own clocks.

    A narrow terminal is shown fewer columns; a pipe, or --json, has all of them.
    """
    with log_and_store(invocation, store_url) as (log, store):
        topic = log.topic(name)
        now = partial(look, topic, group_name, store)
        if seconds is None:
            _print(now(), as_json=as_json)
        elif as_json or not output.is_terminal():
            _print_again(now, partial(time.sleep, seconds), as_json=as_json)
        else:
            watch(now, seconds)


def _print(picture: Picture, *, as_json: bool) -> None:
    if as_json:
        output.write_json(picture.document_for_programs())
        return
    now = datetime.now(UTC) if output.is_terminal() else None
    show_fields(picture.fields())
    output.write_line("")
    if picture.members:
        _show_table(MEMBER_COLUMNS, picture.member_rows(now))
        output.write_line("")
    _show_table(PARTITION_COLUMNS, picture.partition_rows(now))


_show_table: Final = partial(show_table, header=True, optional=OPTIONAL_COLUMNS)


def _print_again(look: Callable[[], Picture], pause: Callable[[], Any], *, as_json: bool) -> None:
    """A block, or a document, each time; a blank line between blocks. Ends by an exception."""
    _print(look(), as_json=as_json)
    while True:
        output.flush()
        pause()
        if not as_json:
            output.write_line("")
        _print(look(), as_json=as_json)
