"""A large log against a small one: appending, and opening."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import eventlog
from benchmarks.measure import Benchmark, Record, Side, calls_of, compare, in_turns
from benchmarks.workload import LARGE, SMALL, batches, data_bytes, stored_events
from eventlog import Event

_OPEN_LIMIT_MS: Final = 50.0
_PARTITIONS: Final = 10_000


def test_appends_to_a_large_log_and_a_small_one(
    benchmark: Benchmark, record: Record, large_log: Path, small_log: Path
) -> None:
    """One append a turn, so that the small log stays small."""
    with eventlog.open(large_log) as large, eventlog.open(small_log) as small:
        to_large, to_small = large.topic("events"), small.topic("events")
        before = [stored_events(to_large), stored_events(to_small)]
        found = compare(
            benchmark,
            Side(calls_of(to_large.append_batch, batches(10_000), 1), 10_000),
            Side(calls_of(to_small.append_batch, batches(10_000), 1), 10_000),
        )
        after = [stored_events(to_large), stored_events(to_small)]
    record(
        "growth-append",
        **found._asdict(),
        note=f"batches of 10,000 at {before[0]:,} to {after[0]:,} events against "
        f"{before[1]:,} to {after[1]:,}; {len(found.rounds)} rounds",
    )


def test_opening(
    benchmark: Benchmark, record: Record, large_log: Path, small_log: Path, directory: Path
) -> None:
    """Opening in a process that has opened a log before, its file cached, and finding a topic."""
    wide = directory / "wide"
    _make_wide(wide)
    paths = {"open-large": large_log, "open-small": small_log, "open-partitions": wide}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    in_turns(benchmark, *(_opening(path, seconds[name]) for name, path in paths.items()))
    notes = {
        "open-large": f"{LARGE:,} events, {data_bytes(large_log):,} bytes",
        "open-small": f"{SMALL:,} events, {data_bytes(small_log):,} bytes",
        "open-partitions": f"{data_bytes(wide):,} bytes",
    }
    for name, times in seconds.items():
        mean, most = 1e3 * statistics.fmean(times), 1e3 * max(times)
        note = f"{notes[name]}; mean of {len(times)}, the longest {most:.2f} ms"
        record(name, ours=mean, limit=_OPEN_LIMIT_MS, note=note)


def _make_wide(path: Path) -> None:
    """A log with three topics of 10,000 partitions, nearly all with events in them."""
    with eventlog.open(path) as log:
        for number in range(3):
            topic = log.create_topic(f"events-{number}", partitions=_PARTITIONS)
            topic.append_batch([Event(b"x", str(key)) for key in range(5 * _PARTITIONS)])


def _opening(path: Path, seconds: list[float]) -> Callable[[], None]:
    """A turn that opens and closes a log a few times; only opening is counted."""

    def turn() -> None:
        for _ in itertools.repeat(None, 3):
            begin = time.perf_counter()
            log = eventlog.open(path, create=False)
            log.topics()
            seconds.append(time.perf_counter() - begin)
            log.close()

    return turn
