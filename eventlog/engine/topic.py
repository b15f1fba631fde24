"""What every engine's `Topic` does alike: a record says what it is, and events come as columns.

An engine adds where events are stored, and how they come back.
"""

from __future__ import annotations

import abc
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from eventlog import topic_settings as settings
from eventlog.appending import Columns, TopicFacts, TopicState, check_expected, gather, gather_one
from eventlog.callbacks import Callback
from eventlog.errors import TopicExistsError, TopicNotFoundError
from eventlog.event import Event, Key, PropertyValue
from eventlog.log import Body, Duration, Receipt, Topic
from eventlog.positions import EARLIEST, Position, PositionMap, instant
from eventlog.producer import Producer
from eventlog.producing.delivery import Delivery

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.consumer import Consumer, LostRange
    from eventlog.consuming.source import Source
    from eventlog.engine.log import EngineLog
    from eventlog.group import ConsumerGroup
    from eventlog.producing.outlet import Outlet

__all__ = ["EngineTopic", "refuse_other"]

_UNCHANGED: Final[Any] = object()


class _Record(TopicFacts, Protocol):
    """What is stored of a topic."""

    @property
    def retention_us(self) -> int | None: ...
    @property
    def retention_bytes(self) -> int | None: ...
    @property
    def compression(self) -> str: ...
    @property
    def created_us(self) -> int: ...


class _State(TopicState, Protocol):
    """A topic as this process knows it."""

    @property
    def record(self) -> _Record: ...


class _Appender(Protocol):
    """Puts events into one topic."""

    def store(
        self,
        columns: Columns,
        partition: int | None,
        expect_next: int | None,
        timeout: Duration | None,
    ) -> list[Receipt]:
        """Place and store events; one receipt for each partition touched."""


