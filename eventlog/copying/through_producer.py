"""Storing a copy where the engine offers no intake: through producers with names, at new times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from eventlog.event import StoredEvent
from eventlog.log import Topic
from eventlog.producing.intake import Inlet, Intake, Taken

__all__ = ["ProducerIntake"]

_LINGER_SECONDS: Final = 60.0
_MOST_EVENTS: Final = 2**20
_MOST_BYTES: Final = 16 * 2**20
"""More than is stored in one step, which is flushed: so a step is stored at once."""


class ProducerIntake(Intake):
    """See `Intake`. Each event is stored with its own sequence, so that a batch may be in part."""

    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    @property
    def resolution(self) -> None:
        """See `Intake`."""
        return None

    def last_sequence(self, name: str) -> int:
        """See `Intake`."""
        with self._topic.producer(producer_id=name) as producer:
            return producer.last_sequence

    def open(self, name: str, partition: int) -> Inlet:
        """See `Intake`."""
        return _ProducerInlet(self._topic, name, partition)

    def finish(self) -> None:
        """The topic was never unfit."""

    def close(self) -> None:
        """There is nothing to undo."""


class _ProducerInlet(Inlet):
    """See `Inlet`."""

    def __init__(self, topic: Topic, name: str, partition: int) -> None:
        self._producer = topic.producer(
            linger=_LINGER_SECONDS,
            max_batch_events=_MOST_EVENTS,
            max_batch_bytes=_MOST_BYTES,
            producer_id=name,
        )
        self._partition = partition

    @property
    def last_sequence(self) -> int:
        return self._producer.last_sequence

    def store(self, events: Sequence[StoredEvent]) -> Taken:
        send, partition = self._producer.send, self._partition
        deliveries = [
            send(
                event.body,
                key=event.key,
                properties=event.properties or None,
                partition=partition,
                sequence=event.offset,
            )
            for event in events
        ]
        self._producer.flush()
        first, last = deliveries[0].result(), deliveries[-1].result()
        return Taken(first.offset, last.offset)

    def close(self) -> None:
        self._producer.close()
