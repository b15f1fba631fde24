"""Which partition an event goes to: by its key, or in turn when it has none.

A key's partition follows from its bytes alone (UTF-8 for a `str`), so that every process, on every
engine, sends equal keys to the same partition. The built-in functions answer, bit for bit, as the
service Event Hubs (``"eventhubs"``: lookup3) and Kafka's Java clients (``"kafka"``: MurmurHash2).

**Many keys at once.** One key takes some 70 operations on integers, and to Python one on 32 bits
costs as much as one on fifty times 32. So up to a thousand keys lie side by side in one integer,
each in a *lane* of 64 bits, and are hashed together (the idea is L. Lamport's, "Multiple byte
processing with full-word instructions", CACM 18(8), 1975)::

    bit 63                48 47                32 31                     0
        +-------------------+--------------------+------------------------+
        | bit 48 lends;     | carries of sums    | a word of this lane's  |
        | the rest is waste | not yet masked off | key                    |
        +-------------------+--------------------+------------------------+

What keeps a lane from the next: a sum has room for its carries; a difference borrows from a one put
at bit 48 beforehand; a product of two words fills a lane and no more; what a right shift drops
lands in the waste at the top of the lane below, and is masked off before anything is added to it or
taken from it. A word is masked before it is shifted right, multiplied or subtracted.

One key alone takes the same way, in one lane: a scalar implementation beside it would not be much
faster. Nanoseconds per key of 8 bytes (CPython 3.11): 3500 alone, 1400 in 6 lanes, 273 in 64, 196
in 256, 171 in 1024, 177 in 2048. `KeyPartitioner`, in calls of a thousand: 500 to 850 for a key it
has not seen, 40 for one it has.

This module does no I/O, and takes no locks: one that is held while another thread forks would stay
locked in the child. When the number of partitions changes keys move; it does not know from where.
"""

from __future__ import annotations

import itertools
import operator
import random
import struct
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

__all__ = [
    "PARTITIONERS",
    "KeyPartitioner",
    "Partitioner",
    "RoundRobin",
    "eventhubs_hash",
    "kafka_hash",
    "partitioner_name",
]

_Key: TypeAlias = str | bytes

Partitioner: TypeAlias = Callable[[bytes, int], int]
"""A function of a key's bytes and the number of partitions. It must be pure: its answers are
remembered, and other processes must arrive at the same ones."""

# --- hash functions over lanes: (words, lengths, ones) -> hashes ----------------------------------
#
# `words`: one integer for the keys' first words (little-endian, zeroes behind a key's end), one for
# their second, and so on. `lengths`: the keys' lengths in bytes. `ones`: a one in each lane in use.

_LANE_BYTES: Final = 8
_WORD_BYTES: Final = 4
_WORD: Final = 0xFFFF_FFFF

_LANES: Final = 1024
"""At most. 2048 gain nothing on short keys, and 4096 lose on all: an integer is 32 KiB then."""

_FEWEST_LANES: Final = 3
"""Two keys of 36 bytes take 6.3 us each one by one and 6.8 side by side; three take 6.0 and 4.6."""

_CHUNK_BYTES: Final = 1 << 18
"""Longer keys go fewer at a time: a thousand of a megabyte shall not be copied all at once."""

_ONES: Final = int.from_bytes(b"\x01\0\0\0\0\0\0\0" * _LANES, "little")
"""A one in each of `_LANES` lanes."""


def _lookup3(words: Sequence[int], lengths: int, ones: int) -> int:
    """Both results of `hashlittle2` with seeds 0, xored. Takes three words to each block of a key.

    Source: Bob Jenkins, http://burtleburtle.net/bob/c/lookup3.c (May 2006, public domain).
    """
    mask, lend = ones * _WORD, ones << 48
    a = b = c = ones * 0xDEADBEEF + lengths
    if not words:
        return b ^ c  # no final mixing for an empty key, so its hash is 0
    for at in range(0, len(words) - 3, 3):
        a, b, c = a + words[at], (b + words[at + 1]) & mask, (c + words[at + 2]) & mask
        a, b, c = _lookup3_mix(a, b, c, mask, lend)
    return _lookup3_final(a + words[-3], (b + words[-2]) & mask, c + words[-1], mask, lend)


