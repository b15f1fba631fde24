"""Options and the retry policy: what they take, what they refuse, and what delays come of them."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from eventlog import EARLIEST, LATEST, InvalidNameError
from eventlog.processor.options import ProcessorOptions, RetryPolicy, chance


def test_the_defaults_are_as_agreed() -> None:
    options = ProcessorOptions()
    assert (options.lease_duration, options.renew_interval) == (30.0, 10.0)
    assert (options.max_batch, options.max_wait, options.start) == (1000, 1.0, EARLIEST)
    assert (options.checkpoint, options.checkpoint_interval) == ("manual", 5.0)
    assert (options.dead_letter, options.handler_timeout, options.grace) == (None, None, 30.0)
    assert options.retry == RetryPolicy()
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.initial_delay, policy.max_delay) == (None, 0.1, 60.0)
    assert (policy.multiplier, policy.jitter) == (2.0, 0.2)
    assert (policy.time_limit, policy.give_up_on) == (None, ())


def test_durations_are_seconds_or_timedeltas_and_come_back_as_seconds() -> None:
    minute = timedelta(minutes=1)
    options = ProcessorOptions(
        lease_duration=minute,
        renew_interval=20,
        max_wait=minute,
        checkpoint_interval=minute,
        handler_timeout=minute,
        grace=0,
    )
    assert options.lease_duration == options.max_wait == options.handler_timeout == 60.0
    assert isinstance(options.renew_interval, float)
    policy = RetryPolicy(initial_delay=minute, max_delay=minute, time_limit=minute)
    assert policy.initial_delay == policy.max_delay == policy.time_limit == 60.0


def test_options_cannot_be_changed_and_can_be_copied_and_sent_to_another_process() -> None:
    options = ProcessorOptions(start={0: LATEST}, retry=RetryPolicy(give_up_on=ValueError))
    with pytest.raises(AttributeError):
        options.max_batch = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(options)) == options
    assert replace(options, max_wait=timedelta(seconds=2)).max_wait == 2.0
    with pytest.raises(ValueError, match="max_batch"):
        replace(options, max_batch=0)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("lease_duration", 0, ValueError),
        ("lease_duration", float("inf"), ValueError),
        ("lease_duration", "30", TypeError),
        ("renew_interval", 15.1, ValueError),
        ("renew_interval", -1, ValueError),
        ("renew_interval", float("nan"), ValueError),
        ("max_batch", 0, ValueError),
        ("max_batch", True, TypeError),
        ("max_batch", 1.0, TypeError),
        ("max_batch", 1_000_001, ValueError),
        ("max_wait", 0, ValueError),
        ("start", datetime(2024, 1, 1), ValueError),  # noqa: DTZ001 - that is what is refused
        ("start", "yesterday", ValueError),
        ("start", {"0": LATEST}, TypeError),
        ("start", 1.5, TypeError),
        ("checkpoint", "automatic", ValueError),
        ("checkpoint_interval", -1, ValueError),
        ("retry", 3, TypeError),
        ("dead_letter", "a/b", InvalidNameError),
        ("dead_letter", 1, TypeError),
        ("handler_timeout", 0, ValueError),
        ("grace", None, TypeError),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name: str, value: Any, error: Any) -> None:
    words = {"start": "position|timezone", "dead_letter": "dead-letter topic"}
    with pytest.raises(error, match=words.get(name, name)):
        ProcessorOptions(**{name: value})


def test_starts_may_be_all_that_positions_may_be() -> None:
    for start in (EARLIEST, LATEST, 0, -1, "-24h", datetime(2024, 1, 1, tzinfo=UTC), {3: 7}):
        assert ProcessorOptions(start=start).start == start


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("max_attempts", 0, ValueError),
        ("max_attempts", "3", TypeError),
        ("initial_delay", -1, ValueError),
        ("initial_delay", 61, ValueError),
        ("max_delay", float("inf"), ValueError),
        ("multiplier", 0.5, ValueError),
        ("multiplier", float("inf"), ValueError),
        ("multiplier", None, TypeError),
        ("jitter", 1.1, ValueError),
        ("jitter", float("nan"), ValueError),
        ("time_limit", -1, ValueError),
        ("give_up_on", (ValueError, "x"), TypeError),
        ("give_up_on", 7, TypeError),
        ("give_up_on", int, TypeError),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_by_name(name: str, value: Any, error: Any) -> None:
    with pytest.raises(error, match=name if name != "initial_delay" else "delay"):
        RetryPolicy(**{name: value})


def middle() -> float:
    return 0.5


def test_delays_grow_up_to_the_longest_however_many_there_were() -> None:
    policy = RetryPolicy(initial_delay=1, max_delay=10, multiplier=3)
    assert [policy.delay(count, middle) for count in (1, 2, 3, 4, 10**6)] == [1, 3, 9, 10, 10]
    assert RetryPolicy(multiplier=1).delay(10**6, middle) == 0.1
    assert RetryPolicy(multiplier=1e300).delay(3, middle) == 60
    assert RetryPolicy(initial_delay=0, max_delay=0).delay(5, middle) == 0


def test_jitter_makes_a_delay_longer_or_shorter() -> None:
    policy = RetryPolicy(initial_delay=10, max_delay=100, jitter=0.2)
    assert policy.delay(1, lambda: 0.0) == pytest.approx(8)
    assert policy.delay(1, lambda: 1.0) == pytest.approx(12)
    assert policy.longest_delay(lambda: 0.0) == pytest.approx(80)
    assert 0 <= chance() <= 1


def test_when_it_is_enough() -> None:
    error = ValueError()
    assert not RetryPolicy().is_used_up(10**6, 1e9, error)
    three = RetryPolicy(max_attempts=3)
    assert [three.is_used_up(count, 0, error) for count in (1, 2, 3, 4)] == [False] * 2 + [True] * 2
    minute = RetryPolicy(time_limit=60)
    assert [minute.is_used_up(1, elapsed, error) for elapsed in (0, 59.9, 60)] == [
        *(False, False),
        True,
    ]
    assert RetryPolicy(give_up_on=LookupError).is_used_up(1, 0, KeyError())
    assert not RetryPolicy(give_up_on=[LookupError]).is_used_up(1, 0, error)  # type: ignore[arg-type]


def test_heartbeats_follow_a_lease_that_is_shorter_than_three_of_them() -> None:
    assert ProcessorOptions(lease_duration=3).renew_interval == 1.0
    assert ProcessorOptions(lease_duration=300).renew_interval == 10.0
    with pytest.raises(ValueError, match="renew_interval is at most half"):
        ProcessorOptions(lease_duration=3, renew_interval=2)
