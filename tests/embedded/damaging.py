"""Logs to be damaged, and damaging them: what several test modules share.

Bits are flipped in the file of a closed log: the bytes of a chunk are looked up, and searched for
in the file.
"""

from __future__ import annotations

import random
from pathlib import Path

import lmdb

import eventlog
from eventlog import CorruptBatchError, Topic
from eventlog.embedded import keys
from eventlog.event import StoredEvent
from eventlog.log import Damage

SEED = 20_240_607
TOPIC = "cars"
PARTITION = 1
DATA = "events-1.mdb"

BATCHES = [1, 5, 2, 5, 1]
"""Events of each append; those of five are long enough for several chunks."""
LONG_BYTES = 5000
BIG = (1, 5)
"""First and last offset of the first long batch."""
NEXT_OFFSET = sum(BATCHES)


class Clock:
    """Microseconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now_us = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.now_us


def batch_bodies() -> list[list[bytes]]:
    """The bodies of every append: bytes that stand nowhere twice."""
    source = random.Random(SEED)
    return [
        [source.randbytes(LONG_BYTES if count == 5 else 40) for _ in range(count)]
        for count in BATCHES
    ]


EXPECTED = [body for bodies in batch_bodies() for body in bodies]


def make(path: Path, clock: Clock | None = None) -> None:
    """A closed log of two partitions, with the batches in the second, nothing compressed."""
    with eventlog.open(path, clock=clock or Clock()) as log:
        topic = log.create_topic(TOPIC, partitions=2, compression="none")
        topic.append(b"elsewhere", partition=0)
        for bodies in batch_bodies():
            topic.append_batch(bodies, partition=PARTITION)


def row(path: Path, key: bytes) -> bytes | None:
    """What stands under a key in a closed log."""
    with (
        lmdb.open(
            str(path / DATA), subdir=False, readonly=True, lock=False, lib_version=0
        ) as environment,
        environment.begin() as transaction,
    ):
        return transaction.get(key)


def chunk_key(last_offset: int, chunk: int) -> bytes:
    return keys.encode_batch_key(1, PARTITION, last_offset, chunk)


def chunks(path: Path, last_offset: int) -> list[bytes]:
    """The chunks of the batch that ends at `last_offset`, as they are stored."""
    found: list[bytes] = []
    while (value := row(path, chunk_key(last_offset, len(found)))) is not None:
        found.append(value)
    return found


def flip(path: Path, chunk: bytes, at: int, bit: int) -> None:
    """Flip a bit of a stored chunk, in every copy of it that the file has; the log is closed."""
    data = bytearray((path / DATA).read_bytes())
    copies = 0
    place = data.find(chunk)
    while place >= 0:
        data[place + at] ^= 1 << bit
        copies += 1
        place = data.find(chunk, place + 1)
    assert copies
    (path / DATA).write_bytes(data)


def damage(path: Path, last_offset: int, chunk: int, at: int, bit: int = 0) -> None:
    """Flip a bit of a batch in a closed log; a negative chunk or place counts from the end."""
    stored = chunks(path, last_offset)[chunk]
    flip(path, stored, at % len(stored), bit)


def read_on(
    topic: Topic, at: int = 0
) -> tuple[list[tuple[int, bytes]], list[tuple[str, int, int, int]]]:
    """All that can be read of the partition, and the damage met: topic, partition, offsets."""
    events: list[tuple[int, bytes]] = []
    damaged: list[tuple[str, int, int, int]] = []
    while at < topic.partition_info(PARTITION).next_offset:
        some, error = attempt(topic, at)
        if error is not None:
            place = (error.topic, error.partition, error.first_offset, error.last_offset)
            assert all(str(part) in str(error) for part in place)
            assert error.first_offset == at
            damaged.append(place)
            at = error.last_offset + 1
        else:
            assert some
            events += [(event.offset, event.body) for event in some]
            at = some[-1].offset + 1
    return events, damaged


def attempt(topic: Topic, at: int) -> tuple[list[StoredEvent], CorruptBatchError | None]:
    """What a read returns, or raises."""
    try:
        return topic.read(PARTITION, at), None
    except CorruptBatchError as error:
        return [], error


def without(*lost: tuple[int, int]) -> list[tuple[int, bytes]]:
    """Offsets and bodies of all events but those of the ranges (first, last)."""
    return [
        (offset, body)
        for offset, body in enumerate(EXPECTED)
        if not any(first <= offset <= last for first, last in lost)
    ]


def damage_of(found: list[Damage]) -> list[tuple[str, int, int, int]]:
    assert all(place.reason for place in found)
    return [place[:4] for place in found]
