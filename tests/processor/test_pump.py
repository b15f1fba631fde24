"""Pumps: what a processor is given, in which order, and how it comes to an end. On asyncio and on
trio; errors and retries have files of their own.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import eventlog
from eventlog import LATEST, EventLog, LeaseLostError, StoreUnavailableError
from eventlog.blobs.memory import MemoryBlobs
from eventlog.processor.processor import CloseReason, EventProcessor
from eventlog.processor.pump import Outcome
from tests.processor.pumping import (
    GROUP,
    PATIENCE,
    Recorder,
    Rig,
    bodies,
    flat,
    is_running,
    recorder,
    until,
    until_count,
    until_ended,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def log() -> Iterator[EventLog]:
    with eventlog.open("memory:") as log:
        yield log


@pytest.fixture
def rig(log: EventLog) -> Rig:
    return Rig(log)


@pytest.fixture(autouse=True)
async def _patience() -> AsyncIterator[None]:
    """A test that hangs fails."""
    with anyio.fail_after(PATIENCE):
        yield


# What is handed over


async def test_events_come_in_order_in_batches_of_at_most_max_batch(rig: Rig) -> None:
    processor = recorder()
    rig.feed(*"abcdefg")
    async with rig.running(rig.pump(processor, max_batch=3)):
        await until(lambda: rig.checkpoint == 6)
        rig.feed("h")
        await until(lambda: rig.checkpoint == 7)
    (made,) = processor.made
    assert flat(made.batches) == list("abcdefgh")
    assert max(map(len, made.batches)) == 3
    assert made.batches[-1] == ["h"]


async def test_what_gathers_while_the_handler_is_busy_comes_together(rig: Rig) -> None:
    """However small the appends were; up to `max_batch`."""
    go_on = anyio.Event()

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        if events[0].offset == 0:
            await go_on.wait()

    processor = recorder(handle=handle)
    rig.feed("a")
    async with rig.running(rig.pump(processor, max_batch=4)) as pump:
        await until(lambda: processor.made and processor.made[0].batches)
        for text in "bcdefg":
            rig.feed(text)
        feed = pump._session
        assert feed is not None
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        await until(lambda: sum(map(len, processor.made[0].batches)) == 7)
    assert flat(processor.made[0].batches) == list("abcdefg")
    assert len(processor.made[0].batches) < 7


async def test_a_handler_may_do_with_its_list_what_it_likes(rig: Rig) -> None:
    """What is left is known all the same."""
    failed: list[Any] = []

    async def handle(context: Any, events: list[Any]) -> None:
        if not failed:
            failed.append(events.copy())
            events.clear()
            raise ValueError("once")
        seen.extend(bodies(events))
        await context.checkpoint()

    seen: list[str] = []
    rig.feed(*"abc")
    async with rig.running(rig.pump(handler=handle)) as pump:
        await rig.until_retrying(pump)
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 2)
    assert seen == list("abc")


async def test_a_new_owner_goes_on_behind_the_checkpoint(rig: Rig) -> None:
    former, later = recorder(), recorder()
    rig.feed(*"abc")
    async with rig.running(rig.pump(former)):
        await until(lambda: rig.checkpoint == 2)
    rig.feed(*"de")
    async with rig.running(rig.pump(later, member="host-2")):
        await until(lambda: rig.checkpoint == 4)
    assert later.made[0].batches == [["d", "e"]]


async def test_what_was_not_checkpointed_comes_again(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        await context.checkpoint(events[1])

    former, later = recorder(handle=handle), recorder()
    rig.feed(*"abcd")
    async with rig.running(rig.pump(former)):
        await until(lambda: rig.checkpoint == 1)
    async with rig.running(rig.pump(later, member="host-2")):
        await until(lambda: rig.checkpoint == 3)
    assert later.made[0].batches == [["c", "d"]]


@pytest.mark.parametrize(("start", "first"), [(LATEST, "d"), (1, "b"), ("-1h", "a")])
async def test_a_start_means_the_same_to_every_later_owner(
    rig: Rig, start: Any, first: str
) -> None:
    """It is settled before anything is processed: here the first owner never checkpoints."""
    former, later = recorder(), recorder()
    rig.feed(*"abc")
    async with rig.running(rig.pump(former, start={0: start})) as pump:
        pump.pause()
        await until(lambda: rig.checkpoint is not None)
    rig.feed(*"def")
    async with rig.running(rig.pump(later, member="host-2", start=LATEST)):
        await until(lambda: rig.checkpoint == 5)
    assert flat(later.made[0].batches)[0] == first


async def test_idle_is_called_after_max_wait_without_events_and_again(rig: Rig) -> None:
    calls = []

    async def idle(self: Recorder, context: Any) -> None:
        calls.append(rig.clock.now())

    processor = recorder(idle=idle)
    began = rig.clock.now()
    async with rig.running(rig.pump(processor, max_wait=5)) as pump:
        for count in (1, 2, 3):
            await until(lambda: rig.clock.waits() == [5])
            rig.clock.advance(5)
            await until_count(calls, count)
        await until(lambda: rig.clock.waits() == [5])
        rig.clock.advance(3)
        rig.feed("a")
        await until(lambda: rig.checkpoint == 0 and rig.clock.waits() == [5])
        pump.pause()
        rig.clock.advance(5)
        await anyio.wait_all_tasks_blocked()
    assert calls == [began + 5, began + 10, began + 15]


async def test_nobody_is_woken_for_idle_where_there_is_none(rig: Rig) -> None:
    rig.feed("a")
    async with rig.running(rig.pump(recorder())):
        await until(lambda: rig.checkpoint == 0)
        await anyio.wait_all_tasks_blocked()
        assert rig.clock.waits() == []


# Plain functions


class Plain(EventProcessor):
    """Everything in a thread."""

    def __init__(self) -> None:
        self.threads = [threading.get_ident()]
        self.calls: list[Any] = []
        plain.append(self)

    def note(self, call: Any) -> None:
        self.calls.append(call)
        self.threads.append(threading.get_ident())

    def open(self, context: Any) -> None:
        self.note("open")

    def process(self, context: Any, events: Any) -> None:
        self.note(bodies(events))
        context.checkpoint()

    def idle(self, context: Any) -> None:
        self.note("idle")

    def close(self, context: Any, reason: CloseReason) -> None:
        self.note(reason)


plain: list[Plain] = []


async def test_plain_functions_of_a_processor_run_in_one_thread_which_is_not_the_loops(
    rig: Rig,
) -> None:
    plain.clear()
    rig.feed(*"ab")
    async with rig.running(rig.pump(Plain)) as pump:
        await until(lambda: rig.checkpoint == 1 and rig.clock.waits())
        rig.clock.advance(1)
        await until(lambda: "idle" in plain[0].calls)
    assert pump.outcome is Outcome.RELEASED
    assert plain[0].calls == ["open", ["a", "b"], "idle", CloseReason.SHUTDOWN]
    made_in, *called_in = plain[0].threads
    assert made_in == threading.get_ident()
    assert len(set(called_in)) == 1
    assert made_in not in called_in


async def test_methods_may_be_mixed_and_a_function_will_do(rig: Rig) -> None:
    order = []

    class Mixed:
        """Not even an EventProcessor."""

        async def open(self, context: Any) -> None:
            order.append("open")

        def process(self, context: Any, events: Any) -> None:
            order.append("process")
            context.checkpoint()

        async def close(self, context: Any, reason: CloseReason) -> None:
            order.append("close")

    rig.feed("a")
    async with rig.running(rig.pump(Mixed)):
        await until(lambda: rig.checkpoint == 0)
    rig.feed("b")
    async with rig.running(rig.pump(handler=lambda context, _: context.checkpoint())):
        await until(lambda: rig.checkpoint == 1)
    assert order == ["open", "process", "close"]


def call(function: Any, *given: Any) -> Any:
    return function(*given)


async def test_a_plain_function_that_returns_a_coroutine_is_told_how_to_be_written(
    rig: Rig,
) -> None:
    async def handle(context: Any, events: Any) -> None: ...

    rig.feed("a")
    async with rig.running(rig.pump(handler=functools.partial(call, handle))) as pump:
        await rig.until_retrying(pump)
        error = pump.status().last_error
    assert isinstance(error, TypeError)
    assert "async def" in str(error)


# Ending


@pytest.mark.parametrize(
    ("order", "reason"),
    [("stop", CloseReason.SHUTDOWN), ("hand_over", CloseReason.HANDED_OVER)],
)
async def test_a_planned_end_waits_for_the_handler_and_nothing_comes_twice(
    rig: Rig, order: str, reason: CloseReason
) -> None:
    go_on = anyio.Event()

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        await go_on.wait()
        await context.checkpoint()

    former, later = recorder(handle=handle), recorder()
    rig.feed(*"abcd")
    async with rig.running(rig.pump(former, max_batch=2)) as pump:
        await until(lambda: batches_of(former))
        getattr(pump, order)()
        await anyio.wait_all_tasks_blocked()
        assert is_running(pump)
        assert former.made[0].reasons == []
        go_on.set()
    assert pump.outcome is Outcome.RELEASED
    assert former.made[0].reasons == [reason]
    assert rig.checkpoint == 1
    async with rig.running(rig.pump(later, member="host-2")):
        await until(lambda: rig.checkpoint == 3)
    assert former.made[0].batches + later.made[0].batches == [["a", "b"], ["c", "d"]]


def batches_of(made: type[Recorder]) -> list[list[str]]:
    return made.made[0].batches if made.made else []


async def test_what_close_checkpoints_counts(rig: Rig) -> None:
    """A processor that gathers: it has returned from all of it."""

    async def handle(self: Recorder, context: Any, events: Any) -> None: ...

    async def close(self: Recorder, context: Any, reason: CloseReason) -> None:
        await context.checkpoint()

    processor = recorder(handle=handle, close=close)
    rig.feed(*"abc")
    async with rig.running(rig.pump(processor, max_batch=1)):
        await until(lambda: len(batches_of(processor)) == 3)
    assert rig.checkpoint == 2


async def test_close_never_checkpoints_what_has_failed(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        if "c" in bodies(events):
            raise ValueError("c")

    async def close(self: Recorder, context: Any, reason: CloseReason) -> None:
        await context.checkpoint()

    rig.feed(*"abcd")
    async with rig.running(rig.pump(recorder(handle=handle, close=close), max_batch=2)) as pump:
        await rig.until_retrying(pump)
    assert rig.checkpoint == 1


async def test_cancelled_a_coroutine_ends_at_once_and_its_batch_comes_again(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        await anyio.sleep_forever()

    former, later = recorder(handle=handle), recorder()
    rig.feed(*"ab")
    async with rig.running(rig.pump(former)) as pump:
        await until(lambda: batches_of(former))
        assert not pump.in_thread
        pump.cancel(CloseReason.SHUTDOWN)
        await until_ended(pump)
    assert pump.outcome is Outcome.RELEASED
    assert former.made[0].calls == ["open", "process", "close"]
    async with rig.running(rig.pump(later, member="host-2")):
        await until(lambda: rig.checkpoint == 1)
    assert later.made[0].batches == [["a", "b"]]


async def test_cancelling_run_closes_the_processor_shielded(rig: Rig) -> None:
    async def close(self: Recorder, context: Any, reason: CloseReason) -> None:
        await anyio.lowlevel.checkpoint()
        await context.checkpoint()
        self.reasons.append(reason)

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        if events[0].offset:
            await anyio.sleep_forever()

    processor = recorder(handle=handle, close=close)
    rig.feed(*"ab")
    pump = rig.pump(processor, max_batch=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pump.run)
        await until(lambda: len(batches_of(processor)) == 2)
        tasks.cancel_scope.cancel()
    assert pump.outcome is Outcome.RELEASED
    assert processor.made[0].reasons == [CloseReason.SHUTDOWN]
    assert rig.checkpoint == 0


async def test_cancelled_a_close_that_hangs_has_until_grace(rig: Rig) -> None:
    async def close(self: Recorder, context: Any, reason: CloseReason) -> None:
        await anyio.sleep_forever()

    async with rig.running(rig.pump(recorder(close=close), grace=7)) as pump:
        await until(lambda: pump.status().state == "waiting")
        pump.cancel(CloseReason.SHUTDOWN)
        await until(lambda: rig.clock.waits() == [7])
        rig.clock.advance(7)
        await until_ended(pump)
    assert pump.outcome is Outcome.RELEASED


async def test_a_plain_function_that_is_not_waited_for_can_do_no_more_harm(rig: Rig) -> None:
    go_on, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []
    calls = []

    class Slow(EventProcessor):
        def process(self, context: Any, events: Any) -> None:
            started.set()
            assert go_on.wait(PATIENCE)
            for do in (context.checkpoint, context.transaction):
                try:
                    do()
                except LeaseLostError as error:
                    errors.append(error)
            calls.append(context.lost.is_set())

        def close(self, context: Any, reason: CloseReason) -> None:
            calls.append(reason)
            ended.set()

    started = threading.Event()
    rig.feed("a")
    async with rig.running(rig.pump(Slow)) as pump:
        await until(started.is_set)
        assert pump.in_thread
        pump.cancel(CloseReason.LEASE_LOST)
        await until_ended(pump)
    assert pump.outcome is Outcome.ABANDONED
    assert pump.in_thread
    go_on.set()
    await until(ended.is_set)
    assert len(errors) == 2
    assert calls == [True, CloseReason.LEASE_LOST]
    assert rig.checkpoint == -1


async def test_a_plain_function_over_its_time_is_told_of_and_holds_up_no_end(rig: Rig) -> None:
    go_on, started = threading.Event(), threading.Event()

    def handle(context: Any, events: Any) -> None:
        started.set()
        assert go_on.wait(PATIENCE)

    rig.feed("a")
    async with rig.running(rig.pump(handler=handle, handler_timeout=3)) as pump:
        await until(lambda: started.is_set() and rig.clock.waits() == [3])
        rig.clock.advance(3)
        await until(lambda: rig.reported)
        assert is_running(pump)
        assert pump.status().state == "failing"
        pump.hand_over()
        await until_ended(pump)
    assert pump.outcome is Outcome.ABANDONED
    assert [type(error) for error in rig.reported] == [TimeoutError]
    go_on.set()


async def test_an_end_that_was_ordered_before_the_time_is_over_waits_no_longer(rig: Rig) -> None:
    go_on, started = threading.Event(), threading.Event()

    def handle(context: Any, events: Any) -> None:
        started.set()
        assert go_on.wait(PATIENCE)

    rig.feed("a")
    async with rig.running(rig.pump(handler=handle, handler_timeout=3)) as pump:
        await until(lambda: started.is_set() and rig.clock.waits() == [3])
        pump.hand_over()
        await anyio.wait_all_tasks_blocked()
        assert is_running(pump)
        rig.clock.advance(3)
        await until_ended(pump)
    assert pump.outcome is Outcome.ABANDONED
    go_on.set()


async def test_nothing_is_handed_over_without_a_lease(rig: Rig) -> None:
    processor = recorder()
    async with rig.running(rig.pump(processor)) as pump:
        await until(lambda: pump.status().state == "waiting")
        rig.lease.lose()
        rig.feed("a")
        await until_ended(pump)
    assert pump.outcome is Outcome.LOST
    assert processor.made[0].calls == ["open", "close"]
    assert processor.made[0].reasons == [CloseReason.LEASE_LOST]


async def test_a_checkpoint_without_a_lease_is_refused_and_ends_the_pump(rig: Rig) -> None:
    refused: list[BaseException] = []

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        rig.lease.lose()
        for _ in range(2):
            try:
                await context.checkpoint()
            except LeaseLostError as error:
                refused.append(error)
        await context.lost.wait()

    processor = recorder(handle=handle)
    rig.feed(*"ab")
    async with rig.running(rig.pump(processor, max_batch=1)) as pump:
        await until_ended(pump)
    assert pump.outcome is Outcome.LOST
    assert len(refused) == 2
    assert processor.made[0].calls == ["open", "process", "close"]
    assert rig.checkpoint == -1


async def test_another_owner_is_noticed_by_the_checkpoint(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        second = rig.pump(later, member="host-2")
        tasks.start_soon(second.run)
        await until(lambda: rig.checkpoint == 1)
        second.stop()
        await context.checkpoint()

    former, later = recorder(handle=handle), recorder()
    rig.feed(*"ab")
    async with anyio.create_task_group() as tasks, rig.running(rig.pump(former)) as first:
        await until(lambda: first.outcome)
    assert first.outcome is Outcome.LOST
    assert former.made[0].errors == []
    assert former.made[0].reasons == [CloseReason.LEASE_LOST]
    assert flat(later.made[0].batches) == ["a", "b"]


async def test_who_does_not_own_the_partition_opens_no_processor(rig: Rig) -> None:
    processor = recorder()
    pump = rig.pump(processor)
    rig.own("host-2")
    await pump.run()
    assert pump.outcome is Outcome.LOST
    assert processor.made == []


# Resets


async def test_after_a_reset_another_instance_goes_on_there(rig: Rig) -> None:
    processor = recorder()
    rig.feed(*"abc")
    async with rig.running(rig.pump(processor)) as pump:
        await until(lambda: rig.checkpoint == 2)
        await anyio.to_thread.run_sync(lambda: rig.topic.group(GROUP).reset(1, force=True))
        pump.look()
        await until(lambda: rig.checkpoint == 2)
    first, second = processor.made
    assert first.calls == ["open", "process", "close"]
    assert first.context.lost.is_set()
    assert second.batches == [["b", "c"]]


async def test_what_was_handed_over_before_a_reset_is_not_checkpointed(rig: Rig) -> None:
    errors: list[BaseException] = []

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        if len(processor.made) == 1:
            await anyio.to_thread.run_sync(lambda: rig.topic.group(GROUP).reset(0, force=True))
        try:
            await context.checkpoint()
        except eventlog.PreconditionFailedError as error:
            errors.append(error)

    processor = recorder(handle=handle)
    rig.feed(*"abc")
    async with rig.running(rig.pump(processor, max_batch=2)):
        await until(lambda: rig.checkpoint == 2)
    first, second = processor.made
    assert first.batches == [["a", "b"]]
    assert first.errors == []
    assert second.batches == [["a", "b"], ["c"]]
    assert len(errors) == 1


async def test_a_transaction_of_what_was_handed_over_before_a_reset_stores_nothing(
    rig: Rig,
) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        async with context.transaction() as tx:
            tx.append("dead", str(len(processor.made)))
            if len(processor.made) == 1:
                await anyio.to_thread.run_sync(lambda: rig.topic.group(GROUP).reset(1, force=True))

    processor = recorder(handle=handle)
    rig.feed(*"abc")
    async with rig.running(rig.pump(processor)):
        await until(lambda: rig.checkpoint == 2)
    assert bodies(rig.dead.read(0)) == ["2"]
    assert processor.made[0].errors == []
    assert processor.made[1].batches == [["b", "c"]]


# Pausing


async def test_paused_it_hands_over_nothing_and_still_ends_and_looks(rig: Rig) -> None:
    processor = recorder()
    pump = rig.pump(processor)
    pump.pause()
    rig.feed("a")
    async with rig.running(pump):
        await until(lambda: pump.status().state == "waiting")
        await anyio.wait_all_tasks_blocked()
        assert pump.status().paused
        assert processor.made[0].batches == []
        pump.resume()
        await until(lambda: rig.checkpoint == 0)
        pump.pause()
        rig.feed("b")
        await anyio.wait_all_tasks_blocked()
    assert pump.outcome is Outcome.RELEASED
    assert processor.made[0].batches == [["a"]]


# Automatic checkpoints


async def test_automatic_checkpoints_are_one_in_an_interval_and_one_at_the_end(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None: ...

    processor = recorder(handle=handle)
    rig.feed(*"ab")
    pump = rig.pump(processor, checkpoint="auto", checkpoint_interval=10, max_batch=1)
    async with rig.running(pump):
        await until(lambda: len(batches_of(processor)) == 2 and rig.clock.waits() == [10])
        assert rig.checkpoint == 0
        rig.clock.advance(10)
        await until(lambda: rig.checkpoint == 1)
        rig.feed("c")
        await until(lambda: len(batches_of(processor)) == 3)
        await until(lambda: rig.clock.waits() == [10])
        assert rig.checkpoint == 1
        pump.hand_over()
    assert rig.checkpoint == 2


class Moody(MemoryBlobs):
    """Refuses to work when it is told to."""

    down = False

    def get(self, name: str, *, if_none_match: str | None = None) -> Any:
        self._refuse()
        return super().get(name, if_none_match=if_none_match)

    def put(self, name: str, data: bytes, **conditions: Any) -> str:
        self._refuse()
        return super().put(name, data, **conditions)

    def _refuse(self) -> None:
        if self.down:
            raise StoreUnavailableError("down")


async def test_a_store_that_is_down_holds_up_the_beginning_and_the_end_and_no_work(
    log: EventLog,
) -> None:
    store = Moody()
    rig = Rig(log, store=store)

    async def handle(self: Recorder, context: Any, events: Any) -> None: ...

    processor = recorder(handle=handle)
    rig.feed("a")
    pump = rig.pump(processor, checkpoint="auto", checkpoint_interval=10)
    store.down = True
    async with rig.running(pump):
        await rig.until_retrying(pump)
        assert processor.made == []
        store.down = False
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
        store.down = True
        rig.clock.advance(10)
        rig.feed("b")
        await until(lambda: len(rig.reported) == 2)
        rig.feed("c")
        await until(lambda: len(batches_of(processor)) == 3)
        pump.hand_over()
        await until(lambda: len(rig.reported) == 3 and rig.clock.waits())
        assert processor.made[0].reasons == []
        store.down = False
        rig.clock.advance(1)
    assert pump.outcome is Outcome.RELEASED
    assert rig.checkpoint == 2
    assert {type(error) for error in rig.reported} == {StoreUnavailableError}


# Failing to begin, and to end


async def test_open_is_tried_again_with_another_instance(rig: Rig) -> None:
    async def open(self: Recorder, context: Any) -> None:
        self.calls.append("open")
        if len(processor.made) < 3:
            raise ValueError("not yet")

    processor = recorder(open=open)
    rig.feed("a")
    async with rig.running(rig.pump(processor)) as pump:
        for _ in range(2):
            await rig.until_retrying(pump)
            rig.clock.advance(1)
            await until(lambda: not rig.clock.waits())
        await until(lambda: rig.checkpoint == 0)
    assert [made.calls for made in processor.made] == [
        ["open"],
        ["open"],
        ["open", "process", "close"],
    ]
    assert len(rig.reported) == 2


async def test_a_factory_that_fails_is_asked_again_and_an_end_does_not_wait_for_it(
    rig: Rig,
) -> None:
    def fail() -> Any:
        raise OSError("no database")

    async with rig.running(rig.pump(fail)) as pump:
        await rig.until_retrying(pump)
        pump.stop()
        await until_ended(pump)
    assert pump.outcome is Outcome.RELEASED
    assert isinstance(rig.reported[0], OSError)


async def test_a_close_that_fails_is_told_of_and_no_more(rig: Rig) -> None:
    async def close(self: Recorder, context: Any, reason: CloseReason) -> None:
        raise OSError("no")

    async with rig.running(rig.pump(recorder(close=close))) as pump:
        await until(lambda: pump.status().state == "waiting")
    assert pump.outcome is Outcome.RELEASED
    assert [type(error) for error in rig.reported] == [OSError]


@pytest.mark.parametrize("kind", ["async", "plain"])
@pytest.mark.parametrize("method", ["factory", "open", "process", "idle", "error", "close"])
async def test_what_is_no_exception_ends_the_host(rig: Rig, method: str, kind: str) -> None:
    """`SystemExit`, for example: wherever it comes from."""

    def leave(*_: Any) -> Any:
        raise SystemExit(3)

    async def leave_async(*_: Any) -> Any:
        raise SystemExit(3)

    async def fail(*_: Any) -> Any:
        raise ValueError("first")

    methods: dict[str, Any] = {method: leave if kind == "plain" else leave_async}
    if method == "error":
        methods["handle"] = fail
    processor = recorder(**methods)
    rig.feed("a")
    pump = rig.pump(leave if method == "factory" else processor)
    async with rig.running(pump):
        if method in ("idle", "close"):
            await until(lambda: rig.checkpoint == 0 and pump.status().state == "waiting")
        if method == "idle":
            await until(rig.clock.waits)
            rig.clock.advance(1)
        if method == "close":
            pump.stop()
        await until_ended(pump)
    assert pump.outcome is Outcome.STOPPED
    assert isinstance(pump.error, SystemExit)
    if method in ("process", "idle", "error"):
        assert processor.made[0].reasons == [CloseReason.FAILED]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_nobody_asked_for_is_a_failure_of_the_handler(
    rig: Rig, anyio_backend: str
) -> None:
    """A handler that awaits what others have cancelled, on asyncio."""

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        if len(self.batches) == 1:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        await context.checkpoint()

    processor = recorder(handle=handle)
    rig.feed("a")
    async with rig.running(rig.pump(processor)) as pump:
        await rig.until_retrying(pump)
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
    assert [type(error) for error, _ in processor.made[0].errors] == [asyncio.CancelledError]
    assert pump.outcome is Outcome.RELEASED


async def test_a_log_that_is_closed_and_a_topic_that_is_deleted_end_the_host(
    rig: Rig, log: EventLog
) -> None:
    processor = recorder()
    async with rig.running(rig.pump(processor)) as pump:
        await until(lambda: pump.status().state == "waiting")
        log.delete_topic("cars")
        await until_ended(pump)
    assert pump.outcome is Outcome.STOPPED
    assert isinstance(pump.error, eventlog.TopicNotFoundError)
    assert processor.made[0].reasons == [CloseReason.FAILED]


async def test_a_handler_over_its_time_is_cancelled_and_has_failed(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        if len(self.batches) == 1:
            await anyio.sleep_forever()
        await context.checkpoint()

    processor = recorder(handle=handle)
    rig.feed("a")
    async with rig.running(rig.pump(processor, handler_timeout=3)) as pump:
        await until(lambda: batches_of(processor) and rig.clock.waits() == [3])
        rig.clock.advance(3)
        await rig.until_retrying(pump)
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
    assert [type(error) for error, _ in processor.made[0].errors] == [TimeoutError]
    assert pump.outcome is Outcome.RELEASED


# What it tells


async def test_status_tells_where_it_is(rig: Rig) -> None:
    go_on = anyio.Event()

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        await go_on.wait()
        assert context.lag == 3
        await context.checkpoint()
        assert context.lag == 1

    processor = recorder(handle=handle)
    pump = rig.pump(processor, max_batch=2)
    assert pump.status() == (0, rig.epoch, "opening", None, None, False, 0, None)
    rig.feed(*"abc")
    async with rig.running(pump):
        await until(lambda: batches_of(processor))
        assert pump.status() == (0, rig.epoch, "processing", -1, 3, False, 0, None)
        go_on.set()
        processor.handle = Recorder.handle  # type: ignore[method-assign]
        await until(lambda: pump.status().state == "waiting" and rig.checkpoint == 2)
        assert pump.status() == (0, rig.epoch, "waiting", 2, 0, False, 0, None)
    assert pump.status() == (0, rig.epoch, "closed", 2, 0, False, 0, None)
