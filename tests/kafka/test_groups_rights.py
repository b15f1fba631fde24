"""Which rights groups, names and transactions need on a cluster: those that the page names."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import AclOperation, ResourcePatternType, ResourceType

import eventlog
from eventlog import EventLog
from eventlog.kafka.topic import KafkaTopic
from tests.kafka.reading import PATIENCE, made, until
from tests.kafka.rights import Rights
from tests.servers.kafka import GUEST, Kafka

EXACTLY, BEGINNING = ResourcePatternType.LITERAL, ResourcePatternType.PREFIXED
TOPIC = ""
RIGHTS = [
    (ResourceType.TOPIC, TOPIC, AclOperation.READ, EXACTLY),
    (ResourceType.TOPIC, TOPIC, AclOperation.WRITE, EXACTLY),
    (ResourceType.TOPIC, TOPIC, AclOperation.DESCRIBE_CONFIGS, EXACTLY),
    (ResourceType.TOPIC, "__eventlog", AclOperation.READ, EXACTLY),
    (ResourceType.GROUP, "eventlog.", AclOperation.READ, BEGINNING),
    (ResourceType.TRANSACTIONAL_ID, "eventlog.", AclOperation.WRITE, BEGINNING),
]


@pytest.fixture
def cars(kafka_log: EventLog, rights: Rights) -> KafkaTopic:
    """A topic of three events, to which the guest has all rights that are named."""
    topic = made(kafka_log)
    topic.append_batch([b"0", b"1", b"2"])
    for kind, name, operation, pattern in RIGHTS:
        rights.grant(kind, name or topic.name, operation, pattern=pattern)
    return topic


@pytest.fixture
def as_guest(kafka: Kafka, tmp_path: Path) -> Callable[..., EventLog]:
    location = kafka.location_at("SASL_PLAINTEXT", GUEST)
    return partial(eventlog.open, location, blobs=f"file:{tmp_path / 'store'}")


def test_the_rights_that_are_named_are_enough_for_names_and_checkpoints_in_transactions(
    cars: KafkaTopic, as_guest: Callable[..., EventLog]
) -> None:
    with as_guest() as log:
        topic = log.topic(cars.name)
        with topic.producer(producer_id="loader") as producer:
            producer.send(b"3", sequence=1).result(PATIENCE)
        with topic.consumer(group="fraud", max_wait=0) as consumer:
            assert next(consumer).body == b"0"
            with consumer.transaction() as tx:
                tx.append(topic, b"4")
        assert topic.group("fraud").checkpoints()[0].offset == 0
        with topic.producer(producer_id="loader") as producer:
            assert producer.last_sequence == 1
    assert [event.body for event in cars.read(0)] == [b"0", b"1", b"2", b"3", b"4"]


def test_checkpoints_are_published_to_groups_that_may_be_read(
    rights: Rights,
    cars: KafkaTopic,
    as_guest: Callable[..., EventLog],
    caplog: pytest.LogCaptureFixture,
) -> None:
    allowed, forbidden = (f"{name}-{secrets.token_hex(4)}" for name in ("fraud", "audit"))
    rights.grant(ResourceType.GROUP, allowed, AclOperation.READ)
    with as_guest(publish_checkpoints=True) as log:
        for group in (allowed, forbidden):
            log.topic(cars.name).group(group).reset(2)
        until(lambda: bool(caplog.messages))
        cluster = cars.log.cluster
        until(lambda: bool(cluster.committed(allowed, cars.name, [0])))
        assert cluster.committed(allowed, cars.name, [0])[0].next_offset == 2
    (message,) = caplog.messages
    assert forbidden in message
    assert "have the right granted" in message
    assert "\n" not in message
