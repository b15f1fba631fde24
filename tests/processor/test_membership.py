"""What one member does in a round: its calls, what it makes of what it sees, when it stops."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from eventlog import PreconditionFailedError, StoreUnavailableError
from eventlog.blobs import Blob, NotModified
from eventlog.blobs.memory import MemoryBlobs
from eventlog.groups.documents import (
    GroupDocument,
    GroupIds,
    HostDocument,
    Share,
    decode,
    encode,
)
from eventlog.groups.steps import perform
from eventlog.processor.group import check, is_settled, owned_by
from eventlog.processor.lease import Lease
from eventlog.processor.membership import LapsedError, Membership, Round

IDS = GroupIds("log", "cars", "1", "fraud")
LEASE, INTERVAL = 30.0, 10.0


class Store(MemoryBlobs):
    """Counts calls; and what `faults` says of a call's name and argument goes wrong, once."""

    def __init__(self) -> None:
        super().__init__("")
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def _called(self, method: str, name: str) -> None:
        self.calls.append(f"{method} {name.removeprefix(IDS.place)}")
        self._happen(self.before)

    def _happen(self, what: dict[str, Callable[[], object]]) -> None:
        do = what.pop(self.calls[-1].partition("-")[0], None)
        if do is not None:
            do()

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        self._called("get", name)
        return super().get(name, if_none_match=if_none_match)

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        self._called("put", name)
        etag = super().put(name, data, if_match=if_match, if_absent=if_absent)
        self._happen(self.after)
        return etag

    def list(self, prefix: str) -> list[tuple[str, str]]:
        self._called("list", prefix)
        return super().list(prefix)

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self._called("delete", name)
        super().delete(name, if_match=if_match)


