"""What a cut may choose among the pending changes: all of it, or a sample."""

from __future__ import annotations

import functools
import itertools
import os
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final

from tests.crash.power.disk import Disk, Image, Model, Outcome
from tests.crash.power.operations import Naming, Span, Spans, Write

SEED_VARIABLE: Final = "POWER_SEED"


def choose_seed() -> int:
    """The seed that the environment asks for, else a new one."""
    return int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(1 << 32))


class Chooser:
    """The outcomes of one cut: all subsets of what is pending, or a sample; then torn ones."""

    def __init__(
        self,
        model: Model,
        disk: Disk,
        rng: random.Random,
        *,
        exhaustive: int,
        sampled: int,
        torn: int,
    ) -> None:
        self.model = model
        self.disk = disk
        self.rng = rng
        self.exhaustive = exhaustive
        self.sampled = sampled
        self.torn = torn
        self.pending = [index for index in disk.waiting if self._matters(index)]
        self.ranges = self._size_ranges()

    def outcomes(self) -> Iterator[Outcome]:
        """Yields each outcome once."""
        seen: set[Outcome] = set()
        for outcome in itertools.chain(
            self._subsets(), self._torn_extremes(), self._torn_samples()
        ):
            if outcome not in seen:
                seen.add(outcome)
                yield replace(outcome, maps=self._maps())

    def _matters(self, index: int) -> bool:
        """Whether anyone can see this change: of a file with a name, whose bytes are known."""
        change = self.model.change(index)
        return isinstance(change, Naming) or (
            change.file not in self.model.history.maps and change.file in self._named
        )

    @functools.cached_property
    def _named(self) -> set[int]:
        named = {node for entries in self.disk.directories.values() for node in entries.values()}
        for index in self.disk.waiting:
            change = self.model.change(index)
            if isinstance(change, Naming):
                named |= {node for _, _, node in change.entries if node is not None}
        return named

    def _subsets(self) -> Iterator[Outcome]:
        if len(self.pending) <= self.exhaustive:
            sizes = range(len(self.pending) + 1)
            yield from (
                self._closed(chosen)
                for size in sizes
                for chosen in itertools.combinations(self.pending, size)
            )
        else:
            yield from map(self._closed, itertools.islice(self._samples(), self.sampled))

    def _samples(self) -> Iterator[Sequence[int]]:
        """Extremes first: none, all, the last, all but the first, all but the last, prefixes."""
        pending, rng = self.pending, self.rng
        yield from ((), pending, pending[-1:], pending[1:], pending[:-1])
        for length in rng.sample(range(1, len(pending)), min(len(pending) - 1, self.sampled // 4)):
            yield pending[:length]
        while True:
            share = rng.choice((0.1, 0.5, 0.9))
            yield [index for index in pending if rng.random() < share]

    def _closed(self, chosen: Collection[int]) -> Outcome:
        """`chosen`, and what must have happened before: earlier namings and shrinking."""
        wanted, kept, touched = set(chosen), set[int](), set[int]()
        for index in reversed(self.pending):
            change = self.model.change(index)
            if index in wanted or (change.ordered and touched & change.nodes):
                kept.add(index)
                touched |= change.nodes
        return Outcome(frozenset(kept))

    def _torn_extremes(self) -> Iterator[Outcome]:
        everything = self._closed(self.pending)
        if self.ranges:
            namings = [i for i in self.pending if isinstance(self.model.change(i), Naming)]
            longest = tuple((file, high) for file, (_, high) in self.ranges.items())
            shortest = tuple((file, low) for file, (low, _) in self.ranges.items())
            yield replace(self._closed(namings), sizes=longest)  # longer, and all of it zeroes
            yield replace(everything, sizes=shortest)  # the bytes came, the new size did not
        for index in self._tearable()[-1:]:
            start, stop = self._whole(index)
            for span in ((start, start + self.model.grain), (start + self.model.grain, stop)):
                yield replace(everything, torn=((index, (span,)),))

    def _torn_samples(self) -> Iterator[Outcome]:
        for _ in range(self.torn if self.ranges or self._tearable() else 0):
            share = self.rng.choice((0.5, 1.0))
            outcome = self._closed([i for i in self.pending if self.rng.random() < share])
            torn = [i for i in self._tearable() if i in outcome.kept and self.rng.random() < 0.5]
            sizes = [file for file in self.ranges if self.rng.random() < 0.3]
            yield replace(
                outcome,
                torn=tuple((index, self._tear(index)) for index in torn),
                sizes=tuple((file, self._size(file)) for file in sizes),
            )

    def _whole(self, index: int) -> Span:
        write = self.model.change(index)
        assert isinstance(write, Write)
        return self.model.whole(write)

    def _tearable(self) -> list[int]:
        writes = [i for i in self.pending if isinstance(self.model.change(i), Write)]
        spans = {index: self._whole(index) for index in writes}
        return [i for i, (start, stop) in spans.items() if stop - start > self.model.grain]

    def _tear(self, index: int) -> Spans:
        """A part of a write: a beginning, an end, all but one grain, or alternating pieces."""
        start, stop = self._whole(index)
        grain = self.model.grain
        inner = range(start + grain, stop, grain)
        middle = self.rng.choice(inner)
        match self.rng.randrange(4):
            case 0:
                return ((start, middle),)
            case 1:
                return ((middle, stop),)
            case 2:
                missing = self.rng.randrange(start, stop, grain)
                parts = ((start, missing), (missing + grain, stop))
                return tuple(part for part in parts if part[0] < part[1])
            case _:
                edges = sorted(self.rng.sample(inner, self.rng.randint(1, min(len(inner), 6))))
                pieces = list(itertools.pairwise((start, *edges, stop)))
                return tuple(pieces[self.rng.randrange(2) :: 2])

    def _size_ranges(self) -> dict[int, Span]:
        """The files whose size is open, with the smallest and the largest it may be."""
        ranges: dict[int, Span] = {}
        shrinking: set[int] = set()
        for index in self.pending:
            change = self.model.change(index)
            if not isinstance(change, Naming):
                low = len(self.disk.images.get(change.file, Image()).content)
                high = ranges.get(change.file, (low, low))[1]
                ranges[change.file] = (low, max(high, change.stop))
                shrinking |= {change.file} if change.ordered else set()
        return {f: (a, b) for f, (a, b) in ranges.items() if a < b and f not in shrinking}

    def _size(self, file: int) -> int:
        low, high = self.ranges[file]
        aligned = self.rng.randint(low, high) // self.model.grain * self.model.grain
        return self.rng.choice((low, high, max(low, aligned)))

    def _maps(self) -> str:
        choices = ("empty", "zeroed", "as it was at the end")
        return self.rng.choice(choices) if self.model.history.maps else choices[0]
