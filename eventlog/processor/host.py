"""`EventProcessorHost`: one process's share of a consumer group."""

from __future__ import annotations

import functools
import logging
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.to_thread

from eventlog import blobs
from eventlog.callbacks import Callback, Caller
from eventlog.errors import TopicNotFoundError
from eventlog.log import Topic
from eventlog.names import check_name
from eventlog.processor.clock import SystemClock
from eventlog.processor.coordination import Coordination
from eventlog.processor.lags import Lags
from eventlog.processor.metrics import NO_METRICS, metrics_for
from eventlog.processor.options import ProcessorOptions
from eventlog.processor.processor import factory_of
from eventlog.processor.running import Running, Settings
from eventlog.processor.status import Health, HostStatus

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.processor.processor import Factory, ProcessFunction
    from eventlog.processor.pump import PartitionStatus

__all__ = ["EventProcessorHost"]

_logger: Final = logging.getLogger("eventlog")

_MOST_NAME_CHARACTERS: Final = 200
_DEFAULTS: Final = ProcessorOptions()


class EventProcessorHost:
    """One process's share of a group: it owns partitions, and runs a processor on each.

    The hosts of a group share the partitions of the topic evenly, wherever they run. A partition
    moves when hosts come and go: handed over in good order, so that nothing is processed twice; or
    taken from a host that died, and processed again from its last checkpoint on.

    ::

        host = eventlog.EventProcessorHost(cars, group="fraud", processor=Fraud)
        await host.run()  # or: async with host: ...; or: host.run_sync()

    Args:
        topic: the topic.
        group: the consumer group; it appears with its first host.
        processor: a class derived from `EventProcessor`, or another factory without arguments;
            called for each partition the host comes to own.
        handler: instead of that, a function of (context, events).
        store: where the group's documents are, if not in ``topic.log.blobs``; a `BlobStore`, or
            its URL (see `EventLog.store`), which is opened when it runs.
        host_name: for people; 1 to 200 letters, digits, ``.``, ``_`` and ``-``. The machine's name
            if it is not given. Two hosts may have the same.
        options: see `ProcessorOptions`.
        on_error: called with errors that are no partition's, as when the store cannot be reached;
            they are logged in any case.

    Raises:
        TypeError, ValueError: an argument is of a wrong type or out of range.
        InvalidNameError: no group, or no host, can have that name.
    """

    def __init__(
        self,
        topic: Topic,
        *,
        group: str,
        processor: Factory | None = None,
        handler: ProcessFunction | None = None,
        store: BlobStore | str | None = None,
        host_name: str | None = None,
        options: ProcessorOptions = _DEFAULTS,
        on_error: Callback[BaseException] | None = None,
    ) -> None:
        if not isinstance(topic, Topic):
            raise TypeError(f"a host processes a Topic, not {type(topic).__name__}: {topic!r:.80}")
        if not isinstance(options, ProcessorOptions):
            raise TypeError(f"options are ProcessorOptions, not {type(options).__name__}")
        if options.dead_letter == topic.name:
            raise ValueError(
                f"dead letters of topic {topic.name!r} go to another topic: in the same they would "
                "fail again"
            )
        self._topic = topic
        self._group = check_name(group, "group")
        self._host_name = _host_name(host_name)
        self._caller = Caller(on_error)
        self._last_error: BaseException | None = None
        self._paused: set[int] = set()
        self._running: Running | None = None
        self._coordination: Coordination | None = None
        self._lags = Lags()
        self._stop_requested = False
        self._failure: BaseException | None = None
        self._stack: AsyncExitStack | None = None
        self._is_opening = False
        self._url = store if isinstance(store, str) else None
        self._settings = Settings(
            group=self._group,
            # What a URL names is opened by `_run`, in a thread: that may take a while.
            store=blobs.open("memory:") if isinstance(store, str) else topic.log.store(store),
            factory=factory_of(processor, handler),
            options=options,
            clock=SystemClock(),
            metrics=NO_METRICS,
            report=self._note,
        )

    def __repr__(self) -> str:
        return (
            f"<EventProcessorHost {self._host_name!r} of group {self._group!r}, "
            f"topic {self._topic.name!r}>"
        )

    # Running

    async def run(self) -> None:
        """Process until it is stopped. Installs no signal handlers.

        Cancelled, it cancels what runs on the event loop, gives its partitions away, and ends; it
        waits for plain functions until `ProcessorOptions.grace` is over.

        Raises:
            RuntimeError: it runs already.
            TopicNotFoundError: there is no topic for its dead letters.
            StoreUnavailableError: its store was given by a URL, and cannot be opened; or what
                `eventlog.blobs.open` raises besides.
            Exception: what made a processor's `error` say STOP; the log was closed, or cannot be
                written.
        """
        self._refuse_running()
        await self._run_apart()
        self._raise_failure()

    async def _run_apart(self) -> None:
        """In a task of its own: asyncio's own cancelling pierces what is shielded, but not a group
        that waits for its tasks.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)

    def _refuse_running(self) -> None:
        if self._running is not None or self._is_opening or self._stack is not None:
            raise RuntimeError(f"{self!r} runs already")

    async def _run(self) -> None:
        """`run`, but what it is to raise stays in `_failure`: a task group would wrap it."""
        self._caller.use_current_loop()
        store = await self._open_store()
        if store is None:
            return
        metrics = metrics_for(self._topic.name, self._group, self._host_name, self.status)
        settings = self._settings._replace(metrics=metrics, store=store)
        running = self._running = Running(settings, self._paused)
        if self._stop_requested:
            running.stopping = True
        try:
            await anyio.to_thread.run_sync(self._check_dead_letter_topic)
            coordination = self._coordination = Coordination(
                self._topic,
                self._group,
                settings.store,
                host_name=self._host_name,
                options=settings.options,
                publish=running.publish,
                report=self._report,
                clock=settings.clock.now,
            )
            await running.run(coordination)
        except TopicNotFoundError as error:
            running.failure = error
        finally:
            metrics.close()
            self._running = self._coordination = None
            self._stop_requested = False
            self._failure = running.failure

    async def _open_store(self) -> BlobStore | None:
        """The store; None if it cannot be opened, and why is in `_failure`."""
        if self._url is None:
            return self._settings.store
        open_store = functools.partial(self._topic.log.store, self._url)
        self._is_opening = True
        try:
            return await anyio.to_thread.run_sync(open_store, abandon_on_cancel=True)
        except Exception as error:  # noqa: BLE001 - raised by `run`
            self._failure, self._stop_requested = error, False
            return None
        finally:
            self._is_opening = False

    def _check_dead_letter_topic(self) -> None:
        if self._settings.options.dead_letter is not None:
            self._topic.log.topic(self._settings.options.dead_letter)

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # it has this frame now

    def run_sync(self) -> None:
        """`run` on an event loop of its own; SIGTERM and SIGINT stop it, in the main thread.

        A second one cancels it.
        """
        anyio.run(self._run_until_signalled)

    async def _run_until_signalled(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            await self.run()
            return
        self._refuse_running()
        async with anyio.create_task_group() as tasks:
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                tasks.start_soon(self._obey, signals, tasks.cancel_scope)
                await self._run_apart()
                tasks.cancel_scope.cancel()
        self._raise_failure()

    async def _obey(self, signals: AsyncIterator[signal.Signals], scope: anyio.CancelScope) -> None:
        received = 0
        async for number in signals:
            received += 1
            _logger.info("%s: host %s stops", number.name, self._host_name)
            self.stop()
            if received > 1:
                scope.cancel()

    def stop(self) -> None:
        """Finish what is under way, give the partitions away, and end. Returns at once.

        Thread-safe. What still runs when `ProcessorOptions.grace` is over is cancelled; a plain
        function cannot be, and its partition goes to others when the lease is over.
        """
        self._stop_requested = True
        running = self._running
        if running is not None:
            running.stop()

    async def __aenter__(self) -> Self:
        self._refuse_running()
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(self._run_beside, tasks.cancel_scope)
            self._stack = stack.pop_all()
        return self

    async def _run_beside(self, block: anyio.CancelScope) -> None:
        """Run beside a block, which is cancelled if this fails."""
        await self._run()
        if self._failure is not None:
            block.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        stack, self._stack = self._stack, None
        assert stack is not None
        self.stop()
        if isinstance(error, Exception):  # the block's own: raised as it is, not in a group
            kind = error = trace = None
        try:
            handled = await stack.__aexit__(kind, error, trace)
        finally:
            self._stop_requested = False
        self._raise_failure()
        return handled

    # While it runs

    def pause(self, partition: int) -> None:
        """Hand over nothing more of a partition, whether it is owned now or comes to be. It is
        kept, and given away as others are.
        """
        self._paused.add(partition)
        self._tell(partition)

    def resume(self, partition: int) -> None:
        """Go on with a partition."""
        self._paused.discard(partition)
        self._tell(partition)

    def _tell(self, partition: int) -> None:
        running = self._running
        if running is not None:
            running.call_soon(lambda: running.follow_pause(partition))

    def status(self) -> HostStatus:
        """How it is. Thread-safe; a look at the log for each of its partitions.

        That takes a second at most: of a log that does not answer no lags are told.
        """
        running, coordination = self._running, self._coordination
        news = None if running is None else running.news
        pumps = {} if running is None else running.pumps
        late = None if coordination is None else coordination.log_late
        lags = {} if coordination is None or late or not pumps else self._lags.look(pumps)
        partitions = {
            number: pump.status(functools.partial(lags.get, number))
            for number, pump in pumps.items()
        }
        renewed = None if news is None else self._wall_time(news.membership.renewed_at)
        errors = [one.last_error for one in partitions.values() if one.last_error is not None]
        return HostStatus(
            self._health(partitions.values()),
            None if news is None else news.membership.member,
            partitions,
            renewed,
            errors[-1] if errors else late or self._last_error,
        )

    def _wall_time(self, moment: float) -> datetime:
        clock = self._settings.clock
        return datetime.fromtimestamp(clock.wall_us() / 1e6 - (clock.now() - moment), UTC)

    def _note(self, error: BaseException) -> None:
        """A partition's error, for `status`."""
        self._last_error = error

    def _report(self, error: Exception) -> None:
        self._last_error = error
        self._caller.call(error)

    def _health(self, partitions: Iterable[PartitionStatus]) -> Health:
        running, coordination = self._running, self._coordination
        if running is None or coordination is None:
            is_beginning = self._is_opening or running is not None
            return "starting" if is_beginning else "stopped"
        return _health(running, coordination, partitions)


def _health(
    running: Running, coordination: Coordination, partitions: Iterable[PartitionStatus]
) -> Health:
    if running.stopping:
        return "stopping"
    if running.news is None:
        return "starting"
    if running.news.round is None:
        return "lapsed"
    if coordination.failing or coordination.log_late or running.is_short:
        return "degraded"
    is_failing = any(one.state == "failing" for one in partitions)
    return "degraded" if is_failing else "running"


def _host_name(given: str | None) -> str:
    """The name, or the machine's as far as it is one."""
    if given is None:
        machine = "".join(c if c.isalnum() and c.isascii() else "-" for c in socket.gethostname())
        given = machine.strip("-")[:_MOST_NAME_CHARACTERS] or "host"
    name = check_name(given, "host")
    if len(name) > _MOST_NAME_CHARACTERS:
        raise ValueError(f"host_name has at most {_MOST_NAME_CHARACTERS} characters: {name!r:.80}")
    return name
