"""A session's work: events handed over one batch after the other, and what becomes of failures.

Everything here happens in one task, step by step; between any two steps it is looked whether to go
on. What decides about failed events is in `eventlog.processor.failures`.
"""

from __future__ import annotations

import functools
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from eventlog.consuming.source import LostRange
from eventlog.errors import (
    ClosedError,
    CorruptBatchError,
    EventsExpiredError,
    UnsupportedOperationError,
)
from eventlog.positions import instant
from eventlog.processor.condition import GONE, Condition, EndedError, MovedError, State, is_fatal
from eventlog.processor.failures import CRASHES, Again, PutAside, Unit, decide
from eventlog.processor.hold import Place, Site
from eventlog.processor.options import chance
from eventlog.processor.orders import CutShortError, Orders
from eventlog.processor.processor import NOTHING, STOP, CloseReason, ErrorAction
from eventlog.processor.suspects import TURNS

if TYPE_CHECKING:
    from eventlog.event import StoredEvent
    from eventlog.processor.feed import Feed, Item
    from eventlog.processor.session import Answer, Session

__all__ = ["Work"]

T = TypeVar("T")

_logger: Final = logging.getLogger("eventlog")

_TURN_SECONDS: Final = 0.05
"""How often is asked whose turn it is."""


class Work:
    """Hands events over until the session is over.

    Args:
        session: it was opened.
        feed: gives the events behind the checkpoint.
        orders: what the pump was told.
        condition: is kept up to date.
    """

    def __init__(
        self, site: Site, session: Session, feed: Feed, orders: Orders, condition: Condition
    ) -> None:
        self._site = site
        self._session = session
        self._feed = feed
        self._orders = orders
        self._condition = condition
        self._options = site.options
        self._policy = site.options.retry
        self._units: deque[Unit] = deque()
        self._finished = session.hold.current
        self._read_failures = 0
        self._store_failures = 0
        self._checkpoint_at = -math.inf
        self._idle_at = math.inf
        self._put_off_idle()

    async def run(self) -> NoReturn:
        """Until it raises EndedError or MovedError."""
        try:
            while True:
                await self._step()
        finally:
            TURNS.give_back(self)  # it may have waited for one

    async def _step(self) -> None:
        self._check()
        if self._orders.look:
            self._orders.look = False
            await self._look()
        elif self._orders.paused:
            self._put_off_idle()
            await self._rest()
        elif self._units:
            await self._handle(self._units[0])
        elif (item := self._feed.take()) is not None:
            await self._take(item)
        else:
            await self._rest()

    def _check(self) -> None:
        """Nothing, if it is to go on.

        Raises:
            EndedError, MovedError: it is not.
        """
        self._check_hold()
        if self._orders.ending is not None:
            raise EndedError(self._orders.ending)

    def _check_hold(self) -> None:
        """Nothing, if it may finish what is under way. Raises as `_check` does."""
        hold = self._session.hold
        if self._orders.cancelled is not None:
            raise EndedError(self._orders.cancelled)
        if hold.lost is not None or not self._site.lease.held():
            raise EndedError(CloseReason.LEASE_LOST)
        if hold.moved:
            raise MovedError

    async def _take(self, item: Item) -> None:
        if isinstance(item, list):
            self._read_failures = 0
            self._units.append(Unit(item))
        elif isinstance(item, LostRange):
            await self._expired(item)
        else:
            await self._reading_failed(item)

    # Handing over

    async def _handle(self, unit: Unit) -> None:
        """Do what is next with the first unit: it is handed over, put aside, or taken apart."""
        alone_until = self._site.checkpoint.alone_until
        if unit.aside is not None:
            await self._put_aside(unit)
        elif unit.events[0].offset >= alone_until:
            await self._hand_over(unit)
        elif len(unit.events) > 1:
            self._take_apart(unit, alone_until)
        else:
            await self._hand_over_alone(unit)

    def _take_apart(self, unit: Unit, alone_until: int) -> None:
        """One of them may have ended a process."""
        alone = [unit.part([event]) for event in unit.events if event.offset < alone_until]
        rest = unit.part(unit.events[len(alone) :])
        self._replace(unit, [*alone, rest] if rest.events else alone)

    def _replace(self, unit: Unit, units: Sequence[Unit]) -> None:
        """Have these units in place of the first one."""
        assert self._units[0] is unit
        self._units.popleft()
        self._units.extendleft(reversed(units))

    async def _hand_over_alone(self, unit: Unit) -> None:
        """Hand over an event that may end the process, when it is its turn."""
        offset, checkpoint = unit.events[0].offset, self._site.checkpoint
        is_suspect = checkpoint.attempted == offset and checkpoint.attempts > 0
        alone = is_suspect or self._policy.max_attempts == 1
        if not TURNS.take(self, self._site.clock.now(), alone=alone):
            await self._orders.wait(_TURN_SECONDS)
            return
        try:
            if not await self._is_attempted(unit):
                return
            error = await self._processed(unit)
            await self._note_survived(offset)
        finally:
            TURNS.give_back(self)  # before it waits, for another attempt
        if error is not None:
            await self._failed(unit, error)

    async def _note_survived(self, offset: int) -> None:
        """An event that was handed over alone has ended no process, whether it failed or not: it is
        not to be blamed if another one does.
        """
        if self._is_behind and self._finished.offset >= offset:
            await self._checkpoint()
        elif self._site.checkpoint.offset < offset:
            await self._store(functools.partial(self._session.hold.survived, offset), wait=False)

    async def _is_attempted(self, unit: Unit) -> bool:
        """Note that an event is handed over alone; False if it is not to be, or not now."""
        attempt = functools.partial(self._session.hold.attempt, unit.events[0].offset)
        done = await self._store(attempt)
        if done is None:
            return False
        (count,) = done
        unit.deliveries = max(unit.deliveries, count - 1)
        unit.failures = max(unit.failures, count - 1)
        most = self._policy.max_attempts
        if most is None or count <= most:
            return True
        if self._options.dead_letter is None:
            await self._delay(self._policy.longest_delay(chance), "failing")
            return True
        unit.aside, unit.reason = PutAside.DEAD_LETTER, CRASHES
        return False

    async def _hand_over(self, unit: Unit) -> None:
        error = await self._processed(unit)
        if error is not None:
            await self._failed(unit, error)

    async def _processed(self, unit: Unit) -> BaseException | None:
        """Hand a unit over, and go on behind it if it succeeds; the error, if it does not."""
        self._check()
        site, hold = self._site, self._session.hold
        last = Place.of(unit.events[-1])
        unit.delivered(instant(site.clock.wall_us()))
        hold.attempts = unit.attempts
        hold.current, hold.handed = last, max(hold.handed, last.offset)
        self._condition.state = "processing"
        site.metrics.events(site.partition, len(unit.events))
        began = site.clock.now()
        answer = await self._session.call(
            self._session.methods.process,
            list(unit.events),  # it is the handler's to do with as it likes
            limit=self._options.handler_timeout,
        )
        site.metrics.batch_seconds(site.partition, site.clock.now() - began)
        self._put_off_idle()
        hold.current = self._finished
        error = self._error_of(answer)
        if error is not None:
            return error
        self._units.popleft()
        self._finish(last)
        self._condition.succeeded()
        if self._is_behind and self._checkpoint_at <= site.clock.now():
            await self._checkpoint()
        return None

    def _finish(self, place: Place) -> None:
        """All events up to there are finished, or put aside."""
        if place.offset > self._finished.offset:
            self._finished = self._session.hold.current = place

    def _error_of(self, answer: Answer) -> BaseException | None:
        """What the processor raised and is to be judged, if anything.

        Raises:
            EndedError, MovedError: it is not, since the session is over.
        """
        if answer.given_up:
            raise EndedError(self._orders.cancelled or self._orders.ending or CloseReason.SHUTDOWN)
        if answer.error is None:
            return None
        self._check_hold()
        # What is not supported will not be when it is tried again, and is no event's fault.
        if is_fatal(answer.error) or isinstance(answer.error, UnsupportedOperationError):
            raise EndedError(CloseReason.FAILED, answer.error)
        return answer.error

    # Failures

    async def _failed(self, unit: Unit, error: BaseException) -> None:
        """A unit that was handed over has failed: decide what becomes of it."""
        condition, site = self._condition, self._site
        first, last = unit.events[0].offset, unit.events[-1].offset
        what = f"processing offsets {first} to {last}"
        condition.failed(error, unit.deliveries, what)
        await self._store(self._session.hold.look, wait=False)
        self._check_hold()
        checkpoint = site.checkpoint.offset
        unit.failed(error, checkpoint, site.clock.now())
        self._finish(Place(min(checkpoint, last), None))
        action = await self._ask(error, unit.events)
        self._check()
        decision = decide(
            unit,
            action,
            self._policy,
            now=site.clock.now(),
            jitter=chance(),
            has_dead_letters=self._options.dead_letter is not None,
        )
        if isinstance(decision, Again):
            site.metrics.retry(site.partition)
            await self._delay(decision.delay, "failing" if decision.exhausted else "retrying")
        else:
            self._replace(unit, decision.units)

    async def _ask(self, error: BaseException, events: list[StoredEvent]) -> ErrorAction:
        """What the processor says about an error.

        Raises:
            EndedError: it says STOP, or the session is over.
        """
        answer = await self._session.call(
            self._session.methods.error, error, list(events), limit=self._options.handler_timeout
        )
        failure = self._error_of(answer)
        action = answer.value
        if failure is None and action is not None and action is not NOTHING:
            if action is STOP:
                raise EndedError(CloseReason.FAILED, error)
            if isinstance(action, ErrorAction):
                return action
            failure = TypeError(f"`error` answers with an ErrorAction or None, not {action!r:.80}")
        if failure is not None:
            self._condition.note("its `error` failed, and the answer counts as RETRY", failure)
            self._condition.error = error
        return ErrorAction.RETRY

    async def _put_aside(self, unit: Unit) -> None:
        """Put the event of a condemned unit aside, with the checkpoint if all before it is.

        If a processor has not yet checkpointed what it has returned from, only it knows whether
        that may be done: its next checkpoint will cover this event.
        """
        assert unit.aside is not None
        failures = self._store_failures
        if failures:
            await self._look()  # it may have been stored all the same
            self._store_failures = failures  # that this could be seen is no success
        event, hold, checkpoint = unit.events[0], self._session.hold, self._site.checkpoint
        place = Place.of(event)
        covers = self._is_automatic or checkpoint.offset >= self._finished.offset
        if checkpoint.offset < place.offset and unit.aside is PutAside.DEAD_LETTER:
            joined = place if covers and hold.joins_transactions else None
            if not await self._store(
                functools.partial(hold.put_aside, event, unit.reason, unit.attempts, joined)
            ):
                return
            unit.aside = PutAside.STORED
        is_behind = covers and checkpoint.offset < place.offset
        if is_behind and not await self._store(functools.partial(hold.checkpoint, place)):
            return
        _logger.warning(
            "%s: offset %d was put aside (%s): %s",
            self._site,
            place.offset,
            unit.aside.value,
            unit.reason,
        )
        self._units.popleft()
        self._finish(place)
        self._condition.succeeded()

    async def _delay(self, seconds: float, state: State) -> None:
        """Wait, unless the session is over."""
        clock = self._site.clock
        until = clock.now() + seconds
        while (left := until - clock.now()) > 0:
            self._check()
            if self._orders.look:
                self._orders.look = False
                await self._look()
                continue
            self._condition.state = state
            await self._orders.wait(left)

    # Reading

    async def _expired(self, lost: LostRange) -> None:
        """Tell of events that nobody will see; go on behind them whatever is said."""
        error = EventsExpiredError(
            f"{self._site}: offsets {lost.first} to {lost.last} expired before they were read",
            topic=self._site.topic.name,
            partition=lost.partition,
            first=lost.first,
            last=lost.last,
        )
        self._condition.note("events are lost", error)
        await self._ask(error, [])

    async def _reading_failed(self, error: Exception) -> None:
        if isinstance(error, GONE):
            self._condition.gone = True
            raise EndedError(CloseReason.FAILED, error)
        self._condition.note("reading failed", error, again=self._read_failures > 0)
        self._read_failures += 1
        action = await self._ask(error, [])
        if isinstance(error, CorruptBatchError) and action is not ErrorAction.RETRY:
            _logger.warning("%s: goes on behind offset %d", self._site, error.last_offset)
            self._feed.go_on(error.last_offset + 1)
            return
        await self._delay(self._policy.delay(self._read_failures, chance), "retrying")
        self._feed.go_on()

    # When there are no events

    async def _rest(self) -> None:
        """Do what is due, or wait until something is, or happens."""
        now = self._site.clock.now()
        if self._is_behind and self._checkpoint_at <= now:
            await self._checkpoint()
            return
        if self._idle_at <= now:
            await self._idle()
            return
        due = min(self._idle_at, self._checkpoint_at if self._is_behind else math.inf)
        self._condition.state = "waiting"
        await self._orders.wait(None if due == math.inf else due - now)

    async def _idle(self) -> None:
        methods = self._session.methods
        answer = await self._session.call(methods.idle, limit=self._options.handler_timeout)
        self._put_off_idle()
        error = self._error_of(answer)
        if error is not None:
            self._condition.note("its `idle` failed", error)
            await self._ask(error, [])

    def _put_off_idle(self) -> None:
        if self._session.methods.idle is not None:
            self._idle_at = self._site.clock.now() + self._options.max_wait

    # The checkpoint

    @property
    def _is_automatic(self) -> bool:
        return self._options.checkpoint == "auto"

    @property
    def _is_behind(self) -> bool:
        """Whether a checkpoint is to be made that the processor does not make."""
        return self._is_automatic and self._finished.offset > self._site.checkpoint.offset

    async def _checkpoint(self) -> None:
        """The automatic one. If it fails, it is tried again when that is due; work goes on."""
        self._checkpoint_at = self._site.clock.now() + self._options.checkpoint_interval
        checkpoint = functools.partial(self._session.hold.checkpoint, self._finished)
        await self._store(checkpoint, wait=False)

    async def finish(self, *, insist: bool) -> None:
        """Checkpoint what is finished, if that is the pump's to do, before the session is closed.

        Args:
            insist: go on trying until the pump is to end now.
        """
        hold = self._session.hold
        while self._is_behind and hold.lost is None and not hold.moved:
            try:
                await self._orders.call_store(
                    functools.partial(hold.checkpoint, self._finished),
                    limit=None if insist else self._options.grace,
                )
            except Exception as error:  # noqa: BLE001 - whatever it is, the session is to be closed
                self._condition.note("its checkpoint failed", error)
                if not insist or self._orders.cancelled is not None:
                    return
                self._store_failures += 1
                await self._orders.wait(self._policy.delay(self._store_failures, chance))

    async def _look(self) -> None:
        """See where the checkpoint is: it may have moved, or be another owner's."""
        await self._store(self._session.hold.look, wait=False)
        self._check()

    async def _store(self, do: Callable[[], T], *, wait: bool = True) -> tuple[T] | None:
        """Call the store; what it gave. None if it failed: come back later.

        Args:
            wait: a while, if it failed.
        """
        try:
            done = await self._orders.call_store(do)
        except CutShortError:
            self._check_hold()
            return None
        except Exception as error:
            self._check_hold()
            if isinstance(error, ClosedError):
                raise EndedError(CloseReason.FAILED, error) from error
            self._condition.note("its store failed", error, again=self._store_failures > 0)
            self._store_failures += 1
            if wait:
                await self._delay(self._policy.delay(self._store_failures, chance), "retrying")
            return None
        self._store_failures = 0
        return (done,)
