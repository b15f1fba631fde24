"""Power cuts: record what a program writes, then rebuild every state a cut may leave on the disk.

    history = record(program(SOURCE, directory), directory)
    check_states(history, checker(CHECK)).require_ok()

A *history* is the ordered list of operations that reached one directory: writes, resizes, namings
(create, link, rename, unlink, mkdir, rmdir), syncs, and acknowledgements. It is recorded with
strace, so the program needs no hooks and may have threads and child processes. A *moment* is a
place in that order. Every operation has two of them: it may have had its effect from `begin` on,
and has surely had it by `end`. A *cut* is a moment before which the power fails; a *state* is one
of the directories that a cut may leave.

Acknowledgements. The program says what it has promised by appending whole lines to the file that
the environment variable POWER_ACK names (`program` gives it a function `acknowledge(text)`). That
file lies outside the directory and in the same trace. A promise counts from the `begin` of its
write: whoever is told may act at once.

The model. A cut may leave more than any one file system leaves, so that what passes here leans on
none:

1. A sync (fsync, fdatasync, syncfs, sync) that returned covers what had *ended before it began*,
   through whatever descriptor; an O_DSYNC or O_SYNC write covers itself alone. What is covered is
   certain. Of all else that began before the cut, anything may be there and anything missing.
2. The unit is the *grain*: a sector (512 bytes, the default) or a page (4096). A grain holds what
   the page cache held after some one of the writes to it, not older than the newest certain one,
   and each grain chooses by itself. So writes are lost, reordered and torn. But a grain never mixes
   two moments: it does not hold a write *without* an earlier one, which no page cache can produce;
   nor half of a write, which LMDB relies on for its meta pages.
3. A file's size is chosen by itself, between the certain one and the largest written, whether or
   not the bytes came along; what is missing below it reads as zeroes. A file shrinks before what
   is written to it later.
4. Namings persist in order within one directory, and only a sync of that directory makes them
   certain. Directories are independent; a rename over two of them is one step in both.
5. The directory itself, and whatever was in it when the recording began, is certain.

ext4 does more than 4: its journal keeps all namings of the file system in one order, an fsync of a
new file also commits its name, and `auto_da_alloc` flushes a file renamed over another. It does
more than 3: with data=ordered a file does not grow before its bytes are there. None of that is
granted.

What it does not do. Stores through a shared writable mapping are invisible: to map a file that
`shared_maps` does not allow is an error, and the bytes of an allowed one (LMDB's lock file) come
out empty, zeroed or as the program left them. msync and sync_file_range promise nothing, so they
are not looked at. Modes, owners, times and extended attributes are not kept. Symbolic links,
O_TMPFILE, hole punching, copies made by the kernel, exchanging renames, asynchronous I/O and
descriptors sent through sockets are errors. What nobody foresaw is found at the end: the replayed
history must equal the directory byte for byte, or `record` fails. Sectors that the disk damages,
and disks that lie about a sync, are beyond it.
"""

from __future__ import annotations

import bisect
import contextlib
import fnmatch
import functools
import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NoReturn, Self, TypeAlias

import pytest

ACK_VARIABLE: Final = "POWER_ACK"
SEED_VARIABLE: Final = "POWER_SEED"
SECTOR: Final = 512
PAGE: Final = 4096
NEVER: Final = sys.maxsize  # the `end` of a call that did not return before the recording ended
ROOT: Final = 0  # the number of the recorded directory itself
SHARED_MAPS: Final = ("lock.mdb", "*-lock")  # LMDB's lock file, with subdir=True and False

Span: TypeAlias = tuple[int, int]  # bytes from, up to
Spans: TypeAlias = tuple[Span, ...]
Entry: TypeAlias = tuple[int, str, int | None]  # directory, name, what it names from now on
Answer: TypeAlias = object  # whatever JSON the opener printed


class RecordingError(Exception):
    """The program failed, or did to the directory what the model cannot see or does not know."""


# ---- The nouns: operations and trees -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes in the page cache at `end`; when `synced` (O_DSYNC, O_SYNC), on the disk by then."""

    begin: int
    end: int
    file: int
    offset: int
    data: bytes = field(repr=False)
    synced: bool = False

    ordered = False

    @property
    def nodes(self) -> frozenset[int]:
        """What a sync must be of, to cover this."""
        return frozenset((self.file,))

    @property
    def stop(self) -> int:
        """The offset just behind the last byte."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Resize:
    """A file's size set from `was` to `size`; bytes gained are zeroes."""

    begin: int
    end: int
    file: int
    was: int
    size: int

    @property
    def nodes(self) -> frozenset[int]:
        """What a sync must be of, to cover this."""
        return frozenset((self.file,))

    @property
    def ordered(self) -> bool:
        """Shrinking frees blocks; later writes go to blocks that the file only has after it."""
        return self.size < self.was

    @property
    def stop(self) -> int:
        """The offset behind the last byte concerned."""
        return self.size


@dataclass(frozen=True, slots=True)
class Naming:
    """Entries of directories changed in one atomic step."""

    begin: int
    end: int
    kind: str
    entries: tuple[Entry, ...]

    ordered = True

    @property
    def nodes(self) -> frozenset[int]:
        """The directories concerned; a sync of any of them covers this."""
        return frozenset(directory for directory, _, _ in self.entries)


@dataclass(frozen=True, slots=True)
class Sync:
    """fsync or fdatasync of one file or directory; of everything when `node` is None."""

    begin: int
    end: int
    node: int | None


@dataclass(frozen=True, slots=True)
class SharedMap:
    """A shared writable mapping of an allowed file, whose bytes are unknown from then on."""

    begin: int
    end: int
    file: int


@dataclass(frozen=True, slots=True)
class Ack:
    """The program promised `text`."""

    begin: int
    end: int
    text: str


Change: TypeAlias = Write | Resize | Naming
Operation: TypeAlias = Change | Sync | SharedMap | Ack


