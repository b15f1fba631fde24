"""An event hub where there is none: what the SDK's event processors take for clients."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from tests.azure.stores import SCOPE

PATIENCE = 60.0
BATCH = 10


class HubEvent(NamedTuple):
    """What a processor and its checkpoints look at of an `EventData`."""

    partition: str
    sequence_number: int

    @property
    def offset(self) -> str:
        return str(self.sequence_number * 40)


class Hub:
    """Events in partitions, which consumers follow."""

    def __init__(self, partitions: int, events: int) -> None:
        self.partitions = {
            str(partition): [HubEvent(str(partition), number) for number in range(1, events + 1)]
            for partition in range(partitions)
        }

    def behind(self, partition: str, position: str) -> list[HubEvent]:
        return [one for one in self.partitions[partition] if int(one.offset) > int(position)]


class Consumer:
    """Gives a processor a partition's events."""

    def __init__(self, hub: Hub, partition: str, position: str, receive: Any) -> None:
        self.stop = False
        self._unread = hub.behind(partition, position)
        self._receive = receive

    def _batch(self) -> list[HubEvent]:
        batch = self._unread[:BATCH]
        del self._unread[:BATCH]
        return batch

    def receive(self, *_: Any) -> None:
        if batch := self._batch():
            self._receive(batch)
        else:
            threading.Event().wait(0.002)  # as a connection without events does

    def close(self) -> None:
        pass


class AsyncConsumer(Consumer):
    """The same for asynchronous processors."""

    async def receive(self, *_: Any) -> None:  # type: ignore[override]
        if batch := self._batch():
            await self._receive(batch)
        else:
            await asyncio.sleep(0.002)

    async def close(self) -> None:  # type: ignore[override]
        pass


class Client:
    """What a processor asks of an `EventHubConsumerClient`."""

    kind: type[Consumer] = Consumer

    def __init__(self, hub: Hub) -> None:
        namespace, self.eventhub_name, _ = SCOPE
        self._address = SimpleNamespace(hostname=namespace)
        self._hub = hub

    def get_partition_ids(self) -> Any:
        return list(self._hub.partitions)

    def _create_consumer(
        self, group: str, partition: str, position: str, receive: Any, **_: Any
    ) -> Consumer:
        assert group == SCOPE[2]
        return self.kind(self._hub, partition, position, receive)


class AsyncClient(Client):
    """The same for asynchronous processors."""

    kind = AsyncConsumer

    async def get_partition_ids(self) -> list[str]:
        return list(self._hub.partitions)


class Journal:
    """What processors did, and waiting for it."""

    def __init__(self) -> None:
        self.handled: list[HubEvent] = []
        self.owned: dict[str, set[str]] = {}
        self.errors: list[Exception] = []
        self._changed = threading.Condition()

    def began(self, name: str, partition: str) -> None:
        with self._changed:
            self.owned.setdefault(name, set()).add(partition)
            self._changed.notify_all()

    def ended(self, name: str, partition: str) -> None:
        with self._changed:
            self.owned.setdefault(name, set()).discard(partition)
            self._changed.notify_all()

    def did(self, events: list[HubEvent]) -> None:
        with self._changed:
            self.handled += events
            self._changed.notify_all()

    def failed(self, error: Exception) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def share(self, name: str) -> int:
        return len(self.owned.get(name, ()))

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not is_so():
                assert time.monotonic() < deadline, (self.owned, self.errors)
                self._changed.wait(0.02)  # what a store counts, nobody notifies of
