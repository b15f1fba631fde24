"""Whatever fails, in whatever order, and whatever is said about it: no event is lost, none comes
before those in front of it, and what is decided is decided about the right one.
"""

from __future__ import annotations

import random
from collections import deque
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import LogBusyError, PreconditionFailedError, StoredEvent, StoreUnavailableError
from eventlog.event import Origin
from eventlog.processor.failures import Again, Instead, PutAside, Unit, decide
from eventlog.processor.options import RetryPolicy
from eventlog.processor.processor import DEAD_LETTER, RETRY, SKIP, EventFailed
from eventlog.transaction import NotCommittedError

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


def event(offset: int) -> StoredEvent:
    return StoredEvent(b"", None, {}, offset, Origin("cars", 0, NOON, 0))


def unit_of(*offsets: int) -> Unit:
    return Unit([event(offset) for offset in offsets])


def offsets(unit: Unit) -> list[int]:
    return [one.offset for one in unit.events]


def decided(unit: Unit, action: Any = RETRY, **given: Any) -> Any:
    given.setdefault("policy", RetryPolicy(max_attempts=1, max_delay=60, jitter=0))
    given.setdefault("has_dead_letters", True)
    policy = given.pop("policy")
    return decide(unit, action, policy, now=given.pop("now", 0.0), jitter=0.5, **given)


def test_a_unit_forgets_its_failures_when_the_checkpoint_moves_into_it() -> None:
    unit = unit_of(1, 2, 3)
    unit.failed(ValueError(), checkpoint=0, now=5)
    unit.failed(ValueError(), checkpoint=0, now=6)
    assert (unit.failures, unit.failed_at) == (2, 5)
    unit.failed(ValueError(), checkpoint=1, now=7)
    assert (unit.failures, unit.failed_at, offsets(unit)) == (1, 7, [2, 3])


def test_a_unit_forgets_its_failures_when_one_further_on_is_named_than_ever_before() -> None:
    """Otherwise a handler that names now this one, now that, would be asked for ever."""
    unit = unit_of(1, 2, 3)
    counts = []
    for offset in (1, 3, 1, 3, 2):
        unit.failed(EventFailed(event(offset)), checkpoint=0, now=0)
        counts.append(unit.failures)
    assert counts == [1, 1, 2, 3, 4]
    unit.failed(ValueError(), checkpoint=0, now=0)
    assert (unit.failures, unit.named) == (5, None)


def test_attempts_of_before_count_but_not_their_time() -> None:
    """Those of an owner that crashed."""
    unit = unit_of(1)
    unit.failures = 2
    unit.failed(ValueError(), checkpoint=0, now=1000)
    assert (unit.failures, unit.failed_at) == (3, 1000)


@pytest.mark.parametrize(
    "away", [StoreUnavailableError("away"), LogBusyError("away"), NotCommittedError("try again")]
)
def test_that_nothing_could_be_stored_is_no_attempt_however_often_and_long(
    away: Exception,
) -> None:
    unit = unit_of(1)
    policy = RetryPolicy(max_attempts=2, time_limit=10, initial_delay=3, jitter=0)
    causes: list[BaseException] = [away] * 5
    named = EventFailed(event(1))
    named.__cause__ = away
    for now, error in enumerate([*causes, named]):
        unit.failed(error, checkpoint=-1, now=100 * now)
        assert decided(unit, policy=policy, now=100 * now + 50) == Again(3)
    unit.failed(ValueError(), checkpoint=-1, now=1000)
    assert unit.failures == 1
    unit.failed(away, checkpoint=-1, now=2000)
    assert decided(unit, policy=policy, now=2000) == Again(3)
    unit.failed(ValueError(), checkpoint=-1, now=2001)
    (condemned,) = decided(unit, policy=policy, now=2001).units
    assert condemned.aside is PutAside.DEAD_LETTER


def late(cause: BaseException | None) -> TimeoutError:
    error = TimeoutError("not done within 3 s")
    error.__cause__ = cause
    return error


AWAY = StoreUnavailableError("away")


