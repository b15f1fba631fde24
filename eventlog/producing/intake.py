"""What an engine gives a copy to store through: events that were stored elsewhere before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, Protocol

from eventlog.event import StoredEvent

__all__ = ["Inlet", "Intake", "Taken"]


class Taken(NamedTuple):
    """Offsets of the first and the last of the events that were stored."""

    first: int
    last: int


class Inlet(Protocol):
    """Where the events of one partition go. For one thread; its methods may block.

    It has a name, under which the log remembers how far it came, as it does for producers.
    """

    @property
    def last_sequence(self) -> int:
        """What the last event stored under its name had as its offset; -1 if none was stored."""

    def store(self, events: Sequence[StoredEvent]) -> Taken:
        """Store events behind all others of the partition, in the order given.

        Durable when it returns; and with the events, in one step, that their offsets are done.
        Their sizes are not held against the topic's limit, if the engine can help it: they were
        stored before.

        Args:
            events: at least one; their offsets are above `last_sequence`, and increase.

        Raises:
            EventTooLargeError: the engine cannot help it.
            ProducerFencedError: another inlet was opened under the name.
        """

    def close(self) -> None:
        """Be done with it."""


class Intake(Protocol):
    """Where the events of a copy go; given by the engine."""

    @property
    def resolution(self) -> timedelta | None:
        """To what events keep the times they have; None if they get those of their storing.

        In any case times never decrease along a partition: an event that is older than the one
        before it gets that one's time.
        """

    def last_sequence(self, name: str) -> int:
        """See `Inlet.last_sequence`; nobody is shut out by asking."""

    def open(self, name: str, partition: int) -> Inlet:
        """Go on under a name, in a partition; whoever did so is shut out from now on."""

    def finish(self) -> None:
        """All that was to be copied is: from now on the topic is for ordinary appends.

        It may not have been fit for them from the first `open` on; also if the process that called
        that was killed.
        """

    def close(self) -> None:
        """Be done with it."""
