"""What a `Producer` of a topic on the embedded engine sends through."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from eventlog.appending import Columns, sized
from eventlog.embedded import producers
from eventlog.embedded.append import Part, TopicState, encode_parts
from eventlog.embedded.producers import ProducerRecord
from eventlog.embedded.writer import Writer
from eventlog.engine.outlet import EngineOutlet
from eventlog.event import checked_key, pack_properties
from eventlog.positions import instant
from eventlog.producing.delivery import Batch
from eventlog.producing.lots import Lot, by_partition
from eventlog.producing.outlet import Identity, Stored

if TYPE_CHECKING:
    from eventlog.embedded.topic import EmbeddedTopic

__all__ = ["EmbeddedOutlet"]


class EmbeddedOutlet(EngineOutlet):
    """See `Outlet`."""

    _topic: EmbeddedTopic
    pack = staticmethod(pack_properties)  # itself: one call fewer for each event

    def __init__(self, topic: EmbeddedTopic) -> None:
        self._topic = topic

    def register(self, producer_id: str) -> Identity:
        topic = self._topic

        def work(writer: Writer) -> ProducerRecord:
            return producers.register(writer, topic.look(writer).record.id, producer_id)

        record = topic.log.commit(work)
        return Identity(producer_id, record.epoch, record.last_sequence, instant(record.stored_us))

    def store(
        self, batches: Sequence[Batch], identity: Identity | None, last_sequence: int | None
    ) -> list[Stored]:
        columns = [(number, _columns(lot)) for number, lot in by_partition(batches).items()]

        def prepare(state: TopicState) -> list[Part]:
            try:
                return encode_parts(state.record, columns)
            except TypeError:
                return encode_parts(state.record, [(n, _with_plain_keys(c)) for n, c in columns])

        def check(writer: Writer, state: TopicState) -> None:
            if identity is not None:
                producers.check(writer, state.record.id, identity)

        def note(writer: Writer, state: TopicState) -> None:
            if identity is not None:
                last = identity.last_sequence if last_sequence is None else last_sequence
                record = ProducerRecord(identity.epoch, last, writer.now_us)
                producers.note(writer, state.record.id, identity.producer_id, record)

        stored = self._topic.appender.store_parts(prepare, check=check, note=note)
        return _places(
            batches, {number: place for (number, _), place in zip(columns, stored, strict=True)}
        )


def _columns(lot: Lot) -> Columns:
    columns = sized(lot.bodies, lot.keys, None)
    if lot.packed is None:
        return columns
    size = columns.size + sum(map(len, filter(None, lot.packed)))
    properties: list[Any] = [own and msgspec.Raw(own) for own in lot.packed]
    return columns._replace(properties=properties, size=size)


def _with_plain_keys(columns: Columns) -> Columns:
    """Keys of derived classes cannot be encoded; see `Batch.columns`."""
    keys = columns.keys and [None if key is None else checked_key(key) for key in columns.keys]
    return columns._replace(keys=keys)


def _places(batches: Iterable[Batch], first: dict[int, tuple[int, int]]) -> list[Stored]:
    """Where each batch went, from where those of its partition went together."""
    places = []
    for batch in batches:
        offset, enqueued_us = first[batch.partition]
        places.append(Stored(offset, instant(enqueued_us)))
        first[batch.partition] = offset + batch.count, enqueued_us
    return places
