"""Reading what Kafka's own groups have committed.

With consumers that are in no group's assignment, one for each group: the administrative request for
the same (`AdminClient.list_consumer_group_offsets`, librdkafka 2.16) crashes the process when the
coordinator has moved, since it looks for a consumer that an administrator has not.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from eventlog.kafka.clients import Clients
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import Kind, error_of, kind_of
from eventlog.kafka.librdkafka import Consumer

if TYPE_CHECKING:
    from eventlog.kafka.groups.blobs import CommittedOffset

__all__ = ["GroupReaders"]

_FIRST_PATIENCE: Final = 0.5
"""Seconds."""

_MOST_KEPT: Final = 16
"""Consumers that are kept for the next question; each has a few threads that sleep."""


class GroupReaders:
    """Asks what groups have committed. Thread-safe: a consumer is used by one thread at a time."""

    def __init__(self, clients: Clients) -> None:
        self._clients: Final = clients
        self._mutex: Final = threading.Lock()
        self._idle: dict[tuple[str, bool], Consumer] = {}
        self._closed = False

    def committed(
        self,
        group: str,
        topic: str,
        partitions: Sequence[int],
        timeout: float,
        *,
        stable: bool,
    ) -> dict[int, CommittedOffset]:
        """By partition; those without are left out.

        Args:
            stable: what a transaction is about to commit is waited for.

        Raises:
            KafkaException: there was no answer in time, among others.
        """
        from eventlog.kafka.groups.blobs import CommittedOffset

        consumer = self._take((group, stable))
        try:
            places = self._ask(consumer, [Place(topic, number) for number in partitions], timeout)
        except BaseException:
            consumer.close()
            raise
        self._put_back((group, stable), consumer)
        for place in places:
            if place.error is not None:
                raise KafkaException(place.error)
        return {
            place.partition: CommittedOffset(place.offset, place.metadata or "")
            for place in places
            if place.offset >= 0
        }

    def _ask(self, consumer: Consumer, places: list[Place], timeout: float) -> list[Place]:
        """What is committed; asked for longer and longer.

        That the coordinator says no librdkafka tells who polls, and has who asked wait for nothing.
        """
        deadline = Deadline(timeout)
        patience = _FIRST_PATIENCE
        while True:
            try:
                return consumer.committed(places, max(min(deadline.left(), patience), 0.001))
            except KafkaException as error:
                told = consumer.poll(0)
                refusal = None if told is None else told.error()
                if refusal is not None and kind_of(refusal) is Kind.NOT_ALLOWED:
                    raise KafkaException(refusal) from None
                self._clients.check_process()
                timed_out = error_of(error).code() == KafkaError._TIMED_OUT  # noqa: SLF001
                if deadline.passed or not timed_out:
                    raise
                patience *= 2

    def _take(self, kind: tuple[str, bool]) -> Consumer:
        with self._mutex:
            consumer = self._idle.pop(kind, None)
        if consumer is not None:
            return consumer
        group, stable = kind
        return self._clients.consumer(
            group_id=group,
            isolation_level="read_committed" if stable else "read_uncommitted",
            enable_auto_commit=False,
            retry_backoff_ms=5,  # a transaction's end takes milliseconds
            retry_backoff_max_ms=100,
        )

    def _put_back(self, kind: tuple[str, bool], consumer: Consumer) -> None:
        with self._mutex:
            surplus = [consumer]
            if not self._closed and kind not in self._idle:
                self._idle[kind] = surplus.pop()
                if len(self._idle) > _MOST_KEPT:
                    oldest = next(iter(self._idle))
                    surplus.append(self._idle.pop(oldest))
        for one in surplus:
            one.close()

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they come back."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, {}
        for consumer in idle.values():
            consumer.close()
