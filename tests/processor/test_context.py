"""What a processor can do: checkpoint, commit, put aside; in coroutines and in plain functions."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import eventlog
from eventlog import (
    Event,
    EventLog,
    LeaseLostError,
    StoredEvent,
    UnsupportedOperationError,
)
from eventlog.blobs.memory import MemoryBlobs
from eventlog.event import Origin
from eventlog.processor.hold import Place
from eventlog.processor.processor import STOP, CloseReason
from eventlog.processor.session import Session
from tests.processor.pumping import (
    GROUP,
    PATIENCE,
    Recorder,
    Rig,
    recorder,
    until,
    until_count,
    until_ended,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def rig(memory_log: EventLog) -> Rig:
    return Rig(memory_log)


@pytest.fixture(autouse=True)
async def _patience() -> AsyncIterator[None]:
    """A test that hangs fails."""
    with anyio.fail_after(PATIENCE):
        yield


class Script:
    """A handler of one batch, written once for both kinds of context.

    What it does is a generator that yields whatever a context's method returned.
    """

    def __init__(self, script: Callable[..., Any], *, plain: bool) -> None:
        self._script = script
        self._plain = plain
        self.done = threading.Event()

    @property
    def handler(self) -> Any:
        return self._run_plain if self._plain else self._run_async

    def _run_plain(self, context: Any, events: Any) -> None:
        steps = self._script(context, events)
        for _ in steps:
            pass
        self.done.set()

    async def _run_async(self, context: Any, events: Any) -> None:
        steps = self._script(context, events)
        with contextlib.suppress(StopIteration):
            step = next(steps)
            while True:
                try:
                    await step
                except Exception as error:  # noqa: BLE001 - it is the script's
                    step = steps.throw(error)
                else:
                    step = next(steps)
        self.done.set()


@pytest.fixture(params=["async", "plain"])
def plain(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "plain")


async def run(rig: Rig, script: Callable[..., Any], *, plain: bool, **options: Any) -> None:
    """Run it for the events that were fed."""
    played = Script(script, plain=plain)
    failures: list[BaseException] = []

    class Player:
        process = staticmethod(played.handler)

        def error(self, context: Any, exception: BaseException, events: Any) -> Any:
            failures.append(exception)
            return STOP

    pump = rig.pump(Player, **options)
    async with rig.running(pump):
        await until(lambda: played.done.is_set() or pump.outcome)
    for error in [*failures, pump.error]:
        if error is not None:
            raise error


async def test_it_says_where_it_is(rig: Rig, plain: bool) -> None:
    seen = []

    def script(context: Any, events: Any) -> Any:
        seen.append((context.topic, context.group, context.partition, context.epoch, context.lag))
        assert not context.lost.is_set()
        assert "partition 0 of topic 'cars'" in repr(context)
        yield context.checkpoint()
        seen.append(context.lag)

    rig.feed(*"abc")
    await run(rig, script, plain=plain)
    assert seen == [("cars", GROUP, 0, rig.epoch, 3), 0]


async def test_a_checkpoint_covers_the_batch_or_up_to_an_event(rig: Rig, plain: bool) -> None:
    seen = []

    def script(context: Any, events: Any) -> Any:
        yield context.checkpoint(events[1])
        seen.append(rig.checkpoint)
        yield context.checkpoint()
        seen.append(rig.checkpoint)

    rig.feed(*"abc")
    await run(rig, script, plain=plain)
    assert seen == [1, 2]


async def test_a_checkpoint_at_or_below_the_current_one_does_nothing(
    rig: Rig, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even to the store."""

    def script(context: Any, events: Any) -> Any:
        yield context.checkpoint(events[2])
        etags = rig.store.list("")
        yield context.checkpoint(events[0])
        yield context.checkpoint(events[2])
        assert rig.store.list("") == etags

    rig.feed(*"abc")
    await run(rig, script, plain=plain)
    assert rig.checkpoint == 2


async def test_only_what_was_handed_over_can_be_checkpointed(rig: Rig, plain: bool) -> None:
    def stored(topic: str, partition: int, offset: int) -> StoredEvent:
        return StoredEvent(b"", None, {}, 0, Origin(topic, partition, event.enqueued_at, offset))

    def script(context: Any, events: Any) -> Any:
        if events[0].offset > 0:
            return
        for wrong, error in [
            (stored("cars", 0, 1), ValueError),
            (stored("cars", 1, 0), ValueError),
            (stored("dead", 0, 0), ValueError),
            (Event(b"a"), TypeError),
            (0, TypeError),
        ]:
            for method in (context.checkpoint, context.transaction):
                with pytest.raises(error):
                    yield method(wrong)
        yield context.checkpoint()

    rig.feed(*"ab")
    event = rig.topic.read(0)[0]
    await run(rig, script, plain=plain, max_batch=1)


