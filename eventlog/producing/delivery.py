"""What a producer has accepted, until it is stored: parcels of batches, and the deliveries of them.

A `Parcel` is what a producer gathers between two times of sending; it holds one `Batch` for each
partition. Nothing is made per event but its `Delivery`, which is a batch and a place in it: the
outcome of thousands of events is set at once.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import operator
import traceback
from collections.abc import Callable, Generator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import msgspec

from eventlog.checks import seconds
from eventlog.errors import EventLogError
from eventlog.event import (
    Event,
    Key,
    unpack_properties,
)
from eventlog.log import Duration, Receipt
from eventlog.waiting import Completion

__all__ = [
    "EVENT_BYTES",
    "PLACES",
    "Accepted",
    "Batch",
    "Columns",
    "Delivery",
    "Failures",
    "Parcel",
    "again",
]

_DUPLICATE: Final = -1

PLACES: Final = 3
"""What an event takes of `Batch.rows`."""

EVENT_BYTES: Final = 64
"""What an event is reckoned at beside its body and properties."""


class Accepted(NamedTuple):
    """An event that was checked, and how much of a buffer it takes."""

    body: bytes
    key: Key | None
    packed: bytes | None
    size: int


class Columns(NamedTuple):
    """Events as columns.

    Attributes:
        packed: properties as `pack_properties` has them; None where no event has any.
    """

    bodies: list[bytes]
    keys: list[Key | None]
    packed: list[bytes | None] | None


class _LateRows(list[Any]):
    """Takes the place of rows that are forgotten: what is added to it comes too late."""

    __slots__ = ()


class Batch:
    """Events of one partition, and where they were stored.

    What repeats a sequence that was sent before is in a batch of its own, of which nothing is
    stored; its `offset` stays -1.

    Attributes:
        rows: of each event three places, for its body, its key and its packed properties. They are
            added with one operation of the interpreter, so that whatever interrupts, and whichever
            threads send, every body has its key.
        end: how many of `rows` are stored, once the parcel was taken.
        breaks: where others' events stand between its own; see `eventlog.producing.outlet.Stored`.
        looked_at: ends of the rows of those that failed and were asked for their outcome.
    """

    __slots__ = (
        "breaks",
        "end",
        "enqueued_at",
        "error",
        "looked_at",
        "offset",
        "parcel",
        "partition",
        "rows",
    )

    def __init__(self, parcel: Parcel, partition: int) -> None:
        self.parcel = parcel
        self.partition = partition
        self.rows: list[Any] = []
        self.end = 0
        self.offset = _DUPLICATE
        self.enqueued_at: datetime | None = None
        self.breaks: Sequence[tuple[int, int, datetime]] = ()
        self.error: BaseException | None = None
        self.looked_at: set[int] = set()

    @property
    def count(self) -> int:
        """How many events it has."""
        return (self.end if self.parcel.taken else len(self.rows)) // PLACES

    def includes(self, rows: list[Any], end: int) -> bool:
        """Whether the row that ends there is stored, once the parcel was taken."""
        return type(rows) is list and end <= self.end

    def columns(self) -> Columns:
        """Its events, once its parcel was taken.

        A key may be of a class derived from ``str`` or ``bytes``, if it was sent after a plain one
        that equals it.
        """
        bodies, keys, packed = (self.rows[place : self.end : PLACES] for place in range(PLACES))
        has_properties = packed[0] is not None or packed.count(None) < len(packed)
        return Columns(bodies, keys, packed if has_properties else None)

    def event(self, end: int) -> Event | None:
        """The event whose row ends there; None once it is forgotten."""
        rows = self.rows
        if type(rows) is _LateRows:
            return None
        body, key, packed = rows[end - PLACES : end]
        return Event(body, key, None if packed is None else unpack_properties(packed))

    def receipt(self, end: int) -> Receipt:
        """The receipt of that event, which was stored, or is a duplicate."""
        assert self.enqueued_at is not None
        if self.offset == _DUPLICATE:
            return Receipt(self.partition, -1, 0, self.enqueued_at, duplicate=True)
        row = end // PLACES - 1
        after = bisect.bisect_right(self.breaks, row, key=_row_of)
        if not after:
            return Receipt(self.partition, self.offset + row, 1, self.enqueued_at)
        first, offset, enqueued_at = self.breaks[after - 1]
        return Receipt(self.partition, offset + row - first, 1, enqueued_at)

    def deliveries(self) -> list[Delivery]:
        """One for each of its events, once its parcel was taken."""
        return [Delivery(self, end) for end in range(PLACES, self.end + 1, PLACES)]

    def stored(
        self,
        offset: int,
        enqueued_at: datetime,
        breaks: Sequence[tuple[int, int, datetime]] = (),
    ) -> None:
        """Its events are there; see `eventlog.producing.outlet.Stored`."""
        self.offset = offset
        self.enqueued_at = enqueued_at
        self.breaks = breaks


_row_of: Final = operator.itemgetter(0)


class Parcel:
    """What is sent together.

    Attributes:
        most: how many bytes it may have; of these
        left: as many may be taken without a closer look, by whoever sends, and
        rest: as many with one, under the producer's mutex.
        bytes: how many it has, once it is sealed.
        batches: by partition; None where there is none yet.
        filled: those there are.
        taken: whether it is being stored; what is added from then on is not part of it.
        settled: whether every event of it has its outcome.
        completion: done when it is settled.
        reported: done when callbacks have been called too.
    """

    __slots__ = (
        "batches",
        "bytes",
        "completion",
        "deadline",
        "duplicates",
        "filled",
        "first_sequence",
        "last_sequence",
        "left",
        "most",
        "reported",
        "rest",
        "sealed_at",
        "settled",
        "taken",
    )

    def __init__(self, most: int, partitions: int, deadline: float) -> None:
        self.most = self.rest = most
        self.left = 0
        self.bytes = 0
        self.sealed_at = 0.0
        self.deadline = deadline
        self.batches: list[Batch | None] = [None] * partitions
        self.filled: list[Batch] = []
        self.duplicates: dict[int, Batch] = {}
        self.first_sequence: int | None = None
        self.last_sequence: int | None = None
        self.taken = False
        self.settled = False
        self.completion: Completion[None] = Completion()
        self.reported: Completion[None] = Completion()

    @property
    def used(self) -> int:
        """How many bytes have been taken of it, before it is sealed."""
        return self.most - self.rest - max(self.left, 0)

    @property
    def count(self) -> int:
        """How many deliveries there are of it."""
        return sum([batch.count for batch in self.all_batches()])

    def batch(self, partition: int) -> Batch:
        """The batch of a partition."""
        batch = self.batches[partition]
        if batch is None:
            batch = Batch(self, partition)
            # Without a call in between: what others can add to will be stored.
            self.filled += (batch,)
            self.batches[partition] = batch
        return batch

    def duplicate(self, partition: int) -> Batch:
        """The batch of what repeats an earlier sequence."""
        return self.duplicates.setdefault(partition, Batch(self, partition))

    def all_batches(self) -> list[Batch]:
        """Those with events to store, then those of duplicates."""
        return [*self.filled, *self.duplicates.values()]

    def take(self) -> None:
        """Settle what is stored. Who adds an event looks at `taken` afterwards, so either the
        event is counted here, or its sender sees that it may not have been.
        """
        self.taken = True
        for batch in self.all_batches():
            batch.end = len(batch.rows)

    def fail(self, error: BaseException) -> None:
        """Nothing of it was stored."""
        for batch in self.all_batches():
            batch.error = error
        with contextlib.suppress(Exception):  # what matters is that it has failed
            _let_go(error)

    def forget(self) -> None:
        """Let go of the events that are stored."""
        for batch in self.all_batches():
            if batch.error is None:
                batch.rows = _LateRows()


class _Answer(int):
    """True or false. It may be called too, as ``done`` of the standard library's futures is."""

    def __call__(self) -> bool:
        return bool(self)

    def __repr__(self) -> str:
        return repr(bool(self))


