"""The SDK's own processors share an event hub over our stores, and go on where others ended.

Both of its kinds are driven by the same tests: an asynchronous one runs in a loop in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, Protocol

import pytest
from azure.eventhub._eventprocessor.event_processor import EventProcessor
from azure.eventhub.aio._eventprocessor.event_processor import EventProcessor as AsyncEventProcessor

import eventlog.azure.aio
from eventlog import StoreUnavailableError
from eventlog.azure import CheckpointStore
from eventlog.blobs import BlobStore
from tests.azure.hub import PATIENCE, AsyncClient, Client, Hub, Journal
from tests.azure.stores import REMOTE, SCOPE, SHARED, owners, scoped
from tests.group_stores import Unreliable

PARTITIONS: Final = 6
EVENTS: Final = 35
OPTIONS: Final[dict[str, Any]] = {
    "batch": True,
    "initial_event_position": "-1",
    "load_balancing_interval": 0.02,
    "partition_ownership_expiration_interval": 30.0,
}


class Running(Protocol):
    """A processor that runs."""

    def stop(self) -> None: ...

    def wait(self) -> None: ...


class SyncRunning:
    """The SDK's synchronous processor, in a thread."""

    def __init__(self, name: str, hub: Hub, blobs: BlobStore, journal: Journal, **more: Any):
        self._processor: Any = EventProcessor(
            Client(hub),  # type: ignore[arg-type]
            SCOPE[2],
            functools.partial(self._handle, journal),
            on_partition_initialize=lambda context: journal.began(name, context.partition_id),
            on_partition_close=lambda context, reason: journal.ended(name, context.partition_id),
            on_error=lambda context, error: journal.failed(error),
            checkpoint_store=CheckpointStore(blobs),
            **{**OPTIONS, **more},
        )
        self._thread = threading.Thread(target=self._processor.start, daemon=True)
        self._thread.start()

    def _handle(self, journal: Journal, context: Any, events: Any) -> None:
        context.update_checkpoint()
        journal.did(events)

    def stop(self) -> None:
        self._processor.stop()

    def wait(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


class AsyncRunning:
    """The SDK's asynchronous processor, in a loop in a thread."""

    def __init__(self, name: str, hub: Hub, blobs: BlobStore, journal: Journal, **more: Any):
        self._name = name
        self._journal = journal
        self._pool = ThreadPoolExecutor(1)
        self._stop: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._run = self._pool.submit(asyncio.run, self._main(hub, blobs, {**OPTIONS, **more}))

    async def _main(self, hub: Hub, blobs: BlobStore, options: dict[str, Any]) -> None:
        stop = asyncio.Event()
        self._stop.set_result((asyncio.get_running_loop(), stop))
        async with eventlog.azure.aio.CheckpointStore(blobs) as store:
            processor: Any = AsyncEventProcessor(
                AsyncClient(hub),  # type: ignore[arg-type]
                SCOPE[2],
                self._handle,
                partition_initialize_handler=self._began,
                partition_close_handler=self._ended,
                error_handler=self._failed,
                checkpoint_store=store,
                **options,
            )
            running = asyncio.create_task(processor.start())
            await stop.wait()
            await processor.stop()
            running.cancel()  # it would sleep until its next round
            await asyncio.wait([running])

    async def _handle(self, context: Any, events: Any) -> None:
        await context.update_checkpoint()
        self._journal.did(events)

    async def _began(self, context: Any) -> None:
        self._journal.began(self._name, context.partition_id)

    async def _ended(self, context: Any, reason: object) -> None:
        self._journal.ended(self._name, context.partition_id)

    async def _failed(self, context: object, error: Exception) -> None:
        self._journal.failed(error)

    def stop(self) -> None:
        loop, stop = self._stop.result(PATIENCE)
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    def wait(self) -> None:
        self._run.result(PATIENCE)
        self._pool.shutdown()


class Start(Protocol):
    """Starts a processor."""

    def __call__(self, name: str, store: BlobStore | None = None, **more: Any) -> Running: ...


@pytest.fixture
def hub() -> Hub:
    return Hub(PARTITIONS, EVENTS)


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture(params=[SyncRunning, AsyncRunning], ids=["sync", "async"])
def start(
    request: pytest.FixtureRequest, blobs: BlobStore, hub: Hub, journal: Journal
) -> Iterator[Start]:
    """Starts processors; those that still run are stopped after the test."""
    started: list[Running] = []

    def start(name: str, store: BlobStore | None = None, **more: Any) -> Running:
        running: Running = request.param(name, hub, store or blobs, journal, **more)
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()
    for running in started:
        running.wait()


in_memory = pytest.mark.parametrize("blobs", ["memory"], indirect=True)
in_all = pytest.mark.parametrize("blobs", ["content etags", *SHARED, *REMOTE], indirect=True)
in_some = pytest.mark.parametrize("blobs", ["content etags", "embedded"], indirect=True)


@in_all
def test_two_processors_share_the_partitions_and_handle_every_event(
    start: Start, blobs: BlobStore, hub: Hub, journal: Journal
) -> None:
    start("a")
    journal.wait_until(lambda: journal.share("a") == PARTITIONS)
    start("b")
    journal.wait_until(lambda: journal.share("a") == journal.share("b") == PARTITIONS // 2)
    every = [event for events in hub.partitions.values() for event in events]
    journal.wait_until(lambda: set(journal.handled) == set(every))
    assert not journal.errors
    assert sorted(owners(CheckpointStore(blobs))) == sorted(hub.partitions)


@in_some
def test_what_one_releases_another_takes_and_goes_on_behind_the_checkpoint(
    start: Start, blobs: BlobStore, hub: Hub, journal: Journal
) -> None:
    first = start("a", load_balancing_interval=5.0)  # does nothing more when it is stopped
    journal.wait_until(lambda: len(journal.handled) == PARTITIONS * EVENTS)
    first.stop()
    first.wait()
    assert set(owners(CheckpointStore(blobs)).values()) == {""}
    before = len(journal.handled)
    hub.partitions["3"] += [event._replace(sequence_number=900) for event in hub.partitions["3"]][
        :1
    ]
    start("b")
    journal.wait_until(lambda: journal.share("b") == PARTITIONS)  # long before they expire
    journal.wait_until(lambda: len(journal.handled) > before)
    assert [event.sequence_number for event in journal.handled[before:]] == [900]
    assert not journal.errors


@in_memory
def test_partitions_of_a_dead_processor_are_taken_when_they_expire(
    start: Start, blobs: BlobStore, journal: Journal
) -> None:
    dead = [scoped(partition, owner_id="dead") for partition in range(PARTITIONS)]
    CheckpointStore(blobs).claim_ownership(dead)
    start("a", partition_ownership_expiration_interval=0.5)
    journal.wait_until(lambda: journal.share("a") == PARTITIONS)
    assert not journal.errors


@in_memory
def test_an_outage_of_the_store_takes_no_partition_away(
    start: Start, blobs: BlobStore, journal: Journal
) -> None:
    unreliable = Unreliable(blobs)
    start("a", unreliable)
    journal.wait_until(lambda: len(journal.handled) == PARTITIONS * EVENTS)
    unreliable.fail = [StoreUnavailableError("no route")] * 20
    claims = len(unreliable.calls) + 60
    journal.wait_until(lambda: len(unreliable.calls) > claims)
    assert not unreliable.fail
    assert journal.share("a") == PARTITIONS
    assert len(set(owners(CheckpointStore(blobs)).values())) == 1
