"""Checkpoints of a consumer group, in any `BlobStore`, and who may move them.

Invariants:

1. A checkpoint's offset becomes lower only by a reset, which raises `Checkpoint.reset`.
2. A checkpoint is moved by its owner alone; by a reset; and, while no host owns the partition, by
   `GroupStore.advance_unowned`. It gets another owner by a claim, or by a host's take-over; and
   who changes it while no host owns the partition takes it from the host that had it last, which
   may go on unawares.
3. Of two consumers that want a partition the one that came later gets it, in whatever order their
   writes arrive: each draws a number from the group document before its first claim. Without
   numbers two that start at the same time could take from each other, and both would end.

The order of looking. Whoever changes a checkpoint without owning it reads the checkpoint first,
then ``group.json``, then swaps. A host does the reverse: it swaps ``group.json``, then the
checkpoint (owner and epoch its own, `consumer` 0, `alive_at` None), and begins only then. If a
host comes in between, either it swaps the checkpoint first, and the other's swap fails; or the
other does, and the host takes the checkpoint from it before it begins. After the swap
``group.json`` is read once more: a deletion removes ``group.json`` and then what a listing finds,
and what was written may have come too late to be found.

All of this holds inside a write transaction too, on a store that is a view of one: nothing changes
between looks, and nobody is waited for.

What this module deliberately does not do: heartbeats and plans of hosts; looking at a topic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from eventlog.blobs import BlobStore
from eventlog.errors import (
    ClosedError,
    ConsumerDisconnectedError,
    EventLogError,
    LeaseLostError,
    PreconditionFailedError,
    UnexpectedOffsetError,
)
from eventlog.groups.blobs import (
    GroupBlobs,
    Seen,
    always_there,
    belongs,
    pause_a_moment,
    system_clock,
)
from eventlog.groups.documents import (
    Checkpoint,
    CheckpointResetError,
    GroupDocument,
    GroupIds,
    Share,
    StoredCheckpoint,
    living,
)
from eventlog.positions import instant

__all__ = ["Checkpoint", "CheckpointResetError", "GroupDocument", "GroupIds", "GroupStore", "Share"]

BEAT_EVERY: Final = timedelta(seconds=10)
"""How often a consumer that writes nothing else shows that it lives, if it looks that often; see
`eventlog.groups.documents.LIVING`."""


class GroupStore:
    """The checkpoints of one group of one topic. Thread-safe, and cheap to make.

    Args:
        blobs: where its documents are.
        ids: whose they are.
        clock: gives microseconds since 1970.
        pause: called with 1, 2, ... before the second repetition of a change, the third and on.
        require_topic: raises if the topic is gone. It is called before a document of another topic
            of the same name is replaced: nobody who still holds a deleted topic can then replace
            what belongs to the one made since. (Inside a write transaction, look at the topic in
            it beforehand instead.)

    Every method may raise what the store raises, and an `EventLogError` that names the blob if a
    document is damaged; those that write also `PreconditionFailedError`, if others came before them
    each time they tried. After a `StoreUnavailableError` a change may have been made or not; trying
    again does no harm.
    """

    def __init__(
        self,
        blobs: BlobStore,
        ids: GroupIds,
        clock: Callable[[], int] = system_clock,
        pause: Callable[[int], object] = pause_a_moment,
        require_topic: Callable[[], object] = always_there,
    ) -> None:
        self.ids = ids
        self._blobs = GroupBlobs(blobs, ids, pause, require_topic)
        self.topic_partitions = 0  # how many there are, as far as whoever claims some has seen
        self._clock = clock
        self._numbers: dict[tuple[str, str], int] = {}
        self._shown_alive: dict[str, datetime] = {}

    def __repr__(self) -> str:
        return f"<GroupStore {self.ids.place}>"

    def within(self, blobs: BlobStore) -> GroupStore:
        """The same group as a transaction sees it; `blobs` is a view of the store inside of it."""
        return GroupStore(blobs, self.ids, self._clock)

    # The group

    def document(self) -> GroupDocument | None:
        """The group document; None if there is no such group."""
        return self._blobs.look_at_group().document

    def ensure(self) -> GroupDocument:
        """The group document, made if it was not there."""
        group = self._blobs.ensure_group().document
        assert group is not None
        return group

    def owner(self, partition: int) -> str | None:
        """The host that owns a partition, if one does."""
        group = self.document()
        return None if group is None else group.owner(partition)

    def members(self) -> list[str]:
        """The group's hosts, and the consumers that have lately shown that they live."""
        consumers = living(self._blobs.all_checkpoints().values(), self._now())
        group = self.document()
        return sorted(consumers.union(group.hosts if group is not None else ()))

    def delete(self) -> None:
        """Delete the group, and all that older topics of the name left in its place.

        Its consumers and hosts are disconnected when they next write or look. Also mends a group
        whose documents are damaged.
        """
        self._blobs.delete()

    # Looking at checkpoints

    def checkpoint(self, partition: int) -> tuple[Checkpoint, str] | None:
        """A partition's checkpoint and its etag; None if it has none."""
        etag, stored = self._blobs.look_at(partition)
        if etag is None or stored is None or not belongs(stored, self.document()):
            return None
        return stored.public(), etag

    def checkpoints(self) -> dict[int, Checkpoint]:
        """The checkpoints of the partitions that have one, in their order."""
        stored = self._blobs.all_checkpoints()
        return {partition: checkpoint.public() for partition, checkpoint in stored.items()}

    # A consumer's

    def claim(self, partition: int, owner: str, start_offset: int) -> tuple[Checkpoint, str]:
        """Make the consumer `owner` the one that reads a partition for the group.

        Whoever did so before is disconnected, unless it came later.

        Args:
            owner: an identity of its own for each consumer there ever is.
            start_offset: where the group begins if it has no checkpoint there yet.

        Returns: the checkpoint, and the etag to hand in next.

        Raises:
            ConsumerDisconnectedError: a host owns the partition, or a later consumer has it.
        """

        def claimed(current: StoredCheckpoint | None, group: GroupDocument) -> StoredCheckpoint:
            now = self._now()
            number = self._numbers[group.group, owner]
            self._refuse_host(partition, group)
            if current is not None and current.consumer > number:
                raise self._disconnected(partition, current.owner)
            stored = current or StoredCheckpoint.first(group, start_offset - 1, now)
            return replace(stored.handed(owner, now), consumer=number, alive_at=now)

        etag, stored = self._blobs.change(partition, claimed, lambda: self._enter(owner))
        self._shown_alive[owner] = stored.alive_at or self._now()
        return stored.public(), etag

    def _enter(self, owner: str) -> GroupDocument:
        """The group, in which `owner` has its number then."""
        return self._blobs.until_done(lambda: self._enter_once(owner))

    def _enter_once(self, owner: str) -> GroupDocument | None:
        etag, group = self._blobs.ensure_group()
        assert group is not None
        if (group.group, owner) in self._numbers:
            return group
        number = group.consumers + 1
        entered = replace(
            group,
            generation=group.generation + 1,
            consumers=number,
            topic_partitions=max(group.topic_partitions, self.topic_partitions),
        )
        if self._blobs.swap_group(etag, entered) is None:
            return None
        self._numbers[group.group, owner] = number
        return entered

    def advance(
        self,
        partition: int,
        owner: str,
        offset: int,
        enqueued_at: datetime | None,
        etag: str,
        *,
        known: int | None = None,
    ) -> str:
        """Say that `owner` has finished all events up to `offset`; nothing if it had.

        Args:
            etag: what the last call about this partition gave.
            known: the offset it must be at, if that matters.

        Returns: the etag to hand in next.

        Raises:
            ConsumerDisconnectedError: `owner` does not read for the group any more.
            CheckpointResetError: a person has reset the group since.
            UnexpectedOffsetError: it is not at `known`.
        """

        def once() -> str | None:
            seen = self._blobs.at(partition, etag)
            current = self._owned(partition, owner, seen, etag)
            if known is not None and known != current.offset:
                raise UnexpectedOffsetError(
                    f"the checkpoint of {self.ids.of(partition)} is at {current.offset}, not "
                    f"{known}",
                    expected=known,
                    actual=current.offset,
                )
            if offset <= current.offset:
                return seen.etag
            now = self._now()
            following = current.notified().moved(offset, enqueued_at, now)
            return self._swap_own(partition, seen.etag, replace(following, alive_at=now))

        return self._blobs.until_done(once)

    def still_mine(self, owner: str, etags: Mapping[int, str]) -> dict[int, str]:
        """Make sure that `owner` still reads all these partitions for the group: one listing.

        Now and then it also writes one of the checkpoints, to show that `owner` lives.

        Args:
            etags: by partition, what the last calls about them gave.

        Returns: the etags to hand in next.

        Raises:
            ConsumerDisconnectedError: it does not.
            CheckpointResetError: a person has reset the group in a partition. There may be more:
                call again.
        """
        listed = self._blobs.etags()
        group = self._blobs.group(listed.get(self.ids.document)).document
        current = {}
        for partition, etag in sorted(etags.items()):
            known = listed.get(self.ids.checkpoint(partition)) == etag
            seen = self._blobs.at(partition, etag if known else None)
            stored = self._owned(partition, owner, seen, etag)
            self._require(stored, partition, group)
            if stored.noticed < stored.reset:  # it was told, and hands in what came with that
                seen = self._blobs.swap(partition, seen.etag, stored.notified()) or seen
            current[partition] = seen.etag or etag
        return self._show_alive(owner, current)

    def _show_alive(self, owner: str, etags: dict[int, str]) -> dict[int, str]:
        """One checkpoint speaks for all of a consumer's: what it costs does not grow with them."""
        now = self._now()
        shown = self._shown_alive.get(owner)
        if not etags or (shown is not None and abs(now - shown) < BEAT_EVERY):
            return etags
        partition = min(etags)
        etag, stored = self._blobs.at(partition, etags[partition])
        if etag != etags[partition] or stored is None:
            return etags  # it has changed just now; the next look finds out how
        swapped = self._swap_own(partition, etag, replace(stored, alive_at=now))
        return etags if swapped is None else {**etags, partition: swapped}

    def release(self, partition: int, owner: str, etag: str) -> None:
        """Say that `owner` reads no more, if it still did. Raises nothing: nobody waits for it."""

        def once() -> bool | None:
            seen = self._blobs.at(partition, etag)
            if seen.document is None or seen.document.owner != owner:
                return True
            left = seen.document.handed(None, self._now_or_later())
            return None if self._blobs.swap(partition, seen.etag, left) is None else True

        with contextlib.suppress(EventLogError):
            self._blobs.until_done(once)

    def _swap_own(self, partition: int, etag: str | None, document: StoredCheckpoint) -> str | None:
        """A swap by the owner, which thereby shows that it lives."""
        swapped = self._blobs.swap(partition, etag, document)
        if swapped is None:
            return None
        if document.owner is not None and document.alive_at is not None:
            self._shown_alive[document.owner] = document.alive_at
        return swapped.etag

    def _owned(
        self, partition: int, owner: str, seen: Seen[StoredCheckpoint], etag: str
    ) -> StoredCheckpoint:
        """The checkpoint as it was seen, if it is that of `owner`, who knew it as of `etag`.

        If it has changed since, that may have been `owner` itself: a lost answer, a transaction.
        Whether there was a reset that `owner` did not notice, the document says.
        """
        stored = seen.document
        if stored is None:
            raise self._deleted()
        if stored.owner != owner:
            raise self._disconnected(partition, stored.owner)
        if seen.etag != etag:
            self._require(stored, partition, self.document())
            if stored.noticed < stored.reset:
                assert seen.etag is not None
                raise CheckpointResetError(partition, stored.public(), seen.etag)
        return stored

    # Others'

    def advance_unowned(
        self, partition: int, offset: int, enqueued_at: datetime | None = None
    ) -> bool:
        """Say that all events up to `offset` are finished, without being consumer or host.

        Returns: whether the checkpoint moved; False if it was at `offset`.

        Raises:
            LeaseLostError: a host owns the partition.
            UnexpectedOffsetError: the checkpoint is beyond `offset`; or a person has reset it under
                a consumer that has not noticed yet, and that may be on whose behalf this is.
        """
        moved = False

        def advanced(current: StoredCheckpoint | None, group: GroupDocument) -> StoredCheckpoint:
            nonlocal moved
            moved, now = False, self._now()  # what an earlier attempt wanted, another may have done
            host = group.owner(partition)
            if host is not None:
                raise LeaseLostError(f"{self.ids.of(partition)} is owned by host {host!r}")
            stored = current or StoredCheckpoint.first(group, -1, now)
            unnoticed = stored.owner is not None and stored.noticed < stored.reset
            if offset < stored.offset or unnoticed:
                why = f"was reset, which {stored.owner!r} has to notice," if unnoticed else "is"
                raise UnexpectedOffsetError(
                    f"the checkpoint of {self.ids.of(partition)} {why} at {stored.offset}: it "
                    f"cannot be moved to {offset}",
                    expected=offset,
                    actual=stored.offset,
                )
            if stored is current and offset == current.offset:
                return current
            moved = True
            if stored.consumer == 0:  # the host that had it last may not know that it lost it
                stored = stored.handed(None, now)
            return stored.moved(offset, enqueued_at, now)

        self._blobs.change(partition, advanced)
        return moved

    def reset(self, starts: Mapping[int, int], *, force: bool = False) -> None:
        """Have the group go on elsewhere.

        An owner that is there keeps its partition, and finds the reset when it next writes or
        looks; one that is gone is forgotten. Last of all the group document says that there was a
        reset: hosts look at that, not at every checkpoint.

        Args:
            starts: by partition, the offset to go on at.
            force: also where a host, or a consumer that lives, owns the partition.

        Raises:
            PreconditionFailedError: one does, and `force` is false. If it did before the call, no
                partition was reset.
        """
        stored = self._blobs.all_checkpoints()
        alive = living(stored.values(), self._now())
        group = self.document()
        if group is not None and not force:
            for partition in sorted(starts):
                self._refuse_user(partition, stored.get(partition), group, alive)
        for partition, start in sorted(starts.items()):
            self._reset(partition, start, alive, force=force)
        self._blobs.until_done(self._announce_reset)

    def _announce_reset(self) -> bool | None:
        etag, group = self._blobs.look_at_group()
        if group is None:
            return True  # it was deleted meanwhile, and its checkpoints with it
        told = replace(group, generation=group.generation + 1, resets=group.resets + 1)
        return None if self._blobs.swap_group(etag, told) is None else True

    def _reset(self, partition: int, start: int, alive: set[str], *, force: bool) -> None:
        def moved(current: StoredCheckpoint | None, group: GroupDocument) -> StoredCheckpoint:
            now = self._now()
            if not force:
                self._refuse_user(partition, current, group, alive)
            stored = current or StoredCheckpoint.first(group, -1, now)
            if self._user(partition, stored, group, alive) is None:
                stored = stored.handed(None, now)
            return replace(stored.moved(start - 1, None, now), reset=stored.reset + 1)

        self._blobs.change(partition, moved)

    def _refuse_user(
        self,
        partition: int,
        stored: StoredCheckpoint | None,
        group: GroupDocument,
        alive: set[str],
    ) -> None:
        user = self._user(partition, stored, group, alive)
        if user is not None:
            raise PreconditionFailedError(
                f"{self.ids.of(partition)} is in use by {user}: stop that first, or force it"
            )

    def _user(
        self,
        partition: int,
        stored: StoredCheckpoint | None,
        group: GroupDocument,
        alive: set[str],
    ) -> str | None:
        """Who reads there now, for a person to read."""
        host = group.owner(partition)
        if host is not None:
            return f"host {host!r}"
        if stored is not None and stored.owner in alive | living([stored], self._now()):
            return f"consumer {stored.owner!r}"
        return None

    # What all of them need; changing what one need not own is `GroupBlobs.change`

    def _now(self) -> datetime:
        return instant(self._clock())

    def _now_or_later(self) -> datetime:
        """The same, for who comes when the log, whose clock it is, was closed already."""
        try:
            return self._now()
        except ClosedError:
            return instant(system_clock())

    def _require(
        self, stored: StoredCheckpoint, partition: int, group: GroupDocument | None
    ) -> None:
        """The group is still there, and no host has taken the partition."""
        if group is None or not belongs(stored, group):
            raise self._deleted()
        self._refuse_host(partition, group)

    def _refuse_host(self, partition: int, group: GroupDocument) -> None:
        host = group.owner(partition)
        if host is not None:
            raise ConsumerDisconnectedError(f"{self.ids.of(partition)} is owned by host {host!r}")

    def _disconnected(self, partition: int, owner: str | None) -> ConsumerDisconnectedError:
        of = self.ids.of(partition)
        if owner is None:
            return ConsumerDisconnectedError(f"another took over {of}, and has left since")
        return ConsumerDisconnectedError(f"{owner!r} reads {of} now")

    def _deleted(self) -> ConsumerDisconnectedError:
        return ConsumerDisconnectedError(
            f"group {self.ids.group!r} of topic {self.ids.topic_name!r} was deleted"
        )
