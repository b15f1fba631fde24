"""Appending to a cluster: all or nothing, at the offsets that are said, and never without end."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import KafkaError

from eventlog import (
    Event,
    EventLog,
    LogBusyError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.sender import Sender
from eventlog.kafka.writing.shipment import SET_EVENTS
from tests.kafka.writing import PATIENCE, as_kafka, bodies, impatient, made, messages, stored_at
from tests.servers.kafka import Kafka

_JUST_A_SET = 1000, 903
"""So many events with so many bytes, and a property, are as much as a set may have."""


def test_a_batch_that_is_one_set_needs_no_transaction(kafka_log: EventLog) -> None:
    """So it leaves no marker behind it."""
    topic = made(kafka_log)
    (receipt,) = topic.append_batch([b"%d" % n for n in range(SET_EVENTS)])
    assert (receipt.offset, receipt.count) == (0, SET_EVENTS)
    assert topic.partition_info(0).next_offset == SET_EVENTS
    assert bodies(topic) == [b"%d" % n for n in range(SET_EVENTS)]


def test_a_batch_of_several_sets_or_partitions_is_a_transaction(kafka_log: EventLog) -> None:
    """Which leaves a marker in each partition."""
    topic = made(kafka_log, partitions=2)
    (receipt,) = topic.append_batch([b"%d" % n for n in range(SET_EVENTS + 1)], partition=0)
    assert (receipt.offset, receipt.count) == (0, SET_EVENTS + 1)
    assert topic.append(b"after", partition=0).offset == SET_EVENTS + 2
    keys = [f"k{n}" for n in range(20)]
    receipts = topic.append_batch([Event(b"", key) for key in keys])
    assert sum(receipt.count for receipt in receipts) == 20
    assert topic.append(b"after", partition=1).offset == receipts[1].count + 1


def test_sets_are_stored_whole_while_others_write(kafka_log: EventLog) -> None:
    """So of a batch the receipt's range is its events and no others'."""
    topic = made(kafka_log)

    def write(writer: int) -> list[tuple[list[bytes], int, int]]:
        written = []
        for number in range(15):
            count, size = ((1, 0), (2, 0), (700, 0), (SET_EVENTS, 0), _JUST_A_SET)[number % 5]
            batch = [b"%d %d %d " % (writer, number, n) for n in range(count)]
            batch = [body.ljust(size) for body in batch]
            events = [Event(body, properties={"a": 1}) if size else body for body in batch]
            (receipt,) = topic.append_batch(events, partition=0)
            written.append((batch, receipt.offset, receipt.count))
        return written

    with ThreadPoolExecutor(4) as threads:
        written = [one for some in threads.map(write, range(4)) for one in some]
    stored = stored_at(topic)
    assert len(stored) == sum(count for _, _, count in written)
    for batch, offset, count in written:
        assert [stored[offset + n] for n in range(count)] == batch


def test_an_event_of_the_largest_size_is_stored(kafka_log: EventLog) -> None:
    """With the largest key and properties there are."""
    topic = made(kafka_log, max_event_bytes=3 * 2**20)
    body = bytes(range(256)) * (3 * 2**12)
    properties = {f"{n:04}": "x" * 1000 for n in range(60)}
    topic.append(body, key="k" * 1024, properties=properties)
    topic.append_batch([body, b"small", body])
    assert bodies(topic) == [body, body, b"small", body]
    first = messages(topic)[0]
    assert first.key() == b"k" * 1024
    assert first.headers() == [(name, b"x" * 1000) for name in properties]


def test_partitions_that_were_added_are_written_to(kafka_log: EventLog) -> None:
    """By producers of librdkafka that knew the topic before."""
    topic = made(kafka_log)
    topic.append(b"0")
    with pytest.warns(UserWarning, match="keys move"):
        topic.add_partitions(2)
    assert topic.append(b"2", partition=2).offset == 0
    assert [receipt.partition for receipt in topic.append_batch([b"1"], partition=1)] == [1]


def test_a_topic_made_anew_is_written_to(kafka_log: EventLog) -> None:
    """By producers of librdkafka that knew its predecessor."""
    topic = made(kafka_log)
    topic.append_batch([b"old"] * 3)
    kafka_log.delete_topic(topic.name)
    again = kafka_log.create_topic(topic.name, partitions=1)
    assert again.append(b"new").offset == 0
    assert bodies(again) == [b"new"]


def test_expect_next_is_declined(kafka_log: EventLog) -> None:
    topic = made(kafka_log)
    with pytest.raises(UnsupportedOperationError, match="expect_next"):
        topic.append(b"a", partition=0, expect_next=0)
    with (
        pytest.raises(UnsupportedOperationError, match="expect_next"),
        kafka_log.transaction() as tx,
    ):
        tx.append(topic, b"a", partition=0, expect_next=0)
    assert bodies(topic) == []


def test_an_append_without_an_answer_ends_in_time(kafka: Kafka) -> None:
    """And says that it may be stored all the same, which it may; then all goes on."""
    with impatient(kafka.location) as log:
        topic = made(log)
        topic.append(b"before", timeout=PATIENCE)
        kafka.pause()
        started = time.monotonic()
        with pytest.raises(LogBusyError, match=r"may be stored all the same.* within 0\.3 s"):
            topic.append(b"lost?", timeout=0.3)
        assert time.monotonic() - started < 5
        kafka.resume()
        _until_appended(log, topic.name)
        assert bodies(topic)[0] == b"before"
        assert bodies(topic)[-1] == b"again"
        assert bodies(topic).count(b"lost?") <= 1


def _until_appended(log: EventLog, name: str) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            log.topic(name).append(b"again")
        except LogBusyError:
            assert time.monotonic() < end
        else:
            return


def test_a_transaction_without_an_answer_stores_nothing(kafka: Kafka) -> None:
    """It ends in time, too, wherever it is when the broker stops answering."""
    with impatient(kafka.location) as log:
        topic = made(log, partitions=2)
        topic.append_batch([Event(b"before", f"k{n}") for n in range(8)], timeout=PATIENCE)
        kafka.pause()
        started = time.monotonic()
        with pytest.raises(LogBusyError, match=f"appending to topic '{topic.name}'"):
            topic.append_batch([Event(b"lost", f"k{n}") for n in range(8)], timeout=0.3)
        assert time.monotonic() - started < 8
        kafka.resume()
        _until_appended(log, topic.name)
        assert b"lost" not in {*bodies(topic, 0), *bodies(topic, 1)}


def test_a_topic_deleted_while_somebody_waits_is_said_to_be(
    kafka: Kafka, kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Librdkafka would wait for it to be made again."""
    topic = made(kafka_log)
    topic.append(b"a")
    monkeypatch.setattr(topic, "current", lambda timeout: topic.state)
    kafka.delete_topics(topic.name)
    started = time.monotonic()
    with pytest.raises(TopicNotFoundError, match=topic.name):
        topic.append(b"late")
    with pytest.raises(TopicNotFoundError, match=topic.name):
        topic.append_batch([b"late"] * (SET_EVENTS + 1))
    assert time.monotonic() - started < as_kafka(kafka_log).settings.lock_timeout


