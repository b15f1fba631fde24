"""Waiting for answers of an `AdminClient`, and when a question is worth asking again."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from eventlog.kafka.failures import Kind, error_of, is_transient, kind_of

__all__ = ["answered", "is_passing", "never_came", "pauses", "timed_out"]

_PAUSES: Final = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Seconds between tries; the last again and again."""

_GRACE: Final = 5.0
"""Seconds that librdkafka gets beyond a time limit, to say itself that it has passed."""


def pauses() -> Iterable[float]:
    """Seconds to wait before each next try; without end."""
    yield from _PAUSES
    while True:
        yield _PAUSES[-1]


def answered(future: concurrent.futures.Future[Any], left: float) -> Any:
    """What an answer is, that librdkafka should have given within `left` seconds.

    Raises:
        KafkaException: it is an error, or did not come.
    """
    try:
        return future.result(left + _GRACE)
    except TimeoutError:
        raise timed_out() from None
    except ValueError as error:
        raise KafkaException(KafkaError(KafkaError._FAIL, str(error))) from None  # noqa: SLF001


def timed_out() -> KafkaException:
    """The error for an answer that did not come."""
    return KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - its name


def is_passing(error: KafkaException) -> bool:
    """Whether it may be so only because a topic was made, or has moved, a moment ago."""
    return is_transient(error) or kind_of(error) in (Kind.TOPIC_MISSING, Kind.PARTITION_MISSING)


def never_came(error: KafkaException) -> bool:
    """Whether a change surely did not happen, so that it may be tried again."""
    return error_of(error).code() == KafkaError.NOT_CONTROLLER
