"""Driving one pump: orders, events and time for it, and knowing when nothing is left to be done.

A pump is *settled* when it has ended; or when it only waits, and either has nothing to do or waits
for a moment of the clock to try again; or when its processor waits by the clock itself. Then
nothing happens any more until there are events, time passes, or there is an order. Everything
that leads there tells: calls when they begin and end, the clock when somebody begins to wait. So
it is waited for, and never slept.

What this module deliberately does not do: know whether a test is plain or asynchronous
(`eventlog.testing.running`); coordinate. There is no host: the group document is written as if one
had been given the partition, and the lease holds until it is lost on purpose.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeVar

import anyio
import anyio.lowlevel
from msgspec.structs import replace

from eventlog.blobs import NOT_MODIFIED
from eventlog.errors import EventLogError, PreconditionFailedError
from eventlog.groups.documents import (
    GroupDocument,
    GroupIds,
    Share,
    decode,
    encode,
    new_revision,
)
from eventlog.processor.lease import Lease
from eventlog.processor.metrics import NO_METRICS
from eventlog.processor.processor import CloseReason
from eventlog.processor.pump import Pump
from eventlog.processor.threads import in_thread
from eventlog.testing.observing import Call, ObservedCheckpoint, Observer, Record
from eventlog.waiting import Notifier, current_notifier

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.event import Event
    from eventlog.log import Body, Topic
    from eventlog.processor.options import ProcessorOptions
    from eventlog.processor.processor import Factory
    from eventlog.testing.clock import VirtualClock

__all__ = ["Drive", "Scene"]

T = TypeVar("T")

_TRIES: Final = 100
_ROUNDS: Final = 5
"""Of the event loop. A task that was started, and one that this starts, have begun after two."""


class Scene(NamedTuple):
    """What is driven, and where."""

    topic: Topic
    partition: int
    group: str
    store: BlobStore
    factory: Factory
    options: ProcessorOptions
    clock: VirtualClock
    patience: float


def _none(call: Call) -> bool:  # noqa: ARG001 - others look at it
    """Every call is waited for."""
    return False


class Drive:
    """A pump at a time, on the event loop that this is entered on. Another follows when one ended.

    Attributes:
        record: what has happened.
        pump: the one that runs; None if none does.
        failure: what the last one has ended with, as a host would.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene: Final = scene
        self.record: Final = Record()
        self.pump: Pump | None = None
        self.failure: BaseException | None = None
        self._crash: Exception | None = None
        self._observer: Observer | None = None
        self._lease = Lease(scene.clock.now)
        self._hosts = 0
        self._changed: anyio.Event | None = None
        self._notify: Notifier | None = None
        self._stack: AsyncExitStack | None = None

    def look(self) -> None:
        """Something has changed; from any thread."""
        notify = self._notify
        if notify is not None:
            notify(self._set_changed)

    def _set_changed(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = anyio.Event()

    # Beginning and ending

    async def __aenter__(self) -> Self:
        self._notify, self._changed = current_notifier(), anyio.Event()
        async with AsyncExitStack() as stack:
            self._beginning = anyio.Lock()
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.push_async_callback(self._end)
            await self.begin()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stack, self._stack = self._stack, None
        assert stack is not None
        # A task group would wrap what the test has raised.
        await stack.__aexit__(None, None, None)
        self._notify = None

    async def _end(self) -> None:
        """In good order, unless that would mean to wait for a call that is under way."""
        with anyio.CancelScope(shield=True):
            pump, observer = self.pump, self._observer
            if pump is not None and observer is not None:
                if observer.call is None:
                    pump.stop()
                else:
                    pump.cancel(CloseReason.SHUTDOWN)
                await self._until(lambda: self.pump is None)
        self._tasks.cancel_scope.cancel()

    async def begin(self) -> None:
        """Have another host take the partition, if none has it."""
        async with self._beginning:
            if self.pump is None:
                await self._begin()

    async def _begin(self) -> None:
        scene = self.scene
        self._hosts += 1
        member = f"host-{self._hosts}"
        document = await in_thread(lambda: self._change_share(_owned_by(member)))
        self.failure = None
        self._lease = Lease(scene.clock.now)
        self._lease.extend(math.inf)
        self._observer = Observer(scene.factory, self.record, scene.clock.now, self.look)
        self.pump = self._pump_of(member, document)
        self._tasks.start_soon(self._run, self.pump)
        await self.settle()

    def _pump_of(self, member: str, document: GroupDocument) -> Pump:
        scene = self.scene
        epoch = document.partitions[scene.partition].epoch
        assert self._observer is not None
        return Pump(
            scene.topic,
            scene.group,
            scene.partition,
            epoch,
            checkpoint=ObservedCheckpoint(
                self._ids,
                document.group,
                scene.partition,
                member,
                epoch,
                checkpoints=self.record.checkpoints,
                clock=scene.clock.wall_us,
            ),
            store=scene.store,
            lease=self._lease,
            factory=self._observer.make,
            options=scene.options,
            clock=scene.clock,
            metrics=NO_METRICS,
            start=scene.options.start,
            report=self.record.reported.append,
            on_rest=self.look,
        )

    async def _run(self, pump: Pump) -> None:
        try:
            await pump.run()
            self.failure = pump.error
        except Exception as error:  # noqa: BLE001 - a fault of ours: raised by who waits for it
            self._crash = error
        finally:
            with anyio.CancelScope(shield=True), contextlib.suppress(EventLogError):
                await in_thread(lambda: self._change_share(_given_back))
            self.pump = None
            self._set_changed()

    # What happens to it

    async def feed(self, events: list[Event | Body], *, wait: bool) -> None:
        """Append events, and wait until they are handled, or only until some are handed over."""
        await self.begin()
        scene = self.scene
        if events:
            await in_thread(lambda: scene.topic.append_batch(events, partition=scene.partition))
        if wait:
            await self.settle()
        else:
            await self._until(lambda: self._call is not None or self._is_settled())

    async def advance(self, length: float, *, wait: bool) -> None:
        """Let time pass, from one moment at which something is due to the next.

        A call that is under way is not waited for: it is there to find out what becomes of that.
        Nor, unless `wait`, is one that begins meanwhile.
        """
        clock = self.scene.clock
        end = clock.now() + length
        call = self._call
        under_way = None if call is None or clock.is_asleep(call) else call

        def hangs(call: Call) -> bool:
            return call is under_way or not wait

        await self.settle(hangs)
        while clock.wake_next(end):
            await self.settle(hangs)
        clock.move_to(end)

    async def hand_over(self) -> None:
        """Have the partition go to another host, in good order."""
        if self.pump is not None:
            self.pump.hand_over()
            await self.settle()

    async def stop(self) -> None:
        """Have the host stop, in good order."""
        if self.pump is not None:
            self.pump.stop()
            await self.settle()

    async def lose_lease(self) -> None:
        """Have the lease be over."""
        if self.pump is not None:
            self._lease.lose()
            self.pump.cancel(CloseReason.LEASE_LOST)
            await self.settle()

    # Settling

    @property
    def _call(self) -> Call | None:
        """The call that is under way."""
        return None if self.pump is None or self._observer is None else self._observer.call

    async def settle(self, hangs: Callable[[Call], bool] = _none) -> None:
        """Wait until nothing more happens by itself.

        Args:
            hangs: whether a call is not waited for.
        """
        await self._until(lambda: self._is_settled(hangs))

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition.

        Raises:
            TimeoutError: it did not come.
        """
        try:
            with anyio.fail_after(self.scene.patience):
                while True:
                    changed = self._changed
                    assert changed is not None
                    if not condition():
                        await changed.wait()
                    elif await self._is_quiet(changed):
                        break
        except TimeoutError:
            raise TimeoutError(self._why_not()) from None
        crash, self._crash = self._crash, None
        if crash is not None:
            raise crash

    async def _is_quiet(self, changed: anyio.Event) -> bool:
        """Let tasks run that can; whether nothing has changed.

        One that was started may not have come to where it waits by the clock.
        """
        for _ in range(_ROUNDS):
            await anyio.lowlevel.checkpoint()
        return not changed.is_set()

    def _is_settled(self, hangs: Callable[[Call], bool] = _none) -> bool:
        pump = self.pump
        if pump is None:
            return True
        clock = self.scene.clock
        if clock.is_waking:
            return False
        call = self._call
        if call is not None:
            waits = hangs(call) or clock.is_asleep(call)
            return waits and not self._is_cancelled(call)
        if not pump.resting:
            return False
        status = pump.status()
        if status.state in ("retrying", "failing"):
            return True
        return status.state == "waiting" and self._is_all_handled(status.offset)

    def _is_cancelled(self, call: Call) -> bool:
        """Whether a call has taken too long, and can be cancelled."""
        limit = self.scene.options.handler_timeout
        late = limit is not None and self.scene.clock.is_past(call.began_at + limit)
        return late and call.is_async

    def _is_all_handled(self, offset: int | None) -> bool:
        assert self._observer is not None
        finished = max(-1 if offset is None else offset, self._observer.handled)
        info = self.scene.topic.partition_info(self.scene.partition)
        return finished >= info.last_enqueued_offset

    def _why_not(self) -> str:
        patience = f"after {self.scene.patience:g} s of real time"
        call = self._call
        if call is None:
            state = "ended" if self.pump is None else self.pump.status().state
            return f"{patience} the events are not handled; the pump is {state}"
        return (
            f"{patience} `{call.name}` of the processor still runs. If it is meant to, have it "
            "wait by the driver's clock, or feed with wait=False"
        )

    # The group document

    @functools.cached_property
    def _ids(self) -> GroupIds:
        topic = self.scene.topic
        return GroupIds(topic.log.id, topic.name, topic.id, self.scene.group)

    def _change_share(self, change: Callable[[Share], tuple[Share, list[str]]]) -> GroupDocument:
        """Say in the group document whose the partition is; blocks."""
        store, ids, partition = self.scene.store, self._ids, self.scene.partition
        for _ in range(_TRIES):
            blob = store.get(ids.document)
            assert blob is not NOT_MODIFIED
            found = None if blob is None else decode(blob.name, blob.data, GroupDocument, ids)
            document = GroupDocument.first(ids) if found is None else found
            share, hosts = change(document.partitions.get(partition, Share()))
            document = replace(
                document,
                generation=document.generation + 1,
                topic_partitions=self.scene.topic.partitions,
                hosts=hosts,
                partitions={**document.partitions, partition: share},
                revision=new_revision(),
            )
            etag = None if blob is None else blob.etag
            with contextlib.suppress(PreconditionFailedError):
                store.put(ids.document, encode(document), if_match=etag, if_absent=etag is None)
                return document
        raise PreconditionFailedError(f"others go on changing {ids.document}")


def _owned_by(member: str) -> Callable[[Share], tuple[Share, list[str]]]:
    return lambda share: (Share(member, share.epoch + 1), [member])


def _given_back(share: Share) -> tuple[Share, list[str]]:
    return Share(None, share.epoch), []
