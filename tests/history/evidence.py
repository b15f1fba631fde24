"""The history of a run beside what the log holds, arranged for the rules to look things up in."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from tests.history.contents import LogContents, PartitionContents, Stored
from tests.history.records import Kind, Record

__all__ = ["Evidence", "Fault", "Finding", "GroupPlace", "Place", "Session"]


class Fault(enum.StrEnum):
    """What can be wrong with a log."""

    LOST = "an event is lost that was acknowledged"
    STORED_TWICE = "an event is stored twice"
    MISPLACED = "something else stands where an event was acknowledged"
    GAP = "offsets are missing"
    REORDERED = "a producer's events are out of order"
    HOLE = "an event is stored, and one that its producer sent before it is not"
    INVENTED = "an event is stored that nobody sent"
    STORED_THOUGH_REFUSED = "an event is stored that was said not to be"
    TIME_WENT_BACK = "an event is older than the one before it"
    PRODUCER_NOT_FENCED = "a producer went on though another had taken its name"

    READ_BUT_NEVER_STORED = "a reader was given what was never stored there"
    SKIPPED = "a reader was not given an event, and not told that it was lost"
    READ_OUT_OF_ORDER = "a reader was given an earlier event after a later one"
    READ_TWICE = "a reader was given an event twice"
    NOT_LOST = "a reader was told that an event was lost, and it is there"
    DELIVERED_AGAIN = "a group was given an event again though it had been checkpointed"

    CHECKPOINT_BEYOND_READS = "a checkpoint is beyond what its group was given"
    CHECKPOINT_WENT_BACK = "a checkpoint moved backwards, and nobody reset it"
    CHECKPOINT_INVENTED = "a checkpoint is one that nobody made"
    CONSUMER_NOT_FENCED = "a consumer made checkpoints though a later one had taken over"

    OWNED_TWICE = "two hosts had a partition at the same time"
    FORMER_OWNER = "a former owner's checkpoint was stored, and the next owner did not see it"
    MOVED_AND_GIVEN_AGAIN = "an event was given again though its partition moved in good order"

    TORN = "a transaction took effect in part"
    PROCESSED_TWICE = "an event was processed twice that was to be processed exactly once"


class Finding(NamedTuple):
    """A fault, and where."""

    fault: Fault
    what: str

    def __str__(self) -> str:
        return f"{self.fault.name}: {self.fault}: {self.what}"


class Place(NamedTuple):
    """Where an event is."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


class GroupPlace(NamedTuple):
    """Where a checkpoint is."""

    topic: str
    group: str
    partition: int

    def __str__(self) -> str:
        return f"{self.group} in {self.topic}/{self.partition}"


class Session(NamedTuple):
    """What one reader noted of one partition."""

    topic: str
    partition: int
    started: Record
    records: list[Record]

    def __str__(self) -> str:
        return f"{self.started.actor} in {self.topic}/{self.partition}"

    @property
    def group(self) -> GroupPlace | None:
        """The group it reads for."""
        if not self.started.group:
            return None
        return GroupPlace(self.topic, self.started.group, self.partition)


_READER_KINDS = {Kind.READ, Kind.LOST, Kind.ENDED}


