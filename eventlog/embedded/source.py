"""What a `Consumer` of a topic on the embedded engine reads from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import lmdb

from eventlog.appending import check_partition
from eventlog.consuming.source import Found, Look, ParsedPosition, Request, Source, Span, Wanted
from eventlog.embedded import keys
from eventlog.embedded.catalog import TopicRecord
from eventlog.embedded.fetch import Loaded, decode, find, load, offset_of
from eventlog.embedded.partition import Batch, PartitionView, Retention, Tail
from eventlog.errors import CorruptBatchError
from eventlog.event import StoredEvent

if TYPE_CHECKING:
    from eventlog.embedded.topic import EmbeddedTopic
    from eventlog.transaction import Transaction
    from eventlog.waiting import Watch

__all__ = ["EmbeddedSource"]

_LARGE_BYTES: Final = 256 * 1024
"""A batch of more bytes is decoded by whoever fetches it: on an event loop it takes too long."""

_PREFIX_BYTES: Final = 7
"""The beginning of a batch's key that says its topic and partition."""

_NO_TAIL: Final = Tail(0, 0, 0)


_BRIEF_BYTES: Final = 64 * 1024


class EmbeddedSource(Source):
    """See `Source`."""

    def __init__(self, topic: EmbeddedTopic) -> None:
        self._topic = topic

    @property
    def name(self) -> str:
        return self._topic.name

    @property
    def brief_bytes(self) -> int:
        return _BRIEF_BYTES

    def check_open(self) -> None:
        _ = self._topic.log.environment

    def now_us(self) -> int:
        return self._topic.log.now_us()

    def partitions(self) -> int:
        topic = self._topic
        return topic.log.look(lambda transaction: topic.look(transaction).record.partitions)

    def resolve(
        self,
        starts: Mapping[int, ParsedPosition],
        ends: Mapping[int, ParsedPosition],
    ) -> dict[int, Span]:
        now_us = self.now_us()

        def look(transaction: lmdb.Transaction) -> dict[int, Span]:
            record = self._topic.look(transaction).record
            spans = {}
            for partition, start in starts.items():
                view = PartitionView(transaction, record.id, check_partition(record, partition))
                tail = view.tail()
                beginning = view.beginning(record.retention(now_us), tail)
                end = ends.get(partition)
                spans[partition] = Span(
                    beginning,
                    tail.next_offset,
                    offset_of(view, start, beginning, tail),
                    None if end is None else offset_of(view, end, beginning, tail),
                )
            return spans

        return self._topic.log.look(look)

    def fetch(self, request: Request) -> Look:
        now_us = self.now_us()

        def look(transaction: lmdb.Transaction) -> tuple[int, dict[int, _Stretch | Found]]:
            record = self._topic.look(transaction).record
            return record.partitions, _look_at(transaction, record, now_us, request)

        partitions, there = self._topic.log.look(look)
        found = {
            number: one.found() if isinstance(one, _Stretch) else one
            for number, one in there.items()
        }
        return Look(partitions, found)

    def transaction(self) -> Transaction:
        log = self._topic.log
        log.require_own_blobs()
        return log.transaction()

    def watch(self, partitions: Sequence[int]) -> Watch:
        topic = self._topic
        number = topic.state.record.id
        return topic.log.environment.wakeup.watch([(number, partition) for partition in partitions])


def _look_at(
    transaction: lmdb.Transaction, record: TopicRecord, now_us: int, request: Request
) -> dict[int, _Stretch | Found]:
    """The inside of a look: by partition what there is to decode, or that there is nothing."""
    retention = record.retention(now_us)
    cursor = transaction.cursor()
    left = request.max_bytes
    least = True
    there: dict[int, _Stretch | Found] = {}
    for wanted in request.wanted:
        if not least and left <= 0:
            break
        if _is_at_end(transaction, cursor, record.id, wanted):
            there[wanted.partition] = Found(wanted.offset, [], None, at_end=True)
            continue
        view = PartitionView(transaction, record.id, wanted.partition)
        room = request.share if request.each else min(request.share, left)
        stretch = there[wanted.partition] = _Stretch(view, record.name, room, least=least)
        stretch.read(retention, wanted)
        left -= stretch.raw_bytes
        least = request.each or (least and not stretch.loaded)
    return there


