"""The broker stands still, or is killed, under all who use a log: nothing is lost, nobody hangs."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

import eventlog
from eventlog import LATEST, Event, EventLog, LogBusyError, Topic
from eventlog.kafka.engine import KafkaLog
from tests.kafka.reading import made, until
from tests.kafka.survival import PATIENCE, Scene, follow
from tests.servers.kafka import Kafka

HURRY: Final = 0.5
"""Seconds that a call may take where nothing answers."""

SOON: Final = 10.0
"""Seconds in which it has ended then, on a machine that has much else to do."""


@contextlib.contextmanager
def paused(kafka: Kafka) -> Iterator[None]:
    """A block in which the broker does not answer."""
    kafka.pause()
    try:
        yield
    finally:
        kafka.resume()


@contextlib.contextmanager
def hurried(log: KafkaLog, kafka: Kafka) -> Iterator[None]:
    """A block in which the broker does not answer, and calls on the log give up soon.

    Where it does answer half a second may be too little, on a machine that has much else to do.
    """
    short = replace(log.settings, timeout=HURRY, lock_timeout=HURRY)
    with paused(kafka), pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "settings", short)
        patch.setattr(log.cluster, "settings", short)
        yield


# Everything at once


def scene(kafka: Kafka, directory: Path) -> Any:
    """A log in full use."""
    store = f"file:{directory / 'store'}"
    log = eventlog.open(kafka.location, timeout=2, lock_timeout=20, blobs=store)
    stack = contextlib.ExitStack()
    stack.enter_context(log)
    stack.enter_context(contextlib.closing(stack))
    return stack, stack.enter_context(Scene(log, store))


@pytest.mark.soak
def test_whoever_uses_a_log_goes_on_when_the_broker_was_away(kafka: Kafka, tmp_path: Path) -> None:
    """For longer than a call may take, and killed: what was acknowledged is there, transactions
    whole, and everybody has read and processed everything once.
    """
    stack, everybody = scene(kafka, tmp_path)
    with stack:
        everybody.until_all_got_on()
        with paused(kafka):
            everybody.until(lambda: all(host.health == "degraded" for host in everybody.hosts))
            started = time.monotonic()
            everybody.until(lambda: time.monotonic() - started > 3)
        everybody.until_all_got_on()
        kafka.crash()
        kafka.start()
        everybody.until_all_got_on()
        everybody.check()


@pytest.mark.soak
def test_whoever_uses_a_log_goes_on_however_often_the_broker_is_away(
    kafka: Kafka, tmp_path: Path
) -> None:
    """At moments and for times that nobody has chosen."""
    chance = random.Random(20261122)
    stack, everybody = scene(kafka, tmp_path)
    with stack:
        for _ in range(20):
            everybody.until_all_got_on()
            away = time.monotonic() + chance.random() * 6
            if chance.random() < 0.5:
                with paused(kafka):
                    everybody.until(lambda away=away: time.monotonic() > away)
            else:
                kafka.crash()
                everybody.until(lambda away=away: time.monotonic() > away)
                kafka.start()
        everybody.until_all_got_on()
        everybody.check()


# Time limits


def calls(log: KafkaLog, topic: Topic) -> list[tuple[str, Callable[[], object]]]:
    """What may be asked of a log and waits for the broker; and what it says it does."""

    def commit() -> None:
        with log.transaction() as tx:
            tx.append(topic, b"", partition=0)
            tx.append(topic, b"", partition=1)

    def send(**options: Any) -> None:
        with topic.producer(**options) as producer:
            producer.send(b"").result()

    def append_to_all() -> None:
        topic.append_batch([Event(b"", key=str(number)) for number in range(9)])

    topics = "(looking up|asking for offsets of) topic"
    return [
        ("appending to topic", lambda: topic.append(b"")),
        ("appending to topic", lambda: topic.append_batch([b""] * 3, partition=1)),
        ("(appending|beginning)", append_to_all),
        ("storing events of a producer", send),
        ("(registering producer 'me'|looking up topic)", lambda: send(producer_id="me")),
        ("(committing|beginning) a transaction", commit),
        (topics, lambda: topic.read(0)),
        (topics, lambda: list(topic.consumer(end=LATEST))),
        (topics, lambda: next(topic.consumer())),
        (topics, lambda: topic.partition_info(1)),
        (topics, lambda: topic.group("group").lag()),
        (topics, lambda: log.topic(topic.name)),
        ("listing topics", log.topics),
    ]


def test_no_call_waits_for_longer_than_it_may(log: KafkaLog, kafka: Kafka) -> None:
    """And each says what it was that it waited for, of whom, and how long."""
    topic = made(log, 2)
    topic.append_batch([b"0", b"1"], partition=0)
    with hurried(log, kafka):
        for doing, call in calls(log, topic):
            started = time.monotonic()
            said = rf"^{doing}.*: no answer from kafka://.* within 0(\.[0-5]\d*)? s"
            with pytest.raises(LogBusyError, match=said) as raised:
                call()
            assert time.monotonic() - started < SOON, doing
            assert "\n" not in str(raised.value)
    topic.append(b"2")


ASKED: Final = {"look_up": (), "offsets": ([(0, -1)],)}
"""What a log asks of a cluster about a topic, each in a way of its own; and what else it says."""


def test_who_asks_a_broker_that_is_gone_needs_no_processor_for_it(
    kafka: Kafka, kafka_log: EventLog
) -> None:
    """Librdkafka can be told to wait so that it takes a whole one."""
    topic = made(kafka_log)
    kafka.stop()
    began, used = time.monotonic(), time.process_time()
    for ask, more in ASKED.items():
        with pytest.raises(LogBusyError):
            getattr(topic.log.cluster, ask)(topic.name, *more, timeout=1.5)
    took = time.monotonic() - began
    assert time.process_time() - used < 0.4 * took


@pytest.mark.parametrize("ask", ASKED)
def test_a_log_is_closed_at_once_though_somebody_waits_for_the_broker(
    kafka: Kafka, ask: str
) -> None:
    """And whoever waits is told so."""
    asking = threading.Event()

    def wait_for_the_broker() -> None:
        asking.set()
        getattr(topic.log.cluster, ask)(topic.name, *ASKED[ask])

    with eventlog.open(kafka.location, timeout=PATIENCE) as log:
        topic = made(log)
        topic.append(b"0")
        following = topic.consumer()
        assert next(following).body == b"0"
        with paused(kafka), ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait_for_the_broker)
            assert asking.wait(PATIENCE)
            started = time.monotonic()
            log.close()
            assert isinstance(waiting.exception(PATIENCE), eventlog.ClosedError)
            assert time.monotonic() - started < SOON


# Who follows


@pytest.mark.parametrize("order", ["partition", "time"])
def test_a_follower_waits_for_longer_than_a_call_may_take(
    log: KafkaLog, kafka: Kafka, order: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Waiting is what it is there for: it says so once, and goes on where it was."""
    topic = made(log, 2)
    topic.append_batch([b"0"] * 3, partition=0)
    with ThreadPoolExecutor(1) as pool, topic.consumer(order=order) as consumer:
        assert [next(consumer).offset for _ in range(3)] == [0, 1, 2]
        with caplog.at_level(logging.WARNING, "eventlog"), hurried(log, kafka):
            rest = pool.submit(follow, consumer, 2)
            until(lambda: bool(waiting(caplog)))
            assert not rest.done()
        topic.append_batch([b"1"] * 2, partition=0)
        assert rest.result(PATIENCE) == [3, 4]
    (told,) = waiting(caplog)
    assert "no answer from kafka://" in told


