"""What may be done inside a write transaction: look, put, delete, and add batches to a partition.

A `Writer` lives for one transaction. What callers of `eventlog.embedded.commit` hand in are
functions of a `Writer`; a rule of theirs is that whatever they refuse, they refuse before their
first change, so that one caller's mistake spoils nobody else's work in the same commit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import lmdb

from eventlog.embedded import keys
from eventlog.embedded.batch import EncodedBatch, merged
from eventlog.embedded.partition import PartitionView, Tail
from eventlog.embedded.wakeup_file import EVERYTHING, Place, blob_place
from eventlog.errors import EventLogError, LogFullError
from eventlog.positions import LAST_INSTANT_US

if TYPE_CHECKING:
    from eventlog.embedded.storage import Environment

__all__ = ["PAGES_BESIDE_CHUNKS", "STEP_ROWS", "Tails", "Writer"]

STEP_ROWS: Final = 384
"""Rows (chunks of batches) that one commit removes at most.

They free fewer pages than fit one page of LMDB's free list (some 500): a longer record of freed
pages would itself need adjacent pages, and adjacent pages are what a log never needs.
"""

_BLOB: Final = keys.BLOB_PREFIX[0]
_FOR_EVERYBODY: Final = (keys.DELETED_PREFIX[0], keys.TOPIC_PREFIX[0])
"""Whom a change of a row concerns, by the first letter of its key; batches aside."""

_MOST_TAILS: Final = 20_000
PAGES_BESIDE_CHUNKS: Final = 16
"""What a commit may touch beside the chunks' own pages: the way down to them, the free list."""