@dataclass(frozen=True)
class Tree:
    """Files and directories by number; what no path from `ROOT` reaches is not in the tree."""

    files: Mapping[int, bytes] = field(default_factory=dict)
    directories: Mapping[int, Mapping[str, int]] = field(default_factory=lambda: {ROOT: {}})

    @classmethod
    def read(cls, path: Path) -> Tree:
        """Reads a real directory.

        Raises:
            RecordingError: it holds something that is neither a file nor a directory.
        """
        files: dict[int, bytes] = {}
        directories: dict[int, dict[str, int]] = {}
        numbers = itertools.count(ROOT)

        def visit(place: Path) -> int:
            number = next(numbers)
            if place.is_symlink() or not (place.is_dir() or place.is_file()):
                raise RecordingError(f"{place} is neither a file nor a directory: not modelled")
            if place.is_file():
                files[number] = place.read_bytes()
            else:
                directories[number] = {each.name: visit(each) for each in sorted(place.iterdir())}
            return number

        visit(path)
        return cls(files, directories)

    def paths(self) -> dict[str, int]:
        """Every path in the tree, relative, parents first; what it names."""
        found: dict[str, int] = {}

        def visit(directory: int, prefix: str) -> None:
            for name, number in sorted(self.directories[directory].items()):
                found[prefix + name] = number
                if number in self.directories:
                    visit(number, f"{prefix}{name}/")

        visit(ROOT, "")
        return found

    def contents(self) -> dict[str, bytes | None]:
        """Every path with the bytes of its file, or None for a directory."""
        return {path: self.files.get(number) for path, number in self.paths().items()}

    def write(self, path: Path) -> None:
        """Makes `path` this tree; whatever was there is removed."""
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        for relative, content in self.contents().items():
            if content is None:
                (path / relative).mkdir()
            else:
                (path / relative).write_bytes(content)


# ---- The model: what is certain when, and what a cut may choose ----------------------------------


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
        certain = {moment for moment in _certain(self.operations) if moment != NEVER}
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
        model = _Model(self, grain)
        for disk in model.disks(_sampled(self.cuts(), cuts, rng)):
            chooser = _Chooser(model, disk, rng, exhaustive=exhaustive, sampled=sampled, torn=torn)
            for outcome in chooser.outcomes():
                yield State(self, next(numbers), seed, disk, outcome, model)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cut chose among the pending changes."""

    kept: frozenset[int]
    torn: tuple[tuple[int, Spans], ...] = ()  # of these kept writes only these spans
    sizes: tuple[tuple[int, int], ...] = ()  # files whose size is not what the kept writes make it
    maps: str = "empty"


@dataclass(frozen=True, eq=False)
class State:
    """A directory as one cut may leave it."""

    history: History = field(repr=False)
    number: int
    seed: int
    disk: _Disk = field(repr=False)
    outcome: Outcome
    model: _Model = field(repr=False)

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


@dataclass(frozen=True, slots=True)
class _Image:
    """A file's bytes on the disk. `overtaken`: where newer writes hide pending ones for good."""

    content: bytes = b""
    overtaken: Mapping[int, Spans] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Disk:
    """What is certain just before `moment`, and what had begun by then and is not."""

    moment: int
    images: Mapping[int, _Image]
    directories: Mapping[int, Mapping[str, int]]
    waiting: tuple[int, ...]


