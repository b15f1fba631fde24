"""Read, process, write in one transaction, against the append alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Final

import pytest

import eventlog
from benchmarks.measure import Benchmark, Record, Side, compare
from benchmarks.workload import batches

_TRANSACTIONS: Final = 20
_BATCHES: Final = 100


@pytest.mark.parametrize(
    ("name", "reading"), [("transaction", True), ("transaction-unread", False)]
)
def test_transactions_of_a_batch_and_a_checkpoint(
    benchmark: Benchmark, record: Record, directory: Path, name: str, reading: bool
) -> None:
    """What is read is appended, in the transaction with the checkpoint behind it; plain appends,
    and transactions without `reading`, have it in memory.
    """
    with eventlog.open(directory / "log") as log:
        source = log.create_topic("source", partitions=1)
        target = log.create_topic("target", partitions=1)
        some = batches(1000)
        for number in range(_BATCHES):
            source.append_batch(some[number % len(some)])
        there = [source.read(0, 1000 * number) for number in range(_BATCHES)]
        turns = itertools.cycle(range(_BATCHES))
        checkpoints = itertools.count()

        def transactions() -> None:
            for _ in range(_TRANSACTIONS):
                turn = next(turns)
                events = source.read(0, 1000 * turn, max_events=1000) if reading else there[turn]
                with log.transaction() as tx:
                    tx.append_batch(target, events)
                    tx.checkpoint(source, "group", partition=0, offset=next(checkpoints))

        def appends() -> None:
            for _ in range(_TRANSACTIONS):
                target.append_batch(there[next(turns)])

        events = 1000 * _TRANSACTIONS
        found = compare(benchmark, Side(transactions, events), Side(appends, events))
    record(name, **found._asdict(), note=f"{len(found.rounds)} rounds")
