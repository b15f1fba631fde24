"""`check`: every rule, applied to everything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tests.history import grouping, owning, reading, storing
from tests.history.contents import LogContents
from tests.history.evidence import Evidence, Finding
from tests.history.records import Record

__all__ = ["RULES", "check"]

RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    storing.kept,
    storing.stored_as_often_as_sent,
    storing.gaps,
    storing.order,
    storing.holes,
    storing.time_order,
    storing.fenced_producers,
    reading.truth,
    reading.sequence,
    reading.losses,
    reading.ends,
    reading.coverage,
    grouping.delivered_again,
    grouping.beyond_reads,
    grouping.moved_back,
    grouping.explained,
    grouping.fenced_consumers,
    owning.one_owner,
    owning.former_owners,
    owning.planned_moves,
    grouping.whole_transactions,
    grouping.exactly_once,
)


def check(records: Iterable[Record], log: LogContents) -> list[Finding]:
    """Everything that is wrong, each finding once, in the order of the rules."""
    evidence = Evidence(records, log)
    return list(dict.fromkeys(finding for rule in RULES for finding in rule(evidence)))
