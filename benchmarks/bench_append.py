"""Durable appends of one caller against a raw file that is written and flushed as often."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import pytest

import eventlog
from benchmarks.measure import Benchmark, Comparison, Record, Side, calls_of, compare
from benchmarks.workload import SCALE, RawFile, batches, data_bytes, joined
from eventlog import EventLog

_CALLS: Final = {1: 100, 100: 100, 1000: 25, 10_000: 8}
"""Appends in a turn: tens of milliseconds, so that a turn is long beside a flush."""

_FREED_BATCHES: Final = int(640 * min(max(SCALE, 0.2), 1))
"""Batches of 1000 uncompressed events (25 pages each) that leave their pages to be reused: more
than all rounds together take, at some 5 pages an append. The row's note says if that was so."""


@pytest.mark.parametrize(
    ("name", "count"),
    [
        pytest.param("append-1", 1, id="append-1"),
        pytest.param("append-100", 100, id="append-100"),
        pytest.param("append-1000-growing", 1000, id="append-1000-growing"),
        pytest.param("append-10000", 10_000, id="append-10000"),
    ],
)
def test_appends_while_the_file_grows(
    benchmark: Benchmark, record: Record, directory: Path, name: str, count: int
) -> None:
    with eventlog.open(directory / "log") as log:
        found = _appends(benchmark, log, directory, count)
    record(name, **found._asdict(), note=_per_call(found, count))


@pytest.mark.parametrize("count", [1000, 10_000])
def test_appends_without_compression(
    benchmark: Benchmark, record: Record, directory: Path, count: int
) -> None:
    """Like for like: the raw file's bytes are not compressed either."""
    with eventlog.open(directory / "log") as log:
        found = _appends(benchmark, log, directory, count, "none")
    record(f"append-{count}-uncompressed", **found._asdict(), note=_per_call(found, count))


def test_appends_that_reuse_freed_pages(
    benchmark: Benchmark, record: Record, directory: Path
) -> None:
    with eventlog.open(directory / "log") as log:
        _leave_free_pages(log)
        before = data_bytes(directory / "log")
        found = _appends(benchmark, log, directory, 1000)
        grown = data_bytes(directory / "log") - before
    note = f"{_per_call(found, 1000)}; the file of {before:,} bytes grew by {grown:,}"
    record("append-1000-reusing", **found._asdict(), note=note)


def _appends(
    benchmark: Benchmark,
    log: EventLog,
    directory: Path,
    count: int,
    compression: Literal["zstd", "none"] = "zstd",
) -> Comparison:
    topic = log.create_topic("events", compression=compression)
    calls = _CALLS[count]
    raw = RawFile(directory / "raw")
    ours = (
        calls_of(topic.append, [body for (body,) in batches(1)], calls)
        if count == 1
        else calls_of(topic.append_batch, batches(count), calls)
    )
    theirs = calls_of(raw.append, joined(batches(count)), calls)
    found = compare(benchmark, Side(ours, calls * count), Side(theirs, calls * count))
    raw.close()
    return found


def _leave_free_pages(log: EventLog) -> None:
    """Fill the log with two topics in turns and delete the larger."""
    kept = log.create_topic("kept", compression="none")
    gone = log.create_topic("gone", compression="none")
    some = batches(1000)
    for number in range(_FREED_BATCHES):
        gone.append_batch(some[number % len(some)])
        if number % 3 == 0:
            kept.append_batch(some[number % len(some)])
    log.delete_topic("gone")


def _per_call(found: Comparison, count: int) -> str:
    ours, limit = 1e3 * count / found.ours, 1e3 * count / found.limit
    return f"{ours:.3f} ms a call, the limit {limit:.3f}; {len(found.rounds)} rounds"
