"""What a log on a cluster is in a process: no threads of a closed one, and nothing after a fork.

In processes of their own, where no other test's clients come and go, or hold a lock.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import traceback
import weakref
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

import eventlog
from eventlog import (
    DeliveryError,
    EventLogError,
    ProducerFencedError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.kafka.cluster import LATEST
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.topic import KafkaTopic
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.shipment import Shipment
from tests.kafka.writing import PATIENCE, as_kafka, made
from tests.servers.kafka import Kafka


def in_a_process_of_its_own(call: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"import {__name__} as it; it.{call}"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=2 * PATIENCE)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has forked, too
    assert process.returncode == 0, said


def test_a_closed_log_leaves_no_threads(kafka: Kafka, tmp_path: Path) -> None:
    """Of librdkafka's, whatever went wrong meanwhile; and not only when garbage is collected."""
    in_a_process_of_its_own(f"use({kafka.location!r}, 'file:{tmp_path}')")


def use(location: str, blobs: str) -> None:
    gc.disable()
    with eventlog.open(location, blobs=blobs) as log:
        topic = made(log)  # some of what it asks is asked too early
        topic.append(b"1")
        with topic.producer() as producer:
            producer.send(b"2")
        with topic.consumer(group="g", follow=False) as consumer:
            assert [event.body for event in consumer] == [b"1", b"2"]
            with consumer.transaction() as transaction:
                transaction.append(topic, b"3")
        ask_in_vain(topic)
        lose_a_producer(topic)
        fail_to_open(location)
        kept = ask_in_vain(topic)
        try:
            raise HandledError
        except HandledError as error:
            handled = weakref.ref(error)
            ask_in_vain(topic)
            lose_a_producer(topic)
            fail_to_open(location)
            lose_a_transaction(topic)
        leave_unstored(topic)
        assert librdkafkas_threads()
    assert not librdkafkas_threads()
    assert isinstance(kept, TopicNotFoundError)
    gc.collect()
    assert handled() is None


class HandledError(Exception):
    """What a program is handling when it calls."""


def ask_in_vain(topic: KafkaTopic) -> Exception:
    with pytest.raises(TopicNotFoundError):
        topic.log.topic("missing")
    with pytest.raises(TopicNotFoundError) as raised:
        topic.log.cluster.offsets("missing", [(0, LATEST)])
    return raised.value


def lose_a_producer(topic: KafkaTopic) -> None:
    """One of librdkafka's, which breaks down in a callback when another has taken its id."""
    with topic.producer(producer_id="loader") as producer:
        producer.send(b"4", sequence=1).result(PATIENCE)
        with eventlog.open(topic.log.location) as other:
            fence = as_kafka(other).writers.transactional.fence
            fence(f"eventlog.producer.{topic.id}.loader")
        producer.send(b"5", sequence=2).result(PATIENCE)


def lose_a_transaction(topic: KafkaTopic) -> None:
    """Likewise, in the thread of whoever commits."""
    sets = [Shipment(topic.state.record, 0, [b"6"], None, None)]
    writers = topic.log.writers
    writers.transactional.prepare(topic.id, "me")
    with eventlog.open(topic.log.location) as other:
        as_kafka(other).writers.transactional.fence(topic.id)
    with writers.transactional.lend(topic.id, "me") as sender, pytest.raises(ProducerFencedError):
        writers.transact(sender, sets, {}, Errand("sending", Deadline(PATIENCE), [topic]))


def fail_to_open(location: str) -> None:
    with pytest.raises(EventLogError, match="takes no login"):
        eventlog.open(location.replace("//", "//me:secret@"))
    with pytest.raises(ValueError, match=r"nonsense\.option"):
        eventlog.open(location, **{"nonsense.option": 1})  # type: ignore[arg-type]


def leave_unstored(topic: KafkaTopic) -> None:
    """A producer's events, of which nobody but its closing hears."""
    producer = topic.producer()
    producer.send(b"7").result(PATIENCE)
    topic.log.delete_topic(topic.name)
    producer.send(b"8")
    with pytest.raises(DeliveryError):
        producer.close()


def librdkafkas_threads() -> list[str]:
    """Of this process; Python does not count them."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            names.append((task / "comm").read_text())
    return [name for name in names if name.startswith("rdk:")]


def test_a_forked_child_is_told_to_open_the_log_anew(kafka: Kafka) -> None:
    """And neither it nor its end touches, or waits for, what is the parent's."""
    in_a_process_of_its_own(f"fork({kafka.location!r})")


def fork(location: str) -> None:
    with eventlog.open(location) as log:
        topic = made(log)
        clients = connected(topic)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                clients.clear()
                status = in_child(topic, location)
            except BaseException:  # noqa: BLE001 - the parent's parent shows it
                traceback.print_exc()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert log.topic(topic.name).id == topic.id


def connected(topic: KafkaTopic) -> list[object]:
    """Some clients. One that looks a name up while its process forks may hold a lock of the C
    library's, which the child would wait for.
    """
    consumer, producer = topic.log.cluster.consumer(group_id="g"), topic.log.cluster.producer()
    consumer.get_watermark_offsets(TopicPartition(topic.name, 0), timeout=PATIENCE)
    producer.produce(topic.name, b"")
    assert producer.flush(PATIENCE) == 0
    return [consumer, producer]


def in_child(topic: KafkaTopic, location: str) -> int:
    log = topic.log
    for call in (log.topics, lambda: topic.read(0), lambda: topic.append(b"")):
        try:
            call()
        except UnsupportedOperationError as error:
            if "fork" not in str(error):
                return 2
        else:
            return 3
    log.close()
    with eventlog.open(location, timeout=60) as own:
        return 0 if own.topic(topic.name).id == topic.id else 4