def waiting(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of who follows, and waits."""
    words = "who follows the topic waits, and goes on where it was"
    return [told for told in list(caplog.messages) if words in told]


def test_who_reads_up_to_an_end_or_for_some_time_is_told(log: KafkaLog, kafka: Kafka) -> None:
    """And can go on later, where it was."""
    topic = made(log)
    topic.append_batch([b"0"] * 3)
    bounded = topic.consumer(end=LATEST, prefetch_bytes=1)
    patient = topic.consumer(max_wait=30, prefetch_bytes=1)
    with bounded, patient:
        assert [next(one).offset for one in (bounded, patient)] == [0, 0]
        with hurried(log, kafka):
            forget_what_was_read_ahead(topic)
            for one in (bounded, patient):
                with pytest.raises(LogBusyError, match="no answer"):
                    list(one)
        assert [event.offset for event in bounded] == [1, 2]
        assert next(patient).offset == 1


def forget_what_was_read_ahead(topic: Any) -> None:
    """As if it had not come yet."""
    fetchers = topic.log.fetchers.of(topic)
    with fetchers.mutex:
        for fetcher in fetchers._fetchers:
            fetcher.lanes.clear()


def test_a_follower_on_an_event_loop_can_be_closed_meanwhile(log: KafkaLog, kafka: Kafka) -> None:
    topic = made(log)
    topic.append(b"0")
    seen: list[int] = []

    async def main() -> None:
        async with topic.consumer() as consumer:
            seen.append((await anext(consumer)).offset)
            with anyio.fail_after(SOON), hurried(log, kafka):
                forget_what_was_read_ahead(topic)
                with anyio.move_on_after(2 * HURRY):
                    await anext(consumer)
                await consumer.close()

    anyio.run(main)
    assert seen == [0]
