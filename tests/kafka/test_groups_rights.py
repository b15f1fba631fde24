"""Which rights groups, names and transactions need on a cluster: those that the page names."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

import eventlog
from eventlog import EventLog, Topic
from tests.servers.kafka import GUEST, Kafka

PATIENCE = 60.0
EXACTLY, BEGINNING = ResourcePatternType.LITERAL, ResourcePatternType.PREFIXED
TOPIC = ""
RIGHTS = [
    (ResourceType.TOPIC, TOPIC, "READ", EXACTLY),
    (ResourceType.TOPIC, TOPIC, "WRITE", EXACTLY),
    (ResourceType.TOPIC, TOPIC, "DESCRIBE_CONFIGS", EXACTLY),
    (ResourceType.TOPIC, "__eventlog", "READ", EXACTLY),
    (ResourceType.GROUP, "eventlog.", "READ", BEGINNING),
    (ResourceType.TRANSACTIONAL_ID, "eventlog.", "WRITE", BEGINNING),
]


def grant(
    kafka: Kafka, kind: ResourceType, name: str, operation: str, pattern: ResourcePatternType
) -> None:
    allowed = AclPermissionType.ALLOW
    right = AclBinding(kind, name, pattern, f"User:{GUEST}", "*", AclOperation[operation], allowed)
    for done in kafka.admin().create_acls([right]).values():
        done.result(PATIENCE)


@pytest.fixture
def cars(kafka: Kafka) -> Iterator[Topic]:
    """A topic of three events, to which the guest has all rights that are named."""
    with eventlog.open(kafka.location) as log:
        topic = log.create_topic(f"cars-{secrets.token_hex(4)}", partitions=1)
        topic.append_batch([b"0", b"1", b"2"])
        for kind, name, operation, pattern in RIGHTS:
            grant(kafka, kind, name or topic.name, operation, pattern)
        yield topic
    everything = AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]
        ResourcePatternType.ANY,
        f"User:{GUEST}",
        None,  # type: ignore[arg-type]
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    for done in kafka.admin().delete_acls([everything]).values():
        done.result(PATIENCE)


@pytest.fixture
def as_guest(kafka: Kafka, tmp_path: Path) -> Callable[..., EventLog]:
    location = kafka.location_at("SASL_PLAINTEXT", GUEST)
    return partial(eventlog.open, location, blobs=f"file:{tmp_path / 'store'}")


def test_the_rights_that_are_named_are_enough_for_names_and_checkpoints_in_transactions(
    cars: Topic, as_guest: Callable[..., EventLog]
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
    kafka: Kafka, cars: Topic, as_guest: Callable[..., EventLog], caplog: pytest.LogCaptureFixture
) -> None:
    allowed, forbidden = (f"{name}-{secrets.token_hex(4)}" for name in ("fraud", "audit"))
    grant(kafka, ResourceType.GROUP, allowed, "READ", EXACTLY)
    with as_guest(publish_checkpoints=True) as log:
        for group in (allowed, forbidden):
            log.topic(cars.name).group(group).reset(2)
        deadline = time.monotonic() + PATIENCE
        while not caplog.messages:
            assert time.monotonic() < deadline
        cluster = cars.log.cluster  # type: ignore[attr-defined]
        while not (found := cluster.committed(allowed, cars.name, [0])):
            assert time.monotonic() < deadline
    assert found[0].next_offset == 2
    (message,) = caplog.messages
    assert forbidden in message
    assert "have the right granted" in message
    assert "\n" not in message
