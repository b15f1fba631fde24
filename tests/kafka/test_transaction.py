"""Transactions on a cluster: all of it or nothing, and nothing of who may not any more."""

# ruff: noqa: PT012 - what a transaction raises, it raises at the end of its block

from __future__ import annotations

import time
from typing import Any

import pytest

import eventlog
from eventlog import (
    EventLog,
    EventLogError,
    LeaseLostError,
    LogBusyError,
    OffsetOutOfRangeError,
    PreconditionFailedError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.kafka.writing.shipment import SET_EVENTS
from eventlog.transaction import NotCommittedError
from tests.kafka.writing import as_kafka, bodies, impatient, made, stored_at
from tests.servers.kafka import Kafka


class Participant:
    """A reader whose fence does as it is told."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.said: list[str] = []
        self.views: list[Any] = []

    def fence(self) -> Participant:
        return self

    def check(self, view: Any) -> None:
        self.said.append("check")
        self.views.append(view)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome

    def committed(self) -> None:
        self.said.append("committed")

    def failed(self) -> None:
        self.said.append("failed")


def test_appends_to_many_topics_are_seen_together(kafka_log: EventLog) -> None:
    """And each receipt is that of its append, several in one partition included."""
    topics = [made(kafka_log, partitions=2) for _ in range(3)]
    with kafka_log.transaction() as tx:
        for number in range(30):
            tx.append(topics[number % 3], b"%d" % number, partition=number % 2)
        tx.append_batch(topics[0], [b"x"] * (SET_EVENTS + 5), partition=0)
    assert [receipt.count for receipt in tx.receipts] == [1] * 30 + [SET_EVENTS + 5]
    stored = [[stored_at(topic, partition) for partition in range(2)] for topic in topics]
    for number, receipt in enumerate(tx.receipts[:30]):
        assert receipt.partition == number % 2
        assert stored[number % 3][number % 2][receipt.offset] == b"%d" % number
    assert [*stored[0][0].values()][-SET_EVENTS:] == [b"x"] * SET_EVENTS


def test_a_transaction_of_one_append_is_an_append(kafka_log: EventLog) -> None:
    topic = made(kafka_log)
    with kafka_log.transaction() as tx:
        tx.append(topic, b"a")
    assert topic.partition_info(0).next_offset == 1


def test_a_refused_append_leaves_nothing(kafka_log: EventLog) -> None:
    """Nor is anything seen of it."""
    topic, other = made(kafka_log), made(kafka_log)
    with pytest.raises(TopicNotFoundError), kafka_log.transaction() as tx:
        tx.append(topic, b"a")
        tx.append(other, b"b")
        kafka_log.delete_topic(other.name)
    assert bodies(topic) == []


def test_a_commit_without_an_answer_stores_nothing_before_it_is_decided(kafka: Kafka) -> None:
    with impatient(kafka.location) as log:
        topic, other = made(log), made(log)
        with log.transaction() as tx:
            tx.append(topic, b"before")
            tx.append(other, b"before")
        started = time.monotonic()
        with pytest.raises(LogBusyError, match="committing a transaction"), log.transaction() as tx:
            tx.append(topic, b"lost")
            tx.append(other, b"lost")
            kafka.pause()
        assert time.monotonic() - started < 10
        kafka.resume()
    with eventlog.open(kafka.location) as log:
        again = log.topic(topic.name)
        with log.transaction() as tx:
            tx.append(again, b"after")
            tx.append(other.name, b"after")
        _until_seen(again, b"after")
        assert bodies(again) == [b"before", b"after"]


def _until_seen(topic: eventlog.Topic, body: bytes) -> None:
    """The brokers end what nobody else does, after a while; until then nothing behind is seen."""
    with topic.consumer(max_wait=60) as consumer:
        for event in consumer:
            if event.body == body:
                return
    raise AssertionError(body)


def test_a_fence_that_refuses_undoes_all(log: EventLog) -> None:
    topic = made(log)
    participant = Participant(LeaseLostError("gone"))
    with pytest.raises(LeaseLostError), log.transaction() as tx:
        tx.attach(participant)
        tx.append(topic, b"a")
    assert participant.said == ["check", "failed"]
    assert bodies(topic) == []


def test_a_fence_that_agrees_is_told(log: EventLog) -> None:
    topic = made(log)
    participant = Participant()
    with log.transaction() as tx:
        tx.attach(participant)
        tx.append(topic, b"a")
    assert participant.said == ["check", "committed"]
    assert bodies(topic) == [b"a"]


class Overtaken(Participant):
    """Another gets the transactional id after the look."""

    def __init__(self, log: EventLog, *outcomes: Exception | None) -> None:
        super().__init__(*outcomes)
        self.location = log.location
        self.producers = as_kafka(log).writers.transactional

    def check(self, view: Any) -> None:
        view.transactional_id, view.owner = "eventlog.test", "me"
        first = not self.said
        self.producers.prepare("eventlog.test", "me")
        super().check(view)
        if first:
            with eventlog.open(self.location) as other:
                as_kafka(other).writers.transactional.prepare("eventlog.test", "other")


@pytest.mark.parametrize("outcome", [None, LeaseLostError("gone")])
def test_who_is_fenced_asks_once_more_who_has_it(log: EventLog, outcome: Exception | None) -> None:
    """And stores nothing: if the fences still agree, another attempt may go well."""
    topic = made(log)
    participant = Overtaken(log, None, outcome)
    expected = NotCommittedError if outcome is None else LeaseLostError
    with pytest.raises(expected), log.transaction() as tx:
        tx.attach(participant)
        tx.append(topic, b"a")
    assert participant.said == ["check", "check", "failed"]
    assert bodies(topic) == []
    with log.transaction() as tx:
        tx.attach(Participant())
        tx.append(topic, b"b")
    assert bodies(topic) == [b"b"]


def test_a_checkpoint_needs_a_store_and_an_event(kafka_log: EventLog, log: EventLog) -> None:
    topic = made(log)
    with pytest.raises(UnsupportedOperationError, match="blobs="), kafka_log.transaction() as tx:
        tx.checkpoint(topic.name, "fraud", partition=0, offset=0)
    with pytest.raises(OffsetOutOfRangeError), log.transaction() as tx:
        tx.append(topic, b"a")
        tx.checkpoint(topic, "fraud", partition=0, offset=0)
    assert bodies(topic) == []
    assert topic.group("fraud").checkpoints() == {}


def test_that_others_came_first_is_told_by_an_error_of_its_own(log: EventLog) -> None:
    """A host must not take it for an event's fault, as it may any other refusal of a blob."""
    participant = Participant(PreconditionFailedError("it has moved"))
    with pytest.raises(NotCommittedError, match="it has moved"), log.transaction() as tx:
        tx.attach(participant)
    assert participant.said == ["check", "failed"]


class Crowded(Participant):
    """Others want producers after the look."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self.producers = as_kafka(log).writers.transactional

    def check(self, view: Any) -> None:
        self.producers.prepare(f"eventlog.{view.transactional_id}", "other")


def test_a_producer_stays_from_the_look_to_the_commit_whoever_else_wants_one(
    log: EventLog, monkeypatch: Any
) -> None:
    monkeypatch.setattr("eventlog.kafka.writing.transactional._MOST_PREPARED", 1)
    topic = made(log)
    topic.append_batch([b"0", b"1"])
    for offset in range(2):
        with log.transaction() as tx:
            tx.attach(Crowded(log))
            tx.checkpoint(topic, "fraud", partition=0, offset=offset)
        assert topic.group("fraud").checkpoints()[0].offset == offset
    assert len(as_kafka(log).writers.transactional._prepared) == 1


def test_a_producer_prepared_for_another_is_not_lent(log: EventLog) -> None:
    """Though it has the same id: the first must not commit with what the second made ready."""
    producers = as_kafka(log).writers.transactional
    producers.prepare("eventlog.test", "first")
    with producers.lend("eventlog.test", "first"):
        pass
    producers.prepare("eventlog.test", "second")
    with pytest.raises(EventLogError), producers.lend("eventlog.test", "first"):
        pass
    with producers.lend("eventlog.test", "second"):
        pass


def test_fewer_producers_are_kept_than_owners_come(log: EventLog, monkeypatch: Any) -> None:
    """Those used longest ago are let go of, but none that is in use."""
    monkeypatch.setattr("eventlog.kafka.writing.transactional._MOST_PREPARED", 2)
    producers = as_kafka(log).writers.transactional
    producers.prepare("eventlog.1", "me")
    with producers.lend("eventlog.1", "me"):
        producers.prepare("eventlog.2", "me")
        producers.prepare("eventlog.3", "me")
        known = [producers.is_prepared(f"eventlog.{n}", "me") for n in (1, 2, 3)]
    assert known == [True, False, True]
