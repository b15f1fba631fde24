"""Consumers that read for a group: where they go on, what a checkpoint covers, and who may read."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from msgspec.structs import replace

import eventlog
from eventlog import (
    LATEST,
    ClosedError,
    ConsumerDisconnectedError,
    EventLog,
    OffsetOutOfRangeError,
    PreconditionFailedError,
    StoredEvent,
    Topic,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.blobs.memory import MemoryBlobs
from eventlog.consumer import Consumer, LostRange
from eventlog.consuming.claims import Claims, ClaimsFence
from eventlog.embedded.topic import EmbeddedTopic
from eventlog.errors import StoreUnavailableError
from eventlog.group import group_store
from eventlog.groups.checkpoints import GroupStore
from eventlog.groups.documents import Share, encode
from eventlog.waiting import Completion
from tests.test_consumer import (
    NOW,
    PATIENCE,
    Clock,
    SpySource,
    by_partition,
    fill,
    places,
    result_of,
)

GROUP = "fraud"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def log(clock: Clock) -> Iterator[EventLog]:
    """Groups are in the log itself."""
    with eventlog.open("memory:", clock=clock) as log:
        yield log


@pytest.fixture
def topic(log: EventLog) -> Topic:
    """Three partitions of five events."""
    topic = log.create_topic("cars", partitions=3)
    fill(topic)
    return topic


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer looks after its group a thousand times a second, instead of once."""
    monkeypatch.setattr("eventlog.consuming.reading.CHECK_SECONDS", 0.001)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy consumer looks after its group with each list."""
    monkeypatch.setattr("eventlog.consuming.reading.CHECK_SECONDS", 0.0)


def consume(topic: Topic, **options: Any) -> Consumer:
    options.setdefault("follow", False)
    return topic.consumer(group=GROUP, **options)


def store_of(topic: Topic) -> GroupStore:
    assert isinstance(topic, EmbeddedTopic)
    return group_store(topic, GROUP, topic.log.blobs, clock=topic.log.now_us)


def finished(topic: Topic) -> dict[int, int]:
    """The offset of each checkpoint."""
    return {
        number: checkpoint.offset for number, checkpoint in topic.group(GROUP).checkpoints().items()
    }


def owners(topic: Topic) -> set[str | None]:
    return {one.owner for one in topic.group(GROUP).checkpoints().values()}


def wait_for(completion: Any) -> None:
    """A checkpoint in a thread is made when the call returns."""
    assert completion.done
    assert completion.result(0) is None


# Where it goes on


def test_a_group_goes_on_behind_what_it_has_finished(topic: Topic) -> None:
    with consume(topic, partitions=1) as consumer:
        assert [next(consumer).offset for _ in range(3)] == [0, 1, 2]
        wait_for(consumer.checkpoint())
    with consume(topic) as consumer:
        assert by_partition(consumer) == {0: [0, 1, 2, 3, 4], 1: [3, 4], 2: [0, 1, 2, 3, 4]}
        wait_for(consumer.checkpoint())
    assert finished(topic) == {0: 4, 1: 4, 2: 4}
    fill(topic, 1)
    assert by_partition(consume(topic)) == {0: [5], 1: [5], 2: [5]}


def test_its_checkpoint_wins_over_the_start(topic: Topic) -> None:
    """Also over one that is not there; it is asked for only where there is no checkpoint."""
    with consume(topic, partitions=[0]) as consumer:
        next(consumer)
        wait_for(consumer.checkpoint())
    assert by_partition(consume(topic, start={0: 99, 1: 4, 2: LATEST})) == {0: [1, 2, 3, 4], 1: [4]}
    with pytest.raises(OffsetOutOfRangeError):
        next(topic.consumer(group="another", start={0: 99}))
    assert topic.group("another").checkpoints() == {}


def test_where_it_first_began_is_remembered(topic: Topic) -> None:
    """LATEST is the end when it came, however much was appended since."""
    with consume(topic, start=LATEST) as consumer:
        assert list(consumer) == []
    assert finished(topic) == {0: 4, 1: 4, 2: 4}
    fill(topic, 2)
    assert by_partition(consume(topic, start=LATEST)) == {0: [5, 6], 1: [5, 6], 2: [5, 6]}


def test_what_expired_behind_its_checkpoint_was_lost(log: EventLog, clock: Clock) -> None:
    topic = log.create_topic("expiring", partitions=1, retention=timedelta(hours=1))
    fill(topic)
    with consume(topic) as consumer:
        next(consumer)
        wait_for(consumer.checkpoint())
    clock.advance(7200)
    fill(topic)
    reported: list[LostRange] = []
    assert places(consume(topic, on_lost=reported.append)) == [
        (0, offset) for offset in range(5, 10)
    ]
    assert reported == [LostRange(0, 1, 4)]


def test_a_checkpoint_beyond_the_end_is_an_error(topic: Topic) -> None:
    """The log has lost events that the group has finished: it is another one, or was restored."""
    store_of(topic).advance_unowned(0, 99)
    with pytest.raises(OffsetOutOfRangeError, match="no offset 100"):
        next(consume(topic))


def test_a_partition_that_is_added_is_claimed_too(topic: Topic) -> None:
    with consume(topic, follow=True, max_wait=0, start=LATEST) as consumer:
        assert list(consumer) == []
        with pytest.warns(UserWarning, match="partitions now"):
            topic.add_partitions(1)
        fill(topic, 1)
        assert by_partition(consumer) == {0: [5], 1: [5], 2: [5], 3: [0]}
        wait_for(consumer.checkpoint())
        assert finished(topic) == {0: 5, 1: 5, 2: 5, 3: 0}
    assert owners(topic) == {None}


# What a checkpoint covers


def test_a_checkpoint_covers_to_the_event_what_was_handed_out(topic: Topic, clock: Clock) -> None:
    """Never what was read ahead; and nothing before anything was handed out."""
    clock.advance(60)
    fill(topic)
    for order in ("partition", "time"):
        topic.group(GROUP).delete()
        with consume(topic, order=order) as consumer:
            wait_for(consumer.checkpoint())
            expected = dict.fromkeys(range(3), -1)
            for event in consumer:
                expected[event.partition] = event.offset
                wait_for(consumer.checkpoint())
                assert finished(topic) == expected
                checkpoint = topic.group(GROUP).checkpoints()[event.partition]
                assert checkpoint.enqueued_at == event.enqueued_at
    assert topic.group(GROUP).checkpoints()[0].enqueued_at == NOW + timedelta(seconds=60)


def test_a_checkpoint_covers_the_whole_list_that_was_got_last(topic: Topic) -> None:
    with consume(topic) as consumer:
        batches = consumer.batches()
        batch = next(batches)
        wait_for(consumer.checkpoint())
        assert finished(topic) == {**dict.fromkeys(range(3), -1), batch[0].partition: 4}
        next(batches)
    assert sum(finished(topic).values()) == 4 - 1 - 1


def test_a_checkpoint_is_written_only_where_something_was_handed_out(topic: Topic) -> None:
    with consume(topic) as consumer:
        next(consumer)
        wait_for(consumer.checkpoint())
        revisions = [etag for _, etag in topic.log.blobs.list("")]
        wait_for(consumer.checkpoint())
        assert [etag for _, etag in topic.log.blobs.list("")] == revisions


def test_a_checkpoint_survives_seeks(topic: Topic) -> None:
    """Who goes back has not finished what is behind that; going forth covers only what was handed
    out there. What was checkpointed stays so.
    """
    with consume(topic, partitions=0) as consumer:
        for _ in range(3):
            next(consumer)
        consumer.seek(0, 0)
        wait_for(consumer.checkpoint())
        assert finished(topic) == {0: -1}
        for _ in range(3):
            next(consumer)
        wait_for(consumer.checkpoint())
        assert finished(topic) == {0: 2}
        consumer.seek(0, 0)
        next(consumer)
        wait_for(consumer.checkpoint())
        assert finished(topic) == {0: 2}
        consumer.seek(0, 4)
        wait_for(consumer.checkpoint())
        assert finished(topic) == {0: 2}
        next(consumer)
        wait_for(consumer.checkpoint())
        assert finished(topic) == {0: 4}


def test_without_a_group_there_is_no_checkpoint(topic: Topic) -> None:
    with topic.consumer() as consumer, pytest.raises(UnsupportedOperationError, match="no group"):
        consumer.checkpoint()


def test_what_was_checkpointed_otherwise_is_not_checkpointed_again(topic: Topic) -> None:
    """The seam for transactions: what a checkpoint would say, and that it was said."""
    with consume(topic, partitions=0) as consumer:
        assert consumer.yielded() == []
        next(consumer)
        next(consumer)
        (one,) = consumer.yielded()
        assert (one.partition, one.offset, one.enqueued_at) == (0, 1, NOW)
        claims = consumer.claims
        etag = store_of(topic).advance(0, claims.owner, 1, NOW, claims._claims[0].etag)
        claims.note([one], [etag])
        assert consumer.yielded() == []
        next(consumer)
        wait_for(consumer.checkpoint())
        assert finished(topic) == {0: 2}


# Who may read


def test_it_gives_back_its_partitions_when_it_is_closed(topic: Topic) -> None:
    with consume(topic) as consumer:
        next(consumer)
        assert owners(topic) == {consumer.claims.owner}
        assert topic.group(GROUP).members() == [consumer.claims.owner]
    assert owners(topic) == {None}
    assert topic.group(GROUP).members() == []


def test_a_later_consumer_disconnects_an_earlier_one_that_waits(
    topic: Any, often: None, threads: ThreadPoolExecutor
) -> None:
    source = SpySource(topic)
    earlier = Consumer(source, group=store_of(topic))
    assert len(list(itertools.islice(earlier, 15))) == 15
    waiting = threads.submit(next, earlier)
    source.await_wait()
    later = consume(topic, partitions=1)
    assert next(later).offset == 0  # it was not checkpointed
    for _ in range(2):
        with pytest.raises(ConsumerDisconnectedError, match=r"partition 1 .* group 'fraud'"):
            result_of(waiting)
        waiting = threads.submit(next, earlier)
    with pytest.raises(ConsumerDisconnectedError):
        earlier.checkpoint()
    earlier.close()
    wait_for(later.checkpoint())
    assert finished(topic) == {0: -1, 1: 0, 2: -1}


def test_a_later_consumer_disconnects_an_earlier_one_that_is_busy(
    topic: Topic, always: None
) -> None:
    """When it next takes a list, or checkpoints."""
    for _ in range(3):
        fill(topic, 1000)
    earlier = consume(topic)
    batches = earlier.batches()
    next(batches)
    later = consume(topic)
    next(later)
    for _ in range(2):
        with pytest.raises(ConsumerDisconnectedError):
            earlier.checkpoint()
    with pytest.raises(ConsumerDisconnectedError):
        list(batches)
    later.close()


def test_who_is_woken_in_vain_looks_whether_it_was_disconnected(
    topic: Any, monkeypatch: pytest.MonkeyPatch, threads: ThreadPoolExecutor
) -> None:
    """Though it is not time to."""
    monkeypatch.setattr("eventlog.consuming.reading.CHECK_SECONDS", PATIENCE)
    source = SpySource(topic)
    earlier = Consumer(source, group=store_of(topic), start=LATEST)
    waiting = threads.submit(next, earlier)
    source.await_wait()
    later = consume(topic)
    assert next(later, None) is None
    topic.configure(max_event_bytes=1000)
    with pytest.raises(ConsumerDisconnectedError):
        result_of(waiting)


def test_of_two_that_read_in_turns_only_the_later_moves_the_group(topic: Topic) -> None:
    earlier, later = consume(topic), consume(topic)
    next(earlier)
    next(later)
    with pytest.raises(ConsumerDisconnectedError):
        earlier.checkpoint()
    assert finished(topic) == dict.fromkeys(range(3), -1)
    wait_for(later.checkpoint())
    assert finished(topic) == {0: 0, 1: -1, 2: -1}


def own(topic: Topic, partition: int, host: str) -> None:
    """Have a host own a partition."""
    store = store_of(topic)
    share = Share(owner=host, epoch=1)
    document = replace(store.ensure(), partitions={partition: share}, revision="a host's")
    topic.log.blobs.put(store.ids.document, encode(document))


def test_none_may_read_for_a_group_whose_partition_a_host_owns(topic: Topic) -> None:
    own(topic, 1, "host-1")
    for partitions in (None, 1):
        with pytest.raises(ConsumerDisconnectedError, match="host-1"):
            next(consume(topic, partitions=partitions))
    assert next(consume(topic, partitions=[0, 2])).offset == 0


def test_a_host_that_comes_disconnects_it(topic: Topic, always: None) -> None:
    with consume(topic, partitions=1) as consumer:
        next(consumer)
        own(topic, 1, "host-1")
        with pytest.raises(ConsumerDisconnectedError, match="host-1"):
            list(consumer)
        with pytest.raises(ConsumerDisconnectedError, match="host-1"):
            consumer.checkpoint()


def test_a_group_that_is_deleted_disconnects_it(topic: Topic, often: None) -> None:
    with consume(topic, follow=True, max_wait=PATIENCE) as consumer:
        next(consumer)
        topic.group(GROUP).delete()
        with pytest.raises(ConsumerDisconnectedError, match="deleted"):
            list(consumer)


# Reset by a person


def test_it_goes_on_where_the_group_was_reset_to_while_it_waits(
    topic: Any, often: None, threads: ThreadPoolExecutor
) -> None:
    source = SpySource(topic)
    with Consumer(source, group=store_of(topic)) as consumer:
        batches = consumer.batches()
        assert len([event for _ in range(3) for event in next(batches)]) == 15
        wait_for(consumer.checkpoint())
        waiting = threads.submit(next, consumer)
        source.await_wait()
        topic.group(GROUP).reset({1: 3}, force=True)
        event = result_of(waiting)
        assert (event.partition, event.offset) == (1, 3)
        assert consumer.positions == {0: 5, 1: 4, 2: 5}
        wait_for(consumer.checkpoint())
    assert finished(topic) == {0: 4, 1: 3, 2: 4}


def test_what_was_handed_out_before_a_reset_is_not_written_behind_it(topic: Topic) -> None:
    """The checkpoint that meets the reset writes nothing, the list under way ends, and it goes on
    where it was reset to.
    """
    with consume(topic, partitions=0) as consumer:
        events: list[StoredEvent] = []
        for event in consumer:
            events.append(event)
            if len(events) == 4:
                topic.group(GROUP).reset(1, [0], force=True)
                wait_for(consumer.checkpoint())
                assert finished(topic) == {0: 0}
                wait_for(consumer.checkpoint())
                assert finished(topic) == {0: 0}
        assert by_partition(events) == {0: [0, 1, 2, 3, 1, 2, 3, 4]}
        wait_for(consumer.checkpoint())
    assert finished(topic) == {0: 4}


def test_a_reset_is_found_though_it_is_busy(topic: Topic, always: None) -> None:
    fill(topic, 1000, partitions=1)
    fill(topic, 1000, partitions=1)
    with consume(topic, partitions=0) as consumer:
        batches = consumer.batches()
        next(batches)
        topic.group(GROUP).reset(7, [0], force=True)
        assert next(batches)[0].offset == 7


def test_what_was_to_be_written_is_not_once_a_reset_was_found(topic: Topic) -> None:
    """Whichever thread comes first."""
    with consume(topic, partitions=0) as consumer:
        next(consumer)
        yielded = consumer.yielded()
        topic.group(GROUP).reset(0, [0], force=True)
        consumer.claims.check()
        consumer.claims.advance(yielded)
        assert finished(topic) == {0: -1}
        assert consumer.yielded() == []
        assert next(consumer).offset == 0
        wait_for(consumer.checkpoint())
    assert finished(topic) == {0: 0}


# Stores that fail


class FailingBlobs(MemoryBlobs):
    """Cannot be reached for a while."""

    fails = False

    def list(self, prefix: str) -> Any:
        if self.fails:
            raise StoreUnavailableError("nobody answers")
        return super().list(prefix)

    def get(self, name: str, *, if_none_match: str | None = None) -> Any:
        if self.fails:
            raise StoreUnavailableError("nobody answers")
        return super().get(name, if_none_match=if_none_match)

    def put(self, name: str, data: bytes, **conditions: Any) -> str:
        if self.fails:
            raise StoreUnavailableError("nobody answers")
        return super().put(name, data, **conditions)


def test_a_store_that_cannot_be_reached_fails_checkpoints_but_not_reading(
    always: None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; what was not checkpointed is with the next one."""
    blobs = FailingBlobs()
    with eventlog.open("memory:", blobs=blobs) as log:
        topic = log.create_topic("cars", partitions=3)
        fill(topic)
        with consume(topic) as consumer:
            next(consumer)
            blobs.fails = True
            with pytest.raises(StoreUnavailableError):
                consumer.checkpoint()
            with caplog.at_level(logging.WARNING, "eventlog"):
                assert len(list(consumer)) == 14
            assert [record.levelname for record in caplog.records] in ([], ["WARNING"])
            blobs.fails = False
            wait_for(consumer.checkpoint())
            assert finished(topic) == {0: 4, 1: 4, 2: 4}


