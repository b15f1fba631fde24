"""What producers and consumers live through: retention, deletion, clocks that jump, crowds, full
disks. What they did they noted; `tests.history.check` holds the log to it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.abc
import anyio.to_thread
import pytest

import eventlog
from eventlog import (
    LATEST,
    ConsumerDisconnectedError,
    DeliveryError,
    EventLog,
    LogFullError,
    Topic,
    TopicNotFoundError,
)
from eventlog.blobs import Blob
from eventlog.blobs import open as open_store
from eventlog.groups.checkpoints import GroupIds, GroupStore
from tests.crash.roles import delivered
from tests.embedded.test_full import small_disk
from tests.history import Fault, Kind, Recorder, check, read_log, read_records
from tests.history.contents import body_of, name_of
from tests.history.witnesses import (
    GroupWitness,
    ProducerWitness,
    ReaderWitness,
    TransactionWitness,
)

if TYPE_CHECKING:
    from eventlog.consumer import Consumer, LostRange
    from tests.conftest import Start

__all__ = ["small_disk"]

PATIENCE = 60.0
GROUP = "g"


def faults_of(log: EventLog, histories: Path, *, but: Iterable[Fault] = ()) -> list[str]:
    assert log.check().damaged == []
    findings = check(read_records(histories), read_log(log))
    return [str(finding) for finding in findings if finding.fault not in but]


def require_true_to_history(log: EventLog, histories: Path, *, but: Iterable[Fault] = ()) -> None:
    faults = faults_of(log, histories, but=but)
    assert not faults, "\n".join(faults[:20])


class Appender:
    """Appends events, and notes them."""

    def __init__(self, recorder: Recorder, topic: Topic, name: str = "a") -> None:
        self._witness = ProducerWitness(recorder, name, topic)
        self._topic = topic
        self._name = name
        self._numbers = itertools.count()

    def append(self, partition: int | None = None) -> None:
        label = f"{self._name}:{next(self._numbers)}"
        since = self._witness.sending(label)
        receipt = self._topic.append(body_of(label), partition=partition)
        self._witness.acknowledged(receipt, label, since)


# ---- Retention, and clocks that jump -------------------------------------------------------------


class Clock:
    """A log's clock, set by hand."""

    def __init__(self) -> None:
        self.now_us = 1_800_000_000_000_000

    def __call__(self) -> int:
        return self.now_us

    def jump(self, seconds: float) -> None:
        self.now_us += int(seconds * 1e6)


async def take(
    consumer: Consumer, witness: ReaderWitness, count: int, *, asynchronous: bool
) -> None:
    """As many events as there are, and at most `count`."""
    for _ in range(count):
        try:
            event = await anext(consumer) if asynchronous else next(consumer)
        except (StopIteration, StopAsyncIteration):
            return
        witness.given([event])


class Slow(NamedTuple):
    """How a run with a slow consumer goes."""

    retention: float | None
    group: str
    jumps: tuple[float, float]
    asynchronous: bool
    order: Any
    retention_bytes: int | None = None


