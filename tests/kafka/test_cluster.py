"""A cluster as a log sees it: topics, what is remembered of them, and time limits."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import (
    EventLog,
    EventLogError,
    InvalidNameError,
    LogBusyError,
    LogNotFoundError,
    PartitionNotFoundError,
    TopicExistsError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.kafka.catalog import CATALOG, Catalog
from eventlog.kafka.cluster import LATEST, Cluster
from eventlog.kafka.engine import KafkaLog
from eventlog.kafka.librdkafka import reporting
from eventlog.kafka.location import parse_location
from eventlog.kafka.topic import KafkaTopic
from eventlog.partitioning import PARTITIONERS
from eventlog.positions import instant
from tests.kafka.writing import PATIENCE
from tests.servers.kafka import Kafka
from tests.servers.kafka_mock import MockCluster

IMPATIENT = 0.5  # seconds, where an answer is not to come
names = (f"test-{os.urandom(4).hex()}-{number}" for number in itertools.count())


@pytest.fixture
def log(kafka: Kafka) -> Iterator[KafkaLog]:
    with eventlog.open(kafka.location) as log:
        assert isinstance(log, KafkaLog)
        yield log


@pytest.fixture
def other(kafka: Kafka) -> Iterator[KafkaLog]:
    """The same log, as another process sees it."""
    with eventlog.open(kafka.location) as log:
        assert isinstance(log, KafkaLog)
        yield log


def state_of(log: EventLog, name: str) -> KafkaTopic:
    topic = log.topic(name)
    assert isinstance(topic, KafkaTopic)
    return topic


# Opening


def test_a_log_is_the_same_for_all_who_open_it(log: KafkaLog, other: KafkaLog) -> None:
    assert log.id == other.id
    assert len(log.id) == 36
    assert log.location == other.location


def test_where_no_cluster_answers_there_is_no_log() -> None:
    """Whatever the reason, one line names the place and what to look at."""
    for place in ("127.0.0.1:1", "no-such-host.invalid:9092"):
        with pytest.raises(LogNotFoundError, match="no cluster answered at") as raised:
            eventlog.open(f"kafka://{place}", timeout=IMPATIENT)
        assert f"kafka://{place}" in str(raised.value)
        assert "check the address, that it runs" in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_log_opened_to_be_read_is_not_written_to(kafka: Kafka, log: KafkaLog) -> None:
    name = next(names)
    log.create_topic(name)
    with eventlog.open(kafka.location, read_only=True) as reader:
        topic = reader.topic(name)
        assert reader.create_topic(name, exist_ok=True).id == topic.id
        for call in (
            lambda: reader.create_topic(next(names)),
            lambda: reader.delete_topic(name),
            lambda: topic.configure(retention=60),
            lambda: topic.add_partitions(1),
            lambda: topic.append(b""),
            lambda: topic.append_batch([b""]),
            topic.producer,
            reader.transaction,
        ):
            with pytest.raises(UnsupportedOperationError, match="read_only"):
                call()


def test_what_brokers_do_themselves_is_declined_with_a_reason(log: KafkaLog) -> None:
    topic = log.create_topic(next(names))
    for call, hint in (
        (log.check, "brokers check"),
        (log.compact, "brokers give"),
        (lambda: log.backup("anywhere"), "eventlog copy"),
        (topic.expire, "brokers"),
        (lambda: log.blobs, "blobs="),
        (lambda: topic.group("g"), "store="),
        (lambda: topic.consumer(group="g"), "store="),
    ):
        with pytest.raises(UnsupportedOperationError, match=hint):
            call()


# Topics


def test_a_topic_is_made_for_what_was_asked(kafka: Kafka, log: KafkaLog) -> None:
    """So that another program sees the same."""
    name = next(names)
    topic = log.create_topic(
        name,
        partitions=3,
        retention=timedelta(hours=1),
        retention_bytes=10**9,
        compression="none",
        max_event_bytes=5,
    )
    config = log.cluster.configs([name])[name]
    assert config["retention.ms"] == "3600000"
    assert config["retention.bytes"] == "1000000000"
    assert config["compression.type"] == "uncompressed"
    assert config["message.timestamp.type"] == "LogAppendTime"
    assert int(config["max.message.bytes"]) == 2**20 + 5
    for one in (topic, log.topic(name)):
        assert (one.partitions, one.retention) == (3, timedelta(hours=1))
        assert (one.retention_bytes, one.compression) == (10**9, "none")
        assert (one.max_event_bytes, one.partitioner) == (5, "eventhubs")
        assert abs(one.created_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert one.id == topic.id
    assert len(topic.id) == 32


def test_what_kafka_cannot_remember_is_remembered_in_the_cluster(
    log: KafkaLog, other: KafkaLog
) -> None:
    name = next(names)
    made = log.create_topic(name, partitioner="kafka")
    found = other.topic(name)
    assert (found.partitioner, found.created_at) == ("kafka", made.created_at)
    assert CATALOG in log.cluster.names()
    assert CATALOG not in [topic.name for topic in log.topics()]


def test_a_partitioner_of_ones_own_is_remembered_by_its_name(
    log: KafkaLog, other: KafkaLog
) -> None:
    name = next(names)
    log.create_topic(name, partitioner=to_the_last)
    assert state_of(other, name).state.partitioner is None
    again = other.create_topic(name, partitioner=to_the_last, exist_ok=True)
    assert isinstance(again, KafkaTopic)
    placed = again.state.partitioner
    assert placed is not None
    assert placed.partition("key") == 3


def to_the_last(_key: bytes, partitions: int) -> int:
    return partitions - 1


def test_a_topic_of_another_program_places_keys_as_kafkas_clients_do(
    kafka: Kafka, log: KafkaLog
) -> None:
    name = kafka.create_topic(partitions=2, retention_ms=1000)
    topic = log.topic(name)
    assert (topic.partitioner, topic.partitions) == ("kafka", 2)
    assert topic.retention == timedelta(seconds=1)
    assert topic.created_at == datetime(1970, 1, 1, tzinfo=UTC)
    assert 2**20 - 2**14 < topic.max_event_bytes < 2**20 + 12
    assert "kafka" in PARTITIONERS
    with pytest.raises(TopicExistsError, match=r"'kafka'.*'eventhubs'"):
        log.create_topic(name, partitions=2, exist_ok=True)


def test_a_topic_that_is_there_is_taken_if_it_is_as_wanted(log: KafkaLog, other: KafkaLog) -> None:
    name = next(names)
    made = log.create_topic(name, partitions=2, retention=60)
    assert other.create_topic(name, partitions=2, retention=60, exist_ok=True).id == made.id
    with pytest.raises(TopicExistsError, match="exists"):
        other.create_topic(name, partitions=2)
    with pytest.raises(TopicExistsError, match="2 partitions"):
        other.create_topic(name, partitions=3, exist_ok=True)
    with pytest.warns(UserWarning, match="retention is 1m, not 2m"):
        other.create_topic(name, partitions=2, retention=120, exist_ok=True)


def test_of_many_who_make_a_topic_at_once_one_makes_it_and_all_have_it(kafka: Kafka) -> None:
    """And nobody takes it for another program's, however early it is seen."""
    name = next(names)
    barrier = threading.Barrier(4)

    def make(_number: int) -> tuple[str, str]:
        with eventlog.open(kafka.location) as log:
            barrier.wait(30)
            topic = log.create_topic(name, exist_ok=True)
            return topic.id, topic.partitioner

    with ThreadPoolExecutor(4) as threads:
        made = set(threads.map(make, range(4)))
    assert len(made) == 1
    ((_, partitioner),) = made
    assert partitioner == "eventhubs"


