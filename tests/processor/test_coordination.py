"""The thread that keeps a host in its group: what wakes it, and what it must not be kept from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import EventLog, ProcessorOptions
from eventlog.blobs import BlobStore
from eventlog.processor import coordination
from eventlog.processor.lifeline import is_dead
from eventlog.waiting import Watch
from tests.processor.hosting import Notes, filled, host_of, owned, until

pytestmark = pytest.mark.anyio

SELDOM = ProcessorOptions(lease_duration=3600, renew_interval=1200, max_wait=1)


class Restless(Watch):
    """Tells of changes all the time, as when others write to what shares its counter."""

    def __init__(self) -> None:
        self.ended = False

    def mark(self) -> None:
        pass

    def changed(self) -> bool:
        return True

    def wait(self, timeout: float | None = None) -> bool:
        return not self.ended

    async def wait_async(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        return not self.ended

    def interrupt(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True


class Around(BlobStore):
    """A store, but for how it tells of changes, and where its locks are."""

    def __init__(
        self,
        store: BlobStore,
        watch: Callable[[str], Watch | None],
        directory: Path | None = None,
    ) -> None:
        self.inner = store
        self.tell = watch
        self.directory = directory
        self.gets = 0

    def get(self, name: str, *, if_none_match: str | None = None) -> Any:
        self.gets += 1
        return self.inner.get(name, if_none_match=if_none_match)

    def put(self, name: str, data: bytes, **conditions: Any) -> str:
        return self.inner.put(name, data, **conditions)

    def list(self, prefix: str) -> Any:
        return self.inner.list(prefix)

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self.inner.delete(name, if_match=if_match)

    def watch(self, name: str) -> Watch | None:
        return self.tell(name)

    @property
    def shared_directory(self) -> Path | None:
        return self.directory

    def close(self) -> None:
        self.inner.close()


def locks_in(directory: Path) -> int:
    return len(list(directory.glob("*.lock")))


async def test_a_watch_that_tells_of_others_all_the_time_still_tells_of_the_group(
    memory_log: EventLog, notes: Notes
) -> None:
    topic = filled(memory_log)
    store = Around(memory_log.blobs, lambda name: Restless())
    async with host_of(topic, notes.factory("a"), "a", SELDOM, store=store) as a:
        await until(lambda: notes.count() == 40)
        async with host_of(topic, notes.factory("b"), "b", SELDOM, store=store) as b:
            await until(lambda: len(owned(a)) == len(owned(b)) == 2)


async def test_whoever_rings_without_end_does_not_keep_it_from_noticing_the_dead(
    log_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def asking(directory: Path, member: str) -> bool:
        asked.append(member)
        return is_dead(directory, member)

    monkeypatch.setattr(coordination, "is_dead", asking)
    with eventlog.open(log_path) as log:
        topic = filled(log)
        async with (
            host_of(topic, notes.factory("a"), "a", SELDOM) as a,
            host_of(topic, notes.factory("b"), "b", SELDOM) as b,
        ):
            await until(lambda: len(owned(a)) == len(owned(b)) == 2)
            asked.clear()

            def rung() -> bool:
                for host in (a, b):
                    assert host._coordination is not None
                    host._coordination.ring()
                return len(asked) > 2

            await until(rung)


async def test_what_could_not_become_a_member_leaves_no_lock_behind(
    memory_log: EventLog, notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordination, "_PATIENCE_SECONDS", 0.01)
    failures = 3

    def watch(name: str) -> Watch | None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("no more watches")
        return None

    store = Around(memory_log.blobs, watch, tmp_path)
    async with host_of(filled(memory_log), notes.factory(), store=store):
        await until(lambda: notes.count() == 40)
        assert locks_in(tmp_path) == 1


class Panic(BaseException):
    """As a client that is written in Rust raises when it panics."""


async def test_whatever_ends_it_is_raised_by_the_host(memory_log: EventLog, notes: Notes) -> None:
    class Panicking(Around):
        def get(self, name: str, *, if_none_match: str | None = None) -> Any:
            raise Panic("at some line")

    store = Panicking(memory_log.blobs, lambda name: None)
    with pytest.raises(Panic):
        await host_of(filled(memory_log), notes.factory(), store=store).run()


async def test_rounds_wait_for_no_calls_of_pumps(memory_log: EventLog, notes: Notes) -> None:
    """They have the store for themselves, and close what they have."""
    twins: list[Twin] = []

    class Twin(Around):
        def __init__(self) -> None:
            super().__init__(memory_log.blobs, lambda name: None)
            self.names: set[str] = set()
            self.was_closed = False

        def put(self, name: str, data: bytes, **conditions: Any) -> str:
            self.names.add(name.split("/")[4])
            return super().put(name, data, **conditions)

        def apart(self) -> BlobStore:
            twins.append(Twin())
            return twins[-1]

        def close(self) -> None:
            self.was_closed = True

    store = Twin()
    async with host_of(filled(memory_log), notes.factory(), store=store):
        await until(lambda: notes.count() == 40)
        (twin,) = twins
        assert not twin.was_closed
    await until(lambda: twin.was_closed)
    assert (twin.names, store.names) == ({"group.json", "hosts"}, {"checkpoints"})
    assert not store.was_closed
