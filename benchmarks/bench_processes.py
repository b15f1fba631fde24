"""Several processes that write to one log."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import eventlog
from benchmarks.measure import Record
from benchmarks.report import ROOT
from benchmarks.workload import SCALE

_PROCESSES: Final = 4
_ROUNDS: Final = 4
_SECONDS: Final = min(max(SCALE, 0.2), 2)
"""How long a turn lasts."""

_AHEAD: Final = 0.05
"""A turn begins so many seconds after it was announced: by then all have heard of it."""


class Share(NamedTuple):
    """What one process did in a turn."""

    events: int
    finished: float


class Writer:
    """A process that appends when told to; see `benchmarks.worker`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout
        ready = self._output.readline()
        assert ready == "ready\n", f"a writer did not start: {ready!r}"

    def announce(self, begin: float, end: float) -> None:
        """Say when to append."""
        print(begin, end, file=self._input, flush=True)

    def share(self) -> Share:
        """Wait until it has."""
        events, finished = self._output.readline().split()
        return Share(int(events), float(finished))


@contextmanager
def writers(path: Path, count: int) -> Iterator[list[Writer]]:
    """Four of them, with batches of `count` events."""
    command = [sys.executable, "-m", "benchmarks.worker", "write", str(path), str(count)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            for _ in range(_PROCESSES)
        ]
        yield [Writer(process) for process in processes]


def _turn(some: Sequence[Writer]) -> tuple[float, list[float]]:
    """Events a second of all together, and of each."""
    begin = time.monotonic() + _AHEAD
    for writer in some:
        writer.announce(begin, begin + _SECONDS)
    shares = [writer.share() for writer in some]
    lasted = max(share.finished for share in shares) - begin
    each = [share.events / lasted for share in shares]
    return sum(each), each


@pytest.mark.parametrize("count", [1000, 1])
def test_four_processes_against_one(record: Record, directory: Path, count: int) -> None:
    path = directory / "log"
    with eventlog.open(path) as log:
        log.create_topic("events")
    together, alone = [], []
    smallest, largest = [], []
    with writers(path, count) as four:
        for number in range(_ROUNDS):
            alone.append(_turn([four[number % _PROCESSES]])[0])
            total, each = _turn(four)
            together.append(total)
            smallest.append(min(each))
            largest.append(max(each))
    record(
        f"processes-{count}",
        ours=statistics.fmean(together),
        limit=statistics.fmean(alone),
        rounds=[ours / one for ours, one in zip(together, alone, strict=True)],
        note=f"{_ROUNDS} rounds of {_SECONDS:g} s",
    )
    record(
        f"processes-{count}-fair",
        ours=statistics.fmean(smallest),
        limit=statistics.fmean(largest),
        rounds=[least / most for least, most in zip(smallest, largest, strict=True)],
    )
