"""The byte layout of a stored batch: pure functions, no I/O.

A batch is what one append stores in one partition (a large append stores several). It is filed
in chunks of a page each under `eventlog.embedded.keys.BatchKey`; put together again they read::

    0        1        2                 4                                   8
    +--------+--------+-----------------+-----------------------------------+
    | version| codec  | zero            | count: events, at least 1         |
    +--------+--------+-----------------+-----------------------------------+
    | enqueued: microseconds since 1970, signed, the same for every event    |
    +------------------------------------------------------------------------+
    | position: bytes (headers and payloads) of the partition before this    |
    +-----------------------------------+------------------------------------+
    | stored: length of the payload     | raw: its length decompressed       |
    +-----------------------------------+------------------------------------+
    | XXH3-64 of the payload as stored                                       |
    +------------------------------------------------------------------------+
    | XXH3-64 of the 40 bytes above and the 15 bytes of the key before chunk |
    +------------------------------------------------------------------------+
    | payload, `stored` bytes                                                |
    +- - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - +

Numbers are big-endian. The payload is msgpack, compressed if `codec` is 1 (one zstd frame)::

    [bodies, keys, properties]

three arrays of `count` values: bin; str, bin or nil; map or nil. A column in which nothing stands
is nil instead of an array.

The header has a digest of its own so that counts, times and sizes can be trusted (and searched)
without reading payloads; it covers the key, so that a chunk filed under another's key is found.
`position` makes the stored size of a partition the difference of two headers: no counter is kept.

What this module deliberately does not do: number events, look at clocks, or touch LMDB.
"""

from __future__ import annotations

import itertools
import os
import struct
import threading
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec
import zstandard
from xxhash import xxh3_64_intdigest

__all__ = [
    "BatchDamagedError",
    "Columns",
    "EncodedBatch",
    "Header",
    "encode",
    "encode_all",
    "open_payload",
]

VERSION: Final = 1
CODEC_NONE: Final = 0
CODEC_ZSTD: Final = 1
HEADER_BYTES: Final = 48

MAX_RAW_BYTES: Final = 2**28
"""No payload decompresses to more; what claims to is damaged."""

TARGET_RAW_BYTES: Final = 96 * 1024
TARGET_EVENTS: Final = 4096
"""A larger append is stored as several batches, so that reading one event of it stays cheap."""

_MIN_COMPRESSED_BYTES: Final = 256
"""Below this, zstd's frame and call cost more than they save."""

_PARALLEL_RAW_BYTES: Final = 512 * 1024
"""From here on starting threads to compress pays; measured on two cores."""

_ZSTD_PARAMETERS: Final = zstandard.ZstdCompressionParameters(
    window_log=17,
    hash_log=13,
    chain_log=12,
    search_log=1,
    min_match=7,
    strategy=zstandard.STRATEGY_FAST,
    write_content_size=True,
    write_checksum=False,
)
"""Level 1 for what is no longer than a batch, but for longer matches only: on JSON that is 9 %
faster both ways, and no larger."""

_KEY_BYTES: Final = 15

_header = struct.Struct(">BBHIqQIIQ")
_digest = struct.Struct(">Q")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode_columns: Final = msgspec.msgpack.Decoder(
    tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]
).decode
_decode_any: Final = msgspec.msgpack.Decoder().decode
_NIL: Final = b"\xc0"


class BatchDamagedError(ValueError):
    """The bytes of a batch do not check out; the message says where."""


Rows: TypeAlias = tuple[
    list[bytes],
    Sequence[str | bytes | None] | None,
    Sequence[dict[str, Any] | msgspec.Raw | None] | None,
]
"""Bodies, keys and properties of the same events; what is ``Raw`` is MessagePack already."""


