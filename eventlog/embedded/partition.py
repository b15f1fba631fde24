"""Looking at one partition inside a transaction: where it begins and ends, what is at an offset.

Everything here follows from the keys and headers of its batches; no counters are kept. A batch
whose header is damaged still has its place, through its key; what its time would be is then taken
from the batch behind it, since time never decreases along a partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import lmdb

from eventlog.embedded import keys
from eventlog.embedded.batch import HEADER_BYTES, BatchDamagedError, Header

__all__ = ["KEEP_FOR_EVER", "Batch", "PartitionView", "Retention", "Tail"]


class Tail(NamedTuple):
    """Where a partition goes on: what its next batch needs to know of those before."""

    next_offset: int
    enqueued_us: int
    end_position: int


class Batch(NamedTuple):
    """A stored batch as its key and header describe it.

    `filed_under` is the offset in its key: the last offset, unless the key is damaged.
    """

    last_offset: int
    header: Header | None
    filed_under: int
    damage: str = ""


class Retention(NamedTuple):
    """What may still be read: both None keep for ever."""

    cutoff_us: int | None
    """Events enqueued at or before are expired."""
    most_bytes: int | None
    """A partition's oldest batches beyond as many bytes are expired, but never its last."""


KEEP_FOR_EVER: Final = Retention(None, None)


