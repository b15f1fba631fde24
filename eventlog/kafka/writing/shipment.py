"""Events of one partition as messages, cut into sets; and where they landed.

A broker takes the messages of a partition in *sets* (record batches): each whole or not at all,
at offsets that follow each other. Between two sets others may write. How it comes that a set is
stored as it was cut here: `eventlog.kafka.writing.sender`.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Final, NamedTuple, cast

import msgspec

from eventlog.event import Key, PropertyValue, checked_key
from eventlog.kafka.records import Headers, to_headers, to_message
from eventlog.kafka.topic_record import TopicRecord
from eventlog.log import Receipt

__all__ = ["SET_EVENTS", "Run", "Shipment"]

SET_EVENTS: Final = 4000
"""A set has no more events than this."""

_SET_BYTES: Final = 1_000_000
"""A set has no more than this, as librdkafka counts and before compression, or one message.

That is what Kafka's own clients make at most unless told otherwise, and what every topic takes
unless made to take less.
"""

_MESSAGE_BYTES: Final = 64
"""What a message takes beside its value, key and headers; librdkafka reckons with less."""

_HEAD_BYTES: Final = 512
"""What a set takes beside its messages, generously."""

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
        keys, properties: None where no event has any.
        times: in milliseconds since 1970, that the events are to keep; None if the brokers stamp
            them.

    Attributes:
        record: the topic.
        partition: the partition's number.
        values, keys, headers: of the messages; `keys` or `headers` is None where there are none.
        cuts: where sets begin and end.
        runs: where the events landed, set by set.
    """

    __slots__ = ("cuts", "headers", "keys", "partition", "record", "runs", "times", "values")

    def __init__(
        self,
        record: TopicRecord,
        partition: int,
        bodies: Sequence[bytes],
        keys: Sequence[Key | None] | None,
        properties: Sequence[Mapping[str, PropertyValue] | None] | None,
        *,
        times: Sequence[int] | None = None,
    ) -> None:
        self.record = record
        self.partition = partition
        self.values = bodies
        self.keys = keys
        self.headers: Sequence[Headers | None] | None = None
        self.times = times
        self.runs: list[Run] = []
        if not _are_text(keys):
            self._encode(keys, properties)
        elif properties is not None:
            self.headers = [to_headers(own) if own else None for own in properties]
        most = max(1, min(_SET_BYTES, record.max_message_bytes - _HEAD_BYTES))
        self.cuts = self._even_cuts(most) or _cut(self._sizes(), most)

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.values)

    def _encode(
        self,
        keys: Sequence[Key | None] | None,
        properties: Sequence[Mapping[str, PropertyValue] | None] | None,
    ) -> None:
        nothing = [None] * self.count
        encoded = [
            to_message(body, None if key is None else checked_key(key), own)
            for body, key, own in zip(
                self.values, keys or nothing, properties or nothing, strict=True
            )
        ]
        self.values = [value for value, _, _ in encoded]
        self.keys = None if keys is None else [key for _, key, _ in encoded]
        headers = [some for _, _, some in encoded]
        self.headers = headers if any(headers) else None

    # Cutting

    def _even_cuts(self, most: int) -> list[tuple[int, int]] | None:
        """Cuts after every `SET_EVENTS`; None if a set might be too large then.

        This is what usually happens, so it takes no step in Python for each event.
        """
        cuts = []
        for start in range(0, self.count, SET_EVENTS):
            end = min(start + SET_EVENTS, self.count)
            size = len(b"".join(self.values[start:end])) + _MESSAGE_BYTES * (end - start)
            if self.keys is not None:
                size += _length_of_keys(self.keys[start:end])
            if self.headers is not None:
                size += _size_of(self.headers[start:end])
            if size > most:
                return None
            cuts.append((start, end))
        return cuts

    def _sizes(self) -> list[int]:
        """About how many bytes each message takes in a set, and never fewer."""
        sizes = [len(value) + _MESSAGE_BYTES for value in self.values]
        if self.keys is not None:
            sizes = [
                size if key is None else size + len(key) * _width(key)
                for size, key in zip(sizes, self.keys, strict=True)
            ]
        if self.headers is not None:
            sizes = [
                size if headers is None else size + _size_of(headers)
                for size, headers in zip(sizes, self.headers, strict=True)
            ]
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


def _are_text(keys: Sequence[Key | None] | None) -> bool:
    return keys is None or set(map(type, keys)) <= _TEXT_OR_NONE


def _length_of_keys(keys: Sequence[Key | None]) -> int:
    """Bytes of all together, or more."""
    try:
        return _CHARACTER_BYTES * len("".join(cast("Sequence[str]", keys)))
    except TypeError:
        return sum([len(key) * _width(key) for key in keys if key is not None])


def _width(text: str | bytes) -> int:
    """Bytes that a character takes at most."""
    return _CHARACTER_BYTES if isinstance(text, str) else 1


def _size_of(headers: Headers | Sequence[Headers | None]) -> int:
    """Bytes that headers take: as MessagePack, no fewer than as Kafka writes them."""
    return len(_encode(headers))


def _cut(sizes: list[int], most: int) -> list[tuple[int, int]]:
    """Where to cut so that no set has more than `most` bytes, or it is a single message."""
    ends = list(accumulate(sizes))
    cuts = []
    start = before = 0
    while start < len(ends):
        end = max(bisect.bisect_right(ends, before + most, lo=start), start + 1)
        end = min(end, start + SET_EVENTS)
        cuts.append((start, end))
        start, before = end, ends[end - 1]
    return cuts
