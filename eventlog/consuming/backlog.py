"""What was read ahead of one partition and is not handed out yet; and what is being handed out.

Nothing here waits, looks at a log, or knows of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from operator import length_hint
from typing import NamedTuple

from eventlog.consuming.source import Found, LostRange, Run, Wanted, corrupt
from eventlog.errors import CorruptBatchError
from eventlog.event import StoredEvent
from eventlog.positions import microseconds

__all__ = ["Backlog", "Finished", "Handout"]


class Finished(NamedTuple):
    """The last event of a partition that was handed out, and when it was enqueued."""

    offset: int
    enqueued_us: int


class Backlog:
    """One partition of a consumer: where it stands, and what was read ahead of that.

    Runs stay in it until all their events are out, so that an event is never in neither place.

    Args:
        topic: its name.
        offset: where reading begins.
        end: the offset it stops before; None if it goes on for ever, or is not known yet.
        until_us: the time of the first event it stops before, in place of an end.
        end_is_there: whether the partition was seen to reach up to the end.

    Attributes:
        runs: what was read, all of it in one look.
        look: number of that look.
        failure: what stands behind the runs.
        finished: the last event that was handed out.
    """

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        *,
        end: int | None = None,
        until_us: int | None = None,
        end_is_there: bool = False,
    ) -> None:
        self.partition = partition
        self.offset = offset
        self.end = end
        self.until_us = until_us
        self.runs: deque[Run] = deque()
        self.failure: CorruptBatchError | None = None
        self.finished: Finished | None = None
        self.look = 0
        self._topic = topic
        self._end_is_there = end_is_there
        self._at_end = False
        self._is_late = False

    # What it is

    @property
    def ahead(self) -> int:
        """The offset behind what was read."""
        return self.runs[-1].stop if self.runs else self.offset

    @property
    def size(self) -> int:
        """At least as many bytes as the bodies have of what was read ahead."""
        return sum([run.size for run in self.runs])

    @property
    def is_done(self) -> bool:
        """Whether all that is wanted of it was read."""
        return self.end is not None and self.ahead >= self.end

    @property
    def is_complete(self) -> bool:
        """Whether nothing that is to be read now is missing behind its runs, as far as is known."""
        return self.failure is None and (self._at_end or self.is_done)

    @property
    def is_hungry(self) -> bool:
        """Whether it has nothing, and there may well be something."""
        is_known = self._at_end or self._is_late or self.is_done
        return not self.runs and self.failure is None and not is_known

    @property
    def has_caught_up(self) -> bool:
        """Whether nothing was there behind its runs, or comes late, and it is not done."""
        return (self._at_end or self._is_late) and not self.is_done

    @property
    def wanted(self) -> Wanted | None:
        """What should be read next; None while it has something, and when it is done."""
        if self.runs or self.failure is not None:
            return None
        if self.end is not None and self.offset >= self.end:
            return None
        return Wanted(self.partition, self.offset, self.end)

    def still_wants(self, wanted: Wanted) -> bool:
        """Whether what was wanted then is wanted now."""
        return not self.runs and self.offset == wanted.offset and self.end == wanted.stop

    # What happens to it

    def take_in(self, found: Found, look: int, now_us: int, lost: deque[LostRange]) -> bool:
        """Take what was found for `wanted`; whether it is any different now.

        Args:
            look: number of the look that found it.
            now_us: the log's clock before the look.
            lost: takes what expired before it was read.
        """
        self.look = look
        before = self.offset, self.end
        if found.begin > self.offset:
            behind = found.begin if self.end is None else min(found.begin, self.end)
            lost.append(LostRange(self.partition, self.offset, behind - 1))
            self.offset = behind
        self._at_end = found.at_end
        self._is_late = found.late
        if found.runs:
            self.runs.extend(self._wanted_of(found))
        if self.end is not None or self.until_us is not None:
            self._note_end(now_us)
        if found.failure is not None and not self.is_done:
            self.failure = found.failure
        return bool(self.runs) or self.failure is not None or before != (self.offset, self.end)

    def leave_out(self) -> None:
        """A look had no room for it: what it has is not known, and not late either."""
        self._is_late = False

    def _wanted_of(self, found: Found) -> Iterator[Run]:
        """The runs before the end, which a run may show."""
        for run in found.runs:
            if self.until_us is not None and run.enqueued_us >= self.until_us:
                self.end = run.first
                return
            yield run

    def _note_end(self, now_us: int) -> None:
        """There is nothing behind its runs: that may be the end, or it may be missing."""
        if not self._at_end or self.is_done:
            return
        if self.end is None:
            if self.until_us is not None and now_us >= self.until_us:
                self.end = self.ahead
        elif self._end_is_there:
            place = (self._topic, self.partition)
            self.failure = corrupt(place, self.ahead, self.end - 1, "they are missing")

    def hand_out(self, offset: int, enqueued_us: int) -> None:
        """All events before `offset` are out, the last of them enqueued then. May be repeated."""
        if offset > self.offset:
            self.finished = Finished(offset - 1, enqueued_us)
            self.offset = offset
        while self.runs and self.runs[0].stop <= offset:
            self.runs.popleft()

    def events(self, run: Run) -> list[StoredEvent]:
        """Those events of a run of its that are not out.

        Raises:
            CorruptBatchError: they are damaged.
        """
        events = run.events()
        if run.first < self.offset:
            return [event for event in events if event.offset >= self.offset]
        return events

    def fail(self) -> CorruptBatchError:
        """The failure, which is told once: then it is looked at again."""
        assert self.failure is not None
        failure, self.failure = self.failure, None
        return failure

    def move(self, offset: int) -> None:
        """Go on at `offset`. What was handed out behind it is to be handed out again."""
        if self.finished is not None and self.finished.offset >= offset:
            self.forget()
        self.runs.clear()
        self.failure = None
        self._at_end = False
        self._is_late = False
        self.offset = offset

    def forget(self) -> None:
        """What was handed out so far counts as if it had not been."""
        self.finished = None


class Progress(NamedTuple):
    """How far a handout has come in one partition: the offset behind what is out, and the time of
    the last event that is.
    """

    backlog: Backlog
    offset: int
    enqueued_us: int


class Handout:
    """Events on their way to the caller: how many of them are out is what its iterator says.

    So they can be iterated at the speed of a list, and still it is known to the event where each
    partition stands. One thread hands out; others may ask for `progress`, and `withdraw`.
    """

    def __init__(self) -> None:
        self.size = 0
        self.iterator: Iterator[StoredEvent] = iter(())
        self._events: list[StoredEvent] = []
        self._parts: list[tuple[int, Backlog, Run]] = []
        self._count = 0
        self._withdrawn: tuple[int, StoredEvent | None] | None = None

    @property
    def count(self) -> int:
        """How many events it had."""
        return self._count

    @property
    def left(self) -> int:
        """How many of them can still be had."""
        return length_hint(self.iterator)

    def add(self, backlog: Backlog, run: Run, events: list[StoredEvent]) -> None:
        """Put `events`, those of a run that are not out, behind the others; before it is used."""
        if self._events:
            self._events += events
        else:
            self._events = events
            self.iterator = iter(events)
        self._count += len(events)
        self.size += run.size
        self._parts.append((self._count, backlog, run))

    def whole(self) -> list[StoredEvent]:
        """All that are not out; now they are."""
        events = self._events[self._count - self.left :]
        # The last step, which Ctrl-C comes before, or after the caller has them.
        del self._events[:]
        return events

    def withdraw(self) -> None:
        """Hand out no more. (If another thread takes events meanwhile, one or two that it took may
        count as not out.)
        """
        if self._withdrawn is None:
            self._withdrawn = self._out()
        del self._events[:]

    def progress(self) -> list[Progress]:
        """How far it has come, run by run."""
        out, last = self._withdrawn or self._out()
        found = []
        before = 0
        for behind, backlog, run in list(self._parts):
            if behind <= out:
                found.append(Progress(backlog, run.stop, run.enqueued_us))
            elif before < out:
                assert last is not None
                found.append(Progress(backlog, last.offset + 1, microseconds(last.enqueued_at)))
            before = behind
        return found

    def _out(self) -> tuple[int, StoredEvent | None]:
        """How many are out, and the last of them, unless it is the last of all."""
        while True:
            left = self.left
            out = self._count - left
            if not out or not left:
                return out, None
            try:
                return out, self._events[out - 1]
            except IndexError:
                pass  # just now all of them went out

    def settle(self) -> None:
        """Tell the backlogs what is out. May be repeated."""
        is_over = not self.left
        for backlog, offset, enqueued_us in self.progress():
            backlog.hand_out(offset, enqueued_us)
        if is_over:
            self._parts.clear()  # now the backlogs may go on

    def is_of(self, backlog: Backlog) -> bool:
        """Whether events of it are among these, and not settled."""
        return any(of is backlog for _, of, _ in self._parts)
