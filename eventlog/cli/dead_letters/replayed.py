"""Which dead letters were replayed: remembered as surely as what they were replayed to is stored.

``dead-letters/<log id>/<topic>/<partition>.json``, a document for each partition of a dead-letter
topic, holds the offsets that were replayed, as ranges. Each original is appended once: whenever the
command is killed, however often it is repeated, whoever does so at the same time, and in whatever
order letters are chosen. (A checkpoint of a group, or the sequence of a producer, could not say the
last: they only know up to where.)

Not every engine can commit a document with events; but all of them can commit a checkpoint. So
whoever replays takes a *turn*, a number that no attempt before it had, and

1. reads the document, and then where the checkpoint of a group is that only this module uses;
2. moves that to its turn, in the transaction;
3. puts the document with its turn and its offsets, *attempted*, in place of what it read: at once,
   or in the transaction, as the engine does;
4. commits, and puts the document with its offsets among those that were replayed.

So of an attempt in the document, the checkpoint tells: at its turn, it was committed; beyond it,
never will be, since transactions that move one checkpoint exclude each other, and one that was
committed before 1 is seen there; before it, nobody knows yet. Then it stays in the document, and
whoever wants the same letters may try: one of the two is committed. (After a week a cluster may
forget where a checkpoint is: who was killed within 4, and comes back later, replays again.)

What has expired is forgotten: it cannot be replayed any more. A topic made anew under the name
begins without.
"""

from __future__ import annotations

import contextlib
import functools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

import msgspec

from eventlog import EventLog, EventLogError, Topic
from eventlog.blobs import NOT_MODIFIED, BlobStore
from eventlog.cli.stores import own_store
from eventlog.groups.blobs import GroupBlobs, always_there, pause_a_moment
from eventlog.groups.checkpoints import GroupStore
from eventlog.groups.documents import GroupDocument, GroupIds, StoredCheckpoint, new_revision

__all__ = [
    "AlreadyReplayedError",
    "Replayed",
    "Replaying",
    "memory",
    "merged",
    "replayed_text",
    "was_replayed",
]

Ranges: TypeAlias = Sequence[tuple[int, int]]
"""First and last offsets, in order; neighbours are one range."""

_GROUP: Final = "-dead-letters"
"""No group that people name has this name."""


class AlreadyReplayedError(Exception):
    """Somebody else has replayed some of them just now; nothing was appended."""


class _Attempt(msgspec.Struct, kw_only=True):
    """What a transaction was to replay."""

    turn: int
    offsets: list[tuple[int, int]]


class _Document(msgspec.Struct, kw_only=True):
    """What is stored."""

    log: str
    topic: str
    partition: int
    replayed: list[tuple[int, int]]
    attempts: list[_Attempt] = []
    revision: str


_decode: Final = msgspec.json.Decoder(_Document).decode
_encode: Final = msgspec.json.Encoder().encode


