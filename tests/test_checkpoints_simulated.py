"""Random histories of a group: consumers, hosts, people and deletions, between any two store calls.

What a seed decides is decided again by the same seed; a failure names it.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import pytest
from msgspec.structs import replace

from eventlog import (
    ConsumerDisconnectedError,
    EventLogError,
    LeaseLostError,
    PreconditionFailedError,
    StoreUnavailableError,
    TopicNotFoundError,
    UnexpectedOffsetError,
)
from eventlog.blobs import Blob
from eventlog.groups.blobs import GroupBlobs, belongs
from eventlog.groups.checkpoints import CheckpointResetError, GroupIds, GroupStore
from eventlog.groups.documents import GroupDocument, Share, StoredCheckpoint, decode
from eventlog.groups.steps import perform
from eventlog.processor.checkpoint import PartitionCheckpoint
from tests.simulated_store import Schedule, SimulatedStore

T = TypeVar("T")

IDS: Final = GroupIds("log", "cars", "1", "fraud")
PARTITIONS: Final = (0, 1, 2)
SEEDS: Final = 100


class World:
    """What there is, who is in it, and what must hold of all that happens."""

    def __init__(self, seed: int, *, hashed: bool = False) -> None:
        self.chance = random.Random(seed)
        self.schedule = Schedule(self.chance)
        self.blobs = SimulatedStore(self.schedule, self.chance, self.changes, hashed=hashed)
        self.topic_id = IDS.topic_id
        self.happened: Counter[str] = Counter()
        self.moves: Counter[str] = Counter()
        self._us = 1_700_000_000_000_000
        self._best: dict[tuple[str, int], int] = defaultdict(lambda: -1)
        self._lost: set[tuple[str, str, int]] = set()

    # For actors

    def clock(self) -> int:
        self._us += self.chance.choice([0, 0, 1_000, 1_000_000, 12_000_000, -2_000_000])
        return self._us

    def pause(self, repetition: int) -> None:
        self.schedule.step()

    def ids(self) -> GroupIds:
        """Of the topic that is there."""
        return IDS._replace(topic_id=self.topic_id)

    def store(self) -> GroupStore:
        """What an actor has that begins now."""
        ids = self.ids()

        def require_topic() -> None:
            self.schedule.step()
            if self.topic_id != ids.topic_id:
                raise TopicNotFoundError("it was deleted")

        return GroupStore(self.blobs, ids, self.clock, self.pause, require_topic)

    def patiently(self, do: Callable[[], T]) -> T:
        """Try it again while the store is away."""
        while True:
            with contextlib.suppress(StoreUnavailableError):
                return do()

    def acknowledged(self, owner: str, partition: int, offset: int) -> None:
        """`owner` was told that it has finished `offset`: that was stored, and by nobody else."""
        assert self._best[owner, partition] >= offset

    # What must hold

    def changes(self, actor: str, name: str, there: Blob | None, data: bytes | None) -> None:
        """Called at every change of a document, as it happens."""
        if data is None:
            self._check_deletion(name, there)
        elif name == IDS.document:
            self._check_group(
                None if there is None else _decoded(name, there.data, GroupDocument),
                _decoded(name, data, GroupDocument),
            )
        else:
            self._check_checkpoint(actor, name, there, data)

    def _check_deletion(self, name: str, there: Blob | None) -> None:
        """The group document goes first, and nothing of a group that is there goes at all."""
        if name != IDS.document and there is not None:
            group = self._group()
            assert group is None or not belongs(
                _decoded(name, there.data, StoredCheckpoint), group
            ), "deleted from a group that is there"

    def _check_checkpoint(self, actor: str, name: str, there: Blob | None, data: bytes) -> None:
        partition = IDS.partition(name)
        assert partition is not None
        new = _decoded(name, data, StoredCheckpoint)
        old = None if there is None else _decoded(name, there.data, StoredCheckpoint)
        if new.owner is not None:
            self._best[new.owner, partition] = max(self._best[new.owner, partition], new.offset)
        if old is None or old.group != new.group or old.offset != new.offset:
            self.moves[actor] += 1
        if old is None:
            assert new.reset <= 1
        elif old.group == new.group:
            self._check_change(actor, partition, old, new)
        else:
            self._check_replacement(old)

    def _check_group(self, old: GroupDocument | None, new: GroupDocument) -> None:
        if old is None or old.group != new.group:
            assert new.generation == new.consumers == 0
            assert old is None or int(old.topic) < int(new.topic)
            return
        assert new.generation == old.generation + 1
        for partition, share in old.partitions.items():
            changed = new.partitions[partition]
            assert changed.epoch == share.epoch + (changed.owner != share.owner)

    def _check_replacement(self, old: StoredCheckpoint) -> None:
        """Only of what belongs to no group that is there."""
        self.happened["replaced"] += 1
        group = self._group()
        assert group is None or not belongs(old, group)

    def _check_change(
        self, actor: str, partition: int, old: StoredCheckpoint, new: StoredCheckpoint
    ) -> None:
        assert new.topic == old.topic
        assert new.revision != old.revision
        assert new.epoch >= old.epoch
        assert new.reset in (old.reset, old.reset + 1)
        was_reset = new.reset > old.reset
        moved = was_reset or new.offset != old.offset
        assert was_reset or new.offset >= old.offset, "it moved backwards"
        assert not was_reset or actor.startswith("person")
        self.happened["reset"] += was_reset
        self.happened["moved"] += moved and not was_reset
        if new.owner != old.owner:
            self._check_owner(actor, partition, old, new)
            assert not moved or was_reset or new.owner is None, "it moved and changed hands"
        elif moved and not was_reset:
            assert actor == old.owner or actor.startswith("anybody")
            assert (actor, old.group, partition) not in self._lost, "a former owner moved it"
            group = self._group()
            if group is not None and belongs(old, group) and _is_host(old.owner):
                assert actor == old.owner or group.owner(partition) != old.owner

    def _check_owner(
        self, actor: str, partition: int, old: StoredCheckpoint, new: StoredCheckpoint
    ) -> None:
        if old.owner is not None:
            self._lost.add((old.owner, old.group, partition))
        if new.owner is None:
            assert actor == old.owner or not actor.startswith(("consumer", "host"))
            assert not actor.startswith("anybody") or _is_host(old.owner)
            self.happened["left"] += 1
            return
        self.happened["taken by a host" if _is_host(new.owner) else "taken"] += 1
        assert actor == new.owner
        self._lost.discard((actor, old.group, partition))  # it repeats a claim
        group = self._group()
        if group is not None and belongs(old, group) and _is_host(old.owner):
            assert group.owner(partition) != old.owner, "taken from a host that has begun"
        if new.consumer and old.consumer:
            assert new.consumer > old.consumer, "taken by who came earlier"

    def _group(self) -> GroupDocument | None:
        data = self.blobs.data(IDS.document)
        return None if data is None else _decoded(IDS.document, data, GroupDocument)

    def run(self, actors: Mapping[str, Callable[[], None]], *, faults: float = 0.0) -> None:
        """Let them loose; then everything that is left must make sense to who comes next."""
        self.blobs.faults = faults
        self.schedule.run(actors)
        self.blobs.close()
        self.happened["came late"] += self.blobs.came_late
        self.schedule.current = "consumer-last"
        group, last = self._group(), self.store()
        there = last.checkpoints()
        for partition in PARTITIONS:
            if group is None or group.topic != self.topic_id or group.owner(partition) is None:
                checkpoint, etag = last.claim(partition, "consumer-last", 5)
                expected = there[partition].offset if partition in there else 4
                assert checkpoint.offset == expected
                last.advance(partition, "consumer-last", expected + 1, None, etag)
                self.acknowledged("consumer-last", partition, expected + 1)


def _is_host(owner: str | None) -> bool:
    return owner is not None and owner.startswith("host")


def _decoded(name: str, data: bytes, kind: type[T]) -> T:
    for topic in ("1", "2"):
        document = decode(name, data, kind, IDS._replace(topic_id=topic))  # type: ignore[type-var]
        if document is not None:
            return document
    raise AssertionError(data)


# Actors


def consumer(world: World, name: str, partitions: Sequence[int]) -> Callable[[], None]:
    """Reads for the group until it has read enough, or is disconnected."""

    def act() -> None:
        store = world.store()
        etags: dict[int, str] = {}
        following: dict[int, int] = {}
        try:
            for partition in partitions:
                checkpoint, etag = world.patiently(partial(store.claim, partition, name, 5))
                etags[partition], following[partition] = etag, checkpoint.offset + 1
            for _ in range(world.chance.randrange(4, 12)):
                _read_on(world, store, name, etags, following)
        except ConsumerDisconnectedError:
            world.happened["disconnected"] += 1
        except TopicNotFoundError:
            assert world.topic_id != store.ids.topic_id
        for partition, etag in etags.items():
            store.release(partition, name, etag)

    return act


def _read_on(
    world: World, store: GroupStore, name: str, etags: dict[int, str], following: dict[int, int]
) -> None:
    partition = world.chance.choice(list(etags))
    offset = following[partition] + world.chance.randrange(-1, 3)
    try:
        if world.chance.random() < 0.3:
            etags.update(store.still_mine(name, etags))
            return
        etags[partition] = store.advance(partition, name, offset, None, etags[partition])
    except CheckpointResetError as reset:
        world.happened["noticed"] += 1
        etags[reset.partition] = reset.etag
        following[reset.partition] = reset.checkpoint.offset + 1
    except StoreUnavailableError:
        pass
    else:
        world.acknowledged(name, partition, offset)
        following[partition] = max(offset + 1, following[partition])


def host(world: World, name: str, partition: int) -> Callable[[], None]:
    """Takes a partition over, moves its checkpoint, and gives it away, released or not."""

    def act() -> None:
        store = world.store()
        blobs = GroupBlobs(world.blobs, store.ids, world.pause, lambda: None)
        with contextlib.suppress(
            StoreUnavailableError, PreconditionFailedError, TopicNotFoundError
        ):
            store.ensure()
            epoch = _change_owner(blobs, partition, None, name)
            if epoch is None:
                return
            group = blobs.look_at_group().document
            if group is not None:
                _process(world, PartitionCheckpoint(store.ids, group.group, partition, name, epoch))
            _change_owner(blobs, partition, name, None)

    return act


def _change_owner(
    blobs: GroupBlobs, partition: int, old: str | None, new: str | None
) -> int | None:
    """In the group document; the new epoch, or None if it was not `old` that owned it."""
    while True:
        etag, group = blobs.look_at_group()
        if group is None:
            return None
        share = group.partitions.get(partition, Share())
        if share.owner == new:
            return share.epoch  # an answer was lost
        if share.owner != old:
            return None
        changed = {**group.partitions, partition: Share(new, share.epoch + 1)}
        swapped = replace(group, generation=group.generation + 1, partitions=changed)
        if blobs.swap_group(etag, swapped) is not None:
            return share.epoch + 1


def _process(world: World, checkpoint: PartitionCheckpoint) -> None:
    """What a pump does with it; what is not answered is not tried again."""
    with contextlib.suppress(LeaseLostError):
        perform(checkpoint.open(5), world.blobs)
        for _ in range(world.chance.randrange(5)):
            with contextlib.suppress(CheckpointResetError):
                offset = checkpoint.offset + 1
                perform(checkpoint.advance(offset, None), world.blobs)
                world.acknowledged(checkpoint.member, checkpoint.partition, offset)
        if world.chance.random() < 0.5:
            perform(checkpoint.release(), world.blobs)


def person(world: World) -> Callable[[], None]:
    """Resets some partitions, by force or not."""

    def act() -> None:
        starts = {
            partition: world.chance.randrange(20)
            for partition in world.chance.sample(PARTITIONS, world.chance.randrange(1, 3))
        }
        force = world.chance.random() < 0.8
        with contextlib.suppress(PreconditionFailedError, TopicNotFoundError):
            world.patiently(lambda: world.store().reset(starts, force=force))

    return act


def anybody(world: World, name: str) -> Callable[[], None]:
    """Checkpoints without being consumer or host."""

    def act() -> None:
        store = world.store()
        for _ in range(world.chance.randrange(1, 4)):
            partition, before = world.chance.choice(PARTITIONS), world.moves[name]
            with contextlib.suppress(
                *(LeaseLostError, UnexpectedOffsetError, StoreUnavailableError, TopicNotFoundError)
            ):
                moved = store.advance_unowned(partition, world.chance.randrange(30))
                assert not moved or world.moves[name] > before

    return act


def remover(world: World) -> Callable[[], None]:
    """Deletes the group."""

    def act() -> None:
        with contextlib.suppress(StoreUnavailableError, TopicNotFoundError):
            world.store().delete()

    return act


def consumer_of_a_new_topic(world: World, name: str) -> Callable[[], None]:
    """Deletes the topic, makes another of its name, and reads that."""

    def act() -> None:
        world.schedule.step()
        world.topic_id = "2"
        consumer(world, name, PARTITIONS)()

    return act


# Histories


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


def some_partitions(world: World) -> list[int]:
    return world.chance.sample(PARTITIONS, world.chance.randrange(1, len(PARTITIONS) + 1))


def history(seed: int, *, hashed: bool, faults: float) -> Counter[str]:
    """One with everybody in it; what happened, counted."""
    with seeded(seed):
        world = World(seed, hashed=hashed)
        chance = world.chance
        actors: dict[str, Callable[[], None]] = {}
        for number in range(chance.randrange(1, 4)):
            name = f"consumer-{number}"
            actors[name] = consumer(world, name, some_partitions(world))
        for number in range(chance.randrange(3)):
            name = f"host-{number}"
            actors[name] = host(world, name, chance.choice(PARTITIONS))
        for number in range(chance.randrange(3)):
            actors[f"person-{number}"] = person(world)
        for number in range(chance.randrange(3)):
            name = f"anybody-{number}"
            actors[name] = anybody(world, name)
        for number in range(chance.choice([0, 0, 1, 2])):
            actors[f"remover-{number}"] = remover(world)
        if chance.random() < 0.2:
            actors["consumer-of-2"] = consumer_of_a_new_topic(world, "consumer-of-2")
        world.run(actors, faults=faults)
        return world.happened


@pytest.mark.parametrize("hashed", [False, True], ids=["any etags", "etags of the content"])
@pytest.mark.parametrize("faults", [0.0, 0.05], ids=["no faults", "faults"])
def test_no_checkpoint_moves_backwards_or_by_the_hand_of_a_former_owner(
    hashed: bool, faults: float
) -> None:
    """But by a reset. `World.changes` says what else must hold."""
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        happened += history(seed, hashed=hashed, faults=faults)
    for what in ("moved", "reset", "noticed", "taken", "taken by a host", "left", "replaced"):
        assert happened[what] > SEEDS // 20, happened
    assert not faults or happened["came late"] > SEEDS // 20, happened


@pytest.mark.parametrize("faults", [0.0, 0.1], ids=["no faults", "faults"])
def test_of_consumers_that_start_together_exactly_one_goes_on(faults: float) -> None:
    """Each wants all partitions, in an order of its own."""

    def act(world: World, name: str, ended: dict[str, bool]) -> None:
        store = world.store()
        etags = {}
        try:
            for partition in world.chance.sample(PARTITIONS, len(PARTITIONS)):
                claim = partial(store.claim, partition, name, 0)
                etags[partition] = world.patiently(claim)[1]
            ended[name] = False
            while len(ended) < 3:  # nobody leaves before all have begun
                world.schedule.step()
            world.patiently(partial(store.still_mine, name, etags))
        except ConsumerDisconnectedError:
            ended[name] = True

    for seed in range(SEEDS):
        with seeded(seed):
            world = World(seed)
            world.blobs.kills = False
            ended: dict[str, bool] = {}
            actors = {name: partial(act, world, name, ended) for name in ("consumer-1", "-2", "-3")}
            world.run(actors, faults=faults)
            assert sorted(ended.values()) == [False, True, True]


def test_lost_answers_leave_no_trace() -> None:
    """Whatever happens between one consumer and its store, its checkpoints are what it did."""

    def act(world: World, seed: int, seen: list[int]) -> None:
        steps = random.Random(seed)
        store = world.store()
        _, etag = world.patiently(lambda: store.claim(0, "consumer", 0))
        offset = -1
        for _ in range(12):
            offset += steps.randrange(3)
            advance = partial(store.advance, 0, "consumer", offset, None, etag)
            etag = world.patiently(advance)
            seen.append(world.patiently(store.checkpoints)[0].offset)

    for seed in range(SEEDS):
        with seeded(seed):
            histories: list[list[int]] = []
            for faults in (0.0, 0.3):
                world = World(seed)
                world.blobs.kills = False
                histories.append([])
                world.run({"consumer": partial(act, world, seed, histories[-1])}, faults=faults)
            assert histories[0] == histories[1]


def test_a_failure_is_raised_with_its_seed_and_its_actor() -> None:
    """And the simulation itself is no way for one to get lost."""

    def act() -> None:
        raise EventLogError("broken")

    with pytest.raises(EventLogError, match="broken") as caught, seeded(41):
        World(41).run({"actor": act})
    assert caught.value.__notes__ == ["in actor", "seed 41"]
