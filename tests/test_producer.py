"""`Topic.producer`: deliveries, batches, a bounded buffer, callbacks, threads, and closing."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import eventlog
from eventlog import (
    BufferFullError,
    ClosedError,
    DeliveryError,
    Event,
    EventLog,
    EventTooLargeError,
    LogBusyError,
    LogFullError,
    PartitionNotFoundError,
    Receipt,
    StoredEvent,
    Topic,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.producer import Producer
from eventlog.producing.delivery import Delivery
from tests.embedded.test_processes import in_time
from tests.producing import (
    NEVER,
    PATIENCE,
    MemoryOutlet,
    fill,
    in_thread,
    join,
    stall,
    stored,
)

if TYPE_CHECKING:
    from tests.conftest import Start


@pytest.fixture
def topic(memory_log: EventLog) -> Topic:
    return memory_log.create_topic("t", partitions=4)


@pytest.fixture
def outlet() -> Iterator[MemoryOutlet]:
    """An outlet that nothing waits for in the end."""
    outlet = MemoryOutlet()
    yield outlet
    outlet.open.set()


# ---- Deliveries ----------------------------------------------------------------------------------


def test_a_delivery_yields_the_receipt_of_its_own_event_once_it_can_be_read(topic: Topic) -> None:
    with topic.producer() as producer:
        deliveries = [producer.send(b"%d" % n, key=f"k{n % 7}") for n in range(1000)]
        for number, delivery in enumerate(deliveries):
            receipt = delivery.result(timeout=PATIENCE)
            (event,) = topic.read(receipt.partition, receipt.offset, max_events=1)
            assert event.body == b"%d" % number
            assert receipt == Receipt(event.partition, event.offset, 1, event.enqueued_at)
            assert not receipt.duplicate
            assert delivery.partition == receipt.partition
    assert len(stored(topic)) == 1000


def test_events_come_back_as_they_were_sent_whatever_is_mixed(topic: Topic) -> None:
    when = datetime(2013, 1, 1, tzinfo=UTC)
    events = [
        Event(b"plain"),
        Event(b"keyed", key="k"),
        Event(b"bytes key", key=b"k"),
        Event(b"", key=""),
        Event(b"rich", key="k", properties={"a": 1, "b": None, "c": when, "d": b"x", "e": 1.5}),
        Event(b"rich, no key", properties={"only": True}),
        Event(b"empty properties", key="k", properties={}),
    ] * 50
    random.Random(0).shuffle(events)
    with topic.producer(linger=NEVER) as producer:
        sent = [(e, producer.send(e.body, key=e.key, properties=e.properties)) for e in events]
        producer.flush()
        for event, delivery in sent:
            receipt = delivery.result()
            (found,) = topic.read(receipt.partition, receipt.offset, max_events=1)
            assert (found.body, found.key, dict(found.properties)) == (
                event.body,
                event.key,
                dict(event.properties),
            )


def test_bodies_may_be_text_and_what_can_change_is_copied(topic: Topic) -> None:
    changing = bytearray(b"before")
    with topic.producer(linger=NEVER) as producer:
        producer.send("tëxt", partition=0)
        producer.send(changing, partition=0)
        producer.send(memoryview(b"view"), partition=0)
        properties = {"a": 1}
        producer.send(b"rich", properties=properties, partition=0)
        changing[:] = b"after!"
        properties["a"] = 2
    events = topic.read(0)
    assert [event.body for event in events] == ["tëxt".encode(), b"before", b"view", b"rich"]
    assert events[3].properties == {"a": 1}


def test_waiting_for_a_result_can_be_given_up_and_the_event_is_stored_all_the_same(
    outlet: MemoryOutlet,
) -> None:
    producer = Producer(outlet)
    delivery = stall(outlet, producer)
    for timeout in (0, 0.001, timedelta(milliseconds=1)):
        with pytest.raises(TimeoutError):
            delivery.result(timeout)
        with pytest.raises(TimeoutError):
            delivery.exception(timeout)
    before = delivery.done
    assert "under way" in repr(delivery)
    outlet.open.set()
    assert delivery.result(timeout=timedelta(seconds=PATIENCE)).offset == 0
    assert (before, delivery.done) == (False, True)
    assert delivery.exception() is None
    assert "offset=0" in repr(delivery)
    assert outlet.bodies == [b"0"]
    producer.close()


@pytest.mark.parametrize("timeout", [-1, -0.1, float("nan")])
def test_a_negative_timeout_of_a_delivery_is_a_value_error(
    timeout: float, outlet: MemoryOutlet
) -> None:
    with Producer(outlet, linger=NEVER) as producer, pytest.raises(ValueError, match="timeout"):
        producer.send(b"x").result(timeout)


def test_callbacks_of_a_delivery_are_called_with_it_before_and_after_it_is_done(
    outlet: MemoryOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    producer = Producer(outlet)
    delivery = stall(outlet, producer)
    called: list[tuple[int, Delivery]] = []

    def fail(_: object) -> None:
        raise ValueError("broken")

    delivery.add_done_callback(lambda d: called.append((1, d)))
    delivery.add_done_callback(fail)
    delivery.add_done_callback(lambda d: called.append((2, d)))
    assert called == []
    outlet.open.set()
    producer.flush()
    delivery.add_done_callback(lambda d: called.append((3, d)))
    assert called == [(1, delivery), (2, delivery), (3, delivery)]
    assert "broken" in caplog.text
    producer.close()


@pytest.mark.anyio
async def test_a_delivery_can_be_awaited_before_and_after_it_is_done(topic: Topic) -> None:
    async with topic.producer() as producer:
        deliveries = [producer.send(b"%d" % number, partition=1) for number in range(100)]
        receipts = [await delivery for delivery in deliveries]
        assert [receipt.offset for receipt in receipts] == [*range(100)]
        assert await deliveries[7] == receipts[7]


@pytest.mark.anyio
async def test_who_is_cancelled_while_awaiting_withdraws_nothing(outlet: MemoryOutlet) -> None:
    outlet.open.clear()
    async with Producer(outlet, linger=0) as producer:
        delivery = producer.send(b"x")
        with anyio.move_on_after(0) as scope:
            await delivery
        assert scope.cancelled_caught
        assert not delivery.done
        outlet.open.set()
        assert (await delivery).offset == 0


def test_a_delivery_knows_its_event_until_that_is_stored(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=NEVER)
    plain = producer.send(b"x", key="k")
    rich = producer.send(b"y", properties={"a": 1})
    assert [plain.event, rich.event] == [Event(b"x", key="k"), Event(b"y", properties={"a": 1})]
    producer.flush()
    assert [plain.event, rich.event] == [None, None]
    outlet.errors.append(LookupError())
    failed = producer.send(b"z", key="k")
    with pytest.raises(DeliveryError):
        producer.close()
    assert failed.event == Event(b"z", key="k")


def test_each_raise_of_a_failure_is_an_error_of_its_own(outlet: MemoryOutlet) -> None:
    """One object raised by many threads would collect the tracebacks of all."""
    outlet.errors.append(LogFullError("full"))
    with Producer(outlet) as producer:
        delivery = producer.send(b"x")
        raised = []
        for _ in range(2):
            with pytest.raises(LogFullError, match="full") as caught:
                delivery.result(PATIENCE)
            raised.append(caught.value)
        assert raised[0] is not raised[1]


# ---- Batches -------------------------------------------------------------------------------------


def test_what_is_sent_within_linger_is_stored_together(outlet: MemoryOutlet) -> None:
    with Producer(outlet, linger=NEVER) as producer:
        for number in range(50):
            producer.send(b"%d" % number, partition=number % 2)
        assert producer.metrics.buffered_events == 50
        producer.flush()
        assert outlet.calls == [{0: 25, 1: 25}]
        assert producer.metrics == (0, 0, 2, 50, 0)


@pytest.mark.parametrize("linger", [0, 0.001, timedelta(milliseconds=1)])
def test_after_linger_events_are_stored_without_a_word(
    linger: float | timedelta, outlet: MemoryOutlet
) -> None:
    with Producer(outlet, linger=linger) as producer:
        for number in range(3):
            assert producer.send(b"x", partition=0).result(PATIENCE).offset == number


@pytest.mark.parametrize("most", [1, 2, 3, 10, 500])
@pytest.mark.parametrize("properties", [None, {"a": 1}], ids=["plain", "rich"])
def test_a_batch_is_stored_as_soon_as_it_has_so_many_events(
    most: int, properties: dict[str, Any] | None, outlet: MemoryOutlet
) -> None:
    with Producer(outlet, linger=NEVER, max_batch_events=most) as producer:
        for _ in range(3):
            deliveries = [producer.send(b"", key="k", properties=properties) for _ in range(most)]
            assert deliveries[-1].exception(PATIENCE) is None
        assert [list(call.values()) for call in outlet.calls] == [[most]] * 3


def test_the_most_events_are_counted_by_partition(outlet: MemoryOutlet) -> None:
    with Producer(outlet, linger=NEVER, max_batch_events=100) as producer:
        for number in range(99 * 4):
            producer.send(b"x", partition=number % 4)
        assert producer.metrics.buffered_events == 99 * 4
        assert producer.send(b"last", partition=2).result(PATIENCE).offset == 99
        assert outlet.calls == [{0: 99, 1: 99, 2: 100, 3: 99}]


def test_events_are_stored_as_soon_as_they_have_so_many_bytes(outlet: MemoryOutlet) -> None:
    with Producer(outlet, linger=NEVER, max_batch_bytes=10_000) as producer:
        size = 1000 + 64
        deliveries = [producer.send(bytes(1000), partition=n % 2) for n in range(10)]
        assert deliveries[8].exception(PATIENCE) is None
        assert outlet.calls == [{0: 5, 1: 4}]
        assert producer.metrics.buffered_bytes == size
        producer.send(bytes(20_000), partition=0)
        assert deliveries[9].exception(PATIENCE) is None
        assert outlet.calls == [{0: 5, 1: 4}, {1: 1}]
        producer.flush()
        assert outlet.calls[2:] == [{0: 1}]


def test_a_topic_of_small_events_has_batches_as_large_as_others() -> None:
    outlet = MemoryOutlet(max_event_bytes=20)
    with Producer(outlet, linger=NEVER) as producer:
        for number in range(5000):
            producer.send(b"%d" % number, key="k")
        with pytest.raises(EventTooLargeError, match="21 bytes; topic 't' takes 20"):
            producer.send(bytes(21), key="k")
        producer.flush()
        assert [sum(call.values()) for call in outlet.calls] == [5000]


def test_parcels_that_wait_are_stored_with_one_call(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=NEVER, max_batch_events=10)
    stall(outlet, producer)
    for number in range(95):
        producer.send(b"%d" % number, partition=1)
    outlet.open.set()
    producer.close()
    assert [row.body for row in outlet.rows[1]] == [b"%d" % number for number in range(95)]
    assert len(outlet.calls) == 2


def test_events_without_a_key_go_round_robin_batch_by_batch(outlet: MemoryOutlet) -> None:
    with Producer(outlet, linger=NEVER) as producer:
        for _ in range(8):
            for _ in range(5):
                producer.send(b"x")
            producer.flush()
    assert outlet.calls == [{number % 4: 5} for number in range(8)]


def test_a_full_batch_without_keys_is_followed_by_one_of_the_next_partition(
    outlet: MemoryOutlet,
) -> None:
    with Producer(outlet, linger=NEVER, max_batch_events=10) as producer:
        deliveries = [producer.send(b"%d" % number) for number in range(100)]
        producer.flush()
        partitions = [delivery.result().partition for delivery in deliveries]
    assert partitions == [number // 10 % 4 for number in range(100)]


def test_keys_go_where_append_puts_them(topic: Topic) -> None:
    with topic.producer() as producer:
        for key in ("a", b"a", "VIN-7", "", "ü", b"\xff"):
            for _ in range(2):
                sent = producer.send(b"x", key=key)
                assert sent.result(PATIENCE).partition == topic.append(b"y", key=key).partition


def test_partitions_that_are_added_are_used_once_keys_move(topic: Topic) -> None:
    keys = [f"k{number}" for number in range(50)]
    with topic.producer(linger=NEVER) as producer:
        for key in keys:
            producer.send(b"before", key=key)
        producer.flush()
        other = topic.log.topic("t")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other.add_partitions(4)
        assert producer.send(b"named", partition=7).result is not None
        for _ in range(2):  # the first time, the producer may not know yet
            for key in keys:
                producer.send(b"after", key=key)
            producer.flush()
        placed = {key: producer.send(b"last", key=key) for key in keys}
        producer.flush()
    expected = {key: other.append(b"x", key=key).partition for key in keys}
    assert {key: delivery.result().partition for key, delivery in placed.items()} == expected
    assert max(expected.values()) >= 4
    assert len(stored(other)) == 5 * 50 + 1


def test_a_key_that_moves_while_it_is_placed_is_placed_anew_next_time(outlet: MemoryOutlet) -> None:
    place = outlet.partition_of

    def place_and_grow(key: Any) -> int:
        number = place(key)
        outlet.grow(9)
        producer.flush()  # it notices when it seals
        return number

    producer = Producer(outlet, linger=NEVER)
    producer.send(b"x", partition=0)
    outlet.partition_of = place_and_grow  # type: ignore[method-assign]
    before = producer.send(b"before", key="moves")
    outlet.partition_of = place  # type: ignore[method-assign]
    after = [producer.send(b"after", key="moves") for _ in range(2)]
    producer.close()
    assert place("moves") != before.partition
    assert {delivery.partition for delivery in after} == {place("moves")}


# ---- Arguments -----------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no body": ({"body": None}, TypeError, "bytes or str"),
    "a dict": ({"body": {}}, TypeError, "Event.from_json"),
    "an Event": ({"body": Event(b"x")}, TypeError, "bytes or str"),
    "no Unicode": ({"body": "\ud800"}, ValueError, "not valid Unicode"),
    "a key that is an int": ({"key": 7}, TypeError, "a key is str or bytes"),
    "a key that is a list": ({"key": [7]}, TypeError, "a key is str or bytes"),
    "a long key": ({"key": "k" * 1025}, EventTooLargeError, "1024 bytes"),
    "a property of a wrong type": ({"properties": {"a": []}}, TypeError, "'a'"),
    "a naive time": ({"properties": {"a": datetime(2013, 1, 1)}}, ValueError, "timezone"),  # noqa: DTZ001
    "properties that are a list": ({"properties": [1]}, TypeError, "mapping"),
    "a large body": ({"body": bytes(2**20 + 1)}, EventTooLargeError, "1,048,577"),
    "no such partition": ({"partition": 4}, PartitionNotFoundError, "4"),
    "a negative partition": ({"partition": -1}, PartitionNotFoundError, "-1"),
    "a partition that is text": ({"partition": "0"}, TypeError, "partition"),
    "a sequence without a name": ({"sequence": 1}, ValueError, "producer_id"),
    "a negative timeout": ({"timeout": -1, "properties": {}}, ValueError, "timeout"),
}


@pytest.mark.parametrize(("given", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused_at_once_and_nothing_of_it_is_stored(
    given: dict[str, Any], error: type[Exception], message: str, topic: Topic
) -> None:
    with topic.producer(linger=NEVER) as producer:
        first = producer.send(b"before", key="k")
        with pytest.raises(error, match=message):
            producer.send(**{"body": b"wrong", **given})
        producer.send(b"after", key="k")
        assert producer.metrics.buffered_events == 2
    assert first.result().offset == 0
    assert stored(topic) == [b"before", b"after"]


OPTIONS: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "linger": ({"linger": -1}, ValueError),
    "linger that is text": ({"linger": "1"}, TypeError),
    "max_batch_events": ({"max_batch_events": 0}, ValueError),
    "max_batch_events that is a float": ({"max_batch_events": 1.0}, TypeError),
    "max_batch_bytes": ({"max_batch_bytes": 0}, ValueError),
    "max_buffered_bytes": ({"max_buffered_bytes": 0}, ValueError),
    "max_buffered_bytes that is a bool": ({"max_buffered_bytes": True}, TypeError),
    "producer_id": ({"producer_id": ""}, ValueError),
    "producer_id that is bytes": ({"producer_id": b"p"}, TypeError),
    "on_delivery": ({"on_delivery": 1}, TypeError),
}


@pytest.mark.parametrize(("options", "error"), OPTIONS.values(), ids=OPTIONS)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], topic: Topic) -> None:
    with pytest.raises(error):
        topic.producer(**options)


def test_a_key_of_a_derived_class_is_stored_as_the_plain_one_it_equals(topic: Topic) -> None:
    class Name(str):
        __slots__ = ()

    class Raw(bytes):
        __slots__ = ()

    with topic.producer(linger=NEVER) as producer:
        for key in ("car", Name("car"), b"car", Raw(b"car"), Name("other")):
            producer.send(b"x", key=key)
    found = [e.key for n in range(4) for e in topic.read(n)]
    assert sorted(map(repr, found)) == ["'car'"] * 2 + ["'other'"] + ["b'car'"] * 2
    assert {type(key) for key in found} == {str, bytes}


def test_a_function_that_places_keys_may_use_the_producer(outlet: MemoryOutlet) -> None:
    """What users hand in is called outside of every lock."""
    place = outlet.partition_of

    def place_and_send(key: Any) -> int:
        if key != "inner":
            producer.send(b"y", key="inner")
            assert producer.metrics.buffered_events > 0
        return place(key)

    outlet.partition_of = place_and_send  # type: ignore[method-assign]
    producer = Producer(outlet, linger=NEVER)
    in_time(lambda: producer.send(b"x", key="outer"))
    in_time(producer.close)
    assert sorted(outlet.bodies) == [b"x", b"y"]


def test_a_read_only_log_has_no_producers(log: EventLog) -> None:
    log.create_topic("t")
    with (
        eventlog.open(log.location, read_only=True) as reader,
        pytest.raises(UnsupportedOperationError, match="read_only"),
    ):
        reader.topic("t").producer()


def test_more_keys_than_are_remembered_are_placed_all_the_same(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.producer._MOST_PLACES", 10)
    with topic.producer() as producer:
        for _ in range(3):
            for number in range(100):
                producer.send(b"%d" % number, key=f"{number}")
        assert len(producer._places) <= 10
    expected = {n: topic.append(b"", key=f"{n}").partition for n in range(100)}
    for partition in range(4):
        for event in topic.read(partition, max_events=1000):
            if event.body:
                assert expected[int(event.body)] == partition


# ---- A bounded buffer ----------------------------------------------------------------------------


def test_an_event_that_finds_no_room_in_time_is_refused_and_not_accepted(
    outlet: MemoryOutlet,
) -> None:
    producer = Producer(outlet, max_buffered_bytes=10_000)
    stall(outlet, producer)
    accepted = fill(producer)
    for timeout in (0, 0.001, timedelta(milliseconds=1)):
        with pytest.raises(BufferFullError, match=r"of 10,000 bytes buffered: no room for 164"):
            producer.send(bytes(100), key="k", timeout=timeout)
    assert 10_000 - 164 < producer.metrics.buffered_bytes <= 10_000
    assert producer.metrics.buffered_events == 1 + len(accepted)
    outlet.open.set()
    assert all(delivery.exception(PATIENCE) is None for delivery in accepted)
    assert producer.send(bytes(100), timeout=0).exception(PATIENCE) is None
    producer.close()
    assert len(outlet.bodies) == len(accepted) + 2


@pytest.mark.parametrize("timeout", [None, PATIENCE, float("inf")])
def test_who_finds_no_room_waits_until_there_is(
    timeout: float | None, outlet: MemoryOutlet
) -> None:
    producer = Producer(outlet, max_buffered_bytes=1000)
    stall(outlet, producer)
    fill(producer)
    sent: list[Delivery] = []
    thread = in_thread(lambda: sent.append(producer.send(b"waited", timeout=timeout)))
    assert not sent
    outlet.open.set()
    join(thread)
    assert sent[0].exception(PATIENCE) is None
    producer.close()
    assert b"waited" in outlet.bodies


def test_an_event_larger_than_the_buffer_is_accepted_alone(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=NEVER, max_buffered_bytes=1000)
    large = producer.send(bytes(100_000), timeout=0)
    with pytest.raises(BufferFullError):
        producer.send(b"x", timeout=0)
    producer.flush()
    stall(outlet, producer)
    with pytest.raises(BufferFullError):
        producer.send(bytes(100_000), timeout=0)
    sent: list[Delivery] = []
    thread = in_thread(lambda: sent.append(producer.send(bytes(100_000))))
    outlet.open.set()
    join(thread)
    producer.close()
    assert large.result().count == sent[0].result().count == 1


def test_several_threads_that_wait_for_room_all_get_it(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=0, max_buffered_bytes=500)
    stall(outlet, producer)
    fill(producer)
    before = producer.metrics.buffered_events
    threads = [
        in_thread(lambda n=number: [producer.send(b"%d %d" % (n, i)) for i in range(20)])  # type: ignore[misc]
        for number in range(10)
    ]
    outlet.open.set()
    join(*threads)
    producer.close()
    assert len(outlet.bodies) == 10 * 20 + before
    assert {b"%d %d" % (n, i) for n in range(10) for i in range(20)} <= set(outlet.bodies)


def test_closing_tells_who_waits_for_room(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, max_buffered_bytes=500)
    stall(outlet, producer)
    fill(producer)
    raised: list[BaseException] = []

    def send() -> None:
        try:
            producer.send(b"x")
        except ClosedError as error:
            raised.append(error)

    threads = [in_thread(send) for _ in range(3)]
    while producer._room is None or len(producer._room._callbacks) < 3:
        time.sleep(0)
    with pytest.raises(TimeoutError):
        producer.close(timeout=0)
    join(*threads)
    assert len(raised) == 3
    outlet.open.set()
    producer.close()


def test_the_buffer_stays_within_its_bound_whoever_sends(
    outlet: MemoryOutlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    store = outlet.store

    def look_and_store(batches: Any, identity: Any, last: Any) -> Any:
        seen.append(producer.metrics.buffered_bytes)
        return store(batches, identity, last)

    monkeypatch.setattr(outlet, "store", look_and_store)
    producer = Producer(outlet, linger=0, max_buffered_bytes=20_000, max_batch_bytes=5000)
    rng = random.Random(1)
    sizes = [rng.randrange(3000) for _ in range(300)]
    threads = [
        in_thread(lambda: [producer.send(bytes(size), key=str(size % 9)) for size in sizes])
        for _ in range(4)
    ]
    join(*threads)
    producer.close()
    assert len(outlet.bodies) == 1200
    assert max(seen) <= 20_000
    assert producer.metrics[:2] == (0, 0)


@pytest.mark.anyio
async def test_on_an_event_loop_send_never_waits(outlet: MemoryOutlet) -> None:
    async with Producer(outlet, max_buffered_bytes=500, linger=0) as producer:
        outlet.open.clear()
        fill(producer)
        for timeout in (None, 60):
            with pytest.raises(BufferFullError):
                producer.send(b"x", timeout=timeout)
        room = producer.ready()
        assert not room.done
        outlet.open.set()
        await room
        producer.send(bytes(100))


@pytest.mark.anyio
async def test_a_worker_thread_of_an_event_loop_waits_for_room(outlet: MemoryOutlet) -> None:
    async with Producer(outlet, max_buffered_bytes=500, linger=0) as producer:
        outlet.open.clear()
        fill(producer)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, lambda: producer.send(b"waited"))
            await anyio.lowlevel.checkpoint()
            outlet.open.set()
        await producer.flush()
        assert b"waited" in outlet.bodies


@pytest.mark.anyio
async def test_sending_and_waiting_for_room_in_turns_comes_to_an_end(outlet: MemoryOutlet) -> None:
    """`ready` is not done at once if the event that was refused would be refused again."""
    async with Producer(outlet, max_buffered_bytes=1000, linger=NEVER) as producer:
        rounds = 0
        for number in range(200):
            while True:
                try:
                    producer.send(bytes(number % 5 * 200), partition=0)
                    break
                except BufferFullError:
                    await producer.ready()
                    rounds += 1
        await producer.flush()
    assert len(outlet.bodies) == 200
    assert rounds < 400


def test_ready_is_done_at_once_while_there_is_room(outlet: MemoryOutlet) -> None:
    with Producer(outlet, linger=NEVER, max_buffered_bytes=1000) as producer:
        assert producer.ready().done
        producer.send(b"x")
        assert producer.ready().done
        assert producer.ready().result() is None


def test_duplicates_take_room_in_the_buffer_too(outlet: MemoryOutlet) -> None:
    outlet.open.clear()
    producer = Producer(outlet, producer_id="p", max_buffered_bytes=1000)
    producer.send(b"x", sequence=5)
    for _ in range(5):
        producer.send(bytes(100), sequence=3, timeout=0)
    with pytest.raises(BufferFullError):
        producer.send(bytes(100), sequence=3, timeout=0)
    outlet.open.set()
    producer.close()


# ---- on_delivery ---------------------------------------------------------------------------------


def test_on_delivery_is_called_with_each_delivery_and_knows_the_event(
    outlet: MemoryOutlet,
) -> None:
    called: list[tuple[bytes, int, bool]] = []

    def note(delivery: Delivery) -> None:
        assert delivery.event is not None
        called.append((delivery.event.body, delivery.result(0).offset, delivery.done))

    with Producer(outlet, on_delivery=note) as producer:
        for number in range(100):
            producer.send(b"%d" % number, partition=2)
        producer.flush()
        assert called == [(b"%d" % number, number, True) for number in range(100)]


def test_on_delivery_is_told_of_failures_and_flush_raises_nothing_then(
    outlet: MemoryOutlet,
) -> None:
    failed: list[BaseException | None] = []
    outlet.errors.append(LogFullError("full"))
    with Producer(outlet, linger=NEVER, on_delivery=lambda d: failed.append(d.exception())) as p:
        p.send(b"x")
        p.send(b"y")
        p.flush()
        p.send(b"z")
    assert [type(error) for error in failed] == [LogFullError, LogFullError, type(None)]
    assert p.metrics[3:] == (1, 2)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_on_delivery_that_raises_is_logged_and_all_go_on(
    error: type[BaseException], outlet: MemoryOutlet, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[Delivery] = []

    def fail(delivery: Delivery) -> None:
        called.append(delivery)
        raise error("broken")

    with Producer(outlet, on_delivery=fail) as producer:
        for _ in range(3):
            producer.send(b"x")
            producer.flush()
    assert len(called) == 3
    assert caplog.text.count("a callback failed") == 3


def test_on_delivery_may_send_again_what_failed(outlet: MemoryOutlet) -> None:
    outlet.errors += [LogBusyError("busy"), LogBusyError("busy")]

    def send_again(delivery: Delivery) -> None:
        if delivery.exception() is not None:
            assert delivery.event is not None
            producer.send(delivery.event.body, partition=0)

    producer = Producer(outlet, on_delivery=send_again)
    for number in range(10):
        producer.send(b"%d" % number, partition=0)
    for _ in range(3):
        producer.flush()
    assert sorted(outlet.bodies) == [b"%d" % number for number in range(10)]
    producer.close()


def test_what_a_producer_calls_back_does_not_wait_for_room(outlet: MemoryOutlet) -> None:
    """Only the thread that it runs in could make room."""
    raised: list[BaseException] = []

    def send_much(_: object) -> None:
        producer.send(bytes(900))
        try:
            producer.send(bytes(900), timeout=None)
        except BufferFullError as error:
            raised.append(error)

    producer = Producer(outlet, linger=NEVER, max_buffered_bytes=1000)
    producer.send(b"x").add_done_callback(send_much)
    in_time(producer.flush)
    in_time(producer.close)
    assert len(raised) == 1
    assert len(outlet.bodies) == 2


def test_flush_in_a_callback_is_an_error_if_something_is_left(outlet: MemoryOutlet) -> None:
    raised: list[BaseException] = []

    def flush(_: object) -> None:
        producer.send(b"left")
        try:
            producer.flush()
        except RuntimeError as error:
            raised.append(error)

    producer = Producer(outlet, linger=NEVER)
    producer.send(b"x").add_done_callback(flush)
    in_time(producer.flush)
    in_time(producer.close)
    assert "cannot wait for the producer itself" in str(raised[0])
    assert outlet.bodies == [b"x", b"left"]


@pytest.mark.anyio
async def test_a_coroutine_on_delivery_runs_on_the_loop_in_order_and_close_waits_for_it(
    topic: Topic,
) -> None:
    called: list[int] = []
    home = threading.get_ident()

    async def note(delivery: Delivery) -> None:
        receipt = await delivery
        await anyio.lowlevel.checkpoint()
        assert threading.get_ident() == home
        called.append(receipt.offset)

    async with topic.producer(on_delivery=note) as producer:
        for _ in range(50):
            producer.send(b"x", partition=0)
        await producer.flush()
        assert called == [*range(50)]
        producer.send(b"x", partition=0)
    assert called == [*range(51)]


@pytest.mark.anyio
async def test_a_coroutine_on_delivery_may_flush(topic: Topic) -> None:
    called: list[Delivery] = []

    async def note(delivery: Delivery) -> None:
        called.append(delivery)
        if len(called) < 3:
            producer.send(b"more")
            await producer.flush()

    async with topic.producer(on_delivery=note) as producer:
        producer.send(b"x")
        while len(called) < 3:
            await producer.flush()
    assert len(stored(topic)) == 3


def test_a_coroutine_on_delivery_runs_without_a_loop_too(topic: Topic) -> None:
    called: list[int] = []

    async def note(delivery: Delivery) -> None:
        await anyio.lowlevel.checkpoint()
        called.append((await delivery).offset)

    with topic.producer(on_delivery=note) as producer:
        for _ in range(20):
            producer.send(b"x", partition=0)
    assert called == [*range(20)]


# ---- Many threads --------------------------------------------------------------------------------


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads are switched as often as can be: sending takes no mutex in the usual case."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_events_of_a_thread_stay_in_order_in_their_partition_and_all_are_there_once(
    topic: Topic,
) -> None:
    deliveries: dict[int, list[Delivery]] = {}
    producer = topic.producer(
        linger=0.0001, max_batch_events=50, max_batch_bytes=5000, max_buffered_bytes=20_000
    )

    def send(writer: int) -> None:
        rng = random.Random(writer)
        own = deliveries[writer] = []
        for number in range(2500):
            body = b"%d %d" % (writer, number)
            rich = {"n": number} if rng.random() < 0.1 else None
            key = rng.choice(("a", "b", "c", None, f"own-{writer}"))
            own.append(producer.send(body, key=key, properties=rich))

    join(*[in_thread(lambda w=writer: send(w)) for writer in range(8)])  # type: ignore[misc]
    producer.close()
    assert producer.metrics[:2] == (0, 0)
    assert producer.metrics.delivered == 8 * 2500
    there = {n: topic.read(n, max_events=1_000_000) for n in range(4)}
    assert sum(map(len, there.values())) == 8 * 2500
    require_order(there)
    for writer, own in deliveries.items():
        for number, delivery in enumerate(own):
            receipt = delivery.result(0)
            event = there[receipt.partition][receipt.offset]
            assert event.body == b"%d %d" % (writer, number)
            assert event.properties == ({"n": number} if event.properties else {})


def require_order(there: dict[int, list[StoredEvent]]) -> None:
    """In each partition, the numbers of each writer grow from event to event of a key."""
    last: defaultdict[tuple[object, ...], int] = defaultdict(lambda: -1)
    for partition, events in there.items():
        for event in events:
            writer, number = map(int, event.body.split())
            assert number > last[partition, writer, event.key]
            last[partition, writer, event.key] = number


@pytest.mark.usefixtures("restless")
def test_equal_events_of_many_threads_each_have_an_offset_of_their_own(topic: Topic) -> None:
    found: list[int] = []

    def send() -> None:
        deliveries = [producer.send(b"same", key="same") for _ in range(3000)]
        found.extend([delivery.result(PATIENCE).offset for delivery in deliveries])

    with topic.producer(max_batch_bytes=2000) as producer:
        join(*[in_thread(send) for _ in range(8)])
    assert sorted(found) == [*range(24_000)]


class Hold:
    """Holds `Producer.send` at one of the lines it comes to, and does something meanwhile."""

    def __init__(self, line: int, do: Callable[[], object]) -> None:
        self._left = line
        self._do = do

    def __enter__(self) -> Self:
        sys.settrace(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        return self._step if frame.f_code is Producer.send.__code__ else None

    def _step(self, frame: FrameType, event: str, _: object) -> Any:
        self._left -= event == "line"
        if self._left == 0:
            self._do()
        return self._step

    @property
    def held(self) -> bool:
        """Whether it came so far."""
        return self._left <= 0


def test_an_event_that_comes_while_its_parcel_is_taken_is_stored_once_wherever_that_happens(
    outlet: MemoryOutlet,
) -> None:
    producer = Producer(outlet, linger=NEVER)
    deliveries: list[Delivery] = []
    for line in range(1, 100):
        deliveries.append(producer.send(b"first %d" % line, key="k"))
        with Hold(line, lambda: in_time(producer.flush)) as hold:
            deliveries.append(producer.send(b"second %d" % line, key="k"))
        if not hold.held:
            break
    producer.close()
    assert line > 10
    rows = outlet.rows[deliveries[0].partition]
    offsets = [delivery.result(0).offset for delivery in deliveries]
    assert sorted(offsets) == [*range(len(rows))] == [*range(2 * line)]
    assert [rows[offset].body.split()[0] for offset in offsets] == [b"first", b"second"] * line
    assert len({row.body for row in rows}) == 2 * line


# Reads a file and sends its lines: a thread that lets go of the interpreter about once in a
# millisecond, for a moment, and so keeps it from all others.
BUSY = """
import sys
import eventlog

