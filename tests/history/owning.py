"""Rules about hosts: who owns a partition when, and what the next owner begins with.

Whoever reads for a group as a host notes its epoch when it begins; what others note is not looked
at here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from tests.history.evidence import Evidence, Fault, Finding, GroupPlace, Session
from tests.history.records import Kind, Record

__all__ = ["former_owners", "one_owner", "planned_moves"]


def _owners(evidence: Evidence, group: GroupPlace) -> list[Session]:
    """The sessions of hosts, in the order of their epochs."""
    sessions = [one for one in evidence.sessions_of(group) if one.started.epoch > 0]
    return sorted(sessions, key=lambda one: (one.started.epoch, one.started.at))


def _first_read(session: Session) -> Record | None:
    return next((record for record in session.records if record.kind is Kind.READ), None)


def _process_of(actor: str) -> str:
    return actor.partition("/")[0]


def one_owner(evidence: Evidence) -> Iterator[Finding]:
    """A partition has one owner at a time: a former one is given nothing when a later one was.

    A process that is paused, where nobody can see it coming, may be given on waking what was on
    its way to it.
    """
    paused = {record.actor for record in evidence.of(Kind.PAUSED)}
    for group in evidence.groups:
        by_epoch: dict[int, str] = {}
        owners = _owners(evidence, group)
        for session in owners:
            process = _process_of(session.started.actor)
            epoch = session.started.epoch
            if by_epoch.setdefault(epoch, process) != process:
                what = f"{group}: {by_epoch[epoch]} and {process}, both with epoch {epoch}"
                yield Finding(Fault.OWNED_TWICE, what)
        later, who = math.inf, ""
        for session in reversed(owners):
            last = session.records[-1].at if session.records else -math.inf
            if last > later and _process_of(session.started.actor) not in paused:
                yield Finding(Fault.OWNED_TWICE, f"{session} was given events after {who} was")
            first = _first_read(session)
            if first is not None and first.at < later:
                later, who = first.at, str(session)


def former_owners(evidence: Evidence) -> Iterator[Finding]:
    """Whatever was acknowledged to an owner as checkpointed is not given to a later one.

    So no former owner's checkpoint is stored when a later one has begun, however long ago it was
    sent off.
    """
    for group in evidence.groups:
        made = evidence.of_group(group, Kind.CHECKPOINTED)
        yield from _given_again(evidence, group, made, Fault.FORMER_OWNER)


def planned_moves(evidence: Evidence) -> Iterator[Finding]:
    """What a partition's owner finished before it gave it away is not given to a later one."""
    for group in evidence.groups:
        closed = evidence.of_group(group, Kind.CLOSED)
        yield from _given_again(evidence, group, closed, Fault.MOVED_AND_GIVEN_AGAIN)


def _given_again(
    evidence: Evidence, group: GroupPlace, done: list[Record], fault: Fault
) -> Iterator[Finding]:
    """Sessions that began at or before what was `done` under an earlier epoch."""
    furthest: dict[str, Record] = {}
    for record in done:
        furthest[record.actor] = max(record, furthest.get(record.actor, record), key=_offset)
    before: list[Record] = []
    for _, some in itertools.groupby(_owners(evidence, group), lambda one: one.started.epoch):
        sessions = list(some)
        for session in sessions:
            first = _first_read(session)
            for record in before:
                if first is None or first.offset > record.offset:
                    continue
                if not evidence.was_reset(group, record.begun, first.at):
                    what = (
                        f"{session} began at {first.offset}, {record.actor} was at {record.offset}"
                    )
                    yield Finding(fault, what)
        told = [
            *before,
            *(furthest[one.started.actor] for one in sessions if one.started.actor in furthest),
        ]
        before = [max(told, key=_offset)] if told else []


def _offset(record: Record) -> int:
    return record.offset