class SlowRun:
    """A log, a clock, and a consumer that is too slow for what is kept."""

    def __init__(self, log: EventLog, clock: Clock, histories: Path, slow: Slow, seed: int) -> None:
        self.rng = random.Random(seed)
        self._clock = clock
        self._slow = slow
        self._recorder = Recorder(histories)
        self._topic = log.create_topic(
            "brief",
            partitions=2,
            retention=slow.retention,
            retention_bytes=slow.retention_bytes,
        )
        self._appender = Appender(self._recorder, self._topic)
        self._readers = itertools.count()
        self._consumer: Consumer | None = None
        self._witness: ReaderWitness | None = None

    def _open(self) -> tuple[Consumer, ReaderWitness]:
        """A consumer, as it was or another one."""
        if self._consumer is None or self._witness is None:
            slow = self._slow
            since, name = time.monotonic(), f"reader-{next(self._readers)}"
            self._witness = (
                GroupWitness(
                    self._recorder, name, self._topic, since=since, group=slow.group, start=-1
                )
                if slow.group
                else ReaderWitness(self._recorder, name, self._topic, since=since, start=-1)
            )
            self._consumer = self._topic.consumer(
                group=slow.group or None,
                max_wait=0,
                prefetch_bytes=60,
                order=slow.order,
                on_lost=self._lost,
            )
        return self._consumer, self._witness

    def _lost(self, lost: LostRange) -> None:
        assert self._witness is not None
        self._witness.lost(lost.partition, lost.first, lost.last)

    async def step(self) -> None:
        for _ in range(self.rng.randint(0, 5)):
            self._appender.append(partition=self.rng.randrange(2))
        self._clock.jump(self.rng.uniform(*self._slow.jumps))
        if self.rng.random() < 0.3:
            self._topic.expire()
        await self._read(self.rng.randint(0, 4))
        if self.rng.random() < 0.1:
            self._consumer = None  # it dies without a word

    async def _read(self, count: int) -> None:
        consumer, witness = self._open()
        asynchronous = self._slow.asynchronous
        await take(consumer, witness, count, asynchronous=asynchronous)
        if isinstance(witness, GroupWitness) and self.rng.random() < 0.4:
            witness.checkpointing()
            if asynchronous:
                await consumer.checkpoint()
            else:
                consumer.checkpoint()
            witness.checkpointed()

    async def finish(self) -> None:
        """Read what is there."""
        await self._read(100_000)
        consumer, witness = self._open()
        witness.ended(consumer.positions)


SLOW = {
    "alone": Slow(10.0, "", (0, 8), asynchronous=False, order="partition"),
    "for a group": Slow(10.0, GROUP, (0, 8), asynchronous=False, order="partition"),
    "by time": Slow(10.0, GROUP, (0, 8), asynchronous=False, order="time"),
    "by size": Slow(
        None, GROUP, (0, 8), asynchronous=False, order="partition", retention_bytes=700
    ),
    "on an event loop": Slow(10.0, GROUP, (0, 8), asynchronous=True, order="partition"),
}
JUMPING = {
    "keeping": Slow(None, GROUP, (-30, 30), asynchronous=False, order="partition"),
    "by time": Slow(None, "", (-30, 30), asynchronous=False, order="time"),
    "on an event loop": Slow(None, GROUP, (-30, 30), asynchronous=True, order="time"),
    "and expiring": Slow(40.0, GROUP, (-30, 30), asynchronous=False, order="partition"),
}


async def run_slow(slow: Slow, histories: Path, seed: int, steps: int) -> list[Kind]:
    """A run; what was noted in it.

    When a clock goes back, what had expired when a reader came by is there again, unless it was
    removed: the reader was told the truth then.
    """
    clock = Clock()
    forgiven = [Fault.NOT_LOST] if slow.jumps[0] < 0 else []
    with eventlog.open("memory:", clock=clock) as log:
        run = SlowRun(log, clock, histories, slow, seed)
        for _ in range(steps):
            await run.step()
        await run.finish()
        faults = faults_of(log, histories, but=forgiven)
        assert not faults, "\n".join([f"seed {seed}", *faults[:20]])
    return [record.kind for record in read_records(histories)]


@pytest.mark.anyio
@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW)
async def test_a_slow_consumer_is_told_what_has_expired_and_goes_on(
    slow: Slow, tmp_path: Path
) -> None:
    kinds = []
    for _ in range(4):
        seed = random.SystemRandom().randrange(1 << 32)
        kinds += await run_slow(slow, tmp_path / str(seed), seed, 60)
    assert kinds.count(Kind.LOST) > 10, "too little expired to be worth the trouble"
    assert kinds.count(Kind.READ) > 100


