"""What an engine gives a `Producer` to send through."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from eventlog.event import Key, PropertyValue, pack_properties
from eventlog.producing.delivery import Batch

__all__ = ["Identity", "Outlet", "Stored"]


class Identity(NamedTuple):
    """What the log knows of a producer with a name."""

    producer_id: str
    epoch: int
    last_sequence: int
    stored_at: datetime


class Stored(NamedTuple):
    """Where a batch went.

    Attributes:
        offset: of its first event.
        enqueued_at: when that was stored.
        breaks: where others' events stand between its own: the events from the row on that is
            named first, counted from 0, stand from that offset on, and were stored then. Ascending.
    """

    offset: int
    enqueued_at: datetime
    breaks: Sequence[tuple[int, int, datetime]] = ()


class Outlet(Protocol):
    """Where a producer's events go; given by the engine. Its methods may block."""

    @property
    def name(self) -> str:
        """The topic's."""

    @property
    def max_event_bytes(self) -> int:
        """The largest body it takes."""

    @property
    def partitions(self) -> int:
        """How many there are, as far as is known."""

    def partition_of(self, key: Key) -> int:
        """Where events of that key go."""

    def next_partition(self) -> int:
        """Where events without a key go next."""

    def check_partition(self, partition: object) -> int:
        """`partition`, if there is one of that number."""

    def pack(self, properties: dict[str, PropertyValue]) -> bytes:
        """`pack_properties`, and whatever else is to be checked of them here. Never blocks.

        Raises:
            EventTooLargeError, TypeError, ValueError: see `Event`.
            UnsupportedOperationError: there can be no such properties here.
        """
        return pack_properties(properties)

    def register(self, producer_id: str) -> Identity:
        """Become the producer of that name; an earlier one is fenced from now on."""

    def store(
        self, batches: Sequence[Batch], identity: Identity | None, last_sequence: int | None
    ) -> list[Stored]:
        """Store batches, all or none, in the order given; durable when it returns.

        Raises:
            ProducerFencedError: another has registered as `identity`.
        """
