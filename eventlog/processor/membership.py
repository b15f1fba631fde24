"""One member of a group: its heartbeats, whom it sees alive, and its changes of the group document.

Every interval a member makes three store calls: it writes its heartbeat, reads ``group.json`` (only
if that changed), and lists the heartbeats of all. What it makes of them is `group.plan`; if that
differs from the document, it swaps it in, and if others came before, it does all but the heartbeat
again, a moment later.

The rules, and why:

1. The document is read first, then the heartbeats are listed: `eventlog.processor.sightings`, which
   also says who counts as dead.
2. Who is named in the document but was never seen counts as alive from the first look on.
3. If an owner is dead and who was next is alive, the partition goes to who was next: `group.plan`.
4. A member whose lease has run out, even if nobody noticed, is none any more: it looks at that
   before it renews, before it swaps, and never comes back. Its host goes on as another member.
5. Rounds are made one at a time, and never on a document older than the last one seen.
6. What was closed for a hand-over is opened again under the same epoch only if that was withdrawn,
   and `reopen` says so: what a round is about to give away it keeps.
7. Nothing is kept of a plan whose swap was lost.
8. A heartbeat that is due is not kept waiting by what others' deaths bring: it is written between
   looks and before swaps, and what is left to look at or to delete is left for the next round.
9. A store may lose what was written last, as a database that fails over to a copy. A document that
   stays older than the one seen for a lease, or for which a swap was refused, is no stale answer:
   the member lapses, and its host joins the group as it is. And if a checkpoint then names a later
   epoch than its owner's, that owner takes its partition again, with an epoch above (`outdone`).

What this module deliberately does not do: wait, make store calls, or know of pumps.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from eventlog.blobs import NOT_MODIFIED
from eventlog.groups import steps
from eventlog.groups.blobs import system_clock
from eventlog.groups.documents import GroupDocument, GroupIds, decode, encode, new_revision
from eventlog.groups.steps import Steps
from eventlog.processor import group
from eventlog.processor.heartbeat import Heartbeat
from eventlog.processor.lease import TRUSTED, Lease
from eventlog.processor.rounds import Assignment, LapsedError, Round
from eventlog.processor.sightings import Sightings

__all__ = ["Assignment", "LapsedError", "Lease", "Membership", "Round"]

_logger: Final = logging.getLogger("eventlog")

_SOONER: Final = 0.1
"""Of an interval: when a heartbeat is tried again that failed."""

_LOOKING: Final = 0.5
_DELETING: Final = 0.25
"""Of an interval: for how long, in a round, who seems dead is looked at, and what the dead have
left is deleted. News wait meanwhile; the rest is for the next round, which follows at once."""

_LEAST_LEASE: Final = 0.01
_LONGEST_LEASE: Final = 1e7
"""Seconds. What a damaged document says beyond these is not adopted."""

_MOST_JITTER_ROUNDS: Final = 8
"""After how many rounds' time at most a swap is tried again that others came before."""

_FIRST_JITTER_SECONDS: Final = 0.005


