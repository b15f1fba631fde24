"""Kafka through the log's own API, against confluent-kafka as it is, on one real broker.

Both sides do the same with the same broker and settings. Theirs is the fastest of what a user of
confluent-kafka can do who wants to know what became of each message: `produce_batch` of 5000 with a
callback, and where there are headers, which that does not take, `produce` with a callback; and
`consume` of 500 messages at a time (of more, Python's garbage collector makes it slower).
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import eventlog
from benchmarks.measure import Benchmark, Record, Side, compare
from benchmarks.workload import SCALE, batches
from eventlog import EventLog

_EVENTS: Final = max(int(400_000 * SCALE), 20_000)
"""Events of a turn."""

_KEYS: Final = 500
_BATCH: Final = 5000
_AT_ONCE: Final = 500
_SECONDS: Final = 60.0  # that a turn of theirs may take

_CLIENT: Final = {"acks": "all", "linger.ms": 5, "compression.type": "zstd", "log_level": 0}
_PRODUCER: Final = {
    "batch.num.messages": 10_000,
    "queue.buffering.max.messages": 2_000_000,
    "queue.buffering.max.kbytes": 2**21 - 1,
}
_CONSUMER: Final = {
    "group.id": "benchmark",
    "enable.auto.commit": False,
    "fetch.queue.backoff.ms": 10,  # a second, the default, halves its rate
    "log_level": 0,
}

_kinds = pytest.mark.parametrize("kind", ["bodies", "properties"])
_partitions = pytest.mark.parametrize("partitions", [1, 8])

_SPEEDS: Final = 180
"""So many properties differ, where they are those of other events too."""


class _Sent(NamedTuple):
    """An event, as whoever sends it has it."""

    body: bytes
    key: str | None
    properties: dict[str, str | int]


class _Place(NamedTuple):
    """A broker, and the log that is kept there."""

    bootstrap: str
    log: EventLog


@pytest.fixture(scope="module")
def place(work_directory: Path) -> Iterator[_Place]:
    """A broker of this run's own."""
    pytest.importorskip("confluent_kafka", reason="the extra `dev` has it")
    from tests.servers import kafka_jars
    from tests.servers.kafka import Kafka

    reason = kafka_jars.missing()
    if reason is not None:
        pytest.skip(reason)
    kafka = Kafka()
    try:
        with eventlog.open(kafka.location) as log:
            yield _Place(kafka.bootstrap, log)
    finally:
        kafka.close()


@_partitions
@pytest.mark.parametrize("kind", ["bodies", "properties", "unique"])
def test_publishing(
    benchmark: Benchmark, record: Record, place: _Place, kind: str, partitions: int
) -> None:
    """All is acknowledged when a turn ends."""
    events = _events(kind)
    topic = place.log.create_topic(f"publish-{kind}-{partitions}", partitions=partitions)
    producer = topic.producer()

    def bodies() -> None:
        send = producer.send
        for event in events:
            send(event.body)
        producer.flush()

    def rich() -> None:
        send = producer.send
        for event in events:
            send(event.body, key=event.key, properties=event.properties)
        producer.flush()

    ours = Side(bodies if kind == "bodies" else rich, _EVENTS)
    limit = Side(_producing(place, topic.name, events), _EVENTS)
    found = compare(benchmark, ours, limit)
    record(f"kafka-publish-{kind}-{partitions}", **found._asdict(), note=_note(found.rounds))


@_partitions
@_kinds
def test_consuming_lists(
    benchmark: Benchmark, record: Record, place: _Place, kind: str, partitions: int
) -> None:
    """Lists of events as they come, nobody looks at each."""
    _compare(benchmark, record, place, f"lists-{kind}-{partitions}", _lists)


@_partitions
@_kinds
def test_consuming_events(
    benchmark: Benchmark, record: Record, place: _Place, kind: str, partitions: int
) -> None:
    """Of each event everything is looked at that they look at."""
    _compare(benchmark, record, place, f"events-{kind}-{partitions}", _each)


