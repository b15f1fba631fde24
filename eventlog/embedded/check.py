"""Reading a whole log and saying what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final

import lmdb

from eventlog.embedded.batch import BatchDamagedError, open_payload
from eventlog.embedded.catalog import TopicRecord, read_topics
from eventlog.embedded.partition import Batch, PartitionView, Tail
from eventlog.log import CheckReport, Damage
from eventlog.positions import instant

__all__ = ["check_log"]

_BATCHES_PER_TRANSACTION: Final = 200
"""A reader keeps old pages alive: look at so many batches, then let go and come back."""

_Read = Callable[[], AbstractContextManager[lmdb.Transaction]]


def check_log(read: _Read, chunk_bytes: int, now_us: int) -> CheckReport:
    """See `EventLog.check`."""
    with read() as transaction:
        records = read_topics(transaction)
    check = _Check(read, chunk_bytes, now_us)
    for record in records:
        for partition in range(record.partitions):
            check.partition(record, partition)
    return CheckReport(
        topics=len(records),
        partitions=sum(record.partitions for record in records),
        batches=check.batches,
        events=check.events,
        stored_bytes=check.stored_bytes,
        damaged=check.damaged,
        notes=check.notes,
    )


class _Check:
    """Goes through partitions, and counts."""

    def __init__(self, read: _Read, chunk_bytes: int, now_us: int) -> None:
        self._read = read
        self._chunk_bytes = chunk_bytes
        self._now_us = now_us
        self.batches = 0
        self.events = 0
        self.stored_bytes = 0
        self.damaged: list[Damage] = []
        self.notes: list[str] = []

    def partition(self, record: TopicRecord, partition: int) -> None:
        """Look at every batch of a partition that has not expired."""
        at: int | None = None
        last_us = 0
        while True:
            with self._read() as transaction:
                view = PartitionView(transaction, record.id, partition)
                tail = view.tail()
                beginning = view.beginning(record.retention(self._now_us), tail)
                at = beginning if at is None else max(at, beginning)
                for _ in range(_BATCHES_PER_TRANSACTION):
                    batch = view.batch_at(at)
                    if batch is None:
                        break
                    last_us = self._batch(record, partition, view, batch, at, last_us)
                    at = batch.last_offset + 1
            if batch is None:
                break
        self._end(record, partition, tail, last_us)

    def _batch(
        self,
        record: TopicRecord,
        partition: int,
        view: PartitionView,
        batch: Batch,
        at: int,
        last_us: int,
    ) -> int:
        """Look at one batch that should begin at `at`; its enqueued time."""
        self.batches += 1
        for reason in self._faults(view, batch, at, last_us):
            self.damaged.append(Damage(record.name, partition, at, batch.last_offset, reason))
            return last_us
        assert batch.header is not None
        self.events += batch.header.count
        self.stored_bytes += batch.header.end_position - batch.header.position
        return batch.header.enqueued_us

    def _faults(
        self, view: PartitionView, batch: Batch, at: int, last_us: int
    ) -> Iterator[str]:
        header = batch.header
        if header is None:
            yield batch.damage
            return
        first = batch.last_offset + 1 - header.count
        if first > at:
            yield f"offsets {at} to {first - 1} are missing before it"
        if header.enqueued_us < last_us:
            yield f"its time is {instant(header.enqueued_us)}, earlier than the batch before it"
        try:
            columns = open_payload(header, view.payload(batch, self._chunk_bytes))
            columns.bodies(0, header.count)
            columns.keys(0, header.count)
            columns.properties(0, header.count)
        except BatchDamagedError as error:
            yield str(error)

    def _end(self, record: TopicRecord, partition: int, tail: Tail, last_us: int) -> None:
        if last_us > self._now_us:
            self.notes.append(
                f"topic {record.name!r}, partition {partition}: the last event was enqueued at "
                f"{instant(last_us)}, later than now: the clock was ahead once, and new events "
                "get that time until it has passed"
            )

