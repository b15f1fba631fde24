"""A store may be given wherever it is asked for, or its URL, which a log opens once and closes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

import eventlog
from eventlog import (
    ClosedError,
    EventLog,
    EventProcessorHost,
    PartitionContext,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from eventlog.blobs import BlobStore
from eventlog.blobs.directory import DirectoryBlobs
from eventlog.blobs.memory import MemoryBlobs
from tests.conftest import PATIENCE


@pytest.fixture
def log() -> Iterator[EventLog]:
    with eventlog.open("memory:") as log:
        log.create_topic("cars", partitions=1)
        yield log


def test_without_one_it_is_the_logs_own(log: EventLog) -> None:
    assert log.store() is log.blobs


def test_a_store_is_taken_as_it_is_and_stays_open(log: EventLog) -> None:
    with eventlog.blobs.open("memory:") as store:
        assert log.store(store) is store
        log.close()
        store.put("a", b"1")


def test_a_url_is_opened_once_and_closed_with_the_log(log: EventLog, tmp_path: Path) -> None:
    url = f"file:{tmp_path}"
    store = log.store(url)
    assert isinstance(store, DirectoryBlobs)
    assert log.store(url) is store
    assert log.store(f"file:{tmp_path / 'other'}") is not store
    log.close()
    with pytest.raises(ClosedError):
        store.get("a")


def test_groups_hosts_and_subscriptions_take_urls(log: EventLog, tmp_path: Path) -> None:
    """They are the same group."""
    url = f"file:{tmp_path}"
    cars = log.topic("cars")
    cars.group("fraud", url).reset({0: 0})
    assert [group.name for group in cars.groups(url)] == ["fraud"]
    assert cars.groups() == []
    cars.append(b"1")
    with cars.subscribe(group="fraud", store=url) as batches:
        for batch in batches:
            batch.checkpoint()
            break
    assert cars.group("fraud", url).checkpoints()[0].offset == 0

    async def stop(context: PartitionContext, _: object) -> None:
        await context.checkpoint()
        host.stop()

    host = EventProcessorHost(cars, group="hosted", handler=stop, store=url)
    host.run_sync()
    assert cars.group("hosted", url).checkpoints()[0].offset == 0
    assert log.blobs.list("") == []


class Opening:
    """What stands for `eventlog.blobs.open`, and takes until it is told to go on.

    Attributes:
        begun: an opening is under way.
        go_on: lets it end.
        threads: those that have opened one.
    """

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.threads: list[threading.Thread] = []
        self.opened: list[BlobStore] = []

    def __call__(self, url: str) -> BlobStore:
        if url in ("memory:", "memory:at once"):
            return MemoryBlobs(url)
        self.threads.append(threading.current_thread())
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        if url == "memory:never":
            raise StoreUnavailableError("it is away")
        self.opened.append(MemoryBlobs(url))
        return self.opened[-1]


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opening]:
    opening = Opening()
    monkeypatch.setattr(eventlog.blobs, "open", opening)
    yield opening
    opening.go_on.set()


def test_what_somebody_closed_is_opened_again(log: EventLog, tmp_path: Path) -> None:
    """Who uses it with ``with`` does not take it from the others."""
    for url in (f"file:{tmp_path}", "memory:shared"):
        with log.store(url) as store:
            store.put("a", b"1")
        again = log.store(url)
        assert again is not store
        assert not again.is_closed
        assert log.store(url) is again


def test_who_names_another_store_does_not_wait_for_one_that_is_slow(
    log: EventLog, opening: Opening
) -> None:
    """Who names the same does, and it is opened once."""
    with ThreadPoolExecutor(2) as threads:
        slow = [threads.submit(log.store, "memory:slow") for _ in range(2)]
        assert opening.begun.wait(PATIENCE)
        assert not log.store("memory:at once").is_closed
        opening.go_on.set()
        assert slow[0].result() is slow[1].result() is opening.opened[0]
    assert len(opening.threads) == 1


def test_a_log_that_is_closed_does_not_wait_for_a_store_that_is_slow(
    log: EventLog, opening: Opening
) -> None:
    """It is closed as soon as it is open."""
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(log.store, "memory:slow")
        assert opening.begun.wait(PATIENCE)
        log.close()
        opening.go_on.set()
        with pytest.raises(ClosedError):
            slow.result()
    assert opening.opened[0].is_closed
    with pytest.raises(ClosedError):
        log.store("memory:at once")


def test_what_could_not_be_opened_is_tried_again(log: EventLog, opening: Opening) -> None:
    opening.go_on.set()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            log.store("memory:never")
    assert len(opening.threads) == 2


def test_a_child_that_is_forked_meanwhile_can_open_it(log: EventLog, opening: Opening) -> None:
    """Whoever was opening it stayed with the parent."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(log.store, "memory:slow")
        assert opening.begun.wait(PATIENCE)
        child = os.fork()
        if not child:
            signal.alarm(30)
            opening.go_on.set()
            os._exit(7 if log.store("memory:slow") is not None else 1)
        opening.go_on.set()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_host_opens_its_store_in_a_thread_when_it_runs(log: EventLog, opening: Opening) -> None:
    """Not on the event loop, which others use; and it says what it could not open."""
    opening.go_on.set()
    host = EventProcessorHost(
        log.topic("cars"), group="g", handler=lambda context, events: None, store="memory:never"
    )
    assert opening.threads == []
    for number in (1, 2):
        with pytest.raises(StoreUnavailableError, match="it is away"):
            anyio.run(host.run)
        assert len(opening.threads) == number
    assert threading.main_thread() not in opening.threads


@pytest.mark.parametrize("store", [b"file:x", 1, Path("x")])
def test_something_else_is_refused(log: EventLog, store: Any) -> None:
    with pytest.raises(TypeError, match="store is a BlobStore or a URL"):
        log.topic("cars").group("fraud", store)
    with pytest.raises(TypeError, match="blobs is a BlobStore or a URL"):
        eventlog.open("memory:", blobs=store)


def test_a_url_of_no_store_is_refused_by_all(log: EventLog) -> None:
    with pytest.raises(UnsupportedOperationError, match="nonsense"):
        log.topic("cars").groups("nonsense:x")
    with pytest.raises(UnsupportedOperationError, match="nonsense"):
        eventlog.open("memory:", blobs="nonsense:x")
