"""Who reads ahead for many: what it tells them, what it reads next, and how it ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Message, TopicPartition

from eventlog.kafka.reading.fetcher import Fetcher, _is_enough
from eventlog.kafka.reading.fetchers import TopicFetchers
from eventlog.kafka.reading.lane import Lane
from eventlog.kafka.reading.news import News
from eventlog.kafka.records import Decoded, decoded
from eventlog.kafka.topic import KafkaTopic

PLENTY = 2**30


class FakeConsumer:
    """Notes what it is told to read."""

    def __init__(self) -> None:
        self.assigned: list[tuple[int, int]] = []

    def incremental_assign(self, spots: list[TopicPartition]) -> None:
        self.assigned += [(spot.partition, spot.offset) for spot in spots]

    def incremental_unassign(self, spots: list[TopicPartition]) -> None:
        for spot in spots:
            self.assigned = [one for one in self.assigned if one[0] != spot.partition]

    def get_watermark_offsets(self, *_: object, **__: object) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def consumer() -> FakeConsumer:
    return FakeConsumer()


@pytest.fixture
def fetchers(consumer: FakeConsumer) -> TopicFetchers:
    """Those of a topic, which never come to run."""
    cluster = SimpleNamespace(consumer=lambda **_: consumer, check_process=lambda: None)
    log = SimpleNamespace(cluster=cluster)
    topic = SimpleNamespace(name="cars", id="1", partitions=2, log=log)
    return TopicFetchers(cast("KafkaTopic", topic))


def events(partition: int, *offsets: int, body: bytes = b"body") -> Decoded:
    messages = [Message("cars", partition, at, None, body, None, None, (1, 0)) for at in offsets]
    return decoded("cars", partition, messages)


def test_after_an_interruption_each_lane_is_read_on_and_each_reader_looks(
    fetchers: TopicFetchers, consumer: FakeConsumer
) -> None:
    """What was put for it may have been put before it could be told."""
    fetcher = Fetcher(fetchers)
    lanes = {number: Lane(News(), number, 0, PLENTY) for number in range(2)}
    fetcher._follow(lanes)
    assert consumer.assigned == [(0, 0), (1, 0)]
    lanes[1].put(events(1, 0, 1))
    fetcher._drain.in_hand = True
    fetcher._follow(lanes)
    assert consumer.assigned == [(0, 0), (1, 2)]
    assert [lane.news.count for lane in lanes.values()] == [1, 1]
    assert not fetcher._drain.in_hand
    fetcher._follow(lanes)
    assert [lane.news.count for lane in lanes.values()] == [1, 1]


def test_who_has_plenty_of_one_partition_may_have_none_of_another() -> None:
    """What that has stands behind the others' in librdkafka's queue."""
    news = News()
    busy, idle = Lane(news, 0, 0, 1), Lane(news, 1, 0, 1)
    busy.put(events(0, 0, body=bytes(2**21)))
    assert _is_enough([busy])
    assert not _is_enough([busy, idle])


class Interrupted(BaseException):
    """As from a signal handler."""


def test_no_fetcher_is_without_a_thread_whatever_interrupts_its_beginning(
    fetchers: TopicFetchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next reader would wait for it for ever."""

    def start(_: threading.Thread) -> None:
        raise Interrupted

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(Interrupted):
        fetchers.lane(News(), 0, 0, PLENTY)
    assert fetchers._fetchers == []
    fetchers.close(PLENTY)


@pytest.mark.parametrize("held", ["turn", "mutex"])
def test_who_closes_a_log_in_a_signal_handler_waits_for_no_thread_that_waits_for_it(
    fetchers: TopicFetchers, held: str
) -> None:
    """It may have been interrupted while it took events."""

    def join(_timeout: float) -> None:
        raise AssertionError

    fetcher = Fetcher(fetchers)
    thread: Any = SimpleNamespace(join=join, ident=1)
    fetcher.thread = thread
    fetchers._fetchers.append(fetcher)
    if held == "turn":
        fetcher._drain.holder = threading.get_ident()
        fetchers.close(PLENTY)
    else:
        with fetchers.mutex:
            fetchers.close(PLENTY)
    fetcher._drain.holder = None
    with pytest.raises(AssertionError):
        fetchers.close(PLENTY)
