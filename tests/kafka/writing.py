"""What tests of writing to a cluster share.

What is stored they read past the engine, as any other client does.
"""

from __future__ import annotations

import itertools
import os
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

import eventlog
from eventlog import EventLog, Topic
from eventlog.kafka.engine import KafkaLog
from eventlog.kafka.topic import KafkaTopic

__all__ = [
    "PATIENCE",
    "as_kafka",
    "bodies",
    "impatient",
    "made",
    "messages",
    "of_five",
    "stored_at",
]

PATIENCE = 60.0
"""Seconds that something may take which has to come."""

_numbers = itertools.count()


def made(log: EventLog, **options: object) -> KafkaTopic:
    """A new topic, of a name that there never was."""
    name = f"writing-{os.urandom(4).hex()}-{next(_numbers)}"
    topic = log.create_topic(name, **{"partitions": 1, **options})  # type: ignore[arg-type]
    assert isinstance(topic, KafkaTopic)
    return topic


def of_five(log: EventLog) -> KafkaTopic:
    """A new topic with five events in its one partition."""
    topic = made(log)
    topic.append_batch([b"%d" % number for number in range(5)])
    return topic


def as_kafka(log: EventLog) -> KafkaLog:
    """The log, as what it is."""
    assert isinstance(log, KafkaLog)
    return log


def impatient(location: str) -> EventLog:
    """A log that gives up soon."""
    return eventlog.open(location, lock_timeout=3.0)


def bodies(topic: Topic, partition: int = 0) -> list[bytes]:
    """What can be read of a partition."""
    return list(stored_at(topic, partition).values())


def stored_at(topic: Topic, partition: int = 0) -> dict[int, bytes]:
    """By offset, what can be read of a partition."""
    return {message.offset() or 0: message.value() or b"" for message in messages(topic, partition)}


def messages(topic: Topic, partition: int = 0) -> list[Message]:
    """What is committed in a partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": topic.log.location.removeprefix("kafka://"),
            "group.id": "tests",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 5,
        }
    )
    consumer.assign([TopicPartition(topic.name, partition, OFFSET_BEGINNING)])
    found: list[Message] = []
    end = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < end:
            for message in consumer.consume(10_000, 0.02):
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return found
    finally:
        consumer.close()
    raise AssertionError(f"partition {partition} of {topic!r} does not end")
