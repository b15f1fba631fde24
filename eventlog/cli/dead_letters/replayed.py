"""Which dead letters were replayed: remembered in the log, in the transaction that replays them.

``dead-letters/<log id>/<topic>/<partition>.json`` in the log's own store, a document for each
partition of a dead-letter topic, holds the offsets that were replayed, as ranges. Since it changes
in the commit that appends the originals, each is appended once: whenever the command is killed,
however often it is repeated, whoever does so at the same time, and in whatever order letters are
chosen. (A checkpoint of a group, or the sequence of a producer, could not say the last: they only
know up to where.)

What has expired is forgotten: it cannot be replayed any more. A topic made anew under the name
begins without.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Final, TypeAlias

import msgspec

from eventlog import EventLogError, Topic
from eventlog.blobs import NOT_MODIFIED, BlobStore
from eventlog.groups.documents import new_revision

__all__ = ["AlreadyReplayedError", "Replayed", "Replaying", "merged"]

Ranges: TypeAlias = Sequence[tuple[int, int]]
"""First and last offsets, in order; neighbours are one range."""


class AlreadyReplayedError(Exception):
    """Somebody else has replayed some of them just now; nothing was appended."""


class _Document(msgspec.Struct, kw_only=True):
    """What is stored."""

    log: str
    topic: str
    partition: int
    replayed: list[tuple[int, int]]
    revision: str


_decode: Final = msgspec.json.Decoder(_Document).decode
_encode: Final = msgspec.json.Encoder().encode


class Replayed:
    """What was replayed of a partition, as last seen.

    Args:
        topic: the dead-letter topic.
        partition: which.

    Raises:
        EventLogError: the document is damaged.
    """

    def __init__(self, topic: Topic, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._name: Final = f"dead-letters/{topic.log.id}/{topic.name}/{partition}.json"
        self._ranges: Ranges = ()
        self.look()

    def __contains__(self, offset: int) -> bool:
        behind = bisect_right(self._ranges, offset, key=itemgetter(0))
        return behind > 0 and offset <= self._ranges[behind - 1][1]

    def look(self) -> None:
        """See what it is now."""
        self._beginning = self._topic.partition_info(self._partition).beginning_offset
        self._ranges, _ = self._read(self._topic.log.blobs)

    def replaying(self, offsets: Sequence[int], *, again: bool) -> Replaying:
        """What has a transaction remember these, and fail if one was replayed, unless `again`."""
        return Replaying(self, offsets, again=again)

    def store(self, blobs: BlobStore, offsets: Sequence[int], *, again: bool) -> None:
        """Remember more; inside the commit that appends them.

        Raises:
            AlreadyReplayedError: one of them was replayed, and `again` is false.
        """
        self._ranges, etag = self._read(blobs)
        if not again and any(offset in self for offset in offsets):
            raise AlreadyReplayedError
        document = _Document(
            log=self._topic.log.id,
            topic=self._topic.id,
            partition=self._partition,
            replayed=[one for one in merged(self._ranges, offsets) if one[1] >= self._beginning],
            revision=new_revision(),
        )
        blobs.put(self._name, _encode(document), if_match=etag, if_absent=etag is None)

    def _read(self, blobs: BlobStore) -> tuple[Ranges, str | None]:
        """What is stored, and its etag, if there is anything."""
        blob = blobs.get(self._name)
        if blob is None or blob is NOT_MODIFIED:
            return (), None
        try:
            document = _decode(blob.data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EventLogError(
                f"the blob {self._name!r} does not say what was replayed: {error}; mend it, or "
                "remove it, and then all can be replayed again"
            ) from error
        return (document.replayed if document.topic == self._topic.id else ()), blob.etag


class Replaying:
    """Takes part in a transaction: see `eventlog.transaction.Participant`, and `Fence`."""

    def __init__(self, replayed: Replayed, offsets: Sequence[int], *, again: bool) -> None:
        self._replayed = replayed
        self._offsets = offsets
        self._again = again

    def fence(self) -> Replaying:
        """See `Participant.fence`."""
        return self

    def check(self, blobs: BlobStore) -> None:
        """See `Fence.check`."""
        self._replayed.store(blobs, self._offsets, again=self._again)

    def committed(self) -> None:
        """See `Fence.committed`. The next look finds it."""

    def failed(self) -> None:
        """See `Participant.failed`. Nothing was remembered."""


def merged(ranges: Ranges, offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The ranges that have these offsets too."""
    begun: tuple[int, int] | None = None
    for first, last in sorted(chain(ranges, ((offset, offset) for offset in offsets))):
        if begun is not None and first <= begun[1] + 1:
            begun = begun[0], max(begun[1], last)
            continue
        if begun is not None:
            yield begun
        begun = first, last
    if begun is not None:
        yield begun
