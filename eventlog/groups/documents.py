"""The documents of a consumer group: what is in them, their names, and their JSON.

Under ``groups/<log id>/<topic>/<group>/`` in a `BlobStore`:

``group.json``
    A `GroupDocument`: which hosts there are, and which of them owns which partition.
``checkpoints/<partition>.json``
    A `StoredCheckpoint`: how far the group is in a partition, and who reads there.
``hosts/<member>.json``
    A `HostDocument`: the heartbeat of a host. That it changes is what others go by; what it says
    is for people.

Every document names the log, the topic and the group it belongs to by their ids. The place is made
of names, for people; the ids tell a topic or a group that was deleted from the one made since
under the same name: what belongs to the former counts as absent.

Structs and functions: nothing here does input or output, or asks a clock. Nor does it judge whether
a document makes sense among others, only whether it is one.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from eventlog.errors import EventLogError, InvalidNameError
from eventlog.names import check_name

__all__ = [
    "MAX_COUNT",
    "Checkpoint",
    "CheckpointResetError",
    "GroupDocument",
    "GroupIds",
    "HostDocument",
    "Share",
    "StoredCheckpoint",
    "decode",
    "encode",
    "group_id_of",
    "group_of",
    "groups_place",
    "living",
    "new_revision",
]

MAX_OWNER_CHARACTERS: Final = 1024

MAX_COUNT: Final = 2**63 - 1

Owner = Annotated[str, Meta(min_length=1, max_length=MAX_OWNER_CHARACTERS)]
Count = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
LastOffset = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
Instant = Annotated[datetime, Meta(tz=True)]
Ids = Annotated[tuple[Owner, ...], Meta(max_length=1000)]

LIVING: Final = timedelta(seconds=30)
"""For how long it is believed that a consumer lives. That keeps people from resetting under it, and
no more: nothing else depends on it, nor on whose clock is right."""

_PARTITION: Final = re.compile(r"0|[1-9][0-9]{0,5}")


class Checkpoint(Struct, frozen=True):
    """How far a group is in one partition.

    Attributes:
        offset: the last event that was finished; the group goes on behind it. -1: it begins at 0.
        enqueued_at: when that event was enqueued, if whoever finished it said so.
        epoch: counts the hosts that owned the partition; a fencing token.
        owner: the consumer or host that reads here, or did last and could not say that it left.
        updated_at: when the group last moved, or changed hands.
        reset: how often a person has moved it.
        crashes, attempts: what hosts note about an event that kills its process.
    """

    offset: LastOffset
    enqueued_at: Instant | None
    epoch: Count
    owner: Owner | None
    updated_at: Instant
    reset: Count
    crashes: Count
    attempts: Count


class StoredCheckpoint(Checkpoint, frozen=True, kw_only=True):
    """A `Checkpoint` as it is stored.

    Attributes:
        noticed: up to which `reset` the owner has taken notice.
        consumer: number of the consumer that owns it, see `GroupDocument.consumers`; 0 if none
            does.
        alive_at: when that consumer last showed that it lives; None if there is none.
        opened: at which offset the host that owns it began; None if no host does.
        attempted: the event that `attempts` counts for.
        alone_until: events before this offset are handled one at a time, since a batch of them
            ended its process; 0 if none are.
        producers, to_fence: on engines whose transactions commit checkpoints by themselves, which
            producers of the owner's may do so, and of former owners'; see `eventlog.kafka.groups`.
        revision: another one with every write; see `new_revision`.
        log, topic, group: ids of what it belongs to.
    """

    noticed: Count = 0
    consumer: Count = 0
    alive_at: Instant | None = None
    opened: LastOffset | None = None
    attempted: Count | None = None
    alone_until: Count = 0
    producers: Ids | msgspec.UnsetType = msgspec.UNSET
    to_fence: Ids | msgspec.UnsetType = msgspec.UNSET
    revision: str = ""
    log: str
    topic: str
    group: str

    @classmethod
    def first(cls, group: GroupDocument, offset: int, now: datetime) -> StoredCheckpoint:
        """The first one of a partition."""
        return cls(
            offset=offset,
            enqueued_at=None,
            epoch=0,
            owner=None,
            updated_at=now,
            reset=0,
            crashes=0,
            attempts=0,
            log=group.log,
            topic=group.topic,
            group=group.group,
        )

    def moved(self, offset: int, enqueued_at: datetime | None, now: datetime) -> StoredCheckpoint:
        """To another offset; what hosts noted about the events behind this one goes."""
        return replace(
            self,
            offset=offset,
            enqueued_at=enqueued_at,
            updated_at=now,
            crashes=0,
            attempts=0,
            opened=None,
            attempted=None,
            alone_until=0,
        )

    def advanced(
        self, offset: int, enqueued_at: datetime | None, now: datetime
    ) -> StoredCheckpoint:
        """To a later offset, by the host that owns it.

        What was noted about events that end their process goes when those are behind it.
        """
        assert offset > self.offset
        survived = self.attempted is None or offset >= self.attempted
        alone = offset + 1 < self.alone_until
        return replace(
            self,
            offset=offset,
            enqueued_at=enqueued_at,
            updated_at=now,
            noticed=self.reset,
            crashes=self.crashes if alone else 0,
            attempts=0 if survived else self.attempts,
            attempted=None if survived else self.attempted,
            alone_until=self.alone_until if alone else 0,
        )

    def notified(self) -> StoredCheckpoint:
        """With its owner knowing of all resets."""
        return self if self.noticed == self.reset else replace(self, noticed=self.reset)

    def handed(self, owner: str | None, now: datetime) -> StoredCheckpoint:
        """To another owner, who begins where it is and so has missed no reset."""
        known = self.notified()
        return replace(known, owner=owner, updated_at=now, consumer=0, alive_at=None, opened=None)

    def public(self) -> Checkpoint:
        """What of it is for users."""
        return Checkpoint(*(getattr(self, name) for name in Checkpoint.__struct_fields__))


class CheckpointResetError(Exception):
    """A person has reset the group: its reader goes on behind ``checkpoint.offset``.

    Attributes:
        partition: whose checkpoint it was.
        checkpoint: what it is now.
        etag: what to hand in next, which says that the reset was noticed.
    """

    def __init__(self, partition: int, checkpoint: Checkpoint, etag: str) -> None:
        super().__init__(f"partition {partition} was reset to {checkpoint.offset + 1}")
        self.partition = partition
        self.checkpoint = checkpoint
        self.etag = etag


class Share(Struct, frozen=True):
    """A partition in the group document.

    Attributes:
        owner: the host that owns it, if one does.
        epoch: grows by one with each change of owner.
        next: the host it is to be handed over to.
    """

    owner: Owner | None = None
    epoch: Count = 0
    next: Owner | None = None


class GroupDocument(Struct, frozen=True, kw_only=True):
    """What hosts agree on: who there is, and who owns what.

    Attributes:
        generation: grows with every change of the document.
        lease_duration: seconds, as the first host set it; None if there was none yet.
        consumers: how many consumers have come so far. Each gets the next number; of two that want
            a partition, the one with the higher number has come later, and gets it.
        topic_partitions: how many partitions the topic had when a consumer last came; those that it
            has beyond were added since, and begin at their beginning.
        hosts: names of the members.
        leaving: those of them that stop: they give away what they own, and get nothing more.
        partitions: who owns what; a partition that no host ever owned may be missing.
        resets: how often people have reset checkpoints of the group: hosts look at theirs then.
        revision: another one with every write; see `new_revision`.
        log, topic, group: ids. The group's is random, made with the document.
    """

    generation: Count
    lease_duration: float | None = None
    consumers: Count = 0
    topic_partitions: Count = 0
    hosts: list[Owner] = []
    leaving: list[Owner] = []
    partitions: dict[Count, Share] = {}
    resets: Count = 0
    revision: str = ""
    log: str
    topic: str
    group: str

    @classmethod
    def first(cls, ids: GroupIds) -> GroupDocument:
        """The one of a group that was not there."""
        return cls(
            generation=0,
            revision=new_revision(),
            log=ids.log,
            topic=ids.topic_id,
            group=secrets.token_hex(8),
        )

    def owner(self, partition: int) -> str | None:
        """The host that owns a partition."""
        share = self.partitions.get(partition)
        return None if share is None else share.owner


class HostDocument(Struct, frozen=True, kw_only=True):
    """A host's heartbeat.

    Attributes:
        host: the member: its name, and what is random in it.
        machine, process: where it runs.
        beat: how many there were.
        started_at, beat_at: by that machine's clock.
        revision: another one with every write; see `new_revision`.
        log, topic, group: ids of what it belongs to.
    """

    host: Owner
    machine: str
    process: int
    beat: Count
    started_at: Instant
    beat_at: Instant
    revision: str = ""
    log: str
    topic: str
    group: str


class GroupIds(NamedTuple):
    """Which group of which topic of which log: names for the place, ids for what is in it."""

    log: str
    topic_name: str
    topic_id: str
    group: str

    @property
    def place(self) -> str:
        """What the names of all its documents begin with."""
        return f"{groups_place(self.log, self.topic_name)}{self.group}/"

    @property
    def document(self) -> str:
        """The name of the group document."""
        return f"{self.place}group.json"

    @property
    def checkpoints(self) -> str:
        """What the names of its checkpoints begin with."""
        return f"{self.place}checkpoints/"

    def checkpoint(self, partition: int) -> str:
        """The name of a partition's checkpoint."""
        return f"{self.checkpoints}{partition}.json"

    @property
    def hosts(self) -> str:
        """What the names of its heartbeats begin with."""
        return f"{self.place}hosts/"

    def heartbeat(self, member: str) -> str:
        """The name of a member's heartbeat."""
        return f"{self.hosts}{member}.json"

    def member(self, name: str) -> str | None:
        """The inverse of `heartbeat`; None for the name of anything else."""
        place = self.hosts
        if not (name.startswith(place) and name.endswith(".json")):
            return None
        return name[len(place) : -len(".json")] or None

    def of(self, partition: int) -> str:
        """What people call a partition of the group."""
        return f"partition {partition} of topic {self.topic_name!r} in group {self.group!r}"

    def partition(self, name: str) -> int | None:
        """The inverse of `checkpoint`; None for the name of anything else."""
        number = name.removeprefix(self.checkpoints).removesuffix(".json")
        if not _PARTITION.fullmatch(number) or name != self.checkpoint(int(number)):
            return None
        return int(number)