class EncodedBatch(msgspec.Struct, frozen=True):
    """Events encoded and compressed, ready to be given an offset and a time."""

    count: int
    codec: int
    raw_bytes: int
    payload: bytes
    rows: Rows | None = None
    """The events themselves, if they are few enough to be stored together with others'."""
    compress: bool = False
    enqueued_us: int | None = None
    """When its events were enqueued, if that is not when they are stored: of a copy."""

    @property
    def size(self) -> int:
        """Bytes it takes in a partition."""
        return HEADER_BYTES + len(self.payload)

    def header(self, key: bytes, enqueued_us: int, position: int) -> bytes:
        """Its header, filed under `key`."""
        payload = self.payload
        fields = _header.pack(
            VERSION,
            self.codec,
            0,
            self.count,
            enqueued_us,
            position,
            len(payload),
            self.raw_bytes,
            xxh3_64_intdigest(payload),
        )
        return fields + _digest.pack(xxh3_64_intdigest(fields + key[:_KEY_BYTES]))

    def chunks(self, header: bytes, chunk_bytes: int) -> list[bytes | memoryview]:
        """The values to store: under its key, and under the keys of the chunks after it."""
        payload = memoryview(self.payload)
        room = chunk_bytes - HEADER_BYTES
        chunks: list[bytes | memoryview] = [b"".join((header, payload[:room]))]
        chunks += [
            payload[start : start + chunk_bytes] for start in range(room, len(payload), chunk_bytes)
        ]
        return chunks


class Header(msgspec.Struct, frozen=True, gc=False):
    """The header of a stored batch, checked."""

    codec: int
    count: int
    enqueued_us: int
    position: int
    stored_bytes: int
    raw_bytes: int
    payload_digest: int

    @property
    def end_position(self) -> int:
        """The partition's position behind this batch."""
        return self.position + HEADER_BYTES + self.stored_bytes

    @classmethod
    def decode(cls, key: bytes, chunk: bytes | memoryview) -> Header:
        """Read and check the header at the beginning of chunk 0.

        Raises:
            BatchDamagedError: it does not match its digest or its key, or makes no sense.
        """
        if len(chunk) < HEADER_BYTES:
            raise BatchDamagedError(f"its first chunk has {len(chunk)} bytes, less than a header")
        fields = bytes(chunk[: HEADER_BYTES - 8])
        (digest,) = _digest.unpack_from(chunk, HEADER_BYTES - 8)
        if xxh3_64_intdigest(fields + key[:_KEY_BYTES]) != digest:
            raise BatchDamagedError("its header does not match its checksum")
        version, codec, zero, *rest = _header.unpack(fields)
        header = cls(codec, *rest)
        if version != VERSION or zero or codec > CODEC_ZSTD or not header.count:
            raise BatchDamagedError(f"its header is of version {version}, codec {codec}")
        if header.raw_bytes > MAX_RAW_BYTES:
            raise BatchDamagedError(f"it claims to hold {header.raw_bytes} bytes")
        return header


def encode(columns: Rows, size: int, *, compress: bool) -> list[EncodedBatch]:
    """Encode the events of one partition; usually to one batch, a large append to several.

    Args:
        columns: bodies (at least one), keys and properties; None for a column of nothing.
        size: about how many bytes they are together.
        compress: use zstd where that makes a batch smaller.
    """
    if size <= TARGET_RAW_BYTES and len(columns[0]) <= TARGET_EVENTS:
        raw = _encode(columns)
        if len(raw) < _MIN_COMPRESSED_BYTES:
            return [EncodedBatch(len(columns[0]), CODEC_NONE, len(raw), raw, columns, compress)]
        return [_batch(columns, raw, _zstd.compressor.compress(raw) if compress else None)]
    return encode_all([(columns, size)], compress=compress)[0]


def encode_all(parts: Sequence[tuple[Rows, int]], *, compress: bool) -> list[list[EncodedBatch]]:
    """`encode` for each of several partitions, compressing all at once.

    Each time a thread lets go of the interpreter's lock, it may wait for milliseconds until
    another, busy one gives it back.
    """
    cut = [_pieces(columns, size) for columns, size in parts]
    pieces = [piece for some in cut for piece in some]
    raws = list(map(_encode, pieces))
    large = [raw for raw in raws if len(raw) >= _MIN_COMPRESSED_BYTES]
    frames = iter(_frames(large) if compress else [])
    batches = iter(
        [
            _batch(piece, raw, next(frames, None))
            if len(raw) >= _MIN_COMPRESSED_BYTES
            else EncodedBatch(len(piece[0]), CODEC_NONE, len(raw), raw, piece, compress)
            for piece, raw in zip(pieces, raws, strict=True)
        ]
    )
    return [list(itertools.islice(batches, len(some))) for some in cut]


