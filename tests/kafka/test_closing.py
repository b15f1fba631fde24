"""Closing a log on a cluster: its consumers are out of their groups, and nobody waits long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventlog
from eventlog import ClosedError, EventLog
from tests.kafka.writing import PATIENCE, made
from tests.servers.kafka import Kafka

LOCK_TIMEOUT = 600.0


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"file:{tmp_path / 'store'}"


@pytest.fixture
def log(kafka: Kafka, store: str) -> Iterator[EventLog]:
    """One that waits ten minutes for the cluster, if it has to."""
    with eventlog.open(kafka.location, blobs=store, lock_timeout=LOCK_TIMEOUT) as log:
        yield log


def test_a_consumer_that_has_committed_transactions_is_let_go_of_where_these_stand(
    kafka: Kafka, log: EventLog, store: str
) -> None:
    """Whoever reads next goes on behind them, and knows of nothing else."""
    topic = made(log, partitions=1)
    topic.append_batch([b"%d" % number for number in range(5)])
    offsets = [event.offset for event in topic.read(0)]
    consumer = topic.consumer(group="fraud")
    for _ in range(2):
        next(consumer)
        with consumer.transaction() as tx:
            tx.append(topic, b"done")
    next(consumer)
    log.close()
    with eventlog.open(kafka.location, blobs=store) as again:
        group = again.topic(topic.name).group("fraud")
        assert (group.members(), group.checkpoints()[0].offset) == ([], offsets[1])


def test_a_cluster_that_does_not_answer_does_not_hold_up_who_closes_the_log(
    kafka: Kafka, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what a transaction has committed would have to be asked for."""
    monkeypatch.setattr("eventlog.consuming.readership.RELEASE_SECONDS", 0.1)
    topic = made(log, partitions=1)
    topic.append(b"a")
    consumer = topic.consumer(group="fraud")
    next(consumer)
    with consumer.transaction() as tx:
        tx.append(topic, b"done")
    kafka.pause()
    before = time.monotonic()
    log.close()
    assert time.monotonic() - before < PATIENCE
    with pytest.raises(ClosedError):
        list(consumer)


def test_a_forked_child_lets_go_of_nothing(log: EventLog) -> None:
    """Neither by closing the log nor by closing the consumer."""
    topic = made(log, partitions=1)
    topic.append(b"a")
    consumer = topic.consumer(group="fraud")
    next(consumer)
    members = topic.group("fraud").members()
    child = os.fork()
    if not child:
        status = 1
        try:
            log.close()
            consumer.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert topic.group("fraud").members() == members
    consumer.checkpoint()
