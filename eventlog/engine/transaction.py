"""What every engine's `Transaction` does alike: it collects, and checks what can be checked before.

An engine adds the commit.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, TypeVar

from eventlog import topic_settings as settings
from eventlog.appending import Columns, check_expected, gather, gather_one
from eventlog.engine.topic import EngineTopic
from eventlog.errors import EventTooLargeError
from eventlog.event import Event, Key, PropertyValue
from eventlog.log import Body, Topic
from eventlog.names import check_name
from eventlog.transaction import Transaction

__all__ = ["Append", "EngineTransaction"]


T = TypeVar("T", bound=EngineTopic)


class Append(NamedTuple, Generic[T]):
    """One call of `append` or `append_batch`."""

    topic: T
    columns: Columns
    partition: int | None
    expect_next: int | None


class EngineTransaction(Transaction, Generic[T]):
    """Collects what is to be committed."""

    def __init__(self) -> None:
        super().__init__()
        self._appends: list[Append[T]] = []
        self._checkpoints: dict[tuple[T, str, int], int] = {}
        self._bytes = 0

    @abc.abstractmethod
    def _handle(self, topic: str | Topic) -> T:
        """A topic of the log, by name or as it is."""

    @abc.abstractmethod
    def _require_store(self) -> None:
        """Nothing, if checkpoints can join.

        Raises:
            UnsupportedOperationError: they cannot.
        """

    def append(
        self,
        topic: str | Topic,
        body: Body,
        *,
        key: Key | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
        partition: int | None = None,
        expect_next: int | None = None,
    ) -> None:
        if expect_next is not None:
            check_expected(expect_next, partition, key)
        self._add(topic, gather_one(body, key, properties), partition, expect_next)

    def append_batch(
        self,
        topic: str | Topic,
        events: Iterable[Event | Body],
        *,
        key: Key | None = None,
        partition: int | None = None,
    ) -> None:
        self._add(topic, gather(events, key), partition, None)

    def _add(
        self, topic: str | Topic, columns: Columns, partition: int | None, expect_next: int | None
    ) -> None:
        append = Append(self._handle(topic), columns, partition, expect_next)
        with self._mutex:
            self._check_open()
            if self._bytes + columns.size > settings.MAX_APPEND_BYTES:
                raise EventTooLargeError(
                    f"one transaction takes {settings.MAX_APPEND_BYTES:,} bytes of bodies, keys "
                    f"and properties, this one would have {self._bytes + columns.size:,}"
                )
            self._bytes += columns.size
            if columns.bodies:
                self._appends.append(append)

    def checkpoint(self, topic: str | Topic, group: str, *, partition: int, offset: int) -> None:
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise TypeError(f"an offset is an int, not {type(offset).__name__}: {offset!r:.80}")
        if offset < 0:
            raise ValueError(f"a checkpoint is at an offset from 0, not {offset}")
        handle = self._handle(topic)
        self._require_store()
        where = handle, check_name(group, "group"), handle.partition(partition)
        with self._mutex:
            self._check_open()
            self._checkpoints[where] = max(offset, self._checkpoints.get(where, offset))
