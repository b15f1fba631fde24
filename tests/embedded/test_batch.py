"""The layout of stored batches: what goes in comes out, damage is found, and the bytes stay."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import Event
from eventlog.appending import gather
from eventlog.embedded.batch import (
    HEADER_BYTES,
    MAX_RAW_BYTES,
    TARGET_EVENTS,
    TARGET_RAW_BYTES,
    BatchDamagedError,
    Columns,
    EncodedBatch,
    Header,
    encode,
    merged,
    open_payload,
)
from eventlog.embedded.keys import BatchKey

repeatable = settings(derandomize=True, deadline=None)

CHUNK_BYTES = 4080
KEY = BatchKey(topic_id=3, partition=2, last_offset=41).encode()
TIME_US = 1_700_000_000_000_001
POSITION = 5_000_000_000


class Row(NamedTuple):
    """An event as a batch knows it."""

    body: bytes
    key: str | bytes | None = None
    properties: dict[str, Any] | None = None


def encoded(rows: Sequence[Row], *, compress: bool = True) -> list[EncodedBatch]:
    columns = gather([Event(row.body, row.key, row.properties or {}) for row in rows], None)
    return encode(columns[:3], columns.size, compress=compress)


def stored(batch: EncodedBatch, key: bytes = KEY) -> bytes:
    """All chunks of a batch, put together again."""
    return b"".join(batch.chunks(batch.header(key, TIME_US, POSITION), CHUNK_BYTES))


def opened(data: bytes, key: bytes = KEY) -> Columns:
    return open_payload(Header.decode(key, data), data[HEADER_BYTES:])


def rows_of(columns: Columns, start: int, stop: int) -> list[Row]:
    nothing = [None] * (stop - start)
    return list(
        map(
            Row,
            columns.bodies(start, stop),
            columns.keys(start, stop) or nothing,
            columns.properties(start, stop) or nothing,
        )
    )


def typed(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """Rows so that True, 1 and 1.0 differ, and a datetime is compared as text with its zone."""
    return [
        (
            row.body,
            type(row.key),
            row.key,
            row.properties
            and [(name, type(own), str(own)) for name, own in row.properties.items()],
        )
        for row in rows
    ]


PROPERTY_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=40),
    st.binary(max_size=300),
    st.datetimes(timezones=st.just(UTC)),
)
ROWS = st.lists(
    st.builds(
        Row,
        st.binary(max_size=70),
        st.none() | st.text(max_size=40) | st.binary(max_size=300),
        st.none() | st.dictionaries(st.text(max_size=40), PROPERTY_VALUES, min_size=1, max_size=20),
    ),
    min_size=1,
    max_size=40,
)


@repeatable
@given(rows=ROWS, compress=st.booleans())
def test_what_is_encoded_is_decoded_with_its_types(rows: list[Row], compress: bool) -> None:
    """Bodies, keys of both types and properties of every type come back as they were."""
    (batch,) = encoded(rows, compress=compress)
    assert batch.count == len(rows)
    assert typed(rows_of(opened(stored(batch)), 0, len(rows))) == typed(rows)


@repeatable
@given(rows=ROWS, data=st.data())
def test_a_part_decodes_to_the_same_as_that_part_of_the_whole(
    rows: list[Row], data: st.DataObject
) -> None:
    """Stepping over values finds the same ones as decoding all of them."""
    rows = rows * 5  # parts of less than a quarter are decoded another way
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start + 1, min(start + 1 + len(rows) // 5, len(rows))))
    (batch,) = encoded(rows)
    assert typed(rows_of(opened(stored(batch)), start, stop)) == typed(rows[start:stop])


@pytest.mark.parametrize("length", [0, 15, 16, 31, 32, 255, 256, 65_535, 65_536])
@pytest.mark.parametrize("count", [15, 16, 65_535, 65_536])
def test_parts_are_found_behind_values_of_every_length(length: int, count: int) -> None:
    """Where msgpack changes how it says a length, the events behind it are still found."""
    size = length if count < 100 else 0
    text, blob = "t" * size, b"b" * size
    names = {str(number): None for number in range(min(size, 70_000))}
    big = Row(blob, text, {"blob": blob, "text": text, **(names if count == 15 else {})})
    rows = [big, Row(b"", b"", None), Row(b"1", blob, {"": text})] * (count // 3)
    rows += [Row(b"padding")] * (count - len(rows))
    (raw,) = [msgspec.msgpack.encode([list(column) for column in zip(*rows, strict=True)])]
    columns = Columns(count, *msgspec.msgpack.decode(raw, type=tuple[msgspec.Raw, ...]))
    for start in (0, 1, count // 2, count - 2):
        assert rows_of(columns, start, start + 2) == rows[start : start + 2]


@pytest.mark.parametrize(
    "when",
    [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
        datetime(2514, 5, 30, 1, 53, 4, tzinfo=UTC),  # beyond msgpack's timestamps of 34 bits
        datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=-7, minutes=-30))),
    ],
)
def test_a_datetime_comes_back_as_the_same_instant_in_utc(when: datetime) -> None:
    """From the first year to the last, to the microsecond, wherever it stands in a batch."""
    rows = [Row(b"", None, {"before": when, "at": when})] * 9
    (batch,) = encoded(rows)
    for start, stop in ((0, 9), (7, 8)):
        for row in rows_of(opened(stored(batch)), start, stop):
            assert row.properties == {"before": when, "at": when}
            assert row.properties["at"].tzinfo == UTC


def test_a_column_in_which_nothing_stands_takes_one_byte() -> None:
    """Events without keys and properties pay nothing for them."""
    (batch,) = encoded([Row(b"a"), Row(b"b")], compress=False)
    assert batch.payload == b"\x93\x92\xc4\x01a\xc4\x01b\xc0\xc0"
    columns = opened(stored(batch))
    assert columns.keys(0, 2) is None
    assert columns.properties(0, 2) is None


def test_compression_is_used_only_where_it_makes_a_batch_smaller() -> None:
    """What zstd cannot shrink, and what is too small to try, is stored as it is."""
    noise = random.Random(1).randbytes(1000)
    alike = Row(b"the same " * 100)
    assert [batch.codec for batch in encoded([alike])] == [1]
    assert [batch.codec for batch in encoded([alike], compress=False)] == [0]
    assert [batch.codec for batch in encoded([Row(b"tiny")])] == [0]
    (kept,) = encoded([Row(noise)])
    assert kept.codec == 0
    assert kept.raw_bytes == len(kept.payload)


# How batches are cut


def test_a_large_append_becomes_batches_of_about_equal_size() -> None:
    """Reading one event of a large append stays cheap, and no batch is a small rest."""
    rows = [Row(b"%04d" % number + bytes(996)) for number in range(1000)]
    batches = encoded(rows)
    assert len(batches) == -(-1_000_000 // TARGET_RAW_BYTES)
    assert max(batch.raw_bytes for batch in batches) < 1.1 * TARGET_RAW_BYTES
    counts = [batch.count for batch in batches]
    assert sum(counts) == 1000
    assert max(counts) - min(counts) < len(batches)
    again = [row for batch in batches for row in rows_of(opened(stored(batch)), 0, batch.count)]
    assert again == rows


@pytest.mark.parametrize("size", [30_000, 70_000, 100_000])
@pytest.mark.parametrize("count", range(2, 12))
def test_no_event_is_lost_where_an_append_is_cut(count: int, size: int) -> None:
    """Whether the last batch is as full as the others or holds a single event."""
    rows = [Row(b"%02d" % number + bytes(size), str(number)) for number in range(count)]
    batches = encoded(rows)
    again = [row for batch in batches for row in rows_of(opened(stored(batch)), 0, batch.count)]
    assert again == rows


def test_many_small_events_become_batches_of_a_bounded_count() -> None:
    """However small they are, one batch holds at most so many."""
    batches = encoded([Row(b"")] * (3 * TARGET_EVENTS + 1))
    assert sum(batch.count for batch in batches) == 3 * TARGET_EVENTS + 1
    assert max(batch.count for batch in batches) <= TARGET_EVENTS


@pytest.mark.parametrize(
    "row", [Row(b"", None, {"a": b"p" * 60_000}), Row(b"", "k" * 1000), Row(b"", b"k" * 1000)]
)
def test_keys_and_properties_count_when_a_batch_is_cut(row: Row) -> None:
    """Many events with much besides the body do not become a batch too large to be read."""
    count = TARGET_EVENTS if row.key else 100
    batches = encoded([row] * count, compress=False)
    assert sum(batch.count for batch in batches) == count
    assert max(batch.raw_bytes for batch in batches) < 2 * TARGET_RAW_BYTES


@repeatable
@given(calls=st.lists(ROWS, min_size=1, max_size=8))
def test_what_many_callers_append_is_stored_as_if_one_had(calls: list[list[Row]]) -> None:
    """Small batches become one, larger ones stay, and no event changes or moves."""
    batches = [batch for rows in calls for batch in encoded(rows)]
    small = [batch.rows is not None for batch in batches]
    together = merged(batches)
    again = [row for batch in together for row in rows_of(opened(stored(batch)), 0, batch.count)]
    assert typed(again) == typed([row for rows in calls for row in rows])
    if all(small) and sum(batch.raw_bytes for batch in batches) < TARGET_RAW_BYTES:
        assert len(together) == 1


# Chunks


@pytest.mark.parametrize(
    ("size", "chunks"),
    [(0, 1), (4032, 1), (4033, 2), (4032 + 4080, 2), (4032 + 4081, 3), (100_000, 25)],
)
def test_chunks_are_full_but_for_the_last(size: int, chunks: int) -> None:
    """No stored value is longer than a page has room for, and no room is wasted."""
    batch = EncodedBatch(1, 0, size, bytes(size))
    parts = batch.chunks(batch.header(KEY, TIME_US, POSITION), CHUNK_BYTES)
    assert len(parts) == chunks
    assert {len(part) for part in parts[:-1]} <= {CHUNK_BYTES}
    assert 0 < len(parts[-1]) <= CHUNK_BYTES
    assert sum(map(len, parts)) == batch.size == HEADER_BYTES + size


def test_the_header_says_what_was_stored() -> None:
    """Count, time, position and sizes are in the header, to be had without the payload."""
    (batch,) = encoded([Row(b"x" * 500)] * 3)
    header = Header.decode(KEY, stored(batch)[:HEADER_BYTES])
    assert (header.codec, header.count, header.enqueued_us) == (1, 3, TIME_US)
    assert (header.position, header.end_position) == (POSITION, POSITION + batch.size)
    assert (header.stored_bytes, header.raw_bytes) == (len(batch.payload), batch.raw_bytes)


def test_times_before_1970_are_kept() -> None:
    """A clock that is far off still gives times that come back."""
    (batch,) = encoded([Row(b"x")])
    assert Header.decode(KEY, batch.header(KEY, -1, 0)).enqueued_us == -1


# Damage


def assert_damage_is_found(data: bytes, key: bytes = KEY) -> None:
    with pytest.raises(BatchDamagedError):
        opened(data, key)


@pytest.mark.parametrize("compress", [True, False])
def test_every_flipped_bit_is_found(compress: bool) -> None:
    """Whichever single bit of a stored batch is wrong, reading it says so."""
    (batch,) = encoded([Row(b"body " * 20, "key", {"a": 1, "b": b"2"})] * 4, compress=compress)
    assert batch.codec == compress
    whole = stored(batch)
    for position in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        assert_damage_is_found(bytes(flipped))


def test_every_flipped_bit_of_the_key_is_found() -> None:
    """A batch filed under another's key, or a damaged one, is not taken for that one's."""
    (batch,) = encoded([Row(b"x")])
    data = stored(batch)
    for position in range(8 * (len(KEY) - 2)):
        flipped = bytearray(KEY)
        flipped[position // 8] ^= 1 << position % 8
        assert_damage_is_found(data, bytes(flipped))


def test_every_missing_or_added_byte_is_found() -> None:
    """A batch cut short anywhere, or with something behind it, does not check out."""
    (batch,) = encoded([Row(b"body " * 20)])
    data = stored(batch)
    for length in range(len(data)):
        assert_damage_is_found(data[:length])
    assert_damage_is_found(data + b"\0")


def sealed(raw: bytes, *, codec: int = 0, count: int = 1, raw_bytes: int | None = None) -> bytes:
    """A batch whose checksums are right, whatever it holds."""
    size = len(raw) if raw_bytes is None else raw_bytes
    return stored(EncodedBatch(count, codec, size, raw))


@pytest.mark.parametrize(
    "data",
    [
        sealed(b"\x93\x91\xc4\x00\xc0\xc0", count=0),
        sealed(b"\x93\x91\xc4\x00\xc0\xc0", codec=2),
        sealed(b"\x93\x91\xc4\x00\xc0\xc0", count=2),
        sealed(b"\x93\xc0\xc0\xc0"),
        sealed(b"\x93\x01\xc0\xc0"),
        sealed(b"\x92\x91\xc4\x00\xc0"),
        sealed(b""),
        sealed(b"\xc1"),
        sealed(b"not zstd", codec=1),
        sealed(zstandard.compress(b"\x93\x91\xc4\x00\xc0\xc0"), codec=1, raw_bytes=7),
        sealed(zstandard.compress(bytes(9)), codec=1, raw_bytes=MAX_RAW_BYTES + 1),
    ],
    ids=[
        "no events",
        "unknown codec",
        "a column of another count",
        "no bodies",
        "no column",
        "two columns",
        "nothing",
        "no msgpack",
        "no zstd",
        "another length",
        "too long to be true",
    ],
)
def test_what_checks_out_but_makes_no_sense_is_damage(data: bytes) -> None:
    """Bytes with the right checksums that no encoder wrote are an error too, never a crash."""
    with pytest.raises(BatchDamagedError):
        opened(data).bodies(0, 1)


# The bytes themselves

GOLDEN_KEY = bytes.fromhex("42 00000003 0002 0000000000000029 0000")
GOLDEN_ROWS = [
    Row(b"first", "key", {"n": None, "t": True, "i": -1, "f": 1.5}),
    Row(b"", b"\xff", {"s": "\u00e9", "b": b"\0", "d": datetime(2024, 2, 29, 1, 2, 3, 4, UTC)}),
    Row(b"third", None, None),
]
GOLDEN_PAYLOAD = bytes.fromhex(
    "93"
    " 93 c405 6669727374 c400 c405 7468697264"
    " 93 a3 6b6579 c401 ff c0"
    " 93"
    "   84 a16e c0 a174 c3 a169 ff a166 cb3ff8000000000000"
    "   83 a173 a2c3a9 a162 c40100 a164 d7ff 00003e8065dfd78b"
    "   c0"
)
GOLDEN_HEADER = bytes.fromhex(
    "01 00 0000 00000003"  # version, codec, zero, count
    "00060a24181e4001"  # enqueued
    "000000012a05f200"  # position
    "00000049 00000049"  # stored, raw
    "3d8894812d8f2daa"  # XXH3-64 of the payload
    "823945739be0f4cd"  # XXH3-64 of all above and the key
)
GOLDEN_COMPRESSED = bytes.fromhex(
    "01 01 0000 00000014 00060a24181e4001 000000012a05f200 0000005c 0000010c"
    "495b38f95f67f003 da75575ab541bd5d"
    "28b52ffd600c00950200840293dc0014c408666c69676874203031303130313031303130313031303130313031dc"
    "0014a24e31c01400d61d03fa4061a00828070a0345403950182802ca81c24011500e14068a8072a0305084164509"
)


def test_the_golden_batch_is_encoded_to_exactly_these_bytes() -> None:
    """The format cannot change unnoticed: logs written today are read by every later version."""
    (batch,) = encoded(GOLDEN_ROWS, compress=False)
    assert batch.payload == GOLDEN_PAYLOAD
    assert stored(batch, GOLDEN_KEY) == GOLDEN_HEADER + GOLDEN_PAYLOAD
    assert rows_of(opened(GOLDEN_HEADER + GOLDEN_PAYLOAD, GOLDEN_KEY), 0, 3) == GOLDEN_ROWS


def test_a_batch_written_by_the_first_version_can_be_read() -> None:
    """Compressed bytes differ from one version of zstd to the next; reading them must not."""
    rows = [Row(b"flight %d" % (number % 2), "N1") for number in range(20)]
    assert rows_of(opened(GOLDEN_COMPRESSED, GOLDEN_KEY), 0, 20) == rows
