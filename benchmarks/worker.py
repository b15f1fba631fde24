"""A process beside the one that measures: ``python -m benchmarks.worker write | read``.

``write PATH COUNT``: opens a log and says ``ready``; then, for each line ``BEGIN END`` (seconds of
the monotonic clock, which all processes share), appends batches of COUNT events in that time and
answers ``EVENTS FINISHED``.

``read PATH EVENTS``: reads so many events of a topic and answers ``[[events, anonymous, mapped],
...]``: kilobytes of memory along the way.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import eventlog
from benchmarks.workload import batches
from eventlog import Topic

__all__: list[str] = []

_SAMPLE_EVENTS = 100_000


def write(path: str, count: int) -> None:
    """Append when told to."""
    with eventlog.open(path) as log:
        topic = log.topic("events")
        endless = itertools.cycle(batches(count))
        topic.append_batch(next(endless))
        print("ready", flush=True)
        for line in sys.stdin:
            begin, end = map(float, line.split())
            time.sleep(max(begin - time.monotonic(), 0))
            appended = 0
            while time.monotonic() < end:
                topic.append_batch(next(endless))
                appended += count
            print(appended, time.monotonic(), flush=True)


def read(path: str, events: int) -> None:
    """Read, and watch the memory."""
    samples: list[tuple[int, int, int]] = []
    with eventlog.open(path) as log:
        topic = log.topic("events")
        done = 0
        for partition in itertools.cycle(range(topic.partitions)):
            done += _read_partition(topic, partition, events - done, samples, done)
            if done >= events:
                break
    print(json.dumps(samples))


def _read_partition(
    topic: Topic, partition: int, most: int, samples: list[tuple[int, int, int]], done: int
) -> int:
    offset = 0
    while offset < most:
        found = topic.read(partition, offset, max_events=min(10_000, most - offset))
        if not found:
            break
        offset = found[-1].offset + 1
        if done + offset >= len(samples) * _SAMPLE_EVENTS or offset == most:
            samples.append((done + offset, *_memory()))
    return offset


def _memory() -> tuple[int, int]:
    """Kilobytes of this process's memory: its own, and what it has mapped of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(fields["RssAnon"].split()[0]), int(fields["RssFile"].split()[0])


if __name__ == "__main__":
    roles: dict[str, Callable[[str, int], None]] = {"write": write, "read": read}
    roles[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
