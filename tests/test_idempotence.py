"""Producers with names: what is sent again, after a lost answer or a restart, is stored once."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest

import eventlog
from eventlog import (
    DeliveryError,
    EventLog,
    EventLogError,
    LogFullError,
    ProducerFencedError,
    Receipt,
    Topic,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.embedded import keys, producers
from eventlog.embedded.appender import Appender
from eventlog.producer import Producer
from eventlog.producing.delivery import Delivery
from tests.conftest import seed_of_today
from tests.producing import NEVER, PATIENCE, MemoryOutlet, seal, stored

if TYPE_CHECKING:
    from tests.conftest import Child, Start

DAY_US = 24 * 3600 * 1_000_000
BEGINNING = datetime(2013, 1, 1, tzinfo=UTC)
LAST = 2**63 - 1


@pytest.fixture
def topic(memory_log: EventLog) -> Topic:
    return memory_log.create_topic("t", partitions=3)


def bodies(topic: Topic) -> list[bytes]:
    """Bodies, partition by partition."""
    return [
        event.body
        for number in range(topic.partitions)
        for event in topic.read(number, max_events=1_000_000)
    ]


def sequences(topic: Topic) -> list[int]:
    """Bodies as numbers, sorted."""
    return sorted(map(int, stored(topic)))


def send(producer: Producer, *wanted: int) -> list[Delivery]:
    """Events that say which they are, over all partitions."""
    return [producer.send(b"%d" % n, key=str(n % 5), sequence=n) for n in wanted]


# ---- Sequences -----------------------------------------------------------------------------------


def test_the_last_sequence_is_that_of_the_last_event_stored(topic: Topic) -> None:
    with topic.producer(linger=NEVER, producer_id="p") as producer:
        assert producer.last_sequence == -1
        deliveries = send(producer, 0, 1, 2)
        assert producer.last_sequence == -1
        producer.flush()
        assert producer.last_sequence == 2
        assert not any(delivery.result().duplicate for delivery in deliveries)
        send(producer, 3)
    assert producer.last_sequence == 3
    assert sequences(topic) == [0, 1, 2, 3]


def test_a_producer_without_a_name_has_no_sequences(topic: Topic) -> None:
    with topic.producer() as producer:
        assert producer.last_sequence == -1
        producer.send(b"x").result(PATIENCE)
        assert producer.last_sequence == -1


def test_sequences_may_have_gaps_and_reach_far(topic: Topic) -> None:
    with topic.producer(producer_id="p") as producer:
        send(producer, 0, 7, 1000, LAST)
    assert producer.last_sequence == LAST
    assert sequences(topic) == [0, 7, 1000, LAST]


def test_what_repeats_a_stored_sequence_is_a_duplicate_and_says_so(topic: Topic) -> None:
    with topic.producer(producer_id="p") as producer:
        (first,) = send(producer, 5)
        stored = first.result(PATIENCE)
        for number in (5, 3, 0):
            (again,) = send(producer, number)
            assert again.result(PATIENCE) == Receipt(
                again.partition, -1, 0, stored.enqueued_at, duplicate=True
            )
            assert again.done
            assert again.exception() is None
        assert producer.last_sequence == 5
    assert sequences(topic) == [5]


def test_what_repeats_a_sequence_under_way_is_a_duplicate_once_that_is_stored() -> None:
    outlet = MemoryOutlet()
    producer = Producer(outlet, linger=NEVER, producer_id="p")
    outlet.open.clear()
    first = send(producer, 1, 2)
    again = send(producer, 2, 1)
    seal(producer)
    assert outlet.entered.wait(PATIENCE)
    later = send(producer, 1, 3, 3)
    assert not any(delivery.done for delivery in [*first, *again, *later])
    outlet.open.set()
    producer.close()
    receipts = [delivery.result(0) for delivery in [*first, *again, *later]]
    assert [r.duplicate for r in receipts] == [False, False, True, True, True, False, True]
    assert sorted(outlet.bodies) == [b"1", b"2", b"3"]
    assert outlet.sequences == [2, 3]
    assert producer.metrics.delivered == 7


def test_duplicates_are_reported_to_on_delivery_too(topic: Topic) -> None:
    called: list[tuple[bytes, bool]] = []

    def note(delivery: Delivery) -> None:
        assert delivery.event is not None
        called.append((delivery.event.body, delivery.result(0).duplicate))

    with topic.producer(linger=NEVER, producer_id="p", on_delivery=note) as producer:
        send(producer, 1, 1, 2)
        producer.flush()
        assert sorted(called) == [(b"1", False), (b"1", True), (b"2", False)]
        called.clear()
        send(producer, 1)
        producer.flush()
        assert called == [(b"1", True)]


def test_duplicates_alone_store_nothing(topic: Topic) -> None:
    with topic.producer(linger=0, producer_id="p") as producer:
        send(producer, 9)[0].result(PATIENCE)
        batches = producer.metrics.batches
        for delivery in send(producer, *range(9)):
            assert delivery.result(PATIENCE).duplicate
        assert producer.metrics.batches == batches


@pytest.mark.parametrize(
    ("sequence", "error"),
    [
        (None, ValueError),
        (-1, ValueError),
        (LAST + 1, ValueError),
        ("1", TypeError),
        (1.5, TypeError),
        (True, TypeError),
    ],
)
def test_a_producer_with_a_name_takes_sequences_only(
    sequence: object, error: type[Exception], topic: Topic
) -> None:
    with topic.producer(linger=NEVER, producer_id="p") as producer:
        send(producer, 1)
        with pytest.raises(error, match="sequence"):
            producer.send(b"x", key="1", sequence=sequence)  # type: ignore[arg-type]
        with pytest.raises(error, match="sequence"):
            producer.send(b"x", sequence=sequence)  # type: ignore[arg-type]
    assert sequences(topic) == [1]


@pytest.mark.parametrize("name", ["p", "ü" * 128, "a b/c\n", "x" * 256])
def test_a_name_may_be_any_text_of_256_bytes(name: str, topic: Topic) -> None:
    for expected in (-1, 1):
        with topic.producer(producer_id=name) as producer:
            assert producer.last_sequence == expected
            send(producer, expected + 2)
            assert repr(name) in repr(producer)


@pytest.mark.parametrize(
    ("name", "error"),
    [("", ValueError), ("ü" * 129, ValueError), ("\ud800", ValueError), (7, TypeError)],
)
def test_another_name_is_refused(name: object, error: type[Exception], topic: Topic) -> None:
    with pytest.raises(error, match="producer_id"):
        topic.producer(producer_id=name)  # type: ignore[arg-type]


def test_events_are_stored_in_the_order_of_their_sequences_whatever_their_partitions() -> None:
    """So the last sequence stored stands for all before it."""
    outlet = MemoryOutlet()
    producer = Producer(outlet, producer_id="p", linger=0, max_batch_events=3)
    lock = threading.Lock()
    given = iter(range(2000))

    def send_some() -> None:
        while True:
            with lock:
                number = next(given, None)
                if number is None:
                    return
                send(producer, number)

    threads = [threading.Thread(target=send_some) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    producer.close()
    assert sorted(map(int, outlet.bodies)) == [*range(2000)]
    assert outlet.sequences == sorted(s for s in outlet.sequences if s is not None)
    for rows in outlet.rows.values():
        numbers = [int(row.body) for row in rows]
        assert numbers == sorted(numbers)


# ---- Starting again ------------------------------------------------------------------------------


def test_a_restarted_producer_goes_on_behind_what_is_stored(log_path: Path) -> None:
    for start in range(0, 30, 10):
        with eventlog.open(log_path) as log:
            topic = log.create_topic("t", partitions=3, exist_ok=True)
            with topic.producer(producer_id="loader") as producer:
                assert producer.last_sequence == start - 1
                send(producer, *range(producer.last_sequence + 1, start + 10))
    with eventlog.open(log_path) as log:
        assert sequences(log.topic("t")) == [*range(30)]


def test_who_sends_everything_again_stores_everything_once(log_path: Path) -> None:
    for rounds in range(1, 4):
        with eventlog.open(log_path) as log:
            topic = log.create_topic("t", partitions=3, exist_ok=True)
            with topic.producer(producer_id="loader") as producer:
                deliveries = send(producer, *range(rounds * 10))
            duplicates = [delivery.result().duplicate for delivery in deliveries]
            assert duplicates == [True] * (rounds * 10 - 10) + [False] * 10
            assert sequences(topic) == [*range(rounds * 10)]


def test_each_topic_and_each_name_has_sequences_of_its_own(memory_log: EventLog) -> None:
    first, second = memory_log.create_topic("first"), memory_log.create_topic("second")
    with (
        first.producer(producer_id="a") as a,
        first.producer(producer_id="b") as b,
        second.producer(producer_id="a") as other,
    ):
        send(a, 1, 2)
        send(b, 7)
        send(other, 1, 9)
        for each in (a, b, other):
            each.flush()
        assert [each.last_sequence for each in (a, b, other)] == [2, 7, 9]
    assert sequences(first) == [1, 2, 7]
    assert sequences(second) == [1, 9]


def test_what_a_log_knows_of_producers_outlives_compaction_and_is_in_backups(
    log: EventLog, tmp_path: Path
) -> None:
    topic = log.create_topic("t", partitions=3)
    with topic.producer(producer_id="p") as producer:
        send(producer, 4)
    log.compact()
    log.backup(tmp_path / "backup")
    assert log.check().ok
    with eventlog.open(tmp_path / "backup") as copy:
        for each in (topic, copy.topic("t")):
            with each.producer(producer_id="p") as producer:
                assert producer.last_sequence == 4


def test_partitions_that_are_added_do_not_disturb_sequences(topic: Topic) -> None:
    with topic.producer(linger=NEVER, producer_id="p") as producer:
        send(producer, *range(20))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            topic.log.topic("t").add_partitions(3)
        producer.flush()
        send(producer, *range(10, 40))
        producer.send(b"40", partition=5, sequence=40)
    assert sequences(topic.log.topic("t")) == [*range(41)]


# Sends sequences on and on from where it was told, and dies where it is told.
SENDER = """
import os, signal, sys
import eventlog
from eventlog.embedded.commit import Committer

