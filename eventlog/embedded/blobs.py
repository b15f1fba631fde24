"""The store of blobs in a log: rows beside its batches, so that transactions cover both.

A blob is one row, under its name, if it fits into one chunk; that is a sealed value of ::

    etag u64 | modified i64, microseconds | size u32 | chunks u16 | length of the name u16 | name |
    data

Of a larger blob the row ends, in place of the data, in their digest u64; and the data stand in
`chunks` rows under the etag. Chunks are as long as those of batches, for the same reason: no value
may need adjacent pages (`eventlog.embedded.directory`). An etag is random, so no two versions have
rows in common.

For that reason, too, one commit removes a bounded number of rows. If a version that is replaced or
deleted has more chunks than that, it leaves a mark, and the following puts and deletes remove the
rest. The mark says nothing about the new version: with its row in place, that is whole.

Blobs may use the reserve that appends leave when the map or the disk is full, so that consumers
can go on, keep their leases and checkpoints. New blobs may not use all of it, since removing events
needs some too; small ones that replace another always may, since that frees what it takes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import lmdb
import xxhash

from eventlog.blobs.store import (
    NOT_MODIFIED,
    Blob,
    BlobStore,
    Listing,
    NotModified,
    check_etag,
    check_name,
    check_prefix,
    check_put,
    require,
)
from eventlog.embedded import keys
from eventlog.embedded.growth import RESERVE_PAGES
from eventlog.embedded.wakeup_file import blob_place
from eventlog.embedded.writer import PAGES_BESIDE_CHUNKS, STEP_ROWS, Writer
from eventlog.errors import (
    EventLogError,
    LogBusyError,
    LogFullError,
    NotALogError,
    StoreUnavailableError,
)
from eventlog.positions import instant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eventlog.embedded.engine import EmbeddedLog
    from eventlog.embedded.storage import Environment
    from eventlog.embedded.ticket import Work
    from eventlog.waiting import Watch

__all__ = ["EmbeddedBlobs", "WriterBlobs", "damaged_blobs"]

T = TypeVar("T")

_KEPT_PAGES: Final = RESERVE_PAGES // 2
_MOST_KEPT_PAGES: Final = 512
"""Pages that new blobs leave, on the disk and in the map: half of what appends leave."""

_fields = struct.Struct(">QqIHH")
_digest = struct.Struct(">Q")
_SEAL_BYTES: Final = 8


class _Version(NamedTuple):
    """What a blob's row says."""

    number: int
    modified_us: int
    size: int
    chunks: int
    name: str
    rest: bytes
    """The data; or their digest, if they have chunks of their own."""

    @property
    def etag(self) -> str:
        """The number as others see it."""
        return f"{self.number:016x}"

    def encode(self) -> bytes:
        """Its bytes, sealed."""
        name = self.name.encode()
        return keys.sealed(
            _fields.pack(self.number, self.modified_us, self.size, self.chunks, len(name))
            + name
            + self.rest
        )

    @classmethod
    def decode(cls, value: bytes | memoryview, key: bytes) -> _Version:
        """The inverse of `encode`, of the row that stands under `key`.

        Raises:
            NotALogError: it is damaged.
        """
        try:
            row = keys.unsealed(value)
            number, modified_us, size, chunks, name_bytes = _fields.unpack_from(row)
            behind = _fields.size + name_bytes
            name = row[_fields.size : behind].decode()
        except (NotALogError, struct.error, ValueError):
            raise _damaged(_name_in(key), "its row does not match its checksum") from None
        if keys.blob_key(name) != key:
            raise _damaged(_name_in(key), f"in its place stands {name!r}")
        return cls(number, modified_us, size, chunks, name, row[behind:])


def _name_in(key: bytes) -> str:
    """The name of a blob, as far as its key says it."""
    return key[1:].partition(b"\0")[0].decode(errors="replace")


def _damaged(name: str, reason: str) -> NotALogError:
    return NotALogError(
        f"the blob {name!r:.1100} in the log is damaged, {reason}: delete it, or put it anew, "
        "without a condition"
    )


# ---- Looking, in any transaction -----------------------------------------------------------------


def _get(transaction: lmdb.Transaction, name: str, known: str | None) -> Blob | NotModified | None:
    """See `BlobStore.get`."""
    key = keys.blob_key(name)
    value = transaction.get(key)
    if value is None:
        return None
    version = _Version.decode(value, key)
    if version.etag == known:
        return NOT_MODIFIED
    return Blob(name, _data(transaction, version), version.etag, instant(version.modified_us))


