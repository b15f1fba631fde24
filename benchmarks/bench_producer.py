"""Sending event by event, against a client whose broker is in memory."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import eventlog
from benchmarks.measure import Benchmark, Record, Side, compare
from benchmarks.workload import SCALE, batches

_EVENTS: Final = max(int(500_000 * SCALE), 20_000)
"""Events of a turn, which ends with a flush."""

_KEYS: Final = 500
_TOPIC: Final = "events"


def test_sending_event_by_event(benchmark: Benchmark, record: Record, directory: Path) -> None:
    """Ours are on the disk when a turn ends; theirs are in the memory of the same process."""
    confluent_kafka = pytest.importorskip("confluent_kafka", reason="the extra `dev` has it")
    kafka = _client(confluent_kafka)
    chance = random.Random(20130102)
    bodies = itertools.islice(itertools.cycle(batches(1)), _EVENTS)
    events = [(body, f"VIN-{chance.randrange(_KEYS):05d}") for (body,) in bodies]
    with eventlog.open(directory / "log") as log:
        producer = log.create_topic(_TOPIC).producer()

        def ours() -> None:
            send = producer.send
            for body, key in events:
                send(body, key=key)
            producer.flush()

        found = compare(benchmark, Side(ours, _EVENTS), Side(_producing(kafka, events), _EVENTS))
    record(
        "producer-send",
        **found._asdict(),
        note=f"{len(found.rounds)} rounds of {_EVENTS:,} events with {_KEYS} keys; "
        f"confluent-kafka {confluent_kafka.__version__}",
    )


def _producing(kafka: Any, events: list[tuple[bytes, str]]) -> Callable[[], None]:
    def theirs() -> None:
        produce = kafka.produce
        for body, key in events:
            produce(_TOPIC, body, key=key)
        kafka.flush()

    return theirs


def _client(confluent_kafka: Any) -> Any:
    """A client of librdkafka's mock broker, which lingers as long as ours and is never full."""
    return confluent_kafka.Producer(
        {
            "bootstrap.servers": "none",
            "test.mock.num.brokers": 1,
            "linger.ms": 5,
            "acks": "all",
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 2**21 - 1,
            "log_level": 0,
        }
    )