async def test_nothing_is_finished_before_process_has_begun(rig: Rig) -> None:
    async def open(self: Recorder, context: Any) -> None:
        await context.checkpoint()
        self.context = context

    processor = recorder(open=open)
    async with rig.running(rig.pump(processor)):
        await until(lambda: processor.made and processor.made[0].context)
    assert rig.checkpoint == -1


async def commit(context: Any, *given: Any) -> None:
    async with context.transaction(*given) as tx:
        tx.append("dead", "made of it")


def commit_plain(context: Any, *given: Any) -> None:
    with context.transaction(*given) as tx:
        tx.append("dead", "made of it")


async def test_a_transaction_stores_what_is_made_of_a_batch_with_its_checkpoint(
    rig: Rig, plain: bool
) -> None:
    seen = []
    do: Any = commit_plain if plain else commit

    def script(context: Any, events: Any) -> Any:
        yield do(context, events[0])
        seen.append((rig.checkpoint, len(rig.dead.read(0))))
        yield do(context)
        seen.append((rig.checkpoint, len(rig.dead.read(0))))
        yield do(context)
        seen.append((rig.checkpoint, len(rig.dead.read(0))))

    rig.feed(*"abc")
    await run(rig, script, plain=plain)
    assert seen == [(0, 1), (2, 2), (2, 3)]


async def test_a_transaction_whose_block_raises_stores_nothing(rig: Rig, plain: bool) -> None:
    def fail(context: Any) -> None:
        with context.transaction() as tx:
            tx.append("dead", "x")
            raise KeyError

    def script(context: Any, events: Any) -> Any:
        with pytest.raises(KeyError):
            fail(context)
        assert (rig.checkpoint, rig.dead.read(0)) == (-1, [])
        yield context.checkpoint()

    rig.feed("a")
    await run(rig, script, plain=plain)
    assert rig.checkpoint == 0


async def test_a_transaction_of_who_lost_the_lease_stores_nothing(rig: Rig, plain: bool) -> None:
    """Whether it was lost before, or while the block ran; and whether or not he knows."""
    do: Any = commit_plain if plain else commit
    lost = []

    def script(context: Any, events: Any) -> Any:
        transaction = context.transaction()
        transaction.append("dead", "x")
        rig.own("host-2")
        rig.store.put(*taken_over(rig))
        with pytest.raises(LeaseLostError):
            yield do(context)
        with pytest.raises(LeaseLostError), transaction:
            pass
        with pytest.raises(LeaseLostError):
            yield context.checkpoint()
        lost.append(context.lost)

    rig.feed("a")
    await run(rig, script, plain=plain)
    assert rig.dead.read(0) == []
    await until(lost[0].is_set)


def taken_over(rig: Rig) -> tuple[str, bytes]:
    """The checkpoint, as a later owner would put it."""
    name = rig.ids.checkpoint(0)
    blob = rig.store.get(name)
    assert isinstance(blob, eventlog.blobs.Blob)
    return name, blob.data.replace(b'"host-1"', b'"host-2"')


async def test_transactions_need_the_groups_store_to_be_the_logs(
    memory_log: EventLog, plain: bool
) -> None:
    rig = Rig(memory_log, store=MemoryBlobs())

    def script(context: Any, events: Any) -> Any:
        with pytest.raises(UnsupportedOperationError):
            context.transaction()
        yield context.checkpoint()

    rig.feed("a")
    await run(rig, script, plain=plain)
    assert rig.checkpoint == 0


async def test_an_event_may_be_put_aside_by_the_processor_itself(rig: Rig, plain: bool) -> None:
    def script(context: Any, events: Any) -> Any:
        yield context.dead_letter(events[1], "not for me")
        assert rig.checkpoint == -1
        yield context.checkpoint()

    rig.feed(*"abc")
    await run(rig, script, plain=plain, dead_letter="dead")
    ((text, told),) = rig.dead_letters()
    assert (text, told.reason, told.attempts, told.offset) == ("b", "not for me", 1, 1)
    assert rig.checkpoint == 2