def test_a_store_that_cannot_be_reached_when_it_begins_is_an_error_and_it_can_begin_later() -> None:
    blobs = FailingBlobs()
    with eventlog.open("memory:", blobs=blobs) as log:
        topic = log.create_topic("cars", partitions=3)
        fill(topic)
        blobs.fails = True
        with consume(topic) as consumer:
            with pytest.raises(StoreUnavailableError):
                next(consumer)
            blobs.fails = False
            assert len(list(consumer)) == 15


def test_groups_may_be_kept_in_a_directory(tmp_path: Path) -> None:
    with eventlog.open("memory:", blobs=f"file:{tmp_path}/groups") as log:
        topic = log.create_topic("cars", partitions=1)
        fill(topic)
        with consume(topic) as consumer:
            next(consumer)
            wait_for(consumer.checkpoint())
        assert [event.offset for event in consume(topic)] == [1, 2, 3, 4]
    assert list((tmp_path / "groups").rglob("checkpoints/0.json"))


# On event loops


@pytest.mark.anyio
async def test_a_checkpoint_is_awaited_on_an_event_loop(topic: Topic) -> None:
    with anyio.fail_after(PATIENCE):
        async with consume(topic) as consumer:
            expected = dict.fromkeys(range(3), -1)
            async for event in consumer:
                expected[event.partition] = event.offset
                await consumer.checkpoint()
                assert finished(topic) == expected
    assert owners(topic) == {None}