class World:
    """A store, a clock, and members."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.store = Store()
        self.partitions = 4

    def member(self, name: str, **options: Any) -> Membership:
        return Membership(
            IDS,
            f"{name}-1",
            lease_duration=options.pop("lease", LEASE),
            renew_interval=options.pop("interval", INTERVAL),
            partitions=lambda: self.partitions,
            clock=lambda: self.now,
            chance=random.Random(1),
            **options,
        )

    def round(self, *members: Membership) -> list[Round]:
        return [perform(member.round(), self.store) for member in members]

    def settle(self, *members: Membership) -> None:
        """Rounds, an interval apart, in which everybody closes at once what it is to give."""
        for _ in range(4):
            for member in members:
                found = perform(member.round(), self.store)
                member.closed({n: a.epoch for n, a in found.assigned.items() if a.next})
            self.now += INTERVAL
        assert is_settled(self.document())

    def document(self) -> GroupDocument:
        document = self.read(IDS.document, GroupDocument)
        assert isinstance(document, GroupDocument)
        return document

    def read(self, name: str, kind: Any) -> Any:
        blob = MemoryBlobs.get(self.store, name)
        return decode(name, blob.data, kind, IDS) if isinstance(blob, Blob) else None

    def write(self, name: str, document: Any) -> None:
        MemoryBlobs.put(self.store, name, encode(document))


@pytest.fixture
def world() -> World:
    return World()


def unavailable() -> None:
    raise StoreUnavailableError("for a moment")


# Entering, and what a round costs


def test_the_first_member_makes_the_group_shows_that_it_lives_and_takes_everything(
    world: World,
) -> None:
    member = world.member("a")
    (found,) = world.round(member)
    assert world.store.calls == [
        "get group.json",
        "put group.json",
        "put hosts/a-1.json",
        "get group.json",
        "list hosts/",
        "put group.json",
    ]
    assert set(found.assigned) == {0, 1, 2, 3}
    assert member.lease.held()
    document = world.document()
    assert (document.hosts, document.lease_duration, document.topic_partitions) == (
        ["a-1"],
        LEASE,
        4,
    )


@pytest.mark.parametrize("partitions", [4, 1000])
def test_when_nothing_changes_a_round_is_three_calls(world: World, partitions: int) -> None:
    world.partitions = partitions
    members = [world.member("a"), world.member("b")]
    world.settle(*members)
    world.store.calls.clear()
    world.round(*members)
    assert sorted(world.store.calls) == [
        "get group.json",
        "get group.json",
        "list hosts/",
        "list hosts/",
        "put hosts/a-1.json",
        "put hosts/b-1.json",
    ]


def test_a_round_between_heartbeats_is_one_call_if_nothing_is_new(world: World) -> None:
    member = world.member("a")
    world.settle(member)
    world.round(member)
    world.store.calls.clear()
    world.now += 1
    world.round(member)
    assert world.store.calls == ["get group.json"]


def test_the_next_round_is_due_an_interval_after_the_last_heartbeat_began(world: World) -> None:
    member = world.member("a")
    world.store.after["put hosts/a"] = lambda: setattr(world, "now", world.now + 2)
    world.round(member)
    assert member.next_round_at == 1000 + INTERVAL
    assert member.lease.expires_at == 1000 + 0.9 * LEASE


def test_a_heartbeat_says_who_where_and_how_often(world: World) -> None:
    member = world.member("a", wall_us=lambda: 1_700_000_000_000_000)
    world.round(member)
    world.now += INTERVAL
    world.round(member)
    beat: HostDocument = world.read(IDS.heartbeat("a-1"), HostDocument)
    assert (beat.host, beat.beat, beat.group) == ("a-1", 2, world.document().group)
    assert beat.started_at == beat.beat_at


# The lease


def test_a_lease_that_ran_out_is_over_whatever_comes_later() -> None:
    now = 0.0
    lease = Lease(lambda: now)
    assert not lease.held()
    assert not lease.lost
    assert lease.extend(10)
    now = 10.0
    assert not lease.extend(20)
    assert not lease.held()
    assert lease.lost


def test_a_member_whose_lease_ran_out_does_nothing_any_more(world: World) -> None:
    member = world.member("a")
    world.round(member)
    world.now += LEASE
    world.store.calls.clear()
    with pytest.raises(LapsedError, match="lease has run out"):
        world.round(member)
    assert world.store.calls == []


def test_an_answer_that_comes_after_the_lease_does_not_revive_it(world: World) -> None:
    member = world.member("a")
    world.round(member)
    world.now += INTERVAL
    world.store.after["put hosts/a"] = lambda: setattr(world, "now", world.now + LEASE)
    with pytest.raises(LapsedError, match="while it was renewed"):
        world.round(member)


def test_a_member_whose_lease_runs_out_while_it_looks_swaps_nothing(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.round(a)
    world.store.before["list hosts/"] = lambda: setattr(world, "now", world.now + LEASE)
    with pytest.raises(LapsedError):
        world.round(b)
    assert world.document().hosts == ["a-1"]


@pytest.mark.parametrize("lost", ["put hosts/a", "get group.json", "list hosts/"])
def test_after_a_failure_it_tries_again_sooner_than_the_interval(world: World, lost: str) -> None:
    member = world.member("a")
    world.round(member)
    world.now += INTERVAL
    world.store.before[lost] = unavailable
    with pytest.raises(StoreUnavailableError):
        world.round(member)
    assert member.next_round_at <= world.now + INTERVAL / 5
    world.now = member.next_round_at
    world.round(member)
    assert member.lease.held()


@pytest.mark.parametrize("lost", ["get group.json", "put group.json", "put hosts/a"])
def test_who_cannot_join_tries_again_after_a_while_and_not_at_once(world: World, lost: str) -> None:
    """Somebody else's server, and bill."""
    member = world.member("a")
    world.store.before[lost] = unavailable
    with pytest.raises(StoreUnavailableError):
        world.round(member)
    assert world.now + INTERVAL / 20 <= member.next_round_at <= world.now + INTERVAL / 5


def test_a_heartbeat_whose_answer_was_lost_counts_from_when_it_was_begun(world: World) -> None:
    member = world.member("a")
    world.round(member)
    world.now += INTERVAL
    began = world.now
    world.store.after["put hosts/a"] = unavailable
    with pytest.raises(StoreUnavailableError):
        world.round(member)
    assert member.renewed_at == began - INTERVAL
    world.now += 5
    world.round(member)
    assert member.renewed_at == began
    assert member.lease.expires_at == began + 0.9 * LEASE


def test_a_member_whose_heartbeat_was_deleted_knows_that_it_was_removed(world: World) -> None:
    member = world.member("a")
    world.round(member)
    MemoryBlobs.delete(world.store, IDS.heartbeat("a-1"))
    world.now += INTERVAL
    with pytest.raises(LapsedError, match="removed"):
        world.round(member)
    assert not member.lease.held()


def test_a_member_that_is_not_named_any_more_knows_that_it_was_removed(world: World) -> None:
    member = world.member("a")
    world.round(member)
    document = world.document()
    world.write(IDS.document, replace(document, hosts=[], generation=document.generation + 1))
    with pytest.raises(LapsedError, match="removed"):
        world.round(member)


def test_a_member_of_a_group_that_was_deleted_lapses_and_another_makes_it_anew(
    world: World,
) -> None:
    member = world.member("a")
    world.round(member)
    before = world.document()
    MemoryBlobs.delete(world.store, IDS.document)
    with pytest.raises(LapsedError, match="deleted"):
        world.round(member)
    world.round(world.member("b"))
    assert world.document().group != before.group
    assert world.document().hosts == ["b-1"]


def test_the_groups_lease_is_adopted_with_a_warning(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.round(world.member("a", lease=6.0, interval=2.0))
    with caplog.at_level(logging.WARNING, "eventlog"):
        member = world.member("b")
        world.round(member)
    assert "adopts it" in caplog.text
    assert member.lease_duration == 6.0
    assert member.lease.expires_at == world.now + 0.9 * 6
    assert member.next_round_at == world.now + 2.0


def test_who_finds_nobody_there_brings_a_lease_of_its_own(world: World) -> None:
    first = world.member("a", lease=6.0, interval=2.0)
    (found,) = world.round(first)
    first.leave()
    first.closed({n: x.epoch for n, x in found.assigned.items()})
    world.round(first)
    assert world.document().hosts == []
    member = world.member("b")
    world.round(member)
    assert (member.lease_duration, world.document().lease_duration) == (LEASE, LEASE)


@pytest.mark.parametrize("nonsense", [0.0, -1.0])
def test_a_lease_that_makes_no_sense_is_not_adopted(world: World, nonsense: float) -> None:
    world.round(world.member("a"))
    world.write(IDS.document, replace(world.document(), lease_duration=nonsense))
    member = world.member("b")
    world.round(member)
    assert member.lease_duration == LEASE


# Who is alive


def test_who_gives_no_sign_for_a_lease_is_removed_and_its_heartbeat_deleted(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.settle(a, b)
    world.round(a, b)
    rounds = []
    for _ in range(3):
        world.now += INTERVAL
        rounds += world.round(b)
    assert [list(found.removed) for found in rounds] == [[], [], ["a-1"]]
    assert set(rounds[-1].assigned) == {0, 1, 2, 3}
    assert b.next_round_at <= world.now, "what it has left is deleted after that is known"
    world.round(b)
    assert world.read(IDS.heartbeat("a-1"), HostDocument) is None
    assert b.next_round_at > world.now


def test_who_was_never_seen_counts_as_alive_from_the_first_look(world: World) -> None:
    world.round(world.member("a"))
    MemoryBlobs.delete(world.store, IDS.heartbeat("a-1"))
    b = world.member("b")
    (found,) = world.round(b)
    assert not found.removed
    world.now += INTERVAL
    assert not world.round(b)[0].removed
    world.now += INTERVAL
    world.round(b)
    world.now += INTERVAL
    assert list(world.round(b)[0].removed) == ["a-1"]


def test_a_slow_listing_makes_nobody_look_dead(world: World) -> None:
    a, b = world.member("a"), world.member("b", lease=LEASE)
    world.settle(a, b)
    world.round(a, b)
    world.now += INTERVAL - 1
    world.round(a, b)

    def slow() -> None:
        world.now += 0.8 * LEASE

    world.store.before["list hosts/"] = slow
    world.now += 1
    (found,) = world.round(b)
    assert not found.removed


def test_who_is_known_to_be_dead_is_removed_at_once(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.settle(a, b)
    world.round(a, b)
    b.found_dead(["a-1"])
    (found,) = world.round(b)
    assert list(found.removed) == ["a-1"]


def test_a_new_member_removes_what_its_host_was_before(world: World) -> None:
    world.settle(world.member("a"))
    (found,) = world.round(world.member("again", known_dead=["a-1"]))
    assert list(found.removed) == ["a-1"]
    assert {a.epoch for a in found.assigned.values()} == {2}


def test_heartbeats_of_nobody_are_swept_away_in_the_end(world: World) -> None:
    member = world.member("a")
    world.round(member)
    world.write(IDS.heartbeat("ghost-1"), world.read(IDS.heartbeat("a-1"), HostDocument))
    for _ in range(8):
        world.now += INTERVAL
        world.round(member)
    assert world.read(IDS.heartbeat("ghost-1"), HostDocument) is None


# Many dead, and a slow store


def slow(world: World, seconds: float) -> None:
    """From now on each call takes so long."""
    for method in ("get", "put", "list", "delete"):
        real = getattr(world.store, method)

        def call(*given: Any, real: Any = real, **more: Any) -> Any:
            world.now += seconds
            return real(*given, **more)

        setattr(world.store, method, call)


@pytest.mark.parametrize(
    ("dead", "seconds"), [(5, 2.0), (12, 2.0), (40, 2.0), (60, 0.5), (8, 3.5), (3, 5.5)]
)
def test_who_buries_the_dead_of_a_slow_store_keeps_its_lease(
    world: World, dead: int, seconds: float
) -> None:
    world.partitions = 2 * (dead + 1)
    a, *others = [world.member(f"m{n}") for n in range(dead + 1)]
    world.settle(a, *others)
    slow(world, seconds)
    end = world.now + 2 * LEASE + (dead + 2) * 10 * seconds
    while len(world.document().hosts) > 1 or len(MemoryBlobs.list(world.store, IDS.hosts)) > 1:
        world.round(a)  # LapsedError, if it lapses
        world.now = max(world.now, a.next_round_at)
        assert world.now < end, "it does not get on"
    assert len(owned_by(world.document(), a.member)) == world.partitions


@pytest.mark.parametrize(("dead", "seconds"), [(3, 5.5), (12, 2.0), (30, 0.9)])
def test_so_does_who_knows_of_many_dead_at_once(world: World, dead: int, seconds: float) -> None:
    """One swap removes them all; and what they have left is deleted little by little."""
    a, *others = [world.member(f"m{n}") for n in range(dead + 1)]
    world.settle(a, *others)
    slow(world, seconds)
    a.found_dead([other.member for other in others])
    (found,) = world.round(a)
    assert len(found.removed) == dead
    end = world.now + 2 * LEASE + dead * 5 * seconds
    while len(MemoryBlobs.list(world.store, IDS.hosts)) > 1:
        world.now = max(world.now, a.next_round_at)
        world.round(a)
        assert world.now < end, "it does not get on"
    world.round(a)


def test_a_partition_is_taken_before_all_the_dead_were_looked_at(world: World) -> None:
    a, *others = [world.member(f"m{n}") for n in range(30)]
    world.settle(a, *others)
    for _ in range(3):
        assert not world.round(a)[0].removed
        world.now += INTERVAL
    slow(world, 2.0)
    world.store.calls.clear()
    (found,) = world.round(a)
    assert 0 < len(found.removed) < 5
    assert world.store.calls[-1] == "put group.json", "nothing is deleted before that is known"
    assert len(set(found.document.hosts) & set(found.removed)) == 0


def test_a_heartbeat_that_cannot_be_deleted_does_not_keep_a_member_from_going_on(
    world: World,
) -> None:
    a, b = world.member("a"), world.member("b")
    world.settle(a, b)
    b.found_dead(["a-1"])
    world.round(b)
    world.store.before["delete hosts/a"] = unavailable
    with pytest.raises(StoreUnavailableError):
        world.round(b)
    world.round(b)
    assert b.next_round_at > world.now


# A store that has lost its last writes


def lose_writes(world: World, document: GroupDocument) -> None:
    """The document is what it was. (Its etag may be as well, or not.)"""
    world.write(IDS.document, document)


def rejoined(world: World, members: list[Membership], seconds: float) -> None:
    """Rounds, a second apart, in which everybody closes at once what it is to give; and who lapses
    goes on as another.
    """
    end = world.now + seconds
    while world.now < end:
        for index, member in enumerate(members):
            if member.next_round_at > world.now:
                continue
            try:
                (found,) = world.round(member)
            except LapsedError:
                name = f"{member.member[0]}{world.now:.0f}"
                members[index] = world.member(name, known_dead=[member.member])
            else:
                member.closed({n: x.epoch for n, x in found.assigned.items() if x.next})
        world.now += 1


def test_a_group_recovers_from_a_store_that_has_lost_its_last_writes(world: World) -> None:
    members = [world.member("a"), world.member("b")]
    world.round(members[0])
    old = world.document()
    world.settle(*members)
    lose_writes(world, old)
    rejoined(world, members, 3 * LEASE)
    document = world.document()
    assert sorted(document.hosts) == sorted(member.member for member in members)
    assert is_settled(document)
    for member in members:
        assert member.document == document
    members.pop()
    rejoined(world, members, 3 * LEASE)
    assert len(owned_by(world.document(), members[0].member)) == 4


def test_an_older_document_is_a_stale_answer_for_a_lease(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.round(a)
    old = world.document()
    world.settle(a, b)
    stale = Blob(IDS.document, encode(old), "1", datetime.now(UTC))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.store, "get", lambda *given, **more: stale)
        for _ in range(2):
            world.now += INTERVAL
            world.round(b)
    world.round(b)  # the time begins anew
    lose_writes(world, old)
    for _ in range(3):
        world.now += INTERVAL - 0.1
        world.round(b)
    world.now += INTERVAL + 0.5
    with pytest.raises(LapsedError, match="lost what was written"):
        world.round(b)


def test_a_swap_that_was_refused_for_an_older_document_tells_at_once(world: World) -> None:
    member = world.member("a")
    world.round(member)
    old = world.document()
    world.partitions = 6
    world.round(member)
    lose_writes(world, old)
    world.partitions = 8
    world.round(member)
    with pytest.raises(LapsedError, match="lost what was written"):
        world.round(member)


def test_who_meets_a_later_epoch_than_the_documents_takes_an_epoch_above(world: World) -> None:
    member = world.member("a")
    world.round(member)
    member.outdone(2, 7)
    (found,) = world.round(member)
    assert {n: x.epoch for n, x in found.assigned.items()} == {0: 1, 1: 1, 2: 8, 3: 1}
    member.outdone(2, 7)
    world.store.calls.clear()
    world.round(member)
    assert "put group.json" not in world.store.calls


@pytest.mark.parametrize(("partition", "epoch"), [(0, 0), (9, 7), (0, 2**63 - 1)])
def test_what_is_not_its_own_or_not_outdone_stays_as_it_is(
    world: World, partition: int, epoch: int
) -> None:
    member = world.member("a")
    world.round(member)
    before = world.document()
    member.outdone(partition, epoch)
    world.round(member)
    assert world.document() == before


def test_nobody_rises_above_for_another(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.settle(a, b)
    before = world.document()
    for partition in owned_by(before, "b-1"):
        a.outdone(partition, 9)
    world.round(a)
    assert world.document() == before


# Swaps


def test_a_lost_swap_is_not_tried_again_before_a_moment_has_passed(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.round(a)

    def other() -> None:
        document = world.document()
        world.write(IDS.document, replace(document, generation=document.generation + 1))

    world.store.before["put group.json"] = other
    (found,) = world.round(b)
    assert found.assigned == {}
    assert world.now < b.next_round_at < world.now + INTERVAL
    world.now = b.next_round_at
    world.round(b)
    assert world.document().hosts == ["a-1", "b-1"]


def test_a_swap_whose_answer_was_lost_has_been_made(world: World) -> None:
    member = world.member("a")
    world.round(member)
    world.partitions = 8
    world.store.after["put group.json"] = unavailable
    world.now += INTERVAL
    (found,) = world.round(member)
    assert len(found.assigned) == 8


def test_a_document_older_than_the_last_one_seen_is_not_acted_on(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.round(a)
    old = world.document()
    world.settle(a, b)
    generation = world.document().generation
    world.write(IDS.document, old)
    world.now += 1
    (found,) = world.round(b)
    assert found.document.generation == generation
    assert len(found.assigned) == 2


def test_a_damaged_document_is_an_error_that_names_it(world: World) -> None:
    member = world.member("a")
    world.round(member)
    MemoryBlobs.put(world.store, IDS.document, b"{")
    with pytest.raises(Exception, match=r"group\.json"):
        world.round(member)


def test_a_put_that_is_refused_and_not_read_back_is_no_heartbeat(world: World) -> None:
    member = world.member("a")
    world.round(member)
    world.now += INTERVAL

    def refuse() -> None:
        world.write(IDS.heartbeat("a-1"), world.read(IDS.heartbeat("a-1"), HostDocument))
        raise PreconditionFailedError("another wrote")

    MemoryBlobs.put(world.store, IDS.heartbeat("a-1"), b"{}")
    with pytest.raises(LapsedError):
        world.round(member)


# Handing over, and leaving


def test_what_is_to_be_handed_over_is_given_away_when_it_is_closed(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.round(a, b)
    (found,) = world.round(a)
    going = {n: x.epoch for n, x in found.assigned.items() if x.next == "b-1"}
    assert len(going) == 2
    a.closed(going)
    (found,) = world.round(a)
    assert set(found.assigned) == {0, 1, 2, 3} - set(going)
    (found,) = world.round(b)
    assert {n: x.epoch for n, x in found.assigned.items()} == dict.fromkeys(going, 2)


def test_what_was_closed_can_be_reopened_until_it_is_being_given_away(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.round(a, b)
    (found,) = world.round(a)
    going = {n: x.epoch for n, x in found.assigned.items() if x.next}
    a.closed(going)
    first, second = sorted(going)
    assert a.reopen(first)
    answers = []
    world.store.before["put group.json"] = lambda: answers.append(a.reopen(second))
    (found,) = world.round(a)
    assert answers == [False]
    assert first in found.assigned
    assert second not in found.assigned


def test_who_leaves_gives_away_what_is_closed_and_goes_when_nothing_is_left(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.settle(a, b)
    mine = {n: share.epoch for n, share in owned_by(world.document(), "a-1").items()}
    a.leave()
    first, second = sorted(mine)
    a.closed({first: mine[first]})
    world.round(a)
    assert world.document().leaving == ["a-1"]
    a.closed({second: mine[second]})
    world.round(a)
    assert a.left
    assert world.document().hosts == ["b-1"]
    assert len(owned_by(world.document(), "b-1")) == 4
    assert world.read(IDS.heartbeat("a-1"), HostDocument) is None


def test_a_partition_added_to_the_topic_is_taken_at_the_next_round(world: World) -> None:
    member = world.member("a")
    world.round(member)
    world.partitions = 6
    (found,) = world.round(member)
    assert set(found.assigned) == set(range(6))
    assert world.document().topic_partitions == 4


# What stands in a document that no host has written


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            {"partitions": {0: Share("nobody-1", 7, None)}}, id="an owner that is no member"
        ),
        pytest.param({"hosts": ["a-1", "a-1"]}, id="a member named twice"),
        pytest.param({"hosts": ["../../x"]}, id="a member whose name is no name"),
        pytest.param({"leaving": ["who", "who"]}, id="one leaves that is no member"),
        pytest.param({"partitions": {999_999: Share("a-1", 1, "who")}}, id="a partition too many"),
        pytest.param({"lease_duration": 1e-6}, id="a lease of a microsecond"),
        pytest.param({"lease_duration": 1e300}, id="a lease for ever"),
    ],
)
def test_a_group_recovers_from_a_document_that_makes_no_sense(
    world: World, damage: dict[str, Any]
) -> None:
    world.round(world.member("a"))
    before = world.document()
    damaged = {"hosts": ["a-1"], **damage}
    world.write(IDS.document, replace(before, generation=before.generation + 1, **damaged))
    b = world.member("b", known_dead=["a-1"])
    for _ in range(6):
        world.round(b)
        world.now += INTERVAL
    document = world.document()
    assert document.hosts == ["b-1"]
    assert all(document.owner(partition) == "b-1" for partition in range(4))
    check(document)


def test_a_count_that_could_not_be_read_again_is_not_written(world: World) -> None:
    world.round(world.member("a"))
    document = world.document()
    most = {n: Share("a-1", 2**63 - 1, None) for n in range(4)}
    world.write(IDS.document, replace(document, partitions=most))
    with pytest.raises(AssertionError, match="counts too far"):
        world.round(world.member("b", known_dead=["a-1"]))
    assert world.document().partitions == most


def test_who_leaves_before_it_has_entered_leaves_no_heartbeat(world: World) -> None:
    a, b = world.member("a"), world.member("b")
    world.round(a)
    world.store.before["list hosts/"] = unavailable
    with pytest.raises(StoreUnavailableError):
        world.round(b)
    assert world.read(IDS.heartbeat("b-1"), HostDocument) is not None
    b.leave()
    world.round(b)
    assert b.left
    assert world.read(IDS.heartbeat("b-1"), HostDocument) is None
    assert world.document().hosts == ["a-1"]
