"""Histories, and the states that a cut may leave of them."""

from __future__ import annotations

import bisect
import functools
import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.power.choices import Chooser, choose_seed
from tests.crash.power.disk import Disk, Model, Outcome, certain_moments
from tests.crash.power.operations import NEVER, SECTOR, Ack, Naming, Operation, Resize, Tree, Write


@dataclass(frozen=True)
class History:
    """What a program did to a directory, in the order in which it took effect.

    Invariant: of two writes to one file the later in `operations` is the later in the page cache.
    """

    operations: tuple[Operation, ...]
    before: Tree = field(default_factory=Tree)
    maps: Mapping[int, bytes] = field(default_factory=dict)  # shared maps: their bytes at the end

    @property
    def acknowledged(self) -> tuple[str, ...]:
        """All that was promised, in order."""
        return tuple(ack.text for ack in self.acks)

    @functools.cached_property
    def acks(self) -> tuple[Ack, ...]:
        """The acknowledgements by the moment from which they count."""
        acks = (each for each in self.operations if isinstance(each, Ack))
        return tuple(sorted(acks, key=lambda ack: ack.begin))

    @functools.cached_property
    def names(self) -> Mapping[int, str]:
        """For a reader: the last name that each file or directory had."""
        names = {number: path for path, number in self.before.paths().items()}
        for naming in self.operations:
            if isinstance(naming, Naming):
                names |= {node: name for _, name, node in naming.entries if node is not None}
        return names

    def cuts(self) -> list[int]:
        """The moments at which a cut can show something that no other cut shows.

        Until something becomes certain, a later cut may leave all that an earlier one may and has
        as many promises to keep or more: the last moment before that stands for all of them. The
        moments after a promise are added, where less is pending and more of it is tried.
        """
        certain = {moment for moment in certain_moments(self.operations) if moment != NEVER}
        promised = {ack.begin + 1 for ack in self.acks}
        last = 1 + max((_last_moment(each) for each in self.operations), default=0)
        return sorted(certain | promised | {last})

    def states(
        self,
        *,
        seed: int | None = None,
        grain: int = SECTOR,
        exhaustive: int = 8,
        sampled: int = 32,
        torn: int = 12,
        cuts: int = 400,
    ) -> Iterator[State]:
        """Yields states that a cut may leave, earliest cut first, none twice for one cut.

        Args:
            seed: of the random choices; by default that of `choose_seed`.
            grain: what the disk writes as one, in bytes: SECTOR or PAGE.
            exhaustive: up to this many pending changes every subset is tried.
            sampled: how many subsets otherwise, extremes included.
            torn: how many more, per cut, with torn writes and open sizes, besides their extremes.
            cuts: at most so many cuts are tried, the last always.
        """
        seed = choose_seed() if seed is None else seed
        rng = random.Random(seed)
        numbers = itertools.count(1)
        model = Model(self, grain)
        for disk in model.disks(_sampled(self.cuts(), cuts, rng)):
            chooser = Chooser(model, disk, rng, exhaustive=exhaustive, sampled=sampled, torn=torn)
            for outcome in chooser.outcomes():
                yield State(self, next(numbers), seed, disk, outcome, model)


@dataclass(frozen=True, eq=False)
class State:
    """A directory as one cut may leave it."""

    history: History = field(repr=False)
    number: int
    seed: int
    disk: Disk = field(repr=False)
    outcome: Outcome
    model: Model = field(repr=False)

    @property
    def acknowledged(self) -> tuple[str, ...]:
        """What had been promised when the power failed, in order."""
        acks = self.history.acks
        count = bisect.bisect_left(acks, self.disk.moment, key=lambda ack: ack.begin)
        return tuple(ack.text for ack in acks[:count])

    def tree(self) -> Tree:
        """The directory as a value."""
        return self.model.tree(self.disk, self.outcome)

    def contents(self) -> dict[str, bytes | None]:
        """Every path in it with the bytes of its file, or None for a directory."""
        return self.tree().contents()

    def rebuild(self, path: Path) -> None:
        """Makes `path` this directory; whatever was there is removed."""
        self.tree().write(path)

    def describe(self) -> str:
        """Says in words what was pending, what became of it, and what the cut left."""
        return "\n  ".join(self._lines())

    def _lines(self) -> Iterator[str]:
        cut = f"cut before moment {self.disk.moment}, grain {self.model.grain}"
        yield f"state {self.number} of seed {self.seed}: {cut}"
        promised = self.acknowledged
        yield f"acknowledged: {len(promised)}{f', the last {promised[-1]!r}' if promised else ''}"
        yield from (fate for index in self.disk.waiting if (fate := self._fate(index)))
        names = self.history.names
        yield from (
            f"{names.get(file)}: its size became {size}" for file, size in self.outcome.sizes
        )
        yield from (f"{names.get(file)}: mapped, {self.outcome.maps}" for file in self.history.maps)
        for path, content in self.contents().items():
            yield f"left: {path}{'/' if content is None else f', {len(content)} bytes'}"

    def _fate(self, index: int) -> str | None:
        change = self.model.change(index)
        if not isinstance(change, Naming) and change.file in self.history.maps:
            return None
        spans = dict(self.outcome.torn).get(index)
        fate = "kept" if index in self.outcome.kept else "lost"
        fate = f"torn, kept only {spans}" if spans is not None else fate
        return f"pending {index}: {_phrase(change, self.history.names)}: {fate}"


def _last_moment(operation: Operation) -> int:
    return operation.begin if operation.end == NEVER else operation.end


def _sampled(cuts: list[int], most: int, rng: random.Random) -> list[int]:
    if len(cuts) <= most:
        return cuts
    return sorted({*rng.sample(cuts[:-1], most - 1), cuts[-1]})


def _phrase(operation: Operation, names: Mapping[int, str]) -> str:
    match operation:
        case Write():
            kind = "synced write" if operation.synced else "write"
            what = f"{kind} of {len(operation.data)} bytes at {operation.offset}"
            return f"{names.get(operation.file)}: {what}, begun at {operation.begin}"
        case Resize():
            return f"{names.get(operation.file)}: resize from {operation.was} to {operation.size}"
        case Naming():
            steps = (f"{name} -> {node}" for _, name, node in operation.entries)
            return f"{operation.kind} ({', '.join(steps)}), begun at {operation.begin}"
        case _:
            return str(operation)