@pytest.mark.anyio
async def test_a_checkpoint_covers_what_was_handed_out_before_the_call(topic: Topic) -> None:
    """Not what came while it was written; and it need not be awaited to be written."""
    with anyio.fail_after(PATIENCE):
        async with consume(topic, partitions=0) as consumer:
            await anext(consumer)
            first = consumer.checkpoint()
            await anext(consumer)
            await first
            assert finished(topic) == {0: 0}
            for _ in range(2):
                await anext(consumer)
                consumer.checkpoint()
        assert finished(topic) == {0: 3}


@pytest.mark.anyio
async def test_closing_waits_for_the_checkpoints_that_were_not_awaited(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would have given the partitions back before they were written."""
    waited_for = threading.Event()
    advance, exception = Claims.advance, Completion.exception

    def slowly(claims: Claims, yielded: Any) -> None:
        assert waited_for.wait(PATIENCE)
        advance(claims, yielded)

    def waiting(completion: Completion[None], timeout: float | None = None) -> Any:
        waited_for.set()
        return exception(completion, timeout)

    with anyio.fail_after(PATIENCE):
        async with consume(topic, partitions=0) as consumer:
            await anext(consumer)
            monkeypatch.setattr(Claims, "advance", slowly)
            monkeypatch.setattr(Completion, "exception", waiting)
            consumer.checkpoint()
    assert finished(topic) == {0: 0}


@pytest.mark.anyio
async def test_awaiting_a_checkpoint_raises_what_went_wrong(topic: Topic) -> None:
    with anyio.fail_after(PATIENCE):
        earlier = consume(topic)
        await anext(earlier)
        async with consume(topic) as later:
            await anext(later)
            with pytest.raises(ConsumerDisconnectedError):
                await earlier.checkpoint()
            await earlier.close()
            with pytest.raises(ClosedError):
                earlier.checkpoint()


@pytest.mark.anyio
async def test_a_task_that_waits_is_disconnected(topic: Any, often: None) -> None:
    source = SpySource(topic)
    with anyio.fail_after(PATIENCE):
        earlier = Consumer(source, group=store_of(topic), start=LATEST)

        disconnected = anyio.Event()

        async def follow() -> None:
            with pytest.raises(ConsumerDisconnectedError):
                await anext(earlier)
            disconnected.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.to_thread.run_sync(source.await_wait)
            async with consume(topic) as later:
                await anext(later, None)
                await disconnected.wait()
        await earlier.close()


@pytest.mark.anyio
async def test_a_task_that_is_cancelled_while_it_claims_can_begin_again(topic: Topic) -> None:
    """The claims are made by a thread that goes on; they are the same consumer's."""
    with anyio.fail_after(PATIENCE):
        for turns in range(20):
            async with consume(topic) as consumer:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anext, consumer, None)
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
                done = sum(consumer.positions.values())
                assert len([event async for event in consumer]) == 15 - done
            assert owners(topic) == {None}


