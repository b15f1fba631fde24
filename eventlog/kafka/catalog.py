"""What a cluster is told about topics that Kafka itself cannot remember: how keys are placed.

It stands in a topic of its own, ``__eventlog`` (one partition, compacted), as JSON that a person
can read. A record's key is ``NAME/ID`` with Kafka's id of the topic, so that a topic made anew
shares nothing with its predecessor. That id is known only once the topic is there; a process that
dies in between must not leave a topic nobody knows the partitioner of, nor may another that finds
the topic a moment after it was made. So what is wanted is written first, as a *proposal* under
``NAME?NONCE``, and taken away when the record is written: of a topic without a record, the first
proposal that is still there tells. A topic with neither was made by another program, and is taken
to place keys as Kafka's own clients do.

A process that dies before it makes the topic leaves a proposal of nothing. Therefore one tells only
of a topic that is set as this engine makes them, and only if none is there that is much younger.

What this module deliberately does not do: keep what Kafka keeps (partitions, retention, sizes).
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Place

from eventlog.errors import TopicExistsError, TopicNotFoundError
from eventlog.kafka.cluster import LATEST, Cluster, Described
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.librdkafka import let_go, reporting
from eventlog.kafka.stamping import is_set_by_us
from eventlog.positions import instant

__all__ = ["CATALOG", "Catalog", "Remembered"]

CATALOG: Final = "__eventlog"
_CONFIG: Final = {
    "cleanup.policy": "compact",
    "retention.ms": "-1",
    "compression.type": "producer",
}
_READ_AT_ONCE: Final = 1000
_AT_ONCE: Final = timedelta(hours=1)
"""Proposals that are not further apart may be of processes that make a topic at once."""


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a topic."""

    name: str
    topic_id: str
    partitioner: str
    created_at: datetime


class Proposal(NamedTuple):
    """What is remembered of a topic that is about to be made."""

    key: bytes
    wanted: Remembered


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Remembered).decode


