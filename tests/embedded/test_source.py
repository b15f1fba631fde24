"""What a consumer reads from: one look at several partitions, within bounds, and what it tells of
what has expired, is damaged, or is not there yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import eventlog
from eventlog import (
    EARLIEST,
    LATEST,
    ClosedError,
    CorruptBatchError,
    EventLog,
    PartitionNotFoundError,
    TopicNotFoundError,
)
from eventlog.consuming.source import Found, Request, Span, Wanted
from eventlog.embedded import keys
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.source import EmbeddedSource
from eventlog.embedded.topic import EmbeddedTopic
from eventlog.embedded.writer import Writer
from eventlog.positions import microseconds

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
PLENTY = 2**30


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_us = microseconds(NOW)

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Iterator[EventLog]:
    with eventlog.open("memory:", clock=clock) as log:
        yield log


@pytest.fixture
def topic(log: EventLog) -> EmbeddedTopic:
    return make(log)


def make(log: EventLog, partitions: int = 3, **options: Any) -> EmbeddedTopic:
    """Uncompressed: sizes are what they seem."""
    topic = log.create_topic("cars", partitions=partitions, compression="none", **options)
    assert isinstance(topic, EmbeddedTopic)
    return topic


def fetch(topic: EmbeddedTopic, *wanted: Wanted, **bounds: Any) -> dict[int, Found]:
    given = {"share": PLENTY, "max_bytes": PLENTY, "each": False, **bounds}
    look = EmbeddedSource(topic).fetch(Request(wanted, **given))
    assert look.partitions == topic.partitions
    return dict(look.found)


def fetch_one(topic: EmbeddedTopic, offset: int, stop: int | None = None, **bounds: Any) -> Found:
    return fetch(topic, Wanted(0, offset, stop), **bounds)[0]


def offsets(found: Found) -> list[list[int]]:
    """The offsets of the events of each run, which its range confirms."""
    runs = []
    for run in found.runs:
        events = run.events()
        assert [event.offset for event in events] == list(range(run.first, run.stop))
        assert {microseconds(event.enqueued_at) for event in events} == {run.enqueued_us}
        assert sum(len(event.body) for event in events) <= run.size
        runs.append([event.offset for event in events])
    return runs


@pytest.fixture
def batches(topic: EmbeddedTopic) -> EmbeddedTopic:
    """Four batches of three events of 100 bytes in each partition."""
    for _ in range(4):
        for partition in range(3):
            topic.append_batch([b"x" * 100] * 3, partition=partition)
    return topic


# A look


def test_a_look_finds_whole_batches_of_all_partitions(batches: EmbeddedTopic) -> None:
    found = fetch(batches, Wanted(2, 0, None), Wanted(0, 4, None), Wanted(1, 0, 5))
    assert offsets(found[2]) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert offsets(found[0]) == [[4, 5], [6, 7, 8], [9, 10, 11]]
    assert offsets(found[1]) == [[0, 1, 2], [3, 4]]
    assert [found[number].at_end for number in range(3)] == [True, False, True]
    assert [(one.begin, one.failure) for one in found.values()] == [(0, None), (4, None), (0, None)]


def test_at_the_end_there_is_nothing_yet(batches: EmbeddedTopic) -> None:
    assert fetch_one(batches, 12) == Found(12, [], None, at_end=True)
    assert fetch_one(batches, 12, 99) == Found(12, [], None, at_end=True)


def test_a_run_gives_a_new_list_each_time(batches: EmbeddedTopic) -> None:
    for bounds in ({}, {"share": 150}):
        (run, *_) = fetch_one(batches, 0, **bounds).runs
        first = run.events()
        first.clear()
        assert run.events()


def test_what_is_found_can_be_decoded_after_the_log_was_closed(
    batches: EmbeddedTopic, log: EventLog
) -> None:
    found = fetch_one(batches, 0)
    log.close()
    assert len(offsets(found)) == 4


# Bounds


def test_no_partition_gets_more_than_its_share(batches: EmbeddedTopic) -> None:
    """A batch here takes some 310 bytes."""
    for share, count in ((PLENTY, 4), (1000, 3), (700, 2), (400, 1)):
        found = fetch_one(batches, 0, share=share)
        assert len(found.runs) == count
        assert sum(run.size for run in found.runs) <= share
        assert found.at_end == (count == 4)


def test_all_together_get_no_more_than_there_is_room_for(batches: EmbeddedTopic) -> None:
    """Who comes first in the request is served first; others may not be looked at at all."""
    found = fetch(batches, *[Wanted(number, 0, None) for number in (1, 2, 0)], max_bytes=1700)
    assert {number: len(one.runs) for number, one in found.items()} == {1: 4, 2: 1, 0: 0}
    assert not found[0].at_end
    found = fetch(batches, Wanted(1, 12, None), Wanted(2, 0, None), Wanted(0, 0, None), max_bytes=1)
    assert {number: len(offsets(one)) for number, one in found.items()} == {1: 0, 2: 1}
    assert found[1].at_end


@pytest.mark.parametrize(("room", "count"), [(0, 1), (99, 1), (199, 1), (210, 2), (299, 2)])
def test_a_batch_that_is_too_large_is_cut_to_an_event_at_least(
    batches: EmbeddedTopic, room: int, count: int
) -> None:
    found = fetch_one(batches, 3, share=room)
    assert offsets(found) == [list(range(3, 3 + count))]
    assert found.runs[0].size == 100 * count
    assert not found.at_end
    assert offsets(fetch_one(batches, 11, share=room)) == [[11]]


def test_a_batch_of_unlike_events_is_cut_by_what_they_are(topic: EmbeddedTopic) -> None:
    """Not by what they are on average."""
    topic.append_batch([b"x" * 10, b"y" * 5000, b"z" * 10], partition=0)
    for offset, room, expected in ((0, 4500, [0]), (1, 4000, [1]), (2, 1, [2])):
        assert offsets(fetch_one(topic, offset, share=room)) == [expected]


def test_each_partition_gives_an_event_if_it_must(batches: EmbeddedTopic) -> None:
    wanted = [Wanted(number, 2, None) for number in range(3)]
    found = fetch(batches, *wanted, share=0, max_bytes=0, each=True)
    assert [offsets(found[number]) for number in range(3)] == [[[2]]] * 3
    found = fetch(batches, *wanted, share=0, max_bytes=0, each=False)
    assert {number: len(one.runs) for number, one in found.items()} == {0: 1}


# What has expired


@pytest.mark.parametrize("removed", [False, True])
def test_what_has_expired_moves_the_beginning(log: EventLog, clock: Clock, removed: bool) -> None:
    topic = make(log, 1, retention=timedelta(minutes=10))
    for _ in range(4):
        topic.append_batch([b"x"] * 3, partition=0)
        clock.advance(60)
    clock.advance(420)
    if removed:
        topic.expire()
    for offset in (0, 4, 5):
        found = fetch_one(topic, offset)
        assert (found.begin, offsets(found)) == (6, [[6, 7, 8], [9, 10, 11]])
    for offset in (6, 7, 12):
        assert fetch_one(topic, offset).begin == offset
    clock.advance(3600)
    if removed:
        topic.expire()
    for offset in (0, 7, 12):
        assert fetch_one(topic, offset) == Found(12, [], None, at_end=True)


def test_what_is_too_much_moves_the_beginning(log: EventLog) -> None:
    topic = make(log, 1, retention_bytes=1000)
    for _ in range(6):
        topic.append_batch([b"x" * 100] * 3, partition=0)
    beginning = topic.partition_info(0).beginning_offset
    assert 0 < beginning < 18
    for offset in (0, beginning - 1, beginning):
        assert fetch_one(topic, offset).begin == beginning
    assert fetch_one(topic, beginning + 1).begin == beginning + 1


# Damage


def corrupt(log: EventLog, last_offset: int, at: int) -> None:
    """Flip a bit of the batch of partition 0 that ends there."""

    def work(writer: Writer) -> None:
        key = keys.encode_batch_key(1, 0, last_offset)
        value = bytearray(writer.get(key) or b"")
        value[at] ^= 1
        writer.put(key, bytes(value))

    assert isinstance(log, EmbeddedLog)
    log.environment.committer.run(work, timeout=10)


@pytest.mark.parametrize("share", [PLENTY, 600, 1])
def test_a_damaged_payload_is_told_when_it_is_decoded(
    log: EventLog, batches: EmbeddedTopic, share: int
) -> None:
    """Or at once, if it must be decoded to be cut."""
    corrupt(log, 5, -1)
    found = fetch_one(batches, 3, share=share)
    if share == 1:
        assert not found.runs
        error: Any = found.failure
    else:
        with pytest.raises(CorruptBatchError) as caught:
            found.runs[0].events()
        error = caught.value
    assert (error.partition, error.first_offset, error.last_offset) == (0, 3, 5)
    assert found.begin == 3


def test_a_large_damaged_batch_is_told_when_it_is_asked_for(log: EventLog) -> None:
    """Though whoever fetched it has tried to decode it."""
    topic = make(log, 1)
    topic.append(b"x" * 500_000, partition=0)
    corrupt(log, 0, -1)
    (run,) = fetch_one(topic, 0).runs
    with pytest.raises(CorruptBatchError):
        run.events()


def test_a_damaged_header_is_told_behind_what_comes_before(
    log: EventLog, batches: EmbeddedTopic
) -> None:
    corrupt(log, 8, 0)
    found = fetch_one(batches, 0)
    assert offsets(found) == [[0, 1, 2], [3, 4, 5]]
    assert found.failure is not None
    assert (found.failure.first_offset, found.failure.last_offset) == (6, 8)
    assert not found.at_end
    other = fetch(batches, Wanted(0, 6, None), Wanted(1, 0, None))
    assert other[0].runs == []
    assert other[0].failure is not None
    assert len(offsets(other[1])) == 4


def test_a_missing_batch_is_damage(log: EventLog, batches: EmbeddedTopic) -> None:
    assert isinstance(log, EmbeddedLog)
    key = keys.encode_batch_key(1, 0, 5)
    log.environment.committer.run(lambda writer: writer.delete(key), timeout=10)
    found = fetch_one(batches, 0)
    assert offsets(found) == [[0, 1, 2]]
    assert "missing" in str(found.failure)


# What positions stand for


def test_positions_are_resolved_in_one_look(batches: EmbeddedTopic, clock: Clock) -> None:
    source = EmbeddedSource(batches)
    clock.advance(60)
    batches.append(b"late", partition=1)
    later = NOW + timedelta(seconds=30)
    spans = source.resolve({0: EARLIEST, 1: later, 2: LATEST}, {0: 7, 1: LATEST})
    assert spans == {0: Span(0, 12, 0, 7), 1: Span(0, 13, 12, 13), 2: Span(0, 12, 12, None)}
    assert source.resolve({0: 99, 1: -1}, {0: later, 1: EARLIEST}) == {
        0: Span(0, 12, 99, 12),
        1: Span(0, 13, -1, 0),
    }
    assert source.resolve({}, {}) == {}


def test_what_is_not_there_is_an_error(log: EventLog, batches: EmbeddedTopic) -> None:
    source = EmbeddedSource(batches)
    assert (source.name, source.partitions()) == ("cars", 3)
    for partition in (3, -1):
        with pytest.raises(PartitionNotFoundError):
            source.resolve({partition: EARLIEST}, {})
    log.delete_topic("cars")
    log.create_topic("cars", partitions=3)
    for use in (
        source.partitions,
        lambda: source.resolve({0: EARLIEST}, {}),
        lambda: source.fetch(Request([], 1, 1, each=False)),
    ):
        with pytest.raises(TopicNotFoundError):
            use()
    source.check_open()
    log.close()
    with pytest.raises(ClosedError):
        source.check_open()
    with pytest.raises(ClosedError):
        source.fetch(Request([], 1, 1, each=False))


def test_others_changes_of_the_topic_are_seen(log: EventLog, topic: EmbeddedTopic) -> None:
    """Through another handle, as another process would make them."""
    source = EmbeddedSource(topic)
    other = log.topic("cars")
    with pytest.warns(UserWarning, match="partitions now"):
        other.add_partitions(2)
    assert source.fetch(Request([], 1, 1, each=False)).partitions == 5
    assert source.partitions() == 5
    other.append(b"x", partition=4)
    assert source.resolve({4: EARLIEST}, {}) == {4: Span(0, 1, 0, None)}


# Watching


def test_a_watch_hears_of_its_partitions_and_of_changes_to_the_topic(
    topic: EmbeddedTopic,
) -> None:
    watch = EmbeddedSource(topic).watch([0, 2])
    for change in (
        lambda: topic.append(b"x", partition=0),
        lambda: topic.append(b"x", partition=2),
        lambda: topic.configure(retention=60),
    ):
        watch.mark()
        assert not watch.changed()
        change()
        assert watch.wait(0)
    watch.mark()
    topic.append(b"x", partition=1)
    assert not watch.wait(0)
    watch.interrupt()
    watch.close()