class Membership:
    """What one member does, as steps. `round` is for one thread; the rest is thread-safe.

    Args:
        ids: which group.
        member: a name that no member ever had before.
        lease_duration: seconds, for a group in which nobody is; otherwise the group's is adopted.
        renew_interval: seconds between heartbeats.
        partitions: how many the topic has now. May block.
        clock: seconds, running through suspension; see `eventlog.processor.clock`.
        known_dead: members that are dead for sure: what this host was before.
        chance: for the moments to wait.
        wall_us: microseconds since 1970, for people to read.
        require_topic: raises if the topic is gone, or is another one by now; called before a
            document of another topic of the same name is replaced.

    Attributes:
        lease: holds as long as it is a member.
        next_round_at: when the next round is due, on `clock`. An earlier one does no harm.
        left: whether it has left, as `leave` asked it to.
    """

    def __init__(
        self,
        ids: GroupIds,
        member: str,
        *,
        lease_duration: float,
        renew_interval: float,
        partitions: Callable[[], int],
        clock: Callable[[], float],
        known_dead: Iterable[str] = (),
        chance: random.Random | None = None,
        wall_us: Callable[[], int] = system_clock,
        require_topic: Callable[[], object] = lambda: None,
    ) -> None:
        self.ids: Final = ids
        self.member: Final = member
        self.lease: Final = Lease(clock)
        self.next_round_at = self._round_at = -math.inf
        self.left = False
        self._configured = self._lease_duration = lease_duration
        self._renew_interval = self._interval = renew_interval
        self._partitions = partitions
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - no secret
        self._require_topic = require_topic
        # What others tell it, in whatever thread.
        self._mutex = threading.Lock()
        self._news = True
        self._leaving = False
        self._dead = set(known_dead)
        self._closed: dict[int, int] = {}
        self._giving: set[int] = set()
        self._outdone: dict[int, int] = {}
        # What it has seen.
        self._etag: str | None = None
        self._document: GroupDocument | None = None
        self._assigned: dict[int, Assignment] = {}
        self._content: tuple[GroupDocument | None, set[str], int] = None, set(), 0
        self._known_partitions = self._lost_swaps = 0
        self._entered = False
        self._older_since: float | None = None
        self._sightings = Sightings(ids, clock)
        self._heartbeat = Heartbeat(ids, member, clock, wall_us)

    def __repr__(self) -> str:
        return f"<Membership {self.member} of {self.ids.place}>"

    @property
    def lease_duration(self) -> float:
        """Seconds: the group's, once that is known."""
        return self._lease_duration

    @property
    def renewed_at(self) -> float:
        """When the last heartbeat that succeeded was begun, on its clock."""
        return self._heartbeat.written_at

    @property
    def backs_off(self) -> bool:
        """Whether others came before its swap: the next round is to wait for its time."""
        return self._lost_swaps > 0

    @property
    def etag(self) -> str | None:
        """Of the document as last seen; None before the first round."""
        return self._etag

    @property
    def document(self) -> GroupDocument | None:
        """The group's, as last seen; None before the first round."""
        return self._document

    # What it is told

    def closed(self, partitions: Mapping[int, int]) -> None:
        """They were closed, to be handed over, under these epochs."""
        with self._mutex:
            self._closed.update(partitions)
            self._news = True

    def reopen(self, partition: int) -> bool:
        """Take back that a partition was closed; False if that is too late."""
        with self._mutex:
            if partition in self._giving:
                return False
            self._closed.pop(partition, None)
            return True

    def found_dead(self, members: Iterable[str]) -> None:
        """They are dead for sure, whatever their heartbeats say."""
        with self._mutex:
            new = set(members) - self._dead - {self.member}
            self._dead |= new
            self._news = self._news or bool(new)

    def outdone(self, partition: int, epoch: int) -> None:
        """The checkpoint of a partition that it owns names another owner, with this epoch.

        If the document names it as the owner all the same, with an epoch that is no higher, then
        the store has lost what the document said since. It takes the partition with an epoch above.
        """
        with self._mutex:
            self._outdone[partition] = epoch
            self._news = True

    def leave(self) -> None:
        """Give away what is closed, and leave when nothing is left."""
        with self._mutex:
            self._leaving = self._news = True

    # A round

    def round(self) -> Steps[Round]:
        """One coordination: a heartbeat if it is due, a look, and a swap if one is needed.

        Raises:
            LapsedError: it is no member any more.
            EventLogError: a document is damaged, or the store cannot be used now. `next_round_at`
                says when to try again.
        """
        # Should it fail. Before the first heartbeat, too: who cannot join asks no more often.
        sooner = self._clock() + self._interval * _SOONER
        heartbeat = self._heartbeat
        self.next_round_at = min(heartbeat.due_at, sooner) if heartbeat.has_begun else sooner
        self._round_at = self._clock()
        self._refuse_lapsed()
        if self._document is None:
            yield from self._begin()
        beaten = yield from self._beat_if_due()
        found = yield from self._coordinate(beaten=beaten)
        if not self._lost_swaps:
            hurries = self._sightings.unclear or self._sightings.has_removed()
            self.next_round_at = self._clock() if hurries else heartbeat.due_at
        return found

    def _refuse_lapsed(self) -> None:
        if self.lease.lost:
            raise self._lapse("its lease has run out")

    def _lapse(self, why: str) -> LapsedError:
        self.lease.lose()
        return LapsedError(
            f"{self.member} is no member of group {self.ids.group!r} any more: {why}"
        )

    def _begin(self) -> Steps[None]:
        """Find the group, or make it: before the first heartbeat, which names it."""
        name = self.ids.document
        while self._document is None:
            blob = yield from steps.get(name)
            assert blob is not NOT_MODIFIED
            etag = None if blob is None else blob.etag
            document = None if blob is None else decode(name, blob.data, GroupDocument, self.ids)
            if document is None:
                self._require_topic()  # after the look: what was seen is older
                document = GroupDocument.first(self.ids)
                etag = yield from steps.swap(name, etag, encode(document))
            if etag is not None:
                self._take(etag, document)

    def _take(self, etag: str | None, document: GroupDocument) -> None:
        """That is the document now."""
        self._etag, self._document = etag, document
        self._assigned = {
            partition: Assignment(share.epoch, share.next)
            for partition, share in group.owned_by(document, self.member).items()
        }
        given = document.lease_duration if document.hosts else None
        usable = given is not None and _LEAST_LEASE <= given <= _LONGEST_LEASE
        adopted = given if given is not None and usable else self._configured
        if adopted != self._lease_duration:
            self._warn_of_adoption(adopted)
            self._lease_duration = adopted
            self.lease.shorten(self.renewed_at + TRUSTED * adopted)
            self._interval = min(self._renew_interval, adopted / 3)
            due_at = self.renewed_at + self._interval
            self._heartbeat.due_at = min(self._heartbeat.due_at, due_at)

    def _warn_of_adoption(self, adopted: float) -> None:
        if adopted != self._configured:
            _logger.warning(
                "group %r has a lease of %g s: host %s, configured with %g s, adopts it",
                self.ids.group,
                adopted,
                self.member,
                self._configured,
            )

    # The heartbeat

    def _beat_if_due(self) -> Steps[bool]:
        """Write the heartbeat if it is time; whether it was."""
        if self._clock() < self._heartbeat.due_at:
            return False
        yield from self._beat()
        return True

    def _beat(self) -> Steps[None]:
        """Show that it lives."""
        assert self._document is not None
        sooner = self._interval * _SOONER
        began = yield from self._heartbeat.write(self._document.group, sooner=sooner)
        if began is None:
            raise self._lapse("it was removed")
        if not self.lease.extend(began + TRUSTED * self._lease_duration):
            raise self._lapse("its lease ran out while it was renewed")
        self._heartbeat.written_at = began
        self._heartbeat.due_at = began + self._interval

    # Looking, and swapping

    def _coordinate(self, *, beaten: bool) -> Steps[Round]:
        with self._mutex:
            news, self._news = self._news, False
        try:
            changed = yield from self._look()
            partitions = self._partitions()
            found = None
            if beaten or news or changed or partitions != self._known_partitions:
                self._known_partitions = partitions
                alive = yield from self._living()
                found = yield from self._agree(alive, partitions)
            if found is None and not changed:
                yield from self._sweep()
            return found or self._round(())
        except BaseException:
            with self._mutex:
                self._news = True
            raise

    def _look(self) -> Steps[bool]:
        """Read the document; whether it has changed.

        Raises:
            LapsedError: it was deleted, or this member was removed from it.
        """
        assert self._document is not None
        blob = yield from steps.get(self.ids.document, if_none_match=self._etag)
        if blob is NOT_MODIFIED:
            self._older_since = None
            return False
        found = None if blob is None else decode(blob.name, blob.data, GroupDocument, self.ids)
        if blob is None or found is None or found.group != self._document.group:
            raise self._lapse("the group was deleted")
        if self._is_older(found):
            self._refuse_lost_writes()
            return False
        self._older_since = None
        self._take(blob.etag, found)
        if self._entered and self.member not in found.hosts:
            raise self._lapse("it was removed")
        return True

    def _is_older(self, found: GroupDocument) -> bool:
        """Whether a store has answered with what was there before."""
        assert self._document is not None
        return found.generation < self._document.generation

    def _refuse_lost_writes(self) -> None:
        """An older document is there: nothing, as long as that may be a stale answer.

        Raises:
            LapsedError: it is what the store has now.
        """
        now = self._clock()
        since = self._older_since = now if self._older_since is None else self._older_since
        if self._lost_swaps or now - since >= self._lease_duration:
            raise self._lapse("the store has lost what was written to group.json last")

    def _living(self) -> Steps[set[str]]:
        """Who of the members is alive."""
        assert self._document is not None
        return self._sightings.living(
            self._document,
            set(self._dead),
            self._lease_duration,
            patience=_LOOKING * self._interval,
            between=self._beat_if_due,
        )

    def _agree(self, alive: set[str], partitions: int) -> Steps[Round | None]:
        """Bring the document to what it should be; None if it is, and there is nothing to do."""
        current = self._document
        assert current is not None
        wanted = self._wanted(current, alive, partitions)
        removed = set(current.hosts).difference(wanted.hosts)
        try:
            swapped = wanted is not current and (yield from self._swap(current, wanted))
        finally:
            with self._mutex:
                self._giving.clear()
        if wanted is not current and not swapped:
            self._lose_swap()
            return self._round(())
        self._lost_swaps = 0
        self._entered = self._entered or self.member in wanted.hosts
        self.left = self._leaving and self.member not in wanted.hosts
        if self.left:
            yield from steps.delete(self.ids.heartbeat(self.member))
        self._sightings.removed(removed - {self.member})
        if self._sightings.unclear:
            with self._mutex:
                self._news = True
        return self._round(removed - {self.member}) if swapped or self.left else None

    def _sweep(self) -> Steps[None]:
        """Delete what the dead have left: in rounds that bring nothing else."""
        assert self._document is not None
        if self._sightings.has_removed():
            yield from self._beat_if_due()
        until = min(self._heartbeat.due_at, self._clock() + _DELETING * self._interval)
        yield from self._sightings.sweep(self._document, self.member, self._lease_duration, until)

    def _swap(self, current: GroupDocument, wanted: GroupDocument) -> Steps[bool]:
        yield from self._beat_if_due()
        self._refuse_lapsed()
        wanted = replace(wanted, generation=current.generation + 1, revision=new_revision())
        group.check(wanted)
        group.check_change(current, wanted, self.member)
        etag = yield from steps.swap(self.ids.document, self._etag, encode(wanted))
        if etag is not None:
            self._take(etag, wanted)
        return etag is not None

    def _wanted(self, current: GroupDocument, alive: set[str], partitions: int) -> GroupDocument:
        with self._mutex:
            leaving = self._leaving
            owned = self._assigned
            self._closed = {
                partition: epoch
                for partition, epoch in self._closed.items()
                if partition in owned and owned[partition].epoch == epoch
            }
            closed = dict(self._closed)
            self._giving = set(closed)
            outdone, self._outdone = self._outdone, {}
        if leaving and self.member not in current.hosts:
            return current
        document = group.leave(current, self.member) if leaving else current
        document = self._planned(document, alive, partitions)
        document = group.give_away(document, self.member, closed)
        document = self._risen(document, outdone)
        if leaving:
            document = group.without(document, self.member)
        if document is current:
            return current
        return self._first(document) if not current.hosts else document

    def _risen(self, document: GroupDocument, outdone: Mapping[int, int]) -> GroupDocument:
        risen = group.rise_above(document, self.member, outdone)
        if risen is not document:
            _logger.warning(
                "group %r: its store has lost what was written last; %s takes what it owns again, "
                "above the epochs (by partition) %s",
                self.ids.group,
                self.member,
                outdone,
            )
        return risen

    def _planned(self, document: GroupDocument, alive: set[str], partitions: int) -> GroupDocument:
        """`group.plan`, unless the same was planned before, and nothing was to be changed."""
        same, content, count = self._content
        if same is document and content == alive and count == partitions:
            return document
        planned = group.plan(document, alive, self.member, partitions)
        if planned is document:
            self._content = document, alive, partitions
        return planned

    def _first(self, document: GroupDocument) -> GroupDocument:
        """With what a member settles that finds nobody there."""
        return replace(
            document,
            lease_duration=self._configured,
            topic_partitions=document.topic_partitions or self._known_partitions,
        )

    def _lose_swap(self) -> None:
        """Somebody came before: again in a moment, longer each time, lest they keep colliding."""
        self._lost_swaps += 1
        longer = _FIRST_JITTER_SECONDS * 2**self._lost_swaps
        most = max(_MOST_JITTER_ROUNDS * (self._clock() - self._round_at), _FIRST_JITTER_SECONDS)
        longest = min(longer, most, self._interval / 4)
        soon = self._clock() + self._chance.uniform(0, longest)
        self.next_round_at = min(self._heartbeat.due_at, soon)
        with self._mutex:
            self._news = True

    def _round(self, removed: Collection[str]) -> Round:
        assert self._document is not None
        return Round(self._document, self._assigned, removed)