class _Model:
    """Applies changes, named by their place in the history, to what is on the disk.

    Certain bytes are never computed twice: the disk at one cut is made from the one before, and
    files that did not change are shared by both.
    """

    def __init__(self, history: History, grain: int) -> None:
        self.history = history
        self.grain = grain
        self.operations = history.operations
        self.certain = _certain(history.operations)
        self.overlaps = self._find_overlaps()

    def change(self, index: int) -> Change:
        """The operation at `index`, which must be one that changes something."""
        change = self.operations[index]
        assert isinstance(change, Write | Resize | Naming)
        return change

    def whole(self, write: Write) -> Span:
        """The grains that a write touches."""
        return write.offset // self.grain * self.grain, -(-write.stop // self.grain) * self.grain

    def disks(self, moments: Iterable[int]) -> Iterator[_Disk]:
        """Yields what is certain at each of the moments, which must rise."""
        images = {number: _Image(content) for number, content in self.history.before.files.items()}
        directories = self._all_directories()
        changes = (index for index, each in enumerate(self.operations) if isinstance(each, Change))
        coming = sorted(changes, key=lambda index: -self.change(index).begin)
        waiting: list[int] = []
        for moment in moments:
            while coming and self.change(coming[-1]).begin < moment:
                bisect.insort(waiting, coming.pop())
            settled = [index for index in waiting if self.certain[index] < moment]
            images |= self.store(images, dict.fromkeys(settled), waiting)
            directories = self.rename(directories, settled)
            waiting = [index for index in waiting if self.certain[index] >= moment]
            yield _Disk(moment, dict(images), directories, tuple(waiting))

    def tree(self, disk: _Disk, outcome: Outcome) -> Tree:
        """The directory that `outcome` leaves of what was certain and pending on `disk`."""
        torn = dict(outcome.torn)
        picks = {index: torn.get(index) for index in sorted(outcome.kept)}
        images = {**disk.images, **self.store(disk.images, picks, disk.waiting)}
        files = {number: image.content for number, image in images.items()}
        for number, size in outcome.sizes:
            files[number] = files.get(number, b"")[:size].ljust(size, b"\0")
        for number, content in self.history.maps.items():
            unknown = {"empty": b"", "zeroed": bytes(len(content)), "as it was at the end": content}
            files[number] = unknown[outcome.maps]
        directories = self.rename(disk.directories, picks)
        named = {number for entries in directories.values() for number in entries.values()}
        return Tree({n: files.get(n, b"") for n in named if n not in directories}, directories)

    def store(
        self,
        images: Mapping[int, _Image],
        picks: Mapping[int, Spans | None],
        waiting: Collection[int],
    ) -> dict[int, _Image]:
        """The images of the files that `picks` change.

        Args:
            images: of all files, before.
            picks: the changes, in order; of writes the spans to keep, None for all.
            waiting: the changes not yet wholly on the disk, the picked ones among them.
        """
        by_file: dict[int, dict[int, Spans | None]] = defaultdict(dict)
        for index, spans in picks.items():
            change = self.change(index)
            if not isinstance(change, Naming):
                by_file[change.file][index] = spans
        return {
            file: self._store(images.get(file, _Image()), mine, set(waiting))
            for file, mine in by_file.items()
        }

    def rename(
        self, directories: Mapping[int, Mapping[str, int]], picks: Iterable[int]
    ) -> Mapping[int, Mapping[str, int]]:
        """The directories after the namings among `picks`."""
        result = {number: dict(entries) for number, entries in directories.items()}
        for index in picks:
            change = self.change(index)
            for directory, name, node in change.entries if isinstance(change, Naming) else ():
                if node is None:
                    result[directory].pop(name, None)
                else:
                    result[directory][name] = node
        return result

    def _store(self, image: _Image, picks: Mapping[int, Spans | None], waiting: set[int]) -> _Image:
        content = bytearray(image.content)
        overtaken = dict(image.overtaken)
        for index, spans in picks.items():
            change = self.change(index)
            if isinstance(change, Write):
                for span in (self.whole(change),) if spans is None else spans:
                    self._store_span(content, overtaken, index, span, waiting)
            elif isinstance(change, Resize):
                self._resize(content, overtaken, index)
            if spans is None:
                waiting.discard(index)
        return _Image(bytes(content), overtaken)

    def _store_span(
        self,
        content: bytearray,
        overtaken: dict[int, Spans],
        index: int,
        span: Span,
        waiting: Collection[int],
    ) -> None:
        # The page cache holds the earlier writes to these grains as well, so there they arrive with
        # this one, lost or not elsewhere. From then on they are older than what is on the disk, and
        # must not be laid over it again.
        for other in self.overlaps[index]:
            if other in waiting:
                _overlay(content, self.change(other), span, overtaken.get(other, ()))
                overtaken[other] = (*overtaken.get(other, ()), span)
        _overlay(content, self.change(index), span, overtaken.get(index, ()))

    def _resize(self, content: bytearray, overtaken: dict[int, Spans], index: int) -> None:
        change = self.change(index)
        assert isinstance(change, Resize)
        if change.ordered:
            del content[change.size :]
            for other in self.overlaps[index]:
                overtaken[other] = (*overtaken.get(other, ()), (change.size, NEVER))
        content.extend(bytes(max(0, change.size - len(content))))

    def _all_directories(self) -> Mapping[int, Mapping[str, int]]:
        directories = dict(self.history.before.directories)
        for naming in self.operations:
            if isinstance(naming, Naming) and naming.kind == "mkdir":
                directories |= {node: {} for _, _, node in naming.entries if node is not None}
        return directories

    def _find_overlaps(self) -> dict[int, tuple[int, ...]]:
        """For each change of a file: earlier ones to its grains that can be pending beside it."""
        begins = (each.begin for each in reversed(self.operations))
        soonest = list(itertools.accumulate(begins, min))[::-1]
        active: dict[int, list[int]] = defaultdict(list)
        overlaps: dict[int, tuple[int, ...]] = {}
        for index, change in enumerate(self.operations):
            if isinstance(change, Write | Resize):
                mine = active[change.file]
                # What is certain before anything from here on begins is pending beside none of it.
                mine[:] = [other for other in mine if self.certain[other] >= soonest[index]]
                overlaps[index] = tuple(o for o in mine if self._overlap(self.change(o), change))
                mine.append(index)
        return overlaps

    def _overlap(self, earlier: Change, later: Change) -> bool:
        if not isinstance(earlier, Write):
            return False
        if isinstance(later, Resize):
            return earlier.stop > later.size
        assert isinstance(later, Write)
        (a, b), (c, d) = self.whole(earlier), self.whole(later)
        return a < d and c < b