def _compare(
    benchmark: Benchmark,
    record: Record,
    place: _Place,
    row: str,
    consume: Callable[[eventlog.Topic], int],
) -> None:
    _, kind, partitions = row.split("-")
    topic = _filled(place.log, kind, int(partitions))

    def ours() -> None:
        assert consume(topic) == _EVENTS

    limit = Side(_consuming(place, topic), _EVENTS)
    found = compare(benchmark, Side(ours, _EVENTS), limit)
    record(f"kafka-{row}", **found._asdict(), note=_note(found.rounds))


def _note(rounds: list[float]) -> str:
    import confluent_kafka

    return (
        f"{len(rounds)} rounds of {_EVENTS:,} events; confluent-kafka {confluent_kafka.__version__}"
    )


# Ours


def _lists(topic: eventlog.Topic) -> int:
    with topic.consumer(follow=False) as consumer:
        return sum(len(events) for events in consumer.batches())


def _each(topic: eventlog.Topic) -> int:
    count = 0
    with topic.consumer(follow=False) as consumer:
        for event in consumer:
            _ = event.body, event.key, event.properties, event.offset, event.enqueued_at
            count += 1
    return count


@functools.cache
def _events(kind: str) -> list[_Sent]:
    chance = random.Random(20130103)
    bodies = itertools.islice(itertools.cycle(batches(1)), _EVENTS)
    if kind == "bodies":
        return [_Sent(body, None, {}) for (body,) in bodies]
    speeds = _EVENTS if kind == "unique" else _SPEEDS
    return [
        _Sent(
            body, f"VIN-{chance.randrange(_KEYS):05d}", {"unit": "km/h", "speed": number % speeds}
        )
        for number, (body,) in enumerate(bodies)
    ]


def _filled(log: EventLog, kind: str, partitions: int) -> eventlog.Topic:
    """A topic with the events of a turn."""
    name = f"consume-{kind}-{partitions}"
    if name in [topic.name for topic in log.topics()]:
        return log.topic(name)
    topic = log.create_topic(name, partitions=partitions)
    with topic.producer() as producer:
        for number, event in enumerate(_events(kind)):
            properties = event.properties or None
            producer.send(
                event.body, key=event.key, properties=properties, partition=number % partitions
            )
    return topic


# Theirs


def _producing(place: _Place, topic: str, events: list[_Sent]) -> Callable[[], None]:
    import confluent_kafka

    bootstrap = {"bootstrap.servers": place.bootstrap}
    kafka: Any = confluent_kafka.Producer({**bootstrap, **_CLIENT, **_PRODUCER})
    failed: list[object] = []

    def told(error: object, _: object) -> None:
        if error is not None:
            failed.append(error)

    def finish() -> None:
        assert kafka.flush(_SECONDS) == 0
        assert not failed

    def with_headers() -> None:
        produce = kafka.produce
        for some in _parts(events):
            for event in some:
                headers = [(name, str(value)) for name, value in event.properties.items()]
                produce(topic, event.body, event.key, headers=headers, on_delivery=told)
            kafka.poll(0)
        finish()

    def without() -> None:
        for some in _parts(events):
            messages = [{"value": event.body} for event in some]
            assert kafka.produce_batch(topic, messages, on_delivery=told) == len(messages)
            kafka.poll(0)
        finish()

    return with_headers if events[0].properties else without


def _parts(events: list[_Sent]) -> Iterator[list[_Sent]]:
    for start in range(0, len(events), _BATCH):
        yield events[start : start + _BATCH]


def _consuming(place: _Place, topic: eventlog.Topic) -> Callable[[], None]:
    """From the beginning, by a client that is connected already, as ours is."""
    import confluent_kafka

    kafka: Any = confluent_kafka.Consumer({"bootstrap.servers": place.bootstrap, **_CONSUMER})
    spots = [confluent_kafka.TopicPartition(topic.name, n, 0) for n in range(topic.partitions)]

    def theirs() -> None:
        kafka.assign(spots)
        kafka.get_watermark_offsets(spots[0], timeout=1)  # wakes it, or it may sleep for a second
        count = 0
        while count < _EVENTS:
            for one in kafka.consume(_AT_ONCE, 0.02):
                assert one.error() is None
                _ = one.value(), one.key(), one.headers(), one.offset(), one.timestamp()
                count += 1
        kafka.unassign()

    return theirs
