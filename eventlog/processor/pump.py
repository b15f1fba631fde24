"""One owned partition: from taking its checkpoint to giving it back, and its processor in between.

Invariants:

1. Events are handed over in the order of the partition. One is passed by only when `process` has
   returned from it, when it was put aside, or when it expired.
2. Nothing is handed over that the lease does not cover at that moment, and nothing after the pump
   was told to end.
3. The pump itself checkpoints only what `process` has returned from, and what is put aside with all
   before it finished.
4. `Pump.run` ends; with a coroutine that does not end when it is cancelled, it ends with that.

A *session* is one instance of the processor. When a person resets the group a new one begins, since
what the old one may have in mind of its partition holds no more.

What this module deliberately does not do: heartbeats, plans, or watching the lease while a handler
runs; the host cancels its pumps when that is over.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import threading
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from eventlog.errors import LeaseLostError
from eventlog.groups.documents import CheckpointResetError
from eventlog.groups.steps import perform
from eventlog.positions import EARLIEST, Anchor, Position, PositionMap, of_partition, parse
from eventlog.processor.condition import (
    GONE,
    Condition,
    EndedError,
    MovedError,
    PartitionStatus,
    is_fatal,
)
from eventlog.processor.feed import Feed
from eventlog.processor.hold import Place, Site
from eventlog.processor.options import chance
from eventlog.processor.orders import CutShortError, Orders
from eventlog.processor.processor import CloseReason
from eventlog.processor.session import Session
from eventlog.processor.threads import in_thread
from eventlog.processor.work import Work

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.log import Topic
    from eventlog.processor.checkpoint import PartitionCheckpoint
    from eventlog.processor.clock import Clock
    from eventlog.processor.lease import Lease
    from eventlog.processor.metrics import Metrics
    from eventlog.processor.options import ProcessorOptions
    from eventlog.processor.processor import Factory
    from eventlog.waiting import Completion

__all__ = ["Outcome", "PartitionStatus", "Pump"]

_logger: Final = logging.getLogger("eventlog")


class Outcome(enum.Enum):
    """How a pump has ended."""

    RELEASED = "released"
    """In good order: the partition may be given away."""

    LOST = "lost"
    """The partition is not this owner's any more."""

    ABANDONED = "abandoned"
    """A plain function was left behind and may still be at work: it is not to be given away."""

    STOPPED = "stopped"
    """With an error that the host is to end with; otherwise as RELEASED."""


