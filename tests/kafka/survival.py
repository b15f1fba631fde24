"""A log in full use, from which a test takes the broker away: who sends, who reads, who processes.

Each of them is a thread that goes on until it is stopped, or what it follows has come to its end;
what it must not see is an error of the test. Which errors a call may end with while the broker is
away each says itself.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Self

import eventlog
from eventlog import (
    DeliveryError,
    EventLog,
    EventProcessorHost,
    LogBusyError,
    ProcessorOptions,
    StoredEvent,
    Topic,
)
from eventlog.kafka.topic import KafkaTopic
from tests.kafka.reading import made
from tests.kafka.writing import stored_at

__all__ = ["PATIENCE", "Scene", "follow"]

PATIENCE: Final = 90.0
"""Seconds that something may take which has to come."""

PARTITIONS: Final = 3
OPTIONS: Final = ProcessorOptions(
    lease_duration=3, renew_interval=0.5, max_batch=200, max_wait=1, checkpoint="auto"
)


class Actor:
    """Does something in a thread.

    Attributes:
        done: has the thread's error, if it ended with one.
        steps: how often it got on.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.steps = 0
        self.done: Future[None] = Future()

    def run(self) -> None:
        """Until it is stopped."""
        raise NotImplementedError

    def stop(self) -> None:
        """Have it end."""
        self.stopped.set()

    def start(self, pool: ThreadPoolExecutor) -> None:
        """Begin."""
        self.done = pool.submit(self.run)


class Sender(Actor):
    """Sends through a producer without a name, and remembers what was acknowledged."""

    def __init__(self, topic: Topic) -> None:
        super().__init__()
        self._topic = topic
        self.acknowledged: list[bytes] = []

    def run(self) -> None:
        with contextlib.suppress(DeliveryError), self._topic.producer() as producer:
            for number in itertools.count():
                body = b"plain %d" % number
                delivery = producer.send(body, partition=number % PARTITIONS)
                if number % 20:
                    continue
                try:
                    delivery.result(PATIENCE)
                except LogBusyError:
                    continue
                self.acknowledged.append(body)
                self.steps += 1
                if self.stopped.wait(0.005):
                    break


class NamedSender(Actor):
    """Sends through producers of one name; each goes on where the one before it has failed."""

    def __init__(self, topic: Topic) -> None:
        super().__init__()
        self._topic = topic
        self.sent = 0

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                with self._topic.producer(producer_id="named") as producer:
                    self._send(producer, producer.last_sequence + 1)
            except (LogBusyError, DeliveryError):
                continue

    def _send(self, producer: eventlog.Producer, first: int) -> None:
        for number in itertools.count(first):
            delivery = producer.send(
                b"named %d" % number, partition=number % PARTITIONS, sequence=number
            )
            if number % 20 == 0:
                delivery.result(PATIENCE)
                self.steps += 1
                if self.stopped.wait(0.005):
                    producer.flush()
                    self.sent = number + 1
                    return


class Transactor(Actor):
    """Commits transactions over two partitions, and remembers what came of them."""

    def __init__(self, topic: Topic) -> None:
        super().__init__()
        self._topic = topic
        self.committed: list[bytes] = []

    def run(self) -> None:
        for number in itertools.count():
            body = b"pair %d" % number
            try:
                with self._topic.log.transaction() as tx:
                    for partition in range(2):
                        tx.append(self._topic, body, partition=partition)
            except LogBusyError:
                continue
            self.committed.append(body)
            self.steps += 1
            if self.stopped.wait(0.02):
                return


class Follower(Actor):
    """Reads what comes, by a consumer of its own."""

    def __init__(self, topic: Topic, **options: Any) -> None:
        super().__init__()
        self._consumer = topic.consumer(**options)
        self._checkpoints = "group" in options
        self.events: list[StoredEvent] = []

    def run(self) -> None:
        for events in self._consumer.batches():
            self.events += events
            self.steps += 1
            if self._checkpoints and not self.steps % 10:
                self._checkpoint()

    def _checkpoint(self) -> None:
        self._consumer.checkpoint()

    def stop(self) -> None:
        super().stop()
        self._consumer.close()

    def found(self) -> dict[int, list[int]]:
        """By partition, the offsets in the order in which they came."""
        offsets = defaultdict(list)
        for event in list(self.events):
            offsets[event.partition].append(event.offset)
        return offsets


class Transfer(eventlog.EventProcessor):
    """Copies each event to another topic, once, by transactions."""

    target = ""

    async def process(self, context: Any, events: Any) -> None:
        async with context.transaction() as tx:
            tx.append_batch(self.target, [b"%d " % e.partition + e.body for e in events])


