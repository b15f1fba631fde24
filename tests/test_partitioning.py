"""Keys land where Event Hubs and Kafka put them, however many are placed at once."""

from __future__ import annotations

import enum
import functools
import math
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import partitioning
from eventlog.partitioning import (
    PARTITIONERS,
    KeyPartitioner,
    RoundRobin,
    eventhubs_hash,
    kafka_hash,
    partitioner_name,
)

# The test cases of the .NET SDK: azure-sdk-for-net, PartitionResolverTests.cs.
DOTNET = {
    "7": -15263,
    "131": 30562,
    "7149583486996073602": 12977,
    "FWfAT": -22341,
    "sOdeEAsyQoEuEFPGerWO": -6503,
    "FAyAIctPeCgmiwLKbJcyswoHglHVjQdvtBowLACDNORsYvOcLddNJYDmhAVkbyLOrHTKLneMNcbgWVlasVywOByANjs": (
        5226
    ),
    "1XYM6!(7(lF5wq4k4m*e$Nc!1ezLJv*1YK1Y-C^*&B$O)lq^iUkG(TNzXG;Zi#z2Og*Qq0#^*k):vXh$3,C7We7%W0meJ;"
    "b3,rQCg^J;^twXgs5E$$hWKxqp": 23950,
    "E(x;RRIaQcJs*P;D&jTPau-4K04oqr:lF6Z):ERpo&;9040qyV@G1_c9mgOs-8_8/10Fwa-7b7-yP!T-!IH&968)FWuI;("
    "^g$2fN;)HJ^^yTn:": -29304,
    "!c*_!I@1^c": 15372,
    "p4*!jioeO/z-!-;w:dh": -3104,
    "$0cb": 26269,
    "-4189260826195535198": 453,
}

# Computed with azure-eventhub 5.15.1, given the bytes one by one (it takes code points for bytes).
PANGRAM = b"The quick brown fox jumps over the lazy dog"
# fmt: off
PREFIXES = [  # of the pangram, 0 to 40 bytes: every length of a last block, up to four blocks
    0, 20266, -3434, 18730, 17991, 54, -24518, 13559, -23211, -31241,
    21620, -5091, 14759, 3201, -11742, -23719, -32260, -3386, 32412, -3638,
    -9133, 3236, -31455, -15940, 8637, 4819, 32722, 10810, 27025, -18043,
    -7938, -24011, -27912, 2809, 7406, 29052, 5693, 25562, 1224, 17301,
    17711,
]
# fmt: on
BEYOND_ASCII = {
    "\x7f\x80": 14734,
    "\u00e9": -24812,
    "e\u0301": -11639,
    "naïve": 21385,
    "Größe-€-42": 10570,
    "日本語": -23353,
    "ключ": -32174,
    "مفتاح": 11293,
    "🚗": 19309,
    "🚗🚕🚙🚌": -10667,
    "VIN-ÄÖÜ-0000000001": 1474,
}
EXTREMES = {
    b"\0": -2161,
    b"\0\0": -28326,
    bytes(12): 3083,
    bytes(24): -27401,
    b"\xff": -20691,
    b"\xff" * 4: -2603,
    b"\xff" * 12: -14726,
    b"\xff" * 13: 9940,
    b"\xff" * 24: -23337,
    b"\xff" * 25: -11292,
    bytes(range(256)): -19150,
}
EVENTHUBS = (
    {key.encode(): value for key, value in {**DOTNET, **BEYOND_ASCII}.items()}
    | {PANGRAM[:length]: value for length, value in enumerate(PREFIXES)}
    | EXTREMES
)

# The first six are from Kafka's UtilsTest.java, the rest from the tests of librdkafka and kafkajs.
KAFKA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
    b"": 275646681,
    b"4": 1514888353,
    b"34": -2026295078,
    b"234": -406844982,
    b"1234": -1614185708,
    b"kafka": -798503068,
    b"giberish123456789": -1890243828,
    b"PreAmbleWillBeRemoved,ThePrePartThatIs": 2017611548,
    b"reAmbleWillBeRemoved,ThePrePartThatIs": 1247982455,
    b"eAmbleWillBeRemoved,ThePrePartThatIs": -521871202,
    b"AmbleWillBeRemoved,ThePrePartThatIs": 1656271935,
    b"0": 971027396,
    b"128": -326012175,
    b"100:48069": 1009543857,
}

WORD = 0xFFFF_FFFF


