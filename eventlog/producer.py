"""A buffer in front of a topic: events go in one by one and are stored many at a time.

`Producer.send` only puts an event into the open parcel and returns; a thread of the producer's own
stores what has gathered. What the engine does is behind `Outlet`.

Invariants:

1. What `send` returned a delivery for gets an outcome, once: it is stored, or its delivery says
   why not. A failure that nobody has looked at is logged, and raised by `flush` or `close`.
2. Events of one partition are stored in the order they were sent; those of a producer with a name
   in the order of their sequences, whatever the partitions: a parcel is stored whole, and after
   the ones before it. So the last sequence stored stands for all before it.
3. At most `max_buffered_bytes` are accepted and not yet settled, or a single event.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import anyio
import anyio.to_thread

from eventlog import endings
from eventlog.buffer import ParcelBuffer
from eventlog.callbacks import Callback, Caller
from eventlog.checks import check_producer_id, check_sequence, seconds
from eventlog.delivery import EVENT_BYTES, Accepted, Batch, Delivery, Failures, Parcel, again
from eventlog.errors import (
    ClosedError,
    DeliveryError,
    EventTooLargeError,
    ProducerFencedError,
    UnsupportedOperationError,
)
from eventlog.event import Key, PropertyValue
from eventlog.log import Body, Duration
from eventlog.outlet import Identity, Outlet, Stored
from eventlog.waiting import Completion, on_event_loop

__all__ = ["Producer", "ProducerMetrics"]

_MOST_PLACES: Final = 100_000

_logger: Final = logging.getLogger("eventlog")


class ProducerMetrics(NamedTuple):
    """A producer's figures at one moment; the last three count from its beginning.

    Attributes:
        buffered_events, buffered_bytes: accepted, and without an outcome.
        batches: batches stored, each in one partition.
        delivered: events that are stored, duplicates included.
        failed: events that were not.
    """

    buffered_events: int
    buffered_bytes: int
    batches: int
    delivered: int
    failed: int


class Producer(ParcelBuffer):
    """Sends events to a topic, many at a time. Made by `Topic.producer`; thread-safe.

    Use it with ``with`` or ``async with``, or close it: that delivers what was accepted.
    """

    def __init__(
        self,
        outlet: Outlet,
        *,
        linger: Duration = 0.005,
        max_batch_events: int = 10_000,
        max_batch_bytes: int = 2**20,
        max_buffered_bytes: int = 64 * 2**20,
        producer_id: str | None = None,
        on_delivery: Callback[Delivery] | None = None,
    ) -> None:
        self._producer_id = None if producer_id is None else check_producer_id(producer_id)
        self._caller = Caller(on_delivery)
        self._asynchronous = False
        super().__init__(
            outlet,
            linger=linger,
            max_batch_events=max_batch_events,
            max_batch_bytes=max_batch_bytes,
            max_buffered_bytes=max_buffered_bytes,
        )
        if not on_event_loop():
            self._identify()
        endings.add(self)

    def _start_empty(self) -> None:
        super()._start_empty()
        self._registering = threading.Lock()
        self._identity: Identity | None = None
        self._last_sent = -1
        self._broken_at: int | None = None
        self._fenced: ProducerFencedError | None = None
        self._failures = Failures()
        self._is_failing = False
        self._batches = 0
        self._delivered = 0
        self._failed = 0

    def __repr__(self) -> str:
        name = "" if self._producer_id is None else f" {self._producer_id!r}"
        return f"<Producer{name} of topic {self._outlet.name!r}>"

    # What it is

    @property
    def last_sequence(self) -> int:
        """The highest sequence that is stored; -1 if there is none, or the producer has no name.

        Whoever starts again goes on behind it.
        """
        self._identify_at_once()
        return -1 if self._identity is None else self._identity.last_sequence

    @property
    def metrics(self) -> ProducerMetrics:
        """Its figures now."""
        with self._mutex:
            return ProducerMetrics(
                sum(parcel.count for parcel in self._parcels() if not parcel.settled),
                self._buffered_bytes + self._open.used,
                self._batches,
                self._delivered,
                self._failed,
            )

    # Sending

    def send(
        self,
        body: Body,
        *,
        key: Key | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
        partition: int | None = None,
        sequence: int | None = None,
        timeout: Duration | None = None,
    ) -> Delivery:
        """Accept one event, and return at once.

        Args:
            body, key, properties, partition: see `Topic.append`. Events without key and partition
                go to one partition until a batch is full, then to the next in turn.
            sequence: of a producer with a name: an integer from 0, greater than that of the event
                before. What repeats one that was sent or stored before is a duplicate: it is not
                stored again, and its receipt says so.
            timeout: seconds to wait for room in the buffer; None waits as long as it takes. On an
                event loop it never waits: `await producer.ready()` does.

        Raises:
            BufferFullError: there was no room in time. The event was not accepted.
            EventTooLargeError, PartitionNotFoundError, TypeError, ValueError: see `Topic.append`.
            ProducerFencedError: a later producer has the same name.
            DeliveryError: of a producer with a name: an event before this one was not stored;
                sending goes on from there.
            ClosedError: the producer was closed.
        """
        # The short way, without a mutex: what a producer's rate hangs on. See `eventlog.buffer`.
        number = self._places.get(key)
        if (
            number is not None
            and type(body) is bytes
            and properties is None
            and partition is None
            and sequence is None
        ):
            size = len(body) + EVENT_BYTES
            parcel = self._open
            left = parcel.left - size
            if left >= 0:
                batch = parcel.batches[number]
                if batch is not None:
                    parcel.left = left
                    rows = batch.rows
                    rows += body, key
                    end = len(rows)
                    if not parcel.taken or self._in_time(batch, end):
                        return Delivery(batch, end)
        event = Accepted.checked(body, key, properties)
        return self._send(event, partition, sequence, timeout)

    def _in_time(self, batch: Batch, end: int) -> bool:
        """Whether a row belongs to its parcel, which was taken about when the row was added."""
        with self._mutex:
            return end <= batch.end

    def _send(
        self,
        event: Accepted,
        partition: int | None,
        sequence: int | None,
        timeout: Duration | None,
    ) -> Delivery:
        """`send` in full."""
        until = float("inf")
        if timeout is not None:
            until = time.monotonic() + seconds(timeout, "timeout")
        self._check(event, sequence)
        self._identify_at_once()
        number = self._place(event.key, partition)
        while True:
            with self._mutex:
                self._refuse(sequence)
                delivery = self._try(event, number, sequence)
                if delivery is not None:
                    return delivery
                room = self._next_room(event.size)
            self._wait_for_room(room, until, event.size)

    def _check(self, event: Accepted, sequence: object) -> None:
        if len(event.body) > self._outlet.max_event_bytes:
            raise EventTooLargeError(
                f"the event has a body of {len(event.body):,} bytes; topic {self._outlet.name!r} "
                f"takes {self._outlet.max_event_bytes:,} (max_event_bytes)"
            )
        if sequence is None:
            if self._producer_id is not None:
                raise ValueError(f"producer {self._producer_id!r} needs a sequence for each event")
        elif self._producer_id is None:
            raise ValueError(f"sequence {sequence!r:.80} needs a producer with a producer_id")
        else:
            check_sequence(sequence)

    def _identify_at_once(self) -> None:
        """`_identify`, which blocks, unless that was done."""
        if self._producer_id is None or self._identity is not None:
            return
        if on_event_loop():
            raise UnsupportedOperationError(
                f"on an event loop, producer {self._producer_id!r} is to be used with `async with`"
            )
        self._identify()

    def _identify(self) -> None:
        """With a name: become the producer of that name, if this is not yet."""
        if self._producer_id is None:
            return
        with self._registering:
            if self._identity is None:
                identity = self._outlet.register(self._producer_id)
                self._last_sent = identity.last_sequence
                self._identity = identity

    def _place(self, key: Key | None, partition: object) -> int | None:
        """Where an event goes; None for wherever it is the turn of."""
        if partition is not None:
            return self._outlet.check_partition(partition)
        if key is None:
            return None
        places = self._places  # another takes its place when keys move
        number = places.get(key)
        if number is None:
            number = self._outlet.partition_of(key)
            if self._producer_id is None:  # with a name, nothing goes the short way
                if len(places) >= _MOST_PLACES:
                    places.clear()
                places[key] = number
        return number

    def _refuse(self, sequence: int | None) -> None:
        """Raise what keeps an event from being accepted."""
        if self._closed:
            raise ClosedError(f"the producer of topic {self._outlet.name!r} was closed")
        if self._fenced is not None:
            raise again(self._fenced)
        if self._broken_at is not None and sequence is not None and sequence > self._broken_at:
            raise DeliveryError(
                f"event {self._broken_at} of producer {self._producer_id!r} was not stored, so "
                f"event {sequence} cannot be: send again what follows {self._last_sent}"
            )

    def _try(self, event: Accepted, number: int | None, sequence: int | None) -> Delivery | None:
        """Accept an event, if there is room for it."""
        number = self._turn_of() if number is None else number
        is_repeated = sequence is not None and sequence <= self._last_sent
        if is_repeated and not self._buffered_bytes and not self._open.used:
            return self._repeated(event, number)
        if not self._reserve(event.size, number):
            return None
        parcel = self._open
        batch = parcel.duplicate(number) if is_repeated else parcel.batch(number)
        row = batch.row(event)
        # Without a call in between: the event is there with its sequence, or neither is.
        batch.rows += row
        if sequence is not None and not is_repeated:
            self._last_sent = parcel.last_sequence = sequence
            if parcel.first_sequence is None:
                parcel.first_sequence = sequence
            if sequence == self._broken_at:
                self._broken_at = None
        end = len(batch.rows)
        if end >= 2 * self._max_events:
            self._seal()
        return Delivery(batch, end)
