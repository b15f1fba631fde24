"""All who move a group's checkpoints in Kafka's transactions, and what must hold of them.

Actors take turns at every call, as in `tests.simulated_store`. Some share a process: what one of
them has seen and made ready, others use, and they die together.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

from msgspec.structs import replace

from eventlog.blobs import Blob, BlobStore
from eventlog.errors import PreconditionFailedError, ProducerFencedError, StoreUnavailableError
from eventlog.groups.checkpoints import GroupStore
from eventlog.groups.documents import (
    GroupDocument,
    GroupIds,
    Share,
    StoredCheckpoint,
    decode,
    encode,
)
from eventlog.kafka.groups.blobs import GroupBlobs
from eventlog.kafka.groups.checkpoint import (
    CommittedOffset,
    decode_checkpoint,
    decode_metadata,
    kafka_group,
)
from eventlog.kafka.groups.commit_view import CommitView
from tests.kafka.simulated_kafka import Record, Schedule, SimulatedKafka, SimulatedProducers
from tests.simulated_store import Changes, KilledError, SimulatedStore

T = TypeVar("T")

IDS: Final = GroupIds("log", "cars", "1", "fraud")
START: Final = 5
FIRST_US: Final = 1_700_000_000_000_000

Era = tuple[int, str, int]
"""Of a partition: the group's id, and how many resets there were."""


FENCING: Final = object()
"""Moves a checkpoint, as long as somebody is to be fenced."""


class PatientStore(GroupStore):
    """One that lets others go on while it waits, inside transactions too."""

    def __init__(self, world: World, blobs: BlobStore) -> None:
        super().__init__(blobs, IDS, world.clock, lambda _: world.step())
        self._world = world

    def within(self, blobs: BlobStore) -> GroupStore:
        return PatientStore(self._world, blobs)


class Process:
    """What actors of one process share.

    Args:
        store: where the group's documents are; another has a group of the same name.
    """

    def __init__(self, world: World, store: SimulatedStore) -> None:
        self.world = world
        self.store = store
        self.is_dead = False
        self.producers = SimulatedProducers(world)
        self.blobs = world.kinds.blobs(store, IDS.log, world.kafka, lambda: self.producers)

    def group(self) -> GroupStore:
        """What an actor of it has."""
        return PatientStore(self.world, self.blobs)

    def transact(self, check: Callable[[BlobStore], None], records: Sequence[Record] = ()) -> None:
        """See `KafkaTransaction._commit_fenced`."""
        view = self.world.kinds.view(self.blobs, self.producers)
        committed = False
        try:
            check(view)
            assert view.transactional_id is not None
            with self.producers.lend(view.transactional_id, view.owner) as producer:
                offsets = view.offsets()
                self.world.kafka.transact(
                    producer.transactional_id, producer.epoch, records, offsets
                )
            committed = True
        except ProducerFencedError as error:
            raise PreconditionFailedError("it was fenced") from error
        finally:
            view.settle(committed=committed)
        if self.store is not self.world.store:
            return
        for place in (place for places in offsets.values() for place in places):
            metadata = decode_metadata(place.metadata or "")
            self.world.told((place.partition, metadata.group, metadata.reset), place.offset - 1)


class _Store(SimulatedStore):
    """One that processes which have died do not reach."""

    def __init__(self, world: World, changes: Changes, *, hashed: bool) -> None:
        super().__init__(world.schedule, world.chance, changes, hashed=hashed)
        self.arriving = False
        self._world = world

    def _begin(self, *faults: str) -> str:
        self._world.step()
        return super()._begin(*faults)

    def _arrive(self) -> None:
        self.arriving = True
        try:
            super()._arrive()
        finally:
            self.arriving = False

    def now(self, name: str, data: bytes) -> None:
        """Put it at one stroke."""
        self._version += 1
        self._blobs[name] = Blob(name, data, f"at once {self._version}", datetime.now(UTC))


class Kinds(NamedTuple):
    """What is simulated; others to show that they are found out."""

    blobs: type[GroupBlobs] = GroupBlobs
    view: type[CommitView] = CommitView


