"""What tests of producers share: an outlet in memory that does as it is told, and its use."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple
from zlib import crc32

from eventlog import BufferFullError, PartitionNotFoundError, ProducerFencedError, Topic
from eventlog.event import Key, PropertyValue, unpack_properties
from eventlog.producer import Producer
from eventlog.producing.delivery import Batch, Delivery
from eventlog.producing.outlet import Identity, Outlet, Stored

PATIENCE = 30.0
NEVER = math.inf
NOW = datetime(2013, 1, 1, tzinfo=UTC)


class Row(NamedTuple):
    """An event as an outlet is given it."""

    body: bytes
    key: Key | None
    properties: dict[str, PropertyValue] | None


class MemoryOutlet(Outlet):
    """Keeps what it is given.

    Attributes:
        rows: what it has stored, by partition.
        calls: how many events each call of `store` had, by partition.
        errors: what the next calls of `store` raise, one after the other; None for nothing.
        open: while it is not set, `store` waits; `entered` is set when it does.
    """

    def __init__(self, partitions: int = 4, max_event_bytes: int = 2**20) -> None:
        self._partitions = partitions
        self._max_event_bytes = max_event_bytes
        self._turns = itertools.count()
        self._epochs: defaultdict[str, int] = defaultdict(int)
        self.rows: defaultdict[int, list[Row]] = defaultdict(list)
        self.calls: list[dict[int, int]] = []
        self.sequences: list[int | None] = []
        self.errors: list[BaseException | None] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    @property
    def name(self) -> str:
        return "t"

    @property
    def max_event_bytes(self) -> int:
        return self._max_event_bytes

    @property
    def partitions(self) -> int:
        return self._partitions

    def grow(self, partitions: int) -> None:
        """Have so many partitions from now on."""
        self._partitions = partitions

    def partition_of(self, key: Key) -> int:
        return crc32(key.encode() if isinstance(key, str) else key) % self._partitions

    def next_partition(self) -> int:
        return next(self._turns) % self._partitions

    def check_partition(self, partition: object) -> int:
        if not isinstance(partition, int):
            raise TypeError(f"a partition is an int: {partition!r}")
        if not 0 <= partition < self._partitions:
            raise PartitionNotFoundError(f"there is no partition {partition}")
        return partition

    def register(self, producer_id: str) -> Identity:
        self._epochs[producer_id] += 1
        return Identity(producer_id, self._epochs[producer_id], -1, NOW)

    def store(
        self, batches: Sequence[Batch], identity: Identity | None, last_sequence: int | None
    ) -> list[Stored]:
        self.entered.set()
        assert self.open.wait(PATIENCE)
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        if identity is not None and self._epochs[identity.producer_id] != identity.epoch:
            raise ProducerFencedError("fenced")
        self.sequences.append(last_sequence)
        assert all(batch.count for batch in batches)
        self.calls.append({batch.partition: batch.count for batch in batches})
        return [self._keep(batch) for batch in batches]

    def _keep(self, batch: Batch) -> Stored:
        bodies, keys, packed = batch.columns()
        properties = [
            None if own is None else unpack_properties(own)
            for own in packed or [None] * len(bodies)
        ]
        there = self.rows[batch.partition]
        offset = len(there)
        there += map(Row, bodies, keys, properties)
        return Stored(offset, NOW)

    @property
    def bodies(self) -> list[bytes]:
        """Bodies of all partitions, one after the other."""
        return [row.body for number in sorted(self.rows) for row in self.rows[number]]


def stored(topic: Topic) -> list[bytes]:
    """Bodies, partition by partition."""
    return [
        event.body
        for number in range(topic.partitions)
        for event in topic.read(number, max_events=1_000_000)
    ]


def in_thread(do: Callable[[], object]) -> threading.Thread:
    """A thread that does it."""
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread


def join(*threads: threading.Thread) -> None:
    """Wait for threads, and fail if they hang."""
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def seal(producer: Producer) -> None:
    """Have what was accepted be stored now, without waiting for it."""
    with contextlib.suppress(TimeoutError):
        producer.flush(timeout=0)


def stall(outlet: MemoryOutlet, producer: Producer) -> Delivery:
    """Have the producer's thread wait inside the outlet, with one event of one byte."""
    outlet.open.clear()
    outlet.entered.clear()
    delivery = producer.send(b"0", partition=0)
    seal(producer)
    assert outlet.entered.wait(PATIENCE)
    return delivery


def fill(producer: Producer) -> list[Delivery]:
    """Send until not even an empty event fits in any more."""
    deliveries = []
    for size in (100, 0):
        with contextlib.suppress(BufferFullError):
            while True:
                deliveries.append(producer.send(bytes(size), partition=0, timeout=0))
    return deliveries
