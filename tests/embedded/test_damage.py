"""Flipped bits in stored batches: found by read and by check, and reading goes on behind them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import eventlog
from eventlog import CorruptBatchError, NotALogError
from eventlog.embedded import keys
from eventlog.embedded.batch import HEADER_BYTES, Header
from tests.embedded.damaging import (
    BIG,
    DATA,
    EXPECTED,
    LONG_BYTES,
    NEXT_OFFSET,
    PARTITION,
    SEED,
    TOPIC,
    Clock,
    chunk_key,
    chunks,
    damage,
    damage_of,
    flip,
    make,
    read_on,
    row,
    without,
)

# ---- Flipped bits --------------------------------------------------------------------------------

PLACES = {
    "version": (0, 0),
    "codec": (0, 1),
    "zero": (0, 3),
    "count": (0, 7),
    "high byte of count": (0, 4),
    "enqueued": (0, 15),
    "sign of enqueued": (0, 8),
    "position": (0, 23),
    "stored": (0, 27),
    "high byte of stored": (0, 24),
    "raw": (0, 31),
    "high byte of raw": (0, 28),
    "payload digest": (0, 32),
    "header digest": (0, 40),
    "end of header digest": (0, 47),
    "first byte of the payload": (0, 48),
    "end of chunk 0": (0, -1),
    "beginning of a middle chunk": (2, 0),
    "middle of a middle chunk": (2, 2000),
    "end of a middle chunk": (2, -1),
    "beginning of the last chunk": (-1, 0),
    "end of the payload": (-1, -1),
}
everywhere = pytest.mark.parametrize(("chunk", "at"), PLACES.values(), ids=PLACES)


def test_a_long_batch_is_stored_in_the_chunks_the_table_of_places_speaks_of(
    fast_path: Path,
) -> None:
    make(fast_path)
    stored = chunks(fast_path, BIG[1])
    assert len(stored) >= 6
    header = Header.decode(chunk_key(BIG[1], 0), stored[0])
    assert (header.count, header.codec) == (5, 0)
    assert sum(map(len, stored)) == HEADER_BYTES + header.stored_bytes
    assert (fast_path / DATA).read_bytes().count(stored[2]) == 1


@everywhere
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_found_by_read_and_by_check_which_name_the_batch(
    fast_path: Path, chunk: int, at: int, bit: int
) -> None:
    make(fast_path)
    damage(fast_path, BIG[1], chunk, at, bit)
    with eventlog.open(fast_path, clock=Clock()) as log:
        assert read_on(log.topic(TOPIC)) == (without(BIG), [(TOPIC, PARTITION, *BIG)])
        report = log.check()
        assert not report.ok
        assert damage_of(report.damaged) == [(TOPIC, PARTITION, *BIG)]
        assert report.events == 1 + NEXT_OFFSET - 5


@everywhere
def test_what_comes_before_a_damaged_batch_is_returned_first(
    fast_path: Path, chunk: int, at: int
) -> None:
    make(fast_path)
    damage(fast_path, BIG[1], chunk, at)
    with eventlog.open(fast_path) as log:
        topic = log.topic(TOPIC)
        assert [event.offset for event in topic.read(PARTITION)] == [0]
        for start in range(BIG[0], BIG[1] + 1):
            with pytest.raises(CorruptBatchError) as caught:
                topic.read(PARTITION, start)
            assert caught.value.last_offset == BIG[1]
        assert topic.read(PARTITION, BIG[1] + 1, max_events=1)[0].body == EXPECTED[BIG[1] + 1]
        assert topic.read(0)[0].body == b"elsewhere"


@everywhere
def test_after_damage_in_the_last_batch_appends_go_on_behind_it(
    fast_path: Path, chunk: int, at: int
) -> None:
    make(fast_path)
    last = NEXT_OFFSET + 4
    with eventlog.open(fast_path, clock=Clock()) as log:
        bodies = [random.Random(SEED + 1).randbytes(LONG_BYTES) + bytes([n]) for n in range(5)]
        log.topic(TOPIC).append_batch(bodies, partition=PARTITION)
    damage(fast_path, last, chunk, at)
    with eventlog.open(fast_path, clock=Clock()) as log:
        topic = log.topic(TOPIC)
        assert topic.partition_info(PARTITION).next_offset == last + 1
        assert topic.append(b"behind", partition=PARTITION).offset == last + 1
        lost = (TOPIC, PARTITION, NEXT_OFFSET, last)
        assert read_on(topic) == ([*without(), (last + 1, b"behind")], [lost])
        assert damage_of(log.check().damaged) == [lost]
    with eventlog.open(fast_path, clock=Clock()) as log:
        assert log.topic(TOPIC).append(b"again", partition=PARTITION).offset == last + 2


@everywhere
def test_retention_removes_a_damaged_batch_with_those_around_it(
    fast_path: Path, chunk: int, at: int
) -> None:
    clock = Clock()
    make(fast_path, clock)
    damage(fast_path, BIG[1], chunk, at)
    clock.now_us += 3_600_000_000
    with eventlog.open(fast_path, clock=clock) as log:
        topic = log.topic(TOPIC)
        assert topic.append(b"young", partition=PARTITION).offset == NEXT_OFFSET
        topic.configure(retention=60)
        assert [event.body for event in topic.read(PARTITION)] == [b"young"]
        topic.expire()
        assert log.check().ok
        assert read_on(topic, NEXT_OFFSET) == ([(NEXT_OFFSET, b"young")], [])
    for number in range(8):
        assert row(fast_path, chunk_key(BIG[1], number)) is None
    assert row(fast_path, chunk_key(NEXT_OFFSET, 0)) is not None


def test_every_byte_of_a_header_and_many_of_the_payload_are_covered(fast_path: Path) -> None:
    """One log; each byte is flipped, looked at, and flipped back."""
    make(fast_path)
    source = random.Random(SEED)
    stored = chunks(fast_path, BIG[1])
    places = [(0, at) for at in range(HEADER_BYTES)]
    places += [(chunk, source.randrange(len(stored[chunk]))) for chunk in range(1, len(stored))]
    places += [(0, source.randrange(HEADER_BYTES, len(stored[0]))) for _ in range(5)]
    whole = (fast_path / DATA).read_bytes()
    for chunk, at in places:
        flip(fast_path, stored[chunk], at, source.randrange(8))
        with eventlog.open(fast_path, clock=Clock(), read_only=True) as log:
            found = read_on(log.topic(TOPIC))
            assert found == (without(BIG), [(TOPIC, PARTITION, *BIG)]), (chunk, at)
        (fast_path / DATA).write_bytes(whole)
    with eventlog.open(fast_path, clock=Clock()) as log:
        assert read_on(log.topic(TOPIC)) == (without(), [])


def test_a_damaged_batch_of_a_single_small_event_is_found_too(fast_path: Path) -> None:
    """It shares its page with others."""
    make(fast_path)
    damage(fast_path, 0, 0, -20)
    with eventlog.open(fast_path, clock=Clock()) as log:
        assert read_on(log.topic(TOPIC)) == (without((0, 0)), [(TOPIC, PARTITION, 0, 0)])


@pytest.mark.parametrize("at", [7, 47, -1], ids=["count", "digest", "payload"])
def test_check_lists_all_damaged_batches_and_reading_goes_on_behind_each(
    fast_path: Path, at: int
) -> None:
    make(fast_path)
    for last_offset in (5, 7, 12, 13):
        damage(fast_path, last_offset, 0, at)
    lost = [(1, 5), (6, 7), (8, 12), (13, 13)]
    with eventlog.open(fast_path, clock=Clock()) as log:
        topic = log.topic(TOPIC)
        assert damage_of(log.check().damaged) == [(TOPIC, PARTITION, *place) for place in lost]
        assert topic.append(b"behind", partition=PARTITION).offset == NEXT_OFFSET
        events, damaged = read_on(topic)
        assert events == [*without(*lost), (NEXT_OFFSET, b"behind")]
        assert damaged == [(TOPIC, PARTITION, *place) for place in lost]


def test_a_compressed_batch_with_a_flipped_bit_is_never_returned(fast_path: Path) -> None:
    with eventlog.open(fast_path) as log:
        topic = log.create_topic(TOPIC, partitions=2)
        topic.append_batch([b"a car was seen %d" % n for n in range(500)], partition=PARTITION)
    stored = chunks(fast_path, 499)
    whole = (fast_path / DATA).read_bytes()
    assert Header.decode(chunk_key(499, 0), stored[0]).codec == 1
    source = random.Random(SEED)
    for _ in range(20):
        flip(fast_path, stored[0], source.randrange(len(stored[0])), source.randrange(8))
        with eventlog.open(fast_path, read_only=True) as log:
            assert read_on(log.topic(TOPIC)) == ([], [(TOPIC, PARTITION, 0, 499)])
        (fast_path / DATA).write_bytes(whole)


def test_a_damaged_record_of_a_topic_is_named_by_check_and_refused_by_topic(
    fast_path: Path,
) -> None:
    make(fast_path)
    record = row(fast_path, keys.topic_key(TOPIC))
    assert record is not None
    flip(fast_path, record, 20, 2)
    with eventlog.open(fast_path) as log:
        assert [place.topic for place in log.check().damaged] == [TOPIC]
        with pytest.raises(NotALogError):
            log.topic(TOPIC)
