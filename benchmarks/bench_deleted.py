"""Appends to a log from which most of what it held was deleted, or has expired.

LMDB looks for adjacent free pages when a value needs them, and after such a deletion may look for
long: a log must not need any. Three copies of one log are appended to in turns: as it was, after
the deletion of a topic, and after that topic's expiry.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import eventlog
from benchmarks.measure import Benchmark, Record, calls_of, in_turns
from benchmarks.workload import EVENTS, MILLION, data_bytes, noise, require_disk
from eventlog import EventLog, Topic

_GONE_BYTES: Final = max(4_000_000_000 * EVENTS // (100 * MILLION), 20_000_000)
"""What is deleted: 4 GB in the full run."""

_GONE_BODY: Final = noise(48_000)
_KEPT_BODY: Final = noise(16_000)
_THREADS: Final = 8
_CALLS: Final = {15: 20, 100: 10, 300: 5}
"""Appends in a turn, by their kilobytes."""


class Copies(NamedTuple):
    """Three topics to append to, in the three copies; and what is worth noting of them."""

    before: Topic
    deleted: Topic
    expired: Topic
    notes: dict[str, str]


@pytest.fixture(scope="module")
def copies(work_directory: Path) -> Iterator[Copies]:
    root = work_directory / "deleted"
    require_disk(work_directory, 3 * _GONE_BYTES * 3 // 2)
    with eventlog.open(root / "before") as log:
        _fill(log)
        log.create_topic("events", compression="none")
    for name in ("deleted", "expired"):
        _copy(root / "before", root / name)
    with (
        eventlog.open(root / "before") as before,
        eventlog.open(root / "deleted") as deleted,
        eventlog.open(root / "expired") as expired,
    ):
        notes = {
            "deleted": _clearing(root / "deleted", lambda: deleted.delete_topic("gone")),
            "expired": _clearing(root / "expired", lambda: _expire(expired)),
        }
        topics = [log.topic("events") for log in (before, deleted, expired)]
        yield Copies(topics[0], topics[1], topics[2], notes)
    shutil.rmtree(root)


@pytest.mark.parametrize("kilobytes", [15, 100, 300])
def test_appends_after_most_is_gone(
    benchmark: Benchmark, record: Record, copies: Copies, kilobytes: int
) -> None:
    """Each size takes at most a quarter of what became free: the file is not to grow again."""
    bodies, calls = [noise(1000 * kilobytes)], _CALLS[kilobytes]
    most_rounds = _GONE_BYTES // 4 // (1000 * kilobytes * calls)
    topics = (copies.deleted, copies.before, copies.expired)
    turns = (calls_of(topic.append, bodies, calls) for topic in topics)
    deleted, before, expired = in_turns(benchmark, *turns, most_rounds=most_rounds)
    for kind, times in (("deleted", deleted), ("expired", expired)):
        record(
            f"{kind}-{kilobytes}",
            ours=1e3 * statistics.fmean(times) / calls,
            limit=1e3 * statistics.fmean(before) / calls,
            rounds=[own / theirs for own, theirs in zip(times, before, strict=True)],
            note=f"{len(times)} rounds; {copies.notes[kind]}",
        )


def _fill(log: EventLog) -> None:
    """Two topics that lie interleaved in the file: no run of pages that one leaves is long."""
    gone = log.create_topic("gone", compression="none")
    kept = log.create_topic("kept", compression="none")

    def append() -> None:
        for _ in itertools.repeat(None, _GONE_BYTES // len(_GONE_BODY) // _THREADS):
            gone.append(_GONE_BODY)
            kept.append(_KEPT_BODY)

    with ThreadPoolExecutor(_THREADS) as threads:
        for future in [threads.submit(append) for _ in range(_THREADS)]:
            future.result()


def _copy(source: Path, target: Path) -> None:
    """A copy of a closed log as it lies, free pages and all; `backup` would put it in order."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*-lock"))
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _expire(log: EventLog) -> None:
    topic = log.topic("gone")
    topic.configure(retention=timedelta(microseconds=1))
    topic.expire()


def _clearing(path: Path, clear: Callable[[], None]) -> str:
    length = data_bytes(path)
    begin = time.perf_counter()
    clear()
    took = time.perf_counter() - begin
    return f"{_GONE_BYTES:,} bytes gone of a file of {length:,}, which took {took:.1f} s"