def plain_eventhubs(key: bytes) -> int:
    """lookup3 folded, one key and one 32-bit word at a time, in another form than the module's."""

    def rotated(word: int, by: int) -> int:
        return (word << by | word >> 32 - by) & WORD

    a = b = c = 0xDEADBEEF + len(key) & WORD
    blocks = [key[at : at + 12].ljust(12, b"\0") for at in range(0, len(key), 12)]
    for number, block in enumerate(blocks, start=1):
        words = (int.from_bytes(block[at : at + 4], "little") for at in (0, 4, 8))
        a, b, c = ((old + word) & WORD for old, word in zip((a, b, c), words, strict=True))
        for by in (4, 6, 8, 16, 19, 4) if number < len(blocks) else ():
            a, c = (a - c ^ rotated(c, by)) & WORD, (c + b) & WORD
            a, b, c = b, c, a
    for by in (14, 11, 25, 16, 4, 14, 24) if blocks else ():
        c = (c ^ b) - rotated(b, by) & WORD
        a, b, c = b, c, a
    folded = (a ^ b) & 0xFFFF
    return folded - (folded >> 15 << 16)


def plain_kafka(key: bytes) -> int:
    """murmur2, one key and one 32-bit word at a time."""
    factor = 0x5BD1E995
    state = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * factor & WORD
        state = state * factor & WORD ^ (word ^ word >> 24) * factor & WORD
    if key[whole:]:
        state = (state ^ int.from_bytes(key[whole:], "little")) * factor & WORD
    state = (state ^ state >> 13) * factor & WORD
    state ^= state >> 15
    return state - (state >> 31 << 32)


HASHES: dict[str, Callable[[bytes], int]] = {"eventhubs": eventhubs_hash, "kafka": kafka_hash}
PLAIN: dict[str, Callable[[bytes], int]] = {"eventhubs": plain_eventhubs, "kafka": plain_kafka}
KNOWN = {"eventhubs": EVENTHUBS, "kafka": KAFKA}

each_built_in = pytest.mark.parametrize("name", list(PARTITIONERS))

# Lengths that end in every place of a block, and words that carry as far as words can.
any_key = st.binary(max_size=60) | st.sampled_from([b"\xff" * n for n in range(50)])


def hashes_at_once(name: str, keys: list[bytes]) -> list[int]:
    return partitioning._BUILT_IN[name].of_all(keys)


def remembered(partitioner: KeyPartitioner) -> list[str | bytes]:
    return [key for memory in partitioner._remembered.values() for key in memory]


def by_length(key: bytes, partitions: int) -> int:
    return len(key) % partitions


