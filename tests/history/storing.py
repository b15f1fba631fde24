"""Rules about what was sent and what is stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.history.contents import PartitionContents
from tests.history.evidence import Evidence, Fault, Finding, Place
from tests.history.records import Kind, Record

__all__ = [
    "fenced_producers",
    "gaps",
    "holes",
    "kept",
    "order",
    "stored_as_often_as_sent",
    "time_order",
]


def kept(evidence: Evidence) -> Iterator[Finding]:
    """What was acknowledged is where it was said to be."""
    for record in evidence.of(Kind.ACKNOWLEDGED):
        place = Place(record.topic, record.partition, record.offset)
        if not evidence.is_expired(place):
            yield from _kept_at(evidence, record, place)
    for record in evidence.of(Kind.DUPLICATE):
        yield from _kept_somewhere(evidence, record, "as a duplicate")
    for transaction in evidence.committed:
        for record in evidence.outputs.get(transaction, ()):
            yield from _kept_somewhere(evidence, record, f"with transaction {transaction}")


def _kept_at(evidence: Evidence, record: Record, place: Place) -> Iterator[Finding]:
    there = evidence.stored.get(place)
    if there is not None and there.label == record.label:
        return
    elsewhere = sorted(evidence.places.get(record.label, ()))
    if not elsewhere:
        yield Finding(Fault.LOST, f"{record.label} at {place}")
    if there is not None:
        yield Finding(Fault.MISPLACED, f"{there.label} is at {place}, not {record.label}")
    elif elsewhere:
        yield Finding(Fault.MISPLACED, f"{record.label} is not at {place}, but at {elsewhere[0]}")


def _kept_somewhere(evidence: Evidence, record: Record, how: str) -> Iterator[Finding]:
    """For what was acknowledged without saying where; it may have expired, where things do."""
    if not evidence.ever_stored(record.label) and not evidence.has_expired(record.topic):
        yield Finding(Fault.LOST, f"{record.label}, acknowledged {how}")


def stored_as_often_as_sent(evidence: Evidence) -> Iterator[Finding]:
    """Once with a producer's name or in a transaction; otherwise once for each time it was sent."""
    for label in sorted(evidence.places.keys() | evidence.acknowledged.keys()):
        places = sorted(evidence.ever_stored(label))
        sends = evidence.sent.get(label, [])
        if not sends:
            if places:
                yield Finding(Fault.INVENTED, f"{label} at {places[0]}")
            continue
        times = len(sends) - len(evidence.refused.get(label, ()))
        if sends[0].transaction in evidence.rolled_back:
            times = 0
        if places and times <= 0:
            yield Finding(Fault.STORED_THOUGH_REFUSED, f"{label} at {places[0]}")
        elif len(places) > (min(times, 1) if sends[0].producer_id else times):
            yield Finding(Fault.STORED_TWICE, f"{label} at {', '.join(map(str, places))}")


def gaps(evidence: Evidence) -> Iterator[Finding]:
    """The offsets of a partition have no gaps, from the first to the last."""
    for (topic, partition), contents in evidence.log.partitions.items():
        for first, behind in _gaps(contents):
            yield Finding(Fault.GAP, f"{topic}/{partition} from {first} to {behind - 1}")


def _gaps(contents: PartitionContents) -> Iterator[tuple[int, int]]:
    expected = 0 if contents.keeps else contents.beginning
    for event in contents.events:
        if event.offset != expected:
            yield expected, event.offset
        expected = event.offset + 1
    if contents.next_offset != expected:
        yield expected, contents.next_offset


def order(evidence: Evidence) -> Iterator[Finding]:
    """Along a partition each producer's events are in the order it sent them."""
    numbers = _numbers(evidence)
    for (topic, partition), contents in evidence.log.partitions.items():
        last: dict[str, tuple[int, str]] = {}
        for event in contents.events:
            producer, number = numbers.get(event.label, ("", -1))
            before = last.get(producer)
            if producer and before is not None and number < before[0]:
                place = Place(topic, partition, event.offset)
                yield Finding(Fault.REORDERED, f"{event.label} at {place} after {before[1]}")
            last[producer] = number, event.label


def _numbers(evidence: Evidence) -> dict[str, tuple[str, int]]:
    """Whose each label is, and its number among those.

    One without a name may have sent an event again, and then nobody knows which of them is there.
    """
    numbers: dict[str, tuple[str, int]] = {}
    for number, record in enumerate(evidence.of(Kind.SENDING)):
        if record.producer_id:
            numbers[record.label] = f"producer {record.producer_id}", record.sequence
        elif len(evidence.sent[record.label]) == 1:
            numbers[record.label] = record.actor, number
    return numbers


def holes(evidence: Evidence) -> Iterator[Finding]:
    """Of a producer with a name, whatever it sent before the last that is stored is stored too."""
    for (topic, producer), records in _sent_in_order(evidence).items():
        if evidence.has_expired(topic):
            continue
        last = _last_stored(evidence, topic, producer)
        for record in records:
            refused = len(evidence.refused.get(record.label, ()))
            if (
                record.sequence <= last
                and refused < len(evidence.sent[record.label])
                and not evidence.ever_stored(record.label)
            ):
                yield Finding(Fault.HOLE, f"{record.label} of {producer}; {last} is in {topic}")


def _sent_in_order(evidence: Evidence) -> dict[tuple[str, str], list[Record]]:
    """What each producer with a name sent for the first time, when it had sent nothing above it."""
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in evidence.of(Kind.SENDING):
        if record.producer_id:
            records = found[record.topic, record.producer_id]
            if not records or record.sequence > records[-1].sequence:
                records.append(record)
    return found


def _last_stored(evidence: Evidence, topic: str, producer: str) -> int:
    """The last sequence that is stored, or was said to be."""
    told = (
        record.sequence
        for record in evidence.of(Kind.RESUMED, Kind.ACKNOWLEDGED, Kind.DUPLICATE)
        if (record.topic, record.producer_id) == (topic, producer)
    )
    there = (
        record.sequence
        for record in evidence.of(Kind.SENDING)
        if (record.topic, record.producer_id) == (topic, producer)
        and evidence.ever_stored(record.label)
    )
    return max([*told, *there], default=-1)


def time_order(evidence: Evidence) -> Iterator[Finding]:
    """Along a partition time never goes back, whatever the clocks did."""
    for (topic, partition), contents in evidence.log.partitions.items():
        latest = 0
        for event in contents.events:
            if event.enqueued_us < latest:
                place = Place(topic, partition, event.offset)
                yield Finding(Fault.TIME_WENT_BACK, f"{place} by {latest - event.enqueued_us} us")
            latest = event.enqueued_us


def fenced_producers(evidence: Evidence) -> Iterator[Finding]:
    """Nothing is stored for a producer that began to send it when a later one had its name."""
    resumed: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in evidence.of(Kind.RESUMED):
        resumed[record.topic, record.producer_id].append(record)
    for record in evidence.of(Kind.ACKNOWLEDGED):
        some = resumed.get((record.topic, record.producer_id), [])
        own = max((one.at for one in some if one.actor == record.actor), default=record.at)
        later = [one for one in some if own < one.begun and one.at < record.begun]
        if later:
            yield Finding(
                Fault.PRODUCER_NOT_FENCED,
                f"{record.label} of {record.actor}, after {later[0].actor} came",
            )
