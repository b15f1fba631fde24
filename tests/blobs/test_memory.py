"""The store in memory: who waits for a change, in threads and on event loops."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from eventlog import ClosedError
from eventlog.blobs import BlobStore
from eventlog.blobs import open as open_blobs
from eventlog.blobs.memory import MemoryBlobs
from eventlog.waiting import Watch

PATIENCE = 60.0


@pytest.fixture
def store() -> Iterator[BlobStore]:
    with open_blobs("memory:") as store:
        yield store


def watch_of(store: BlobStore, name: str = "a") -> Watch:
    watch = store.watch(name)
    assert watch is not None
    return watch


@pytest.mark.anyio
async def test_a_task_is_woken_by_a_change_and_not_by_others(store: BlobStore) -> None:
    watch, other = watch_of(store), watch_of(store, "b")
    outcomes: list[bool] = []

    async def wait() -> None:
        outcomes.append(await watch.wait_async())

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            store.put("b", b"1")
            await anyio.wait_all_tasks_blocked()
            assert outcomes == []
            store.put("a", b"1")
        assert outcomes == [True]
        assert other.changed()
        watch.mark()
        assert not await watch.wait_async(0)


@pytest.mark.anyio
async def test_a_wait_can_be_cancelled_and_leaves_nothing(store: MemoryBlobs) -> None:
    watch = watch_of(store)
    with anyio.move_on_after(0) as scope:
        await watch.wait_async()
    assert scope.cancelled_caught
    assert store._contents is not None
    assert store._contents.waiters == {}


def test_an_interrupt_ends_the_waits_of_one_watch_and_of_no_other(store: BlobStore) -> None:
    watch, other = watch_of(store), watch_of(store)
    with ThreadPoolExecutor(2) as pool:
        waiting, going_on = pool.submit(watch.wait), pool.submit(other.wait)
        watch.interrupt()
        assert not waiting.result(PATIENCE)
        assert not watch.wait()
        store.put("a", b"1")
        assert going_on.result(PATIENCE)


def test_closing_the_store_ends_all_waits_for_good(store: BlobStore) -> None:
    watch = watch_of(store)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(watch.wait)
        store.close()
        assert waiting.result(PATIENCE)
    watch.mark()
    assert watch.changed()
    with pytest.raises(ClosedError):
        store.watch("a")


def test_a_change_through_another_store_of_the_name_is_told_of() -> None:
    with open_blobs("memory:shared-watch") as one, open_blobs("memory:shared-watch") as another:
        watch = watch_of(one)
        another.put("a", b"1")
        assert watch.changed()
