"""The departures of 2013 from New York, in the order in which they were due."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from eventlog import Event

__all__ = ["TOPIC", "Flight", "in_time_order", "rows"]

TOPIC = "flights"


class Flight(msgspec.Struct, gc=False):
    """A departure, as it is stored in the topic.

    `due` is local time; `delay` is in minutes, negative for the early, None for the cancelled.
    """

    due: str
    carrier: str
    flight: str
    origin: str
    dest: str
    delay: int | None


def rows(path: Path) -> Iterator[dict[str, str]]:
    """The lines of the file, as they are: by month, October next to January."""
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
        yield from csv.DictReader(io.TextIOWrapper(raw, encoding="ascii", newline=""))


def in_time_order(path: Path) -> tuple[list[str], list[Event]]:
    """When each flight was due, and the flights as events, keyed by their aircraft."""
    encode = msgspec.json.Encoder().encode
    found = []
    for row in rows(path):
        flight = _flight(row)
        aircraft = None if row["tailnum"] == "NA" else row["tailnum"]
        found.append((flight.due, Event(encode(flight), key=aircraft)))
    found.sort(key=lambda pair: pair[0])
    return [due for due, _ in found], [event for _, event in found]


def _flight(row: dict[str, str]) -> Flight:
    day = f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}"
    delay = row["dep_delay"]
    return Flight(
        due=f"{day} {int(row['hour']):02}:{int(row['minute']):02}",
        carrier=row["carrier"],
        flight=row["flight"],
        origin=row["origin"],
        dest=row["dest"],
        delay=None if delay == "NA" else int(delay),
    )
