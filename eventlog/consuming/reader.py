"""What a consumer has read ahead of all its partitions, and what it hands out next.

Invariants:

1. What was handed out, to the event, is what `Reader.positions` and `Reader.finished` tell; what
   was only read ahead never counts.
2. The bodies read ahead have together at most `prefetch_bytes`, or are a single event (by time: or
   are one event of each partition).
3. An event that was read ahead is handed out, or its partition was moved.

What this module deliberately does not do: wait, look at a log, start threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from eventlog.consuming.backlog import Backlog, Finished, Handout
from eventlog.consuming.merging import TURN_BYTES, ByTime, InTurns, Merging
from eventlog.consuming.source import Look, LostRange, Request
from eventlog.errors import PartitionNotFoundError
from eventlog.event import StoredEvent

__all__ = ["Reader"]


class Reader:
    """Backlogs of partitions, and how they become one sequence.

    One thread at a time iterates; `positions`, `finished` and `stop` are for any thread, and for
    signal handlers: there are no locks.

    Attributes:
        current: what is being handed out.
        lost: what expired before it was read, and was not reported.
        has_caught_up: whether a partition has nothing behind what was read ahead of it, as far as
            was seen; or what it has comes late.
    """

    def __init__(self, topic: str, *, by_time: bool, prefetch_bytes: int) -> None:
        self.current = Handout()
        self.lost: Final[deque[LostRange]] = deque()
        self.has_caught_up = False
        self._topic = topic
        self._backlogs: dict[int, Backlog] = {}
        merging = ByTime if by_time else InTurns
        self._merging: Merging = merging(self._backlogs)
        self._looks = 0
        self._prefetch_bytes = prefetch_bytes
        self._stopped = False

    def add(self, backlogs: Iterable[Backlog]) -> None:
        """Read these partitions too; all of them from the same moment on."""
        self._backlogs.update([(backlog.partition, backlog) for backlog in backlogs])

    # Where it stands

    @property
    def partitions(self) -> list[int]:
        """Which it reads."""
        return sorted(self._backlogs)

    @property
    def count(self) -> int:
        """How many these are; 0 before it has begun."""
        return len(self._backlogs)

    def positions(self) -> dict[int, int]:
        """By partition, the offset of the next event that is handed out."""
        progress = {one.backlog.partition: one.offset for one in self.current.progress()}
        return {
            number: max(self._backlogs[number].offset, progress.get(number, 0))
            for number in self.partitions
        }

    def finished(self) -> dict[int, Finished]:
        """By partition, the last event that was handed out, where one was."""
        found = {
            backlog.partition: backlog.finished
            for backlog in self._all()
            if backlog.finished is not None
        }
        for backlog, offset, enqueued_us in self.current.progress():
            found[backlog.partition] = Finished(offset - 1, enqueued_us)
        return dict(sorted(found.items()))

    def check_partition(self, partition: int) -> int:
        """`partition`, if it reads that."""
        if partition not in self._backlogs:
            raise PartitionNotFoundError(
                f"the consumer of topic {self._topic!r} does not read partition {partition!r}"
            )
        return partition

    @property
    def is_done(self) -> bool:
        """Whether everything up to the ends was taken."""
        return all(backlog.is_done and not backlog.runs for backlog in self._all())

    @property
    def until_us(self) -> int | None:
        """The earliest time at which a partition may reach its end without an event."""
        times = [
            backlog.until_us
            for backlog in self._all()
            if backlog.until_us is not None and not backlog.is_done
        ]
        return min(times, default=None)

    # Handing out

    def take(self) -> bool:
        """Have `current`, all of which is out, be what comes next; False if that is not known.

        Raises:
            CorruptBatchError: it is damaged.
        """
        self.current.settle()
        handout = self._merging.take(self._has_room)
        if handout is None:
            return False
        self.current = handout
        if self._stopped:
            handout.withdraw()
            return False
        return True

    def whole(self) -> list[StoredEvent]:
        """All of `current` that is left, handed out."""
        return self.current.whole()

    def stop(self) -> None:
        """Hand out nothing more."""
        self._stopped = True
        self.current.withdraw()

    def seek(self, partition: int, offset: int) -> None:
        """Go on there, whatever was read ahead."""
        backlog = self._backlogs[partition]
        if self.current.is_of(backlog):
            self.current.withdraw()
            self.current.settle()
            self.current = Handout()
        backlog.move(offset)

    def forget(self, partition: int) -> None:
        """What was handed out of it before it was moved is not `finished` any more."""
        self._backlogs[partition].forget()

    # Looking

    def request(self) -> Request:
        """What to look for, when nothing of `current` is left."""
        self.current.settle()
        backlogs = list(self._merging.in_order())
        wanted = [backlog.wanted for backlog in backlogs]
        share = self._prefetch_bytes // len(backlogs)
        if not self._merging.needs_each:
            share = min(max(share, TURN_BYTES), self._prefetch_bytes)
        return Request(
            [one for one in wanted if one is not None],
            share,
            self._room(),
            each=self._merging.needs_each,
            by_time=self._merging.needs_each or self.until_us is not None,
            hurried=not self._merging.needs_each and any(one.runs for one in backlogs),
        )

    def take_in(self, asked: Request, look: Look, now_us: int) -> bool:
        """Take what was found; whether there is anything to hand out, or anything has changed.

        Args:
            asked: what was looked for. Of a partition that has moved since nothing is taken.
            now_us: the log's clock before the look.
        """
        changed = False
        self._looks += 1
        for wanted in asked.wanted:
            backlog = self._backlogs[wanted.partition]
            found = look.found.get(wanted.partition)
            if found is not None and backlog.still_wants(wanted):
                changed |= backlog.take_in(found, self._looks, now_us, self.lost)
            else:
                backlog.leave_out()
                changed = True
        self.has_caught_up = any(backlog.has_caught_up for backlog in self._all())
        return changed or any(backlog.runs for backlog in self._all())

    def _room(self) -> int:
        return self._prefetch_bytes - sum([one.size for one in self._all() if one.runs])

    def _has_room(self) -> bool:
        """Whether half of what may be read ahead is free: looks for less would cut batches."""
        return self._room() * 2 >= self._prefetch_bytes

    def _all(self) -> list[Backlog]:
        """A copy, since another thread may `add` some."""
        return list(self._backlogs.values())
