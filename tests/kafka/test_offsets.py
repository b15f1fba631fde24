"""Offsets that a cluster is asked for: of partitions, and of Kafka's own groups."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Producer, TopicPartition

from eventlog import EventLog, LogBusyError, PartitionNotFoundError, TopicNotFoundError
from eventlog.kafka.cluster import EARLIEST, LATEST, Cluster
from eventlog.kafka.deadline import Deadline
from tests.kafka.writing import as_kafka, made
from tests.servers.kafka import Kafka

IMPATIENT = 0.5  # seconds, where an answer is not to come


@pytest.fixture
def cluster(kafka_log: EventLog) -> Cluster:
    return as_kafka(kafka_log).cluster


@pytest.fixture
def name(kafka_log: EventLog) -> str:
    """Of a topic with four partitions."""
    return made(kafka_log, partitions=4).name


def test_offsets_of_partitions_are_found_in_one_look(
    name: str, kafka_log: EventLog, kafka: Kafka, cluster: Cluster
) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(3):
        producer.produce(name, b"%d" % number, partition=1)
    assert producer.flush(10) == 0
    asked = [(1, EARLIEST), (1, LATEST), (0, LATEST), (1, 0), (1, 2**42), (1, LATEST)]
    found = cluster.offsets(name, asked)
    assert [at.offset for at in found] == [0, 3, 0, 0, -1, 3]
    assert cluster.offsets(name, []) == []
    topic = kafka_log.topic(name)
    assert topic.offset_at(1, "-1h") == 0
    assert topic.offset_at(1, datetime.now(UTC) + timedelta(hours=1)) == 3
    assert (topic.offset_at(1, "earliest"), topic.offset_at(1, "latest")) == (0, 3)


def test_offsets_of_what_is_not_there_are_an_error_at_once(name: str, cluster: Cluster) -> None:
    started = time.monotonic()
    with pytest.raises(PartitionNotFoundError, match="no partition 4"):
        cluster.offsets(name, [(0, LATEST), (4, LATEST)])
    with pytest.raises(TopicNotFoundError):
        cluster.offsets(uuid.uuid4().hex, [(0, LATEST)])
    assert time.monotonic() - started < cluster.settings.timeout / 2


def test_a_commit_can_be_waited_for_until_readers_see_it(
    name: str, kafka: Kafka, cluster: Cluster
) -> None:
    """Kafka answers before it has written the markers; an open transaction hides what follows."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": name})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(name, b"", partition=0)
    assert producer.flush(10) == 0
    assert not cluster.until_visible(name, {0: 1}, Deadline(IMPATIENT))
    producer.commit_transaction(10)
    assert cluster.until_visible(name, {0: 1}, Deadline(10))
    assert cluster.until_visible(name, {}, Deadline(10))


def test_offsets_of_kafkas_own_groups_are_found_with_their_metadata(
    name: str, cluster: Cluster
) -> None:
    """Those that are committed with events as well."""
    group = uuid.uuid4().hex
    assert cluster.committed(group, name, [0, 1]) == {}
    consumer = cluster.consumer(group_id=group)
    consumer.commit(offsets=[TopicPartition(name, 1, 7, "said")], asynchronous=False)
    assert cluster.committed(group, name, [0, 1]) == {1: (7, "said")}
    producer = cluster.producer(transactional_id=group)
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.send_offsets_to_transaction(
        [TopicPartition(name, 1, 8, "more")], consumer.consumer_group_metadata(), 10
    )
    with pytest.raises(LogBusyError, match=f"Kafka group '{group}'"):
        cluster.committed(group, name, [1], timeout=IMPATIENT)
    assert cluster.committed(group, name, [1], stable=False) == {1: (7, "said")}
    producer.commit_transaction(10)
    assert cluster.committed(group, name, [1]) == {1: (8, "more")}
    consumer.close()


def test_offsets_of_many_groups_are_asked_for_by_few_clients(name: str, cluster: Cluster) -> None:
    """From many threads; each client costs some."""

    def ask(number: int) -> None:
        assert cluster.committed(f"{name}-{number % 20}", name, [0]) == {}

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(80)))
    assert len(cluster._group_readers._idle) == 16


def test_a_coordinator_that_was_restarted_is_asked_again(
    name: str, kafka: Kafka, cluster: Cluster
) -> None:
    """The request that administrators have for it would crash the process."""
    assert cluster.committed(name, name, [0]) == {}
    kafka.crash()
    kafka.start()
    assert cluster.committed(name, name, [0], timeout=30) == {}
    assert cluster.committed(uuid.uuid4().hex, name, [0], timeout=30) == {}
