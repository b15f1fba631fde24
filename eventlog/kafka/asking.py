"""Waiting for answers of an `AdminClient`, and when a question is worth asking again."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import Kind, error_of, is_transient, kind_of

__all__ = ["answered", "is_passing", "never_came", "no_leader", "pauses", "timed_out"]

_PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Seconds between tries; the last again and again."""

_SLICE: Final = 0.2
"""Seconds between looks whether the log was closed meanwhile."""

_GRACE: Final = 5.0
"""Seconds that librdkafka gets beyond a time limit, to say itself that it has passed."""


def pauses() -> Iterable[float]:
    """Seconds to wait before each next try; without end."""
    yield from _PAUSES
    while True:
        yield _PAUSES[-1]


def answered(
    future: concurrent.futures.Future[Any], left: float, check: Callable[[], object]
) -> Any:
    """What an answer is, that librdkafka should have given within `left` seconds.

    Args:
        check: called now and then while there is none; raises if nobody needs to wait any more.

    Raises:
        KafkaException: it is an error, or did not come.
    """
    deadline = Deadline(left + _GRACE)
    while not _is_done(future, min(deadline.left(), _SLICE)):
        if deadline.passed:
            raise timed_out()
        check()
    error = future.exception()
    if isinstance(error, KafkaException):  # not itself: what the future has, and whose frames have
        raise KafkaException(*error.args)  # the future, would only go with the garbage
    if isinstance(error, ValueError):
        raise KafkaException(KafkaError(KafkaError._FAIL, str(error)))  # noqa: SLF001
    return future.result()


def _is_done(future: concurrent.futures.Future[Any], timeout: float) -> bool:
    return bool(concurrent.futures.wait([future], timeout).done)


def timed_out() -> KafkaException:
    """The error for an answer that did not come."""
    return KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - its name


def no_leader() -> KafkaException:
    """The error for a partition that is there, and that nobody answers for just now."""
    return KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))


def is_passing(error: KafkaException) -> bool:
    """Whether it may be so only because a topic was made, or has moved, a moment ago."""
    return is_transient(error) or kind_of(error) in (Kind.TOPIC_MISSING, Kind.PARTITION_MISSING)


def never_came(error: KafkaException) -> bool:
    """Whether a change surely did not happen, so that it may be tried again."""
    return error_of(error).code() == KafkaError.NOT_CONTROLLER
