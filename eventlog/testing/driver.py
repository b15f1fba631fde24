"""`ProcessorDriver`: events, time and orders for a processor, one step after the other."""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import Callable, Iterable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec.structs import asdict, replace

import eventlog
from eventlog.checks import seconds
from eventlog.errors import TopicNotFoundError
from eventlog.event import StoredEvent
from eventlog.log import Body, Duration, EventLog, Topic
from eventlog.names import check_name
from eventlog.processor.dead_letters import read_dead_letter
from eventlog.processor.options import ProcessorOptions
from eventlog.processor.processor import Factory, factory_of
from eventlog.testing.clock import VirtualClock
from eventlog.testing.driving import Drive, Scene
from eventlog.testing.events import WHEN
from eventlog.testing.observing import PutAside
from eventlog.testing.running import Runner

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.event import Event
    from eventlog.processor.pump import PartitionStatus

__all__ = ["DriverClock", "ProcessorDriver"]

_DEFAULTS: Final = ProcessorOptions()


class DriverClock(VirtualClock):
    """The clock of a `ProcessorDriver`; `advance` moves it."""

    def __init__(self, starts_at: datetime) -> None:
        super().__init__(starts_at)
        self._look: Callable[[], object] = lambda: None
        self._advance: Callable[..., Any] = lambda *_, **__: None

    def advance(self, duration: Duration, *, wait: bool = True) -> Any:
        """Let time pass, and have done everything that becomes due meanwhile, in order: retries,
        `idle`, automatic checkpoints, timeouts. Returns when that is done.

        A call of the processor that is under way now (after ``feed(..., wait=False)``) is not
        waited for: so it may take too long.

        Args:
            duration: seconds, or a timedelta.
            wait: whether to wait for calls that begin meanwhile; otherwise time passes as if they
                hung too.

        Raises:
            TimeoutError, BaseException: see `ProcessorDriver.feed`.
        """
        return self._advance(seconds(duration, "duration"), wait=wait)

    def attach(self, look: Callable[[], object], advance: Callable[..., Any]) -> None:
        """Say whom to tell of who waits, and who can move it."""
        self._look, self._advance = look, advance

    def _changed(self) -> None:
        self._look()


