"""Each carrier's departures, cancellations and delays: summed up by batch, by topic, and by file.

All are whole numbers, so they add up to the same in any order: the means of what went through the
log, and of what stands in the file, are equal to the last digit or something was lost or doubled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from eventlog import EventLog, StoredEvent
from examples.balancing.flights import TOPIC, Flight, rows

__all__ = ["FIGURES", "Figures", "MismatchError", "compare", "of_batch", "of_file", "of_topic"]

FIGURES = "figures"


class Figures(msgspec.Struct):
    """Of one carrier: flights that left, flights that did not, minutes the former were late."""

    departures: int = 0
    cancelled: int = 0
    delay: int = 0

    @property
    def mean_delay(self) -> float:
        """Minutes per departure."""
        return self.delay / self.departures if self.departures else 0.0

    def count(self, delay: int | None) -> None:
        """Count a flight."""
        if delay is None:
            self.cancelled += 1
        else:
            self.departures += 1
            self.delay += delay

    def add(self, other: Figures) -> None:
        """Count what others have counted."""
        self.departures += other.departures
        self.cancelled += other.cancelled
        self.delay += other.delay


class Batch(msgspec.Struct):
    """What a worker made of a batch of a partition: the event in the topic of figures."""

    first: int
    last: int
    worker: str
    carriers: dict[str, Figures]


class MismatchError(Exception):
    """What was counted is not what the file says."""


_flights = msgspec.json.Decoder(Flight)
_batches = msgspec.json.Decoder(Batch)


def of_batch(events: Iterable[StoredEvent], worker: str) -> bytes:
    """Sum up some flights of a partition."""
    carriers: dict[str, Figures] = {}
    offsets = []
    for event in events:
        flight = _flights.decode(event.body)
        carriers.setdefault(flight.carrier, Figures()).count(flight.delay)
        offsets.append(event.offset)
    return msgspec.json.encode(Batch(offsets[0], offsets[-1], worker, carriers))


def of_topic(log: EventLog) -> dict[str, Figures]:
    """Add up the batches.

    Raises:
        MismatchError: in some partition they do not join: a flight counts twice, or not at all.
    """
    carriers: dict[str, Figures] = {}
    flights = log.topic(TOPIC)
    for partition in range(flights.partitions):
        expected = 0
        for event in log.topic(FIGURES).consumer(partitions=partition, follow=False):
            batch = _batches.decode(event.body)
            if batch.first != expected:
                raise MismatchError(
                    f"partition {partition}: {batch.worker} has counted from {batch.first} on, "
                    f"and those before it up to {expected - 1}"
                )
            for carrier, figures in batch.carriers.items():
                carriers.setdefault(carrier, Figures()).add(figures)
            expected = batch.last + 1
        end = flights.partition_info(partition).next_offset
        if expected != end:
            raise MismatchError(f"partition {partition}: {expected} of {end} were counted")
    return carriers


def of_file(path: Path) -> dict[str, Figures]:
    """Count what stands in the file, by itself."""
    carriers: dict[str, Figures] = {}
    for row in rows(path):
        delay = row["dep_delay"]
        figures = carriers.setdefault(row["carrier"], Figures())
        figures.count(None if delay == "NA" else int(delay))
    return carriers


def compare(counted: Mapping[str, Figures], wanted: Mapping[str, Figures]) -> None:
    """See that they are equal.

    Raises:
        MismatchError: they are not.
    """
    for carrier in sorted(counted.keys() | wanted.keys()):
        if counted.get(carrier) != wanted.get(carrier):
            raise MismatchError(
                f"{carrier}: {counted.get(carrier)} was counted, and the file says "
                f"{wanted.get(carrier)}"
            )
