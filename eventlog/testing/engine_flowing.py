"""The contract of engines, second part of the data path: from consumers to coroutines."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio

from eventlog.errors import (
    ClosedError,
    ConsumerDisconnectedError,
    EventTooLargeError,
    PartitionNotFoundError,
    ProducerFencedError,
    TopicNotFoundError,
    UnexpectedOffsetError,
    UnsupportedOperationError,
)
from eventlog.event import Event, StoredEvent
from eventlog.log import EventLog, Topic
from eventlog.positions import EARLIEST, LATEST
from eventlog.producer import Producer
from eventlog.testing.engine_base import PATIENCE, EngineSuite, bodies, by_partition, everything
from eventlog.testing.expecting import raises

__all__ = ["FlowingContract"]


class FlowingContract(EngineSuite):
    """Consumers, groups, producers, transactions, coroutines."""

    def _filled(self, log: EventLog, partitions: int = 3) -> Topic:
        """A topic ``cars`` with five events in each partition."""
        topic = self.make_topic(log, "cars", partitions=partitions)
        for partition in range(partitions):
            topic.append_batch([b"%d-%d" % (partition, n) for n in range(5)], partition=partition)
        return topic

    # Consumers

    def test_a_consumer_reads_everything_once_and_in_order(self, log: EventLog) -> None:
        """Partition by partition, to where the topic ended when it began."""
        topic = self._filled(log)
        expected = {partition: bodies(topic, partition) for partition in range(3)}
        for ends in ({"end": LATEST}, {"follow": False}):
            consumer = topic.consumer(**ends)
            assert by_partition(consumer) == expected
        batches = list(topic.consumer(end=LATEST).batches())
        assert all({event.partition for event in batch} for batch in batches)
        assert by_partition(event for batch in batches for event in batch) == expected

    def test_a_consumer_begins_and_ends_where_it_is_told(self, log: EventLog) -> None:
        """In the partitions that it is told, too."""
        topic = self._filled(log)
        first, second = topic.read(0), topic.read(1)
        start, end = first[2].offset, {0: first[4].offset, 1: second[1].offset}
        assert list(topic.consumer(partitions=0, start=start, end=LATEST)) == first[2:]
        assert list(topic.consumer(partitions=[0], start={0: start}, end=end)) == first[2:4]
        part = by_partition(topic.consumer(partitions=[0, 1], end=end))
        assert part == {0: [e.body for e in first[:4]], 1: [second[0].body]}
        assert list(topic.consumer(start=LATEST, end=LATEST)) == []
        with raises(PartitionNotFoundError):
            list(topic.consumer(partitions=[0, 3], end=LATEST))

    def test_a_consumer_can_merge_partitions_by_time(self, log: EventLog) -> None:
        """Whatever was enqueued first comes first."""
        topic = self.make_topic(log, "cars", partitions=3)
        for number in range(12):
            topic.append(b"%d" % number, partition=number % 3)
        merged = list(topic.consumer(end=LATEST, order="time"))
        times = [event.enqueued_at for event in merged]
        assert times == sorted(times)
        assert sorted(merged, key=_place) == sorted(everything(topic), key=_place)

    def test_a_consumer_follows_what_is_appended(self, log: EventLog) -> None:
        """In every partition, and while it waits."""
        topic = self.make_topic(log, "cars", partitions=2)
        waiting = threading.Event()

        def follow() -> list[bytes]:
            seen = []
            with topic.consumer(max_wait=PATIENCE) as consumer:
                for event in consumer:
                    seen.append(event.body)
                    waiting.set()
                    if len(seen) == 3:
                        break
            return seen

        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(follow)
            topic.append(b"0", partition=0)
            assert waiting.wait(PATIENCE)
            topic.append(b"1", partition=1)
            topic.append(b"2", partition=1)
            assert following.result(PATIENCE) == [b"0", b"1", b"2"]

    def test_a_consumer_that_waits_for_nothing_ends(self, log: EventLog) -> None:
        """When it has read what is there."""
        topic = self._filled(log)
        assert len(list(topic.consumer(max_wait=0))) == 15

    def test_a_consumer_can_be_moved(self, log: EventLog) -> None:
        """Back and forth, and it tells where it is and how far behind."""
        topic = self._filled(log)
        events = topic.read(0)
        with topic.consumer(partitions=0, max_wait=0) as consumer:
            assert [next(consumer) for _ in range(3)] == events[:3]
            consumer.seek(0, events[1].offset)
            assert next(consumer) == events[1]
            assert consumer.position(0) == events[2].offset
            assert not self.gapless or consumer.lag() == {0: 3}
            consumer.seek(0, LATEST)
            assert list(consumer) == []
            consumer.seek(0, EARLIEST)
            assert list(consumer) == events

    # Groups

    def test_a_group_goes_on_behind_its_checkpoint(self, log: EventLog) -> None:
        """What was handed out and not checkpointed comes again; another group has its own."""
        topic = self._filled(log, partitions=1)
        events = topic.read(0)
        with topic.consumer(group="fraud", max_wait=0) as consumer:
            assert [next(consumer) for _ in range(3)] == events[:3]
            consumer.checkpoint()
            next(consumer)
        with topic.consumer(group="fraud", start=LATEST, max_wait=0) as consumer:
            assert list(consumer) == events[3:]
        with topic.consumer(group="audit", max_wait=0) as consumer:
            assert list(consumer) == events
        group = topic.group("fraud")
        assert {n: one.offset for n, one in group.checkpoints().items()} == {0: events[2].offset}
        assert not self.gapless or group.lag()[0].events == 2
        assert "fraud" in [one.name for one in topic.groups()]

    def test_a_group_can_be_reset_and_deleted(self, log: EventLog) -> None:
        """To anywhere; and it begins anew."""
        topic = self._filled(log, partitions=1)
        events = topic.read(0)
        group = topic.group("fraud")
        group.reset(events[3].offset)
        with topic.consumer(group="fraud", max_wait=0) as consumer:
            assert list(consumer) == events[3:]
            consumer.checkpoint()
        group.delete()
        assert (group.checkpoints(), topic.groups()) == ({}, [])
        with topic.consumer(group="fraud", max_wait=0) as consumer:
            assert list(consumer) == events

    def test_a_later_consumer_of_a_group_disconnects_the_earlier(self, log: EventLog) -> None:
        """So nobody moves the group's checkpoints behind its back."""
        topic = self._filled(log, partitions=1)
        with topic.consumer(group="fraud", max_wait=0) as earlier:
            next(earlier)
            with topic.consumer(group="fraud", max_wait=0) as later:
                next(later)
                with raises(ConsumerDisconnectedError):
                    earlier.checkpoint()
                later.checkpoint()

    def test_a_log_that_is_closed_takes_its_consumers_out_of_their_groups(
        self, log: EventLog
    ) -> None:
        """One in use, and one that nobody has any more; neither has finished more than it said."""
        topic = self._filled(log, partitions=2)
        opener = self.opener(log)
        if opener is None:
            return
        first = topic.read(0)[0].offset
        with opener() as closing:
            consumer = closing.topic("cars").consumer(group="fraud", partitions=0)
            assert [next(consumer).offset, consumer.checkpoint().result()] == [first, None]
            next(consumer)
            assert next(closing.topic("cars").consumer(group="audit")).offset >= 0
            assert len([*topic.group("fraud").members(), *topic.group("audit").members()]) == 2
        assert [*topic.group("fraud").members(), *topic.group("audit").members()] == []
        assert [one.offset for one in topic.group("fraud").checkpoints().values()] == [first]
        for _ in range(2):
            with raises(ClosedError):
                list(consumer)
            with raises(ClosedError):
                consumer.checkpoint()
            consumer.close()
            closing.close()

    # Producers

    def test_what_a_producer_was_sent_is_stored_when_it_is_closed(self, log: EventLog) -> None:
        """In order within each partition, and each delivery has the event's own receipt."""
        topic = self.make_topic(log, "cars", partitions=3)
        with topic.producer() as producer:
            sent = [producer.send(b"%d" % n, key=f"k{n % 5}") for n in range(200)]
        for number, delivery in enumerate(sent):
            receipt = delivery.result(PATIENCE)
            (event,) = topic.read(receipt.partition, receipt.offset, max_events=1)
            assert (event.body, receipt.count) == (b"%d" % number, 1)
        for partition in range(3):
            numbers = [int(body) for body in bodies(topic, partition)]
            assert numbers == sorted(numbers)

    def test_a_flush_waits_for_what_was_sent(self, log: EventLog) -> None:
        """However long the producer would have gathered."""
        topic = self.make_topic(log, "cars", partitions=1)
        with topic.producer(linger=PATIENCE) as producer:
            delivery = producer.send(b"a", properties={"n": 1})
            producer.flush()
            assert delivery.done
            assert [dict(event.properties) for event in everything(topic)] == [{"n": 1}]

    def test_a_producer_refuses_what_an_append_refuses(self, log: EventLog) -> None:
        """At once, and nothing of it is stored."""
        topic = self.make_topic(log, "cars", partitions=1)
        too_large = bytes(topic.max_event_bytes + 1)
        with topic.producer() as producer:
            with raises(EventTooLargeError):
                _send(producer, too_large)
            with raises(PartitionNotFoundError):
                _send(producer, b"a", partition=1)
        assert everything(topic) == []

    def test_a_producer_with_a_name_stores_nothing_twice(self, log: EventLog) -> None:
        """Nor does its successor, which goes on where it was."""
        topic = self.make_topic(log, "cars", partitions=2)
        with self.doing("producer_id"):
            with topic.producer(producer_id="loader") as producer:
                for number in range(5):
                    _send(producer, b"%d" % number, sequence=number)
            with topic.producer(producer_id="loader") as producer:
                assert producer.last_sequence == 4
                again = [producer.send(b"%d" % n, sequence=n) for n in range(3, 7)]
            assert [d.result(PATIENCE).duplicate for d in again] == [True, True, False, False]
            assert sorted(map(int, bodies(topic))) == list(range(7))

    def test_a_second_producer_of_a_name_fences_the_first(self, log: EventLog) -> None:
        """Which stores nothing more."""
        topic = self.make_topic(log, "cars", partitions=1)
        with self.doing("producer_id"):
            first = topic.producer(producer_id="loader")
            _send(first, b"1", sequence=1)
            first.flush()
            with topic.producer(producer_id="loader") as second:
                second.send(b"2", sequence=2).result(PATIENCE)
                late = first.send(b"3", sequence=3)
                assert isinstance(late.exception(PATIENCE), ProducerFencedError)
            first.close()
            assert bodies(topic) == [b"1", b"2"]

    # Transactions

    def test_a_transaction_stores_all_of_its_appends(self, log: EventLog) -> None:
        """In several topics; nothing before its end, and then with receipts in order."""
        one, other = (
            self.make_topic(log, "one", partitions=2),
            self.make_topic(log, "other", partitions=1),
        )
        with log.transaction() as tx:
            tx.append("one", b"a", partition=1, key="k", properties={"n": 1})
            tx.append_batch(other, [b"b", Event(b"c")])
            tx.append(one, b"d", partition=1)
            assert everything(one) == everything(other) == []
        assert (bodies(one, 1), bodies(other)) == ([b"a", b"d"], [b"b", b"c"])
        assert [(r.partition, r.count) for r in tx.receipts] == [(1, 1), (0, 2), (1, 1)]
        for receipt, topic, body in zip(tx.receipts, (one, other, one), b"abd", strict=True):
            assert topic.read(receipt.partition, receipt.offset)[0].body == bytes([body])
        assert (one.read(1)[0].key, dict(one.read(1)[0].properties)) == ("k", {"n": 1})

    def test_nothing_of_a_transaction_that_fails_is_stored(self, log: EventLog) -> None:
        """Whether its block raised, or one of its appends is refused."""
        topic = self.make_topic(log, "cars", partitions=1)
        too_large = bytes(topic.max_event_bytes + 1)
        with raises(RuntimeError), log.transaction() as tx:
            tx.append(topic, b"a")
            _fail()
        refused: list[tuple[type[Exception], dict[str, Any]]] = [
            (EventTooLargeError, {"topic": topic, "body": too_large}),
            (PartitionNotFoundError, {"topic": topic, "body": b"b", "partition": 7}),
            (TopicNotFoundError, {"topic": "nowhere", "body": b"b"}),
        ]
        for kind, append in refused:
            with raises(kind, about=append), log.transaction() as tx:
                tx.append(topic, b"a")
                tx.append(**append)
        assert everything(topic) == []

    def test_a_checkpoint_in_a_transaction_stands_or_falls_with_it(self, log: EventLog) -> None:
        """So each event has its outcome once."""
        cars, alerts = self._filled(log, partitions=1), self.make_topic(log, "alerts", partitions=1)
        offsets = [event.offset for event in cars.read(0)]
        with self.doing("transaction.checkpoint"):
            with log.transaction() as tx:
                tx.append(alerts, b"a")
                tx.checkpoint("cars", "fraud", partition=0, offset=offsets[2])
            with raises(UnexpectedOffsetError), log.transaction() as tx:
                tx.append(alerts, b"b")
                tx.checkpoint("cars", "fraud", partition=0, offset=offsets[1])
            assert bodies(alerts) == [b"a"]
            assert cars.group("fraud").checkpoints()[0].offset == offsets[2]

    def test_a_consumer_moves_its_group_in_a_transaction(self, log: EventLog) -> None:
        """If the block fails, what was handed out comes again."""
        cars, alerts = self._filled(log, partitions=1), self.make_topic(log, "alerts", partitions=1)
        if "transaction.checkpoint" in self.unsupported:
            with cars.consumer(group="fraud", max_wait=0) as consumer:
                next(consumer)
                with raises(UnsupportedOperationError):
                    consumer.transaction()
            return
        with cars.consumer(group="fraud", max_wait=0) as consumer:
            for repetition in range(2):
                events = [next(consumer) for _ in range(3)]
                try:
                    with consumer.transaction() as tx:
                        tx.append_batch(alerts, [event.body for event in events])
                        if not repetition:
                            _fail()
                except RuntimeError:
                    pass
        assert bodies(alerts) == bodies(cars)[:3]
        with cars.consumer(group="fraud", max_wait=0) as consumer:
            assert [event.body for event in consumer] == bodies(cars)[3:]

    # Coroutines

    def test_everything_is_there_as_coroutines(self, log: EventLog) -> None:
        """On asyncio, and on trio where that is installed."""

        async def use(name: str) -> None:
            topic = self.make_topic(log, name, partitions=1)
            await topic.aio.append_batch([b"a", b"b"])
            async with topic.producer() as producer:
                delivery = producer.send(b"c")
            assert (await delivery).partition == 0
            async with log.transaction() as tx:
                tx.append(topic, b"d")
            seen = []
            with anyio.fail_after(PATIENCE):
                async with topic.consumer(group="fraud") as consumer:
                    async for event in consumer:
                        seen.append(event.body)
                        if len(seen) == 4:
                            break
                    await consumer.checkpoint()
            assert seen == [b"a", b"b", b"c", b"d"]
            assert len(await topic.aio.read(0)) == 4
            assert len(await topic.group("fraud").aio.checkpoints()) == 1

        _on_each_loop(use)

    def test_a_coroutine_is_woken_by_an_append(self, log: EventLog) -> None:
        """And can be cancelled while it waits."""

        async def follow(name: str) -> None:
            topic = self.make_topic(log, name, partitions=1)
            seen: list[bytes] = []

            async def read() -> None:
                async for event in topic.consumer():
                    seen.append(event.body)
                    if len(seen) == 2:
                        tasks.cancel_scope.cancel()

            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(read)
                    await topic.aio.append(b"0")
                    await topic.aio.append(b"1")
                    await anyio.sleep_forever()
            assert seen == [b"0", b"1"]

        _on_each_loop(follow)


def _place(event: StoredEvent) -> tuple[int, int]:
    return event.partition, event.offset


def _fail() -> None:
    raise RuntimeError("on purpose")


def _send(producer: Producer, body: bytes, **more: Any) -> None:
    """Send what nobody waits for."""
    _ = producer.send(body, **more)


def _on_each_loop(use: Callable[[str], Awaitable[None]]) -> None:
    for backend in ("asyncio", "trio"):
        if importlib.util.find_spec(backend) is not None:
            anyio.run(use, backend, backend=backend)