class Delivery(msgspec.Struct, gc=False, eq=False):
    """What became of one event that a producer accepted: wait for it, or await it.

    Giving up on waiting does not withdraw the event. Thread-safe.
    """

    _batch: Batch
    _end: int

    @property
    def partition(self) -> int:
        """Where the event goes."""
        return self._batch.partition

    @property
    def event(self) -> Event | None:
        """The event, until it is stored and ``on_delivery`` was called: the topic has it then."""
        return self._batch.event(self._end)

    @property
    def done(self) -> bool:
        """Whether its outcome is known. ``delivery.done()`` works, too."""
        return _Answer(self._batch.parcel.completion.done)  # type: ignore[return-value]

    def result(self, timeout: Duration | None = None) -> Receipt:
        """Wait until the event is durable; its receipt.

        Raises:
            TimeoutError: that took longer than `timeout` seconds. It may still be stored.
            EventLogError: it was not stored.
        """
        error = self.exception(timeout)
        if error is not None:
            raise again(error) from error.__cause__
        return self._batch.receipt(self._end)

    def exception(self, timeout: Duration | None = None) -> BaseException | None:
        """Wait likewise; why it was not stored, or None if it was.

        Raises:
            TimeoutError: that took longer than `timeout` seconds.
        """
        completion = self._batch.parcel.completion
        if not completion.done:
            completion.result(None if timeout is None else seconds(timeout, "timeout"))
        return self._outcome()

    def add_done_callback(self, callback: Callable[[Delivery], object]) -> None:
        """Have `callback` called with this once its outcome is known, in any thread."""
        self._batch.parcel.completion.add_done_callback(lambda _: callback(self))

    def _outcome(self) -> BaseException | None:
        batch = self._batch
        if batch.error is not None:
            batch.looked_at.add(self._end)
        return batch.error

    def __await__(self) -> Generator[Any, Any, Receipt]:
        yield from self._batch.parcel.completion.__await__()
        return self.result()

    def __repr__(self) -> str:
        if not self.done:
            return "<Delivery under way>"
        error = self._batch.error
        return f"<Delivery: {self._batch.receipt(self._end) if error is None else error!r}>"