def _lookup3_mix(a: int, b: int, c: int, mask: int, lend: int) -> tuple[int, int, int]:
    """lookup3's `mix`; `b` and `c` come masked, `a` need not be.

    Each difference is masked, each sum is of a masked word and the sum before it: the six of a
    round come to less than 7 * 2**32, far below bit 48.
    """
    a = ((a | lend) - c ^ c << 4 ^ c >> 28) & mask
    c += b
    b = ((b | lend) - a ^ a << 6 ^ a >> 26) & mask
    a += c
    c = ((c | lend) - b ^ b << 8 ^ b >> 24) & mask
    b += a
    a = ((a | lend) - c ^ c << 16 ^ c >> 16) & mask
    c += b
    b = ((b | lend) - a ^ a << 19 ^ a >> 13) & mask
    a += c
    c = ((c | lend) - b ^ b << 4 ^ b >> 28) & mask
    b += a
    return a, b, c


def _lookup3_final(a: int, b: int, c: int, mask: int, lend: int) -> int:
    """lookup3's `final`, and both results xored; `b` comes masked, `a` and `c` need not be.

    Rotated words are masked, since they are subtracted: what a right shift dropped on the lane
    below would borrow from this one.
    """
    c = ((c ^ b | lend) - ((b << 14 | b >> 18) & mask)) & mask
    a = ((a ^ c | lend) - ((c << 11 | c >> 21) & mask)) & mask
    b = ((b ^ a | lend) - ((a << 25 | a >> 7) & mask)) & mask
    c = ((c ^ b | lend) - ((b << 16 | b >> 16) & mask)) & mask
    a = ((a ^ c | lend) - ((c << 4 | c >> 28) & mask)) & mask
    b = ((b ^ a | lend) - ((a << 14 | a >> 18) & mask)) & mask
    c = ((c ^ b | lend) - ((b << 24 | b >> 8) & mask)) & mask
    return b ^ c


_MURMUR2_FACTOR: Final = 0x5BD1E995
_KAFKA_SEED: Final = 0x9747B28C


def _murmur2(words: Sequence[int], lengths: int, ones: int) -> int:
    """MurmurHash2 with Kafka's seed.

    Source: Austin Appleby, MurmurHash2 (2008, public domain), as Kafka has it in
    `org.apache.kafka.common.utils.Utils.murmur2`.
    """
    mask = ones * _WORD
    state = ones * _KAFKA_SEED ^ lengths
    for word in words[:-1]:
        state = _murmur2_mix(state, word, mask)
    if words:
        state = _murmur2_last(state, words[-1], lengths, ones)
    state = (state ^ state >> 13) & mask
    state = state * _MURMUR2_FACTOR & mask
    return (state ^ state >> 15) & mask


def _murmur2_mix(state: int, word: int, mask: int) -> int:
    """MurmurHash2's step for a whole word of four bytes."""
    word = word * _MURMUR2_FACTOR & mask
    word = (word ^ word >> 24) & mask
    return (state * _MURMUR2_FACTOR ^ word * _MURMUR2_FACTOR) & mask


def _murmur2_last(state: int, word: int, lengths: int, ones: int) -> int:
    """The step for the last word, which ends in some lanes after one to three bytes.

    Every lane takes both steps and keeps the one it needs: to hash keys with and without such a
    tail apart would cost more, each with half the lanes.
    """
    mask = ones * _WORD
    whole = _murmur2_mix(state, word, mask)
    tail = (state ^ word) * _MURMUR2_FACTOR
    beyond = lengths & ones * 3
    ends_early = (beyond + ones * 3 >> 2 & ones) * _WORD  # 1..3 carry into bit 2, 0 does not
    return whole ^ (whole ^ tail) & ends_early


