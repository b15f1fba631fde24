"""Producers that cannot store what they accepted: who is told, and how it goes on."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import eventlog
from eventlog import (
    ClosedError,
    DeliveryError,
    Event,
    EventLog,
    LogBusyError,
    LogFullError,
    TopicNotFoundError,
)
from eventlog.producer import Producer
from eventlog.producing.delivery import PLACES, Delivery
from tests.embedded import test_full
from tests.producing import (
    NEVER,
    PATIENCE,
    MemoryOutlet,
    in_thread,
    join,
    seal,
    stored,
)

if TYPE_CHECKING:
    from tests.conftest import Start


@pytest.fixture
def outlet() -> Iterator[MemoryOutlet]:
    """An outlet that nothing waits for in the end."""
    outlet = MemoryOutlet()
    yield outlet
    outlet.open.set()


# ---- Failures ------------------------------------------------------------------------------------


def test_a_failure_that_was_raised_keeps_nothing_alive(tmp_path: Path) -> None:
    """The garbage collector does not look into deliveries, of which there are too many."""
    log = eventlog.open(tmp_path / "log")
    seen = weakref.ref(log)
    topic = log.create_topic("t")
    producer = topic.producer(linger=NEVER)
    producer.send(b"x")
    log.delete_topic("t")
    with pytest.raises(DeliveryError) as raised:
        producer.close()
    assert producer._thread is not None
    join(producer._thread)
    assert isinstance(raised.value.failed[0].exception(), TopicNotFoundError)
    log.close()
    del log, topic, producer, raised
    gc.collect()
    assert seen() is None


def test_where_an_unexpected_failure_came_from_is_written_into_it(outlet: MemoryOutlet) -> None:
    outlet.errors = [ZeroDivisionError("nobody expected it")]
    producer = Producer(outlet)
    delivery = producer.send(b"x")
    error = delivery.exception(PATIENCE)
    assert isinstance(error, ZeroDivisionError)
    (note,) = error.__notes__
    assert "in store" in note
    assert "nobody expected it" in note
    producer.close()


class StubbornError(Exception):
    """One that nothing can be written into."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def test_whatever_the_failure_is_it_is_the_outcome_and_the_next_event_is_stored(
    outlet: MemoryOutlet,
) -> None:
    stubborn = StubbornError()
    outlet.errors = [stubborn]
    with Producer(outlet) as producer:
        assert producer.send(b"x").exception(PATIENCE) is stubborn
        assert producer.send(b"y").result(PATIENCE).offset == 0


def test_what_one_writes_into_a_failure_others_do_not_see(outlet: MemoryOutlet) -> None:
    outlet.errors = [ZeroDivisionError()]
    with Producer(outlet) as producer:
        delivery = producer.send(b"x")
        for _ in range(2):
            with pytest.raises(ZeroDivisionError) as raised:
                delivery.result(PATIENCE)
            raised.value.add_note("mine")
            assert len(raised.value.__notes__) == 2


