"""Copying one partition, from where the last copy of it ended up to an offset.

Invariants:

1. What the target has stored under the copy's name are the events of the source up to the name's
   last sequence that could be read then: each once, in their order. Events and sequence are stored
   in one step, so nothing that ends the copy between two steps loses or doubles any.
2. What is stored under the name is what was in the partition of this very source: a source that
   ends before the sequence, or whose event there is another, is not gone on with.
3. Unless it is told to mix, a copy adds nothing behind events of others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from eventlog.consuming.source import LostRange
from eventlog.copying.reading import batches, event_at, last_events, was_used
from eventlog.copying.recollection import recollected
from eventlog.errors import CorruptBatchError, EventLogError, TopicExistsError
from eventlog.event import StoredEvent
from eventlog.log import Topic
from eventlog.positions import EPOCH
from eventlog.producing.delivery import EVENT_BYTES
from eventlog.producing.intake import Inlet, Intake

__all__ = ["CopiedPartition", "OthersEventsError", "PartitionCopy", "copy_name", "is_copy_of"]

_COARSE: Final = timedelta(milliseconds=1)

STORE_EVENTS: Final = 50_000
STORE_BYTES: Final = 8 * 2**20
"""As many events, or bodies of about as many bytes, are stored in one step."""


class OthersEventsError(TopicExistsError):
    """The topic in the target has events that are no copies of the source's."""


@dataclass
class CopiedPartition:
    """What became of a partition.

    Attributes:
        partition: its number.
        events: how many this copy has copied.
        copied_to: the offset in the source of the last event that was ever copied; -1 if none was.
        target_end: the offset in the target of that event's copy; None if others have stored
            events behind it, or among the copies.
        lost: what expired before it was copied, and could have been: ranges of source offsets.
        damaged: what was damaged and passed over, likewise.
    """

    partition: int
    events: int = 0
    copied_to: int = -1
    target_end: int | None = None
    lost: list[tuple[int, int]] = field(default_factory=list)
    damaged: list[tuple[int, int]] = field(default_factory=list)


def copy_name(source: Topic, partition: int) -> str:
    """The name under which a target remembers how far a partition of `source` is copied."""
    return f"eventlog.copy/{source.log.id}/{source.id}/{partition}"


