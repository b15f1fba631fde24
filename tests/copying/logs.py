"""Logs to copy between: with a clock moved by hand, and with offsets that have gaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, cast

import eventlog
from eventlog import Event, EventLog, PartitionInfo, Producer, StoredEvent, Topic
from eventlog.copying import TopicCopy
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.topic import EmbeddedTopic

__all__ = [
    "Clock",
    "Made",
    "contents",
    "copied",
    "gappy_log",
    "numbered",
    "to_the_millisecond",
]

SECOND = 1_000_000
MARKER = b"\0marker\0"


class Clock:
    """Microseconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now_us = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND)


class Made(TopicCopy):
    """A copy, with what it said."""

    def __init__(self, source: Topic, target: EventLog, **options: Any) -> None:
        self.notes: list[str] = []
        super().__init__(source, target, note=self.notes.append, **options)

    def events(self) -> int:
        """Check, run, carry all groups; how many events were copied."""
        self.check()
        count = self.run()
        self.groups = {group.name: group for group in self.carry_groups()}
        return count


def copied(source: Topic, target: EventLog, **options: Any) -> Made:
    """A copy that was made, of which nothing was to be said."""
    copy = Made(source, target, **options)
    copy.events()
    assert copy.notes == []
    return copy


def contents(topic: Topic, *, times: bool = True) -> list[list[tuple[Any, ...]]]:
    """All that is to survive, by partition; not offsets."""
    topic.partition_info(0)
    return [
        [
            (
                event.body,
                type(event.key),
                event.key,
                repr(dict(event.properties)),
                event.enqueued_at if times else None,
            )
            for event in topic.read(partition, max_events=10**6)
        ]
        for partition in range(topic.partitions)
    ]


def to_the_millisecond(found: list[list[tuple[Any, ...]]]) -> list[list[tuple[Any, ...]]]:
    """The same contents, with times as a cluster keeps them."""
    return [
        [(*rest, at.replace(microsecond=at.microsecond // 1000 * 1000)) for *rest, at in partition]
        for partition in found
    ]


# ---- Gaps ----------------------------------------------------------------------------------------


class GappyTopic(EmbeddedTopic):
    """A topic with offsets of no events, as Kafka has them: markers that no reader is given.

    One stands behind each append and each flush of a producer, in the partitions concerned. It has
    no intake, and so takes copies through producers.
    """

    def is_gapless(self) -> bool:
        return False

    def intake(self) -> Any:
        return None

    def append_batch(self, *arguments: Any, **options: Any) -> Any:
        receipts = super().append_batch(*arguments, **options)
        for receipt in receipts:
            self.mark(receipt.partition)
        return receipts

    def mark(self, partition: int, count: int = 1) -> None:
        """Leave offsets out."""
        super().append_batch([MARKER] * count, partition=partition)

    def read(self, partition: int, start: Any = eventlog.EARLIEST, **options: Any) -> Any:
        most = options.pop("max_events", 1000)
        everything = super().read(partition, start, max_events=10**6, **options)
        return real(everything)[:most]

    def partition_info(self, partition: int) -> PartitionInfo:
        info = super().partition_info(partition)
        if any(super().read(partition, max_events=10**6)) and not self.read(partition):
            return info._replace(is_empty=True, last_enqueued_at=None)
        return info

    def producer(self, **options: Any) -> Producer:
        producer = super().producer(**options)
        flush = producer.flush

        def flush_and_mark(*arguments: Any) -> Any:
            flush(*arguments)
            for partition in range(self.partitions):
                self.mark(partition)

        producer.flush = flush_and_mark  # type: ignore[method-assign, assignment]
        return producer

    def consumer(self, **options: Any) -> Any:
        return _GappyConsumer(super().consumer(**options))


def real(events: Sequence[StoredEvent]) -> list[StoredEvent]:
    """Those that are no markers."""
    return [event for event in events if event.body != MARKER]


class _GappyConsumer:
    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def batches(self) -> Iterator[list[StoredEvent]]:
        for events in self._consumer.batches():
            if found := real(events):
                yield found


class GappyLog(EmbeddedLog):
    """A log of such topics."""

    def create_topic(self, *arguments: Any, **options: Any) -> Topic:
        return gappy(super().create_topic(*arguments, **options))

    def topic(self, name: str) -> Topic:
        return gappy(super().topic(name))


def gappy(topic: Topic) -> GappyTopic:
    """The same topic, as one with gaps."""
    topic.__class__ = GappyTopic
    return cast("GappyTopic", topic)


def gappy_log() -> EventLog:
    """A new one in memory."""
    log = eventlog.open("memory:")
    log.__class__ = GappyLog
    return log


def numbered(first: int, behind: int) -> list[Event]:
    """Events that differ."""
    return [Event(f"{number}", key=f"k{number}") for number in range(first, behind)]