async def test_without_a_topic_for_them_nothing_can_be_put_aside(rig: Rig, plain: bool) -> None:
    def script(context: Any, events: Any) -> Any:
        with pytest.raises(UnsupportedOperationError, match="dead_letter"):
            yield context.dead_letter(events[0], "why")

    rig.feed("a")
    await run(rig, script, plain=plain)


async def test_after_close_a_context_is_of_no_use(rig: Rig) -> None:
    processor = recorder()
    rig.feed("a")
    async with rig.running(rig.pump(processor)):
        await until(lambda: rig.checkpoint == 0)
    context = processor.made[0].context
    for attempt in (context.checkpoint, commit):
        with pytest.raises(LeaseLostError, match="closed"):
            await attempt(*([context] if attempt is commit else []))
    assert not context.lost.is_set()


async def test_a_task_of_the_processors_own_may_checkpoint_between_batches(rig: Rig) -> None:
    """It names the event; one at a time uses the checkpoint."""
    done = []

    async def checkpoint(context: Any, event: Any) -> None:
        await context.checkpoint(event)
        done.append(event.offset)

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        for event in events:
            tasks.start_soon(checkpoint, context, event)

    rig.feed(*"abcdef")
    pump = rig.pump(recorder(handle=handle), max_batch=2)
    async with anyio.create_task_group() as tasks, rig.running(pump):
        await until_count(done, 6)
    assert rig.checkpoint == 5


async def test_who_waits_for_the_end_of_the_lease_is_told(rig: Rig) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        with anyio.CancelScope(shield=True):
            await context.lost.wait()
        told.append(True)

    told: list[bool] = []
    rig.feed("a")
    async with rig.running(rig.pump(recorder(handle=handle))) as pump:
        await until(lambda: pump.status().state == "processing")
        pump.cancel(CloseReason.LEASE_LOST)
        await until_ended(pump)
    assert told == [True]


class Slow(MemoryBlobs):
    """Holds up a put, and counts how many are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.is_slow = False
        self.under_way = self.most_under_way = 0

    def put(self, name: str, data: bytes, **conditions: Any) -> str:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.is_slow:
            self.is_slow = False
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
        self.under_way -= 1
        return super().put(name, data, **conditions)


async def test_a_checkpoint_that_has_begun_is_made_although_its_caller_is_cancelled(
    memory_log: EventLog,
) -> None:
    """And whatever comes next comes behind it."""
    store = Slow()
    rig = Rig(memory_log, store=store)
    given_up = []

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        store.is_slow = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.checkpoint)
            await until(store.begun.is_set)
            tasks.cancel_scope.cancel()
        given_up.append(rig.checkpoint)
        store.go_on.set()

    rig.feed("a")
    async with rig.running(rig.pump(recorder(handle=handle))):
        await until(lambda: rig.checkpoint == 0)
    assert given_up == [-1]


async def test_one_at_a_time_uses_the_checkpoint(memory_log: EventLog) -> None:
    store = Slow()
    rig = Rig(memory_log, store=store)

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        store.is_slow = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.checkpoint, events[0])
            await until(store.begun.is_set)
            tasks.start_soon(context.checkpoint, events[1])
            for _ in range(1000):  # time enough for it to get there
                await anyio.lowlevel.checkpoint()
            store.go_on.set()

    rig.feed(*"ab")
    async with rig.running(rig.pump(recorder(handle=handle))):
        await until(lambda: rig.checkpoint == 1)
    assert store.most_under_way == 1


async def test_a_plain_function_is_refused_from_the_moment_on_that_nobody_waits_for_it(
    rig: Rig,
) -> None:
    """Before anything else happens: what it stored then might be with a checkpoint that is none."""
    started, go_on = threading.Event(), threading.Event()

    def handle(context: Any, events: Any) -> None:
        started.set()
        assert go_on.wait(PATIENCE)

    async def give_up() -> None:
        await until(started.is_set)
        session.give_up()

    pump = rig.pump(handler=handle)
    await anyio.to_thread.run_sync(pump._take)
    async with anyio.create_task_group() as tasks:
        session = Session(
            pump._site, pump._factory(), Place(-1, None), tasks, on_end=print, on_overdue=print
        )
        tasks.start_soon(give_up)
        answer = await session.call(session.methods.process, [], limit=None)
        with pytest.raises(LeaseLostError):
            session.hold.refuse()
    go_on.set()
    assert answer.given_up
