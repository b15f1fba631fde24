"""How a consumer comes by its next events: what there is to do, step by step.

Threads and event loops do the same, in the same order. So it is told by one generator,
`Reading.steps`, which neither blocks nor waits, but names what is to be done next: a thread does
that itself, an event loop has another thread do it. Whatever a step does may be given up halfway
and done again: looking changes nothing until what was found is taken in, and the other steps can
be repeated.

That the log does not answer now (`LogBusyError`) is an error for who has asked for an end, or for
events within some time. Who follows without end waits in any case, and goes on when it answers.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from eventlog.consuming.reader import Reader
from eventlog.errors import ClosedError, LogBusyError
from eventlog.waiting import Watch, run_soon

if TYPE_CHECKING:
    from eventlog.consuming.backlog import Backlog
    from eventlog.consuming.claims import Claims
    from eventlog.consuming.readership import Readership
    from eventlog.consuming.scope import Scope
    from eventlog.consuming.source import LostRange, Source

__all__ = ["Reading", "Steps"]

CHECK_SECONDS: Final = 1.0
"""How often a consumer looks whether it is still the one that reads for its group, and whether its
topic is still there."""

_PATIENCE_SECONDS: Final = 10.0
"""How long who reads for no group waits at a time. It is told when it has to stop."""

_PEEK_SECONDS: Final = 0.002
"""How soon after a look a partition that had nothing is looked at again while others have."""

_AWAY_SECONDS: Final = 0.25
"""How long who can wait lets the log be that has not answered."""

_logger: Final = logging.getLogger("eventlog")


class _Work(NamedTuple):
    """Something that may block; if it is `brief`, for less long than a change of threads takes."""

    do: Callable[[], Any]
    brief: bool = False

    def run(self) -> Any:
        return self.do()

    async def run_async(self) -> Any:
        return self.do() if self.brief else await run_soon(self.do)


class _Wait(NamedTuple):
    """Waiting for a change; tells whether there was one."""

    watch: Watch
    timeout: float

    def run(self) -> bool:
        return self.watch.wait(self.timeout)

    async def run_async(self) -> bool:
        return await self.watch.wait_async(self.timeout)


Steps: TypeAlias = Generator[_Work | _Wait, Any, Any]
"""Steps to be run, each with what the one before gave, to come by what the generator returns."""


class Reading:
    """A consumer's way through its topic, between the log and what is handed out.

    Args:
        readership: all consumers of the log.
        max_wait: how many seconds it follows without an event before the steps end.
        report: called with what expired before it was read.

    Attributes:
        stopped: whether the consumer was closed.
    """

    def __init__(
        self,
        source: Source,
        scope: Scope,
        claims: Claims | None,
        reader: Reader,
        readership: Readership,
        *,
        max_wait: float | None,
        report: Callable[[LostRange], None],
    ) -> None:
        self.reader: Final = reader
        self.stopped = False
        self._source = source
        self._scope = scope
        self._claims = claims
        self._readership = readership
        self._max_wait = max_wait
        self._report = report
        # For what comes once: beginning, added partitions, the end. A signal handler may close.
        self._mutex = threading.RLock()
        self._watches: list[Watch] = []  # the last one is in use
        self._next_check = 0.0
        self._next_peek = 0.0
        self._log_closed = False
        self._is_patient = scope.is_endless and max_wait is None
        self._is_away = False

    # The steps

    def steps(self) -> Steps:
        """What to do for the next events.

        Returns: whether there are any to hand out; otherwise iteration ends.
        """
        if not self.reader.count:
            yield _Work(self._begin_unless_stopped)
        deadline: float | None = None
        woken = False
        while not self.stopped:
            yield from self._look_after(woken=woken)
            if self.reader.take():
                return True
            if self.reader.is_done:
                return False
            if (yield from self._look(brief=woken)):
                continue
            if woken and self._claims is not None:  # by no event: perhaps by another consumer
                yield from self._check_claims()
            if self._max_wait is not None:
                deadline = deadline or time.monotonic() + self._max_wait
                if time.monotonic() >= deadline:
                    return False
            woken = yield from self._wait(deadline)
        return False

    def _look_after(self, *, woken: bool) -> Steps:
        """What must not be forgotten while there are events to hand out.

        Args:
            woken: it has waited, has nothing to hand out, and looks next in any case.
        """
        self._check_log()
        now = time.monotonic()
        if now >= self._next_check:
            yield from self._check_claims()
            yield from self._look()
        elif not woken and now >= self._next_peek and self._may_have_more():
            yield from self._look()
        self.follow_resets()
        self._report_lost()

    def _may_have_more(self) -> bool:
        """Whether there may be events in a partition that had none."""
        return self.reader.has_caught_up and self._watches[-1].changed()

    def _look(self, *, brief: bool = False) -> Steps:
        """Look at the log.

        Args:
            brief: for little, and at once: just now it had nothing, and was changed since.

        Returns: whether something came of it.
        """
        if self.stopped:
            return False
        self._watches[-1].mark()
        now_us = self._source.now_us()
        request = self.reader.request()
        brief = brief and self._source.brief_bytes > 0
        if brief:
            most = min(request.max_bytes, self._source.brief_bytes)
            request = request._replace(max_bytes=most, share=min(request.share, most))
        look = yield self._patiently(functools.partial(self._source.fetch, request), brief=brief)
        if look is None:  # whatever a look has found meanwhile that was given up
            yield _Wait(self._watches[-1], _AWAY_SECONDS)
            return True
        changed = self.reader.take_in(request, look, now_us)
        if self._scope.grows and look.partitions > self.reader.count:
            yield self._patiently(functools.partial(self._extend, look.partitions))
            changed = True
        self._next_peek = time.monotonic() + _PEEK_SECONDS
        return changed

    def _check_claims(self) -> Steps:
        self._next_check = time.monotonic() + CHECK_SECONDS
        if self._claims is not None:
            yield self._patiently(self._claims.check)

    def _patiently(self, do: Callable[[], Any], *, brief: bool = False) -> _Work:
        """Something to be done that may be left for later, if the log does not answer now."""
        return _Work(functools.partial(self._attempt, do) if self._is_patient else do, brief)

    def _attempt(self, do: Callable[[], Any]) -> Any:
        try:
            done = do()
        except LogBusyError as error:
            self._is_away = True
            self._tell_of(error)
            return None
        if self._is_away:
            _logger.info("topic %r is read on", self.topic)
        self._is_away = False
        return done

    def _tell_of(self, error: LogBusyError) -> None:
        if self._readership.may_tell(self.topic):
            _logger.warning(
                "%s; who follows the topic waits, and goes on where it was",
                str(error).removesuffix(": try again"),
            )

    def _wait(self, deadline: float | None) -> Steps:
        """Wait until there is reason to look again, or the deadline is over.

        Returns: whether something changed in the log.
        """
        while not self.stopped:
            if (yield _Wait(self._watches[-1], self._timeout(deadline))):
                return True
            self._check_log()
            if self._claims is not None and time.monotonic() >= self._next_check:
                yield from self._check_claims()
                if self.follow_resets():
                    return False
            until_us = self.reader.until_us
            if until_us is not None and self._source.now_us() >= until_us:
                return False
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return False

    def _timeout(self, deadline: float | None) -> float:
        timeout = _PATIENCE_SECONDS if self._claims is None else CHECK_SECONDS
        if deadline is not None:
            timeout = min(timeout, deadline - time.monotonic())
        until_us = self.reader.until_us
        if until_us is not None:  # by the log's clock, which may jump
            timeout = min(timeout, CHECK_SECONDS, (until_us - self._source.now_us()) / 1e6)
        return max(timeout, 0.0)

    def _check_log(self) -> None:
        self._source.check_open()
        if self._log_closed:
            raise ClosedError(f"the log of topic {self._source.name!r} was closed")

    def _report_lost(self) -> None:
        while self.reader.lost:
            self._report(self.reader.lost[0])
            self.reader.lost.popleft()

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._source.name

    def follow_resets(self) -> bool:
        """Go on where a person has moved the group to; whether one has. Does not block."""
        if self._claims is None:
            return False
        resets = self._claims.resets()
        for reset in resets:
            self.reader.seek(reset.partition, reset.start)
            self.reader.forget(reset.partition)
            self._claims.followed(reset)
        return bool(resets)

    # Beginning, and the end

    def begin(self) -> None:
        """Settle where the partitions begin, and claim them; once. Thread-safe; blocks.

        Raises:
            ClosedError: it was stopped before.
        """
        if not self.reader.count:
            self._begin_unless_stopped()
            if not self.reader.count:
                raise ClosedError(f"the consumer of topic {self._source.name!r} was closed")

    def _begin_unless_stopped(self) -> None:
        with self._mutex:
            if self.reader.count or self.stopped:
                return
            numbers = self._scope.numbers or range(self._source.partitions())
            backlogs = self._begun(numbers)
            if backlogs is None:
                return
            self._watch(numbers)
            self._next_check = time.monotonic() + CHECK_SECONDS
            self.reader.add(backlogs)
            self._let_go_again()

    def _extend(self, partitions: int) -> None:
        """Read the partitions that were added, too. Thread-safe; blocks."""
        with self._mutex:
            known = set(self.reader.partitions)
            added = [number for number in range(partitions) if number not in known]
            if not added or self.stopped:
                return
            backlogs = self._begun(added, from_start=False)
            if backlogs is None:
                return
            self._watch(range(partitions))
            self.reader.add(backlogs)
            self._let_go_again()

    def _begun(self, numbers: Sequence[int], *, from_start: bool = True) -> list[Backlog] | None:
        """These partitions, claimed; None if it was stopped meanwhile."""
        try:
            return self._scope.begin(self._source, numbers, self._claims, from_start=from_start)
        except ClosedError:
            self._check_log()
            if not self.stopped:
                raise
            return None

    def _let_go_again(self) -> None:
        if self.stopped:  # in this thread, by a signal handler
            self.let_go()

    def _watch(self, numbers: Sequence[int]) -> None:
        watch = self._source.watch(numbers)
        self._watches.append(watch)
        if self.stopped or self._log_closed:
            watch.interrupt()

    def stop(self) -> None:
        """Have the steps end, at once if they wait. Thread-safe; does not block."""
        self.stopped = True
        self._interrupt()
        self.reader.stop()

    def log_closed(self) -> None:
        """Have the steps raise `ClosedError`, at once if they wait. Thread-safe."""
        self._log_closed = True
        self._interrupt()

    def _interrupt(self) -> None:
        for watch in list(self._watches):
            watch.interrupt()

    def let_go(self) -> None:
        """Give back what it holds, when it was stopped. May block."""
        with self._mutex:
            for watch in self._watches:  # one may still be in use, by who just found it stopped
                watch.close()
        if self._claims is not None:
            self._claims.release()