@pytest.mark.anyio
@pytest.mark.parametrize("slow", JUMPING.values(), ids=JUMPING)
async def test_clocks_that_jump_back_lose_nothing_and_disorder_nothing(
    slow: Slow, tmp_path: Path
) -> None:
    for _ in range(4):
        seed = random.SystemRandom().randrange(1 << 32)
        await run_slow(slow, tmp_path / str(seed), seed, 60)


@pytest.mark.soak
@pytest.mark.anyio
@pytest.mark.parametrize("slow", [*SLOW.values(), *JUMPING.values()])
async def test_slow_consumers_and_jumping_clocks_for_long(slow: Slow, tmp_path: Path) -> None:
    for _ in range(100):
        seed = random.SystemRandom().randrange(1 << 32)
        await run_slow(slow, tmp_path / str(seed), seed, 300)


# ---- Topics that are deleted ---------------------------------------------------------------------

# Deletes a topic in a process of its own when it is told to.
DELETER = """
import sys
import eventlog

log = eventlog.open(sys.argv[1])
sys.stdin.readline()
log.delete_topic("t")
if "again" in sys.argv:
    log.create_topic("t", partitions=1).append(b"of another topic")
print("deleted", flush=True)
"""
AGAIN = pytest.mark.parametrize("arguments", [(), ("again",)], ids=["", "made again"])


