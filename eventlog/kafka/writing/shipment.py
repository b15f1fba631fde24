"""Events of one partition as messages, cut into sets; and where they landed.

A broker takes the messages of a partition in *sets* (record batches): each whole or not at all,
at offsets that follow each other. Between two sets others may write. How it comes that a set is
stored as it was cut here, and why sets of the same number of events go out faster than others:
`eventlog.kafka.writing.sender`.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Final, NamedTuple, cast

import msgspec

from eventlog.event import Key, checked_key
from eventlog.kafka.records import Headers, to_key
from eventlog.kafka.topic_record import TopicRecord
from eventlog.log import Receipt

__all__ = ["SET_EVENTS", "Run", "Shipment"]

SET_EVENTS: Final = 4000
"""A set has no more events than this."""

SMALLER_SETS: Final = (1000, 250)
"""Where events are too large for sets of so many, these are tried. Each divides the one before."""

_SET_BYTES: Final = 1_000_000
"""A set has no more than this, as librdkafka counts and before compression, or one message.

That is what Kafka's own clients make at most unless told otherwise, and what every topic takes
unless made to take less.
"""

_MESSAGE_BYTES: Final = 64
"""What a message takes beside its value, key and headers; librdkafka reckons with less."""

_HEAD_BYTES: Final = 512
"""What a set takes beside its messages, generously."""

_PIECE_EVENTS: Final = SMALLER_SETS[-1]
_CHARACTER_BYTES: Final = 4
_encode: Final = msgspec.msgpack.Encoder().encode
_TEXT_OR_NONE: Final = frozenset({str, type(None)})


class Run(NamedTuple):
    """From `row` on, events stand at offsets that follow each other."""

    row: int
    offset: int
    enqueued_at: datetime


class Shipment:
    """Events on their way to one partition.

    Args:
        keys, headers: None where no event has any.
        times: in milliseconds since 1970, that the events are to keep; None if the brokers stamp
            them.

    Attributes:
        record: the topic.
        partition: the partition's number.
        values, keys, headers: of the messages.
        set_events: how many events its sets have best; the largest number of those above that fit,
            or `SET_EVENTS` if none does.
        runs: where the events landed, set by set.
    """

    __slots__ = (
        "_most",
        "_pieces",
        "headers",
        "keys",
        "partition",
        "record",
        "runs",
        "set_events",
        "times",
        "values",
    )

    def __init__(
        self,
        record: TopicRecord,
        partition: int,
        bodies: Sequence[bytes],
        keys: Sequence[Key | None] | None,
        headers: Sequence[Headers | None] | None,
        *,
        times: Sequence[int] | None = None,
    ) -> None:
        self.record = record
        self.partition = partition
        self.values = bodies
        self.keys = keys
        self.headers = headers
        self.times = times
        self.runs: list[Run] = []
        if keys is not None and not set(map(type, keys)) <= _TEXT_OR_NONE:
            self._encode(keys)
        self._most = max(1, min(_SET_BYTES, record.max_message_bytes - _HEAD_BYTES))
        self._pieces = self._measured()
        sizes = (SET_EVENTS, *SMALLER_SETS)
        self.set_events = next(filter(self._fits, sizes), SET_EVENTS)

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.values)

    def _encode(self, keys: Sequence[Key | None]) -> None:
        """Keys that are not text, or of a class of their own, as bytes."""
        encoded = [
            to_key(None if key is None else checked_key(key), own)
            for key, own in zip(keys, self.headers or [None] * len(keys), strict=True)
        ]
        self.keys = [key for key, _ in encoded]
        headers = [own for _, own in encoded]
        self.headers = headers if any(headers) else None

    # Cutting

    @property
    def is_one_set(self) -> bool:
        """Whether it surely is one set if it is cut as it has it best."""
        fits = self.count <= self.set_events and self._fits(self.set_events)
        return fits or self.count == 1

    def cuts(self, set_events: int) -> list[tuple[int, int]]:
        """Where sets begin and end: after every so many events if they fit, or sooner."""
        if not self._fits(set_events):
            return _cut(self._sizes(), self._most, set_events)
        starts = range(0, self.count, set_events)
        return [(start, min(start + set_events, self.count)) for start in starts]

    def _fits(self, set_events: int) -> bool:
        """Whether no set is too large if all have so many events."""
        step = set_events // _PIECE_EVENTS
        starts = range(0, len(self._pieces), step)
        return all(sum(self._pieces[start : start + step]) <= self._most for start in starts)

    def _measured(self) -> list[int]:
        """Bytes of every `_PIECE_EVENTS` in a set, or a few more than `_sizes` has them.

        It takes no step in Python for each event.
        """
        sizes = []
        for start in range(0, self.count, _PIECE_EVENTS):
            end = min(start + _PIECE_EVENTS, self.count)
            size = len(b"".join(self.values[start:end])) + _MESSAGE_BYTES * (end - start)
            if self.keys is not None:
                size += _length_of_keys(self.keys[start:end])
            if self.headers is not None:
                size += _size_of(self.headers[start:end])
            sizes.append(size)
        return sizes

    def _sizes(self) -> list[int]:
        """Bytes of each message in a set, or more."""
        sizes = [len(value) + _MESSAGE_BYTES for value in self.values]
        if self.keys is not None:
            sizes = [
                size if key is None else size + len(key) * _width(key)
                for size, key in zip(sizes, self.keys, strict=True)
            ]
        if self.headers is not None:
            sizes = list(map(operator.add, sizes, map(len, map(_encode, self.headers))))
        return sizes

    # Where it landed

    @property
    def end(self) -> int:
        """The offset behind its last event, once all landed."""
        last = self.runs[-1]
        return last.offset + self.count - last.row

    def run_at(self, row: int) -> Run:
        """A run as if it began at that row."""
        index = bisect.bisect_right(self.runs, row, key=_row_of) - 1
        run = self.runs[index]
        return Run(row, run.offset + row - run.row, run.enqueued_at)

    def breaks(self, row: int, count: int) -> list[Run]:
        """The runs that begin behind `row`, among that many events; rows are counted from there."""
        if len(self.runs) == 1:
            return []
        return [run._replace(row=run.row - row) for run in self.runs if row < run.row < row + count]

    def receipt(self, row: int, count: int) -> Receipt:
        """The receipt of so many of its events; there may be others' between them."""
        run = self.run_at(row)
        return Receipt(self.partition, run.offset, count, run.enqueued_at)


def _row_of(run: Run) -> int:
    return run.row


def _length_of_keys(keys: Sequence[Key | None]) -> int:
    """Bytes of all together, or more."""
    try:
        return len("".join(cast("Sequence[str]", keys)).encode())
    except TypeError:
        return sum([len(key) * _width(key) for key in keys if key is not None])


def _width(text: str | bytes) -> int:
    """Bytes that a character takes at most."""
    return _CHARACTER_BYTES if isinstance(text, str) else 1


def _size_of(headers: Sequence[Headers | None]) -> int:
    """Bytes that headers take: as MessagePack, no fewer than as Kafka writes them."""
    return len(_encode(headers))


def _cut(sizes: list[int], most: int, most_events: int) -> list[tuple[int, int]]:
    """Where to cut so that no set has more than `most` bytes, or it is a single message."""
    ends = list(accumulate(sizes))
    cuts = []
    start = before = 0
    while start < len(ends):
        end = max(bisect.bisect_right(ends, before + most, lo=start), start + 1)
        end = min(end, start + most_events)
        cuts.append((start, end))
        start, before = end, ends[end - 1]
    return cuts
