"""Actors that move a group's checkpoints, and histories with all of them."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

from eventlog.blobs import BlobStore
from eventlog.consuming.claims import Claims, ClaimsFence, Yielded
from eventlog.errors import (
    ConsumerDisconnectedError,
    LeaseLostError,
    LogBusyError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnexpectedOffsetError,
)
from eventlog.groups.documents import CheckpointResetError
from eventlog.groups.steps import Steps, perform
from eventlog.processor.checkpoint import PartitionCheckpoint
from tests.kafka.simulated_groups import (
    IDS,
    START,
    Kinds,
    Process,
    World,
)
from tests.kafka.simulated_kafka import Record, UnknownError

Act: TypeAlias = Callable[[World, Process], None]

FAILED = (PreconditionFailedError, StoreUnavailableError, LogBusyError, UnknownError)


# Hosts


class Host:
    """Takes a partition over, moves its checkpoint, plainly and in transactions, and goes."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self._partition = number

    def act(self, world: World, process: Process) -> None:
        self._world, self._process, chance = world, process, world.chance
        for _ in range(chance.randrange(chance.choice([10, 100]))):
            world.step()
        world.patiently(self._process.group().ensure)
        assigned = world.assign(self._partition, self.name)
        if assigned is None:
            return
        group, epoch = assigned
        self._checkpoint = PartitionCheckpoint(
            IDS, group, self._partition, self.name, epoch, clock=world.clock
        )
        with contextlib.suppress(LeaseLostError):
            self._until_done(lambda: self._checkpoint.open(START))
            world.begins(self.name, self._partition, self._checkpoint._known)
            for _ in range(chance.randrange(15)):
                with contextlib.suppress(CheckpointResetError):
                    self._work()
            if chance.random() < 0.5:
                self._until_done(self._checkpoint.release)
                world.happened["released"] += 1
        if chance.random() < 0.5:
            world.give_back(self._partition, self.name)

    def _work(self) -> None:
        chance, checkpoint = self._world.chance, self._checkpoint
        first, kind = checkpoint.offset + 1, chance.random()
        last = first + chance.randrange(4)
        if kind < 0.2:
            self._until_done(checkpoint.look)
        elif kind < 0.3:
            self._until_done(lambda: checkpoint.attempt(first))
        elif kind < 0.5:
            self._until_done(lambda: checkpoint.advance(last, None))
        else:
            self._transaction(first, first - 1 if kind < 0.6 else last)

    def _transaction(self, first: int, last: int) -> None:
        record = Record(self.name, self._partition, first, last)
        fence = self._checkpoint.fence(last, None)
        try:
            self._process.transact(fence.check, [record])
        except FAILED:
            self._until_done(self._checkpoint.look)
        else:
            fence.committed()

    def _until_done(self, make: Callable[[], Steps[object]]) -> None:
        while True:
            with contextlib.suppress(StoreUnavailableError, PreconditionFailedError):
                perform(make(), self._process.blobs)
                return
            self._world.step()


# Consumers