class _Stretch:
    """What a look gets of one partition: whole batches, or a part of a single one.

    Args:
        room: bytes there is room for.
        least: whether a batch is taken even if there is not; it is cut then.
    """

    def __init__(self, view: PartitionView, topic: str, room: int, *, least: bool) -> None:
        self.place = (topic, view.partition)
        self.loaded: list[_Piece] = []
        self.raw_bytes = 0
        self._view = view
        self._room = room
        self._least = least
        self._begin = 0
        self._failure: CorruptBatchError | None = None
        self._at_end = False

    def read(self, retention: Retention, wanted: Wanted) -> None:
        """Take batches, inside the transaction."""
        self._begin = at = _goes_on_at(self._view, retention, wanted.offset)
        try:
            while wanted.stop is None or at < wanted.stop:
                batch = find(self._view, self.place[0], at)
                if batch is None:
                    self._at_end = True
                    break
                if not self._takes(batch):
                    break
                behind = batch.last_offset + 1
                stop = behind if wanted.stop is None else min(behind, wanted.stop)
                self.loaded.append(_Piece(load(self._view, self.place[0], batch), at, stop))
                at = behind
        except CorruptBatchError as error:
            self._failure = error

    def _takes(self, batch: Batch) -> bool:
        assert batch.header is not None
        if self.raw_bytes + batch.header.raw_bytes > self._room and (
            self.loaded or not self._least
        ):
            return False
        self.raw_bytes += batch.header.raw_bytes
        return True

    def found(self) -> Found:
        """All of it, when the transaction has ended."""
        runs = [_StoredRun(self.place, *loaded) for loaded in self.loaded]
        failure, at_end = self._failure, self._at_end
        for run in runs:
            if run.size > self._room:
                at_end = False  # it was cut
                try:
                    run.cut(self._room)
                except CorruptBatchError as error:
                    runs, failure = [], error
            elif run.size > _LARGE_BYTES:
                run.decode()
        return Found(self._begin, runs, failure, at_end)


class _Piece(NamedTuple):
    """A batch, and the offsets that are wanted of it."""

    batch: Loaded
    first: int
    stop: int


class _StoredRun:
    """A batch, or a part of it; see `Run`."""

    __slots__ = ("_batch", "_events", "_place", "enqueued_us", "first", "size", "stop")

    def __init__(self, place: tuple[str, int], batch: Loaded, first: int, stop: int) -> None:
        self._place = place
        self._batch: Loaded | None = batch
        self._events: list[StoredEvent] = []
        self.first = first
        self.stop = stop
        self.enqueued_us = batch.header.enqueued_us
        self.size = batch.header.raw_bytes

    def events(self) -> list[StoredEvent]:
        """The events."""
        if self._batch is None:
            return list(self._events)
        return decode(self._place, self._batch, self.first, self.stop)

    def decode(self) -> None:
        """Decode them now, and keep them; if they are damaged, `events` will say so."""
        with contextlib.suppress(CorruptBatchError):
            self._keep(self.events())

    def cut(self, room: int) -> None:
        """Keep some, one at least, that have together no more bytes than there is room for."""
        assert self._batch is not None
        header = self._batch.header
        likely = max(room * header.count // header.raw_bytes, 1)
        self.stop = min(self.stop, self.first + likely)
        events = self.events()
        size = count = 0
        for event in events:
            size += len(event.body)
            if size > room and count:
                size -= len(event.body)
                break
            count += 1
        self._keep(events[:count])
        self.size = size
        self.stop = self.first + count

    def _keep(self, events: list[StoredEvent]) -> None:
        self._events = events
        self._batch = None


def _is_at_end(
    transaction: lmdb.Transaction, cursor: lmdb.Cursor, topic_id: int, wanted: Wanted
) -> bool:
    """Whether nothing is there yet, which of many partitions most looks find."""
    key = keys.encode_batch_key(topic_id, wanted.partition, wanted.offset)
    if cursor.set_range(key) and bytes(cursor.key())[:_PREFIX_BYTES] == key[:_PREFIX_BYTES]:
        return False
    floor = transaction.get(keys.floor_key(topic_id, wanted.partition))
    return floor is None or keys.Floor.decode(bytes(floor)).next_offset <= wanted.offset


def _goes_on_at(view: PartitionView, retention: Retention, offset: int) -> int:
    """`offset`, or where the partition begins if that has expired."""
    batch = view.batch_at(offset)
    floor = view.floor()
    if batch is None:
        # Nothing is there from `offset` on. Only if all was removed the partition may go on later.
        return offset if floor is None else max(offset, floor.next_offset)
    if _holds(batch, offset) and (floor is None or offset >= floor.beginning):
        tail = _NO_TAIL if retention.most_bytes is None else view.tail()
        if not view.has_expired(batch, retention, tail):
            return offset
    return max(offset, view.beginning(retention, view.tail()))


def _holds(batch: Batch, offset: int) -> bool:
    """Whether the batch found for `offset` can be read, and begins there or before."""
    return batch.header is not None and offset > batch.last_offset - batch.header.count
