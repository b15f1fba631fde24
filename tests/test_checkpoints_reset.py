"""Resetting a group: under nobody, under the dead, and by force under the living."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from eventlog import (
    ConsumerDisconnectedError,
    PreconditionFailedError,
    UnexpectedOffsetError,
)
from eventlog.blobs import BlobStore
from eventlog.blobs import open as open_blobs
from eventlog.groups.checkpoints import CheckpointResetError, GroupStore
from tests.group_stores import (
    PLACE,
    WHEN,
    Clock,
    Unreliable,
    a_store,
    checkpoint_name,
    edit,
    own,
)


@pytest.fixture
def blobs() -> Iterator[BlobStore]:
    with open_blobs("memory:") as store:
        yield store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(blobs: BlobStore, clock: Clock) -> GroupStore:
    return a_store(blobs, clock)


# Resetting


def test_a_reset_moves_back_and_makes_what_is_not_there(store: GroupStore) -> None:
    store.advance_unowned(0, 41, WHEN)
    store.reset({0: 10, 1: 0})
    moved, made = store.checkpoints().values()
    assert (moved.offset, moved.enqueued_at, moved.reset, moved.owner) == (9, None, 1, None)
    assert (made.offset, made.reset) == (-1, 1)
    store.reset({0: 12})
    assert (store.checkpoints()[0].offset, store.checkpoints()[0].reset) == (11, 2)


def test_a_reset_is_refused_while_a_consumer_lives(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    """And then no partition is reset, whichever it is that is in use."""
    store.advance_unowned(0, 7)
    _, etag = store.claim(1, "a", 0)
    other = a_store(blobs, clock)
    with pytest.raises(PreconditionFailedError, match=r"partition 1 .* in use by consumer 'a'"):
        other.reset({0: 0, 1: 0})
    assert other.checkpoints()[0].offset == 7
    store.release(1, "a", etag)
    other.reset({0: 0, 1: 0})


def test_a_consumer_that_died_is_in_the_way_for_thirty_seconds(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 5)
    clock.forward(29.9)
    with pytest.raises(PreconditionFailedError):
        store.reset({0: 0})
    clock.forward(0.2)
    store.reset({0: 0})
    assert store.checkpoints()[0].owner is None
    with pytest.raises(ConsumerDisconnectedError, match="has left since"):
        a_store(blobs, clock).advance(0, "a", 8, None, etag)


def test_a_clock_that_jumped_ahead_does_not_keep_the_dead_alive(
    store: GroupStore, clock: Clock
) -> None:
    store.claim(0, "a", 5)
    clock.forward(-3600)
    store.reset({0: 0})


def test_one_checkpoint_speaks_for_all_of_a_consumer(blobs: BlobStore, clock: Clock) -> None:
    """That it lives it shows with one put every ten seconds, however many partitions it has."""
    counted = Unreliable(blobs)
    store, other = a_store(counted, clock), a_store(blobs, clock)
    etags = {partition: store.claim(partition, "a", 0)[1] for partition in range(5)}
    counted.calls.clear()
    for _ in range(12):
        clock.forward(5)
        etags = store.still_mine("a", etags)
    assert counted.calls.count(("list", PLACE)) == 12
    assert [call for call in counted.calls if call[0] != "list"] == [
        ("put", checkpoint_name(0))
    ] * 6
    for partition in range(5):
        with pytest.raises(PreconditionFailedError, match="consumer 'a'"):
            other.reset({partition: 0})
    assert other.members() == ["a"]
    assert other.checkpoints()[0].updated_at == clock.now - timedelta(seconds=60)
    for partition, etag in etags.items():
        store.advance(partition, "a", 1, None, etag)


def test_a_consumer_that_checkpoints_shows_that_it_lives_with_that(
    blobs: BlobStore, clock: Clock
) -> None:
    counted = Unreliable(blobs)
    store = a_store(counted, clock)
    _, etag = store.claim(0, "a", 0)
    for offset in range(1, 12):
        clock.forward(5)
        etag = store.advance(0, "a", offset, None, etag)
        counted.calls.clear()
        assert store.still_mine("a", {0: etag}) == {0: etag}
        assert counted.calls == [("list", PLACE)]


def test_checkpoints_that_change_nothing_do_not_show_that_a_consumer_lives(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 5)
    for _ in range(8):
        clock.forward(5)
        store.advance(0, "a", 3, None, etag)
        etag = store.still_mine("a", {0: etag})[0]
    with pytest.raises(PreconditionFailedError, match="consumer 'a'"):
        a_store(blobs, clock).reset({0: 0})


def test_a_host_is_in_the_way_until_it_gives_the_partition_away(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    store.advance_unowned(0, 7)
    own(blobs, "host-1")
    edit(blobs, checkpoint_name(0), owner="host-1", epoch=1)
    clock.forward(1000)
    with pytest.raises(PreconditionFailedError, match="in use by host 'host-1'"):
        store.reset({0: 0})
    own(blobs, None)
    store.reset({0: 0})


def test_a_forced_reset_is_found_by_a_consumer_when_it_checkpoints(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 0)
    etag = store.advance(0, "a", 20, WHEN, etag)
    a_store(blobs, clock).reset({0: 5}, force=True)
    with pytest.raises(CheckpointResetError, match="partition 0 was reset to 5") as caught:
        store.advance(0, "a", 30, WHEN, etag)
    assert caught.value.partition == 0
    assert caught.value.checkpoint.offset == 4
    assert caught.value.checkpoint.owner == "a"
    with pytest.raises(CheckpointResetError):
        store.advance(0, "a", 30, WHEN, etag)
    store.advance(0, "a", 6, WHEN, caught.value.etag)
    assert store.checkpoints()[0].offset == 6
    store.advance(0, "a", 7, WHEN, etag)


def test_a_forced_reset_is_found_by_a_consumer_that_only_looks(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    etags = {partition: store.claim(partition, "a", 9)[1] for partition in range(3)}
    a_store(blobs, clock).reset({1: 5, 2: 6}, force=True)
    seen = {}
    for _ in range(2):
        with pytest.raises(CheckpointResetError) as caught:
            store.still_mine("a", etags)
        seen[caught.value.partition] = caught.value.checkpoint.offset
        etags[caught.value.partition] = caught.value.etag
    assert seen == {1: 4, 2: 5}
    etags = store.still_mine("a", etags)
    assert store.still_mine("a", etags) == etags


def test_a_reset_is_told_from_what_the_owners_transactions_did(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    """Whichever object it is that looks: the document says what the owner knows."""
    _, etag = store.claim(0, "a", 9)
    store.advance_unowned(0, 10)
    a_store(blobs, clock).advance(0, "a", 11, None, etag)
    store.reset({0: 5}, force=True)
    with pytest.raises(CheckpointResetError) as caught:
        a_store(blobs, clock).advance(0, "a", 30, None, etag)
    a_store(blobs, clock).advance(0, "a", 6, None, caught.value.etag)
    store.advance_unowned(0, 7)
    a_store(blobs, clock).advance(0, "a", 8, None, caught.value.etag)
    assert store.checkpoints()[0].offset == 8


def test_a_transaction_cannot_undo_a_reset_that_its_consumer_has_not_noticed(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 9)
    other = a_store(blobs, clock)
    other.reset({0: 5}, force=True)
    with pytest.raises(UnexpectedOffsetError, match="reset, which 'a' has to notice") as caught:
        other.advance_unowned(0, 30)
    assert (caught.value.expected, caught.value.actual) == (30, 4)
    with pytest.raises(CheckpointResetError) as reset:
        store.still_mine("a", {0: etag})
    etags = store.still_mine("a", {0: reset.value.etag})
    assert other.advance_unowned(0, 6)
    store.still_mine("a", etags)
    other.reset({0: 5}, force=True)
    store.release(0, "a", etags[0])
    assert other.advance_unowned(0, 6)


def test_a_consumer_that_comes_after_a_reset_has_missed_none(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    store.claim(0, "a", 9)
    store.reset({0: 5}, force=True)
    _, etag = store.claim(0, "b", 0)
    a_store(blobs, clock).advance_unowned(0, 6)
    store.advance(0, "b", 7, None, etag)
    assert store.checkpoints()[0].offset == 7


def test_a_reset_between_a_look_and_a_checkpoint_is_not_lost(
    blobs: BlobStore, clock: Clock
) -> None:
    between = Unreliable(blobs)
    store = a_store(between, clock)
    _, etag = store.claim(0, "a", 9)
    between.before[checkpoint_name(0)] = lambda: a_store(blobs, clock).reset({0: 2}, force=True)
    with pytest.raises(CheckpointResetError):
        store.advance(0, "a", 12, None, etag)
    assert store.checkpoints()[0].offset == 1


def test_a_consumer_that_comes_during_a_reset_is_seen(blobs: BlobStore, clock: Clock) -> None:
    between, other = Unreliable(blobs), a_store(blobs, clock)
    store = a_store(between, clock)
    store.advance_unowned(0, 7)
    between.before[checkpoint_name(0)] = lambda: other.claim(0, "a", 0)
    with pytest.raises(PreconditionFailedError, match="consumer 'a'"):
        store.reset({0: 0})
    assert store.checkpoints()[0].offset == 7