class Evidence:
    """Records in the order of their times, and the contents of the log."""

    def __init__(self, records: Iterable[Record], log: LogContents) -> None:
        self.records = sorted(records, key=lambda record: record.at)
        self.log = log
        self._by_kind: dict[Kind, list[Record]] = defaultdict(list)
        for record in self.records:
            self._by_kind[record.kind].append(record)

    def of(self, *kinds: Kind) -> Iterator[Record]:
        """The records of some kinds, kind after kind."""
        for kind in kinds:
            yield from self._by_kind[kind]

    # Topics

    @cached_property
    def deleted(self) -> set[str]:
        """Topics that somebody began to delete: what is gone of them is not lost."""
        return {record.topic for record in self.of(Kind.DELETING)}

    def partition(self, topic: str, partition: int) -> PartitionContents | None:
        """What is in a partition; None if it was deleted."""
        if topic in self.deleted:
            return None
        return self.log.partitions.get((topic, partition), PartitionContents(0, 0, []))

    def has_expired(self, topic: str) -> bool:
        """Whether something of the topic is gone for a good reason."""
        return topic in self.deleted or any(
            contents.beginning > 0 and not contents.keeps
            for (name, _), contents in self.log.partitions.items()
            if name == topic
        )

    def is_expired(self, place: Place) -> bool:
        """Whether what was there may be gone."""
        contents = self.partition(place.topic, place.partition)
        return contents is None or (not contents.keeps and place.offset < contents.beginning)

    # Events

    @cached_property
    def stored(self) -> dict[Place, Stored]:
        """What is where."""
        return {
            Place(topic, partition, event.offset): event
            for (topic, partition), contents in self.log.partitions.items()
            for event in contents.events
        }

    @cached_property
    def places(self) -> dict[str, set[Place]]:
        """Where each label is stored."""
        places: dict[str, set[Place]] = defaultdict(set)
        for place, event in self.stored.items():
            places[event.label].add(place)
        return places

    @cached_property
    def acknowledged(self) -> dict[str, set[Place]]:
        """Where each label was said to be stored."""
        places: dict[str, set[Place]] = defaultdict(set)
        for record in self.of(Kind.ACKNOWLEDGED):
            places[record.label].add(Place(record.topic, record.partition, record.offset))
        return places

    def ever_stored(self, label: str) -> set[Place]:
        """Where it is, and where it was said to be and may have expired."""
        gone = {place for place in self.acknowledged.get(label, ()) if self.is_expired(place)}
        return self.places.get(label, set()) | gone

    @cached_property
    def sent(self) -> dict[str, list[Record]]:
        """The times that each label was sent."""
        return self._by_label(Kind.SENDING)

    @cached_property
    def refused(self) -> dict[str, list[Record]]:
        """The times that each label was refused."""
        return self._by_label(Kind.REFUSED)

    def _by_label(self, kind: Kind) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = defaultdict(list)
        for record in self.of(kind):
            found[record.label].append(record)
        return found

    # Transactions

    @cached_property
    def rolled_back(self) -> set[str]:
        """Transactions of which nothing was to be stored."""
        return {record.transaction for record in self.of(Kind.ROLLED_BACK)}

    @cached_property
    def committed(self) -> dict[str, Record]:
        """Transactions that were acknowledged."""
        return {record.transaction: record for record in self.of(Kind.COMMITTED)}

    @cached_property
    def outputs(self) -> dict[str, list[Record]]:
        """What each transaction that came to its commit was to store."""
        return self._by_transaction(Kind.SENDING)

    @cached_property
    def transaction_checkpoints(self) -> dict[str, list[Record]]:
        """The checkpoints each such transaction was to make."""
        return self._by_transaction(Kind.CHECKPOINTING)

    def _by_transaction(self, kind: Kind) -> dict[str, list[Record]]:
        begun = {record.transaction for record in self.of(Kind.COMMITTING)}
        found: dict[str, list[Record]] = {transaction: [] for transaction in begun}
        for record in self.of(kind):
            if record.transaction in begun:
                found[record.transaction].append(record)
        return found

    def took_effect(self, transaction: str) -> bool | None:
        """Whether it was committed, as far as can be seen; None if it cannot."""
        if transaction in self.rolled_back:
            return False
        if transaction in self.committed:
            return True
        outputs = self.outputs.get(transaction)
        if outputs is None:
            return False  # it never came to its commit
        if any(self.places.get(output.label) for output in outputs):
            return True
        if not outputs or any(self.has_expired(output.topic) for output in outputs):
            return None
        return False

    # Readers

    @cached_property
    def sessions(self) -> list[Session]:
        """Each reader's reading of each partition."""
        open_ones: dict[tuple[str, str, int], Session] = {}
        found = []
        for record in self.records:
            place = record.actor, record.topic, record.partition
            if record.kind is Kind.STARTED:
                open_ones[place] = session = Session(record.topic, record.partition, record, [])
                found.append(session)
            elif record.kind in _READER_KINDS:
                open_ones[place].records.append(record)
        return found

    @cached_property
    def starts(self) -> dict[tuple[str, GroupPlace], float]:
        """When each reader for a group began."""
        return {
            (session.started.actor, session.group): session.started.begun
            for session in self.sessions
            if session.group is not None
        }

    def sessions_of(self, group: GroupPlace) -> list[Session]:
        """Those for a group."""
        return [session for session in self.sessions if session.group == group]

    # Groups

    @cached_property
    def groups(self) -> list[GroupPlace]:
        """Every place of a checkpoint that there is, or that somebody made, read for or saw."""
        named = {
            GroupPlace(record.topic, record.group, record.partition)
            for record in self.records
            if record.group and record.kind is not Kind.SENDING
        }
        there = {GroupPlace(*place) for place in self.log.checkpoints}
        return sorted(place for place in named | there if place.topic not in self.deleted)

    @cached_property
    def _by_group(self) -> dict[tuple[GroupPlace, Kind], list[Record]]:
        found: dict[tuple[GroupPlace, Kind], list[Record]] = defaultdict(list)
        for record in self.records:
            if record.group:
                group = GroupPlace(record.topic, record.group, record.partition)
                found[group, record.kind].append(record)
        return found

    def of_group(self, group: GroupPlace, kind: Kind) -> list[Record]:
        """A group's records of a kind, in the order of their times."""
        return self._by_group.get((group, kind), [])

    def was_reset(self, group: GroupPlace, after: float, before: float) -> bool:
        """Whether a reset may have come after the one moment and before the other."""
        begun = self.of_group(group, Kind.RESETTING)
        if not begun:
            return False
        ends = {
            (record.actor, record.begun): record.at for record in self.of_group(group, Kind.RESET)
        }
        return any(
            record.at <= before and ends.get((record.actor, record.at), before) >= after
            for record in begun
        )
