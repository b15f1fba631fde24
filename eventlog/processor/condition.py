"""How a pump is, for people; and how a session comes to its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, TypeAlias

import anyio

from eventlog.errors import ClosedError, PartitionNotFoundError, TopicNotFoundError
from eventlog.processor.failures import is_blameless
from eventlog.processor.hold import Site
from eventlog.processor.processor import CloseReason

__all__ = ["GONE", "Condition", "EndedError", "MovedError", "PartitionStatus", "State", "is_fatal"]

_logger: Final = logging.getLogger("eventlog")

State: TypeAlias = Literal[
    "opening", "processing", "waiting", "retrying", "failing", "closing", "closed"
]


GONE: Final = (ClosedError, TopicNotFoundError, PartitionNotFoundError)
"""Reading cannot go on after these, however long one waits."""


def is_fatal(error: BaseException) -> bool:
    """Whether an error ends the host rather than being judged: `SystemExit`, for example.

    A cancellation is not, of which the caller knows that it is not its own.
    """
    return not isinstance(error, Exception | anyio.get_cancelled_exc_class())


class EndedError(Exception):
    """The session is over, and so is the pump. Raised through whatever is under way.

    Attributes:
        reason: why.
        error: what the host is to end with; None if it is not.
    """

    def __init__(self, reason: CloseReason, error: BaseException | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.error = error


class MovedError(Exception):
    """A person has moved the group: the session is over, and another begins there."""


class PartitionStatus(NamedTuple):
    """How the processing of a partition is.

    Attributes:
        partition: its number.
        epoch: that of the host's hold on it.
        state: ``opening``, ``processing``, ``waiting`` (for events), ``retrying`` (after a delay,
            something that failed), ``failing`` (likewise, but more often than the policy allows,
            since there is no topic for dead letters), ``closing`` or ``closed``.
        offset: the last event that is checkpointed; None before that is known.
        lag: how many events there are behind it; None if that is not known.
        paused: whether nothing is handed over.
        attempts: how often what failed last was handed over; 0 if it has succeeded.
        last_error: what failed last; None if it has succeeded.
    """

    partition: int
    epoch: int
    state: State
    offset: int | None
    lag: int | None
    paused: bool
    attempts: int
    last_error: BaseException | None


class Condition:
    """How a pump is, for people.

    Attributes:
        state: what it does: ``retrying`` is a delay behind a failure; ``failing`` is one that the
            policy would not grant, but there is no topic for dead letters.
        error: the last one; None if there was none since it last succeeded.
        gone: whether its topic, or log, is no more.
        attempts: how often what failed last was handed over.
    """

    def __init__(self, site: Site, report: Callable[[BaseException], object]) -> None:
        self.state: State = "opening"
        self.error: BaseException | None = None
        self.attempts = 0
        self.gone = False
        self._site = site
        self._report = report

    def note(self, what: str, error: BaseException, *, again: bool = False) -> None:
        """Something failed that is not the processor's to judge.

        Args:
            again: whether it did before, and was logged at length.
        """
        self._log(error, again or (is_blameless(error) and self._is_told(error)), what)
        self.error = error
        self._report(error)

    def failed(self, error: BaseException, attempts: int, what: str) -> None:
        """The processor has failed.

        Args:
            attempts: how often it was handed that over.
        """
        failed = "failed at attempt" if not is_blameless(error) else "was held up at attempt"
        self._log(error, self._is_told(error), f"{what} {failed} {attempts}")
        self.error, self.attempts = error, attempts

    def _is_told(self, error: BaseException) -> bool:
        """Whether something of that kind was told since it last succeeded."""
        return self.error is not None and is_blameless(self.error) == is_blameless(error)

    def _log(self, error: BaseException, again: bool, what: str) -> None:  # noqa: FBT001 - its own
        """At length the first time; but that something is away is one line, and that once."""
        level, trace = (logging.WARNING, None) if again else (logging.ERROR, error)
        if is_blameless(error):
            level, trace = (logging.DEBUG if again else logging.WARNING), None
        _logger.log(level, "%s: %s: %r", self._site, what, error, exc_info=trace)

    def succeeded(self) -> None:
        """What failed before, if anything did, does not any more."""
        self.error = None
        self.attempts = 0
