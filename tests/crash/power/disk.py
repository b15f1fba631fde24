"""What is certain at a moment, and what a cut may make of the rest."""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.crash.power.operations import (
    NEVER,
    Change,
    Naming,
    Operation,
    Resize,
    Span,
    Spans,
    Sync,
    Tree,
    Write,
)

if TYPE_CHECKING:
    from tests.crash.power.history import History


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a cut chose among the pending changes."""

    kept: frozenset[int]
    torn: tuple[tuple[int, Spans], ...] = ()  # of these kept writes only these spans
    sizes: tuple[tuple[int, int], ...] = ()  # files whose size is not what the kept writes make it
    maps: str = "empty"


@dataclass(frozen=True, slots=True)
class Image:
    """A file's bytes on the disk. `overtaken`: where newer writes hide pending ones for good."""

    content: bytes = b""
    overtaken: Mapping[int, Spans] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Disk:
    """What is certain just before `moment`, and what had begun by then and is not."""

    moment: int
    images: Mapping[int, Image]
    directories: Mapping[int, Mapping[str, int]]
    waiting: tuple[int, ...]


class Model:
    """Applies changes, named by their place in the history, to what is on the disk.

    Certain bytes are never computed twice: the disk at one cut is made from the one before, and
    files that did not change are shared by both.
    """

    def __init__(self, history: History, grain: int) -> None:
        self.history = history
        self.grain = grain
        self.operations = history.operations
        self.certain = certain_moments(history.operations)
        self.overlaps = self._find_overlaps()

    def change(self, index: int) -> Change:
        """The operation at `index`, which must be one that changes something."""
        change = self.operations[index]
        assert isinstance(change, Write | Resize | Naming)
        return change

    def whole(self, write: Write) -> Span:
        """The grains that a write touches."""
        return write.offset // self.grain * self.grain, -(-write.stop // self.grain) * self.grain

    def disks(self, moments: Iterable[int]) -> Iterator[Disk]:
        """Yields what is certain at each of the moments, which must rise."""
        images = {number: Image(content) for number, content in self.history.before.files.items()}
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
            yield Disk(moment, dict(images), directories, tuple(waiting))

    def tree(self, disk: Disk, outcome: Outcome) -> Tree:
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
        images: Mapping[int, Image],
        picks: Mapping[int, Spans | None],
        waiting: Collection[int],
    ) -> dict[int, Image]:
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
            file: self._store(images.get(file, Image()), mine, set(waiting))
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

    def _store(self, image: Image, picks: Mapping[int, Spans | None], waiting: set[int]) -> Image:
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
        return Image(bytes(content), overtaken)

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
                overlay(content, self.change(other), span, overtaken.get(other, ()))
                overtaken[other] = (*overtaken.get(other, ()), span)
        overlay(content, self.change(index), span, overtaken.get(index, ()))

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


def certain_moments(operations: Sequence[Operation]) -> list[int]:
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


def overlay(content: bytearray, change: Change, span: Span, hidden: Spans) -> None:
    """Lays the bytes of a write over `content` where they lie in `span` and in no `hidden` one."""
    assert isinstance(change, Write)
    start, stop = max(span[0], change.offset), min(span[1], change.stop)
    for low, high in (*sorted(hidden), (stop, stop)):
        end = min(low, stop)
        if start < end:
            content.extend(bytes(max(0, start - len(content))))
            content[start:end] = change.data[start - change.offset : end - change.offset]
        start = max(start, high)
