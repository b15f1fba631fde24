"""Putting parts into a topic: refuse first, then change; and again if the topic was changed.

What `Topic.append`, producers and transactions share. Expired events are removed along with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from eventlog.appending import Columns
from eventlog.embedded.append import ChangedError, Part, TopicState, prepare, receipts, size_of
from eventlog.embedded.catalog import TopicRecord
from eventlog.embedded.retention import Removed, remove_deleted, trim
from eventlog.embedded.writer import STEP_ROWS, Writer
from eventlog.errors import (
    EventLogError,
    EventTooLargeError,
    PartitionNotFoundError,
    UnexpectedOffsetError,
    UnsupportedOperationError,
)
from eventlog.log import Duration, Receipt

if TYPE_CHECKING:
    from eventlog.embedded.engine import EmbeddedLog
    from eventlog.embedded.topic import EmbeddedTopic

__all__ = ["Appender"]

_CATCH_UP_SECONDS: Final = 0.5
_logger: Final = logging.getLogger("eventlog")


class Appender:
    """Puts parts into one topic."""

    def __init__(self, topic: EmbeddedTopic, log: EmbeddedLog) -> None:
        self._topic = topic
        self._log = log

    def store(
        self,
        columns: Columns,
        partition: int | None,
        expect_next: int | None,
        timeout: Duration | None,
    ) -> list[Receipt]:
        """Encode, commit, and do both again if the topic was changed in between."""
        while True:
            try:
                state = self._topic.state
                parts = self.prepared(state, columns, partition)

                def work(
                    writer: Writer, state: TopicState = state, parts: list[Part] = parts
                ) -> list[tuple[int, int]]:
                    self.refuse(writer, state, parts, expect_next)
                    return self.write(writer, state, parts)

                stored = self._log.commit(work, timeout=timeout, size=size_of(parts))
            except ChangedError:
                continue
            self.catch_up(parts)
            return receipts(parts, stored)

    def prepared(self, state: TopicState, columns: Columns, partition: int | None) -> list[Part]:
        """Parts ready to be stored.

        Raises:
            ChangedError: the topic is not what it was; do it again.
        """
        try:
            return prepare(state, columns, partition)
        except (PartitionNotFoundError, EventTooLargeError, UnsupportedOperationError):
            if self._topic.refresh() is state:
                raise
            raise ChangedError from None

    def store_parts(
        self,
        prepare: Callable[[TopicState], list[Part]],
        check: Callable[[Writer, TopicState], None],
        note: Callable[[Writer, TopicState], None],
    ) -> list[tuple[int, int]]:
        """Store what `prepare` makes, if `check` does not refuse, with what `note` writes.

        Returns: the offset of each part's first event, and its enqueued time.
        """
        while True:
            state = self._topic.state
            parts = prepare(state)

            def work(
                writer: Writer, state: TopicState = state, parts: list[Part] = parts
            ) -> list[tuple[int, int]]:
                self.refuse(writer, state, parts)
                check(writer, state)
                stored = self.write(writer, state, parts)
                note(writer, state)
                return stored

            try:
                stored = self._log.commit(work, size=size_of(parts))
            except ChangedError:
                continue
            self.catch_up(parts)
            return stored

    def refuse(
        self,
        writer: Writer,
        state: TopicState,
        parts: list[Part],
        expect_next: int | None = None,
        ahead: int = 0,
    ) -> None:
        """Refuse what may not be written, before the first change.

        Args:
            ahead: how many events the same transaction stores before, where `expect_next` counts.

        Raises:
            ChangedError: the topic is not what the parts were prepared for.
        """
        if self._topic.look(writer) is not state:
            raise ChangedError
        record = state.record
        if expect_next is not None:
            actual = writer.tail(record.id, parts[0].partition).next_offset + ahead
            if actual != expect_next:
                raise UnexpectedOffsetError(
                    f"the next offset of partition {parts[0].partition} of topic {record.name!r} "
                    f"is {actual}, not {expect_next}",
                    expected=expect_next,
                    actual=actual,
                )
        writer.require_room([batch for part in parts for batch in part.batches])

    def write(self, writer: Writer, state: TopicState, parts: list[Part]) -> list[tuple[int, int]]:
        """The changes of an append that was not refused."""
        record = state.record
        stored = [writer.append(record.id, part.partition, part.batches) for part in parts]
        if record.retention_us is not None or record.retention_bytes is not None:
            writer.at_end(lambda: self._trim(writer, record, parts))
        if self._log.leftovers:
            self._log.leftovers = remove_deleted(writer, STEP_ROWS // 4)
        return stored

    def _trim(self, writer: Writer, record: TopicRecord, parts: list[Part]) -> None:
        """Remove what has expired in the partitions just appended to: about twice what came."""
        retention = record.retention(writer.now_us)
        for part in parts:
            trimmed = trim(writer, record.id, part.partition, retention, 2 * self._rows(part) + 1)
            part.behind = trimmed.more

    def catch_up(self, parts: list[Part]) -> None:
        """After a large append: remove in steps of their own what did not go with it."""
        for part in parts:
            if part.behind:
                self._catch_up(part)

    def _catch_up(self, part: Part) -> None:
        """Remove what expired with the append of one part.

        The append is stored, so nothing that goes wrong here is an error of its: what is not
        removed now is removed later. For the same reason others are waited for only briefly.
        """
        try:
            steps = 2 * self._rows(part) // STEP_ROWS
            while part.behind and steps:
                part.behind = self._expire_step(part.partition).more
                steps -= 1
        except EventLogError:
            return
        except Exception:
            _logger.exception("expired events of topic %r are removed later", self._topic.name)

    def _rows(self, part: Part) -> int:
        chunk_bytes = self._log.environment.chunk_bytes
        return sum(-(-batch.size // chunk_bytes) for batch in part.batches)

    def _expire_step(self, partition: int) -> Removed:
        def work(writer: Writer) -> Removed:
            record = self._topic.look(writer).record
            retention = record.retention(writer.now_us)
            return trim(writer, record.id, partition, retention, STEP_ROWS)

        return self._log.commit(work, timeout=_CATCH_UP_SECONDS)