class EngineTopic(Topic):
    """A topic that is described by a record.

    Attributes:
        state: the topic as it was last seen; replaced whole when it has changed.
        appender: puts events into it.
    """

    state: _State
    appender: _Appender
    _log: EngineLog

    def __repr__(self) -> str:
        return f"<Topic {self.name!r} of {self.partitions} partitions in {self._log.location}>"

    @abc.abstractmethod
    def refresh(self) -> TopicState:
        """What the topic is now.

        Raises:
            TopicNotFoundError: it was deleted.
        """

    @abc.abstractmethod
    def partition(self, partition: object) -> int:
        """`partition`, if the topic has it, as far as is known.

        Raises:
            PartitionNotFoundError: it has not.
        """

    @abc.abstractmethod
    def _outlet(self) -> Outlet:
        """What a producer sends through."""

    @abc.abstractmethod
    def _source(self) -> Source:
        """What a consumer reads from."""

    @abc.abstractmethod
    def _configure(self, changes: dict[str, Any]) -> None:
        """Change these fields of the record."""

    @abc.abstractmethod
    def _add_partitions(self, count: int) -> None:
        """Add partitions; there may be too many then."""

    # What it is

    @property
    def name(self) -> str:
        return self.state.record.name

    @property
    def partitions(self) -> int:
        return self.state.record.partitions

    @property
    def retention(self) -> timedelta | None:
        length = self.state.record.retention_us
        return None if length is None else timedelta(microseconds=length)

    @property
    def retention_bytes(self) -> int | None:
        return self.state.record.retention_bytes

    @property
    def compression(self) -> str:
        return self.state.record.compression

    @property
    def partitioner(self) -> str:
        return self.state.record.partitioner

    @property
    def max_event_bytes(self) -> int:
        return self.state.record.max_event_bytes

    @property
    def created_at(self) -> datetime:
        return instant(self.state.record.created_us)

    def gone(self) -> TopicNotFoundError:
        """That it is not there any more."""
        return TopicNotFoundError(
            f"topic {self.name!r} was deleted from the log at {self._log.location}"
        )

    def warn_unless(self, asked: Topic) -> None:
        """Warn whoever called `create_topic` if this one, which is there, differs."""
        fields = ("retention", "retention_bytes", "compression", "max_event_bytes")
        values = ((field, getattr(self, field), getattr(asked, field)) for field in fields)
        differences = [
            f"{field} is {settings.setting_text(here)}, not {settings.setting_text(wanted)}"
            for field, here, wanted in values
            if here != wanted
        ]
        if differences:
            warnings.warn(
                f"topic {self.name!r} exists and stays as it is: {'; '.join(differences)}",
                stacklevel=4,
            )

    # Changing it

    def configure(
        self,
        *,
        retention: Duration | None = _UNCHANGED,
        retention_bytes: int | None = _UNCHANGED,
        max_event_bytes: int = _UNCHANGED,
        compression: Literal["zstd", "none"] = _UNCHANGED,
    ) -> None:
        changes: dict[str, Any] = {}
        if retention is not _UNCHANGED:
            changes["retention_us"] = settings.retention_us(retention)
        if retention_bytes is not _UNCHANGED:
            changes["retention_bytes"] = settings.check_bytes(retention_bytes, "retention_bytes")
        if max_event_bytes is not _UNCHANGED:
            changes["max_event_bytes"] = settings.check_count(
                max_event_bytes, "max_event_bytes", settings.MAX_EVENT_BYTES
            )
        if compression is not _UNCHANGED:
            changes["compression"] = settings.check_compression(compression)
        self._configure(changes)

    def add_partitions(self, count: int) -> None:
        settings.check_count(count, "count", settings.MAX_PARTITIONS)
        self._add_partitions(count)
        warnings.warn(
            f"topic {self.name!r} has {self.partitions} partitions now: keys move to others, and "
            "a key's events are in order only among those appended since",
            stacklevel=2,
        )

    # Appending

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
        if expect_next is not None:
            check_expected(expect_next, partition, key)
        columns = gather_one(body, key, properties)
        return self.appender.store(columns, partition, expect_next, timeout)[0]

    def append_batch(
        self,
        events: Iterable[Event | Body],
        *,
        key: Key | None = None,
        partition: int | None = None,
        timeout: Duration | None = None,
    ) -> list[Receipt]:
        columns = gather(events, key)
        if not columns.bodies:
            return []
        return self.appender.store(columns, partition, None, timeout)

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
        self._log.refuse_reader()
        producer = Producer(
            self._outlet(),
            linger=linger,
            max_batch_events=max_batch_events,
            max_batch_bytes=max_batch_bytes,
            max_buffered_bytes=max_buffered_bytes,
            producer_id=producer_id,
            on_delivery=on_delivery,
        )
        self._log.add_producer(producer)
        return producer

    # Consuming

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
        from eventlog.consumer import Consumer
        from eventlog.group import group_store

        return Consumer(
            self._source(),
            partitions=partitions,
            start=start,
            end=end,
            follow=follow,
            group=None
            if group is None
            else group_store(self, group, self._log.blobs, clock=self._log.now_us),
            order=order,
            max_wait=max_wait,
            prefetch_bytes=prefetch_bytes,
            on_lost=on_lost,
            readership=self._log.readership,
        )

    def group(self, name: str, store: BlobStore | str | None = None) -> ConsumerGroup:
        from eventlog.group import ConsumerGroup

        return ConsumerGroup(self, name, self._log.store(store), clock=self._log.now_us)

    def groups(self, store: BlobStore | str | None = None) -> list[ConsumerGroup]:
        from eventlog.group import groups_of

        return groups_of(self, self._log.store(store), clock=self._log.now_us)


def refuse_other(wanted: TopicFacts, there: TopicFacts) -> None:
    """Refuse a topic that is there, for one that would place keys elsewhere.

    Raises:
        TopicExistsError: it has other partitions, or another partitioner.
    """
    if (wanted.partitions, wanted.partitioner) != (there.partitions, there.partitioner):
        raise TopicExistsError(
            f"topic {there.name!r} exists with {there.partitions} partitions and partitioner "
            f"{there.partitioner!r}; asked for were {wanted.partitions} and {wanted.partitioner!r}"
        )
