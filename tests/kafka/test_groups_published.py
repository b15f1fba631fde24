"""Checkpoints that are shown to Kafka's own tools, as offsets of the group of the same name."""

from __future__ import annotations

import contextlib
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import TopicPartition
from msgspec.structs import replace

import eventlog
from eventlog import EARLIEST, EventLog, ProcessorOptions, Topic
from eventlog.groups.documents import GroupDocument, StoredCheckpoint
from eventlog.kafka.groups.checkpoint import Place as CheckpointPlace
from eventlog.kafka.groups.published import PublishedCheckpoints
from eventlog.kafka.later import Later
from tests.servers import kafka_tools
from tests.servers.kafka import Kafka
from tests.servers.programs import require

PATIENCE = 60.0
GROUP = "fraud"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventlog.kafka.groups.published._EVERY", 0.01)
    monkeypatch.setattr("eventlog.kafka.groups.published._AFTER_A_FAILURE", 0.05)


class Place:
    """A topic of 5 events in each of two partitions, on a log that publishes checkpoints."""

    def __init__(self, log: EventLog, kafka: Kafka) -> None:
        self.log = log
        self.kafka = kafka
        self.cars: Topic = log.create_topic(f"cars-{secrets.token_hex(4)}", partitions=2)
        self.alerts: Topic = log.create_topic(f"alerts-{secrets.token_hex(4)}", partitions=1)
        for partition in range(2):
            self.cars.append_batch([b"%d" % number for number in range(5)], partition=partition)
        self.group = f"{GROUP}-{secrets.token_hex(4)}"

    @contextlib.contextmanager
    def plain_client(self, group: str = "") -> Iterator[confluent_kafka.Consumer]:
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self.kafka.bootstrap,
                "group.id": group or self.group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()

    def shown(self) -> list[int]:
        """The offsets of the Kafka group; -1001 for none."""
        with self.plain_client() as client:
            places = [TopicPartition(self.cars.name, partition) for partition in range(2)]
            return [place.offset for place in client.committed(places, timeout=PATIENCE)]

    def until_shown(self, *expected: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := self.shown()) != [*expected]:
            assert time.monotonic() < deadline, f"still {found}, not {expected}"


@pytest.fixture
def place(kafka: Kafka, opened: Callable[..., EventLog]) -> Iterator[Place]:
    with opened(publish_checkpoints=True) as log:
        yield Place(log, kafka)


def by_a_consumer(place: Place) -> None:
    with place.cars.consumer(group=place.group, partitions=0, max_wait=0) as consumer:
        for _ in range(3):
            next(consumer)
        consumer.checkpoint()


def by_a_consumers_transaction(place: Place) -> None:
    with place.cars.consumer(group=place.group, partitions=0, max_wait=0) as consumer:
        for _ in range(3):
            next(consumer)
        with consumer.transaction() as tx:
            tx.append(place.alerts, b"a")


def by_anybodys_transaction(place: Place) -> None:
    with place.log.transaction() as tx:
        tx.checkpoint(place.cars, place.group, partition=0, offset=2)


def by_a_handler(place: Place, **kind: Any) -> None:
    options = ProcessorOptions(max_batch=3, max_wait=0.05, **kind)
    done = threading.Event()

    async def handle(context: Any, events: Any) -> None:
        if context.partition == 0 and not done.is_set():
            if not kind:
                await context.checkpoint()
            done.set()

    host = eventlog.EventProcessorHost(
        place.cars, group=place.group, handler=handle, options=options
    )
    thread = threading.Thread(target=host.run_sync)
    thread.start()
    assert done.wait(PATIENCE)
    if not kind:
        host.stop()
    else:
        place.until_shown(5, 5)
        host.stop()
    thread.join(PATIENCE)


@pytest.mark.parametrize(
    "move",
    [by_a_consumer, by_a_consumers_transaction, by_anybodys_transaction],
)
def test_a_checkpoint_is_an_offset_of_the_kafka_group_of_that_name(
    place: Place, move: Callable[[Place], None]
) -> None:
    move(place)
    place.until_shown(3, -1001)


def test_checkpoints_of_hosts_are_offsets_too(place: Place) -> None:
    by_a_handler(place)
    place.until_shown(3, 0)


def test_automatic_checkpoints_are_offsets_too(place: Place) -> None:
    by_a_handler(place, checkpoint="auto", checkpoint_interval=0.01)


