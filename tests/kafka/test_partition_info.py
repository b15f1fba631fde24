"""What a partition says is in it, where not every offset is an event's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

import eventlog
from eventlog.kafka.engine import KafkaLog
from eventlog.kafka.topic import KafkaTopic
from tests.servers.kafka import Kafka

PATIENCE = 60.0


@pytest.fixture
def topic(kafka: Kafka) -> Iterator[KafkaTopic]:
    with eventlog.open(kafka.location) as log:
        topic = log.create_topic("cars", partitions=1)
        assert isinstance(topic, KafkaTopic)
        yield topic


def abort(topic: KafkaTopic, events: int) -> None:
    """Leave so many offsets behind that are no events, and a marker."""
    log = topic.log
    assert isinstance(log, KafkaLog)
    producer = log.cluster.producer(transactional_id=f"abort-{topic.id}")
    producer.init_transactions(PATIENCE)
    producer.begin_transaction()
    for _ in range(events):
        producer.produce(topic.name, b"", partition=0)
    assert producer.flush(PATIENCE) == 0
    producer.abort_transaction(PATIENCE)


def until(condition: Callable[[], bool]) -> None:
    ended = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ended
        time.sleep(0.01)


def test_the_last_event_is_found_before_markers_and_what_was_aborted(topic: KafkaTopic) -> None:
    topic.append_batch([b"a", b"b"], partition=0)
    *_, last = topic.read(0)
    for aborted in (1, 20, 600):
        following = topic.partition_info(0).next_offset
        abort(topic, aborted)
        until(lambda: topic.partition_info(0).next_offset == following + aborted + 1)  # noqa: B023
        info = topic.partition_info(0)
        assert (info.last_enqueued_offset, info.last_enqueued_at) == (last.offset, last.enqueued_at)
        assert not info.is_empty
        assert info.beginning_offset == 0


def test_a_partition_of_nothing_but_what_was_aborted_has_no_last_event(topic: KafkaTopic) -> None:
    """It is not known to be empty either: that can be told of no longer a stretch."""
    abort(topic, 3)
    until(lambda: topic.partition_info(0).next_offset == 4)
    info = topic.partition_info(0)
    assert (info.last_enqueued_offset, info.last_enqueued_at) == (3, None)
    assert topic.read(0) == []


def test_a_partition_whose_events_have_all_expired_is_empty(topic: KafkaTopic) -> None:
    """And remembers how many they were."""
    topic.append(b"a", partition=0)
    topic.append(b"b", partition=0)
    topic.configure(retention=0.001)
    until(lambda: topic.partition_info(0).is_empty)
    info = topic.partition_info(0)
    assert (info.beginning_offset, info.next_offset, info.last_enqueued_offset) == (2, 2, 1)
    assert info.last_enqueued_at is None
    assert topic.append(b"c", partition=0).offset == 2


def test_the_last_event_is_looked_for_once(
    topic: KafkaTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lags are asked for again and again, and reading costs more than asking for offsets."""
    topic.append(b"a", partition=0)
    info = topic.partition_info(0)
    monkeypatch.setattr(topic, "_read", None)
    assert topic.partition_info(0) == info


def test_a_time_is_found_where_events_were_aborted_around_it(topic: KafkaTopic) -> None:
    first = topic.append(b"a", partition=0)
    abort(topic, 3)
    second = topic.append(b"b", partition=0)
    until(lambda: len(topic.read(0)) == 2)
    (_, event) = topic.read(0)
    assert topic.offset_at(0, event.enqueued_at) in range(first.offset + 1, second.offset + 1)
    assert topic.read(0, event.enqueued_at)[-1].body == b"b"
