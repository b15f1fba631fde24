"""Who sends: producers of librdkafka, lent to one caller at a time and made when there are too few.

A producer of librdkafka has threads and connections of its own, and making one takes up to half a
second, until the brokers have given it an id. So those that were used are kept for the next caller.

What is one set (`eventlog.kafka.writing.shipment`) is stored whole or not at all; what is more than
one needs a transaction for that.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from confluent_kafka import TopicPartition as Place

from eventlog.errors import EventLogError, TopicNotFoundError
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import Kind, kind_of
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.pool import Pool
from eventlog.kafka.writing.sender import (
    NotSentError,
    Sender,
    sending,
)
from eventlog.kafka.writing.shipment import SET_EVENTS, SMALLER_SETS, Shipment
from eventlog.kafka.writing.transactional import TransactionalProducers
from eventlog.kafka.writing.transactional_sender import TransactionalSender

if TYPE_CHECKING:
    from eventlog.kafka.engine import KafkaLog

__all__ = ["Writers"]

_MAY_BE_DELETED: Final = (Kind.NO_ANSWER, Kind.TOPIC_MISSING, Kind.PARTITION_MISSING)

_COMPRESSIONS: Final = ("zstd", "none")

_VISIBLE_SECONDS: Final = 1.0
"""How long who has committed waits until readers see it; they may be held up by others for long."""


class Writers:
    """What writes for a log. Thread-safe.

    Attributes:
        transactional: producers with transactional ids.
    """

    def __init__(self, log: KafkaLog) -> None:
        self._cluster = log.cluster
        self.transactional = TransactionalProducers(log.cluster)
        self._pools: dict[tuple[str, int], Pool[Sender]] = {}
        for compression, size in itertools.product(_COMPRESSIONS, (SET_EVENTS, *SMALLER_SETS)):
            make = functools.partial(self._make, compression, size)
            self._pools[compression, size] = Pool(make)

    def _make(self, compression: str, set_events: int, _: Deadline) -> Sender:
        how = sending(self._cluster.settings, compression, set_events)
        return Sender(self._cluster.producer(**how), set_events)

    def store(self, shipments: Sequence[Shipment], errand: Errand) -> None:
        """Store all, or nothing; then the shipments know where.

        Args:
            shipments: no two for the same partition.

        Raises:
            LogBusyError: there was no answer in time.
            TopicNotFoundError: a topic was deleted.
            EventLogError: the cluster refused it.
        """
        if len(shipments) == 1 and shipments[0].is_one_set:
            self.send(shipments, errand)
            return
        with self.transactional.lend(deadline=errand.deadline) as sender:
            self.transact(sender, shipments, {}, errand)

    def send(self, shipments: Sequence[Shipment], errand: Errand) -> None:
        """Store all, each set by itself; see `store`. After an error some of it may be stored."""
        set_events = min([some.set_events for some in shipments])
        pool = self._pools[shipments[0].record.compression, set_events]
        sender = pool.take(errand.deadline)
        try:
            sender.send(shipments, errand)
        except NotSentError as failed:
            raise self._failure(failed, errand) from failed
        finally:
            pool.give_back(sender)

    def transact(
        self,
        sender: TransactionalSender,
        shipments: Sequence[Shipment],
        offsets: Mapping[str, Sequence[Place]],
        errand: Errand,
    ) -> None:
        """Store all of this with one transaction; see `store`.

        Args:
            offsets: by Kafka group, what its offsets are to be.

        Raises:
            ProducerFencedError: another has the transactional id now. Nothing was stored.
        """
        try:
            sender.transact(shipments, offsets, self.transactional.metadata_of, errand)
        except NotSentError as failed:
            raise self._failure(failed, errand) from failed
        self._show(shipments, errand.deadline)

    def _show(self, shipments: Sequence[Shipment], deadline: Deadline) -> None:
        """Wait a moment until readers see what is committed."""
        stops: dict[str, dict[int, int]] = {}
        for some in shipments:
            stops.setdefault(some.record.name, {})[some.partition] = some.end
        limit = Deadline(min(_VISIBLE_SECONDS, deadline.left()))
        with contextlib.suppress(EventLogError):  # it is stored, whatever comes of that
            for topic, ends in stops.items():
                self._cluster.until_visible(topic, ends, limit)

    def _failure(self, failed: NotSentError, errand: Errand) -> Exception:
        """What to raise instead."""
        if kind_of(failed.error) in _MAY_BE_DELETED:
            try:
                errand.look()
            except TopicNotFoundError as gone:
                return gone
        if kind_of(failed.error) is Kind.TOO_LARGE:
            _look_anew(errand)
        about = failed.shipment
        return self._cluster.error(
            failed.error,
            errand.doing,
            within=errand.deadline.seconds,
            topic="" if about is None else about.record.name,
            partition=None if about is None else about.partition,
            maybe=failed.maybe,
        )

    def close(self) -> None:
        """Let go of all producers; nobody uses them any more."""
        self.transactional.close()
        for pool in self._pools.values():
            pool.close()


def _look_anew(errand: Errand) -> None:
    """See what the topics take now: what comes next is cut accordingly."""
    with contextlib.suppress(EventLogError):
        for topic in errand.topics:
            topic.refresh()
