"""Consumers on event loops, asyncio and trio: the same as in threads, and nothing is held up; a
cancelled task stops at once and has lost nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import eventlog
from eventlog import (
    ClosedError,
    CorruptBatchError,
    EventLog,
    StoredEvent,
    Topic,
    TopicNotFoundError,
)
from eventlog.consumer import Consumer, LostRange
from eventlog.embedded import batch
from tests.test_consumer import PATIENCE, Clock, SpySource, by_partition, consume, damage, fill

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Iterator[EventLog]:
    with eventlog.open("memory:", clock=clock) as log:
        yield log


@pytest.fixture
def topic(log: EventLog) -> Topic:
    """Three partitions."""
    return log.create_topic("cars", partitions=3)


@pytest.fixture(autouse=True)
async def _patience() -> AsyncIterator[None]:
    """A test that hangs fails."""
    with anyio.fail_after(PATIENCE):
        yield


async def collect(events: Any) -> list[StoredEvent]:
    return [event async for event in events]


async def until_waiting(source: SpySource) -> None:
    await anyio.to_thread.run_sync(source.await_wait)


async def test_everything_comes_once_and_in_order(topic: Topic) -> None:
    for _ in range(3):
        fill(topic)
    expected = {number: list(range(15)) for number in range(3)}
    for order in ("partition", "time"):
        assert by_partition(await collect(consume(topic, order=order))) == expected
        lists = [some async for some in consume(topic, order=order).batches()]
        assert by_partition(event for some in lists for event in some) == expected


async def test_the_ways_of_iterating_share_one_place(topic: Topic) -> None:
    """Threads' ways too, when they do not have to wait."""
    fill(topic, 5, partitions=1)
    consumer = consume(topic)
    async for event in consumer:
        assert event.offset == 0
        break
    assert (await anext(consumer)).offset == 1
    assert next(consumer).offset == 2
    async for event in consumer:
        assert event.offset == 3
        break
    assert consumer.positions == {0: 4, 1: 0, 2: 0}
    assert [event.offset for event in await anext(consumer.batches())] == [4]
    assert await anext(consumer, None) is None
    assert await collect(consumer) == []


async def test_what_is_appended_is_handed_to_who_waits(topic: Any) -> None:
    source = SpySource(topic)
    found: list[bytes] = []

    async def follow(consumer: Consumer) -> None:
        async for event in consumer:
            found.append(event.body)
            if len(found) == 20:
                return

    async with Consumer(source) as consumer, anyio.create_task_group() as tasks:
        tasks.start_soon(follow, consumer)
        for number in range(20):
            await until_waiting(source)
            topic.append(b"%d" % number, partition=number % 3)
    assert found == [b"%d" % number for number in range(20)]


async def test_max_wait_ends_iteration_and_it_can_be_iterated_again(topic: Topic) -> None:
    async with topic.consumer(max_wait=0.001) as consumer:
        assert await collect(consumer) == []
        fill(topic)
        assert len(await collect(consumer)) == 15
        fill(topic)
        batches = consumer.batches()
        assert len(await anext(batches)) == 5


async def test_a_task_that_waits_is_cancelled_at_once_and_can_go_on(topic: Any) -> None:
    source = SpySource(topic)
    fill(topic)
    async with Consumer(source) as consumer:
        for round_number in range(3):
            events: list[StoredEvent] = []
            async with anyio.create_task_group() as tasks:

                async def follow(events: list[StoredEvent] = events) -> None:
                    async for event in consumer:
                        events.append(event)  # noqa: PERF401 - what cancellation leaves counts

                tasks.start_soon(follow)
                await until_waiting(source)
                tasks.cancel_scope.cancel()
            offsets = list(range(5 * round_number, 5 * round_number + 5))
            assert by_partition(events) == dict.fromkeys(range(3), offsets)
            fill(topic)


