"""A topic that is deleted, made anew or grows under those who use it: as in a directory."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import eventlog
from eventlog import (
    DeliveryError,
    EventLog,
    EventProcessorHost,
    ProcessorOptions,
    Topic,
    TopicNotFoundError,
)

PATIENCE = 60.0
OPTIONS = ProcessorOptions(lease_duration=3, renew_interval=0.3, checkpoint="auto")


class World:
    """A log of one of the engines, opened twice: by who is watched, and by somebody else."""

    def __init__(self, location: str, store: str) -> None:
        self.log: EventLog = eventlog.open(location, lock_timeout=PATIENCE)
        self.other: EventLog = eventlog.open(location)
        self.store = store or None

    def made(self, partitions: int = 1, name: str = "") -> Topic:
        name = name or f"changes-{secrets.token_hex(4)}"
        self.other.create_topic(name, partitions=partitions)
        return self.log.topic(name)


@pytest.fixture
def world(each_engine: tuple[str, str]) -> Iterator[World]:
    """Both engines do the same."""
    found = World(*each_engine)
    with found.log, found.other:
        yield found


def until(condition: Callable[[], object]) -> None:
    """Wait for it."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def until_told(call: Callable[[], object]) -> None:
    """Wait until the call says that the topic was deleted: on a cluster within a second."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            call()
        except TopicNotFoundError:
            return
    raise AssertionError


def grow(world: World, topic: Topic) -> None:
    """Somebody else gives the topic one more partition."""
    with pytest.warns(UserWarning, match="keys move"):
        world.other.topic(topic.name).add_partitions(1)


def test_a_producer_sends_to_partitions_that_were_added(world: World) -> None:
    """As soon as it has noticed; and at once if it is told to."""
    topic = world.made()
    with topic.producer() as producer:
        assert producer.send(b"0").result(PATIENCE).partition == 0
        grow(world, topic)
        assert producer.send(b"there", partition=1).result(PATIENCE).partition == 1
        until(lambda: producer.send(b"next").result(PATIENCE).partition == 1)


@pytest.mark.parametrize("name", [None, "me"], ids=["plain", "named"])
def test_a_producer_is_told_that_its_topic_was_deleted(world: World, name: Any) -> None:
    """And then stores nothing in another one of that name."""
    topic = world.made()
    producer = topic.producer(producer_id=name)
    sequences = itertools.count(1)

    def send() -> None:
        sequence = next(sequences) if name else None
        producer.send(b"", sequence=sequence).result(PATIENCE)

    send()
    world.other.delete_topic(topic.name)
    again = world.made(name=topic.name)
    until_told(send)
    stored = again.partition_info(0).next_offset
    with pytest.raises((TopicNotFoundError, DeliveryError)):
        send()
    assert again.partition_info(0).next_offset == stored


def test_a_transaction_goes_to_the_topic_that_has_the_name_now(world: World) -> None:
    """Who names one that was held is told that it is gone."""
    topic = world.made()
    with world.log.transaction() as tx:
        tx.append(topic.name, b"first")
    world.other.delete_topic(topic.name)
    again = world.made(name=topic.name)
    with world.log.transaction() as tx:
        tx.append(topic.name, b"second")
    assert [event.body for event in again.read(0)] == [b"second"]

    def append_to_the_former() -> None:
        with world.log.transaction() as tx:
            tx.append(topic, b"third")

    until_told(append_to_the_former)
    world.other.delete_topic(topic.name)
    with pytest.raises(TopicNotFoundError), world.log.transaction() as tx:
        tx.append(topic.name, b"fourth")


def test_a_host_goes_on_with_a_topic_that_grows_is_deleted_and_made_anew(world: World) -> None:
    """From the beginning of what is new; while there is none it waits."""
    topic = world.made()
    handled: list[bytes] = []
    host = EventProcessorHost(
        topic,
        group="group",
        handler=lambda _, events: handled.extend(event.body for event in events),
        store=world.store,
        options=OPTIONS,
    )
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(host.run_sync)
        run.add_done_callback(lambda _: ended.set())
        try:
            topic.append(b"first")
            until(lambda: handled == [b"first"])
            grow(world, topic)
            world.other.topic(topic.name).append(b"second", partition=1)
            until(lambda: handled == [b"first", b"second"])
            world.other.delete_topic(topic.name)
            until(lambda: host.status().health == "lapsed" or not host.status().partitions)
            assert not ended.is_set()
            world.made(2, name=topic.name).append(b"third", partition=0)
            until(lambda: handled == [b"first", b"second", b"third"])
        finally:
            host.stop()
        run.result(PATIENCE)
