"""Consumers of a cluster: all that was committed, each event once, whatever the topic undergoes."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import eventlog
from eventlog import (
    EARLIEST,
    LATEST,
    Consumer,
    CorruptBatchError,
    EventLog,
    LogBusyError,
    LostRange,
    OffsetOutOfRangeError,
    Topic,
    TopicNotFoundError,
)
from eventlog.consuming.source import Request, Wanted
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.reading import fetcher
from eventlog.kafka.reading.fetch import Fetch
from eventlog.kafka.reading.source import KafkaSource
from tests.kafka.reading import PATIENCE, Writer, expire, fetchers_of, made, until
from tests.servers.kafka import Kafka

PLENTY = 2**30


def _bodies(consumer: Consumer, count: int | None = None) -> list[bytes]:
    return [event.body for event in itertools.islice(consumer, count)]


def _data(kafka: Kafka) -> Path:
    return kafka._directory / "data"


# What is there


def test_markers_and_what_was_aborted_are_no_events(kafka: Kafka, kafka_log: EventLog) -> None:
    """A consumer goes past them to the end, and so do its positions."""
    topic = made(kafka_log)
    writer = Writer(kafka, topic.name)
    with writer.transaction(b"0", b"1"):
        pass
    with writer.transaction(b"no", b"neither", commit=False):
        pass
    until(lambda: topic.partition_info(0).next_offset == 6)  # a marker comes when it comes
    writer.write([b"6"])
    with writer.transaction(b"never", commit=False):
        pass
    end = 9
    until(lambda: topic.partition_info(0).next_offset == end)
    for options in ({"end": LATEST}, {"max_wait": 0}, {"follow": False}, {"end": 7}):
        with topic.consumer(**options) as consumer:
            assert [(e.offset, e.body) for e in consumer] == [(0, b"0"), (1, b"1"), (6, b"6")]
            assert consumer.position(0) == (7 if options == {"end": 7} else end)
            if options == {"max_wait": 0}:
                assert consumer.lag() == {0: 0}
    for start in (2, 3, 5, 7, 8, 9):
        with topic.consumer(start=start, end=LATEST) as consumer:
            assert _bodies(consumer) == ([b"6"] if start < 7 else [])


def test_what_is_not_committed_is_not_there_yet(
    kafka: Kafka, kafka_log: EventLog, threads: ThreadPoolExecutor
) -> None:
    """Nor what stands behind it; who follows gets it with the commit."""
    topic = made(kafka_log)
    writer = Writer(kafka, topic.name)
    with topic.consumer() as following:
        with writer.transaction(b"0"):
            writer.write([b"1"])
            with topic.consumer(max_wait=0.3) as consumer:
                assert _bodies(consumer) == []
            assert topic.read(0) == []
            found = threads.submit(_bodies, following, 2)
        assert found.result(PATIENCE) == [b"0", b"1"]


def test_a_look_finds_what_was_appended_before_it(kafka: Kafka, kafka_log: EventLog) -> None:
    """Although the consumer had seen the end, and does not wait."""
    topic = made(kafka_log, partitions=2)
    writer = Writer(kafka, topic.name)
    with topic.consumer(max_wait=0) as consumer:
        for number in range(20):
            writer.write([b"%d" % number], partition=number % 2)
            assert _bodies(consumer) == [b"%d" % number]


def test_times_are_each_events_own(kafka: Kafka, kafka_log: EventLog) -> None:
    """Also where they are those of who sent, and do not increase."""
    name = kafka.create_topic(1, message_timestamp_type="CreateTime", retention_ms=-1)
    writer = Writer(kafka, name)
    times = [5_000, 5_000, 1_000, 9_000, 9_000, 5_000]
    for time_ms in times:
        writer._plain.produce(name, b"", partition=0, timestamp=time_ms)
    writer.write([])
    for order in ("partition", "time"):
        with kafka_log.topic(name).consumer(end=LATEST, order=order) as consumer:
            assert [event.enqueued_at.timestamp() * 1000 for event in consumer] == times


def test_by_time_partitions_are_one_sequence(kafka: Kafka, kafka_log: EventLog) -> None:
    """While somebody writes, too."""
    topic = made(kafka_log, partitions=3)
    writer = Writer(kafka, topic.name)
    stop = threading.Event()

    def write() -> int:
        for number in itertools.count():
            writer.write([b"%d" % number], partition=number % 3)
            if stop.is_set():
                return number + 1
        raise AssertionError

    with ThreadPoolExecutor(1) as pool, topic.consumer(order="time") as consumer:
        writing = pool.submit(write)
        events = list(itertools.islice(consumer, 200))
        stop.set()
        events += itertools.islice(consumer, writing.result(PATIENCE) - 200)
    times = [event.enqueued_at for event in events]
    assert times == sorted(times)
    assert sorted(int(event.body) for event in events) == list(range(len(events)))


def test_large_events_are_read(kafka_log: EventLog) -> None:
    """Of whatever size a topic takes, and although they were compressed to much less."""
    topic = made(kafka_log, max_event_bytes=2**26)
    bodies = [os.urandom(2**20) * count for count in (9, 64)] + [b"last"]
    for body in bodies:
        topic.append(body)
    assert _bodies(topic.consumer(end=LATEST)) == bodies
    assert [event.body for event in topic.read(0)] == bodies


def test_what_is_damaged_is_not_handed_out(kafka: Kafka) -> None:
    """It is named, and reading can go on behind it."""
    with eventlog.open(kafka.location) as log:
        name = made(log).name
        for body in (b"first", b"damaged", b"last"):
            Writer(kafka, name).write([body])
    kafka.stop()
    (segment,) = _data(kafka).glob(f"{name}-0/*.log")
    segment.write_bytes(segment.read_bytes().replace(b"damaged", b"Damaged"))
    kafka.start()
    with eventlog.open(kafka.location) as log, log.topic(name).consumer(end=LATEST) as consumer:
        topic = log.topic(name)
        assert [event.body for event in topic.read(0)] == [b"first"]
        with pytest.raises(CorruptBatchError) as raised:
            topic.read(0, 1)
        assert next(consumer).body == b"first"
        with pytest.raises(CorruptBatchError) as told:
            next(consumer)
        for error in (raised.value, told.value):
            assert (error.topic, error.partition) == (name, 0)
            assert (error.first_offset, error.last_offset) == (1, 1)
        consumer.seek(0, 2)
        assert _bodies(consumer) == [b"last"] == [event.body for event in topic.read(0, 2)]


# Looks


def test_a_look_can_be_repeated(kafka: Kafka, kafka_log: EventLog) -> None:
    """Since it may be given up halfway: the same is found again, and then what is behind it."""
    topic = made(kafka_log)
    Writer(kafka, topic.name).write([b"%d" % n for n in range(100)])
    source = KafkaSource(topic)

    def offsets(at: int, share: int) -> list[int]:
        look = source.fetch(Request([Wanted(0, at, None)], share, PLENTY, each=False))
        return [event.offset for run in look.found[0].runs for event in run.events()]

    some = offsets(0, 10)
    assert some == list(range(len(some)))
    assert offsets(0, 10) == some
    assert offsets(0, PLENTY)[: len(some)] == some
    behind = offsets(len(some), PLENTY)
    assert behind[0] == len(some)
    assert offsets(3, PLENTY)[0] == 3  # somewhere else


def test_a_look_by_time_goes_no_further_than_all_partitions_went(
    kafka: Kafka, kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When they were asked: an earlier event may come in another one that seemed at its end."""
    topic = made(kafka_log, partitions=2)
    writer = Writer(kafka, topic.name)
    writer.write([b"0"], partition=1)
    ask = Fetch._ask_for_ends

    def ask_and_write(look: Fetch, deadline: Deadline) -> None:
        ask(look, deadline)
        writer.write([b"late"], partition=1)
        until(lambda: fetchers_of(topic)[0].lanes[1].next == 2)

    monkeypatch.setattr(Fetch, "_ask_for_ends", ask_and_write)
    wanted = [Wanted(0, 0, None), Wanted(1, 0, None)]
    look = KafkaSource(topic).fetch(Request(wanted, PLENTY, PLENTY, each=True))
    assert [found.at_end for found in look.found.values()] == [True, True]
    (run,) = look.found[1].runs
    assert [event.body for event in run.events()] == [b"0"]


