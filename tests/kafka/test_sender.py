"""Sets go out through a producer of librdkafka, and where they landed comes back."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from eventlog.kafka.deadline import Deadline
from eventlog.kafka.librdkafka import Producer
from eventlog.kafka.records import all_headers
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.sender import Sender
from eventlog.kafka.writing.shipment import SET_EVENTS, Shipment
from tests.kafka.test_shipment import RECORD


class Broker:
    """Takes all that is sent, at the next offsets."""

    def __init__(self) -> None:
        self.next = 0
        self.waiting: list[tuple[Callable[[None, Message], None], Message]] = []

    def list_topics(self, name: str, timeout: float) -> Any:
        assert timeout > 0
        return SimpleNamespace(topics={name: SimpleNamespace(partitions={0: None}, error=None)})

    def produce(
        self, topic: str, value: bytes, key: None, partition: int, *_: object, **more: Any
    ) -> None:
        report = more.get("on_delivery")
        if report is not None:
            time = TIMESTAMP_LOG_APPEND_TIME, 1000
            message = Message(topic, partition, self.next, key, value, None, None, time)
            self.waiting.append((report, message))
        self.next += 1

    def flush(self, timeout: float) -> int:
        assert timeout > 0
        for report, message in self.waiting:
            report(None, message)
        self.waiting.clear()
        return 0


def test_what_is_one_set_is_queued_as_one() -> None:
    """However close to the limit it is, whether its bytes are counted one by one or together."""
    ones = 0
    for count, size in ((1000, 920), (500, 1920), (800, 1170), (400, 2420)):
        for less in range(40):
            headers = all_headers([{"a": 1}] * count)
            shipment = Shipment(RECORD, 0, [bytes(size - less)] * count, None, headers)
            sender = Sender(cast("Producer", Broker()), shipment.set_events)
            sender.send([shipment], Errand("sending", Deadline(60), []))
            assert shipment.is_one_set == (len(shipment.runs) == 1)
            ones += shipment.is_one_set
    assert 0 < ones < 160


def test_what_is_sent_once_more_is_where_the_last_try_has_put_it() -> None:
    """The tries before it were of transactions that came to nothing."""
    broker = Broker()
    sender = Sender(cast("Producer", broker))
    shipment = Shipment(RECORD, 0, [b"a"] * (SET_EVENTS + 3), None, None)
    for first in (0, 10_000, 20_000):
        broker.next = first
        sender.send([shipment], Errand("sending", Deadline(60), []))
        assert [(run.row, run.offset) for run in shipment.runs] == [
            (0, first),
            (SET_EVENTS, first + SET_EVENTS),
        ]
    assert shipment.run_at(SET_EVENTS + 1).offset == 20_000 + SET_EVENTS + 1
