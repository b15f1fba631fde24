"""Rules about checkpoints, and about transactions that make them together with their output."""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from tests.history.evidence import Evidence, Fault, Finding, GroupPlace, Place, Session
from tests.history.records import Kind, Record

__all__ = [
    "beyond_reads",
    "delivered_again",
    "exactly_once",
    "explained",
    "fenced_consumers",
    "moved_back",
    "whole_transactions",
]


class _Value(NamedTuple):
    """A checkpoint was at `offset`, or beyond it, at some moment from `begun` to `at`."""

    offset: int
    begun: float
    at: float


def _settled(evidence: Evidence, group: GroupPlace) -> list[_Value]:
    """Checkpoints that were acknowledged."""
    values = [
        _Value(record.offset, record.begun, record.at)
        for record in evidence.of_group(group, Kind.CHECKPOINTED)
        if not _is_void(evidence, group, record)
    ]
    for record in evidence.of_group(group, Kind.CHECKPOINTING):
        committed = evidence.committed.get(record.transaction)
        if committed is not None and not _is_void(evidence, group, record):
            values.append(_Value(record.offset, committed.begun, committed.at))
    return values


def _is_void(evidence: Evidence, group: GroupPlace, record: Record) -> bool:
    """Whether the group may have been reset under who made the checkpoint: then what it was given
    before does not count, and nobody tells it.
    """
    start = evidence.starts.get((record.actor, group))
    return start is not None and evidence.was_reset(group, start, record.at)


def _seen(evidence: Evidence, group: GroupPlace) -> list[_Value]:
    """What the checkpoint was said to be, in the end by the log itself."""
    values = [
        _Value(record.offset, record.begun, record.at)
        for record in evidence.of_group(group, Kind.OBSERVED)
    ]
    return [*values, _Value(_final(evidence, group), math.inf, math.inf)]


def _final(evidence: Evidence, group: GroupPlace) -> int:
    return evidence.log.checkpoints.get(group, -1)


def _first_given(session: Session) -> Record | None:
    return next((record for record in session.records if record.kind is not Kind.ENDED), None)


def delivered_again(evidence: Evidence) -> Iterator[Finding]:
    """Who begins to read for a group begins behind what was checkpointed before."""
    for group in evidence.groups:
        values = _settled(evidence, group) + _seen(evidence, group)
        for session in evidence.sessions_of(group):
            first = _first_given(session)
            if first is None:
                continue
            done = [
                value.offset
                for value in values
                if value.offset >= first.offset
                and value.at < session.started.begun
                and not evidence.was_reset(group, value.begun, first.at)
            ]
            if done:
                what = f"{session} began at {first.offset}, checkpointed was {max(done)}"
                yield Finding(Fault.DELIVERED_AGAIN, what)


def beyond_reads(evidence: Evidence) -> Iterator[Finding]:
    """A checkpoint is not beyond what the group had been given by then."""
    for group in evidence.groups:
        limits = sorted(_limits(evidence, group), key=lambda limit: limit.at)
        times = [limit.at for limit in limits]
        highest = list(itertools.accumulate((limit.offset for limit in limits), max))
        for value in [*_settled(evidence, group), *_seen(evidence, group)]:
            known = bisect.bisect_right(times, value.at)
            if known and value.offset > highest[known - 1]:
                yield Finding(
                    Fault.CHECKPOINT_BEYOND_READS,
                    f"{group} is at {value.offset}, given none beyond {highest[known - 1]}",
                )


def _limits(evidence: Evidence, group: GroupPlace) -> Iterator[_Value]:
    """How far a checkpoint may have been from some moment on."""
    for session in evidence.sessions_of(group):
        if session.started.offset >= 0:
            yield _Value(session.started.offset - 1, session.started.begun, session.started.begun)
        for record in session.records:
            if record.kind is not Kind.ENDED:
                yield _Value(max(record.offset, record.last), record.begun, record.begun)
    for record in evidence.of_group(group, Kind.RESETTING):
        yield _Value(record.offset, record.at, record.at)


def moved_back(evidence: Evidence) -> Iterator[Finding]:
    """A checkpoint is never seen before where it was."""
    for group in evidence.groups:
        seen = _seen(evidence, group)
        for value in seen:
            for before in [*_settled(evidence, group), *seen]:
                if (
                    before.offset > value.offset
                    and before.at < value.begun
                    and not evidence.was_reset(group, before.begun, value.at)
                ):
                    what = f"{group} from {before.offset} to {value.offset}"
                    yield Finding(Fault.CHECKPOINT_WENT_BACK, what)
                    break


def explained(evidence: Evidence) -> Iterator[Finding]:
    """A checkpoint that is seen is one that somebody made, and not one that was taken back."""
    for group in evidence.groups:
        made = set(_made(evidence, group))
        attempts = {record.offset for record in evidence.of_group(group, Kind.CHECKPOINTING)}
        for value in dict.fromkeys(one.offset for one in _seen(evidence, group)):
            if value in made:
                continue
            if value in attempts:
                what = f"{group} is at {value}, and the transaction that did this left no output"
                yield Finding(Fault.TORN, what)
            else:
                yield Finding(Fault.CHECKPOINT_INVENTED, f"{group} is at {value}")


def _made(evidence: Evidence, group: GroupPlace) -> Iterator[int]:
    yield -1
    for record in evidence.of_group(group, Kind.CHECKPOINTING):
        if not record.transaction or evidence.took_effect(record.transaction) is not False:
            yield record.offset
    for record in evidence.of_group(group, Kind.RESETTING):
        yield record.offset
    for session in evidence.sessions_of(group):  # the first of them notes where it begins
        first = _first_given(session)
        yield from (first.offset - 1,) if first is not None else ()
        yield session.started.offset - 1
        yield from (record.last for record in session.records if record.kind is Kind.LOST)


def fenced_consumers(evidence: Evidence) -> Iterator[Finding]:
    """A consumer makes no checkpoint that it began when a later one of its group had read."""
    for group in evidence.groups:
        begins = {
            session.started.actor: (session.started.begun, first.at)
            for session in evidence.sessions_of(group)
            if (first := _first_given(session)) is not None
        }
        for record in evidence.of_group(group, Kind.CHECKPOINTED):
            _, own = begins.get(record.actor, (0.0, math.inf))
            later = [
                actor
                for actor, (begun, read) in begins.items()
                if own < begun and read < record.begun
            ]
            if later:
                what = f"{record.actor} at {record.offset} of {group}, after {later[0]} came"
                yield Finding(Fault.CONSUMER_NOT_FENCED, what)


def whole_transactions(evidence: Evidence) -> Iterator[Finding]:
    """A transaction is there with all its output and all its checkpoints, or not at all."""
    for transaction, outputs in evidence.outputs.items():
        if any(evidence.has_expired(record.topic) for record in outputs):
            continue
        missing = [record.label for record in outputs if not evidence.ever_stored(record.label)]
        if 0 < len(missing) < len(outputs):
            what = f"{transaction} without {missing[0]}: {len(missing)} of {len(outputs)}"
            yield Finding(Fault.TORN, what)
        if len(missing) < len(outputs) or (not outputs and transaction in evidence.committed):
            yield from _without_checkpoint(evidence, transaction)


def _without_checkpoint(evidence: Evidence, transaction: str) -> Iterator[Finding]:
    for record in evidence.transaction_checkpoints[transaction]:
        group = GroupPlace(record.topic, record.group, record.partition)
        if record.topic in evidence.deleted or evidence.was_reset(group, record.at, math.inf):
            continue
        if _final(evidence, group) < record.offset:
            what = f"{transaction} without its checkpoint of {group} at {record.offset}"
            yield Finding(Fault.TORN, what)


def exactly_once(evidence: Evidence) -> Iterator[Finding]:
    """What is to be made of each event once is there once for each that is finished."""
    made: dict[tuple[GroupPlace, Place], set[str]] = defaultdict(set)
    expired = False
    for record in evidence.of(Kind.SENDING):
        if record.source is not None:
            source = Place(*record.source)
            made[GroupPlace(source.topic, record.group, source.partition), source].add(record.label)
            expired = expired or evidence.has_expired(record.topic)
    for (group, source), labels in made.items():
        if evidence.was_reset(group, -math.inf, math.inf):
            continue
        there = sorted(label for label in labels if evidence.ever_stored(label))
        if len(there) > 1:
            yield Finding(Fault.PROCESSED_TWICE, f"{source} as {', '.join(there)}")
        if not there and not expired and source.offset <= _final(evidence, group):
            what = f"{group} has finished {source}, and nothing is there of it"
            yield Finding(Fault.TORN, what)
