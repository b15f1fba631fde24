"""What a processor is given: where it works, and what it can do there.

One class for coroutines and one for plain functions, which differ in who waits: the former hand
what blocks to other threads. Both are of no use any more when the processor was closed.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from eventlog.event import StoredEvent
from eventlog.processor.hold import Hold, Place
from eventlog.processor.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventlog.transaction import Transaction

__all__ = ["BlockingPartitionContext", "PartitionContext"]


class _Context:
    """What both have.

    Attributes:
        topic: name of the topic.
        group: name of the consumer group.
        partition: number of the partition.
        epoch: counts the owners of the partition in the group. A later owner's is higher: give it
            along with what is written elsewhere, and refuse there what comes with a lower one.
    """

    def __init__(self, hold: Hold) -> None:
        self.topic: Final = hold.site.topic.name
        self.group: Final = hold.site.group
        self.partition: Final = hold.site.partition
        self.epoch: Final = hold.site.epoch
        self._hold = hold

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._hold.site}, epoch {self.epoch}>"

    @property
    def lag(self) -> int | None:
        """How many events of the partition the group has not finished now; a short look at the log.

        None if that cannot be told.
        """
        return self._hold.site.lag()

    def _place(self, event: StoredEvent | None) -> Place:
        """What a checkpoint at `event` notes."""
        hold = self._hold
        if event is None:
            return hold.current
        self._check_mine(event)
        place = Place.of(event)
        if place.offset > hold.handed:
            raise ValueError(f"offset {place.offset} of {hold.site} was not handed over yet")
        return place

    def _check_mine(self, event: StoredEvent) -> None:
        if not isinstance(event, StoredEvent):
            raise TypeError(
                "an event that was handed over is a StoredEvent, "
                f"not {type(event).__name__}: {event!r:.80}"
            )
        if (event.topic, event.partition) != (self.topic, self.partition):
            raise ValueError(
                f"an event of partition {event.partition} of topic {event.topic!r} is none of "
                f"{self._hold.site}"
            )


class PartitionContext(_Context):
    """A partition, as coroutines of its processor see it.

    Attributes:
        lost: is set when the partition is this owner's no more: ``context.lost.is_set()``,
            ``await context.lost.wait()``.
    """

    def __init__(self, hold: Hold, lost: anyio.Event) -> None:
        super().__init__(hold)
        self.lost: Final = lost

    async def checkpoint(self, event: StoredEvent | None = None) -> None:
        """Note that the group has finished this event, and all before it.

        At or below the checkpoint that is there nothing happens. Once begun it goes on even if the
        caller is cancelled.

        Args:
            event: one that was handed over. Without it: while `process` runs, the last one of its
                batch; otherwise the last one that it has returned from.

        Raises:
            LeaseLostError: the partition is another's by now, or the processor was closed.
            PreconditionFailedError: a person has reset the group: what was handed over counts no
                more, and processing goes on there with another instance.
            StoreUnavailableError: it may have been stored, or not.
            TypeError, ValueError: the event is none that was handed over.
        """
        place = self._place(event)
        if self._hold.covers(place):
            await anyio.lowlevel.checkpoint()
            return
        await self._in_thread(functools.partial(self._hold.checkpoint, place))

    def transaction(self, event: StoredEvent | None = None) -> Transaction:
        """A transaction that also checkpoints: what is made of the events, and that they are
        finished, is stored together or not at all. ::

            async with context.transaction() as tx:
                tx.append("alerts", b"...")

        Args:
            event: see `checkpoint`.

        Raises:
            UnsupportedOperationError: the group is kept elsewhere than in the log.
            LeaseLostError, PreconditionFailedError: see `checkpoint`; here, or at the end of the
                block. Nothing of it was stored then.
            TypeError, ValueError: see `checkpoint`.
        """
        return self._hold.transaction(self._place(event))

    async def dead_letter(self, event: StoredEvent, reason: str) -> None:
        """Put an event aside in the dead-letter topic. Its checkpoint is made as for any other.

        If the event is handed over again, since it was not checkpointed, it may come to be there
        twice.

        Raises:
            UnsupportedOperationError: there is no dead-letter topic.
            LeaseLostError: see `checkpoint`.
            EventLogError: it could not be stored.
        """
        self._check_mine(event)
        hold = self._hold
        await self._in_thread(functools.partial(hold.put_aside, event, reason, hold.attempts, None))

    async def _in_thread(self, do: Callable[[], object]) -> None:
        with self._hold.waiting():
            await in_thread(do, self._hold.site.store)


class BlockingPartitionContext(_Context):
    """A partition, as plain functions of its processor see it; see `PartitionContext`.

    They cannot be interrupted: those that run when the lease is lost find out by ``lost``, or when
    they checkpoint.

    Attributes:
        lost: ``context.lost.is_set()``, ``context.lost.wait(timeout)``.
    """

    def __init__(self, hold: Hold, lost: threading.Event) -> None:
        super().__init__(hold)
        self.lost: Final = lost

    def checkpoint(self, event: StoredEvent | None = None) -> None:
        """See `PartitionContext.checkpoint`."""
        place = self._place(event)
        if not self._hold.covers(place):
            self._hold.checkpoint(place)

    def transaction(self, event: StoredEvent | None = None) -> Transaction:
        """See `PartitionContext.transaction`; to be used with ``with``."""
        return self._hold.transaction(self._place(event))

    def dead_letter(self, event: StoredEvent, reason: str) -> None:
        """See `PartitionContext.dead_letter`."""
        self._check_mine(event)
        self._hold.put_aside(event, reason, self._hold.attempts, None)
