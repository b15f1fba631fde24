"""How a host processes: options, and the policy for what failed. Values that are checked once."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec
from msgspec.structs import force_setattr

from eventlog.checks import check_count, seconds
from eventlog.names import check_name
from eventlog.positions import EARLIEST, Position, PositionMap, of_partition, parse

if TYPE_CHECKING:
    from eventlog.log import Duration

__all__ = ["ProcessorOptions", "RetryPolicy", "chance"]

_INTERVAL: Final = 10.0
_MOST_ATTEMPTS: Final = 2**31
_MOST_BATCH: Final = 1_000_000

GiveUpOn = tuple[type[BaseException], ...]


def _finite(value: object, what: str) -> float:
    found = seconds(value, what)
    if math.isinf(found):
        raise ValueError(f"{what} is finite")
    return found


def _positive(value: object, what: str) -> float:
    found = _finite(value, what)
    if not found:
        raise ValueError(f"{what} is more than 0 seconds")
    return found


def _number(value: object, what: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is a number, not {type(value).__name__}: {value!r:.80}")
    if not least <= value <= most or math.isinf(value):
        raise ValueError(f"{what} is from {least:g} to {most:g}, not {value!r:.80}")
    return float(value)


def _exceptions(value: object) -> GiveUpOn:
    kinds = (value,) if isinstance(value, type) else value
    if not isinstance(kinds, tuple | list | set | frozenset):
        raise TypeError(f"give_up_on is an exception type, or several, not {value!r:.80}")
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"give_up_on names types of exceptions, not {kind!r:.80}")
    return tuple(kinds)


def _check_start(start: object) -> None:
    of_partition(start, 0, None)
    for position in start.values() if isinstance(start, Mapping) else [start]:
        parse(position, 0)


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When events that failed are handed over again, and when no more.

    The first delay is `initial_delay`, each one after it `multiplier` times the one before, up to
    `max_delay`; each is longer or shorter at random by up to `jitter` of itself, so that
    partitions that failed together do not all come back together.

    Args:
        max_attempts: how often a batch is handed over before its events go one at a time, and
            those that still fail to the dead-letter topic; None sets no limit.
        initial_delay, max_delay: seconds or a timedelta.
        multiplier: 1 or more.
        jitter: 0 to 1.
        time_limit: seconds or a timedelta after the first failure; then it is as if the attempts
            were used up. None sets no limit.
        give_up_on: an exception type, or several, of which the first is as if the attempts were
            used up: it would only come again.

    Raises:
        TypeError, ValueError: a value is of a wrong type or out of range.
    """

    max_attempts: int | None = None
    initial_delay: float = 0.1
    max_delay: float = 60.0
    multiplier: float = 2.0
    jitter: float = 0.2
    time_limit: float | None = None
    give_up_on: GiveUpOn = ()

    if TYPE_CHECKING:  # what is taken is wider than what is kept

        def __init__(
            self,
            *,
            max_attempts: int | None = None,
            initial_delay: Duration = 0.1,
            max_delay: Duration = 60.0,
            multiplier: float = 2.0,
            jitter: float = 0.2,
            time_limit: Duration | None = None,
            give_up_on: type[BaseException] | GiveUpOn = (),
        ) -> None: ...

    def __post_init__(self) -> None:
        if self.max_attempts is not None:
            check_count(self.max_attempts, "max_attempts", _MOST_ATTEMPTS)
        force_setattr(self, "initial_delay", _finite(self.initial_delay, "initial_delay"))
        force_setattr(self, "max_delay", _finite(self.max_delay, "max_delay"))
        force_setattr(self, "multiplier", _number(self.multiplier, "multiplier", 1, math.inf))
        force_setattr(self, "jitter", _number(self.jitter, "jitter", 0, 1))
        if self.time_limit is not None:
            force_setattr(self, "time_limit", seconds(self.time_limit, "time_limit"))
        force_setattr(self, "give_up_on", _exceptions(self.give_up_on))
        if self.max_delay < self.initial_delay:
            raise ValueError(
                f"max_delay is at least initial_delay, {self.initial_delay:g} s, "
                f"not {self.max_delay:g}"
            )

    def delay(self, failures: int, chance: Callable[[], float]) -> float:
        """Seconds to wait before the next attempt.

        Args:
            failures: how many there were, one at least.
            chance: gives a number from 0 to 1, for the jitter.
        """
        try:
            plain: float = min(
                self.initial_delay * self.multiplier ** (failures - 1), self.max_delay
            )
        except OverflowError:
            plain = self.max_delay
        return self._with_jitter(plain, chance)

    def longest_delay(self, chance: Callable[[], float]) -> float:
        """Seconds to wait before an attempt that is one too many; see `delay`."""
        return self._with_jitter(self.max_delay, chance)

    def _with_jitter(self, seconds: float, chance: Callable[[], float]) -> float:
        return seconds * (1 + self.jitter * (2 * chance() - 1))

    def is_used_up(self, failures: int, elapsed: float, error: BaseException) -> bool:
        """Whether what failed is not to be handed over again as it was.

        Args:
            failures: how many attempts there were.
            elapsed: seconds since the first one failed.
            error: what the last one raised.
        """
        return (
            (self.max_attempts is not None and failures >= self.max_attempts)
            or (self.time_limit is not None and elapsed >= self.time_limit)
            or isinstance(error, self.give_up_on)
        )


