"""What an engine gives a `Consumer` to read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from eventlog.errors import CorruptBatchError, OffsetOutOfRangeError
from eventlog.event import StoredEvent
from eventlog.positions import Anchor

if TYPE_CHECKING:
    from eventlog.transaction import Transaction
    from eventlog.waiting import Watch

__all__ = [
    "Found",
    "Look",
    "LostRange",
    "ParsedPosition",
    "Request",
    "Run",
    "Source",
    "Span",
    "Wanted",
    "corrupt",
    "out_of_range",
]

ParsedPosition: TypeAlias = Anchor | int | datetime
"""What `eventlog.positions.parse` makes of a position."""


class LostRange(NamedTuple):
    """Events of a partition, `first` to `last`, that expired before a consumer read them."""

    partition: int
    first: int
    last: int

    @property
    def events(self) -> int:
        """How many they were."""
        return self.last - self.first + 1


class Span(NamedTuple):
    """A partition at one moment, and what the positions asked for stand for then.

    Attributes:
        beginning_offset: the first offset that can be read; `next_offset` if none can.
        next_offset: the offset the next event will get.
        start: the offset of the start that was asked for, whether that is there or not.
        end: that of the end; None if none was asked for.
    """

    beginning_offset: int
    next_offset: int
    start: int
    end: int | None


class Run(Protocol):
    """Events of one partition that follow each other.

    They were enqueued at one time, unless it was said that this does not matter. They may not be
    decoded yet: what waits in a buffer costs least as it was stored.
    """

    @property
    def first(self) -> int:
        """The offset of its first event."""

    @property
    def stop(self) -> int:
        """The offset behind its last one."""

    @property
    def enqueued_us(self) -> int:
        """When the last of them was enqueued, in microseconds since 1970."""

    @property
    def size(self) -> int:
        """At least as many bytes as the bodies have."""

    def events(self) -> list[StoredEvent]:
        """The events, in a new list each time.

        Raises:
            CorruptBatchError: they do not check out.
        """


class Wanted(NamedTuple):
    """What is wanted of a partition: events from `offset` on, before `stop` if that is given."""

    partition: int
    offset: int
    stop: int | None


class Request(NamedTuple):
    """What a look is for.

    Attributes:
        wanted: in the order in which it matters.
        share: at most as many bytes of each partition.
        max_bytes: at most as many of all: the rest is left for the next look.
        each: of every partition that has any at least one event, whatever the two say; otherwise
            only of the first one.
        by_time: whether the events of a run must all have been enqueued at one time.
        hurried: whether the reader has other events meanwhile. An engine that would have to wait
            for what is wanted may say that it comes late.
    """

    wanted: Sequence[Wanted]
    share: int
    max_bytes: int
    each: bool
    by_time: bool = False
    hurried: bool = False


class Found(NamedTuple):
    """What a look found of one partition.

    Attributes:
        begin: where the runs begin: the offset asked for, or a later one if that has expired.
        runs: one after the other, without gaps but for those that the engine makes itself.
        failure: what stands behind the runs if it is damaged.
        at_end: whether nothing was there behind the runs.
        late: whether that is not known yet. What the reader watches tells when something has come.
    """

    begin: int
    runs: Sequence[Run]
    failure: CorruptBatchError | None
    at_end: bool
    late: bool = False


class Look(NamedTuple):
    """What a look found.

    Attributes:
        partitions: how many the topic has.
        found: by partition; those not in it were not looked at, for want of room.
    """

    partitions: int
    found: Mapping[int, Found]


class Source(Protocol):
    """Where a consumer's events come from; given by the engine. Thread-safe.

    But for `name`, `brief_bytes`, `check_open` and `now_us` its methods may block.
    """

    @property
    def name(self) -> str:
        """The topic's."""

    @property
    def brief_bytes(self) -> int:
        """How many bytes can be fetched on an event loop, sooner than a thread would be woken for
        it; 0 if a fetch may wait for others.
        """

    def check_open(self) -> None:
        """Nothing, while the log is open.

        Raises:
            ClosedError: it was closed.
        """

    def now_us(self) -> int:
        """The log's clock: microseconds since 1970."""

    def partitions(self) -> int:
        """How many partitions the topic has now.

        Raises:
            TopicNotFoundError: it was deleted.
        """

    def resolve(
        self,
        starts: Mapping[int, ParsedPosition],
        ends: Mapping[int, ParsedPosition],
    ) -> dict[int, Span]:
        """What positions stand for, in one look; for every partition that has a start.

        Raises:
            PartitionNotFoundError, TopicNotFoundError: there is none, or none any more.
        """

    def fetch(self, request: Request) -> Look:
        """Events, in one look.

        Raises:
            TopicNotFoundError: it was deleted.
        """

    def transaction(self) -> Transaction:
        """A transaction of the log, that the group's checkpoints can join.

        Raises:
            UnsupportedOperationError: they cannot.
        """

    def watch(self, partitions: Sequence[int]) -> Watch:
        """What tells of events appended to these partitions, and of changes to the topic."""


def out_of_range(
    topic: str, partition: int, offset: int, beginning: int, next_offset: int
) -> OffsetOutOfRangeError:
    """The error for an offset outside of what a partition has."""
    if beginning < next_offset:
        there = f"has offsets {beginning} to {next_offset - 1}"
    else:
        there = "is empty"
    return OffsetOutOfRangeError(
        f"partition {partition} of topic {topic!r} {there} and goes on at {next_offset}: there is "
        f"no offset {offset}",
        offset=offset,
        beginning_offset=beginning,
        next_offset=next_offset,
    )


def corrupt(place: tuple[str, int], first: int, last: int, reason: str) -> CorruptBatchError:
    """The error for a batch that does not check out; `place` is its topic and partition."""
    topic, partition = place
    return CorruptBatchError(
        f"topic {topic!r}, partition {partition}, offsets {first} to {last}: {reason}; "
        f"reading can go on at {last + 1}",
        topic=topic,
        partition=partition,
        first_offset=first,
        last_offset=last,
    )
