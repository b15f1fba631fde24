"""The store inside one commit of a Kafka transaction; see `eventlog.kafka.groups`."""

from __future__ import annotations

import contextlib
import re
from typing import Final, NamedTuple

from confluent_kafka import TopicPartition
from msgspec.structs import replace

from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, Listing, NotModified
from eventlog.errors import (
    PreconditionFailedError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from eventlog.groups.documents import StoredCheckpoint, encode, new_revision
from eventlog.kafka.groups.blobs import GroupBlobs
from eventlog.kafka.groups.checkpoint import (
    CommittedOffset,
    Metadata,
    Place,
    Producers,
    Seen,
    decode_checkpoint,
    encode_metadata,
    kafka_group,
    owner_of,
)

__all__ = ["CommitView"]

_TELLS_NOTHING: Final = re.compile(r"groups/.*/group\.json|dead-letters/.*")
"""What is put at once, whatever becomes of the commit: that there is a group says nothing about
where it is, nor does an attempt to replay dead letters say that they were."""

_READIES = 3
"""How often a producer is made ready, if it is fenced while the document is looked at."""


class _Look(NamedTuple):
    """A checkpoint as it was seen in this view, and whose turn it was then."""

    place: Place
    seen: Seen
    turn: int


class CommitView(BlobStore):
    """The store inside one commit: checkpoints put there are offsets that are sent along.

    The order is: the checks of all who take part, `lend` for `transactional_id` and `owner`,
    `offsets`, the commit, and whatever comes of it `settle`.

    Args:
        blobs: the group's store.
        producers: makes the transaction's producer ready.

    Attributes:
        transactional_id: under which the transaction is to be committed; None as long as no
            checkpoint takes part.
        owner: the ticket of its producer.
    """

    def __init__(self, blobs: GroupBlobs, producers: Producers) -> None:
        self.transactional_id: str | None = None
        self.owner = ""
        self._blobs = blobs
        self._producers = producers
        self._looks: dict[str, _Look] = {}
        self._wanted: dict[str, tuple[Place, Seen]] = {}
        self._made: set[str] = set()
        self._may_be_sent = False
        self._held: tuple[str, str] | None = None

    def offsets(self) -> dict[str, list[TopicPartition]]:
        """By Kafka group, what is to be committed.

        Raises:
            PreconditionFailedError: a checkpoint that is to stay has changed since it was seen.
            StoreUnavailableError: see `BlobStore`.
        """
        for name, look in self._looks.items():
            if name not in self._wanted:
                self._want(look, look.seen.shown())
        self._may_be_sent = True
        groups: dict[str, list[TopicPartition]] = {}
        for place, seen in self._wanted.values():
            assert seen.committed is not None
            groups.setdefault(kafka_group(place.group, seen.document.group), []).append(
                TopicPartition(
                    place.topic,
                    place.partition,
                    seen.committed.next_offset,
                    seen.committed.metadata,
                )
            )
        return groups

    def settle(self, *, committed: bool) -> None:
        """They are committed; or they are not, or nobody knows."""
        for place, seen in self._wanted.values():
            if committed:
                self._blobs.committed(place, seen._replace(is_certain=True))
            else:
                self._unmake(seen)
                self._blobs.forget(seen.blob.name)
        self._blobs.turns.end(self)
        self._let_go()

    def _unmake(self, seen: Seen) -> None:
        """Remove a document that was only made for the commit: or the group begins there."""
        name = seen.blob.name
        if name in self._made and not self._may_be_sent:
            with contextlib.suppress(PreconditionFailedError, StoreUnavailableError):
                self._blobs.base.delete(name, if_match=seen.blob.etag)

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        """See `BlobStore.get`."""
        place = self._blobs.place(name)
        if place is None:
            return self._blobs.get(name, if_none_match=if_none_match)
        wanted = self._wanted.get(name)
        found = self._look(name, place) if wanted is None else wanted[1]
        shown = found.merged() if isinstance(found, Seen) else found
        return NOT_MODIFIED if shown is not None and shown.etag == if_none_match else shown

    def _look(self, name: str, place: Place) -> Seen | Blob | None:
        """The checkpoint as it is now that the producer is ready."""
        found = self._blobs.seen(name) or self._blobs.look(name, place)
        for _ in range(_READIES):
            if not isinstance(found, Seen):
                return found
            self._make_ready(place, found.document)
            turn = self._blobs.turns.now(name)
            found = self._blobs.look(name, place, stable=True)
            if isinstance(found, Seen) and self._is_ready() and self._is_whose(place, found):
                self._looks[name] = _Look(place, found, turn)
                return found
        raise self._was_fenced()

    def _is_whose(self, place: Place, found: Seen) -> bool:
        """Whether it is committed under the owner's id, or one that was there before."""
        return bool(self._looks) or self.transactional_id == _id_of(place, found.document)

    def _make_ready(self, place: Place, document: StoredCheckpoint) -> None:
        """Have the producer ready, before the document is looked at."""
        if not self._looks:
            self.transactional_id = _id_of(place, document)
        if not self._is_ready():
            if self._looks:
                raise self._was_fenced()
            self._hold()

    def _hold(self) -> None:
        assert self.transactional_id is not None
        self._let_go()
        ticket = self._blobs.ticket(self.transactional_id)
        self.owner, self._held = ticket, (self.transactional_id, ticket)

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._producers.release(*held)

    def _was_fenced(self) -> PreconditionFailedError:
        return PreconditionFailedError(
            f"producer {self.transactional_id!r} was fenced meanwhile: nothing was stored"
        )

    def _is_ready(self) -> bool:
        assert self.transactional_id is not None
        return bool(self.owner) and self._producers.is_prepared(self.transactional_id, self.owner)

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """See `BlobStore.put`."""
        place = self._blobs.place(name)
        if place is None:
            if not _TELLS_NOTHING.fullmatch(name):
                raise UnsupportedOperationError(
                    f"a Kafka transaction commits checkpoints, and no other blob such as "
                    f"{name!r:.300}"
                )
            return self._blobs.put(name, data, if_match=if_match, if_absent=if_absent)
        document = decode_checkpoint(data)
        if if_match is None:
            return self._want(self._begun(name, place, document), document).merged().etag
        look = self._looks.get(name)
        if look is not None and name in self._wanted:
            look = look._replace(seen=self._wanted[name][1])
        if look is None or look.seen.merged().etag != if_match:
            raise PreconditionFailedError(f"the blob {name!r} has changed; expected was {if_match}")
        return self._want(look, document).merged().etag

    def _begun(self, name: str, place: Place, document: StoredCheckpoint) -> _Look:
        """Put a document where none was: at the beginning, since the rest is to be committed."""
        self._make_ready(place, document)
        turn = self._blobs.turns.now(name)
        document = replace(document, offset=-1, enqueued_at=None)
        data = encode(document)
        etag = self._blobs.base.put(name, data, if_absent=True)
        self._made.add(name)
        seen = Seen(Blob(name, data, etag, document.updated_at), document)
        look = self._looks[name] = _Look(place, seen, turn)
        return look

    def _want(self, look: _Look, wanted: StoredCheckpoint) -> Seen:
        """Have an offset committed, of a checkpoint that is as it was seen."""
        assert self.transactional_id is not None
        name, seen = look.seen.blob.name, look.seen
        if name not in self._wanted:
            self._blobs.turns.begin(name, owner_of(wanted), self, look.turn)
            if owner_of(wanted) != owner_of(seen.document):
                stays = _unmoved(wanted, seen.shown())
                seen = self._blobs.replaced(look.place, seen, stays, self.transactional_id)
            seen = self._introduced(look.place, seen, self.transactional_id)
        elif owner_of(wanted) != owner_of(seen.document):
            raise PreconditionFailedError(f"{name!r} has changed hands during the commit")
        metadata = Metadata(wanted.group, wanted.reset, wanted.enqueued_at, wanted.updated_at)
        at = CommittedOffset(wanted.offset + 1, encode_metadata(metadata).decode())
        moved = seen._replace(committed=at)
        self._wanted[name] = look.place, moved
        return moved

    def _introduced(self, place: Place, seen: Seen, transactional_id: str) -> Seen:
        """Write into the document which producer may commit offsets from now on."""
        producers = seen.document.producers or ()
        if seen.is_own and transactional_id in producers:
            return seen
        document = seen.renewed()
        if not seen.is_own:
            if {*producers} - {transactional_id}:
                seen = self._blobs.replaced(place, seen, document, transactional_id)
                document = seen.document
            producers = ()
        document = replace(
            document,
            producers=tuple(dict.fromkeys((*producers, transactional_id))),
            revision=new_revision(),
        )
        return self._blobs.keep(self._blobs.swapped(seen, document)._replace(is_own=True))

    def list(self, prefix: str) -> Listing:
        """See `BlobStore.list`."""
        return self._blobs.list(prefix)

    def delete(self, name: str, *, if_match: str | None = None) -> None:  # noqa: ARG002 - refused
        """See `BlobStore.delete`."""
        raise UnsupportedOperationError(f"a Kafka transaction cannot delete the blob {name!r:.300}")

    def close(self) -> None:
        """Nothing: it is a view."""


def _unmoved(wanted: StoredCheckpoint, shown: StoredCheckpoint) -> StoredCheckpoint:
    """What is wanted, but for the offset: that is to be committed."""
    same = (wanted.group, wanted.reset) == (shown.group, shown.reset)
    at = (shown.offset, shown.enqueued_at) if same else (-1, None)
    return replace(wanted, offset=at[0], enqueued_at=at[1])


def _id_of(place: Place, document: StoredCheckpoint) -> str:
    """A consumer has one for all its partitions; a host one for each."""
    who = f"consumer.{document.consumer}" if document.consumer else str(place.partition)
    return f"{kafka_group(place.group, document.group)}.{who}"