class Catalog:
    """The records of one cluster. Thread-safe.

    Invariant: what is known here stood in the topic of that `_id`, before the offset `_position`.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster: Final = cluster
        self._mutex: Final = threading.Lock()
        self._records: dict[bytes, Remembered] = {}
        self._position = 0
        self._id = ""

    # Reading

    def of(
        self, topics: Sequence[Described], configs: Mapping[str, Mapping[str, str]]
    ) -> list[Remembered | None]:
        """What is remembered of topics; None of those that others made.

        Args:
            configs: how they are set, by name, as far as that is known.
        """
        with self._mutex:
            if any(_key(topic) not in self._records for topic in topics):
                self._read_on()
            return [
                self._records.get(_key(topic)) or self._proposed(topic, configs.get(topic.name, {}))
                for topic in topics
            ]

    def _proposed(self, topic: Described, config: Mapping[str, str]) -> Remembered | None:
        prefix = f"{topic.name}?".encode()
        proposed = [one for key, one in self._records.items() if key.startswith(prefix)]
        if not proposed or not is_set_by_us(config):
            return None
        since = max(one.created_at for one in proposed) - _AT_ONCE
        return next(one for one in proposed if one.created_at >= since)

    def _read_on(self) -> None:
        """Read what was written since."""
        try:
            catalog = self._cluster.look_up(CATALOG)
        except TopicNotFoundError:
            catalog = Described(CATALOG, "", 0)
        if catalog.id != self._id:  # the first time, or somebody made it anew
            self._id, self._position = catalog.id, 0
            self._records.clear()
        if catalog.partitions:
            (end,) = self._cluster.offsets(CATALOG, [(0, LATEST)], committed=False)
            self._read_to(end.offset)

    def _read_to(self, end: int) -> None:
        if self._position >= end:
            return
        doing = f"reading topic {CATALOG!r}"
        deadline = Deadline(self._cluster.settings.timeout)
        consumer = self._cluster.consumer(
            group_id=CATALOG,
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
        )
        try:
            consumer.assign([Place(CATALOG, 0, self._position)])
            while self._position < end:
                messages = consumer.consume(_READ_AT_ONCE, min(deadline.left(), 0.25))
                for message in messages:
                    self._take(message, end)
                if not messages and deadline.passed:
                    timed_out = KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - its name
                    raise self._cluster.error(timed_out, doing, within=deadline.seconds)
        except KafkaException as error:
            raise self._cluster.error(error, doing) from error
        finally:
            consumer.close()

    def _take(self, message: Message, end: int) -> None:
        failure = message.error()
        if failure is not None:
            if failure.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its name
                self._position = end  # what is missing before it was compacted away
            elif not failure.retriable() and failure.fatal():
                raise KafkaException(failure)
            return
        key, value = message.key() or b"", message.value()
        self._position = (message.offset() or 0) + 1
        if value is None:
            self._records.pop(key, None)
            return
        try:
            self._records[key] = _decode(value)
        except msgspec.MsgspecError:
            self._records.pop(key, None)  # a later version's, or somebody else's

    # Writing

    def propose(self, name: str, partitioner: str, now_us: int) -> Proposal:
        """Write down what a topic will be, before it is made."""
        wanted = Remembered(
            name=name, topic_id="", partitioner=partitioner, created_at=instant(now_us)
        )
        proposal = Proposal(f"{name}?{uuid.uuid4().hex}".encode(), wanted)
        self._make_catalog()
        self._write((proposal.key, _encode(wanted)))
        return proposal

    def settle(self, proposal: Proposal, topic: Described) -> Remembered:
        """Write down what a topic is, now that it is made."""
        record = msgspec.structs.replace(proposal.wanted, topic_id=topic.id)
        self._write((_key(topic), _encode(record)), (proposal.key, None))
        with self._mutex:
            self._records[_key(topic)] = record
        return record

    def withdraw(self, proposal: Proposal) -> None:
        """Take back what was not made."""
        self._write((proposal.key, None))

    def forget(self, topic: Described) -> None:
        """Take away what is remembered of a deleted topic."""
        with self._mutex:
            known = self._records.pop(_key(topic), None)
        if known is not None:
            self._write((_key(topic), None))

    def _make_catalog(self) -> None:
        try:
            self._cluster.look_up(CATALOG)
        except TopicNotFoundError:
            replication = self._cluster.settings.replication_factor
            with contextlib.suppress(TopicExistsError):  # another process was first
                self._cluster.create_topic(CATALOG, 1, _CONFIG, replication)

    def _write(self, *records: tuple[bytes, bytes | None]) -> None:
        """Write records, in their order; durable when it returns."""
        doing = f"writing to topic {CATALOG!r}"
        timeout = self._cluster.settings.timeout
        failures: list[KafkaError] = []

        @reporting
        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error)

        producer = self._cluster.producer(
            acks="all",
            max_in_flight=1,  # in order; to be idempotent costs half a second more, and all it
            linger_ms=0,  # saves is a record that stands there twice
            message_timeout_ms=max(1, int(timeout * 1000)),
            topic_metadata_propagation_max_ms=max(1, int(timeout * 1000)),
        )
        try:
            for key, value in records:
                producer.produce(CATALOG, value, key, partition=0, on_delivery=delivered)
            deadline = Deadline(timeout + 1)
            while (left := producer.flush(min(deadline.left(), 0.25))) and not deadline.passed:
                pass  # Ctrl-C in a callback is raised when a call ends
        except KafkaException as error:
            let_go(error)
            raise self._cluster.error(error, doing, within=timeout) from error
        if left:
            failures.append(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - its name
            producer.purge()
        if failures:
            raise self._cluster.error(failures[0], doing, within=timeout, topic=CATALOG)


def _key(topic: Described) -> bytes:
    return f"{topic.name}/{topic.id}".encode()
