"""Producers with names on a cluster: one is live, and nothing is stored twice."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

import eventlog
from eventlog import DeliveryError, EventLog, EventLogError, LogBusyError, ProducerFencedError
from eventlog.kafka.writing.sender import NotSentError
from eventlog.kafka.writing.transactional_sender import TransactionalSender
from tests.kafka.writing import PATIENCE, as_kafka, bodies, made
from tests.servers.kafka import Kafka


def transactional_id(topic: eventlog.Topic, name: str = "loader") -> str:
    return f"eventlog.producer.{topic.id}.{name}"


def test_a_restarted_producer_goes_on_where_it_was(kafka: Kafka, kafka_log: EventLog) -> None:
    """In another process, too; and in each topic by itself."""
    topic, other = made(kafka_log, partitions=2), made(kafka_log)
    with topic.producer(producer_id="ä/1") as producer:
        assert producer.last_sequence == -1
        for sequence in (0, 5, 7):
            _ = producer.send(b"%d" % sequence, sequence=sequence)
    with (
        eventlog.open(kafka.location) as again,
        again.topic(topic.name).producer(producer_id="ä/1") as producer,
    ):
        assert producer.last_sequence == 7
        assert producer.send(b"7", sequence=7).result(PATIENCE).duplicate
        assert not producer.send(b"8", sequence=8).result(PATIENCE).duplicate
    assert sorted(bodies(topic, 0) + bodies(topic, 1)) == [b"0", b"5", b"7", b"8"]
    with other.producer(producer_id="ä/1") as producer:
        assert producer.last_sequence == -1


def test_a_topic_made_anew_knows_no_producers(kafka_log: EventLog) -> None:
    topic = made(kafka_log)
    with topic.producer(producer_id="loader") as producer:
        producer.send(b"a", sequence=2**63 - 1).result(PATIENCE)
        assert producer.last_sequence == 2**63 - 1
    kafka_log.delete_topic(topic.name)
    again = kafka_log.create_topic(topic.name, partitions=1)
    with again.producer(producer_id="loader") as producer:
        assert producer.last_sequence == -1
        producer.send(b"b", sequence=0).result(PATIENCE)
    assert bodies(again) == [b"b"]


def test_of_producers_that_register_at_once_one_is_live(kafka_log: EventLog) -> None:
    """Whichever it is; all others are told, when they begin or when they send."""
    topic = made(kafka_log)
    producers: list[Any] = []

    def register() -> None:
        with contextlib.suppress(ProducerFencedError):
            producers.append(topic.producer(producer_id="loader"))

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    outcomes = [producer.send(b"a", sequence=1).exception(PATIENCE) for producer in producers]
    assert [one for one in outcomes if not isinstance(one, ProducerFencedError)] == [None]
    assert bodies(topic) == [b"a"]
    for producer in producers:
        producer.close()


def test_who_is_fenced_does_not_disturb_the_live_one(kafka_log: EventLog) -> None:
    """Though it has lost its producer of librdkafka and would have to make another."""
    topic = made(kafka_log)
    first = topic.producer(producer_id="loader")
    first.send(b"1", sequence=1).result(PATIENCE)
    with topic.producer(producer_id="loader") as second:
        second.send(b"2", sequence=2).result(PATIENCE)
        prepared = as_kafka(kafka_log).writers.transactional._prepared
        before = prepared[transactional_id(topic)]
        for sequence in (3, 4):
            with pytest.raises(ProducerFencedError):
                first.send(b"lost", sequence=sequence).result(PATIENCE)
        assert prepared[transactional_id(topic)] is before
        second.send(b"3", sequence=3).result(PATIENCE)
    first.close()
    assert bodies(topic) == [b"1", b"2", b"3"]


def test_the_live_one_takes_its_id_back(kafka: Kafka, kafka_log: EventLog) -> None:
    """Another that was just finding out that it is not live had taken it."""
    topic = made(kafka_log)
    with topic.producer(producer_id="loader") as producer:
        producer.send(b"1", sequence=1).result(PATIENCE)
        with eventlog.open(kafka.location) as other:
            as_kafka(other).writers.transactional.fence(transactional_id(topic))
            producer.send(b"2", sequence=2).result(PATIENCE)
        as_kafka(kafka_log).writers.transactional.forget(transactional_id(topic))
        producer.send(b"3", sequence=3).result(PATIENCE)
    assert bodies(topic) == [b"1", b"2", b"3"]


def test_another_may_register_while_the_id_is_taken_back(
    kafka: Kafka, kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at who is live and taking the id: then it is looked once more."""
    topic = made(kafka_log)
    first = topic.producer(producer_id="loader")
    first.send(b"1", sequence=1).result(PATIENCE)
    transactional = as_kafka(kafka_log).writers.transactional
    prepare = transactional.prepare
    with eventlog.open(kafka.location) as other:
        later: list[eventlog.Producer] = []

        def overtaken(*arguments: Any) -> None:
            later.append(other.topic(topic.name).producer(producer_id="loader"))
            prepare(*arguments)

        transactional.forget(transactional_id(topic))
        monkeypatch.setattr(transactional, "prepare", overtaken)
        with pytest.raises(ProducerFencedError):
            first.send(b"lost", sequence=2).result(PATIENCE)
        later[0].send(b"2", sequence=2).result(PATIENCE)
    first.close()
    assert bodies(topic) == [b"1", b"2"]


