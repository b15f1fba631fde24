"""What a log holds at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from eventlog import EventLog, OffsetOutOfRangeError, StoredEvent, Topic
from eventlog.blobs import BlobStore
from eventlog.positions import microseconds

__all__ = [
    "LogContents",
    "PartitionContents",
    "Stored",
    "body_of",
    "label_of",
    "name_of",
    "read_log",
]

_END_OF_LABEL = "\n"


def body_of(label: str, filler: bytes = b"") -> bytes:
    """The body of the event with that label."""
    return f"{label}{_END_OF_LABEL}".encode() + filler


def label_of(body: bytes) -> str:
    """The inverse."""
    return body.partition(_END_OF_LABEL.encode())[0].decode(errors="replace")


def name_of(topic: Topic) -> str:
    """What records call a topic: a new topic of an old name is another one."""
    return f"{topic.name}#{topic.id}"


class Stored(NamedTuple):
    """An event as it was found."""

    offset: int
    label: str
    enqueued_us: int = 0


class PartitionContents(NamedTuple):
    """A partition as it was found.

    Attributes:
        beginning: the first offset that could be read.
        next_offset: the offset that the next event would get.
        events: all that could be read, in the order in which they were.
        keeps: whether the topic keeps events for ever.
    """

    beginning: int
    next_offset: int
    events: list[Stored]
    keeps: bool = True


class LogContents(NamedTuple):
    """A log as it was found.

    Attributes:
        partitions: by topic and partition.
        checkpoints: by topic, group and partition; -1 for a group that has finished nothing.
    """

    partitions: Mapping[tuple[str, int], PartitionContents]
    checkpoints: Mapping[tuple[str, str, int], int] = {}


def read_log(log: EventLog, *stores: BlobStore) -> LogContents:
    """All topics and groups of a log that nobody writes to any more; groups in other stores too."""
    partitions = {}
    checkpoints = {}
    for topic in log.topics():
        for partition in range(topic.partitions):
            partitions[name_of(topic), partition] = _read_partition(topic, partition)
        for store in (log.blobs, *stores):
            for group in topic.groups(store):
                for partition, checkpoint in group.checkpoints().items():
                    checkpoints[name_of(topic), group.name, partition] = checkpoint.offset
    return LogContents(partitions, checkpoints)


def _read_partition(topic: Topic, partition: int) -> PartitionContents:
    events = [
        Stored(event.offset, label_of(event.body), microseconds(event.enqueued_at))
        for event in _events(topic, partition)
    ]
    info = topic.partition_info(partition)
    return PartitionContents(
        beginning=events[0].offset if events else info.beginning_offset,
        next_offset=info.next_offset,
        events=events,
        keeps=topic.retention is None and topic.retention_bytes is None,
    )


def _events(topic: Topic, partition: int) -> Iterator[StoredEvent]:
    """Fetch by fetch. What expires between two fetches was there to be read, and is gone."""
    at = topic.partition_info(partition).beginning_offset
    begun = False
    while True:
        try:
            events = topic.read(partition, at, max_events=5000)
        except OffsetOutOfRangeError as error:
            assert not begun, "events expired while they were read: read the log when it is at rest"
            at = error.beginning_offset
            continue
        if not events:
            return
        begun = True
        yield from events
        at = events[-1].offset + 1
