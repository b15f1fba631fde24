"""What tests of pumps share: a partition owned without a host, processors that note what happens,
and waiting for conditions.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sized
from typing import Any

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from eventlog import EARLIEST, EventLog, Topic
from eventlog.blobs import BlobStore
from eventlog.event import StoredEvent
from eventlog.groups.blobs import GroupBlobs
from eventlog.groups.documents import GroupIds, Share
from eventlog.processor.checkpoint import PartitionCheckpoint
from eventlog.processor.dead_letters import DeadLetter, read_dead_letter
from eventlog.processor.lease import Lease
from eventlog.processor.metrics import NO_METRICS
from eventlog.processor.options import ProcessorOptions
from eventlog.processor.processor import CloseReason, EventProcessor, factory_of
from eventlog.processor.pump import Pump
from tests.processor.virtual_clock import VirtualClock

PATIENCE = 20.0
GROUP = "fraud"
LONG = 1e9


async def until(condition: Callable[[], object]) -> None:
    """Wait for what other tasks and threads will do."""
    while not condition():
        await anyio.lowlevel.checkpoint()


async def until_count(items: Sized, count: int) -> None:
    await until(lambda: len(items) >= count)


async def until_ended(pump: Pump) -> None:
    await until(lambda: pump.outcome is not None)


def is_running(pump: Pump) -> bool:
    return pump.outcome is None


def bodies(events: Iterable[StoredEvent]) -> list[str]:
    return [event.text() for event in events]


def flat(batches: Iterable[list[str]]) -> list[str]:
    return [text for batch in batches for text in batch]


class Rig:
    """A topic of one partition, and pumps of it; the time is the test's."""

    def __init__(self, log: EventLog, *, store: BlobStore | None = None) -> None:
        self.log = log
        self.topic: Topic = log.create_topic("cars", partitions=1)
        self.dead = log.create_topic("dead", partitions=1)
        self.store: BlobStore = store or log.blobs
        self.clock = VirtualClock()
        self.lease = self.new_lease()
        self.reported: list[BaseException] = []
        self.epoch = 0
        self.ids = GroupIds(log.id, "cars", self.topic.id, GROUP)

    def new_lease(self) -> Lease:
        lease = Lease(self.clock.now)
        lease.extend(self.clock.now() + LONG)
        return lease

    def feed(self, *texts: str) -> None:
        """Append events, as one stored batch."""
        self.topic.append_batch(list(texts), partition=0)

    def own(self, member: str) -> str:
        """Have `member` own the partition, with the next epoch; the group's id."""
        self.epoch += 1
        blobs = GroupBlobs(self.store, self.ids, lambda _: None, lambda: None)
        etag, group = blobs.ensure_group()
        assert group is not None
        owned = replace(group, hosts=[member], partitions={0: Share(member, self.epoch)})
        assert blobs.swap_group(etag, owned) is not None
        return group.group

    def pump(
        self,
        processor: Any = None,
        *,
        handler: Any = None,
        member: str = "host-1",
        start: Any = EARLIEST,
        **options: Any,
    ) -> Pump:
        """A pump for the partition, which `member` owns from now on."""
        group = self.own(member)
        return Pump(
            self.topic,
            GROUP,
            0,
            self.epoch,
            checkpoint=PartitionCheckpoint(
                self.ids, group, 0, member, self.epoch, clock=self.clock.wall_us
            ),
            store=self.store,
            lease=self.lease,
            factory=factory_of(processor, handler),
            options=ProcessorOptions(**options),
            clock=self.clock,
            metrics=NO_METRICS,
            start=start,
            report=self.reported.append,
        )

    @contextlib.asynccontextmanager
    async def running(self, pump: Pump) -> AsyncIterator[Pump]:
        """The pump at work; stopped at the end of the block, if it still is."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pump.run)
            try:
                yield pump
            finally:
                pump.stop()

    @property
    def checkpoint(self) -> int | None:
        """Where the group is, in the store."""
        found = self.topic.group(GROUP, self.store).checkpoints()
        return found[0].offset if found else None

    def topic_is_done(self) -> bool:
        """Whether the group has finished what there is."""
        return self.checkpoint == self.topic.partition_info(0).next_offset - 1

    def dead_letters(self) -> list[tuple[str, DeadLetter]]:
        """Bodies, and what the dead letters say."""
        found = []
        for event in self.dead.read(0):
            letter = read_dead_letter(event)
            assert letter is not None
            found.append((event.text(), letter))
        return found

    async def until_retrying(self, pump: Pump, state: str = "retrying") -> None:
        await until(lambda: pump.status().state == state and self.clock.waits())


class Recorder(EventProcessor):
    """Notes what it is given, and checkpoints it, on the event loop.

    Attributes:
        made: all instances.
    """

    made: list[Recorder]

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.batches: list[list[str]] = []
        self.reasons: list[CloseReason] = []
        self.errors: list[tuple[BaseException, list[str]]] = []
        self.context: Any = None
        type(self).made.append(self)

    def __init_subclass__(cls) -> None:
        cls.made = []

    async def open(self, context: Any) -> None:
        self.context = context
        self.calls.append("open")

    async def process(self, context: Any, events: list[StoredEvent]) -> None:
        self.calls.append("process")
        self.batches.append(bodies(events))
        await self.handle(context, events)

    async def handle(self, context: Any, events: list[StoredEvent]) -> None:
        await context.checkpoint()

    async def close(self, context: Any, reason: CloseReason) -> None:
        self.calls.append("close")
        self.reasons.append(reason)

    async def error(self, context: Any, exception: BaseException, events: list[StoredEvent]) -> Any:
        self.calls.append("error")
        self.errors.append((exception, bodies(events)))
        return self.judge(exception, events)

    def judge(self, exception: BaseException, events: list[StoredEvent]) -> Any:
        return None


def recorder(**methods: Any) -> type[Recorder]:
    """A class of its own, with some methods in place of the recorder's."""
    return type("OneRecorder", (Recorder,), methods)