class Tails:
    """Tails of partitions as this process's last commit left them.

    They hold as long as nobody else commits, which LMDB's transaction ids tell; each generation of
    the environment counts its own.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Tail] = {}
        self._last: tuple[bytes, int] | None = None

    def at(self, generation: bytes, transaction: int) -> dict[tuple[int, int], Tail]:
        """The tails that hold in write transaction number `transaction` of that generation."""
        if self._last != (generation, transaction - 1) or len(self._known) > _MOST_TAILS:
            self._known.clear()
        return self._known

    def committed(self, generation: bytes, transaction: int) -> None:
        """That transaction is committed; what it left in the tails holds."""
        self._last = generation, transaction

    def forget(self) -> None:
        """It was not committed."""
        self._known.clear()
        self._last = None


class _Pending(NamedTuple):
    """Batches of one partition that are stored when the transaction ends."""

    first_offset: int
    batches: list[EncodedBatch]


class Writer:
    """One write transaction.

    Attributes:
        now_us: when it began, in microseconds since 1970.
        changes: how many it has made so far.
        places: what they are of interest for; see `Wakeup.committed`.
    """

    def __init__(
        self,
        environment: Environment,
        transaction: lmdb.Transaction,
        tails: dict[tuple[int, int], Tail],
        free_pages: int | None,
    ) -> None:
        self.environment = environment
        self.now_us = min(environment.clock(), LAST_INSTANT_US)
        self.changes = 0
        self.places: set[Place] = set()
        self._transaction = transaction
        self._tails = tails
        self._free_pages = free_pages
        self.pages_of_blobs = 0
        self._removable = STEP_ROWS
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._at_end: list[Callable[[], None]] = []
        self._seen: dict[bytes, bytes | None] = {}

    @property
    def transaction(self) -> lmdb.Transaction:
        """The LMDB transaction; to look only."""
        return self._transaction

    @functools.cached_property
    def _cursor(self) -> lmdb.Cursor:
        return self._transaction.cursor()

    def get(self, key: bytes) -> bytes | None:
        """The value under `key`. What several callers look at is looked up once."""
        if key not in self._seen:
            value = self._transaction.get(key)
            self._seen[key] = None if value is None else bytes(value)
        return self._seen[key]

    def put(self, key: bytes, value: bytes) -> None:
        """Store `value` under `key`, in place of what is there."""
        self._note_change(key)
        self._transaction.put(key, value)
        self._seen[key] = value

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False if it is not there."""
        self._note_change(key)
        self._seen[key] = None
        return self._transaction.delete(key)

    def rows(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows whose keys begin with `prefix`, in order; for what is few and small."""
        if self._cursor.set_range(prefix):
            for key, value in self._cursor.iternext():
                if not bytes(key).startswith(prefix):
                    return
                yield bytes(key), bytes(value)

    def _note_change(self, key: bytes) -> None:
        self.changes += 1
        if key[0] == _BLOB:
            self.places.add(blob_place(key))
        elif key[0] in _FOR_EVERYBODY:
            self.places.add(EVERYTHING)

    def first_key(self, prefix: bytes) -> bytes | None:
        """The first key that begins with `prefix`."""
        if self._cursor.set_range(prefix):
            key = bytes(self._cursor.key())
            if key.startswith(prefix):
                return key
        return None

    @property
    def may_remove(self) -> bool:
        """Whether the commit may still remove a row."""
        return self._removable > 0

    def is_empty(self, first: bytes, behind: bytes) -> bool:
        """Whether no row is from `first` up to `behind`."""
        return not self._cursor.set_range(first) or bytes(self._cursor.key()) >= behind

    def remove_rows(self, first: bytes, behind: bytes, most: int) -> int:
        """Remove rows from `first` up to `behind`; how many it were.

        At most as many as `most` and as what is left of the commit's `STEP_ROWS`.
        """
        cursor = self._cursor
        removed = 0
        most = min(most, self._removable)
        while removed < most and not self.is_empty(first, behind):
            self.changes += 1
            cursor.delete()
            removed += 1
        self._removable -= removed
        return removed

    def remove_rows_backwards(self, first: bytes, behind: bytes, most: int) -> int:
        """`remove_rows` beginning with the last ones."""
        cursor = self._cursor
        removed = 0
        most = min(most, self._removable)
        while removed < most:
            found = cursor.prev() if cursor.set_range(behind) else cursor.last()
            if not found or bytes(cursor.key()) < first:
                break
            self.changes += 1
            cursor.delete()
            removed += 1
        self._removable -= removed
        return removed

    def require_room(self, batches: Sequence[EncodedBatch]) -> None:
        """Refuse an append that would leave too little room to remove anything.

        Raises:
            LogFullError: it would.
        """
        if self._free_pages is None:
            return
        chunk_bytes = self.environment.chunk_bytes
        pages = sum(-(-batch.size // chunk_bytes) for batch in batches) + PAGES_BESIDE_CHUNKS
        if pages > self._free_pages:
            raise LogFullError(
                f"the log at {self.environment.directory} is full: {pages} pages are needed and "
                f"{max(self._free_pages, 0)} are left of its map_size, less a reserve to remove "
                "events with; expire or delete some, or open it with a larger map_size"
            )
        self._free_pages -= pages

    def tail(self, topic_id: int, partition: int) -> Tail:
        """Where a partition goes on."""
        tail = self._tails.get((topic_id, partition))
        if tail is None:
            tail = PartitionView(self._transaction, topic_id, partition).tail()
            self._tails[topic_id, partition] = tail
        return tail

    def append(
        self, topic_id: int, partition: int, batches: Sequence[EncodedBatch]
    ) -> tuple[int, int]:
        """Add batches to a partition; the offset of their first event, and their enqueued time.

        Time never goes back along a partition, whatever the clock does, and whatever time a batch
        brings. The batches are kept until the end of the transaction, as long as their time is the
        same: small ones of several callers are stored as one.
        """
        place = topic_id, partition
        tail = self.tail(topic_id, partition)
        first_offset = tail.next_offset
        self.changes += 1
        self.places.add(place)
        for batch in batches:
            time_us = self.now_us if batch.enqueued_us is None else batch.enqueued_us
            if time_us > tail.enqueued_us and place in self._pending:
                self.store(topic_id, partition)
                tail = self._tails[place]
            enqueued_us = max(tail.enqueued_us, time_us)
            pending = self._pending.get(place)
            if pending is None:
                self._pending[place] = _Pending(tail.next_offset, [batch])
            else:
                pending.batches.append(batch)
            tail = Tail(tail.next_offset + batch.count, enqueued_us, tail.end_position)
            self._tails[place] = tail
        return first_offset, tail.enqueued_us

    def at_end(self, do: Callable[[], None]) -> None:
        """Have something done in the same transaction after all callers' appends are stored."""
        self._at_end.append(do)

    def finish(self) -> None:
        """Store what is kept, and do what was put off."""
        for topic_id, partition in list(self._pending):
            self.store(topic_id, partition)
        for do in self._at_end:
            do()

    def store(self, topic_id: int, partition: int) -> None:
        """Store what is kept for a partition: who looks at its rows sees all of it from now on."""
        pending = self._pending.pop((topic_id, partition), None)
        if pending is None:
            return
        tail = self._tails[topic_id, partition]
        last, position = pending.first_offset - 1, tail.end_position
        chunk_bytes = self.environment.chunk_bytes
        for batch in merged(pending.batches):
            last += batch.count
            key = keys.encode_batch_key(topic_id, partition, last)
            header = batch.header(key, tail.enqueued_us, position)
            if batch.size <= chunk_bytes:
                stored = self._transaction.put(key, header + batch.payload, overwrite=False)
            else:
                stored = self._put_chunks(key, batch.chunks(header, chunk_bytes))
            if not stored:
                raise EventLogError(
                    f"the log at {self.environment.directory} is damaged: partition {partition} of "
                    f"topic {topic_id} seems to end before offset {last}, but a batch is there; "
                    "nothing was stored; restore it from a backup"
                )
            position += batch.size
        self._tails[topic_id, partition] = tail._replace(end_position=position)

    def _put_chunks(self, key: bytes, chunks: list[bytes | memoryview]) -> bool:
        """Store the chunks of a batch; False if one is there already."""
        batch_key = key[: -keys.CHUNK_NUMBER_BYTES]
        numbers = map(keys.encode_chunk_number, range(len(chunks)))
        _, added = self._cursor.putmulti(
            [(batch_key + number, chunk) for number, chunk in zip(numbers, chunks, strict=True)],
            overwrite=False,
        )
        return bool(added == len(chunks))
