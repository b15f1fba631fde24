"""Random histories of a fenced checkpoint; what a seed decides is decided again by it."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import partial

import pytest
from msgspec.structs import replace

from eventlog.blobs import Blob
from eventlog.groups import steps
from eventlog.groups.documents import CheckpointResetError, GroupDocument, StoredCheckpoint
from eventlog.groups.steps import Steps
from eventlog.processor.checkpoint import PartitionCheckpoint
from tests.processor.checkpoint_world import NAME, WHEN, World, unreliably

SEEDS = 300
STEPS = 120


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@pytest.mark.parametrize("hashed", [False, True], ids=["any etags", "etags of the content"])
@pytest.mark.parametrize("faults", [0.0, 0.1, 0.4])
def test_nothing_moves_it_backwards_or_by_the_hand_of_a_former_owner(
    hashed: bool, faults: float
) -> None:
    """And no event's output is stored twice, or left out; `World` says what else must hold."""
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        with seeded(seed):
            world = World(seed, hashed=hashed, faults=faults)
            world.run(STEPS)
            happened += world.happened
    for what in ("first", "taken", "moved", "committed", "lost", "noticed", "made again"):
        assert happened[what] > SEEDS // 20, happened
    assert not faults or happened["came late"] > SEEDS // 20, happened


# Leaving a rule out


class WithoutFencing(PartitionCheckpoint):
    """It writes over whatever is there."""

    def _put(self, document: StoredCheckpoint, etag: str | None) -> Steps[bool]:
        blob = yield from steps.get(NAME)
        return (yield from super()._put(document, blob.etag if isinstance(blob, Blob) else None))


class WithoutEpochs(PartitionCheckpoint):
    """It takes over from whoever is there, from later owners too."""

    def _decoded(self, blob: object) -> StoredCheckpoint | None:
        found = super()._decoded(blob)
        return None if found is None else replace(found, epoch=min(found.epoch, self.epoch - 1))


class WithoutLookingAtTheGroup(PartitionCheckpoint):
    """It takes what belongs to another group for older, unseen."""

    def _group_owned(self) -> Steps[GroupDocument | None]:
        yield from super()._group_owned()
        return GroupDocument(generation=0, log="log", topic="1", group=self._group_id)


class WithoutNoticingResets(PartitionCheckpoint):
    """It goes on where it was."""

    def look(self) -> Steps[None]:
        with contextlib.suppress(CheckpointResetError):
            yield from super().look()


class FromWhereverItStands(PartitionCheckpoint):
    """A transaction does not ask whether one before it was stored."""

    def advance_within(
        self, known: StoredCheckpoint, offset: int, enqueued_at: datetime | None
    ) -> Steps[tuple[StoredCheckpoint, str]]:
        found = self._owned((yield from steps.get(NAME)))
        return (yield from super().advance_within(found, offset, enqueued_at))


@pytest.mark.parametrize(
    "kind",
    [
        WithoutFencing,
        WithoutEpochs,
        WithoutLookingAtTheGroup,
        WithoutNoticingResets,
        FromWhereverItStands,
    ],
)
def test_the_histories_find_out_who_leaves_a_rule_out(kind: type[PartitionCheckpoint]) -> None:
    def run_all() -> None:
        for seed in range(SEEDS):
            World(seed, faults=0.2, kind=kind).run(STEPS)

    with pytest.raises(AssertionError):
        run_all()


# One owner and its store


def test_lost_answers_leave_no_trace() -> None:
    """Whatever happens between one owner and its store: progress, attempts, what was told."""
    for seed in range(SEEDS):
        with seeded(seed):
            alone, troubled = (_one_owner(seed, faults) for faults in (0.0, 0.3))
            assert alone == troubled


def _one_owner(seed: int, faults: float) -> list[object]:
    chance = random.Random(seed)
    world = World(seed, faults=faults)
    world.assign("host")
    checkpoint = PartitionCheckpoint(world.ids, world.group.group, 3, "host", 1)
    told: list[object] = []
    unreliably(world, lambda: checkpoint.open(5))
    offset = checkpoint.offset
    for _ in range(30):
        offset += chance.randrange(3)
        if chance.random() < 0.5:
            told.append(unreliably(world, partial(checkpoint.attempt, offset + 1)))
        else:
            unreliably(world, partial(checkpoint.advance, offset, WHEN))
        stored = world.checkpoint()
        assert stored is not None
        told.append((stored.offset, stored.attempted, stored.attempts, stored.owner))
    return told
