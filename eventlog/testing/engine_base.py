"""What the parts of the contract suite for engines share: how an engine may differ, and asking."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import ClassVar, Final, TypeAlias

from eventlog.errors import UnsupportedOperationError
from eventlog.event import StoredEvent
from eventlog.log import EventLog, Topic
from eventlog.testing.expecting import raises

__all__ = [
    "OPERATIONS",
    "PATIENCE",
    "EngineSuite",
    "LogOpener",
    "bodies",
    "by_partition",
    "everything",
]

LogOpener: TypeAlias = Callable[[], AbstractContextManager[EventLog]]
"""Opens the same log again."""

PATIENCE: Final = 60.0
"""Seconds that something may take which has to come."""

OPERATIONS: Final = frozenset(
    {
        "add_partitions",
        "backup",
        "check",
        "compact",
        "delete_topic",
        "expect_next",
        "expire",
        "producer_id",
        "transaction.checkpoint",
    }
)
"""What an engine may decline to do."""


class EngineSuite:
    """How an engine may differ from the others; see `EngineContract`."""

    gapless: ClassVar[bool] = True
    resolution: ClassVar[timedelta] = timedelta(microseconds=1)
    unsupported: ClassVar[frozenset[str]] = frozenset()

    def opener(self, log: EventLog) -> LogOpener | None:  # noqa: ARG002 - others look at it
        """What opens the log of the fixture again; None if nothing can."""
        return None

    def make_topic(self, log: EventLog, name: str, *, partitions: int) -> Topic:
        """A new topic for a test of the data path."""
        return log.create_topic(name, partitions=partitions)

    @contextlib.contextmanager
    def doing(self, operation: str) -> Iterator[None]:
        """A block that does something an engine may decline to: then it does so, clearly.

        A silent half would be worse than an error.
        """
        assert operation in OPERATIONS, operation
        if operation in self.unsupported:
            with raises(UnsupportedOperationError, about=operation):
                yield
        else:
            yield

    def check_offsets(self, offsets: Sequence[int], first: int = 0) -> None:
        """Fails unless these are the offsets of events that follow each other."""
        if self.gapless:
            assert list(offsets) == list(range(first, first + len(offsets)))
        else:
            assert list(offsets) == sorted(set(offsets))
            assert all(offset >= first for offset in offsets)


def everything(topic: Topic) -> list[StoredEvent]:
    """All events that can be read, partition by partition."""
    return [
        event
        for partition in range(topic.partitions)
        for event in topic.read(partition, max_events=100_000)
    ]


def bodies(topic: Topic, partition: int | None = None) -> list[bytes]:
    """The bodies of one partition, or of all."""
    events = everything(topic) if partition is None else topic.read(partition)
    return [event.body for event in events]


def by_partition(events: Iterable[StoredEvent]) -> dict[int, list[bytes]]:
    """The bodies, in the order they came."""
    found: dict[int, list[bytes]] = {}
    for event in events:
        found.setdefault(event.partition, []).append(event.body)
    return found
