"""A simulated Kafka: transactional ids, transactions, and offsets of groups.

It does what it does to people: answers get lost, what was given up arrives late, transactions stay
open until somebody fences them or Kafka loses patience; and what is decided is not seen at once.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import TopicPartition

from eventlog.errors import LogBusyError, ProducerFencedError
from eventlog.kafka.groups.checkpoint import CommittedOffset
from tests.simulated_store import LONGEST, KilledError
from tests.simulated_store import Schedule as _Schedule

if TYPE_CHECKING:
    from tests.kafka.simulated_groups import Process, World


class Schedule(_Schedule):
    """One that changes threads only when another actor goes on."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self._restlessness, self._eagerness = self._eagerness, 1.0
        self._steps = 0

    def step(self) -> None:
        if self.current not in self._turns:
            return
        self._steps += 1
        assert self._steps < LONGEST, "it never ends"
        if self._failure is not None or self._chance.random() < self._restlessness:
            super().step()


class Record(NamedTuple):
    """In a transaction: the output of the events of a partition from `first` to `last`; of none, if
    `last` is before `first`, and still only by who owns the partition.
    """

    owner: str
    partition: int
    first: int
    last: int


class _Transaction:
    """One that Kafka knows of."""

    def __init__(self, process: Process | None) -> None:
        self.process = process
        self.records: list[Record] = []
        self.offsets: dict[tuple[str, str, int], CommittedOffset] = {}
        self.decided = False
        self.sent = 0


class UnknownError(Exception):
    """Of a commit nobody knows what became."""


class SimulatedKafka:
    """Transactional ids, and offsets of groups.

    Attributes:
        faults: how often, of 1, something goes wrong with a call.
        unstable: how often offsets were read while a transaction was about to change them.
    """

    def __init__(self, world: World) -> None:
        self.faults = 0.0
        self.unstable = 0
        self.offsets: dict[tuple[str, str, int], CommittedOffset] = {}
        self._impatience = 0.01
        self._speed = world.chance.choice([0.03, 0.3])
        self._world = world
        self._epochs: Counter[str] = Counter()
        self._sent: Counter[tuple[str, str, int]] = Counter()
        self._sends = 0
        self._ended: list[_Transaction] = []
        self._open: dict[str, _Transaction] = {}
        self._late: list[Callable[[], object]] = []

    def init(self, transactional_id: str) -> int:
        """Abort what is open there; the new epoch."""
        fault = self._begin("unavailable", "late", "lost", "fenced", "killed")
        if fault == "late":
            self._late.append(lambda: self._init(transactional_id))
        if fault in ("late", "unavailable"):
            raise LogBusyError("it may arrive yet")
        epoch = self._init(transactional_id)
        self._end(fault)
        if fault == "fenced":
            raise ProducerFencedError("another came just then")
        return epoch

    def _init(self, transactional_id: str) -> int:
        self._finish(transactional_id)
        self._epochs[transactional_id] += 1
        return self._epochs[transactional_id]

    def transact(
        self,
        transactional_id: str,
        epoch: int,
        records: Sequence[Record],
        offsets: Mapping[str, Sequence[TopicPartition]],
    ) -> None:
        """All of one transaction."""
        transaction = _Transaction(self._world.current())
        try:
            self._send(transactional_id, epoch, transaction)
            transaction.records.extend(records)
            for group, places in offsets.items():
                self._send(transactional_id, epoch, transaction)
                self._sends += 1
                transaction.sent = self._sends
                for place in places:
                    at = CommittedOffset(place.offset, place.metadata or "")
                    transaction.offsets[group, place.topic, place.partition] = at
        except LogBusyError:
            with contextlib.suppress(LogBusyError):
                self._begin("unavailable", "unavailable")
                if self._open.get(transactional_id) is transaction:
                    self._finish(transactional_id)
            raise
        self._commit(transactional_id, epoch, transaction)

    def _send(self, transactional_id: str, epoch: int, transaction: _Transaction) -> None:
        fault = self._begin("unavailable", "killed")
        if fault == "unavailable":
            raise LogBusyError("it did not arrive")
        there = self._open.get(transactional_id)
        if there is not None and there.decided:
            self._finish(transactional_id)
        if epoch != self._epochs[transactional_id]:
            raise ProducerFencedError("another has the id")
        assert self._open.setdefault(transactional_id, transaction) is transaction
        self._end(fault)

    def _commit(self, transactional_id: str, epoch: int, transaction: _Transaction) -> None:
        fault = self._begin("unavailable", "late", "lost", "lost", "killed", "killed before")
        if fault == "killed before":
            raise KilledError
        if fault == "late":
            self._late.append(lambda: self._decide(transactional_id, epoch, transaction))
        if fault in ("late", "unavailable"):
            raise UnknownError
        self._decide(transactional_id, epoch, transaction)
        if fault == "lost":
            raise UnknownError
        self._end(fault)

    def _decide(self, transactional_id: str, epoch: int, transaction: _Transaction) -> None:
        if epoch != self._epochs[transactional_id]:
            raise ProducerFencedError("another has the id")
        if self._open.get(transactional_id) is transaction:
            transaction.decided = True
            self._world.committed(transaction.process, transaction.records, transaction.offsets)

    def _finish(self, transactional_id: str) -> None:
        """Of what is open, commit what is decided, and abort the rest."""
        transaction = self._open.pop(transactional_id, None)
        if transaction is not None and transaction.decided:
            self._ended.append(transaction)

    def _apply_all(self) -> None:
        while self._ended:
            self._apply(self._ended.pop())

    def _apply(self, transaction: _Transaction) -> None:
        """Of two the one that was sent later counts, whichever was ended first."""
        for place, at in transaction.offsets.items():
            if self._sent[place] < transaction.sent:
                self._sent[place] = transaction.sent
                self.offsets[place] = at

    def decided(self) -> dict[tuple[str, str, int], CommittedOffset]:
        """The offsets as they will be, whoever may see that already."""
        found, sent = dict(self.offsets), Counter(self._sent)
        for transaction in (*self._open.values(), *self._ended):
            for place, at in transaction.offsets.items():
                if transaction.decided and sent[place] < transaction.sent:
                    found[place], sent[place] = at, transaction.sent
        return found

    def committed(
        self,
        group: str,
        topic: str,
        partitions: Sequence[int],
        *,
        timeout: float | None = None,
        stable: bool = True,
    ) -> dict[int, CommittedOffset]:
        """See `Offsets.committed`."""
        if self._begin("unavailable"):
            raise LogBusyError("no answer")
        wanted = {(group, topic, partition) for partition in partitions}
        for _ in range(3):
            there = (*self._open.values(), *self._ended)
            pending = [one for one in there if wanted & one.offsets.keys()]
            if pending and not stable:
                self.unstable += 1
            if not pending or not stable:
                break
            self._begin()
            for transactional_id, one in list(self._open.items()):
                if one.decided:
                    self._finish(transactional_id)
            self._apply_all()
        else:
            raise LogBusyError("a transaction is under way")
        return {
            partition: self.offsets[group, topic, partition]
            for partition in partitions
            if (group, topic, partition) in self.offsets
        }

    def close(self) -> None:
        """From here on nothing goes wrong, and what was late has come."""
        self.faults = self._impatience = 0.0
        while self._late:
            self._arrive()

    def _arrive(self) -> None:
        with contextlib.suppress(ProducerFencedError):
            self._late.pop(self._world.chance.randrange(len(self._late)))()

    def _begin(self, *faults: str) -> str:
        chance = self._world.chance
        self._world.step()
        while self._late and chance.random() < 0.1:
            self._arrive()
        if chance.random() < self._speed:
            self._apply_all()
        for transactional_id, transaction in list(self._open.items()):
            if chance.random() < (self._speed if transaction.decided else self._impatience):
                self._epochs[transactional_id] += not transaction.decided  # Kafka lost patience
                self._finish(transactional_id)
        return chance.choice(faults) if faults and chance.random() < self.faults else ""

    def _end(self, fault: str) -> None:
        if fault == "killed":
            raise KilledError
        if fault == "lost":
            raise LogBusyError("the answer was lost")