@pytest.mark.parametrize(
    ("error", "is_blameless"),
    [
        (PreconditionFailedError("of a blob of its own"), False),
        (ExceptionGroup("", [AWAY]), True),
        (ExceptionGroup("", [AWAY, ExceptionGroup("", [AWAY, AWAY])]), True),
        (ExceptionGroup("", [AWAY, ValueError()]), False),
        (ExceptionGroup("", [ValueError()]), False),
        (late(AWAY), True),
        (late(ValueError()), False),
        (late(None), False),
        (ExceptionGroup("", [AWAY, late(AWAY)]), True),
    ],
)
def test_that_the_store_cannot_be_reached_is_no_attempt_however_it_is_said(
    error: Exception, is_blameless: bool
) -> None:
    named = EventFailed(event(1))
    named.__cause__ = error
    for said in (error, named):
        unit = failed(unit_of(1), said)
        assert unit.failures == (not is_blameless)
        assert isinstance(decided(unit), Again if is_blameless else Instead)
        for kind in (StoreUnavailableError, TimeoutError):
            policy = RetryPolicy(give_up_on=kind, jitter=0)
            gives_up = isinstance(decided(unit, policy=policy), Instead)
            if is_blameless:
                assert gives_up == (kind is StoreUnavailableError)


def test_who_wants_to_gives_up_on_a_store_that_cannot_be_reached() -> None:
    unit = failed(unit_of(1), StoreUnavailableError("away"))
    policy = RetryPolicy(give_up_on=(StoreUnavailableError,), jitter=0)
    assert isinstance(decided(unit, policy=policy), Instead)
    assert isinstance(decided(unit, SKIP), Instead)


def failed(unit: Unit, error: BaseException | None = None) -> Unit:
    unit.failed(error or ValueError(), checkpoint=-1, now=0)
    return unit


def test_what_is_decided_about_one_event() -> None:
    lone = failed(unit_of(1))
    assert decided(lone, policy=RetryPolicy(initial_delay=3, jitter=0)) == Again(3)
    assert decided(lone, has_dead_letters=False) == Again(60, exhausted=True)
    assert decided(lone, DEAD_LETTER, has_dead_letters=False) == Again(60, exhausted=True)
    for action, aside in [
        (RETRY, PutAside.DEAD_LETTER),
        (DEAD_LETTER, PutAside.DEAD_LETTER),
        (SKIP, PutAside.SKIP),
    ]:
        (condemned,) = decided(lone, action).units
        assert (offsets(condemned), condemned.aside) == ([1], aside)
        assert condemned.reason
    (condemned,) = decided(lone, SKIP, has_dead_letters=False).units
    assert condemned.aside is PutAside.SKIP


def test_of_several_the_one_at_fault_is_found_before_anything_is_put_aside() -> None:
    for action in (RETRY, DEAD_LETTER, SKIP):
        units = decided(failed(unit_of(1, 2, 3)), action).units
        assert [(offsets(one), one.aside, one.failures) for one in units] == [
            ([1], None, 1),
            ([2], None, 1),
            ([3], None, 1),
        ]


def test_one_that_is_named_is_put_aside_between_its_neighbours() -> None:
    units = decided(failed(unit_of(1, 2, 3, 4), EventFailed(event(2)))).units
    assert [(offsets(one), one.aside, one.failures) for one in units] == [
        ([1], None, 0),
        ([2], PutAside.DEAD_LETTER, 1),
        ([3, 4], None, 0),
    ]
    units = decided(failed(unit_of(1, 2), EventFailed(event(1)))).units
    assert [offsets(one) for one in units] == [[1], [2]]
    units = decided(failed(unit_of(1, 2), EventFailed(event(2))), has_dead_letters=False).units
    assert [one.aside for one in units] == [None, None]


def test_what_an_event_was_raised_from_counts_for_the_policy_and_the_letter() -> None:
    error = EventFailed(event(1))
    error.__cause__ = KeyError("k")
    unit = failed(unit_of(1), error)
    policy = RetryPolicy(give_up_on=KeyError)
    (condemned,) = decided(unit, policy=policy).units
    assert condemned.aside is PutAside.DEAD_LETTER
    assert condemned.attempts.error is error.__cause__
    assert isinstance(decided(unit, policy=RetryPolicy(give_up_on=OSError)), Again)


