"""Owners of one partition's checkpoint, and all that happens between two of their store calls.

Owners are generators, so a history costs a few milliseconds. Assignments, resets, consumers, people
who checkpoint, deletions and topics made again happen at one stroke, between any two calls of
owners; owners go on after they have lost the partition, until they find out. What else there is to
come between the calls of those others, `tests.test_checkpoints_simulated` has.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, NotModified
from eventlog.errors import (
    ConsumerDisconnectedError,
    LeaseLostError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnexpectedOffsetError,
)
from eventlog.groups.checkpoints import GroupStore
from eventlog.groups.documents import (
    CheckpointResetError,
    GroupDocument,
    GroupIds,
    Share,
    StoredCheckpoint,
    decode,
    encode,
)
from eventlog.groups.steps import Steps, StoreCall, perform
from eventlog.processor.checkpoint import PartitionCheckpoint

IDS: Final = GroupIds("log", "cars", "1", "fraud")
PARTITION: Final = 3
NAME: Final = IDS.checkpoint(PARTITION)
WHEN: Final = datetime(2026, 3, 1, tzinfo=UTC)
MOST_OWNERS: Final = 6


T = TypeVar("T")


class LostAnswerError(Exception):
    """A transaction of which nobody knows what became."""


class Contents(BlobStore):
    """Blobs in a dict. An etag is a hash of the content, as on S3, or like no other."""

    def __init__(self, *, hashed: bool, blobs: dict[str, Blob] | None = None) -> None:
        self.blobs: dict[str, Blob] = blobs or {}
        self.hashed = hashed
        self.versions = 0

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        blob = self.blobs.get(name)
        return NOT_MODIFIED if blob and blob.etag == if_none_match else blob

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        there = self.blobs.get(name)
        if (if_absent and there) or (if_match and (there is None or there.etag != if_match)):
            raise PreconditionFailedError(name)
        self.versions += 1
        etag = hashlib.sha256(data).hexdigest() if self.hashed else str(self.versions)
        self.blobs[name] = Blob(name, data, etag, WHEN)
        return etag

    def list(self, prefix: str) -> list[tuple[str, str]]:
        return [(name, blob.etag) for name, blob in sorted(self.blobs.items())]

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self.blobs.pop(name, None)

    def close(self) -> None:
        """Nothing is open."""


class Owner:
    """A host's pump, as far as its checkpoint is concerned.

    Attributes:
        began: events from this one on it has processed one after the other.
        position: the next event it processes.
    """

    def __init__(
        self, world: World, member: str, epoch: int, kind: type[PartitionCheckpoint]
    ) -> None:
        self.member = member
        self.epoch = epoch
        self.checkpoint = kind(world.ids, world.group.group, PARTITION, member, epoch)
        self.began = self.position = 0
        self._world = world

    def __str__(self) -> str:
        return f"{self.member} with epoch {self.epoch}"

    def life(self) -> Generator[StoreCall, Any, None]:
        """Until it is stopped, or finds that it has lost the partition."""
        try:
            yield from self._until_done(lambda: self.checkpoint.open(5, max_batch=10))
            self._go_on_behind_checkpoint()
            for _ in range(self._world.chance.randrange(12)):
                yield from self._batch()
            yield from self._until_done(self.checkpoint.release)
        except LeaseLostError:
            self._world.happened["lost"] += 1

    def _until_done(self, make: Callable[[], Steps[Any]]) -> Generator[StoreCall, Any, Any]:
        while True:
            try:
                return (yield from make())
            except StoreUnavailableError:
                pass

    def _batch(self) -> Generator[StoreCall, Any, None]:
        try:
            yield from self._handled()
        except CheckpointResetError:
            self._world.happened["noticed"] += 1
            self._go_on_behind_checkpoint()

    def _handled(self) -> Generator[StoreCall, Any, None]:
        chance = self._world.chance
        if chance.random() < 0.2:
            yield from self._until_done(self.checkpoint.look)
        elif chance.random() < 0.2:
            yield from self._until_done(lambda: self.checkpoint.attempt(self.position))
        self.position += chance.randrange(1, 5)
        offset = self.position - 1
        if chance.random() < 0.5:
            yield from self._transaction(offset)
        else:
            yield from self._until_done(lambda: self.checkpoint.advance(offset, WHEN))
            self._world.check_told(self, offset)

    def _transaction(self, offset: int) -> Generator[StoreCall, Any, None]:
        """The output of what was processed since the last one, and the checkpoint."""
        fence = self.checkpoint.fence(offset, None)
        first = self.checkpoint.offset + 1
        try:
            yield lambda _: self._world.commit(self, fence.check, first, offset)
        except (PreconditionFailedError, LostAnswerError, StoreUnavailableError):
            yield from self._until_done(self.checkpoint.look)
            self._go_on_behind_checkpoint()
        else:
            fence.committed()
            self._world.check_told(self, offset)

    def _go_on_behind_checkpoint(self) -> None:
        self.began = self.position = self.checkpoint.offset + 1


class World:
    """What there is, and what must hold of every change.

    Args:
        kind: what owners have for a checkpoint; another one to show that it is found out.
    """

    def __init__(
        self,
        seed: int,
        *,
        hashed: bool = False,
        faults: float = 0.0,
        kind: type[PartitionCheckpoint] = PartitionCheckpoint,
    ) -> None:
        self.chance = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self.ids = IDS
        self.contents = Contents(hashed=hashed)
        self._faults = faults
        self._kind = kind
        self._owners: dict[Owner, tuple[Generator[StoreCall, Any, None], StoreCall]] = {}
        self._made = 0
        self._late: list[Callable[[], object]] = []
        self._outputs: list[int] = []
        self._consumers = 0
        self.store().ensure()

    # What there is

    @property
    def group(self) -> GroupDocument:
        group = self.store().document()
        assert group is not None
        return group

    def checkpoint(self) -> StoredCheckpoint | None:
        """What stands; None if nothing of this group does."""
        blob = self.contents.blobs.get(NAME)
        stored = None if blob is None else decode(NAME, blob.data, StoredCheckpoint, self.ids)
        return stored if stored is not None and stored.group == self.group.group else None

    def store(self) -> GroupStore:
        """What people and consumers have."""
        return GroupStore(self.contents, self.ids, pause=lambda repetition: None)

    # What happens

    def run(self, steps: int) -> None:
        """That many things, one after the other; then all owners come to their ends."""
        for _ in range(steps):
            if self._owners and self.chance.random() < 0.8:
                self._go_on(self.chance.choice(list(self._owners)))
            elif self._late and self.chance.random() < 0.3:
                self.arrive()
            else:
                self.chance.choice(self._events())()
        self._faults = 0.0
        while self._owners:
            self._go_on(self.chance.choice(list(self._owners)))
        while self._late:
            self.arrive()

    def _events(self) -> list[Callable[[], object]]:
        return [
            *[self._assign] * 6,
            *[self._withdraw, self._reset, self._claim] * 2,
            *[self._kill, self._advance_unowned, self._delete, self._recreate],
        ]

    def _assign(self) -> None:
        """To a host, whatever becomes of the one before."""
        if len(self._owners) >= MOST_OWNERS:
            return
        self._made += 1
        member = f"host-{self._made}" if self.chance.random() < 0.8 else "host"
        owner = Owner(self, member, self.assign(member), self._kind)
        life = owner.life()
        self._owners[owner] = life, next(life)
        self.happened["assigned"] += 1

    def _withdraw(self) -> None:
        self.assign(None)

    def assign(self, member: str | None) -> int:
        """The partition, in the group document; the new epoch."""
        group = self.group
        share = group.partitions.get(PARTITION, Share())
        changed = Share(member, share.epoch + 1)
        group = replace(group, partitions={**group.partitions, PARTITION: changed})
        self.contents.put(self.ids.document, encode(replace(group, revision=str(self._made))))
        return changed.epoch

    def _kill(self) -> None:
        if self._owners:
            del self._owners[self.chance.choice(list(self._owners))]
            self.happened["killed"] += 1

    def _reset(self) -> None:
        with contextlib.suppress(PreconditionFailedError):
            self.store().reset(
                {PARTITION: self.chance.randrange(30)}, force=self.chance.random() < 0.8
            )
            self._outputs.clear()
            self.happened["reset"] += 1

    def _claim(self) -> None:
        """A consumer comes, reads on, and leaves or not."""
        self._consumers += 1
        store, consumer = self.store(), f"consumer-{self._consumers}"
        with contextlib.suppress(ConsumerDisconnectedError):
            checkpoint, etag = store.claim(PARTITION, consumer, 5)
            etag = store.advance(PARTITION, consumer, checkpoint.offset + 3, None, etag)
            self._outputs.clear()
            if self.chance.random() < 0.5:
                store.release(PARTITION, consumer, etag)
            self.happened["claimed"] += 1

    def _advance_unowned(self) -> None:
        with contextlib.suppress(LeaseLostError, UnexpectedOffsetError):
            self.store().advance_unowned(PARTITION, self.chance.randrange(40))
            self._outputs.clear()

    def _delete(self) -> None:
        if self.chance.random() < 0.5:  # or all but what it did not find
            self.contents.delete(NAME)
        self.contents.delete(self.ids.document)
        self._begin_anew()

    def _recreate(self) -> None:
        """The topic: another one of its name."""
        self.ids = IDS._replace(topic_id=str(int(self.ids.topic_id) + 1))
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.store().ensure()
        self._outputs.clear()
        self.happened["made again"] += 1

    # Owners' calls

    def _go_on(self, owner: Owner) -> None:
        life, call = self._owners.pop(owner)
        with contextlib.suppress(StopIteration):
            try:
                answer = call(Faulty(self, owner))
            except (PreconditionFailedError, StoreUnavailableError, LostAnswerError) as error:
                self._owners[owner] = life, life.throw(error)
            except (LeaseLostError, CheckpointResetError) as error:  # of a fence
                self._owners[owner] = life, life.throw(error)
            else:
                self._owners[owner] = life, life.send(answer)

    def fault(self, *faults: str) -> str:
        """What goes wrong this time, if anything does."""
        return self.chance.choice(faults) if self.chance.random() < self._faults else ""

    def put(self, owner: Owner | None, do: Callable[[], str], *, late: bool) -> str:
        """Do it, now or later, and look at what it did, if it is known what it should."""
        began, position = (0, 0) if owner is None else (owner.began, owner.position)

        def checked() -> str:
            before = self.checkpoint()
            etag = do()
            if owner is not None:
                self._check_put(owner, began, position, before)
            return etag

        if late:
            self._late.append(checked)
            raise StoreUnavailableError("it may arrive yet")
        return checked()

    def arrive(self) -> None:
        """One of the puts that were given up is done."""
        if self._late:
            late = self._late.pop(self.chance.randrange(len(self._late)))
            with contextlib.suppress(PreconditionFailedError):
                late()
                self.happened["came late"] += 1

    def commit(
        self, owner: Owner, check: Callable[[BlobStore], None], first: int, last: int
    ) -> None:
        """A transaction: the check, the outputs of the events from `first` to `last`."""
        fault = self.fault("undone", "lost", "unavailable")
        if fault == "unavailable":
            raise StoreUnavailableError("nothing was done")
        before = self.checkpoint()
        view = Contents(hashed=self.contents.hashed, blobs=dict(self.contents.blobs))
        view.versions = self.contents.versions + 1_000_000 * (fault == "undone")
        check(view)
        if fault == "undone":
            raise StoreUnavailableError("it was undone")
        self.contents.blobs, self.contents.versions = view.blobs, view.versions
        self._check_put(owner, owner.began, owner.position, before)
        if before is not None:  # otherwise a deletion has not found it yet
            assert first == before.offset + 1, "outputs twice, or left out"
            assert not set(self._outputs) & set(range(first, last + 1)), "outputs twice"
            self._outputs.extend(range(first, last + 1))
            self.happened["committed"] += 1
        if fault == "lost":
            raise LostAnswerError

    # What must hold

    def _check_put(
        self, owner: Owner, began: int, position: int, before: StoredCheckpoint | None
    ) -> None:
        """Of what an owner wrote, in place of `before`."""
        after = self.checkpoint()
        if after is None:
            # It wrote to a group that is gone, and what it wrote counts for nobody; but then
            # it must not have written over what does.
            assert before is None, f"{owner} has overwritten what belongs to another group"
            return
        assert after.epoch == owner.epoch
        assert after.owner in (owner.member, None)
        if before is None:
            self.happened["first"] += 1
            return
        assert after.revision != before.revision
        assert after.reset == before.reset
        if (before.owner, before.epoch) != (owner.member, owner.epoch):
            assert before.epoch <= owner.epoch, f"{owner} took it from a later owner"
            assert after.offset == before.offset, "it moved and changed hands"
            self.happened["taken"] += 1
        elif after.offset != before.offset:
            assert began <= before.offset + 1 <= after.offset < position, "events were left out"
            self.happened["moved"] += 1

    def check_told(self, owner: Owner, offset: int) -> None:
        """`owner` was told that its checkpoint is at `offset`, or further: that is what stands."""
        assert owner.checkpoint.offset >= offset
        stored = self.checkpoint()
        if stored is not None and (stored.owner, stored.epoch) == (owner.member, owner.epoch):
            noticed = stored.reset == stored.noticed
            assert not noticed or stored.offset >= offset


class Faulty(BlobStore):
    """The store as one owner has it."""

    def __init__(self, world: World, owner: Owner | None) -> None:
        self._world = world
        self._owner = owner

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        if self._world.fault("unavailable"):
            raise StoreUnavailableError("it is away")
        return self._world.contents.get(name, if_none_match=if_none_match)

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        fault = self._world.fault("unavailable", "late", "late", "lost", "repeated")
        if fault == "unavailable":
            raise StoreUnavailableError("it is away")

        def do() -> str:
            contents = self._world.contents
            return contents.put(name, data, if_match=if_match, if_absent=if_absent)

        etag = self._world.put(self._owner, do, late=fault == "late")
        if fault == "lost":
            raise StoreUnavailableError("the answer was lost")
        if fault == "repeated":
            raise PreconditionFailedError("the client met its own put")
        return etag

    def list(self, prefix: str) -> list[tuple[str, str]]:
        raise NotImplementedError

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


def unreliably(world: World, make: Callable[[], Steps[T]]) -> T:
    """Take steps on a store that has its faults, until they are done."""
    while True:
        if world.chance.random() < 0.2:
            world.arrive()
        with contextlib.suppress(StoreUnavailableError):
            return perform(make(), Faulty(world, None))
