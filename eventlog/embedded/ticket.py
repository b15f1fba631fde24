"""What a caller of `eventlog.embedded.commit` waits with, and what is committed together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from eventlog.embedded.writer import Writer

__all__ = ["Group", "Ticket", "Work"]

T = TypeVar("T")

Work = Callable[[Writer], T]
"""Runs inside the write transaction, possibly twice (after a commit that failed for another's
sake). Must refuse before its first change, and must not wait, log or call users' code."""


class Ticket(Generic[T]):
    """One caller's work, and its outcome.

    Its caller waits for `signal`, which says "look again": the ticket is settled, or it is the
    caller's turn to lead.
    """

    __slots__ = (
        "bytes",
        "deserted",
        "error",
        "exclusive",
        "group",
        "result",
        "settled",
        "signal",
        "work",
    )

    def __init__(
        self, work: Work[T] | None, size: int = 0, exclusive: Callable[[], T] | None = None
    ) -> None:
        self.work = work
        self.exclusive = exclusive
        self.bytes = size
        self.signal = threading.Lock()
        self.signal.acquire()
        self.deserted = False  # its caller was interrupted and will not come back for it
        self.group: Group | None = None
        self.settled = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def wake(self) -> None:
        """Let the caller look again; waking twice is fine."""
        try:  # noqa: SIM105 - suppress() is calls, and between calls a signal handler may run
            self.signal.release()
        except RuntimeError:
            pass  # it is awake

    def settle(self, error: BaseException | None = None) -> None:
        """The outcome stands. No signal handler can come between saying so and waking."""
        if not self.settled:
            self.error = error or self.error
            self.settled = True
        try:  # noqa: SIM105 - as above
            self.signal.release()
        except RuntimeError:
            pass  # it is awake

    @property
    def committed(self) -> bool:
        """Whether its work is done and cannot be taken back."""
        return self.group is not None and self.group.committed

    def outcome(self) -> T:
        """The work's result, or its error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class Group:
    """The tickets of one transaction; one store says that all of them are committed."""

    __slots__ = ("committed", "tickets")

    def __init__(self, tickets: list[Ticket[Any]]) -> None:
        self.tickets = tickets
        self.committed = False
        for ticket in tickets:
            ticket.group = self