class _Chooser:
    """The outcomes of one cut: all subsets of what is pending, or a sample; then torn ones."""

    def __init__(
        self,
        model: _Model,
        disk: _Disk,
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
                low = len(self.disk.images.get(change.file, _Image()).content)
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


class _Syncs:
    """When the first sync that covers something had returned."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        by_node: dict[int | None, list[Sync]] = defaultdict(list)
        for each in operations:
            if isinstance(each, Sync):
                by_node[each.node].append(each)
        self._begins: dict[int | None, list[int]] = {}
        self._ends: dict[int | None, list[int]] = {}  # the least of this sync and all later ones
        for node, syncs in by_node.items():
            syncs.sort(key=lambda sync: sync.begin)
            self._begins[node] = [sync.begin for sync in syncs]
            least = itertools.accumulate((sync.end for sync in reversed(syncs)), min)
            self._ends[node] = list(least)[::-1]

    def covering(self, node: int | None, end: int) -> int:
        """The moment at which what ended at `end` is certain; NEVER if no sync covers it."""
        first = bisect.bisect_right(self._begins.get(node, []), end)
        ends = self._ends.get(node, [])
        return ends[first] if first < len(ends) else NEVER


def _certain(operations: Sequence[Operation]) -> list[int]:
    """For each change the moment from which no cut can undo it; NEVER for other operations."""
    syncs = _Syncs(operations)
    certain = [NEVER] * len(operations)
    least: dict[int, int] = defaultdict(lambda: NEVER)
    for index in reversed(range(len(operations))):
        change = operations[index]
        if not isinstance(change, Change):
            continue
        moment = min(syncs.covering(node, change.end) for node in (None, *change.nodes))
        if isinstance(change, Write) and change.synced:
            moment = min(moment, change.end)
        if change.ordered:  # nothing later is certain before it
            moment = min(moment, *(least[node] for node in change.nodes))
        certain[index] = moment
        for node in change.nodes:
            least[node] = min(least[node], moment)
    return certain


def _last_moment(operation: Operation) -> int:
    return operation.begin if operation.end == NEVER else operation.end


def _sampled(cuts: list[int], most: int, rng: random.Random) -> list[int]:
    if len(cuts) <= most:
        return cuts
    return sorted({*rng.sample(cuts[:-1], most - 1), cuts[-1]})


def _overlay(content: bytearray, change: Change, span: Span, hidden: Spans) -> None:
    """Lays the bytes of a write over `content` where they lie in `span` and in no `hidden` one."""
    assert isinstance(change, Write)
    start, stop = max(span[0], change.offset), min(span[1], change.stop)
    for low, high in (*sorted(hidden), (stop, stop)):
        end = min(low, stop)
        if start < end:
            content.extend(bytes(max(0, start - len(content))))
            content[start:end] = change.data[start - change.offset : end - change.offset]
        start = max(start, high)


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


# ---- The recorder: from a run under strace to a history ------------------------------------------


_WRITES: Final = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
_SYNCS: Final = ("fsync", "fdatasync", "sync", "syncfs")
_CLONES: Final = ("clone", "clone3", "fork", "vfork")
_PATHS: Final = (
    *("open", "openat", "openat2", "creat", "truncate", "mkdir", "mkdirat", "rmdir", "unlink"),
    *("unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "chdir"),
)
_DESCRIPTORS: Final = (
    *("close", "dup", "dup2", "dup3", "fcntl", "lseek", "read", "readv", "ftruncate", "fallocate"),
    *("fchdir", "mmap", "ioctl", "sendfile", "copy_file_range", "splice"),
)
_UNSEEN: Final = ("io_uring_setup", "io_submit", "open_by_handle_at")
_TRACED: Final = (*_WRITES, *_SYNCS, *_CLONES, *_PATHS, *_DESCRIPTORS, *_UNSEEN)

# -xx: strings and paths in hexadecimal, so that no byte of theirs is mistaken for syntax. -y: the
# path behind every descriptor. -s: whole strings; a longer one is noticed and refused. The question
# marks: not every machine has every call.
_STRACE: Final = (
    *("strace", "-f", "-qq", "-y", "-xx", "-s", str(1 << 24), "--seccomp-bpf"),
    *("-e", "signal=none", "-e", "trace=" + ",".join(f"?{name}" for name in _TRACED)),
)

_LINE: Final = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)", re.DOTALL)
_STRING: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR: Final = re.compile(r"(\d+)<([^>]*)>")
_PLACE: Final = re.compile(
    r'(?:(?:AT_FDCWD|\d+)(?:<([^>]*)>)?(?:\(deleted\))?, )?"((?:\\x[0-9a-f]{2})*)"'
)
_UNFINISHED: Final = "<unfinished ...>"

_PRELUDE: Final = f"""
import os, sys
_ack = os.open(os.environ[{ACK_VARIABLE!r}], os.O_WRONLY | os.O_APPEND)
def acknowledge(text):
    os.write(_ack, text.encode() + b"\\n")
"""


def program(source: str, *arguments: str | Path) -> list[str]:
    """The command line of a Python program; it finds `os`, `sys` and `acknowledge(text)` there."""
    return [sys.executable, "-c", _PRELUDE + source, *map(str, arguments)]


def record(
    argv: Sequence[str],
    directory: Path,
    *,
    env: Mapping[str, str] | None = None,
    shared_maps: Sequence[str] = SHARED_MAPS,
    expect: int = 0,
    timeout: float = 120.0,
) -> History:
    """Runs a program and returns what it did to `directory`, which must exist.

    Args:
        argv: the program. Nobody but it and its children may touch the directory meanwhile.
        directory: only files below it are recorded. What it holds already counts as certain.
        env: added to the environment.
        shared_maps: names (patterns) of files that may be mapped shared and writable.
        expect: the exit status wanted; -9 of a program that kills itself.
        timeout: in seconds; then the program is killed.

    Raises:
        RecordingError: another exit status, or something that cannot be modelled faithfully.
    """
    root = directory.resolve(strict=True)
    before = Tree.read(root)
    with tempfile.TemporaryDirectory(prefix="power-") as scratch:
        ack, trace = Path(scratch).resolve() / "ack", Path(scratch) / "trace"
        assert not ack.is_relative_to(root)
        ack.touch()
        _run_strace(
            argv, {**os.environ, **(env or {}), ACK_VARIABLE: str(ack)}, trace, expect, timeout
        )
        after = Tree.read(root)
        # Which of two appends in flight at once came first, only the file can tell. Which file is
        # whose is known once the names have been replayed, hence a second time.
        replay = _Replay(root, ack, shared_maps, before, {})
        replay.run(_calls(trace))
        if replay.difference(after) is not None:
            replay = _Replay(root, ack, shared_maps, before, replay.truth(after))
            replay.run(_calls(trace))
    if (difference := replay.difference(after)) is not None:
        raise RecordingError(
            f"the recorded operations do not add up to the directory: {difference}"
        )
    return replay.history(after)


@functools.cache
def available() -> str | None:
    """None if programs can be recorded here, else the reason why not."""
    if not sys.platform.startswith("linux"):
        return "strace records system calls on Linux only"
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = [*_STRACE, "-o", os.devnull, "--", sys.executable, "-S", "-c", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return None if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()}"


def skip_unless_available() -> None:
    """Skips the calling test where nothing can be recorded; fails it where CI is set."""
    if (reason := available()) is not None:
        if os.environ.get("CI"):
            pytest.fail(f"the power-cut tests must run in CI: {reason}")
        pytest.skip(reason)


def _run_strace(
    argv: Sequence[str], env: Mapping[str, str], trace: Path, expect: int, timeout: float
) -> None:
    command = [*_STRACE, "-o", str(trace), "--", *argv]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except BaseException as error:
            # strace alone would leave what it traces running; they are one session of their own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RecordingError(f"the program still ran after {timeout} s") from None
            raise
        if status != expect:
            output.seek(0)
            said = output.read()[-4000:].decode(errors="replace")
            raise RecordingError(f"the program ended with {status}, not {expect}:\n{said}")


@dataclass(eq=False)
class _Call:
    """One system call.

    strace lets a call run after it has noted its begin, and notes its end after it has returned. So
    a write whose end stands before the begin of a sync was in the page cache before that sync ran.
    """

    thread: int
    name: str
    begin: int
    arguments: str
    end: int = NEVER
    result: str = "?"
    path: str | None = None  # behind its descriptor, if that is one of ours
    opened: _Opened | None = None

    def finish(self, rest: str, moment: int) -> None:
        """Adds the rest of the line, and what was returned."""
        arguments, _, self.result = (self.arguments + rest).rpartition(" = ")
        self.arguments = arguments.rstrip().removesuffix(")").replace(_UNFINISHED, "").rstrip()
        self.end = moment if self.value is not None else NEVER

    @functools.cached_property
    def value(self) -> int | None:
        """What it returned; None if the process ended inside it; -1 if it is to be restarted."""
        if self.result.startswith("?"):
            return None if self.result.strip() == "?" else -1
        return int(self.result.split()[0].partition("<")[0], 0)

    @functools.cached_property
    def data(self) -> bytes:
        """The bytes that a call of the `write` family wrote."""
        data = b"".join(map(_unhex, _STRING.findall(self.arguments)))
        if self.value is not None and self.value > len(data):
            raise RecordingError(
                f"{self.name} of {self.value} bytes: only {len(data)} were recorded"
            )
        return data[: self.value]

    @property
    def offset(self) -> int | None:
        """Where a call of the `write` family writes; None at the descriptor's position."""
        if self.name in ("write", "writev"):
            return None
        _, _, tail = self.arguments.rpartition("]" if "v" in self.name else '"')
        offset = int(tail.split(", ")[2], 0)
        return None if offset == -1 else offset


def _calls(trace: Path) -> list[_Call]:
    """Reads a trace. What never returned is among its calls; what strace says besides is not."""
    calls: list[_Call] = []
    running: dict[int, _Call] = {}
    with trace.open(encoding="ascii") as lines:
        for number, line in enumerate(lines):
            if (match := _LINE.match(line.rstrip("\n"))) is None:
                continue
            thread, resumed, name, rest = int(match[1]), match[2], match[3], match[4]
            if not resumed:
                running[thread] = _Call(thread, name, 2 * number, "")
                calls.append(running[thread])
            if rest.endswith(_UNFINISHED):
                running[thread].arguments += rest.removesuffix(_UNFINISHED).rstrip()
            else:
                running.pop(thread).finish(rest, 2 * number + 1)
    return calls


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else os.fsencode(text)


@dataclass
class _Opened:
    """An open file description: what duplicates and children of a descriptor share."""

    node: int
    append: bool
    synced: bool
    position: int = 0


@dataclass
class _Process:
    opened: dict[int, _Opened]
    directory: str


class _Replay:
    """Runs the calls of a trace again on a model of the directory, and notes the operations.

    A call takes effect here when it has returned; only descriptors are looked up, given to children
    and closed when it begins, as the kernel does.
    """

    def __init__(
        self,
        root: Path,
        ack: Path,
        shared_maps: Sequence[str],
        before: Tree,
        truth: Mapping[int, bytes],
    ) -> None:
        self._root = str(root)
        self._ack = str(ack)
        self._shared_maps = shared_maps
        self._before = before
        self._truth = truth
        self._contents = {number: bytearray(data) for number, data in before.files.items()}
        self._directories = {number: dict(names) for number, names in before.directories.items()}
        self._numbers = itertools.count(len(self._contents) + len(self._directories))
        self._processes: dict[int, _Process] = {}
        self._writing: list[_Call] = []  # begun, and not yet given a place in the file
        self._unsure: set[int] = set()  # files with a write that never returned
        self._operations: list[Operation] = []
        self._handlers = self._handler_table()
        self._start = str(Path.cwd())  # where the program was started

    def run(self, calls: Iterable[_Call]) -> None:
        """Replays all calls.

        Raises:
            RecordingError: one of them did something to the directory that is not modelled.
        """
        events = [(moment, call) for call in calls for moment in (call.begin, call.end)]
        for moment, call in sorted(events, key=lambda event: event[0]):
            if moment == call.begin:
                self._begin(call)
            elif call.value is None or call.value >= 0:
                self._handlers.get(call.name, _ignore)(call)
            elif call in self._writing:
                self._writing.remove(call)

    def difference(self, after: Tree) -> str | None:
        """Where the replayed directory and the real one differ, in words."""
        mine = Tree({n: bytes(data) for n, data in self._contents.items()}, self._directories)
        numbers, real = mine.paths(), after.contents()
        if numbers.keys() != real.keys():
            return f"only one of the two has {sorted(numbers.keys() ^ real.keys())}"
        unknown = self._unsure | self._maps()
        for path, number in numbers.items():
            if number not in unknown and mine.files.get(number) != real[path]:
                return f"{path} has other bytes"
        return None

    def truth(self, after: Tree) -> dict[int, bytes]:
        """The real bytes of the files that still have a name, by number."""
        real = after.contents()
        numbers = Tree({}, self._directories).paths()
        return {n: data for path, n in numbers.items() if (data := real.get(path)) is not None}

    def history(self, after: Tree) -> History:
        """What was noted, its moments counted from 1 without gaps."""
        ends = {each.end for each in self._operations} - {NEVER}
        moments = sorted(ends | {each.begin for each in self._operations})
        rank = {moment: place for place, moment in enumerate(moments, 1)} | {NEVER: NEVER}
        operations = [replace(o, begin=rank[o.begin], end=rank[o.end]) for o in self._operations]
        truth = self.truth(after)
        maps = {number: truth.get(number, b"") for number in self._maps()}
        return History(tuple(operations), self._before, maps)

    def _maps(self) -> set[int]:
        return {each.file for each in self._operations if isinstance(each, SharedMap)}

    def _handler_table(self) -> dict[str, Callable[[_Call], None]]:
        table: dict[Callable[[_Call], None], Sequence[str]] = {
            self._write: _WRITES,
            self._sync: _SYNCS,
            self._open: ("open", "openat", "openat2", "creat"),
            self._truncate: ("truncate",),
            self._ftruncate: ("ftruncate",),
            self._allocate: ("fallocate",),
            self._mkdir: ("mkdir", "mkdirat"),
            self._unlink: ("unlink", "unlinkat", "rmdir"),
            self._rename: ("rename", "renameat", "renameat2"),
            self._link: ("link", "linkat"),
            self._chdir: ("chdir", "fchdir"),
            self._duplicate: ("dup", "dup2", "dup3"),
            self._control: ("fcntl", "ioctl"),
            self._move: ("lseek", "read", "readv"),
            self._map: ("mmap",),
            self._copy: ("sendfile", "copy_file_range", "splice"),
            self._refuse: _UNSEEN,
        }
        return {name: handler for handler, names in table.items() for name in names}

    # -- processes and descriptors

    def _begin(self, call: _Call) -> None:
        process = self._process(call)
        if call.name in _CLONES:
            self._spawn(process, call)
            return
        match = _DESCRIPTOR.match(call.arguments)
        if match is None:
            return
        descriptor, path = int(match[1]), self._ours(match[2])
        if path is not None:
            call.path, call.opened = path, process.opened.get(descriptor)
            if call.opened is None:
                raise RecordingError(f"{call.name} of {path}: its descriptor came by a way unseen")
        if call.name in _WRITES and call.opened is not None:
            self._writing.append(call)
        elif call.name == "close":
            process.opened.pop(descriptor, None)

    def _process(self, call: _Call) -> _Process:
        return self._processes.setdefault(call.thread, _Process({}, self._start))

    def _spawn(self, parent: _Process, call: _Call) -> None:
        # The child's first calls may stand in the trace before the parent's clone returns.
        if call.value is not None and call.value > 0:
            shared = "CLONE_FILES" in call.arguments
            child = parent if shared else _Process(dict(parent.opened), parent.directory)
            self._processes[call.value] = child

    def _ours(self, text: str) -> str | None:
        """The path that strace shows behind a descriptor, if it concerns us."""
        path = os.fsdecode(_unhex(text)).removesuffix(" (deleted)")
        return path if path == self._ack or self._below(path) else None

    def _below(self, path: str) -> bool:
        return path == self._root or path.startswith(self._root + "/")

    def _open(self, call: _Call) -> None:
        shown = _DESCRIPTOR.match(call.result)
        path = self._ours(shown[2]) if shown else None
        descriptor = call.value
        if descriptor is None:
            return
        opened = self._process(call).opened
        opened.pop(descriptor, None)
        if path is None:
            return
        flags = set(re.findall(r"O_\w+", call.arguments))
        if "O_TMPFILE" in flags or call.result.endswith("(deleted)"):
            raise RecordingError(f"{path} was opened without a name: not modelled")
        node = self._node(path, call)
        if ("O_TRUNC" in flags or call.name == "creat") and self._contents.get(node):
            self._resize(call, node, 0)
        synced = bool(flags & {"O_DSYNC", "O_SYNC", "O_RSYNC"})
        opened[descriptor] = _Opened(node, "O_APPEND" in flags, synced)

    def _node(self, path: str, call: _Call) -> int:
        """The file at `path`, which the call has just created if nobody knew it."""
        if path == self._ack:
            return -1
        if (node := self._find(path)) is not None:
            return node
        node = next(self._numbers)
        self._contents[node] = bytearray()
        self._name(call, "create", (*self._entry(path), node))
        return node

    def _duplicate(self, call: _Call) -> None:
        opened = self._process(call).opened
        if call.value is not None:
            opened.pop(call.value, None)
            if call.opened is not None:
                opened[call.value] = call.opened

    def _control(self, call: _Call) -> None:
        if "F_DUPFD" in call.arguments:
            self._duplicate(call)
        elif "F_SETFL" in call.arguments and call.opened is not None:
            call.opened.append = "O_APPEND" in call.arguments
        elif "CLONE" in call.arguments and call.opened is not None:
            self._refuse(call)

    def _move(self, call: _Call) -> None:
        if call.opened is not None and call.value is not None:
            seek = call.name == "lseek"
            call.opened.position = call.value if seek else call.opened.position + call.value

    def _chdir(self, call: _Call) -> None:
        place = _DESCRIPTOR.match(call.arguments)
        path = os.fsdecode(_unhex(place[2])) if place else self._places(call)[0]
        self._process(call).directory = path

    # -- bytes

    def _write(self, call: _Call) -> None:
        if call.opened is None:
            return
        if call.path == self._ack:
            self._writing.remove(call)
            self._promise(call)
        while call in self._writing:
            self._put(self._next_writer(call))

    def _next_writer(self, call: _Call) -> _Call:
        """Of the writes in flight to one moving place, the one whose bytes are there in the end."""
        truth = self._truth.get(call.opened.node) if call.opened else None
        if truth is None or not self._moving(call):
            return call
        end = self._end(call)
        rivals = (each for each in self._writing if self._same_place(each, call))
        fitting = (each for each in (call, *rivals) if truth.startswith(each.data, end))
        return next(fitting, call)

    def _moving(self, call: _Call) -> bool:
        return self._appends(call) or call.offset is None

    def _appends(self, call: _Call) -> bool:
        # Linux appends with pwrite as well, whatever the offset.
        return call.opened is not None and (call.opened.append or "RWF_APPEND" in call.arguments)

    def _same_place(self, one: _Call, other: _Call) -> bool:
        if one.opened is None or other.opened is None or not self._moving(one):
            return False
        if one.value is not None and one.value <= 0:
            return False
        if self._appends(one) and self._appends(other):
            return one.opened.node == other.opened.node
        return one.opened is other.opened

    def _end(self, call: _Call) -> int:
        """Where a write goes now."""
        assert call.opened is not None
        if self._appends(call):
            return len(self._contents[call.opened.node])
        return call.opened.position if call.offset is None else call.offset

    def _put(self, call: _Call) -> None:
        self._writing.remove(call)
        opened = call.opened
        assert opened is not None
        offset, relative = self._end(call), call.offset is None
        synced = opened.synced or "RWF_DSYNC" in call.arguments or "RWF_SYNC" in call.arguments
        if not call.data:
            return
        write = Write(call.begin, call.end, opened.node, offset, call.data, synced)
        self._operations.append(write)
        if call.value is None:
            self._unsure.add(opened.node)
        else:
            _overlay(self._contents[opened.node], write, (offset, write.stop), ())
            opened.position = write.stop if relative else opened.position

    def _promise(self, call: _Call) -> None:
        if not call.data.endswith(b"\n"):
            raise RecordingError(f"not whole lines were acknowledged: {call.data!r}")
        for line in call.data.decode().removesuffix("\n").split("\n"):
            self._operations.append(Ack(call.begin, call.end, line))

    def _resize(self, call: _Call, node: int, size: int) -> None:
        content = self._contents[node]
        self._operations.append(Resize(call.begin, call.end, node, len(content), size))
        del content[size:]
        content.extend(bytes(size - len(content)))

    def _truncate(self, call: _Call) -> None:
        path = self._places(call)[0]
        if self._below(path) and call.value is not None:
            node = self._find(path)
            if node is None:
                raise RecordingError(f"truncate of {path}, which nobody created")
            self._resize(call, node, int(call.arguments.rpartition(", ")[2]))

    def _ftruncate(self, call: _Call) -> None:
        if call.opened is not None and call.value is not None:
            self._resize(call, call.opened.node, int(call.arguments.rpartition(", ")[2]))

    def _allocate(self, call: _Call) -> None:
        if call.opened is None or call.value is None:
            return
        mode, offset, length = call.arguments.rsplit(", ", 3)[1:]
        if mode not in ("0", "FALLOC_FL_KEEP_SIZE"):
            self._refuse(call)
        size = int(offset) + int(length)
        if mode == "0" and size > len(self._contents[call.opened.node]):
            self._resize(call, call.opened.node, size)

    def _sync(self, call: _Call) -> None:
        if call.name in ("sync", "syncfs"):
            if call.name == "sync" or call.opened is not None:
                self._operations.append(Sync(call.begin, call.end, None))
        elif call.opened is not None:
            self._operations.append(Sync(call.begin, call.end, call.opened.node))

    def _map(self, call: _Call) -> None:
        flags = call.arguments
        mapped = _DESCRIPTOR.search(flags)
        if mapped is None or "PROT_WRITE" not in flags or "MAP_SHARED" not in flags:
            return
        path = self._ours(mapped[2])
        opened = self._process(call).opened.get(int(mapped[1]))
        if path is None or opened is None:
            return
        if not any(fnmatch.fnmatch(Path(path).name, pattern) for pattern in self._shared_maps):
            raise RecordingError(
                f"{path} is mapped shared and writable: what is stored cannot be seen"
            )
        self._operations.append(SharedMap(call.begin, call.end, opened.node))

    def _copy(self, call: _Call) -> None:
        shown = _DESCRIPTOR.findall(call.arguments)
        target = shown[0] if call.name == "sendfile" else shown[-1]
        if call.value and self._ours(target[1]) is not None:
            self._refuse(call)

    def _refuse(self, call: _Call) -> NoReturn:
        raise RecordingError(f"{call.name} {call.path or ''}: its effect cannot be recorded")

    # -- names

    def _places(self, call: _Call) -> list[str]:
        """The paths among the arguments, absolute, without following links."""
        base = self._process(call).directory
        places = _PLACE.findall(call.arguments)
        joined = (Path(base, os.fsdecode(_unhex(at)), os.fsdecode(_unhex(p))) for at, p in places)
        return [os.path.normpath(path) for path in joined]

    def _find(self, path: str) -> int | None:
        """What `path` names."""
        node: int | None = ROOT
        for name in path.removeprefix(self._root).strip("/").split("/"):
            if name and node is not None:
                node = self._directories.get(node, {}).get(name)
        return node

    def _entry(self, path: str) -> tuple[int, str]:
        """The directory that holds `path`, and its name in there."""
        parent, _, name = path.rpartition("/")
        directory = self._find(parent) if self._below(parent) else None
        if directory is None or directory not in self._directories:
            raise RecordingError(
                f"{path}: nobody made the directory it is in, or it is the one recorded"
            )
        return directory, name

    def _name(self, call: _Call, kind: str, *entries: Entry) -> None:
        self._operations.append(Naming(call.begin, call.end, kind, entries))
        for directory, name, node in entries:
            if node is None:
                self._directories[directory].pop(name, None)
            else:
                self._directories[directory][name] = node

    def _mkdir(self, call: _Call) -> None:
        path = self._places(call)[0]
        if self._below(path) and call.value is not None:
            node = next(self._numbers)
            self._name(call, "mkdir", (*self._entry(path), node))
            self._directories[node] = {}

    def _unlink(self, call: _Call) -> None:
        path = self._places(call)[0]
        if self._below(path) and call.value is not None:
            self._name(call, "unlink", (*self._entry(path), None))

    def _rename(self, call: _Call) -> None:
        pair = self._inner_pair(call)
        if pair is None:
            return
        if "RENAME_EXCHANGE" in call.arguments or "RENAME_WHITEOUT" in call.arguments:
            self._refuse(call)
        source, target = pair
        node = self._find(source)
        if node is not None and node != self._find(target):
            self._name(call, "rename", (*self._entry(source), None), (*self._entry(target), node))

    def _link(self, call: _Call) -> None:
        pair = self._inner_pair(call)
        if pair is not None:
            source, target = pair
            if (node := self._find(source)) is None:
                self._refuse(call)
            self._name(call, "link", (*self._entry(target), node))

    def _inner_pair(self, call: _Call) -> tuple[str, str] | None:
        """Both paths of a call, if they lie in the directory."""
        source, target = self._places(call)
        inside = self._below(source), self._below(target)
        if any(inside) and not all(inside):
            raise RecordingError(
                f"{call.name} of {source} to {target} crosses the directory's border"
            )
        return (source, target) if all(inside) and call.value is not None else None


def _ignore(call: _Call) -> None:
    """Calls that only matter when they begin, or not at all."""


# ---- The judge: an opener over all states --------------------------------------------------------


_CHECKER: Final = """
import json, sys
names, answers, sys.stdout = {}, sys.stdout, sys.stderr
exec(sys.argv[1], names)
for line in sys.stdin:
    try:
        answer = names["check"](json.loads(line))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=answers, flush=True)
"""


def checker(source: str) -> list[str]:
    """The command line of an opener: `source` defines `check(directory)`, which returns JSON.

    What it raises is answered as {"error": "Type: message"}; what it prints goes to stderr.
    """
    return [sys.executable, "-c", _CHECKER, source]


@dataclass(frozen=True)
class Failure:
    """A state that breaks a promise, rebuilt at `directory` for a person to look at."""

    state: State
    reason: str
    directory: Path

    def __str__(self) -> str:
        return f"{self.reason}\n{self.state.describe()}\n  rebuilt at: {self.directory}"


@dataclass(frozen=True)
class Report:
    """What became of a history's states."""

    states: int
    seed: int
    seconds: float
    failures: tuple[Failure, ...]

    def require_ok(self) -> None:
        """Raises AssertionError that describes the failures, if there are any."""
        assert not self.failures, f"{self}\n\n" + "\n\n".join(map(str, self.failures))

    def __str__(self) -> str:
        return (
            f"{self.states} states in {self.seconds:.1f} s, {len(self.failures)} failures;"
            f" {SEED_VARIABLE}={self.seed}"
        )


Judge: TypeAlias = Callable[[State, Answer], str | None]


def lost(state: State, answer: Answer) -> str | None:
    """The usual judge: the answer lists what is there, and all that was acknowledged must be.

    A directory that cannot be opened is forgiven as long as nothing was.
    """
    if not isinstance(answer, list):
        return f"acknowledged, but now: {answer}" if state.acknowledged else None
    there = {each for each in answer if isinstance(each, str)}
    missing = [text for text in state.acknowledged if text not in there]
    return f"lost although acknowledged: {missing}" if missing else None


def check_states(
    history: History,
    opener: Sequence[str],
    *,
    judge: Judge = lost,
    scratch: Path | None = None,
    seed: int | None = None,
    failures: int = 1,
    timeout: float = 60.0,
    **options: int,
) -> Report:
    """Rebuilds the states of a history and has each of them opened and judged.

    Args:
        history: what was recorded.
        opener: a program that reads directories from stdin, each a JSON string on a line, and
            prints one line of JSON for each. It serves for many states; one that it does not
            survive is a failure, and a new opener goes on.
        judge: says what is wrong with an answer, or None.
        scratch: where states are rebuilt, and what failed is kept; by default a new directory.
        seed: of the random choices; by default that of `choose_seed`.
        failures: how many are enough to stop.
        timeout: for one state, in seconds.
        options: for `History.states`.
    """
    seed = choose_seed() if seed is None else seed
    place = scratch or Path(tempfile.mkdtemp(prefix="power-states-"))
    found: list[Failure] = []
    count, started = 0, time.monotonic()
    with _Worker(opener, timeout) as worker:
        for state in history.states(seed=seed, **options):
            count += 1
            state.rebuild(place / "state")
            try:
                reason = judge(state, worker.ask(place / "state"))
            except _WorkerDiedError as died:
                reason = str(died)
            if reason is not None:
                kept = place / f"failed-{state.number}"
                state.rebuild(kept)
                found.append(Failure(state, reason, kept))
            if len(found) >= failures:
                break
    shutil.rmtree(place if scratch is None and not found else place / "state", ignore_errors=True)
    return Report(count, seed, time.monotonic() - started, tuple(found))


def choose_seed() -> int:
    """The seed that the environment asks for, else a new one."""
    return int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(1 << 32))


