"""What comes out of one consumer of librdkafka, on its way into lanes.

Whoever has the *turn* may call the consumer, one thread at a time. That is the fetcher's own
thread, which waits for what comes; or that of a reader who wants something: events that a thread
makes for itself are still in its processor's caches, and no other thread has to be given Python's
lock for them. Measured, that is twice as fast.

A reader's thread may be the main one, in which a signal handler may raise an error between any two
steps. What was taken of librdkafka then, and is in no lane yet, would be skipped. So before
anything is taken it is noted that something is *in hand*, and when all of it is in lanes that
nothing is. Where the note still stands nobody takes anything more, until every lane is read again
from where it ends: `Lane.put` adds in one step.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError, Message

from eventlog.consuming.source import corrupt
from eventlog.kafka.failures import Kind, is_transient, kind_of
from eventlog.kafka.reading.config import is_damage, is_of_partition
from eventlog.kafka.reading.lane import Lane
from eventlog.kafka.reading.news import News
from eventlog.kafka.records import Decoded, decoded

if TYPE_CHECKING:
    from eventlog.kafka.cluster import Cluster
    from eventlog.kafka.librdkafka import Consumer

__all__ = ["Drain"]

_POLL_MESSAGES: Final = 250
"""How many messages are taken of librdkafka at a time. They are objects that the garbage collector
counts until events are made of them: it would run all the time if there were more at once."""

_POLLS: Final = 2
"""So many times before readers are told. What is made of more leaves the processor's caches before
it is used; of less, each time costs more."""

_partition: Final[Callable[[Message], int]] = Message.partition  # type: ignore[assignment]
"""Of one that was read, which always has it."""

_logger: Final = logging.getLogger("eventlog")


class Drain:
    """See the module.

    Args:
        consumer: the first one; another may take its place.
        topic: its name.
        wanted: the lanes that are to be read, by partition, under the mutex.

    Attributes:
        turn: who has it may call the consumer, and everything here but `is_free`.
        consumer: which one.
        read: the lanes that librdkafka was told to read for, by partition.
        holder: the thread of a reader that has the turn.
        in_hand: whether messages were taken that are in no lane.
        is_over: whether the consumer was closed.
    """

    def __init__(
        self,
        cluster: Cluster,
        consumer: Consumer,
        topic: str,
        wanted: dict[int, Lane],
        mutex: threading.RLock,
    ) -> None:
        self.turn: Final = threading.Lock()
        self.consumer = consumer
        self.read: Final[dict[int, Lane]] = {}
        self.holder: int | None = None
        self.in_hand = False
        self.is_over = False
        self._cluster = cluster
        self._topic = topic
        self._wanted = wanted
        self._mutex = mutex

    @property
    def is_free(self) -> bool:
        """Whether nobody has the turn, and something can be taken."""
        return not (self.turn.locked() or self.in_hand or self.is_over)

    def take(self, timeout: float) -> bool:
        """Take what has come, or what comes first within so many seconds; whether anything has."""
        self.in_hand = True
        messages = self.consumer.consume(_POLL_MESSAGES, 0)
        if not messages and timeout:
            message = self.consumer.poll(timeout)
            if message is not None:
                messages = [message, *self.consumer.consume(_POLL_MESSAGES, 0)]
        has_come = bool(messages)
        self._take(messages)
        self.in_hand = False
        return has_come

    def _take(self, messages: list[Message]) -> None:
        found: list[tuple[int, Decoded]] = []
        for turn in range(1, _POLLS + 1):
            is_last = turn == _POLLS or len(messages) < _POLL_MESSAGES
            self._decode(messages, found)
            messages.clear()
            if is_last:
                break
            messages = self.consumer.consume(_POLL_MESSAGES, 0)
        self._put(found)

    def _decode(self, messages: list[Message], found: list[tuple[int, Decoded]]) -> None:
        """Find events in messages; errors among them are told when what came before them was."""
        if not any(map(Message.error, messages)):
            self._decode_sound(messages, found)
            return
        for is_error, some in groupby(messages, lambda one: one.error() is not None):
            if not is_error:
                self._decode_sound(list(some), found)
                continue
            self._put(found)
            found.clear()
            for message in some:
                self._take_note(message)

    def _decode_sound(self, messages: list[Message], found: list[tuple[int, Decoded]]) -> None:
        """Find events, by partition."""
        for number, some in self._by_partition(messages):
            try:
                found.append((number, decoded(self._topic, number, some)))
            except Exception as error:  # other partitions are read on
                _logger.exception("reading partition %d of topic %r failed", number, self._topic)
                self._put(found)
                found.clear()
                self._fail_at(number, error)

    def _by_partition(self, messages: list[Message]) -> Iterable[tuple[int, list[Message]]]:
        """Messages that follow each other in one partition; mostly they all do."""
        if not messages:
            return
        number = _partition(messages[0])
        if len(self.read) > 1 or _partition(messages[-1]) != number:
            numbers = list(map(_partition, messages))
            if numbers.count(number) < len(numbers):
                start = 0
                for number, some in groupby(numbers):
                    stop = start + len(list(some))
                    yield number, messages[start:stop]
                    start = stop
                return
        yield number, messages

    def _put(self, found: list[tuple[int, Decoded]]) -> None:
        told: set[News] = set()
        with self._mutex:
            for number, events in found:
                lane = self._lane(number)
                if lane is not None:
                    lane.put(events)
                    told.add(lane.news)
            for news in told:
                news.tell()

    def _lane(self, number: int | None) -> Lane | None:
        """The lane of a partition, unless its reader has left it."""
        lane = None if number is None else self.read.get(number)
        return lane if lane is not None and self._wanted.get(lane.partition) is lane else None

    def _take_note(self, message: Message) -> None:
        """Of what is not a message: an end, or an error."""
        error = message.error()
        assert error is not None
        if not is_of_partition(message):
            return
        with self._mutex:
            lane = self._lane(message.partition())
            if lane is None:
                return
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its name
                lane.news.tell(looked_for=lane.put_end(message.offset() or 0))
                return
            if kind_of(error) is Kind.OUT_OF_RANGE:
                lane.is_expired = True
            elif is_transient(error):
                return  # librdkafka tries again
            else:
                lane.error = self._error(error, lane, message.offset())
            lane.news.tell()

    def _error(self, error: KafkaError, lane: Lane, offset: int | None) -> Exception:
        if is_damage(error):
            at = lane.next if offset is None or offset < lane.next else offset
            return corrupt((self._topic, lane.partition), lane.next, at, error.str())
        return self._cluster.error(
            error,
            f"reading partition {lane.partition} of topic {self._topic!r}",
            topic=self._topic,
            partition=lane.partition,
        )

    def _fail_at(self, number: int, error: Exception) -> None:
        """One lane cannot go on: what comes behind would leave a gap in it."""
        with self._mutex:
            lane = self._lane(number)
            if lane is not None:
                lane.error = error
                del self._wanted[number]
                lane.news.tell()
