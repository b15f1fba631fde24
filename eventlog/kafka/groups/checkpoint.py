"""A checkpoint on a Kafka cluster: its document, and the offset beside it.

Pure functions, and whose turn it is. How the two stay together stands in `eventlog.kafka.groups`.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from eventlog.blobs import Blob
from eventlog.errors import PreconditionFailedError
from eventlog.groups.documents import Instant, StoredCheckpoint, encode, new_revision

__all__ = [
    "CommittedOffset",
    "Metadata",
    "Offsets",
    "Owner",
    "Place",
    "Producers",
    "Published",
    "Seen",
    "Turns",
    "counted",
    "decode_checkpoint",
    "decode_metadata",
    "document_of",
    "encode_metadata",
    "kafka_group",
    "moved_on",
    "of_base",
    "owner_of",
]

_SEPARATOR: Final = "~"
"""Between the etag of a document and the offset that it is seen with."""

_MAX_METADATA_BYTES: Final = 4096

Owner: TypeAlias = tuple[object, ...]


class CommittedOffset(NamedTuple):
    """What a Kafka group has committed of a partition."""

    next_offset: int
    metadata: str


class Offsets(Protocol):
    """Where offsets of Kafka's groups are read."""

    def committed(
        self,
        group: str,
        topic: str,
        partitions: Sequence[int],
        *,
        timeout: float | None = None,
        stable: bool = True,
    ) -> dict[int, CommittedOffset]:
        """By partition; those that have none are left out. Blocks.

        Args:
            timeout: seconds.
            stable: only when no transaction is under way there any more.

        Raises:
            LogBusyError: not in time.
        """


class Published(Protocol):
    """Where checkpoints are shown to Kafka's own tools."""

    def note(self, place: Place, document: StoredCheckpoint) -> None:
        """A checkpoint is there now. Does not block, and raises nothing."""


class Producers(Protocol):
    """Transactional producers, as far as checkpoints are concerned. All of it may block."""

    def is_prepared(self, transactional_id: str, owner: str) -> bool:
        """Whether the one is ready that was made when `owner` was prepared."""

    def prepare(self, transactional_id: str, owner: str, *, hold: bool = False) -> object:
        """Have one ready, made since that name was first given here. It is lent to who names it.

        Args:
            hold: see `hold`.
        """

    def hold(self, transactional_id: str, owner: str) -> bool:
        """Keep the one that is ready for `owner`, until it is released as often; if there is one.

        Others may still fence it.
        """

    def release(self, transactional_id: str, owner: str) -> object:
        """Hold it once less."""

    def fence(self, transactional_id: str) -> object:
        """Abort what is open under that id, and shut out whoever has it."""


class Place(NamedTuple):
    """Whose checkpoint a blob is."""

    topic: str
    group: str
    partition: int


def kafka_group(name: str, group: str) -> str:
    """The Kafka group whose offsets are the checkpoints that a group's transactions have made.

    The name is for people: groups of one name may be in several stores, and of several topics. The
    id, from the group's documents, tells them apart. And the Kafka group of the mere name is
    anybody's: other clients may be in it, people reset it.
    """
    return f"eventlog.group.{name}.{group}"


class Metadata(msgspec.Struct, frozen=True):
    """What an offset is committed with.

    Attributes:
        group: the id of the group, from its document.
        reset: how many resets its owner knew of.
        enqueued_at: of the last event that was finished.
        updated_at: when it was.
    """

    group: str
    reset: int
    enqueued_at: Instant | None = None
    updated_at: Instant | None = None


decode_metadata: Final = msgspec.json.Decoder(Metadata).decode
decode_checkpoint: Final = msgspec.json.Decoder(StoredCheckpoint).decode
encode_metadata: Final = msgspec.json.Encoder().encode


def document_of(blob: Blob) -> StoredCheckpoint | None:
    """What is in a blob; None if that is no checkpoint."""
    try:
        return decode_checkpoint(blob.data)
    except msgspec.DecodeError:
        return None


