"""What tests of reading from a cluster share: writing past the engine, and looking inside it."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator

from confluent_kafka import Producer, TopicPartition

from eventlog import EventLog
from eventlog.kafka.reading.fetcher import Fetcher
from eventlog.kafka.topic import KafkaTopic
from tests.servers.kafka import Kafka

__all__ = ["PATIENCE", "Writer", "expire", "fetchers_of", "made", "until"]

PATIENCE = 60.0
"""Seconds that something may take which has to come."""

_numbers = itertools.count()


def made(log: EventLog, partitions: int = 1, max_event_bytes: int = 2**20) -> KafkaTopic:
    """A new topic, of a name that there never was."""
    name = f"reading-{os.urandom(4).hex()}-{next(_numbers)}"
    topic = log.create_topic(name, partitions=partitions, max_event_bytes=max_event_bytes)
    assert isinstance(topic, KafkaTopic)
    return topic


class Writer:
    """Another program that writes to a topic, in transactions if it is told to."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._topic = topic
        name = f"writer-{topic}-{next(_numbers)}"
        self._plain = Producer({"bootstrap.servers": kafka.bootstrap, "linger.ms": 0})
        self._transactional = Producer(
            {"bootstrap.servers": kafka.bootstrap, "transactional.id": name, "linger.ms": 0}
        )
        self._ready = False

    def write(self, bodies: Iterable[bytes], partition: int = 0) -> None:
        """Store events."""
        for body in bodies:
            self._plain.produce(self._topic, body, partition=partition)
        assert self._plain.flush(PATIENCE) == 0

    @contextlib.contextmanager
    def transaction(self, *bodies: bytes, commit: bool = True) -> Iterator[None]:
        """A block in which they are stored, and not committed yet."""
        if not self._ready:
            self._transactional.init_transactions(PATIENCE)
            self._ready = True
        self._transactional.begin_transaction()
        errors: list[object] = []
        for body in bodies:
            self._transactional.produce(
                self._topic, body, partition=0, on_delivery=lambda error, _: errors.append(error)
            )
        until(lambda: not self._transactional.flush(0.1) and len(errors) == len(bodies))
        assert not any(errors), errors
        yield
        if commit:
            self._transactional.commit_transaction(PATIENCE)
        else:
            self._transactional.abort_transaction(PATIENCE)


def expire(kafka: Kafka, topic: KafkaTopic, before: int, partition: int = 0) -> None:
    """Have the events before an offset expire."""
    admin = kafka.admin()
    (done,) = admin.delete_records([TopicPartition(topic.name, partition, before)]).values()
    done.result(PATIENCE)


def fetchers_of(topic: KafkaTopic) -> list[Fetcher]:
    """Who reads the topic ahead now."""
    return list(topic.log.fetchers.of(topic)._fetchers)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
