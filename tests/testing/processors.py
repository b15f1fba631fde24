"""Processors for tests of the driver: each twice, with coroutines and with plain functions."""

from __future__ import annotations

from typing import Any

from eventlog import CloseReason, ErrorAction, EventProcessor, StoredEvent


class Noting(EventProcessor):
    """Notes what it is told; fails at events that say ``bad``; checkpoints each batch."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.bodies: list[bytes] = []
        self.closed: CloseReason | None = None

    async def open(self, context: Any) -> None:
        self.calls.append(f"open {context.epoch}")

    async def process(self, context: Any, events: list[StoredEvent]) -> None:
        self.take(events)
        await context.checkpoint()

    async def idle(self, context: Any) -> None:
        self.calls.append("idle")

    async def close(self, context: Any, reason: CloseReason) -> None:
        self.closed = reason

    def take(self, events: list[StoredEvent]) -> None:
        self.calls.append(f"process {len(events)}")
        for event in events:
            if event.body.startswith(b"bad"):
                raise ValueError(event.text())
        self.bodies += [event.body for event in events]


class PlainNoting(EventProcessor):
    """The same with plain functions."""

    def __init__(self) -> None:
        self._noting = Noting()
        self.calls = self._noting.calls
        self.bodies = self._noting.bodies
        self.closed: CloseReason | None = None

    def open(self, context: Any) -> None:
        self.calls.append(f"open {context.epoch}")

    def process(self, context: Any, events: list[StoredEvent]) -> None:
        self._noting.take(events)
        context.checkpoint()

    def idle(self, context: Any) -> None:
        self.calls.append("idle")

    def close(self, context: Any, reason: CloseReason) -> None:
        self.closed = reason


class Answering(Noting):
    """Says about each failure what it was told to."""

    answer: ErrorAction = ErrorAction.RETRY

    async def error(
        self, context: Any, exception: BaseException, events: list[StoredEvent]
    ) -> ErrorAction:
        self.calls.append(f"error {len(events)}")
        return self.answer
