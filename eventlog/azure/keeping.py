"""Keeps ownership and checkpoints for the SDK: what both kinds of checkpoint store do.

They mean what they mean in Azure's store on Blob Storage:

1. A claim is won if its etag is still the partition's, or if it has none and nobody ever claimed
   the partition; in one step, whoever else claims. A claim that is lost is left out of the result,
   and is no error.
2. A checkpoint replaces what is there, whoever wrote it, wherever it was; but never a later one of
   the same writer, as an unconditional put may whose first try comes late.
3. An owner that releases a partition claims it for ``""``.

Where Azure's differs from this:

- A claim without an etag overwrites there what another claimed, so that two who begin at the same
  time both believe that they own a partition until their next round: metadata can be set whatever
  ``If-None-Match: *`` says, on Azurite, and on the service by what Azurite's source says of it.
  Here the second is lost.
- A claim that fails, as when the store cannot be reached, is in Azure's result, won or not. Here it
  is if it renews what the owner has: so an outage takes no partition away, but gives none either.
  After the first claim that fails, none is begun: what is left of the round would only wait.
- ``last_modified_time`` is Azure's clock's. Here it is that of the store for what others claimed,
  and that of this machine for what was claimed here: so nothing that was written here is read
  again. It is compared with the clock of this machine, by the SDK.
- Azure's listing shows who owns what. Here a listing shows only etags, and what is not known by
  its etag is read, several at a time. What was known and is missing is looked for: the listings of
  some stores lag behind, and a partition that seems to be nobody's would be let go by its owner.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, NamedTuple, TypeVar

from eventlog import blobs
from eventlog.azure import documents
from eventlog.azure.documents import Checkpoint, Ownership, Place
from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore
from eventlog.blobs.store import check_name
from eventlog.errors import ClosedError, LogBusyError, StoreUnavailableError
from eventlog.groups import steps
from eventlog.groups.steps import perform

__all__ = ["Keeper"]

_TRIES: Final = 10
"""To replace a checkpoint whose etag is not known, or not any more."""

_PASSING: Final = (StoreUnavailableError, LogBusyError, ClosedError, OSError)
"""Why a claim may fail that was right. Closed is a store that its user closes together with the
client, whose threads release their partitions only then."""

_logger: Final = logging.getLogger("eventlog")

T = TypeVar("T")
U = TypeVar("U")
D = TypeVar("D", Ownership, Checkpoint)


class _Seen(NamedTuple, Generic[D]):
    """A document as it was read or written.

    Attributes:
        modified: when, in seconds since 1970: by the store's clock if it was read.
    """

    etag: str
    document: D
    modified: float


class _Documents(Generic[D]):
    """All documents of one kind. Remembers what it has seen, so as not to read it again."""

    def __init__(self, store: BlobStore, kind: type[D]) -> None:
        self._store = store
        self._kind: type[D] = kind
        self._seen: dict[str, _Seen[D]] = {}

    def seen(self, name: str) -> _Seen[D] | None:
        """As it was seen last; None if it was not."""
        return self._seen.get(name)

    def all(self, place: Place) -> dict[str, _Seen[D]]:
        """Those in that place, by partition."""
        beginning = place.beginning
        listed: dict[str, str] = dict(self._store.list(beginning))
        known = {name for name in list(self._seen) if name.startswith(beginning)}
        partitions = {name: place.partition(name) for name in sorted(known.union(listed))}
        found = {name: self._seen.get(name) for name in partitions}
        unknown = [
            name
            for name, seen in found.items()
            if partitions[name] is not None and (seen is None or seen.etag != listed.get(name))
        ]
        found |= zip(unknown, _several(self._store, self._read, unknown), strict=True)
        for name in unknown:
            if name in listed and found[name] is None:
                self._require_gone(name)
        return {
            partition: seen
            for name, partition in partitions.items()
            if partition is not None and (seen := found[name]) is not None
        }

    def _require_gone(self, name: str) -> None:
        """It was listed, and then not there. Not to be believed lightly: a processor would begin
        the partition anew, or take it from its owner.
        """
        if name in dict(self._store.list(name)) and self._read(name) is None:
            raise StoreUnavailableError(
                f"the blob {name!r} is listed in {self._store!r}, but is not there"
            )

    def _read(self, name: str) -> _Seen[D] | None:
        known = self._seen.get(name)
        blob = self._store.get(name, if_none_match=None if known is None else known.etag)
        if blob is NOT_MODIFIED:
            return known
        if blob is None:
            self._seen.pop(name, None)
            return None
        document = documents.decode(name, blob.data, self._kind)
        seen = self._seen[name] = _Seen(blob.etag, document, blob.modified_at.timestamp())
        return seen

    def swap(self, name: str, etag: str | None, document: D) -> _Seen[D] | None:
        """Put it in place of the one with that etag, or where none is; None if that is not so."""
        began = time.time()
        swapped = perform(steps.swap(name, etag, documents.encode(document)), self._store)
        if swapped is None:
            self._seen.pop(name, None)  # were it listed with that etag, the listing lags behind
            return None
        seen = self._seen[name] = _Seen(swapped, document, began)
        return seen

    def put(self, name: str, document: D) -> None:
        """Put it in place of whatever is there."""
        seen = self._seen.get(name)
        etag = None if seen is None else seen.etag
        for _ in range(_TRIES):
            if self.swap(name, etag, document) is not None:
                return
            blob = self._store.get(name)
            etag = blob.etag if isinstance(blob, Blob) else None
        raise StoreUnavailableError(f"the blob {name!r} is changed by others all the time")


class _Claim(NamedTuple):
    """A claim of one partition, found to be one.

    Attributes:
        given: as the SDK gave it.
        etag: what the partition's ownership is to have; None if there is to be none.
    """

    given: dict[str, Any]
    name: str
    etag: str | None
    wanted: Ownership

    @classmethod
    def of(cls, given: dict[str, Any], prefix: str) -> _Claim:
        """What is to be written for it."""
        name = _place(prefix, given, Ownership).name(given["partition_id"])
        return cls(given, name, given.get("etag") or None, documents.ownership(given))

    def renews(self, seen: _Seen[Ownership] | None) -> bool:
        """Whether it is made upon what was seen, by its owner."""
        return (
            seen is not None
            and seen.etag == self.etag
            and seen.document.owner_id == self.wanted.owner_id
        )


class _Round:
    """The claims of one call of the SDK.

    Attributes:
        failure: why some could not be made.
    """

    def __init__(self, ownerships: _Documents[Ownership]) -> None:
        self.failure: Exception | None = None
        self._ownerships = ownerships

    def make(self, claim: _Claim) -> dict[str, Any] | None:
        """The claim with its new etag, or kept as it is; None if it is not the claimant's."""
        before = self._ownerships.seen(claim.name)
        if self.failure is None:
            try:
                won = self._ownerships.swap(claim.name, claim.etag, claim.wanted)
            except _PASSING as error:
                self.failure = error
            else:
                return _claimed(claim.given, won)
        return dict(claim.given) if claim.renews(before) else None