class Replayed:
    """What was replayed of a partition, as last seen.

    Args:
        topic: the dead-letter topic.
        partition: which.
        store: where it is remembered; checkpoints there must join transactions of the log.

    Raises:
        EventLogError: the document is damaged.
    """

    def __init__(self, topic: Topic, partition: int, store: BlobStore) -> None:
        self._topic = topic
        self._partition = partition
        self._store = store
        self._ids = GroupIds(topic.log.id, topic.name, topic.id, _GROUP)
        self._name: Final = f"dead-letters/{topic.log.id}/{topic.name}/{partition}.json"
        self._ranges: Ranges = ()
        self.look()

    def __contains__(self, offset: int) -> bool:
        behind = bisect_right(self._ranges, offset, key=itemgetter(0))
        return behind > 0 and offset <= self._ranges[behind - 1][1]

    def look(self) -> None:
        """See what it is now."""
        self._beginning = self._topic.partition_info(self._partition).beginning_offset
        self._judge(self._read(self._store)[0], self._turn())

    def _turn(self) -> int:
        found = GroupStore(self._store, self._ids).checkpoint(self._partition)
        return -1 if found is None else found[0].offset

    def replaying(self, offsets: Sequence[int], *, again: bool) -> Replaying:
        """What has a transaction remember these, and fail if one was replayed, unless `again`."""
        return Replaying(self, offsets, again=again)

    def attempt(self, blobs: BlobStore, offsets: Sequence[int], *, again: bool) -> None:
        """Note what is to be replayed; inside the commit that appends it.

        Raises:
            AlreadyReplayedError: one of them was replayed, and `again` is false.
        """
        document, etag = self._read(blobs)
        turn = self._take_turn(blobs, max((one.turn for one in document.attempts), default=-1))
        unknown = self._judge(document, turn.before)
        if not again and any(offset in self for offset in offsets):
            raise AlreadyReplayedError
        mine = _Attempt(turn=turn.mine, offsets=list(merged((), offsets)))
        self._put(blobs, etag, [*unknown, mine])

    def _take_turn(self, blobs: BlobStore, last: int) -> _Turn:
        """Move the checkpoint to a turn behind the last one."""
        before = -1

        def moved(current: StoredCheckpoint | None, group: GroupDocument) -> StoredCheckpoint:
            nonlocal before
            now = datetime.now(UTC)
            stored = current or StoredCheckpoint.first(group, -1, now)
            before = stored.offset
            return stored.moved(max(before, last) + 1, None, now)

        _, stored = GroupBlobs(blobs, self._ids, pause_a_moment, always_there).change(
            self._partition, moved
        )
        return _Turn(before, stored.offset)

    def _judge(self, document: _Document, turn: int) -> list[_Attempt]:
        """What was replayed, now that the turn is known; the attempts of which nobody knows."""
        done = [one for one in document.attempts if one.turn == turn]
        offsets = (n for one in done for first, last in one.offsets for n in range(first, last + 1))
        self._ranges = list(merged(document.replayed, offsets))
        return [one for one in document.attempts if one.turn > turn]

    def committed(self) -> None:
        """The last attempt was committed: say so, if that can be done. If not, its turn says it."""
        with contextlib.suppress(EventLogError):
            document, etag = self._read(self._store)
            self._put(self._store, etag, self._judge(document, self._turn()))

    def _put(self, blobs: BlobStore, etag: str | None, attempts: list[_Attempt]) -> None:
        document = _Document(
            log=self._topic.log.id,
            topic=self._topic.id,
            partition=self._partition,
            replayed=[one for one in self._ranges if one[1] >= self._beginning],
            attempts=attempts,
            revision=new_revision(),
        )
        blobs.put(self._name, _encode(document), if_match=etag, if_absent=etag is None)

    def _read(self, blobs: BlobStore) -> tuple[_Document, str | None]:
        """What is stored, and its etag, if there is anything."""
        log, topic = self._topic.log.id, self._topic.id
        nothing = _Document(
            log=log, topic=topic, partition=self._partition, replayed=[], revision=""
        )
        blob = blobs.get(self._name)
        if blob is None or blob is NOT_MODIFIED:
            return nothing, None
        try:
            document = _decode(blob.data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise EventLogError(
                f"the blob {self._name!r} does not say what was replayed: {error}; mend it, or "
                "remove it, and then all can be replayed again"
            ) from error
        return (document if document.topic == topic else nothing), blob.etag


class _Turn(NamedTuple):
    before: int
    mine: int


def memory(log: EventLog, store_url: str | None) -> BlobStore:
    """Where it is remembered: in the log itself, or in the store of one that can hold no blobs.

    Raises:
        Failure: no store was named, and one is needed.
    """
    if log.own_blobs is not None:
        return log.own_blobs
    return own_store(log) if store_url is None else log.store(store_url)


def was_replayed(topic: Topic, store_url: str | None) -> Callable[[int, int], bool | None]:
    """Tells of the letter at a partition and an offset whether it was replayed.

    None if nobody knows, since that is remembered in a store that was not named.
    """
    if topic.log.own_blobs is None and store_url is None:
        return lambda _partition, _offset: None
    store = memory(topic.log, store_url)
    partitions = functools.cache(functools.partial(Replayed, topic, store=store))
    return lambda partition, offset: offset in partitions(partition)


def replayed_text(replayed: bool | None) -> str:  # noqa: FBT001
    """What `was_replayed` tells, for people."""
    return "-" if replayed is None else "yes" if replayed else "no"


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
        self._replayed.attempt(blobs, self._offsets, again=self._again)

    def committed(self) -> None:
        """See `Fence.committed`."""
        self._replayed.committed()

    def failed(self) -> None:
        """See `Participant.failed`. Whether it failed, the next look finds out."""


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
