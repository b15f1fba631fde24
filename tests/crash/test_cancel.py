"""Cancellation at every await of producers, consumers and transactions, on asyncio and on trio.

A coroutine is driven step by step and cancelled at its n-th suspension, for every n there is. After
each, nothing is lost, doubled, skipped or torn (`tests.history.check`), and everything still works.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import pytest

import eventlog
from eventlog import BufferFullError, EventLog, Topic
from eventlog.producer import Producer
from eventlog.producing.delivery import Delivery
from tests.crash.roles import delivered
from tests.history import Recorder, check, read_log, read_records
from tests.history.contents import body_of, name_of
from tests.history.witnesses import (
    GroupWitness,
    ProducerWitness,
    ReaderWitness,
    TransactionWitness,
)

pytestmark = pytest.mark.anyio

GROUP = "g"
EVENTS = 8
SENT = 8

# ---- Driving a coroutine -------------------------------------------------------------------------


class Stepped(Awaitable[None]):
    """Runs a coroutine, and calls `interrupt` with what it waits for at its suspension `number`."""

    def __init__(
        self, do: Awaitable[None], number: int, interrupt: Callable[[Any], object]
    ) -> None:
        self._do = do
        self._left = number
        self._interrupt = interrupt

    @property
    def reached(self) -> bool:
        """Whether there was a suspension of that number."""
        return self._left <= 0

    def __await__(self) -> Generator[Any, Any, None]:
        inner = self._do.__await__()
        step: Callable[[], Any] = inner.__next__
        while True:
            try:
                waits_for = step()
            except StopIteration:
                return
            self._left -= 1
            if self._left == 0:
                self._interrupt(waits_for)
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to deal with
                step = functools.partial(inner.throw, error)
            else:
                step = functools.partial(inner.send, value)


async def in_scope(do: Awaitable[None], number: int) -> bool:
    """Cancel by a cancel scope, as anyio and trio do."""
    with anyio.CancelScope() as scope:
        stepped = Stepped(do, number, lambda _: scope.cancel())
        await stepped
    return stepped.reached


async def _run_task(do: Awaitable[None], number: int, interrupt: Callable[..., object]) -> bool:
    tasks: list[asyncio.Task[None]] = []
    stepped = Stepped(do, number, lambda waits_for: interrupt(tasks[0], waits_for))

    async def run() -> None:
        await stepped

    tasks.append(asyncio.create_task(run()))
    await asyncio.wait(tasks)
    if not tasks[0].cancelled():
        tasks[0].result()
    return stepped.reached


async def as_task(do: Awaitable[None], number: int) -> bool:
    """Cancel a task once, as asyncio does."""
    return await _run_task(do, number, lambda task, _: task.cancel())


async def too_late(do: Awaitable[None], number: int) -> bool:
    """The same at the moment when what it waits for is there already, and it does not know yet."""

    def cancel_when_done(task: asyncio.Task[None], waits_for: asyncio.Future[Any] | None) -> None:
        if waits_for is None:
            task.cancel()
        else:
            waits_for.add_done_callback(lambda _: task.cancel())

    return await _run_task(do, number, cancel_when_done)


How: TypeAlias = Callable[[Awaitable[None], int], Awaitable[bool]]
WAYS: dict[str, tuple[str, How]] = {
    "asyncio, scope": ("asyncio", in_scope),
    "asyncio, task": ("asyncio", as_task),
    "asyncio, too late": ("asyncio", too_late),
    "trio": ("trio", in_scope),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> tuple[str, How]:
    return WAYS[request.param]


@pytest.fixture
def anyio_backend(way: tuple[str, How]) -> str:
    return way[0]


# ---- A trial -------------------------------------------------------------------------------------


class Trial:
    """A log with some events, and what is done to it and noted."""

    def __init__(self, log: EventLog, histories: Path) -> None:
        self.log = log
        self.histories = histories
        self.recorder = Recorder(histories)
        self.input = log.create_topic("in", partitions=2)
        self.output = log.create_topic("out", partitions=1)
        self.deliveries: list[Delivery] = []
        self._numbers = itertools.count()
        producer = ProducerWitness(self.recorder, "first", self.input)
        for number in range(EVENTS):
            since = producer.sending(f"first:{number}")
            receipt = self.input.append(body_of(f"first:{number}"), partition=number % 2)
            producer.acknowledged(receipt, f"first:{number}", since)

    def name(self) -> str:
        """A new actor."""
        return f"actor-{next(self._numbers)}"

    def group_witness(self) -> GroupWitness:
        return GroupWitness(
            self.recorder, self.name(), self.input, since=time.monotonic(), group=GROUP
        )

    def labels(self, topic: Topic) -> list[str]:
        contents = read_log(self.log).partitions
        return [
            event.label
            for (name, _), partition in contents.items()
            for event in partition.events
            if name == name_of(topic)
        ]

    def require_sound(self) -> None:
        assert self.log.check().damaged == []
        findings = check(read_records(self.histories), read_log(self.log))
        assert not findings, "\n".join(map(str, findings))


Scenario: TypeAlias = Callable[[Trial], Awaitable[None]]


def trials(tmp_path: Path) -> Iterator[tuple[int, Trial]]:
    """One after the other, each numbered and found to be sound after it was used."""
    for number in itertools.count(1):
        with eventlog.open("memory:") as log:
            trial = Trial(log, tmp_path / str(number))
            yield number, trial
            trial.require_sound()
            trial.recorder.close()


async def cancel_everywhere(how: How, tmp_path: Path, do: Scenario, then: Scenario) -> None:
    """`do`, cancelled at each place there is, and `then` each time."""
    for number, trial in trials(tmp_path):
        reached = await how(do(trial), number)
        with anyio.fail_after(30):
            await then(trial)
        if not reached:
            assert number > 4, "it hardly waits for anything: what is tried here?"
            return


# ---- Producers -----------------------------------------------------------------------------------


async def send_some(trial: Trial, producer_id: str | None, witness: ProducerWitness) -> None:
    """Into a buffer that takes three events; now and then it waits for the outcome."""
    since = time.monotonic()
    producer = trial.input.producer(
        producer_id=producer_id, linger=0.001, max_buffered_bytes=3 * 72
    )
    async with producer:
        if producer_id is not None:
            witness.resumed(producer.last_sequence, since)
        for number in range(producer.last_sequence + 1, SENT):
            delivery = await send_one(trial, producer, witness, number)
            if number % 5 == 1:
                await delivery
            elif number % 5 == 2:
                await producer.flush()


async def send_one(
    trial: Trial, producer: Producer, witness: ProducerWitness, number: int
) -> Delivery:
    """Send an event as soon as there is room."""
    label = f"p:{number}"
    sequence = number if witness.producer_id else None
    while True:
        since = witness.sending(label, number)
        try:
            delivery = producer.send(body_of(label), sequence=sequence)
        except BufferFullError:
            witness.refused(label, since, number)
            await producer.ready()
        else:
            delivery.add_done_callback(delivered(witness, label, since, number))
            trial.deliveries.append(delivery)
            return delivery


async def test_what_a_producer_accepted_is_stored_wherever_it_is_cancelled(
    way: tuple[str, How], tmp_path: Path
) -> None:
    async def send(trial: Trial) -> None:
        await send_some(trial, None, ProducerWitness(trial.recorder, "plain", trial.input))

    async def require_delivered(trial: Trial) -> None:
        if way[1] is in_scope:
            assert all(delivery.done for delivery in trial.deliveries), "its end was not waited for"
        for delivery in trial.deliveries:
            await delivery
        labels = trial.labels(trial.input)
        assert len(labels) == EVENTS + len(trial.deliveries)

    await cancel_everywhere(way[1], tmp_path, send, require_delivered)


async def test_a_producer_with_a_name_goes_on_wherever_it_was_cancelled(
    way: tuple[str, How], tmp_path: Path
) -> None:
    async def send(trial: Trial) -> None:
        witness = ProducerWitness(trial.recorder, trial.name(), trial.input, "p")
        await send_some(trial, "p", witness)

    async def send_the_rest(trial: Trial) -> None:
        await send(trial)
        assert {f"p:{number}" for number in range(SENT)} <= set(trial.labels(trial.input))

    await cancel_everywhere(way[1], tmp_path, send, send_the_rest)


# ---- Consumers -----------------------------------------------------------------------------------


async def read_for_group(trial: Trial) -> None:
    witness = trial.group_witness()
    async with trial.input.consumer(group=GROUP, max_wait=0.001, prefetch_bytes=30) as consumer:
        async for event in consumer:
            witness.given([event])
            if event.offset % 2:
                witness.checkpointing()
                await consumer.checkpoint()
                witness.checkpointed()


async def finish_group(trial: Trial) -> None:
    await read_for_group(trial)
    lags = await trial.input.group(GROUP).aio.lag()
    assert {lag.events for lag in lags.values()} == {0}


async def test_another_goes_on_for_the_group_wherever_a_consumer_was_cancelled(
    way: tuple[str, How], tmp_path: Path
) -> None:
    await cancel_everywhere(way[1], tmp_path, read_for_group, finish_group)


@pytest.mark.parametrize("order", ["partition", "time"])
async def test_a_consumer_goes_on_itself_wherever_its_next_event_was_cancelled(
    order: Any, way: tuple[str, How], tmp_path: Path
) -> None:
    for number, trial in trials(tmp_path):
        since = time.monotonic()
        witness = ReaderWitness(trial.recorder, "reader", trial.input, since=since)
        async with trial.input.consumer(max_wait=0.001, prefetch_bytes=30, order=order) as consumer:

            async def read_all(witness: ReaderWitness, consumer: Any) -> None:
                async for event in consumer:
                    witness.given([event])

            reached = await way[1](read_all(witness, consumer), number)
            await read_all(witness, consumer)
            witness.ended(consumer.positions)
        if not reached:
            assert number > 4
            return


@pytest.mark.parametrize("order", ["partition", "time"])
async def test_a_consumer_goes_on_with_the_next_batch_wherever_one_was_cancelled(
    order: Any, way: tuple[str, How], tmp_path: Path
) -> None:
    for number, trial in trials(tmp_path):
        since = time.monotonic()
        witness = ReaderWitness(trial.recorder, "reader", trial.input, since=since)
        async with trial.input.consumer(max_wait=0.001, prefetch_bytes=30, order=order) as consumer:

            async def read_all(witness: ReaderWitness, consumer: Any) -> None:
                async for batch in consumer.batches():
                    witness.given(batch)

            reached = await way[1](read_all(witness, consumer), number)
            await read_all(witness, consumer)
            witness.ended(consumer.positions)
        if not reached:
            assert number > 4
            return


# ---- Transactions --------------------------------------------------------------------------------


async def process(trial: Trial) -> None:
    """One event of each, exactly once."""
    witness = trial.group_witness()
    async with trial.input.consumer(group=GROUP, max_wait=0.001, prefetch_bytes=30) as consumer:
        async for batch in consumer.batches():
            witness.given(batch)
            made = TransactionWitness(trial.recorder, witness, trial.name(), trial.output)
            async with consumer.transaction() as transaction:
                for label in made.committing(batch):
                    transaction.append(trial.output, body_of(label))
            made.committed(transaction.receipts)


async def process_by_hand(trial: Trial) -> None:
    """The same with transactions of the log."""
    witness = trial.group_witness()
    async with trial.input.consumer(group=GROUP, max_wait=0.001, prefetch_bytes=30) as consumer:
        async for batch in consumer.batches():
            witness.given(batch)
            made = TransactionWitness(trial.recorder, witness, trial.name(), trial.output)
            async with trial.log.transaction() as transaction:
                for label in made.committing(batch):
                    transaction.append(trial.output, body_of(label))
                partition, offset = batch[-1].partition, batch[-1].offset
                transaction.checkpoint(trial.input, GROUP, partition=partition, offset=offset)
            made.committed(transaction.receipts)


@pytest.mark.parametrize("pipeline", [process, process_by_hand])
async def test_events_are_processed_exactly_once_wherever_a_pipeline_was_cancelled(
    pipeline: Scenario, way: tuple[str, How], tmp_path: Path
) -> None:
    async def finish(trial: Trial) -> None:
        await pipeline(trial)
        assert len(trial.labels(trial.output)) == EVENTS

    await cancel_everywhere(way[1], tmp_path, pipeline, finish)


# ---- Views ---------------------------------------------------------------------------------------


async def test_an_append_that_was_cancelled_is_stored_once_or_not_at_all(
    way: tuple[str, How], tmp_path: Path
) -> None:
    async def append(trial: Trial) -> None:
        witness = ProducerWitness(trial.recorder, "appender", trial.input)
        for number in range(3):
            since = witness.sending(f"x:{number}")
            receipt = await trial.input.aio.append(body_of(f"x:{number}"))
            witness.acknowledged(receipt, f"x:{number}", since)

    async def append_another(trial: Trial) -> None:
        witness = ProducerWitness(trial.recorder, "other", trial.input)
        since = witness.sending("other")
        witness.acknowledged(await trial.input.aio.append(body_of("other")), "other", since)

    await cancel_everywhere(way[1], tmp_path, append, append_another)


# ---- The driver itself ---------------------------------------------------------------------------


async def test_the_driver_cancels_at_every_suspension(way: tuple[str, How]) -> None:
    for number in itertools.count(1):
        steps: list[int] = []

        async def do(steps: list[int] = steps) -> None:
            for step in range(3):
                await anyio.lowlevel.checkpoint()
                steps.append(step)

        if not await way[1](do(), number):
            assert steps == [0, 1, 2]
            break
        assert len(steps) < 3
    assert number >= 4


async def test_a_result_that_comes_with_a_cancellation_is_lost_to_who_does_not_care(
    anyio_backend: str,
) -> None:
    """What `too_late` is for: the naive way to hand out what was taken loses it."""
    if anyio_backend != "asyncio":
        pytest.skip("a task of trio that has its result is not cancelled any more")
    taken: list[int] = []
    given: list[int] = []

    async def take() -> None:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(give, future)
        given.append(await future)

    def give(future: asyncio.Future[int]) -> None:
        taken.append(1)
        future.set_result(1)

    await too_late(take(), 1)
    assert (taken, given) == ([1], [])