class ByLength:
    """A partitioner that notes which keys it was asked for."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def __call__(self, key: bytes, partitions: int) -> int:
        self.asked.append(key)
        return len(key) % partitions


class Car(enum.StrEnum):
    GOLF = "golf"


class Raw(bytes):
    pass


# --- the hashes -----------------------------------------------------------------------------------


@each_built_in
def test_a_hash_gives_the_known_answers(name: str) -> None:
    assert {key: HASHES[name](key) for key in KNOWN[name]} == KNOWN[name]


@each_built_in
def test_keys_hashed_at_once_give_the_known_answers(name: str) -> None:
    assert hashes_at_once(name, list(KNOWN[name])) == list(KNOWN[name].values())


@each_built_in
def test_the_plain_form_in_these_tests_gives_the_known_answers(name: str) -> None:
    assert {key: PLAIN[name](key) for key in KNOWN[name]} == KNOWN[name]


@each_built_in
@given(keys=st.lists(any_key))
def test_keys_hashed_at_once_one_by_one_and_in_plain_form_agree(
    name: str, keys: list[bytes]
) -> None:
    plain = list(map(PLAIN[name], keys))
    assert list(map(HASHES[name], keys)) == plain
    assert hashes_at_once(name, keys) == plain


@each_built_in
@given(size=st.integers(0, 60), count=st.integers(0, 40), data=st.data())
def test_keys_of_one_length_hashed_at_once_agree_with_the_plain_form(
    name: str, size: int, count: int, data: st.DataObject
) -> None:
    one_length = st.binary(min_size=size, max_size=size)
    keys = data.draw(st.lists(one_length, min_size=count, max_size=count))
    assert hashes_at_once(name, keys) == list(map(PLAIN[name], keys))


@each_built_in
@pytest.mark.parametrize("length", [1, 4, 11, 12, 13, 24, 40])
def test_a_full_lane_leaves_its_neighbours_alone(name: str, length: int) -> None:
    keys = [(b"\xff", b"\0")[number % 2] * length for number in range(50)]
    assert hashes_at_once(name, keys) == list(map(PLAIN[name], keys))


@each_built_in
@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 3])
def test_more_keys_than_lanes_are_hashed_in_order(name: str, extra: int) -> None:
    keys = [b"%d" % number for number in range(10_000, 10_000 + 2 * partitioning._LANES + extra)]
    assert hashes_at_once(name, keys) == list(map(PLAIN[name], keys))


@each_built_in
def test_keys_too_long_to_lie_all_side_by_side_are_hashed_in_smaller_chunks(name: str) -> None:
    length = partitioning._CHUNK_BYTES // 4 - 10  # four to a chunk
    keys = [random.Random(number).randbytes(length - number % 3) for number in range(6)]
    keys.append(bytes(partitioning._CHUNK_BYTES + 1))  # and one larger than a chunk
    assert hashes_at_once(name, keys) == list(map(PLAIN[name], keys))


# --- from hashes to partitions --------------------------------------------------------------------


@each_built_in
def test_a_string_and_its_utf8_land_on_the_same_partition(name: str) -> None:
    for texts in (list(BEYOND_ASCII), list(DOTNET)):
        raws = [text.encode() for text in texts]
        expected = [PARTITIONERS[name](raw, 1000) for raw in raws]
        assert KeyPartitioner(name, 1000).partition_all(texts) == expected
        assert KeyPartitioner(name, 1000).partition_all(raws) == expected
        assert [KeyPartitioner(name, 1000).partition(text) for text in texts] == expected
        assert [KeyPartitioner(name, 1000).partition(raw) for raw in raws] == expected


def test_event_hubs_partition_is_the_size_of_a_remainder_truncated_towards_zero() -> None:
    assert KeyPartitioner("eventhubs", 4).partition("7") == 3
    for partitions in (1, 2, 3, 4, 16, 32, 2000, 40_000):
        expected = [abs(int(math.fmod(value, partitions))) for value in EVENTHUBS.values()]
        assert KeyPartitioner("eventhubs", partitions).partition_all(list(EVENTHUBS)) == expected


def test_kafka_drops_the_sign_bit_not_the_sign() -> None:
    assert KeyPartitioner("kafka", 1000).partition("21") == (2**31 - 973932308) % 1000
    for partitions in (1, 3, 16, 50, 2000):
        expected = [(value & 0x7FFFFFFF) % partitions for value in KAFKA.values()]
        assert KeyPartitioner("kafka", partitions).partition_all(list(KAFKA)) == expected


@each_built_in
@given(keys=st.lists(st.text(max_size=20) | any_key), partitions=st.integers(1, 100))
def test_keys_placed_at_once_twice_and_one_by_one_land_alike(
    name: str, keys: list[str | bytes], partitions: int
) -> None:
    at_once, singly = KeyPartitioner(name, partitions), KeyPartitioner(name, partitions)
    expected = [singly.partition(key) for key in keys]
    assert at_once.partition_all(keys) == expected
    assert at_once.partition_all(keys) == expected
    assert [singly.partition(key) for key in keys] == expected
    assert all(0 <= partition < partitions for partition in expected)


def test_no_keys_have_no_partitions() -> None:
    assert KeyPartitioner("eventhubs", 4).partition_all([]) == []


def test_subclasses_of_str_and_bytes_are_placed_by_their_content() -> None:
    partitioner = KeyPartitioner("eventhubs", 1000)
    golf = partitioner.partition("golf")
    assert partitioner.partition(Car.GOLF) == golf
    assert partitioner.partition(Raw(b"golf")) == golf
    assert partitioner.partition_all([Car.GOLF, Raw(b"golf"), "golf", b"golf"]) == [golf] * 4
    assert {type(key) for key in remembered(partitioner)} == {str, bytes}


def test_strings_and_bytes_are_never_compared_which_would_fail_under_bb() -> None:
    program = (
        "from eventlog.partitioning import KeyPartitioner\n"
        "p = KeyPartitioner('eventhubs', 4)\n"
        "assert [p.partition('7'), p.partition(b'7')] == [3, 3]\n"
        "assert p.partition_all(['7', b'7', '131', b'131']) == [3, 3, 2, 2]\n"
        "assert p.partition_all(['131', '7']) == p.partition_all([b'131', b'7']) == [2, 3]\n"
    )
    root = Path(partitioning.__file__).parents[1]
    subprocess.run([sys.executable, "-bb", "-c", program], check=True, timeout=60, cwd=root)


@pytest.mark.parametrize("keys", [["\ud800"], ["good", "b\udcffad"], ["good", b"raw", "\udfff"]])
def test_a_lone_surrogate_is_an_error_that_names_the_key(keys: list[str | bytes]) -> None:
    partitioner = KeyPartitioner("eventhubs", 4)
    for place in (partitioner.partition_all, lambda keys: partitioner.partition(keys[-1])):
        with pytest.raises(ValueError, match="not valid Unicode") as caught:
            place(keys)
        assert repr(keys[-1]) in str(caught.value)
        assert caught.value.__suppress_context__
    assert remembered(partitioner) == []


@pytest.mark.parametrize("key", [None, 7, 7.0, bytearray(b"7"), memoryview(b"7"), ("7",)])
def test_a_key_of_another_type_is_an_error_that_names_it(key: Any) -> None:
    partitioner = KeyPartitioner("eventhubs", 4)
    assert partitioner.partition_all(["7", b"7"]) == [3, 3]
    with pytest.raises(TypeError, match=type(key).__name__):
        partitioner.partition(key)
    for keys in ([key], ["7", key], [b"7", key]):
        with pytest.raises(TypeError, match=type(key).__name__):
            partitioner.partition_all(keys)


@pytest.mark.parametrize("make", [functools.partial(KeyPartitioner, "kafka"), RoundRobin])
def test_a_number_of_partitions_is_an_int_of_at_least_one(make: Callable[[Any], object]) -> None:
    for wrong_value in (0, -1):
        with pytest.raises(ValueError, match=str(wrong_value)):
            make(wrong_value)
    for wrong_type in (True, 4.0, "4", None):
        with pytest.raises(TypeError, match=repr(wrong_type)):
            make(wrong_type)


# --- functions of the user's ----------------------------------------------------------------------


def test_a_function_is_given_the_bytes_and_asked_once_for_each_key() -> None:
    function = ByLength()
    partitioner = KeyPartitioner(function, 4)
    assert partitioner.partition_all(["ä", "a", "ä", "long key"]) == [2, 1, 2, 0]
    assert partitioner.partition_all(["long key", "new", "a"]) == [0, 3, 1]
    assert [partitioner.partition("new"), partitioner.partition("newer")] == [3, 1]
    assert partitioner.partition_all(["newer"]) == [1]
    assert function.asked == ["ä".encode(), b"a", b"long key", b"new", b"newer"]


@pytest.mark.parametrize("answer", [-1, 4, True, 1.0, None, "1"])
def test_an_answer_that_is_no_partition_is_an_error_that_names_it(answer: Any) -> None:
    def astray(key: bytes, partitions: int) -> Any:
        return answer

    partitioner = KeyPartitioner(astray, 4)
    with pytest.raises(ValueError, match=f"astray gave {answer!r}, .* 0 to 3: key b'k'"):
        partitioner.partition("k")
    with pytest.raises(ValueError, match=f"astray gave {answer!r}, .* 0 to 3: key b'k'") as caught:
        partitioner.partition_all(["k"])
    assert caught.value.__context__ is None  # not that a look-up failed before
    assert remembered(partitioner) == []


def test_what_a_function_raises_is_passed_on_and_nothing_of_the_call_remembered() -> None:
    def picky(key: bytes, partitions: int) -> int:
        return {b"good": 1}[key]

    partitioner = KeyPartitioner(picky, 4)
    with pytest.raises(KeyError, match="bad"):
        partitioner.partition_all(["good", "bad"])
    assert remembered(partitioner) == []
    assert partitioner.partition("good") == 1


@pytest.mark.parametrize("use", [partitioner_name, functools.partial(KeyPartitioner, partitions=4)])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(
    use: Callable[[Any], object],
) -> None:
    with pytest.raises(ValueError, match=r"'murmur'.*'eventhubs', 'kafka'"):
        use("murmur")
    with pytest.raises(TypeError, match="a name or a function, not 7"):
        use(7)


def test_a_partitioner_is_stored_under_the_name_another_process_finds_it_by() -> None:
    assert partitioner_name("eventhubs") == "eventhubs"
    assert partitioner_name("kafka") == "kafka"
    assert partitioner_name(PARTITIONERS["kafka"]) == "kafka"
    assert partitioner_name(by_length) == f"{__name__}:by_length"


def test_a_function_that_no_other_process_could_find_has_no_name() -> None:
    def local(key: bytes, partitions: int) -> int:
        return 0

    nameless = (local, lambda key, partitions: 0, functools.partial(by_length), ByLength())
    for function in nameless:
        with pytest.raises(ValueError, match="not a function at the top of a module"):
            partitioner_name(function)


def test_a_built_in_function_can_be_given_itself_instead_of_its_name() -> None:
    for name, function in PARTITIONERS.items():
        keys = list(BEYOND_ASCII)
        by_name = KeyPartitioner(name, 1000).partition_all(keys)
        assert KeyPartitioner(function, 1000).partition_all(keys) == by_name


# --- what is remembered ---------------------------------------------------------------------------


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch) -> int:
    """A memory small enough to be filled often."""
    monkeypatch.setattr(partitioning, "_REMEMBERED_KEYS", 10)
    return 10


def test_a_remembered_key_is_not_hashed_again() -> None:
    function = ByLength()
    partitioner = KeyPartitioner(function, 4)
    longest = "x" * partitioning._LONGEST_REMEMBERED
    for _ in range(3):
        partitioner.partition("key")
        partitioner.partition_all([longest, "key"])
    assert function.asked == [b"key", longest.encode()]


def test_memory_is_bounded_however_many_keys_come_and_however(capacity: int) -> None:
    partitioner = KeyPartitioner("eventhubs", 7)
    source = random.Random(7)
    for _ in range(300):
        numbers = [source.randrange(60) for _ in range(source.choice([1, 2, 5, 9, 10, 11, 30]))]
        keys: list[str | bytes] = [
            f"{n}" if n % source.choice([1, 2]) else b"%d" % n for n in numbers
        ]
        expected = [PARTITIONERS["eventhubs"](b"%d" % n, 7) for n in numbers]
        assert partitioner.partition_all(keys) == expected
        assert len(remembered(partitioner)) <= capacity
        assert partitioner.partition(keys[0]) == expected[0]
        assert len(remembered(partitioner)) <= capacity


def test_a_full_memory_is_forgotten_and_fills_anew(capacity: int) -> None:
    partitioner = KeyPartitioner("eventhubs", 7)
    partitioner.partition_all([f"old {n}" for n in range(capacity)])
    partitioner.partition("new")
    assert remembered(partitioner) == ["new"]


@pytest.mark.parametrize("long", ["x" * 257, b"x" * 257])
def test_long_keys_are_placed_but_not_remembered(long: str | bytes) -> None:
    partitioner = KeyPartitioner("eventhubs", 1000)
    expected = PARTITIONERS["eventhubs"](b"x" * 257, 1000)
    assert partitioner.partition(long) == expected
    assert partitioner.partition_all([long, long[:256], long]) == [
        expected,
        PARTITIONERS["eventhubs"](b"x" * 256, 1000),
        expected,
    ]
    assert remembered(partitioner) == [long[:256]]


def test_threads_that_share_a_memory_and_overfill_it_get_the_right_partitions(
    capacity: int,
) -> None:
    partitioner = KeyPartitioner("kafka", 1000)
    keys = [f"key {number}" for number in range(4 * capacity)]
    expected = [PARTITIONERS["kafka"](key.encode(), 1000) for key in keys]
    answers: list[bool] = []

    def place(width: int) -> None:
        for at in [*range(0, len(keys), width)] * 50:
            answers.append(
                partitioner.partition_all(keys[at : at + width]) == expected[at : at + width]
            )
            answers.append(partitioner.partition(keys[at]) == expected[at])

    in_threads([functools.partial(place, width) for width in (1, 3, 7, 40)])
    assert len(answers) == 2 * 50 * (40 + 14 + 6 + 1)
    assert all(answers)


def in_threads(tasks: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- in turn --------------------------------------------------------------------------------------


def test_each_partition_has_its_turn_from_the_given_one_on() -> None:
    turns = RoundRobin(3, start=2)
    assert [turns.next() for _ in range(7)] == [2, 0, 1, 2, 0, 1, 2]


def test_the_first_turn_is_random_even_for_a_program_that_seeds_random() -> None:
    firsts = set()
    for _ in range(50):
        random.seed(7)
        firsts.add(RoundRobin(1_000_000).next())
    assert len(firsts) > 40
    assert all(0 <= first < 1_000_000 for first in firsts)


def test_every_partition_can_be_the_first() -> None:
    assert {RoundRobin(3).next() for _ in range(300)} == {0, 1, 2}


@pytest.mark.parametrize("start", [-1, 3])
def test_a_start_that_is_no_partition_is_an_error_that_names_it(start: int) -> None:
    with pytest.raises(ValueError, match=f"partition {start} "):
        RoundRobin(3, start=start)


def test_threads_that_share_a_round_robin_get_every_partition_equally_often() -> None:
    turns = RoundRobin(7)
    taken: list[int] = []
    in_threads([lambda: taken.extend(turns.next() for _ in range(700))] * 8)
    assert Counter(taken) == dict.fromkeys(range(7), 800)