def test_a_topic_that_was_deleted_fails_its_deliveries(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("t")
    producer = topic.producer(linger=NEVER)
    before = producer.send(b"x")
    producer.flush()
    memory_log.delete_topic("t")
    memory_log.create_topic("t")
    after = producer.send(b"y")
    with pytest.raises(DeliveryError, match="topic 't' was deleted") as caught:
        producer.flush()
    assert before.result(0).offset == 0
    with pytest.raises(TopicNotFoundError):
        after.result(0)
    assert caught.value.count == 1
    assert [delivery.event for delivery in caught.value.failed] == [Event(b"y")]
    assert stored(memory_log.topic("t")) == []
    producer.close()


def test_a_full_log_fails_deliveries_and_stores_again_when_there_is_room(log_path: Path) -> None:
    with eventlog.open(log_path, map_size=2**20) as log:
        topic = log.create_topic("t", partitions=1, compression="none")
        with topic.producer(linger=0) as producer:
            outcomes = []
            for number in range(200):
                delivery = producer.send(bytes([number]) * 10_000)
                outcomes.append(delivery.exception(PATIENCE))
            kinds = {type(outcome) for outcome in outcomes}
            assert kinds == {type(None), LogFullError}
            assert len(stored(topic)) == outcomes.count(None)
            topic.configure(retention_bytes=100_000)
            topic.expire()
            assert producer.send(b"room").exception(PATIENCE) is None
            assert producer.metrics.failed == 200 - outcomes.count(None)


def test_a_log_that_others_keep_fails_deliveries_and_stores_again_when_they_let_go(
    log_path: Path,
) -> None:
    with eventlog.open(log_path, lock_timeout=0.05) as log:
        topic = log.create_topic("t", partitions=1)
        with topic.producer(linger=0) as producer:
            inside, leave = threading.Event(), threading.Event()

            def keep() -> None:
                inside.set()
                assert leave.wait(PATIENCE)

            def keep_alone() -> None:
                log.environment.committer.run_alone(keep, timeout=PATIENCE)  # type: ignore[attr-defined]

            keeper = in_thread(keep_alone)
            assert inside.wait(PATIENCE)
            failed = producer.send(b"x")
            with pytest.raises(LogBusyError):
                failed.result(PATIENCE)
            leave.set()
            join(keeper)
            assert producer.send(b"y").result(PATIENCE).offset == 0


def test_a_log_that_was_closed_under_it_fails_deliveries(log_path: Path) -> None:
    log = eventlog.open(log_path)
    topic = log.create_topic("t")
    log.close()
    producer = topic.producer(linger=NEVER)
    delivery = producer.send(b"x")
    with pytest.raises(DeliveryError, match="was closed"):
        producer.close()
    with pytest.raises(ClosedError):
        delivery.result(0)


def test_flush_raises_failures_nobody_has_looked_at_once(
    outlet: MemoryOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Producer(outlet, linger=NEVER)
    outlet.errors += [LogFullError("full")]
    deliveries = [producer.send(b"%d" % number, partition=number % 2) for number in range(6)]
    with contextlib.suppress(TimeoutError):
        producer.flush(timeout=0)
    with pytest.raises(LogFullError):
        deliveries[2].result(PATIENCE)
    with pytest.raises(DeliveryError, match="5 events for topic 't' were not stored: full") as e:
        producer.flush()
    assert e.value.count == 5
    bodies = [delivery.event.body for delivery in e.value.failed if delivery.event]
    assert sorted(bodies) == [b"0", b"1", b"3", b"4", b"5"]
    assert all(isinstance(d.exception(), LogFullError) for d in e.value.failed)
    producer.flush()
    producer.close()
    assert caplog.text.count("5 events for topic 't' were not stored") == 1


def test_flush_raises_nothing_if_all_failures_were_looked_at(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=0)
    outlet.errors += [LogFullError("full")] * 3
    for look in (Delivery.result, Delivery.exception):
        delivery = producer.send(b"x")
        with contextlib.suppress(LogFullError):
            look(delivery, PATIENCE)
    producer.flush()
    producer.send(b"x")
    with pytest.raises(DeliveryError):
        producer.close()


def test_asking_whether_it_is_done_is_not_looking(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=0)
    outlet.errors += [LogFullError("full")]
    delivery = producer.send(b"x")
    delivery.add_done_callback(lambda _: None)
    while not delivery.done:
        time.sleep(0)
    assert "full" in repr(delivery)
    with pytest.raises(DeliveryError):
        producer.close()


def test_failures_are_told_once_when_they_begin_and_again_when_they_begin_again(
    outlet: MemoryOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Producer(outlet, linger=0)
    full = LogFullError("full")
    outlet.errors += [full, full, None, full]
    for _ in range(4):
        with contextlib.suppress(LogFullError):
            producer.send(b"x").result(PATIENCE)
    told = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [r.getMessage() for r in told] == ["events for topic 't' are not stored: full"] * 2
    producer.close()


def test_of_very_many_failures_some_are_kept_and_all_are_counted(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=NEVER, max_batch_events=1000)
    outlet.errors += [LogFullError("full")] * 1000
    for _ in range(25):
        for number in range(1000):
            producer.send(b"%d" % number, partition=0)
        while producer.metrics.buffered_events:
            time.sleep(0)
    with pytest.raises(DeliveryError, match="25000 events") as caught:
        producer.close()
    assert caught.value.count == 25_000
    assert len(caught.value.failed) == 10_000


def test_failures_that_nobody_asks_for_take_a_bounded_amount_of_memory(
    outlet: MemoryOutlet,
) -> None:
    producer = Producer(outlet, linger=0)
    outlet.errors += [LogFullError("full")] * 1000
    for _ in range(60):
        delivery = producer.send(bytes(2**20))
        while not delivery.done:
            time.sleep(0)
    kept = sum(len(body) for b in producer._failures._batches for body in b.rows[::PLACES])
    assert kept <= 17 * 2**20
    with pytest.raises(DeliveryError, match="60 events") as caught:
        producer.close()
    assert caught.value.count == 60


def test_without_a_name_what_follows_a_failure_is_stored(outlet: MemoryOutlet) -> None:
    outlet.errors += [LogFullError("full"), None, LogFullError("full")]
    with Producer(outlet, linger=NEVER) as producer:
        outcomes = []
        for number in range(4):
            delivery = producer.send(b"%d" % number, partition=0)
            seal(producer)
            outcomes.append(delivery.exception(PATIENCE))
    assert outlet.bodies == [b"1", b"3"]
    assert [outcome is None for outcome in outcomes] == [False, True, False, True]


small_disk = test_full.small_disk
FULL_DISK_AND_BACK = """
log, topic = make()
failed = 0
with topic.producer(linger=0) as producer:
    filler.write_bytes(bytes(1_000_000))
    while failed < 20:
        body = os.urandom(20_000)
        delivery = producer.send(body)
        error = delivery.exception(60)
        if error is None:
            stored.append(body)
        else:
            assert isinstance(error, LogFullError), error
            failed += 1
    require_kept(log)
    filler.unlink()
    for _ in range(20):
        body = os.urandom(20_000)
        producer.send(body).result(60)
        stored.append(body)
    assert producer.metrics.failed == failed
require_kept(log)
log.close()
with open_log() as log:
    require_kept(log)
"""


@pytest.mark.parametrize("durability", ["disk", "process"])
def test_a_producer_whose_disk_is_full_says_so_for_each_event_and_goes_on_when_it_is_back(
    durability: str, small_disk: Path, start: Start
) -> None:
    test_full.run_on(start, small_disk, durability, FULL_DISK_AND_BACK)


def test_all_who_wait_for_what_failed_are_told(memory_log: EventLog) -> None:
    """One flush takes the failures to look at; the others must not look like successes."""
    topic = memory_log.create_topic("t")
    producer = topic.producer(linger=NEVER)
    producer.send(b"x")
    producer.send(b"y")
    memory_log.delete_topic("t")
    together = threading.Barrier(4)
    told: list[int] = []

    def flush() -> None:
        together.wait(PATIENCE)
        try:
            producer.flush()
        except DeliveryError as error:
            told.append(error.count)

    # Each begins to wait before anything has failed: storing is let go by the last.
    outlet_open = threading.Event()
    store = producer._outlet.store

    def late(*arguments: object) -> object:
        outlet_open.wait(PATIENCE)
        return store(*arguments)  # type: ignore[arg-type]

    producer._outlet.store = late  # type: ignore[assignment, method-assign]
    threads = [threading.Thread(target=flush) for _ in range(3)]
    for thread in threads:
        thread.start()
    together.wait(PATIENCE)
    with contextlib.suppress(TimeoutError):
        producer.flush(timeout=0.05)
    outlet_open.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert told
    assert set(told) == {2}
    producer.close()


def test_a_log_handler_that_fails_holds_up_nobody(memory_log: EventLog) -> None:
    class Bad(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("the program's log is full")

    logger, bad = logging.getLogger("eventlog"), Bad()
    topic = memory_log.create_topic("t")
    producer = topic.producer(linger=0)
    memory_log.delete_topic("t")
    logger.addHandler(bad)
    try:
        for _ in range(2):
            with pytest.raises(TopicNotFoundError):
                producer.send(b"x").result(PATIENCE)
        with contextlib.suppress(DeliveryError):
            producer.close(timeout=PATIENCE)
    finally:
        logger.removeHandler(bad)


def test_the_storing_thread_survives_what_breaks_beside_storing(
    memory_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = memory_log.create_topic("t", partitions=1)
    with topic.producer(linger=0) as producer:
        producer.send(b"a").result(PATIENCE)
        settled = producer._settled
        failures = iter([True])

        def short_of_memory(parcels: list[object]) -> object:
            if next(failures, False):
                raise MemoryError
            return settled(parcels)  # type: ignore[arg-type]

        monkeypatch.setattr(producer, "_settled", short_of_memory)
        delivery = producer.send(b"b")
        assert isinstance(delivery.exception(PATIENCE), MemoryError | None)
        assert producer.send(b"c").result(PATIENCE).offset == 2
