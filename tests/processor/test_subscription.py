"""Subscribing: batches in a loop, plain or asynchronous, of a share that follows the group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

import eventlog
from eventlog import Event, EventLog, LeaseLostError, ProcessorOptions, Topic
from eventlog.processor.subscription import Batch
from tests.processor.hosting import QUICK, Notes, filled, host_of, until

pytestmark = pytest.mark.anyio


def subscribed(topic: Topic, **more: Any) -> Any:
    return topic.subscribe(group="g", options=QUICK, **more)


async def test_an_asynchronous_loop_gets_every_event_and_checkpoints(memory_log: EventLog) -> None:
    topic, seen = filled(memory_log), list[tuple[int, int]]()
    async with subscribed(topic) as batches:
        async for batch in batches:
            seen += [(batch.partition, event.offset) for event in batch]
            await batch.checkpoint()
            if len(seen) == 40:
                break
    assert sorted(seen) == [(n, offset) for n in range(4) for offset in range(10)]
    assert {c.offset for c in topic.group("g").checkpoints().values()} == {9}
    assert topic.group("g").members() == []


def test_a_plain_loop_does_too(memory_log: EventLog) -> None:
    topic, seen = filled(memory_log), 0
    with subscribed(topic) as batches:
        for batch in batches:
            seen += len(batch)
            batch.checkpoint()
            if seen == 40:
                break
    assert {c.offset for c in topic.group("g").checkpoints().values()} == {9}
    assert topic.group("g").members() == []


async def test_output_and_checkpoint_of_a_batch_are_stored_together(memory_log: EventLog) -> None:
    topic = filled(memory_log, partitions=1)
    out = memory_log.create_topic("out", partitions=1)
    async with subscribed(topic) as batches:
        async for batch in batches:
            async with batch.transaction() as tx:
                tx.append_batch("out", [Event(event.body) for event in batch])
            break
    assert out.partition_info(0).next_offset == 10
    assert topic.group("g").checkpoints()[0].offset == 9


async def test_what_was_not_checkpointed_comes_again(memory_log: EventLog) -> None:
    topic = filled(memory_log, partitions=1)
    for _ in range(2):
        async with subscribed(topic) as batches:
            async for batch in batches:
                assert batch[0].offset == 0
                break


async def test_two_subscriptions_share_the_partitions(memory_log: EventLog, notes: Notes) -> None:
    topic = filled(memory_log)
    async with host_of(topic, notes.factory()) as host:
        await until(lambda: len(host.status().partitions) == 4)
        got = set[int]()
        async with subscribed(topic) as batches:
            await until(lambda: len(topic.group("g").members()) in (1, 2))

            async def take() -> None:
                async for batch in batches:
                    got.add(batch.partition)
                    await batch.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take)
                await until(lambda: len(host.status().partitions) == 2)
                for partition in range(4):
                    await topic.aio.append(b"x", partition=partition)
                await until(lambda: len(got) == 2)
                tasks.cancel_scope.cancel()


async def test_a_batch_whose_partition_was_lost_cannot_be_checkpointed(
    memory_log: EventLog,
) -> None:
    topic = filled(memory_log, partitions=1)
    async with subscribed(topic) as batches:
        batch = await anext(aiter(batches))
        await topic.group("g").aio.delete()
        await until(lambda: batch.lost)
        with pytest.raises(LeaseLostError):
            await batch.checkpoint()


async def test_a_batch_that_was_dealt_with_cannot_be_checkpointed(memory_log: EventLog) -> None:
    topic, kept = filled(memory_log, partitions=2), list[Batch]()
    async with subscribed(topic) as batches:
        async for batch in batches:
            kept.append(batch)
            if len(kept) == 2:
                break
        with pytest.raises(LeaseLostError):
            await kept[0].checkpoint()


async def test_a_loop_that_is_left_gives_its_partitions_away(memory_log: EventLog) -> None:
    topic = filled(memory_log, partitions=1)
    async for batch in subscribed(topic):
        await batch.checkpoint()
        break
    await until(lambda: topic.group("g").members() == [])


async def test_giving_up_on_the_next_batch_loses_none(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    async with subscribed(topic) as batches:
        loop = aiter(batches)
        for _ in range(3):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(loop)
        await topic.aio.append(b"x")
        with anyio.fail_after(60):
            assert (await anext(loop))[0].offset == 0


async def test_closing_from_elsewhere_ends_the_loop(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    subscription = subscribed(topic)

    def loop() -> str:
        for _ in subscription:
            pass
        return "ended"

    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(loop()))
    thread.start()
    await until(lambda: topic.group("g").members())
    await anyio.to_thread.run_sync(subscription.close)
    await anyio.to_thread.run_sync(thread.join)
    assert ended == ["ended"]


def test_what_ends_the_host_is_raised_in_the_loop() -> None:
    log = eventlog.open("memory:")
    topic = filled(log, partitions=1)

    def loop(then: Callable[[], object]) -> None:
        for batch in subscribed(topic):
            batch.checkpoint()
            then()

    with pytest.raises(eventlog.ClosedError):
        loop(log.close)


def test_a_subscription_is_for_one_loop(memory_log: EventLog) -> None:
    with subscribed(filled(memory_log)) as batches:
        loop = iter(batches)
        next(loop)
        with pytest.raises(RuntimeError, match="one loop"):
            next(iter(batches))


def test_options_are_those_of_a_host(memory_log: EventLog) -> None:
    topic = filled(memory_log, partitions=1)
    options = ProcessorOptions(max_batch=3, renew_interval=0.2, lease_duration=20)
    with topic.subscribe(group="g", host_name="here", options=options) as batches:
        loop = iter(batches)
        assert len(next(loop)) == 3
        assert topic.group("g").members()[0].startswith("here-")