path, method, after = sys.argv[1:]
log = eventlog.open(path)
topic = log.create_topic("t", partitions=3, exist_ok=True)
producer = topic.producer(producer_id="p", linger=0)
do = getattr(Committer, method)
left = int(after)

def die(self, *arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return do(self, *arguments)

setattr(Committer, method, die)
print(producer.last_sequence, flush=True)
number = producer.last_sequence
while True:
    number += 1
    delivery = producer.send(b"%d" % number, key=str(number % 5), sequence=number)
    if number % 7 == 0:
        delivery.result()
"""


@pytest.mark.parametrize("method", ["_commit_transaction", "_flush"])
def test_killed_before_or_after_the_commit_a_producer_goes_on_without_a_gap_or_a_duplicate(
    method: str, log_path: Path, start: Start
) -> None:
    """Killed after it, the acknowledgement is lost; `last_sequence` knows of the events."""
    for after in (1, 2, 3, 5, 8):
        child = start(SENDER, log_path, method, after)
        began = int(child.line())
        assert child.wait() == -signal.SIGKILL
        with eventlog.open(log_path) as log:
            found = sequences(log.topic("t"))
            assert found == [*range(len(found))]
            assert len(found) > began
            with log.topic("t").producer(producer_id="p") as producer:
                assert producer.last_sequence == len(found) - 1


# ---- One at a time -------------------------------------------------------------------------------


def test_a_later_producer_of_the_name_fences_the_earlier_one(topic: Topic) -> None:
    first = topic.producer(linger=NEVER, producer_id="p")
    send(first, 1)
    first.flush()
    second = topic.producer(producer_id="p")
    assert second.last_sequence == 1
    pending = [*send(first, 2, 3), *send(first, 2)]
    seal(first)
    for delivery in pending:
        with pytest.raises(ProducerFencedError, match=r"a later producer was opened .*'p'"):
            delivery.result(PATIENCE)
    for _ in range(2):
        with pytest.raises(ProducerFencedError):
            send(first, 2)
    first.close()
    assert send(second, 2)[0].result(PATIENCE).count == 1
    second.close()
    assert sequences(topic) == [1, 2]


def test_a_fence_fails_all_that_waits_and_is_a_delivery_error_if_nobody_looked() -> None:
    outlet = MemoryOutlet()
    first = Producer(outlet, linger=NEVER, max_batch_events=2, producer_id="p")
    outlet.open.clear()
    for number in range(9):
        first.send(b"%d" % number, partition=0, sequence=number)
    Producer(outlet, producer_id="p").close()
    outlet.open.set()
    with pytest.raises(DeliveryError, match=r"9 events .* were not stored: fenced"):
        first.close()
    assert outlet.bodies == []


def test_other_names_are_not_fenced(topic: Topic) -> None:
    with topic.producer(producer_id="p") as first, topic.producer(producer_id="q") as second:
        send(first, 1)[0].result(PATIENCE)
        send(second, 2)[0].result(PATIENCE)
        send(first, 3)[0].result(PATIENCE)
    assert sequences(topic) == [1, 2, 3]


def test_a_producer_in_another_process_fences_the_one_in_this(log: EventLog, start: Start) -> None:
    topic = log.create_topic("t", partitions=3)
    producer = topic.producer(linger=0, producer_id="p")
    send(producer, 0)[0].result(PATIENCE)
    child = start(SENDER, log.location, "_flush", 1_000_000)
    assert child.line() == "0"
    with pytest.raises(ProducerFencedError):
        send(producer, 1)[0].result(PATIENCE)
    child.kill()
    producer.close()
    found = sequences(topic)
    assert found == [*range(len(found))]


# ---- Failures ------------------------------------------------------------------------------------


def fail_once(outlet: MemoryOutlet, producer: Producer, *wanted: int) -> list[Delivery]:
    """Send events of which none is stored, and look at them."""
    outlet.errors.append(LogFullError("full"))
    failed = send(producer, *wanted)
    seal(producer)
    for delivery in failed:
        assert isinstance(delivery.exception(PATIENCE), LogFullError)
    return failed


@pytest.fixture
def outlet() -> Iterator[MemoryOutlet]:
    outlet = MemoryOutlet()
    yield outlet
    outlet.open.set()


def test_after_a_failure_sending_goes_on_with_the_first_event_that_was_not_stored(
    outlet: MemoryOutlet,
) -> None:
    producer = Producer(outlet, linger=NEVER, producer_id="p")
    send(producer, 1, 2)
    producer.flush()
    fail_once(outlet, producer, 4, 5, 6)
    assert producer.last_sequence == 2
    for number in (5, 6, 7, 100):
        with pytest.raises(DeliveryError, match="event 4 of producer 'p' was not stored, so event"):
            send(producer, number)
    assert send(producer, 1)[0].result(PATIENCE).duplicate
    with pytest.raises(DeliveryError, match="send again what follows 2"):
        send(producer, 5)
    again = send(producer, 4, 5, 6, 7)
    producer.close()
    assert not any(delivery.result(0).duplicate for delivery in again)
    assert sorted(outlet.bodies) == [b"1", b"2", b"4", b"5", b"6", b"7"]
    assert producer.last_sequence == 7


def test_what_comes_before_the_failed_event_does_not_open_the_way_for_what_follows_it(
    outlet: MemoryOutlet,
) -> None:
    producer = Producer(outlet, linger=NEVER, producer_id="p")
    send(producer, 1)
    producer.flush()
    fail_once(outlet, producer, 5, 6)
    send(producer, 3)
    with pytest.raises(DeliveryError):
        send(producer, 6)
    send(producer, 5, 6)
    producer.close()
    assert sorted(outlet.bodies) == [b"1", b"3", b"5", b"6"]


def test_a_failure_fails_all_that_waits_behind_it_and_duplicates_of_it(
    outlet: MemoryOutlet,
) -> None:
    producer = Producer(outlet, linger=NEVER, max_batch_events=2, producer_id="p")
    outlet.open.clear()
    outlet.errors.append(LogFullError("full"))
    first = [producer.send(b"%d" % n, partition=0, sequence=n) for n in range(5)]
    duplicate = producer.send(b"1", partition=0, sequence=1)
    outlet.open.set()
    for delivery in [*first, duplicate]:
        assert isinstance(delivery.exception(PATIENCE), LogFullError)
    assert producer.metrics == (0, 0, 0, 0, 6)
    again = [producer.send(b"%d" % n, partition=0, sequence=n) for n in range(5)]
    producer.close()
    assert [delivery.result(0).offset for delivery in again] == [*range(5)]


def test_a_second_failure_moves_the_place_to_go_on_from(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=NEVER, producer_id="p")
    fail_once(outlet, producer, 5, 6)
    fail_once(outlet, producer, 3)
    with pytest.raises(DeliveryError, match="event 3"):
        send(producer, 5)
    send(producer, 3, 5, 6)
    producer.close()
    assert sorted(outlet.bodies) == [b"3", b"5", b"6"]


def test_failures_at_random_and_sending_again_come_to_each_event_once(
    outlet: MemoryOutlet,
) -> None:
    rng = random.Random(7)
    outlet.errors += [LogFullError("full") if rng.random() < 0.3 else None for _ in range(400)]
    producer = Producer(outlet, linger=0, max_batch_events=5, producer_id="p")
    while producer.last_sequence < 999:
        number = producer.last_sequence + 1
        with contextlib.suppress(DeliveryError):
            while number < 1000:
                send(producer, number)
                number += 1
        with contextlib.suppress(DeliveryError):
            producer.flush()
    producer.close()
    assert sorted(map(int, outlet.bodies)) == [*range(1000)]
    for rows in outlet.rows.values():
        numbers = [int(row.body) for row in rows]
        assert numbers == sorted(numbers)


def test_a_full_log_fails_a_producer_with_a_name_which_goes_on_when_there_is_room(
    log_path: Path,
) -> None:
    with eventlog.open(log_path, map_size=2**20) as log:
        topic = log.create_topic("t", partitions=1, compression="none")
        producer = topic.producer(linger=0, producer_id="p")
        number = 0
        while producer.send(bytes(10_000), sequence=number).exception(PATIENCE) is None:
            number += 1
        assert producer.last_sequence == number - 1
        with pytest.raises(DeliveryError):
            producer.send(bytes(10_000), sequence=number + 1)
        topic.configure(retention_bytes=100_000)
        topic.expire()
        assert producer.send(b"again", sequence=number).result(PATIENCE).offset == number
        producer.close()


def test_an_event_stored_without_its_producer_being_told_is_not_stored_again(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if what follows the commit failed: the log knows better than the producer."""
    producer = topic.producer(linger=0, producer_id="p")

    def fail(self: Appender, parts: object) -> None:
        raise OSError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(Appender, "catch_up", fail)
        assert isinstance(send(producer, 1)[0].exception(PATIENCE), OSError)
    error = send(producer, 1)[0].exception(PATIENCE)
    assert type(error) is EventLogError
    assert "has stored up to 1, and not -1 as it was told: open it again" in str(error)
    producer.close()
    with topic.producer(producer_id="p") as again:
        assert again.last_sequence == 1
        assert send(again, 1)[0].result(PATIENCE).duplicate
    assert sequences(topic) == [1]


# ---- What the log keeps --------------------------------------------------------------------------


def records(log: EventLog) -> int:
    """How many producers the log knows."""

    def count(transaction: object) -> int:
        cursor = transaction.cursor()  # type: ignore[attr-defined]
        prefix = keys.PRODUCER_PREFIX
        return sum(bytes(key).startswith(prefix) for key in cursor.iternext(values=False))

    found: int = log.look(count)  # type: ignore[attr-defined]
    return found


class Clock:
    """The log's clock, which stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_us = int(BEGINNING.timestamp() * 1_000_000)

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clocked_topic(clock: Clock) -> Iterator[Topic]:
    with eventlog.open("memory:", clock=clock) as log:
        yield log.create_topic("t", partitions=3)


def use(topic: Topic, name: str, sequence: int) -> int:
    """Open a producer and store an event with it; what it was told was stored before."""
    with topic.producer(producer_id=name) as producer:
        before = producer.last_sequence
        send(producer, sequence)
    return before


def test_nothing_is_forgotten_while_there_is_room(clocked_topic: Topic, clock: Clock) -> None:
    use(clocked_topic, "p", 5)
    clock.now_us += 400 * DAY_US
    use(clocked_topic, "other", 1)
    assert use(clocked_topic, "p", 6) == 5


def test_the_one_that_was_idle_longest_makes_room_for_another_name(
    clocked_topic: Topic, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "MAX_PRODUCERS", 3)
    for name in ("a", "b", "c"):
        use(clocked_topic, name, 5)
        clock.now_us += 1
    assert use(clocked_topic, "a", 6) == 5
    clock.now_us += 8 * DAY_US
    use(clocked_topic, "d", 1)
    assert records(clocked_topic.log) == 3
    assert use(clocked_topic, "a", 7) == 6
    assert use(clocked_topic, "c", 6) == 5
    clock.now_us += 8 * DAY_US
    assert use(clocked_topic, "b", 6) == -1


@pytest.mark.parametrize("again", [True, False], ids=["opened again", "not opened again"])
def test_a_producer_that_was_forgotten_while_it_lived_stores_nothing_more(
    clocked_topic: Topic, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    monkeypatch.setattr(producers, "MAX_PRODUCERS", 1)
    with clocked_topic.producer(producer_id="p") as first:
        send(first, 5)[0].result(PATIENCE)
        clock.now_us += 8 * DAY_US
        use(clocked_topic, "other", 1)
        if again:
            clock.now_us += 8 * DAY_US
            use(clocked_topic, "p", 0)
        with pytest.raises(ProducerFencedError):
            send(first, 6)[0].result(PATIENCE)


def test_one_that_was_just_opened_is_not_idle(
    clocked_topic: Topic, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "MAX_PRODUCERS", 1)
    use(clocked_topic, "p", 5)
    clock.now_us += 8 * DAY_US
    with clocked_topic.producer(producer_id="p") as producer:
        with pytest.raises(UnsupportedOperationError):
            clocked_topic.producer(producer_id="other")
        send(producer, 6)[0].result(PATIENCE)


def test_a_clock_that_goes_back_forgets_nothing(clocked_topic: Topic, clock: Clock) -> None:
    use(clocked_topic, "p", 5)
    clock.now_us -= 30 * DAY_US
    use(clocked_topic, "other", 1)
    assert use(clocked_topic, "p", 6) == 5


def test_a_topic_keeps_a_bounded_number_of_producers(
    clocked_topic: Topic, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producers, "MAX_PRODUCERS", 3)
    for name in ("a", "b", "c"):
        use(clocked_topic, name, 1)
        clock.now_us += DAY_US
    with pytest.raises(UnsupportedOperationError, match="at most 3 producers with names"):
        clocked_topic.producer(producer_id="d")
    assert use(clocked_topic, "a", 2) == 1, "those that are there go on"
    clock.now_us += 6 * DAY_US
    assert use(clocked_topic, "d", 1) == -1
    assert use(clocked_topic, "a", 3) == 2


def test_deleting_a_topic_removes_what_is_known_of_its_producers(memory_log: EventLog) -> None:
    topic, other = memory_log.create_topic("t"), memory_log.create_topic("other")
    use(topic, "p", 5)
    use(other, "p", 7)
    producer = topic.producer(linger=NEVER, producer_id="q")
    (late,) = send(producer, 1)
    memory_log.delete_topic("t")
    assert records(memory_log) == 1
    seal(producer)
    with pytest.raises(TopicNotFoundError):
        late.result(PATIENCE)
    producer.close()
    assert use(memory_log.create_topic("t"), "p", 1) == -1
    assert use(other, "p", 8) == 7


def test_a_damaged_record_is_an_error_and_not_a_beginning(topic: Topic) -> None:
    use(topic, "p", 5)
    log = topic.log
    key = keys.producer_key(int(topic.id), "p")

    def damage(writer: object) -> None:
        writer.put(key, b"x" * 32)  # type: ignore[attr-defined]

    log.commit(damage)  # type: ignore[attr-defined]
    with pytest.raises(EventLogError):
        topic.producer(producer_id="p")
    log.commit(lambda writer: writer.delete(key))  # type: ignore[attr-defined]


# ---- Event loops ---------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_producer_with_a_name_works_in_async_with(topic: Topic) -> None:
    for expected in (-1, 9):
        async with topic.producer(producer_id="p") as producer:
            assert producer.last_sequence == expected
            deliveries = send(producer, *range(10))
            assert [(await delivery).duplicate for delivery in deliveries] == [expected > 0] * 10
    assert sequences(topic) == [*range(10)]


@pytest.mark.anyio
async def test_on_an_event_loop_it_works_only_there_since_opening_it_blocks(topic: Topic) -> None:
    producer = topic.producer(producer_id="p")
    with pytest.raises(UnsupportedOperationError, match="async with"):
        send(producer, 1)
    with pytest.raises(UnsupportedOperationError, match="async with"):
        _ = producer.last_sequence
    await anyio.to_thread.run_sync(send, producer, 1)
    await anyio.to_thread.run_sync(producer.close)
    assert sequences(topic) == [1]


# ---- Several processes ---------------------------------------------------------------------------

# Loads the numbers up to a bound, from where the log says, until it is fenced or done.
LOADER = """
import random, sys
import eventlog
from eventlog import DeliveryError, ProducerFencedError

path, most = sys.argv[1], int(sys.argv[2])
log = eventlog.open(path)
topic = log.create_topic("t", partitions=3, exist_ok=True)
print("ready", flush=True)
try:
    with topic.producer(producer_id="loader", linger=0.0005) as producer:
        for number in range(producer.last_sequence + 1, most):
            producer.send(b"%d" % number, key=str(number % 5), sequence=number)
            if number % 50 == 0:
                producer.flush()
    print("done", flush=True)
except (ProducerFencedError, DeliveryError) as error:
    print(type(error).__name__, flush=True)
"""


def test_processes_that_fence_each_other_and_are_killed_load_every_number_once(
    log_path: Path, start: Start
) -> None:
    rng = random.Random(seed_of_today())
    most = 20_000
    running: list[Child] = []
    for _ in range(15):
        child = start(LOADER, log_path, most)
        assert child.line() == "ready"
        running.append(child)
        time.sleep(rng.uniform(0, 0.02))  # not to wait for anything: to choose the moment
        if len(running) > 2 or rng.random() < 0.5:
            running.pop(rng.randrange(len(running))).kill()
        if rng.random() < 0.3:
            for each in running:
                each.kill()
            running.clear()
            with eventlog.open(log_path) as log:
                require_prefix(log.topic("t"))
    for child in running:
        child.kill()
    assert start(LOADER, log_path, most).rest() == ["ready", "done"]
    with eventlog.open(log_path) as log:
        assert log.check().ok
        assert sequences(log.topic("t")) == [*range(most)]


def require_prefix(topic: Topic) -> None:
    """The numbers so far are all there, once, and in order in each partition; nobody writes."""
    found = sequences(topic)
    assert found == [*range(len(found))]
    for partition in range(3):
        numbers = [int(event.body) for event in topic.read(partition, max_events=1_000_000)]
        assert numbers == sorted(numbers)