def test_by_time_partitions_may_grow_while_they_are_asked_where_they_end(
    kafka: Kafka, kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other: the last event of the last may come behind others that nobody saw."""
    topic = made(kafka_log, partitions=2)
    writer = Writer(kafka, topic.name)
    writer.write([b"0"], partition=0)
    ask = Fetch._asked_ends

    def ask_slowly(look: Fetch, deadline: Deadline) -> dict[int, int]:
        monkeypatch.setattr(Fetch, "_asked_ends", ask)
        ends = ask(look, deadline)
        writer.write([b"1"], partition=0)
        writer.write([b"2"], partition=1)
        return ends | {1: 1}

    monkeypatch.setattr(Fetch, "_asked_ends", ask_slowly)
    with topic.consumer(order="time") as consumer:
        events = list(itertools.islice(consumer, 3))
    assert [event.body for event in events] == [b"0", b"1", b"2"]
    assert Fetch._asked_ends is ask


def test_a_consumer_can_be_moved_while_events_flow(kafka: Kafka, kafka_log: EventLog) -> None:
    """What comes is always what follows where it was moved to."""
    topic = made(kafka_log, partitions=2)
    for partition in range(2):
        Writer(kafka, topic.name).write([bytes(100)] * 20_000, partition)
    with topic.consumer(prefetch_bytes=2**16, max_wait=0) as consumer:
        expected = {0: 0, 1: 0}
        for move in range(30):
            for event in itertools.islice(consumer, 700):
                assert event.offset == expected[event.partition]
                expected[event.partition] += 1
            partition = move % 2
            expected[partition] = move * 613
            consumer.seek(partition, expected[partition])


# Several readers


def test_many_readers_share_a_consumer_of_librdkafka(kafka: Kafka, kafka_log: EventLog) -> None:
    """One that reads a partition elsewhere, too, has another."""
    topic = made(kafka_log, partitions=20)
    writer = Writer(kafka, topic.name)
    for partition in range(20):
        writer.write([b"%d" % partition], partition)
    consumers = [topic.consumer(partitions=number) for number in range(20)]
    assert [_bodies(consumer, 1) for consumer in consumers] == [[b"%d" % n] for n in range(20)]
    (_,) = fetchers_of(topic)
    with topic.consumer(partitions=3) as other:
        assert _bodies(other, 1) == [b"3"]
        assert len(fetchers_of(topic)) == 2
    for consumer in consumers:
        consumer.close()
    until(lambda: not any(one.lanes for one in fetchers_of(topic)))


def test_a_reader_that_stalls_holds_up_no_other(
    kafka: Kafka, kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is paused, so that memory is bounded; and gets everything when it goes on."""
    monkeypatch.setattr(fetcher, "_MOST_BYTES", 2**18)
    topic = made(kafka_log, partitions=2)
    writer = Writer(kafka, topic.name)
    for partition in range(2):
        writer.write([bytes(1000)] * 40_000, partition)
    with (
        topic.consumer(partitions=0, end=LATEST, prefetch_bytes=2**16) as stalled,
        topic.consumer(partitions=1, end=LATEST, prefetch_bytes=2**16) as other,
    ):
        assert next(stalled).offset == 0
        assert [event.offset for event in other] == list(range(40_000))
        (one,) = fetchers_of(topic)
        assert one.lanes[0].paused
        assert one.lanes[0].size < 40_000_000 / 2
        assert [event.offset for event in stalled] == list(range(1, 40_000))


def test_a_reader_that_was_paused_leaves_nothing_behind(
    kafka: Kafka, kafka_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads the partition next is not paused: librdkafka would keep it so."""
    monkeypatch.setattr(fetcher, "_MOST_BYTES", 2**18)
    topic = made(kafka_log, partitions=2)
    Writer(kafka, topic.name).write([bytes(1000)] * 5_000)
    with (
        ThreadPoolExecutor(2) as pool,
        topic.consumer(partitions=0, prefetch_bytes=2**16) as stalled,
        topic.consumer(partitions=1) as waiting,
    ):
        assert next(stalled).offset == 0
        nothing = pool.submit(next, waiting, None)
        (one,) = fetchers_of(topic)
        until(lambda: one.lanes[0].paused)
        stalled.close()
        waiting.close()
        assert nothing.result(PATIENCE) is None
        until(lambda: not one._drain.read)
        with topic.consumer(partitions=0, end=LATEST) as consumer:
            assert len(pool.submit(_bodies, consumer).result(PATIENCE)) == 5_000


def test_a_reader_that_is_forgotten_is_read_for_no_more(kafka: Kafka, kafka_log: EventLog) -> None:
    """Although nobody closed it."""
    topic = made(kafka_log)
    Writer(kafka, topic.name).write([b"0", b"1"])
    consumer = topic.consumer()
    assert next(consumer).body == b"0"
    assert fetchers_of(topic)[0].lanes
    del consumer
    gc.collect()
    until(lambda: not fetchers_of(topic)[0].lanes)


def test_closing_the_log_ends_what_reads_ahead(kafka: Kafka) -> None:
    """At once."""
    with eventlog.open(kafka.location) as log:
        topic = made(log)
        Writer(kafka, topic.name).write([b"0"])
        assert next(topic.consumer()).body == b"0"
        (one,) = fetchers_of(topic)
    assert not one.thread.is_alive()


# What becomes of the topic


def _waiting(consumer: Consumer, threads: ThreadPoolExecutor, count: int) -> Future[list[bytes]]:
    """A consumer that has read what is there, and waits for more."""
    seen = threading.Event()

    def follow() -> list[bytes]:
        found = []
        for event in consumer:
            found.append(event.body)
            if event.body == b"last":
                seen.set()
            if len(found) == count:
                break
        return found

    following = threads.submit(follow)
    assert seen.wait(PATIENCE)
    return following


def test_partitions_that_are_added_are_read_by_who_waits(
    kafka: Kafka, kafka_log: EventLog, threads: ThreadPoolExecutor
) -> None:
    """From their beginning."""
    topic = made(kafka_log)
    writer = Writer(kafka, topic.name)
    writer.write([b"last"])
    with topic.consumer() as consumer:
        following = _waiting(consumer, threads, 2)
        with (
            eventlog.open(kafka.location) as other,
            pytest.warns(UserWarning, match="keys move"),
        ):
            other.topic(topic.name).add_partitions(1)
        Writer(kafka, topic.name).write([b"new"], partition=1)
        assert following.result(PATIENCE) == [b"last", b"new"]


def test_who_waits_is_told_that_the_topic_was_deleted(
    kafka: Kafka, kafka_log: EventLog, threads: ThreadPoolExecutor
) -> None:
    """And reads nothing of another one of its name."""
    topic = made(kafka_log)
    Writer(kafka, topic.name).write([b"last"])
    with topic.consumer() as consumer:
        following = _waiting(consumer, threads, 2)
        with eventlog.open(kafka.location) as other:
            other.delete_topic(topic.name)
            other.create_topic(topic.name, partitions=1).append(b"another's")
        with pytest.raises(TopicNotFoundError, match="was deleted"):
            following.result(PATIENCE)


def test_what_expires_before_it_is_read_is_reported(kafka: Kafka, kafka_log: EventLog) -> None:
    """And reading goes on at the beginning; who asks for what has expired is told what is there."""
    topic = made(kafka_log)
    writer = Writer(kafka, topic.name)
    writer.write([b"%d" % n for n in range(10)])
    lost: list[LostRange] = []
    with topic.consumer(max_wait=0, prefetch_bytes=1, on_lost=lost.append) as consumer:
        assert next(consumer).body == b"0"
        fetchers = topic.log.fetchers.of(topic)
        with fetchers.mutex:
            for one in fetchers_of(topic):
                one.lanes.clear()  # or it would be read ahead
        expire(kafka, topic, before=6)
        assert _bodies(consumer) == [b"6", b"7", b"8", b"9"]
    assert lost == [LostRange(0, 1, 5)]
    with pytest.raises(OffsetOutOfRangeError) as raised:
        next(topic.consumer(start=3))
    assert (raised.value.beginning_offset, raised.value.next_offset) == (6, 10)
    assert _bodies(topic.consumer(start=EARLIEST, end=LATEST), 1) == [b"6"]


def test_a_consumer_goes_on_when_the_broker_is_back(
    kafka: Kafka, threads: ThreadPoolExecutor
) -> None:
    """Each event once, also if the broker was killed; within the time that a call may take."""
    with eventlog.open(kafka.location, timeout=60.0) as log:
        follow_over_a_crash(kafka, made(log), threads)


def follow_over_a_crash(kafka: Kafka, topic: Topic, threads: ThreadPoolExecutor) -> None:
    writer = Writer(kafka, topic.name)
    writer.write([b"last"])
    with topic.consumer() as consumer:
        following = _waiting(consumer, threads, 3)
        kafka.crash()
        kafka.start()
        Writer(kafka, topic.name).write([b"1", b"2"])
        assert following.result(PATIENCE) == [b"last", b"1", b"2"]


def test_a_look_at_a_broker_that_does_not_answer_ends(kafka: Kafka) -> None:
    """With an error that says so; later the consumer goes on."""
    with eventlog.open(kafka.location, timeout=1.0) as log:
        topic = made(log)
        writer = Writer(kafka, topic.name)
        writer.write([b"0"])
        with topic.consumer() as consumer:
            assert next(consumer).body == b"0"
            kafka.pause()
            try:
                with pytest.raises(LogBusyError, match="no answer"):
                    topic.read(0)
                with pytest.raises(LogBusyError, match="no answer"):
                    next(topic.consumer())
            finally:
                kafka.resume()
            writer.write([b"1"])
            assert next(consumer).body == b"1"
