"""What events do not pay for: stores that hang, are away, or lose what was written."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import anyio
import pytest

from eventlog import (
    EventLog,
    EventProcessorHost,
    LeaseLostError,
    LogBusyError,
    ProcessorOptions,
    StoreUnavailableError,
    Topic,
)
from eventlog.blobs import Blob, BlobStore
from eventlog.blobs.memory import MemoryBlobs
from eventlog.processor import running
from eventlog.processor.options import RetryPolicy
from eventlog.processor.threads import in_thread
from tests.processor.hosting import (
    PATIENCE,
    QUICK,
    JumpingClock,
    Notes,
    filled,
    host_of,
    owned,
    until,
)
from tests.processor.pumping import Recorder, Rig, recorder
from tests.processor.test_coordination import Around

pytestmark = pytest.mark.anyio

ONCE: dict[str, Any] = {
    "retry": RetryPolicy(max_attempts=1, jitter=0, initial_delay=1),
    "dead_letter": "dead",
    "handler_timeout": 3,
}


class Hanging(MemoryBlobs):
    """A store that can be away, or hang, and then not have done it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.hangs = self.is_away = False

    def put(self, name: str, data: bytes, **conditions: Any) -> str:
        if self.hangs:
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
        if self.hangs or self.is_away:
            raise StoreUnavailableError("the store is away")
        return super().put(name, data, **conditions)


@pytest.fixture
def store() -> Hanging:
    return Hanging()


@pytest.fixture
def rig(memory_log: EventLog, store: Hanging) -> Rig:
    return Rig(memory_log, store=store)


# A handler that waits for its store


async def test_a_handler_whose_time_ends_while_its_store_hangs_has_not_failed(
    rig: Rig, store: Hanging
) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        store.hangs = not store.go_on.is_set()
        await context.checkpoint()

    processor = recorder(handle=handle)
    rig.feed("a")
    async with rig.running(rig.pump(processor, **ONCE)) as pump:
        await until(lambda: store.begun.is_set() and rig.clock.waits() == [3])
        hold = processor.made[0].context._hold
        rig.clock.advance(3)
        await until(lambda: not hold.waits)  # it was cancelled, and the call goes on
        store.go_on.set()
        await rig.until_retrying(pump)
        store.hangs = False
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
    ((error, _),) = processor.made[0].errors
    assert isinstance(error, TimeoutError)
    assert isinstance(error.__cause__, StoreUnavailableError)
    assert rig.dead_letters() == []


async def test_nor_has_one_whose_time_ends_after_its_store_was_away(
    rig: Rig, store: Hanging
) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        store.is_away = len(self.batches) == 1
        while len(self.batches) == 1:
            try:
                await context.checkpoint()
            except StoreUnavailableError:
                await anyio.sleep_forever()  # as one that waits and tries again
        await context.checkpoint()

    processor = recorder(handle=handle)
    rig.feed("a")
    async with rig.running(rig.pump(processor, **ONCE)) as pump:
        await until(lambda: store.is_away and rig.clock.waits() == [3])
        hold = processor.made[0].context._hold
        await until(lambda: hold.trouble is not None)
        rig.clock.advance(3)
        await rig.until_retrying(pump)
        store.is_away = False
        rig.clock.advance(1)
        await until(lambda: rig.checkpoint == 0)
    assert rig.dead_letters() == []


async def test_one_that_takes_too_long_although_its_store_answers_has(
    rig: Rig, store: Hanging
) -> None:
    async def handle(self: Recorder, context: Any, events: Any) -> None:
        await context.checkpoint(events[0])
        await anyio.sleep_forever()

    rig.feed(*"ab")
    async with rig.running(rig.pump(recorder(handle=handle), **ONCE)):
        await until(lambda: rig.checkpoint == 0 and rig.clock.waits() == [3])
        rig.clock.advance(3)
        await until(lambda: rig.checkpoint == 1)
    assert [body for body, _ in rig.dead_letters()] == ["b"]


async def test_a_transaction_under_way_is_waiting_for_the_store_too(memory_log: EventLog) -> None:
    rig = Rig(memory_log)
    waits: list[bool] = []

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        hold = context._hold
        part = hold.transaction(hold.current)._participants[0]
        fence = part.fence()
        waits.append(hold.waits)
        part.failed()
        waits.append(hold.waits)
        assert fence is part
        await context.checkpoint()

    rig.feed("a")
    async with rig.running(rig.pump(recorder(handle=handle))):
        await until(lambda: rig.checkpoint == 0)
    assert waits == [True, False]


# Threads


