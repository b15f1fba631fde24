"""Messages that clients can send, and this one's client cannot take apart."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import pytest

from eventlog import LATEST, EventLog
from eventlog.kafka.reading import drain
from eventlog.kafka.records import Decoded, decoded
from tests.kafka.reading import PATIENCE, Writer, fetchers_of, made
from tests.servers.kafka import Kafka

PRODUCE = 0
VERSION = 3


def test_a_header_whose_name_is_no_utf8_makes_no_partition_unreadable(
    kafka: Kafka, kafka_log: EventLog
) -> None:
    """Its event has no properties; those around it have theirs.

    (Brokers that compress what they get mend such names.)
    """
    topic = kafka_log.topic(kafka.create_topic())
    topic.append(b"before", properties={"a": "1"})
    produce_by_hand(kafka, topic.name, b"strange", b"\xff\xfe")
    topic.append(b"after", properties={"b": "2"})
    expected = [(b"before", {"a": "1"}), (b"strange", {}), (b"after", {"b": "2"})]
    with topic.consumer(end=LATEST) as consumer:
        assert [(event.body, dict(event.properties)) for event in consumer] == expected
    assert [(event.body, dict(event.properties)) for event in topic.read(0)] == expected


def test_what_cannot_be_read_in_one_partition_ends_no_other_reader(
    kafka: Kafka, kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came before it is handed out first, and nothing that comes behind it."""

    def choosy(topic: str, partition: int, messages: Any) -> Decoded:
        if any(one.value() == b"bad" for one in messages):
            raise ValueError(f"partition {partition} of {topic}")
        return decoded(topic, partition, messages)

    monkeypatch.setattr(drain, "decoded", choosy)
    topic = made(kafka_log, partitions=2)
    writer = Writer(kafka, topic.name)
    with topic.consumer(partitions=0) as good, topic.consumer(partitions=1) as bad:
        for consumer, partition in ((good, 0), (bad, 1)):
            writer.write([b"first"], partition)
            assert next(consumer).body == b"first"
        (fetching,) = fetchers_of(topic)
        lane = fetching.lanes[0]
        writer.write([b"bad"], 1)
        writer.write([b"behind"], 1)
        with pytest.raises(ValueError, match="partition 1"):
            next(bad)
        assert lane.error is None
        writer.write([b"second"], 0)
        assert next(good).body == b"second"
        assert fetching.lanes[0] is lane


# ---- What librdkafka would not send --------------------------------------------------------------


def produce_by_hand(kafka: Kafka, topic: str, body: bytes, header: bytes) -> None:
    """Have an event with one header stored in partition 0."""
    record = b"\0" + 2 * number(0) + number(-1) + sized(body) + number(1) + sized(header)
    record += sized(b"value")
    now_ms = time.time_ns() // 1_000_000
    rest = struct.pack(">hiqqqhii", 0, 0, now_ms, now_ms, -1, -1, -1, 1) + sized(record)
    some = struct.pack(">iBI", 0, 2, crc32c(rest)) + rest
    some = struct.pack(">qi", 0, len(some)) + some
    name = topic.encode()
    request = struct.pack(">hhihhhiih", PRODUCE, VERSION, 1, -1, -1, -1, 5000, 1, len(name))
    request += name + struct.pack(">iii", 1, 0, len(some)) + some
    with socket.create_connection(("127.0.0.1", kafka.port), PATIENCE) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answers:
            (length,) = struct.unpack(">i", answers.read(4))
            answer = answers.read(length)
    (error,) = struct.unpack_from(">h", answer, 18 + len(name))
    assert error == 0


def sized(data: bytes) -> bytes:
    return number(len(data)) + data


def number(value: int) -> bytes:
    """A varint, as records have them."""
    left = (value << 1) ^ (value >> 63)
    found = bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*found, left])


def crc32c(data: bytes) -> int:
    found = 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = (found >> 1) ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF
