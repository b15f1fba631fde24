"""One owner's fenced checkpoint: opening, moving on, what others do meanwhile, transactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from eventlog import (
    EventLog,
    LeaseLostError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnexpectedOffsetError,
)
from eventlog.blobs import Blob, BlobStore
from eventlog.blobs import open as open_blobs
from eventlog.errors import EventLogError
from eventlog.groups.checkpoints import GroupIds, GroupStore
from eventlog.groups.documents import CheckpointResetError
from eventlog.groups.steps import Steps, perform
from eventlog.processor.checkpoint import GroupLook, PartitionCheckpoint
from eventlog.transaction import Fence
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

NAME = checkpoint_name(0)


@pytest.fixture
def real() -> Iterator[BlobStore]:
    with open_blobs("memory:") as store:
        yield store


@pytest.fixture
def blobs(real: BlobStore, clock: Clock) -> Unreliable:
    """A store with an empty group in it."""
    a_store(real, clock).ensure()
    return Unreliable(real)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Host:
    """Who owns partition 0, and its checkpoint."""

    def __init__(
        self, blobs: BlobStore, clock: Clock, member: str = "a", epoch: int = 1, **options: Any
    ) -> None:
        own(blobs, member, epoch=epoch)
        self.blobs = blobs
        self.checkpoint = PartitionCheckpoint(
            IDS, stored(blobs, GROUP)["group"], 0, member, epoch, clock=clock, **options
        )

    def open(self, start: int = 0, max_batch: int = 1000, **options: Any) -> Host:
        self.take(self.checkpoint.open(start, max_batch, **options))
        return self

    def take(self, steps: Steps[Any]) -> Any:
        return perform(steps, self.blobs)

    def advance(self, offset: int) -> bool:
        return bool(self.take(self.checkpoint.advance(offset, WHEN)))

    def attempt(self, offset: int) -> int:
        return int(self.take(self.checkpoint.attempt(offset)))

    def release(self) -> None:
        self.take(self.checkpoint.release())


# Opening


def test_the_first_owner_writes_down_where_the_group_begins(
    blobs: Unreliable, clock: Clock
) -> None:
    """So that LATEST, or a time, means the same to every later owner."""
    checkpoint = Host(blobs, clock, "a", 1).open(start=7).checkpoint
    assert (checkpoint.offset, checkpoint.crashes, checkpoint.attempts) == (6, 0, 0)
    assert (checkpoint.attempted, checkpoint.alone_until) == (None, 0)
    document = stored(blobs, NAME)
    assert (document["offset"], document["owner"], document["epoch"]) == (6, "a", 1)
    assert document["opened"] == 6
    blob = blobs.get(NAME)
    assert isinstance(blob, Blob)
    assert checkpoint.etag == blob.etag


def test_a_later_owner_goes_on_where_the_earlier_one_was(blobs: Unreliable, clock: Clock) -> None:
    first = Host(blobs, clock, "a", 1).open(start=7)
    first.advance(20)
    first.release()
    assert stored(blobs, NAME)["owner"] is None
    assert Host(blobs, clock, "b", 3).open(start=99).checkpoint.offset == 20
    document = stored(blobs, NAME)
    assert (document["owner"], document["epoch"], document["opened"]) == ("b", 3, 20)


def test_an_owner_is_fenced_from_the_moment_a_later_one_has_opened(
    blobs: Unreliable, clock: Clock
) -> None:
    first = Host(blobs, clock, "a", 1).open()
    Host(blobs, clock, "b", 2).open()
    before = blobs.get(NAME)
    for use in (
        partial(first.advance, 5),
        partial(first.attempt, 5),
        partial(first.take, first.checkpoint.look()),
        first.open,
    ):
        with pytest.raises(LeaseLostError, match=r"partition 0 .* that of 'b' now, with epoch 2"):
            use()
    first.release()
    assert blobs.get(NAME) == before


def test_who_lost_the_partition_before_it_opened_does_not_begin(
    blobs: Unreliable, clock: Clock
) -> None:
    """And leaves nothing behind that looks like a crash."""
    first = Host(blobs, clock, "a", 1)
    own(blobs, "b", epoch=2)
    with pytest.raises(LeaseLostError, match="is not this host's any more"):
        first.open()
    blobs.before[NAME] = partial(own, blobs, "b", epoch=2)
    own(blobs, "a", epoch=1)
    with pytest.raises(LeaseLostError, match="is not this host's any more"):
        first.open()
    assert stored(blobs, NAME)["owner"] is None
    assert Host(blobs, clock, "b", 2).open().checkpoint.crashes == 0


def test_two_owners_with_one_epoch_exclude_each_other(blobs: Unreliable, clock: Clock) -> None:
    """There are none: but if there were, the first would have it."""
    Host(blobs, clock, "a", 1).open()
    with pytest.raises(LeaseLostError):
        Host(blobs, clock, "b", 1).open()


def test_a_partition_that_is_kept_after_all_is_opened_again_under_its_epoch(
    blobs: Unreliable, clock: Clock
) -> None:
    host = Host(blobs, clock).open()
    host.advance(3)
    host.release()
    with pytest.raises(LeaseLostError):
        host.advance(4)
    host.open(max_batch=10)
    assert host.checkpoint.crashes == 0
    assert host.advance(4)


def test_a_host_takes_over_from_a_consumer_and_knows_of_all_resets(
    blobs: Unreliable, clock: Clock
) -> None:
    store = a_store(blobs, clock)
    _, etag = store.claim(0, "consumer", 5)
    store.advance(0, "consumer", 9, None, etag)
    store.reset({0: 3}, force=True)
    host = Host(blobs, clock).open()
    assert (host.checkpoint.offset, host.checkpoint.crashes) == (2, 0)
    host.take(host.checkpoint.look())
    document = stored(blobs, NAME)
    assert (document["reset"], document["noticed"], document["consumer"]) == (1, 1, 0)
    assert document["alive_at"] is None


@pytest.mark.parametrize("older", [{"group": "an older one"}, {"topic": "3"}])
def test_what_an_older_group_or_topic_has_left_counts_as_absent(
    blobs: Unreliable, clock: Clock, older: dict[str, str]
) -> None:
    Host(blobs, clock).open().advance(50)
    edit(blobs, NAME, **older)
    host = Host(blobs, clock, "b", 2).open(start=7)
    assert (host.checkpoint.offset, stored(blobs, NAME)["group"]) == (
        6,
        stored(blobs, GROUP)["group"],
    )


def test_what_belongs_to_a_newer_topic_of_the_name_is_left_alone(
    blobs: Unreliable, clock: Clock
) -> None:
    host = Host(blobs, clock)
    newer = a_store(blobs, clock, IDS._replace(topic_id="8"))
    newer.advance_unowned(0, 5)
    before = blobs.get(NAME)
    with pytest.raises(LeaseLostError):
        host.open()
    assert blobs.get(NAME) == before


def test_opening_costs_four_calls_at_first_and_three_later(blobs: Unreliable, clock: Clock) -> None:
    first = Host(blobs, clock)
    blobs.calls.clear()
    first.open()
    assert blobs.calls == [("get", NAME), ("get", GROUP), ("put", NAME), ("get", GROUP)]
    second = Host(blobs, clock, "b", 2)
    blobs.calls.clear()
    second.open()
    assert blobs.calls == [("get", NAME), ("put", NAME), ("get", GROUP)]


def test_an_unchanged_group_document_is_read_once_for_all_checkpoints_of_a_host(
    blobs: Unreliable, clock: Clock
) -> None:
    look = GroupLook(IDS)
    first = perform(look.now(), blobs)
    assert first is not None
    assert perform(look.now(), blobs) is first
    own(blobs, "a")
    assert perform(look.now(), blobs) is not first
    blobs.delete(GROUP)
    assert perform(look.now(), blobs) is None


def test_others_that_come_in_between_while_it_opens_are_taken_note_of(
    blobs: Unreliable, clock: Clock
) -> None:
    host = Host(blobs, clock)
    blobs.before[NAME] = partial(a_store(blobs.real, clock).reset, {0: 30}, force=True)
    host.open(start=0)
    assert host.checkpoint.offset == 29


def test_a_damaged_document_is_an_error_that_names_the_blob(
    blobs: Unreliable, clock: Clock
) -> None:
    host = Host(blobs, clock).open()
    blobs.put(NAME, b"nonsense")
    with pytest.raises(EventLogError, match=NAME):
        host.advance(3)


# Moving on


def test_a_checkpoint_is_one_put(blobs: Unreliable, clock: Clock) -> None:
    host = Host(blobs, clock).open()
    blobs.calls.clear()
    assert host.advance(3)
    assert blobs.calls == [("put", NAME)]
    document = stored(blobs, NAME)
    assert (document["offset"], document["enqueued_at"]) == (3, "2026-03-01T12:00:00Z")


def test_a_checkpoint_at_or_below_the_current_one_does_nothing(
    blobs: Unreliable, clock: Clock
) -> None:
    host = Host(blobs, clock).open()
    host.advance(3)
    blobs.calls.clear()
    assert not host.advance(3)
    assert not host.advance(-1)
    assert blobs.calls == []
    assert host.checkpoint.offset == 3


LOST = [PreconditionFailedError("the client met its own put"), StoreUnavailableError("no answer")]


@pytest.mark.parametrize("error", LOST, ids=["repeated", "unavailable"])
@pytest.mark.parametrize("what", ["advance", "attempt", "open", "release"])
def test_a_lost_answer_is_found_to_be_one(
    blobs: Unreliable, clock: Clock, what: str, error: Exception
) -> None:
    host = Host(blobs, clock).open()
    host.advance(3)
    if what == "open":
        host.release()
    uses: dict[str, Callable[[], Any]] = {
        "advance": partial(host.advance, 5),
        "attempt": partial(host.attempt, 5),
        "open": host.open,
        "release": host.release,
    }
    use = uses[what]
    blobs.lose.append(error)
    if isinstance(error, StoreUnavailableError):
        with pytest.raises(StoreUnavailableError):
            use()
        blobs.calls.clear()
        told = use()
        assert ("put", NAME) not in blobs.calls, "it is written twice"
    else:
        told = use()
    document = stored(blobs, NAME)
    assert document["offset"] == (5 if what == "advance" else 3)
    assert document["owner"] == (None if what == "release" else "a")
    assert document["attempts"] == (1 if what == "attempt" else 0)
    assert what != "attempt" or told == 1


def test_a_put_that_comes_late_does_no_harm(blobs: Unreliable, clock: Clock) -> None:
    """The next thing that is done meets it, or it meets that."""
    host = Host(blobs, clock).open()
    blob = blobs.get(NAME)
    assert isinstance(blob, Blob)
    late: list[bytes] = []

    class Late(Unreliable):
        def put(self, name: str, data: bytes, **condition: Any) -> str:
            late.append(data)
            raise StoreUnavailableError("it may arrive yet")

    with pytest.raises(StoreUnavailableError):
        perform(host.checkpoint.advance(3, WHEN), Late(blobs.real))
    blobs.before[NAME] = partial(blobs.real.put, NAME, late[0], if_match=blob.etag)
    assert host.advance(5)
    assert stored(blobs, NAME)["offset"] == 5


def test_a_store_that_refuses_everything_is_an_error(blobs: Unreliable, clock: Clock) -> None:
    host = Host(blobs, clock).open()
    blobs.fail.extend([PreconditionFailedError("always")] * 100)
    with pytest.raises(PreconditionFailedError, match="could not be written in 20 attempts"):
        host.advance(3)


@pytest.mark.parametrize("use", ["advance", "attempt", "look"])
@pytest.mark.parametrize("what", ["checkpoint", "group"])
def test_a_deleted_checkpoint_or_group_is_a_lost_lease(
    blobs: Unreliable, clock: Clock, use: str, what: str
) -> None:
    host = Host(blobs, clock).open()
    if what == "checkpoint":
        blobs.delete(NAME)
    else:
        store = a_store(blobs, clock)
        store.delete()
        store.advance_unowned(0, 9)
    call = {
        "advance": host.checkpoint.advance(9, None),
        "attempt": host.checkpoint.attempt(9),
        "look": host.checkpoint.look(),
    }[use]
    with pytest.raises(LeaseLostError, match="was deleted"):
        host.take(call)


# Resets


@pytest.mark.parametrize("use", ["advance", "attempt", "look"])
def test_a_reset_is_noticed_once_and_the_owner_goes_on_there(
    blobs: Unreliable, clock: Clock, use: str
) -> None:
    host = Host(blobs, clock).open()
    host.advance(50)
    a_store(blobs, clock).reset({0: 8}, force=True)
    call = {
        "advance": host.checkpoint.advance(60, None),
        "attempt": host.checkpoint.attempt(60),
        "look": host.checkpoint.look(),
    }[use]
    with pytest.raises(CheckpointResetError, match="partition 0 was reset to 8") as caught:
        host.take(call)
    assert caught.value.checkpoint.offset == host.checkpoint.offset == 7
    assert caught.value.etag == host.checkpoint.etag
    host.take(host.checkpoint.look())
    assert host.advance(8)
    assert stored(blobs, NAME)["noticed"] == 1


def test_a_reset_is_announced_in_the_group_document(blobs: Unreliable, clock: Clock) -> None:
    """After the checkpoints were changed: who sees it there finds them so."""
    store = a_store(blobs, clock)
    host = Host(blobs, clock).open()
    before = stored(blobs, GROUP)
    blobs.calls.clear()
    store.reset({0: 8}, force=True)
    assert [call for call in blobs.calls if call[0] == "put"] == [("put", NAME), ("put", GROUP)]
    after = stored(blobs, GROUP)
    assert after["resets"] == before["resets"] + 1
    assert after["generation"] == before["generation"] + 1
    assert after["partitions"] == before["partitions"]
    with pytest.raises(CheckpointResetError):
        host.take(host.checkpoint.look())


def test_a_reset_forgets_what_hosts_noted_about_crashes(blobs: Unreliable, clock: Clock) -> None:
    Host(blobs, clock).open()
    host = Host(blobs, clock, "b", 2).open(max_batch=10)
    host.attempt(0)
    assert host.checkpoint.alone_until == 10
    a_store(blobs, clock).reset({0: 8}, force=True)
    with pytest.raises(CheckpointResetError):
        host.take(host.checkpoint.look())
    checkpoint = host.checkpoint
    assert (checkpoint.crashes, checkpoint.attempts, checkpoint.attempted) == (0, 0, None)
    assert checkpoint.alone_until == 0


def test_a_reset_before_it_is_given_back_is_no_obstacle(blobs: Unreliable, clock: Clock) -> None:
    host = Host(blobs, clock).open()
    a_store(blobs, clock).reset({0: 8}, force=True)
    host.release()
    document = stored(blobs, NAME)
    assert (document["owner"], document["offset"]) == (None, 7)


def test_a_former_host_is_fenced_by_whoever_moves_the_checkpoint_since(
    blobs: Unreliable, clock: Clock
) -> None:
    """It owns the partition no more, and nobody else does: no other host has opened it."""
    zombie = Host(blobs, clock).open()
    own(blobs, None, epoch=2)
    assert a_store(blobs, clock).advance_unowned(0, 20)
    for use in (partial(zombie.advance, 30), partial(zombie.take, zombie.checkpoint.look())):
        with pytest.raises(LeaseLostError, match="nobody's now"):
            use()
    assert stored(blobs, NAME)["offset"] == 20


# Events that end their process


def crash(blobs: Unreliable, clock: Clock, times: int, **options: Any) -> Host:
    """The last of so many owners that each ended where it had begun, and one that goes on."""
    for epoch in range(1, times + 1):
        Host(blobs, clock, f"host-{epoch}", epoch).open(max_batch=10, **options)
    return Host(blobs, clock, "last", times + 1).open(max_batch=10, **options)


@pytest.mark.parametrize(("times", "alone_until"), [(1, 10), (2, 20), (3, 40), (6, 320)])
def test_owners_that_end_where_they_began_are_counted(
    blobs: Unreliable, clock: Clock, times: int, alone_until: int
) -> None:
    """With each the events that go alone are twice as many."""
    checkpoint = crash(blobs, clock, times).checkpoint
    assert (checkpoint.crashes, checkpoint.alone_until) == (times, alone_until)


def test_the_events_that_go_alone_stay_within_what_an_offset_can_be(
    blobs: Unreliable, clock: Clock
) -> None:
    Host(blobs, clock, "a", 1).open()
    edit(blobs, NAME, crashes=2**62, offset=2**63 - 10, opened=2**63 - 10)
    checkpoint = Host(blobs, clock, "b", 2).open().checkpoint
    assert (checkpoint.crashes, checkpoint.alone_until) == (2**62 + 1, 2**63 - 1)


def test_an_event_that_is_suspected_stays_so_under_an_owner_with_smaller_batches(
    blobs: Unreliable, clock: Clock
) -> None:
    crash(blobs, clock, 2)
    assert Host(blobs, clock, "z", 9).open(max_batch=1).checkpoint.alone_until == 20


def test_no_event_that_came_later_is_suspected(blobs: Unreliable, clock: Clock) -> None:
    checkpoint = crash(blobs, clock, 3, next_offset=7).checkpoint
    assert (checkpoint.crashes, checkpoint.alone_until) == (3, 7)


def test_where_there_was_no_event_nobody_ended_of_one(blobs: Unreliable, clock: Clock) -> None:
    checkpoint = crash(blobs, clock, 3, next_offset=0).checkpoint
    assert (checkpoint.crashes, checkpoint.alone_until) == (0, 0)


def test_an_owner_that_had_moved_on_did_not_end_of_its_first_events(
    blobs: Unreliable, clock: Clock
) -> None:
    Host(blobs, clock, "a", 1).open().advance(3)
    assert Host(blobs, clock, "b", 2).open().checkpoint.crashes == 0


def test_a_member_that_takes_its_own_partition_again_has_not_ended(
    blobs: Unreliable, clock: Clock
) -> None:
    Host(blobs, clock, "a", 1).open()
    assert Host(blobs, clock, "a", 3).open().checkpoint.crashes == 0


def test_an_owner_whose_process_is_there_has_not_ended_it(blobs: Unreliable, clock: Clock) -> None:
    """Its lease ran out: that is no crash, and what was at work then ended nothing."""
    host = crash(blobs, clock, 1)
    assert host.attempt(0) == 1
    heir = Host(blobs, clock, "heir", 3, outlived=lambda owner: owner == "last").open()
    assert (heir.checkpoint.crashes, heir.checkpoint.alone_until) == (1, 10)
    assert heir.attempt(0) == 1
    stranger = Host(blobs, clock, "stranger", 4, outlived=lambda owner: owner == "last").open()
    assert (stranger.checkpoint.crashes, stranger.attempt(0)) == (2, 2)


@pytest.mark.parametrize(("owner", "epoch", "outdone"), [("b", 7, 7), (None, 7, 7), ("b", 2, 2)])
def test_who_finds_another_owner_says_with_which_epoch(
    blobs: Unreliable, clock: Clock, owner: str | None, epoch: int, outdone: int
) -> None:
    Host(blobs, clock, "a", 1).open()
    edit(blobs, NAME, owner=owner, epoch=epoch)
    host = Host(blobs, clock, "c", 2)
    assert host.checkpoint.outdone_by is None
    with pytest.raises(LeaseLostError):
        host.open()
    assert host.checkpoint.outdone_by == outdone


def test_crashes_are_forgotten_once_the_events_that_go_alone_are_finished(
    blobs: Unreliable, clock: Clock
) -> None:
    host = crash(blobs, clock, 1)
    host.advance(8)
    assert (host.checkpoint.crashes, host.checkpoint.alone_until) == (1, 10)
    host.advance(9)
    assert (host.checkpoint.crashes, host.checkpoint.alone_until) == (0, 0)


def test_they_are_remembered_when_the_partition_changes_hands(
    blobs: Unreliable, clock: Clock
) -> None:
    host = crash(blobs, clock, 1)
    host.advance(4)
    host.release()
    checkpoint = Host(blobs, clock, "z", 9).open().checkpoint
    assert (checkpoint.crashes, checkpoint.alone_until) == (1, 10)


def test_attempts_are_counted_by_event_and_over_owners(blobs: Unreliable, clock: Clock) -> None:
    host = Host(blobs, clock, "a", 1).open()
    assert [host.attempt(4), host.attempt(4), host.attempt(5)] == [1, 2, 1]
    heir = Host(blobs, clock, "b", 2).open()
    assert (heir.checkpoint.attempted, heir.checkpoint.attempts) == (5, 1)
    blobs.calls.clear()
    assert heir.attempt(4) == 0, "it was survived before"
    assert blobs.calls == []
    assert heir.attempt(5) == 2


def test_attempts_are_counted_anew_after_a_reset(blobs: Unreliable, clock: Clock) -> None:
    """Whatever became of the last one before."""
    host = Host(blobs, clock).open()
    assert [host.attempt(4), host.attempt(4)] == [1, 2]
    blobs.fail.append(StoreUnavailableError("it is away"))
    with pytest.raises(StoreUnavailableError):
        host.attempt(4)
    a_store(blobs, clock).reset({0: 2}, force=True)
    with pytest.raises(CheckpointResetError):
        host.attempt(4)
    assert host.attempt(4) == 1


def test_attempts_are_forgotten_once_their_event_is_finished(
    blobs: Unreliable, clock: Clock
) -> None:
    host = Host(blobs, clock).open()
    host.attempt(4)
    host.advance(3)
    assert (host.checkpoint.attempted, host.checkpoint.attempts) == (4, 1)
    host.advance(4)
    assert (host.checkpoint.attempted, host.checkpoint.attempts) == (None, 0)


# In transactions


class Stage:
    """A log, a topic, and a group of it that this host owns partition 0 of."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.topic = log.create_topic("cars", partitions=1)
        self.alerts = log.create_topic("alerts", partitions=1)
        self.ids = GroupIds(log.id, "cars", self.topic.id, "fraud")
        self.store = GroupStore(log.blobs, self.ids)
        self.store.ensure()
        self.own("a", 1)
        self.checkpoint = self.opened("a", 1)

    def own(self, member: str, epoch: int) -> None:
        share = {"owner": member, "epoch": epoch, "next": None}
        edit(self.log.blobs, self.ids.document, partitions={0: share})

    def opened(self, member: str, epoch: int) -> PartitionCheckpoint:
        group = self.store.document()
        assert group is not None
        checkpoint = PartitionCheckpoint(self.ids, group.group, 0, member, epoch)
        perform(checkpoint.open(0), self.log.blobs)
        return checkpoint

    def commit(self, offset: int) -> Fence:
        fence = self.checkpoint.fence(offset, None)
        with self.log.transaction() as tx:
            tx.append("alerts", b"seen")
            tx.attach(Fenced(fence))
        return fence

    @property
    def outputs(self) -> int:
        return self.alerts.partition_info(0).next_offset

    @property
    def offset(self) -> int:
        return self.store.checkpoints()[0].offset


class Fenced:
    """Takes part in a transaction."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    def fence(self) -> Fence:
        return self._fence

    def failed(self) -> None:
        """Nothing is to be done."""


@pytest.fixture
def stage(memory_log: EventLog) -> Stage:
    return Stage(memory_log)


def test_output_and_checkpoint_are_stored_together(stage: Stage) -> None:
    stage.commit(4)
    assert (stage.outputs, stage.offset, stage.checkpoint.offset) == (1, 4, 4)
    perform(stage.checkpoint.advance(6, None), stage.log.blobs)
    stage.commit(8)
    assert (stage.outputs, stage.offset, stage.checkpoint.offset) == (2, 8, 8)


def test_a_former_owner_stores_nothing(stage: Stage) -> None:
    stage.own("b", 2)
    heir = stage.opened("b", 2)
    perform(heir.advance(2, None), stage.log.blobs)
    with pytest.raises(LeaseLostError, match="that of 'b' now"):
        stage.commit(4)
    assert (stage.outputs, stage.offset) == (0, 2)


def test_a_former_owner_stores_nothing_even_if_it_does_not_move_the_checkpoint(
    stage: Stage,
) -> None:
    stage.commit(4)
    stage.commit(4)
    assert stage.outputs == 2
    stage.own("b", 2)
    stage.opened("b", 2)
    with pytest.raises(LeaseLostError):
        stage.commit(4)
    assert stage.outputs == 2


def test_a_reset_undoes_the_transaction_and_is_noticed_next(stage: Stage) -> None:
    stage.commit(4)
    stage.store.reset({0: 0}, force=True)
    with pytest.raises(PreconditionFailedError, match="nothing of this transaction was stored"):
        stage.commit(6)
    assert (stage.outputs, stage.offset) == (1, -1)
    with pytest.raises(CheckpointResetError):
        perform(stage.checkpoint.look(), stage.log.blobs)
    assert stage.checkpoint.offset == -1


def test_what_was_stored_without_anybody_being_told_is_not_stored_again(stage: Stage) -> None:
    """The answer to the commit was lost; the handler would do its work once more."""
    known = stage.checkpoint.fence(4, None)
    with stage.log.transaction() as tx:
        tx.append("alerts", b"seen")
        tx.attach(Fenced(Untold(known)))
    assert (stage.outputs, stage.offset, stage.checkpoint.offset) == (1, 4, -1)
    with pytest.raises(PreconditionFailedError, match="was left at -1 and is at 4"):
        stage.commit(4)
    assert stage.outputs == 1
    assert not perform(stage.checkpoint.advance(3, None), stage.log.blobs), "it is read first"
    assert stage.checkpoint.offset == 4
    stage.commit(5)
    assert (stage.outputs, stage.offset) == (2, 5)


def test_a_reset_to_where_the_checkpoint_is_is_a_reset_all_the_same(stage: Stage) -> None:
    stage.commit(4)
    stage.store.reset({0: 5}, force=True)
    with pytest.raises(PreconditionFailedError, match="a person has moved it"):
        stage.commit(6)
    with pytest.raises(CheckpointResetError):
        perform(stage.checkpoint.advance(6, None), stage.log.blobs)


class Untold:
    """A fence that is not told of the commit."""

    def __init__(self, fence: Fence) -> None:
        self._fence = fence

    def check(self, blobs: BlobStore) -> None:
        self._fence.check(blobs)

    def committed(self) -> None:
        """The answer was lost."""


def test_a_transaction_that_was_undone_leaves_the_checkpoint_where_it_was(stage: Stage) -> None:
    stage.alerts.append(b"another")
    tx = stage.log.transaction()
    tx.append("alerts", b"seen", partition=0, expect_next=0)
    tx.attach(Fenced(stage.checkpoint.fence(4, None)))
    with pytest.raises(UnexpectedOffsetError), tx:
        pass  # its end is the commit
    assert (stage.outputs, stage.offset, stage.checkpoint.offset) == (1, -1, -1)
    stage.commit(4)
    assert (stage.outputs, stage.offset, stage.checkpoint.offset) == (2, 4, 4)
