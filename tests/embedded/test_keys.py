"""Keys of a log's database sort as the numbers in them, and their bytes stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import NotALogError
from eventlog.embedded import keys
from eventlog.embedded.keys import BatchKey, Floor

repeatable = settings(derandomize=True, deadline=None)

BATCH_KEYS = st.builds(
    BatchKey,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, keys.MAX_OFFSET),
    st.integers(0, keys.MAX_CHUNKS - 1),
)
FLOORS = st.builds(
    Floor,
    beginning=st.integers(0, keys.MAX_OFFSET),
    next_offset=st.integers(0, keys.MAX_OFFSET),
    enqueued_us=st.integers(-(2**63), 2**63 - 1),
    end_position=st.integers(0, 2**64 - 1),
)


@repeatable
@given(one=BATCH_KEYS, other=BATCH_KEYS)
def test_keys_sort_as_topic_partition_offset_and_chunk(one: BatchKey, other: BatchKey) -> None:
    """LMDB's order of bytes is the order of numbers, which every search relies on."""
    assert (one.encode() < other.encode()) == (one < other)
    assert (one.encode() == other.encode()) == (one == other)


@repeatable
@given(key=BATCH_KEYS)
def test_a_key_comes_back_from_its_bytes(key: BatchKey) -> None:
    """Decoding is the inverse of encoding, and the short cut for many keys encodes the same."""
    assert BatchKey.decode(key.encode()) == key
    assert keys.encode_batch_key(*key) == key.encode()


@repeatable
@given(topic_id=st.integers(0, 2**32 - 2), partition=st.integers(0, 2**16 - 1))
def test_all_of_a_topic_lies_between_its_first_key_and_the_next_topics(
    topic_id: int, partition: int
) -> None:
    """Removing a topic's rows as a range takes all of them, and nobody else's."""
    first, behind = BatchKey(topic_id, 0, 0).encode(), BatchKey(topic_id + 1, 0, 0).encode()
    last = BatchKey(topic_id, 2**16 - 1, keys.MAX_OFFSET, keys.MAX_CHUNKS - 1).encode()
    assert first <= BatchKey(topic_id, partition, 0).encode() <= last < behind
    floor = keys.floor_key(topic_id, partition)
    assert keys.floor_key(topic_id, 0) <= floor < keys.floor_key(topic_id + 1, 0)


@repeatable
@given(floor=FLOORS)
def test_a_floor_comes_back_from_its_bytes(floor: Floor) -> None:
    """Where a partition goes on is kept to the last bit."""
    assert Floor.decode(floor.encode()) == floor


def test_the_bytes_of_keys_stay_as_they_are() -> None:
    """The format cannot change unnoticed: these are the keys of logs written today."""
    assert BatchKey(1, 2, 3, 4).encode().hex() == "4200000001000200000000000000030004"
    assert keys.floor_key(1, 2).hex() == "46000000010002"
    assert keys.deleted_key(1).hex() == "4400000001"
    assert keys.topic_key("cars") == b"Tcars"
    assert keys.LOG_KEY == b"L"


def test_the_bytes_of_sealed_values_stay_as_they_are() -> None:
    """A checksum of 8 bytes, then the value."""
    assert keys.sealed(b"value").hex() == "87d57e269b9df0f0" + b"value".hex()
    assert Floor(1, 2, -3, 4).encode()[8:].hex() == (
        "00000000000000010000000000000002fffffffffffffffd0000000000000004"
    )


@repeatable
@given(value=st.binary(max_size=50), data=st.data())
def test_a_flipped_bit_in_a_sealed_value_is_found(value: bytes, data: st.DataObject) -> None:
    """A damaged record is an error, not a record that says something else."""
    whole = bytearray(keys.sealed(value))
    assert keys.unsealed(bytes(whole)) == value
    position = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[position // 8] ^= 1 << position % 8
    with pytest.raises(NotALogError, match="damaged"):
        keys.unsealed(bytes(whole))


@pytest.mark.parametrize("length", range(8))
def test_a_sealed_value_cut_short_is_found(length: int) -> None:
    """Too short even for a checksum is damage like any other."""
    with pytest.raises(NotALogError):
        keys.unsealed(bytes(range(1, length + 1)))
