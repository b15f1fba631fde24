"""One fetch: what is there now, from one place to another, without reading ahead.

A few consumers of librdkafka are kept for that, since to connect takes longer than to fetch. Each
is lent to one fetch at a time, and reads nothing in between.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Spot

from eventlog.consuming.source import ParsedPosition, corrupt, out_of_range
from eventlog.errors import TopicNotFoundError
from eventlog.event import StoredEvent
from eventlog.kafka.cluster import EARLIEST as FIRST
from eventlog.kafka.cluster import LATEST as LAST
from eventlog.kafka.cluster import Spec
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import Kind, is_transient, kind_of
from eventlog.kafka.forgotten import has_broker
from eventlog.kafka.reading.config import COMMON, is_damage, is_of_partition
from eventlog.kafka.reading.positions import offset_for, spec_for
from eventlog.kafka.reading.runs import index_of, offset_of
from eventlog.kafka.records import from_messages

if TYPE_CHECKING:
    from eventlog.kafka.cluster import Cluster
    from eventlog.kafka.librdkafka import Consumer
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["Readers", "read"]

_CONFIG: Final[dict[str, Any]] = {
    **COMMON,
    "fetch_wait_max_ms": 5,  # the end of a partition is told only when a fetch found nothing
    "fetch_message_max_bytes": 2**16,
    "queued_min_messages": 10_000,
    "queued_max_messages_kbytes": 4096,
}

_MOST_IDLE: Final = 4
"""How many consumers are kept that nobody uses."""

_POLL_SECONDS: Final = 0.05
_POLL_MESSAGES: Final = 10_000
_KICK_SECONDS: Final = 0.5


class _Range(NamedTuple):
    """What a caller wants, when it is known where the partition begins and ends.

    Attributes:
        start, stop: the offsets.
        most: at most as many messages.
        max_bytes: enough when the bodies have more bytes than this.
    """

    topic: str
    partition: int
    start: int
    stop: int
    most: int
    max_bytes: int | None


class Readers:
    """Consumers of librdkafka for single fetches. Thread-safe."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._mutex = threading.Lock()
        self._idle: list[Consumer] = []
        self._closed = False

    @contextlib.contextmanager
    def lend(self, topic: str) -> Iterator[Consumer]:
        """One that reads nothing, to read of a topic; it is kept, unless the block raises."""
        self._cluster.check_process()
        consumer = self._idle_one(topic) or self._cluster.consumer(**_CONFIG)
        try:
            yield consumer
        except BaseException:
            consumer.close()
            raise
        with self._mutex:
            if not self._closed and len(self._idle) < _MOST_IDLE:
                self._idle.append(consumer)
                return
        consumer.close()

    def _idle_one(self, topic: str) -> Consumer | None:
        """One that is connected; those that are not are closed: a new one connects as soon."""
        while True:
            with self._mutex:
                if not self._idle:
                    return None
                consumer = self._idle.pop()
            if has_broker(consumer, topic):
                return consumer
            consumer.close()

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they come back."""
        with self._mutex:
            self._closed = True
            idle, self._idle = self._idle, []
        for consumer in idle:
            consumer.close()


def read(  # noqa: PLR0917 - `Topic.read`'s, and the topic
    topic: KafkaTopic,
    partition: int,
    start: ParsedPosition,
    end: ParsedPosition | None,
    max_events: int,
    max_bytes: int | None,
) -> list[StoredEvent]:
    """See `Topic.read`."""
    deadline = Deadline(topic.log.settings.timeout)
    asked: list[tuple[int, Spec]] = [(partition, FIRST), (partition, LAST)]
    asked += [(partition, spec_for(position)) for position in (start, end) if position is not None]
    beginning, following, *answers = topic.log.cluster.offsets(
        topic.name, asked, timeout=deadline.left()
    )
    first = offset_for(topic, partition, start, answers[0], following.offset)
    if not beginning.offset <= first <= following.offset:
        raise out_of_range(topic.name, partition, first, beginning.offset, following.offset)
    stop = following.offset
    if end is not None:
        stop = min(stop, offset_for(topic, partition, end, answers[1], stop))
    if first >= stop:
        return []
    wanted = _Range(topic.name, partition, first, stop, min(max_events, stop - first), max_bytes)
    try:
        messages = _fetched(topic, wanted, deadline)
    except TopicNotFoundError:
        topic.refresh()
        raise
    return from_messages(topic.name, partition, _limited(messages, wanted))


def _fetched(topic: KafkaTopic, wanted: _Range, deadline: Deadline) -> list[Message]:
    """The messages of a range, and perhaps some behind it."""
    with topic.log.fetchers.readers.lend(wanted.topic) as consumer:
        place = Spot(wanted.topic, wanted.partition, wanted.start)
        consumer.incremental_assign([place])
        with contextlib.suppress(KafkaException):  # see `eventlog.kafka.reading.fetcher`
            consumer.get_watermark_offsets(place, timeout=min(_KICK_SECONDS, deadline.left()))
        found: list[Message] = []
        size = 0
        while not (found and _is_enough(found, size, wanted)):
            some = consumer.consume(min(_POLL_MESSAGES, wanted.most - len(found) + 1), 0)
            if not some:
                one = consumer.poll(min(_POLL_SECONDS, deadline.left()))
                some = [] if one is None else [one]
            if any(map(Message.error, some)):
                messages = [one for one in some if one.error() is None]
                found += messages
                if _is_over(topic, wanted, some, found):
                    break
                size += sum(map(len, messages))
            else:
                found += some
                size += sum(map(len, some))
            if not some and deadline.passed:
                raise _error(topic, KafkaError(KafkaError._TIMED_OUT), wanted, deadline)  # noqa: SLF001
        consumer.incremental_unassign([place])
    return found


def _is_enough(found: list[Message], size: int, wanted: _Range) -> bool:
    return (
        len(found) >= wanted.most
        or offset_of(found[-1]) + 1 >= wanted.stop
        or (wanted.max_bytes is not None and size > wanted.max_bytes)
    )


def _is_over(topic: KafkaTopic, wanted: _Range, some: list[Message], found: list[Message]) -> bool:
    """Whether nothing comes any more, as one of them says that is no message.

    Raises:
        Exception: that is an error.
    """
    for message in some:
        error = message.error()
        if error is None or is_transient(error) or not is_of_partition(message):
            continue
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its name
            if (message.offset() or 0) >= wanted.stop:
                return True
        elif found and kind_of(error) is not Kind.TOPIC_MISSING:
            return True  # the next read says so
        elif is_damage(error):
            place = wanted.topic, wanted.partition
            raise corrupt(place, wanted.start, message.offset() or wanted.start, error.str())
        else:
            raise _error(topic, error, wanted, None)
    return False


def _error(
    topic: KafkaTopic, error: KafkaError, wanted: _Range, deadline: Deadline | None
) -> Exception:
    if kind_of(error) is Kind.OUT_OF_RANGE:  # it has expired since
        number = wanted.partition
        beginning, following = topic.log.cluster.offsets(
            wanted.topic, [(number, FIRST), (number, LAST)]
        )
        return out_of_range(wanted.topic, number, wanted.start, beginning.offset, following.offset)
    return topic.log.cluster.error(
        error,
        f"reading partition {wanted.partition} of topic {wanted.topic!r}",
        within=None if deadline is None else deadline.seconds,
        topic=wanted.topic,
        partition=wanted.partition,
    )


def _limited(messages: list[Message], wanted: _Range) -> list[Message]:
    """Those that are wanted."""
    count = min(wanted.most, index_of(messages, wanted.stop))
    if wanted.max_bytes is not None:
        sizes = accumulate(map(len, messages[:count]))
        fitting = sum([1 for size in sizes if size <= wanted.max_bytes])
        count = min(count, max(fitting, 1))
    return messages[:count]