class _WorkerDiedError(Exception):
    """The opener ended, or did not answer."""


class _Worker:
    """An opener that is started when it is needed, and again after it died."""

    def __init__(self, argv: Sequence[str], timeout: float) -> None:
        self._argv = argv
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._errors.close()

    def ask(self, directory: Path) -> Answer:
        """What the opener says about a directory.

        Raises:
            _WorkerDiedError: it did not survive it, or said nothing in time.
        """
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(str(directory)).encode() + b"\n")
        line = self._read_line(process)
        if line.endswith(b"\n"):
            answer: Answer = json.loads(line)
            return answer
        hung = process.poll() is None and not _ended(process)
        self._stop()
        raise _WorkerDiedError(self._epitaph(process.returncode, hung=hung))

    def _start(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, stderr=self._errors, bufsize=0)

    def _read_line(self, process: subprocess.Popen[bytes]) -> bytes:
        """A whole line; less if the opener ended or the time is up."""
        assert process.stdout is not None
        line, deadline = b"", time.monotonic() + self._timeout
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                return line
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return line
            line += piece
        return line

    def _epitaph(self, status: int, *, hung: bool) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        said = self._errors.read().decode(errors="replace").strip()
        how = f"did not answer within {self._timeout} s" if hung else f"died with status {status}"
        return f"the opener {how} {said}".rstrip()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process whose stdout ended is ending too; it may take a moment to be reaped."""
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return False
    return True
