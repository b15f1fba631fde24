"""A store may be given wherever it is asked for, or its URL, which a log opens once and closes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import ClosedError, EventLog, EventProcessorHost, UnsupportedOperationError
from eventlog.blobs.directory import DirectoryBlobs


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
    host = EventProcessorHost(cars, group="fraud", handler=lambda context, events: None, store=url)
    assert host._settings.store is log.store(url)


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
