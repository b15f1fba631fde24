"""Reading a whole log and saying what is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeVar

import lmdb

from eventlog.embedded import keys
from eventlog.embedded.batch import BatchDamagedError, open_payload
from eventlog.embedded.catalog import TopicRecord, has_deleted, read_topics
from eventlog.embedded.partition import Batch, PartitionView
from eventlog.log import CheckReport, Damage
from eventlog.positions import instant

__all__ = ["check_log"]

_BATCHES_PER_TRANSACTION: Final = 200
"""A reader keeps old pages alive: look at so many batches, then let go and come back."""

T = TypeVar("T")


class _Look(Protocol):
    """`EmbeddedLog.look`."""

    def __call__(self, do: Callable[[lmdb.Transaction], T], /) -> T: ...


def check_log(look: _Look, clock: Callable[[], int]) -> CheckReport:
    """See `EventLog.check`."""
    (records, damaged), deleted = look(
        lambda transaction: (read_topics(transaction), has_deleted(transaction))
    )
    checks = [
        _PartitionCheck(look, record, partition, clock)
        for record in records
        for partition in range(record.partitions)
    ]
    for check in checks:
        check.run()
    return CheckReport(
        topics=len(records),
        partitions=len(checks),
        batches=sum(check.batches for check in checks),
        events=sum(check.events for check in checks),
        stored_bytes=sum(check.stored_bytes for check in checks),
        damaged=[Damage(name, -1, -1, -1, "its record is damaged") for name in damaged]
        + [damage for check in checks for damage in check.damaged],
        notes=[note for check in checks for note in check.notes()]
        + ["what a deleted topic left is still to be removed: expire does it"] * deleted,
    )


class _PartitionCheck:
    """Looks at every batch of a partition that has not expired, and counts."""

    def __init__(
        self, look: _Look, record: TopicRecord, partition: int, clock: Callable[[], int]
    ) -> None:
        self._look = look
        self._record = record
        self._partition = partition
        self._clock = clock
        self._next_offset = 0
        self._next_row = 0
        self._last_us = -(2**63)
        self.batches = 0
        self.events = 0
        self.stored_bytes = 0
        self.damaged: list[Damage] = []

    def run(self) -> None:
        """Look at all of it."""
        while self._look(self._some):
            pass

    def _some(self, transaction: lmdb.Transaction) -> bool:
        """Look at some batches; False if there are no more, or the topic is gone by now."""
        stored = transaction.get(keys.topic_key(self._record.name))
        if stored is None or TopicRecord.decode(stored).id != self._record.id:
            return False
        view = PartitionView(transaction, self._record.id, self._partition)
        tail = view.tail()
        beginning = view.beginning(self._record.retention(self._clock()), tail)
        if view.floor() is None and not self.batches:
            beginning = 0  # nothing was ever removed, so nothing may be missing
        self._next_offset = max(self._next_offset, beginning)
        self._next_row = max(self._next_row, beginning)
        for _ in range(_BATCHES_PER_TRANSACTION):
            batch = view.row_at(self._next_row)
            if batch is None:
                return False
            self._batch(view, batch)
            self._next_row = batch.filed_under + 1
        return True

    def _batch(self, view: PartitionView, batch: Batch) -> None:
        self.batches += 1
        if batch.header is not None:
            first = batch.last_offset + 1 - batch.header.count
            if first > self._next_offset:
                self._note(first - 1, "they are missing")
            self._next_offset = first
        reason = next(self._faults(view, batch), None)
        if reason is not None:
            self._note(batch.last_offset, reason)
        elif batch.header is not None:
            self.events += batch.header.count
            self.stored_bytes += batch.header.end_position - batch.header.position
            self._last_us = batch.header.enqueued_us
        self._next_offset = max(self._next_offset, batch.last_offset + 1)

    def _note(self, last_offset: int, reason: str) -> None:
        self.damaged.append(
            Damage(self._record.name, self._partition, self._next_offset, last_offset, reason)
        )

    def _faults(self, view: PartitionView, batch: Batch) -> Iterator[str]:
        header = batch.header
        if header is None:
            yield batch.damage
            return
        if header.enqueued_us < self._last_us:
            yield f"its time, {instant(header.enqueued_us)}, is before that of the batch before it"
        try:
            columns = open_payload(header, view.payload(batch))
            columns.bodies(0, header.count)
            columns.keys(0, header.count)
            columns.properties(0, header.count)
        except BatchDamagedError as error:
            yield str(error)

    def notes(self) -> Iterator[str]:
        """What is no damage, but worth knowing."""
        if self._last_us > self._clock():
            yield (
                f"topic {self._record.name!r}, partition {self._partition}: the last event was "
                f"enqueued at {instant(self._last_us)}, later than now: the clock was ahead once, "
                "and new events get that time until it has passed"
            )
