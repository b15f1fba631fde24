"""What must hold, looked at from outside: by true time, over all hosts, at every step.

Hosts tell it what they do with events; the store tells it every change of a document, as it
happens. The numbers are those of the invariants of the protocol:

1. A partition has one owner, and its epoch grows by one with each.
2. A live owner loses a partition only by giving it away, when it has closed it.
3. No two hosts trust at one time that they own a partition.
4. A checkpoint moves back only by a reset, and never by the hand of a former owner. What an owner
   was told is stored was stored.
6. A change of members moves the fewest partitions that even shares allow.

5 and 7 are about what it comes to: see `tests.processor.simulation.story`.

And of the events: none is skipped; none is handed over twice where a partition changed hands in
good order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Protocol, TypeVar

from eventlog.blobs import Blob
from eventlog.groups.documents import (
    GroupDocument,
    GroupIds,
    HostDocument,
    StoredCheckpoint,
    decode,
)
from eventlog.processor import group
from tests.processor.simulation.blobs import PEOPLE, Actor
from tests.processor.simulation.timeline import Timeline

__all__ = ["IDS", "BrokenError", "Pumping", "Trusting", "Truth", "fewest_moves", "require", "whose"]

IDS: Final = GroupIds("log", "cars", "1", "fraud")

D = TypeVar("D", StoredCheckpoint, GroupDocument, HostDocument)


class BrokenError(AssertionError):
    """An invariant does not hold.

    Attributes:
        partition: of which partition; None if of several, or none.
    """

    def __init__(self, message: str, partition: int | None = None) -> None:
        super().__init__(message)
        self.partition = partition


class Trusting(Protocol):
    """A host, as far as it is asked what it trusts in."""

    @property
    def trusted(self) -> str | None:
        """The member that it is now, if its lease is held; None if it is dead, too."""

    @property
    def pumps(self) -> Mapping[int, Pumping]:
        """Those that are open, by partition."""


class Pumping(Protocol):
    """A pump, as far as it is asked who it is."""

    @property
    def actor(self) -> Actor:
        """Which incarnation of which host, which partition and epoch."""

    @property
    def group_id(self) -> str:
        """Of which group: there may be several, one after the other."""

    @property
    def working(self) -> bool:
        """Whether it has opened its checkpoint, and may hand events over."""


@dataclass
class _Events:
    """Of one partition, as one group goes through it.

    Attributes:
        done: all events before that were handled to their end, or left out as people wished.
        handed: all before that were handed over, since it was last lawful to go back.
        untidy: it may go back: an owner did not close in good order, or people reset it.
        reset: where people said that it goes on, until an owner does.
        epoch: of the owner that opened it last.
    """

    done: int
    handed: int
    untidy: bool = True
    reset: int | None = None
    epoch: int = 0


@dataclass
class _Epoch:
    """Of one owner of one partition.

    Attributes:
        finished: the last event up to which it handled all, from where it began.
        stored: the last event that it has checkpointed.
    """

    finished: int = -2
    stored: int = -2


@dataclass
class Truth:
    """Told of everything; raises `BrokenError` when something must not be.

    Attributes:
        hosts: all there are, by their members' names, dead ones too.
        taken: how often a partition got an owner.
        moved: how often since members or partitions last changed, and `fewest` how often that has
            to be.
        changed_at: when the group document last changed.
        stubborn: whether handlers go on without a lease.
        forgiving: whether the store has lost what was agreed on. Until that is mended, partitions
            may have two owners, and events are handed over twice; but none is skipped, and no
            checkpoint goes back.
        thorough: whether it makes sure of what every member asserts of what it writes.
    """

    timeline: Timeline
    hosts: dict[str, Trusting] = field(default_factory=dict)
    taken: int = 0
    moved: int = 0
    fewest: int = 0
    changed_at: float = 0.0
    document: GroupDocument | None = None
    thorough: bool = True
    stubborn: bool = False
    forgiving: bool = False

    def __post_init__(self) -> None:
        self._owners: dict[tuple[str, int, int], str] = {}
        self._events: dict[tuple[str, int], _Events] = {}
        self._epochs: defaultdict[tuple[str, int, int], _Epoch] = defaultdict(_Epoch)
        self._pumps: defaultdict[tuple[str, int], list[Pumping]] = defaultdict(list)
        self._contested: set[tuple[str, int]] = set()
        self._trusted: set[str] = set()
        self._over: set[str] = set()

    def lost_writes(self, blob: Blob) -> None:
        """That is the group document again."""
        self.forgiving = True
        self.document = decoded(blob, GroupDocument)
        self.changed_at = self.timeline.now

    def mended(self) -> None:
        """From now on all must hold again."""
        self.forgiving = False
        assert self.document is not None
        for partition, share in self.document.partitions.items():
            if share.owner is not None:
                self._owners[self.document.group, partition, share.epoch] = share.owner
        for events in self._events.values():
            events.untidy = True

    # ---- Documents -------------------------------------------------------------------------------

    def changed(self, actor: Actor, name: str, old: Blob | None, new: Blob | None) -> None:
        """A blob was put or deleted."""
        self._trusts(actor.member)
        member, partition = whose(name)
        if partition is not None:
            self._checkpoint_changed(actor, partition, old, new)
        elif member is not None:
            self._heartbeat_changed(actor, member, new)
        else:
            require(name == IDS.document, f"{actor} writes {name}")
            self._group_changed(actor, old, new)

    def _group_changed(self, actor: Actor, old: Blob | None, new: Blob | None) -> None:
        self.changed_at = self.timeline.now
        before, after = self.document, decoded(new, GroupDocument)
        self.document = after
        if after is None:
            require(actor == PEOPLE, f"{actor} deletes the group")
            return
        if self.thorough:
            group.check(after)
        if before is None or before.group != after.group:
            require(old is None and not after.partitions, "a group that does not begin empty")
            return
        require(after.generation == before.generation + 1, "not the next generation (5th rule)")
        if self.thorough:
            try:
                group.check_change(before, after, actor.member or "people")
            except AssertionError as error:
                raise BrokenError(f"1, 2: {actor} writes: {error}") from error
        if _who(before) != _who(after) or len(before.partitions) != len(after.partitions):
            self.moved, self.fewest = 0, fewest_moves(before, after)
        self._check_removed(actor, set(before.hosts).difference(after.hosts))
        shares = before.partitions
        differ = [item for item in after.partitions.items() if shares.get(item[0]) is not item[1]]
        for partition, share in differ:
            was = shares.get(partition)
            if was is None or was.owner != share.owner:
                self._owner_changed(actor, partition, None if was is None else was.owner, after)
            elif was.epoch != share.epoch and share.owner is not None:
                require(self.forgiving, f"1: {actor} takes [{partition}] again", partition)
                self._owners[after.group, partition, share.epoch] = share.owner
        require(
            self.moved <= self.fewest,
            lambda: f"6: {actor} moves more than the {self.fewest} partitions that have to",
        )

    def _check_removed(self, actor: Actor, removed: Collection[str]) -> None:
        for member in removed:
            require(
                member == actor.member or not self._trusts(member),
                f"2, 3: {actor} removes {member}, which holds its lease",
            )

    def _owner_changed(
        self, actor: Actor, partition: int, owner: str | None, after: GroupDocument
    ) -> None:
        share = after.partitions[partition]
        if share.owner is not None:
            self.taken += 1
            self.moved += 1
            self._owners[after.group, partition, share.epoch] = share.owner
        if owner is None:
            return
        if owner != actor.member:
            require(
                not self._trusts(owner),
                lambda: f"2, 3: {actor} takes [{partition}] from {owner}, which holds its lease",
                partition,
            )
        elif self._trusts(owner):
            pump = self.hosts[owner].pumps.get(partition)
            require(
                pump is None or not pump.working,
                lambda: f"2: {owner} gives [{partition}] away before it has closed it",
                partition,
            )

    def _heartbeat_changed(self, actor: Actor, member: str, new: Blob | None) -> None:
        beat = decoded(new, HostDocument)
        if beat is not None:
            require(
                member == actor.member == beat.host, f"{actor} writes the heartbeat of {member}"
            )
            return
        is_member = self.document is not None and member in self.document.hosts
        may = actor == PEOPLE or actor.member == member or not is_member
        require(
            may or not self._trusts(member),
            lambda: f"2, 3: {actor} deletes the heartbeat of {member}, which holds its lease",
        )

    def _checkpoint_changed(
        self, actor: Actor, partition: int, old: Blob | None, new: Blob | None
    ) -> None:
        before, after = decoded(old, StoredCheckpoint), decoded(new, StoredCheckpoint)
        if after is None:
            require(actor == PEOPLE, f"{actor} deletes a checkpoint", partition)
            return
        if before is not None and before.group != after.group:
            before = None
        if actor == PEOPLE:
            self._reset(partition, before, after)
        else:
            self._check_owner(actor, partition, before, after)
            self._check_offset(actor, partition, before, after)

    def _check_owner(
        self,
        actor: Actor,
        partition: int,
        before: StoredCheckpoint | None,
        after: StoredCheckpoint,
    ) -> None:
        """Who writes is who owns, and after it nobody who came before."""
        require(actor.partition == partition, f"4: {actor} writes [{partition}]", partition)
        right = (
            self.forgiving
            or self._owners.get((after.group, partition, actor.epoch)) == actor.member
        )
        require(right, f"4: {actor} never owned it", partition)
        require(after.epoch == actor.epoch, f"4: {actor} writes epoch {after.epoch}", partition)
        require(
            after.owner in (actor.member, None), f"4: {actor} writes owner {after.owner}", partition
        )
        if before is None:
            return
        require(
            before.epoch <= after.epoch,
            lambda: f"4: {actor}, a former owner, writes behind epoch {before.epoch}",
            partition,
        )
        require(before.reset <= after.reset, f"4: {actor} forgets a reset", partition)

    def _check_offset(
        self,
        actor: Actor,
        partition: int,
        before: StoredCheckpoint | None,
        after: StoredCheckpoint,
    ) -> None:
        epoch = self._epochs[after.group, partition, actor.epoch]
        if before is None:
            start = after.offset + 1
            self._events.setdefault((after.group, partition), _Events(start, start))
        elif before.epoch < after.epoch:
            require(before.offset == after.offset, f"4: {actor} moves it by taking it", partition)
        else:
            require(before.offset <= after.offset, f"4: {actor} moves it back", partition)
        if before is not None and before.offset < after.offset:
            require(
                self.forgiving or after.offset <= epoch.finished,
                lambda: (
                    f"events: {actor} checkpoints {after.offset}, and finished {epoch.finished}"
                ),
                partition,
            )
        epoch.stored = max(epoch.stored, after.offset)

    def _reset(
        self, partition: int, before: StoredCheckpoint | None, after: StoredCheckpoint
    ) -> None:
        raised = 0 if before is None else before.reset
        require(after.reset == raised + 1, "4: people write a checkpoint, and no reset", partition)
        start = after.offset + 1
        events = self._events.setdefault((after.group, partition), _Events(start, start))
        events.done = max(events.done, start)
        events.reset = start
        events.untidy = True

    # ---- Who trusts ------------------------------------------------------------------------------

    def _trusts(self, member: str) -> bool:
        host = self.hosts.get(member)
        trusts = host is not None and host.trusted == member
        if trusts:
            require(member not in self._over, lambda: f"3: the lease of {member} is alive again")
            self._trusted.add(member)
        elif member in self._trusted:
            self._over.add(member)
        return trusts

    def check_trust(self) -> None:
        """Look at all partitions that more than one has open."""
        for key in list(self._contested):
            members = [
                pump.actor.member
                for pump in self._pumps[key]
                if pump.working and self._trusts(pump.actor.member)
            ]
            require(
                self.forgiving or len(members) < 2,
                f"3: {' and '.join(members)} trust that they own [{key[1]}]",
                key[1],
            )

    # ---- Events ----------------------------------------------------------------------------------

    def created(self, pump: Pumping) -> None:
        """A host begins to open a partition."""
        pumps = self._pumps[_key(pump)]
        pumps.append(pump)
        if len(pumps) > 1:
            self._contested.add(_key(pump))

    def opened(self, pump: Pumping, offset: int, *, again: bool = False) -> None:
        """It will go on behind that offset.

        Args:
            again: it was reset under its owner, who goes on elsewhere.
        """
        self.check_trust()
        actor = pump.actor
        events = self._events[_key(pump)]
        epoch = self._epochs[(*_key(pump), actor.epoch)]
        start = offset + 1
        if self.forgiving or events.untidy or again or len(self._pumps[_key(pump)]) > 1:
            require(
                start <= events.done,
                f"events: {actor} skips some at {events.done}",
                actor.partition,
            )
        else:
            require(
                start == events.handed,
                lambda: f"events: {actor} begins at {start}, the owner before at {events.handed}",
                actor.partition,
            )
        events.handed = start
        events.untidy = events.reset not in (None, start)
        events.reset = None if not events.untidy else events.reset
        events.epoch = actor.epoch
        epoch.finished = offset

    def hands_over(self, pump: Pumping, first: int, last: int) -> None:
        """It calls the handler with these events."""
        actor, events = pump.actor, self._events[_key(pump)]
        self.check_trust()
        if not self._trusts(actor.member):
            require(self.stubborn, lambda: f"3: {actor} hands over, and holds no lease")
            return
        require(
            first <= events.done, f"events: {actor} skips {events.done} to {first}", actor.partition
        )
        require(
            self.forgiving or events.untidy or first >= events.handed,
            lambda: f"events: {actor} hands {first} over, which was handed over before",
            actor.partition,
        )
        events.handed = max(events.handed, last + 1)

    def finished(self, pump: Pumping, first: int, last: int) -> None:
        """The handler has returned."""
        events, epoch = self._events[_key(pump)], self._epochs[(*_key(pump), pump.actor.epoch)]
        if first <= events.done:
            events.done = max(events.done, last + 1)
        if first <= epoch.finished + 1:
            epoch.finished = max(epoch.finished, last)

    def told_stored(self, pump: Pumping, offset: int) -> None:
        """It was told that its checkpoint stands there."""
        stored = self._epochs[(*_key(pump), pump.actor.epoch)].stored
        require(
            self.forgiving or stored >= offset,
            lambda: f"4: {pump.actor} was told that {offset} is stored, and {stored} is",
            pump.actor.partition,
        )

    def closed(self, pump: Pumping, *, in_order: bool) -> None:
        """It hands nothing over any more.

        Args:
            in_order: all it handed over is checkpointed.
        """
        key = _key(pump)
        pumps = self._pumps[key]
        pumps.remove(pump)
        if len(pumps) < 2:
            self._contested.discard(key)
        if not in_order and key in self._events and pump.actor.epoch == self._events[key].epoch:
            self._events[key].untidy = True


def _who(document: GroupDocument) -> tuple[list[str], list[str]]:
    return document.hosts, document.leaving


def fewest_moves(before: GroupDocument, after: GroupDocument) -> int:
    """How many partitions have to get another owner so that the members have even shares."""
    takers = set(after.hosts).difference(after.leaving)
    shares = Counter(share.owner for share in before.partitions.values())
    held = sorted((shares[taker] for taker in takers), reverse=True)
    if not held:
        return 0
    least, more = divmod(len(after.partitions), len(held))
    kept = sum(min(share, least + (rank < more)) for rank, share in enumerate(held))
    return len(after.partitions) - kept


def _key(pump: Pumping) -> tuple[str, int]:
    partition = pump.actor.partition
    assert partition is not None
    return pump.group_id, partition


def require(holds: bool, message: str | Callable[[], str], partition: int | None = None) -> None:
    """Raise `BrokenError` unless it holds; what is wrong is put into words only then."""
    if not holds:
        raise BrokenError(message if isinstance(message, str) else message(), partition)


@cache
def whose(name: str) -> tuple[str | None, int | None]:
    """The member whose heartbeat has that name, or the partition whose checkpoint has."""
    return IDS.member(name), IDS.partition(name)


def decoded(blob: Blob | None, kind: type[D]) -> D | None:
    """The document in a blob."""
    return None if blob is None else decode(blob.name, blob.data, kind, IDS)
