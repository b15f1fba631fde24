"""What processes do that are killed: send, follow, read for groups, and process exactly once.

A process plays one of `CASTS`, several roles at a time on one log, each in a thread or a task of
its own, until it is killed or told to stop. Every role notes what it does (see `tests.history`),
takes up what the last one that played it left, and ends quietly when a later one takes its place.
"""

from __future__ import annotations

import functools
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

import eventlog
from eventlog import (
    ClosedError,
    ConsumerDisconnectedError,
    Event,
    EventLog,
    EventLogError,
    ProducerFencedError,
    StoredEvent,
    Topic,
)
from tests.history import Kind, Recorder
from tests.history.contents import body_of, name_of
from tests.history.witnesses import (
    GroupWitness,
    ProducerWitness,
    ReaderWitness,
    TransactionWitness,
)

__all__ = [
    "CASTS",
    "INPUT",
    "Stage",
    "delivered",
    "drain",
    "make_topics",
    "output_of",
    "pipelines",
    "readers",
]

INPUT = "in"
PARTITIONS = 3
PAUSE = 0.06
"""Seconds that who sends waits at most before it sends more: histories are to stay short."""


def output_of(group: str) -> str:
    """The topic that a pipeline writes to."""
    return f"out-{group}"


class Stage:
    """Where roles are played.

    Args:
        name: tells this process from all others there ever are.
        follow: whether readers wait for more.
    """

    def __init__(
        self, log: EventLog, recorder: Recorder, name: str, seed: str, *, follow: bool = True
    ) -> None:
        self.log = log
        self.recorder = recorder
        self.name = name
        self.follow = follow
        self.stopping = threading.Event()
        self._seed = seed
        self._mutex = threading.Lock()
        self._closers: list[Callable[[], object]] = []

    def rng(self, role: str) -> random.Random:
        """What decides for a role."""
        return random.Random(f"{self._seed} {self.name} {role}")

    def topic(self, name: str = INPUT) -> Topic:
        """A topic of the log."""
        return self.log.topic(name)

    @contextmanager
    def closing(self, close: Callable[[], object]) -> Iterator[None]:
        """Have `close` called when the stage is to stop, at once if it is."""
        with self._mutex:
            self._closers.append(close)
        if self.stopping.is_set():
            close()
        yield

    def stop(self) -> None:
        """Everybody is to stop."""
        self.stopping.set()
        with self._mutex:
            closers = list(self._closers)
        for close in closers:
            close()


def make_topics(log: EventLog) -> None:
    """The topics that all roles use."""
    log.create_topic(INPUT, partitions=PARTITIONS)
    for group in pipelines():
        log.create_topic(output_of(group), partitions=2)


# ---- Producers -----------------------------------------------------------------------------------


def delivered(
    witness: ProducerWitness, label: str, since: float, sequence: int
) -> Callable[[Any], object]:
    """What notes the outcome of a delivery."""
    return lambda delivery: witness.settled(delivery, label, since, sequence)


class _Sender:
    """Sends events with one producer, and notes them."""

    def __init__(self, producer: Any, witness: ProducerWitness, rng: random.Random) -> None:
        self._producer = producer
        self._witness = witness
        self._rng = rng

    def send(self, label: str, sequence: int | None = None) -> Any:
        """Send an event; its delivery."""
        number = -1 if sequence is None else sequence
        since = self._witness.sending(label, number)
        filler = self._rng.randbytes(self._rng.choice((0, 0, 10, 1000)))
        try:
            delivery = self._producer.send(
                body_of(label, filler),
                key=self._rng.choice((None, "a", "b", "c")),
                sequence=sequence,
            )
        except EventLogError:
            self._witness.refused(label, since, number)
            raise
        delivery.add_done_callback(delivered(self._witness, label, since, number))
        return delivery

    def burst(self, name: str, number: int, *, named: bool) -> int:
        """Send some, now and then the last one again; the number of the next."""
        first = number
        for _ in range(self._rng.randint(1, 10)):
            self.send(f"{name}:{number}", number if named else None)
            number += 1
        if named and self._rng.random() < 0.3:
            again = self._rng.randint(max(0, first - 10), number - 1)
            self.send(f"{name}:{again}", again)
        return number


