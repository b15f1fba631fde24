"""What a `Producer` of a topic on a Kafka cluster sends through.

Without a name its events need no transaction: sets go out as they are, those of all partitions at
once. After an error some may be stored, though all are said not to be: nobody can tell, if no
answer comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from eventlog.engine.outlet import EngineOutlet
from eventlog.event import PropertyValue, pack_properties
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.records import all_headers_packed, check_names
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.named import NamedProducer
from eventlog.kafka.writing.shipment import Shipment
from eventlog.producing.delivery import Batch
from eventlog.producing.lots import by_partition
from eventlog.producing.outlet import Identity, Stored

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["KafkaOutlet"]

_MOST_NAMES: Final = 256


class KafkaOutlet(EngineOutlet):
    """See `Outlet`."""

    _topic: KafkaTopic

    def __init__(self, topic: KafkaTopic) -> None:
        self._topic = topic
        self._named: NamedProducer | None = None
        self._known_names: set[str] = set()  # that headers can have

    def pack(self, properties: dict[str, PropertyValue]) -> bytes:
        packed = pack_properties(properties)
        if not self._known_names.issuperset(properties):
            check_names(properties)
            if len(self._known_names) >= _MOST_NAMES:
                self._known_names.clear()
            self._known_names.update(properties)
        return packed

    def register(self, producer_id: str) -> Identity:
        self._named = NamedProducer(self._topic, producer_id)
        return self._named.register()

    def store(
        self, batches: Sequence[Batch], identity: Identity | None, last_sequence: int | None
    ) -> list[Stored]:
        log = self._topic.log
        errand = Errand(
            f"storing events of a producer of topic {self.name!r}",
            Deadline(log.settings.lock_timeout),
            [self._topic],
        )
        record = errand.state_of(self._topic).record
        shipments = {
            number: Shipment(record, number, lot.bodies, lot.keys, all_headers_packed(lot.packed))
            for number, lot in by_partition(batches).items()
        }
        if identity is None:
            log.writers.send([*shipments.values()], errand)
        else:
            assert self._named is not None
            self._named.store([*shipments.values()], identity, last_sequence, errand)
        return _places(batches, shipments)


def _places(batches: Sequence[Batch], shipments: dict[int, Shipment]) -> list[Stored]:
    """Where each batch went; those of a partition went one after the other."""
    rows = dict.fromkeys(shipments, 0)
    places = []
    for batch in batches:
        shipment, row = shipments[batch.partition], rows[batch.partition]
        run = shipment.run_at(row)
        breaks = [
            (one.row, one.offset, one.enqueued_at) for one in shipment.breaks(row, batch.count)
        ]
        places.append(Stored(run.offset, run.enqueued_at, breaks))
        rows[batch.partition] = row + batch.count
    return places
