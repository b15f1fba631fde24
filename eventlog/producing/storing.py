"""What of a `Producer` is about outcomes: parcels are stored, or it is said why not.

All this runs in the producer's own thread, one lot of parcels after the other.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Final, NamedTuple

from eventlog.callbacks import Caller
from eventlog.errors import DeliveryError, ProducerFencedError
from eventlog.log import Duration
from eventlog.producing.buffer import ParcelBuffer
from eventlog.producing.delivery import Batch, Delivery, Failures, Parcel
from eventlog.producing.outlet import Identity, Outlet, Stored
from eventlog.waiting import Completion

__all__ = ["ParcelStorer", "ProducerMetrics"]

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


class _Raised(NamedTuple):
    """What a `DeliveryError` said, and how many events had failed when it was raised."""

    failed_by_then: int
    message: str
    failed: list[Delivery]
    events: int


class ParcelStorer(ParcelBuffer):
    """Stores parcels, and remembers what became of them."""

    def __init__(
        self,
        outlet: Outlet,
        caller: Caller[Delivery],
        *,
        linger: Duration,
        max_batch_events: int,
        max_batch_bytes: int,
        max_buffered_bytes: int,
    ) -> None:
        self._caller = caller
        super().__init__(
            outlet,
            linger=linger,
            max_batch_events=max_batch_events,
            max_batch_bytes=max_batch_bytes,
            max_buffered_bytes=max_buffered_bytes,
        )

    def _start_empty(self) -> None:
        super()._start_empty()
        self._registering = threading.Lock()
        self._identity: Identity | None = None
        self._last_sent = -1  # the highest sequence that was accepted
        self._broken_at: int | None = None  # the first sequence that was not stored
        self._fenced: ProducerFencedError | None = None
        self._failures = Failures()
        self._is_failing = False
        self._news: BaseException | None = None  # a failure that is to be logged
        self._raised: _Raised | None = None  # by a flush
        self._batches = 0
        self._delivered = 0
        self._failed = 0

    def _step(self) -> bool:
        """Store what is next; whether there may be more. Whatever happens, the thread goes on."""
        try:
            if parcels := self._take():
                self._store(parcels)
        except BaseException as error:  # noqa: BLE001 - for want of memory, say
            self._rescue(error)
            return True
        return bool(parcels)

    def _rescue(self, error: BaseException) -> None:
        """Something broke beside storing: who waits is told, and nothing is settled twice."""
        with self._mutex:
            parcels = [parcel for parcel in self._under_way if not parcel.reported.done]
        unsettled = [parcel for parcel in parcels if not parcel.settled]
        room = None
        if unsettled:
            following, room = self._give_up(unsettled, error)
            parcels += [parcel for parcel in following if parcel not in parcels]
        if room is not None:
            room.complete(None)
        for parcel in parcels:
            parcel.completion.complete(None)
            parcel.reported.complete(None)
        self._log_news()

    def _store(self, parcels: list[Parcel]) -> None:
        """Store parcels, and settle them whatever comes of it."""
        batches = [batch for parcel in parcels for batch in parcel.filled if batch.end]
        last = max((p.last_sequence for p in parcels if p.last_sequence is not None), default=None)
        try:
            stored = self._outlet.store(batches, self._identity, last) if batches else []
            room = self._succeed(parcels, batches, stored, last)
        except BaseException as error:  # noqa: BLE001 - it is the outcome of these events
            parcels, room = self._give_up(parcels, error)
            self._log_news()
        self._report(parcels, room)

    def _log_news(self) -> None:
        """Log a failure, if it is the first of its kind; whatever that does."""
        error, self._news = self._news, None
        if error is None:
            return
        with contextlib.suppress(Exception):  # of the program's handlers: there is nobody to tell
            _logger.warning("events for topic %r are not stored: %s", self._outlet.name, error)

    def _succeed(
        self, parcels: list[Parcel], batches: list[Batch], stored: list[Stored], last: int | None
    ) -> Completion[None] | None:
        """Batches were stored."""
        for batch, place in zip(batches, stored, strict=True):
            batch.stored(*place)
        identity = self._identity
        if identity is not None and last is not None:
            identity = identity._replace(
                last_sequence=last, stored_at=max(place.enqueued_at for place in stored)
            )
        for batch in (batch for parcel in parcels for batch in parcel.duplicates.values()):
            assert identity is not None
            batch.enqueued_at = identity.stored_at
        with self._mutex:
            self._identity = identity
            self._is_failing = False
            self._batches += len(batches)
            self._delivered += sum(parcel.count for parcel in parcels)
            return self._settled(parcels)

    def _give_up(
        self, parcels: list[Parcel], error: BaseException
    ) -> tuple[list[Parcel], Completion[None] | None]:
        """Parcels were not stored; with a name, nothing that was accepted behind them will be."""
        with self._mutex:
            if self._identity is not None:
                parcels = [*parcels, *self._break(parcels, error)]
            for parcel in parcels:
                parcel.fail(error)
                self._failed += parcel.count
                if self._caller.function is None:
                    self._failures.add(parcel)
            if not self._is_failing:
                self._news, self._is_failing = error, True
            room = self._settled(parcels)
        return parcels, room

    def _break(self, parcels: list[Parcel], error: BaseException) -> list[Parcel]:
        """With a name: sending goes on with the first event that was not stored. What follows."""
        assert self._identity is not None
        self._seal()
        following = list(self._sealed)
        for parcel in following:
            parcel.take()
        self._under_way = [*parcels, *following]
        self._sealed.clear()
        if isinstance(error, ProducerFencedError):
            self._fenced = error
        firsts = (p.first_sequence for p in self._under_way if p.first_sequence is not None)
        self._broken_at = min(firsts, default=self._broken_at)
        self._last_sent = self._identity.last_sequence
        return following

    def _report(self, parcels: list[Parcel], room: Completion[None] | None) -> None:
        """Tell who waits, and call back. Without the mutex: who is called may send again."""
        if room is not None:
            room.complete(None)
        for parcel in parcels:
            parcel.completion.complete(None)
        for parcel in parcels:
            if self._caller.function is not None:
                for batch in parcel.all_batches():
                    self._caller.call_all(batch.deliveries())
            parcel.forget()
            parcel.reported.complete(None)

    def _raise_failures(self, before: int) -> None:
        """Raise what nobody has looked at.

        Args:
            before: how many had failed when the caller began to wait: what has failed since is
                raised to it even if another, who waited too, has just been told.
        """
        with self._mutex:
            failed, count = self._failures.take()
            raised = self._raised
        if not count:
            if raised is not None and raised.failed_by_then > before:
                raise DeliveryError(raised.message, failed=raised.failed, count=raised.events)
            return
        first = failed[0].exception() if failed else None
        message = f"{count} events for topic {self._outlet.name!r} were not stored: {first}"
        with self._mutex:
            self._raised = _Raised(self._failed, message, failed, count)
        with contextlib.suppress(Exception):
            _logger.error("%s", message)
        raise DeliveryError(message, failed=failed, count=count)