class _Producer:
    """One that is ready."""

    def __init__(self, transactional_id: str, owner: str, epoch: int) -> None:
        self.transactional_id = transactional_id
        self.owner = owner
        self.epoch = epoch
        self.busy = False
        self.holds = 0


class SimulatedProducers:
    """Those of one process; see `eventlog.kafka.writing.transactional`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._prepared: dict[str, _Producer] = {}

    def is_prepared(self, transactional_id: str, owner: str) -> bool:
        prepared = self._prepared.get(transactional_id)
        return prepared is not None and prepared.owner == owner

    def prepare(self, transactional_id: str, owner: str, *, hold: bool = False) -> object:
        if hold and self.hold(transactional_id, owner):
            return False
        epoch = self._world.kafka.init(transactional_id)
        made = self._prepared[transactional_id] = _Producer(transactional_id, owner, epoch)
        made.holds += hold
        return True

    def hold(self, transactional_id: str, owner: str) -> bool:
        if not self.is_prepared(transactional_id, owner):
            return False
        self._prepared[transactional_id].holds += 1
        return True

    def release(self, transactional_id: str, owner: str) -> object:
        if self.is_prepared(transactional_id, owner):
            self._prepared[transactional_id].holds -= 1
            assert self._prepared[transactional_id].holds >= 0
        return None

    def fence(self, transactional_id: str) -> object:
        self._world.kafka.init(transactional_id)
        self._prepared.pop(transactional_id, None)
        return None

    @contextlib.contextmanager
    def lend(self, transactional_id: str, owner: str) -> Iterator[_Producer]:
        self._world.step()
        prepared = self._prepared.get(transactional_id)
        if prepared is None or prepared.owner != owner:
            raise ProducerFencedError("it was prepared for somebody else since")
        while prepared.busy:
            self._world.step()
        prepared.busy = True
        whole = False
        try:
            yield prepared
            whole = True
        finally:
            prepared.busy = False
            if not whole and self._prepared.get(transactional_id) is prepared:
                del self._prepared[transactional_id]
