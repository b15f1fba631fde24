"""Keys of the one LMDB database a log keeps everything in.

One unnamed database, so that a commit dirties one tree: every further database would add a page
to each commit, and with one alone LMDB's own page counts tell how full the log is.

==========  =====================================================  ===============================
first byte  rest of the key                                        value
==========  =====================================================  ===============================
``B``       topic id u32, partition u16, last offset u64,          one chunk of a stored batch
            chunk u16                                              (`eventlog.embedded.batch`)
``D``       topic id u32                                           sealed JSON: a deleted topic
                                                                   with batches yet to be removed
``F``       topic id u32, partition u16                            sealed `Floor`: where a
                                                                   partition goes on, once emptied
``L``       nothing                                                sealed JSON: the log's record
``O``       name of a blob in ASCII; of a long one (`blob_key`)    sealed: a blob, or what is known
            its beginning, 0, and a hash                           of it (`eventlog.embedded.blobs`)
``P``       topic id u32, producer id in UTF-8                     sealed record of a producer with
                                                                   a name
``Q``       etag u64, chunk u16                                    one chunk of a larger blob's data
``R``       etag u64                                               sealed: the name of a blob; its
                                                                   chunks are yet to be removed
``T``       topic name in UTF-8                                    sealed JSON: the topic's record
==========  =====================================================  ===============================

Sealed values begin with the XXH3-64 of the rest, 8 bytes; batches have checksums of their own.

Numbers are big-endian, so that LMDB's order of bytes is the order of numbers: one search for a
partition's key with any offset finds the batch that holds it, since a batch is filed under its
*last* offset. Free letters are room for what later comes to live in a log.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import xxhash

from eventlog.errors import NotALogError

__all__ = [
    "KINDS",
    "BatchKey",
    "Floor",
    "Kind",
    "blob_chunk_key",
    "blob_key",
    "blob_rest_key",
    "deleted_key",
    "floor_key",
    "sealed",
    "topic_key",
    "unsealed",
]

LOG_KEY: Final = b"L"
TOPIC_PREFIX: Final = b"T"
DELETED_PREFIX: Final = b"D"
BATCH_PREFIX: Final = b"B"
PRODUCER_PREFIX: Final = b"P"
FLOOR_PREFIX: Final = b"F"
BLOB_PREFIX: Final = b"O"
BLOB_CHUNK_PREFIX: Final = b"Q"
BLOB_REST_PREFIX: Final = b"R"

CHUNK_NUMBER_BYTES: Final = 2
MAX_CHUNKS: Final = 2 ** (8 * CHUNK_NUMBER_BYTES)
MAX_OFFSET: Final = 2**63 - 1
MAX_KEY_BYTES: Final = 511
"""LMDB's own limit."""

_NAME_HASH_BYTES: Final = 16
NAME_BEGINNING_BYTES: Final = MAX_KEY_BYTES - 2 - _NAME_HASH_BYTES
"""How many bytes of a blob's name stand in its key, whatever the name's length."""


class Kind(NamedTuple):
    """What the rows of one letter look like."""

    key_bytes: range
    """How long their keys can be, the letter included."""
    has_topic: bool = False
    """Whether a topic id, u32, follows the letter."""
    has_partition: bool = False
    """Whether a partition, u16, follows the topic id."""
    is_sealed: bool = True
    """Whether their values are sealed."""


KINDS: Final[Mapping[bytes, Kind]] = MappingProxyType(
    {
        BATCH_PREFIX: Kind(range(17, 18), has_topic=True, has_partition=True, is_sealed=False),
        DELETED_PREFIX: Kind(range(5, 6), has_topic=True),
        FLOOR_PREFIX: Kind(range(7, 8), has_topic=True, has_partition=True),
        LOG_KEY: Kind(range(1, 2)),
        PRODUCER_PREFIX: Kind(range(6, 262), has_topic=True),
        TOPIC_PREFIX: Kind(range(2, 251)),
        BLOB_PREFIX: Kind(range(2, MAX_KEY_BYTES + 1)),
        BLOB_CHUNK_PREFIX: Kind(range(11, 12), is_sealed=False),
        BLOB_REST_PREFIX: Kind(range(9, 10)),
    }
)
"""The table above for programs: what is not in it does not belong to a log, and `check` says so."""