with eventlog.open("memory:") as log, open(sys.argv[1], "rb") as lines:
    with log.create_topic("t").producer(producer_id="p") as producer:
        for number, line in enumerate(lines):
            producer.send(line, sequence=number)
        print(producer.metrics.delivered)
"""


def test_a_thread_that_is_busy_reading_and_sending_does_not_keep_events_from_being_stored(
    tmp_path: Path, start: Start
) -> None:
    (tmp_path / "lines").write_bytes(b"".join(b"line %d\n" % number for number in range(300_000)))
    (delivered,) = start(BUSY, tmp_path / "lines").rest()
    assert int(delivered) > 30_000


@pytest.mark.parametrize("late", [0.0, NEVER], ids=["late", "not late"])
def test_sending_pauses_for_a_moment_only_while_what_was_sent_waits_for_long(
    late: float, outlet: MemoryOutlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.producing.buffer._LATE_SECONDS", late)
    monkeypatch.setattr("eventlog.producing.buffer._BETWEEN_PAUSES", 0.0)
    pauses: list[float] = []
    monkeypatch.setattr("eventlog.producing.buffer._pause", pauses.append)
    producer = Producer(outlet, linger=NEVER)
    producer.send(b"x", partition=0)
    assert not pauses
    stall(outlet, producer)
    for _ in range(10):
        producer.send(b"x", partition=0)
    assert len(pauses) == (0 if late else 10)
    outlet.open.set()
    producer.flush()
    pauses.clear()
    producer.send(b"x", partition=0)
    assert not pauses
    producer.close()


# ---- Flush, close, with --------------------------------------------------------------------------


def test_flush_waits_for_what_was_accepted_and_can_be_given_up(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=NEVER)
    producer.flush()
    delivery = stall(outlet, producer)
    for timeout in (0, 0.001, timedelta(milliseconds=1)):
        with pytest.raises(TimeoutError):
            producer.flush(timeout)
    outlet.open.set()
    producer.flush(timeout=PATIENCE)
    assert delivery.done
    producer.close()


def test_a_closed_producer_accepts_nothing_and_can_be_closed_again(outlet: MemoryOutlet) -> None:
    producer = Producer(outlet, linger=NEVER)
    delivery = producer.send(b"x", key="k")
    producer.close()
    assert delivery.done
    producer.close()
    producer.flush()
    for _ in range(2):
        with pytest.raises(ClosedError, match="the producer of topic 't' was closed"):
            producer.send(b"y", key="k")
    assert outlet.bodies == [b"x"]
    assert producer.metrics == (0, 0, 1, 1, 0)


def test_close_can_be_given_up_and_what_was_accepted_is_stored_all_the_same(
    outlet: MemoryOutlet,
) -> None:
    producer = Producer(outlet)
    delivery = stall(outlet, producer)
    with pytest.raises(TimeoutError):
        producer.close(timeout=0)
    with pytest.raises(ClosedError):
        producer.send(b"y")
    outlet.open.set()
    assert delivery.exception(PATIENCE) is None


def send_and_fail(producer: Producer) -> None:
    """Leave ``with`` on an exception."""
    with producer:
        producer.send(b"x")
        raise ZeroDivisionError


def test_leaving_with_on_an_exception_delivers_what_was_accepted(topic: Topic) -> None:
    with pytest.raises(ZeroDivisionError):
        send_and_fail(topic.producer(linger=NEVER))
    assert stored(topic) == [b"x"]


def test_what_could_not_be_delivered_is_a_note_on_the_exception_that_left_with(
    outlet: MemoryOutlet,
) -> None:
    outlet.errors.append(LogFullError("full"))
    with pytest.raises(ZeroDivisionError) as caught:
        send_and_fail(Producer(outlet, linger=NEVER))
    assert caught.value.__notes__ == ["1 events for topic 't' were not stored: full"]


@pytest.mark.anyio
async def test_async_with_delivers_what_was_accepted(topic: Topic) -> None:
    async with topic.producer(linger=NEVER) as producer:
        delivery = producer.send(b"x")
    assert delivery.done
    with pytest.raises(ClosedError):
        producer.send(b"y")


async def send_and_leave(producer: Producer, error: Exception | None) -> None:
    """Leave ``async with``, on an exception if there is one."""
    async with producer:
        producer.send(b"x")
        if error is not None:
            raise error


@pytest.mark.anyio
async def test_leaving_async_with_on_an_exception_delivers_or_says_what_it_could_not(
    outlet: MemoryOutlet,
) -> None:
    with pytest.raises(ZeroDivisionError):
        await send_and_leave(Producer(outlet, linger=NEVER), ZeroDivisionError())
    assert outlet.bodies == [b"x"]
    outlet.errors.append(LogFullError("full"))
    with pytest.raises(ZeroDivisionError) as caught:
        await send_and_leave(Producer(outlet, linger=NEVER), ZeroDivisionError())
    assert caught.value.__notes__ == ["1 events for topic 't' were not stored: full"]
    assert outlet.bodies == [b"x"]


@pytest.mark.anyio
async def test_leaving_async_with_raises_what_nobody_has_looked_at(outlet: MemoryOutlet) -> None:
    outlet.errors.append(LogFullError("full"))
    with pytest.raises(DeliveryError):
        await send_and_leave(Producer(outlet, linger=NEVER), None)


@pytest.mark.anyio
async def test_leaving_async_with_on_cancellation_delivers_what_was_accepted(
    outlet: MemoryOutlet,
) -> None:
    outlet.open.clear()
    entered = anyio.Event()

    async def send() -> None:
        async with Producer(outlet, linger=0) as producer:
            producer.send(b"x")
            entered.set()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await entered.wait()
        tasks.cancel_scope.cancel()
        outlet.open.set()
    assert outlet.bodies == [b"x"]


def test_a_task_that_asyncio_cancels_again_and_again_loses_nothing(outlet: MemoryOutlet) -> None:
    outlet.open.clear()
    deliveries: list[Delivery] = []

    async def send() -> None:
        async with Producer(outlet, linger=0) as producer:
            deliveries.extend(producer.send(b"%d" % number) for number in range(3))
            await asyncio.sleep(3600)

    async def main() -> None:
        task = asyncio.create_task(send())
        while not task.done():
            await asyncio.sleep(0)
            if deliveries:
                task.cancel()
        outlet.open.set()

    asyncio.run(main())
    assert all(delivery.exception(PATIENCE) is None for delivery in deliveries)
    assert sorted(outlet.bodies) == [b"0", b"1", b"2"]


@pytest.mark.anyio
async def test_within_async_with_flush_and_close_are_awaited(outlet: MemoryOutlet) -> None:
    async with Producer(outlet, linger=NEVER) as producer:
        outlet.open.clear()
        delivery = producer.send(b"x")
        with pytest.raises(TimeoutError):
            await producer.flush(timeout=0)
        outlet.open.set()
        await producer.flush(timeout=PATIENCE)
        assert delivery.done
        producer.send(b"y")
        await anyio.to_thread.run_sync(producer.flush)  # in a thread it blocks
        assert len(outlet.bodies) == 2
        last = producer.send(b"z")
        await producer.close()
        assert last.done
        await producer.close()


@pytest.mark.anyio
async def test_a_plain_with_works_on_an_event_loop_too(topic: Topic) -> None:
    with topic.producer(linger=NEVER, producer_id="p") as producer:
        delivery = producer.send(b"x", sequence=1)
        producer.flush()
        assert delivery.done
        await producer.flush()
    assert stored(topic) == [b"x"]


def test_closing_the_log_delivers_what_every_producer_has_accepted(log_path: Path) -> None:
    log = eventlog.open(log_path)
    topic = log.create_topic("t", partitions=2)
    producers = [topic.producer(linger=NEVER) for _ in range(5)]
    deliveries = [p.send(b"%d" % n) for n, p in enumerate(producers)]
    log.close()
    assert all(delivery.exception(0) is None for delivery in deliveries)
    for producer in producers:
        with pytest.raises(ClosedError):
            producer.send(b"late")
    with eventlog.open(log_path) as log:
        assert sorted(stored(log.topic("t"))) == [b"0", b"1", b"2", b"3", b"4"]


def test_closing_the_log_closes_every_producer_though_some_fail(log_path: Path) -> None:
    log = eventlog.open(log_path)
    kept, gone = log.create_topic("kept"), log.create_topic("gone")
    producers = [topic.producer(linger=NEVER) for topic in (gone, kept, gone, kept)]
    log.delete_topic("gone")
    deliveries = [p.send(b"%d" % n) for n, p in enumerate(producers)]
    with pytest.raises(DeliveryError, match="1 events for topic 'gone'") as caught:
        log.close()
    assert len(caught.value.__notes__) == 1
    assert [type(d.exception(0)) for d in deliveries] == [TopicNotFoundError, type(None)] * 2
    with pytest.raises(ClosedError):
        log.topics()
    with eventlog.open(log_path) as log:
        assert sorted(stored(log.topic("kept"))) == [b"1", b"3"]


@pytest.mark.anyio
async def test_a_log_closed_on_an_event_loop_delivers_first(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("t", partitions=1)
    with eventlog.open("memory:shared") as log:
        other = log.create_topic("t", partitions=1)
        producer = other.producer(linger=NEVER)
        async with topic.producer(linger=NEVER) as own:
            own.send(b"x")
            delivery = producer.send(b"x")
        log.close()
    assert delivery.done


def test_a_producer_that_nobody_holds_any_more_delivers_and_goes(topic: Topic) -> None:
    producer: Producer | None = topic.producer(linger=0.05)
    assert producer is not None
    delivery = producer.send(b"x")
    producer = None
    gc.collect()
    assert delivery.exception(PATIENCE) is None


def test_the_thread_ends_when_there_is_nothing_to_do_and_comes_back(
    outlet: MemoryOutlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.producing.buffer._IDLE_SECONDS", 0.001)
    with Producer(outlet, linger=0) as producer:
        for number in range(5):
            thread = producer._thread
            assert producer.send(b"x", partition=0).result(PATIENCE).offset == number
            while producer._thread is not None:
                time.sleep(0)
            assert thread is None


def test_whether_a_delivery_is_done_can_be_asked_as_of_a_future(topic: Topic) -> None:
    with topic.producer(linger=NEVER) as producer:
        delivery: Any = producer.send(b"x")
        assert not delivery.done
        assert delivery.done() is False
        producer.flush()
        assert delivery.done
        assert delivery.done() is True
        assert f"{delivery.done!r}" == "True"
