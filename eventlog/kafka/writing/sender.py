"""A producer of librdkafka in the hands of one caller at a time: events go out, offsets come back.

**What is queued as a set is stored as a set.** librdkafka cuts sets out of its queue, as soon as
there is one of the largest number of messages, or when its linger has passed, or when somebody
flushes. Here linger does not pass, and the largest number is the sender's `set_events`. So sets of
that many may be queued one after the other, and go out while the next is queued; a smaller one is
the last, until all is flushed. What comes of that:

- a set of several events needs no transaction to be stored whole or not at all;
- its offsets follow each other, so that only its first and its last message need a callback. One
  for each message costs 2 to 4 us, and takes the interpreter from whoever sends meanwhile;
- what is retried is the same set again, which idempotence takes for what it is.

It holds as long as nobody else queues or flushes, which is why a sender is lent to one caller at a
time (`eventlog.kafka.writing.producers`), and while librdkafka knows the topic: what is queued
before that it hands out anew later. That the offsets do follow each other is looked at each time.

**Queueing is what the rate hangs on.** Nanoseconds for an event of 100 bytes with a key: a loop
that calls `produce` 420, `map` that does 360, `produce_batch` 730 with the dicts that it wants;
with a time and two headers by name 1320, by `map` 900.

**Giving up.** What is not acknowledged in time is purged, and the sender is not used again: after a
purge an idempotent producer of librdkafka accepts nothing more. It is never ``close``d either, but
let go of: ``close`` waits for a transaction that is open, without a time limit.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, Final

from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    KafkaError,
    KafkaException,
    Message,
)

from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import Kind, error_of, kind_of
from eventlog.kafka.forgotten import has_broker
from eventlog.kafka.librdkafka import Producer, let_go, reporting
from eventlog.kafka.location import Settings
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.shipment import SET_EVENTS, Run, Shipment
from eventlog.positions import LAST_INSTANT_US, instant

__all__ = ["PAUSE", "SLICE", "NotSentError", "RestampedError", "Sender", "sending"]

_SENDING: Final[Mapping[str, Any]] = {
    "acks": "all",
    "enable_idempotence": True,
    "linger_ms": 900_000,  # the longest there is; a transaction's must be shorter than itself
    "message_timeout_ms": 0,
    "batch_size": 2**30,
    "queue_buffering_backpressure_threshold": 1,  # one set, then a look whether there is another
    "message_max_bytes": 10**9,
    "queue_buffering_max_messages": 10_000_000,
    "queue_buffering_max_kbytes": 2**21,
    "topic_metadata_propagation_max_ms": 5000,
}
"""How a sender is made: sets are cut by whoever sends, and waiting is limited by whoever waits."""


SLICE: Final = 0.25
"""Seconds that a call of librdkafka takes at most at a time, so that Ctrl-C is heard."""

_LOOK_AFTER: Final = 1.5
"""Seconds without an answer after which somebody looks whether the topic is still there."""

PAUSE: Final = 0.01
_PURGE_SECONDS: Final = 1.0


def sending(settings: Settings, compression: str, set_events: int = SET_EVENTS) -> dict[str, Any]:
    """How a sender is made; `compression` is a topic's, if nobody chose another for all.

    (Event Hubs takes gzip or none.)
    """
    chosen = settings.config.get("compression.type", compression)
    return {**_SENDING, "compression_type": chosen, "batch_num_messages": set_events}


_NOW: Final = 0
"""What librdkafka takes as a time that nobody has chosen."""


class NotSentError(Exception):
    """Some events were not acknowledged.

    Attributes:
        error: librdkafka's.
        maybe: whether some may be stored all the same.
        shipment: what they were part of, if that is known.
    """

    def __init__(
        self, error: KafkaError, *, maybe: bool = False, shipment: Shipment | None = None
    ) -> None:
        super().__init__(error.str())
        self.error = error
        self.maybe = maybe
        self.shipment = shipment


class RestampedError(Exception):
    """Events were to keep the times they have, and a broker gave them its own."""


class _Mark:
    """What is reported of one set."""

    __slots__ = ("end", "error", "first", "last", "milliseconds", "shipment", "stamped", "start")

    def __init__(self, shipment: Shipment, start: int, end: int) -> None:
        self.shipment = shipment
        self.start = start
        self.end = end
        self.error: KafkaError | None = None
        self.first: int | None = None
        self.last: int | None = None
        self.milliseconds = 0
        self.stamped = False

    @reporting
    def on_first(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.first = message.offset()
            kind, self.milliseconds = message.timestamp()
            self.stamped = kind == TIMESTAMP_LOG_APPEND_TIME
        elif self.error is None:
            self.error = error

    @reporting
    def on_last(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.last = message.offset()
        elif self.error is None:
            self.error = error

    @reporting
    def on_only(self, error: KafkaError | None, message: Message) -> None:
        self.on_first(error, message)
        self.last = self.first

    def run(self) -> Run:
        """Where its events stand.

        Raises:
            NotSentError: that cannot be told.
            RestampedError: not at the times they were to keep.
        """
        if self.first is None or self.last != self.first + self.end - self.start - 1:
            inconsistent = KafkaError(
                KafkaError._INCONSISTENT,  # noqa: SLF001 - its name
                f"{self.end - self.start} events went to partition {self.shipment.partition} from "
                f"offset {self.first} to {self.last}: librdkafka did not send them as one set",
            )
            raise NotSentError(inconsistent, maybe=True, shipment=self.shipment)
        if self.stamped and self.shipment.times is not None:
            raise RestampedError
        enqueued_us = min(max(self.milliseconds, 0) * 1000, LAST_INSTANT_US)
        return Run(self.start, self.first, instant(enqueued_us))


class Sender:
    """See the module. Not thread-safe.

    Args:
        set_events: the largest number of messages that librdkafka was told to make a set of.

    Attributes:
        producer: librdkafka's.
        usable: whether it can be used again.
    """

    def __init__(self, producer: Producer, set_events: int = SET_EVENTS) -> None:
        self.producer: Final = producer
        self._set_events: Final = set_events
        self._known: Final[dict[str, int]] = {}
        self._end: KafkaError | None = None
        self.usable = True

    @property
    def has_broker(self) -> bool:
        """Whether it is connected, as far as can be told without waiting."""
        name = next(iter(self._known), None)
        return name is None or has_broker(self.producer, name)

    def send(self, shipments: Sequence[Shipment], errand: Errand) -> None:
        """Send all, and wait until all of it is stored; then the shipments know where.

        Args:
            shipments: no two for the same partition. What an earlier try has told them is void.

        Raises:
            NotSentError: not all of it was acknowledged.
            RestampedError: all was stored, but not at the times it was to keep.
            TopicNotFoundError: a topic was deleted meanwhile.
        """
        whole = False
        for some in shipments:
            some.runs.clear()
        try:
            self._learn(shipments, errand)
            size = self._set_events
            rounds = [_rounds(some.cuts(size), size) for some in shipments]
            for number, cuts in enumerate(itertools.zip_longest(*rounds, fillvalue=())):
                self._send_round(zip(shipments, cuts, strict=True), number, errand)
            whole = True
        finally:
            if not whole:
                self._give_up()

    def _learn(self, shipments: Sequence[Shipment], errand: Errand) -> None:
        """Have librdkafka know the topics, with all their partitions."""
        for record in {some.record.name: some.record for some in shipments}.values():
            while self._known.get(record.name, 0) < record.partitions:
                failure = self._ask(record.name, errand.deadline)
                if self._known.get(record.name, 0) < record.partitions:
                    if errand.deadline.passed or _is_final(failure):
                        raise NotSentError(failure)
                    errand.look()
                    time.sleep(PAUSE)

    def _ask(self, name: str, deadline: Deadline) -> KafkaError:
        """Ask for a topic; what to say if it is not known then."""
        limit = max(min(deadline.left(), _LOOK_AFTER), 0.001)
        try:
            found = self.producer.list_topics(name, timeout=limit).topics[name]
        except KafkaException as error:
            self.poll()
            return error_of(error)
        self._known[name] = len(found.partitions)
        return found.error or KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - its name

    def _send_round(
        self,
        cuts: Iterable[tuple[Shipment, Sequence[tuple[int, int]]]],
        number: int,
        errand: Errand,
    ) -> None:
        """Send sets that can be queued at once."""
        marks = []
        for some, sets in cuts:
            for start, end in sets:
                mark = _Mark(some, start, end)
                marks.append(mark)
                try:
                    self._queue(mark)
                except BufferError:
                    full = KafkaError(KafkaError._QUEUE_FULL)  # noqa: SLF001 - its name
                    raise NotSentError(full, maybe=True, shipment=some) from None
                except KafkaException as error:
                    let_go(error)
                    maybe = number > 0 or len(marks) > 1
                    why = self._why(error_of(error))
                    raise NotSentError(why, maybe=maybe, shipment=some) from None
        failure = self._flush(errand)
        if failure is not None:
            self.purge()
        failed = [mark for mark in marks if mark.error is not None]
        if failed or failure is not None:
            maybe = number > 0 or len(failed) < len(marks) or not all(map(_is_surely_not, failed))
            reason = failure or failed[0].error
            assert reason is not None
            raise NotSentError(reason, maybe=maybe, shipment=failed[0].shipment if failed else None)
        for mark in marks:
            mark.shipment.runs.append(mark.run())

    def _queue(self, mark: _Mark) -> None:
        """Queue one set."""
        some, start, end = mark.shipment, mark.start, mark.end
        produce = self.producer.produce
        topic, partition = some.record.name, some.partition

        def one(row: int, report: Callable[[KafkaError | None, Message], None]) -> None:
            produce(
                topic,
                some.values[row],
                None if some.keys is None else some.keys[row],
                partition,
                on_delivery=report,
                timestamp=_NOW if some.times is None else some.times[row],
                headers=None if some.headers is None else some.headers[row],
            )

        one(start, mark.on_only if end - start == 1 else mark.on_first)
        between = slice(start + 1, end - 1)
        columns = [repeat(topic), some.values[between], _cut_out(some.keys, between)]
        columns.append(repeat(partition))
        if some.times is not None or some.headers is not None:
            columns += repeat(None), repeat(None)  # nothing is to be reported
            columns.append(_cut_out(some.times, between, _NOW))
            columns.append(_cut_out(some.headers, between))
        deque(map(produce, *columns), maxlen=0)
        if end - start > 1:
            one(end - 1, mark.on_last)

    def _flush(self, errand: Errand) -> KafkaError | None:
        """Wait until all that is queued has its outcome; or why it will not have it."""
        look_at = time.monotonic() + _LOOK_AFTER
        try:
            while self.producer.flush(min(errand.deadline.left(), SLICE)):
                if errand.deadline.passed:
                    return KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - its name
                if time.monotonic() >= look_at:
                    errand.look()
                    look_at = time.monotonic() + _LOOK_AFTER
        except KafkaException as error:  # librdkafka broke down
            return error_of(error)
        return None

    def poll(self) -> None:
        """Hear what librdkafka complains of."""
        try:
            self.producer.poll(0)
        except KafkaException as error:
            if error_of(error).fatal():
                self._end = error_of(error)

    def _why(self, error: KafkaError) -> KafkaError:
        """What has ended the producer, if an error says no more than that something has."""
        if error.code() != KafkaError._FATAL:  # noqa: SLF001 - its name
            return error
        self.poll()
        return self._end or error

    def purge(self) -> None:
        """Take back what is queued; what is under way may arrive."""
        with contextlib.suppress(KafkaException):
            self.producer.purge()
        with contextlib.suppress(KafkaException):
            self.producer.flush(_PURGE_SECONDS)

    def _give_up(self) -> None:
        self.usable = False
        self.purge()


def _cut_out(
    column: Sequence[Any] | None, between: slice, otherwise: object = None
) -> Iterable[Any]:
    return repeat(otherwise) if column is None else column[between]


def _rounds(cuts: list[tuple[int, int]], set_events: int) -> list[list[tuple[int, int]]]:
    """Sets that can be queued at once: as many of the largest number as there are, and one more."""
    rounds: list[list[tuple[int, int]]] = [[]]
    for start, end in cuts:
        rounds[-1].append((start, end))
        if end - start < set_events:
            rounds.append([])
    return [some for some in rounds if some]


def _is_final(error: KafkaError) -> bool:
    """Whether it is of no use to ask again."""
    return kind_of(error) not in (Kind.NO_ANSWER, Kind.TOPIC_MISSING)


def _is_surely_not(mark: _Mark) -> bool:
    """Whether nothing of a set is stored: a broker has said no.

    What was taken back out of the queue may have been sent: when a connection breaks before the
    answer, librdkafka queues it again.
    """
    assert mark.error is not None
    return kind_of(mark.error) not in (Kind.NO_ANSWER, Kind.OTHER)
