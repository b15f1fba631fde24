"""Producers, consumers and transactions that note what they do.

A witness is handed what happens, and says nothing about how it is made to happen: the same serve
threads and event loops.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from eventlog import EventLogError, Receipt, StoredEvent, Topic
from tests.history.contents import label_of, name_of
from tests.history.records import Kind, Record, Recorder

__all__ = [
    "GroupWitness",
    "OwnerWitness",
    "ProducerWitness",
    "ReaderWitness",
    "Settled",
    "TransactionWitness",
]


class Settled(Protocol):
    """A delivery whose outcome is known."""

    def exception(self) -> BaseException | None:
        """What went wrong."""

    def result(self) -> Receipt:
        """Where it is stored."""


class ProducerWitness:
    """What one thread or task sends to a topic; under a name, or without one."""

    def __init__(self, recorder: Recorder, actor: str, topic: Topic, producer_id: str = "") -> None:
        self.actor = actor
        self.producer_id = producer_id
        self._recorder = recorder
        self._topic = name_of(topic)

    def resumed(self, last_sequence: int, since: float) -> None:
        """It has become the producer of its name."""
        self._note(Kind.RESUMED, sequence=last_sequence, since=since)

    def sending(self, label: str, sequence: int = -1) -> float:
        """It hands in an event next; gives what `acknowledged` and the others want as `since`."""
        return self._note(Kind.SENDING, label=label, sequence=sequence)

    def settled(self, delivery: Settled, label: str, since: float, sequence: int = -1) -> None:
        """The outcome of an event is known.

        Whatever is not an error of the log's own leaves open whether it is stored.
        """
        error = delivery.exception()
        if error is None:
            self.acknowledged(delivery.result(), label, since, sequence)
        elif isinstance(error, EventLogError):
            self.refused(label, since, sequence)

    def acknowledged(
        self, receipt: Receipt, label: str, since: float, sequence: int = -1, index: int = 0
    ) -> None:
        """The event is stored; as number `index` of a receipt for several."""
        if receipt.duplicate:
            self._note(Kind.DUPLICATE, label=label, sequence=sequence, since=since)
            return
        self._note(
            Kind.ACKNOWLEDGED,
            label=label,
            sequence=sequence,
            since=since,
            partition=receipt.partition,
            offset=receipt.offset + index,
        )

    def refused(self, label: str, since: float, sequence: int = -1) -> None:
        """The event is not stored."""
        self._note(Kind.REFUSED, label=label, sequence=sequence, since=since)

    def _note(self, kind: Kind, **fields: str | float) -> float:
        return self._recorder.note(
            kind, self.actor, topic=self._topic, producer_id=self.producer_id, **fields
        )


class ReaderWitness:
    """What one reader is given of a topic.

    Args:
        since: a moment before it was made.
        start: where it begins, unless its group has a checkpoint; -1 if nobody knows.
        partitions: those it reads; all unless given.
        epoch: under which a host owns them; 0 if it is none.
    """

    def __init__(
        self,
        recorder: Recorder,
        actor: str,
        topic: Topic,
        *,
        since: float,
        group: str = "",
        start: int | Mapping[int, int] = 0,
        partitions: Iterable[int] | None = None,
        epoch: int = 0,
    ) -> None:
        self.actor = actor
        self.group = group
        self.topic = name_of(topic)
        self.last: dict[int, int] = {}
        """By partition, the offset of the last event that was given."""
        self._recorder = recorder
        recorder.write(
            self.record(
                Kind.STARTED,
                partition=partition,
                since=since,
                offset=start if isinstance(start, int) else start[partition],
                epoch=epoch,
            )
            for partition in (range(topic.partitions) if partitions is None else partitions)
        )

    def record(self, kind: Kind, **fields: str | float) -> Record:
        """A record about the topic."""
        return Record(
            kind=kind,
            actor=self.actor,
            at=time.monotonic(),
            topic=self.topic,
            group=self.group,
            **fields,  # type: ignore[arg-type]
        )

    def given(self, events: Iterable[StoredEvent]) -> None:
        """It was given events."""
        events = list(events)
        self._recorder.write(
            self.record(
                Kind.READ,
                partition=event.partition,
                offset=event.offset,
                label=label_of(event.body),
            )
            for event in events
        )
        for event in events:
            self.last[event.partition] = event.offset

    def lost(self, partition: int, first: int, last: int) -> None:
        """It was told that events are lost."""
        self._recorder.write([self.record(Kind.LOST, partition=partition, offset=first, last=last)])

    def ended(self, positions: Mapping[int, int]) -> None:
        """It was told that nothing is there from these positions on, by partition."""
        self._recorder.write(
            self.record(Kind.ENDED, partition=partition, offset=offset)
            for partition, offset in positions.items()
        )


class GroupWitness(ReaderWitness):
    """A reader for a group, and the checkpoints it makes."""

    def __init__(
        self,
        recorder: Recorder,
        actor: str,
        topic: Topic,
        *,
        since: float,
        group: str,
        **more: Any,
    ) -> None:
        super().__init__(recorder, actor, topic, since=since, group=group, **more)
        self._under_way: dict[int, int] = {}
        self._checkpointed: dict[int, int] = {}
        self._since = 0.0

    def checkpointing(self, transaction: str = "") -> None:
        """All that it was given is to be checkpointed."""
        self._under_way = {
            partition: offset
            for partition, offset in self.last.items()
            if offset != self._checkpointed.get(partition)
        }
        records = [
            self.record(
                Kind.CHECKPOINTING, partition=partition, offset=offset, transaction=transaction
            )
            for partition, offset in self._under_way.items()
        ]
        self._since = min((record.at for record in records), default=0.0)
        self._recorder.write(records)

    def checkpointed(self) -> None:
        """It was."""
        self._recorder.write(
            self.record(Kind.CHECKPOINTED, partition=partition, offset=offset, since=self._since)
            for partition, offset in self._under_way.items()
        )
        self._checkpointed |= self._under_way


class OwnerWitness(GroupWitness):
    """A host that owns a partition, from when it is given the first events of it.

    Its actor is another one for every partition, epoch, and time that events are given again.

    Args:
        name: of the process.
        start: where the group begins.
    """

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        topic: Topic,
        *,
        group: str,
        partition: int,
        epoch: int,
        number: int = 0,
        start: int = 0,
    ) -> None:
        super().__init__(
            recorder,
            f"{name}/{group}/{partition}.{epoch}.{number}",
            topic,
            since=time.monotonic(),
            group=group,
            start=start,
            partitions=(partition,),
            epoch=epoch,
        )

    def closed(self, partition: int, offset: int) -> None:
        """It has closed the partition in good order, and finished all up to `offset`."""
        self._recorder.write([self.record(Kind.CLOSED, partition=partition, offset=offset)])


class TransactionWitness:
    """One transaction that makes one event of each input, and checkpoints the inputs.

    Args:
        reader: who was given the inputs, and nothing else since its last checkpoint.
        name: what tells it from all other transactions.
    """

    def __init__(self, recorder: Recorder, reader: GroupWitness, name: str, output: Topic) -> None:
        self._recorder = recorder
        self._reader = reader
        self._name = name
        self._output = output
        self._labels: list[str] = []
        self._since = 0.0

    def committing(self, inputs: Iterable[StoredEvent]) -> list[str]:
        """It begins to commit next; the label of the output of each input."""
        inputs = list(inputs)
        self._labels = [f"{self._name}/{number}" for number in range(len(inputs))]
        self._recorder.write(
            Record(
                kind=Kind.SENDING,
                actor=self._reader.actor,
                at=time.monotonic(),
                topic=name_of(self._output),
                label=label,
                transaction=self._name,
                group=self._reader.group,
                source=(self._reader.topic, event.partition, event.offset),
            )
            for label, event in zip(self._labels, inputs, strict=True)
        )
        self._reader.checkpointing(self._name)
        self._since = self._note(Kind.COMMITTING)
        return self._labels

    def committed(self, receipts: Iterable[Receipt]) -> None:
        """It has been committed, with a receipt for each output."""
        self._note(Kind.COMMITTED, since=self._since)
        self._reader.checkpointed()
        witness = ProducerWitness(self._recorder, self._reader.actor, self._output)
        for label, receipt in zip(self._labels, receipts, strict=True):
            witness.acknowledged(receipt, label, self._since)

    def failed(self, error: BaseException) -> None:
        """It was not committed, if the log says so."""
        if isinstance(error, EventLogError):
            self._note(Kind.ROLLED_BACK, since=self._since)

    def _note(self, kind: Kind, **fields: str | float) -> float:
        return self._recorder.note(kind, self._reader.actor, transaction=self._name, **fields)