class Host(Actor):
    """Runs a host.

    Attributes:
        health: all that its status has said.
    """

    def __init__(self, host: EventProcessorHost) -> None:
        super().__init__()
        self._host = host

    def run(self) -> None:
        self._host.run_sync()

    def stop(self) -> None:
        super().stop()
        self._host.stop()

    @property
    def health(self) -> str:
        """What its status says."""
        return self._host.status().health


class Scene:
    """A log on a broker, and everybody who uses it.

    Attributes:
        topic: where everything is sent.
        target: where a host transfers it to, exactly once.
        handled: by another host, at least once: partition and offset.
    """

    def __init__(self, log: EventLog, store: str) -> None:
        self.log = log
        self.topic: KafkaTopic = made(log, PARTITIONS)
        self.target: KafkaTopic = made(log)
        self.sender = Sender(self.topic)
        self.named = NamedSender(self.topic)
        self.transactor = Transactor(self.topic)
        self.handled: set[tuple[int, int]] = set()
        self.followers = [
            Follower(self.topic),
            Follower(self.topic, order="time"),
            Follower(self.topic, group="followers"),
        ]
        transfer = type("TransferThere", (Transfer,), {"target": self.target.name})
        self.hosts = [
            Host(
                EventProcessorHost(
                    self.topic, group="transfer", store=store, processor=transfer, options=OPTIONS
                )
            ),
            Host(
                EventProcessorHost(
                    self.topic, group="handler", store=store, handler=self._handle, options=OPTIONS
                )
            ),
        ]
        self.writers = [self.sender, self.named, self.transactor]
        self.actors: list[Actor] = [*self.writers, *self.followers, *self.hosts]
        self._pool = ThreadPoolExecutor(len(self.actors))

    def _handle(self, _context: Any, events: list[StoredEvent]) -> None:
        self.handled.update((event.partition, event.offset) for event in events)

    def __enter__(self) -> Self:
        for actor in self.actors:
            actor.start(self._pool)
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self.actors:
            actor.stop()
        for actor in self.actors:
            actor.done.exception(PATIENCE)
        self._pool.shutdown()

    def until_all_got_on(self) -> None:
        """Wait until everybody has got on since now."""
        counts = [actor.steps for actor in self.actors]
        handled, target = len(self.handled), self._transferred()
        self.until(
            lambda: (
                all(
                    actor.steps > count + 2
                    for actor, count in zip(self.actors, counts, strict=True)
                    if not isinstance(actor, Host)
                )
                and len(self.handled) > handled
                and self._transferred() > target
            )
        )

    def _transferred(self) -> int:
        try:
            return self.target.partition_info(0).next_offset
        except LogBusyError:
            return 0

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; nobody may fail meanwhile."""
        end = time.monotonic() + PATIENCE
        while not condition():
            self.check_nobody_failed()
            assert time.monotonic() < end, [(type(one).__name__, one.steps) for one in self.actors]
            time.sleep(0.02)

    def check_nobody_failed(self) -> None:
        """Nothing, if everybody is still at work, or has done it."""
        for actor in self.actors:
            if actor.done.done():
                actor.done.result()

    # In the end

    def check(self) -> None:
        """Stop who writes, let the others come to the end, and compare everything."""
        for writer in self.writers:
            writer.stop()
        for writer in self.writers:
            writer.done.result(PATIENCE)
        stored = stored_in(self.topic)
        offsets = {number: list(events) for number, events in stored.items()}
        places = {(number, offset) for number, found in offsets.items() for offset in found}
        self.until(lambda: all(one.found() == offsets for one in self.followers))
        self.until(lambda: self.handled == places)
        self._check_written([body for events in stored.values() for body in events.values()])
        expected = Counter(
            b"%d " % number + body for number, found in stored.items() for body in found.values()
        )
        self.until(lambda: len(stored_in(self.target)[0]) >= expected.total())
        assert Counter(stored_in(self.target)[0].values()) == expected

    def _check_written(self, bodies: list[bytes]) -> None:
        counts = Counter(bodies)
        assert all(counts[body] >= 1 for body in self.sender.acknowledged)
        named = {body: count for body, count in counts.items() if body.startswith(b"named")}
        assert named == {b"named %d" % number: 1 for number in range(self.named.sent)}
        pairs = {body: count for body, count in counts.items() if body.startswith(b"pair")}
        assert set(pairs.values()) == {2}
        assert pairs.keys() >= set(self.transactor.committed)


def stored_in(topic: Topic) -> dict[int, dict[int, bytes]]:
    """By partition and offset, what is committed in a topic; as any other client sees it."""
    return {number: stored_at(topic, number) for number in range(topic.partitions)}


def follow(consumer: eventlog.Consumer, count: int) -> list[int]:
    """The offsets of the next events."""
    return [event.offset for event in itertools.islice(consumer, count)]
