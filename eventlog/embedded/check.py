"""Reading a whole log and saying what is damaged.

Twice: every row in the order of the tree (`eventlog.embedded.walk`), for what a search does not
find; then batches and blobs, as readers search for them, with all that is in them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

import lmdb

from eventlog.embedded import keys
from eventlog.embedded.batch import BatchDamagedError, open_payload
from eventlog.embedded.blobs import damaged_blobs
from eventlog.embedded.catalog import TopicRecord, has_deleted, read_topics
from eventlog.embedded.partition import Batch, PartitionView, Tail
from eventlog.embedded.row_rules import NOWHERE
from eventlog.embedded.walk import BROKEN_TREE, Look, Walk
from eventlog.errors import NotALogError
from eventlog.log import CheckReport, Damage
from eventlog.positions import instant

__all__ = ["check_log"]

_BATCHES_PER_TRANSACTION: Final = 200
"""A reader keeps old pages alive: look at so many batches, then let go and come back."""


def check_log(look: Look, clock: Callable[[], int]) -> CheckReport:
    """See `EventLog.check`."""
    walk = Walk(look)
    walk.run()
    records, deleted = look(_topics)
    checks = [
        _PartitionCheck(look, record, partition, clock)
        for record in records
        for partition in range(record.partitions)
    ]
    for check in checks:
        check.run()
    damaged = [damage for check in checks for damage in check.damaged]
    return CheckReport(
        topics=len(records),
        partitions=len(checks),
        batches=sum(check.batches for check in checks),
        events=sum(check.events for check in checks),
        stored_bytes=sum(check.stored_bytes for check in checks),
        damaged=[*_others(walk.damaged(), damaged), *damaged, *look(_blobs)],
        notes=[note for check in checks for note in check.notes()]
        + ["what a deleted topic left is still to be removed: expire does it"] * deleted,
        rows=walk.rows,
    )


def _topics(transaction: lmdb.Transaction) -> tuple[list[TopicRecord], bool]:
    """The topics that can be checked, and whether there are leftovers of others."""
    try:
        return read_topics(transaction)[0], has_deleted(transaction)
    except BROKEN_TREE:  # the walk has come by here as well, and said so
        return [], False


def _blobs(transaction: lmdb.Transaction) -> list[Damage]:
    """The blobs that are damaged."""
    try:
        return [Damage(*NOWHERE, reason) for _, reason in damaged_blobs(transaction)]
    except BROKEN_TREE:  # as above
        return []


def _others(found: list[Damage], known: list[Damage]) -> list[Damage]:
    """What the walk found, without what is known of the same events anyway."""
    by_partition: dict[tuple[str, int], list[Damage]] = defaultdict(list)
    for damage in known:
        by_partition[damage.topic, damage.partition].append(damage)
    return [
        damage
        for damage in found
        if not any(
            other.first_offset <= damage.last_offset and damage.first_offset <= other.last_offset
            for other in by_partition[damage.topic, damage.partition]
        )
    ]


class _PartitionCheck:
    """Looks at every batch of a partition that has not expired, and counts."""

    def __init__(
        self, look: Look, record: TopicRecord, partition: int, clock: Callable[[], int]
    ) -> None:
        self._look = look
        self._record = record
        self._partition = partition
        self._clock = clock
        self._next_offset = 0
        self._next_row = 0
        self._last_us = -(2**63)
        self._reading: Batch | None = None
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
        try:
            stored = transaction.get(keys.topic_key(self._record.name))
            if stored is None or TopicRecord.decode(stored).id != self._record.id:
                return False
            view = PartitionView(transaction, self._record.id, self._partition)
            self._begin(view)
            return self._batches(view)
        except NotALogError:
            self._note(-1, -1, "the record of its topic, or its floor, is damaged")
            return False
        except BROKEN_TREE as error:
            return self._step_over(error)

    def _begin(self, view: PartitionView) -> None:
        """Begin where the partition does by now: what is before may be expired or removed."""
        tail = view.tail()
        beginning = view.beginning(self._record.retention(self._clock()), tail)
        if not self.batches:
            floor = view.floor()
            if floor is None:
                beginning = 0  # nothing was ever removed, so nothing may be missing
            else:
                self._compare(floor, view.row_at(0), tail)
        self._next_offset = max(self._next_offset, beginning)
        self._next_row = max(self._next_row, beginning)

    def _compare(self, floor: keys.Floor, first: Batch | None, tail: Tail) -> None:
        """A floor says where the partition began and ended at least, when it was written.

        Before its beginning there is at most the rest of one batch, of which a part was removed.
        """
        if first is not None and first.filed_under + 1 < floor.beginning:
            self._note(first.filed_under, floor.beginning - 1, "its floor says they were removed")
        if tail.next_offset < floor.next_offset:
            self._note(tail.next_offset, floor.next_offset - 1, "they are missing")

    def _batches(self, view: PartitionView) -> bool:
        """Look at some batches from the next one on; False if there are no more."""
        for _ in range(_BATCHES_PER_TRANSACTION):
            batch = view.row_at(self._next_row)
            if batch is None:
                return False
            if batch.filed_under < self._next_row:
                self._note(self._next_row, self._next_row, "a search for it ends before it")
                return False
            self._next_row = batch.filed_under + 1
            self._reading = batch
            self._batch(view, batch)
            self._reading = None
        return True

    def _batch(self, view: PartitionView, batch: Batch) -> None:
        self.batches += 1
        if batch.header is not None:
            first = batch.last_offset + 1 - batch.header.count
            if first > self._next_offset:
                self._note(self._next_offset, first - 1, "they are missing")
            self._next_offset = first
        reason = next(self._faults(view, batch), None)
        if reason is not None:
            self._note(self._next_offset, batch.last_offset, reason)
        elif batch.header is not None:
            self.events += batch.header.count
            self.stored_bytes += batch.header.end_position - batch.header.position
            self._last_us = batch.header.enqueued_us
        self._next_offset = max(self._next_offset, batch.last_offset + 1)

    def _step_over(self, error: Exception) -> bool:
        """Go on behind a batch that cannot be read; False if a search failed instead."""
        batch, self._reading = self._reading, None
        if batch is None:
            self._note(-1, -1, f"from offset {self._next_row} on it cannot be read ({error!r})")
            return False
        self._note(self._next_offset, batch.last_offset, f"it cannot be read ({error!r})")
        self._next_offset = max(self._next_offset, batch.last_offset + 1)
        return True

    def _note(self, first_offset: int, last_offset: int, reason: str) -> None:
        self.damaged.append(
            Damage(self._record.name, self._partition, first_offset, last_offset, reason)
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