def _let_go(error: BaseException) -> None:
    """Have an error keep no frames: the garbage collector does not see that deliveries have it.

    Where one of another kind than ours came from is written into it.
    """
    if error.__traceback__ is not None and not isinstance(error, EventLogError):
        with contextlib.suppress(Exception):  # for want of memory, say
            error.add_note("".join(traceback.format_exception(error)))
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += one.__cause__, one.__context__


def again(error: BaseException) -> BaseException:
    """The same error anew: one object raised by many would collect their tracebacks."""
    try:
        anew = copy.copy(error)
        if anew.__dict__.get("__notes__"):
            anew.__notes__ = [*anew.__notes__]
    except Exception:  # noqa: BLE001 - a class that cannot be copied; not one of ours
        return error
    return anew


_MOST_FAILURES: Final = 10_000
_MOST_FAILED_BYTES: Final = 16 * 1024 * 1024


class Failures:
    """Failed deliveries that somebody has yet to look at; the first 10,000, and how many more."""

    def __init__(self) -> None:
        self._batches: list[Batch] = []
        self._kept = 0
        self._bytes = 0
        self._more = 0

    def add(self, parcel: Parcel) -> None:
        """Nothing of the parcel was stored."""
        if self._kept >= _MOST_FAILURES or self._bytes >= _MOST_FAILED_BYTES:
            self._more += parcel.count
            return
        self._kept += parcel.count
        self._bytes += parcel.bytes
        self._batches += parcel.all_batches()

    def take(self) -> tuple[list[Delivery], int]:
        """Those nobody looked at, and how many they are with those that were not kept."""
        batches, self._batches = self._batches, []
        more, self._more, self._kept, self._bytes = self._more, 0, 0, 0
        failed = [
            delivery
            for batch in batches
            for delivery in batch.deliveries()
            if delivery._end not in batch.looked_at  # noqa: SLF001 - its own module
        ]
        return failed[:_MOST_FAILURES], len(failed) + more
