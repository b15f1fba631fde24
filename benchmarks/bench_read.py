"""Reading against SQLite, which hands out bare rows of the same bodies."""

from __future__ import annotations

import itertools
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import eventlog
from benchmarks.measure import Benchmark, Record, Side, compare
from benchmarks.report import ROOT
from benchmarks.workload import LARGE, MILLION, batches
from eventlog import Topic

_FETCH: Final = 1000
_ROWS: Final = 10_000  # of SQLite at a time: it is fastest so
_EVENTS: Final = max(min(LARGE // 5, 5 * MILLION), 4 * _FETCH)
_QUARTER: Final = _EVENTS // 4 // 1000 * 1000


class Both(NamedTuple):
    """The same events in a topic of four partitions and in a table."""

    topic: Topic
    uncompressed: Topic
    table: sqlite3.Connection


@pytest.fixture(scope="module")
def both(work_directory: Path) -> Iterator[Both]:
    path = work_directory / "read"
    path.mkdir()
    some = list(itertools.islice(itertools.cycle(batches(1000)), _QUARTER // 1000))
    with (
        eventlog.open(path / "log") as log,
        closing(sqlite3.connect(path / "sqlite", isolation_level=None)) as table,
    ):
        topic = log.create_topic("events", partitions=4)
        uncompressed = log.create_topic("uncompressed", partitions=4, compression="none")
        table.execute("PRAGMA synchronous = OFF")
        table.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        for partition in range(4):
            table.execute("BEGIN")
            for batch in some:
                topic.append_batch(batch, partition=partition)
                uncompressed.append_batch(batch, partition=partition)
                table.executemany(
                    "INSERT INTO events (body) VALUES (?)", [(body,) for body in batch]
                )
            table.execute("COMMIT")
        yield Both(topic, uncompressed, table)


def test_reading_event_objects(benchmark: Benchmark, record: Record, both: Both) -> None:
    ours = Side(_turns(lambda partition: _read(both.topic, partition, bodies=False)), _QUARTER)
    found = compare(benchmark, ours, Side(_turns(lambda part: _select(both.table, part)), _QUARTER))
    record("read-events", **found._asdict(), note=_note(found.rounds))


def test_reading_event_objects_without_compression(
    benchmark: Benchmark, record: Record, both: Both
) -> None:
    """Like for like: the table's bodies are not compressed either."""
    turns = _turns(lambda partition: _read(both.uncompressed, partition, bodies=False))
    ours = Side(turns, _QUARTER)
    found = compare(benchmark, ours, Side(_turns(lambda part: _select(both.table, part)), _QUARTER))
    record("read-events-uncompressed", **found._asdict(), note=_note(found.rounds))


def test_reading_bodies(benchmark: Benchmark, record: Record, both: Both) -> None:
    """Through events: the contract has no other way."""
    ours = Side(_turns(lambda partition: _read(both.topic, partition, bodies=True)), _QUARTER)
    found = compare(benchmark, ours, Side(_turns(lambda part: _select(both.table, part)), _QUARTER))
    record("read-bodies", **found._asdict(), note=_note(found.rounds))


def _turns(read_quarter: Callable[[int], int]) -> Callable[[], None]:
    """A turn reads a quarter of all events, the next turn the next one."""
    quarters = itertools.cycle(range(4))

    def turn() -> None:
        found = read_quarter(next(quarters))
        assert found == _QUARTER, f"read {found} events of {_QUARTER}"

    return turn


def _read(topic: Topic, partition: int, *, bodies: bool) -> int:
    offset = 0
    while events := topic.read(partition, offset, max_events=_FETCH):
        if bodies:
            found = [event.body for event in events]
            assert len(found) == len(events)
        offset = events[-1].offset + 1
    return offset


def _select(table: sqlite3.Connection, quarter: int) -> int:
    first = quarter * _QUARTER + 1
    found = 0
    for start in range(first, first + _QUARTER, _ROWS):
        stop = min(start + _ROWS, first + _QUARTER)
        found += len(
            table.execute(
                "SELECT body FROM events WHERE id >= ? AND id < ?", (start, stop)
            ).fetchall()
        )
    return found


def _note(rounds: list[float]) -> str:
    return f"{4 * _QUARTER:,} events in fetches of {_FETCH:,}, all cached; {len(rounds)} rounds"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_of_one_reader(record: Record, large_log: Path) -> None:
    """In a process of its own. What of the file is mapped is the page cache's, and only noted."""
    events = min(LARGE, 10 * MILLION)
    command = [sys.executable, "-m", "benchmarks.worker", "read", str(large_log), str(events)]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    samples: list[tuple[int, int, int]] = json.loads(output)
    _, early, _ = next(sample for sample in samples if sample[0] >= events // 10)
    read, late, mapped = samples[-1]
    most = max(own for seen, own, _ in samples if seen >= events // 10)
    record(
        "read-memory",
        ours=late / 1e3,
        limit=early / 1e3,
        note=f"anonymous memory after {read:,} events to that after {events // 10:,}; grew by "
        f"{(late - early) / 1e3:,.1f} MB, {(most - early) / 1e3:,.1f} MB at most; "
        f"{mapped / 1e3:,.1f} MB of the file were mapped at the end",
    )
