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
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import anyio
import anyio.to_thread

from eventlog.callbacks import Callback, Caller
from eventlog.checks import check_producer_id, check_sequence, seconds
from eventlog.errors import (
    ClosedError,
    DeliveryError,
    EventTooLargeError,
    UnsupportedOperationError,
)
from eventlog.event import (
    Key,
    PropertyValue,
    body_bytes,
    checked_key,
    copied_properties,
)
from eventlog.log import Body, Duration
from eventlog.producing import endings
from eventlog.producing.delivery import (
    EVENT_BYTES,
    PLACES,
    Accepted,
    Batch,
    Delivery,
    Parcel,
    again,
)
from eventlog.producing.outlet import Outlet
from eventlog.producing.storing import ParcelStorer, ProducerMetrics
from eventlog.waiting import Completion, on_event_loop

__all__ = ["Producer", "ProducerMetrics", "close_all"]

_MOST_PLACES: Final = 100_000

_logger: Final = logging.getLogger("eventlog")


class _Accepted(NamedTuple):
    """What somebody waits for: the last parcel, and how many events had failed by then."""

    last: Parcel | None
    failed: int


class Producer(ParcelStorer):
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
        self._asynchronous = False
        self._pack = outlet.pack
        super().__init__(
            outlet,
            Caller(on_delivery),
            linger=linger,
            max_batch_events=max_batch_events,
            max_batch_bytes=max_batch_bytes,
            max_buffered_bytes=max_buffered_bytes,
        )
        if not on_event_loop():
            self._identify()
        endings.add(self)

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
            events = sum([parcel.count for parcel in self._parcels() if not parcel.settled])
            size = self._buffered_bytes + self._open.used
            counts = self._batches, self._delivered, self._failed
        return ProducerMetrics(events, size, *counts)

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
            EventTooLargeError, PartitionNotFoundError, TypeError, UnsupportedOperationError,
            ValueError: see `Topic.append`.
            ProducerFencedError: a later producer has the same name.
            DeliveryError: of a producer with a name: an event before this one was not stored;
                sending goes on from there.
            ClosedError: the producer was closed.
        """
        # The short way, without a mutex: what the rate hangs on. See `eventlog.producing.buffer`.
        try:
            number = self._places.get(key)
        except TypeError:  # it cannot be a key; said below
            number = None
        if number is not None and type(body) is bytes and partition is None and sequence is None:
            size = len(body) + EVENT_BYTES
            packed = None
            if properties is not None and (own := copied_properties(properties)):
                packed = self._pack(own)
                size += len(packed)
            parcel = self._open
            left = parcel.left - size
            if left >= 0:
                batch = parcel.batches[number]
                if batch is not None:
                    rows = batch.rows  # before room is taken: those of a later look are others
                    parcel.left = left
                    rows += body, key, packed
                    end = len(rows)
                    if not parcel.taken or self._in_time(batch, rows, end):
                        return Delivery(batch, end)
        event = self._checked(body, key, properties)
        return self._send(event, partition, sequence, timeout)

    def _checked(
        self, body: Body, key: Key | None, properties: Mapping[str, PropertyValue] | None
    ) -> Accepted:
        """What a caller handed in; see `Event`."""
        body = body if type(body) is bytes else body_bytes(body)
        key = None if key is None else checked_key(key)
        own = copied_properties(properties)
        packed = self._pack(own) if own else None
        size = len(body) + EVENT_BYTES + (0 if packed is None else len(packed))
        return Accepted(body, key, packed, size)

    def _in_time(self, batch: Batch, rows: list[Any], end: int) -> bool:
        """Whether a row belongs to its parcel, which was taken about when the row was added."""
        with self._mutex:
            pass  # whoever is taking the parcel has counted its rows now
        return batch.includes(rows, end)

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
        places = self._places  # others take its place when keys move
        number = self._place(event.key, partition)
        while True:
            with self._mutex:
                self._refuse(sequence)
                delivery = self._try(event, number, sequence)
                room = self._next_room(event.size) if delivery is None else None
                if delivery is not None and partition is None and self._producer_id is None:
                    self._remember(event.key, delivery, places)
            if delivery is not None:
                self._let_store()
                return delivery
            if room is not None:
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
        number = self._places.get(key)
        return self._outlet.partition_of(key) if number is None else number

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
        is_repeated = sequence is not None and sequence <= self._last_sent
        if is_repeated and self._nothing_waits():
            return self._repeated(event, number or 0)
        if not self._reserve(event.size, number or 0):
            return None
        parcel = self._open
        if number is None:
            number = self._turn_of(parcel)
        batch = parcel.duplicate(number) if is_repeated else parcel.batch(number)
        row = event.body, event.key, event.packed
        # Without a call in between: the event is there with its sequence, or neither is.
        batch.rows += row
        if sequence is not None and not is_repeated:
            self._last_sent = parcel.last_sequence = sequence
            if parcel.first_sequence is None:
                parcel.first_sequence = sequence
            if sequence == self._broken_at:
                self._broken_at = None
        end = len(batch.rows)
        if end >= PLACES * self._max_events:
            self._seal()
        return Delivery(batch, end)

    def _nothing_waits(self) -> bool:
        """Whether a duplicate needs to wait for nothing."""
        return not (self._buffered_bytes or self._open.used or self._caller.function)

    def _repeated(self, event: Accepted, number: int) -> Delivery:
        """A delivery of what was stored before, with nothing before it that is not."""
        assert self._identity is not None
        parcel = Parcel(0, 0, 0.0)
        batch = parcel.duplicate(number)
        batch.rows += event.body, event.key, event.packed
        batch.enqueued_at = self._identity.stored_at
        parcel.take()
        parcel.completion.complete(None)
        return Delivery(batch, batch.end)

    def _turn_of(self, parcel: Parcel) -> int:
        """Where events without a key go, until the parcel is sealed."""
        if self._turn is None:
            self._turn = self._outlet.next_partition() % len(parcel.batches)
        return self._turn

    def _remember(self, key: Key | None, delivery: Delivery, places: dict[Key | None, int]) -> None:
        """Let events of that key go the short way."""
        if len(places) >= _MOST_PLACES:
            places.clear()
        places[key] = delivery.partition

    # Waiting for what was accepted

    def flush(self, timeout: Duration | None = None) -> Any:
        """Wait until everything accepted so far is stored, or was given up.

        Within ``async with``, called on the event loop, it does not block but is to be awaited:
        ``await producer.flush()``.

        Raises:
            DeliveryError: some was not stored, and nobody has looked at that yet.
            TimeoutError: it took longer than `timeout` seconds.
            RuntimeError: it is called by what the producer calls back, for which it would wait.
        """
        wait = None if timeout is None else seconds(timeout, "timeout")
        return self._finish(self._accepted(), wait)

    def close(self, timeout: Duration | None = None) -> Any:
        """`flush`, and accept nothing more. Closing twice is fine."""
        wait = None if timeout is None else seconds(timeout, "timeout")
        return self._finish(self._end(), wait)

    def close_blocking(self) -> None:
        """`close` that blocks, however the producer is used."""
        self._flush(self._end(), None)

    def _end(self) -> _Accepted:
        """Accept nothing more; what was accepted."""
        with self._mutex:
            self._closed = True
            room = self._room
        if room is not None:
            room.complete(None)  # whoever waits for room is told that it was closed
        return self._accepted()

    def _accepted(self) -> _Accepted:
        """What was accepted until now."""
        with self._mutex:
            self._seal()
            parcels = self._parcels()
            failed = self._failed
        return _Accepted(parcels[-1] if parcels else None, failed)

    def _finish(self, accepted: _Accepted, wait: float | None) -> Any:
        if self._asynchronous and on_event_loop():
            return self._flush_async(accepted, wait)
        self._flush(accepted, wait)
        return Completion.of(None)

    def _flush(self, accepted: _Accepted, wait: float | None) -> None:
        if accepted.last is not None:
            if self._is_own_thread():
                raise RuntimeError("a callback of a producer cannot wait for the producer itself")
            accepted.last.reported.result(wait)
        self._raise_failures(accepted.failed)

    async def _flush_async(self, accepted: _Accepted, wait: float | None) -> None:
        with anyio.fail_after(wait):
            if accepted.last is not None:
                await accepted.last.reported
            if not self._caller.is_calling:
                await self._caller.finished()
        self._raise_failures(accepted.failed)

    def __enter__(self) -> Self:
        self._identify()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close_blocking()
        except DeliveryError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # what went wrong first is what the caller is told

    async def __aenter__(self) -> Self:
        self._asynchronous = True
        self._caller.use_current_loop()
        await anyio.to_thread.run_sync(self._identify)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        accepted = self._end()
        with anyio.CancelScope(shield=True):
            try:
                await self._flush_async(accepted, None)
            except DeliveryError as failure:
                if error is None:
                    raise
                error.add_note(str(failure))

    # Forking, and the end of the process

    def start_empty_in_child(self) -> None:
        """In a child just forked: what was accepted is the parent's to store."""
        parcels = self._parcels()
        self._start_empty()
        for parcel in parcels:
            parcel.completion = Completion()  # a thread of the parent's may hold the other's mutex
            if not parcel.settled:
                parcel.fail(DeliveryError("the process forked: its parent stores this event"))
            parcel.completion.complete(None)

    def close_at_exit(self) -> None:
        """Deliver what was accepted; what fails is in the log of the program."""
        try:
            self.close_blocking()
        except Exception:
            _logger.exception("not all events for topic %r were stored", self._outlet.name)


def close_all(producers: Iterable[Producer]) -> None:
    """Close producers, all of them whatever comes of one.

    Raises:
        DeliveryError: some events were not stored.
    """
    first: Exception | None = None
    for producer in producers:
        try:
            producer.close_blocking()
        except Exception as error:  # noqa: BLE001 - raised below
            if first is None:
                first = error
            else:
                first.add_note(str(error))
    if first is not None:
        raise first
