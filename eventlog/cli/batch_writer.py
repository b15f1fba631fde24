"""Events on their way into a topic: gathered, appended a batch at a time, and accounted for.

Invariants:

1. `stored` counts events whose append has returned, and nothing else.
2. Every event up to `line` is stored.
3. No event is appended twice: a batch is let go before it is appended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from eventlog import Event, EventLogError
from eventlog.cli.event_json import Incoming
from eventlog.cli.failures import Failure, describe

__all__ = ["MAX_BATCH_BYTES", "BatchWriter", "Store"]

MAX_BATCH_BYTES: Final = 4 * 2**20
"""Bytes of lines after which a batch is appended, however few events it has."""


Store: TypeAlias = Callable[[list[Event | bytes], int | None], object]
"""Appends events, all or none, to the partition they name if they name one."""


class BatchWriter:
    """Appends events in batches.

    Attributes:
        stored: events stored so far.
        line: the last line of input up to which everything is stored.
        appending: whether an append is under way; still so after it was interrupted.

    Args:
        store: how.
        most: events in a batch.
        appended: called after each append with the number of events stored so far.
    """

    def __init__(
        self,
        store: Store,
        *,
        most: int,
        appended: Callable[[int], None] = lambda _stored: None,
    ) -> None:
        self.stored = 0
        self.line = 0
        self._store = store
        self._most = most
        self._appended = appended
        self.appending = False
        self._stored_with_line = 0
        self._last_line = 0
        self._count = 0
        self._bytes = 0
        self._gathered: dict[int | None, list[Event | bytes]] = {}

    def add(self, line: int, incoming: Incoming, size: int) -> None:
        """Take the event that stood on `line`, which was `size` bytes long.

        Raises:
            Failure: see `flush`.
        """
        self._gathered.setdefault(incoming.partition, []).append(incoming.event)
        self._last_line = line
        self._count += 1
        self._bytes += size
        if self._count >= self._most or self._bytes >= MAX_BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Append what was gathered: one append, or one for each partition that events named.

        Raises:
            Failure: an append failed. It says what was stored before.
        """
        batches, self._gathered = self._gathered, {}
        self._count = self._bytes = 0
        self.appending = True
        for named, events in batches.items():
            self._append(events, named)
        self.appending = False
        self.line, self._stored_with_line = self._last_line, self.stored
        self._appended(self.stored)

    def _append(self, events: list[Event | bytes], named: int | None) -> None:
        try:
            self._store(events, named)
        except (EventLogError, OSError, ValueError) as error:
            raise Failure(f"{describe(error)}; {self.account()}") from error
        self.stored += len(events)

    def account(self) -> str:
        """How much is stored, for a person."""
        if not self.stored:
            return "nothing was stored"
        events = "1 event was" if self.stored == 1 else f"{self.stored:,} events were"
        if self.stored == self._stored_with_line:
            return f"{events} stored, up to line {self.line}"
        return f"{events} stored: all up to line {self.line}, and some up to line {self._last_line}"

    def doubt(self) -> str:
        """What is not known after an append was interrupted, for a person."""
        return f"whether lines {self.line + 1} to {self._last_line} were is not known"