class SimulatedConsumer:
    """Reads for the group until it has read enough, or is disconnected."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def act(self, world: World, process: Process) -> None:
        self._world, self._process = world, process
        claims = self._claims = Claims(process.group())
        for _ in range(world.chance.randrange(world.chance.choice([10, 100]))):
            world.step()
        with contextlib.suppress(ConsumerDisconnectedError):
            for number in self._numbers:
                world.patiently(partial(claims.claim, number, START))
                seen = claims.store._blobs._checkpoints[number].document
                assert seen is not None
                world.begins(claims.owner, number, seen)
            for _ in range(world.chance.randrange(15)):
                self._work()
                for reset in claims.resets():
                    claims.followed(reset)
                    world.happened["noticed"] += 1
            if world.chance.random() < 0.7:
                claims.release()

    def _work(self) -> None:
        chance, claims = self._world.chance, self._claims
        kind = chance.random()
        some = [each for each in self._numbers if chance.random() < 0.7]
        yielded = [
            Yielded(each, claims.offset(each) + chance.randrange(1, 4), None, claims.era(each))
            for each in some
        ]
        if kind < 0.2:
            claims.check()
        elif kind < 0.4:
            with contextlib.suppress(StoreUnavailableError, PreconditionFailedError):
                claims.advance(yielded)
        else:
            self._transaction([] if kind < 0.5 else yielded)

    def _transaction(self, yielded: list[Yielded]) -> None:
        claims = self._claims
        fence = ClaimsFence(claims, yielded)
        records = [
            Record(claims.owner, one.partition, claims.offset(one.partition) + 1, one.offset)
            for one in yielded or claims.standing()
        ]
        try:
            self._process.transact(fence.check, records)
        except FAILED:
            claims.go_back(yielded or claims.standing())
        else:
            fence.committed()


# Others


def person(world: World, process: Process) -> None:
    """Resets some partitions, by force or not."""
    store = process.group()
    chance = world.chance
    for _ in range(chance.randrange(20)):
        world.step()
    starts = {each: chance.randrange(20) for each in world.partitions if chance.random() < 0.7}
    force = chance.random() < 0.8
    with contextlib.suppress(PreconditionFailedError):
        world.patiently(lambda: store.reset(starts, force=force))


def remover(world: World, process: Process) -> None:
    """Deletes the group."""
    store = process.group()
    for _ in range(world.chance.randrange(60)):
        world.step()
    with contextlib.suppress(PreconditionFailedError):
        world.patiently(store.delete)


def anybody(world: World, process: Process) -> None:
    """Checkpoints without owning anything, in transactions or not."""
    store, offset = process.group(), 0
    for _ in range(world.chance.randrange(1, 9)):
        number = world.chance.choice(world.partitions)
        with contextlib.suppress(StoreUnavailableError):
            found = store.checkpoint(number)
            offset = (0 if found is None else found[0].offset + 1) + world.chance.randrange(3)

        def check(view: BlobStore, number: int = number, offset: int = offset) -> None:
            store.within(view).advance_unowned(number, offset)

        with contextlib.suppress(LeaseLostError, UnexpectedOffsetError, *FAILED):
            if world.chance.random() < 0.6:
                process.transact(check)
                world.happened["transaction of anybody"] += 1
            else:
                store.advance_unowned(number, offset)


def viewer(world: World, process: Process) -> None:
    """Looks where the group is, again and again."""
    store = process.group()
    for _ in range(world.chance.randrange(2, 20)):
        before, unstable = dict(world.acknowledged), world.kafka.unstable
        with contextlib.suppress(StoreUnavailableError):
            if world.chance.random() < 0.5:
                found = store._blobs.all_checkpoints()
            else:
                number = world.chance.choice(world.partitions)
                seen = store._blobs.look_at(number).document
                found = {} if seen is None else {number: seen}
            for number, stored in found.items():
                era = number, stored.group, stored.reset
                assert stored.offset <= world.truth[era], "it shows what was not finished"
                if world.kafka.unstable == unstable:
                    assert stored.offset >= before.get(era, -1), "it shows what is past"


def clerk(world: World, process: Process) -> None:
    """Writes down what rests: at any time, since nobody knows what rests."""
    for _ in range(world.chance.randrange(500)):
        world.step()
        for name in map(IDS.checkpoint, world.partitions):
            seen = process.blobs.seen(name)
            if seen is None or not seen.is_certain or world.chance.random() < 0.3:
                continue
            with contextlib.suppress(StoreUnavailableError):
                process.blobs.write_down(name)
            now = process.blobs.seen(name)
            world.happened["written down"] += now is not None and now.blob is not seen.blob


def neighbour(world: World, process: Process) -> None:
    """Has a group of the same name in a store of its own, where nobody else moves it."""
    store, stands = process.group(), {-1}
    for _ in range(world.chance.randrange(1, 15)):
        offset = max(stands) + world.chance.randrange(1, 4)

        def check(view: BlobStore, offset: int = offset) -> None:
            store.within(view).advance_unowned(0, offset)

        try:
            process.transact(check)
        except FAILED:
            stands.add(offset)
        else:
            stands = {offset}
        unstable = world.kafka.unstable
        found = world.patiently(lambda: world.process(process.store).group().checkpoint(0))
        if world.kafka.unstable == unstable:
            assert (-1 if found is None else found[0].offset) in stands, "another has moved it"


# Histories


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


class Crowd(NamedTuple):
    """How many of each there are at most."""

    hosts: int = 0
    consumers: int = 0
    persons: int = 1
    removers: int = 0
    others: int = 0
    viewers: int = 0
    clerks: int = 0
    neighbours: int = 0


HOSTS = Crowd(hosts=5, viewers=3)
CONSUMERS = Crowd(consumers=3, viewers=2)
BOTH = Crowd(hosts=3, consumers=3, viewers=1)
OTHERS = Crowd(others=4, viewers=3, persons=0)
ALL = Crowd(hosts=2, consumers=2, others=3, viewers=1)
DELETED = Crowd(hosts=3, consumers=3, removers=3, persons=0)
RESTING = Crowd(hosts=3, consumers=2, others=2, persons=2, removers=1, clerks=3)
SHARED = Crowd(hosts=3, consumers=3, neighbours=2)
CROWDS = [HOSTS, CONSUMERS, BOTH, OTHERS, ALL, DELETED, RESTING, SHARED]


def some_of(partitions: Sequence[int], chance: random.Random) -> list[int]:
    return chance.sample(partitions, chance.randrange(1, len(partitions) + 1))


def history(
    seed: int,
    *,
    faults: float,
    hashed: bool = False,
    kinds: Kinds | None = None,
    crowd: Crowd | None = None,
) -> Counter[str]:
    """One with everybody in it; what happened, counted."""
    with seeded(seed):
        world = World(seed, hashed=hashed, kinds=kinds)
        chance = world.chance
        apart = chance.choice([0.1, 0.4, 1.0])
        actors: dict[str, Callable[[], None]] = {}
        processes: list[Process] = []

        def enter(kind: str, most: int, make: Callable[[str], Act]) -> None:
            for number in range(chance.randrange(most + 1)):
                with_others = processes and kind == "clerk"
                if not processes or (not with_others and chance.random() < apart):
                    processes.append(world.process())
                name = f"{kind}-{number}"
                actors[name] = world.acting(name, chance.choice(processes), make(name))

        crowd = crowd or chance.choice(CROWDS)
        enter("host", crowd.hosts, lambda name: Host(name, chance.choice(world.partitions)).act)
        enter(
            "consumer",
            crowd.consumers,
            lambda _: SimulatedConsumer(some_of(world.partitions, chance)).act,
        )
        enter("person", crowd.persons, lambda _: person)
        enter("remover", crowd.removers, lambda _: remover)
        enter("anybody", crowd.others, lambda _: anybody)
        enter("viewer", crowd.viewers, lambda _: viewer)
        enter("clerk", crowd.clerks, lambda _: clerk)
        for number in range(crowd.neighbours and chance.randrange(1, crowd.neighbours + 1)):
            name, alone = f"neighbour-{number}", world.process(world.another_store())
            actors[name] = world.acting(name, alone, neighbour)
        world.others_move = crowd.others > 0
        world.run(actors, faults=faults)
        return world.happened
