"""The consumers of one log: what they have in common, and what becomes of them when it closes."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from eventlog.consumer import Consumer
    from eventlog.consuming.claims import Claimed, Claims

__all__ = ["RELEASE_SECONDS", "Readership"]

RELEASE_SECONDS: Final = 5.0
"""How long who closes a log waits until what its consumers have claimed was given back. What was
not is believed to be in use for as long as it is of a consumer that was killed."""

_TELL_SECONDS: Final = 60.0
"""How often at most it is logged of a topic that it does not answer, whoever reads it."""

_logger: Final = logging.getLogger("eventlog")


class Readership:
    """The consumers of a log. Thread-safe; there are no locks, which somebody might hold when the
    process forks, or when a signal handler closes the log: it is all single steps.

    Attributes:
        claimed: who has claimed a partition of a group last, though nobody may have that consumer
            any more.
    """

    def __init__(self) -> None:
        self.claimed: Final[Claimed] = {}
        self._consumers: set[weakref.ref[Consumer]] = set()
        self._told_at: dict[str, float] = {}

    def add(self, consumer: Consumer) -> None:
        """It is one of them, as long as anybody has it."""
        self._consumers.add(weakref.ref(consumer, self._consumers.discard))

    def may_tell(self, topic: str) -> bool:
        """Whether to log that a topic does not answer; then, for a while, no more."""
        now = time.monotonic()
        if now - self._told_at.get(topic, -_TELL_SECONDS) < _TELL_SECONDS:
            return False
        self._told_at[topic] = now
        return True

    def close(self) -> None:
        """The log is being closed: have all of them raise `ClosedError`, at once, and give back
        what they have claimed, as far as that can be done in a bounded time.
        """
        refs = list(self._consumers)
        consumers = [one for ref in refs if (one := ref()) is not None]
        for consumer in consumers:
            consumer.log_closed()
        held = [one.held for one in consumers if one.held is not None]
        _release(dict.fromkeys([*self.claimed.values(), *held]))


def _release(held: Iterable[Claims]) -> None:
    end = time.monotonic() + RELEASE_SECONDS
    late = [claims for claims in held if not claims.release_until(end)]
    for group in sorted({claims.store.ids.group for claims in late}):
        _logger.warning(
            "group %r: closing the log, a consumer could not be taken out within %g s; it is shown "
            "as a member a little longer",
            group,
            RELEASE_SECONDS,
        )
