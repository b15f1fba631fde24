"""The contracts every engine keeps: `EventLog`, `Topic` and what they hand out.

Nothing here does the work. An engine derives from the two classes; callers, the processor and the
command line know only these.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from eventlog.event import Event, Key, PropertyValue, StoredEvent
from eventlog.positions import EARLIEST, Position, PositionMap
from eventlog.reports import CheckReport, Damage, PartitionInfo, Receipt

if TYPE_CHECKING:
    from eventlog.aio import AsyncLog, AsyncTopic
    from eventlog.blobs import BlobStore
    from eventlog.callbacks import Callback
    from eventlog.consumer import Consumer, LostRange
    from eventlog.group import ConsumerGroup
    from eventlog.processor.options import ProcessorOptions
    from eventlog.processor.subscription import Subscription
    from eventlog.producer import Producer
    from eventlog.producing.delivery import Delivery
    from eventlog.producing.intake import Intake
    from eventlog.transaction import Transaction

__all__ = [
    "CheckReport",
    "Damage",
    "Duration",
    "EventLog",
    "PartitionInfo",
    "Partitioner",
    "Receipt",
    "Topic",
]

Duration: TypeAlias = float | timedelta
"""A length of time: seconds or a timedelta."""

Partitioner: TypeAlias = str | Callable[[bytes, int], int]
"""``"eventhubs"``, ``"kafka"``, or a function of (key, number of partitions)."""

Body: TypeAlias = bytes | str | bytearray | memoryview


class EventLog(abc.ABC):
    """Holds topics. Made by `eventlog.open`; thread-safe.

    Use it with ``with`` or ``async with``, or close it.
    """

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """Where it is, as it was given to `open`."""

    @property
    @abc.abstractmethod
    def id(self) -> str:
        """What tells it from every other log, wherever it is moved: a UUID."""

    @abc.abstractmethod
    def create_topic(
        self,
        name: str,
        *,
        partitions: int = 4,
        retention: Duration | None = None,
        retention_bytes: int | None = None,
        compression: Literal["zstd", "none"] = "zstd",
        partitioner: Partitioner = "eventhubs",
        max_event_bytes: int = 2**20,
        exist_ok: bool = False,
    ) -> Topic:
        """Make a topic.

        Args:
            name: 1 to 249 characters: letters, digits, ``.``, ``_`` and ``-``, beginning with a
                letter, a digit or ``_``.
            partitions: 1 to 10,000. More can be added later, which moves keys.
            retention: how long an event can be read; None keeps for ever.
            retention_bytes: how many bytes, as stored, each partition keeps at most (its newest
                batch it keeps in any case); None sets no limit.
            compression: ``"zstd"`` where it makes a batch smaller, or ``"none"``.
            partitioner: places keys on partitions. A function is remembered by its module and
                name only: a process that does not hand it in again can read, and append with
                explicit partitions, but not append keyed events.
            max_event_bytes: largest body an event may have; 1 byte to 64 MiB.
            exist_ok: take the topic that is there, if it has as many partitions and the same
                partitioner; warn if it differs otherwise.

        Raises:
            InvalidNameError: the name breaks the rules.
            TopicExistsError: it exists; with `exist_ok`, it exists and differs.
            ValueError, TypeError: another argument is out of range or of a wrong type.
        """

    @abc.abstractmethod
    def topic(self, name: str) -> Topic:
        """The topic of that name.

        Raises:
            TopicNotFoundError: there is none.
        """

    @abc.abstractmethod
    def topics(self) -> list[Topic]:
        """All topics, in the order of their names."""

    @abc.abstractmethod
    def delete_topic(self, name: str) -> None:
        """Delete a topic and its events. A new one of that name shares nothing with it.

        Raises:
            TopicNotFoundError: there is none.
        """

    @abc.abstractmethod
    def transaction(self) -> Transaction:
        """Appends to several topics, and checkpoints, that are committed together or not at all.

        ::

            with log.transaction() as tx:
                tx.append("alerts", b"...")
                tx.checkpoint("cars", "fraud", partition=0, offset=41)
        """

    @property
    @abc.abstractmethod
    def blobs(self) -> BlobStore:
        """Where consumer groups keep their checkpoints: in the log itself, or as it was opened."""

    @abc.abstractmethod
    def store(self, store: BlobStore | str | None = None) -> BlobStore:
        """The store that is meant where one may be given: `blobs` if it is None.

        Args:
            store: itself, or a URL for `eventlog.blobs.open`: that is opened once, shared by all
                who name it in this log, and closed with the log.
        """

    @property
    def own_blobs(self) -> BlobStore | None:
        """The store in the log itself: what is put there can join a transaction. None if it has
        none.
        """
        return None

    def joins_transactions(self, store: BlobStore) -> bool:
        """Whether checkpoints that are kept in a store can be committed with events."""
        return store is self.own_blobs

    @property
    def aio(self) -> AsyncLog:
        """The same methods as coroutines."""
        from eventlog.aio import AsyncLog

        return AsyncLog(self)

    @abc.abstractmethod
    def check(self) -> CheckReport:
        """Read everything and report what is damaged. Others may go on writing."""

    @abc.abstractmethod
    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the log to a new directory, as it is at this moment, while it is in use.

        Raises:
            FileExistsError: something is at `path`.
        """

    @abc.abstractmethod
    def compact(self) -> None:
        """Give the disk back what deleted and expired events took.

        The log is copied and the copy takes its place; appends, in all processes, wait for that
        long, readers do not. It needs room for the copy.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close it. Whatever is used afterwards raises `ClosedError`. Closing twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import anyio.to_thread

        with anyio.CancelScope(shield=True):  # what producers have accepted is stored in any case
            await anyio.to_thread.run_sync(self.close)


class Topic(abc.ABC):
    """A named stream with a fixed number of partitions. Thread-safe."""

    @property
    @abc.abstractmethod
    def log(self) -> EventLog:
        """The log it is in."""

    @property
    @abc.abstractmethod
    def id(self) -> str:
        """What tells it from an earlier or later topic of its name in the same log."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Its name."""

    @property
    @abc.abstractmethod
    def partitions(self) -> int:
        """How many partitions it has; they are numbered from 0."""

    @property
    @abc.abstractmethod
    def retention(self) -> timedelta | None:
        """How long an event can be read; None keeps for ever."""

    @property
    @abc.abstractmethod
    def retention_bytes(self) -> int | None:
        """How many bytes each partition keeps at most; None sets no limit."""

    @property
    @abc.abstractmethod
    def compression(self) -> str:
        """``"zstd"`` or ``"none"``."""

    @property
    @abc.abstractmethod
    def partitioner(self) -> str:
        """The name of what places keys on partitions."""

    @property
    @abc.abstractmethod
    def max_event_bytes(self) -> int:
        """The largest body an event may have."""

    @property
    @abc.abstractmethod
    def created_at(self) -> datetime:
        """When it was made."""

    @abc.abstractmethod
    def configure(
        self,
        *,
        retention: Duration | None = ...,
        retention_bytes: int | None = ...,
        max_event_bytes: int = ...,
        compression: Literal["zstd", "none"] = ...,
    ) -> None:
        """Change what can be changed; what is not given stays. See `EventLog.create_topic`."""

    @abc.abstractmethod
    def add_partitions(self, count: int) -> None:
        """Add `count` partitions. Keys move: a warning says so.

        Raises:
            ValueError: `count` is less than 1, or there would be more than 10,000.
        """

    @abc.abstractmethod
    def append(
        self,
        body: Body,
        *,
        key: Key | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
        partition: int | None = None,
        expect_next: int | None = None,
        timeout: Duration | None = None,
    ) -> Receipt:
        """Store one event; durable when it returns.

        Args:
            body, key, properties: see `Event`.
            partition: where it goes; otherwise the key decides, otherwise the next in turn.
            expect_next: store it only if the partition's next offset is this one; needs
                `partition` or `key`.
            timeout: seconds to wait for other writers, instead of the log's `lock_timeout`.

        Raises:
            UnexpectedOffsetError: the next offset is not `expect_next`.
            EventTooLargeError: the body is over the topic's `max_event_bytes`, for example.
            PartitionNotFoundError, TopicNotFoundError: there is none, or none any more.
            UnsupportedOperationError: it has a key and the topic's partitioner is not known
                here, or the log was opened to be read.
            LogBusyError: others wrote for longer than `timeout`.
            LogFullError: there is no room.
            TypeError, ValueError: see `Event`.
        """

    @abc.abstractmethod
    def append_batch(
        self,
        events: Iterable[Event | Body],
        *,
        key: Key | None = None,
        partition: int | None = None,
        timeout: Duration | None = None,
    ) -> list[Receipt]:
        """Store events, all or none; durable when it returns. One receipt per partition touched.

        Events with a key go where it says; those without go together to the next partition in
        turn. Within a partition they keep the order given.

        Args:
            events: `Event` objects, bodies, or both.
            key: the key of those that have none of their own.
            partition: where all of them go, whatever their keys.
            timeout: see `append`.

        Raises:
            EventTooLargeError: one is over its limit, or all are over 128 MiB together.
            Exception: see `append`.
        """

    @abc.abstractmethod
    def read(
        self,
        partition: int,
        start: Position | PositionMap = EARLIEST,
        *,
        end: Position | PositionMap | None = None,
        max_events: int = 1000,
        max_bytes: int | None = None,
    ) -> list[StoredEvent]:
        """One fetch: the events from `start` on that are there now. Never waits.

        Args:
            start: the first event; see `Position`.
            end: the event to stop before; None reads to what is the end now.
            max_events: at most as many.
            max_bytes: stop before the bodies have more bytes than this, but after one event.

        Raises:
            OffsetOutOfRangeError: `start` is an offset before the beginning or past the end.
            CorruptBatchError: the batch at `start` is damaged. (Events before a damaged batch
                are returned first.)
            PartitionNotFoundError, TopicNotFoundError: there is none, or none any more.
        """

    @abc.abstractmethod
    def producer(
        self,
        *,
        linger: Duration = 0.005,
        max_batch_events: int = 10_000,
        max_batch_bytes: int = 2**20,
        max_buffered_bytes: int = 64 * 2**20,
        producer_id: str | None = None,
        on_delivery: Callback[Delivery] | None = None,
    ) -> Producer:
        """A buffer in front of the topic, for events that come one by one.

        Args:
            linger: how long the first event of a batch waits at most for others.
            max_batch_events: a batch of one partition is stored once it has as many.
            max_batch_bytes: so are all that have gathered once they have as many together.
            max_buffered_bytes: how much may be accepted and not yet stored: bodies, properties
                and 64 bytes for each event. A single event is always accepted.
            producer_id: a name of 1 to 256 bytes, under which the log remembers the last sequence
                that was stored; see `Producer.send`. An earlier producer of that name is fenced.
            on_delivery: called with each `Delivery` when its outcome is known, from the producer's
                thread; a coroutine function runs on the event loop of ``async with``.
        """

    @abc.abstractmethod
    def consumer(
        self,
        *,
        partitions: int | Iterable[int] | None = None,
        start: Position | PositionMap = EARLIEST,
        end: Position | PositionMap | None = None,
        follow: bool | None = None,
        group: str | None = None,
        order: Literal["partition", "time"] = "partition",
        max_wait: Duration | None = None,
        prefetch_bytes: int = 8 * 2**20,
        on_lost: Callback[LostRange] | None = None,
    ) -> Consumer:
        """Reads on and on: ``for event in topic.consumer(): ...``, or with ``async for``.

        Args:
            partitions: which to read; None reads all, and those that are added later.
            start: where to begin; see `Position`. A group's checkpoint wins over it.
            end: where to stop, before that position.
            follow: wait for new events. True unless `end` is given. Otherwise it ends where the
                topic ended when iteration began.
            group: the consumer group to go on for, and to checkpoint to.
            order: ``"partition"``: in order within each partition, a share of each in turn.
                ``"time"``: in the order they were enqueued.
            max_wait: seconds to wait for the next event before iteration ends.
            prefetch_bytes: how many bytes of bodies are read ahead at most, or a single event.
            on_lost: called with each range of events that expired before it was read; they are
                logged as a warning in any case.
        """

    def is_gapless(self) -> bool:
        """Whether each offset of a partition is one more than the last: to subtract is to count."""
        return False

    def intake(self) -> Intake | None:
        """Where `eventlog.copying` stores what it copies; None if a producer has to do."""
        return None

    @abc.abstractmethod
    def group(self, name: str, store: BlobStore | str | None = None) -> ConsumerGroup:
        """A consumer group of the topic, whether it was ever used or not.

        Args:
            name: follows the rules of topics' names.
            store: where its checkpoints are, if not in `EventLog.blobs`; a store or its URL (see
                `EventLog.store`).
        """

    @abc.abstractmethod
    def groups(self, store: BlobStore | str | None = None) -> list[ConsumerGroup]:
        """All groups that were used, in the order of their names."""

    def subscribe(
        self,
        *,
        group: str,
        store: BlobStore | str | None = None,
        host_name: str | None = None,
        options: ProcessorOptions | None = None,
    ) -> Subscription:
        """A balanced share of the topic, batch by batch: an `EventProcessorHost` without a class.

        ::

            async for batch in cars.subscribe(group="fraud"):
                ...
                await batch.checkpoint()

        Asking for the next batch says that the last one was dealt with. ``for`` works too.

        Args:
            group, store, host_name, options: see `EventProcessorHost`.
        """
        from eventlog.processor.options import ProcessorOptions
        from eventlog.processor.subscription import Subscription

        options = options or ProcessorOptions()
        return Subscription(self, group=group, store=store, host_name=host_name, options=options)

    @property
    def aio(self) -> AsyncTopic:
        """The same methods as coroutines."""
        from eventlog.aio import AsyncTopic

        return AsyncTopic(self)

    @abc.abstractmethod
    def partition_info(self, partition: int) -> PartitionInfo:
        """Offsets, times and size of a partition now.

        Raises:
            PartitionNotFoundError: there is none of that number.
        """

    @abc.abstractmethod
    def offset_at(self, partition: int, when: datetime | str) -> int:
        """The first offset enqueued at or after `when`; the next offset if there is none yet."""

    @abc.abstractmethod
    def expire(self) -> int:
        """Remove now what has expired; the number of events removed.

        What has expired is never returned, whether removed or not: this frees its space.
        """
