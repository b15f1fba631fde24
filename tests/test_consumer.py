"""Consumers in threads: what comes out, in which order, from where and up to where; and when it
waits, when it stops, and what it says of what it cannot read. Event loops and groups have files of
their own.
"""

from __future__ import annotations

import itertools
import linecache
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventlog
from eventlog import (
    EARLIEST,
    LATEST,
    ClosedError,
    CorruptBatchError,
    EventLog,
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    StoredEvent,
    Topic,
    TopicNotFoundError,
)
from eventlog.consumer import Consumer, LostRange
from eventlog.consuming.backlog import Backlog
from eventlog.consuming.source import Look, Request
from eventlog.embedded import keys
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.source import EmbeddedSource
from eventlog.embedded.writer import Writer
from eventlog.positions import Position
from eventlog.waiting import Watch

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
PATIENCE = 60.0

T = TypeVar("T")


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return (self.now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Iterator[EventLog]:
    """A log in memory whose time is the test's."""
    with eventlog.open("memory:", clock=clock) as log:
        yield log


@pytest.fixture
def topic(log: EventLog) -> Topic:
    """Three partitions."""
    return log.create_topic("cars", partitions=3)


def consume(topic: Topic, **options: Any) -> Consumer:
    """A consumer of what is there, unless told otherwise."""
    options.setdefault("follow", False)
    return topic.consumer(**options)


def fill(topic: Topic, count: int = 5, partitions: int | None = None) -> None:
    """As many events in each partition, one stored batch each: bodies ``partition:offset``."""
    for partition in range(topic.partitions if partitions is None else partitions):
        offset = topic.partition_info(partition).next_offset
        topic.append_batch(
            [b"%d:%d" % (partition, offset + number) for number in range(count)],
            partition=partition,
        )


def places(events: Any) -> list[tuple[int, int]]:
    return [(event.partition, event.offset) for event in events]


def by_partition(events: Any) -> dict[int, list[int]]:
    """The offsets of each partition in the order in which they came."""
    found: dict[int, list[int]] = {}
    for event in events:
        assert event.body == b"%d:%d" % (event.partition, event.offset)
        found.setdefault(event.partition, []).append(event.offset)
    return found


class SpySource(EmbeddedSource):
    """Tells when a consumer begins to wait, and keeps what it was asked for."""

    def __init__(self, topic: Any) -> None:
        super().__init__(topic)
        self.waits = threading.Semaphore(0)
        self.requests: list[Request] = []
        self.looks: list[Look] = []
        self.before_look: Callable[[], object] = lambda: None

    def fetch(self, request: Request) -> Look:
        self.before_look()
        look = super().fetch(request)
        self.requests.append(request)
        self.looks.append(look)
        return look

    def watch(self, partitions: Any) -> Watch:
        return SpyWatch(super().watch(partitions), self)

    def await_wait(self) -> None:
        """Until the consumer waits once more than was awaited before."""
        assert self.waits.acquire(timeout=PATIENCE)


class SpyWatch(Watch):
    def __init__(self, inner: Watch, source: SpySource) -> None:
        self._inner = inner
        self._source = source

    def mark(self) -> None:
        self._inner.mark()

    def changed(self) -> bool:
        return self._inner.changed()

    def interrupt(self) -> None:
        self._inner.interrupt()

    def close(self) -> None:
        self._inner.close()

    def wait(self, timeout: float | None = None) -> bool:
        self._source.waits.release()
        return self._inner.wait(timeout)

    async def wait_async(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - the contract
        self._source.waits.release()
        return await self._inner.wait_async(timeout)


def result_of(future: Future[T]) -> T:
    return future.result(PATIENCE)


# What comes out


def test_everything_comes_once_and_in_the_order_of_its_partition(topic: Topic) -> None:
    for _ in range(3):
        fill(topic)
    expected = {number: list(range(15)) for number in range(3)}
    assert by_partition(consume(topic)) == expected
    assert by_partition(itertools.chain.from_iterable(consume(topic).batches())) == expected
    consumer = consume(topic)
    assert by_partition(iter(lambda: next(consumer, None), None)) == expected


def test_nothing_comes_of_an_empty_topic(topic: Topic) -> None:
    assert list(consume(topic)) == []
    assert list(consume(topic).batches()) == []


def test_a_list_is_of_one_partition_and_never_empty(topic: Topic) -> None:
    fill(topic)
    fill(topic)
    batches = list(consume(topic).batches())
    assert len(batches) == 3
    for batch in batches:
        assert len(batch) == 10
        assert len({event.partition for event in batch}) == 1


@pytest.mark.parametrize("partitions", [1, [1], [1, 2], (2, 1, 1), {0, 2}])
def test_only_the_partitions_asked_for_are_read(topic: Topic, partitions: Any) -> None:
    fill(topic)
    expected = {partitions} if isinstance(partitions, int) else set(partitions)
    assert set(by_partition(consume(topic, partitions=partitions))) == expected


def test_a_partition_that_is_not_there_is_an_error_when_iteration_begins(topic: Topic) -> None:
    for missing in (3, -1):
        with pytest.raises(PartitionNotFoundError, match=str(missing)):
            next(consume(topic, partitions=[0, missing]))


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"partitions": "0"}, TypeError),
        ({"partitions": True}, TypeError),
        ({"partitions": [0.0]}, TypeError),
        ({"partitions": []}, ValueError),
        ({"start": "yesterday"}, ValueError),
        ({"start": 1.5}, TypeError),
        ({"start": {"0": 1}}, TypeError),
        ({"start": {0: datetime(2024, 1, 1)}}, ValueError),  # noqa: DTZ001 - the point
        ({"start": None}, TypeError),
        ({"end": object()}, TypeError),
        ({"order": "offset"}, ValueError),
        ({"max_wait": -1}, ValueError),
        ({"max_wait": "1"}, TypeError),
        ({"prefetch_bytes": 0}, ValueError),
        ({"prefetch_bytes": 1.5}, TypeError),
        ({"on_lost": "print"}, TypeError),
        ({"group": "no/group"}, ValueError),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(
    topic: Topic, options: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        consume(topic, **options)


# Where it begins and ends


@pytest.fixture
def hourly(topic: Topic, clock: Clock) -> Topic:
    """Five events in each partition, an hour apart; now is at the last one's time."""
    for number in range(5):
        if number:
            clock.advance(3600)
        for partition in range(3):
            topic.append(b"%d:%d" % (partition, number), partition=partition)
    return topic


@pytest.mark.parametrize(
    ("start", "first"),
    [
        (EARLIEST, 0),
        (LATEST, None),
        ("latest", None),
        (0, 0),
        (3, 3),
        (5, None),
        ("-1h", 3),
        ("-90m", 3),
        (NOW + timedelta(hours=2), 2),
        ("2024-02-29T12:30:00Z", 1),
        (NOW - timedelta(days=400), 0),
        (NOW + timedelta(days=400), None),
        ({0: 3, 1: 3, 2: "-1h", 99: 5}, 3),
    ],
)
def test_it_starts_where_it_was_told(hourly: Topic, start: Any, first: int | None) -> None:
    expected = {} if first is None else {number: list(range(first, 5)) for number in range(3)}
    assert by_partition(consume(hourly, start=start)) == expected


@pytest.mark.parametrize(
    ("end", "count"),
    [
        (None, 5),
        (LATEST, 5),
        (EARLIEST, 0),
        (0, 0),
        (-1, 0),
        (2, 2),
        (99, 5),
        ("-1h", 3),
        (NOW + timedelta(hours=2), 2),
        (NOW + timedelta(days=400), 5),
        ({0: 2, 1: 2, 2: 2}, 2),
    ],
)
def test_it_stops_before_the_end_it_was_told(hourly: Topic, end: Any, count: int) -> None:
    expected = {number: list(range(count)) for number in range(3)} if count else {}
    assert by_partition(consume(hourly, end=end)) == expected
    assert by_partition(consume(hourly, end=end, order="time")) == expected


def test_what_a_mapping_leaves_out_has_no_limit(hourly: Topic) -> None:
    consumer = consume(hourly, start={0: 3}, end={1: 2})
    assert by_partition(consumer) == {0: [3, 4], 1: [0, 1], 2: [0, 1, 2, 3, 4]}


def test_an_end_before_the_start_leaves_nothing(hourly: Topic) -> None:
    assert list(consume(hourly, start=4, end=2)) == []


def test_a_start_that_is_not_there_is_an_error_that_says_what_is(hourly: Topic) -> None:
    for start in (6, -1, {2: 99}):
        with pytest.raises(OffsetOutOfRangeError, match="has offsets 0 to 4") as caught:
            next(consume(hourly, start=start))
        assert (caught.value.beginning_offset, caught.value.next_offset) == (0, 5)


def test_positions_get_their_meaning_when_iteration_begins(topic: Topic, clock: Clock) -> None:
    """Not when the consumer is made."""
    consumer = consume(topic, start="-1s")
    clock.advance(3600)
    fill(topic)
    latest = consume(topic, start=LATEST)
    fill(topic)
    assert by_partition(consumer) == {number: list(range(10)) for number in range(3)}
    assert list(latest) == []


def test_without_following_it_ends_where_the_topic_ended_when_it_began(topic: Topic) -> None:
    fill(topic)
    consumer = consume(topic)
    first = next(consumer)
    fill(topic)
    assert len([first, *consumer]) == 15
    assert next(consumer, None) is None


def test_it_follows_unless_there_is_an_end(topic: Topic) -> None:
    fill(topic)
    assert len(list(topic.consumer(end=LATEST))) == 15
    assert len(list(topic.consumer(end={0: 2}))) == 12
    assert len(list(topic.consumer(max_wait=0))) == 15


# Where it stands


def test_positions_count_what_was_handed_out_to_the_event(topic: Topic) -> None:
    fill(topic, 3)
    for order in ("partition", "time"):
        consumer = consume(topic, order=order)
        expected = {0: 0, 1: 0, 2: 0}
        assert consumer.positions == expected
        for event in consumer:
            expected[event.partition] += 1
            assert consumer.positions == expected
            assert consumer.position(event.partition) == event.offset + 1


def test_a_list_counts_as_a_whole(topic: Topic) -> None:
    fill(topic, 3)
    consumer = consume(topic)
    batch = next(consumer.batches())
    assert consumer.position(batch[0].partition) == 3
    batch.clear()  # it is the caller's
    assert sum(consumer.positions.values()) == 3


def test_the_ways_of_iterating_share_one_place(topic: Topic) -> None:
    """A loop that was left goes on in the next one, in lists, or with next()."""
    fill(topic, 4, partitions=1)
    consumer = consume(topic)
    for event in consumer:
        assert event.offset == 0
        break
    assert next(consumer).offset == 1
    iterator = iter(consumer)
    assert next(iterator).offset == 2
    assert places(next(consumer.batches())) == [(0, 3)]
    assert next(iterator, None) is None
    assert list(consumer) == []


def test_a_position_of_what_is_not_read_is_an_error(topic: Topic) -> None:
    consumer = consume(topic, partitions=[1])
    assert consumer.positions == {1: 0}
    with pytest.raises(PartitionNotFoundError):
        consumer.position(0)


def test_lag_is_what_is_there_and_was_not_handed_out(topic: Topic) -> None:
    fill(topic)
    consumer = consume(topic, start={0: 2})
    assert consumer.lag() == {0: 3, 1: 5, 2: 5}
    next(consumer)
    fill(topic)
    assert sum(consumer.lag().values()) == 27


# Fairness


def test_a_busy_partition_does_not_starve_the_others(topic: Topic) -> None:
    """Each in turn gives a bounded share."""
    for _ in range(20):
        topic.append_batch([b"x" * 100] * 1000, partition=0)
    topic.append(b"", partition=1)
    topic.append_batch([b"y" * 100] * 3000, partition=2)
    turns = [batch[0].partition for batch in consume(topic).batches()]
    assert turns[:3] == [0, 1, 2]
    assert turns[3:5] == [0, 2]
    sizes = [len(batch) for batch in consume(topic).batches()]
    assert max(sizes) < 3000


def test_what_comes_into_an_idle_partition_is_not_kept_behind_what_was_read_ahead(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though far more of a busy one was read ahead."""
    monkeypatch.setattr("eventlog.consuming.reading._PEEK_SECONDS", 0.0)
    for _ in range(30):
        topic.append_batch([b"x" * 100] * 1000, partition=0)
    consumer = consume(topic, follow=True, max_wait=0)
    batches = consumer.batches()
    next(batches)
    topic.append(b"1:0", partition=1)
    turns = [batch[0].partition for batch in batches]
    assert 1 in turns[:3]
    assert turns.count(0) > 20


# By time


def test_by_time_the_earliest_comes_first_and_of_equals_the_lower_partitions(
    topic: Topic, clock: Clock
) -> None:
    for step in range(4):
        for partition in (2, 0, 1):
            topic.append(b"", partition=partition)
            if step % 2:
                clock.advance(1)
    events = list(consume(topic, order="time"))
    assert len(events) == 12
    assert [(e.enqueued_at, e.partition) for e in events] == sorted(
        (e.enqueued_at, e.partition) for e in events
    )


Appends = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 12), st.integers(0, 1), st.integers(0, 30)),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(
    appends=Appends,
    prefetch_bytes=st.sampled_from([1, 30, 200, 2**20]),
    order=st.sampled_from(["partition", "time"]),
)
def test_whatever_was_appended_comes_out_once_and_in_order(
    appends: list[tuple[int, int, int, int]], prefetch_bytes: int, order: Any
) -> None:
    """And no more is read ahead than may be: that, or an event of each."""
    clock = Clock()
    with eventlog.open("memory:", clock=clock) as log:
        topic: Any = log.create_topic("cars", partitions=4)
        for partition, count, seconds, size in appends:
            clock.advance(seconds)
            topic.append_batch([bytes(size)] * count, partition=partition)
        source = SpySource(topic)
        consumer = Consumer(source, follow=False, order=order, prefetch_bytes=prefetch_bytes)
        events = []
        for event in consumer:
            events.append(event)
            ahead = [one for one in consumer._reader._backlogs.values() if one.runs]
            held = sum(run.size for one in ahead for run in one.runs)
            most = max([30, *(run.size for one in ahead for run in one.runs)])
            assert held <= max(prefetch_bytes, most * (4 if order == "time" else 1))
        assert Counter(places(events)) == Counter(
            (number, offset)
            for number in range(4)
            for offset in range(topic.partition_info(number).next_offset)
        )
        if order == "time":
            ordered = sorted(events, key=lambda e: (e.enqueued_at, e.partition, e.offset))
            assert places(events) == places(ordered)
        else:
            for number in range(4):
                offsets = [event.offset for event in events if event.partition == number]
                assert offsets == sorted(offsets)


def test_by_time_what_is_there_when_it_looks_is_wholly_ordered(topic: Any, clock: Clock) -> None:
    """A partition that was read to its end is looked at again before others go past it."""
    source = SpySource(topic)
    topic.append_batch([bytes(50)] * 10, partition=0)
    topic.append(b"", partition=1)
    appended = threading.Event()

    def append_more() -> None:
        if len(source.requests) == 1 and not appended.is_set():
            appended.set()
            clock.advance(1)
            topic.append(b"earlier", partition=1)
            clock.advance(1)
            topic.append(b"later", partition=0)

    source.before_look = append_more
    consumer = Consumer(source, follow=True, max_wait=0, order="time", prefetch_bytes=600)
    assert [event.body for event in consumer][-2:] == [b"earlier", b"later"]
    assert appended.is_set()


# Reading ahead


def test_no_more_is_read_ahead_than_was_allowed(topic: Any) -> None:
    for partition in range(3):
        for _ in range(20):
            topic.append_batch([b"x" * 1000] * 10, partition=partition)
    source = SpySource(topic)
    consumer = Consumer(source, follow=False, prefetch_bytes=50_000)
    count = 0
    for batch in consumer.batches():
        count += len(batch)
        held = sum(backlog.size for backlog in consumer._reader._backlogs.values())
        assert held <= 50_000
    assert count == 600
    assert len(source.requests) >= 600 * 1000 // 50_000


def test_an_event_that_is_larger_than_all_that_may_be_read_ahead_comes_alone(topic: Any) -> None:
    for partition in range(3):
        topic.append_batch([b"x" * 5000] * 4, partition=partition)
    source = SpySource(topic)
    batches = list(Consumer(source, follow=False, prefetch_bytes=1000).batches())
    assert [len(batch) for batch in batches] == [1] * 12
    for look in source.looks:
        assert sum(len(found.runs) for found in look.found.values()) <= 1


def test_one_look_reads_ahead_of_all_partitions(topic: Any) -> None:
    for _ in range(5):
        fill(topic)
    source = SpySource(topic)
    list(Consumer(source, follow=False))
    assert len(source.requests) == 1


# Damage


def damage(log: EventLog, last_offset: int, partition: int = 0) -> None:
    """Flip a bit of the stored batch that ends there."""

    def work(writer: Writer) -> None:
        key = keys.encode_batch_key(1, partition, last_offset)
        value = writer.get(key)
        assert value is not None
        writer.put(key, value[:-1] + bytes([value[-1] ^ 1]))

    assert isinstance(log, EmbeddedLog)
    log.environment.committer.run(work, timeout=10)


def remove(log: EventLog, last_offset: int, partition: int = 0) -> None:
    """Have a stored batch vanish."""
    assert isinstance(log, EmbeddedLog)
    key = keys.encode_batch_key(1, partition, last_offset)
    log.environment.committer.run(lambda writer: writer.delete(key), timeout=10)


@pytest.fixture
def damaged(log: EventLog, topic: Topic) -> Topic:
    """Three batches of five in each partition; the second of partition 0 is damaged."""
    for _ in range(3):
        fill(topic)
    damage(log, 9)
    return topic


@pytest.mark.parametrize("order", ["partition", "time"])
def test_a_damaged_batch_is_an_error_and_seek_goes_on_behind_it(damaged: Topic, order: Any) -> None:
    """The iterator itself survives the error; nothing else is lost."""
    consumer = consume(damaged, order=order)
    iterator = iter(consumer)
    events: list[StoredEvent] = []
    with pytest.raises(CorruptBatchError, match="go on at 10") as caught:
        events.extend(iterator)
    error = caught.value
    assert (error.partition, error.last_offset) == (0, 9)
    assert consumer.position(0) == 5
    with pytest.raises(CorruptBatchError):  # unless it is moved it says so again
        events.extend(iterator)
    consumer.seek(error.partition, error.last_offset + 1)
    events.extend(iterator)
    whole = list(range(15))
    assert by_partition(events) == {0: whole[:5] + whole[10:], 1: whole, 2: whole}


def test_damage_in_one_partition_does_not_keep_the_others_back(damaged: Topic) -> None:
    consumer = consume(damaged)
    events: list[StoredEvent] = []
    for _ in range(10):
        try:
            events.extend(consumer)
        except CorruptBatchError as error:
            assert error.partition == 0  # noqa: PT017 - it is met again and again
    assert by_partition(events) == {0: list(range(5)), 1: list(range(15)), 2: list(range(15))}


@pytest.mark.parametrize("order", ["partition", "time"])
@pytest.mark.parametrize("last_offset", [9, 14])
def test_a_batch_that_is_missing_is_damage_wherever_it_was(
    log: EventLog, topic: Topic, last_offset: int, order: Any
) -> None:
    """At the end too: how far the topic went was seen when iteration began."""
    for _ in range(3):
        fill(topic)
    consumer = consume(topic, order=order, partitions=0)
    assert consumer.positions == {0: 0}
    remove(log, last_offset)
    with pytest.raises(CorruptBatchError, match="missing") as caught:
        list(consumer)
    assert (caught.value.first_offset, caught.value.last_offset) == (last_offset - 4, last_offset)
    consumer.seek(0, caught.value.last_offset + 1 if last_offset < 14 else LATEST)


def test_events_before_the_damage_come_first_also_within_a_list(
    log: EventLog, topic: Topic
) -> None:
    for _ in range(3):
        fill(topic, 5, partitions=1)
    damage(log, 9)
    batches = consume(topic).batches()
    assert [event.offset for event in next(batches)] == list(range(5))
    with pytest.raises(CorruptBatchError):
        next(batches)


# What has expired


@pytest.fixture
def expiring(log: EventLog, clock: Clock) -> Topic:
    """Ten batches of five in one partition, a minute apart; each can be read for five minutes."""
    topic = log.create_topic("expiring", partitions=1, retention=timedelta(minutes=5))
    for _ in range(4):
        fill(topic)
        clock.advance(60)
    return topic


@pytest.mark.parametrize("order", ["partition", "time"])
@pytest.mark.parametrize("removed", [False, True])
def test_what_expires_before_it_was_read_is_reported_and_then_it_goes_on(
    expiring: Topic,
    clock: Clock,
    order: Any,
    removed: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A small buffer: what was read ahead is not lost."""
    reported: list[LostRange] = []
    consumer = consume(expiring, order=order, prefetch_bytes=1, on_lost=reported.append)
    assert next(consumer).offset == 0
    clock.advance(150)  # the first two batches are gone
    if removed:
        expiring.expire()
    with caplog.at_level(logging.WARNING, "eventlog"):
        assert [event.offset for event in consumer] == list(range(10, 20))
    assert reported == [LostRange(0, 1, 9)]
    assert reported[0].events == consumer.lost_events == 9
    (record,) = caplog.records
    assert record.getMessage() == (
        "topic 'expiring', partition 0: events 1 to 9 expired before they were read"
    )


@pytest.mark.parametrize("removed", [False, True])
def test_if_all_has_expired_it_goes_on_with_what_comes_next(
    expiring: Topic, clock: Clock, removed: bool
) -> None:
    consumer = consume(expiring, follow=True, max_wait=0, prefetch_bytes=1)
    next(consumer)
    clock.advance(3600)
    if removed:
        expiring.expire()
    assert list(consumer) == []
    assert (consumer.lost_events, consumer.positions, consumer.lag()) == (19, {0: 20}, {0: 0})
    fill(expiring)
    assert [event.offset for event in consumer] == list(range(20, 25))
    assert consumer.lost_events == 19


def test_what_is_lost_behind_the_end_is_none_of_its_business(expiring: Topic, clock: Clock) -> None:
    consumer = consume(expiring, end=7, prefetch_bytes=1)
    next(consumer)
    clock.advance(3600)
    assert list(consumer) == []
    assert (consumer.lost_events, consumer.positions) == (6, {0: 7})


def test_what_had_expired_before_it_began_is_not_lost(expiring: Topic, clock: Clock) -> None:
    clock.advance(150)
    consumer = consume(expiring)
    assert [event.offset for event in consumer] == list(range(10, 20))
    assert consumer.lost_events == 0
    with pytest.raises(OffsetOutOfRangeError):
        next(consume(expiring, start=9))


def test_a_callback_that_fails_stops_nothing(expiring: Topic, clock: Clock) -> None:
    def fail(lost: LostRange) -> None:
        raise RuntimeError(lost)

    consumer = consume(expiring, prefetch_bytes=1, on_lost=fail)
    next(consumer)
    clock.advance(150)
    assert len(list(consumer)) == 10


def test_by_size_it_is_the_same(log: EventLog) -> None:
    topic = log.create_topic("small", partitions=1, retention_bytes=5000, compression="none")
    topic.append_batch([b"x" * 1000] * 4, partition=0)
    consumer = consume(topic, follow=True, max_wait=0, prefetch_bytes=1)
    next(consumer)
    for _ in range(2):
        topic.append_batch([b"x" * 1000] * 4, partition=0)
    assert [event.offset for event in consumer] == list(range(8, 12))
    assert consumer.lost_events == 7


# Following


def test_what_is_appended_is_handed_to_who_waits(topic: Any, threads: ThreadPoolExecutor) -> None:
    source = SpySource(topic)
    with Consumer(source) as consumer:
        for number in range(20):
            waiting = threads.submit(next, consumer)
            source.await_wait()
            topic.append(b"%d" % number, partition=number % 3)
            assert result_of(waiting).body == b"%d" % number


def test_many_wait_for_one_topic(topic: Any, threads: ThreadPoolExecutor) -> None:
    source = SpySource(topic)
    consumers = [Consumer(source, order=order) for order in ("time", "partition") * 2]
    waiting = [threads.submit(next, consumer) for consumer in consumers]
    for _ in waiting:
        source.await_wait()
    topic.append(b"x", partition=2)
    assert [result_of(one).body for one in waiting] == [b"x"] * 4
    for consumer in consumers:
        consumer.close()


def test_max_wait_ends_iteration_and_it_can_be_iterated_again(topic: Topic) -> None:
    with topic.consumer(max_wait=0.001) as consumer:
        assert list(consumer) == []
        fill(topic)
        assert len(list(consumer)) == 15
        fill(topic)
        batches = consumer.batches()
        assert sum(map(len, batches)) == 15
        assert next(consumer, None) is None
        fill(topic)
        assert sum(map(len, batches)) == 15
        assert next(batches, None) is None
        assert next(topic.consumer(max_wait=timedelta(0), start=LATEST), None) is None


def test_a_partition_that_is_added_is_read_from_its_beginning(
    topic: Any, threads: ThreadPoolExecutor
) -> None:
    source = SpySource(topic)
    with Consumer(source, start=LATEST) as consumer:
        waiting = threads.submit(next, consumer)
        source.await_wait()
        with pytest.warns(UserWarning, match="partitions now"):
            topic.add_partitions(2)
        topic.append(b"first", partition=4)
        event = result_of(waiting)
        assert (event.body, event.partition, event.offset) == (b"first", 4, 0)
        assert consumer.positions == {0: 0, 1: 0, 2: 0, 3: 0, 4: 1}
        topic.append(b"second", partition=3)
        assert next(consumer).body == b"second"


def test_a_partition_that_is_added_is_not_read_by_who_asked_for_others(topic: Topic) -> None:
    fill(topic)
    some = topic.consumer(partitions=[0, 1, 2], max_wait=0)
    snapshot = consume(topic)
    assert next(some).offset == next(snapshot).offset == 0
    with pytest.warns(UserWarning, match="partitions now"):
        topic.add_partitions(1)
    topic.append(b"", partition=3)
    for consumer in (some, snapshot):
        assert {event.partition for event in consumer} <= {0, 1, 2}
        assert 3 not in consumer.positions


def test_following_to_an_offset_waits_until_every_partition_has_reached_it(
    topic: Any, threads: ThreadPoolExecutor
) -> None:
    source = SpySource(topic)
    fill(topic, 2)
    consumer = Consumer(source, follow=True, end=3)
    collecting = threads.submit(list, consumer)
    source.await_wait()
    fill(topic, 2, partitions=2)
    source.await_wait()
    assert not collecting.done()
    fill(topic, 2)
    events: Any = result_of(collecting)
    assert by_partition(events) == {number: [0, 1, 2] for number in range(3)}


def test_following_to_a_time_ends_with_an_event_at_or_after_it(
    topic: Any, clock: Clock, threads: ThreadPoolExecutor
) -> None:
    source = SpySource(topic)
    fill(topic, 2)
    consumer = Consumer(source, follow=True, end=NOW + timedelta(hours=1), partitions=0)
    collecting = threads.submit(list, consumer)
    source.await_wait()
    clock.advance(1800)
    fill(topic, 2)
    source.await_wait()
    clock.advance(1800)
    fill(topic, 2)
    events: Any = result_of(collecting)
    assert by_partition(events) == {0: [0, 1, 2, 3]}
    assert consumer.positions == {0: 4}


def test_following_to_a_time_ends_once_the_clock_is_past_it_and_all_was_read(
    topic: Any, clock: Clock, threads: ThreadPoolExecutor
) -> None:
    """Also in partitions where no later event ever comes."""
    source = SpySource(topic)
    fill(topic, 2)
    consumer = Consumer(source, follow=True, end=NOW + timedelta(hours=1))
    collecting = threads.submit(list, consumer)
    source.await_wait()
    clock.advance(1800)
    fill(topic, 2, partitions=1)
    source.await_wait()
    clock.advance(3600)
    events: Any = result_of(collecting)
    assert by_partition(events) == {0: [0, 1, 2, 3], 1: [0, 1], 2: [0, 1]}


def test_following_to_a_time_long_past_ends_at_once(hourly: Topic) -> None:
    consumer = consume(hourly, follow=True, end=NOW + timedelta(hours=2))
    assert by_partition(consumer) == {number: [0, 1] for number in range(3)}


# Moving


def test_seek_goes_back_and_forth_whatever_was_read_ahead(hourly: Topic) -> None:
    consumer = consume(hourly, partitions=1)
    assert next(consumer).offset == 0
    consumer.seek(1, 3)
    assert consumer.position(1) == 3
    assert [event.offset for event in consumer] == [3, 4]
    moves: list[tuple[Position, list[int]]] = [
        (EARLIEST, [0, 1, 2, 3, 4]),
        ("-1h", [3, 4]),
        (NOW + timedelta(hours=4), [4]),
        (LATEST, []),
    ]
    for position, expected in moves:
        consumer.seek(1, position)
        assert [event.offset for event in consumer] == expected


@pytest.mark.parametrize("order", ["partition", "time"])
def test_seek_concerns_one_partition_and_ends_the_list_it_is_in(hourly: Topic, order: Any) -> None:
    """In the middle of a loop too; of the others nothing is lost and nothing comes twice."""
    consumer = consume(hourly, order=order)
    events = []
    sought = False
    for event in consumer:
        events.append(event)
        if not sought and event.partition == 1 and event.offset == 2:
            sought = True
            consumer.seek(1, 0)
            assert consumer.position(1) == 0
    assert by_partition(events) == {
        0: [0, 1, 2, 3, 4],
        1: [0, 1, 2, 0, 1, 2, 3, 4],
        2: [0, 1, 2, 3, 4],
    }


def test_seek_in_the_middle_of_anothers_batch_keeps_the_rest_of_it(topic: Topic) -> None:
    fill(topic)
    consumer = consume(topic, order="time")
    events = [next(consumer), next(consumer)]
    consumer.seek(2, 3)
    assert consumer.positions == {0: 2, 1: 0, 2: 3}
    events += consumer
    assert by_partition(events) == {0: [0, 1, 2, 3, 4], 1: [0, 1, 2, 3, 4], 2: [3, 4]}


def test_who_was_moved_to_the_end_keeps_nobody_waiting(topic: Topic) -> None:
    """That it has nothing there does not mean that there is nothing."""
    for _ in range(5):
        fill(topic, 1000, partitions=2)
    consumer = topic.consumer(max_wait=0)
    batches = consumer.batches()
    assert next(batches)[0].partition == 0
    consumer.seek(0, LATEST)
    assert by_partition(event for batch in batches for event in batch) == {1: list(range(5000))}


def test_seek_before_iteration_begins_moves_it_too(hourly: Topic) -> None:
    consumer = consume(hourly, partitions=0)
    consumer.seek(0, 4)
    assert places(consumer) == [(0, 4)]


def test_seek_to_what_is_not_there_is_an_error_and_changes_nothing(hourly: Topic) -> None:
    consumer = consume(hourly, partitions=0)
    next(consumer)
    for position in (-1, 6):
        with pytest.raises(OffsetOutOfRangeError):
            consumer.seek(0, position)
    with pytest.raises(PartitionNotFoundError):
        consumer.seek(1, 0)
    with pytest.raises(ValueError, match="no position"):
        consumer.seek(0, "soon")
    assert [event.offset for event in consumer] == [1, 2, 3, 4]


# Stopping


def test_who_waits_stops_at_once_when_it_is_closed(topic: Any, threads: ThreadPoolExecutor) -> None:
    """Its iteration ends; what is asked of it later is an error."""
    source = SpySource(topic)
    consumer = Consumer(source)
    waiting = threads.submit(list, consumer)
    source.await_wait()
    consumer.close()
    assert result_of(waiting) == []
    for use in (iter, next, Consumer.batches, Consumer.lag, lambda c: c.seek(0, 0)):
        with pytest.raises(ClosedError, match="'cars' was closed"):
            use(consumer)
    consumer.close()


def test_an_iteration_that_had_begun_ends_wherever_it_was_when_it_is_closed(topic: Topic) -> None:
    """It matters not whether it waited, or its caller was busy: it ends after the same event."""
    fill(topic)
    consumer = consume(topic)
    seen = []
    for event in consumer:
        seen.append(event)
        if len(seen) == 2:
            consumer.close()
    assert len(seen) == 2
    assert sum(consumer.positions.values()) == 2
    batches = consume(topic)
    iterator = batches.batches()
    next(iterator)
    batches.close()
    assert list(iterator) == []


def test_nothing_more_is_handed_out_if_it_is_closed_meanwhile(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another thread, or a signal handler, just when the next list is made."""
    fill(topic)
    consumer = consume(topic)
    original = Backlog.events

    def close(backlog: Backlog, run: Any) -> list[StoredEvent]:
        consumer.close()
        return original(backlog, run)

    monkeypatch.setattr(Backlog, "events", close)
    assert list(consumer) == []
    assert consumer.positions == {0: 0, 1: 0, 2: 0}


def test_a_with_block_closes_it(topic: Topic) -> None:
    fill(topic)
    with consume(topic) as consumer:
        next(consumer)
    with pytest.raises(ClosedError):
        next(consumer)
    with pytest.raises(ClosedError), consumer:
        pass


def test_it_may_be_closed_before_it_began(topic: Topic) -> None:
    consumer = consume(topic)
    consumer.close()
    for use in (next, lambda c: c.positions, Consumer.lag):
        with pytest.raises(ClosedError):
            use(consumer)


def test_a_deleted_topic_is_an_error_also_while_waiting(
    log: EventLog, topic: Any, threads: ThreadPoolExecutor
) -> None:
    source = SpySource(topic)
    consumer = Consumer(source)
    waiting = threads.submit(next, consumer)
    source.await_wait()
    log.delete_topic("cars")
    for _ in range(2):
        with pytest.raises(TopicNotFoundError, match="'cars' was deleted"):
            result_of(waiting)
        waiting = threads.submit(next, consumer)


def test_a_deleted_topic_is_noticed_though_much_was_read_ahead(
    log: EventLog, topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.consuming.reading.CHECK_SECONDS", 0.0)
    for _ in range(3):
        fill(topic, 1000)
    batches = consume(topic).batches()
    next(batches)
    log.delete_topic("cars")
    log.create_topic("cars", partitions=3)
    with pytest.raises(TopicNotFoundError):
        next(batches)


def test_a_closed_log_is_an_error_also_while_waiting(
    topic: Any, log: EventLog, threads: ThreadPoolExecutor
) -> None:
    source = SpySource(topic)
    consumer = Consumer(source)
    waiting = threads.submit(next, consumer)
    source.await_wait()
    log.close()
    with pytest.raises(ClosedError, match="log"):
        result_of(waiting)
    with pytest.raises(ClosedError):
        next(consumer)


def test_a_closed_log_ends_what_was_read_ahead(log: EventLog, topic: Topic) -> None:
    for _ in range(3):
        fill(topic, 1000)
    batches = consume(topic).batches()
    next(batches)
    log.close()
    with pytest.raises(ClosedError):
        next(batches)


def test_other_users_of_the_log_do_not_keep_it_waiting(
    tmp_path: Any, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log that was closed is this one, whoever else has it open."""
    with eventlog.open(tmp_path) as other:
        other.create_topic("cars")
        log = eventlog.open(tmp_path)
        source = SpySource(log.topic("cars"))
        monkeypatch.setattr("eventlog.embedded.source.EmbeddedSource", lambda topic: source)
        waiting = threads.submit(next, log.topic("cars").consumer())
        source.await_wait()
        log.close()
        with pytest.raises(ClosedError, match="log"):
            result_of(waiting)


# Threads and interruptions


def test_others_may_ask_where_it_stands_while_it_is_iterated(
    topic: Topic, threads: ThreadPoolExecutor
) -> None:
    """What they are told never goes back, and never beyond what was handed out."""
    for _ in range(30):
        fill(topic, 100)
    consumer = consume(topic)
    consumed = dict.fromkeys(range(3), 0)
    done = threading.Event()

    def watch() -> int:
        looks = 0
        last = dict.fromkeys(range(3), 0)
        while not done.is_set():
            lag = consumer.lag()
            positions = consumer.positions
            for number in range(3):
                assert last[number] <= positions[number] <= 3000
                assert 3000 - positions[number] <= lag[number] <= 3000
            last = positions
            looks += 1
        return looks

    watching = threads.submit(watch)
    for event in consumer:
        consumed[event.partition] += 1
    done.set()
    assert result_of(watching)
    assert consumed == consumer.positions == dict.fromkeys(range(3), 3000)


class Interrupt:
    """Raises KeyboardInterrupt before the n-th line that runs of a consumer's code."""

    def __init__(self, after: int) -> None:
        self._left = after

    def __call__(self, frame: Any, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename.rpartition("eventlog/")[2]
        names = {"reading.py", "reader.py", "merging.py", "backlog.py"}
        inner = name.removeprefix("consuming/") in names
        return self._line if inner or name == "consumer.py" else None

    def _line(self, frame: Any, event: str, argument: object) -> Any:
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
        if event == "line" and not text.startswith("with "):  # where no signal ever comes between
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt
        return self._line


@pytest.mark.parametrize("order", ["partition", "time"])
def test_an_interrupted_loop_loses_nothing_wherever_it_was(topic: Topic, order: Any) -> None:
    """Ctrl-C at every line: what was handed out before and after is everything, once."""
    fill(topic, 1)
    fill(topic, 2, partitions=2)
    expected = {0: [0, 1, 2], 1: [0, 1, 2], 2: [0]}
    for after in itertools.count(1):
        consumer = consume(topic, order=order, prefetch_bytes=60)
        events: list[StoredEvent] = []
        before = sys.gettrace()
        sys.settrace(Interrupt(after))
        try:
            for event in consumer:
                events.append(event)  # noqa: PERF402 - what the interrupt leaves counts
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(before)
        handed_out = Counter(event.partition for event in events)
        if not interrupted:
            break
        assert consumer.positions == {number: handed_out[number] for number in range(3)}
        events += consumer
        assert by_partition(events) == expected
    assert after > 100
