"""Who is alive, as one member sees it: heartbeats that change, by its own clock alone.

1. Whether somebody is dead is judged by the clock as it was *before* the listing was asked for. So
   neither a slow listing nor a pause in between makes the living look dead. (When a heartbeat was
   seen to change is noted by the clock *after* it: later than it was, which again errs on the side
   of life.)
2. Who seems dead is looked at once more, and alone: a listing may show what was there a while ago,
   and then no clock tells how long a heartbeat has stood still.
3. Who is named in the document but was never seen counts as alive from the first look on.
4. Looks and deletions take no lease: they are bounded, and heartbeats are written in between. Who
   was not looked at counts as alive, until the next time.

What this module deliberately does not do: compare clocks of two machines, or look at what a
heartbeat says.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from eventlog.blobs import Blob, Listing
from eventlog.blobs.store import is_name
from eventlog.errors import PreconditionFailedError
from eventlog.groups import steps
from eventlog.groups.documents import GroupDocument, GroupIds
from eventlog.groups.steps import Steps

__all__ = ["Sightings"]

_STRAY_LEASES: Final = 2.0
"""After how many leases a heartbeat that belongs to no member is swept away."""


class _Seen(NamedTuple):
    """A heartbeat as it was last seen: None if it was only looked for; and since when it is so."""

    etag: str | None
    since: float


class Sightings:
    """The heartbeats of a group, as one member has seen them.

    Args:
        ids: which group.
        clock: seconds, running through suspension.

    Attributes:
        unclear: how many that seemed dead were not looked at last time.
    """

    def __init__(self, ids: GroupIds, clock: Callable[[], float]) -> None:
        self._ids = ids
        self._begin = len(ids.hosts)
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._removed: set[str] = set()
        self.unclear = 0

    def living(
        self,
        document: GroupDocument,
        dead: Collection[str],
        lease_duration: float,
        *,
        patience: float = math.inf,
        between: Callable[[], Steps[object]] = steps.nothing,
    ) -> Steps[set[str]]:
        """Who of the members in the document is alive.

        Args:
            dead: members that are dead for sure.
            patience: for how many seconds who seems dead is looked at; one is in any case.
            between: what is to be done before each look.
        """
        before = self._clock()
        listing = yield from steps.list_names(self._ids.hosts)
        self.observe(listing, document, self._clock())
        alive = self.changed_since(before - lease_duration, document).difference(dead)
        suspects = [member for member in document.hosts if member not in alive | set(dead)]
        until = self._clock() + patience
        self.unclear = len(suspects)
        for member in suspects:
            # A name that cannot be a heartbeat's is nobody's: somebody has written it by hand.
            if is_name(self._ids.heartbeat(member)):
                yield from between()
                if (yield from self._changed(member)):
                    alive.add(member)
            self.unclear -= 1
            if self._clock() >= until:
                break
        # The turn of the rest comes when these are removed.
        return alive | set(suspects[len(suspects) - self.unclear :])

    def observe(self, listing: Listing, document: GroupDocument, now: float) -> None:
        """Note what was listed: heartbeats, and nothing else is put there."""
        listed = {name[self._begin : -len(".json")]: etag for name, etag in listing}
        for member, etag in listed.items():
            seen = self._seen.get(member)
            if seen is None or seen.etag != etag:
                self._seen[member] = _Seen(etag, now)
        for member in document.hosts:
            self._seen.setdefault(member, _Seen(None, now))
        known = listed.keys() | set(document.hosts)
        self._seen = {member: seen for member, seen in self._seen.items() if member in known}

    def changed_since(self, moment: float, document: GroupDocument) -> set[str]:
        """The members whose heartbeats have changed after that."""
        return {member for member in document.hosts if self._seen[member].since > moment}

    def _changed(self, member: str) -> Steps[bool]:
        """Whether a heartbeat has changed after all."""
        etag = self._seen[member].etag
        blob = yield from steps.get(self._ids.heartbeat(member), if_none_match=etag)
        if not isinstance(blob, Blob) or blob.etag == etag:
            return False
        self._seen[member] = _Seen(blob.etag, self._clock())
        return True

    # Deleting them

    def removed(self, members: Collection[str]) -> None:
        """Their heartbeats are to be deleted, whatever these are by then: they are no members."""
        self._removed.update(member for member in members if is_name(self._ids.heartbeat(member)))

    def has_removed(self) -> bool:
        """Whether there is one to be deleted."""
        return bool(self._removed)

    def sweep(
        self, document: GroupDocument, me: str, lease_duration: float, until: float = math.inf
    ) -> Steps[None]:
        """Delete heartbeats of who was removed, or died before it became a member.

        Args:
            until: when to stop, on the clock; the rest is for the next time. One is deleted in any
                case.
        """
        longest = _STRAY_LEASES * lease_duration
        for member in sorted(self._removed):
            self._removed.discard(member)  # if it fails it is a stray
            yield from steps.delete(self._ids.heartbeat(member))
            self._seen.pop(member, None)
            if self._clock() >= until:
                return
        for member in sorted(self._seen.keys() - {*document.hosts, me}):
            seen = self._seen[member]
            if self._clock() - seen.since >= longest:
                del self._seen[member]
                # Only if it is still the one that was seen: the listing may have lagged.
                with contextlib.suppress(PreconditionFailedError):
                    yield from steps.delete(self._ids.heartbeat(member), if_match=seen.etag)
                if self._clock() >= until:
                    return
