"""Hosts: partitions shared, moved in good order, kept whatever handlers do, and given away."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import eventlog
from eventlog import (
    CloseReason,
    ErrorAction,
    Event,
    EventLog,
    EventProcessor,
    EventProcessorHost,
    InvalidNameError,
    ProcessorOptions,
    StoredEvent,
    StoreUnavailableError,
)
from eventlog.blobs import Blob, BlobStore
from eventlog.processor import suspects
from tests.conftest import Start
from tests.processor.hosting import (
    QUICK,
    JumpingClock,
    Notes,
    filled,
    host_of,
    owned,
    until,
)

pytestmark = pytest.mark.anyio


# Processing


async def test_a_host_processes_every_event_of_every_partition_in_order(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    async with host_of(topic, notes.factory()):
        await until(lambda: notes.count() == 40)
    assert dict(notes.events) == {partition: list(range(10)) for partition in range(4)}
    assert {n: c.offset for n, c in topic.group("g").checkpoints().items()} == dict.fromkeys(
        range(4), 9
    )


async def test_a_host_follows_what_is_appended_later(memory_log: EventLog, notes: Notes) -> None:
    topic = filled(memory_log, each=1)
    async with host_of(topic, notes.factory()):
        await until(lambda: notes.count() == 4)
        await topic.aio.append(b"later", partition=2)
        await until(lambda: notes.events[2] == [0, 1])


async def test_the_next_host_goes_on_behind_the_checkpoints(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    async with host_of(topic, notes.factory()):
        await until(lambda: notes.count() == 40)
    await topic.aio.append_batch([b"more"] * 10, partition=0)
    async with host_of(topic, notes.factory()):
        await until(lambda: notes.count() == 50)
    assert notes.events[0] == list(range(20))
    assert notes.count() == 50


async def test_a_plain_handler_runs_in_a_thread_and_checkpoints_there(memory_log: EventLog) -> None:
    topic, seen = filled(memory_log), list[tuple[str, int]]()

    def handle(context: Any, events: list[StoredEvent]) -> None:
        seen.append((threading.current_thread().name, len(events)))
        context.checkpoint()

    host = EventProcessorHost(topic, group="g", handler=handle, options=QUICK)
    async with host:
        await until(lambda: sum(count for _, count in seen) == 40)
    assert threading.current_thread().name not in {name for name, _ in seen}
    assert topic.group("g").lag()[3].events == 0


async def test_output_and_checkpoint_are_stored_together(memory_log: EventLog) -> None:
    topic = filled(memory_log, partitions=2)
    out = memory_log.create_topic("out", partitions=1)

    async def copy(context: Any, events: list[StoredEvent]) -> None:
        async with context.transaction() as tx:
            tx.append_batch("out", [Event(event.body) for event in events], partition=0)

    async with EventProcessorHost(topic, group="g", handler=copy, options=QUICK):
        await until(lambda: out.partition_info(0).next_offset == 20)
    assert {c.offset for c in topic.group("g").checkpoints().values()} == {9}


async def test_a_host_can_run_again_after_it_was_stopped(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    host = host_of(topic, notes.factory())
    async with host:
        await until(lambda: notes.count() == 40)
    await topic.aio.append(b"more", partition=0)
    async with host:
        await until(lambda: notes.count() == 41)
    assert host.status().health == "stopped"


async def test_a_partition_that_keeps_failing_after_a_crash_holds_up_no_other(
    memory_log: EventLog, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "_LONGEST_SECONDS", 3600.0)
    topic = filled(memory_log, partitions=2)
    async with host_of(topic, notes.factory()):
        await until(lambda: notes.count() == 20)
    for partition in range(2):  # as if both had been at work when their process ended, twice
        topic.append_batch([b"x"] * 3, partition=partition)
        name = next(
            n for n, _ in memory_log.blobs.list("groups/") if n.endswith(f"/{partition}.json")
        )
        blob = memory_log.blobs.get(name)
        assert isinstance(blob, Blob)
        noted = {"crashes": 2, "attempts": 1, "attempted": 10, "alone_until": 13}
        memory_log.blobs.put(name, json.dumps(json.loads(blob.data) | noted).encode())

    async def handle(context: Any, events: list[StoredEvent]) -> None:
        if context.partition == 0:
            raise ZeroDivisionError
        notes.events[1] += [event.offset for event in events]
        await context.checkpoint()

    retry = eventlog.RetryPolicy(initial_delay=3600, max_delay=3600)
    options = ProcessorOptions(lease_duration=20, renew_interval=0.2, retry=retry)
    host = EventProcessorHost(topic, group="g", handler=handle, options=options)
    host.pause(1)
    async with host:
        await until(lambda: host.status().partitions and host.status().partitions[0].attempts)
        host.resume(1)
        await until(lambda: notes.events[1] == list(range(13)))


# Sharing


async def test_two_hosts_share_the_partitions_and_nothing_is_processed_twice(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log, partitions=16)
    async with host_of(topic, notes.factory("a"), "a") as a:
        await until(lambda: len(owned(a)) == 16)
        await until(lambda: notes.count() == 160)
        async with host_of(topic, notes.factory("b"), "b") as b:
            await until(lambda: len(owned(a)) == len(owned(b)) == 8)
            assert not set(owned(a)) & set(owned(b))
            for partition in range(16):
                await topic.aio.append_batch([b"x"] * 10, partition=partition)
            await until(lambda: notes.count() == 320)
        await until(lambda: len(owned(a)) == 16)
    assert all(offsets == list(range(20)) for offsets in notes.events.values())
    assert notes.closed("a").count("close handed over") == 8
    assert notes.closed("b") == ["close shutdown"] * 8


async def test_a_planned_move_waits_for_the_batch_that_is_under_way(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log, partitions=2)
    go_on, busy = anyio.Event(), set[int]()

    async def slow(context: Any, events: list[StoredEvent]) -> None:
        busy.add(context.partition)
        await go_on.wait()
        await context.checkpoint()
        notes.events[context.partition] += [event.offset for event in events]

    a = EventProcessorHost(topic, group="g", handler=slow, host_name="a", options=QUICK)
    async with a:
        await until(lambda: busy == {0, 1})
        async with host_of(topic, notes.factory("b"), "b") as b:
            await until(lambda: any("b-" in m for m in topic.group("g").members()))
            assert owned(b) == []
            go_on.set()
            await until(lambda: len(owned(b)) == 1)
    assert all(offsets == list(range(10)) for offsets in notes.events.values())


async def test_a_slow_partition_delays_no_other(memory_log: EventLog, notes: Notes) -> None:
    topic = filled(memory_log)
    go_on = anyio.Event()

    async def handle(context: Any, events: list[StoredEvent]) -> None:
        if context.partition == 1:
            await go_on.wait()
        notes.events[context.partition] += [event.offset for event in events]

    async with EventProcessorHost(topic, group="g", handler=handle, options=QUICK):
        await until(lambda: notes.count() == 30)
        go_on.set()
        await until(lambda: notes.count() == 40)


async def test_partitions_added_to_the_topic_are_processed_from_their_beginning(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log, partitions=2)
    options = ProcessorOptions(lease_duration=20, renew_interval=0.1, start=eventlog.LATEST)
    async with host_of(topic, notes.factory(), options=options) as host:
        await until(lambda: len(topic.group("g").checkpoints()) == 2)
        with pytest.warns(UserWarning, match="keys"):
            topic.add_partitions(2)
        topic.append(b"first", partition=3)
        await until(lambda: owned(host) == [0, 1, 2, 3])
        await until(lambda: notes.events[3] == [0])
    assert notes.count() == 1


# The lease


async def test_a_handler_that_blocks_the_event_loop_loses_no_lease(memory_log: EventLog) -> None:
    topic = filled(memory_log, partitions=1)
    beats = set[str]()

    def heartbeats() -> list[str]:
        return [etag for name, etag in memory_log.blobs.list("groups/") if "/hosts/" in name]

    async def block(context: Any, events: list[StoredEvent]) -> None:
        while len(beats) < 4:  # nothing else runs on this loop meanwhile
            beats.update(heartbeats())
        await context.checkpoint()

    async with EventProcessorHost(topic, group="g", handler=block, options=QUICK):
        await until(lambda: topic.group("g").lag()[0].events == 0)
    assert len(beats) >= 4


async def test_a_host_whose_lease_ran_out_closes_everything_and_comes_back_as_another(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    host = host_of(topic, notes.factory())
    clock = JumpingClock()
    host._settings = host._settings._replace(clock=clock)
    async with host:
        await until(lambda: notes.count() == 40)
        before = host.status().member
        clock.ahead += 100
        await until(lambda: notes.closed("a") == ["close lease lost"] * 4)
        await until(lambda: host.status().health == "running" and len(owned(host)) == 4)
        assert host.status().member != before
        assert topic.group("g").members() == [host.status().member]
    epochs = {c.epoch for c in topic.group("g").checkpoints().values()}
    assert epochs == {2}
    assert notes.count() == 40


async def test_a_handler_that_is_still_running_when_the_lease_is_lost_is_cancelled(
    memory_log: EventLog,
) -> None:
    topic, told = filled(memory_log, partitions=1), list[str]()

    class Stubborn(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            told.append("begun")
            try:
                await anyio.sleep_forever()
            finally:
                told.append(f"cancelled, lost: {context.lost.is_set()}")

        async def close(self, context: Any, reason: CloseReason) -> None:
            told.append(reason.name)

    host = host_of(topic, Stubborn)
    clock = JumpingClock()
    host._settings = host._settings._replace(clock=clock)
    async with host:
        await until(lambda: told == ["begun"])
        clock.ahead += 100
        await until(lambda: told.count("begun") == 2)
        assert told[1:3] == ["cancelled, lost: True", "LEASE_LOST"]
        host.stop()
        host._running._cancel(CloseReason.SHUTDOWN)  # type: ignore[union-attr]


# The end


async def test_a_host_that_stops_gives_everything_away_at_once(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    async with host_of(topic, notes.factory()):
        await until(lambda: notes.count() == 40)
    assert topic.group("g").members() == []
    assert notes.closed("a") == ["close shutdown"] * 4
    assert [name for name, _ in memory_log.blobs.list("groups/") if "/hosts/" in name] == []


async def test_cancelling_a_host_cancels_its_handlers_and_gives_its_partitions_away(
    memory_log: EventLog,
) -> None:
    topic, told = filled(memory_log), list[str]()

    class Endless(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            told.append("begun")
            await anyio.sleep_forever()

        async def close(self, context: Any, reason: CloseReason) -> None:
            told.append(reason.name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host_of(topic, Endless).run)
        await until(lambda: told.count("begun") == 4)
        tasks.cancel_scope.cancel()
    assert told[4:] == ["SHUTDOWN"] * 4
    assert topic.group("g").members() == []


async def test_an_event_that_makes_its_processor_say_stop_ends_the_host_with_its_error(
    memory_log: EventLog,
) -> None:
    topic = filled(memory_log)

    class Strict(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            raise ZeroDivisionError("no")

        async def error(self, *given: Any) -> ErrorAction:
            return eventlog.STOP

    with pytest.raises(ZeroDivisionError):
        await host_of(topic, Strict).run()
    assert topic.group("g").members() == []
    assert topic.group("g").lag()[0].events == 10


async def test_a_host_whose_log_is_closed_ends_with_that_error(notes: Notes) -> None:
    log = eventlog.open("memory:")
    topic = filled(log)
    host, failures = host_of(topic, notes.factory()), list[BaseException]()

    async def run() -> None:
        try:
            await host.run()
        except eventlog.ClosedError as error:
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await until(lambda: notes.count() == 40)
        log.close()
    assert len(failures) == 1


async def test_a_plain_handler_that_outlives_grace_is_left_behind_and_cannot_checkpoint(
    memory_log: EventLog,
) -> None:
    topic = filled(memory_log, partitions=1)
    begun, go_on, outcome = threading.Event(), threading.Event(), list[object]()

    def handle(context: Any, events: list[StoredEvent]) -> None:
        begun.set()
        go_on.wait()
        try:
            outcome.append(context.checkpoint())
        except eventlog.LeaseLostError as error:
            outcome.append(error)

    options = ProcessorOptions(lease_duration=20, renew_interval=0.2, grace=0)
    host = EventProcessorHost(topic, group="g", handler=handle, options=options)
    async with host:
        await until(begun.is_set)
    assert len(topic.group("g").members()) == 1, "it lapses: it is not given away"
    go_on.set()
    await until(lambda: outcome)
    assert isinstance(outcome[0], eventlog.LeaseLostError)


async def test_beside_a_block_a_host_that_fails_ends_the_block_with_its_error(
    memory_log: EventLog,
) -> None:
    class Strict(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            raise ZeroDivisionError("no")

        async def error(self, *given: Any) -> ErrorAction:
            return eventlog.STOP

    host = host_of(filled(memory_log), Strict)
    with pytest.raises(ZeroDivisionError):
        async with host:
            await anyio.sleep_forever()
    assert host.status().health == "stopped"


async def test_a_block_that_fails_ends_its_host_in_good_order(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)

    async def fail() -> None:
        async with host_of(topic, notes.factory()):
            await until(lambda: notes.count() == 40)
            raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert topic.group("g").members() == []


async def test_a_host_runs_once_at_a_time(memory_log: EventLog, notes: Notes) -> None:
    async with host_of(filled(memory_log), notes.factory()) as host:
        await until(lambda: host.status().health == "running")
        with pytest.raises(RuntimeError, match="runs already"):
            await host.run()


async def test_a_host_stopped_before_it_has_begun_ends_at_once(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    host = host_of(topic, notes.factory())
    host.stop()
    await host.run()
    assert notes.count() == 0


@pytest.mark.parametrize("how", ["cancel", "timeout"])
async def test_cancelling_by_asyncio_itself_gives_the_partitions_away_too(
    memory_log: EventLog, notes: Notes, anyio_backend_name: str, how: str
) -> None:
    if anyio_backend_name != "asyncio":
        return
    topic = filled(memory_log)
    host = host_of(topic, notes.factory())
    running: Any = host.run() if how == "cancel" else asyncio.wait_for(host.run(), 600)
    task = asyncio.ensure_future(running)
    await until(lambda: notes.count() == 40)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert topic.group("g").members() == []
    assert notes.closed("a") == ["close shutdown"] * 4


async def test_closing_after_a_lost_lease_is_not_cut_off(memory_log: EventLog) -> None:
    topic, told = filled(memory_log, partitions=1), list[str]()
    closing, go_on = anyio.Event(), anyio.Event()

    class Careful(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            told.append("processed")

        async def close(self, context: Any, reason: CloseReason) -> None:
            closing.set()
            await go_on.wait()
            told.append(reason.name)

    host = host_of(topic, Careful)
    clock = JumpingClock()
    host._settings = host._settings._replace(clock=clock)
    async with host:
        await until(lambda: told)
        clock.ahead += 100
        await closing.wait()
        for _ in range(20):  # what watches the lease looks again and again
            await anyio.sleep(0.005)
        go_on.set()
        await until(lambda: "LEASE_LOST" in told)


async def test_a_plain_handler_that_was_left_behind_gives_its_partition_back_when_it_returns(
    memory_log: EventLog,
) -> None:
    topic = filled(memory_log, partitions=1)
    begun, go_on = threading.Event(), threading.Event()

    def slow(context: Any, events: list[StoredEvent]) -> None:
        begun.set()
        go_on.wait()

    options = ProcessorOptions(lease_duration=20, renew_interval=0.2, handler_timeout=0.01)
    a = EventProcessorHost(topic, group="g", handler=slow, host_name="a", options=options)
    async with a:
        await until(begun.is_set)
        a.stop()
        await until(lambda: not owned(a))
        go_on.set()
    assert topic.group("g").members() == []


async def test_a_host_whose_event_loop_was_closed_is_dead_for_the_others(
    log_path: Path, notes: Notes
) -> None:
    begun = threading.Event()

    def die(log: EventLog) -> None:
        async def handle(context: Any, events: list[StoredEvent]) -> None:
            begun.set()

        host = EventProcessorHost(
            log.topic("cars"), group="g", handler=handle, host_name="dead", options=QUICK
        )
        loop = asyncio.new_event_loop()
        running = loop.create_task(host.run())
        while not begun.is_set():
            loop.run_until_complete(asyncio.sleep(0.005))
        loop.close()
        del running

    with eventlog.open(log_path) as log, warnings.catch_warnings():
        topic = filled(log, partitions=1)
        warnings.simplefilter("ignore")  # of tasks that were destroyed
        await anyio.to_thread.run_sync(die, log)
        async with host_of(topic, notes.factory()) as host:
            await until(lambda: owned(host) == [0])
        gc.collect()


async def test_a_topic_that_is_missing_for_output_is_the_processors_to_judge(
    memory_log: EventLog,
) -> None:
    class Strict(EventProcessor):
        async def process(self, context: Any, events: list[StoredEvent]) -> None:
            memory_log.topic("nowhere")

        async def error(self, *given: Any) -> ErrorAction:
            return eventlog.STOP

    with pytest.raises(eventlog.TopicNotFoundError):
        await host_of(filled(memory_log), Strict).run()


async def test_what_is_not_supported_ends_the_host_rather_than_put_events_aside(
    memory_log: EventLog, tmp_path: Path
) -> None:
    topic = filled(memory_log, partitions=1)
    dead = memory_log.create_topic("dead", partitions=1)

    async def handle(context: Any, events: list[StoredEvent]) -> None:
        async with context.transaction():
            pass

    options = ProcessorOptions(dead_letter="dead", retry=eventlog.RetryPolicy(max_attempts=1))
    with eventlog.blobs.open(tmp_path / "store") as store:
        host = EventProcessorHost(topic, group="g", handler=handle, store=store, options=options)
        with pytest.raises(eventlog.UnsupportedOperationError):
            await host.run()
    assert dead.partition_info(0).is_empty


async def test_a_topic_for_dead_letters_must_be_there_and_be_another(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log, partitions=1)
    with pytest.raises(eventlog.TopicNotFoundError, match="dead"):
        await host_of(topic, notes.factory(), options=ProcessorOptions(dead_letter="dead")).run()
    with pytest.raises(ValueError, match="another topic"):
        host_of(topic, notes.factory(), options=ProcessorOptions(dead_letter="cars"))


# What people do meanwhile


async def test_a_reset_moves_the_host_even_where_nothing_is_left_to_read(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    async with host_of(topic, notes.factory()):
        await until(lambda: notes.count() == 40)
        await topic.group("g").aio.reset(5, force=True)
        await until(lambda: notes.count() == 60)
    assert all(offsets == [*range(10), *range(5, 10)] for offsets in notes.events.values()), (
        notes.events
    )


async def test_a_group_that_is_deleted_begins_anew(memory_log: EventLog, notes: Notes) -> None:
    topic = filled(memory_log)
    async with host_of(topic, notes.factory()) as host:
        await until(lambda: notes.count() == 40)
        await topic.group("g").aio.delete()
        await until(lambda: notes.count() == 80)
        assert len(owned(host)) == 4


async def test_a_topic_that_is_made_anew_under_its_name_is_processed_from_its_start(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    async with host_of(topic, notes.factory()):
        await until(lambda: notes.count() == 40)
        await memory_log.aio.delete_topic("cars")
        notes.events.clear()
        filled(memory_log, partitions=2)
        await until(lambda: notes.count() == 20)
        assert set(notes.events) == {0, 1}


async def test_a_paused_partition_is_kept_and_not_handed_over(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    host = host_of(topic, notes.factory())
    host.pause(2)
    async with host:
        await until(lambda: notes.count() == 30)
        assert host.status().partitions[2].paused
        host.resume(2)
        await until(lambda: notes.count() == 40)
        host.pause(2)
        await until(lambda: host.status().partitions[2].paused)
        await topic.aio.append(b"x", partition=2)
        await topic.aio.append(b"x", partition=3)
        await until(lambda: notes.count() == 41)
    assert len(notes.events[2]) == 10


# The store


class Moody(BlobStore):
    """A store that can be away."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.away = False

    def _there(self) -> BlobStore:
        if self.away:
            raise StoreUnavailableError("the store is away")
        return self.store

    def get(self, name: str, *, if_none_match: str | None = None) -> Any:
        return self._there().get(name, if_none_match=if_none_match)

    def put(self, name: str, data: bytes, **conditions: Any) -> str:
        return self._there().put(name, data, **conditions)

    def list(self, prefix: str) -> Any:
        return self._there().list(prefix)

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self._there().delete(name, if_match=if_match)

    def close(self) -> None:
        self.store.close()