def _batch(columns: Rows, raw: bytes, frame: bytes | None) -> EncodedBatch:
    if frame is None or len(frame) >= len(raw):
        return EncodedBatch(len(columns[0]), CODEC_NONE, len(raw), raw)
    return EncodedBatch(len(columns[0]), CODEC_ZSTD, len(raw), frame)


def merged(batches: list[EncodedBatch]) -> list[EncodedBatch]:
    """The same events in the same order, with neighbouring small batches made one.

    For batches of one partition and one time: what many callers append one by one is then stored,
    and read, as if one had appended all of it.
    """
    if len(batches) == 1:
        return batches
    result: list[EncodedBatch] = []
    for small, some in itertools.groupby(batches, lambda batch: batch.rows is not None):
        together = list(some)
        result += _one(together) if small and len(together) > 1 else together
    return result


def _one(batches: list[EncodedBatch]) -> list[EncodedBatch]:
    bodies: list[bytes] = []
    keys: list[str | bytes | None] = []
    properties: list[dict[str, Any] | msgspec.Raw | None] = []
    for batch in batches:
        assert batch.rows is not None
        some_bodies, some_keys, some_properties = batch.rows
        nothing = [None] * batch.count
        bodies += some_bodies
        keys += nothing if some_keys is None else some_keys
        properties += nothing if some_properties is None else some_properties
    rows: Rows = (
        bodies,
        None if keys.count(None) == len(keys) else keys,
        None if properties.count(None) == len(properties) else properties,
    )
    size = sum(batch.raw_bytes for batch in batches)
    return encode(rows, size, compress=batches[0].compress)