class PartitionView:
    """One partition as one transaction sees it."""

    def __init__(self, transaction: lmdb.Transaction, topic_id: int, partition: int) -> None:
        self.partition = partition
        self._transaction = transaction
        self._cursor = transaction.cursor()
        self._topic_id = topic_id
        self._prefix = keys.encode_batch_key(topic_id, partition, 0)[:7]

    def key(self, offset: int, chunk: int = 0) -> bytes:
        """The key a batch has whose last offset is `offset`."""
        return keys.encode_batch_key(self._topic_id, self.partition, offset, chunk)

    def batch_at(self, offset: int) -> Batch | None:
        """The first batch that ends at `offset` or later: the one that holds it, if any does.

        What a damaged header covers may be its key: then the batch may seem to reach over the
        next one, which is believed.
        """
        batch = self.row_at(offset)
        if batch is None or batch.header is not None:
            return batch
        following = self.row_at(batch.last_offset + 1)
        if following is not None and following.header is not None:
            begins = following.last_offset + 1 - following.header.count
            if offset >= begins:
                return following
            if begins <= batch.last_offset:
                batch = batch._replace(last_offset=begins - 1)
        self._cursor.set_range(self.key(batch.filed_under))
        return batch

    def row_at(self, offset: int) -> Batch | None:
        """The first batch that ends at `offset` or later, by its key."""
        cursor = self._cursor
        if offset > keys.MAX_OFFSET:
            return None
        wanted = self.key(offset)
        found = cursor.set_range(wanted)
        while found and bytes(cursor.key()) < wanted:
            found = cursor.next()  # a damaged tree: a search must not lead back
        if not found:
            return None
        key = bytes(cursor.key())
        if key[:7] != self._prefix:
            return None
        last = int.from_bytes(key[7:15])
        if key[15:] != b"\0\0":
            damage = f"its first chunk is missing, chunk {key[15:].hex()} is there"
            return Batch(last, None, last, damage)
        try:
            return Batch(last, Header.decode(key, cursor.value()), last)
        except BatchDamagedError as error:
            return Batch(last, None, last, str(error))

    def holds(self, offset: int) -> bool:
        """Whether an event of that offset is stored, as far as is sure at one look."""
        if offset < 0 or (batch := self.batch_at(offset)) is None or batch.header is None:
            return False
        if offset <= batch.last_offset - batch.header.count:
            return False
        floor = self.floor()
        return floor is None or offset >= floor.beginning

    def tail(self) -> Tail:
        """Where the partition goes on: from its last batch, or from its floor if it has none."""
        next_offset = 0
        for last in self._ends_backwards():
            next_offset = next_offset or last + 1
            batch = self.batch_at(last)
            if batch is not None and batch.header is not None:
                header = batch.header
                return Tail(next_offset, header.enqueued_us, header.end_position)
        floor = self.floor() or keys.Floor()
        return Tail(max(next_offset, floor.next_offset), floor.enqueued_us, floor.end_position)

    def _ends_backwards(self) -> Iterator[int]:
        """Last offsets of the partition's batches, from the last on."""
        behind = self.key(keys.MAX_OFFSET, keys.MAX_CHUNKS - 1)
        cursor = self._cursor
        while cursor.prev() if cursor.set_range(behind) else cursor.last():
            key = bytes(cursor.key())
            if key[:7] != self._prefix:
                return
            last = int.from_bytes(key[7:15])
            yield last
            behind, before = min(key, self.key(last)), behind
            if behind >= before:
                return  # a damaged tree, in which searching leads back

    def floor(self) -> keys.Floor | None:
        """What was kept of the partition's end when retention last emptied it.

        None where nothing was ever removed from it.
        """
        value = self._transaction.get(keys.floor_key(self._topic_id, self.partition))
        return None if value is None else keys.Floor.decode(bytes(value))

    def first_offset(self, tail: Tail) -> int:
        """The first offset that is stored, expired or not; `tail.next_offset` if none is."""
        batch = self.batch_at(0)
        if batch is None:
            return tail.next_offset
        floor = self.floor()
        if batch.header is not None:
            first = batch.last_offset + 1 - batch.header.count
        else:
            # How many events it held is lost. Without a floor nothing was ever removed before it.
            first = 0 if floor is None else batch.last_offset
        return first if floor is None else max(first, floor.beginning)

    def beginning(self, retention: Retention, tail: Tail) -> int:
        """The first offset that has not expired; `tail.next_offset` if there is none."""
        first = self.first_offset(tail)
        if retention == KEEP_FOR_EVER or first == tail.next_offset:
            return first

        def is_live(offset: int) -> bool:
            return not self.has_expired(self.readable_at(offset), retention, tail)

        return _bisect(first, tail.next_offset, is_live)

    def has_expired(self, batch: Batch | None, retention: Retention, tail: Tail) -> bool:
        """Whether a batch may not be read any more. What cannot be judged is kept."""
        if batch is None or batch.header is None:
            return False
        header = batch.header
        if retention.cutoff_us is not None and header.enqueued_us <= retention.cutoff_us:
            return True
        if retention.most_bytes is None or batch.last_offset + 1 == tail.next_offset:
            return False
        return tail.end_position - header.position > retention.most_bytes

    def readable_at(self, offset: int) -> Batch | None:
        """The batch at `offset` or, where its header is damaged, the next one that can be read."""
        batch = self.batch_at(offset)
        while batch is not None and batch.header is None:
            batch = self.batch_at(batch.last_offset + 1)
        return batch

    def offset_at(self, when_us: int, beginning: int, tail: Tail) -> int:
        """The first offset from `beginning` on enqueued at `when_us` or later."""
        if tail.enqueued_us < when_us:
            return tail.next_offset

        def is_at_or_after(offset: int) -> bool:
            batch = self.readable_at(offset)
            return batch is None or batch.header is None or batch.header.enqueued_us >= when_us

        return _bisect(beginning, tail.next_offset, is_at_or_after)

    def size_from(self, offset: int, tail: Tail) -> int:
        """Bytes stored from the batch at `offset` on."""
        batch = self.readable_at(offset)
        if batch is None or batch.header is None:
            return 0
        return tail.end_position - batch.header.position

    def payload(self, batch: Batch) -> bytes:
        """The payload of a batch just found with `batch_at`, which the cursor still stands on.

        Leaves the cursor on the batch's last chunk.

        Raises:
            BatchDamagedError: a chunk is missing.
        """
        assert batch.header is not None
        cursor = self._cursor
        missing = batch.header.stored_bytes
        parts: list[bytes | memoryview] = [cursor.value()[HEADER_BYTES:]]
        missing -= len(parts[0])
        while missing > 0:
            if not cursor.next() or cursor.key() != self.key(batch.last_offset, len(parts)):
                raise BatchDamagedError(f"chunk {len(parts)} of it is missing")
            parts.append(cursor.value())
            missing -= len(parts[-1])
        return b"".join(parts)


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number from `low` for which `holds`, or `high`; once it holds it goes on to."""
    if low < high and holds(low):
        return low
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