class Seen(NamedTuple):
    """A checkpoint's document as it is in the store, and the offset beside it.

    Attributes:
        is_own: whether this process has written this version of the document: as long as it is
            there nobody else commits offsets.
        is_certain: whether `committed` is what it has committed last.
    """

    blob: Blob
    document: StoredCheckpoint
    committed: CommittedOffset | None = None
    is_own: bool = False
    is_certain: bool = False

    def shown(self) -> StoredCheckpoint:
        """The document as its owner's transactions have moved it, without what is for fencing."""
        at = counted(self.committed, self.document)
        return moved_on(replace(self.document, producers=UNSET), at)

    def merged(self) -> Blob:
        """What is shown of it."""
        if not self.document.producers:
            return self.blob
        at = counted(self.committed, self.document)
        etag = f"{self.blob.etag}{_SEPARATOR}{'' if at is None else at.next_offset}"
        return Blob(self.blob.name, encode(self.shown()), etag, self.blob.modified_at)

    def renewed(self) -> StoredCheckpoint:
        """The document, to be put once more."""
        return replace(self.document, revision=new_revision())

    def stayed(self, offset: int) -> Seen:
        """Itself.

        Raises:
            PreconditionFailedError: the document is not at that offset.
        """
        if self.document.offset != offset:
            raise PreconditionFailedError(
                f"a transaction has moved {self.blob.name!r} meanwhile, which has ended now"
            )
        return self


def counted(
    committed: CommittedOffset | None, document: StoredCheckpoint
) -> CommittedOffset | None:
    """The offset, if the document names producers, and it is of this group and this reset."""
    if committed is None or not (document.producers or document.to_fence):
        return None
    if len(committed.metadata) > _MAX_METADATA_BYTES:
        return None
    try:
        metadata = decode_metadata(committed.metadata)
    except msgspec.DecodeError:
        return None
    same = (metadata.group, metadata.reset) == (document.group, document.reset)
    return committed if same else None


def moved_on(document: StoredCheckpoint, at: CommittedOffset | None) -> StoredCheckpoint:
    """The document, moved to that offset if it is further."""
    if at is None or at.next_offset - 1 <= document.offset:
        return document
    metadata = decode_metadata(at.metadata)
    updated_at = max(document.updated_at, metadata.updated_at or document.updated_at)
    return document.advanced(at.next_offset - 1, metadata.enqueued_at, updated_at)


class Turns:
    """Who of this process is between its look at a checkpoint and its commit. Thread-safe.

    Not a lock: who comes second is refused, and comes again. Who was let go of without an end
    holds up nobody.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._turns: Counter[str] = Counter()
        self._taken: weakref.WeakValueDictionary[tuple[str, Owner], object] = (
            weakref.WeakValueDictionary()
        )

    def now(self, name: str) -> int:
        """To be asked before the look."""
        return self._turns[name]

    def begin(self, name: str, owner: Owner, who: object, since: int) -> None:
        """It is the turn of `who`, if nobody's has begun or ended since.

        Raises:
            PreconditionFailedError: one has.
        """
        with self._mutex:
            if self._turns[name] != since or self._taken.get((name, owner), who) is not who:
                raise PreconditionFailedError(
                    f"another transaction of this process has moved {name!r} meanwhile, or is "
                    "about to"
                )
            self._turns[name] += 1
            self._taken[name, owner] = who

    def end(self, who: object) -> None:
        """It is over, if it was."""
        with self._mutex:
            for (name, owner), other in list(self._taken.items()):
                if other is who:
                    self._turns[name] += 1
                    del self._taken[name, owner]


def owner_of(document: StoredCheckpoint) -> Owner:
    """Which owner it is, for good."""
    return document.owner, document.epoch, document.consumer, document.group


def of_base(etag: str | None) -> str | None:
    """The etag of the document in that of a checkpoint."""
    return etag.partition(_SEPARATOR)[0] if isinstance(etag, str) else etag
