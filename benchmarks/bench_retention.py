"""A topic under rolling retention: its file, against the data it retains."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import eventlog
from benchmarks.measure import Record
from benchmarks.workload import SCALE, batches, data_bytes, noise, stored_events
from eventlog import Topic

_SECOND_US: Final = 1_000_000
_WINDOWS: Final = 4
"""How often the retained data is replaced before the file is looked at."""


class Load(NamedTuple):
    """Batches of 1000 events, and how many are retained: some 30 to 60 MB."""

    batches: list[list[bytes]]
    retained: int


def _load(name: str) -> Load:
    size = min(max(SCALE, 0.05), 2)
    if name == "retention-compressible":
        return Load(batches(1000), int(2000 * size))
    bodies = noise(102 * 1000)
    return Load(
        [[bodies[start : start + 102] for start in range(0, len(bodies), 102)]], int(400 * size)
    )


@pytest.mark.parametrize("name", ["retention-compressible", "retention-incompressible"])
def test_file_under_rolling_retention(record: Record, directory: Path, name: str) -> None:
    """One batch a second, as the log's clock has it, and as many seconds of retention."""
    load = _load(name)
    ticks = itertools.count(1_700_000_000 * _SECOND_US, _SECOND_US)
    now = next(ticks)
    lengths: list[int] = []
    with eventlog.open(directory / "log", clock=lambda: now) as log:
        topic = log.create_topic("events", retention=load.retained)
        for batch in itertools.islice(itertools.cycle(load.batches), _WINDOWS * load.retained):
            now = next(ticks)
            topic.append_batch(batch)
            lengths.append(data_bytes(directory / "log"))
        retained, events = _retained_bytes(topic), stored_events(topic)
    record(
        name,
        ours=lengths[-1] / 1e6,
        limit=retained / 1e6,
        note=f"{events:,} events retained; in the last of {_WINDOWS} windows the file grew by "
        f"{lengths[-1] - lengths[-load.retained]:,} bytes",
    )


def _retained_bytes(topic: Topic) -> int:
    return sum(topic.partition_info(number).size_bytes for number in range(topic.partitions))