class PartitionCopy:
    """Copies one partition.

    Args:
        outcome: what is known of it, and is kept up to date.
        mix: go on behind events that are not the copy's.
        skip_damaged: pass over what is damaged.
        copied: called after each step with the number of events it stored.
    """

    def __init__(
        self,
        source: Topic,
        target: Topic,
        outcome: CopiedPartition,
        *,
        mix: bool,
        skip_damaged: bool,
        copied: Callable[[int], object],
    ) -> None:
        self._source = source
        self._target = target
        self._mix = mix
        self._skip_damaged = skip_damaged
        self._copied = copied
        self.outcome: Final = outcome

    def run(self, intake: Intake, stop: int) -> CopiedPartition:
        """Copy what is before `stop` and is not copied yet.

        Raises:
            OthersEventsError: there are events in the partition that are not the copy's.
            EventLogError: the source is not what was copied before.
            CorruptBatchError: something is damaged, and is not to be passed over.
            ProducerFencedError: another copy of the partition has begun since.
        """
        outcome = self.outcome
        name = copy_name(self._source, outcome.partition)
        self._refuse_other_source()
        if outcome.copied_to + 1 >= stop:
            self._find_end(intake.resolution)
            return outcome
        with closing(intake.open(name, outcome.partition)) as inlet:
            outcome.copied_to = max(inlet.last_sequence, outcome.copied_to)
            self._find_end(intake.resolution)
            if outcome.target_end is None and not self._mix:
                raise self._occupied()
            self._copy(inlet, self._start(), stop)
        return outcome

    def _start(self) -> int:
        if self.outcome.copied_to >= 0:
            return self.outcome.copied_to + 1
        return self._source.partition_info(self.outcome.partition).beginning_offset

    # What is there already

    def _refuse_other_source(self) -> None:
        outcome = self.outcome
        ends = self._source.partition_info(outcome.partition).next_offset
        if outcome.copied_to >= ends:
            raise EventLogError(
                f"partition {outcome.partition} of topic {self._source.name!r} ends before offset "
                f"{ends}, and was copied up to {outcome.copied_to}: it is not what it was then, "
                "restored from a backup perhaps; make a new copy, under another name"
            )

    def _find_end(self, resolution: timedelta | None) -> None:
        """Find out where the copy ends in the target.

        What was copied by others, the other way for instance, is as good as copied here.
        """
        outcome = self.outcome
        outcome.target_end = self._end_of_copy(resolution)
        if outcome.target_end is None and resolution is not None:
            found = recollected(self._source, self._target, outcome.partition)
            if found > outcome.copied_to:
                outcome.copied_to = found
                outcome.target_end = self._end_of_copy(resolution)

    def _end_of_copy(self, resolution: timedelta | None) -> int | None:
        """The offset in the target of the last copied event; None if it is not the last there.

        A partition in which nothing ever was is where a copy may begin: it ends before its next
        offset.
        """
        outcome = self.outcome
        info = self._target.partition_info(outcome.partition)
        if outcome.copied_to < 0:
            return None if was_used(self._target, outcome.partition) else info.next_offset - 1
        last = event_at(self._source, outcome.partition, outcome.copied_to)
        there = last_events(self._target, outcome.partition, 2)
        if not there or last is None or last.offset != outcome.copied_to:
            return info.next_offset - 1  # one of them has expired: there is nothing to compare
        return there[-1].offset if is_copy_of(last, there, resolution) else None

    def _occupied(self) -> OthersEventsError:
        return OthersEventsError(
            f"partition {self.outcome.partition} of topic {self._target.name!r} at "
            f"{self._target.log.location} ends in events that are no copies of topic "
            f"{self._source.name!r} at {self._source.log.location}"
        )

    # Copying

    def _copy(self, inlet: Inlet, start: int, stop: int) -> None:
        outcome = self.outcome
        for events in self._steps(start, stop):
            taken = inlet.store(events)
            follows = outcome.target_end is not None and taken.first > outcome.target_end
            adjoins = taken.first - 1 == outcome.target_end or not self._target.is_gapless()
            contiguous = (
                taken.last - taken.first + 1 == len(events) or not self._target.is_gapless()
            )
            outcome.target_end = taken.last if follows and adjoins and contiguous else None
            outcome.copied_to = events[-1].offset
            outcome.events += len(events)
            self._copied(len(events))

    def _steps(self, start: int, stop: int) -> Iterator[list[StoredEvent]]:
        """The events to copy, as many at a time as are stored in one step."""
        gathered: list[StoredEvent] = []
        size = 0
        try:
            for event in self._events(start, stop):
                gathered.append(event)
                size += len(event.body) + EVENT_BYTES
                if len(gathered) >= STORE_EVENTS or size >= STORE_BYTES:
                    yield gathered
                    gathered, size = [], 0
        except CorruptBatchError:
            if gathered:
                yield gathered
            raise
        if gathered:
            yield gathered

    def _events(self, start: int, stop: int) -> Iterator[StoredEvent]:
        lists = batches(
            self._source,
            self.outcome.partition,
            start,
            stop,
            on_lost=self._note_lost,
            on_damage=self._note_damaged if self._skip_damaged else None,
        )
        return itertools.chain.from_iterable(lists)

    def _note_lost(self, lost: LostRange) -> None:
        self.outcome.lost.append((lost.first, lost.last))

    def _note_damaged(self, error: CorruptBatchError) -> None:
        self.outcome.damaged.append((error.first_offset, error.last_offset))


def is_copy_of(event: StoredEvent, there: list[StoredEvent], resolution: timedelta | None) -> bool:
    """Whether the last event of `there`, which may be preceded by another, is a copy of `event`.

    One that was older than what came before it has got that one's time.
    """
    copy = there[-1]
    if (copy.body, copy.key, copy.properties) != (event.body, event.key, event.properties):
        return False
    if resolution is None or _ticks(copy, event, resolution) == _ticks(event, event, resolution):
        return True
    is_raised = copy.enqueued_at > event.enqueued_at
    return is_raised and there[:-1] != [] and there[-2].enqueued_at == copy.enqueued_at


def _ticks(one: StoredEvent, event: StoredEvent, resolution: timedelta) -> int:
    """The time of an event, as exactly as the target keeps it, and perhaps the source of `event`.

    Never 0, which a cluster does not keep.
    """
    is_whole = event.enqueued_at.microsecond % 1000 == 0
    tick = max(resolution, _COARSE) if is_whole else resolution
    return max((one.enqueued_at - EPOCH) // tick, 1)
