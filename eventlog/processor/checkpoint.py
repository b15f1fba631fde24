"""One owner's checkpoint of one partition: fenced, so that no former owner ever moves it.

Invariants:

1. After it has opened the checkpoint, an owner writes it only in place of a version that it has
   seen to name it and its epoch, and what it writes names them too. From the moment a later owner
   has opened it, every write of an earlier one fails, however late it arrives.
2. Its offset becomes lower only by a reset, which is noticed before anything else is written.
3. An owner begins only if ``group.json`` named it after its own version was in place: a deletion
   of the group, or whoever took the partition, may have looked for checkpoints before that.

The order of looking is that of `eventlog.groups.checkpoints`.

What became of a write is unknown from when it is begun until its answer is there. While it is, the
next thing done is to read: there stands this owner's own content (the answer was lost), what was
there before (the write failed, or comes late: then it meets another version, and fails), a reset,
or another owner's.

What this module deliberately does not do: input and output (`eventlog.groups.steps`); know
whether the lease still runs. A checkpoint of who has lost it without noticing is right as long as
nobody else has opened it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from eventlog.blobs import NOT_MODIFIED, Blob
from eventlog.errors import LeaseLostError, PreconditionFailedError
from eventlog.groups import steps
from eventlog.groups.blobs import ATTEMPTS, system_clock
from eventlog.groups.documents import (
    CheckpointResetError,
    GroupDocument,
    GroupIds,
    StoredCheckpoint,
    decode,
    encode,
    new_revision,
)
from eventlog.groups.steps import Steps, perform
from eventlog.positions import instant

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore

__all__ = ["CheckpointFence", "GroupLook", "PartitionCheckpoint"]

_MOST_DOUBLINGS: Final = 20
_LAST_OFFSET: Final = 2**63 - 1


class GroupLook:
    """Looks at the group document, and remembers it: what has not changed is not read again.

    The checkpoints of one host may share it; then a host that takes a thousand partitions reads a
    document of a thousand partitions once. Thread-safe.
    """

    def __init__(self, ids: GroupIds) -> None:
        self._ids = ids
        self._seen: tuple[str | None, GroupDocument | None] = None, None

    def now(self) -> Steps[GroupDocument | None]:
        """The group document as it is now; None if there is none, or that of another topic."""
        etag, document = self._seen
        blob = yield from steps.get(self._ids.document, if_none_match=etag)
        if blob is NOT_MODIFIED:
            return document
        if blob is None:
            return None
        document = decode(blob.name, blob.data, GroupDocument, self._ids)
        self._seen = blob.etag, document
        return document


class PartitionCheckpoint:
    """The checkpoint of one partition in the hands of one owner, under one epoch.

    For one user at a time; a fence may be checked in another thread while that user waits.

    Args:
        ids: the group's place.
        group_id: the group's own id, as the document says that made `member` the owner.
        partition: its number.
        member: the host's name, with its incarnation.
        epoch: of this taking of the partition.
        clock: gives microseconds since 1970, for people to read.
        group: what looks at the group document, if others look at it too.
        outlived: whether an owner is, or was, a member of this process, which is there to ask: so
            whatever that member had at work did not end it.

    Attributes:
        outdone_by: the epoch of the other owner that was found there last; None if none was.

    All steps may raise

        LeaseLostError: the partition belongs to another, or nothing is left of the group: this
            object is of no use any more.
        CheckpointResetError: a person has moved the group. From now on the checkpoint stands there,
            and can be used further.
        StoreUnavailableError: what was to be written may have been. The same steps may be taken
            again, or any other.
        EventLogError: the document is damaged.
        PreconditionFailedError: the store refuses every write, though nobody else writes.
    """

    def __init__(
        self,
        ids: GroupIds,
        group_id: str,
        partition: int,
        member: str,
        epoch: int,
        *,
        clock: Callable[[], int] = system_clock,
        group: GroupLook | None = None,
        outlived: Callable[[str], bool] | None = None,
    ) -> None:
        assert epoch > 0, "a host's epochs begin at 1"
        self.partition: Final = partition
        self.member: Final = member
        self.epoch: Final = epoch
        self.outdone_by: int | None = None
        self._ids = ids
        self._group_id = group_id
        self._clock = clock
        self._group = group or GroupLook(ids)
        self._outlived = outlived or (lambda _: False)
        self._name = ids.checkpoint(partition)
        self._stored: StoredCheckpoint | None = None
        self._etag: str | None = None
        self._doubtful = True
        self._counting: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"<PartitionCheckpoint {self._name} of {self.member!r}, epoch {self.epoch}>"

    # As it was last seen. There is nothing to see before it was opened.

    @property
    def offset(self) -> int:
        """The last event that was finished."""
        return self._known.offset

    @property
    def crashes(self) -> int:
        """How many owners, one after the other, ended without finishing anything."""
        return self._known.crashes

    @property
    def attempted(self) -> int | None:
        """The event that was handed over alone last."""
        return self._known.attempted

    @property
    def attempts(self) -> int:
        """How often it was."""
        return self._known.attempts

    @property
    def alone_until(self) -> int:
        """Events before this offset are to be handed over one at a time; 0 if none are."""
        return self._known.alone_until

    @property
    def etag(self) -> str:
        """Of the version that counts."""
        assert self._etag is not None
        return self._etag

    @property
    def _known(self) -> StoredCheckpoint:
        assert self._stored is not None, "it was not opened"
        return self._stored

    # Opening

    def open(
        self, start: int, max_batch: int = 1000, *, next_offset: int | None = None
    ) -> Steps[None]:
        """Take the checkpoint from whoever had it. From here on, they cannot move it.

        If the owner before ended without saying so, and without having finished anything, it may
        have been an event that ended it: from now on events go one at a time, as many as it may
        have had; and twice as many with every further time, since it may have had several batches
        without a checkpoint.

        Args:
            start: where the group begins, if it never began here.
            max_batch: how many events are handed over at once.
            next_offset: of the partition. From there on no event can have ended anybody.
        """
        self._stored, self._etag, self._doubtful = None, None, True
        last = _LAST_OFFSET if next_offset is None else next_offset
        for _ in range(ATTEMPTS):
            if (yield from self._open_once(start, max_batch, last)):
                break
        else:
            raise self._refused()
        if (yield from self._group_owned()) is None:
            yield from self.release()
            raise self._lost("is not this host's any more")

    def _open_once(self, start: int, max_batch: int, last: int) -> Steps[bool]:
        blob = yield from steps.get(self._name)
        found = self._decoded(blob)
        if found is None:
            # Only now: if the group is still there, what was found is older than it.
            group = yield from self._group_owned()
            if group is None:
                raise self._lost("is not this host's any more")
            found = StoredCheckpoint.first(group, start - 1, self._now())
        if found.epoch > self.epoch:
            raise self._taken_by(found)
        if found.epoch == self.epoch and found.owner is not None:
            if found.owner != self.member:
                raise self._taken_by(found)
            assert isinstance(blob, Blob)
            self.stand(found, blob.etag)
            return True
        etag = blob.etag if isinstance(blob, Blob) else None
        return (yield from self._put(self._taken(found, max_batch, last), etag))

    def _taken(self, found: StoredCheckpoint, max_batch: int, last: int) -> StoredCheckpoint:
        """It in the hands of this owner."""
        taken = replace(
            found.handed(self.member, self._now()), epoch=self.epoch, opened=found.offset
        )
        if found.owner is not None and self._outlived(found.owner):
            return replace(taken, attempts=0)
        if not self._ended_its_process(found) or found.offset + 1 >= last:
            return taken
        suspects = max_batch * 2 ** min(found.crashes, _MOST_DOUBLINGS)
        alone_until = max(found.alone_until, min(found.offset + 1 + suspects, last))
        return replace(taken, crashes=found.crashes + 1, alone_until=alone_until)

    def _ended_its_process(self, found: StoredCheckpoint) -> bool:
        """Whether the owner before was a host that ended at the first events it got."""
        return found.opened == found.offset and found.owner != self.member

    def _group_owned(self) -> Steps[GroupDocument | None]:
        """The group document, if it names this owner."""
        group = yield from self._group.now()
        if group is None or group.group != self._group_id:
            return None
        share = group.partitions.get(self.partition)
        is_owned = share is not None and (share.owner, share.epoch) == (self.member, self.epoch)
        return group if is_owned else None

    # Moving on

    def advance(self, offset: int, enqueued_at: datetime | None) -> Steps[bool]:
        """Say that all events up to `offset` are finished; nothing, if they were.

        Returns: whether this moved it.
        """
        return self._change(lambda stored: self._advanced(stored, offset, enqueued_at))

    def _advanced(
        self, stored: StoredCheckpoint, offset: int, enqueued_at: datetime | None
    ) -> StoredCheckpoint:
        if offset <= stored.offset:
            return stored
        return stored.advanced(offset, enqueued_at, self._now())

    def attempt(self, offset: int) -> Steps[int]:
        """Note that the event at `offset` is handed over alone, before it is.

        Returns: how often it has been, this time included; 0, with nothing noted, if a later event
            was, which came behind it: so it ended nobody's process.
        """
        if self._doubtful:
            yield from self.look()
        known = self._known
        if known.attempted is not None and offset < known.attempted:
            return 0
        if self._counting is not None and self._counting[0] == offset:
            count = self._counting[1]  # the answer to this was lost: it is counted once
        else:
            count = known.attempts + 1 if offset == known.attempted else 1
        self._counting = offset, count
        yield from self._change(lambda stored: _attempted(stored, offset, count))
        self._counting = None
        return count

    def survived(self, offset: int) -> Steps[None]:
        """Note that the event at `offset`, which was handed over alone, ended nobody's process."""
        yield from self._change(lambda stored: _survived(stored, offset))

    def look(self) -> Steps[None]:
        """See whether it is still this owner's, and where it left it."""
        blob = yield from steps.get(self._name, if_none_match=self._etag)
        if blob is NOT_MODIFIED:
            self._doubtful = False
            return
        found = self._owned(blob)
        assert isinstance(blob, Blob)
        known = self._stored
        self.stand(found, blob.etag)
        if known is not None and known.reset != found.reset:
            self._counting = None
            raise CheckpointResetError(self.partition, found.public(), blob.etag)

    def release(self) -> Steps[None]:
        """Give it back in good order, if it is this owner's: who comes next sees no crash.

        Does not raise LeaseLostError or CheckpointResetError.
        """
        while True:
            try:
                # Whatever was at work did not end this process.
                yield from self._change(
                    lambda stored: replace(stored.handed(None, self._now()), attempts=0)
                )
            except CheckpointResetError:
                continue  # then from there
            except LeaseLostError:
                pass
            self._etag, self._doubtful = None, True  # who uses it further finds that out
            return

    # In a transaction

    def fence(self, offset: int, enqueued_at: datetime | None) -> CheckpointFence:
        """The same as `advance`, as a part of a transaction, from exactly where it stands now."""
        return CheckpointFence(self, self._known, offset, enqueued_at)

    def advance_within(
        self, known: StoredCheckpoint, offset: int, enqueued_at: datetime | None
    ) -> Steps[tuple[StoredCheckpoint, str]]:
        """`advance`, inside a transaction: what stands then, if that is committed.

        Raises:
            PreconditionFailedError: it is not where `known` left it. That may have been this
                owner's own transaction, stored though nobody was told: then what this one would
                store is stored already.
        """
        self._doubtful = True
        blob = yield from steps.get(self._name)
        found = self._owned(blob)
        assert isinstance(blob, Blob)
        if (found.offset, found.reset) != (known.offset, known.reset):
            raise PreconditionFailedError(
                f"the checkpoint of {self._ids.of(self.partition)} was left at {known.offset} and "
                f"is at {found.offset} (a person has moved it, or a transaction was stored though "
                "that was not known): nothing of this transaction was stored"
            )
        advanced = self._advanced(found, offset, enqueued_at)
        if advanced is found:
            return found, blob.etag
        advanced = replace(advanced, revision=new_revision())
        etag = yield from steps.put(self._name, encode(advanced), if_match=blob.etag)
        return advanced, etag

    def stand(self, stored: StoredCheckpoint, etag: str) -> None:
        """This version counts: it is in the store, as far as is known."""
        self._stored, self._etag, self._doubtful = stored, etag, False

    # Writing

    def _change(self, decide: Callable[[StoredCheckpoint], StoredCheckpoint]) -> Steps[bool]:
        """Put what `decide` makes of it; whether that was anything else."""
        changed = False
        for _ in range(ATTEMPTS):
            if self._doubtful:
                yield from self.look()
            wanted = decide(self._known)
            if wanted is self._stored:
                return changed
            changed = True
            if (yield from self._put(wanted, self._etag)):
                return True
        raise self._refused()

    def _put(self, document: StoredCheckpoint, etag: str | None) -> Steps[bool]:
        """Put it in place of the version with that etag; False if that seems not to be there."""
        known = self._stored
        assert known is None or document.offset >= known.offset, "it would move backwards"
        document = replace(document, revision=new_revision())
        self._doubtful = True
        try:
            etag = yield from steps.put(
                self._name, encode(document), if_match=etag, if_absent=etag is None
            )
        except PreconditionFailedError:
            return False
        self.stand(document, etag)
        return True

    def _owned(self, blob: object) -> StoredCheckpoint:
        """What was read, if it is this owner's."""
        found = self._decoded(blob)
        if found is None:
            raise self._lost("was deleted")
        if (found.owner, found.epoch) != (self.member, self.epoch):
            raise self._taken_by(found)
        return found

    def _decoded(self, blob: object) -> StoredCheckpoint | None:
        """What was read; None if nothing of this group was."""
        if not isinstance(blob, Blob):
            return None
        found = decode(self._name, blob.data, StoredCheckpoint, self._ids)
        return found if found is not None and found.group == self._group_id else None

    def _now(self) -> datetime:
        return instant(self._clock())

    # Errors

    def _taken_by(self, found: StoredCheckpoint) -> LeaseLostError:
        if found.owner is not None or found.epoch > self.epoch:
            self.outdone_by = found.epoch
        who = "nobody's" if found.owner is None else f"that of {found.owner!r}"
        return self._lost(f"is {who} now, with epoch {found.epoch}")

    def _lost(self, how: str) -> LeaseLostError:
        return LeaseLostError(
            f"{self._ids.of(self.partition)} {how}: {self.member!r} had it with epoch {self.epoch}"
        )

    def _refused(self) -> PreconditionFailedError:
        return PreconditionFailedError(
            f"the checkpoint of {self._ids.of(self.partition)} could not be written in "
            f"{ATTEMPTS} attempts"
        )


