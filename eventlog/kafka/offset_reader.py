"""Asking where partitions begin and end, and what stands at a time.

With consumers that read nothing. The administrative request for the same (librdkafka 2.16,
`AdminClient.list_offsets`) ends the process with a failed assertion now and then, when its time
limit passes while it is being made.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from eventlog.kafka.clients import Clients
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import error_of
from eventlog.kafka.forgotten import has_broker
from eventlog.kafka.librdkafka import Consumer

__all__ = ["EARLIEST", "LATEST", "OffsetAt", "OffsetReader", "Spec"]

EARLIEST: Final = -2
LATEST: Final = -1
Spec: TypeAlias = int
"""`EARLIEST`, `LATEST`, or milliseconds since 1970: the first record at or after."""

_LEAST_SECONDS: Final = 0.001

_RENEWAL_SECONDS: Final = 5.0
"""How long a consumer is given at least to find a broker again."""

_FIRST_SLICE: Final = 1.0
"""Seconds until it is looked for the first time whether the log was closed; then twice as many."""


class OffsetAt(NamedTuple):
    """What a spec stands for; -1 if nothing is as late as that."""

    offset: int


class OffsetReader:
    """See the module. Thread-safe: any number of threads use one consumer."""

    def __init__(self, clients: Clients) -> None:
        self._clients: Final = clients
        self._mutex: Final = threading.Lock()
        self._consumers: dict[bool, Consumer] = {}
        self._renewable_at = 0.0

    def offsets(
        self, topic: str, asked: Sequence[tuple[int, Spec]], timeout: float, *, committed: bool
    ) -> list[OffsetAt]:
        """Offsets of partitions, in the order asked for; a partition may be asked about often.

        Raises:
            KafkaException: there was no answer in time, among others.
        """
        consumer = self._consumer(committed=committed)
        try:
            return self._offsets(consumer, topic, asked, timeout)
        except KafkaException:
            if not has_broker(consumer, topic):
                self._renew(consumer, committed=committed)
            raise

    def _offsets(
        self, consumer: Consumer, topic: str, asked: Sequence[tuple[int, Spec]], timeout: float
    ) -> list[OffsetAt]:
        deadline = Deadline(timeout)
        found: dict[int, OffsetAt] = {}
        for rows in _without_repeats(asked):
            places = [Place(topic, asked[row][0], asked[row][1]) for row in rows]
            answers = self._ask(consumer, topic, places, deadline)
            found.update(zip(rows, answers, strict=True))
        return [found[row] for row in range(len(asked))]

    def _ask(
        self, consumer: Consumer, topic: str, places: list[Place], deadline: Deadline
    ) -> list[OffsetAt]:
        patience = _FIRST_SLICE
        while True:
            try:
                limit = max(min(deadline.left(), patience), _LEAST_SECONDS)
                answers = consumer.offsets_for_times(places, limit)
                for answer in answers:
                    if answer.error is not None:
                        raise KafkaException(answer.error)
            except KafkaException as error:
                self._clients.check_process()
                if error_of(error).code() != KafkaError._TIMED_OUT:  # noqa: SLF001 - its name
                    self._look_anew(consumer, topic, deadline)
                    raise
                if deadline.passed:
                    raise
                patience *= 2
            else:
                return [OffsetAt(answer.offset) for answer in answers]

    def _look_anew(self, consumer: Consumer, topic: str, deadline: Deadline) -> None:
        """Have librdkafka ask what the topic is: otherwise it goes by what it remembers of it."""
        limit = max(min(deadline.left(), _FIRST_SLICE), _LEAST_SECONDS)
        with contextlib.suppress(KafkaException):
            consumer.list_topics(topic, limit)

    def _renew(self, consumer: Consumer, *, committed: bool) -> None:
        """Have the next question asked by another consumer, as this one may have forgotten its
        brokers: see `eventlog.kafka.forgotten`. Those who use it go on doing so.
        """
        with self._mutex:
            now = time.monotonic()
            if self._consumers.get(committed) is consumer and now >= self._renewable_at:
                self._renewable_at = now + _RENEWAL_SECONDS
                del self._consumers[committed]

    def _consumer(self, *, committed: bool) -> Consumer:
        with self._mutex:
            consumer = self._consumers.get(committed)
            if consumer is None:
                consumer = self._consumers[committed] = self._clients.consumer(
                    group_id="eventlog",  # it takes part in no group, but librdkafka wants a name
                    enable_auto_commit=False,
                    isolation_level="read_committed" if committed else "read_uncommitted",
                )
            return consumer

    def close(self) -> None:
        """Let go of the consumers: their threads end when nobody uses them any more."""
        with self._mutex:
            consumers, self._consumers = self._consumers, {}
        del consumers


def _without_repeats(asked: Sequence[tuple[int, Spec]]) -> list[list[int]]:
    """The rows of `asked`, in as few parts as there can be without a partition twice in one."""
    parts: list[list[int]] = []
    seen: dict[int, int] = {}
    for row, (partition, _) in enumerate(asked):
        part = seen.get(partition, 0)
        seen[partition] = part + 1
        if part == len(parts):
            parts.append([])
        parts[part].append(row)
    return parts
