"""What becomes of events that failed: pure functions, no clock, no input or output.

The events at work form a queue of *units*. A unit is handed over whole, and again, until it has
succeeded or is put aside. Of what failed:

1. It is tried again whole, after the delays of the `RetryPolicy`, as long as that allows.
2. Then, or if `error` says so, an event is put aside. If it is not known which, the events of the
   unit become units of their own, in order. Each keeps the count of attempts it had, so that the
   first failure of one decides about it; those that succeed are done.
3. An event that a handler names (`EventFailed`) is put aside when its turn comes: first those
   before it are handed over again, as a unit of their own, and then those behind it.
4. If it cannot be put aside, for want of a topic, it is tried again at the longest delay.
5. That the group's store could not be reached (`StoreUnavailableError`), or the log
   (`LogBusyError`), or that others came before a commit (`NotCommittedError`), is no event's fault:
   it counts as no attempt, and what failed so is tried again however often and long that takes. A
   group of errors that are all that is no more, nor a time that ended while the store was waited
   for.

Invariant: no event leaves the queue but by success, or by being put aside; and none before those
that were in front of it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from eventlog.errors import LogBusyError, StoreUnavailableError
from eventlog.processor.dead_letters import Attempts
from eventlog.processor.processor import ErrorAction, EventFailed
from eventlog.transaction import NotCommittedError

if TYPE_CHECKING:
    from eventlog.event import StoredEvent
    from eventlog.processor.options import RetryPolicy

__all__ = [
    "CRASHES",
    "Again",
    "Decision",
    "Instead",
    "PutAside",
    "Unit",
    "decide",
    "each_alone",
    "is_blameless",
]

_BLAMELESS: Final = (StoreUnavailableError, LogBusyError, NotCommittedError)

CRASHES: Final = "it ended its process each time it was handed over"
"""Why an event is put aside that was never seen to fail."""


class PutAside(enum.Enum):
    """How an event is put aside."""

    DEAD_LETTER = "to the dead-letter topic"
    STORED = "in the dead-letter topic"
    SKIP = "skipped"


@dataclasses.dataclass
class Unit:
    """Events that are handed over together, one at least, and what is known of them.

    Attributes:
        events: in order.
        failures: how often they failed since the checkpoint moved into them, or one further on was
            named.
        failed_at: when they first did, in seconds.
        deliveries: how often they were handed over.
        first_at, last_at: when they were, first and last.
        error: what they raised last.
        named: offset of the event that the last error named, if it did.
        furthest: the highest offset that was named; -1 if none was.
        aside: how it is to be put aside, when its turn comes; it is one event then.
        reason: why.
    """

    events: list[StoredEvent]
    failures: int = 0
    failed_at: float = 0.0
    deliveries: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    error: BaseException | None = None
    named: int | None = None
    furthest: int = -1
    aside: PutAside | None = None
    reason: str = ""

    @property
    def attempts(self) -> Attempts:
        """For a dead letter."""
        error = None if self.error is None else _causes(self.error)[-1]
        return Attempts(self.deliveries, self.first_at, self.last_at, error)

    def delivered(self, now: datetime) -> None:
        """It is handed over."""
        self.deliveries += 1
        self.first_at = self.first_at or now
        self.last_at = now

    def failed(self, error: BaseException, checkpoint: int, now: float) -> None:
        """It raised, with the checkpoint there then: what is before that is finished."""
        left = [event for event in self.events if event.offset > checkpoint]
        named = _named(error, left)
        if len(left) < len(self.events) or (named or 0) > self.furthest >= 0:
            self.failures = 0  # it got on: it is another event now that fails
        if not self.failures or self.error is None:
            self.failed_at = now
        if not is_blameless(error):
            self.failures += 1
        self.furthest = max(self.furthest, -1 if named is None else named)
        self.events, self.named, self.error = left, named, error

    def part(self, events: Sequence[StoredEvent]) -> Unit:
        """Some of it, with its history."""
        return dataclasses.replace(self, events=list(events))


class Again(NamedTuple):
    """Hand it over again, after a delay.

    Attributes:
        exhausted: whether the policy would not, but there is nowhere to put it aside.
    """

    delay: float
    exhausted: bool = False


class Instead(NamedTuple):
    """Go on with these units in its place, at once."""

    units: list[Unit]


Decision: TypeAlias = Again | Instead


def decide(
    unit: Unit,
    action: ErrorAction,
    policy: RetryPolicy,
    *,
    now: float,
    jitter: float,
    has_dead_letters: bool,
) -> Decision:
    """What to do with a unit that has `failed`; `action` is not STOP.

    Args:
        now: seconds.
        jitter: a random number from 0 to 1.
        has_dead_letters: whether there is a topic for them.
    """
    if not unit.events:
        return Instead([])
    assert unit.error is not None
    elapsed = now - unit.failed_at
    if action is ErrorAction.RETRY and not _is_used_up(unit.error, unit.failures, elapsed, policy):
        return Again(policy.delay(max(unit.failures, 1), lambda: jitter))
    aside = _aside(action, has_dead_letters=has_dead_letters)
    if unit.named is None and len(unit.events) > 1:
        return Instead(each_alone(unit))
    if aside is None:
        if len(unit.events) > 1:
            return Instead(each_alone(unit))
        return Again(policy.longest_delay(lambda: jitter), exhausted=True)
    return Instead(_around(unit, aside, _reason(action)))


def _is_used_up(error: BaseException, failures: int, elapsed: float, policy: RetryPolicy) -> bool:
    """Whether the policy would not have it handed over again as it was."""
    causes = _causes(error)
    if is_blameless(error):
        causes[-1:] = map(_root, _leaves(causes[-1]))
        return any(isinstance(cause, policy.give_up_on) for cause in causes)
    return any(policy.is_used_up(failures, elapsed, cause) for cause in causes)


def is_blameless(error: BaseException) -> bool:
    """Whether no event is to blame for it."""
    return all(isinstance(_root(leaf), _BLAMELESS) for leaf in _leaves(_causes(error)[-1]))


def _leaves(error: BaseException) -> list[BaseException]:
    """Those of a group, and of the groups in it; or the one error."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for one in error.exceptions for leaf in _leaves(one)]