@pytest.mark.anyio
async def test_closing_while_it_begins_leaves_nothing_claimed(topic: Topic) -> None:
    with anyio.fail_after(PATIENCE):
        for turns in range(20):
            consumer = consume(topic)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, aiter(consumer), None)
                await anyio.lowlevel.checkpoint()
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                await consumer.close()
            assert owners(topic) <= {None}


# What must not be skipped, nor done by the wrong one


def test_who_goes_back_in_one_partition_finishes_nothing_there(topic: Topic) -> None:
    """Not even by a checkpoint after events of another."""
    with consume(topic) as consumer:
        batches = {events[0].partition: events for events in consumer.batches()}
        consumer.seek(0, batches[0][0].offset)
        wait_for(consumer.checkpoint())
        assert finished(topic) == {0: -1, 1: 4, 2: 4}
    with consume(topic) as consumer:
        assert by_partition(consumer) == {0: [0, 1, 2, 3, 4]}


def test_partitions_added_while_nobody_read_begin_at_their_beginning(topic: Topic) -> None:
    with consume(topic, start=LATEST) as consumer:
        assert by_partition(consumer) == {}
    with pytest.warns(UserWarning, match="4 partitions"):
        topic.add_partitions(1)
    topic.append(b"3:0", partition=3)
    with consume(topic, start=LATEST) as consumer:
        assert by_partition(consumer) == {3: [0]}


