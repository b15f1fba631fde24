"""What the benchmarks append, how much of it, and where.

`EVENTLOG_BENCH_EVENTS` sets the size of a run: the number of events of the large log, from which
all other sizes follow. 10 million (the default) for ``make bench``, 100 million for the full run,
100,000 to see that everything works. `EVENTLOG_BENCH_DIR` says where the logs lie.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import eventlog
from eventlog import Topic

__all__ = [
    "EVENTS",
    "LARGE",
    "MILLION",
    "SCALE",
    "SMALL",
    "RawFile",
    "batches",
    "build",
    "data_bytes",
    "data_file",
    "file_system",
    "joined",
    "noise",
    "require_disk",
    "work_directory",
]

MILLION: Final = 1_000_000
EVENTS: Final = int(os.environ.get("EVENTLOG_BENCH_EVENTS") or 10 * MILLION)
SCALE: Final = EVENTS / (10 * MILLION)

LARGE: Final = EVENTS
"""Events of the large log."""

SMALL: Final = max(min(MILLION, EVENTS // 10), 10_000)
"""Events of the small one: one million, unless the run is a tiny one."""

_POOL_EVENTS: Final = 100_000
_BUILD_EVENTS: Final = 100_000
_BUILD_THREADS: Final = 2


@functools.cache
def pool() -> list[bytes]:
    """JSON bodies of 102 bytes in the mean, 1000 of which zstd makes about 7 times smaller."""
    chance = random.Random(20130101)
    at = 1_357_023_600_000
    bodies = []
    for _ in range(_POOL_EVENTS):
        at += chance.randrange(1, 40)
        vehicle, speed = chance.randrange(5000), chance.randrange(30, 180)
        odometer, fuel = chance.randrange(10_000, 200_000), chance.randrange(5, 100)
        bodies.append(
            b'{"vehicle":"VIN-%08d","at":%d,"speed":%d,"odometer":%d,"fuel":%d,"state":"driving"}'
            % (vehicle, at, speed, odometer, fuel)
        )
    return bodies


@functools.cache
def batches(count: int) -> list[list[bytes]]:
    """Different batches of `count` bodies each."""
    bodies = pool()
    most = min(len(bodies) // count, 2000)
    return [bodies[start : start + count] for start in range(0, most * count, count)]


def joined(some: Sequence[Sequence[bytes]]) -> list[bytes]:
    """Batches as a raw file takes them: the bytes of their bodies, nothing else."""
    return [b"".join(batch) for batch in some]


def noise(size: int) -> bytes:
    """A body that nothing makes smaller."""
    return random.Random(size).randbytes(size)


class RawFile:
    """The limit: an append-only file that is written and flushed, and nothing else."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def append(self, data: bytes) -> None:
        """Durable when it returns."""
        written = os.write(self._descriptor, data)
        assert written == len(data), "a short write"
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


def build(path: Path, events: int) -> None:
    """Make a log with a topic "events" of as many events, fast: large appends on two threads.

    It stands as if it had been appended in batches of 10,000: the engine cuts both into pieces of
    about 2500 events.
    """
    with eventlog.open(path) as log, ThreadPoolExecutor(_BUILD_THREADS) as threads:
        topic = log.create_topic("events")
        sizes = [_BUILD_EVENTS] * (events // _BUILD_EVENTS) + [events % _BUILD_EVENTS]
        for _ in threads.map(lambda size: topic.append_batch(pool()[:size]), sizes):
            pass


def stored_events(topic: Topic) -> int:
    """How many events can be read of a topic."""
    infos = [topic.partition_info(number) for number in range(topic.partitions)]
    return sum(info.next_offset - info.beginning_offset for info in infos)


def data_file(path: Path) -> Path:
    """The file that a log keeps its events in."""
    (file,) = path.glob("events-*.mdb")
    return file


def data_bytes(path: Path) -> int:
    """How long it is."""
    return data_file(path).stat().st_size


# Where


@contextmanager
def work_directory() -> Iterator[Path]:
    """A directory for a run's logs, removed afterwards.

    In /var/tmp unless told otherwise: /tmp is often kept in memory, where a flush costs nothing.
    """
    parent = os.environ.get("EVENTLOG_BENCH_DIR") or "/var/tmp"
    path = Path(tempfile.mkdtemp(prefix="eventlog-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def require_disk(path: Path, needed: int) -> None:
    """Skip a row that the disk has no room for, with half as much again to spare."""
    import pytest  # here only: processes that merely append do without

    free = shutil.disk_usage(path).free
    if free < needed * 3 // 2:
        pytest.skip(f"needs {needed * 3 // 2:,} bytes of disk at {path}, {free:,} are free")


def file_system(path: Path) -> str:
    """The type of the file system a path is on, as far as the machine says."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    fields = [line.split() for line in mounts.read_text().splitlines()]
    holding = [(point, kind) for _, point, kind, *_ in fields if path.is_relative_to(point)]
    return max(itertools.chain([("", "unknown")], holding), key=lambda found: len(found[0]))[1]