class Pump:
    """Processes one partition for as long as this host owns it. On one event loop.

    Args:
        start: where the group begins if it never began here; also by partition.
        report: called with what fails and is not the processor's to judge; it was logged.
        on_rest: called when it begins to rest; see `resting`.

    Attributes:
        outcome: how it has ended; None while it runs.
        error: what the host is to end with, if it is.
        left_behind: if a plain function was, done when it has returned.
        why_lost: what the checkpoint had against opening it.
    """

    def __init__(
        self,
        topic: Topic,
        group: str,
        partition: int,
        epoch: int,
        *,
        checkpoint: PartitionCheckpoint,
        store: BlobStore,
        lease: Lease,
        factory: Factory,
        options: ProcessorOptions,
        clock: Clock,
        metrics: Metrics,
        start: Position | PositionMap,
        report: Callable[[BaseException], object],
        on_rest: Callable[[], object] | None = None,
    ) -> None:
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.left_behind: Completion[None] | None = None
        self.why_lost: LeaseLostError | None = None
        self._site = Site(
            topic,
            group,
            partition,
            epoch,
            checkpoint,
            store,
            lease,
            options,
            clock,
            metrics,
            threading.Lock(),
        )
        self._factory = factory
        self._start = start
        self._orders = Orders(clock, store, on_rest)
        self._condition = Condition(self._site, report)
        self._session: Session | None = None
        self._is_open = False

    def __repr__(self) -> str:
        return f"<Pump of {self._site}>"

    # Orders

    def hand_over(self) -> None:
        """Finish what is under way, and end: the partition goes to another host."""
        self._end(CloseReason.HANDED_OVER)

    def stop(self) -> None:
        """Finish what is under way, and end: the host stops."""
        self._end(CloseReason.SHUTDOWN)

    def _end(self, reason: CloseReason) -> None:
        self._orders.ending = self._orders.ending or reason
        if self._session is not None and self._session.is_overdue:
            self._give_up()
        self._orders.ring()

    def cancel(self, reason: CloseReason) -> None:
        """End now. A coroutine is cancelled; a plain function is left behind.

        Said again, it changes nothing: what is called then, as `close`, is not cut off.
        """
        if self._orders.cancelled in (reason, CloseReason.LEASE_LOST):
            return
        if reason is CloseReason.LEASE_LOST and self._session is not None:
            self._session.lose()
        self._orders.cancel(reason)
        self._give_up()

    def pause(self) -> None:
        """Hand over nothing more for now."""
        self._orders.paused = True
        self._orders.ring()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._orders.paused = False
        self._orders.ring()

    def look(self) -> None:
        """See soon whether a person has reset the group."""
        self._orders.look = True
        self._orders.ring()

    def _overdue(self, limit: float) -> None:
        """A plain function has run for too long: it is waited for, unless the pump is to end."""
        error = TimeoutError(f"not done within {limit:g} s")
        self._condition.note("a plain function does not end, and cannot be cancelled", error)
        self._condition.state = "failing"
        if self._orders.ending is not None or self._orders.cancelled is not None:
            self._give_up()

    def _give_up(self) -> None:
        if self._session is not None:
            self._session.give_up()

    # How it is

    @property
    def in_thread(self) -> bool:
        """Whether a plain function runs now, or was left behind: it cannot be cancelled."""
        if self.left_behind is not None and not self.left_behind.done:
            return True
        return self._session is not None and self._session.in_thread

    @property
    def is_gone(self) -> bool:
        """Whether it has ended since its topic, or log, is no more."""
        return self._condition.gone

    @property
    def resting(self) -> bool:
        """Whether it only waits: for events, for a moment of its clock, for an order."""
        return self._orders.resting

    def lag(self) -> int | None:
        """How many events there are behind the checkpoint; None if that cannot be told. Blocks."""
        return self._site.lag() if self._is_open else None

    def status(self, lag: Callable[[], int | None] | None = None) -> PartitionStatus:
        """How it is. May be called in any thread.

        Args:
            lag: tells the lag; if it is not given, a look at the log does, which blocks.
        """
        site, condition = self._site, self._condition
        return PartitionStatus(
            site.partition,
            site.epoch,
            condition.state,
            site.checkpoint.offset if self._is_open else None,
            self.lag() if lag is None else lag(),
            self._orders.paused,
            condition.attempts,
            condition.error,
        )

    # Its life

    async def run(self) -> None:
        """Until it was told to end, or has to. Then there is an `outcome`.

        Cancelled, it cancels what runs, closes the processor, shielded, and ends.
        """
        async with anyio.create_task_group() as outside:
            outside.start_soon(self._cancel_if_cancelled)
            with anyio.CancelScope(shield=True):
                self.outcome = await self._run()
            outside.cancel_scope.cancel()

    async def _cancel_if_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            if self.outcome is None:
                self.cancel(CloseReason.SHUTDOWN)

    async def _run(self) -> Outcome:
        outcome = Outcome.LOST
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            ended = await self._until_ended()
            self.error = ended.error
            outcome = self._outcome_of(ended)
            if outcome is Outcome.LOST:
                _ = in_thread(
                    self.give_back, self._site.store
                )  # nobody waits: perhaps it is no more ours
            elif outcome is not Outcome.ABANDONED:
                await self._release()
            tasks.cancel_scope.cancel()
        self._condition.state = "closed"
        return outcome

    def _outcome_of(self, ended: EndedError) -> Outcome:
        if self.left_behind is not None:
            return Outcome.ABANDONED
        if ended.error is not None:
            return Outcome.STOPPED
        return Outcome.LOST if ended.reason is CloseReason.LEASE_LOST else Outcome.RELEASED

    async def _until_ended(self) -> EndedError:
        try:
            await self._open_checkpoint()
            while True:
                try:
                    await self._run_session()
                except MovedError:
                    _logger.info("%s was reset to %d", self._site, self._site.checkpoint.offset + 1)
        except EndedError as ended:
            return ended

    def _check(self) -> None:
        """Nothing, if it is to go on; for when there is no session."""
        reason = self._orders.cancelled
        if reason is None and not self._site.lease.held():
            reason = CloseReason.LEASE_LOST
        reason = reason or self._orders.ending
        if reason is not None:
            raise EndedError(reason)

    async def _delay(self, failures: int) -> None:
        """Wait as the policy says, unless it is to end."""
        self._condition.state = "retrying"
        clock = self._site.clock
        until = clock.now() + self._site.options.retry.delay(failures, chance)
        while (left := until - clock.now()) > 0:
            self._check()
            await self._orders.wait(left)

    # The checkpoint

    async def _open_checkpoint(self) -> None:
        failures = 0
        while not self._is_open:
            self._check()
            try:
                await self._orders.call_store(self._take)
            except CutShortError:
                continue
            except LeaseLostError as error:
                self.why_lost = error
                raise EndedError(CloseReason.LEASE_LOST) from error
            except GONE as error:
                self._condition.gone = True
                raise EndedError(CloseReason.FAILED, error) from error
            except Exception as error:  # noqa: BLE001 - as long as the lease holds it is tried
                failures += 1
                self._condition.note("opening its checkpoint failed", error, again=failures > 1)
                await self._delay(failures)
            else:
                self._is_open = True

    def _take(self) -> None:
        """Open the checkpoint, which settles where the group begins; blocks."""
        site = self._site
        info = site.topic.partition_info(site.partition)
        position = of_partition(self._start, site.partition, EARLIEST)
        start = parse(position, site.clock.wall_us())
        if isinstance(start, Anchor):
            start = info.beginning_offset if start is EARLIEST else info.next_offset
        elif isinstance(start, datetime):
            start = site.topic.offset_at(site.partition, start)
        steps = site.checkpoint.open(start, site.options.max_batch, next_offset=info.next_offset)
        with site.mutex, contextlib.suppress(CheckpointResetError):
            perform(steps, site.store)

    async def _release(self) -> None:
        try:
            await self._orders.call_store(self.give_back, limit=self._site.options.grace)
        except CutShortError:
            pass  # it goes on, and nobody waits
        except Exception as error:  # noqa: BLE001 - who comes next counts a crash at most
            _logger.warning("%s: its checkpoint was not released: %r", self._site, error)

    def give_back(self) -> None:
        """Release the checkpoint, if it is still this owner's: whoever comes next sees no crash.

        Blocks; raises what the store raises.
        """
        with self._site.mutex:
            perform(self._site.checkpoint.release(), self._site.store)

    # Sessions

    async def _run_session(self) -> NoReturn:
        """One instance of the processor, from its beginning to its end.

        Raises:
            EndedError: it was the last one.
            MovedError: another one is to begin, where the checkpoint is.
        """
        session = await self._opened()
        site, orders = self._site, self._orders
        feed = Feed(
            site.topic,
            site.partition,
            site.checkpoint.offset + 1,
            site.options.max_batch,
            orders.ring,
        )
        work = Work(site, session, feed, orders, self._condition)
        reading = anyio.CancelScope()
        self._tasks.start_soon(_read, feed, reading)
        try:
            await work.run()
        except (EndedError, MovedError) as end:
            reading.cancel()
            raise (await self._closed(session, work, end)) from None

    async def _opened(self) -> Session:
        """A processor that was opened; another one each time that fails."""
        failures = 0
        while True:
            self._check()
            try:
                session = self._session = self._made()
                answer = await session.call(
                    session.methods.open, limit=self._site.options.handler_timeout
                )
                error = answer.error
                if not answer.given_up and error is None:
                    return session
                self._forget(session)
            except EndedError:
                raise
            except Exception as failure:  # noqa: BLE001 - the factory's
                error = failure
            if error is None:
                continue  # it was given up: the pump is to end
            if is_fatal(error):
                raise EndedError(CloseReason.FAILED, error)
            failures += 1
            self._condition.note("its processor could not be opened", error, again=failures > 1)
            await self._delay(failures)

    def _made(self) -> Session:
        site = self._site
        try:
            processor = self._factory()
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            raise EndedError(CloseReason.FAILED, error) from error
        return Session(
            site,
            processor,
            Place(site.checkpoint.offset, None),
            self._tasks,
            on_end=self._orders.ring,
            on_overdue=self._overdue,
        )

    def _forget(self, session: Session) -> None:
        session.end()
        if session.abandoned:
            self.left_behind = session.thread_ended
        self._session = None

    async def _closed(
        self, session: Session, work: Work, end: EndedError | MovedError
    ) -> EndedError | MovedError:
        """Close a processor; how the session has ended after all."""
        reason = end.reason if isinstance(end, EndedError) else CloseReason.LEASE_LOST
        if session.abandoned:
            session.close_behind(reason)
            self._forget(session)
            return end
        self._condition.state = "closing"
        if reason is not CloseReason.LEASE_LOST:
            planned = reason is not CloseReason.FAILED and self._orders.cancelled is None
            await work.finish(insist=planned)
        if session.hold.lost is not None or self._orders.cancelled is CloseReason.LEASE_LOST:
            reason = CloseReason.LEASE_LOST
        if reason is CloseReason.LEASE_LOST:
            session.lose()
        answer = await session.call(session.methods.close, reason, limit=self._closing_limit())
        self._forget(session)
        error = end.error if isinstance(end, EndedError) else None
        if answer.error is not None:
            self._condition.note("its processor could not be closed", answer.error)
            if is_fatal(answer.error):
                error = error or answer.error
        if isinstance(end, MovedError) and error is None:
            return end
        return EndedError(reason, error)

    def _closing_limit(self) -> float | None:
        options = self._site.options
        if self._orders.cancelled is None:
            return options.handler_timeout
        return min(options.grace, options.handler_timeout or math.inf)


async def _read(feed: Feed, scope: anyio.CancelScope) -> None:
    with scope:
        await feed.run()