def test_a_store_that_hangs_keeps_no_other_waiting() -> None:
    hanging, other = MemoryBlobs(), MemoryBlobs()
    go_on = threading.Event()
    calls = [in_thread(go_on.wait, hanging) for _ in range(50)]
    try:
        assert in_thread(lambda: "done", other).result(PATIENCE) == "done"
        assert in_thread(lambda: "done").result(PATIENCE) == "done"
    finally:
        go_on.set()
    assert all(call.result(PATIENCE) for call in calls)


# A lease that runs out although its process lives


class Away(Around):
    """A store that can be away, and notes who asked in vain."""

    def __init__(self, store: BlobStore) -> None:
        super().__init__(store, lambda name: None)
        self.is_away = False
        self.refused: list[str] = []

    def get(self, name: str, *, if_none_match: str | None = None) -> Any:
        self._refuse(name)
        return super().get(name, if_none_match=if_none_match)

    def put(self, name: str, data: bytes, **conditions: Any) -> str:
        self._refuse(name)
        return super().put(name, data, **conditions)

    def _refuse(self, name: str) -> None:
        if self.is_away:
            self.refused.append(name)
            raise StoreUnavailableError("the store is away")


async def test_events_go_together_after_a_lease_that_ran_out_before_there_were_any(
    memory_log: EventLog,
) -> None:
    """Its owner did not end its process: that is there to ask."""
    topic = memory_log.create_topic("cars", partitions=1)
    store, clock, sizes = Away(MemoryBlobs()), JumpingClock(), list[int]()

    async def handle(context: Any, events: Any) -> None:
        sizes.append(len(events))
        await context.checkpoint()

    host = EventProcessorHost(topic, group="g", handler=handle, store=store, options=QUICK)
    host._settings = host._settings._replace(clock=clock)
    async with host:
        await until(lambda: owned(host) and host.status().partitions[0].state == "waiting")
        first = host.status().member
        store.is_away = True
        clock.ahead += 1000
        await until(lambda: any("checkpoints" in name for name in store.refused))
        await topic.aio.append_batch([b"x"] * 100, partition=0)
        store.is_away = False
        await until(lambda: sizes)
        assert host.status().member != first
        await until(lambda: topic.group("g", store).lag()[0].events == 0)
    assert sizes == [100]


async def test_an_outage_while_an_event_goes_alone_is_no_attempt(memory_log: EventLog) -> None:
    """However many there are."""
    topic = memory_log.create_topic("cars", partitions=1)
    dead = memory_log.create_topic("dead", partitions=1)
    store, clock, calls = Away(MemoryBlobs()), JumpingClock(), list[int]()

    async def handle(context: Any, events: Any) -> None:
        calls.append(context.epoch)
        if len(calls) < 6:
            store.is_away = len(calls) > 1
            await anyio.sleep_forever()
        await context.checkpoint()

    options = ProcessorOptions(
        lease_duration=20,
        renew_interval=0.2,
        dead_letter="dead",
        retry=RetryPolicy(max_attempts=2),
    )
    host = EventProcessorHost(topic, group="g", handler=handle, store=store, options=options)
    host._settings = host._settings._replace(clock=clock)
    topic.append(b"x")
    async with host:
        await until(lambda: calls)
        name = next(name for name, _ in store.list("groups/") if "checkpoints" in name)
        # As if the one before had ended with its process.
        blob = store.inner.get(name)
        assert isinstance(blob, Blob)
        store.inner.put(name, blob.data.replace(b'"alone_until": 0', b'"alone_until": 9'))
        clock.ahead += 1000
        for count in range(2, 6):
            await until(lambda count=count: len(calls) == count and store.is_away)  # type: ignore[misc]
            store.refused.clear()
            clock.ahead += 1000
            await until(lambda: any("checkpoints" in name for name in store.refused))
            store.is_away = False
        await until(lambda: topic.group("g", store).lag()[0].events == 0)
    assert len(calls) == 6
    assert dead.partition_info(0).next_offset == 0


# A store that has lost what was written last


def group_document(store: BlobStore) -> str:
    (name,) = [name for name, _ in store.list("groups/") if name.endswith("group.json")]
    return name


async def three_hosts_and_the_document_of_the_first(
    topic: Topic, store: BlobStore, notes: Notes
) -> None:
    """One after the other; then the store has lost what the second and the third wrote there."""
    old: list[Blob] = []
    for number in range(3):
        async with host_of(topic, notes.factory(), store=store) as host:
            await until(lambda h=host: owned(h) == [0] and h.status().partitions[0].offset == 9)  # type: ignore[misc]
        blob = store.get(group_document(store))
        assert isinstance(blob, Blob)
        old.append(blob)
        assert topic.group("g", store).checkpoints()[0].epoch == number + 1
    store.put(old[0].name, old[0].data)
    topic.append(b"x")


