"""One run of a host, on its event loop: a pump for every partition that it owns.

Invariants:

1. At most one pump of a partition runs at a time; another begins when its `Pump.run` has returned.
2. A partition is reported as closed only when its pump has returned and may be given away; and it
   is opened again under the same epoch only if `Membership.reopen` took that back.
3. When the lease is over all pumps are cancelled, by the clock, whether or not the coordination has
   noticed. The host goes on as another member when all of them have returned.

What this module deliberately does not do: talk to the store; that the coordination does, in its
thread, and each pump for its own checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Container, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from eventlog.errors import PartitionNotFoundError, TopicNotFoundError
from eventlog.positions import EARLIEST
from eventlog.processor.checkpoint import GroupLook, PartitionCheckpoint
from eventlog.processor.coordination import Coordination, News, is_of_this_process
from eventlog.processor.processor import CloseReason
from eventlog.processor.pump import Outcome, Pump
from eventlog.processor.threads import in_thread
from eventlog.waiting import Completion, Notifier, current_notifier

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.processor.clock import Clock
    from eventlog.processor.lease import Lease
    from eventlog.processor.membership import Assignment, Membership, Round
    from eventlog.processor.metrics import Metrics
    from eventlog.processor.options import ProcessorOptions
    from eventlog.processor.processor import Factory

__all__ = ["Running", "Settings"]

_logger: Final = logging.getLogger("eventlog")

_REOPEN_SECONDS: Final = 1.0
"""After how long a partition is tried again that could not be opened although it is ours."""

_GONE: Final = (TopicNotFoundError, PartitionNotFoundError)
"""What a pump ends with whose topic was deleted. It may be made anew: the coordination looks."""

_LEAST_WAIT_SECONDS: Final = 0.005
_MOST_WAIT_SECONDS: Final = 0.5
"""How long at most the clock of the lease is not looked at: partitions come and go meanwhile."""

_LAST_ROUNDS_SECONDS: Final = 2.0
"""For how long, when time is up, what is closed by then is still given away."""


class Settings(NamedTuple):
    """What a run needs to know; the same for all of them."""

    group: str
    store: BlobStore
    factory: Factory
    options: ProcessorOptions
    clock: Clock
    metrics: Metrics
    report: Callable[[BaseException], object]


class _Owned(NamedTuple):
    """A partition whose pump runs."""

    pump: Pump
    epoch: int
    lease: Lease
    checkpoint: PartitionCheckpoint


class Running:
    """One run. But for the constructor and `stop`, all of it happens on the event loop.

    Attributes:
        pumps: by partition.
        paused: partitions that are paused, whether they are owned now or not.
        failure: what is to be raised at the end.
    """

    def __init__(self, settings: Settings, paused: set[int]) -> None:
        self.failure: BaseException | None = None
        self.news: News | None = None
        self.stopping = False
        self.paused: Final = paused
        self._settings = settings
        self._owned: dict[int, _Owned] = {}
        self._reported: dict[int, int] = {}  # closed, and told so: by partition, the epoch
        # Epochs begin anew with another group of the name: they do not tell members apart.
        self._abandoned: dict[tuple[Lease, int, int], Completion[None]] = {}
        self._resting: set[int] = set()
        self._told_lost: dict[int, int] = {}
        self._leaving = False
        self._time_is_up = False
        self._is_over = False
        self._lapsed: Membership | None = None
        self._resets = 0
        self._group_look: tuple[Membership, GroupLook] | None = None
        self._changed = anyio.Event()
        self._notify: Notifier | None = None

    @property
    def pumps(self) -> Mapping[int, Pump]:
        """The pumps that run, by partition."""
        return {partition: owned.pump for partition, owned in list(self._owned.items())}

    @property
    def is_short(self) -> bool:
        """Whether there is a partition that is its own, and that it cannot open."""
        return bool(self._resting)

    def stop(self) -> None:
        """Finish what is under way, give the partitions away, and end. From any thread."""
        self.stopping = True
        self.call_soon(self.look)

    def look(self) -> None:
        """Something has changed."""
        self._changed.set()

    def publish(self, news: News | None) -> None:
        """Take notice of news; from the coordination's thread."""
        self.news = news or self.news
        if not self.call_soon(self.look):
            # The event loop was closed under everything that ran on it.
            self._coordination.end()
            self._coordination.let_go()

    def call_soon(self, do: Callable[[], object]) -> bool:
        """Have something done on the event loop, if it is there; from any thread.

        Returns: whether it will be, as far as is known.
        """
        notify = self._notify
        return notify is None or notify(do)

    def follow_pause(self, partition: int) -> None:
        """A partition was paused or resumed."""
        owned = self._owned.get(partition)
        if owned is None:
            return
        if partition in self.paused:
            owned.pump.pause()
        else:
            owned.pump.resume()

    # The run

    async def run(self, coordination: Coordination) -> None:
        """Until it was stopped, and everything was given away that can be.

        Cancelled, it cancels handlers at once, and then gives away, shielded, within `grace`.
        """
        self._notify = current_notifier()
        async with anyio.create_task_group() as outside:
            outside.start_soon(self._stop_if_cancelled)
            with anyio.CancelScope(shield=True):
                await self._run_shielded(coordination)
            outside.cancel_scope.cancel()

    async def _stop_if_cancelled(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self._cancel(CloseReason.SHUTDOWN, in_threads=False)
            self.stopping = True
            self.look()

    async def _run_shielded(self, coordination: Coordination) -> None:
        self._coordination = coordination
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                coordination.start()
                tasks.start_soon(self._watch_lease)
                while self._owned or not (coordination.done or self._is_over):
                    self._act()
                    await self._changed.wait()
                    self._changed = anyio.Event()
                tasks.cancel_scope.cancel()
        finally:
            coordination.end()
            self._let_go(list(self._abandoned.values()))
        self.failure = self.failure or coordination.failure

    def _let_go(self, running: list[Completion[None]]) -> None:
        """Let go of the locks, when nothing of the host's runs any more."""
        if not running:
            self._coordination.let_go()
            return
        running.pop().add_done_callback(lambda _: self._let_go(running))

    def _act(self) -> None:
        if self.stopping and not self._leaving:
            self._leaving = True
            self._tasks.start_soon(self._end_after_grace)
            self._coordination.leave()
            for owned in self._owned.values():
                owned.pump.stop()
        news = self.news
        if self._time_is_up and not self._owned and not self._is_giving():
            self._coordination.end()
        if news is None:
            return
        if news.round is None or news.membership.lease.lost:
            self._close_lost(news)
        else:
            self._attend_all(news, news.round)

    async def _end_after_grace(self) -> None:
        """Time is up: coroutines are cancelled, and what runs in threads is left behind."""
        grace = self._settings.options.grace
        if self.news is None:  # it is no member, as far as it knows, and owns nothing
            grace = min(grace, _LAST_ROUNDS_SECONDS)
        await self._settings.clock.sleep(grace)
        self._warn_of_cut_off(grace)
        self._cancel(CloseReason.SHUTDOWN)
        self._time_is_up = True
        self.look()
        await anyio.sleep(_LAST_ROUNDS_SECONDS)
        self._coordination.end()
        self._is_over = True  # a store call may hang: its thread is left behind
        self.look()

    def _warn_of_cut_off(self, grace: float) -> None:
        for partition, owned in self._owned.items():
            _logger.warning(
                "group %r, partition %d was not done within %g s of grace: its processor is %s",
                self._settings.group,
                partition,
                grace,
                "left behind in its thread" if owned.pump.in_thread else "cancelled",
            )

    # The lease

    async def _watch_lease(self) -> None:
        """Cancel everything when it is over; whoever else may hang, the clock does not."""
        clock = self._settings.clock
        while True:
            leases = {owned.lease for owned in self._owned.values()}
            over = [lease for lease in leases if not lease.held()]
            if over:
                self._cancel(CloseReason.LEASE_LOST, over)
                self._coordination.ring()
            left = min((lease.expires_at - clock.now() for lease in leases), default=math.inf)
            await clock.sleep(min(max(left, _LEAST_WAIT_SECONDS), _MOST_WAIT_SECONDS))

    def _cancel(
        self,
        reason: CloseReason,
        leases: Container[Lease] | None = None,
        *,
        in_threads: bool = True,
    ) -> None:
        for owned in self._owned.values():
            if leases is not None and owned.lease not in leases:
                continue
            if in_threads or not owned.pump.in_thread:
                owned.pump.cancel(reason)
            else:
                owned.pump.stop()

    def _close_lost(self, news: News) -> None:
        self._cancel(CloseReason.LEASE_LOST)
        if self._owned:
            return
        if self.stopping:
            self._coordination.end()
        elif news.round is None and self._lapsed is not news.membership:
            self._lapsed = news.membership
            self._settings.metrics.lease_lost()
            self._reported.clear()
            self._coordination.restart()

    # Partitions

    def _attend_all(self, news: News, found: Round) -> None:
        assigned = found.assigned
        for partition, owned in list(self._owned.items()):
            if partition not in assigned:
                owned.pump.cancel(CloseReason.LEASE_LOST)
        self._reported = {
            partition: epoch
            for partition, epoch in self._reported.items()
            if partition in assigned and assigned[partition].epoch == epoch
        }
        closed = {}
        for partition, assignment in assigned.items():
            if self._attend(partition, assignment, news):
                closed[partition] = assignment.epoch
        self._report_closed(news.membership, closed)
        if found.document.resets != self._resets:
            self._resets = found.document.resets
            for owned in self._owned.values():
                owned.pump.look()

    def _attend(self, partition: int, assignment: Assignment, news: News) -> bool:
        """Do what is to be done about a partition; whether it is closed, and to be given away."""
        membership = news.membership
        owned = self._owned.get(partition)
        if owned is not None:
            if (owned.epoch, owned.lease) != (assignment.epoch, membership.lease):
                owned.pump.cancel(CloseReason.LEASE_LOST)
            elif assignment.next is not None:
                owned.pump.hand_over()
            return False
        if (membership.lease, partition, assignment.epoch) in self._abandoned:
            return False
        if assignment.next is not None or self.stopping:
            return True
        if partition in self._reported:
            if not membership.reopen(partition):
                return False
            del self._reported[partition]
        if partition not in self._resting:
            self._open(partition, assignment.epoch, news)
        return False

    def _report_closed(self, membership: Membership, closed: Mapping[int, int]) -> None:
        new = {
            partition: epoch
            for partition, epoch in closed.items()
            if self._reported.get(partition) != epoch
        }
        if new:
            self._reported.update(new)
            membership.closed(new)
            for partition in new:
                _logger.info("group %r, partition %d given away", self._settings.group, partition)
            self._settings.metrics.rebalance(len(new))
            self._coordination.ring()

    def _open(self, partition: int, epoch: int, news: News) -> None:
        assert news.round is not None
        settings, membership = self._settings, news.membership
        document = news.round.document
        added_later = partition >= document.topic_partitions > 0
        checkpoint = PartitionCheckpoint(
            membership.ids,
            document.group,
            partition,
            membership.member,
            epoch,
            group=self._look_at_group(membership),
            outlived=is_of_this_process,
        )
        pump = Pump(
            news.topic,
            settings.group,
            partition,
            epoch,
            checkpoint=checkpoint,
            store=settings.store,
            lease=membership.lease,
            factory=settings.factory,
            options=settings.options,
            clock=settings.clock,
            metrics=settings.metrics,
            start=EARLIEST if added_later else settings.options.start,
            report=settings.report,
        )
        if partition in self.paused:
            pump.pause()
        owned = self._owned[partition] = _Owned(pump, epoch, membership.lease, checkpoint)
        settings.metrics.rebalance(1)
        _logger.info(
            "group %r, partition %d opened with epoch %d", settings.group, partition, epoch
        )
        self._tasks.start_soon(self._pump, partition, owned)

    def _look_at_group(self, membership: Membership) -> GroupLook:
        if self._group_look is None or self._group_look[0] is not membership:
            self._group_look = membership, GroupLook(membership.ids)
        return self._group_look[1]

    async def _pump(self, partition: int, owned: _Owned) -> None:
        pump = owned.pump
        try:
            await pump.run()
        finally:
            del self._owned[partition]
            self.look()
        is_gone = pump.is_gone and isinstance(pump.error, _GONE)
        if pump.left_behind is not None:
            self._leave_behind(partition, owned, pump.left_behind)
        if pump.error is not None and not is_gone:
            self.failure = self.failure or pump.error
            self.stopping = True
        elif (is_gone or pump.outcome is Outcome.LOST) and owned.lease.held():
            # The checkpoint says so, or the topic, and the document not yet, or never.
            self._tell_lost(partition, owned, pump.why_lost or pump.error)
            self._rise_above(partition, owned)
            self._resting.add(partition)
            self._tasks.start_soon(self._rest, partition)
            self._coordination.ring()

    def _tell_lost(self, partition: int, owned: _Owned, why: BaseException | None) -> None:
        """At length once; it is tried again each second."""
        level = logging.DEBUG if self._told_lost.get(partition) == owned.epoch else logging.WARNING
        self._told_lost[partition] = owned.epoch
        _logger.log(
            level,
            "group %r, partition %d is this host's, but cannot be opened: %s",
            self._settings.group,
            partition,
            why,
        )
        if why is not None:
            self._settings.report(why)

    def _rise_above(self, partition: int, owned: _Owned) -> None:
        """The checkpoint may name an owner of which the document has lost every trace."""
        news, epoch = self.news, owned.checkpoint.outdone_by
        if news is not None and news.membership.lease is owned.lease and epoch is not None:
            news.membership.outdone(partition, epoch)

    def _leave_behind(self, partition: int, owned: _Owned, returned: Completion[None]) -> None:
        """A plain function still runs: the partition is neither given away nor opened again until
        it has returned.
        """
        key = owned.lease, partition, owned.epoch

        def give_back() -> None:
            with contextlib.suppress(Exception):
                owned.pump.give_back()
            self.call_soon(forget)

        def forget() -> None:
            self._abandoned.pop(key, None)
            self.look()

        self._abandoned[key] = returned
        returned.add_done_callback(lambda _: in_thread(give_back, self._settings.store))

    async def _rest(self, partition: int) -> None:
        await self._settings.clock.sleep(_REOPEN_SECONDS)
        self._resting.discard(partition)
        self.look()

    def _is_giving(self) -> bool:
        """Whether something that is closed was not given away yet."""
        news = self.news
        if news is None or news.round is None:
            return False
        return any(
            (news.membership.lease, partition, assignment.epoch) not in self._abandoned
            for partition, assignment in news.round.assigned.items()
        )