def _pieces(columns: Rows, size: int) -> list[Rows]:
    """Cut the columns into pieces of about equal counts, near the target size on average."""
    bodies, keys, properties = columns
    count = len(bodies)
    parts = min(count, max(-(-size // TARGET_RAW_BYTES), -(-count // TARGET_EVENTS)))
    step = -(-count // parts)
    return [
        (
            bodies[start : start + step],
            keys and keys[start : start + step],
            properties and properties[start : start + step],
        )
        for start in range(0, count, step)
    ]


class _Zstd(threading.local):
    """A compressor and a decompressor per thread: neither may be shared between threads."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(compression_params=_ZSTD_PARAMETERS)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def _frames(raws: list[bytes]) -> list[bytes]:
    """Compress several; large appends use other cores too."""
    if not raws:
        return []
    threads = min(os.cpu_count() or 1, 4) if sum(map(len, raws)) >= _PARALLEL_RAW_BYTES else 0
    frames = _zstd.compressor.multi_compress_to_buffer([*raws], threads=threads)
    return [frames[number].tobytes() for number in range(len(raws))]


def open_payload(header: Header, payload: bytes | memoryview) -> Columns:
    """Check and decompress the payload of a batch.

    Raises:
        BatchDamagedError: it does not match its digest or its header.
    """
    if len(payload) != header.stored_bytes:
        raise BatchDamagedError(f"{len(payload)} of its {header.stored_bytes} bytes are there")
    if xxh3_64_intdigest(payload) != header.payload_digest:
        raise BatchDamagedError("its payload does not match its checksum")
    raw = payload
    try:
        if header.codec == CODEC_ZSTD:
            if zstandard.frame_content_size(payload) != header.raw_bytes:
                raise BatchDamagedError("its payload decompresses to another length")
            raw = _zstd.decompressor.decompress(payload)
        return Columns(header.count, *_decode_columns(raw))
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise BatchDamagedError(f"its payload cannot be decoded: {error}") from error


class Columns:
    """The decompressed columns of a batch, from which any range of events can be had.

    Values are decoded when asked for: a few events out of a batch of thousands are found by
    stepping over the others' bytes, and make no objects for them.
    """

    __slots__ = ("_bodies", "_keys", "_properties", "count")

    def __init__(
        self, count: int, bodies: msgspec.Raw, keys: msgspec.Raw, properties: msgspec.Raw
    ) -> None:
        self.count = count
        self._bodies = memoryview(bodies)
        self._keys = memoryview(keys)
        self._properties = memoryview(properties)

    def bodies(self, start: int, stop: int) -> list[bytes]:
        """Bodies `start` up to `stop`, counted within the batch."""
        column = self._column(self._bodies, start, stop)
        if column is None:
            raise BatchDamagedError("it has no bodies")
        return column

    def keys(self, start: int, stop: int) -> list[str | bytes | None] | None:
        """Keys likewise; None where none of the batch's events has one."""
        return self._column(self._keys, start, stop)

    def properties(self, start: int, stop: int) -> list[dict[str, Any] | None] | None:
        """Properties likewise."""
        return self._column(self._properties, start, stop)

    def _column(self, column: memoryview, start: int, stop: int) -> list[Any] | None:
        if bytes(column[:1]) == _NIL:
            return None
        count, first = _array_header(column)
        if count != self.count:
            raise BatchDamagedError(f"a column has {count} values, the header says {self.count}")
        if (stop - start) * 4 >= count:
            values: list[Any] = _decode_any(column)
            return values if stop - start == count else values[start:stop]
        begin = _skip(column, first, start)
        end = _skip(column, begin, stop - start)
        head = b"\xdd" + (stop - start).to_bytes(4)
        some: list[Any] = _decode_any(b"".join((head, column[begin:end])))
        return some


def _array_header(column: memoryview) -> tuple[int, int]:
    """Number of values in a msgpack array, and where the first one begins."""
    tag = column[0]
    if tag & 0xF0 == 0x90:
        return tag & 0x0F, 1
    if tag == 0xDC:
        return int.from_bytes(column[1:3]), 3
    if tag == 0xDD:
        return int.from_bytes(column[1:5]), 5
    raise BatchDamagedError(f"a column begins with {tag:#x}, which is no array")


# Bytes that follow a tag, or bytes that say how many follow.
_FIXED_BYTES: Final[dict[int, int]] = {
    0xC0: 0,
    0xC2: 0,
    0xC3: 0,
    0xCA: 4,
    0xCB: 8,
    **{0xCC + power: 2**power for power in range(4)},
    **{0xD0 + power: 2**power for power in range(4)},
    **{0xD4 + power: 1 + 2**power for power in range(5)},
}
_LENGTH_BYTES: Final[dict[int, int]] = {
    **{0xC4 + power: 2**power for power in range(3)},
    **{0xC7 + power: 2**power for power in range(3)},
    **{0xD9 + power: 2**power for power in range(3)},
}
_EXT: Final = frozenset({0xC7, 0xC8, 0xC9})
_MAP_LENGTH_BYTES: Final = {0xDE: 2, 0xDF: 4}


def _skip(data: memoryview, at: int, values: int) -> int:
    """The position behind `values` msgpack values that begin at `at`.

    The spec: https://github.com/msgpack/msgpack/blob/master/spec.md. Only what an event can hold
    is known here: scalars, and maps of scalars.
    """
    while values:
        values -= 1
        tag = data[at]
        at += 1
        if (length_bytes := _LENGTH_BYTES.get(tag)) is not None:
            length = int.from_bytes(data[at : at + length_bytes])
            at += length_bytes + length + (tag in _EXT)
        elif tag < 0x80 or tag >= 0xE0:
            pass
        elif tag < 0x90:
            values += 2 * (tag & 0x0F)
        elif 0xA0 <= tag < 0xC0:
            at += tag & 0x1F
        elif (fixed := _FIXED_BYTES.get(tag)) is not None:
            at += fixed
        elif (length_bytes := _MAP_LENGTH_BYTES.get(tag)) is not None:
            values += 2 * int.from_bytes(data[at : at + length_bytes])
            at += length_bytes
        else:
            raise BatchDamagedError(f"a value begins with {tag:#x}, which no event holds")
    return at