class GrowingSource(SpySource):
    """Of a topic that grows just when somebody begins to read it."""

    def partitions(self) -> int:
        count = super().partitions()
        if count == 3:
            with pytest.warns(UserWarning, match="4 partitions"):
                self._topic.add_partitions(1)
        return count


def test_partitions_added_while_somebody_began_begin_at_their_beginning(topic: Any) -> None:
    """Though it was gone before it looked at them."""
    with Consumer(GrowingSource(topic), group=store_of(topic), start=LATEST) as consumer:
        assert consumer.positions == {0: 5, 1: 5, 2: 5}
    topic.append(b"3:0", partition=3)
    with consume(topic, start=LATEST) as consumer:
        assert by_partition(consumer) == {3: [0]}


def test_partitions_nobody_of_the_group_read_begin_where_was_asked(topic: Topic) -> None:
    with consume(topic, start=LATEST, partitions=0) as consumer:
        assert by_partition(consumer) == {}
    with consume(topic, start=LATEST) as consumer:
        assert by_partition(consumer) == {}


def test_a_deleted_topics_handle_deletes_no_group_of_the_next(log: EventLog) -> None:
    old = log.create_topic("t", partitions=1)
    log.delete_topic("t")
    new = log.create_topic("t", partitions=1)
    new.append(b"x")
    with new.consumer(group=GROUP, follow=False) as consumer:
        next(consumer)
        wait_for(consumer.checkpoint())
    with pytest.raises(TopicNotFoundError):
        old.group(GROUP).delete()
    assert finished(new) == {0: 0}