class World:
    """What there is, and what must hold of all that happens.

    Attributes:
        truth: by era, the last event that was finished.
        others_move: whether those who own no partition move checkpoints too.
    """

    def __init__(self, seed: int, *, hashed: bool = False, kinds: Kinds | None = None) -> None:
        self.chance = random.Random(seed)
        self.schedule = Schedule(self.chance)
        self.kinds = kinds or Kinds()
        self.store = _Store(self, self.changes, hashed=hashed)
        self._stores: list[SimulatedStore] = [self.store]
        self.kafka = SimulatedKafka(self)
        self.happened: Counter[str] = Counter()
        self.truth: dict[Era, int] = {}
        self.acknowledged: dict[Era, int] = {}
        self.others_move = False
        self.partitions = self.chance.choice([[0], [0], [0, 1]])
        self._us = FIRST_US
        self._movers: dict[Era, object] = {}
        self._outputs: dict[Era, set[int]] = defaultdict(set)
        self._takings: Counter[tuple[int, str]] = Counter()
        self._began: set[tuple[int, str]] = set()
        self._taken = 0
        self._processes: dict[str, Process] = {}

    # For actors

    def clock(self) -> int:
        self._us += self.chance.choice([0, 1_000, 1_000_000, 12_000_000])
        return self._us

    def step(self) -> None:
        """Others may go on; and a process that has died does not."""
        self.schedule.step()
        process = self.current()
        if process is not None and process.is_dead:
            raise KilledError

    def current(self) -> Process | None:
        """Whose turn it is."""
        return self._processes.get(self.schedule.current)

    def patiently(self, do: Callable[[], T]) -> T:
        """Try it again while the store is away."""
        while True:
            self.step()
            with contextlib.suppress(StoreUnavailableError):
                return do()

    def process(self, store: SimulatedStore | None = None) -> Process:
        """A new one, which belongs to nobody yet."""
        return Process(self, store or self.store)

    def another_store(self) -> SimulatedStore:
        """One whose groups have nothing to do with those of the first."""
        self._stores.append(_Store(self, lambda *_: None, hashed=False))
        return self._stores[-1]

    def acting(
        self, name: str, process: Process, act: Callable[[World, Process], None]
    ) -> Callable[[], None]:
        """`act`, in a process that dies with it."""
        self._processes[name] = process

        def whole() -> None:
            try:
                act(self, process)
            except KilledError:
                process.is_dead = True
                self.happened["killed"] += 1
                raise

        return whole

    def assign(self, partition: int, member: str | None) -> tuple[str, int] | None:
        """Give a partition to a host, whatever becomes of the one before; group and epoch."""
        group = self.group()
        if group is None:
            return None
        share = group.partitions.get(partition, Share())
        changed = Share(member, share.epoch + 1)
        group = replace(group, partitions={**group.partitions, partition: changed})
        self.store.now(IDS.document, encode(replace(group, revision=f"{member} {changed.epoch}")))
        return group.group, changed.epoch

    def give_back(self, partition: int, member: str) -> None:
        """Nobody has it now, if that host had it."""
        group = self.group()
        if group is not None and group.owner(partition) == member:
            self.assign(partition, None)

    def group(self) -> GroupDocument | None:
        data = self.store.data(IDS.document)
        return None if data is None else decode(IDS.document, data, GroupDocument, IDS)

    def begins(self, owner: str, partition: int, stored: StoredCheckpoint) -> None:
        """`owner` has the partition, and goes on behind `stored`."""
        truth = self.truth[partition, stored.group, stored.reset]
        assert stored.offset <= truth
        latest = max(taken for (where, _), taken in self._takings.items() if where == partition)
        if not self.others_move and self._takings[partition, owner] == latest:
            assert stored.offset == truth, "what was committed is lost"
        self._began.add((partition, owner))
        self.happened["began"] += 1

    def told(self, era: Era, offset: int) -> None:
        """Somebody was told that events up to `offset` are finished."""
        assert self.truth[era] >= offset
        self.acknowledged[era] = max(self.acknowledged.get(era, -2), offset)

    # What must hold

    def changes(self, actor: str, name: str, there: Blob | None, data: bytes | None) -> None:
        """Called at every change of a document, before it happens."""
        partition = IDS.partition(name)
        if partition is None:
            return
        old = None if there is None else decode_checkpoint(there.data)
        if data is None:
            self.happened["deleted"] += 1
            return
        new = decode_checkpoint(data)
        era = partition, new.group, new.reset
        if new.owner is not None and (old is None or new.owner != old.owner):
            self._taken += 1
            self._takings[partition, new.owner] = self._taken
        if old is not None and old.group == new.group:
            assert new.reset in (old.reset, old.reset + 1)
            assert new.epoch >= old.epoch
            self.happened["reset"] += new.reset > old.reset
        if old is None:  # or it was deleted, and comes back in a group that is gone
            self.truth[era] = self.acknowledged[era] = -2
            self._outputs[era].clear()
        before = self.truth.get(era, -2)
        if new.offset > before:
            self.truth[era] = new.offset
            # As if it had come after what the same process commits meanwhile.
            self._movers[era] = self._processes.get(actor) if self.store.arriving else None
        if new.to_fence:  # as if it came after what those commit
            self._movers[era] = FENCING
        elif self._movers.get(era) is FENCING:
            self._movers[era] = None
        self.acknowledged[era] = max(self.acknowledged.get(era, -2), new.offset)
        self.happened["fenced"] += bool(new.to_fence)
        self._check_standing(partition, new)

    def committed(
        self,
        process: Process | None,
        records: Sequence[Record],
        offsets: Mapping[tuple[str, str, int], CommittedOffset],
    ) -> None:
        """Called when a transaction is decided, before anybody sees it."""
        if process is not None and process.store is not self.store:
            self.happened["committed next door"] += 1
            return
        self.happened["committed"] += 1
        eras = {}
        for (_, _, partition), at in offsets.items():
            metadata = decode_metadata(at.metadata)
            eras[partition] = partition, metadata.group, metadata.reset
        for record in records:
            self._check_owner(record)
            if record.last >= record.first:
                self._check_output(process, record, eras[record.partition])
        for (_, _, partition), at in offsets.items():
            era = eras[partition]
            if at.next_offset - 1 < self.truth[era]:
                assert self._may_come_before(process, era), "it moved backwards"
            elif at.next_offset - 1 > self.truth[era]:
                self.truth[era] = at.next_offset - 1
                self._movers[era] = None
        self._check_where_it_was_committed(records, offsets)

    def _check_where_it_was_committed(
        self,
        records: Sequence[Record],
        offsets: Mapping[tuple[str, str, int], CommittedOffset],
    ) -> None:
        for _, _, partition in offsets:
            data = self.store.data(IDS.checkpoint(partition))
            if data is not None:
                document = decode_checkpoint(data)
                self._check_standing(partition, document, offsets)
                if str(document.owner).startswith("host") and not document.to_fence:
                    assert records, "a host that lost the partition does not find that out"

    def _check_owner(self, record: Record) -> None:
        taking = self._takings[record.partition, record.owner]
        for partition, owner in self._began:
            if partition == record.partition:
                assert self._takings[partition, owner] <= taking, "a former owner has committed"

    def _check_output(self, process: Process | None, record: Record, era: Era) -> None:
        outputs, behind = self._outputs[era], self.truth[era] + 1
        some = set(range(record.first, record.last + 1))
        assert not outputs & some, "output twice"
        assert record.first <= behind, "events were left out"
        if record.first < behind:
            assert self._may_come_before(process, era), "not from where it stands"
        outputs |= some

    def _may_come_before(self, process: Process | None, era: Era) -> bool:
        """Whether what moved it last need not have seen what the process commits now."""
        mover = self._movers[era]
        return mover is FENCING or (mover is process and mover is not None)

    def _check_standing(
        self,
        partition: int,
        document: StoredCheckpoint,
        coming: Mapping[tuple[str, str, int], CommittedOffset] | None = None,
    ) -> None:
        """What document and offset say together is what was finished."""
        at = {**self.kafka.decided(), **(coming or {})}.get(
            (kafka_group(IDS.group, document.group), IDS.topic_name, partition)
        )
        offset = document.offset
        if at is not None and (document.producers or document.to_fence):
            metadata = decode_metadata(at.metadata)
            if (metadata.group, metadata.reset) == (document.group, document.reset):
                offset = max(offset, at.next_offset - 1)
        truth = self.truth[partition, document.group, document.reset]
        assert offset == truth, f"it stands at {offset}, and {truth} was finished"

    def run(self, actors: Mapping[str, Callable[[], None]], *, faults: float) -> None:
        """Let them loose; then everything that is left must make sense to who comes next."""
        self.kafka.faults = faults
        for store in self._stores:
            store.faults = faults
        self.schedule.run(actors)
        for store in self._stores:
            store.close()
        self.kafka.close()
        self.happened["came late"] += self.store.came_late
        self.schedule.current = "last"
        last = self.process()
        group = last.group()
        there = {
            partition: self.truth[partition, stored.group, stored.reset]
            for partition, stored in group._blobs.all_checkpoints().items()
        }
        expected: dict[int, int] = {}
        for partition in self.partitions:
            self.assign(partition, None)
            checkpoint, etag = group.claim(partition, "consumer-last", START)
            assert checkpoint.offset == there.get(partition, START - 1), "it was lost"
            following = expected[partition] = checkpoint.offset + 1

            def check(view: BlobStore, number: int = partition, etag: str = etag) -> None:
                within = group.within(view)
                within.advance(number, "consumer-last", expected[number], None, etag)

            last.transact(check, [Record("consumer-last", partition, following, following)])
            again = self.process().group().checkpoint(partition)
            assert again is not None
            assert again[0].offset == following, "it is not shown"
