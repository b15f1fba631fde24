"""What producers of a topic on a cluster send: whole, in order, and where their receipts say."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable

import pytest

from eventlog import (
    Delivery,
    DeliveryError,
    EventLog,
    LogBusyError,
    Producer,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.kafka.writing.shipment import SET_EVENTS
from tests.kafka.writing import PATIENCE, as_kafka, bodies, impatient, made, stored_at
from tests.servers.kafka import Kafka


def sent(producer: Producer, body: Callable[[int], bytes], count: int) -> list[Delivery]:
    return [producer.send(body(number), partition=0) for number in range(count)]


def test_each_event_is_where_its_receipt_says_though_others_write(kafka_log: EventLog) -> None:
    """Batches are larger than sets, so others' events stand between those of one batch."""
    topic = made(kafka_log)
    large = bytes(50_000)
    found: dict[int, bytes] = {}
    mutex = threading.Lock()

    def send(writer: int, together: threading.Barrier) -> None:
        with topic.producer(linger=PATIENCE, max_batch_bytes=32 * 2**20) as producer:
            deliveries = sent(producer, lambda n: b"%d %d" % (writer, n) + large, 200)
            together.wait(PATIENCE)
            producer.flush()
            places = {delivery.result().offset: n for n, delivery in enumerate(deliveries)}
        with mutex:
            found.update({offset: b"%d %d" % (writer, n) for offset, n in places.items()})

    def times_interrupted() -> int:
        writers = [body[:1] for _, body in sorted(found.items())]
        return len([1 for one, other in itertools.pairwise(writers) if one != other])

    rounds = 0
    while times_interrupted() < max(1, 3 * rounds):  # each wrote all of its own without a break
        assert rounds < 20, "nobody is interrupted"
        rounds += 1
        together = threading.Barrier(3)
        threads = [threading.Thread(target=send, args=(n, together)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    stored = {offset: body.removesuffix(large) for offset, body in stored_at(topic).items()}
    assert found == stored


@pytest.mark.parametrize(
    ("count", "paddings"),
    [
        (5 * SET_EVENTS + 17, [b""]),
        (7_017, [bytes(400)]),
        (3_017, [bytes(2_000)]),
        (600, [bytes(6_000)]),
        (9_017, [*[b""] * 1499, bytes(900_000)]),
        (9_017, [b"", b"", bytes(400), bytes(2_000)]),
    ],
    ids=["100 bytes", "400 bytes", "2 kB", "6 kB", "now and then 900 kB", "some 2 kB"],
)
def test_many_events_are_stored_in_order(
    kafka_log: EventLog, count: int, paddings: list[bytes]
) -> None:
    """Of all partitions, in sets and lots of any size."""
    topic = made(kafka_log, partitions=3)
    with topic.producer() as producer:
        deliveries = [
            producer.send(b"%d " % n + paddings[n % len(paddings)], key=f"k{n % 7}")
            for n in range(count)
        ]
    stored = [stored_at(topic, partition) for partition in range(3)]
    assert sum(map(len, stored)) == count
    for number, delivery in enumerate(deliveries):
        receipt = delivery.result(PATIENCE)
        assert int(stored[receipt.partition][receipt.offset].split()[0]) == number
    for events in stored:
        numbers = [int(body.split()[0]) for _, body in sorted(events.items())]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("producer_id", [None, "named"])
def test_a_name_that_no_property_can_have_is_refused_at_once(
    kafka_log: EventLog, producer_id: str | None
) -> None:
    """Events that were sent before and after are none the worse for it."""
    topic = made(kafka_log)
    numbers = itertools.count()

    def send(body: bytes, name: str) -> Delivery:
        sequence = None if producer_id is None else next(numbers)
        return producer.send(body, properties={name: 1}, sequence=sequence)

    with topic.producer(producer_id=producer_id) as producer:
        before = send(b"before", "n")
        for name in ("eventlog-types", "eventlog-key", "cut\0off"):
            for _ in range(2):
                with pytest.raises(UnsupportedOperationError, match="no property can be named"):
                    send(b"bad", name)
        after = send(b"after", "n")
    assert [before.result(PATIENCE).offset, after.result(PATIENCE).duplicate] == [0, False]
    assert bodies(topic) == [b"before", b"after"]


def test_keys_and_properties_of_all_kinds_may_be_mixed(kafka_log: EventLog) -> None:
    topic = made(kafka_log)
    keys = [None, "k", b"k", b"\xff", "ä", ""]
    rows = [(key, {"n": n} if n % 2 else None) for n in range(10) for key in keys]
    with topic.producer() as producer:
        for key, properties in rows:
            _ = producer.send(b"", key=key, properties=properties, partition=0)
    events = topic.read(0)
    assert [(event.key, dict(event.properties) or None) for event in events] == rows


def test_an_outage_fails_deliveries_in_time_and_passes(kafka: Kafka) -> None:
    """Those that failed say so; what is sent afterwards is stored."""
    with impatient(kafka.location) as log:
        topic = made(log)
        producer = topic.producer()
        producer.send(b"before").result(PATIENCE)
        kafka.pause()
        late = producer.send(b"late")
        started = time.monotonic()
        assert isinstance(late.exception(PATIENCE), LogBusyError)
        assert time.monotonic() - started < 10
        kafka.resume()
        end = time.monotonic() + PATIENCE
        while producer.send(b"after").exception(PATIENCE) is not None:
            assert time.monotonic() < end
        producer.close()
        stored = bodies(topic)
    assert (stored[0], stored[-1], stored.count(b"after")) == (b"before", b"after", 1)


def test_no_acknowledged_event_is_lost_or_doubled_when_the_broker_is_killed(
    kafka: Kafka, kafka_log: EventLog
) -> None:
    """It is started again while the producer waits, which notices nothing else."""
    topic = made(kafka_log)
    with topic.producer(max_batch_bytes=2**16) as producer:
        deliveries = sent(producer, lambda n: b"%d" % n, 2000)
        deliveries[-1].result(PATIENCE)
        kafka.crash()
        deliveries += sent(producer, lambda n: b"%d" % (2000 + n), 3000)
        kafka.start()
        deliveries += sent(producer, lambda n: b"%d" % (5000 + n), 100)
    offsets = [delivery.result(PATIENCE).offset for delivery in deliveries]
    stored = stored_at(topic)
    assert [stored[offset] for offset in offsets] == [b"%d" % n for n in range(5100)]
    assert len(stored) == 5100


def test_a_topic_that_is_deleted_fails_deliveries(kafka_log: EventLog) -> None:
    topic = made(kafka_log)
    producer = topic.producer()
    producer.send(b"a").result(PATIENCE)
    kafka_log.delete_topic(topic.name)
    assert isinstance(producer.send(b"late").exception(PATIENCE), TopicNotFoundError)
    producer.close()


def test_partitions_that_were_added_get_events(kafka_log: EventLog) -> None:
    topic = made(kafka_log)
    with topic.producer() as producer:
        producer.send(b"0").result(PATIENCE)
        with pytest.warns(UserWarning, match="keys move"):
            topic.add_partitions(3)
        receipts = [producer.send(b"", partition=n).result(PATIENCE) for n in range(4)]
    assert [(receipt.partition, receipt.offset) for receipt in receipts] == [
        (0, 1),
        (1, 0),
        (2, 0),
        (3, 0),
    ]


def test_a_log_that_is_closed_delivers_first(kafka_log: EventLog) -> None:
    topic = made(kafka_log)
    producer = topic.producer(linger=PATIENCE)
    delivery = producer.send(b"a")
    kafka_log.close()
    assert delivery.result(0).offset == 0


def test_compression_is_as_the_topic_says(kafka: Kafka, kafka_log: EventLog) -> None:
    """And what is not compressed is stored so."""
    for compression in ("zstd", "none"):
        topic = made(kafka_log, compression=compression)
        with topic.producer() as producer:
            sent(producer, lambda _: bytes(1000), 100)
        assert bodies(topic) == [bytes(1000)] * 100
    assert as_kafka(kafka_log).cluster.settings.place == kafka.location


def test_failures_that_nobody_looks_at_are_raised_by_flush(kafka: Kafka) -> None:
    with impatient(kafka.location) as log:
        topic = made(log)
        producer = topic.producer()
        producer.send(b"before").result(PATIENCE)
        kafka.pause()
        _ = producer.send(b"late")
        with pytest.raises(DeliveryError, match="no answer from"):
            producer.flush()
        kafka.resume()
        producer.close()
