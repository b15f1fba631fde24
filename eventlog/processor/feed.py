"""A partition's events for a pump, read ahead while the processor is busy with others.

What comes is told in the order of the partition: events, a range that expired unread, an error that
reading met. After an error nothing more is read until it is said how to go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio

from eventlog.consuming.source import LostRange
from eventlog.errors import ClosedError, OffsetOutOfRangeError

if TYPE_CHECKING:
    from eventlog.event import StoredEvent
    from eventlog.log import Topic

__all__ = ["Feed", "Item"]

_PREFETCH_BYTES: Final = 2**20
"""How much is read ahead as it is stored. A host may own a thousand partitions."""

_AHEAD_BYTES: Final = 2**18
"""Bodies that wait to be handed over are joined until they have as many bytes, or are enough."""

Item: TypeAlias = "list[StoredEvent] | LostRange | Exception"


class Feed:
    """Reads one partition from an offset on, a batch ahead. All of it on one event loop.

    Args:
        start: the first offset.
        max_batch: how many events are handed out at a time, at most.
        tell: called when there may be something to take.
    """

    def __init__(
        self, topic: Topic, partition: int, start: int, max_batch: int, tell: Callable[[], object]
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._next = start
        self._max_batch = max_batch
        self._tell = tell
        self._items: deque[Item] = deque()
        self._taken = 0  # events of the first item that were taken
        self._count = 0  # events that wait
        self._bytes = 0
        self._changed = anyio.Event()
        self._halted = False

    # Taking

    def take(self) -> Item | None:
        """What comes next; None if nothing is there yet.

        Events: at least one, at most `max_batch`, in a new list. Behind an error nothing comes
        until `go_on`.
        """
        if not self._items:
            return None
        item = self._items[0]
        if not isinstance(item, list):
            return self._items.popleft()
        events = self._some()
        while len(events) < self._max_batch and self._items and isinstance(self._items[0], list):
            events += self._some(self._max_batch - len(events))
        self._count -= len(events)
        self._bytes = _size(self._items) if 0 < self._count < self._max_batch else 0
        self._changed.set()
        return events

    def _some(self, most: int | None = None) -> list[StoredEvent]:
        """Up to so many events of the first item, which is a list."""
        events = self._items[0]
        assert isinstance(events, list)
        begin = self._taken
        end = begin + (most or self._max_batch)
        if end >= len(events):
            self._items.popleft()
            self._taken = 0
            return events[begin:] if begin else events
        self._taken = end
        return events[begin:end]

    def go_on(self, offset: int | None = None) -> None:
        """Read on after an error: once more where it was met, or at `offset`."""
        self._next = self._next if offset is None else offset
        self._halted = False
        self._changed.set()

    # Reading

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            error = await self._read()
            if isinstance(error, OffsetOutOfRangeError) and error.beginning_offset > self._next:
                # Nobody read for the group while they expired.
                self._lost(LostRange(self._partition, self._next, error.beginning_offset - 1))
                self._next = error.beginning_offset
                continue
            self._put(error)
            self._halted = True
            while self._halted:
                await self._until_changed()

    async def _read(self) -> Exception:
        """Read until that fails; how it failed."""
        try:
            async with self._topic.consumer(
                partitions=self._partition,
                start=self._next,
                prefetch_bytes=_PREFETCH_BYTES,
                on_lost=self._lost,
            ) as consumer:
                async for events in consumer.batches():
                    self._next = events[-1].offset + 1
                    self._add(events)
                    while self._count >= self._max_batch or self._bytes >= _AHEAD_BYTES:
                        await self._until_changed()
        except Exception as error:  # noqa: BLE001 - whoever takes it decides what it means
            return error
        return ClosedError(f"the log of topic {self._topic.name!r} was closed")

    async def _until_changed(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()

    def _lost(self, lost: LostRange) -> None:
        self._next = max(self._next, lost.last + 1)
        self._put(lost)

    def _add(self, events: list[StoredEvent]) -> None:
        self._count += len(events)
        if self._count < self._max_batch:  # otherwise it is enough in any case
            self._bytes += _size([events])
        self._put(events)

    def _put(self, item: Item) -> None:
        self._items.append(item)
        self._tell()


def _size(items: deque[Item] | list[list[StoredEvent]]) -> int:
    """How many bytes of bodies wait."""
    return sum(len(event.body) for item in items if isinstance(item, list) for event in item)
