"""``eventlog group lag``: what a group has not finished."""

from __future__ import annotations

from typing import Final

import click

from eventlog.cli import output
from eventlog.cli.display import show_table
from eventlog.cli.group.existing import existing, json_option, lag_document, seconds_text
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import log_and_store, store_option

__all__ = ["lag"]

COLUMNS: Final = ("partition", "lag", "lag seconds")


@click.command
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@store_option
@json_option
@pass_invocation
def lag(
    invocation: Invocation,
    /,
    *,
    name: str,
    group_name: str,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Print how much of each partition of TOPIC the group GROUP has not finished.

    Where the output is no terminal: a line for each, without a header, columns separated by tabs:
    partition, events not finished, age of the oldest of them in seconds.
    """
    with log_and_store(invocation, store_url) as (log, store):
        lags = existing(log.topic(name), group_name, store).lag()
    if as_json:
        output.write_json(
            [{"partition": number, **lag_document(lag)} for number, lag in lags.items()]
        )
    else:
        rows = [(number, lag.events, seconds_text(lag)) for number, lag in lags.items()]
        show_table(COLUMNS, rows)