@dataclass(frozen=True, slots=True)
class _Hash:
    """A hash function over lanes; how keys get into lanes, and from there to partitions."""

    run: Callable[[Sequence[int], int, int], int]
    block: int
    """Bytes taken at a time: keys with as many blocks can lie side by side."""
    kind: Literal["h", "i"]
    """The low bits of a lane that are the hash, signed: 16 or 32, as `memoryview.cast` has it."""
    positive: Callable[[int], int]
    """Takes the sign off a hash, before the remainder by the number of partitions."""

    def place(self, key: bytes, partitions: int) -> int:
        """The partition of one key."""
        return self.positive(self.of(key)) % partitions

    def place_all(self, keys: Sequence[bytes], partitions: int) -> list[int]:
        """The partitions of keys, in their order."""
        return [value % partitions for value in map(self.positive, self.of_all(keys))]

    def of(self, key: bytes) -> int:
        """The hash of one key."""
        padded = key + bytes(-len(key) % self.block)
        words = struct.unpack(f"<{len(padded) // _WORD_BYTES}I", padded)
        return _low_ends(self.run(words, len(key), 1), 1, self.kind)[0]

    def of_all(self, keys: Sequence[bytes]) -> list[int]:
        """The hashes of keys, in their order."""
        lengths = list(map(len, keys))
        blocks = {length: (length + self.block - 1) // self.block for length in set(lengths)}
        groups: dict[int, list[bytes]] = {count: [] for count in blocks.values()}
        if len(groups) == 1:
            return self._of_group(keys, *groups)
        group_of = {length: groups[count] for length, count in blocks.items()}
        for length, key in zip(lengths, keys, strict=True):
            group_of[length].append(key)
        hashes = {count: iter(self._of_group(group, count)) for count, group in groups.items()}
        hashes_of = {length: hashes[count] for length, count in blocks.items()}
        return list(map(next, map(hashes_of.__getitem__, lengths)))

    def _of_group(self, keys: Sequence[bytes], blocks: int) -> list[int]:
        """The hashes of keys that have the same number of blocks."""
        size = blocks * self.block
        lanes = max(1, min(_LANES, _CHUNK_BYTES // max(1, size)))
        chunks = (keys[at : at + lanes] for at in range(0, len(keys), lanes))
        return [value for chunk in chunks for value in self._of_chunk(chunk, size)]

    def _of_chunk(self, keys: Sequence[bytes], size: int) -> list[int]:
        """The hashes of at most `_LANES` keys that are padded to `size` bytes."""
        if len(keys) < _FEWEST_LANES:
            return [self.of(key) for key in keys]
        ones = _ONES >> 8 * _LANE_BYTES * (_LANES - len(keys))
        padded, lengths = _side_by_side(keys, size, ones)
        return _low_ends(self.run(_words(padded, size), lengths, ones), len(keys), self.kind)


def _side_by_side(keys: Sequence[bytes], size: int, ones: int) -> tuple[bytes, int]:
    """Keys padded with zeroes to `size` bytes each, and their lengths by lanes."""
    lengths = list(map(len, keys))
    if len(set(lengths)) == 1:  # half of what there is to be saved: numbers, UUIDs and the like
        zeroes = bytes(size - lengths[0])
        return zeroes.join(keys) + zeroes, ones * lengths[0]
    padded = b"".join([key.ljust(size, b"\0") for key in keys])
    return padded, int.from_bytes(struct.pack(f"<{len(keys)}Q", *lengths), "little")


def _words(padded: bytes, size: int) -> list[int]:
    """The first word of every key by lanes, the second of every key, and so on."""
    words = memoryview(padded).cast("I")
    stride = size // _WORD_BYTES
    return [_spread(words[at::stride]) for at in range(stride)]


def _spread(words: memoryview) -> int:
    """Words, one to a lane. They are copied as bytes, so a machine's byte order does not matter."""
    lanes = bytearray(_LANE_BYTES * len(words))
    memoryview(lanes).cast("I")[:: _LANE_BYTES // _WORD_BYTES] = words
    return int.from_bytes(lanes, "little")


def _low_ends(lanes: int, count: int, kind: Literal["h", "i"]) -> list[int]:
    """The signed number at the low end of each lane.

    Numbers are read in the machine's byte order, so lanes are written in it: big-endian, they stand
    in memory from the last one's high end to the first one's low end.
    """
    numbers = memoryview(lanes.to_bytes(_LANE_BYTES * count, sys.byteorder)).cast(kind)
    step = _LANE_BYTES // numbers.itemsize
    return numbers[:: step if sys.byteorder == "little" else -step].tolist()


# --- the functions by which keys are placed -------------------------------------------------------

# Event Hubs' partition is C#'s `Math.Abs(hash % partitions)`, whose remainder is truncated towards
# zero: the same as `abs` before it. (The Python SDK, azure-eventhub 5.15, differs for most negative
# hashes, since Python's `%` rounds down, and for keys beyond ASCII, whose code points it takes for
# bytes. What the service does counts.) Kafka's Java clients drop the sign bit.
_BUILT_IN: Final = {
    "eventhubs": _Hash(run=_lookup3, block=12, kind="h", positive=abs),
    "kafka": _Hash(run=_murmur2, block=4, kind="i", positive=partial(operator.and_, 0x7FFF_FFFF)),
}

PARTITIONERS: Final[Mapping[str, Partitioner]] = MappingProxyType(
    {name: function.place for name, function in _BUILT_IN.items()}
)
"""The built-in functions by the names they are stored under."""


def eventhubs_hash(key: bytes) -> int:
    """Azure Event Hubs' hash of a partition key, -32768 to 32767; 0 for an empty one.

    lookup3's two results, xored and cut to a signed 16-bit number. Source: the .NET SDK's
    `PartitionResolver.GenerateHashCode`, "a direct port of the Event Hubs service code".
    """
    return _BUILT_IN["eventhubs"].of(key)


def kafka_hash(key: bytes) -> int:
    """Kafka's hash of a record key: MurmurHash2 as a signed 32-bit number, as in Java."""
    return _BUILT_IN["kafka"].of(key)


def partitioner_name(partitioner: str | Partitioner) -> str:
    """What is stored with a topic: a name in `PARTITIONERS`, or ``"module:qualname"``.

    Raises:
        ValueError: an unknown name, or a function that another process could not find by a name:
            a lambda, a local function, a `functools.partial`.
        TypeError: neither a name nor callable.
    """
    function = _function(partitioner)
    return _builtin_name(function) or _importable_name(function)


def _function(partitioner: str | Partitioner) -> Partitioner:
    """The function that a name stands for, or the function itself."""
    if callable(partitioner):
        return partitioner
    if not isinstance(partitioner, str):
        raise TypeError(f"a partitioner is a name or a function, not {partitioner!r}")
    if partitioner not in PARTITIONERS:
        raise ValueError(f"unknown partitioner {partitioner!r}: known are {[*PARTITIONERS]}")
    return PARTITIONERS[partitioner]


def _builtin_name(function: Partitioner) -> str:
    return next((name for name, known in PARTITIONERS.items() if known is function), "")


def _importable_name(function: Partitioner) -> str:
    module, qualname = (getattr(function, name, None) for name in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(qualname, str) or "<" in qualname:
        raise ValueError(f"partitioner {function!r} is not a function at the top of a module")
    return f"{module}:{qualname}"


# --- keys to partitions ---------------------------------------------------------------------------

_REMEMBERED_KEYS: Final = 65_536
"""By one partitioner. The longest it remembers come to 16 MiB, to 64 if all have emoji in them."""

_LONGEST_REMEMBERED: Final = 256
"""In characters of a str or bytes."""

_NOWHERE: Final = -1  # the partition of a key not placed yet


class KeyPartitioner:
    """Places keys on partitions, and remembers where.

    Invariants: a key's partition never depends on what is remembered, and that is bounded. When it
    is full, all is forgotten: to hash keys anew costs less than to know which were used last.

    Threads may share one without a lock: each step on a dictionary is atomic, and what another
    thread forgets meanwhile is placed again. Threads that add at the same moment may together
    exceed the bound, each by what it adds; whoever adds next forgets it all.

    Args:
        partitioner: a name in `PARTITIONERS`, or a pure function of a key's bytes and the number
            of partitions.
        partitions: number of partitions, at least 1.

    Raises:
        ValueError: an unknown name, or fewer than one partition.
        TypeError: neither a name nor callable, or a number of partitions that is not an int.
    """

    __slots__ = ("_built_in", "_function", "_remembered", "partitions")

    def __init__(self, partitioner: str | Partitioner, partitions: int) -> None:
        self._function = _function(partitioner)
        self._built_in = _BUILT_IN.get(_builtin_name(self._function))
        self.partitions: Final = _checked_count(partitions)
        # Apart, since "7" and b"7" have the same hash and comparing them is an error under -bb.
        self._remembered: Final[dict[type, dict[_Key, int]]] = {str: {}, bytes: {}}

    def partition(self, key: _Key) -> int:
        """The partition of one key.

        Raises:
            ValueError: a str with a lone surrogate has no UTF-8; or the function gave no partition.
            TypeError: neither str nor bytes.
        """
        remembered = self._remembered.get(type(key))
        if remembered is None:  # a subclass, or an error
            return self.partition(_encoded((key,))[0])
        found = remembered.get(key)
        if found is None:
            found = self._place_one(_encoded((key,))[0])
            self._remember({key: found}, remembered)
        return found

    def partition_all(self, keys: Sequence[_Key]) -> list[int]:
        """The partitions of keys, in their order; much faster than one by one.

        Raises:
            ValueError, TypeError: as `partition`; no key of the call is remembered then.
        """
        types = set(map(type, keys))
        remembered = self._remembered.get(types.pop()) if len(types) == 1 else None
        if remembered is None:  # both types, subclasses, no keys at all, or an error
            keys, remembered = _encoded(keys), self._remembered[bytes]
        try:
            return list(map(remembered.__getitem__, keys))
        except KeyError:
            pass  # not handled here, or what else goes wrong would name it as its context
        return self._place_missing(keys, remembered)

    def _place_missing(self, keys: Sequence[_Key], remembered: dict[_Key, int]) -> list[int]:
        """The partitions of keys of which some are not remembered.

        Answers from a copy, since another thread may forget `remembered` at any moment.
        """
        found = dict(zip(keys, map(remembered.get, keys, itertools.repeat(_NOWHERE)), strict=True))
        missing = [key for key, partition in found.items() if partition == _NOWHERE]
        placed = dict(zip(missing, self._place(_encoded(missing)), strict=True))
        self._remember(placed, remembered)
        found.update(placed)
        return list(map(found.__getitem__, keys))

    def _place(self, keys: list[bytes]) -> list[int]:
        if self._built_in is None:
            return [self._place_one(key) for key in keys]
        return self._built_in.place_all(keys, self.partitions)

    def _place_one(self, key: bytes) -> int:
        """The function's answer, if it is a partition."""
        partition = self._function(key, self.partitions)
        if not _is_int(partition) or not 0 <= partition < self.partitions:
            name = getattr(self._function, "__qualname__", repr(self._function))
            expected = f"an int from 0 to {self.partitions - 1}"
            raise ValueError(f"partitioner {name} gave {partition!r}, not {expected}: key {key!r}")
        return partition

    def _remember(self, placed: dict[_Key, int], remembered: dict[_Key, int]) -> None:
        """Keep answers, within the bounds."""
        if max(map(len, placed), default=0) > _LONGEST_REMEMBERED:
            placed = {key: at for key, at in placed.items() if len(key) <= _LONGEST_REMEMBERED}
        if sum(map(len, self._remembered.values())) + len(placed) > _REMEMBERED_KEYS:
            for memory in self._remembered.values():
                memory.clear()
            placed = dict(itertools.islice(placed.items(), _REMEMBERED_KEYS))
        remembered.update(placed)


def _encoded(keys: Iterable[_Key]) -> list[bytes]:
    """The bytes of keys."""
    try:
        return [key if type(key) is bytes else _bytes_of(key) for key in keys]
    except UnicodeEncodeError as error:
        raise ValueError(f"key {error.object!r} is not valid Unicode: it has no UTF-8") from None


def _bytes_of(key: _Key) -> bytes:
    if isinstance(key, str):
        return str.encode(key)
    if isinstance(key, bytes):
        return bytes(key)
    raise TypeError(f"a key is str or bytes, not {type(key).__name__}: {key!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked_count(partitions: int) -> int:
    if not _is_int(partitions):
        raise TypeError(f"a number of partitions is an int, not {partitions!r}")
    if partitions < 1:
        raise ValueError(f"there is at least one partition, not {partitions}")
    return partitions


class RoundRobin:
    """Gives each partition in turn, for events without a key.

    Of many processes that each append a little and end, not all shall begin at partition 0: it
    begins at random. The system chooses, since a program may seed `random` for ends of its own.
    Threads may share one without a lock: `itertools.count` counts in one atomic step.

    Args:
        partitions: number of partitions, at least 1.
        start: the partition to begin with, instead of a random one.

    Raises:
        ValueError: fewer than one partition, or `start` is none of them.
        TypeError: a number of partitions that is not an int.
    """

    __slots__ = ("_turns", "partitions")

    def __init__(self, partitions: int, start: int | None = None) -> None:
        self.partitions: Final = _checked_count(partitions)
        if start is None:
            start = random.SystemRandom().randrange(partitions)
        if not 0 <= start < partitions:
            raise ValueError(f"partition {start} is not one of 0 to {partitions - 1}")
        self._turns = itertools.count(start)

    def next(self) -> int:
        """The partition whose turn it is."""
        return next(self._turns) % self.partitions