def groups_place(log: str, topic_name: str) -> str:
    """What the names of all documents of a topic's groups begin with."""
    return f"groups/{log}/{topic_name}/"


def group_of(name: str, log: str, topic_name: str) -> str | None:
    """The group whose document has that name; None for the name of anything else."""
    group, _, last = name.removeprefix(groups_place(log, topic_name)).rpartition("/")
    if last != "group.json":
        return None
    try:
        return check_name(group, "group")
    except InvalidNameError:
        return None


def living(stored: Iterable[StoredCheckpoint], now: datetime) -> set[str]:
    """The consumers among the owners that have lately shown that they live."""
    return {
        one.owner
        for one in stored
        if one.owner is not None and one.alive_at is not None and abs(now - one.alive_at) < LIVING
    }


D = TypeVar("D", StoredCheckpoint, GroupDocument, HostDocument)

# Made here, since msgspec crashes if two threads are the first to decode a type at the same time.
_decoders: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (StoredCheckpoint, GroupDocument, HostDocument)
}


def encode(document: StoredCheckpoint | GroupDocument | HostDocument) -> bytes:
    """Its JSON, as a person can read it."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def decode(name: str, data: bytes, kind: type[D], ids: GroupIds) -> D | None:
    """The document in a blob; None if it belongs to another topic, of the same name.

    Raises:
        EventLogError: it is none, or belongs to another log.
    """
    try:
        document: D = _decoders[kind].decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EventLogError(
            f"the blob {name!r} is no document of a consumer group: {error}; mend it, or delete "
            f"group {ids.group!r} of topic {ids.topic_name!r}"
        ) from error
    if document.log != ids.log:
        raise EventLogError(
            f"the blob {name!r} belongs to log {document.log!r:.100}, not to {ids.log!r}"
        )
    return document if document.topic == ids.topic_id else None


def new_revision() -> str:
    """What makes a write unlike every other, in a few random digits.

    So who reads back what it wrote knows it from what another wrote at the same time, to the same
    effect; and no etag comes back on a store that computes it from the content.
    """
    return secrets.token_hex(4)


def group_id_of(data: bytes) -> str | None:
    """The id of the group that a document of any kind belongs to; None if it does not say."""
    try:
        found = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    group = found.get("group") if isinstance(found, Mapping) else None
    return group if isinstance(group, str) else None
