"""The file through which those who commit tell those who wait, in whatever process.

It is a table of counters, unsigned 64-bit numbers in the byte order of the machine, which every
process that has the log open maps:

=========  ========================================================================
bytes      what they count
=========  ========================================================================
0-7        number of the last LMDB transaction that was announced
8-15       announcements to everybody: topics made, changed, deleted
16-8199    announcements of partitions, which share 1023 counters by a hash: two that
           have one counter wake each other's readers in vain, and that is all
8200-16383 announcements of blobs, which share 1023 in the same way
=========  ========================================================================

A place is a partition, ``(topic id, partition)``, a blob (`blob_place`), or `EVERYTHING`.

The places' counters are raised through the mapping. The number at the top is then written with a
system call, since what is stored through a mapping no file notification sees. Watching LMDB's own
file instead would not do: it is written before the new transaction can be seen.

Invariants:

1. A counter is raised after the commit it tells of can be seen, so who sees it raised, or is
   woken by it, sees the events.
2. Only who holds the log's write lock raises any.
3. Nothing depends on what is kept in the file: it may be missing, stale, or lost in a power cut.
   A writer that finds the transaction before its own not announced (it was killed in between, or
   is the first since a compaction) announces its own to everybody.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import xxhash

__all__ = ["ANNOUNCED", "EVERYTHING", "Place", "WakeupFile", "blob_place", "slot_of"]

Place = tuple[int, int]

EVERYTHING: Final[Place] = (0, -1)
"""What everybody watches. No topic has the id 0."""

ANNOUNCED: Final = 0
"""The slot of the last announced transaction's number."""

_PLACES: Final = 1023
_SLOTS: Final = 2 + 2 * _PLACES
_FILE_BYTES: Final = 8 * _SLOTS
_LARGEST: Final = 2**64 - 1
_TOPIC_STRIDE: Final = 619
"""Far from a divisor of `_PLACES`: the partitions of a topic, and its neighbours', are apart."""


def blob_place(key: bytes) -> Place:
    """The place of the blob that has this key in the log."""
    return 0, xxhash.xxh3_64_intdigest(key)


def slot_of(place: Place) -> int:
    """Which of the counters is that of a place."""
    if place == EVERYTHING:
        return 1
    topic_id, partition = place
    if not topic_id:
        return 2 + _PLACES + partition % _PLACES
    return 2 + (topic_id * _TOPIC_STRIDE + partition) % _PLACES


class WakeupFile:
    """The table, mapped.

    Where there is none and none can be made (a directory that may only be read, a full disk),
    nothing is announced, and the counters stand still.

    Attributes:
        counters: the table; another object after `open` and `close`.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self.path = path
        self.counters = _no_counters()
        self._file = -1
        self._mapped = False
        self.open(read_only=read_only)

    @property
    def exists(self) -> bool:
        """Whether there is a table that writers announce in."""
        return self._mapped

    def open(self, *, read_only: bool) -> None:
        """Map the table; make it first, unless it is only to be read."""
        self.close()
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        try:
            file = os.open(self.path, flags | os.O_CLOEXEC, 0o666)
        except OSError:
            return
        try:
            self._map(file, read_only=read_only)
        except (OSError, ValueError):  # ValueError: the file is shorter than the table
            os.close(file)
        else:
            if read_only:
                os.close(file)
            else:
                self._file = file

    def _map(self, file: int, *, read_only: bool) -> None:
        """Map an open file.

        It gets its blocks first: a store into a page that the disk has no room for is a SIGBUS.
        """
        if not read_only:
            os.posix_fallocate(file, 0, _FILE_BYTES)
        access = mmap.ACCESS_READ if read_only else mmap.ACCESS_WRITE
        self.counters = memoryview(mmap.mmap(file, _FILE_BYTES, access=access)).cast("Q")
        self._mapped = True

    def close(self) -> None:
        """Let go of it. The mapping goes with the last reference: another thread may look at it."""
        file, self._file = self._file, -1
        self._mapped = False
        self.counters = _no_counters()
        if file >= 0:
            os.close(file)

    def announce(self, places: Iterable[Place], transaction: int) -> None:
        """Say that a transaction is committed, and what it concerns.

        Costs a microsecond or two, some more while somebody waits. Raises nothing: the events are
        stored, and whoever waits for them finds them a little later.
        """
        if self._file < 0:
            return
        counters = self.counters
        slots = [*map(slot_of, places)]
        if counters[ANNOUNCED] != transaction - 1:
            slots.append(slot_of(EVERYTHING))
        elif not slots:
            counters[ANNOUNCED] = transaction  # no reader is concerned: nobody is woken
            return
        for slot in slots:
            counters[slot] = (counters[slot] + 1) & _LARGEST
        try:  # noqa: SIM105 - suppress() costs as much as the write
            os.pwrite(self._file, transaction.to_bytes(8, sys.byteorder), 8 * ANNOUNCED)
        except OSError:
            pass  # the next writer finds this one not announced, and the slow poll does


def _no_counters() -> memoryview[int]:
    return memoryview(bytes(_FILE_BYTES)).cast("Q")
