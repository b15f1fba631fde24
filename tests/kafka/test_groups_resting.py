"""What is left in the store of a group that Kafka's transactions checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import EventLog, EventLogError, StoreUnavailableError, Topic, UnexpectedOffsetError
from eventlog.blobs import Blob
from eventlog.blobs.memory import MemoryBlobs
from eventlog.groups.documents import GroupDocument, GroupIds, StoredCheckpoint
from eventlog.kafka.groups.blobs import GroupBlobs
from eventlog.kafka.groups.checkpoint import Place, Seen, decode_checkpoint
from eventlog.kafka.later import Later
from tests.kafka.writing import of_five

PATIENCE = 60.0


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
        monkeypatch.setattr("eventlog.kafka.groups.blobs._AT_REST", 0.01)
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


def test_a_group_tells_when_a_transaction_has_moved_it_last(
    log: EventLog, opened: Callable[..., EventLog]
) -> None:
    """To its own process and to others, though its document stays as it is."""
    cars = of_five(log)
    moved = []
    for offset in range(3):
        with log.transaction() as tx:
            tx.checkpoint(cars, "fraud", partition=0, offset=offset)
        moved.append(cars.group("fraud").checkpoints()[0].updated_at)
    assert moved == sorted(set(moved))
    with opened() as other:
        assert other.topic(cars.name).group("fraud").checkpoints()[0].updated_at == moved[-1]


def test_a_checkpoint_of_nobody_is_written_down_when_the_log_is_closed(
    opened: Callable[..., EventLog], tmp_path: Path
) -> None:
    with opened() as log:
        cars = of_five(log)
        with log.transaction() as tx:
            tx.checkpoint(cars, "fraud", partition=0, offset=3)
        assert written_down(tmp_path / "store", cars) == -1
    assert written_down(tmp_path / "store", cars) == 3


class Writing(GroupBlobs):
    """One that notes when it writes something down, which fails at first."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(MemoryBlobs(), "log", NOTHING, NOTHING, later=Later())
        self.errors = list(errors)
        self.done = threading.Event()

    def write_down(self, name: str) -> None:
        if self.errors:
            raise self.errors.pop()
        self.done.set()


NOTHING: Any = None
PLACE = Place("cars", "fraud", 0)


def committed() -> Seen:
    now = datetime.now(UTC)
    ids = GroupIds("log", "cars", "1", "fraud")
    document = StoredCheckpoint.first(GroupDocument.first(ids), 3, now)
    return Seen(Blob(ids.checkpoint(0), b"", "etag", now), document)


def test_a_checkpoint_that_never_rests_is_written_down_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventlog.kafka.groups.blobs._AT_REST", 0.3)
    blobs, seen, deadline = Writing(), committed(), time.monotonic() + PATIENCE / 10
    while not blobs.done.is_set():
        assert time.monotonic() < deadline
        blobs.committed(PLACE, seen)


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), EventLogError("damaged")])
def test_what_could_not_be_written_down_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("eventlog.kafka.groups.blobs._AT_REST", 0.01)
    blobs = Writing(error)
    blobs.committed(PLACE, committed())
    assert blobs.done.wait(PATIENCE)