def test_a_disconnected_consumer_stores_nothing_even_if_nothing_was_handed_out(
    topic: Topic,
) -> None:
    with consume(topic, partitions=0, start=LATEST) as slow:
        assert list(slow) == []
        with consume(topic, partitions=0, start=LATEST) as fast:
            assert list(fast) == []
            with pytest.raises(ConsumerDisconnectedError), slow.transaction() as tx:
                tx.append(topic, b"the window was closed", partition=0)
            with fast.transaction() as tx:
                tx.append(topic, b"the window was closed", partition=0)
    assert topic.partition_info(0).next_offset == 6


# Transactions that were cut off


def cut_off(consumer: Consumer, topic: Topic) -> None:
    """What is handed out next, in a transaction of which Ctrl-C has left nothing but that."""
    batch = next(consumer.batches())
    consumer.transaction().__enter__().append_batch(topic, [event.body for event in batch])


@pytest.mark.parametrize("use", [Consumer.transaction, Consumer.checkpoint])
def test_what_a_transaction_was_for_that_was_cut_off_is_not_skipped(
    topic: Topic, log: EventLog, use: Any
) -> None:
    """Whatever was handed out since: who would finish that finds out, and gets it all again."""
    done = log.create_topic("done", partitions=1)
    with consume(topic, partitions=[0, 1]) as consumer:
        with consumer.transaction() as tx:
            tx.append(done, next(consumer).body)
        cut_off(consumer, done)
        later = next(consumer.batches())
        assert later[0].partition == 1
        for _ in range(2):
            with pytest.raises(PreconditionFailedError, match="was interrupted"):
                use(consumer)
            cut_off(consumer, done)
        with pytest.raises(PreconditionFailedError):
            use(consumer)
        for batch in consumer.batches():
            with consumer.transaction() as tx:
                tx.append_batch(done, [event.body for event in batch])
    expected = [b"%d:%d" % (partition, offset) for partition in (0, 1) for offset in range(5)]
    assert sorted(event.body for event in done.read(0)) == expected
    assert finished(topic) == {0: 4, 1: 4}


