"""Producers with transactional ids.

An id stands for whoever may commit: the cluster lets only the producer commit that was made ready
under it last. Ids that mean something (a named producer, the owner of a checkpoint) are *prepared*
for an owner, before the owner looks whether it still is one; all other transactions take whichever
id of this process is free.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError

from eventlog.errors import ProducerFencedError
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.writing.pool import Pool
from eventlog.kafka.writing.sender import NotSentError, sending
from eventlog.kafka.writing.transactional_sender import TransactionalSender

if TYPE_CHECKING:
    from eventlog.kafka.cluster import Cluster

__all__ = ["TransactionalProducers"]

_MOST_PREPARED: Final = 64
"""Beyond that those used longest ago are let go of, unless they are held or in use; their owners
have them made again."""

_STEADFAST: Final = {"metadata_recovery_strategy": "none"}
"""When librdkafka has forgotten its brokers it remembers who coordinated a group: what is sent to
that broker never goes out (its issue 5511), and as long it begins with no other. So one that has
lost its brokers fails with its transaction, and another takes its place."""

_MOST_GROUPS: Final = 1000
_LEAST_TIMEOUT: Final = 10.0
_MOST_TIMEOUT: Final = 900.0  # brokers take no longer one, unless they are told to


class _Prepared:
    """A producer that is ready under an id, for one owner, who holds it so many times."""

    __slots__ = ("busy", "holds", "owner", "sender")

    def __init__(self, owner: str, sender: TransactionalSender, *, holds: int) -> None:
        self.owner = owner
        self.sender = sender
        self.holds = holds
        self.busy = threading.Lock()

    @property
    def is_free(self) -> bool:
        """Whether nobody is about to use it."""
        return not self.holds and not self.busy.locked()


class TransactionalProducers:
    """See the module. Thread-safe; everything here may block."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._mutex = threading.Lock()
        self._prepared: OrderedDict[str, _Prepared] = OrderedDict()
        self._metadata: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._name = f"eventlog.{uuid.uuid4()}"
        self._anonymous = Pool(self._make_anonymous)

    # Ids that mean something

    def is_prepared(self, transactional_id: str, owner: str) -> bool:
        """Whether `owner` has a producer ready under that id, as far as is known."""
        prepared = self._prepared.get(transactional_id)
        return prepared is not None and prepared.owner == owner and prepared.sender.usable

    def prepare(
        self,
        transactional_id: str,
        owner: str,
        deadline: Deadline | None = None,
        *,
        hold: bool = False,
    ) -> None:
        """Have a producer ready under that id, made since `owner` became the owner.

        Whoever had the id before is shut out, and what it had begun is ended.

        Args:
            hold: see `hold`.

        Raises:
            LogBusyError: there was no answer in time.
            EventLogError: it was refused.
        """
        if self._found(transactional_id, owner, hold=hold):
            return
        sender = self._ready(transactional_id, self._deadline(deadline))
        with self._mutex:
            old = [self._prepared.pop(transactional_id, None)]
            self._prepared[transactional_id] = _Prepared(owner, sender, holds=int(hold))
            old += self._surplus()
        del old  # let go of without the mutex

    def hold(self, transactional_id: str, owner: str) -> bool:
        """Keep what is ready for `owner` under that id, until it is released as often.

        Others may still fence it. So who looks whether it may commit, and then does, finds its
        producer unless it may not.

        Returns: whether something is.
        """
        return self._found(transactional_id, owner, hold=True)

    def release(self, transactional_id: str, owner: str) -> None:
        """Hold it once less, if it is still there."""
        with self._mutex:
            prepared = self._prepared.get(transactional_id)
            if prepared is not None and prepared.owner == owner:
                prepared.holds -= 1
            old = self._surplus()
        del old

    def _found(self, transactional_id: str, owner: str, *, hold: bool) -> bool:
        with self._mutex:
            if not self.is_prepared(transactional_id, owner):
                return False
            self._prepared[transactional_id].holds += hold
            self._prepared.move_to_end(transactional_id)
            return True

    def _surplus(self) -> list[_Prepared | None]:
        """Take out what is beyond the limit, and is not the one that came last."""
        surplus = max(len(self._prepared) - _MOST_PREPARED, 0)
        others = [*self._prepared.items()][:-1] if surplus else []
        free = [key for key, one in others if one.is_free]
        return [self._prepared.pop(key) for key in free[:surplus]]

    def fence(self, transactional_id: str, deadline: Deadline | None = None) -> None:
        """Abort what is open under that id, and shut out whoever has it.

        Raises:
            LogBusyError, EventLogError: see `prepare`.
        """
        self._ready(transactional_id, self._deadline(deadline))
        self.forget(transactional_id)

    def forget(self, transactional_id: str, owner: str | None = None) -> None:
        """Let go of what is ready under that id."""
        with self._mutex:
            old = self._prepared.get(transactional_id)
            if old is not None and owner in (None, old.owner):
                del self._prepared[transactional_id]
        del old

    # Using them

    @contextlib.contextmanager
    def lend(
        self,
        transactional_id: str | None = None,
        owner: str | None = None,
        deadline: Deadline | None = None,
    ) -> Iterator[TransactionalSender]:
        """A producer for one transaction, which nobody else uses meanwhile.

        Args:
            transactional_id: one that was prepared; None takes any that nobody else will have.
            owner: for whom it must have been prepared.

        Raises:
            ProducerFencedError: it was prepared for somebody else since.
            LogBusyError, EventLogError: see `prepare`.
        """
        deadline = self._deadline(deadline)
        if transactional_id is None:
            sender = self._anonymous.take(deadline)
            try:
                yield sender
            finally:
                self._anonymous.give_back(sender)
            return
        prepared = self._prepared.get(transactional_id)
        if prepared is None or owner not in (None, prepared.owner):
            raise ProducerFencedError(
                "another has taken the place of this producer, or of the owner of this checkpoint"
            )
        if not prepared.busy.acquire(timeout=deadline.left()):
            raise self._cluster.error(
                KafkaError(KafkaError._TIMED_OUT),  # noqa: SLF001 - its name
                "waiting for another transaction of this process",
                within=deadline.seconds,
            )
        try:
            yield prepared.sender
        finally:
            prepared.busy.release()
            if not prepared.sender.usable:
                self._let_go(transactional_id, prepared)

    def _let_go(self, transactional_id: str, prepared: _Prepared) -> None:
        with self._mutex:
            if self._prepared.get(transactional_id) is prepared:
                del self._prepared[transactional_id]

    def metadata_of(self, group: str) -> Any:
        """What librdkafka wants to know of a group that has no members."""
        known = self._metadata.get(group)
        if known is None:
            consumer = self._cluster.consumer(group_id=group, enable_auto_commit=False)
            known = consumer.consumer_group_metadata()
            consumer.close()
            if len(self._metadata) >= _MOST_GROUPS:
                self._metadata.clear()
            self._metadata[group] = known
        return known

    def close(self) -> None:
        """Let go of all."""
        self._anonymous.close()
        with self._mutex:
            prepared = list(self._prepared.values())
            self._prepared.clear()
            self._metadata.clear()
        del prepared

    # Making them

    def _deadline(self, deadline: Deadline | None) -> Deadline:
        return deadline or Deadline(self._cluster.settings.lock_timeout)

    def _make_anonymous(self, deadline: Deadline) -> TransactionalSender:
        return self._ready(f"{self._name}.{next(self._numbers)}", deadline)

    def _ready(self, transactional_id: str, deadline: Deadline) -> TransactionalSender:
        settings = self._cluster.settings
        timeout = min(max(settings.lock_timeout, _LEAST_TIMEOUT), _MOST_TIMEOUT)
        sender = TransactionalSender(
            self._cluster.producer(
                **{
                    **sending(settings, "zstd"),
                    "transactional_id": transactional_id,
                    "transaction_timeout_ms": int(timeout * 1000),
                    "message_timeout_ms": int(timeout * 1000),
                    "linger_ms": int(timeout * 1000) - 1000,
                    **_STEADFAST,
                }
            )
        )
        try:
            sender.init(deadline)
        except NotSentError as failed:
            raise self._cluster.error(
                failed.error, "beginning a transaction", within=deadline.seconds
            ) from failed
        return sender
