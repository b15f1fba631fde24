"""Looking at the file of an LMDB environment without LMDB, which trusts what it maps.

LMDB maps a file without asking how long it is, and a page behind its end is a SIGBUS. So before a
file is opened, it is checked to be one and to be all there. Formats are those of LMDB 0.9 on a
64-bit machine, in the machine's order of bytes (``MDB_meta``, ``MDB_page`` and ``MDB_node`` in its
mdb.c).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from eventlog.errors import NotALogError

__all__ = ["check_environment_file", "has_commits", "map_size_of"]

_NO_PAGE: Final = 2**64 - 1


class _Meta(NamedTuple):
    """What a meta page says, as far as it matters here."""

    page_size: int
    map_size: int
    free_root: int
    last_page: int
    transaction: int


_META_MAGIC: Final = 0xBEEFC0DE
_META_VERSION: Final = 1
_META: Final = struct.Struct("=16xIIQQI36xQ48xQQ")
"""Page header; magic, version, address, map size; the free list's record: page size ... root; the
main tree's record; last page, transaction."""

_PAGE_SIZES: Final = frozenset(2**power for power in range(9, 17))


def check_environment_file(path: Path) -> None:
    """Refuse what LMDB would open and then die of.

    Raises:
        NotALogError: `path` is missing, is no LMDB 0.9 environment, or is truncated.
    """
    if path.exists() and not path.is_file():
        raise NotALogError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            metas = [meta for meta in _metas(file) if meta is not None]
            if not metas:
                raise NotALogError(f"{path} is no LMDB environment, or its beginning is damaged")
            newest = max(metas, key=lambda meta: meta.transaction)
            # Asked for after the metas: a writer may be making the file longer.
            pages = file.seek(0, 2) // newest.page_size
            if pages <= newest.last_page and not _all_free(file, newest, pages):
                raise NotALogError(
                    f"{path} is truncated: it has {pages} pages of {newest.page_size} bytes and "
                    f"needs {newest.last_page + 1}; restore it from a backup"
                )
    except FileNotFoundError:
        raise NotALogError(f"{path} is missing: the control file names it") from None


def map_size_of(path: Path) -> int:
    """The map size the last writer of an environment had."""
    with path.open("rb") as file:
        return max((meta.map_size for meta in _metas(file) if meta is not None), default=0)


def has_commits(path: Path) -> bool:
    """Whether anything was ever stored in an environment."""
    with path.open("rb") as file:
        return any(meta.transaction for meta in _metas(file) if meta is not None)


def _metas(file: BinaryIO) -> tuple[_Meta | None, _Meta | None]:
    first = _meta(file.read(4096))
    file.seek(first.page_size if first else 4096)
    return first, _meta(file.read(4096))


def _meta(page: bytes) -> _Meta | None:
    if len(page) < _META.size:
        return None
    magic, version, _, map_size, page_size, *rest = _META.unpack_from(page)
    if magic != _META_MAGIC or version != _META_VERSION or page_size not in _PAGE_SIZES:
        return None
    return _Meta(page_size, map_size, *rest)


def _all_free(file: BinaryIO, meta: _Meta, pages: int) -> bool:
    """Whether nothing is lost of a file that has `pages` and names more: all missing are free.

    LMDB never writes a page that a transaction took from behind the end and freed again.
    """
    missing = range(pages, meta.last_page + 1)
    try:
        found = {number for number in _free_pages(file, meta, meta.free_root) if number in missing}
    except (ValueError, struct.error, RecursionError):
        return False
    return len(found) == len(missing)


_PAGE_LOWER: Final = struct.Struct("=12xH")
_NODE: Final = struct.Struct("=HHHH")
_BIG_DATA: Final = 0x01
_BRANCH: Final = 0x01
_PAGE_HEADER_BYTES: Final = 16


def _free_pages(file: BinaryIO, meta: _Meta, root: int) -> Iterator[int]:
    """The pages that the free list names; ValueError if the list itself is not all there."""
    if root == _NO_PAGE:
        return
    page = _read_page(file, meta, root)
    (lower,) = _PAGE_LOWER.unpack_from(page)
    for at in struct.unpack_from(f"={(lower - _PAGE_HEADER_BYTES) // 2}H", page, 16):
        low, high, flags, key_bytes = _NODE.unpack_from(page, at)
        if page[10] & _BRANCH:
            yield from _free_pages(file, meta, low | high << 16 | flags << 32)
            continue
        value = memoryview(page)[at + _NODE.size + key_bytes :]
        length = low | high << 16
        if flags & _BIG_DATA:
            (first,) = struct.unpack_from("=Q", value)
            count = -(-(length + _PAGE_HEADER_BYTES) // meta.page_size)
            value = memoryview(_read_page(file, meta, first, count))[_PAGE_HEADER_BYTES:]
        (listed,) = struct.unpack_from("=Q", value)
        yield from struct.unpack_from(f"={listed}Q", value, 8)


def _read_page(file: BinaryIO, meta: _Meta, number: int, count: int = 1) -> bytes:
    file.seek(number * meta.page_size)
    page = file.read(count * meta.page_size)
    if number > meta.last_page or len(page) < count * meta.page_size:
        raise ValueError(f"page {number} is missing")
    return page