def test_an_answer_that_was_lost_makes_nothing_be_stored_twice(
    kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The producer does not go on as if nothing was stored; its successor knows what was."""
    topic = made(kafka_log)
    producer = topic.producer(producer_id="loader")
    producer.send(b"1", sequence=1).result(PATIENCE)
    commit = TransactionalSender._commit

    def lose_answer(self: TransactionalSender, deadline: Any) -> None:
        commit(self, deadline)
        raise NotSentError(KafkaError(KafkaError._TIMED_OUT), maybe=True)

    with monkeypatch.context() as patch:
        patch.setattr(TransactionalSender, "_commit", lose_answer)
        with pytest.raises(LogBusyError, match="may be stored all the same"):
            producer.send(b"2", sequence=2).result(PATIENCE)
    with pytest.raises(EventLogError, match="has stored up to 2, and not 1"):
        producer.send(b"2", sequence=2).result(PATIENCE)
    producer.close()
    with topic.producer(producer_id="loader") as again:
        assert again.last_sequence == 2
        assert again.send(b"2", sequence=2).result(PATIENCE).duplicate
    assert bodies(topic) == [b"1", b"2"]


def test_a_failed_transaction_is_sent_again_by_whoever_sends(
    kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it was stored, and the producer goes on with a new producer of librdkafka."""
    topic = made(kafka_log)
    with topic.producer(producer_id="loader") as producer:
        producer.send(b"1", sequence=1).result(PATIENCE)

        def fail(*_: object) -> None:
            raise NotSentError(KafkaError(KafkaError._TIMED_OUT))

        with monkeypatch.context() as patch:
            patch.setattr(TransactionalSender, "_send_offsets", fail)
            with pytest.raises(LogBusyError):
                producer.send(b"2", sequence=2).result(PATIENCE)
        producer.send(b"2", sequence=2).result(PATIENCE)
    assert bodies(topic) == [b"1", b"2"]


def test_the_broker_is_killed_under_a_named_producer(kafka: Kafka, kafka_log: EventLog) -> None:
    """Whatever failed is sent again, under the same sequences; each is stored once."""
    topic = made(kafka_log)
    count, sent = 300, 0
    while sent < count:
        producer = topic.producer(producer_id="loader", max_batch_events=10)
        sent = producer.last_sequence + 1
        try:
            for sequence in range(sent, count):
                if sequence == 100 and sent < 100:
                    kafka.crash()
                    kafka.start()
                _ = producer.send(b"%d" % sequence, sequence=sequence)
            producer.close()
            sent = count
        except DeliveryError:
            with contextlib.suppress(DeliveryError):
                producer.close()
    assert bodies(topic) == [b"%d" % n for n in range(count)]


def test_offsets_of_another_are_not_taken_for_a_producers(
    kafka: Kafka, kafka_log: EventLog
) -> None:
    topic = made(kafka_log)
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": "eventlog.producer.loader"}
    )
    consumer.commit(offsets=[TopicPartition(topic.name, 0, 3)], asynchronous=False)
    consumer.close()
    with pytest.raises(EventLogError, match=r"eventlog\.producer\.loader"):
        topic.producer(producer_id="loader")