def send_named(stage: Stage, producer_id: str) -> None:
    """A producer with a name goes on behind what is stored."""
    rng = stage.rng(producer_id)
    topic = stage.topic()
    since = time.monotonic()
    with topic.producer(producer_id=producer_id, linger=0.002) as producer:
        witness = ProducerWitness(stage.recorder, f"{stage.name}/{producer_id}", topic, producer_id)
        witness.resumed(producer.last_sequence, since)
        sender = _Sender(producer, witness, rng)
        number = producer.last_sequence + 1
        while not stage.stopping.wait(rng.uniform(0, PAUSE)):
            number = sender.burst(producer_id, number, named=True)


async def send_named_async(stage: Stage, producer_id: str) -> None:
    """The same on an event loop; now and then it waits for the outcome."""
    rng = stage.rng(producer_id)
    topic = stage.topic()
    since = time.monotonic()
    async with topic.producer(producer_id=producer_id, linger=0.002) as producer:
        witness = ProducerWitness(stage.recorder, f"{stage.name}/{producer_id}", topic, producer_id)
        witness.resumed(producer.last_sequence, since)
        sender = _Sender(producer, witness, rng)
        number = producer.last_sequence + 1
        while not stage.stopping.is_set():
            await producer.ready()
            number = sender.burst(producer_id, number, named=True)
            if rng.random() < 0.3:
                await producer.flush()
            await anyio.sleep(rng.uniform(0, PAUSE))


def send_plain(stage: Stage) -> None:
    """Two threads share a producer that has no name."""
    topic = stage.topic()

    def send(producer: Any, name: str) -> None:
        rng = stage.rng(name)
        sender = _Sender(producer, ProducerWitness(stage.recorder, name, topic), rng)
        number = 0
        while not stage.stopping.wait(rng.uniform(0, PAUSE)):
            number = sender.burst(name, number, named=False)

    with topic.producer(linger=0.001, max_batch_events=8) as producer:
        other = threading.Thread(target=send, args=(producer, f"{stage.name}/plain2"))
        other.start()
        send(producer, f"{stage.name}/plain1")
        other.join()


def append_directly(stage: Stage) -> None:
    """Without a producer, many at once."""
    name = f"{stage.name}/append"
    rng = stage.rng(name)
    topic = stage.topic()
    witness = ProducerWitness(stage.recorder, name, topic)
    number = 0
    while not stage.stopping.wait(rng.uniform(0, PAUSE)):
        labels = [f"{name}:{number + more}" for more in range(rng.randint(1, 10))]
        number += len(labels)
        since = [witness.sending(label) for label in labels]
        (receipt,) = topic.append_batch([Event(body_of(label)) for label in labels])
        for index, label in enumerate(labels):
            witness.acknowledged(receipt, label, since[index], index=index)


# ---- Readers -------------------------------------------------------------------------------------


def follow(stage: Stage) -> None:
    """Read everything from the beginning, event by event."""
    topic = stage.topic()
    since = time.monotonic()
    with topic.consumer(follow=stage.follow) as consumer, stage.closing(consumer.close):
        witness = ReaderWitness(stage.recorder, f"{stage.name}/follow", topic, since=since)
        for event in consumer:
            witness.given([event])
        if not stage.follow:
            witness.ended(consumer.positions)


async def follow_async(stage: Stage) -> None:
    """The same on an event loop, by time."""
    topic = stage.topic()
    since = time.monotonic()
    async with topic.consumer(follow=stage.follow, order="time") as consumer:
        witness = ReaderWitness(stage.recorder, f"{stage.name}/follow", topic, since=since)
        async for event in consumer:
            witness.given([event])


def _group_witness(stage: Stage, topic: Topic, group: str, since: float) -> GroupWitness:
    return GroupWitness(stage.recorder, f"{stage.name}/{group}", topic, since=since, group=group)


def read_for_group(stage: Stage, group: str) -> None:
    """Read on behind the checkpoint, and checkpoint now and then."""
    rng = stage.rng(group)
    topic = stage.topic()
    since = time.monotonic()
    consumer = topic.consumer(follow=stage.follow, group=group, prefetch_bytes=20_000)
    with consumer, stage.closing(consumer.close):
        witness = _group_witness(stage, topic, group, since)
        for event in consumer:
            witness.given([event])
            if rng.random() < 0.1:
                witness.checkpointing()
                consumer.checkpoint()
                witness.checkpointed()
        if not stage.follow:
            witness.checkpointing()
            consumer.checkpoint()
            witness.checkpointed()


