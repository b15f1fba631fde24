"""What is left in the store of a group that Kafka's transactions checkpoint."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import eventlog
from eventlog import EventLog, Topic, UnexpectedOffsetError
from eventlog.blobs import Blob
from eventlog.kafka.checkpoint import decode_checkpoint
from tests.servers.kafka import Kafka

PATIENCE = 60.0


@pytest.fixture
def opened(kafka: Kafka, tmp_path: Path) -> Callable[[], EventLog]:
    return partial(eventlog.open, kafka.location, blobs=f"file:{tmp_path / 'store'}")


@pytest.fixture
def log(opened: Callable[[], EventLog]) -> Iterator[EventLog]:
    with opened() as log:
        yield log


def of_five(log: EventLog) -> Topic:
    topic = log.create_topic(f"cars-{secrets.token_hex(4)}", partitions=1)
    topic.append_batch([b"%d" % number for number in range(5)])
    return topic


def written_down(store: Path, topic: Topic) -> int:
    """The offset in the document alone."""
    name = f"groups/{topic.log.id}/{topic.name}/fraud/checkpoints/0.json"
    with eventlog.blobs.open(f"file:{store}") as blobs:
        blob = blobs.get(name)
    assert isinstance(blob, Blob)
    return decode_checkpoint(blob.data).offset


def test_a_checkpoint_that_rests_is_written_down_before_kafka_forgets_its_offset(
    log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = of_five(log)

    def finish_one() -> None:
        next(consumer)
        with consumer.transaction():
            pass

    with cars.consumer(group="fraud", max_wait=0) as consumer:
        finish_one()
        assert written_down(tmp_path / "store", cars) == -1
        monkeypatch.setattr("eventlog.kafka.groups._AT_REST", 0.01)
        finish_one()
        deadline = time.monotonic() + PATIENCE
        while written_down(tmp_path / "store", cars) != 1:
            assert time.monotonic() < deadline
        finish_one()
        consumer.checkpoint()
    assert cars.group("fraud").checkpoints()[0].offset == 2


def test_a_group_has_no_lag_where_only_marks_of_transactions_are_left(log: EventLog) -> None:
    cars = of_five(log)
    with cars.producer(producer_id="loader") as producer:
        producer.send(b"5", sequence=1).result(PATIENCE)
    with cars.consumer(group="fraud", max_wait=0) as consumer:
        last = [*consumer][-1]
        consumer.checkpoint()
    assert cars.partition_info(0).next_offset > last.offset + 1
    assert cars.group("fraud").lag() == {0: (0, 0.0)}


def test_a_transaction_that_stores_nothing_makes_no_checkpoint(log: EventLog) -> None:
    """Or the group would begin at the beginning, wherever it is told to start."""
    cars, bikes = of_five(log), of_five(log)
    bikes.group("fraud").reset(3)
    transaction = log.transaction()
    transaction.checkpoint(cars, "fraud", partition=0, offset=4)
    transaction.checkpoint(bikes, "fraud", partition=0, offset=1)
    with pytest.raises(UnexpectedOffsetError), transaction:
        pass
    assert cars.group("fraud").checkpoints() == {}
    with log.transaction() as tx:
        tx.checkpoint(cars, "fraud", partition=0, offset=2)
    assert cars.group("fraud").checkpoints()[0].offset == 2
