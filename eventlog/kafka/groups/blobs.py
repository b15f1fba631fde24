"""The store in front of a group's store, which has the offsets too; see `eventlog.kafka.groups`."""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import UNSET
from msgspec.structs import replace

from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, Listing, NotModified
from eventlog.errors import (
    LogBusyError,
    PreconditionFailedError,
    ProducerFencedError,
    StoreUnavailableError,
)
from eventlog.groups.documents import StoredCheckpoint, encode, new_revision
from eventlog.kafka.groups.checkpoint import (
    CommittedOffset,
    Offsets,
    Place,
    Producers,
    Published,
    Seen,
    Turns,
    counted,
    decode_checkpoint,
    document_of,
    kafka_group,
    moved_on,
    of_base,
    owner_of,
)

if TYPE_CHECKING:
    from pathlib import Path

    from eventlog.kafka.later import Later
    from eventlog.waiting import Watch

__all__ = ["CommittedOffset", "GroupBlobs"]

_CHECKPOINT: Final = re.compile(
    r"groups/(?P<log>[^/]+)/(?P<topic>[^/]+)/(?P<group>[^/]+)/checkpoints/(?P<partition>[0-9]{1,6})\.json"
)
_ATTEMPTS: Final = 20
_PATIENCE: Final = 2.0
"""Seconds to wait for a transaction that has not ended, for who only looks. One whose process died
ends when Kafka loses patience, or when the next owner fences it, who looks before."""

_MOST_TICKETS: Final = 1000

_AT_REST: Final = 600.0
"""Seconds after a transaction until its checkpoint is written down, at the latest: less than any
cluster keeps offsets."""


class _Put:
    """One that is under way."""