@AGAIN
def test_a_thread_that_follows_a_topic_hears_that_it_was_deleted(
    arguments: tuple[str, ...], log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    deleter = start(DELETER, log.location, *arguments)
    topic.append(b"x")
    with topic.consumer() as consumer:
        assert next(consumer).body == b"x"
        deleter.say()
        with pytest.raises(TopicNotFoundError):
            next(consumer)


@AGAIN
@pytest.mark.anyio
async def test_a_task_that_follows_a_topic_hears_that_it_was_deleted(
    arguments: tuple[str, ...], log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    deleter = start(DELETER, log.location, *arguments)
    topic.append(b"x")
    with anyio.fail_after(PATIENCE):
        async with topic.consumer(group=GROUP) as consumer:
            assert (await anext(consumer)).body == b"x"
            deleter.say()
            with pytest.raises(TopicNotFoundError):
                await anext(consumer)


@AGAIN
def test_what_a_producer_accepted_for_a_deleted_topic_is_reported(
    arguments: tuple[str, ...], log: EventLog, start: Start
) -> None:
    topic = log.create_topic("t", partitions=1)
    deleter = start(DELETER, log.location, *arguments)
    producer = topic.producer(linger=PATIENCE)
    delivery = producer.send(b"accepted")
    deleter.say()
    assert deleter.line() == "deleted"
    with pytest.raises(DeliveryError) as caught:
        producer.close()
    assert isinstance(delivery.exception(), TopicNotFoundError)
    assert len(caught.value.failed) == 1
    for there in log.topics():
        assert [event.body for event in there.read(0)] == [b"of another topic"]


def test_a_transaction_that_meets_a_deleted_topic_stores_nothing(log: EventLog) -> None:
    topics = [log.create_topic(name, partitions=1) for name in ("doomed", "other")]
    block = contextlib.ExitStack()
    transaction = block.enter_context(log.transaction())
    for topic in topics:
        transaction.append(topic, b"x")
    log.delete_topic("doomed")
    with pytest.raises(TopicNotFoundError):
        block.close()
    assert topics[1].read(0) == []


def test_nothing_goes_from_one_topic_to_the_next_of_its_name(
    fast_path: Path, tmp_path: Path
) -> None:
    """Made and deleted again and again, with a producer and a pipeline that keep at it."""
    histories = tmp_path / "histories"
    recorder = Recorder(histories)
    with eventlog.open(fast_path) as log:
        log.create_topic("t", partitions=2)
        output = log.create_topic("out", partitions=1)
        done = threading.Event()
        jobs = (
            lambda name: send_on(log, recorder, name),
            lambda name: process_on(log, recorder, name, output),
            lambda name: read_on(log, recorder, name),
        )
        with running(jobs, done):
            for _ in range(15):
                wait_for_events(log.topic("t"))
                recorder.note(Kind.DELETING, "person", topic=name_of(log.topic("t")))
                log.delete_topic("t")
                log.create_topic("t", partitions=2)
            done.set()
        recorder.close()
        require_true_to_history(log, histories)


def wait_for_events(topic: Topic) -> None:
    """Until somebody has sent something, and finished something."""
    for event in topic.consumer(max_wait=PATIENCE):
        if event.offset > 20:
            return
    raise AssertionError("nothing came")


@contextmanager
def running(jobs: Iterable[Callable[[str], object]], done: threading.Event) -> Iterator[None]:
    """Threads that begin a job again and again until `done`, though the topic is deleted."""
    errors: list[BaseException] = []

    def work(job: Callable[[str], object], name: str) -> None:
        numbers = itertools.count()
        while not done.is_set():
            try:
                job(f"{name}-{next(numbers)}")
            except (TopicNotFoundError, ConsumerDisconnectedError):
                pass
            except BaseException as error:  # noqa: BLE001 - it is raised below
                errors.append(error)
                return

    threads = [
        threading.Thread(target=work, args=(job, f"job{number}")) for number, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def send_on(log: EventLog, recorder: Recorder, name: str) -> None:
    """Send until that fails."""
    topic = log.topic("t")
    witness = ProducerWitness(recorder, name, topic)
    with topic.producer(linger=0.001) as producer:
        for number in range(200):
            label = f"{name}:{number}"
            since = witness.sending(label)
            delivery = producer.send(body_of(label))
            delivery.add_done_callback(delivered(witness, label, since, -1))
            if number % 10 == 0:
                delivery.result(PATIENCE)


def process_on(log: EventLog, recorder: Recorder, name: str, output: Topic) -> None:
    """Process exactly once until that fails."""
    topic = log.topic("t")
    since = time.monotonic()
    with topic.consumer(group=GROUP, max_wait=0.01) as consumer:
        reader = GroupWitness(recorder, name, topic, since=since, group=GROUP)
        for number, batch in enumerate(consumer.batches()):
            reader.given(batch)
            witness = TransactionWitness(recorder, reader, f"{name}.{number}", output)
            try:
                with consumer.transaction() as transaction:
                    for label in witness.committing(batch):
                        transaction.append(output, body_of(label))
            except Exception as error:
                witness.failed(error)
                raise
            witness.committed(transaction.receipts)


def read_on(log: EventLog, recorder: Recorder, name: str) -> None:
    """Read for another group until that fails."""
    topic = log.topic("t")
    since = time.monotonic()
    with topic.consumer(group="h", max_wait=0.01) as consumer:
        witness = GroupWitness(recorder, name, topic, since=since, group="h")
        for batch in consumer.batches():
            witness.given(batch)
            witness.checkpointing()
            consumer.checkpoint()
            witness.checkpointed()


# ---- Crowds --------------------------------------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Crowd:
    """Followers of one partition, each of which waits for one event; every third gives up.

    Args:
        size: how many they are.
    """

    def __init__(self, topic: Topic, recorder: Recorder, size: int) -> None:
        self._topic = topic
        self._recorder = recorder
        self._size = size
        self._begun = 0
        self._all_begun = anyio.Event()
        self._restless: list[anyio.CancelScope] = []

    async def follow(self, number: int) -> None:
        """One of them."""
        since, name = time.monotonic(), f"follower-{number}"
        with anyio.CancelScope() as scope:
            async with self._topic.consumer(partitions=0, start=LATEST) as consumer:
                witness = ReaderWitness(self._recorder, name, self._topic, since=since, start=1)
                await anyio.to_thread.run_sync(consumer.position, 0)
                if number % 3 == 0:
                    self._restless.append(scope)
                self._begun += 1
                if self._begun == self._size:
                    self._all_begun.set()
                witness.given([await anext(consumer)])

    async def gather(self, tasks: anyio.abc.TaskGroup) -> int:
        """Until all of them wait, and some have given up; how many are left."""
        for number in range(self._size):
            tasks.start_soon(self.follow, number)
        await self._all_begun.wait()
        await anyio.wait_all_tasks_blocked()
        for scope in self._restless:
            scope.cancel()
        return self._size - len(self._restless)


async def run_crowd(log: EventLog, histories: Path, size: int) -> None:
    """One event wakes them all; threads and descriptors do not grow with their number."""
    topic = log.create_topic("t", partitions=1)
    recorder = Recorder(histories)
    appender = Appender(recorder, topic)
    appender.append()
    before = descriptors(), threading.active_count()
    async with anyio.create_task_group() as tasks:
        left = await Crowd(topic, recorder, size).gather(tasks)
        assert descriptors() - before[0] < 30
        assert threading.active_count() - before[1] < 100
        await anyio.to_thread.run_sync(appender.append)
    recorder.close()
    require_true_to_history(log, histories)
    reads = [record for record in read_records(histories) if record.kind is Kind.READ]
    assert [record.offset for record in reads] == [1] * left


@pytest.mark.anyio
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted there")
async def test_one_append_wakes_thousands_of_followers(
    memory_log: EventLog, tmp_path: Path
) -> None:
    with anyio.fail_after(PATIENCE):
        await run_crowd(memory_log, tmp_path / "histories", 2000)


@pytest.mark.soak
@pytest.mark.anyio
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are counted there")
async def test_one_append_wakes_a_great_crowd(memory_log: EventLog, tmp_path: Path) -> None:
    await run_crowd(memory_log, tmp_path / "histories", 20_000)


# In each of many processes, threads that are the first to look at a group.
FIRST_LOOK = """
import os, pickle, sys, threading
import eventlog.blobs
from eventlog.groups.checkpoints import GroupStore

ids, blobs = pickle.loads(bytes.fromhex(sys.argv[1]))
sys.setswitchinterval(1e-6)

def look(store, together):
    together.wait()
    assert store.checkpoints()[0].offset == 7

for _ in range(80):
    child = os.fork()
    if not child:
        store = eventlog.blobs.open("memory:")
        for name, data in blobs.items():
            store.put(name, data)
        groups = GroupStore(store, ids)
        together = threading.Barrier(4)
        threads = [threading.Thread(target=look, args=(groups, together)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
print("all have seen it")
"""


def test_threads_may_be_the_first_to_look_at_a_group_all_at_once(start: Start) -> None:
    """What a decoder learns about a type at its first use, it must not learn in two threads."""
    ids = GroupIds("log", "t", "1", GROUP)
    blobs = open_store("memory:")
    GroupStore(blobs, ids).advance_unowned(0, 7)
    documents = {
        name: blob.data for name, _ in blobs.list("") if isinstance(blob := blobs.get(name), Blob)
    }
    child = start(FIRST_LOOK, pickle.dumps((ids, documents)).hex())
    assert child.rest() == ["all have seen it"]


# ---- Full disks ----------------------------------------------------------------------------------


class FullDisk:
    """A log on a small disk beside a file that takes its room, and who goes on all the time."""

    def __init__(self, disk: Path, histories: Path) -> None:
        self._filler = disk / "filler"
        self._filler.write_bytes(bytes(1_000_000))
        self.log = eventlog.open(disk / "log")
        self.topic = self.log.create_topic("t", partitions=2, compression="none")
        self.output = self.log.create_topic("out", partitions=1, compression="none")
        self.recorder = Recorder(histories)
        self._numbers = itertools.count()
        self._plain = 0

    def fill(self) -> None:
        """Nothing more fits."""
        with contextlib.suppress(OSError), self._filler.open("ab", buffering=0) as file:
            for size in (4096, 512, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def make_room(self) -> None:
        """The disk is not full any more."""
        self._filler.unlink()

    def send_named(self, until: int) -> int:
        """Send what follows the last that is stored; how many were refused."""
        name = f"named-{next(self._numbers)}"
        witness = ProducerWitness(self.recorder, name, self.topic, "p")
        since = time.monotonic()
        refused = 0
        with self.topic.producer(producer_id="p", linger=0) as producer:
            witness.resumed(producer.last_sequence, since)
            for number in range(producer.last_sequence + 1, until):
                label = f"p:{number}"
                since = witness.sending(label, number)
                try:
                    delivery = producer.send(body_of(label, os.urandom(20_000)), sequence=number)
                except DeliveryError:
                    witness.refused(label, since, number)
                    refused += 1
                    continue
                error = delivery.exception(PATIENCE)
                assert error is None or isinstance(error, LogFullError), error
                refused += error is not None
                witness.settled(delivery, label, since, number)
        return refused

    def send_plain(self, count: int) -> int:
        """The same without a name, many at a time."""
        name = f"plain-{next(self._numbers)}"
        witness = ProducerWitness(self.recorder, name, self.topic)
        deliveries = []
        with self.topic.producer(linger=0.001) as producer:
            for _ in range(count):
                self._plain += 1
                label = f"plain:{self._plain}"
                since = witness.sending(label)
                delivery = producer.send(body_of(label, os.urandom(20_000)))
                delivery.add_done_callback(delivered(witness, label, since, -1))
                deliveries.append(delivery)
        return sum(delivery.exception() is not None for delivery in deliveries)

    def process(self) -> bool:
        """Process what is there, exactly once; whether there was room for it."""
        name = f"pipeline-{next(self._numbers)}"
        since = time.monotonic()
        with self.topic.consumer(group="x", follow=False) as consumer:
            reader = GroupWitness(self.recorder, name, self.topic, since=since, group="x")
            for number, batch in enumerate(consumer.batches()):
                reader.given(batch)
                witness = TransactionWitness(self.recorder, reader, f"{name}.{number}", self.output)
                try:
                    with consumer.transaction() as transaction:
                        for label in witness.committing(batch):
                            transaction.append(self.output, body_of(label, os.urandom(20_000)))
                except LogFullError as error:
                    witness.failed(error)
                    return False
                witness.committed(transaction.receipts)
        return True

    def read_for_group(self) -> None:
        """Checkpoints have room even now."""
        since = time.monotonic()
        with self.topic.consumer(group="g", follow=False) as consumer:
            name = f"reader-{next(self._numbers)}"
            reader = GroupWitness(self.recorder, name, self.topic, since=since, group="g")
            for batch in consumer.batches():
                reader.given(batch)
                reader.checkpointing()
                consumer.checkpoint()
                reader.checkpointed()


def live_on_a_full_disk(disk: Path, histories: Path) -> None:
    """A program of its own: it must not die of a disk that is full."""
    run = FullDisk(disk, histories)
    run.send_named(10)
    run.process()
    run.fill()
    assert run.send_named(1000)
    assert run.send_plain(100)
    assert run.send_named(1000)
    for _ in range(20):
        run.read_for_group()
    assert not run.process(), "there was room for all the output"
    run.make_room()
    assert run.send_named(1000) or run.send_plain(1) == 0
    run.process()
    run.read_for_group()
    run.log.close()


ON_A_FULL_DISK = """
import pathlib, sys
from tests.crash.test_survival import live_on_a_full_disk

live_on_a_full_disk(*map(pathlib.Path, sys.argv[1:]))
"""


def test_producers_and_pipelines_go_on_when_a_full_disk_has_room_again(
    small_disk: Path, tmp_path: Path, start: Start
) -> None:
    child = start(ON_A_FULL_DISK, small_disk, tmp_path / "histories")
    child.rest()
    assert child.wait() == 0
    with eventlog.open(small_disk / "log") as log:
        require_true_to_history(log, tmp_path / "histories")