def test_what_was_begun_and_failed_is_aborted_at_once(
    kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or readers would not see what follows until the brokers end it themselves."""
    topic = made(kafka_log, partitions=2)
    flush = Sender._flush

    def fail(self: Sender, errand: Errand) -> KafkaError:
        flush(self, errand)
        return KafkaError(KafkaError._TIMED_OUT)

    with monkeypatch.context() as patch:
        patch.setattr(Sender, "_flush", fail)
        with pytest.raises(LogBusyError):
            topic.append_batch([Event(b"lost", f"k{n}") for n in range(8)])
    for partition in range(2):
        topic.append(b"after", partition=partition)
    assert bodies(topic, 0) == bodies(topic, 1) == [b"after"]


def test_many_threads_that_append_at_once_share_few_producers(kafka_log: EventLog) -> None:
    """Each has one for itself as long as it needs it; and every event is where its receipt says."""
    topic = made(kafka_log)

    def append(writer: int) -> list[tuple[bytes, int]]:
        return [
            (body, topic.append(body).offset)
            for body in (b"%d %d" % (writer, n) for n in range(20))
        ]

    with ThreadPoolExecutor(16) as threads:
        written = [one for some in threads.map(append, range(16)) for one in some]
    stored = stored_at(topic)
    assert {offset: body for body, offset in written} == stored


def test_what_is_closed_sends_nothing_more(kafka_log: EventLog) -> None:
    """And closing does not wait for a transaction that nobody ends."""
    topic = made(kafka_log, partitions=2)
    writers = as_kafka(kafka_log).writers
    with writers.transactional.lend() as sender:
        sender.producer.begin_transaction()
        sender.producer.produce(topic.name, b"never", partition=0)
        started = time.monotonic()
        kafka_log.close()
        assert time.monotonic() - started < 5