_RETRY: Final = RetryPolicy()


class ProcessorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an `EventProcessorHost` works. Durations are seconds or a timedelta.

    Args:
        lease_duration: how long the others wait for a host that gives no sign before they take its
            partitions. One for a group: the first host's counts.
        renew_interval: how often a host shows that it lives; at most half of `lease_duration`.
            10 seconds, or a third of a shorter lease.
        max_batch: at most as many events are handed over at a time, 1 to 1,000,000.
        max_wait: how long there are no events before `EventProcessor.idle` is called, and called
            again.
        start: where the group begins if it never did; see `Topic.consumer`.
        checkpoint: ``"manual"``: the processor checkpoints. ``"auto"``: the host does, behind what
            `process` has returned from.
        checkpoint_interval: of automatic checkpoints, at most one in so many seconds; and one
            before a partition changes hands in good order.
        retry: when events that failed are handed over again.
        dead_letter: name of the topic, of the same log, for events that keep failing.
        handler_timeout: how long a call of the processor may take. A coroutine is cancelled and
            has failed then; a plain function cannot be stopped, but nobody waits for it any more.
        grace: how long a host that is to end at once waits for what cannot be cancelled.

    Raises:
        TypeError, ValueError: a value is of a wrong type, or makes no sense.
    """

    lease_duration: float = 30.0
    renew_interval: float = _INTERVAL
    max_batch: int = 1000
    max_wait: float = 1.0
    start: Position | PositionMap = EARLIEST
    checkpoint: Literal["manual", "auto"] = "manual"
    checkpoint_interval: float = 5.0
    retry: RetryPolicy = _RETRY
    dead_letter: str | None = None
    handler_timeout: float | None = None
    grace: float = 30.0

    if TYPE_CHECKING:  # what is taken is wider than what is kept

        def __init__(
            self,
            *,
            lease_duration: Duration = 30.0,
            renew_interval: Duration = 10.0,
            max_batch: int = 1000,
            max_wait: Duration = 1.0,
            start: Position | PositionMap = EARLIEST,
            checkpoint: Literal["manual", "auto"] = "manual",
            checkpoint_interval: Duration = 5.0,
            retry: RetryPolicy = _RETRY,
            dead_letter: str | None = None,
            handler_timeout: Duration | None = None,
            grace: Duration = 30.0,
        ) -> None: ...

    def __post_init__(self) -> None:
        for name in ("lease_duration", "renew_interval", "max_wait"):
            force_setattr(self, name, _positive(getattr(self, name), name))
        for name in ("checkpoint_interval", "grace"):
            force_setattr(self, name, _finite(getattr(self, name), name))
        if self.handler_timeout is not None:
            force_setattr(
                self, "handler_timeout", _positive(self.handler_timeout, "handler_timeout")
            )
        if self.renew_interval == _INTERVAL and self.lease_duration < 3 * _INTERVAL:
            force_setattr(self, "renew_interval", self.lease_duration / 3)
        if self.renew_interval * 2 > self.lease_duration:
            raise ValueError(
                "renew_interval is at most half of lease_duration, so that one late heartbeat "
                f"loses nothing: {self.renew_interval:g} s is too much for {self.lease_duration:g}"
            )
        check_count(self.max_batch, "max_batch", _MOST_BATCH)
        _check_start(self.start)
        if self.checkpoint not in ("manual", "auto"):
            raise ValueError(f"checkpoint is 'manual' or 'auto', not {self.checkpoint!r:.80}")
        if not isinstance(self.retry, RetryPolicy):
            raise TypeError(f"retry is a RetryPolicy, not {type(self.retry).__name__}")
        if self.dead_letter is not None:
            check_name(self.dead_letter, "dead-letter topic")


def chance() -> float:
    """A random number from 0 to 1, for `RetryPolicy.delay`."""
    return random.random()  # noqa: S311 - no secret
