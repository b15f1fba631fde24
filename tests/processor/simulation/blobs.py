"""A store that answers at once, tells what changes, and can list what was there a while ago."""

from __future__ import annotations

import hashlib
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeAlias

from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, Listing, NotModified
from eventlog.blobs.store import require
from eventlog.errors import PreconditionFailedError
from tests.processor.simulation.timeline import Timeline

__all__ = ["PEOPLE", "Actor", "Changes", "SimulatedBlobs"]

_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Actor(NamedTuple):
    """Who makes a call.

    Attributes:
        host: its name, without what is random in a member's.
        member: which incarnation of it.
        partition, epoch: of the pump, if it is one that calls.
    """

    host: str
    member: str = ""
    partition: int | None = None
    epoch: int = 0

    def __str__(self) -> str:
        who = self.member or self.host
        return who if self.partition is None else f"{who} [{self.partition} in epoch {self.epoch}]"


PEOPLE: Final = Actor("a person")

Changes: TypeAlias = Callable[[Actor, str, Blob | None, Blob | None], None]
"""Told of each change: who made it, the name, what was there, and what is."""


class SimulatedBlobs(BlobStore):
    """Names and data, in one step each. What goes wrong on the way is the network's business.

    Listings are of whole folders only, and old ones only of heartbeats: no other are asked for.

    Attributes:
        actor: who calls.
        lag: listings show, for each name, what was there up to so many seconds ago.
        did: the last call and what came of it, for a history.

    Args:
        hashed: an etag is a hash of the content, and comes back with it, as on S3.
        memory: how long ago a listing can be, in seconds.
    """

    def __init__(
        self,
        timeline: Timeline,
        chance: random.Random,
        changes: Changes,
        *,
        hashed: bool = False,
        memory: float = 0.0,
    ) -> None:
        self.actor = PEOPLE
        self.lag = 0.0
        self.did = ("", "", "")
        self.calls = 0
        self._timeline = timeline
        self._chance = chance
        self._changes = changes
        self._hashed = hashed
        self._memory = memory
        self._versions = 0
        self._folders: defaultdict[str, dict[str, Blob]] = defaultdict(dict)
        self._past: defaultdict[str, list[tuple[float, str | None]]] = defaultdict(list)

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        self.calls += 1
        blob = self.look(name)
        if blob is not None and blob.etag == if_none_match:
            self.did = ("get", name, "not modified")
            return NOT_MODIFIED
        self.did = ("get", name, "nothing there" if blob is None else f"version {blob.etag:.6}")
        return blob

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        self.calls += 1
        there = self._require("put", name, if_match, if_absent=if_absent)
        self._versions += 1
        etag = hashlib.sha256(data).hexdigest() if self._hashed else str(self._versions)
        blob = Blob(name, data, etag, _EPOCH)
        self.did = ("put", name, f"version {etag:.6}")
        self._replace(name, there, blob)
        return etag

    def list(self, prefix: str) -> Listing:
        self.calls += 1
        lag = f"up to {self.lag:.1f} s old" if self.lag else ""
        self.did = ("list", prefix, lag)
        if self.lag:
            found = [
                (name, self._etag_then(name)) for name in self._past if name.startswith(prefix)
            ]
            return sorted((name, etag) for name, etag in found if etag is not None)
        return sorted(
            (name, blob.etag)
            for folder, blobs in self._folders.items()
            if folder.startswith(prefix)
            for name, blob in blobs.items()
        )

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self.calls += 1
        there = self._require("delete", name, if_match)
        self.did = ("delete", name, "" if there else "was not there")
        if there is not None:
            self._replace(name, there, None)

    def close(self) -> None:
        """Nothing to let go of."""

    def lose_writes(self, blob: Blob) -> None:
        """Nothing was written there after this."""
        self._folders[_folder(blob.name)][blob.name] = blob

    def look(self, name: str) -> Blob | None:
        """What is there, for who is no actor."""
        return self._folders[_folder(name)].get(name)

    def _require(
        self, call: str, name: str, if_match: str | None, *, if_absent: bool = False
    ) -> Blob | None:
        there = self.look(name)
        etag = None if there is None else there.etag
        try:
            require(name, etag, if_match=if_match, if_absent=if_absent)
        except PreconditionFailedError:
            wanted = "absent" if if_absent else f"version {if_match:.6}"
            self.did = (call, name, f"REFUSED: not {wanted} but {etag or 'absent':.6}")
            raise
        return there

    def _replace(self, name: str, there: Blob | None, blob: Blob | None) -> None:
        folder = self._folders[_folder(name)]
        if blob is None:
            del folder[name]
        else:
            folder[name] = blob
        if self._memory and "/hosts/" in name:
            self._past[name].append((self._timeline.now, None if blob is None else blob.etag))
        self._changes(self.actor, name, there, blob)

    def _etag_then(self, name: str) -> str | None:
        """The etag as of a moment that is not too long ago."""
        past = self._past[name]
        then = self._timeline.now - self._chance.uniform(0, self.lag)
        at = bisect_right(past, (then, "~")) - 1
        return None if at < 0 else past[at][1]


def _folder(name: str) -> str:
    return name[: name.rindex("/") + 1]
