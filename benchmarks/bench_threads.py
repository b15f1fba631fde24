"""Callers that share commits: threads of one process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import pytest

import eventlog
from benchmarks.measure import Benchmark, Record, Side, calls_of, compare
from benchmarks.workload import RawFile, batches, joined

_BATCHES_EACH: Final = 20
_EVENTS_EACH: Final = 20


@pytest.mark.parametrize(
    ("name", "compression"), [("threads-4", "zstd"), ("threads-4-uncompressed", "none")]
)
def test_four_threads_with_batches(
    benchmark: Benchmark,
    record: Record,
    directory: Path,
    name: str,
    compression: Literal["zstd", "none"],
) -> None:
    """Four threads append batches of 1000; one writer writes as many to a raw file."""
    raw = RawFile(directory / "raw")
    with eventlog.open(directory / "log") as log:
        topic = log.create_topic("events", compression=compression)
        each = calls_of(topic.append_batch, batches(1000), _BATCHES_EACH)
        theirs = calls_of(raw.append, joined(batches(1000)), 4 * _BATCHES_EACH)
        events = 4 * _BATCHES_EACH * 1000
        with on_threads(4, each) as ours:
            found = compare(benchmark, Side(ours, events), Side(theirs, events))
    raw.close()
    record(name, **found._asdict(), note=f"{len(found.rounds)} rounds")


def test_sixteen_threads_with_events(benchmark: Benchmark, record: Record, directory: Path) -> None:
    """Sixteen threads append events one by one; then one thread does, to the same topic."""
    with eventlog.open(directory / "log") as log:
        topic = log.create_topic("events")
        bodies = [body for (body,) in batches(1)]
        alone = calls_of(topic.append, bodies, 5 * _EVENTS_EACH)
        each = calls_of(topic.append, bodies, _EVENTS_EACH)
        with on_threads(16, each) as together:
            found = compare(
                benchmark, Side(together, 16 * _EVENTS_EACH), Side(alone, 5 * _EVENTS_EACH)
            )
    record("threads-16", **found._asdict(), note=f"{len(found.rounds)} rounds")


@contextmanager
def on_threads(count: int, turn: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """A turn that runs `turn` on as many threads at once, and ends when the last has ended.

    A body or batch may be appended twice or never, as they all take from one cycle: the interpreter
    takes care that they do not break it, and all are alike.
    """
    with ThreadPoolExecutor(count) as threads:

        def together() -> None:
            for future in [threads.submit(turn) for _ in itertools.repeat(None, count)]:
                future.result()

        yield together
