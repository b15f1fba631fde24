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

What this module deliberately does not do: wait, make store calls, or know of pumps.
"""

from __future__ import annotations

import logging
import math
import os
import random
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, NamedTuple

from msgspec.structs import replace

from eventlog.blobs import NOT_MODIFIED
from eventlog.blobs.store import is_name
from eventlog.errors import PreconditionFailedError
from eventlog.groups import steps
from eventlog.groups.blobs import system_clock
from eventlog.groups.documents import (
    GroupDocument,
    GroupIds,
    HostDocument,
    decode,
    encode,
    new_revision,
)
from eventlog.groups.steps import Steps
from eventlog.positions import instant
from eventlog.processor import group
from eventlog.processor.lease import TRUSTED, Lease
from eventlog.processor.sightings import Sightings

__all__ = ["Assignment", "LapsedError", "Lease", "Membership", "Round"]

_logger: Final = logging.getLogger("eventlog")

_SOONER: Final = 0.1
"""Of an interval: when a heartbeat is tried again that failed."""

_LEAST_LEASE: Final = 0.01
_LONGEST_LEASE: Final = 1e7
"""Seconds. What a damaged document says beyond these is not adopted."""

_MOST_JITTER_ROUNDS: Final = 8
"""After how many rounds' time at most a swap is tried again that others came before."""

_FIRST_JITTER_SECONDS: Final = 0.005


class LapsedError(Exception):
    """This member is none any more: its lease has run out, or it was removed, or the group was."""


class Assignment(NamedTuple):
    """A partition this member owns.

    Attributes:
        epoch: under which.
        next: whom to hand it over to, when it is closed; None: nobody.
    """

    epoch: int
    next: str | None


