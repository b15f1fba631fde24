"""What is larger than a topic takes: as far as is known here, and as its brokers say."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from eventlog import Event, EventLog, EventTooLargeError, Topic
from tests.kafka.reading import PATIENCE, made
from tests.servers.kafka import Kafka

LARGE = 20_000


def ways(log: EventLog, topic: Topic, body: bytes) -> list[Callable[[], object]]:
    """All ways to store an event."""

    def send() -> object:
        with topic.producer() as producer:
            return producer.send(body).result(PATIENCE)

    def send_named() -> object:
        with topic.producer(producer_id="me") as producer:
            return producer.send(body, sequence=1).result(PATIENCE)

    def commit() -> None:
        with log.transaction() as tx:
            tx.append(topic, body, partition=0)
            tx.append(topic, body, partition=1)

    return [
        lambda: topic.append(body),
        lambda: topic.append_batch([body, body], partition=0),
        lambda: topic.append_batch([Event(body, f"{number}") for number in range(9)]),
        send,
        send_named,
        commit,
    ]


def lower(kafka: Kafka, topic: Topic, most: int) -> None:
    """Somebody else has the brokers take less from now on."""
    entry = ConfigEntry("max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET)
    kind = ConfigResource.Type.TOPIC
    resource = ConfigResource(kind, topic.name, incremental_configs=[entry])
    for done in kafka.admin().incremental_alter_configs([resource]).values():
        done.result(PATIENCE)
    until_it_counts(kafka, resource, str(most))


def until_it_counts(kafka: Kafka, resource: ConfigResource, value: str) -> None:
    """The controller knows it first, and the broker a moment later."""
    for _ in range(10_000):
        (found,) = kafka.admin().describe_configs([resource]).values()
        if found.result(PATIENCE)["max.message.bytes"].value == value:
            return
    raise AssertionError


@pytest.mark.parametrize("number", range(6))
def test_a_body_of_more_than_the_topic_takes_is_refused(
    kafka: Kafka, kafka_log: EventLog, number: int
) -> None:
    """Here, before anything is sent; and by the brokers, if they take less since a moment ago."""
    topic = made(kafka_log, 2, max_event_bytes=LARGE)
    too_large = ways(kafka_log, topic, bytes(LARGE + 1))[number]
    with pytest.raises(EventTooLargeError, match=r"takes 20,000 \(max_event_bytes\)"):
        too_large()
    lower(kafka, topic, LARGE)
    for _ in range(2):
        with pytest.raises(EventTooLargeError, match=r"max.message.bytes|max_event_bytes") as told:
            ways(kafka_log, topic, os.urandom(LARGE))[number]()
        assert "\n" not in str(told.value)
    assert topic.read(0) == topic.read(1) == []
    assert topic.append(b"small", partition=0).offset >= 0


def test_batches_are_cut_to_what_the_brokers_take_now(kafka: Kafka, kafka_log: EventLog) -> None:
    """The first one that is refused tells how much that is."""
    topic = made(kafka_log)
    bodies = [os.urandom(1000) for _ in range(50)]
    lower(kafka, topic, LARGE)
    with pytest.raises(EventTooLargeError):
        topic.append_batch(bodies)
    topic.append_batch(bodies)
    assert [event.body for event in topic.read(0)] == bodies
