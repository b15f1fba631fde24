"""What every engine's `EventLog` does alike.

An engine adds where events are stored, and how they come back.
"""

from __future__ import annotations

import abc
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from eventlog.blobs.opened import OpenedStores
from eventlog.consuming.readership import Readership
from eventlog.errors import UnsupportedOperationError
from eventlog.log import EventLog, Partitioner
from eventlog.partitioning import PARTITIONERS, KeyPartitioner, RoundRobin, partitioner_name
from eventlog.producer import Producer, close_all

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.engine.topic import EngineTopic
    from eventlog.log import Topic

__all__ = ["EngineLog", "PartitionFunction"]

PartitionFunction: TypeAlias = str | Callable[[bytes, int], int]
"""A name of ours, or a function of (key, number of partitions)."""


class EngineLog(EventLog):
    """A log, with what was made of it and is to be closed with it.

    Args:
        blobs: see `eventlog.open`.

    Attributes:
        readership: the consumers.
    """

    def __init__(self, blobs: str | BlobStore | None, *, read_only: bool) -> None:
        self._producers: set[weakref.ref[Producer]] = set()
        self.readership = Readership()
        self._read_only = read_only
        self._functions: dict[str, Callable[[bytes, int], int]] = {}
        self._stores = OpenedStores()
        self._blobs = None if blobs is None else self._stores.get(blobs, "blobs")

    def __repr__(self) -> str:
        return f"<EventLog at {self.location}>"

    @abc.abstractmethod
    def now_us(self) -> int:
        """The log's clock: microseconds since 1970."""

    @abc.abstractmethod
    def handle(self, topic: str | Topic) -> EngineTopic:
        """A topic of this log, by name or as it is."""

    def refuse_reader(self) -> None:
        """Refuse to write to what was opened to be read.

        Raises:
            UnsupportedOperationError: it was.
        """
        if self._read_only:
            raise UnsupportedOperationError(f"the log at {self.location} was opened read_only")

    def add_producer(self, producer: Producer) -> None:
        """It is closed with the log, if anybody has it then."""
        self._producers.add(weakref.ref(producer, self._producers.discard))

    def remember(self, partitioner: Partitioner) -> str:
        """The name of what places keys; if it is a function, it is known by it from now on."""
        name = partitioner_name(partitioner)
        if not isinstance(partitioner, str):
            self._functions[name] = partitioner
        return name

    def partition_function(self, name: str) -> PartitionFunction | None:
        """What places keys under that name, if this process knows it."""
        return name if name in PARTITIONERS else self._functions.get(name)

    def placing(
        self, partitioner: str, partitions: int
    ) -> tuple[KeyPartitioner | None, RoundRobin]:
        """What places events of a topic: those with keys, if this process knows how; the others."""
        function = self.partition_function(partitioner)
        by_key = None if function is None else KeyPartitioner(function, partitions)
        return by_key, RoundRobin(partitions)

    def close(self) -> None:
        try:
            producers = [ref() for ref in list(self._producers)]  # more may be made meanwhile
            close_all([one for one in producers if one is not None])
        finally:
            try:
                self._close_readership()
            finally:
                self._close()

    def _close_readership(self) -> None:
        """End all consumers, and take them out of their groups."""
        self.readership.close()

    @abc.abstractmethod
    def _close(self) -> None:
        """Let go of everything."""
