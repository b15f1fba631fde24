"""Transactions: appends and checkpoints that stand or fall together."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import eventlog
from eventlog import (
    LATEST,
    ClosedError,
    ConsumerDisconnectedError,
    Event,
    EventLog,
    EventTooLargeError,
    InvalidNameError,
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    PreconditionFailedError,
    TopicNotFoundError,
    UnexpectedOffsetError,
    UnsupportedOperationError,
)


def bodies(log: EventLog, topic: str, partition: int = 0) -> list[bytes]:
    return [event.body for event in log.topic(topic).read(partition, max_events=100_000)]


def offsets(log: EventLog, topic: str, group: str) -> dict[int, int]:
    checkpoints = log.topic(topic).group(group).checkpoints()
    return {partition: checkpoint.offset for partition, checkpoint in checkpoints.items()}


@pytest.fixture
def pair(memory_log: EventLog) -> EventLog:
    """A log with two topics of two partitions."""
    memory_log.create_topic("cars", partitions=2)
    memory_log.create_topic("alerts", partitions=2)
    return memory_log


@pytest.fixture
def source(pair: EventLog) -> EventLog:
    """The same with a topic of 200 events in each of two partitions, to be checkpointed."""
    topic = pair.create_topic("input", partitions=2)
    for partition in range(2):
        topic.append_batch([b"%d" % number for number in range(200)], partition=partition)
    return pair


def test_appends_to_several_topics_and_a_checkpoint_are_there_together(source: EventLog) -> None:
    source.topic("cars").append_batch([b"a", b"b"], partition=1)
    with source.transaction() as tx:
        tx.append("alerts", b"x", partition=0)
        tx.append_batch(source.topic("cars"), [b"c", Event(b"d")], partition=0)
        tx.checkpoint("input", "fraud", partition=1, offset=1)
    assert bodies(source, "alerts") == [b"x"]
    assert bodies(source, "cars") == [b"c", b"d"]
    assert offsets(source, "input", "fraud") == {1: 1}


def test_receipts_are_there_afterwards_in_the_order_of_the_appends(pair: EventLog) -> None:
    pair.topic("alerts").append(b"0", partition=1)
    with pair.transaction() as tx:
        tx.append("alerts", b"1", partition=1)
        tx.append_batch("cars", [b"2", b"3"], partition=0)
        tx.append("alerts", b"4", partition=1)
        assert tx.receipts == []
    assert [(r.partition, r.offset, r.count) for r in tx.receipts] == [
        (1, 1, 1),
        (0, 0, 2),
        (1, 2, 1),
    ]
    assert bodies(pair, "alerts", 1) == [b"0", b"1", b"4"]


def test_nothing_is_stored_when_the_block_raises(source: EventLog) -> None:
    with pytest.raises(RuntimeError, match="mine"), source.transaction() as tx:
        tx.append("alerts", b"x", partition=0)
        tx.checkpoint("input", "fraud", partition=0, offset=0)
        raise RuntimeError("mine")
    assert bodies(source, "alerts") == []
    assert offsets(source, "input", "fraud") == {}


def test_nothing_is_stored_when_one_append_is_refused(source: EventLog) -> None:
    with pytest.raises(UnexpectedOffsetError), source.transaction() as tx:
        tx.append("alerts", b"x", partition=0)
        tx.checkpoint("input", "fraud", partition=0, offset=0)
        tx.append("cars", b"y", partition=0, expect_next=7)
    assert bodies(source, "alerts") == bodies(source, "cars") == []
    assert offsets(source, "input", "fraud") == {}


def test_nothing_is_stored_when_a_checkpoint_is_refused(source: EventLog) -> None:
    with source.transaction() as tx:
        tx.checkpoint("input", "fraud", partition=0, offset=5)
    with pytest.raises(UnexpectedOffsetError) as caught, source.transaction() as tx:
        tx.append("alerts", b"x", partition=0)
        tx.checkpoint("input", "audit", partition=0, offset=9)
        tx.checkpoint("input", "fraud", partition=0, offset=4)
    assert (caught.value.expected, caught.value.actual) == (4, 5)
    assert bodies(source, "alerts") == []
    assert offsets(source, "input", "fraud") == {0: 5}
    assert offsets(source, "input", "audit") == {}


def test_one_refused_transaction_spoils_no_other_in_the_same_commit(source: EventLog) -> None:
    with source.transaction() as tx:
        tx.checkpoint("input", "fraud", partition=0, offset=100)
    failures: list[Exception] = []

    def run(number: int) -> None:
        try:
            with source.transaction() as tx:
                tx.append("alerts", b"%d" % number, partition=0)
                if number % 2:
                    tx.checkpoint("input", "fraud", partition=0, offset=number)
        except UnexpectedOffsetError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 8
    assert sorted(map(int, bodies(source, "alerts"))) == list(range(0, 16, 2))


def test_a_checkpoint_where_it_stands_already_changes_nothing(source: EventLog) -> None:
    for _ in range(2):
        with source.transaction() as tx:
            tx.checkpoint("input", "fraud", partition=0, offset=5)
    assert offsets(source, "input", "fraud") == {0: 5}


def test_the_last_of_several_checkpoints_in_a_transaction_counts(source: EventLog) -> None:
    with source.transaction() as tx:
        tx.checkpoint("input", "fraud", partition=0, offset=5)
        tx.checkpoint("input", "fraud", partition=0, offset=8)
    assert offsets(source, "input", "fraud") == {0: 8}


def test_expect_next_counts_what_the_transaction_appends_before(pair: EventLog) -> None:
    pair.topic("cars").append(b"0", partition=0)
    with pair.transaction() as tx:
        tx.append("cars", b"1", partition=0, expect_next=1)
        tx.append("cars", b"2", partition=0, expect_next=2)
    assert bodies(pair, "cars") == [b"0", b"1", b"2"]


def test_a_transaction_holds_up_nobody_until_it_commits(pair: EventLog) -> None:
    with pair.transaction() as tx:
        tx.append("cars", b"late", partition=0)
        pair.topic("cars").append(b"early", partition=0, timeout=0)
        with pair.transaction() as inner:
            inner.append("cars", b"between", partition=0)
    assert bodies(pair, "cars") == [b"early", b"between", b"late"]


def test_the_block_may_hop_between_threads(pair: EventLog) -> None:
    tx = pair.transaction()
    with tx:
        thread = threading.Thread(target=lambda: tx.append("cars", b"from there", partition=0))
        thread.start()
        thread.join()
    assert bodies(pair, "cars") == [b"from there"]


@pytest.mark.anyio
async def test_it_commits_and_discards_on_event_loops(memory_log: EventLog) -> None:
    memory_log.create_topic("cars", partitions=1)
    async with memory_log.transaction() as tx:
        await anyio.lowlevel.checkpoint()
        tx.append("cars", b"1")
    assert [receipt.offset for receipt in tx.receipts] == [0]
    with pytest.raises(RuntimeError):
        async with memory_log.transaction() as tx:
            tx.append("cars", b"2")
            raise RuntimeError
    assert bodies(memory_log, "cars") == [b"1"]


@pytest.mark.anyio
async def test_a_cancelled_block_stores_nothing(memory_log: EventLog) -> None:
    memory_log.create_topic("cars", partitions=1)
    with anyio.CancelScope() as scope:
        async with memory_log.transaction() as tx:
            tx.append("cars", b"1")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert bodies(memory_log, "cars") == []


def test_keys_and_turns_place_events_as_append_does(pair: EventLog) -> None:
    cars = pair.topic("cars")
    where = cars.append(b"0", key="VIN-7").partition
    with pair.transaction() as tx:
        tx.append(cars, b"1", key="VIN-7", properties={"speed": 3})
        tx.append_batch(cars, [b"2"], key="VIN-7")
    stored = cars.read(where)
    assert [(e.body, e.key, dict(e.properties)) for e in stored] == [
        (b"0", "VIN-7", {}),
        (b"1", "VIN-7", {"speed": 3}),
        (b"2", "VIN-7", {}),
    ]


def test_an_empty_transaction_changes_nothing(pair: EventLog) -> None:
    with pair.transaction() as tx:
        tx.append_batch("cars", [])
    assert tx.receipts == []


def test_what_is_wrong_with_a_call_is_said_at_once(source: EventLog) -> None:
    with source.transaction() as tx:
        with pytest.raises(TopicNotFoundError):
            tx.append("boats", b"x")
        with pytest.raises(TypeError, match="from_json"):
            tx.append("cars", {"a": 1})  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            tx.append(7, b"x")  # type: ignore[arg-type]
        with pytest.raises(PartitionNotFoundError):
            tx.checkpoint("input", "fraud", partition=2, offset=0)
        with pytest.raises(InvalidNameError):
            tx.checkpoint("input", "../x", partition=0, offset=0)
        with pytest.raises(ValueError, match="-1"):
            tx.checkpoint("input", "fraud", partition=0, offset=-1)
        with pytest.raises(TypeError):
            tx.checkpoint("input", "fraud", partition=0, offset=True)
        with pytest.raises(ValueError, match="partition or a key"):
            tx.append("cars", b"x", expect_next=0)


def test_a_topic_of_another_log_is_refused(pair: EventLog) -> None:
    with eventlog.open("memory:") as other, pair.transaction() as tx:
        boats = other.create_topic("boats")
        with pytest.raises(ValueError, match="boats"):
            tx.append(boats, b"x")


def test_an_unknown_partition_fails_the_commit_and_stores_nothing(pair: EventLog) -> None:
    with pytest.raises(PartitionNotFoundError), pair.transaction() as tx:
        tx.append("alerts", b"x", partition=0)
        tx.append("cars", b"y", partition=9)
    assert bodies(pair, "alerts") == []


def test_a_topic_deleted_meanwhile_fails_the_commit(pair: EventLog) -> None:
    with pytest.raises(TopicNotFoundError), pair.transaction() as tx:
        tx.append("alerts", b"x", partition=0)
        tx.append("cars", b"y", partition=0)
        pair.delete_topic("cars")
    assert bodies(pair, "alerts") == []


def test_a_topic_changed_meanwhile_is_looked_at_again(pair: EventLog) -> None:
    cars = pair.topic("cars")
    with pytest.raises(EventTooLargeError), pair.transaction() as tx:
        tx.append(cars, b"x" * 100, partition=0)
        pair.topic("cars").configure(max_event_bytes=10)
    with pair.transaction() as tx:
        tx.append(cars, b"x" * 10, partition=0)
        pair.topic("cars").configure(compression="none")
    assert bodies(pair, "cars") == [b"x" * 10]


def test_more_than_one_append_may_take_is_refused_before_the_commit(pair: EventLog) -> None:
    pair.topic("cars").configure(max_event_bytes=64 * 2**20)
    with pair.transaction() as tx:
        tx.append("cars", bytes(60 * 2**20), partition=0)
        tx.append("cars", bytes(60 * 2**20), partition=1)
        with pytest.raises(EventTooLargeError, match="one transaction"):
            tx.append("cars", bytes(10 * 2**20), partition=0)
    assert len(tx.receipts) == 2


def test_it_cannot_be_used_after_its_block(source: EventLog) -> None:
    with source.transaction() as tx:
        pass
    with pytest.raises(ClosedError):
        tx.append("cars", b"x")
    with pytest.raises(ClosedError):
        tx.checkpoint("input", "fraud", partition=0, offset=0)
    with pytest.raises(ClosedError), tx:
        pass


def test_a_closed_log_takes_none(log_path: Path) -> None:
    log = eventlog.open(log_path)
    log.create_topic("cars")
    with pytest.raises(ClosedError), log.transaction() as tx:
        tx.append("cars", b"x")
        log.close()
    with eventlog.open(log_path, read_only=True) as reader:
        assert bodies(reader, "cars") == []
        with pytest.raises(UnsupportedOperationError):
            reader.transaction()


def test_checkpoints_in_another_store_cannot_join(tmp_path: Path, log_path: Path) -> None:
    with eventlog.open(log_path, blobs=f"file:{tmp_path / 'blobs'}") as log:
        log.create_topic("cars")
        with (
            pytest.raises(UnsupportedOperationError, match="own store"),
            log.transaction() as tx,
        ):
            tx.checkpoint("cars", "fraud", partition=0, offset=0)


def test_it_is_one_durable_write(source: EventLog) -> None:
    before = source.environment.lmdb.info()["last_txnid"]  # type: ignore[attr-defined]
    with source.transaction() as tx:
        tx.append("cars", b"x")
        tx.append("alerts", b"y")
        tx.checkpoint("input", "fraud", partition=0, offset=0)
        tx.checkpoint("input", "fraud", partition=1, offset=0)
    assert source.environment.lmdb.info()["last_txnid"] == before + 1  # type: ignore[attr-defined]


def test_a_checkpoint_beyond_the_last_event_is_refused(source: EventLog) -> None:
    """Its group would skip what comes there."""
    with pytest.raises(OffsetOutOfRangeError) as caught, source.transaction() as tx:
        tx.append("alerts", b"x", partition=0)
        tx.checkpoint("input", "fraud", partition=0, offset=200)
    assert (caught.value.offset, caught.value.next_offset) == (200, 200)
    assert bodies(source, "alerts") == []
    with source.transaction() as tx:
        tx.append("input", b"200", partition=0)
        tx.checkpoint("input", "fraud", partition=0, offset=200)
    assert offsets(source, "input", "fraud") == {0: 200}


def test_a_checkpoint_says_when_its_event_was_enqueued(source: EventLog) -> None:
    with source.transaction() as tx:
        tx.checkpoint("input", "fraud", partition=0, offset=7)
        tx.append("alerts", b"x", partition=0)
        tx.checkpoint("alerts", "fraud", partition=0, offset=0)
    for topic, offset in (("input", 7), ("alerts", 0)):
        checkpoint = source.topic(topic).group("fraud").checkpoints()[0]
        assert checkpoint.enqueued_at == source.topic(topic).read(0, offset)[0].enqueued_at


# With the consumer of a group


def outputs(log: EventLog) -> list[int]:
    return [int(body) for body in bodies(log, "alerts")]


def test_a_consumers_transaction_checkpoints_what_was_handed_out(source: EventLog) -> None:
    with source.topic("input").consumer(partitions=0, group="g", end=LATEST) as consumer:
        handed = [next(consumer) for _ in range(5)]
        with consumer.transaction() as tx:
            tx.append_batch("alerts", handed, partition=0)
            handed_later = next(consumer)
            tx.append("alerts", handed_later.body, partition=0)
    assert outputs(source) == list(range(6))
    assert offsets(source, "input", "g") == {0: 5}


@pytest.mark.parametrize("where", ["in the block", "in the commit"])
def test_after_a_failed_transaction_its_events_are_handed_out_again(
    source: EventLog, where: str
) -> None:
    """Who goes on after an error loses nothing."""
    failures = iter([True, False, True])
    consumer = source.topic("input").consumer(
        partitions=0, group="g", end=LATEST, prefetch_bytes=200
    )
    with consumer:
        for events in consumer.batches():
            failing = next(failures, False)
            try:
                with consumer.transaction() as tx:
                    tx.append_batch("alerts", events, partition=0)
                    if failing and where == "in the block":
                        raise RuntimeError
                    if failing:
                        tx.append("cars", b"x", partition=0, expect_next=99)
            except (RuntimeError, UnexpectedOffsetError):
                pass
    assert outputs(source) == list(range(200))
    assert offsets(source, "input", "g") == {0: 199}


@pytest.mark.anyio
async def test_the_same_on_event_loops(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("input", partitions=1)
    memory_log.create_topic("alerts", partitions=1)
    topic.append_batch([b"%d" % number for number in range(200)])
    failures = iter([True, False, True])
    async with topic.consumer(group="g", end=LATEST, prefetch_bytes=200) as consumer:
        async for events in consumer.batches():
            with contextlib.suppress(RuntimeError):
                async with consumer.transaction() as tx:
                    tx.append_batch("alerts", events)
                    if next(failures, False):
                        raise RuntimeError
    assert outputs(memory_log) == list(range(200))


def test_a_disconnected_consumers_transaction_stores_nothing(source: EventLog) -> None:
    topic = source.topic("input")
    with topic.consumer(partitions=0, group="g", end=LATEST) as slow:
        next(slow)
        with topic.consumer(partitions=0, group="g", end=LATEST) as fast:
            first = next(fast)
            with fast.transaction() as tx:
                tx.append("alerts", first.body, partition=0)
        with pytest.raises(ConsumerDisconnectedError), slow.transaction() as tx:
            tx.append("alerts", b"0", partition=0)
    assert outputs(source) == [0]


def test_a_transaction_after_a_reset_stores_nothing_and_goes_on_there(source: EventLog) -> None:
    topic = source.topic("input")
    with topic.consumer(partitions=0, group="g", end=LATEST, prefetch_bytes=200) as consumer:
        next(consumer)
        topic.group("g").reset({0: 190}, partitions=[0], force=True)
        with pytest.raises(PreconditionFailedError), consumer.transaction() as tx:
            tx.append("alerts", b"0", partition=0)
        for events in consumer.batches():
            with consumer.transaction() as tx:
                tx.append_batch("alerts", events, partition=0)
    assert outputs(source) == list(range(190, 200))


def test_what_was_stored_although_its_commit_was_interrupted_is_not_stored_again(
    source: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come between the commit and its answer."""
    log: Any = source
    commit = log.commit
    coming: list[None] = []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        answer = commit(*arguments, **options)
        if coming:
            coming.clear()
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(log, "commit", interrupted)
    consumer = source.topic("input").consumer(
        partitions=0, group="g", end=LATEST, prefetch_bytes=200
    )
    with consumer:
        for number, events in enumerate(consumer.batches()):
            with contextlib.suppress(KeyboardInterrupt), consumer.transaction() as tx:
                tx.append_batch("alerts", events, partition=0)
                if number in (0, 2):
                    coming.append(None)  # the commit of the transaction is the next there is
    assert outputs(source) == list(range(200))


@pytest.mark.anyio
async def test_whoever_is_cancelled_by_asyncio_at_the_end_of_a_block_goes_on_when_it_has_ended(
    pair: EventLog, monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        return
    begun, go_on = threading.Event(), threading.Event()
    transaction = pair.transaction()
    finish = transaction._finish

    def slowly() -> None:
        begun.set()
        go_on.wait()
        finish()

    monkeypatch.setattr(transaction, "_finish", slowly)
    after: list[list[bytes]] = []

    async def append() -> None:
        try:
            async with transaction as tx:
                tx.append("alerts", b"x", partition=0)
        finally:
            after.append(bodies(pair, "alerts"))

    task = asyncio.ensure_future(append())
    await anyio.to_thread.run_sync(begun.wait)
    task.cancel()
    await asyncio.wait([task], timeout=0.05)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert after == [[b"x"]]
