"""The documents of one group in a `BlobStore`: looking at them, swapping them, deleting them.

Invariants:

1. Every write is a compare-and-swap on what was read, and no two writes are equal. So a swap whose
   answer was lost is recognised by reading back what was to be written, byte for byte.
2. A group is there as long as its group document is. What else is found in its place counts only
   if it names that group: what a deletion did not find, or was killed before it found, is nothing.
3. What belongs to another topic of the same name counts as absent, and is replaced only by who has
   made sure that its own topic is the one that is there.

What this module deliberately does not do: know who may change a checkpoint; that is
`eventlog.groups.checkpoints`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from msgspec.structs import replace

from eventlog.blobs import NOT_MODIFIED, BlobStore
from eventlog.errors import PreconditionFailedError
from eventlog.groups import steps
from eventlog.groups.documents import (
    GroupDocument,
    GroupIds,
    StoredCheckpoint,
    decode,
    encode,
    group_id_of,
    new_revision,
)
from eventlog.groups.steps import perform

__all__ = ["GroupBlobs", "Seen", "always_there", "belongs", "pause_a_moment", "system_clock"]

ATTEMPTS: Final = 20
"""How often a change is tried that others come before."""

T = TypeVar("T")
D = TypeVar("D", StoredCheckpoint, GroupDocument)


def system_clock() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def always_there() -> None:
    """A topic that is not looked at."""


def pause_a_moment(repetition: int) -> None:
    """Wait, at random and longer each time, so that those who collide do not keep doing so."""
    time.sleep(random.uniform(0, min(0.002 * 2**repetition, 0.5)))  # noqa: S311 - no secret


class Seen(NamedTuple, Generic[D]):
    """A blob as it was seen.

    Attributes:
        etag: None if there was none.
        document: None also if it belongs to another topic.
    """

    etag: str | None
    document: D | None


class GroupBlobs:
    """Remembers what it has seen, so as not to read it again. Thread-safe."""

    def __init__(
        self,
        blobs: BlobStore,
        ids: GroupIds,
        pause: Callable[[int], object],
        require_topic: Callable[[], object],
    ) -> None:
        self.ids = ids
        self._blobs = blobs
        self._pause = pause
        self._require_topic = require_topic
        self._group: Seen[GroupDocument] = Seen(None, None)
        self._checkpoints: dict[int, Seen[StoredCheckpoint]] = {}

    # The group document

    def look_at_group(self) -> Seen[GroupDocument]:
        """The group document as it is now."""
        seen = self._group = self._look(self.ids.document, GroupDocument, self._group)
        return seen

    def group(self, etag: str | None) -> Seen[GroupDocument]:
        """The one with that etag, if it was seen; otherwise the one that is there now."""
        seen = self._group
        return seen if etag is not None and seen.etag == etag else self.look_at_group()

    def ensure_group(self) -> Seen[GroupDocument]:
        """The group document, made if it was not there."""
        return self.until_done(self._ensure_once)

    def _ensure_once(self) -> Seen[GroupDocument] | None:
        seen = self.look_at_group()
        if seen.document is not None:
            return seen
        self._require_topic()  # after the look: if it is there now, what was seen is older
        return self.swap_group(seen.etag, GroupDocument.first(self.ids))

    def swap_group(self, etag: str | None, document: GroupDocument) -> Seen[GroupDocument] | None:
        """Put it in place of the one with that etag; None if that is not there any more."""
        document = replace(document, revision=new_revision())
        swapped = self._swap(self.ids.document, etag, encode(document))
        if swapped is None:
            return None
        seen = self._group = Seen(swapped, document)
        return seen

    # Checkpoints

    def look_at(self, partition: int) -> Seen[StoredCheckpoint]:
        """A partition's checkpoint as it is now; it may be one of a deleted group."""
        before = self._checkpoints.get(partition, Seen[StoredCheckpoint](None, None))
        seen = self._look(self.ids.checkpoint(partition), StoredCheckpoint, before)
        self._checkpoints[partition] = seen
        return seen

    def at(self, partition: int, etag: str | None) -> Seen[StoredCheckpoint]:
        """The one with that etag, if it was seen; otherwise the one that is there now."""
        seen = self._checkpoints.get(partition)
        if seen is not None and etag is not None and seen.etag == etag:
            return seen
        return self.look_at(partition)

    def all_checkpoints(self) -> dict[int, StoredCheckpoint]:
        """The group's checkpoints by partition: a listing, and reading what is not known yet."""
        found = {}
        for name, etag in self._blobs.list(self.ids.checkpoints):
            partition = self.ids.partition(name)
            if partition is not None:
                found[partition] = self.at(partition, etag).document
        group = self.look_at_group().document
        return {
            partition: stored
            for partition, stored in sorted(found.items())
            if stored is not None and belongs(stored, group)
        }

    def swap(
        self, partition: int, etag: str | None, document: StoredCheckpoint
    ) -> Seen[StoredCheckpoint] | None:
        """Put it in place of the one with that etag; None if that is not there any more."""
        self._checkpoints.pop(partition, None)
        document = replace(document, revision=new_revision())
        swapped = self._swap(self.ids.checkpoint(partition), etag, encode(document))
        if swapped is None:
            return None
        seen = self._checkpoints[partition] = Seen(swapped, document)
        return seen

    def change(
        self,
        partition: int,
        decide: Callable[[StoredCheckpoint | None, GroupDocument], StoredCheckpoint],
        enter: Callable[[], GroupDocument] | None = None,
    ) -> tuple[str, StoredCheckpoint]:
        """Change a checkpoint, or make it, as one that need not own it.

        The order of looking, and why, stands in `eventlog.groups.checkpoints`.

        Args:
            decide: gives what it shall be, from what it is and the group; or refuses.
            enter: gives the group.
        """

        def once() -> tuple[str, StoredCheckpoint] | None:
            etag, current = self.look_at(partition)
            group = enter() if enter is not None else self.ensure_group().document
            assert group is not None
            if current is not None and not belongs(current, group):
                current = None
            wanted = decide(current, group)
            if wanted is current and etag is not None:
                return etag, wanted
            swapped = self.swap(partition, etag, wanted)
            if swapped is None or not belongs(wanted, self.look_at_group().document):
                return None
            assert swapped.etag is not None
            return swapped.etag, wanted

        return self.until_done(once)

    def etags(self) -> dict[str, str]:
        """The etags of all documents in the group's place, by their names."""
        return dict(self._blobs.list(self.ids.place))

    # All of them

    def delete(self) -> None:
        """Delete the group, and all that older topics of the name left in its place.

        Its consumers and hosts are disconnected when they next write or look. Also mends a group
        whose documents are damaged.
        """
        self._require_topic()
        self.until_done(self._delete_group)
        self.until_done(self._sweep)

    def _delete_group(self) -> bool | None:
        """From here on there is no such group, and what is left of it counts as absent."""
        blob = self._blobs.get(self.ids.document)
        if blob is None or blob is NOT_MODIFIED:
            return True
        return self._delete_blob(self.ids.document, blob.etag)

    def _sweep(self) -> bool | None:
        """Delete what is left, but nothing of a group that was made since.

        The listing comes first, and what it has seen is deleted only if it did not change since:
        what belongs to a newer group was written after that group's document.
        """
        listed = self._blobs.list(self.ids.place)
        newer = self._group_id(self.ids.document)
        clean = True
        for name, etag in listed:
            if name == self.ids.document or (newer is not None and self._group_id(name) == newer):
                continue
            clean = self._delete_blob(name, etag) is not None and clean
        return clean or None

    def _delete_blob(self, name: str, etag: str) -> bool | None:
        try:
            self._blobs.delete(name, if_match=etag)
        except PreconditionFailedError:
            return None
        return True

    def _group_id(self, name: str) -> str | None:
        blob = self._blobs.get(name)
        return None if blob is None or blob is NOT_MODIFIED else group_id_of(blob.data)

    # The store

    def until_done(self, once: Callable[[], T | None]) -> T:
        """Repeat `once` until it gives something.

        The first repetition comes at once: inside a write transaction, where nobody comes in
        between, there is no other.
        """
        for repetition in range(ATTEMPTS):
            if repetition > 1:
                self._pause(repetition - 1)
            done = once()
            if done is not None:
                return done
        raise PreconditionFailedError(
            f"others changed group {self.ids.group!r} of topic {self.ids.topic_name!r} each of "
            f"{ATTEMPTS} times that it was tried"
        )

    def _look(self, name: str, kind: type[D], before: Seen[D]) -> Seen[D]:
        blob = self._blobs.get(name, if_none_match=before.etag)
        if blob is NOT_MODIFIED:
            return before
        if blob is None:
            return Seen(None, None)
        return Seen(blob.etag, decode(name, blob.data, kind, self.ids))

    def _swap(self, name: str, etag: str | None, data: bytes) -> str | None:
        """Write `data` in place of what had `etag`, or where nothing was; None if it was lost."""
        return perform(steps.swap(name, etag, data), self._blobs)


def belongs(stored: StoredCheckpoint, group: GroupDocument | None) -> bool:
    """Whether a checkpoint is of that group, not of one that was deleted."""
    return group is not None and stored.group == group.group