class Round(NamedTuple):
    """What came of a round.

    Attributes:
        document: the group's, as last seen.
        assigned: what this member owns, by partition.
        removed: members that were found dead, and removed.
    """

    document: GroupDocument
    assigned: Mapping[int, Assignment]
    removed: Collection[str]


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
        renewed_at: when the last heartbeat that succeeded was begun, on `clock`.
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
        self.renewed_at = -math.inf
        self.left = False
        self._configured = self._lease_duration = lease_duration
        self._renew_interval = self._interval = renew_interval
        self._partitions = partitions
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - no secret
        self._wall_us = wall_us
        self._require_topic = require_topic
        # What others tell it, in whatever thread.
        self._mutex = threading.Lock()
        self._news = True
        self._leaving = False
        self._dead = set(known_dead)
        self._closed: dict[int, int] = {}
        self._giving: set[int] = set()
        # What it has seen.
        self._etag: str | None = None
        self._document: GroupDocument | None = None
        self._assigned: dict[int, Assignment] = {}
        self._content: tuple[GroupDocument | None, set[str], int] = None, set(), 0
        self._known_partitions = self._lost_swaps = 0
        self._entered = False
        self._sightings = Sightings(ids, clock)
        # Its heartbeat.
        self._beat_at, self._beats = -math.inf, 0
        self._beat_etag: str | None = None
        self._doubtful: dict[bytes, float] = {}
        self._started_us = wall_us()

    def __repr__(self) -> str:
        return f"<Membership {self.member} of {self.ids.place}>"

    @property
    def lease_duration(self) -> float:
        """Seconds: the group's, once that is known."""
        return self._lease_duration

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
        self.next_round_at = sooner if math.isinf(self._beat_at) else min(self._beat_at, sooner)
        self._round_at = self._clock()
        self._refuse_lapsed()
        if self._document is None:
            yield from self._begin()
        beaten = self._clock() >= self._beat_at
        if beaten:
            yield from self._beat()
        found = yield from self._coordinate(beaten=beaten)
        if self.next_round_at < self._beat_at and not self._lost_swaps:
            self.next_round_at = self._beat_at
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
            self._beat_at = min(self._beat_at, self.renewed_at + self._interval)

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

    def _beat(self) -> Steps[None]:
        """Show that it lives; only in place of its own last heartbeat, so who was removed sees."""
        began = self._clock()
        self._beat_at = began + self._interval * _SOONER
        data = self._heartbeat()
        name = self.ids.heartbeat(self.member)
        self._doubtful[data] = began
        try:
            etag = yield from steps.put(
                name, data, if_match=self._beat_etag, if_absent=self._beat_etag is None
            )
        except PreconditionFailedError:
            blob = yield from steps.get(name)
            if blob is None or blob is NOT_MODIFIED or blob.data not in self._doubtful:
                raise self._lapse("it was removed") from None
            # One whose answer was lost: the lease counts from when that was begun.
            etag, began = blob.etag, self._doubtful[blob.data]
        self._beat_etag = etag
        self._doubtful.clear()
        if not self.lease.extend(began + TRUSTED * self._lease_duration):
            raise self._lapse("its lease ran out while it was renewed")
        self.renewed_at = began
        self._beat_at = began + self._interval

    def _heartbeat(self) -> bytes:
        assert self._document is not None
        self._beats += 1
        return encode(
            HostDocument(
                host=self.member,
                machine=socket.gethostname(),
                process=os.getpid(),
                beat=self._beats,
                started_at=instant(self._started_us),
                beat_at=instant(self._wall_us()),
                revision=new_revision(),
                log=self.ids.log,
                topic=self.ids.topic_id,
                group=self._document.group,
            )
        )

    # Looking, and swapping

    def _coordinate(self, *, beaten: bool) -> Steps[Round]:
        with self._mutex:
            news, self._news = self._news, False
        try:
            changed = yield from self._look()
            partitions = self._partitions()
            if not (beaten or news or changed or partitions != self._known_partitions):
                return self._round(())
            self._known_partitions = partitions
            alive = yield from self._living()
            return (yield from self._agree(alive, partitions))
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
            return False
        found = None if blob is None else decode(blob.name, blob.data, GroupDocument, self.ids)
        if blob is None or found is None or found.group != self._document.group:
            raise self._lapse("the group was deleted")
        if self._is_older(found):
            return False
        self._take(blob.etag, found)
        if self._entered and self.member not in found.hosts:
            raise self._lapse("it was removed")
        return True

    def _is_older(self, found: GroupDocument) -> bool:
        """Whether a store has answered with what was there before."""
        assert self._document is not None
        return found.generation < self._document.generation

    def _living(self) -> Steps[set[str]]:
        """Who of the members is alive."""
        assert self._document is not None
        return self._sightings.living(self._document, set(self._dead), self._lease_duration)

    def _agree(self, alive: set[str], partitions: int) -> Steps[Round]:
        """Bring the document to what it should be."""
        current = self._document
        assert current is not None
        wanted = self._wanted(current, alive, partitions)
        removed = set(current.hosts).difference(wanted.hosts)
        try:
            swapped = wanted is current or (yield from self._swap(current, wanted))
        finally:
            with self._mutex:
                self._giving.clear()
        if not swapped:
            self._lose_swap()
            return self._round(())
        self._lost_swaps = 0
        self._entered = self._entered or self.member in wanted.hosts
        self.left = self._leaving and self.member not in wanted.hosts
        for member in removed | ({self.member} if self.left else set()):
            if is_name(self.ids.heartbeat(member)):
                yield from steps.delete(self.ids.heartbeat(member))
        yield from self._sightings.sweep(wanted, self.member, self._lease_duration)
        return self._round(removed - {self.member})

    def _swap(self, current: GroupDocument, wanted: GroupDocument) -> Steps[bool]:
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
        if leaving and self.member not in current.hosts:
            return current
        document = group.leave(current, self.member) if leaving else current
        document = self._planned(document, alive, partitions)
        document = group.give_away(document, self.member, closed)
        if leaving:
            document = group.without(document, self.member)
        if document is current:
            return current
        return self._first(document) if not current.hosts else document

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
        self.next_round_at = min(self._beat_at, self._clock() + self._chance.uniform(0, longest))
        with self._mutex:
            self._news = True

    def _round(self, removed: Collection[str]) -> Round:
        assert self._document is not None
        return Round(self._document, self._assigned, removed)