async def read_for_group_async(stage: Stage, group: str) -> None:
    """The same on an event loop, in batches."""
    rng = stage.rng(group)
    topic = stage.topic()
    since = time.monotonic()
    async with topic.consumer(follow=stage.follow, group=group, prefetch_bytes=20_000) as consumer:
        witness = _group_witness(stage, topic, group, since)
        async for batch in consumer.batches():
            witness.given(batch)
            if rng.random() < 0.5:
                witness.checkpointing()
                await consumer.checkpoint()
                witness.checkpointed()


def observe_groups(stage: Stage) -> None:
    """Look where all groups are, again and again."""
    rng = stage.rng("observe")
    topic = stage.topic()
    while not stage.stopping.wait(rng.uniform(0, 2 * PAUSE)):
        for group in (*readers(), *pipelines()):
            since = time.monotonic()
            for partition, checkpoint in topic.group(group).checkpoints().items():
                stage.recorder.note(
                    Kind.OBSERVED,
                    f"{stage.name}/observer",
                    since=since,
                    topic=name_of(topic),
                    group=group,
                    partition=partition,
                    offset=checkpoint.offset,
                )


def reset(stage: Stage, group: str) -> None:
    """Move a group back under its readers, now and then."""
    rng = stage.rng("reset")
    topic = stage.topic()
    while not stage.stopping.wait(rng.uniform(0, 20 * PAUSE)):
        there = topic.group(group).checkpoints()
        positions = {number: rng.randint(0, at.offset + 1) for number, at in there.items()}
        since = _note_reset(stage, Kind.RESETTING, group, positions, {})
        topic.group(group).reset(positions, force=True)
        _note_reset(stage, Kind.RESET, group, positions, since)


def _note_reset(
    stage: Stage, kind: Kind, group: str, positions: dict[int, int], since: dict[int, float]
) -> dict[int, float]:
    return {
        partition: stage.recorder.note(
            kind,
            f"{stage.name}/person",
            since=since.get(partition, -1.0),
            topic=name_of(stage.topic()),
            group=group,
            partition=partition,
            offset=position - 1,
        )
        for partition, position in positions.items()
    }


# ---- Pipelines -----------------------------------------------------------------------------------


def _outputs(labels: Iterable[str]) -> list[Event]:
    return [Event(body_of(label), key=label[-1]) for label in labels]


class _Pipeline:
    """What is the same for pipelines of both kinds."""

    def __init__(self, stage: Stage, group: str) -> None:
        self.input = stage.topic()
        self.output = stage.topic(output_of(group))
        self._name = f"{stage.name}/{group}"
        self._recorder = stage.recorder
        self._reader = _group_witness(stage, self.input, group, time.monotonic())
        self._count = 0

    def given(self, batch: list[StoredEvent]) -> TransactionWitness:
        """It was given a batch, and makes a transaction of it."""
        self._reader.given(batch)
        self._count += 1
        name = f"{self._name}.{self._count}"
        return TransactionWitness(self._recorder, self._reader, name, self.output)


def process(stage: Stage, group: str) -> None:
    """Make one event of each, exactly once, with the transactions of a consumer."""
    pipeline = _Pipeline(stage, group)
    consumer = pipeline.input.consumer(follow=stage.follow, group=group)
    with consumer, stage.closing(consumer.close):
        for batch in consumer.batches():
            witness = pipeline.given(batch)
            with _noted(witness), consumer.transaction() as transaction:
                for event in _outputs(witness.committing(batch)):
                    transaction.append(pipeline.output, event.body, key=event.key)
            witness.committed(transaction.receipts)


def process_by_hand(stage: Stage, group: str) -> None:
    """The same with those of the log, which say themselves what is finished.

    Nothing fences these: a group must not have two of them at a time.
    """
    pipeline = _Pipeline(stage, group)
    log = stage.log
    consumer = pipeline.input.consumer(follow=stage.follow, group=group)
    with consumer, stage.closing(consumer.close):
        for batch in consumer.batches():
            witness = pipeline.given(batch)
            with _noted(witness), log.transaction() as transaction:
                for event in _outputs(witness.committing(batch)):
                    transaction.append(pipeline.output, event.body, key=event.key)
                last = batch[-1]
                transaction.checkpoint(
                    pipeline.input, group, partition=last.partition, offset=last.offset
                )
            witness.committed(transaction.receipts)


