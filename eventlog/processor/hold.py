"""What a processor may do to its partition: checkpoint, commit, put events aside; while it holds.

Invariants:

1. One at a time uses the checkpoint: pump, handler, and what a handler was left behind with.
2. When the lease is over, when another owner was found, when a person moved the group, or when the
   processor was closed, nothing more is stored by it. What was begun before then may still be
   stored: the fence in the store judges that.
3. A transaction's checkpoint is made inside its commit, or not at all.

Everything here blocks, and may be called in any thread. What this module deliberately does not do:
know of event loops, or of what a handler is given; those are `eventlog.processor.context`.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from eventlog.errors import (
    EventLogError,
    LeaseLostError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from eventlog.groups.documents import CheckpointResetError
from eventlog.groups.steps import Steps, perform
from eventlog.processor.dead_letters import Attempts, dead_letter

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.event import StoredEvent
    from eventlog.log import Topic
    from eventlog.processor.checkpoint import PartitionCheckpoint
    from eventlog.processor.clock import Clock
    from eventlog.processor.lease import Lease
    from eventlog.processor.metrics import Metrics
    from eventlog.processor.options import ProcessorOptions
    from eventlog.transaction import Fence, Transaction

__all__ = ["Hold", "Place", "Site"]


class Site(NamedTuple):
    """Where a pump works, and with what."""

    topic: Topic
    group: str
    partition: int
    epoch: int
    checkpoint: PartitionCheckpoint
    store: BlobStore
    lease: Lease
    options: ProcessorOptions
    clock: Clock
    metrics: Metrics
    mutex: threading.Lock
    """Whoever uses the checkpoint has it."""

    def __str__(self) -> str:
        return f"partition {self.partition} of topic {self.topic.name!r} in group {self.group!r}"

    def lag(self) -> int | None:
        """How many events there are behind the checkpoint now; None if that cannot be told."""
        try:
            info = self.topic.partition_info(self.partition)
        except EventLogError:
            return None
        return max(info.next_offset - max(self.checkpoint.offset + 1, info.beginning_offset), 0)


class Place(NamedTuple):
    """An event that was finished, and when it was enqueued, if that is known."""

    offset: int
    enqueued_at: datetime | None

    @classmethod
    def of(cls, event: StoredEvent) -> Place:
        """That of an event."""
        return cls(event.offset, event.enqueued_at)


class Hold:
    """One processor's hold on its partition, from when it is opened until it is closed.

    Args:
        finished: where the checkpoint is.
        on_end: called, in any thread, when `lost` or `moved` changes.

    Attributes:
        current: what a checkpoint means that names no event: the last event of the batch in work;
            between batches, the last one that `process` has returned from.
        handed: the highest offset that was handed over.
        attempts: how what is in work got there.
        lost: why the partition is not this owner's any more; None while it is.
        moved: whether a person has moved the group: nothing that was handed over counts any more.
        trouble: the last that a store call of the processor has failed with.
    """

    def __init__(self, site: Site, finished: Place, on_end: Callable[[], object]) -> None:
        self.site = site
        self.current = finished
        self.handed = finished.offset
        self.attempts = Attempts()
        self.lost: LeaseLostError | None = None
        self.moved = False
        self.trouble: StoreUnavailableError | None = None
        self._on_end = on_end
        self._ended = False
        self._waiting: set[object] = set()

    def end(self) -> None:
        """The processor is closed, or left behind."""
        self._ended = True

    def refuse(self) -> None:
        """Nothing, while it holds.

        Raises:
            LeaseLostError: it does not.
            PreconditionFailedError: a person has moved the group.
        """
        if self.lost is None and not self._ended and not self.site.lease.held():
            self.lose(LeaseLostError(f"the lease on {self.site} is over"))
        if self.lost is not None:
            raise LeaseLostError(*self.lost.args) from self.lost
        if self._ended:
            raise LeaseLostError(f"{self.site} was closed")
        if self.moved:
            raise self._was_moved()

    def _was_moved(self) -> PreconditionFailedError:
        return PreconditionFailedError(
            f"the group was reset: {self.site} goes on behind offset {self.site.checkpoint.offset}"
        )

    def lose(self, error: LeaseLostError) -> None:
        """The partition is not this owner's any more."""
        if self.lost is None:
            self.lost = error
            self._on_end()

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        """Notices what uses of the checkpoint tell of its owner."""
        try:
            yield
        except LeaseLostError as error:
            self.lose(error)
            raise
        except CheckpointResetError as error:
            self.moved = True
            self._on_end()
            raise self._was_moved() from error

    def _use(self, steps: Callable[[], Steps[object]]) -> object:
        with self.site.mutex:
            self.refuse()
            with self._noticing():
                return perform(steps(), self.site.store)

    # Waiting for a store

    @property
    def waits(self) -> bool:
        """Whether the processor waits for a store."""
        return bool(self._waiting)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While the processor waits for a store."""
        call = object()
        self._waiting.add(call)
        try:
            yield
        except StoreUnavailableError as error:
            self.trouble = error
            raise
        finally:
            self._waiting.discard(call)

    # The checkpoint

    def checkpoint(self, place: Place) -> None:
        """The event at `place` is finished, and all before it.

        Raises:
            LeaseLostError, PreconditionFailedError: see `refuse`.
            StoreUnavailableError: it may have been stored, or not.
        """
        clock, checkpoint = self.site.clock, self.site.checkpoint
        began = clock.now()
        if self._use(functools.partial(checkpoint.advance, *place)):
            self.site.metrics.checkpoint_seconds(self.site.partition, clock.now() - began)

    def covers(self, place: Place) -> bool:
        """Whether a checkpoint there would do nothing. Raises what `refuse` raises."""
        self.refuse()
        return place.offset <= self.site.checkpoint.offset

    def attempt(self, offset: int) -> int:
        """See `PartitionCheckpoint.attempt`."""
        count = self._use(functools.partial(self.site.checkpoint.attempt, offset))
        assert isinstance(count, int)
        return count

    def survived(self, offset: int) -> None:
        """See `PartitionCheckpoint.survived`."""
        self._use(functools.partial(self.site.checkpoint.survived, offset))

    def look(self) -> None:
        """See whether the partition is still this owner's, and where the checkpoint is."""
        self._use(self.site.checkpoint.look)

    # Transactions

    @property
    def joins_transactions(self) -> bool:
        """Whether a checkpoint can be committed with events."""
        return self.site.topic.log.joins_transactions(self.site.store)

    def transaction(self, place: Place) -> Transaction:
        """A transaction of the log that also checkpoints, and only if the partition still holds.

        Raises:
            LeaseLostError, PreconditionFailedError: see `refuse`; also when it commits.
            UnsupportedOperationError: the group is kept elsewhere than in the log.
        """
        self.refuse()
        if not self.joins_transactions:
            raise UnsupportedOperationError(
                f"the checkpoints of {self.site} join no transaction: they are not kept in the log "
                "itself, but where store= or blobs= said"
            )
        transaction = self.site.topic.log.transaction()
        transaction.attach(_Part(self, place), self.site.store)
        return transaction

    def fence(self, place: Place) -> Fence:
        """The checkpoint's part in a commit; to be called with the site's mutex."""
        self.refuse()
        return self.site.checkpoint.fence(*place)

    def check(self, fence: Fence, blobs: BlobStore) -> None:
        """See `Fence.check`."""
        with self._noticing():
            fence.check(blobs)

    # Dead letters

    def put_aside(
        self, event: StoredEvent, reason: str, attempts: Attempts, place: Place | None
    ) -> None:
        """Append an event to the dead-letter topic; in one commit with a checkpoint, if given.

        Raises:
            UnsupportedOperationError: there is no dead-letter topic; see also `transaction`.
            EventLogError: it could not be stored.
        """
        name = self.site.options.dead_letter
        if name is None:
            raise UnsupportedOperationError(
                f"there is no topic for dead letters of {self.site}: "
                "give ProcessorOptions(dead_letter=...)"
            )
        letter = dead_letter(event, self.site.group, reason, attempts)
        if place is None:
            self.refuse()
            self.site.topic.log.topic(name).append_batch([letter])
        else:
            with self.transaction(place) as transaction:
                transaction.append_batch(name, [letter])
        self.site.metrics.dead_letter(self.site.partition, 1)


class _Part:
    """A hold's part in one transaction: `Participant` and `Fence` in one.

    The mutex is held from when the commit begins until it has ended, whichever way.
    """

    def __init__(self, hold: Hold, place: Place) -> None:
        self._hold = hold
        self._place = place
        self._fence: Fence | None = None
        self._began = 0.0
        self._until_it_ends = contextlib.ExitStack()

    def fence(self) -> _Part:
        """See `Participant.fence`."""
        site = self._hold.site
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._hold.waiting())
            stack.enter_context(site.mutex)
            self._fence = self._hold.fence(self._place)
            self._until_it_ends = stack.pop_all()
        self._began = site.clock.now()
        return self

    def check(self, blobs: BlobStore) -> None:
        """See `Fence.check`."""
        assert self._fence is not None
        self._hold.check(self._fence, blobs)

    def committed(self) -> None:
        """See `Fence.committed`."""
        assert self._fence is not None
        self._fence.committed()
        site = self._hold.site
        self._end()
        site.metrics.checkpoint_seconds(site.partition, site.clock.now() - self._began)

    def failed(self) -> None:
        """See `Participant.failed`."""
        self._end()

    def _end(self) -> None:
        if self._fence is not None:
            self._fence = None
            self._until_it_ends.close()