def _claimed(given: dict[str, Any], won: _Seen[Ownership] | None) -> dict[str, Any] | None:
    if won is None:
        _logger.info(
            "processor %r lost a claim of partition %r of %r in group %r",
            *(given[key] for key in ("owner_id", "partition_id", "eventhub_name")),
            given["consumer_group"],
        )
        return None
    return {**given, "etag": won.etag, "last_modified_time": won.modified}


class Keeper:
    """Ownership and checkpoints in a blob store, as dictionaries of the SDK. Thread-safe.

    For arguments and errors see `eventlog.azure.CheckpointStore`.
    """

    def __init__(self, store: BlobStore | str | os.PathLike[str], prefix: str) -> None:
        self._prefix = check_name(prefix)
        self._store = store if isinstance(store, BlobStore) else blobs.open(store)
        self._closes = not isinstance(store, BlobStore)
        self._ownerships = _Documents(self._store, Ownership)
        self._checkpoints = _Documents(self._store, Checkpoint)

    def __str__(self) -> str:
        return f"under {self._prefix!r} in {self._store!r}"

    def list_ownership(self, namespace: str, event_hub: str, group: str) -> list[dict[str, Any]]:
        """See `eventlog.azure.CheckpointStore.list_ownership`."""
        place = Place(self._prefix, namespace, event_hub, group, Ownership)
        return [
            {
                **_scope(place, partition),
                "owner_id": seen.document.owner_id,
                "etag": seen.etag,
                "last_modified_time": seen.modified,
            }
            for partition, seen in self._ownerships.all(place).items()
        ]

    def claim_ownership(self, ownership_list: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """See `eventlog.azure.CheckpointStore.claim_ownership`."""
        claims = [_Claim.of(given, self._prefix) for given in ownership_list]
        turn = _Round(self._ownerships)
        made = _several(self._store, turn.make, claims)
        if turn.failure is not None:
            _logger.warning(
                "some of %d partitions could not be claimed; what was owned is kept, for now: %s",
                len(claims),
                turn.failure,
            )
        return [claim for claim in made if claim is not None]

    def update_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `eventlog.azure.CheckpointStore.update_checkpoint`."""
        name = _place(self._prefix, checkpoint, Checkpoint).name(checkpoint["partition_id"])
        self._checkpoints.put(name, documents.checkpoint(checkpoint))

    def list_checkpoints(self, namespace: str, event_hub: str, group: str) -> list[dict[str, Any]]:
        """See `eventlog.azure.CheckpointStore.list_checkpoints`."""
        place = Place(self._prefix, namespace, event_hub, group, Checkpoint)
        return [
            {
                **_scope(place, partition),
                "offset": seen.document.offset,
                "sequence_number": seen.document.sequence_number,
            }
            for partition, seen in self._checkpoints.all(place).items()
        ]

    def close(self) -> None:
        """See `eventlog.azure.CheckpointStore.close`."""
        if self._closes:
            self._store.close()


def _place(prefix: str, given: dict[str, Any], kind: type[Ownership | Checkpoint]) -> Place:
    return Place(
        prefix,
        given["fully_qualified_namespace"],
        given["eventhub_name"],
        given["consumer_group"],
        kind,
    )


def _scope(place: Place, partition: str) -> dict[str, Any]:
    """What a dictionary of the SDK begins with: names as they were asked for."""
    return {
        "fully_qualified_namespace": place.namespace,
        "eventhub_name": place.event_hub,
        "consumer_group": place.group,
        "partition_id": partition,
    }


def _several(store: BlobStore, do: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """What comes of each, in their order; as many calls are made at a time as the store serves.

    More would wait for each other until it is too late. The threads are new ones, which costs
    little next to a call of a store that is worth it: there is nothing to be closed, and nothing
    that a forked child has only half of.
    """
    if len(items) <= 1:
        return [do(item) for item in items]
    at_a_time = min(store.calls_at_a_time, len(items))
    with ThreadPoolExecutor(at_a_time, "eventlog-azure") as threads:
        return list(threads.map(do, items))