class Trip:
    """Cancels a scope at the n-th step that is done elsewhere: before it is, or just after."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.scope = anyio.CancelScope()

    async def run_soon(self, do: Callable[[], Any]) -> Any:
        """In place of a worker thread."""
        await self._step()
        result = do()
        await self._step()
        return result

    async def _step(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("order", ["partition", "time"])
@pytest.mark.parametrize("in_batches", [False, True])
async def test_nothing_is_lost_and_nothing_comes_twice_wherever_it_is_cancelled(
    topic: Topic, monkeypatch: pytest.MonkeyPatch, order: Any, in_batches: bool
) -> None:
    fill(topic)
    fill(topic)
    expected = {number: list(range(10)) for number in range(3)}
    for at in range(1, 1000):
        trip = Trip(at)
        monkeypatch.setattr("eventlog.consuming.reading.run_soon", trip.run_soon)
        consumer = topic.consumer(order=order, prefetch_bytes=100, max_wait=0)
        events: list[StoredEvent] = []
        for _ in range(2):
            with anyio.CancelScope() as trip.scope:
                if in_batches:
                    async for some in consumer.batches():
                        events += some
                else:
                    async for event in consumer:
                        events.append(event)
        assert by_partition(events) == expected
        assert consumer.positions == {0: 10, 1: 10, 2: 10}
        if trip.left > 0:
            break
    assert at > 10


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_task_may_be_cancelled_by_asyncio_itself(topic: Topic, anyio_backend: str) -> None:
    """Which no shield keeps out, wherever it is: also while a worker thread is at work for it."""
    fill(topic)
    fill(topic)
    for turns in range(40):
        consumer = consume(topic, prefetch_bytes=100)
        events: list[StoredEvent] = []

        async def read(events: list[StoredEvent] = events, consumer: Consumer = consumer) -> None:
            async for event in consumer:
                events.append(event)  # noqa: PERF401 - what cancellation leaves counts

        task = asyncio.create_task(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task  # it may have come to its end
        await read()
        assert by_partition(events) == {number: list(range(10)) for number in range(3)}


async def test_others_get_their_turn_though_there_is_always_an_event(topic: Topic) -> None:
    """With each list."""
    for _ in range(10):
        fill(topic, 1000)
    turns = 0
    seen: list[int] = []

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        async for some in consume(topic).batches():
            assert len(some) == 1000
            seen.append(turns)
        tasks.cancel_scope.cancel()
    assert len(seen) == 30
    # Of two tasks that can both go on, trio takes any first: so once in two lists for sure.
    assert all(earlier < later for earlier, later in zip(seen, seen[2:], strict=False))


async def test_a_task_that_waits_stops_at_once_when_another_closes_the_consumer(
    topic: Any,
) -> None:
    source = SpySource(topic)
    events: list[StoredEvent] = []
    for close_in in ("task", "thread"):
        consumer = Consumer(source)

        async def follow(consumer: Consumer = consumer) -> None:
            events.extend(await collect(consumer))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await until_waiting(source)
            if close_in == "task":
                await consumer.close()
            else:
                await anyio.to_thread.run_sync(consumer.close)
        with pytest.raises(ClosedError):
            await anext(consumer)
        with pytest.raises(ClosedError):
            aiter(consumer)
    assert events == []


async def test_an_iteration_that_had_begun_ends_when_it_is_closed(topic: Topic) -> None:
    fill(topic)
    consumer = consume(topic)
    seen = 0
    async for _ in consumer:
        seen += 1
        if seen == 2:
            await consumer.close()
    assert seen == 2
    assert sum(consumer.positions.values()) == 2
    async with consume(topic) as another:
        batches = another.batches()
        await anext(batches)
    assert await anext(batches, None) is None


async def test_a_deleted_topic_and_a_closed_log_are_errors_also_while_waiting(
    log: EventLog, topic: Any
) -> None:
    ends: list[tuple[Callable[[], object], type[Exception]]] = [
        (lambda: log.delete_topic("cars"), TopicNotFoundError),
        (log.close, ClosedError),
    ]
    for end, error in ends:
        source = SpySource(topic)
        consumer = Consumer(source)

        async def follow(consumer: Consumer = consumer, error: Any = error) -> None:
            with pytest.raises(error):
                await anext(consumer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await until_waiting(source)
            end()
        if error is TopicNotFoundError:
            topic = log.create_topic("cars", partitions=3)


async def test_a_damaged_batch_is_an_error_and_seek_goes_on_behind_it(
    log: EventLog, topic: Topic
) -> None:
    for _ in range(3):
        fill(topic, 5, partitions=1)
    damage(log, 9)
    consumer = consume(topic)
    iterator = aiter(consumer)
    events = [await anext(iterator) for _ in range(5)]
    with pytest.raises(CorruptBatchError) as caught:
        await anext(iterator)
    consumer.seek(0, caught.value.last_offset + 1)
    async for event in iterator:
        events.append(event)  # noqa: PERF401 - it goes on with the same one
    assert [event.offset for event in events] == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


async def test_what_was_lost_is_told_to_a_coroutine_too(log: EventLog, clock: Clock) -> None:
    topic = log.create_topic("expiring", partitions=1, retention=timedelta(minutes=5))
    fill(topic, 3)
    told: list[LostRange] = []
    done = anyio.Event()

    async def tell(lost: LostRange) -> None:
        await anyio.lowlevel.checkpoint()
        told.append(lost)
        done.set()

    async with consume(topic, prefetch_bytes=1, on_lost=tell) as consumer:
        await anext(consumer)
        clock.advance(3600)
        assert await collect(consumer) == []
        await done.wait()
    assert told == [LostRange(0, 1, 2)]


async def test_a_large_batch_is_not_decoded_on_the_event_loop(
    topic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic.append(b"x" * 1_000_000, partition=0)
    topic.append(b"y", partition=1)
    decoded: dict[int, int] = {}
    original = batch.open_payload

    def open_payload(header: Any, payload: Any) -> Any:
        decoded[header.raw_bytes] = threading.get_ident()
        return original(header, payload)

    monkeypatch.setattr("eventlog.embedded.fetch.open_payload", open_payload)
    assert len(await collect(consume(topic))) == 2
    assert decoded[max(decoded)] != threading.get_ident() == decoded[min(decoded)]
