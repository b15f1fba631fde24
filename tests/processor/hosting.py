"""Hosts in tests: waiting for what they bring about, a processor that notes what it is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Final

import anyio

from eventlog import (
    CloseReason,
    Event,
    EventLog,
    EventProcessor,
    EventProcessorHost,
    ProcessorOptions,
    StoredEvent,
    Topic,
)
from eventlog.processor.clock import SystemClock

PATIENCE: Final = 60.0
QUICK: Final = ProcessorOptions(lease_duration=20, renew_interval=0.2, max_wait=0.05, grace=5)
"""Notices at once what is new, and takes nobody for dead because a machine is slow."""


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, as long as it may take."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - much of it is in other threads and processes
            await anyio.sleep(0.005)


class Notes:
    """What happened to events and processors, in the order it did."""

    def __init__(self) -> None:
        self.events: dict[int, list[int]] = defaultdict(list)
        self.calls: list[tuple[str, str, int]] = []
        self.errors: list[BaseException] = []

    def count(self) -> int:
        return sum(len(offsets) for offsets in self.events.values())

    def closed(self, host: str) -> list[str]:
        return [what for who, what, _ in self.calls if who == host and "close" in what]

    def factory(self, host: str = "a", checkpoint: bool = True) -> Callable[[], EventProcessor]:
        """Makes processors that note, and checkpoint each batch."""
        notes = self

        class Noting(EventProcessor):
            async def open(self, context: Any) -> None:
                notes.calls.append((host, "open", context.partition))

            async def process(self, context: Any, events: list[StoredEvent]) -> None:
                notes.events[context.partition] += [event.offset for event in events]
                if checkpoint:
                    await context.checkpoint()

            async def close(self, context: Any, reason: CloseReason) -> None:
                notes.calls.append((host, f"close {reason.value}", context.partition))

        return Noting


def filled(log: EventLog, *, partitions: int = 4, each: int = 10, name: str = "cars") -> Topic:
    """A topic with events in all partitions."""
    topic = log.create_topic(name, partitions=partitions)
    for partition in range(partitions):
        topic.append_batch([Event(str(n).encode()) for n in range(each)], partition=partition)
    return topic


def host_of(
    topic: Topic, factory: Any, name: str = "a", options: ProcessorOptions = QUICK, **more: Any
) -> EventProcessorHost:
    """A host of the group ``g``."""
    return EventProcessorHost(
        topic, group="g", processor=factory, host_name=name, options=options, **more
    )


def owned(host: EventProcessorHost) -> list[int]:
    """The partitions that a host works on."""
    return sorted(host.status().partitions)


class JumpingClock(SystemClock):
    """The machine's, as a machine's that was suspended sees it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return super().now() + self.ahead
