"""What a user may do whom the cluster allows little, and what is said of the rest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from confluent_kafka.admin import AclOperation, ResourcePatternType, ResourceType

import eventlog
from eventlog import LATEST, Event, EventLog, EventLogError, Topic
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.sender import Sender
from eventlog.kafka.writing.shipment import Shipment
from tests.kafka.reading import made
from tests.kafka.rights import Rights
from tests.servers.kafka import GUEST, Kafka

PATIENCE = 30.0


@pytest.fixture
def guest(kafka: Kafka) -> Iterator[EventLog]:
    """A log as the guest sees it."""
    location = kafka.location_at("SASL_PLAINTEXT", GUEST)
    with eventlog.open(location, blobs="memory:") as log:
        yield log


def seen(log: EventLog, name: str) -> Topic:
    """A topic, as soon as the broker has heard of the rights to it."""
    for _ in range(1000):
        with contextlib.suppress(EventLogError):
            return log.topic(name)
    return log.topic(name)


def writing(log: EventLog, topic: Topic) -> dict[str, Callable[[], object]]:
    """Ways to write, and what is said to be done."""

    def send(producer_id: str | None = None, sequence: int | None = None) -> None:
        with topic.producer(producer_id=producer_id) as producer:
            producer.send(b"", sequence=sequence).result(PATIENCE)

    def commit() -> None:
        with log.transaction() as tx:
            tx.append(topic, b"", partition=0)
            tx.append(topic, b"", partition=1)

    return {
        "appending to": lambda: topic.append(b""),
        "storing events": send,
        "beginning a transaction": commit,
        "beginning a trans": lambda: topic.append_batch([Event(b"", f"{n}") for n in range(9)]),
        "beginning a": lambda: send("me", 1),
    }


def assert_refused(calls: dict[str, Callable[[], object]], *words: str) -> None:
    """Each says in one line what it was, and who may not."""
    for doing, call in calls.items():
        with pytest.raises(EventLogError, match=f"^{doing}") as raised:
            call()
        said = str(raised.value)
        assert f"does not allow user '{GUEST}' that: have the right granted" in said
        assert any(word in said for word in words), said
        assert "\n" not in said


def test_who_may_only_read_needs_no_right_to_any_group(
    kafka_log: EventLog, rights: Rights, guest: EventLog
) -> None:
    """To read, to follow and to see how far a group is behind; nothing else is possible."""
    own = made(kafka_log, 2)
    own.append_batch([b"0", b"1"], partition=0)
    rights.on_topic(own.name, AclOperation.READ)
    topic = seen(guest, own.name)
    assert [event.body for event in topic.read(0)] == [b"0", b"1"]
    assert [event.body for event in topic.consumer(end=LATEST)] == [b"0", b"1"]
    assert next(topic.consumer()).body == b"0"
    assert topic.partition_info(0).last_enqueued_offset == 1
    assert topic.group("group").lag()[0].events == 2
    assert_refused(writing(guest, topic), "Topic", "Cluster", "Transactional Id")
    with pytest.raises(EventLogError, match=f"granted: Write on topic {own.name!r}"):
        topic.append(b"")
    changes: dict[str, Callable[[], object]] = {
        "setting topic": lambda: topic.configure(retention=10),
        "adding partitions": lambda: topic.add_partitions(1),
        "deleting topic": lambda: guest.delete_topic(topic.name),
    }
    assert_refused(changes, "Topic authorization failed")


def test_who_may_not_append_is_told_so_however_soon_the_broker_has_said_no(
    kafka_log: EventLog, rights: Rights, guest: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before there was anything to send: librdkafka then takes nothing more."""
    own = made(kafka_log)
    rights.on_topic(own.name)
    topic = seen(guest, own.name)
    learn = Sender._learn

    def learn_slowly(sender: Sender, shipments: Sequence[Shipment], errand: Errand) -> None:
        learn(sender, shipments, errand)
        deadline = time.monotonic() + PATIENCE
        while sender._end is None:
            assert time.monotonic() < deadline
            sender.poll()

    monkeypatch.setattr(Sender, "_learn", learn_slowly)
    with pytest.raises(EventLogError, match=f"granted: Write on topic {own.name!r}"):
        topic.append(b"")


def test_who_may_only_see_a_topic_is_told_that_reading_is_not_allowed(
    kafka_log: EventLog, rights: Rights, guest: EventLog
) -> None:
    """At once, however it is read."""
    own = made(kafka_log)
    own.append(b"0")
    rights.on_topic(own.name)
    topic = seen(guest, own.name)
    calls: dict[str, Callable[[], object]] = {
        "reading": lambda: topic.read(0),
        "reading partition": lambda: list(topic.consumer(end=LATEST)),
        "reading partition 0": lambda: next(topic.consumer()),
        "reading partition 0 of": lambda: next(topic.consumer(order="time")),
    }
    assert_refused(calls, "Topic authorization failed")


def test_who_may_write_to_a_topic_needs_more_for_transactions(
    kafka_log: EventLog, rights: Rights, guest: EventLog
) -> None:
    """The right to transactional ids; and to the group of a producer's name, if it has one."""
    own = made(kafka_log, 2)
    rights.on_topic(own.name, AclOperation.WRITE)
    topic = seen(guest, own.name)
    calls = writing(guest, topic)
    for doing in ("appending to", "storing events"):
        calls.pop(doing)()
    assert_refused(calls, "Transactional Id authorization failed")
    some = ResourcePatternType.PREFIXED
    rights.grant(ResourceType.TRANSACTIONAL_ID, "eventlog.", AclOperation.WRITE, pattern=some)
    named = calls.pop("beginning a")
    for call in calls.values():
        call()
    with pytest.raises(EventLogError, match=r"Group authorization failed.*does not allow"):
        named()
    rights.grant(ResourceType.GROUP, "eventlog.producer.", AclOperation.READ, pattern=some)
    rights.on_topic(own.name, AclOperation.READ)
    named()
