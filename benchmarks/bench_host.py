"""Hosts: how fast they get events through a handler that does nothing, and how soon they settle."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from anyio.from_thread import start_blocking_portal

import eventlog
from benchmarks.measure import Benchmark, Record, in_turns
from benchmarks.workload import EVENTS, MILLION, SCALE, batches
from eventlog import EventLog, EventProcessorHost, ProcessorOptions, StoredEvent, Topic
from eventlog.group import group_store
from eventlog.groups.documents import GroupDocument
from eventlog.processor.group import is_settled, owned_by

_BATCH: Final = 1000
_ROUND: Final = 16 * _BATCH
_EVENTS: Final = max(min(EVENTS // 10, 2 * MILLION), 2 * _ROUND) // _ROUND * _ROUND

_HOSTS: Final = 10
_PARTITIONS: Final = 1000 if SCALE >= 0.1 else 100
_SETTLED_MS: Final = 500.0
_CHANGES: Final = 5


# ---- Through a handler ---------------------------------------------------------------------------


class Counter:
    """Checkpoints each batch, and stops its host when all events are checkpointed."""

    host: EventProcessorHost

    def __init__(self) -> None:
        self.left = _EVENTS

    async def handle(self, context: Any, events: list[StoredEvent]) -> None:
        await context.checkpoint()
        self._count(len(events))

    def handle_in_thread(self, context: Any, events: list[StoredEvent]) -> None:
        context.checkpoint()
        self._count(len(events))

    def _count(self, events: int) -> None:
        self.left -= events
        if self.left <= 0:
            self.host.stop()


@pytest.fixture(scope="module", params=[16, 1])
def topic(request: pytest.FixtureRequest, work_directory: Path) -> Iterator[Topic]:
    partitions: int = request.param
    path = work_directory / f"hosts-{partitions}"
    with eventlog.open(path, durability="process") as log:
        topic = log.create_topic("events", partitions=partitions)
        some = itertools.cycle(batches(_BATCH))
        for number in range(_EVENTS // _BATCH):
            topic.append_batch(next(some), partition=number % partitions)
        yield topic


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "plain"])
def test_events_through_a_handler_that_does_nothing(
    benchmark: Benchmark, record: Record, topic: Topic, plain: bool
) -> None:
    """From before the host joins until it has left, in a new group each time."""
    groups = (f"{'plain' if plain else 'async'}-{number}" for number in itertools.count())

    def turn() -> None:
        counter = Counter()
        counter.host = EventProcessorHost(
            topic,
            group=next(groups),
            handler=counter.handle_in_thread if plain else counter.handle,
            options=ProcessorOptions(max_batch=_BATCH),
        )
        counter.host.run_sync()
        assert counter.left == 0, f"{counter.left} events are left"

    (seconds,) = in_turns(benchmark, turn)
    record(
        f"host-{topic.partitions}-{'plain' if plain else 'async'}",
        ours=_EVENTS / statistics.fmean(seconds),
        limit=MILLION,
        rounds=[_EVENTS / one / MILLION for one in seconds],
        note=f"{_EVENTS:,} events, all cached, a checkpoint each {_BATCH:,}; {len(seconds)} rounds",
    )


# ---- Balance -------------------------------------------------------------------------------------


class Change(NamedTuple):
    """What came of one host that joined or left.

    Attributes:
        settled: milliseconds until every partition has its owner, in even shares.
        opened: until the new owners were at work on all of them.
        moved: how many partitions have changed hands.
        least: how many had to.
    """

    settled: float
    opened: float
    moved: int
    least: int


class Crowd:
    """Hosts of one group in this process, on one event loop."""

    def __init__(self, log: EventLog, topic: Topic, stack: ExitStack) -> None:
        self._topic = topic
        self._store = group_store(topic, "crowd", log.blobs)
        self._watch = log.blobs.watch(self._store.ids.document)
        self._portal = stack.enter_context(start_blocking_portal())
        self._names = itertools.count()
        self.hosts: list[EventProcessorHost] = []
        stack.callback(self._end)

    def join(self) -> EventProcessorHost:
        """One more."""

        async def nothing(context: Any, events: list[StoredEvent]) -> None:
            """No event ever comes."""

        host = EventProcessorHost(
            self._topic, group="crowd", handler=nothing, host_name=f"host-{next(self._names)}"
        )
        self.hosts.append(host)
        self._portal.start_task_soon(host.run)
        return host

    def leave(self) -> None:
        """The first of them."""
        self.hosts.pop(0).stop()

    def _end(self) -> None:
        for host in self.hosts:
            host.stop()
        while any(host.status().health != "stopped" for host in self.hosts):
            time.sleep(0.01)

    def settle(self) -> GroupDocument:
        """Wait until all hosts have even shares; what they have agreed on."""
        assert self._watch is not None
        while True:
            self._watch.mark()
            document = self._store.document()
            if document is not None and self._is_settled(document):
                return document
            self._watch.wait(1)

    def _is_settled(self, document: GroupDocument) -> bool:
        return (
            len(document.hosts) == len(self.hosts)
            and not document.leaving
            and len(document.partitions) == self._topic.partitions
            and is_settled(document)
        )

    def open_all(self, document: GroupDocument) -> None:
        """Wait until every owner is at work on what it owns."""
        for host in self.hosts:
            member = host.status().member
            assert member is not None
            owned = owned_by(document, member)
            while not self._works_on(host, len(owned)):
                time.sleep(0.001)

    def _works_on(self, host: EventProcessorHost, count: int) -> bool:
        running = host._running
        assert running is not None
        return sum(pump._is_open for pump in running.pumps.values()) == count

    def change(self, *, join: bool) -> Change:
        """One joins, or one leaves."""
        before = self.settle()
        leaving = self.hosts[0].status().member
        begin = time.perf_counter()
        if join:
            self.join()
        else:
            self.leave()
        after = self.settle()
        settled = time.perf_counter()
        self.open_all(after)
        opened = time.perf_counter()
        moved = sum(
            after.partitions[number].owner != share.owner
            for number, share in before.partitions.items()
        )
        assert leaving is not None
        least = (
            self._topic.partitions // len(self.hosts) if join else len(owned_by(before, leaving))
        )
        return Change(1e3 * (settled - begin), 1e3 * (opened - begin), moved, least)


@pytest.fixture(scope="module")
def crowd(work_directory: Path) -> Iterator[Crowd]:
    with ExitStack() as stack:
        log = stack.enter_context(eventlog.open(work_directory / "crowd"))
        topic = log.create_topic("events", partitions=_PARTITIONS)
        crowd = Crowd(log, topic, stack)
        for _ in range(_HOSTS):
            crowd.join()
        crowd.open_all(crowd.settle())
        crowd.change(join=True)
        crowd.change(join=False)
        yield crowd


def test_settling_after_a_change(record: Record, crowd: Crowd) -> None:
    """A host joins, and then one leaves, in turns."""
    changes: dict[bool, list[Change]] = {True: [], False: []}
    for number in range(2 * _CHANGES):
        join = number % 2 == 0
        changes[join].append(crowd.change(join=join))
    for join, some in changes.items():
        _record(record, "join" if join else "leave", some)


def _record(record: Record, what: str, some: list[Change]) -> None:
    least, moved = sum(one.least for one in some), sum(one.moved for one in some)
    opened = statistics.fmean(one.opened for one in some)
    record(
        f"host-{what}",
        ours=statistics.fmean(one.settled for one in some),
        limit=_SETTLED_MS,
        rounds=[one.settled / _SETTLED_MS for one in some],
        note=f"{_HOSTS} hosts in one process, {_PARTITIONS:,} partitions; all are at work after "
        f"{opened:.0f} ms; {len(some)} rounds",
    )
    record(
        f"host-{what}-moved",
        ours=moved / len(some),
        limit=least / len(some),
        rounds=[one.moved / one.least for one in some],
    )