async def process_async(stage: Stage, group: str) -> None:
    """Exactly once on an event loop."""
    pipeline = _Pipeline(stage, group)
    async with pipeline.input.consumer(follow=stage.follow, group=group) as consumer:
        async for batch in consumer.batches():
            witness = pipeline.given(batch)
            with _noted(witness):
                async with consumer.transaction() as transaction:
                    for event in _outputs(witness.committing(batch)):
                        transaction.append(pipeline.output, event.body, key=event.key)
            witness.committed(transaction.receipts)


@contextmanager
def _noted(witness: TransactionWitness) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        witness.failed(error)
        raise


# ---- Casts ---------------------------------------------------------------------------------------

Role: TypeAlias = Callable[[Stage], object]
AsyncRole: TypeAlias = Callable[[Stage], Awaitable[object]]

CASTS: dict[str, tuple[Role, ...]] = {
    "threads": (
        functools.partial(send_named, producer_id="p-threads"),
        send_plain,
        follow,
        functools.partial(read_for_group, group="g-threads"),
        functools.partial(process, group="x-threads"),
    ),
    "by-hand": (functools.partial(process_by_hand, group="x-hand"), append_directly),
    "people": (observe_groups, functools.partial(reset, group="g-asyncio"), append_directly),
}
ASYNC_CASTS: dict[str, tuple[AsyncRole, ...]] = {
    name: (
        functools.partial(send_named_async, producer_id=f"p-{name}"),
        follow_async,
        functools.partial(read_for_group_async, group=f"g-{name}"),
        functools.partial(process_async, group=f"x-{name}"),
    )
    for name in ("asyncio", "trio")
}


def _groups(kind: str) -> list[str]:
    roles: list[Any] = [role for cast in (*CASTS.values(), *ASYNC_CASTS.values()) for role in cast]
    groups = (getattr(role, "keywords", {}).get("group", "") for role in roles)
    return sorted({group for group in groups if group.startswith(kind)})


def pipelines() -> list[str]:
    """The groups of all pipelines."""
    return _groups("x-")


def readers() -> list[str]:
    """The groups of all others that read."""
    return _groups("g-")


def drain(stage: Stage) -> None:
    """Everything is read and processed to its end, when nobody else does any more."""
    follow(stage)
    for group in readers():
        read_for_group(stage, group)
    for group in pipelines():
        process(stage, group)


# ---- Processes -----------------------------------------------------------------------------------

_REPLACED = (ConsumerDisconnectedError, ProducerFencedError)
"""What ends a role when a later one takes its place."""


def _jumping_clock(rng: random.Random) -> Callable[[], int]:
    """A clock that is set forwards and back."""
    offset = 0

    def now_us() -> int:
        nonlocal offset
        if rng.random() < 0.02:
            offset = rng.choice((0, -3_600_000_000, 3_600_000_000, -1_000))
        return time.time_ns() // 1000 + offset

    return now_us


def _play(stage: Stage, roles: Iterable[Role]) -> None:
    def run(role: Role) -> None:
        try:
            role(stage)
        except _REPLACED:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, the process ends with it
            if not (isinstance(error, ClosedError) and stage.stopping.is_set()):
                _die()

    threads = [threading.Thread(target=run, args=(role,)) for role in roles]
    for thread in threads:
        thread.start()
    print("playing", flush=True)
    sys.stdin.readline()
    stage.stop()
    for thread in threads:
        thread.join()


def _die() -> None:
    traceback.print_exc()
    os._exit(1)


async def _play_async(stage: Stage, roles: Iterable[AsyncRole]) -> None:
    async def run(role: AsyncRole) -> None:
        try:
            await role(stage)
        except _REPLACED:
            pass
        except Exception:  # noqa: BLE001 - as above
            _die()

    async with anyio.create_task_group() as tasks:
        for role in roles:
            tasks.start_soon(run, role)
        print("playing", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        tasks.cancel_scope.cancel()


def main() -> None:
    """Play a cast: path of the log, directory of histories, cast, name of the process, seed."""
    path, histories, cast, name, seed = sys.argv[1:]
    clock = _jumping_clock(random.Random(f"{seed} {name}"))
    options: dict[str, Any] = {"clock": clock} if cast == "by-hand" else {}
    with eventlog.open(path, **options) as log:
        stage = Stage(log, Recorder(Path(histories)), name, seed)
        if cast in CASTS:
            _play(stage, CASTS[cast])
        else:
            anyio.run(_play_async, stage, ASYNC_CASTS[cast], backend=cast)
