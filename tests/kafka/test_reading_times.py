"""Events that each have a time of their own, as other clients write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Message, Producer

from eventlog import LATEST, EventLog
from eventlog.consuming.backlog import Backlog, Handout
from eventlog.kafka.reading.runs import Piece, runs_of
from eventlog.kafka.records import decoded
from eventlog.positions import instant
from tests.kafka.reading import PATIENCE, until
from tests.servers.kafka import Kafka

CREATE_TIME = 1
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
COUNT = 700


def at(number: int) -> datetime:
    return FIRST + timedelta(milliseconds=number)


def bodies(numbers: range) -> list[bytes]:
    return [b"%d" % number for number in numbers]


@pytest.fixture
def topic(kafka: Kafka) -> str:
    """Two partitions of another client's, one event each millisecond, in turns."""
    name = kafka.create_topic(2, message_timestamp_type="CreateTime", retention_ms=-1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(COUNT):
        time_ms = int(at(number).timestamp() * 1000)
        producer.produce(name, b"%d" % number, partition=number % 2, timestamp=time_ms)
    assert producer.flush(PATIENCE) == 0
    return name


def test_each_event_has_its_own(kafka_log: EventLog, topic: str) -> None:
    with kafka_log.topic(topic).consumer(follow=False) as consumer:
        events = list(consumer)
    assert {event.body: event.enqueued_at for event in events} == {
        b"%d" % number: at(number) for number in range(COUNT)
    }
    assert sorted(events, key=lambda one: int(one.body))[::2] == kafka_log.topic(topic).read(0)


def test_they_are_merged_by_time(kafka_log: EventLog, topic: str) -> None:
    with kafka_log.topic(topic).consumer(follow=False, order="time") as consumer:
        assert [event.body for event in consumer] == bodies(range(COUNT))


def test_reading_begins_and_ends_at_a_time(kafka_log: EventLog, topic: str) -> None:
    """In the middle of what came together."""
    with kafka_log.topic(topic).consumer(partitions=0, start=at(99), end=at(400)) as consumer:
        assert [event.body for event in consumer] == bodies(range(100, 400, 2))


def test_a_time_is_found_where_times_go_back(kafka: Kafka, kafka_log: EventLog) -> None:
    """And transactions leave marks of now: what is found is the first event that is as late."""
    name = kafka.create_topic(1, message_timestamp_type="CreateTime", retention_ms=-1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": name})
    producer.init_transactions(PATIENCE)
    numbers = [[10], [20, 900, 30, 40], [50, 60, 70, 950, 80, 90, 100, 110]]
    for some in numbers:
        producer.begin_transaction()
        for number in some:
            time_ms = int(at(number).timestamp() * 1000)
            producer.produce(name, b"%d" % number, partition=0, timestamp=time_ms)
        producer.commit_transaction(PATIENCE)
    topic = kafka_log.topic(name)
    until(lambda: topic.partition_info(0).next_offset == 16)
    offsets = {int(event.body): event.offset for event in topic.read(0)}
    for when, first in ((15, 20), (500, 900), (900, 900), (920, 950)):
        assert topic.offset_at(0, at(when)) in range(offsets[first] - 1, offsets[first] + 1)
        assert topic.read(0, at(when))[0].body == b"%d" % first
        with topic.consumer(start=at(when), end=LATEST) as consumer:
            assert next(consumer).offset == offsets[first]
        with topic.consumer(end=at(when)) as consumer:
            assert all(event.offset < offsets[first] for event in consumer)
    assert topic.offset_at(0, at(960)) == 16


def test_what_is_finished_is_of_the_time_of_the_last_event_that_was_handed_out() -> None:
    messages = [
        Message("cars", 0, n, None, b"", None, None, (CREATE_TIME, 1000 + n)) for n in range(5)
    ]
    events, size = decoded("cars", 0, messages)
    backlog, handout = Backlog("cars", 0, 0), Handout()
    (run,) = runs_of([Piece(events, 5, size)], 5, by_time=False)
    backlog.runs.append(run)
    handout.add(backlog, run, backlog.events(run))
    for number in range(5):
        assert next(handout.iterator).offset == number
        handout.settle()
        assert backlog.finished is not None
        assert instant(backlog.finished.enqueued_us) == events[number].enqueued_at