def _data(transaction: lmdb.Transaction, version: _Version) -> bytes:
    if not version.chunks:
        return version.rest
    chunks = (
        transaction.get(keys.blob_chunk_key(version.number, number), b"")
        for number in range(version.chunks)
    )
    data = b"".join(chunks)
    if len(data) != version.size or version.rest != _digest.pack(xxhash.xxh3_64_intdigest(data)):
        raise _damaged(version.name, "its data do not match their checksum")
    return data


def _rows(
    transaction: lmdb.Transaction, prefix: bytes
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Rows whose keys begin with `prefix`, in order."""
    cursor = transaction.cursor()
    found = cursor.set_range(prefix)
    while found:
        key = bytes(cursor.key())
        if not key.startswith(prefix):
            return
        yield key, cursor.value()
        found = cursor.next()


def _list(transaction: lmdb.Transaction, prefix: str) -> Listing:
    """See `BlobStore.list`. Long names do not stand in order: their keys end in a hash."""
    beginning = keys.BLOB_PREFIX + prefix[: keys.NAME_BEGINNING_BYTES].encode()
    found = []
    for key, value in _rows(transaction, beginning):
        version = _Version.decode(value, key)
        if version.name.startswith(prefix):
            found.append((version.name, version.etag))
    found.sort()
    return found


def damaged_blobs(transaction: lmdb.Transaction) -> list[tuple[str, str]]:
    """Every blob that is not what was put, by its name, and what is wrong with it."""
    found = []
    for key, value in _rows(transaction, keys.BLOB_PREFIX):
        try:
            _data(transaction, _Version.decode(value, key))
        except NotALogError as error:
            found.append((_name_in(key), str(error)))
    return found


# ---- The stores ----------------------------------------------------------------------------------


class WriterBlobs(BlobStore):
    """The blobs of a log, inside a write transaction: stored with the rest of it, or not at all.

    Whatever is refused is refused before anything is changed.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        """See `BlobStore.get`."""
        check_name(name)
        check_etag(if_none_match)
        return _get(self._writer.transaction, name, if_none_match)

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """See `BlobStore.put`.

        Raises:
            LogFullError: there is no room for it in the log's map.
        """
        check_put(name, data, if_match, if_absent=if_absent)
        writer = self._writer
        key = keys.blob_key(name)
        there = self._there(key, name, if_match=if_match)
        require(name, there and there.etag, if_match=if_match, if_absent=if_absent)
        chunk_bytes = writer.environment.chunk_bytes
        chunks = _count_chunks(name, data, chunk_bytes)
        if there is None or chunks:
            self._require_room(chunks)
        number = int.from_bytes(secrets.token_bytes(8))
        rest = _digest.pack(xxhash.xxh3_64_intdigest(data)) if chunks else data
        version = _Version(number, writer.now_us, len(data), chunks, name, rest)
        writer.put(key, version.encode())
        for chunk in range(chunks):
            begin = chunk * chunk_bytes
            writer.put(keys.blob_chunk_key(number, chunk), data[begin : begin + chunk_bytes])
        if there is not None:
            self._remove_chunks(there)
        return version.etag

    def list(self, prefix: str) -> Listing:
        """See `BlobStore.list`."""
        return _list(self._writer.transaction, check_prefix(prefix))

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """See `BlobStore.delete`."""
        check_name(name)
        check_etag(if_match)
        key = keys.blob_key(name)
        there = self._there(key, name, if_match=if_match)
        require(name, there and there.etag, if_match=if_match)
        if there is not None:
            self._writer.delete(key)
            self._remove_chunks(there)

    def close(self) -> None:
        """See `BlobStore.close`. The transaction is not ended."""

    def remove_rest(self) -> bool:
        """Remove chunks that a put or delete has left; whether there are more.

        At most as many as the commit may remove.
        """
        mark = self._writer.first_key(keys.BLOB_REST_PREFIX)
        if mark is None:
            return False
        if self._remove_rows(int.from_bytes(mark[1:])):
            self._writer.delete(mark)
        return self._writer.first_key(keys.BLOB_REST_PREFIX) is not None

    def _there(self, key: bytes, name: str, *, if_match: str | None) -> _Version | None:
        """What is there. Of a damaged row nothing is sure; its chunks may be where it says."""
        row = self._writer.get(key)
        if row is None:
            return None
        try:
            return _Version.decode(row, key)
        except NotALogError:
            if if_match is not None:
                raise
            number = int.from_bytes(row[_SEAL_BYTES : _SEAL_BYTES + 8])
            return _Version(number, 0, 0, 1, name, b"")

    def _require_room(self, chunks: int) -> None:
        """Refuse what would leave too little room to remove anything.

        Raises:
            LogFullError: it would.
        """
        environment = self._writer.environment
        before = self._writer.pages_of_blobs  # that this commit adds, which LMDB does not count yet
        self._writer.pages_of_blobs += chunks + 1
        needed = self._writer.pages_of_blobs + PAGES_BESIDE_CHUNKS
        kept = min(max(environment.map_pages // 32, _KEPT_PAGES), _MOST_KEPT_PAGES)
        most = min(environment.map_pages - kept, _pages_on_disk(environment) - _KEPT_PAGES)
        if environment.lmdb.info()["last_pgno"] + 1 + needed <= most:
            return
        stat = environment.lmdb.stat()
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        if used + needed > most:
            self._writer.pages_of_blobs = before
            raise LogFullError(
                f"the log at {environment.directory}, or its disk, is too full for a new blob: "
                "make room on the disk, expire or delete events, or open it with a larger map_size"
            )

    def _remove_chunks(self, version: _Version) -> None:
        """Remove the chunks of a version, and leave a mark if it has too many for one commit."""
        if version.chunks and not self._remove_rows(version.number):
            mark = keys.blob_rest_key(version.number)
            self._writer.put(mark, keys.sealed(version.name.encode()))

    def _remove_rows(self, number: int) -> bool:
        """Remove chunks of a version; whether it has none any more."""
        first, last = (keys.blob_chunk_key(number, chunk) for chunk in (0, keys.MAX_CHUNKS - 1))
        self._writer.remove_rows(first, last + b"\0", STEP_ROWS)
        return self._writer.is_empty(first, last + b"\0")


class EmbeddedBlobs(BlobStore):
    """The blobs of a log. Each put or delete is one commit, as durable as the log is."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log

    def __repr__(self) -> str:
        return f"<BlobStore in {self._log!r}>"

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        """See `BlobStore.get`."""
        check_name(name)
        check_etag(if_none_match)
        return self._look(lambda transaction: _get(transaction, name, if_none_match))

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """See `BlobStore.put`.

        Raises:
            UnsupportedOperationError: the log was opened to be read.
        """
        check_put(name, data, if_match, if_absent=if_absent)
        return self._change(
            lambda blobs: blobs.put(name, data, if_match=if_match, if_absent=if_absent),
            size=_count_chunks(name, data, self._log.environment.chunk_bytes) and len(data),
        )

    def list(self, prefix: str) -> Listing:
        """See `BlobStore.list`. The list is of one moment."""
        check_prefix(prefix)
        return self._look(lambda transaction: _list(transaction, prefix))

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """See `BlobStore.delete`.

        Raises:
            UnsupportedOperationError: the log was opened to be read.
        """
        check_name(name)
        check_etag(if_match)
        self._change(lambda blobs: blobs.delete(name, if_match=if_match))

    def watch(self, name: str) -> Watch:
        """See `BlobStore.watch`. Changes by every process are told of; some others may be, too."""
        place = blob_place(keys.blob_key(check_name(name)))
        return self._log.environment.wakeup.watch([place])

    @property
    def shared_directory(self) -> Path | None:
        """See `BlobStore.shared_directory`: it is in the log's."""
        return self._log.hosts_directory

    def close(self) -> None:
        """Nothing happens: the store is open as long as the log is, which all its users share."""

    def _look(self, do: Callable[[lmdb.Transaction], T]) -> T:
        try:
            return self._log.look(do)
        except LogBusyError as error:
            raise StoreUnavailableError(str(error)) from error

    def _change(self, do: Callable[[WriterBlobs], T], size: int = 0) -> T:
        """Change something, in one commit. What that cannot remove, further commits do."""

        def work(writer: Writer) -> tuple[T, bool]:
            blobs = WriterBlobs(writer)
            return do(blobs), blobs.remove_rest()

        result, more = self._commit(work, size)
        with contextlib.suppress(EventLogError):  # the change itself is made
            while more:
                more = self._commit(lambda writer: WriterBlobs(writer).remove_rest())
        return result

    def _commit(self, work: Work[T], size: int = 0) -> T:
        """Small changes are of no size to the log, so that they may use its reserve."""
        try:
            return self._log.commit(work, size=size)
        except (LogBusyError, LogFullError) as error:
            raise StoreUnavailableError(str(error)) from error


def _pages_on_disk(environment: Environment) -> int:
    """How many pages the log has or could have, as far as its disk goes."""
    path = environment.lmdb.path()
    disk = os.statvfs(path)
    size: int = os.stat(path).st_size  # noqa: PTH116 - a path in bytes or text, from LMDB
    return (size + disk.f_bavail * disk.f_frsize) // environment.page_bytes


def _count_chunks(name: str, data: bytes, chunk_bytes: int) -> int:
    """How many rows of their own data need; none if the blob's row has room for them."""
    if _SEAL_BYTES + _fields.size + len(name) + len(data) <= chunk_bytes:
        return 0
    return -(-len(data) // chunk_bytes)