async def test_a_partition_whose_checkpoint_has_a_later_epoch_is_taken_above_it(
    memory_log: EventLog,
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(running, "_REOPEN_SECONDS", 0.01)
    topic, store = filled(memory_log, partitions=1), MemoryBlobs()
    await three_hosts_and_the_document_of_the_first(topic, store, notes)
    with caplog.at_level(logging.WARNING, "eventlog"):
        async with host_of(topic, notes.factory(), store=store) as host:
            await until(lambda: notes.count() == 11)
            await until(lambda: host.status().health == "running")
    assert topic.group("g", store).checkpoints()[0].epoch == 4
    assert "its store has lost what was written last" in caplog.text


async def test_a_host_that_cannot_open_what_it_owns_is_degraded(
    memory_log: EventLog, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_REOPEN_SECONDS", 3600)
    topic, store = filled(memory_log, partitions=1), MemoryBlobs()
    await three_hosts_and_the_document_of_the_first(topic, store, notes)
    async with host_of(topic, notes.factory(), store=store) as host:
        await until(lambda: host.status().health == "degraded")
        assert isinstance(host.status().last_error, LeaseLostError)


class Remembering(MemoryBlobs):
    """A store that knows what its group document was."""

    def __init__(self) -> None:
        super().__init__()
        self.documents: list[bytes] = []

    def put(self, name: str, data: bytes, **conditions: Any) -> str:
        etag = super().put(name, data, **conditions)
        if name.endswith("group.json"):
            self.documents.append(data)
        return etag


async def test_a_partition_that_was_given_away_is_given_again_if_that_was_lost(
    memory_log: EventLog, notes: Notes
) -> None:
    topic, store = filled(memory_log, partitions=2), Remembering()

    def shares() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(store.documents[-1])["partitions"]
        return found

    async with (
        host_of(topic, notes.factory("a"), "a", store=store) as a,
        host_of(topic, notes.factory("b"), "b", store=store) as b,
    ):
        await until(lambda: len(owned(a)) == len(owned(b)) == 1)
        await until(lambda: not a._running.news.membership._closed)  # type: ignore[union-attr]
        moving = next(data for data in store.documents if b'"next": "' in data)
        last = json.loads(store.documents[-1])["generation"]
        lost = {**json.loads(moving), "generation": last + 1, "revision": "lost"}
        store.put(group_document(store), json.dumps(lost).encode())
        await until(lambda: all(share["next"] is None for share in shares().values()))
        await until(lambda: len(owned(a)) == len(owned(b)) == 1)


# What is logged


async def test_that_the_log_or_the_store_is_away_is_one_line(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    """Each time, however often it is tried; other failures come with a traceback."""
    errors = [LogBusyError("away")] * 3 + [ValueError("at fault")] * 2 + [LogBusyError("again")]

    async def handle(self: Recorder, context: Any, events: Any) -> None:
        if events[0].text() == "a" and len(self.batches) <= len(errors):
            raise errors[len(self.batches) - 1]
        await context.checkpoint()

    rig.feed("a")
    options: dict[str, Any] = {"retry": RetryPolicy(max_attempts=10, jitter=0)}
    with caplog.at_level(logging.WARNING, "eventlog"):
        async with rig.running(rig.pump(recorder(handle=handle), **options)) as pump:
            for _ in errors:
                await rig.until_retrying(pump)
                rig.clock.advance(rig.clock.waits()[0])
            await until(lambda: rig.checkpoint == 0)
    said = [
        (record.levelname, bool(record.exc_info), type(record.args[-1]))  # type: ignore[index]
        for record in caplog.records
    ]
    assert said == [
        ("WARNING", False, LogBusyError),
        ("ERROR", True, ValueError),
        ("WARNING", False, ValueError),
        ("WARNING", False, LogBusyError),
    ]


# What a host says of itself


async def test_a_host_that_its_log_does_not_answer_says_so(
    memory_log: EventLog, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = memory_log.create_topic("cars", partitions=1)
    error = LogBusyError("no answer")
    host = host_of(topic, notes.factory())
    assert host.status().health == "stopped"
    host._is_opening = True  # as long as it opens a store by its URL
    assert host.status().health == "starting"
    host._is_opening = False
    async with host:
        await until(lambda: owned(host) == [0])
        with monkeypatch.context() as patch:
            patch.setattr(type(host._coordination), "log_late", error)
            assert host.status().health == "degraded"
            assert host.status().last_error is error
        assert host.status().health == "running"
        assert host.status().last_error is None