async def test_while_the_store_is_away_errors_are_reported_and_afterwards_all_is_well(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    store = Moody(memory_log.blobs)
    host = host_of(topic, notes.factory(), store=store, on_error=notes.errors.append)
    async with host:
        await until(lambda: notes.count() == 40)
        store.away = True
        await until(lambda: host.status().health == "degraded" and notes.errors)
        assert isinstance(host.status().last_error, StoreUnavailableError)
        await topic.aio.append(b"x", partition=0)
        store.away = False
        await until(lambda: host.status().health == "running")
        await until(lambda: topic.group("g", store).lag()[0].events == 0)


# Status, and arguments


async def test_the_status_tells_of_health_partitions_and_lease(
    memory_log: EventLog, notes: Notes
) -> None:
    host = host_of(filled(memory_log), notes.factory(), "web-1")
    assert host.status().health == "stopped"
    async with host:
        await until(lambda: notes.count() == 40 and host.status().health == "running")
        status = host.status()
        assert status.member is not None
        assert status.member.startswith("web-1-")
        assert status.last_renewal_at is not None
        assert status.last_renewal_at.tzinfo is not None
        await until(lambda: all(p.offset == 9 for p in host.status().partitions.values()))
        assert [p.epoch for p in host.status().partitions.values()] == [1] * 4


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, TypeError),
        ({"processor": Notes().factory(), "handler": print}, TypeError),
        ({"handler": print, "group": "../x"}, InvalidNameError),
        ({"handler": print, "host_name": "a/b"}, InvalidNameError),
        ({"handler": print, "host_name": "x" * 201}, ValueError),
        ({"handler": print, "options": {"max_batch": 1}}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(
    memory_log: EventLog, arguments: dict[str, Any], error: type[Exception]
) -> None:
    topic = memory_log.create_topic("cars")
    with pytest.raises(error):
        EventProcessorHost(topic, **{"group": "g", **arguments})


# Processes


PROGRAM = """
import sys, eventlog
log = eventlog.open(sys.argv[1])
def handle(context, events):
    context.checkpoint()
    print("handled", flush=True)
options = eventlog.ProcessorOptions(lease_duration=600, renew_interval=1)
host = eventlog.EventProcessorHost(log.topic("cars"), group="g", handler=handle, options=options)
host.run_sync()
print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_sync_stops_in_good_order_when_it_is_told_to(
    log_path: Path, start: Start, number: int
) -> None:
    with eventlog.open(log_path) as log:
        topic = filled(log, partitions=1)
        child = start(PROGRAM, log_path)
        assert child.line() == "handled"
        child.send(number)
        assert child.rest() == ["stopped"]
        assert topic.group("g").members() == []


async def test_a_killed_process_is_noticed_long_before_its_lease_is_over(
    log_path: Path, notes: Notes, start: Start
) -> None:
    with eventlog.open(log_path) as log:
        topic = filled(log, partitions=1)
        child = start(PROGRAM, log_path)
        assert child.line() == "handled"
        child.kill()
        async with host_of(topic, notes.factory()) as host:
            await until(lambda: owned(host) == [0])
