"""The pages of a log's tree, to be damaged at a chosen place.

Formats are those of LMDB 0.9 on a 64-bit machine, in the machine's order of bytes (``MDB_meta``,
``MDB_page`` and ``MDB_node`` in its mdb.c). The file is changed in place: who has it mapped sees
that at once.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_META = struct.Struct("=40xI84xQ8xQ")  # page size; root of the main tree; transaction
_PAGE = struct.Struct("=10xHH")  # flags, where the pointers to nodes end
_NODE = struct.Struct("=HHHH")
_BRANCH = 0x01


class Node(NamedTuple):
    """One entry of a page."""

    key: bytes
    at: int
    """Where the node begins in the file."""
    page_at: int
    """Where its page begins."""
    number: int
    """Which of its page's nodes it is."""
    is_leaf: bool

    @property
    def key_at(self) -> int:
        """Where its key begins in the file."""
        return self.at + _NODE.size

    @property
    def pointer_at(self) -> int:
        """Where its page says where it is, u16."""
        return self.page_at + 16 + 2 * self.number

    @property
    def end_at(self) -> int:
        """Where its page says where its pointers end, u16: with one less it has a row less."""
        return self.page_at + 12


class Pages:
    """The pages of the newest tree in the file of an environment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._data = file.read_bytes()
        first = _META.unpack_from(self._data)
        self._page_bytes: int = first[0]
        second = _META.unpack_from(self._data, self._page_bytes)
        _, root, _ = max(first, second, key=lambda meta: meta[2])
        self.nodes = list(self._walk(root))

    @property
    def leaves(self) -> list[Node]:
        """The rows, in their order."""
        return [node for node in self.nodes if node.is_leaf]

    @property
    def branches(self) -> list[Node]:
        """What leads to pages; the first in each page has no key."""
        return [node for node in self.nodes if not node.is_leaf]

    @contextlib.contextmanager
    def flipped(self, *bits: tuple[int, int]) -> Iterator[None]:
        """With bits flipped, each the number of a byte in the file and of a bit in the byte."""
        with self.changed(
            *((at, bytes([self._data[at] ^ 1 << bit])) for at, bit in bits),
        ):
            yield

    @contextlib.contextmanager
    def changed(self, *changes: tuple[int, bytes]) -> Iterator[None]:
        """With other bytes from places in the file on; afterwards it is as it was."""
        try:
            self._write(changes)
            yield
        finally:
            self._write((at, self._data[at : at + len(new)]) for at, new in changes)

    def _write(self, changes: Iterable[tuple[int, bytes]]) -> None:
        with self._file.open("r+b", buffering=0) as file:
            for at, new in changes:
                file.seek(at)
                file.write(new)

    def number(self, at: int) -> int:
        """The u16 that stands there, in the machine's order of bytes."""
        return int.from_bytes(self._data[at : at + 2], sys.byteorder)

    def page_of(self, branch: Node) -> int:
        """Where the page begins that a node leads to."""
        low, high, highest, _ = _NODE.unpack_from(self._data, branch.at)
        number: int = low | high << 16 | highest << 32
        return number * self._page_bytes

    def _walk(self, root: int) -> Iterator[Node]:
        page_at = root * self._page_bytes
        flags, end = _PAGE.unpack_from(self._data, page_at)
        pointers = struct.unpack_from(f"={(end - 16) // 2}H", self._data, page_at + 16)
        for number, pointer in enumerate(pointers):
            at = page_at + pointer
            *_, key_bytes = _NODE.unpack_from(self._data, at)
            key = self._data[at + _NODE.size : at + _NODE.size + key_bytes]
            node = Node(key, at, page_at, number, not flags & _BRANCH)
            yield node
            if not node.is_leaf:
                yield from self._walk(self.page_of(node) // self._page_bytes)