def test_kafkas_own_tool_shows_the_lag(place: Place) -> None:
    require(kafka_tools.missing())
    by_a_consumer(place)
    place.cars.group(place.group).reset(4, partitions=[1])
    place.until_shown(3, 4)
    printed = kafka_tools.consumer_groups(
        place.kafka.bootstrap, "--describe", "--group", place.group
    )
    rows = [line.split()[:6] for line in printed.splitlines() if place.cars.name in line]
    assert sorted(rows) == [
        [place.group, place.cars.name, "0", "3", "5", "2"],
        [place.group, place.cars.name, "1", "4", "5", "1"],
    ]


def test_only_a_reset_moves_it_back(place: Place) -> None:
    by_a_consumer(place)
    place.until_shown(3, -1001)
    place.cars.group(place.group).reset(EARLIEST)
    place.until_shown(0, 0)


def test_of_one_reset_the_furthest_counts_in_whatever_order_they_come(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets: queue.Queue[int] = queue.Queue()
    later = Later()
    published = PublishedCheckpoints(place.log.cluster, later)  # type: ignore[attr-defined]

    def commit(group: str, places: list[tuple[object, int]]) -> None:
        for _, offset in places:
            offsets.put(offset)

    monkeypatch.setattr(published, "_commit", commit)
    fraud = CheckpointPlace("cars", "fraud", 0)
    group = GroupDocument(generation=0, log="log", topic="cars", group="1")
    first = StoredCheckpoint.first(group, 4, datetime.now(UTC))
    for offset, reset, shown in ((4, 0, 5), (2, 0, None), (4, 0, None), (1, 1, 2), (3, 1, 4)):
        published.note(fraud, replace(first, offset=offset, reset=reset))
        if shown is not None:
            assert offsets.get(timeout=PATIENCE) == shown
    published.close()
    assert offsets.empty()


def test_it_is_not_done_unless_it_is_asked_for(
    place: Place, opened: Callable[..., EventLog]
) -> None:
    with opened() as log:
        place.log, cars = log, place.cars
        place.cars = log.topic(cars.name)
        by_a_consumer(place)
        by_anybodys_transaction(place)
    place.cars = cars
    assert place.shown() == [-1001, -1001]


def test_what_is_noted_is_shown_before_the_log_is_closed(
    place: Place, opened: Callable[..., EventLog]
) -> None:
    with opened(publish_checkpoints="true") as log:
        log.topic(place.cars.name).group(place.group).reset(2)
    assert place.shown() == [2, 2]


def test_who_moves_the_kafka_group_moves_nobody(place: Place) -> None:
    by_anybodys_transaction(place)
    place.until_shown(3, -1001)
    with place.plain_client() as client:
        client.commit(offsets=[TopicPartition(place.cars.name, 0, 0)], asynchronous=False)
    with place.cars.consumer(group=place.group, partitions=0, max_wait=0) as consumer:
        assert [event.body for event in consumer] == [b"3", b"4"]
        consumer.checkpoint()
    place.until_shown(5, -1001)


def test_a_group_that_takes_no_offsets_is_complained_of_once_and_checkpoints_go_on(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with place.plain_client() as member, caplog.at_level(logging.WARNING, "eventlog"):
        assigned = threading.Event()
        member.subscribe([place.cars.name], on_assign=lambda *_: assigned.set())
        deadline = time.monotonic() + PATIENCE
        while not assigned.is_set():
            assert time.monotonic() < deadline
            member.poll(0.1)
        with place.cars.consumer(group=place.group, partitions=0, max_wait=0) as consumer:
            for _ in consumer:
                consumer.checkpoint()
        while not caplog.messages:
            assert time.monotonic() < deadline
            member.poll(0.01)
        assert place.cars.group(place.group).checkpoints()[0].offset == 4
    place.until_shown(5, -1001)
    (message,) = caplog.messages
    assert place.group in message
    assert "\n" not in message


def test_a_cluster_that_does_not_answer_holds_up_no_checkpoint(place: Place) -> None:
    with place.cars.consumer(group=place.group, partitions=0, max_wait=0) as consumer:
        next(consumer)
        place.kafka.pause()
        begun = time.monotonic()
        consumer.checkpoint()
        took = time.monotonic() - begun
        place.kafka.resume()
    assert took < 2
    place.until_shown(1, -1001)


def test_a_log_is_closed_soon_though_the_cluster_does_not_answer(
    place: Place, opened: Callable[..., EventLog]
) -> None:
    log = opened(publish_checkpoints=True)
    with log.topic(place.cars.name).consumer(group=place.group, max_wait=0) as consumer:
        next(consumer)
        place.kafka.pause()
        consumer.checkpoint()
    begun = time.monotonic()
    log.close()
    took = time.monotonic() - begun
    place.kafka.resume()
    assert took < 5
