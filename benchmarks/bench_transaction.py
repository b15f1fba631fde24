"""Read, process, write in one transaction, against the append alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import eventlog
from benchmarks.measure import Benchmark, Record, Side, compare
from benchmarks.workload import batches

_TRANSACTIONS: Final = 20
_BATCHES: Final = 100


def test_transactions_of_a_batch_read_one_appended_and_a_checkpoint(
    benchmark: Benchmark, record: Record, directory: Path
) -> None:
    """What was read is what is appended; the plain appends have it in memory."""
    with eventlog.open(directory / "log") as log:
        source = log.create_topic("source", partitions=1)
        target = log.create_topic("target", partitions=1)
        some = batches(1000)
        for number in range(_BATCHES):
            source.append_batch(some[number % len(some)])
        offsets = itertools.cycle(range(0, 1000 * _BATCHES, 1000))
        there = [source.read(0, 1000 * number) for number in range(_BATCHES)]
        alone = itertools.cycle(there)
        checkpoints = itertools.count()

        def transactions() -> None:
            for _ in range(_TRANSACTIONS):
                events = source.read(0, next(offsets), max_events=1000)
                with log.transaction() as tx:
                    tx.append_batch(target, events)
                    tx.checkpoint(source, "group", partition=0, offset=next(checkpoints))

        def appends() -> None:
            for _ in range(_TRANSACTIONS):
                target.append_batch(next(alone))

        events = 1000 * _TRANSACTIONS
        found = compare(benchmark, Side(transactions, events), Side(appends, events))
    record("transaction", **found._asdict(), note=f"{len(found.rounds)} rounds")
