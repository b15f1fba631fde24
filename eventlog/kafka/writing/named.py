"""Producers with names: what the cluster keeps of one, and who is the live one.

How far a producer came stands in the group offsets of a Kafka group of its own,
``eventlog.producer.NAME`` (the name as in a URL), at the topic's partition 0: the offset is the
last sequence plus one, and its metadata say the rest. It is committed with the events, in one
transaction: what it says is stored is stored, whatever was acknowledged.

The metadata name an *epoch*, which grows with each producer that registers, and the live producer
is the one whose epoch stands there. Its transactions go through one transactional id for each
topic and name, ``eventlog.producer.TOPIC-ID.NAME``:

- Who registers makes that id its own, which ends and shuts out what others had begun; then it
  reads, and writes its epoch with a transaction. Two that do so at once cannot both succeed.
- A producer whose transaction failed makes the id its own again, if its epoch still stands there;
  and reads once more then, since another may have registered in between. What was begun has ended
  by then, one way or the other: so it knows whether its events are stored, and if they are stores
  nothing twice.
- So the id may be taken from the live producer by one that is not (any more), never the epoch:
  that one sees it and leaves off, and the live one takes the id back.

Kafka deletes the offsets of a group that nobody uses, after ``offsets.retention.minutes`` (a week,
mostly), and those of a topic that is deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec
from confluent_kafka import TopicPartition as Place

from eventlog.errors import EventLogError, LogBusyError, ProducerFencedError
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.shipment import Shipment
from eventlog.positions import instant
from eventlog.producing.outlet import Identity

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic
    from eventlog.kafka.writing.transactional_sender import TransactionalSender

__all__ = ["NamedProducer"]

_MOST_OFFSET: Final = 2**63 - 1
_TRIES: Final = 3

_SETTLED_SECONDS: Final = 0.5
"""What is being committed is so in milliseconds, unless who began it is gone."""


class _Record(msgspec.Struct, frozen=True):
    """What is kept of a producer.

    Attributes:
        topic: the topic's id.
        stored_us: when it last stored something, or registered.
    """

    topic: str
    epoch: int
    last_sequence: int
    stored_us: int


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Record).decode


class NamedProducer:
    """One that registers under a name. For one thread at a time."""

    def __init__(self, topic: KafkaTopic, producer_id: str) -> None:
        self._topic = topic
        self._log = topic.log
        self._producers = topic.log.writers.transactional
        self._producer_id = producer_id
        name = quote(producer_id, safe=" +,:;=@[]{}")  # librdkafka wants ASCII that can be printed
        self._group = f"eventlog.producer.{name}"
        self._transactional_id = f"eventlog.producer.{topic.id}.{name}"
        self._owner = uuid.uuid4().hex

    def register(self) -> Identity:
        """Become the live producer of that name; an earlier one is fenced from now on.

        Raises:
            LogBusyError: there was no answer in time.
            ProducerFencedError: another registered at the same time.
            TopicNotFoundError: the topic was deleted.
        """
        errand = Errand(
            f"registering producer {self._producer_id!r}",
            Deadline(self._log.settings.lock_timeout),
            [self._topic],
        )
        self._topic.current()
        self._producers.prepare(self._transactional_id, self._owner, errand.deadline)
        known = self._read()
        now_us = self._log.now_us()
        # The first epoch is a time: one that was forgotten may live on, and had a lower one.
        record = _Record(
            self._topic.id,
            now_us if known is None else known.epoch + 1,
            -1 if known is None else known.last_sequence,
            now_us,
        )
        with self._lent(errand) as sender:
            self._log.writers.transact(sender, [], self._offsets(record), errand)
        stored_us = record.stored_us if known is None else known.stored_us
        return Identity(self._producer_id, record.epoch, record.last_sequence, instant(stored_us))

    def last_sequence(self) -> int:
        """How far it came; -1 if it never stored anything, or was forgotten. Nobody is disturbed.

        Who was killed may have left a transaction open, and then it is what was before that: it
        will not be committed any more.

        Raises:
            LogBusyError: there was no answer in time.
        """
        try:
            record = self._read(timeout=_SETTLED_SECONDS)
        except LogBusyError:
            record = self._read(stable=False)
        return -1 if record is None else record.last_sequence

    def close(self) -> None:
        """Let go of what it sends through."""
        self._producers.forget(self._transactional_id, self._owner)

    def store(
        self,
        shipments: Sequence[Shipment],
        identity: Identity,
        last_sequence: int | None,
        errand: Errand,
    ) -> None:
        """Store events, and that they are, if the producer is the live one.

        Raises:
            ProducerFencedError: it is not.
            EventLogError: more is stored of it than it was told.
            Exception: see `Writers.transact`.
        """
        last = identity.last_sequence if last_sequence is None else last_sequence
        record = _Record(self._topic.id, identity.epoch, last, self._log.now_us())
        for left in reversed(range(_TRIES)):
            self._take_id(identity, errand.deadline)
            try:
                with self._lent(errand) as sender:
                    self._log.writers.transact(sender, shipments, self._offsets(record), errand)
            except ProducerFencedError:
                self._check(identity)
                if not left:
                    raise
            else:
                return

    def _take_id(self, identity: Identity, deadline: Deadline) -> None:
        """Have the id, unless another is the live producer now."""
        if self._producers.is_prepared(self._transactional_id, self._owner):
            return
        self._check(identity)  # who is fenced need not disturb the live one
        self._producers.prepare(self._transactional_id, self._owner, deadline)
        self._check(identity)

    def _check(self, identity: Identity) -> None:
        record = self._read()
        if record is None:
            raise ProducerFencedError(
                f"the producer_id {self._producer_id!r} was not used for so long that the cluster "
                "has forgotten it: this producer stores nothing more; open another"
            )
        if record.epoch != identity.epoch:
            raise ProducerFencedError(
                f"a later producer was opened with the producer_id {self._producer_id!r}: this one "
                "stores nothing more"
            )
        if record.last_sequence != identity.last_sequence:
            raise EventLogError(
                f"producer {self._producer_id!r} has stored up to {record.last_sequence}, and not "
                f"{identity.last_sequence} as it was told: open it again to go on"
            )

    def _lent(self, errand: Errand) -> AbstractContextManager[TransactionalSender]:
        return self._producers.lend(self._transactional_id, self._owner, errand.deadline)

    def _offsets(self, record: _Record) -> dict[str, list[Place]]:
        offset = min(record.last_sequence + 1, _MOST_OFFSET)
        return {self._group: [Place(self._topic.name, 0, offset, _encode(record).decode())]}

    def _read(self, *, timeout: float | None = None, stable: bool = True) -> _Record | None:
        """What the cluster keeps; None if it keeps nothing."""
        found = self._log.cluster.committed(
            self._group, self._topic.name, [0], timeout=timeout, stable=stable
        ).get(0)
        if found is None:
            return None
        try:
            record = _decode(found.metadata)
        except msgspec.DecodeError:
            raise EventLogError(
                f"the offsets of Kafka group {self._group!r} are not what producer "
                f"{self._producer_id!r} has committed: delete that group, or take another name"
            ) from None
        return record if record.topic == self._topic.id else None
