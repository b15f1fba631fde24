"""What every engine's `Outlet` does alike: it places events.

An engine adds how they are stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventlog.appending import check_partition, place_key
from eventlog.errors import PartitionNotFoundError, UnsupportedOperationError
from eventlog.event import Key
from eventlog.producing.outlet import Outlet

if TYPE_CHECKING:
    from eventlog.engine.topic import EngineTopic

__all__ = ["EngineOutlet"]


class EngineOutlet(Outlet):
    """What a producer of a topic sends through."""

    _topic: EngineTopic

    @property
    def name(self) -> str:
        return self._topic.name

    @property
    def max_event_bytes(self) -> int:
        return self._topic.max_event_bytes

    @property
    def partitions(self) -> int:
        return self._topic.partitions

    def partition_of(self, key: Key) -> int:
        try:
            return place_key(self._topic.state, key)
        except UnsupportedOperationError:
            return place_key(self._topic.refresh(), key)

    def next_partition(self) -> int:
        return self._topic.state.turns.next()

    def check_partition(self, partition: object) -> int:
        try:
            return check_partition(self._topic.state.record, partition)
        except PartitionNotFoundError:
            return check_partition(self._topic.refresh().record, partition)
