"""The nouns: what a program did to a directory, and directories as values."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

SECTOR: Final = 512
PAGE: Final = 4096
NEVER: Final = sys.maxsize  # the `end` of a call that did not return before the recording ended
ROOT: Final = 0  # the number of the recorded directory itself


Span: TypeAlias = tuple[int, int]  # bytes from, up to
Spans: TypeAlias = tuple[Span, ...]
Entry: TypeAlias = tuple[int, str, int | None]  # directory, name, what it names from now on


class RecordingError(Exception):
    """The program failed, or did to the directory what the model cannot see or does not know."""


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
