"""A pump's feed: whole batches, read ahead within bounds, and told in order what is no event."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import eventlog
from eventlog import CorruptBatchError, OffsetOutOfRangeError, TopicNotFoundError
from eventlog.consuming.source import LostRange
from eventlog.processor.feed import Feed
from tests.processor.pumping import PATIENCE, bodies, until
from tests.test_consumer import Clock, damage

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def _patience() -> AsyncIterator[None]:
    """A test that hangs fails."""
    with anyio.fail_after(PATIENCE):
        yield


class Reader:
    """A feed that runs."""

    def __init__(self, topic: Any, start: int, max_batch: int) -> None:
        self.told = 0
        self.feed = Feed(topic, 0, start, max_batch, self.tell)

    def tell(self) -> None:
        self.told += 1

    async def take(self) -> Any:
        """What comes next: texts, if it is events."""
        while (item := self.feed.take()) is None:
            await anyio.lowlevel.checkpoint()
        return bodies(item) if isinstance(item, list) else item


@contextlib.asynccontextmanager
async def reading(topic: Any, start: int = 0, max_batch: int = 3) -> AsyncIterator[Reader]:
    reader = Reader(topic, start, max_batch)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(reader.feed.run)
        yield reader
        tasks.cancel_scope.cancel()


async def test_batches_are_cut_and_joined_to_what_was_asked_for(
    memory_log: eventlog.EventLog,
) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    for texts in ("abcdefgh", "i", "j", "kl"):
        topic.append_batch(list(texts), partition=0)
    async with reading(topic) as reader:
        found = [await reader.take() for _ in range(4)]
    assert [len(batch) for batch in found] == [3, 3, 3, 3]
    assert "".join(text for batch in found for text in batch) == "abcdefghijkl"
    async with reading(topic, start=7, max_batch=100) as reader:
        assert await reader.take() == list("hijkl")


async def test_what_is_read_ahead_is_bounded_and_goes_on_when_there_is_room(
    memory_log: eventlog.EventLog,
) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    for _ in range(20):
        topic.append("x" * 100_000, partition=0)
    async with reading(topic, max_batch=1000) as reader:
        await until(lambda: reader.told)
        await anyio.wait_all_tasks_blocked()
        assert reader.feed._count < 10
        seen = 0
        while seen < 20:
            seen += len(await reader.take())
            assert reader.feed._count < 10


async def test_it_follows_and_tells_when_something_comes(memory_log: eventlog.EventLog) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    async with reading(topic) as reader:
        assert reader.feed.take() is None
        for number in range(5):
            told = reader.told
            topic.append(str(number), partition=0)
            await until(lambda told=told: reader.told > told)  # type: ignore[misc]
            assert await reader.take() == [str(number)]


async def test_behind_an_error_nothing_comes_until_it_is_said_where_to_go_on(
    memory_log: eventlog.EventLog,
) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    for texts in ("ab", "cd", "ef"):
        topic.append_batch(list(texts), partition=0)
    damage(memory_log, 3)
    async with reading(topic) as reader:
        assert await reader.take() == ["a", "b"]
        for goes_on_at in (None, None, 4):
            assert isinstance(await reader.take(), CorruptBatchError)
            await anyio.wait_all_tasks_blocked()
            assert reader.feed.take() is None
            reader.feed.go_on(goes_on_at)
        assert await reader.take() == ["e", "f"]
    memory_log.delete_topic("cars")


async def test_what_expired_is_told_where_it_is_missed() -> None:
    """Before the first event, and between events that were read ahead and those to come."""
    clock = Clock()
    with eventlog.open("memory:", clock=clock) as log:
        topic = log.create_topic("cars", partitions=1, retention=timedelta(minutes=1))
        topic.append_batch(["a", "b"], partition=0)
        clock.advance(3600)
        topic.append_batch(["c", "d", "e"], partition=0)
        topic.expire()
        async with reading(topic) as reader:
            assert await reader.take() == LostRange(0, 0, 1)
            assert await reader.take() == ["c", "d", "e"]


async def test_a_start_beyond_the_end_is_an_error(memory_log: eventlog.EventLog) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    async with reading(topic, start=3) as reader:
        assert isinstance(await reader.take(), OffsetOutOfRangeError)


async def test_a_topic_or_a_log_that_is_gone_is_an_error(memory_log: eventlog.EventLog) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    async with reading(topic) as reader:
        await anyio.wait_all_tasks_blocked()
        memory_log.delete_topic("cars")
        assert isinstance(await reader.take(), TopicNotFoundError)
        reader.feed.go_on()
        assert isinstance(await reader.take(), TopicNotFoundError)
    with eventlog.open("memory:") as log:
        topic = log.create_topic("cars", partitions=1)
    async with reading(topic) as reader:
        assert isinstance(await reader.take(), eventlog.ClosedError)
