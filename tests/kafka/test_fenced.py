"""A broker that has just started says for a moment that there are no brokers, and librdkafka then
forgets those it knows (its issue 5301). Here that is what it says to every client of a log at once;
a moment later everything goes on, and nothing is lost, doubled or reordered.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import KafkaException

import eventlog
from eventlog import EARLIEST, LogBusyError
from eventlog.kafka.clients import Clients
from eventlog.kafka.cluster import LATEST
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.engine import KafkaLog
from eventlog.kafka.forgotten import BrokerWatch
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.pool import Pool
from eventlog.kafka.writing.sender import Sender
from tests.kafka.writing import PATIENCE, as_kafka, bodies, made
from tests.servers.kafka import Kafka

SOON = 20.0
"""Seconds in which a client that has forgotten the brokers finds them again; mostly it is one."""

HURRY = 4.0
"""Seconds after which a transaction fails whose client does not."""

MOMENT = 0.5
"""Seconds that a client is given to ask; who waits for another answer then is told nothing."""


class Fencing:
    """Tells all clients of the logs that were opened that there are no brokers."""

    def __init__(self, kafka: Kafka) -> None:
        self.clients: list[weakref.ref[Any]] = []
        self._proxy = kafka.proxy

    def tell(self, topic: str) -> None:
        """So the next time that they ask, it is a broker again."""
        self._proxy.fenced = True
        clients = [client for one in self.clients if (client := one()) is not None]
        for client in clients:
            with contextlib.suppress(KafkaException):  # it has no broker to ask
                client.list_topics(topic, timeout=MOMENT)
        self._proxy.fenced = False
        assert self._proxy.counts["fenced"] >= len(clients) > 0


@pytest.fixture
def fencing(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> Fencing:
    told = Fencing(kafka)
    make: Callable[..., Any] = Clients._made

    def made_known(self: Clients, *arguments: Any) -> Any:
        client = make(self, *arguments)
        told.clients.append(weakref.ref(client))
        return client

    monkeypatch.setattr(Clients, "_made", made_known)
    return told


@pytest.fixture
def log(kafka: Kafka, fencing: Fencing) -> Iterator[KafkaLog]:
    """Whose clients go through the proxy."""
    with eventlog.open(kafka.proxy.location, timeout=SOON, lock_timeout=SOON) as log:
        yield as_kafka(log)


def test_an_idle_sender_sends_again(log: KafkaLog, fencing: Fencing) -> None:
    topic = made(log)
    for number in range(3):
        topic.append(b"%d" % number)
        fencing.tell(topic.name)
    topic.append(b"3")
    assert bodies(topic) == [b"0", b"1", b"2", b"3"]


def test_what_is_under_way_is_stored_once_and_in_order(log: KafkaLog, fencing: Fencing) -> None:
    topic = made(log)
    with topic.producer(linger=0) as producer:
        deliveries = [producer.send(b"0")]
        deliveries[0].result(PATIENCE)  # so it has a client
        for number in range(1, 300):
            deliveries.append(producer.send(b"%d" % number))
            if number % 100 == 50:
                fencing.tell(topic.name)
        assert [delivery.result(PATIENCE).offset for delivery in deliveries] == [*range(300)]
    assert bodies(topic) == [b"%d" % number for number in range(300)]


def test_where_partitions_end_is_answered_again(log: KafkaLog, fencing: Fencing) -> None:
    topic = made(log)
    topic.append(b"0")
    for _ in range(5):
        assert log.cluster.offsets(topic.name, [(0, LATEST)]) == [(1,)]
        fencing.tell(topic.name)
    assert log.cluster.offsets(topic.name, [(0, LATEST)]) == [(1,)]


def test_what_a_group_has_committed_is_answered_again(log: KafkaLog, fencing: Fencing) -> None:
    topic = made(log)
    for _ in range(5):
        assert log.cluster.committed(topic.name, topic.name, [0]) == {}
        fencing.tell(topic.name)
    assert log.cluster.committed(topic.name, topic.name, [0]) == {}


def test_single_reads_go_on(log: KafkaLog, fencing: Fencing) -> None:
    topic = made(log)
    topic.append(b"0")
    for _ in range(5):
        assert [event.body for event in topic.read(0)] == [b"0"]
        fencing.tell(topic.name)
    assert [event.body for event in topic.read(0)] == [b"0"]


def test_a_consumer_goes_on(log: KafkaLog, fencing: Fencing, threads: ThreadPoolExecutor) -> None:
    topic = made(log)
    topic.append_batch([b"%d" % number for number in range(1000)])
    with topic.consumer(start=EARLIEST) as consumer:
        found = [next(consumer).body]
        for number in range(1000, 1002):
            fencing.tell(topic.name)  # with messages that were fetched, and at the end
            topic.append(b"%d" % number)
            while found[-1] != b"%d" % number:
                found.append(threads.submit(next, consumer).result(SOON).body)
    assert found == [b"%d" % number for number in range(1002)]


def test_topics_are_looked_up_and_made_again(log: KafkaLog, fencing: Fencing) -> None:
    topic = made(log)
    for _ in range(2):
        fencing.tell(topic.name)
        assert log.topic(topic.name).id == topic.id
        fencing.tell(topic.name)
        topic = made(log)


def test_a_named_producer_that_failed_goes_on_with_another_client(
    kafka: Kafka, fencing: Fencing
) -> None:
    """Its transaction fails, and what that was to store is stored by the next one, once."""
    with eventlog.open(kafka.proxy.location, timeout=SOON, lock_timeout=HURRY) as log:
        topic = made(log)
        with topic.producer(producer_id="loader") as producer:
            producer.send(b"0", sequence=0).result(PATIENCE)
            fencing.tell(topic.name)
            with pytest.raises(LogBusyError):
                producer.send(b"1", sequence=1).result(PATIENCE)
            producer.send(b"1", sequence=1).result(PATIENCE)
        assert bodies(topic) == [b"0", b"1"]


# Where librdkafka does not find them again


@pytest.fixture
def lost(kafka: Kafka, fencing: Fencing) -> Iterator[KafkaLog]:
    """A log whose clients never find their brokers again; others have to take their places."""
    with eventlog.open(
        kafka.proxy.location, timeout=SOON, lock_timeout=SOON, metadata_recovery_strategy="none"
    ) as log:
        yield as_kafka(log)


def test_another_client_answers_where_partitions_end(
    lost: KafkaLog, fencing: Fencing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.kafka.offset_reader._RENEWAL_SECONDS", 0.0)
    monkeypatch.setattr("eventlog.kafka.clients._RENEWAL_SECONDS", 0.0)
    topic = made(lost)
    assert lost.cluster.offsets(topic.name, [(0, LATEST)]) == [(0,)]
    fencing.tell(topic.name)
    assert lost.cluster.offsets(topic.name, [(0, LATEST)]) == [(0,)]


def test_a_group_is_asked_for_by_another_client(lost: KafkaLog, fencing: Fencing) -> None:
    topic = made(lost)
    assert lost.cluster.committed(topic.name, topic.name, [0]) == {}
    fencing.tell(topic.name)
    assert lost.cluster.committed(topic.name, topic.name, [0]) == {}


def test_idle_clients_that_were_lost_are_not_used_again(
    lost: KafkaLog, fencing: Fencing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.kafka.offset_reader._RENEWAL_SECONDS", 0.0)
    monkeypatch.setattr("eventlog.kafka.writing.pool._SURE_SECONDS", 0.0)
    topic = made(lost)
    transactional = lost.writers.transactional
    topic.append(b"0")
    assert len(topic.read(0)) == 1
    with transactional.lend() as sender:
        lost.writers.transact(sender, [], {}, Errand("nothing", Deadline(SOON), [topic]))
        sender._known[topic.name] = 1  # as one that has sent
    fencing.tell(topic.name)
    with transactional.lend() as another:
        assert another is not sender
    topic.append(b"1")
    assert len(topic.read(0)) == 2


def test_a_client_that_has_a_broker_is_used_again(lost: KafkaLog) -> None:
    topic = made(lost)
    topic.append(b"0")
    assert len(topic.read(0)) == 1
    readers = lost.fetchers.readers
    with readers.lend(topic.name) as first:
        pass
    with readers.lend(topic.name) as again:
        assert again is first


def test_a_client_is_lost_when_others_found_a_broker_long_ago(
    lost: KafkaLog, fencing: Fencing, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, watch = made(lost), BrokerWatch()
    consumer = lost.cluster.consumer(group_id="any")
    consumer.list_topics(topic.name, timeout=PATIENCE)
    assert not watch.is_lost(consumer, topic.name)
    fencing.tell(topic.name)
    assert not watch.is_lost(consumer, topic.name)
    monkeypatch.setattr("eventlog.kafka.forgotten._LOST_SECONDS", 0.0)
    assert watch.is_lost(consumer, topic.name)
    consumer.close()


class Idle(Sender):
    """One that has nothing but, perhaps, a broker."""

    def __init__(self) -> None:
        self.usable = True
        self.is_lost = False

    @property
    def has_broker(self) -> bool:
        return not self.is_lost


@pytest.mark.parametrize("is_lost", [False, True])
def test_with_a_sender_that_has_lost_its_broker_the_idle_ones_are_let_go_of(is_lost: bool) -> None:
    """Not with one that failed for another reason."""
    pool = Pool(lambda _: Idle())
    senders = [pool.take(Deadline(1)) for _ in range(3)]
    for sender in senders[:2]:
        pool.give_back(sender)
    senders[2].usable = False
    senders[2].is_lost = is_lost
    pool.give_back(senders[2])
    assert (pool.take(Deadline(1)) in senders) is not is_lost


def test_another_client_reads_on(
    lost: KafkaLog, fencing: Fencing, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched by the lost one is fetched again; each event is handed out once."""
    for module in ("clients", "offset_reader"):
        monkeypatch.setattr(f"eventlog.kafka.{module}._RENEWAL_SECONDS", 0.0)
    monkeypatch.setattr("eventlog.kafka.writing.pool._SURE_SECONDS", 0.0)
    monkeypatch.setattr("eventlog.kafka.forgotten._LOST_SECONDS", 0.1)
    topic = made(lost)
    topic.append_batch([b"%d" % number for number in range(1000)])
    with topic.consumer(start=EARLIEST) as consumer:
        found = [next(consumer).body]
        for number in range(1000, 1003):
            fencing.tell(topic.name)
            topic.append(b"%d" % number)
            while found[-1] != b"%d" % number:
                found.append(threads.submit(next, consumer).result(4 * SOON).body)
    assert found == [b"%d" % number for number in range(1003)]
