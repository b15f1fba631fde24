"""What copies of topics are stored through on the embedded engine: with the times they have.

A time is that of a whole stored batch, so neighbours of one time are stored together, as they were
where they come from, and each other time begins a new batch. `Writer.append` sees to it that no
time is earlier than the one before.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import lmdb
from msgspec.structs import replace

from eventlog.appending import check_partition, gather
from eventlog.embedded import keys, producers
from eventlog.embedded.append import Part, TopicState, encode_parts
from eventlog.embedded.outlet import EmbeddedOutlet
from eventlog.embedded.producers import ProducerRecord
from eventlog.embedded.writer import Writer
from eventlog.event import StoredEvent
from eventlog.positions import microseconds
from eventlog.producing.intake import Inlet, Intake, Taken
from eventlog.producing.outlet import Identity

if TYPE_CHECKING:
    from eventlog.embedded.topic import EmbeddedTopic

__all__ = ["EmbeddedIntake"]

_enqueued_at_of: Final = attrgetter("enqueued_at")


class EmbeddedIntake(Intake):
    """See `Intake`."""

    def __init__(self, topic: EmbeddedTopic) -> None:
        topic.log.refuse_reader()
        self._topic = topic

    @property
    def resolution(self) -> timedelta:
        return timedelta(microseconds=1)

    def last_sequence(self, name: str) -> int:
        def look(transaction: lmdb.Transaction) -> int:
            record = self._topic.look(transaction).record
            value = transaction.get(keys.producer_key(record.id, name))
            return -1 if value is None else ProducerRecord.decode(bytes(value)).last_sequence

        return self._topic.log.look(look)

    def open(self, name: str, partition: int) -> Inlet:
        check_partition(self._topic.refresh().record, partition)
        return EmbeddedInlet(self._topic, partition, EmbeddedOutlet(self._topic).register(name))

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class EmbeddedInlet(Inlet):
    """See `Inlet`."""

    def __init__(self, topic: EmbeddedTopic, partition: int, identity: Identity) -> None:
        self._topic = topic
        self._partition = partition
        self._identity = identity

    @property
    def last_sequence(self) -> int:
        return self._identity.last_sequence

    def store(self, events: Sequence[StoredEvent]) -> Taken:
        identity = self._identity
        last = events[-1].offset
        assert last > identity.last_sequence

        def prepare(state: TopicState) -> list[Part]:
            return [_part(state, self._partition, events)]

        def check(writer: Writer, state: TopicState) -> None:
            producers.check(writer, state.record.id, identity)

        def note(writer: Writer, state: TopicState) -> None:
            record = ProducerRecord(identity.epoch, last, writer.now_us)
            producers.note(writer, state.record.id, identity.producer_id, record)

        stored = self._topic.appender.store_parts(prepare, check=check, note=note)
        self._identity = identity._replace(last_sequence=last)
        first = stored[0][0]
        return Taken(first, first + len(events) - 1)

    def close(self) -> None:
        pass


def _part(state: TopicState, partition: int, events: Sequence[StoredEvent]) -> Part:
    """Events of one partition, encoded with their times."""
    times: list[int] = []
    columns = []
    for enqueued_at, some in itertools.groupby(events, _enqueued_at_of):
        times.append(microseconds(enqueued_at))
        columns.append((partition, gather(list(some), None)))
    batches = [
        replace(batch, enqueued_us=time_us)
        for time_us, part in zip(times, encode_parts(state.record, columns), strict=True)
        for batch in part.batches
    ]
    return Part(partition, len(events), batches)
