"""From offsets of a source to offsets of its copy, by counting from the end of what was copied.

What a group has left to do is the same number of events on both sides. So the event it comes to
next in the target is found by counting, from the end of the copy backwards, as many events as it
has left in the source: however offsets shifted, by an expired beginning, or by offsets that stand
for no events on either side. To be sure, the event that is found is compared with the one in the
source. Where offsets have no gaps, to count is to subtract; otherwise what a group has left is
read.
"""

from __future__ import annotations

from typing import NamedTuple

from eventlog.copying.partition import CopiedPartition
from eventlog.copying.reading import batches, event_at
from eventlog.log import Topic

__all__ = ["Translation", "UntranslatableError"]


class _Place(NamedTuple):
    """An offset, and how many events are copied from there on."""

    offset: int
    events: int


class UntranslatableError(Exception):
    """No offset of the target stands for it; the message says why."""


class Translation:
    """Offsets of one partition.

    Offsets that are asked for from the last to the first are counted for together.
    """

    def __init__(self, source: Topic, target: Topic, copied: CopiedPartition) -> None:
        self._source = source
        self._target = target
        self._copied = copied
        self._in_source = _Place(copied.copied_to + 1, 0)
        self._in_target = _Place((copied.target_end or 0) + 1, 0)

    def finished(self, offset: int) -> int:
        """Where a checkpoint is in the target that is at `offset` in the source.

        Raises:
            UntranslatableError: it cannot be told.
        """
        copied = self._copied
        if copied.target_end is None:
            raise UntranslatableError("the target has events there that are not the copy's")
        if offset >= copied.copied_to:
            return copied.target_end
        beginning = self._source.partition_info(copied.partition).beginning_offset
        start = max(offset + 1, beginning)
        left = self._left(start)
        if not left:
            return copied.target_end
        found = self._back(left)
        if found.events == left:  # otherwise what it comes to next has expired in the target
            self._require_copy(start, found.offset)
        return found.offset - 1

    def _left(self, start: int) -> int:
        """How many events of the source are copied from `start` on."""
        known = self._in_source
        if start > known.offset:
            known = _Place(self._copied.copied_to + 1, 0)
        count = known.events + self._count(self._source, start, known.offset)
        self._in_source = _Place(start, count)
        return count

    def _back(self, left: int) -> _Place:
        """Where the target has `left` copied events, or its beginning if it has fewer."""
        known = self._in_target
        if left < known.events:
            known = _Place((self._copied.target_end or 0) + 1, 0)
        beginning = self._target.partition_info(self._copied.partition).beginning_offset
        reach = wanted = left - known.events
        while True:
            start = max(min(known.offset, beginning), known.offset - reach)
            count = self._count(self._target, start, known.offset)
            if count >= wanted or start <= beginning:
                break
            reach = 2 * reach + 1000
        if count > wanted:
            start, count = self._nth(start, known.offset, count - wanted), wanted
        self._in_target = _Place(start, known.events + count)
        return self._in_target

    def _count(self, topic: Topic, start: int, stop: int) -> int:
        if topic.is_gapless():
            return max(stop - start, 0)
        number = self._copied.partition
        return sum(map(len, batches(topic, number, start, stop, on_lost=lambda _: None)))

    def _nth(self, start: int, stop: int, number: int) -> int:
        """The offset of the target's event that `number` others from `start` on stand before."""
        if self._target.is_gapless():
            return start + number
        partition = self._copied.partition
        for events in batches(self._target, partition, start, stop, on_lost=lambda _: None):
            if number < len(events):
                return events[number].offset
            number -= len(events)
        return stop

    def _require_copy(self, start: int, found: int) -> None:
        number = self._copied.partition
        event, copy = event_at(self._source, number, start), event_at(self._target, number, found)
        if event is None or copy is None:
            raise UntranslatableError("what it comes to next expired just now")
        if (copy.body, copy.key, copy.properties) != (event.body, event.key, event.properties):
            raise UntranslatableError(
                f"it comes to offset {start} next, and no copy of that is at {found}, where it "
                "should be: others have stored events in the target, or some are damaged"
            )
