"""Rules about what readers were given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.history.evidence import Evidence, Fault, Finding, GroupPlace, Place, Session
from tests.history.records import Kind, Record

__all__ = ["coverage", "ends", "losses", "sequence", "truth"]


def truth(evidence: Evidence) -> Iterator[Finding]:
    """Whatever anyone was given stands there, or stood there."""
    known: dict[Place, str] = {
        place: label for label, places in evidence.acknowledged.items() for place in places
    }
    known |= {place: event.label for place, event in evidence.stored.items()}
    for record in evidence.of(Kind.READ):
        place = Place(record.topic, record.partition, record.offset)
        if place not in known and evidence.is_expired(place):
            sent = evidence.sent.get(record.label, ())
            if any(one.topic == record.topic for one in sent):
                known[place] = record.label  # of all who were given it, the first is believed
        if known.get(place) != record.label:
            there = known.get(place, "nothing")
            yield Finding(
                Fault.READ_BUT_NEVER_STORED,
                f"{record.actor} was given {record.label} at {place}, where {there} is",
            )


def sequence(evidence: Evidence) -> Iterator[Finding]:
    """A reader is given a partition offset by offset, but for what it is told is lost."""
    for session in evidence.sessions:
        expected = -1 if session.group else session.started.offset
        given: set[int] = set()
        for record in session.records:
            if record.kind is Kind.ENDED:
                continue
            if expected >= 0 and record.offset != expected:
                yield from _wrong_step(evidence, session, record, expected, given)
            if record.kind is Kind.READ:
                given.add(record.offset)
            expected = max(record.offset, record.last) + 1


def _wrong_step(
    evidence: Evidence, session: Session, record: Record, expected: int, given: set[int]
) -> Iterator[Finding]:
    step = f"{session} was given {record.offset} when {expected} was next"
    if record.offset > expected:
        yield Finding(Fault.SKIPPED, step)
    elif session.group is not None and evidence.was_reset(
        session.group, session.started.begun, record.at
    ):
        given.clear()
    elif record.kind is Kind.READ and record.offset in given:
        yield Finding(Fault.READ_TWICE, step)
    else:
        yield Finding(Fault.READ_OUT_OF_ORDER, step)


def losses(evidence: Evidence) -> Iterator[Finding]:
    """What a reader was told is lost is not there any more."""
    for record in evidence.of(Kind.LOST):
        contents = evidence.partition(record.topic, record.partition)
        if contents is None or record.last < contents.beginning:
            continue
        place = Place(record.topic, record.partition, max(record.offset, contents.beginning))
        yield Finding(Fault.NOT_LOST, f"{place} to {record.last}, said to {record.actor}")


def ends(evidence: Evidence) -> Iterator[Finding]:
    """A reader that came to the end was given all that had been acknowledged when it began."""
    acknowledged: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in evidence.of(Kind.ACKNOWLEDGED):
        acknowledged[record.topic, record.partition].append(record)
    for session in evidence.sessions:
        for record in session.records:
            if record.kind is Kind.ENDED:
                for there in acknowledged[session.topic, session.partition]:
                    if there.offset >= record.offset and there.at < session.started.begun:
                        yield Finding(
                            Fault.SKIPPED, f"{session} ended at {record.offset}: {there.label}"
                        )


def coverage(evidence: Evidence) -> Iterator[Finding]:
    """A group was given all from where it began to the last that it was given, by whomever.

    A member that was killed may have been given an event and not lived to note it; but then it did
    not checkpoint it either, and another was given it.
    """
    for group in evidence.groups:
        for first, last in _uncovered(evidence, group):
            yield Finding(Fault.SKIPPED, f"{group}: {first} to {last}")


def _uncovered(evidence: Evidence, group: GroupPlace) -> Iterator[tuple[int, int]]:
    sessions = evidence.sessions_of(group)
    given = sorted(
        (record.offset, max(record.offset, record.last))
        for session in sessions
        for record in session.records
        if record.kind is not Kind.ENDED
    )
    if not given:
        return
    resets = {record.offset + 1 for record in evidence.of_group(group, Kind.RESETTING)}
    starts = {session.started.offset for session in sessions}
    expected = given[0][0] if resets or -1 in starts else min(starts)
    for first, last in given:
        expected = max((place for place in resets if expected < place <= first), default=expected)
        if first > expected:
            yield expected, first - 1
        expected = max(expected, last + 1)
