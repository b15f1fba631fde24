"""A consumer over 16 partitions against reading them one after the other, both into events."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import eventlog
from benchmarks.measure import Benchmark, Record, Side, compare
from benchmarks.workload import LARGE, batches
from eventlog import Topic

_PARTITIONS: Final = 16
_BATCH: Final = 1000
_ROUND: Final = _PARTITIONS * _BATCH
_EVENTS: Final = max(min(LARGE // 16, 40 * _ROUND), 4 * _ROUND) // _ROUND * _ROUND


@pytest.fixture(scope="module")
def topic(work_directory: Path) -> Iterator[Topic]:
    """Filled in turns, as events come: one batch to each partition, and again."""
    with eventlog.open(work_directory / "consumer") as log:
        topic = log.create_topic("events", partitions=_PARTITIONS)
        some = itertools.cycle(batches(_BATCH))
        for number in range(_EVENTS // _BATCH):
            topic.append_batch(next(some), partition=number % _PARTITIONS)
        yield topic


def test_consuming_lists(benchmark: Benchmark, record: Record, topic: Topic) -> None:
    _compare(benchmark, record, "consumer-lists", _turn(_lists, topic), _turn(_read, topic))


def test_consuming_events(benchmark: Benchmark, record: Record, topic: Topic) -> None:
    """Here both sides hold every event in their hands."""
    _compare(benchmark, record, "consumer-events", _turn(_events, topic), _turn(_read_each, topic))


def test_consuming_by_time(benchmark: Benchmark, record: Record, topic: Topic) -> None:
    """All partitions merged, against reading without merging."""
    _compare(benchmark, record, "consumer-time", _turn(_by_time, topic), _turn(_read, topic))


def _compare(
    benchmark: Benchmark,
    record: Record,
    row: str,
    ours: Callable[[], None],
    limit: Callable[[], None],
) -> None:
    found = compare(benchmark, Side(ours, _EVENTS), Side(limit, _EVENTS))
    note = (
        f"{_EVENTS:,} events in {_PARTITIONS} partitions, stored by {_BATCH:,}, all cached; "
        f"{len(found.rounds)} rounds"
    )
    record(row, **found._asdict(), note=note)


def _turn(consume: Callable[[Topic], int], topic: Topic) -> Callable[[], None]:
    def turn() -> None:
        found = consume(topic)
        assert found == _EVENTS, f"got {found} events of {_EVENTS}"

    return turn


def _lists(topic: Topic, **options: Any) -> int:
    with topic.consumer(follow=False, **options) as consumer:
        return sum(len(events) for events in consumer.batches())


def _by_time(topic: Topic) -> int:
    return _lists(topic, order="time")


def _events(topic: Topic) -> int:
    count = 0
    with topic.consumer(follow=False) as consumer:
        for _ in consumer:
            count += 1
    return count


def _read(topic: Topic) -> int:
    return sum(len(events) for events in _fetches(topic))


def _read_each(topic: Topic) -> int:
    count = 0
    for events in _fetches(topic):
        for _ in events:
            count += 1
    return count


def _fetches(topic: Topic) -> Iterator[list[eventlog.StoredEvent]]:
    for partition in range(_PARTITIONS):
        offset = 0
        while events := topic.read(partition, offset, max_events=_BATCH):
            offset += len(events)
            yield events
