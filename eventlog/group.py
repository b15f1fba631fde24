"""`ConsumerGroup`: how far a group is in a topic, and moving it; what people and tools ask for.

Stands on the public contract of `Topic` and on the documents of `eventlog.groups`. Reading for
a group is not here: that is a consumer's, or a host's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from eventlog.blobs import NOT_MODIFIED
from eventlog.errors import CorruptBatchError, EventLogError, OffsetOutOfRangeError
from eventlog.groups.blobs import system_clock
from eventlog.groups.checkpoints import Checkpoint, GroupIds, GroupStore
from eventlog.groups.documents import GroupDocument, decode, group_of, groups_place
from eventlog.names import check_name
from eventlog.positions import EARLIEST, Anchor, Position, PositionMap, instant, of_partition, parse

if TYPE_CHECKING:
    from eventlog.aio import AsyncGroup
    from eventlog.blobs import BlobStore
    from eventlog.log import PartitionInfo, Topic

__all__ = ["ConsumerGroup", "Lag", "group_store", "groups_of"]


class Lag(NamedTuple):
    """What a group has not finished of a partition.

    Attributes:
        events: how many events it has not finished and can still read.
        seconds: the age of the oldest of them; 0 if there is none.
    """

    events: int
    seconds: float


def group_store(
    topic: Topic, name: str, blobs: BlobStore, *, clock: Callable[[], int] = system_clock
) -> GroupStore:
    """The documents of a topic's group.

    Raises:
        InvalidNameError: no group can have that name.
    """
    ids = GroupIds(topic.log.id, topic.name, topic.id, check_name(name, "group"))
    return GroupStore(blobs, ids, clock, require_topic=lambda: topic.partition_info(0))


class ConsumerGroup:
    """An independent view of a topic, with its own checkpoints. Thread-safe.

    It appears with its first consumer, host, checkpoint or reset; asking for it makes nothing, and
    a group that is not there has no checkpoints and no members.

    Every method may raise what the topic and the store raise, and an `EventLogError` that names
    the blob if a document of the group is damaged.

    Args:
        topic: of which topic.
        name: as names of topics are.
        store: where its documents are.
        clock: gives microseconds since 1970, by which events have their age.

    Raises:
        InvalidNameError: no group can have that name.
    """

    def __init__(
        self,
        topic: Topic,
        name: str,
        store: BlobStore,
        *,
        clock: Callable[[], int] = system_clock,
    ) -> None:
        self._topic = topic
        self._clock = clock
        self._store = group_store(topic, name, store, clock=clock)

    def __repr__(self) -> str:
        return f"<ConsumerGroup {self.name!r} of topic {self._topic.name!r}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._store.ids.group

    @property
    def aio(self) -> AsyncGroup:
        """The same methods as coroutines."""
        from eventlog.aio import AsyncGroup

        return AsyncGroup(self)

    def checkpoints(self) -> dict[int, Checkpoint]:
        """How far it is, by partition; without those it never began."""
        return self._store.checkpoints()

    def members(self) -> list[str]:
        """The hosts of the group; and its consumers, from their start until they are closed.

        A consumer that was killed counts for up to 30 seconds longer.
        """
        return self._store.members()

    def lag(self) -> dict[int, Lag]:
        """What it has not finished, by partition; of all partitions.

        Where it has no checkpoint everything counts that can be read.
        """
        finished = self._store.checkpoints()  # first: the topic only grows meanwhile
        self._topic.partition_info(0)  # now it knows partitions that others have added
        return {
            partition: self._lag(partition, finished.get(partition))
            for partition in range(self._topic.partitions)
        }

    def _lag(self, partition: int, finished: Checkpoint | None) -> Lag:
        info = self._topic.partition_info(partition)
        start = info.beginning_offset
        if finished is not None:
            start = max(start, finished.offset + 1)
        oldest = self._enqueued_at(partition, start, info)
        if oldest is None:
            return Lag(0, 0.0)
        age = instant(self._clock()) - oldest
        return Lag(info.next_offset - start, max(age.total_seconds(), 0.0))

    def _enqueued_at(self, partition: int, start: int, info: PartitionInfo) -> datetime | None:
        """The time of the first event from `start` on that can be read; if none can, the last's.

        None if there is none: there may be nothing but gaps.
        """
        if start >= info.next_offset:
            return None
        while start < info.next_offset:
            try:
                events = self._topic.read(partition, start, max_events=1)
            except CorruptBatchError as error:
                start = error.last_offset + 1
            except OffsetOutOfRangeError as error:  # it has expired since
                start = max(error.beginning_offset, start + 1)
            else:
                return events[0].enqueued_at if events else None
        assert info.last_enqueued_at is not None
        return info.last_enqueued_at

    def reset(
        self,
        position: Position | PositionMap,
        partitions: Iterable[int] | None = None,
        force: bool = False,  # noqa: FBT001, FBT002 - the public contract has it so
    ) -> None:
        """Have the group go on at `position`, where it is and where it never began.

        What the position means is found out now, once. Where a consumer or host owns a partition
        and `force` is true, it goes on there by itself, soon after.

        Args:
            position: where to; by partition, if it is a mapping.
            partitions: which; otherwise those of the mapping, or all.
            force: also where a host, or a consumer that lives, owns the partition.

        Raises:
            PreconditionFailedError: one does, and `force` is false. Unless it came just now, no
                partition was reset.
            OffsetOutOfRangeError: there is no such offset. No partition was reset.
            PartitionNotFoundError: there is no such partition. None was reset.
            ValueError, TypeError: it is no position, or the mapping leaves a partition out.
        """
        now_us = self._clock()
        starts = {
            partition: self._start(partition, position, now_us)
            for partition in self._partitions(position, partitions)
        }
        self._store.reset(starts, force=force)

    def _partitions(
        self, position: Position | PositionMap, partitions: Iterable[int] | None
    ) -> list[int]:
        if partitions is not None:
            return list(dict.fromkeys(partitions))
        if isinstance(position, Mapping):
            return list(position)
        self._topic.partition_info(0)  # now it knows partitions that others have added
        return list(range(self._topic.partitions))

    def _start(self, partition: int, position: Position | PositionMap, now_us: int) -> int:
        """The offset that a position means in a partition."""
        given = of_partition(position, partition, None)
        if given is None and isinstance(position, Mapping):
            raise ValueError(f"the mapping has no position for partition {partition}")
        parsed = parse(given, now_us)
        if isinstance(parsed, datetime):
            return self._topic.offset_at(partition, parsed)
        info = self._topic.partition_info(partition)
        if isinstance(parsed, Anchor):
            return info.beginning_offset if parsed is EARLIEST else info.next_offset
        self._topic.read(partition, parsed, end=EARLIEST)  # reads nothing, but refuses a wrong one
        return parsed

    def delete(self) -> None:
        """Delete the group: all it has finished is forgotten.

        Whoever reads for it is disconnected when it next checkpoints, or soon after. A group that
        is not there is no error.
        """
        self._store.delete()


def groups_of(
    topic: Topic, store: BlobStore, *, clock: Callable[[], int] = system_clock
) -> list[ConsumerGroup]:
    """The groups of a topic that are there, in the order of their names.

    One whose document is damaged is among them, so that it is seen, and can be deleted.
    """
    place = groups_place(topic.log.id, topic.name)
    names = (group_of(name, topic.log.id, topic.name) for name, _ in store.list(place))
    return [
        ConsumerGroup(topic, name, store, clock=clock)
        for name in sorted(name for name in names if name is not None)
        if _is_there(GroupIds(topic.log.id, topic.name, topic.id, name), store)
    ]


def _is_there(ids: GroupIds, store: BlobStore) -> bool:
    """Whether a group's document is there, and is not that of an older topic's group."""
    blob = store.get(ids.document)
    if blob is None or blob is NOT_MODIFIED:
        return False
    try:
        return decode(ids.document, blob.data, GroupDocument, ids) is not None
    except EventLogError:
        return True