def test_a_transaction_may_be_what_a_consumer_begins_with(topic: Topic, log: EventLog) -> None:
    """And partitions may come to it meanwhile."""
    done = log.create_topic("done", partitions=1)
    with consume(topic, follow=True, max_wait=0) as consumer:
        with consumer.transaction() as tx:
            tx.append(done, next(consumer).body)
        with consumer.transaction() as tx:
            with pytest.warns(UserWarning, match="partitions now"):
                topic.add_partitions(1)
            topic.append(b"3:0", partition=3)
            tx.append_batch(done, [event.body for event in consumer])
    assert len(done.read(0)) == 16
    assert finished(topic) == {0: 4, 1: 4, 2: 4, 3: 0}


def test_a_transaction_that_was_made_for_nothing_is_in_nobodys_way(topic: Topic) -> None:
    """Its block was never begun, or nothing was handed out for it."""
    with consume(topic) as consumer:
        batches = consumer.batches()
        next(batches)
        for _ in range(2):
            consumer.transaction()
            wait_for(consumer.checkpoint())
        for _ in range(2):
            consumer.transaction().__enter__()
        consumer.transaction()
        next(batches)
        with consumer.transaction() as last:
            pass
        assert last.entered
    assert sum(finished(topic).values()) == 4 + 4 - 1


def test_a_transaction_that_was_stored_before_it_was_cut_off_is_not_done_again(
    topic: Topic, log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = log.create_topic("done", partitions=1)

    def interrupt(_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with consume(topic, partitions=0) as consumer:
        monkeypatch.setattr(ClaimsFence, "committed", interrupt)
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt):
                for event in consumer:
                    with consumer.transaction() as tx:
                        tx.append(done, event.body)
    assert [event.body for event in done.read(0)] == [b"0:%d" % offset for offset in range(5)]
