"""``EventLog`` on a Kafka cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from eventlog import topic_settings as settings
from eventlog.engine.log import EngineLog
from eventlog.engine.topic import refuse_other
from eventlog.errors import (
    InvalidNameError,
    LogBusyError,
    TopicExistsError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.kafka.catalog import Catalog
from eventlog.kafka.cluster import Cluster
from eventlog.kafka.location import Settings, parse_location
from eventlog.kafka.topic import KafkaTopic
from eventlog.kafka.topic_record import TopicRecord, config_of, record_of
from eventlog.log import CheckReport, Duration, EventLog, Partitioner, Topic
from eventlog.names import check_name

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.kafka.groups.offsets import GroupOffsets
    from eventlog.kafka.reading.fetchers import Fetchers
    from eventlog.kafka.writing.producers import Writers
    from eventlog.kafka.writing.transaction import KafkaTransaction

__all__ = ["KafkaLog", "open_kafka"]

T = TypeVar("T")

_MOST_KNOWN: Final = 1000

_HIDDEN: Final = "__"
"""What the names of topics begin with that are the cluster's own."""


class KafkaLog(EngineLog):
    """See `EventLog`.

    Attributes:
        settings: how it was opened.
        cluster: the cluster.
        generation: grows with each change this log makes to a topic; handles look anew then.
    """

    def __init__(self, settings: Settings, *, blobs: str | BlobStore | None = None) -> None:
        super().__init__(blobs, read_only=settings.read_only)
        self.settings = settings
        self.generation = 0
        self._mutex = threading.RLock()
        self._parts: dict[str, Any] = {}
        self._known: dict[str, KafkaTopic] = {}
        self.cluster = Cluster(settings)
        self._catalog = Catalog(self.cluster)
        try:
            self.cluster.connect()
        except BaseException:
            self.cluster.close()
            self._stores.close()
            raise

    @property
    def location(self) -> str:
        return self.settings.place

    @property
    def id(self) -> str:
        return self.cluster.id

    # What topics use of it

    def check_open(self) -> None:
        """Nothing, while the log is open.

        Raises:
            ClosedError: it was closed.
            UnsupportedOperationError: this is a child of the process that opened it.
        """
        self.cluster.check_process()

    def now_us(self) -> int:
        """Microseconds since 1970 by this machine's clock; the brokers have their own."""
        self.check_open()
        return time.time_ns() // 1000

    def refuse_reader(self) -> None:
        self.check_open()
        super().refuse_reader()

    def changed(self) -> None:
        """A topic was changed: what is known of topics is to be looked up anew."""
        with self._mutex:
            self.generation += 1

    def records(self, names: Sequence[str]) -> list[TopicRecord]:
        """What topics are now.

        Raises:
            TopicNotFoundError: there is none of a name.
        """
        self.check_open()
        records = self._records_of_those_there(names)
        there = {record.name for record in records}
        for name in names:
            if name not in there:
                raise TopicNotFoundError(f"the log at {self.location} has no topic {name!r}")
        return records

    def _records_of_those_there(self, names: Sequence[str]) -> list[TopicRecord]:
        found = self.cluster.describe(names)
        configs = self.cluster.configs([topic.name for topic in found])
        remembered = self._catalog.of(found, configs)
        return [
            record_of(topic, configs[topic.name], record)
            for topic, record in zip(found, remembered, strict=True)
            if topic.name in configs
        ]

    @property
    def fetchers(self) -> Fetchers:
        """What reads for all topics."""
        from eventlog.kafka.reading.fetchers import Fetchers

        return self._part("fetchers", Fetchers)

    @property
    def writers(self) -> Writers:
        """What writes for all topics."""
        from eventlog.kafka.writing.producers import Writers

        return self._part("writers", Writers)

    @property
    def group_offsets(self) -> GroupOffsets:
        """The checkpoints that stand in Kafka's own group offsets."""
        from eventlog.kafka.groups.offsets import GroupOffsets

        return self._part("group_offsets", GroupOffsets)

    def _part(self, name: str, make: Callable[[KafkaLog], T]) -> T:
        """A part of the log that is made on first use, once."""
        part: T | None = self._parts.get(name)
        if part is None:
            with self._mutex:
                self.check_open()
                part = self._parts.get(name)
                if part is None:
                    part = self._parts[name] = make(self)
        return part

    # Topics

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
        wanted = TopicRecord(
            name=_shown_name(name),
            id="",
            partitions=settings.check_count(partitions, "partitions", settings.MAX_PARTITIONS),
            retention_us=settings.retention_us(retention),
            retention_bytes=settings.check_bytes(retention_bytes, "retention_bytes"),
            compression=settings.check_compression(compression),
            partitioner=self.remember(partitioner),
            max_event_bytes=settings.check_count(
                max_event_bytes, "max_event_bytes", settings.MAX_EVENT_BYTES
            ),
            max_message_bytes=0,
            created_us=self.now_us(),
        )
        there = self._find(name)
        if there is None:
            self.refuse_reader()
            there = self._make(wanted, exist_ok=exist_ok)
        elif not exist_ok:
            self.refuse_reader()
            raise TopicExistsError(f"topic {name!r} exists")
        return self._taken(wanted, there)

    def _find(self, name: str) -> TopicRecord | None:
        try:
            (record,) = self.records([name])
        except TopicNotFoundError:
            return None
        return record

    def _make(self, wanted: TopicRecord, *, exist_ok: bool) -> TopicRecord:
        """Make a topic; the one that is there if another was faster."""
        config = config_of(
            retention_us=wanted.retention_us,
            retention_bytes=wanted.retention_bytes,
            compression=wanted.compression,
            max_event_bytes=wanted.max_event_bytes,
        )
        config["message.timestamp.type"] = "LogAppendTime"
        proposal = self._catalog.propose(wanted.name, wanted.partitioner, wanted.created_us)
        try:
            made = self.cluster.create_topic(
                wanted.name, wanted.partitions, config, self.settings.replication_factor
            )
        except LogBusyError:
            raise  # it may have been made, and then the proposal is all that is known of it
        except TopicExistsError:
            self._catalog.withdraw(proposal)
            if not exist_ok:
                raise TopicExistsError(f"topic {wanted.name!r} exists") from None
            (record,) = self.records([wanted.name])
            return record
        except BaseException:
            self._catalog.withdraw(proposal)
            raise
        self.changed()
        remembered = self._catalog.settle(proposal, made)
        return record_of(made, config, remembered)

    def _taken(self, wanted: TopicRecord, there: TopicRecord) -> Topic:
        """The topic that is there; a warning if it is not quite what was wanted."""
        refuse_other(wanted, there)
        made = KafkaTopic(self, there)
        made.warn_unless(KafkaTopic(self, wanted))
        return made

    def topic(self, name: str) -> Topic:
        (record,) = self.records([_shown_name(name)])
        return KafkaTopic(self, record)

    def topics(self) -> list[Topic]:
        self.check_open()
        shown = [name for name in self.cluster.names() if not name.startswith(_HIDDEN)]
        return [KafkaTopic(self, record) for record in self._records_of_those_there(shown)]

    def delete_topic(self, name: str) -> None:
        self.refuse_reader()
        found = self.cluster.look_up(_shown_name(name))
        self.cluster.delete_topic(name)
        self.changed()
        self._catalog.forget(found)

    def handle(self, topic: str | Topic) -> KafkaTopic:
        if isinstance(topic, str):
            topic = self.topic(topic)
        if not isinstance(topic, KafkaTopic):
            raise TypeError(f"a topic is a str or a Topic, not {type(topic).__name__}")
        if topic.log.id != self.id:
            raise ValueError(f"{topic!r} is not a topic of the log at {self.location}")
        return topic

    def known(self, name: str) -> KafkaTopic:
        """A topic by name, looked up the first time only: see `looked_up`.

        So that transactions on an event loop need not wait for the cluster at each append.
        """
        return self._known.get(name) or self.looked_up(name)

    def looked_up(self, name: str) -> KafkaTopic:
        """A topic by name, as it is now; from now on it is the one `known` by it.

        Raises:
            TopicNotFoundError: there is none.
        """
        self._known.pop(name, None)
        topic = self.handle(name)
        if len(self._known) < _MOST_KNOWN:
            self._known[name] = topic
        return topic

    # The log as a whole

    def transaction(self) -> KafkaTransaction:
        from eventlog.kafka.writing.transaction import KafkaTransaction

        self.refuse_reader()
        return KafkaTransaction(self)

    @property
    def blobs(self) -> BlobStore:
        """Where groups keep what they know.

        Raises:
            UnsupportedOperationError: no store was named.
        """
        self.check_open()
        if self._blobs is None:
            raise UnsupportedOperationError(
                f"groups on the log at {self.location} need a store for their leases and "
                "checkpoints: name one that all hosts share, in open(..., blobs=...) or in store="
            )
        return self.group_offsets.over(self._blobs)

    def store(self, store: BlobStore | str | None = None) -> BlobStore:
        """See `EventLog.store`; what transactions have checkpointed shows in it."""
        return self.blobs if store is None else self.group_offsets.over(self._stores.get(store))

    def joins_transactions(self, store: BlobStore) -> bool:
        return store is self.group_offsets.over(store)

    def check(self) -> CheckReport:
        raise self._declined("check", "the brokers check what they store and what they send")

    def backup(self, path: str | os.PathLike[str]) -> None:  # noqa: ARG002 - the contract's
        raise self._declined("backup", "use `eventlog copy`, or replicas in other places")

    def compact(self) -> None:
        raise self._declined("compact", "the brokers give the disk back by themselves")

    def _declined(self, operation: str, instead: str) -> UnsupportedOperationError:
        self.check_open()
        return UnsupportedOperationError(
            f"{operation}() is not done on a Kafka cluster ({self.location}): {instead}"
        )

    def close(self) -> None:
        if not self.cluster.is_abandoned:  # in a forked child, whose parent uses all that
            super().close()

    def _close(self) -> None:
        offsets: GroupOffsets | None = self._parts.get("group_offsets")
        if offsets is not None:
            offsets.close()  # while there is still a cluster to show something to
        with self._mutex:
            self.cluster.close()
            parts, self._parts = self._parts, {}
        for name in ("fetchers", "writers"):
            close = getattr(parts.get(name), "close", None)
            if close is not None:
                close()
        self._stores.close()


def _shown_name(name: object) -> str:
    """`name`, if a topic may have it that users see.

    Raises:
        InvalidNameError: it breaks the rules.
    """
    checked = check_name(name, "topic")
    if checked.startswith(_HIDDEN):
        raise InvalidNameError(
            f"{checked!r} cannot name a topic on a Kafka cluster: what begins with '__' is the "
            "cluster's own"
        )
    return checked


def open_kafka(
    place: str,
    *,
    create: bool,  # noqa: ARG001 - a cluster is there or it is not
    read_only: bool,
    durability: Literal["disk", "process"] | None,
    blobs: str | BlobStore | None,
    lock_timeout: Duration,
    map_size: int,  # noqa: ARG001 - of the embedded engine
    **options: Any,
) -> EventLog:
    """Open the log on a cluster; see `eventlog.open`."""
    if durability not in ("disk", "process", None):
        raise ValueError(f"durability is 'disk' or 'process', not {durability!r:.80}")
    opened = parse_location(place, options, lock_timeout=lock_timeout, read_only=read_only)
    return KafkaLog(opened, blobs=blobs)
