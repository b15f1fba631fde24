"""A sender whose sets are committed together, with offsets of Kafka groups, or not at all.

What a transaction sends is flushed before it is committed, since one whose commit timed out while
it flushed can neither be committed nor aborted (_CONFLICT).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import TopicPartition as Place

from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import Kind, error_of, kind_of
from eventlog.kafka.writing.errand import Errand
from eventlog.kafka.writing.sender import PAUSE, SLICE, NotSentError, Sender
from eventlog.kafka.writing.shipment import Shipment

__all__ = ["TransactionalSender"]

_ABORT_SECONDS: Final = 3.0


class TransactionalSender(Sender):
    """One that has a transactional id."""

    def init(self, deadline: Deadline) -> None:
        """Shut out whoever had the id before, and end what it had begun.

        Raises:
            NotSentError: there was no answer in time, or it was refused.
        """
        while True:
            try:
                self.producer.init_transactions(max(min(deadline.left(), SLICE), 0.001))
            except KafkaException as raised:
                self.poll()
                error = error_of(raised)
                if deadline.passed or not error.retriable():
                    self.usable = False
                    raise NotSentError(error) from None
            else:
                return

    def transact(
        self,
        shipments: Sequence[Shipment],
        offsets: Mapping[str, Sequence[Place]],
        metadata_of: Callable[[str], Any],
        errand: Errand,
    ) -> None:
        """Store all of this, or nothing.

        When it returns it is decided that it will be seen, but the brokers may take a moment.

        Args:
            offsets: by Kafka group, what its offsets are to be.
            metadata_of: what librdkafka wants to know of a group.

        Raises:
            NotSentError: nothing was stored; or, with `maybe`, it is not known whether all was.
            TopicNotFoundError: a topic was deleted meanwhile; nothing was stored.
        """
        ready, self.usable = self.usable, False
        assert ready
        prepared = False
        try:
            self._begin()
            self.send(shipments, errand)
            for group, places in offsets.items():
                self._send_offsets(list(places), metadata_of(group), errand.deadline)
            prepared = True
        except NotSentError as error:
            error.maybe = False
            raise
        finally:
            if not prepared:
                self._abort()
        self._commit(errand.deadline)
        self.usable = True

    def _begin(self) -> None:
        try:
            self.producer.begin_transaction()
        except KafkaException as error:
            raise NotSentError(error_of(error)) from None

    def _send_offsets(self, places: list[Place], metadata: Any, deadline: Deadline) -> None:
        while True:
            error = self._ask_for_offsets(places, metadata, deadline)
            if error is None:
                return
            if deadline.passed or not error.retriable():
                raise NotSentError(error)
            time.sleep(PAUSE)

    def _ask_for_offsets(
        self, places: list[Place], metadata: Any, deadline: Deadline
    ) -> KafkaError | None:
        """Send offsets once; what went wrong, if something did.

        The call may outlast any time limit it is given, for ever even: while the coordinator is
        away (librdkafka's issue 5456), or has left the cluster (5511). So it is made in a thread
        that nobody waits for then; with it a producer of librdkafka is lost.
        """
        outcomes: list[KafkaError | None] = []

        def ask() -> None:
            try:
                self.producer.send_offsets_to_transaction(
                    places, metadata, max(deadline.left(), 0.001)
                )
            except KafkaException as raised:
                outcomes.append(error_of(raised))
            except BaseException as raised:  # noqa: BLE001 - no success
                outcomes.append(KafkaError(KafkaError._FAIL, repr(raised)))  # noqa: SLF001 - its name
            else:
                outcomes.append(None)

        thread = threading.Thread(target=ask, name="eventlog-offsets", daemon=True)
        thread.start()
        thread.join(deadline.left())
        if thread.is_alive():
            return KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - its name
        return outcomes[0]

    def _commit(self, deadline: Deadline) -> None:
        """Calling it again goes on with the same commit, until its outcome is known."""
        while True:
            try:
                self.producer.commit_transaction(max(min(deadline.left(), SLICE), 0.001))
            except KafkaException as raised:
                error = error_of(raised)
                if error.txn_requires_abort():
                    self._abort()
                    raise NotSentError(error) from None
                if not error.retriable():
                    raise NotSentError(error, maybe=not _is_fenced(error)) from None
                if deadline.passed:
                    raise NotSentError(error, maybe=True) from None
            else:
                return

    def _abort(self) -> None:
        """End it, if there is time: otherwise the brokers do, after ``transaction.timeout.ms``."""
        self.usable = False
        self.purge()
        with contextlib.suppress(KafkaException):
            self.producer.abort_transaction(_ABORT_SECONDS)


def _is_fenced(error: KafkaError) -> bool:
    """Whether another has the transactional id now."""
    return kind_of(error) is Kind.FENCED
