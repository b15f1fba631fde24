"""What a consumer hands out next, of what was read ahead: in turns, or by time.

Both hand out a list at a time, bounded in events and bytes. Both stop short where something may be
missing: then the log has to be looked at before they go on.
"""

from __future__ import annotations

import abc
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

from eventlog.consuming.backlog import Backlog, Handout
from eventlog.errors import CorruptBatchError

__all__ = ["ByTime", "InTurns", "Merging"]

TURN_EVENTS: Final = 1000
TURN_BYTES: Final = 256 * 1024
"""What is handed out at a time: whole runs, until they have as many events or bytes."""

_Head: TypeAlias = tuple[int, int, int, Backlog]
"""The time of a partition's next run, the partition, the number of the run, and its backlog."""


class Merging(abc.ABC):
    """How the events of several partitions become one sequence.

    Args:
        backlogs: the partitions; there may become more of them.
    """

    needs_each: bool
    """Whether it can do nothing while it knows nothing of one partition."""

    def __init__(self, backlogs: Mapping[int, Backlog]) -> None:
        self._backlogs = backlogs

    @abc.abstractmethod
    def in_order(self) -> Iterable[Backlog]:
        """All, in the order in which they should be looked at."""

    @abc.abstractmethod
    def take(self, has_room: Callable[[], bool]) -> Handout | None:
        """What comes next; None if the log has to be looked at first.

        Args:
            has_room: tells whether a look could bring something.

        Raises:
            CorruptBatchError: it is damaged.
        """


class InTurns(Merging):
    """Each partition in turn gives some of what it has: a busy one does not starve the others."""

    needs_each = False

    def __init__(self, backlogs: Mapping[int, Backlog]) -> None:
        super().__init__(backlogs)
        self._ring: deque[Backlog] = deque()

    def in_order(self) -> deque[Backlog]:
        """The one whose turn it is comes first; those that were added come last."""
        if len(self._ring) != len(self._backlogs):
            known = {backlog.partition for backlog in self._ring}
            everyone = list(self._backlogs.values())
            self._ring.extend([one for one in everyone if one.partition not in known])
        return self._ring

    def take(self, has_room: Callable[[], bool]) -> Handout | None:
        """A share of one partition."""
        ring = self.in_order()
        is_full = False
        for _ in range(len(ring)):
            backlog = ring[0]
            if not is_full and backlog.is_hungry:
                if has_room():
                    return None
                is_full = True
            ring.rotate(-1)
            if backlog.runs:
                return _share(backlog)
            if backlog.failure is not None:
                raise backlog.fail()
        return None


def _share(backlog: Backlog) -> Handout:
    handout = Handout()
    for run in backlog.runs:
        try:
            handout.add(backlog, run, backlog.events(run))
        except CorruptBatchError:
            if not handout.count:
                raise
            break  # the next turn begins with it
        if _is_full(handout):
            break
    return handout


class ByTime(Merging):
    """The earliest event of all comes first; of those enqueued at one time the lower partition's.

    All events of a run have one time, so that whole runs are compared. A partition whose runs are
    used up may hide the earliest event, if there was more behind them, or if others were looked at
    since: nothing is handed out then until it was looked at too. Thus what comes of one look is
    wholly ordered, and what came of different looks never mixes the other way round.
    """

    needs_each = True

    def in_order(self) -> list[Backlog]:
        """In no order that matters."""
        return list(self._backlogs.values())

    def take(self, has_room: Callable[[], bool]) -> Handout | None:  # noqa: ARG002 - there always is
        """The earliest events of all."""
        heads: list[_Head] = []
        used_up: list[Backlog] = []
        for backlog in self.in_order():
            if backlog.failure is not None and not backlog.runs:
                raise backlog.fail()
            if backlog.runs:
                heads.append((backlog.runs[0].enqueued_us, backlog.partition, 0, backlog))
            elif not backlog.is_done:
                used_up.append(backlog)
        newest = max([backlog.look for *_, backlog in heads], default=0)
        if not heads or any(_may_hide(backlog, newest) for backlog in used_up):
            return None
        heapq.heapify(heads)
        return _earliest(heads, newest)


def _may_hide(backlog: Backlog, newest: int) -> bool:
    """Whether a partition may have an event, behind its runs, that comes before others'.

    Args:
        newest: number of the look that last brought one of theirs.
    """
    return not backlog.is_done and (not backlog.is_complete or backlog.look < newest)


def _earliest(heads: list[_Head], newest: int) -> Handout:
    """Merge the runs of a heap."""
    handout = Handout()
    while heads and not _is_full(handout):
        _, partition, number, backlog = heads[0]
        run = backlog.runs[number]
        try:
            handout.add(backlog, run, backlog.events(run))
        except CorruptBatchError:
            if not handout.count:
                raise
            break
        number += 1
        if number < len(backlog.runs):
            following = (backlog.runs[number].enqueued_us, partition, number, backlog)
            heapq.heapreplace(heads, following)
            continue
        heapq.heappop(heads)
        if _may_hide(backlog, newest):
            break
    return handout


def _is_full(handout: Handout) -> bool:
    return handout.count >= TURN_EVENTS or handout.size >= TURN_BYTES
