"""The processor of the public contract runs unchanged, exactly once, on both engines."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import eventlog
from eventlog import EventLog, ProcessorOptions, UnsupportedOperationError
from tests.servers.kafka import Kafka

if TYPE_CHECKING:
    from tests.conftest import Start

PATIENCE = 90.0
OPTIONS = ProcessorOptions(lease_duration=3, renew_interval=0.5, max_batch=20, max_wait=1)


class Fraud(eventlog.EventProcessor):
    """That of the contract: what it makes of a batch, and the batch's checkpoint, together."""

    async def process(self, context: Any, events: Any) -> None:
        async with context.transaction() as tx:
            for event in events:
                tx.append(ALERTS, event.body)


ALERTS = "alerts"


def run() -> None:
    """A process with a host: location, store, topics."""
    import sys

    global ALERTS
    location, store, topic, ALERTS = sys.argv[1:]
    with eventlog.open(location) as log:
        print("begun", flush=True)
        eventlog.EventProcessorHost(
            log.topic(topic), group="fraud", processor=Fraud, store=store or None, options=OPTIONS
        ).run_sync()


PROGRAM = "from tests.kafka.test_hosts import run; run()"


class Place:
    """A log on one of the engines, and two topics in it."""

    def __init__(self, location: str, store: str) -> None:
        self.location = location
        self.store = store
        self.log: EventLog = eventlog.open(location)
        name = secrets.token_hex(4)
        self.cars = self.log.create_topic(f"cars-{name}", partitions=3)
        self.alerts = self.log.create_topic(f"alerts-{name}", partitions=1)
        self.sent = 0

    def send(self, count: int) -> None:
        for partition in range(3):
            bodies = [f"{partition} {self.sent + number}".encode() for number in range(count)]
            self.cars.append_batch(bodies, partition=partition)
        self.sent += count

    def outcome(self) -> Counter[bytes]:
        consumer = self.alerts.consumer(end=eventlog.LATEST)
        return Counter(event.body for event in consumer)

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"still waiting: {what}"
            time.sleep(0.02)

    def until_done(self) -> None:
        group = self.cars.group("fraud", self.store or None)

        def done() -> bool:
            found = group.checkpoints()
            return len(found) == 3 and not any(lag.events for lag in group.lag().values())

        self.until(done, "all is finished")


@pytest.fixture
def place(each_engine: tuple[str, str]) -> Iterator[Place]:
    made = Place(*each_engine)
    with made.log:
        yield made


def expected(place: Place) -> Counter[bytes]:
    return Counter(f"{p} {n}".encode() for p in range(3) for n in range(place.sent))


def test_the_processor_of_the_contract_processes_exactly_once_whoever_is_killed(
    place: Place, start: Start
) -> None:
    def host() -> Any:
        child = start(PROGRAM, place.location, place.store, place.cars.name, place.alerts.name)
        assert child.line() == "begun"
        return child

    first, second = host(), host()
    place.send(200)
    place.until(lambda: place.outcome().total() > 0, "something is processed")
    first.kill()
    place.send(200)
    third = host()
    place.until_done()
    place.send(100)
    second.kill()
    place.send(100)
    place.until_done()
    assert place.outcome() == expected(place)
    third.kill()


def test_plain_checkpoints_and_transactions_of_a_group_are_one_story(place: Place) -> None:
    """A partition that was checkpointed by transactions goes on by plain checkpoints, and back."""
    seen: list[bytes] = []

    options = ProcessorOptions(lease_duration=30, max_batch=1, max_wait=1)
    store = place.store or None
    for _ in range(2):
        place.send(3)
        with place.cars.subscribe(group="fraud", store=store, options=options) as batches:
            for batch in batches:
                seen.extend(event.body for event in batch)
                if len(seen) % 2:
                    batch.checkpoint()
                else:
                    with batch.transaction() as tx:
                        tx.append(place.alerts, batch[-1].body)
                if len(seen) == place.sent * 3:
                    break
    assert sorted(seen) == sorted(expected(place))
    lag = place.cars.group("fraud", store).lag()
    assert sum(one.events for one in lag.values()) == 0


def test_a_host_without_a_store_fails_when_it_is_made(kafka: Kafka) -> None:
    with eventlog.open(kafka.location) as log:
        topic = log.create_topic(f"t-{secrets.token_hex(4)}", partitions=1)
        with pytest.raises(UnsupportedOperationError, match=r"blobs=.*store="):
            eventlog.EventProcessorHost(topic, group="g", handler=lambda context, events: None)