def _root(error: BaseException) -> BaseException:
    """What kept it waiting until its time was over, if that is what it says; or itself."""
    if isinstance(error, TimeoutError) and isinstance(error.__cause__, StoreUnavailableError):
        return error.__cause__
    return error


def _aside(action: ErrorAction, *, has_dead_letters: bool) -> PutAside | None:
    if action is ErrorAction.SKIP:
        return PutAside.SKIP
    return PutAside.DEAD_LETTER if has_dead_letters else None


def _reason(action: ErrorAction) -> str:
    if action is ErrorAction.RETRY:
        return "the attempts were used up"
    return f"the processor's error method said {action.name}"


def each_alone(unit: Unit) -> list[Unit]:
    """Its events as units of their own."""
    return [unit.part([event]) for event in unit.events]


def _around(unit: Unit, aside: PutAside, reason: str) -> list[Unit]:
    """Those before the event at fault, that event, which is condemned, and those behind it."""
    events = unit.events
    index = 0
    if unit.named is not None:
        index = [event.offset for event in events].index(unit.named)
    condemned = dataclasses.replace(unit.part([events[index]]), aside=aside, reason=reason)
    units = [Unit(events[:index]), condemned, Unit(events[index + 1 :])]
    return [one for one in units if one.events]


def _named(error: BaseException, events: Sequence[StoredEvent]) -> int | None:
    """The offset of the one of these events that an error names, if it does."""
    if not isinstance(error, EventFailed):
        return None
    offset = getattr(error.event, "offset", None)
    return next((event.offset for event in events if event.offset == offset), None)


def _causes(error: BaseException) -> list[BaseException]:
    """The error, and what it was raised from if all it says itself is which event is at fault."""
    if isinstance(error, EventFailed) and error.__cause__ is not None:
        return [error, error.__cause__]
    return [error]
