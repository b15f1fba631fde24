"""``Transaction`` on a Kafka cluster: one Kafka transaction at the end of the block.

With checkpoints it is committed under the transactional id of the one who owns them; see
`eventlog.kafka.groups`. Without, under any: then there is nobody to be fenced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from eventlog.appending import Columns
from eventlog.engine.transaction import EngineTransaction
from eventlog.errors import (
    LogBusyError,
    OffsetOutOfRangeError,
    PreconditionFailedError,
    ProducerFencedError,
    TopicNotFoundError,
)
from eventlog.event import Key
from eventlog.groups.checkpoints import GroupIds, GroupStore
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.records import Headers, all_headers
from eventlog.kafka.topic_record import TopicRecord
from eventlog.kafka.writing.append import refuse_expected
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.shipment import Shipment
from eventlog.log import Receipt, Topic
from eventlog.transaction import Fence, NotCommittedError

if TYPE_CHECKING:
    from eventlog.kafka.engine import KafkaLog
    from eventlog.kafka.groups.commit_view import CommitView
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["KafkaTransaction"]

_MOMENT: Final = 1.0
"""Seconds to wait for an answer that is not what a commit is about."""


class _Part(NamedTuple):
    """What one of them stores in one partition: so many events from a row of a shipment on."""

    topic: str
    partition: int
    row: int
    events: int


class KafkaTransaction(EngineTransaction["KafkaTopic"]):
    """See `Transaction`."""

    def __init__(self, log: KafkaLog) -> None:
        super().__init__()
        self._log = log
        self._named: set[str] = set()

    def _handle(self, topic: str | Topic) -> KafkaTopic:
        return self._log.handle(topic)

    def _require_store(self) -> None:
        _ = self._log.blobs  # or an error that says that there are none

    def _add(
        self, topic: str | Topic, columns: Columns, partition: int | None, expect_next: int | None
    ) -> None:
        refuse_expected(expect_next)
        if isinstance(topic, str):
            topic = self._log.known(topic)
            self._named.add(topic.name)
        super()._add(topic, columns, partition, expect_next)

    # Committing

    def _commit(self) -> list[Receipt]:
        fences = [participant.fence() for participant in self._participants]
        if not (self._appends or self._checkpoints or fences):
            return []
        self._renew()
        topics = {append.topic.name: append.topic for append in self._appends}
        deadline = Deadline(self._log.settings.lock_timeout)
        errand = Errand("committing a transaction", deadline, [*topics.values()])
        shipments, parts = self._placed(errand)
        if self._checkpoints or fences:
            self._commit_fenced([*shipments.values()], fences, errand)
        else:
            self._log.writers.store([*shipments.values()], errand)
        return [
            shipments[part.topic, part.partition].receipt(part.row, part.events) for part in parts
        ]

    def _renew(self) -> None:
        """Have the topics that were named be those of that name now."""
        topics = {append.topic.name: append.topic for append in self._appends}
        for name in self._named & topics.keys():
            try:
                topics[name].current(timeout=_MOMENT)
            except LogBusyError:
                return  # whoever sends waits for the cluster, too
            except TopicNotFoundError:
                topics[name] = self._log.looked_up(name)
        self._appends = [one._replace(topic=topics[one.topic.name]) for one in self._appends]

    def _placed(self, errand: Errand) -> tuple[dict[tuple[str, int], Shipment], list[_Part]]:
        """What goes to each partition, and where in it each append is."""
        records: dict[str, TopicRecord] = {}
        columns: dict[tuple[str, int], list[Columns]] = {}
        rows: dict[tuple[str, int], int] = {}
        parts = []
        for append in self._appends:
            state, placed = append.topic.appender.placed(append.columns, append.partition, errand)
            name = state.record.name
            records[name] = state.record
            for number, some in placed:
                where = name, number
                row = rows.get(where, 0)
                parts.append(_Part(name, number, row, len(some.bodies)))
                columns.setdefault(where, []).append(some)
                rows[where] = row + len(some.bodies)
        shipments = {
            (name, number): Shipment(records[name], number, *_joined(some))
            for (name, number), some in columns.items()
        }
        return shipments, parts

    def _commit_fenced(
        self, shipments: list[Shipment], fences: list[Fence], errand: Errand
    ) -> None:
        """Commit with checkpoints, of whoever may still write them."""
        producers = self._log.writers.transactional
        try:
            with self._viewed(fences) as view:
                owner = view.owner or None
                with producers.lend(view.transactional_id, owner, errand.deadline) as sender:
                    self._log.writers.transact(sender, shipments, view.offsets(), errand)
        except ProducerFencedError as error:
            self._refuse_lost(fences)
            raise NotCommittedError(
                "another transaction of the same owner came first: nothing was stored; try again"
            ) from error
        except PreconditionFailedError as error:
            raise NotCommittedError(*error.args) from error
        for fence in fences:
            fence.committed()

    def _refuse_lost(self, fences: list[Fence]) -> None:
        """Nothing, if the checkpoints are still those of who wanted to commit: look once more."""
        with contextlib.suppress(_Looked), self._viewed(fences):
            raise _Looked  # so that nothing counts as committed

    @contextlib.contextmanager
    def _viewed(self, fences: list[Fence]) -> Iterator[CommitView]:
        """The group's store inside a commit, with what is to be committed noted; it is committed if
        the block does not raise.
        """
        view = self._log.group_offsets.view(self._log.writers.transactional, self._store)
        committed = False
        try:
            self._check(view, fences)
            yield view
            committed = True
        finally:
            view.settle(committed=committed)

    def _check(self, view: CommitView, fences: list[Fence]) -> None:
        """Note what is to be committed of checkpoints, if it still may be."""
        for (topic, group, partition), offset in self._checkpoints.items():
            ids = GroupIds(self._log.id, topic.name, topic.id, group)
            enqueued_at = _enqueued_at(topic, partition, offset)
            GroupStore(self._log.blobs, ids, self._log.now_us).ensure()  # it is no part of a commit
            store = GroupStore(view, ids, self._log.now_us)
            store.advance_unowned(partition, offset, enqueued_at)
        for fence in fences:
            fence.check(view)


class _Looked(Exception):  # noqa: N818 - no error
    """Enough was seen."""


def _joined(
    columns: list[Columns],
) -> tuple[list[bytes], list[Key | None] | None, list[Headers | None] | None]:
    """Bodies, keys and headers, one after the other."""
    bodies = [body for some in columns for body in some.bodies]
    keys = [key for some in columns for key in some.keys or [None] * len(some.bodies)]
    properties = [own for some in columns for own in some.properties or [None] * len(some.bodies)]
    return (
        bodies,
        keys if any(some.keys is not None for some in columns) else None,
        all_headers(properties) if any(some.properties is not None for some in columns) else None,
    )


def _enqueued_at(topic: KafkaTopic, partition: int, offset: int) -> datetime | None:
    """When an event that is to be checkpointed was enqueued; None if it has expired.

    Raises:
        OffsetOutOfRangeError: there is no event of that offset yet: a checkpoint there would make
            the group skip what comes.
    """
    info = topic.partition_info(partition)
    if offset >= info.next_offset:
        raise OffsetOutOfRangeError(
            f"a checkpoint names the last event that was finished, and partition {partition} of "
            f"topic {topic.name!r} goes on at {info.next_offset}: there is no event {offset}",
            offset=offset,
            beginning_offset=info.beginning_offset,
            next_offset=info.next_offset,
        )
    if offset < info.beginning_offset:
        return None
    events = topic.read(partition, offset, max_events=1)
    return events[0].enqueued_at if events and events[0].offset == offset else None
