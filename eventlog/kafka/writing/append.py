"""Putting what a caller hands in into a topic, all or nothing: see `Topic.append`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventlog.appending import Columns, check_sizes, place
from eventlog.checks import seconds
from eventlog.errors import (
    EventTooLargeError,
    PartitionNotFoundError,
    UnsupportedOperationError,
)
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.records import all_headers
from eventlog.kafka.topic_record import TopicState
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.shipment import Shipment
from eventlog.log import Duration, Receipt

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["Appender", "refuse_expected"]


class Appender:
    """Puts events into one topic."""

    def __init__(self, topic: KafkaTopic) -> None:
        self._topic = topic

    def store(
        self,
        columns: Columns,
        partition: int | None,
        expect_next: int | None,
        timeout: Duration | None,
    ) -> list[Receipt]:
        """Place and store events; one receipt for each partition touched."""
        log = self._topic.log
        log.refuse_reader()
        refuse_expected(expect_next)
        limit = log.settings.lock_timeout if timeout is None else seconds(timeout, "timeout")
        doing = f"appending to topic {self._topic.name!r}"
        errand = Errand(doing, Deadline(limit), [self._topic])
        state, placed = self.placed(columns, partition, errand)
        shipments = [
            Shipment(state.record, number, some.bodies, some.keys, all_headers(some.properties))
            for number, some in placed
        ]
        log.writers.store(shipments, errand)
        return [some.receipt(0, some.count) for some in shipments]

    def placed(
        self, columns: Columns, partition: int | None, errand: Errand
    ) -> tuple[TopicState, list[tuple[int, Columns]]]:
        """Which events go to which partition of the topic as it is now.

        Raises:
            EventTooLargeError, PartitionNotFoundError, UnsupportedOperationError: see
                `eventlog.appending`.
        """
        state = errand.state_of(self._topic)
        try:
            return state, _placed(state, columns, partition)
        except (EventTooLargeError, PartitionNotFoundError, UnsupportedOperationError):
            again = self._topic.refresh()
            if again is state:
                raise
        return again, _placed(again, columns, partition)


def _placed(
    state: TopicState, columns: Columns, partition: int | None
) -> list[tuple[int, Columns]]:
    check_sizes(state.record, columns)
    return place(state, columns, partition)


def refuse_expected(expect_next: int | None) -> None:
    """Refuse what a cluster cannot do.

    Raises:
        UnsupportedOperationError: `expect_next` was given.
    """
    if expect_next is not None:
        raise UnsupportedOperationError(
            "expect_next is not possible on a Kafka cluster, whose brokers store whatever comes: "
            "use a producer with a producer_id, or a log in a directory"
        )