def test_a_topic_whose_maker_died_before_it_wrote_that_down_is_known_all_the_same(
    log: KafkaLog, other: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was going to be stands in the cluster before the topic does."""

    def die(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Catalog, "settle", die)
    name = next(names)
    with pytest.raises(KeyboardInterrupt):
        log.create_topic(name, partitioner="eventhubs")
    assert other.topic(name).partitioner == "eventhubs"
    assert other.create_topic(name, exist_ok=True).partitioner == "eventhubs"


def test_what_was_proposed_and_not_made_decides_of_no_topic_of_others(
    log: KafkaLog, other: KafkaLog
) -> None:
    """Nor of one that is made here much later, by a process that died as well."""
    name = next(names)
    now_us = log.now_us()
    log._catalog.propose(name, "eventhubs", now_us - 3 * 3600 * 10**6)
    log.cluster.create_topic(name, 1, {}, None)
    assert other.topic(name).partitioner == "kafka"
    log.cluster.delete_topic(name)
    log._catalog.propose(name, "eventhubs", now_us - 1)
    log._catalog.propose(name, "kafka", now_us)
    log.cluster.create_topic(name, 1, {"message.timestamp.type": "LogAppendTime"}, None)
    made = other.topic(name)
    assert (made.partitioner, made.created_at) == ("eventhubs", instant(now_us - 1))


def test_what_was_not_made_leaves_nothing_behind(log: KafkaLog, other: KafkaLog) -> None:
    name = next(names)
    log.create_topic(name)
    for _ in range(2):
        with pytest.raises(TopicExistsError):
            log._make(state_of(log, name).state.record, exist_ok=False)
    log.delete_topic(name)
    (found,) = other._catalog.of([other.cluster.look_up(CATALOG)], {})
    assert found is None
    assert not [key for key in other._catalog._records if key.startswith(name.encode())]


def test_changed_settings_are_seen_though_brokers_show_them_late(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hear of them from the controller."""
    topic = log.create_topic(next(names), max_event_bytes=1000)
    shown = log.cluster.configs
    late = [shown([topic.name])] * 4

    def looked(names: list[str], **options: float) -> dict[str, dict[str, str]]:
        return late.pop() if late else shown(names, **options)

    monkeypatch.setattr(log.cluster, "configs", looked)
    topic.configure(max_event_bytes=100)
    assert topic.max_event_bytes == 100


def test_settings_are_changed_though_no_broker_says_so(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time; whether it is so is said by the next look."""
    topic = log.create_topic(next(names), max_event_bytes=1000)
    set_configs, shown = log.cluster.set_configs, log.cluster.configs

    def silent(*_: object, **__: object) -> dict[str, dict[str, str]]:
        raise LogBusyError("no answer")

    def change(name: str, changes: dict[str, str]) -> None:
        monkeypatch.setattr(log.cluster, "configs", silent)
        set_configs(name, changes)
        monkeypatch.setattr(log.cluster, "configs", shown)

    monkeypatch.setattr("eventlog.kafka.cluster._SHOWN_SECONDS", 0.01)
    monkeypatch.setattr(log.cluster, "set_configs", change)
    topic.configure(max_event_bytes=100)
    assert topic.max_event_bytes == 100


def test_what_a_callback_raises_is_raised_by_who_had_it_called(kafka: Kafka, log: KafkaLog) -> None:
    """Ctrl-C, say: it is neither lost nor taken for an error of the cluster."""
    topic = kafka.create_topic(partitions=1)
    producer = log.cluster.producer()

    @reporting
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    @reporting
    def broken(*_: object) -> None:
        raise ValueError

    for callback in (broken, interrupted, broken):
        producer.produce(topic, b"", on_delivery=callback)
    with pytest.raises(KeyboardInterrupt):
        producer.flush(PATIENCE)
    assert producer.flush(PATIENCE) == 0


def test_a_topic_made_anew_by_another_program_is_another_programs(
    kafka: Kafka, log: KafkaLog
) -> None:
    name = next(names)
    old = log.create_topic(name, partitions=1)
    log.cluster.delete_topic(name)
    log.cluster.create_topic(name, 1, {}, None)
    assert log.topic(name).partitioner == "kafka"
    assert log.topic(name).id != old.id


def test_names_the_cluster_keeps_for_itself_are_refused(log: KafkaLog) -> None:
    for call in (log.create_topic, log.topic, log.delete_topic):
        with pytest.raises(InvalidNameError, match="'__eventlog'"):
            call(CATALOG)


def test_names_that_collide_in_kafka_are_refused_by_it(log: KafkaLog) -> None:
    """It takes '.' and '_' for the same in the names of its metrics."""
    name = next(names).replace("-", ".")
    log.create_topic(name)
    with pytest.raises(InvalidNameError, match="collides"):
        log.create_topic(name.replace(".", "_"))


def test_more_replicas_than_brokers_are_refused(kafka: Kafka) -> None:
    with (
        eventlog.open(kafka.location, replication_factor=3) as log,
        pytest.raises(UnsupportedOperationError, match="only 1 broker"),
    ):
        log.create_topic(next(names))


def test_who_holds_a_topic_sees_within_a_second_what_others_changed(
    log: KafkaLog, other: KafkaLog
) -> None:
    name = next(names)
    mine, theirs = state_of(log, name_of(log, name)), state_of(other, name)
    with pytest.warns(UserWarning, match="keys move"):
        theirs.add_partitions(1)
    theirs.configure(max_event_bytes=7, retention=5)
    assert mine.partition(4) == 4
    assert (mine.partitions, mine.max_event_bytes) == (5, 7)
    assert mine.retention == timedelta(seconds=5)
    with pytest.raises(PartitionNotFoundError, match="no partition 5"):
        mine.partition(5)
    other.delete_topic(name)
    with pytest.raises(TopicNotFoundError):
        mine.refresh()
    other.create_topic(name)
    mine._seen -= 1.0
    with pytest.raises(TopicNotFoundError, match="was deleted"):
        mine.current()


def name_of(log: EventLog, name: str) -> str:
    return log.create_topic(name).name


def test_nothing_is_asked_of_the_cluster_while_a_topic_is_freshly_known(
    log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appends and reads look each time."""
    topic = state_of(log, name_of(log, next(names)))
    before = topic.current()
    monkeypatch.setattr(Cluster, "look_up", None)
    topic._seen = time.monotonic()
    assert topic.current() is before


def test_a_cluster_without_a_controller_has_topics_all_the_same(mock_cluster: MockCluster) -> None:
    """The mock of librdkafka is one: what goes by data works, and the rest says so at once."""
    name = mock_cluster.create_topic(3)
    with eventlog.open(mock_cluster.location) as log:
        assert [topic.name for topic in log.topics()] == [name]
        topic = state_of(log, name)
        assert len(topic.id) == 32
        assert (topic.partitions, topic.partitioner) == (3, "kafka")
        assert topic.refresh().record == topic.state.record
        assert topic.offset_at(2, "latest") == 0
        with pytest.raises(TopicNotFoundError):
            log.topic(next(names))
        started = time.monotonic()
        for call in (lambda: log.create_topic(next(names)), lambda: log.delete_topic(name)):
            with pytest.raises(UnsupportedOperationError, match="no controller"):
                call()
        assert time.monotonic() - started < IMPATIENT


# Time limits


def test_a_broker_that_does_not_answer_is_waited_for_no_longer_than_said(
    kafka: Kafka, log: KafkaLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked; and the error says what, of whom and how long."""
    topic = state_of(log, name_of(log, next(names)))
    cluster = topic.log.cluster
    hurried = dataclasses.replace(log.settings, timeout=IMPATIENT)
    monkeypatch.setattr(cluster, "settings", hurried)
    kafka.pause()
    try:
        for call in (
            lambda: cluster.offsets(topic.name, [(0, LATEST), (0, 0)]),
            lambda: cluster.committed("group", topic.name, [0]),
            lambda: cluster.configs([topic.name]),
            lambda: cluster.describe([topic.name]),
            log.topics,
            lambda: log.topic(topic.name),
            lambda: log.create_topic(next(names)),
            lambda: log.delete_topic(topic.name),
            lambda: topic.configure(retention=1),
            lambda: topic.add_partitions(1),
            topic.refresh,
            lambda: topic.offset_at(0, "-1h"),
        ):
            started = time.monotonic()
            with pytest.raises(LogBusyError, match=r"no answer from kafka://.* within 0.5 s"):
                call()
            assert time.monotonic() - started < 10 * IMPATIENT
    finally:
        kafka.resume()
    monkeypatch.undo()
    end = time.monotonic() + 60
    while True:
        try:
            assert topic.refresh().record.name == topic.name
        except LogBusyError:
            assert time.monotonic() < end
        else:
            return


def test_a_broker_that_comes_back_is_found_again(kafka: Kafka) -> None:
    with eventlog.open(kafka.location, timeout=30) as log:
        assert isinstance(log, KafkaLog)
        topic = state_of(log, name_of(log, next(names)))
        kafka.crash()
        with pytest.raises(LogBusyError, match="refused"):  # the reason, where there is one
            log.cluster.look_up(topic.name, timeout=3)
        kafka.start()
        assert topic.refresh().record.id == topic.id
        assert topic.offset_at(0, "latest") == 0


# Logins and settings


def test_a_password_nobody_asks_for_is_refused_at_once_and_not_shown(kafka: Kafka) -> None:
    with pytest.raises(EventLogError, match="this port takes no login") as raised:
        eventlog.open(f"kafka://me:s3cr3t@127.0.0.1:{kafka.port}", timeout=20)
    assert "s3cr3t" not in str(raised.value)


def test_settings_are_of_the_cluster_not_of_a_directory(tmp_path: Path) -> None:
    assert parse_location("//broker", {}).place == "kafka://broker:9092"
    with pytest.raises(ValueError, match="durability"):
        eventlog.open("kafka://127.0.0.1:1", durability="paper")  # type: ignore[arg-type]