class GroupBlobs(BlobStore):
    """A blob store, with the offsets that transactions have committed. See the module.

    Args:
        base: where the documents are.
        log_id: whose groups it is about; all else passes through.
        offsets: where the offsets are.
        producers: gives the producers, when they are needed.
        later: writes down what rests.
        published: what is told of each checkpoint.

    Attributes:
        turns: whose it is to move a checkpoint.
    """

    def __init__(
        self,
        base: BlobStore,
        log_id: str,
        offsets: Offsets,
        producers: Callable[[], Producers],
        *,
        later: Later | None = None,
        published: Published | None = None,
    ) -> None:
        self.base: Final = base
        self.turns: Final = Turns()
        self._log_id = log_id
        self._offsets = offsets
        self._producers = producers
        self._later = later
        self._published = published
        self._mutex = threading.Lock()
        self._seen: dict[str, Seen] = {}
        self._tickets: dict[str, str] = {}

    def __repr__(self) -> str:
        return repr(self.base)

    def place(self, name: object) -> Place | None:
        """Whose checkpoint a blob of that name is, if it is one of this log's."""
        if not isinstance(name, str):
            return None  # whoever is asked next says so
        found = _CHECKPOINT.fullmatch(name)
        if found is None or found["log"] != self._log_id:
            return None
        return Place(found["topic"], found["group"], int(found["partition"]))

    # The contract

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        """See `BlobStore.get`."""
        place = self.place(name)
        if place is None:
            return self.base.get(name, if_none_match=if_none_match)
        found = self.look(name, place)
        shown = found.merged() if isinstance(found, Seen) else found
        return NOT_MODIFIED if shown is not None and shown.etag == if_none_match else shown

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """See `BlobStore.put`."""
        place = self.place(name)
        if place is None:
            return self.base.put(name, data, if_match=of_base(if_match), if_absent=if_absent)
        since = self.turns.now(name)
        known = self._known(name, place, if_match) if if_match else None
        if known is None or not known.document.producers:
            etag = self.base.put(name, data, if_match=of_base(if_match), if_absent=if_absent)
        else:
            if known.merged().etag != if_match:
                raise PreconditionFailedError(
                    f"the blob {name!r} has changed; expected was {if_match}"
                )
            etag = self._replace(place, known, decode_checkpoint(data), since)
        if self._published is not None:
            self._published.note(place, decode_checkpoint(data))
        return etag

    def _replace(self, place: Place, known: Seen, document: StoredCheckpoint, since: int) -> str:
        """Put a document in place of one that names producers."""
        name = known.blob.name
        if owner_of(document) != owner_of(known.document):
            return self._take_over(place, known, document)
        shown = known.shown()
        if (document.offset, document.reset) == (shown.offset, shown.reset):
            return self._put_own(known, document)
        if not known.is_own:
            return self._take_over(place, known, document)
        turn = _Put()
        self.turns.begin(name, owner_of(document), turn, since)
        try:
            return self._put_own(known, document)
        finally:
            self.turns.end(turn)

    def list(self, prefix: str) -> Listing:
        """See `BlobStore.list`."""
        listing = self.base.list(prefix)
        self._look_anew(
            seen
            for name, etag in listing
            if (seen := self._seen.get(name)) is not None and seen.blob.etag == etag
        )
        return [(name, self._etag_now(name, etag)) for name, etag in listing]

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """See `BlobStore.delete`."""
        place = self.place(name)
        known = None if place is None else self._known(name, place, if_match)
        if place is None or known is None:
            self.base.delete(name, if_match=of_base(if_match))
            return
        if known.document.producers:
            known = self._fence_out(place, known, known.renewed(), known.document.producers)
        self.base.delete(name, if_match=known.blob.etag)

    def watch(self, name: str) -> Watch | None:
        """See `BlobStore.watch`."""
        return self.base.watch(name)

    @property
    def shared_directory(self) -> Path | None:
        """See `BlobStore.shared_directory`."""
        return self.base.shared_directory

    def apart(self) -> BlobStore:
        """See `BlobStore.apart`. Who asks for it keeps no checkpoints there."""
        apart = self.base.apart()
        return self if apart is self.base else apart

    @property
    def calls_at_a_time(self) -> int:
        """See `BlobStore.calls_at_a_time`."""
        return self.base.calls_at_a_time

    @property
    def is_closed(self) -> bool:
        """See `BlobStore.is_closed`."""
        return self.base.is_closed

    def close(self) -> None:
        """See `BlobStore.close`."""
        self.base.close()

    # What is known

    def look(self, name: str, place: Place, *, stable: bool = False) -> Seen | Blob | None:
        """The checkpoint as it is now; a blob that is none, as it is.

        Args:
            stable: wait for transactions of others that have not ended.

        Raises:
            StoreUnavailableError: also if others change it all the time.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(PreconditionFailedError):
                return self._look_once(name, place, stable=stable)
        raise StoreUnavailableError(
            f"others changed {name!r} each of {_ATTEMPTS} times it was read"
        )

    def _look_once(self, name: str, place: Place, *, stable: bool) -> Seen | Blob | None:
        known = self._seen.get(name)
        found = self.base.get(name, if_none_match=None if known is None else known.blob.etag)
        if isinstance(found, Blob):
            document = document_of(found)
            if document is None:
                return found  # damaged, or of another time: whoever asked says so
            seen = Seen(found, document)
        elif found is None:
            return None
        else:
            assert known is not None
            if known.is_certain:
                return known
            seen = known
        seen = self._completed(place, seen, stable=stable)
        if seen.committed is not None and counted(seen.committed, seen.document) is None:
            self._confirm(seen)
        with self._mutex:
            if self._seen.get(name) is known:  # or others have seen it later
                self._seen[name] = seen
        return seen

    def _confirm(self, seen: Seen) -> None:
        """The offset is none of this document's; so it was read in time if that is still there.

        Raises:
            PreconditionFailedError: it is not.
        """
        if self.base.get(seen.blob.name, if_none_match=seen.blob.etag) is not NOT_MODIFIED:
            raise PreconditionFailedError(f"{seen.blob.name!r} has changed while it was read")

    def _known(self, name: str, place: Place, etag: str | None) -> Seen | None:
        """The document with that etag, which whoever wants to replace it has seen here; or as it
        is now.
        """
        base = of_base(etag)
        known = self._seen.get(name)
        if known is not None and known.blob.etag == base:
            return known
        found = self.look(name, place)
        same = isinstance(found, Seen) and base in (None, found.blob.etag)
        return found if same and isinstance(found, Seen) else None

    def seen(self, name: str) -> Seen | None:
        """As it was seen last."""
        return self._seen.get(name)

    def keep(self, seen: Seen) -> Seen:
        """It is so now."""
        with self._mutex:
            self._seen[seen.blob.name] = seen
        return seen

    def committed(self, place: Place, seen: Seen) -> None:
        """A transaction of this process has moved it, so that it is so now."""
        self.keep(seen)
        if self._published is not None:
            self._published.note(place, seen.shown())
        self._write_down_later(seen.blob.name)

    def _write_down_later(self, name: str) -> None:
        def in_time() -> None:
            try:
                self.write_down(name)
            except Exception as error:
                self._write_down_later(name)
                if not isinstance(error, StoreUnavailableError):
                    raise

        if self._later is not None:
            self._later.within(_AT_REST, (self, name), in_time)

    def write_down(self, name: str) -> None:
        """Write into the document where this process' transactions have moved the checkpoint.

        As its owner might at any time: so the offset may be lost then. If another comes before,
        it does so as well.
        """
        seen = self._seen.get(name)
        if seen is None or not (seen.is_own and seen.is_certain):
            return
        shown = seen.shown()
        if shown.offset > seen.document.offset:
            data = encode(replace(shown, revision=new_revision()))
            with contextlib.suppress(PreconditionFailedError):
                self.put(name, data, if_match=seen.merged().etag)

    def forget(self, name: str) -> None:
        """Nobody knows what it is now."""
        with self._mutex:
            self._seen.pop(name, None)

    def _etag_now(self, name: str, etag: str) -> str:
        """The etag of a checkpoint in a listing."""
        seen = self._seen.get(name)
        return etag if seen is None or seen.blob.etag != etag else seen.merged().etag

    def _look_anew(self, known: Iterable[Seen]) -> None:
        """See where the producers of all these are now; those of a group at once."""
        wanted: dict[tuple[str, str], dict[int, Seen]] = defaultdict(dict)
        for seen in known:
            place = self.place(seen.blob.name)
            if place is not None and seen.document.producers and not seen.is_certain:
                group = kafka_group(place.group, seen.document.group)
                wanted[group, place.topic][place.partition] = seen
        for (group, topic), partitions in wanted.items():
            found = self._committed(group, topic, [*partitions], stable=False)
            for partition, seen in partitions.items():
                with self._mutex:
                    if self._seen.get(seen.blob.name) is seen:
                        now = seen._replace(committed=found.get(partition))
                        self._seen[seen.blob.name] = now

    # Writing

    def _put_own(self, known: Seen, document: StoredCheckpoint) -> str:
        """Put a document that has the same owner."""
        document = replace(document, producers=known.document.producers)
        return self.keep(self.swapped(known, document)._replace(is_own=known.is_own)).merged().etag

    def _take_over(self, place: Place, known: Seen, document: StoredCheckpoint) -> str:
        """Put a document in place of one that is not this process' own."""
        fenced = self._fence_out(place, known, document, known.document.producers or ())
        return fenced.stayed(document.offset).blob.etag

    def replaced(
        self, place: Place, known: Seen, document: StoredCheckpoint, transactional_id: str
    ) -> Seen:
        """A document at the same offset in place of the one that is known, where no other producer
        than that one can have committed since.

        Raises:
            PreconditionFailedError: it has been changed, or moved.
        """
        others = [each for each in known.document.producers or () if each != transactional_id]
        return self._fence_out(place, known, document, others).stayed(document.offset)

    def _fence_out(
        self, place: Place, known: Seen, document: StoredCheckpoint, producers: Iterable[str]
    ) -> Seen:
        """Put a document that names nobody, and shut out producers of the one before."""
        document = replace(document, producers=UNSET, to_fence=tuple(dict.fromkeys(producers)))
        return self.keep(self._completed(place, self.swapped(known, document)))

    def swapped(self, known: Seen, document: StoredCheckpoint) -> Seen:
        """The document, put in place of the one that is known."""
        name, data = known.blob.name, encode(document)
        etag = self.base.put(name, data, if_match=known.blob.etag)
        return Seen(Blob(name, data, etag, known.blob.modified_at), document, known.committed)

    def _completed(self, place: Place, seen: Seen, *, stable: bool = True) -> Seen:
        """Fence who is to be fenced, and see where they left it; or where its producers are now.

        Raises:
            PreconditionFailedError: another has changed the document meanwhile.
        """
        document = seen.document
        if document.to_fence:
            for transactional_id in document.to_fence:
                self._fence(transactional_id)
            at = counted(self._committed_at(place, document, stable=True), document)
            return self.swapped(seen, moved_on(replace(document, to_fence=UNSET), at))
        if document.producers and not seen.is_certain:
            return seen._replace(committed=self._committed_at(place, document, stable=stable))
        return seen

    def _fence(self, transactional_id: str) -> None:
        with _translated():
            self._producers().fence(transactional_id)

    def _committed_at(
        self, place: Place, document: StoredCheckpoint, *, stable: bool
    ) -> CommittedOffset | None:
        group = kafka_group(place.group, document.group)
        return self._committed(group, place.topic, [place.partition], stable=stable).get(
            place.partition
        )

    def _committed(
        self, group: str, topic: str, partitions: Sequence[int], *, stable: bool
    ) -> dict[int, CommittedOffset]:
        if not stable:
            with contextlib.suppress(LogBusyError):
                return self._offsets.committed(group, topic, partitions, timeout=_PATIENCE)
            with _translated():
                return self._offsets.committed(group, topic, partitions, stable=False)
        with _translated():
            return self._offsets.committed(group, topic, partitions)

    # Producers

    def ticket(self, transactional_id: str) -> str:
        """For the producer that is ready under that id, which may have to be made first.

        It is held: whoever gets the ticket releases it.
        """
        producers = self._producers()
        ticket = self._tickets.get(transactional_id)
        if ticket is None or not producers.hold(transactional_id, ticket):
            ticket = secrets.token_hex(8)
            producers.prepare(transactional_id, ticket, hold=True)
            with self._mutex:
                if len(self._tickets) >= _MOST_TICKETS:
                    self._tickets.clear()
                self._tickets[transactional_id] = ticket
        return ticket


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """What the brokers do not do now, a store does not."""
    try:
        yield
    except (LogBusyError, ProducerFencedError) as error:
        raise StoreUnavailableError(str(error)) from error