def _attempted(stored: StoredCheckpoint, offset: int, count: int) -> StoredCheckpoint:
    """With the attempts of that event noted."""
    if (stored.attempted, stored.attempts) == (offset, count):
        return stored
    return replace(stored, attempted=offset, attempts=count)


def _survived(stored: StoredCheckpoint, offset: int) -> StoredCheckpoint:
    """With nothing held against that event."""
    if stored.attempted != offset or not stored.attempts:
        return stored
    return replace(stored, attempts=0)


class CheckpointFence:
    """A checkpoint in a transaction; see `eventlog.transaction.Fence`.

    Nothing that is seen inside the transaction counts before it is committed. If it was not, or
    nobody knows, the checkpoint's next steps read it.

    Args:
        checkpoint: whose it is.
        known: where it stood when the transaction's block ended.
        offset: the last event that is finished with the transaction. Where the checkpoint is that
            far already it stays, and must be the owner's all the same.
    """

    def __init__(
        self,
        checkpoint: PartitionCheckpoint,
        known: StoredCheckpoint,
        offset: int,
        enqueued_at: datetime | None,
    ) -> None:
        self._checkpoint = checkpoint
        self._known = known
        self._offset = offset
        self._enqueued_at = enqueued_at
        self._wanted: tuple[StoredCheckpoint, str] | None = None

    def check(self, blobs: BlobStore) -> None:
        """Advance it in the transaction; see `PartitionCheckpoint.advance_within`."""
        self._wanted = perform(
            self._checkpoint.advance_within(self._known, self._offset, self._enqueued_at), blobs
        )

    def committed(self) -> None:
        """It stands."""
        assert self._wanted is not None
        self._checkpoint.stand(*self._wanted)