class ProcessorDriver:
    """Drives a processor as a host would, in a test: events when you say so, time when you say so.

    ::

        with ProcessorDriver(Fraud) as driver:
            driver.feed(b"...", b"...")
            assert driver.checkpoints == [1]

    In an asynchronous test, on asyncio or trio, it is ``async with``; then everything that does
    something is awaited: ``await driver.feed(...)``, ``await driver.clock.advance(60)``.

    What runs is what a host runs for each partition that it owns, but for heartbeats and other
    hosts: the processor is opened, is given events, its checkpoints are stored, errors are
    handled by the `RetryPolicy`. Only time does not pass by itself; and the policy's jitter is
    left out, so that delays are exact.

    Args:
        factory: a class, or another function without arguments, that makes a processor; or a
            handler, a function of ``(context, events)``.
        topic: the topic; or the name of one that is made in a log in memory of its own; None takes
            any name.
        options: see `ProcessorOptions`. The topic for dead letters is made if it is not there.
        partition: which one is processed, and fed.
        group: the group's name.
        store: where the group is kept, if not where the log keeps it.
        topics: further topics to be made if they are not there: for what the processor appends.
        starts_at: the wall time on the clock at the beginning. A log of its own has it too.
        patience: after so many seconds of real time something that has to come will not.
        backend: the event loop for plain tests, ``"asyncio"`` or ``"trio"``.

    Attributes:
        clock: the time that everything here goes by.
        topic, group, partition, options: as given, or made.
    """

    def __init__(
        self,
        factory: Factory | Callable[..., Any],
        topic: Topic | str | None = None,
        *,
        options: ProcessorOptions = _DEFAULTS,
        partition: int = 0,
        group: str = "test",
        store: BlobStore | str | None = None,
        topics: Iterable[str] = (),
        starts_at: datetime = WHEN,
        patience: Duration = 30.0,
        backend: str = "asyncio",
    ) -> None:
        if not isinstance(options, ProcessorOptions):
            raise TypeError(f"options are ProcessorOptions, not {type(options).__name__}")
        made = _factory_of(factory)
        self.clock: Final = DriverClock(starts_at)
        self.options: Final = replace(options, retry=replace(options.retry, jitter=0.0))
        self.group: Final = check_name(group, "group")
        self.partition: Final = partition
        self._own_log: EventLog | None = None
        self.topic: Final = self._topic_of(topic)
        self.topic.partition_info(partition)
        self._make_topics([*topics, *filter(None, [options.dead_letter])])
        self._ends = {one.name: _ends_of(one) for one in self.log.topics()}
        self._appended: dict[str, list[StoredEvent]] | None = None
        scene = Scene(
            self.topic,
            partition,
            self.group,
            self.log.store(store),
            made,
            self.options,
            self.clock,
            seconds(patience, "patience"),
        )
        self._drive: Final = Drive(scene)
        self._runner: Final = Runner(self._drive, backend)
        drive, runner = self._drive, self._runner
        self.clock.attach(
            drive.look,
            lambda length, *, wait: runner.do(functools.partial(drive.advance, length, wait=wait)),
        )
        # Whoever neither enters nor closes it leaves nothing behind all the same.
        # (At the interpreter's exit its thread just ends: too much has ended before it by then.)
        weakref.finalize(self, _close, runner, self._own_log).atexit = False

    def __repr__(self) -> str:
        return (
            f"<ProcessorDriver of partition {self.partition} of topic {self.topic.name!r} "
            f"in group {self.group!r}>"
        )

    def _topic_of(self, topic: Topic | str | None) -> Topic:
        if isinstance(topic, Topic):
            return topic
        name = check_name("events" if topic is None else topic, "topic")
        log = self._own_log = eventlog.open("memory:", clock=self.clock.wall_us)
        return log.create_topic(name, partitions=self.partition + 1)

    def _make_topics(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self.log.topic(name)
            except TopicNotFoundError:
                self.log.create_topic(name, partitions=1, exist_ok=True)

    @property
    def log(self) -> EventLog:
        """The log that the topic is in."""
        return self.topic.log

    # What has happened

    @property
    def processor(self) -> Any:
        """The instance of the processor that was made last."""
        return self._drive.record.processor

    @property
    def checkpoints(self) -> list[int]:
        """The offsets that were checkpointed, in the order in which they were."""
        return list(self._drive.record.checkpoints)

    @property
    def errors(self) -> list[BaseException]:
        """The exceptions that `error` was called with, whether the processor has one or not."""
        return list(self._drive.record.errors)

    @property
    def reported(self) -> list[BaseException]:
        """The exceptions that are not the processor's to judge, as those of `open` and `close`."""
        return list(self._drive.record.reported)

    @property
    def failure(self) -> BaseException | None:
        """What the host would have ended with, since `error` said STOP; None if it would not."""
        return self._drive.failure

    def status(self) -> PartitionStatus | None:
        """What the host would tell of the partition; None if no instance is at work."""
        pump = self._drive.pump
        return None if pump is None else pump.status()

    def appended(self, topic: str | Topic) -> list[StoredEvent]:
        """The events that were appended to a topic since the driver was made.

        Also after it was closed.

        Raises:
            TopicNotFoundError: there is no such topic.
        """
        name = topic.name if isinstance(topic, Topic) else topic
        if self._appended is None:
            return self._read(name)
        if name not in self._appended:
            raise TopicNotFoundError(f"there was no topic {name!r}")
        return list(self._appended[name])

    def _read(self, name: str) -> list[StoredEvent]:
        topic = self.log.topic(name)
        ends = self._ends.get(name, {})
        start = {
            partition: max(ends.get(partition, 0), topic.partition_info(partition).beginning_offset)
            for partition in range(topic.partitions)
        }
        with topic.consumer(start=start, follow=False, order="time") as events:
            return list(events)

    @property
    def dead_letters(self) -> list[PutAside]:
        """What was put aside in the topic for dead letters since the driver was made."""
        if self.options.dead_letter is None:
            return []
        letters = []
        for event in self.appended(self.options.dead_letter):
            said = read_dead_letter(event)
            if said is not None:
                letters.append(PutAside(**asdict(said), event=event))
        return letters

    # What to have happen. In ``async with`` these are to be awaited.

    def feed(self, *events: Event | Body | Iterable[Event | Body], wait: bool = True) -> Any:
        """Append events to the partition; returns when they are handled.

        That is when `process` has returned from them, or they are put aside, or a failure waits
        for its retry: then `errors` tells, and ``clock.advance`` goes on. Without events it waits
        for those that were appended by others. If the processor was closed, by `hand_over` for
        example, another one begins first.

        Args:
            events: events or bodies, or lists of them. Whatever their keys, and whatever place
                they had elsewhere, they go to the partition.
            wait: whether to wait; otherwise it returns as soon as events are handed over. For
                calls that are meant to take too long.

        Raises:
            TimeoutError: a call of the processor did not end.
            BaseException: one that is no Exception (`SystemExit`, say) came out of the processor.
        """
        flat: list[Any] = []
        for one in events:
            flat += one if isinstance(one, list | tuple) else [one]
        return self._runner.do(functools.partial(self._drive.feed, flat, wait=wait))

    def begin(self) -> Any:
        """Have a host take the partition, with another instance and the next epoch; nothing, if
        one is at work. `feed` does that too.
        """
        return self._runner.do(self._drive.begin)

    def idle(self) -> Any:
        """Let `max_wait` pass, so that `idle` is called if there are no events."""
        return self.clock.advance(self.options.max_wait)

    def hand_over(self) -> Any:
        """Have the partition go to another host: `close` is called with HANDED_OVER."""
        return self._runner.do(self._drive.hand_over)

    def stop(self) -> Any:
        """Have the host stop: `close` is called with SHUTDOWN."""
        return self._runner.do(self._drive.stop)

    def lose_lease(self) -> Any:
        """Have the lease be over: coroutines are cancelled, and `close` is called with LEASE_LOST;
        plain functions are left behind.
        """
        return self._runner.do(self._drive.lose_lease)

    # The end

    def close(self) -> None:
        """Stop, and close what was made here; blocks. For who uses neither ``with`` nor ``async
        with``. Closing twice is fine.
        """
        try:
            self._runner.close()
        finally:
            self._close_log()

    def _close_log(self) -> None:
        if self._appended is None:
            with contextlib.suppress(eventlog.EventLogError):
                self._appended = {topic.name: self._read(topic.name) for topic in self.log.topics()}
            if self._own_log is not None:
                self._own_log.close()

    def __enter__(self) -> Self:
        self._runner.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self._runner.enter_async()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._runner.close_async()
        finally:
            self._close_log()


def _close(runner: Runner, log: EventLog | None) -> None:
    runner.close()
    if log is not None:
        log.close()


def _ends_of(topic: Topic) -> dict[int, int]:
    """Where the next events of a topic will be."""
    return {
        partition: topic.partition_info(partition).next_offset
        for partition in range(topic.partitions)
    }


def _factory_of(factory: Any) -> Factory:
    """A factory of processors, of what may also be a handler.

    Raises:
        TypeError: it is neither.
    """
    if inspect.isclass(factory) or not callable(factory):
        return factory_of(factory, None)
    try:
        inspect.signature(factory).bind(None, None)
    except (TypeError, ValueError):
        return factory_of(factory, None)
    return factory_of(None, factory)
