"""`ProcessorDriver` in asynchronous tests, on asyncio and on trio: on the test's own event loop."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventlog import (
    ClosedError,
    CloseReason,
    EventLog,
    EventProcessor,
    ProcessorOptions,
    RetryPolicy,
    StoredEvent,
)
from eventlog.testing import ProcessorDriver
from eventlog.testing.plugin import MakeDriver
from tests.testing.processors import Noting, PlainNoting

pytestmark = pytest.mark.anyio

PATIENCE = 60.0

both = pytest.mark.parametrize("factory", [Noting, PlainNoting], ids=["async", "plain"])


@pytest.fixture(autouse=True)
async def _patience(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """A test that hangs fails; and failures are the point here."""
    with caplog.at_level(logging.CRITICAL, logger="eventlog"), anyio.fail_after(PATIENCE):
        yield


@both
async def test_everything_that_does_something_is_awaited(factory: Any) -> None:
    options = ProcessorOptions(dead_letter="dead", retry=RetryPolicy(max_attempts=2))
    async with ProcessorDriver(factory, options=options) as driver:
        await driver.feed(b"a", b"b")
        assert driver.processor.bodies == [b"a", b"b"]
        await driver.feed(b"bad")
        await driver.clock.advance(0.1)
        assert [str(error) for error in driver.errors] == ["bad", "bad"]
        assert [letter.body for letter in driver.dead_letters] == [b"bad"]
        await driver.idle()
        assert driver.processor.calls[-1] == "idle"
        first = driver.processor
        await driver.hand_over()
        await driver.begin()
        second = driver.processor
        await driver.lose_lease()
        await driver.feed(b"c")
        await driver.stop()
        assert [one.closed for one in (first, second, driver.processor)] == [
            CloseReason.HANDED_OVER,
            CloseReason.LEASE_LOST,
            CloseReason.SHUTDOWN,
        ]
        assert driver.checkpoints == [1, 2, 3]
    assert [event.body for event in driver.appended("events")] == [b"a", b"b", b"bad", b"c"]


async def test_coroutines_of_the_processor_run_on_the_event_loop_of_the_test() -> None:
    threads, event = list[int](), anyio.Event()

    class Setting(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            threads.append(threading.get_ident())
            event.set()

    async with ProcessorDriver(Setting) as driver:
        await driver.feed(b"a")
        await event.wait()
    assert threads == [threading.get_ident()]


async def test_a_test_can_do_something_while_events_are_handled() -> None:
    """A processor that waits for what the test does is waited for."""
    asked, answered = anyio.Event(), anyio.Event()

    async def asks(context: Any, events: list[StoredEvent]) -> None:
        asked.set()
        await answered.wait()
        await context.checkpoint()

    async with ProcessorDriver(asks) as driver, anyio.create_task_group() as tasks:
        tasks.start_soon(driver.feed, b"a")
        await asked.wait()
        assert driver.checkpoints == []
        answered.set()
        await driver.feed()
        assert driver.checkpoints == [0]


async def test_what_hangs_can_be_left_to_its_timeout_or_to_the_lost_lease() -> None:
    cancelled = []

    async def hangs(context: Any, events: list[StoredEvent]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(context.lost.is_set())

    async with ProcessorDriver(hangs, options=ProcessorOptions(handler_timeout=60)) as driver:
        await driver.feed(b"a", wait=False)
        await driver.clock.advance(60)
        assert (cancelled, [type(e) for e in driver.errors]) == ([False], [TimeoutError])
        await driver.clock.advance(0.1, wait=False)
        await driver.lose_lease()
        assert cancelled == [False, True]


@pytest.mark.parametrize("lost", [True, False], ids=["lost", "timeout"])
async def test_who_cleans_up_when_cancelled_is_waited_for(lost: bool) -> None:
    cleaned_up: list[int] = []

    async def slow(context: Any, events: list[StoredEvent]) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for number in range(20):
                    await anyio.to_thread.run_sync(cleaned_up.append, number)

    async with ProcessorDriver(slow, options=ProcessorOptions(handler_timeout=60)) as driver:
        await driver.feed(b"a", wait=False)
        if lost:
            await driver.lose_lease()
        else:
            await driver.clock.advance(60)
        assert cleaned_up == list(range(20))


async def test_a_transaction_of_a_coroutine_is_stored_whole(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("cars", partitions=1)

    async def alert(context: Any, events: list[StoredEvent]) -> None:
        async with context.transaction() as tx:
            tx.append("alerts", events[0].body)
            if not driver.errors:
                raise ValueError

    async with ProcessorDriver(alert, topic, topics=["alerts"]) as driver:
        await driver.feed(b"a")
        assert (driver.appended("alerts"), driver.checkpoints) == ([], [])
        await driver.clock.advance(1)
        assert ([e.body for e in driver.appended("alerts")], driver.checkpoints) == ([b"a"], [0])


async def test_what_the_test_raises_comes_out_as_it_is() -> None:
    async def test() -> None:
        async with ProcessorDriver(Noting) as driver:
            await driver.feed(b"a")
            raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        await test()


async def test_a_test_that_is_cancelled_ends_and_closes_the_processor() -> None:
    processors = []
    with anyio.CancelScope() as scope:
        async with ProcessorDriver(Noting) as driver:
            await driver.feed(b"a")
            processors.append(driver.processor)
            scope.cancel()
            await anyio.sleep_forever()
    assert processors[0].closed is CloseReason.SHUTDOWN


async def test_what_is_no_mere_exception_comes_out_of_the_call() -> None:
    async def exits(context: Any, events: list[StoredEvent]) -> None:
        raise KeyboardInterrupt

    async with ProcessorDriver(exits) as driver:
        with pytest.raises(KeyboardInterrupt):
            await driver.feed(b"a")
        assert driver.status() is None


async def test_without_a_block_it_is_awaited_too(processor_driver: MakeDriver) -> None:
    driver = processor_driver(Noting)
    feeding = driver.feed(b"a")
    assert inspect.iscoroutine(feeding)
    await feeding
    await driver.clock.advance(1)
    assert driver.processor.calls == ["open 1", "process 1", "idle"]


async def test_a_plain_block_blocks_on_an_event_loop_too() -> None:
    with ProcessorDriver(Noting) as driver:
        driver.feed(b"a")
        assert driver.checkpoints == [0]


async def test_a_driver_that_was_closed_says_so() -> None:
    async with ProcessorDriver(Noting) as driver:
        pass
    with pytest.raises(ClosedError):
        await driver.feed(b"a")
    with pytest.raises(RuntimeError, match="another"):
        await driver.__aenter__()


async def test_two_drivers_can_drive_two_partitions_of_one_topic(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("cars", partitions=2)
    async with (
        ProcessorDriver(Noting, topic, partition=0) as first,
        ProcessorDriver(Noting, topic, partition=1) as second,
    ):
        await first.feed(b"a")
        await second.feed(b"b")
        await first.hand_over()
        await first.feed(b"c")
        assert (first.checkpoints, second.checkpoints) == ([0, 1], [0])
        assert topic.group("test").checkpoints()[0].epoch == 2
        await second.hand_over()
        await second.feed(b"d")
        assert second.processor.bodies == [b"d"]