_batch = struct.Struct(">cIHQH")
_floor_key = struct.Struct(">cIH")
_deleted = struct.Struct(">cI")
_blob_chunk = struct.Struct(">cQH")
_blob_rest = struct.Struct(">cQ")
_floor = struct.Struct(">QQqQ")
_digest = struct.Struct(">Q")


class BatchKey(NamedTuple):
    """The key of one chunk of a batch."""

    topic_id: int
    partition: int
    last_offset: int
    chunk: int = 0

    def encode(self) -> bytes:
        """Its 17 bytes, in the order of the numbers."""
        return _batch.pack(b"B", *self)

    @classmethod
    def decode(cls, key: bytes) -> BatchKey:
        """The inverse of `encode`; `key` must be of this kind."""
        return cls._make(_batch.unpack(key)[1:])


class Floor(NamedTuple):
    """What is known of a partition beside its batches, once events were removed from it.

    It is written when the first batch is removed; when the last one is, since the partition goes
    on where that ended; and when a batch is larger than a step of removal, since it is gone from
    the first step on.
    """

    beginning: int = 0
    next_offset: int = 0
    enqueued_us: int = 0
    end_position: int = 0

    def encode(self) -> bytes:
        """Its 32 bytes, sealed."""
        return sealed(_floor.pack(*self))

    @classmethod
    def decode(cls, value: bytes) -> Floor:
        """The inverse of `encode`."""
        return cls._make(_floor.unpack(unsealed(value)))


def sealed(value: bytes) -> bytes:
    """`value` behind its checksum."""
    return _digest.pack(xxhash.xxh3_64_intdigest(value)) + value


def unsealed(value: bytes | memoryview) -> bytes:
    """The inverse of `sealed`.

    Raises:
        NotALogError: the checksum does not match.
    """
    rest = bytes(value[8:])
    if bytes(value[:8]) != _digest.pack(xxhash.xxh3_64_intdigest(rest)):
        raise NotALogError(f"a record of the log is damaged: {rest[:80]!r}")
    return rest


def encode_batch_key(topic_id: int, partition: int, last_offset: int, chunk: int = 0) -> bytes:
    """`BatchKey.encode` without making a `BatchKey`, for the paths that make many."""
    return _batch.pack(b"B", topic_id, partition, last_offset, chunk)


def encode_chunk_number(number: int) -> bytes:
    """The end of a batch's key: which of its chunks it is."""
    return number.to_bytes(CHUNK_NUMBER_BYTES)


def topic_key(name: str) -> bytes:
    """The key of the record of the topic called `name`."""
    return TOPIC_PREFIX + name.encode()


def deleted_key(topic_id: int) -> bytes:
    """The key of the mark of a deleted topic."""
    return _deleted.pack(DELETED_PREFIX, topic_id)


def producer_key(topic_id: int, producer_id: str) -> bytes:
    """The key of the record of a topic's producer; with ``""``, what all of them begin with."""
    return _deleted.pack(PRODUCER_PREFIX, topic_id) + producer_id.encode()


def floor_key(topic_id: int, partition: int) -> bytes:
    """The key of a partition's floor."""
    return _floor_key.pack(FLOOR_PREFIX, topic_id, partition)


def blob_key(name: str) -> bytes:
    """The key of a blob.

    A name that is too long for a key stands in it with its beginning, by which it is listed, and
    a hash that nobody finds a second name for. No name has a zero byte.
    """
    encoded = name.encode()
    if len(encoded) >= MAX_KEY_BYTES:
        hashed = hashlib.blake2b(encoded, digest_size=_NAME_HASH_BYTES).digest()
        encoded = encoded[:NAME_BEGINNING_BYTES] + b"\0" + hashed
    return BLOB_PREFIX + encoded


def blob_chunk_key(etag: int, number: int) -> bytes:
    """The key of a chunk of the data of the version of a blob that has that etag."""
    return _blob_chunk.pack(BLOB_CHUNK_PREFIX, etag, number)


def blob_rest_key(etag: int) -> bytes:
    """The key of the mark of a version whose chunks are yet to be removed."""
    return _blob_rest.pack(BLOB_REST_PREFIX, etag)