def test_nothing_is_left_to_do_where_all_is_checkpointed() -> None:
    unit = unit_of(1, 2)
    unit.failed(ValueError(), checkpoint=2, now=0)
    assert decided(unit) == Instead([])


class History:
    """A processor that fails as it likes, and a pump that does what is decided."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.count = chance.randint(1, 12)
        self.units = deque([unit_of(*range(self.count))])
        self.checkpoint = -1
        self.position = -1  # of what succeeded, or was put aside
        self.gone: list[int] = []
        self.bad = {one for one in range(self.count) if chance.random() < 0.3}
        self.has_dead_letters = chance.random() < 0.7
        self.policy = RetryPolicy(
            max_attempts=chance.choice([1, 2, 5]), jitter=0, give_up_on=KeyError
        )
        self.patience = 200
        self.now = 0.0

    def run(self) -> None:
        while self.units:
            self.step(self.units[0])
        assert self.position == self.count - 1

    def step(self, unit: Unit) -> None:
        first, last = offsets(unit)[0], offsets(unit)[-1]
        assert first <= self.position + 1, "an event was passed by"
        assert first > self.position or first > self.checkpoint, "a finished event comes again"
        assert offsets(unit) == list(range(first, last + 1)), "the order is wrong"
        if unit.aside is not None:
            assert len(unit.events) == 1
            assert first in self.bad or self.patience < 0 or first in self.blamed
            self.units.popleft()
            self.gone.append(first)
            self.finish(last)
            return
        self.patience -= 1
        error = self.process(unit)
        if error is None:
            self.units.popleft()
            self.finish(last)
        else:
            self.fail(unit, error)

    blamed: frozenset[int] = frozenset()

    def process(self, unit: Unit) -> BaseException | None:
        if self.patience < 0:
            return None
        for one in unit.events:
            if self.chance.random() < 0.3:
                self.checkpoint = max(self.checkpoint, one.offset - 1)
            if one.offset in self.bad or self.chance.random() < 0.02:
                self.blamed |= {one.offset}
                kind = self.chance.choice([ValueError, KeyError])
                if self.chance.random() < 0.5:
                    return EventFailed(one)
                return kind()
        return None

    def fail(self, unit: Unit, error: BaseException) -> None:
        unit.delivered(NOON)
        unit.failed(error, self.checkpoint, self.now)
        self.position = max(self.position, self.checkpoint)
        self.now += 1
        decision = decided(
            unit,
            self.chance.choice([RETRY, RETRY, RETRY, SKIP, DEAD_LETTER]),
            policy=self.policy,
            now=self.now,
            has_dead_letters=self.has_dead_letters,
        )
        if isinstance(decision, Instead):
            self.units.popleft()
            self.units.extendleft(reversed(decision.units))

    def finish(self, offset: int) -> None:
        self.position = max(self.position, offset)
        if self.chance.random() < 0.5:
            self.checkpoint = max(self.checkpoint, self.position)


@given(st.integers(0, 2**32))
@settings(max_examples=500, deadline=None)
def test_no_event_is_passed_by_and_none_comes_before_those_in_front_of_it(seed: int) -> None:
    history = History(random.Random(seed))
    history.run()
    assert history.gone == sorted(set(history.gone))


@pytest.mark.parametrize("has_dead_letters", [True, False])
def test_nothing_is_put_aside_that_never_failed_alone_or_by_name(has_dead_letters: bool) -> None:
    """However often its neighbours do."""
    policy = RetryPolicy(max_attempts=2, jitter=0)
    units = deque([unit_of(0, 1, 2, 3)])
    aside = []
    for _ in range(40):
        if not units:
            break
        unit = units[0]
        if unit.aside is not None:
            aside.append(units.popleft().events[0].offset)
        elif 2 in offsets(unit):
            unit.failed(ValueError(), checkpoint=-1, now=0)
            decision = decided(unit, policy=policy, has_dead_letters=has_dead_letters)
            if isinstance(decision, Instead):
                units.popleft()
                units.extendleft(reversed(decision.units))
        else:
            units.popleft()
    assert aside == ([2] if has_dead_letters else [])
    assert [offsets(one) for one in units] == ([] if has_dead_letters else [[2], [3]])
