"""How soon another process gets what was committed, and what waiting costs while nothing is."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

import eventlog
from benchmarks.measure import Record
from benchmarks.report import ROOT
from benchmarks.workload import SCALE, batches
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.wakeup import Wakeup
from eventlog.embedded.wakeup_file import Place

_MEDIAN_MS: Final = 0.3
_PERCENTILE_99_MS: Final = 2.0
_IDLE_PERCENT: Final = 2.0

_EVENTS: Final = min(max(round(3000 * SCALE), 200), 10_000)
_WARM_UP: Final = 50
_PAUSE: Final = 0.002
"""Between two appends: the follower waits again by then."""

_ROUNDS: Final = 10
_FOLLOWERS: Final = 100
_IDLE_SECONDS: Final = min(max(10 * SCALE, 2), 30)
_NS_PER_MS: Final = 1e6


@contextmanager
def follower(role: str, path: Path, count: int) -> Iterator[subprocess.Popen[str]]:
    """A process that follows; see `benchmarks.follower`."""
    command = [sys.executable, "-m", "benchmarks.follower", role, str(path), str(count)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready == "ready\n", f"a follower did not start: {ready!r}"
        yield process
        assert process.stdin is not None
        process.stdin.close()


class Stamped:
    """Notes when each transaction could be seen: just before it is announced."""

    def __init__(self, wakeup: Wakeup) -> None:
        self.at: list[int] = []
        self._committed = wakeup.committed

    def __call__(self, places: Iterable[Place], transaction: int) -> None:
        self.at.append(time.monotonic_ns())
        self._committed(places, transaction)


def percentile_99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


@pytest.mark.parametrize("kind", ["thread", "task"])
def test_delivery_to_another_process(
    record: Record, directory: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment that a durable append's transaction can be seen until a consumer has it.

    Its caller gets the receipt later, when it is durable: the flush goes on meanwhile.
    """
    path = directory / "log"
    called, returned = [], []
    with eventlog.open(path) as log:
        assert isinstance(log, EmbeddedLog)
        topic = log.create_topic("events")
        stamped = Stamped(log.environment.wakeup)
        monkeypatch.setattr(log.environment.wakeup, "committed", stamped)
        bodies = itertools.cycle(batches(1))
        with follower(kind, path, _WARM_UP + _EVENTS) as process:
            for (body,) in itertools.islice(bodies, _WARM_UP + _EVENTS):
                time.sleep(_PAUSE)
                called.append(time.monotonic_ns())
                topic.append(body)
                returned.append(time.monotonic_ns())
            assert process.stdout is not None
            delivered = json.loads(process.stdout.readline())
    latencies = [
        (got - seen) / _NS_PER_MS for got, seen in zip(delivered, stamped.at, strict=True)
    ][_WARM_UP:]
    whole = statistics.median(
        (got - begin) / _NS_PER_MS for got, begin in zip(delivered, called, strict=True)
    )
    append = statistics.median(
        (end - begin) / _NS_PER_MS for end, begin in zip(returned, called, strict=True)
    )
    note = f"append, with its flush, {append:.2f} ms; from its call to delivery {whole:.2f} ms"
    share = len(latencies) // _ROUNDS
    rounds = [latencies[begin : begin + share] for begin in range(0, _ROUNDS * share, share)]
    record(
        f"delivery-{kind}-median",
        ours=statistics.median(latencies),
        limit=_MEDIAN_MS,
        rounds=[statistics.median(some) / _MEDIAN_MS for some in rounds],
        note=note,
    )
    record(f"delivery-{kind}-99", ours=percentile_99(latencies), limit=_PERCENTILE_99_MS)


def test_idle_followers(record: Record, directory: Path) -> None:
    """What they cost together, on a log to which nobody, then somebody else, appends."""
    path = directory / "log"
    with eventlog.open(path) as log:
        log.create_topic("idle")
        busy = log.create_topic("busy")
        with follower("idle", path, _FOLLOWERS) as process:

            def used() -> float:
                assert process.stdin is not None
                assert process.stdout is not None
                print(file=process.stdin, flush=True)
                return float(process.stdout.readline())

            def percent(meanwhile: float) -> float:
                """Of a core, while `meanwhile` appends are made each second."""
                before, begin = used(), time.monotonic()
                while (passed := time.monotonic() - begin) < _IDLE_SECONDS:
                    time.sleep(1 / meanwhile if meanwhile else _IDLE_SECONDS - passed)
                    if meanwhile:
                        busy.append(b"for others")
                return 100 * (used() - before) / (time.monotonic() - begin)

            nothing, others = percent(0), percent(100)
    record(
        "idle-followers",
        ours=nothing,
        limit=_IDLE_PERCENT,
        note=f"{others:.2f} % while 100 events a second are appended to another topic",
    )
