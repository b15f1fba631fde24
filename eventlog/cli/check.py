"""``eventlog check``: read everything, and say what is damaged."""

from __future__ import annotations

import click

from eventlog import CheckReport, Damage
from eventlog.cli import output
from eventlog.cli.display import size_text
from eventlog.cli.failures import Failure
from eventlog.cli.invocation import Invocation, common_options, pass_invocation

__all__ = ["check"]


@click.command(short_help="Read everything and say what is damaged.")
@common_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@pass_invocation
def check(invocation: Invocation, /, *, as_json: bool) -> None:
    """Read the whole log and print every batch that is damaged.

    Exits with 0 if the log is sound and with 1 if something is damaged. Others may go on writing.
    """
    with invocation.open_log(read_only=True) as log:
        report = log.check()
    if as_json:
        output.write_json(_document(report))
    else:
        _print(report)
    if not report.ok:
        raise Failure


def _print(report: CheckReport) -> None:
    for damage in report.damaged:
        output.write_line(f"damaged: {_place(damage)}{damage.reason}")
    for note in report.notes:
        output.write_line(f"note: {note}")
    output.write_line(_summary(report))


def _place(damage: Damage) -> str:
    """Where it is, as far as that can be told."""
    known = []
    if damage.topic:
        known.append(f"topic {damage.topic}")
    if damage.partition >= 0:
        known.append(f"partition {damage.partition}")
    if damage.first_offset >= 0:
        known.append(f"offsets {damage.first_offset} to {damage.last_offset}")
    return f"{', '.join(known)}: " if known else ""


def _summary(report: CheckReport) -> str:
    found = "sound" if report.ok else f"{len(report.damaged):,} damaged"
    return (
        f"{found}: {report.topics:,} topics, {report.partitions:,} partitions, "
        f"{report.batches:,} batches, {report.events:,} events, {size_text(report.stored_bytes)}"
    )


def _document(report: CheckReport) -> dict[str, object]:
    return {
        "ok": report.ok,
        **report._asdict(),
        "damaged": [Damage._asdict(damage) for damage in report.damaged],
    }
