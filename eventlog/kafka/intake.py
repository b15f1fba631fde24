"""What copies of topics are stored through on a cluster: with the times they have.

A step of a copy is one transaction of a named producer (`eventlog.kafka.writing.named`): its events
with their times, and how far the copy came. Kafka's times are milliseconds. See
`eventlog.kafka.stamping` for what becomes of the topic meanwhile.

Behind each transaction Kafka leaves a mark, of the time when that was. Therefore what is looked for
by its time is not found by Kafka alone (`eventlog.kafka.reading.positions`), and retention, which
goes by the latest time in a segment of the log, counts from the copy.

A broker that has not heard yet that it is not to stamp any more, or was told to by a copy that
ended meanwhile, does so; then the transaction is aborted and done once more.

What this module deliberately does not do: keep others from appending while a copy is made. Their
events have the times of their clocks, and what is copied behind those may be older.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property
from itertools import accumulate, chain, groupby, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from eventlog.errors import EventLogError, LogBusyError
from eventlog.event import StoredEvent
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import rounded
from eventlog.kafka.records import all_headers
from eventlog.kafka.stamping import Stamping
from eventlog.kafka.topic_record import TopicRecord
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.named import NamedProducer
from eventlog.kafka.writing.sender import PAUSE, RestampedError
from eventlog.kafka.writing.shipment import Shipment
from eventlog.positions import microseconds
from eventlog.producing.intake import Inlet, Intake, Taken

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["KafkaIntake"]

_RESOLUTION: Final = timedelta(milliseconds=1)
_EARLIEST_MS: Final = 1  # librdkafka takes 0 for "now"
_body_of: Final = attrgetter("body")
_key_of: Final = attrgetter("key")
_properties_of: Final = attrgetter("properties")
_enqueued_at_of: Final = attrgetter("enqueued_at")


class KafkaIntake(Intake):
    """See `Intake`."""

    def __init__(self, topic: KafkaTopic) -> None:
        topic.log.refuse_reader()
        self._topic = topic
        self._stamping = Stamping(topic)
        self._begun = False

    @cached_property
    def resolution(self) -> timedelta | None:
        """See `Intake`."""
        return _RESOLUTION if self._stamping.can_be_kept() else None

    def last_sequence(self, name: str) -> int:
        return NamedProducer(self._topic, name).last_sequence()

    def open(self, name: str, partition: int) -> Inlet:
        number = self._topic.partition(partition)
        if self.resolution is None:
            return KafkaInlet(self._topic, name, number, None)
        if not self._begun:
            self._begun = True
            self._stamping.keep()
        return KafkaInlet(self._topic, name, number, self._stamping)

    def finish(self) -> None:
        self._stamping.stamp()
        self._begun = False

    def close(self) -> None:
        if self._begun:
            with contextlib.suppress(EventLogError):  # the next copy's `finish` does it, too
                self.finish()


class KafkaInlet(Inlet):
    """See `Inlet`.

    Args:
        stamping: None if events do not keep their times.
    """

    def __init__(
        self, topic: KafkaTopic, name: str, partition: int, stamping: Stamping | None
    ) -> None:
        self._topic = topic
        self._partition = partition
        self._stamping = stamping
        self._producer = NamedProducer(topic, name)
        self._identity = self._producer.register()
        self._latest_ms = _EARLIEST_MS
        last = None if stamping is None else topic.last_event(partition)
        if last is not None:
            self._latest_ms = max(_milliseconds(last.enqueued_at), _EARLIEST_MS)

    @property
    def last_sequence(self) -> int:
        return self._identity.last_sequence

    def store(self, events: Sequence[StoredEvent]) -> Taken:
        last = events[-1].offset
        assert last > self._identity.last_sequence
        errand = Errand(
            f"copying to partition {self._partition} of topic {self._topic.name!r}",
            Deadline(self._topic.log.settings.lock_timeout),
            [self._topic],
        )
        times = None if self._stamping is None else self._times(events)
        record = errand.state_of(self._topic).record
        while True:
            shipment = _shipment(record, self._partition, events, times)
            try:
                self._producer.store([shipment], self._identity, last, errand)
                break
            except RestampedError:
                self._ask_again(errand)
        self._identity = self._identity._replace(last_sequence=last)
        if times is not None:
            self._latest_ms = times[-1]
        return Taken(shipment.runs[0].offset, shipment.end - 1)

    def _times(self, events: Sequence[StoredEvent]) -> list[int]:
        """The times of events, in milliseconds; none before the one before it."""
        given = chain.from_iterable(
            repeat(_milliseconds(enqueued_at), len(list(some)))
            for enqueued_at, some in groupby(map(_enqueued_at_of, events))
        )
        return list(accumulate(given, max, initial=self._latest_ms))[1:]

    def _ask_again(self, errand: Errand) -> None:
        """Have the brokers leave times as they are."""
        assert self._stamping is not None
        if errand.deadline.passed:
            within = rounded(errand.deadline.seconds)
            raise LogBusyError(
                f"{errand.doing}: within {within:g} s the brokers went on to give events times of "
                "their own, as another copy that ended has told them: try again"
            )
        self._stamping.keep()
        time.sleep(PAUSE)

    def close(self) -> None:
        self._producer.close()


def _shipment(
    record: TopicRecord, partition: int, events: Sequence[StoredEvent], times: Sequence[int] | None
) -> Shipment:
    """Events that were stored before, and so need not be checked."""
    keys = list(map(_key_of, events))
    properties = list(map(_properties_of, events))
    return Shipment(
        record,
        partition,
        list(map(_body_of, events)),
        None if keys.count(None) == len(keys) else keys,
        all_headers(properties) if any(properties) else None,
        times=times,
    )


def _milliseconds(when: datetime) -> int:
    return microseconds(when) // 1000
