"""Checkpoints: who may move them, and what lost answers and late ones do to that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventlog import (
    ConsumerDisconnectedError,
    LeaseLostError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnexpectedOffsetError,
)
from eventlog.blobs import BlobStore
from eventlog.blobs import open as open_blobs
from eventlog.groups.blobs import ATTEMPTS
from eventlog.groups.checkpoints import Checkpoint, GroupStore
from tests.group_stores import (
    GROUP,
    IDS,
    WHEN,
    Clock,
    Unreliable,
    a_store,
    checkpoint_name,
    edit,
    own,
    stored,
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


# Claiming


def test_the_first_consumer_begins_where_it_says_and_later_ones_go_on(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    checkpoint, etag = store.claim(0, "a", 5)
    assert checkpoint == Checkpoint(4, None, 0, "a", clock.now, 0, 0, 0)
    etag = store.advance(0, "a", 7, WHEN, etag)
    store.release(0, "a", etag)
    checkpoint, _ = a_store(blobs, clock).claim(0, "b", 0)
    assert (checkpoint.offset, checkpoint.enqueued_at, checkpoint.owner) == (7, WHEN, "b")


def test_a_later_consumer_disconnects_the_earlier_one(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 0)
    later = a_store(blobs, clock)
    _, later_etag = later.claim(0, "b", 0)
    for use in (
        lambda: store.advance(0, "a", 3, None, etag),
        lambda: store.still_mine("a", {0: etag}),
    ):
        with pytest.raises(ConsumerDisconnectedError, match="'b' reads partition 0 of topic 'cars"):
            use()
    store.release(0, "a", etag)
    assert later.still_mine("b", {0: later_etag}) == {0: later_etag}
    later.advance(0, "b", 3, None, later_etag)


def test_of_two_that_start_together_the_later_gets_everything_and_the_earlier_ends(
    blobs: BlobStore, clock: Clock
) -> None:
    """Whoever claims last would win otherwise, partition by partition: both would end."""
    one, two = a_store(blobs, clock), a_store(blobs, clock)
    one.claim(0, "one", 0)
    etags = {partition: two.claim(partition, "two", 0)[1] for partition in (0, 1)}
    with pytest.raises(ConsumerDisconnectedError, match="'two' reads partition 1"):
        one.claim(1, "one", 0)
    assert two.still_mine("two", etags) == etags


def test_who_came_later_and_left_is_in_nobodys_way(blobs: BlobStore, clock: Clock) -> None:
    one, two = a_store(blobs, clock), a_store(blobs, clock)
    one.claim(0, "one", 0)
    two.release(1, "two", two.claim(1, "two", 0)[1])
    one.claim(1, "one", 0)


def test_a_claim_between_the_looks_of_another_is_seen(blobs: BlobStore, clock: Clock) -> None:
    between, other = Unreliable(blobs), a_store(blobs, clock)
    slow = a_store(between, clock)
    slow.ensure()
    other.claim(0, "other", 5)
    between.before[checkpoint_name(0)] = lambda: other.advance_unowned(0, 8)
    assert slow.claim(0, "slow", 0)[0].offset == 8


def test_a_consumer_is_refused_while_a_host_owns_the_partition(
    store: GroupStore, blobs: BlobStore
) -> None:
    store.ensure()
    own(blobs, "host-1")
    assert store.owner(0) == "host-1"
    with pytest.raises(ConsumerDisconnectedError, match=r"partition 0 .* host 'host-1'"):
        store.claim(0, "reader", 0)
    store.claim(1, "reader", 0)
    own(blobs, None)
    store.claim(0, "reader", 0)


def test_a_host_that_comes_during_a_claim_gets_the_partition(
    blobs: BlobStore, clock: Clock
) -> None:
    """It swaps the group document, then the checkpoint: one of the two looks finds it."""
    between = Unreliable(blobs)
    slow = a_store(between, clock)
    slow.release(0, "first", slow.claim(0, "first", 7)[1])

    def take_over() -> None:
        own(blobs, "host-1")
        edit(blobs, checkpoint_name(0), owner="host-1", epoch=1)

    between.before[checkpoint_name(0)] = take_over
    with pytest.raises(ConsumerDisconnectedError, match="host-1"):
        slow.claim(0, "slow", 0)
    assert stored(blobs, checkpoint_name(0))["owner"] == "host-1"


def test_a_hosts_epoch_outlives_a_consumers_claim(store: GroupStore, blobs: BlobStore) -> None:
    _, etag = store.claim(0, "a", 3)
    edit(blobs, checkpoint_name(0), owner="host-1", epoch=4, consumer=0, crashes=2, attempts=1)
    checkpoint, etag = store.claim(0, "b", 0)
    assert (checkpoint.epoch, checkpoint.offset) == (4, 2)
    assert (checkpoint.crashes, checkpoint.attempts) == (2, 1)
    store.advance(0, "b", 3, None, etag)
    assert store.checkpoints()[0].crashes == 0
    assert store.checkpoints()[0].attempts == 0


# Advancing


def test_a_checkpoint_costs_one_put(blobs: BlobStore, clock: Clock) -> None:
    counted = Unreliable(blobs)
    store = a_store(counted, clock)
    _, etag = store.claim(0, "a", 0)
    counted.calls.clear()
    etag = store.advance(0, "a", 3, WHEN, etag)
    etag = store.advance(0, "a", 4, WHEN, etag)
    assert counted.calls == [("put", checkpoint_name(0))] * 2
    assert store.checkpoints()[0].offset == 4


def test_at_or_below_the_current_offset_nothing_happens(blobs: BlobStore, clock: Clock) -> None:
    counted = Unreliable(blobs)
    store = a_store(counted, clock)
    _, etag = store.claim(0, "a", 10)
    counted.calls.clear()
    assert store.advance(0, "a", 9, WHEN, etag) == etag
    assert store.advance(0, "a", 2, WHEN, etag) == etag
    assert counted.calls == []
    assert store.checkpoints()[0].offset == 9
    assert store.checkpoints()[0].enqueued_at is None


def test_another_object_can_go_on_with_an_etag(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    """As a transaction does, which looks at the store through a view of its own."""
    _, etag = store.claim(0, "a", 0)
    etag = a_store(blobs, clock).advance(0, "a", 3, None, etag)
    etag = store.advance(0, "a", 5, None, etag)
    assert store.checkpoints()[0].offset == 5


def test_an_owner_that_knows_an_older_etag_of_its_own_goes_on(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    """A transaction of its moved the checkpoint, or an answer was lost."""
    _, etag = store.claim(0, "a", 0)
    assert a_store(blobs, clock).advance_unowned(0, 6)
    same = store.advance(0, "a", 4, None, etag)
    assert store.checkpoints()[0].offset == 6
    assert store.still_mine("a", {0: etag}) == {0: same}
    store.advance(0, "a", 8, None, etag)
    assert store.checkpoints()[0].offset == 8
    assert store.checkpoints()[0].owner == "a"


@pytest.mark.parametrize("lost", [StoreUnavailableError, PreconditionFailedError])
def test_a_lost_answer_is_recognised(blobs: BlobStore, clock: Clock, lost: type[Exception]) -> None:
    """The put happened: the store failed to say so, or a client repeated it and met itself."""
    unreliable = Unreliable(blobs)
    store = a_store(unreliable, clock)
    unreliable.lose = [lost("group"), lost("number"), lost("checkpoint")]
    _, etag = store.claim(0, "a", 0)
    unreliable.lose = [lost("checkpoint")]
    etag = store.advance(0, "a", 3, None, etag)
    assert unreliable.lose == []
    assert store.still_mine("a", {0: etag}) == {0: etag}
    unreliable.lose = [lost("checkpoint")]
    assert store.advance_unowned(0, 5)
    unreliable.lose = [lost("checkpoint")]
    store.reset({0: 0}, force=True)
    assert stored(blobs, checkpoint_name(0))["reset"] == 1
    assert stored(blobs, GROUP)["consumers"] == 1


def test_a_store_that_is_away_is_an_error_after_which_trying_again_does_no_harm(
    blobs: BlobStore, clock: Clock
) -> None:
    unreliable = Unreliable(blobs)
    store = a_store(unreliable, clock)
    _, etag = store.claim(0, "a", 0)
    unreliable.fail = [StoreUnavailableError("away")]
    with pytest.raises(StoreUnavailableError, match="away"):
        store.advance(0, "a", 3, None, etag)
    store.advance(0, "a", 3, None, etag)
    assert store.checkpoints()[0].offset == 3


def test_a_put_that_arrives_late_is_taken_for_what_it_is(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    """The first try was given up and arrived all the same: the second meets its own work."""
    _, etag = store.claim(0, "a", 0)
    a_store(blobs, clock).advance(0, "a", 5, None, etag)
    assert store.advance(0, "a", 4, None, etag) != etag
    assert store.checkpoints()[0].offset == 5


def test_who_always_comes_late_gives_up_after_so_many_times(blobs: BlobStore, clock: Clock) -> None:
    paused: list[int] = []
    unreliable = Unreliable(blobs)
    store = a_store(unreliable, clock, pause=paused.append)
    _, etag = store.claim(0, "a", 0)
    unreliable.fail = [PreconditionFailedError("late") for _ in range(ATTEMPTS)]
    with pytest.raises(PreconditionFailedError, match=f"group 'fraud' of topic 'cars'.*{ATTEMPTS}"):
        store.advance(0, "a", 3, None, etag)
    assert unreliable.fail == []
    assert paused == list(range(1, ATTEMPTS - 1))


def test_the_first_repetition_comes_at_once(blobs: BlobStore, clock: Clock) -> None:
    """So nothing pauses where nobody comes in between: inside a write transaction."""
    paused: list[int] = []
    store = a_store(blobs, clock, pause=paused.append)
    _, etag = store.claim(0, "a", 0)
    a_store(blobs, clock).advance_unowned(0, 2)
    store.advance(0, "a", 3, None, etag)
    assert paused == []


def test_the_default_pause_is_random_and_bounded(
    monkeypatch: pytest.MonkeyPatch, blobs: BlobStore, clock: Clock
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    unreliable = Unreliable(blobs)
    store = GroupStore(unreliable, IDS, clock)
    unreliable.fail = [PreconditionFailedError("late") for _ in range(ATTEMPTS - 1)]
    store.ensure()
    assert len(slept) == len(set(slept)) == ATTEMPTS - 2
    assert all(0 <= seconds <= 0.5 for seconds in slept)


# Hosts


def test_an_owner_finds_the_host_that_took_its_partition(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 0)
    own(blobs, "host-1")
    with pytest.raises(ConsumerDisconnectedError, match="host-1"):
        store.still_mine("a", {0: etag})
    a_store(blobs, clock).reset({0: 0}, force=True)
    with pytest.raises(ConsumerDisconnectedError, match="host-1"):
        store.advance(0, "a", 3, None, etag)
    edit(blobs, checkpoint_name(0), owner="host-1", epoch=1)
    with pytest.raises(ConsumerDisconnectedError, match="host-1"):
        store.advance(0, "a", 3, None, etag)


def test_a_host_of_another_partition_is_in_nobodys_way(store: GroupStore, blobs: BlobStore) -> None:
    _, etag = store.claim(0, "a", 0)
    own(blobs, "host-1", partition=1)
    assert store.still_mine("a", {0: etag}) == {0: etag}
    store.advance(0, "a", 3, None, etag)
    assert store.advance_unowned(0, 4)


# Without owning it


def test_a_checkpoint_without_consumer_or_host(store: GroupStore) -> None:
    """As a transaction makes it."""
    assert store.advance_unowned(0, 41, WHEN)
    assert not store.advance_unowned(0, 41)
    checkpoint = store.checkpoints()[0]
    assert (checkpoint.offset, checkpoint.enqueued_at, checkpoint.owner) == (41, WHEN, None)
    with pytest.raises(UnexpectedOffsetError, match="is at 41: it cannot be moved to 40") as caught:
        store.advance_unowned(0, 40)
    assert (caught.value.expected, caught.value.actual) == (40, 41)
    assert store.checkpoints()[0] == checkpoint


def test_the_checkpoint_of_a_host_is_nobody_elses(store: GroupStore, blobs: BlobStore) -> None:
    store.advance_unowned(0, 3)
    own(blobs, "host-1")
    with pytest.raises(LeaseLostError, match=r"partition 0 .* host 'host-1'"):
        store.advance_unowned(0, 5)
    assert store.checkpoints()[0].offset == 3


def test_it_keeps_owner_and_epoch(store: GroupStore, blobs: BlobStore) -> None:
    store.claim(0, "a", 0)
    edit(blobs, checkpoint_name(0), epoch=4)
    store.advance_unowned(0, 3)
    assert store.checkpoints()[0].owner == "a"
    assert store.checkpoints()[0].epoch == 4


# Leaving, members


def test_a_consumer_that_leaves_is_no_member(store: GroupStore, blobs: BlobStore) -> None:
    store.ensure()
    edit(blobs, GROUP, hosts=["host-2", "host-1"])
    etags = {partition: store.claim(partition, "a", 0)[1] for partition in (0, 1)}
    assert store.members() == ["a", "host-1", "host-2"]
    for partition, etag in etags.items():
        store.release(partition, "a", etag)
    assert store.members() == ["host-1", "host-2"]
    assert store.checkpoints()[0].owner is None


def test_leaving_with_an_old_etag_or_again_or_without_a_store_does_no_harm(
    blobs: BlobStore, clock: Clock
) -> None:
    unreliable = Unreliable(blobs)
    store = a_store(unreliable, clock)
    _, etag = store.claim(0, "a", 0)
    store.advance_unowned(0, 5)
    unreliable.fail = [StoreUnavailableError("away")]
    store.release(0, "a", etag)
    assert store.checkpoints()[0].owner == "a"
    store.release(0, "a", etag)
    assert store.checkpoints()[0].owner is None
    assert store.checkpoints()[0].offset == 5
    store.release(0, "a", etag)
    store.claim(0, "b", 0)
    store.release(0, "a", etag)
    assert store.checkpoints()[0].owner == "b"
