"""The plan: even shares, the fewest moves, nothing stolen; over random histories of a document."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from eventlog.groups.documents import GroupDocument, GroupIds, Share
from eventlog.processor.group import (
    check,
    check_change,
    give_away,
    is_settled,
    leave,
    owned_by,
    plan,
    rise_above,
    without,
)

EMPTY = GroupDocument(generation=0, log="log", topic="1", group="g")


def closed(document: GroupDocument, member: str) -> dict[int, int]:
    """All that a member has to give, as if it had closed it."""
    owned = owned_by(document, member)
    return {
        partition: share.epoch
        for partition, share in owned.items()
        if share.next is not None or member in document.leaving
    }


def settled(document: GroupDocument, alive: set[str], partitions: int) -> GroupDocument:
    """The document when everybody has planned, and given away, until nothing changes."""
    for _ in range(10):
        before = document
        for member in sorted(alive):
            document = plan(document, alive, member, partitions)
        for member in document.hosts:
            document = give_away(document, member, closed(document, member))
        if document is before:
            return document
    raise AssertionError("it does not come to rest")


def group_of(*members: str, partitions: int) -> GroupDocument:
    """A group at rest."""
    return settled(EMPTY, set(members), partitions)


def shares(document: GroupDocument) -> Counter[str | None]:
    return Counter(share.owner for share in document.partitions.values())


def moved(before: GroupDocument, after: GroupDocument) -> int:
    return sum(share.owner != before.owner(n) for n, share in after.partitions.items())


def test_the_first_member_gets_everything_at_once() -> None:
    document = plan(EMPTY, set(), "a", 3)
    assert document.hosts == ["a"]
    assert document.partitions == {n: Share("a", 1, None) for n in range(3)}


def test_a_group_at_rest_is_left_as_it_is() -> None:
    document = group_of("a", "b", "c", partitions=16)
    assert is_settled(document)
    assert plan(document, {"a", "b", "c"}, "b", 16) is document


def test_what_a_live_member_owns_is_promised_and_not_taken() -> None:
    alone = group_of("a", partitions=4)
    document = plan(alone, {"a"}, "b", 4)
    assert shares(document) == {"a": 4}
    assert Counter(share.next for share in document.partitions.values()) == {"b": 2, None: 2}


def test_what_is_given_away_gets_the_next_epoch() -> None:
    document = plan(group_of("a", partitions=2), {"a"}, "b", 2)
    given = give_away(document, "a", {0: 1, 1: 1})
    assert sorted(given.partitions.values(), key=lambda share: share.epoch) == [
        Share("a", 1, None),
        Share("b", 2, None),
    ]


@pytest.mark.parametrize("stale", [{1: 2}, {1: 0}, {9: 1}])
def test_only_what_was_closed_under_its_epoch_is_given_away(stale: dict[int, int]) -> None:
    document = plan(group_of("a", partitions=2), {"a"}, "b", 2)
    assert give_away(document, "a", stale) is document


def test_nobody_gives_away_what_another_owns() -> None:
    document = plan(group_of("a", partitions=2), {"a"}, "b", 2)
    assert give_away(document, "b", {0: 1, 1: 1}) is document


def test_partitions_of_the_dead_are_taken_at_once() -> None:
    document = group_of("a", "b", partitions=4)
    after = plan(document, {"a"}, "a", 4)
    assert after.hosts == ["a"]
    assert shares(after) == {"a": 4}
    assert {share.epoch for n, share in after.partitions.items() if document.owner(n) == "b"} == {
        document.partitions[n].epoch + 1 for n in document.partitions if document.owner(n) == "b"
    }


def test_what_a_dead_member_was_to_hand_over_goes_to_who_was_next() -> None:
    three = plan(group_of("a", "b", partitions=6), {"a", "b"}, "c", 6)
    promised = {n for n, share in owned_by(three, "a").items() if share.next == "c"}
    assert promised
    after = plan(three, {"b", "c"}, "b", 6)
    assert promised <= set(owned_by(after, "c"))


def test_a_promise_to_a_dead_member_is_withdrawn() -> None:
    two = plan(group_of("a", partitions=4), {"a"}, "b", 4)
    after = plan(two, {"a"}, "a", 4)
    assert after.partitions == {n: Share("a", 1, None) for n in range(4)}


def test_a_hand_over_that_is_under_way_survives_another_member() -> None:
    two = plan(group_of("a", partitions=12), {"a"}, "b", 12)
    three = plan(two, {"a", "b"}, "c", 12)
    still = [n for n, share in three.partitions.items() if share.next == "b"]
    assert len(still) == 4
    assert all(two.partitions[n].next == "b" for n in still)


def test_who_leaves_gets_nothing_more_and_gives_everything() -> None:
    document = leave(group_of("a", "b", partitions=4), "a")
    document = plan(document, {"a", "b"}, "a", 8)
    assert Counter(s.next for s in owned_by(document, "a").values()) == {"b": 2}
    assert len(owned_by(document, "b")) == 6
    document = give_away(document, "a", closed(document, "a"))
    assert without(document, "a").hosts == ["b"]


def test_who_still_owns_something_does_not_leave() -> None:
    document = leave(group_of("a", partitions=2), "a")
    assert without(document, "a") is document


def test_the_last_member_leaves_its_partitions_to_nobody_and_the_next_takes_new_epochs() -> None:
    document = leave(group_of("a", partitions=2), "a")
    document = plan(document, {"a"}, "a", 2)
    document = without(give_away(document, "a", closed(document, "a")), "a")
    assert document.hosts == []
    assert document.partitions == {0: Share(None, 1, None), 1: Share(None, 1, None)}
    assert plan(document, set(), "b", 2).partitions == {
        0: Share("b", 2, None),
        1: Share("b", 2, None),
    }


def test_added_partitions_go_to_who_has_least() -> None:
    document = group_of("a", "b", partitions=3)
    after = plan(document, {"a", "b"}, "a", 6)
    assert sorted(shares(after).values()) == [3, 3]
    assert moved(document, after) == 3


def test_the_plan_never_takes_partitions_out() -> None:
    document = group_of("a", partitions=8)
    assert plan(document, {"a"}, "a", 4) is document


def test_more_members_than_partitions_leave_some_without() -> None:
    document = group_of("a", "b", "c", partitions=2)
    assert is_settled(document)
    assert sorted(shares(document).values()) == [1, 1]


@pytest.mark.parametrize("partitions", [1, 16, 1000])
@pytest.mark.parametrize("members", [1, 3, 10])
def test_joining_and_leaving_move_the_fewest_partitions_that_even_shares_allow(
    members: int, partitions: int
) -> None:
    names = [f"h{n}" for n in range(members)]
    before = group_of(*names, partitions=partitions)
    joined = settled(before, {*names, "new"}, partitions)
    assert moved(before, joined) == partitions // (members + 1)
    left = settled(joined, set(names), partitions)
    assert moved(joined, left) == partitions // (members + 1)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_happens_the_invariants_hold_and_it_comes_to_rest(seed: int) -> None:
    chance = random.Random(seed)
    partitions = chance.choice([1, 3, 16, 40])
    document, alive = EMPTY, set[str]()
    for _ in range(30):
        for _ in range(chance.randint(0, 2)):
            alive ^= {f"h{chance.randrange(8)}"}
        partitions += chance.randint(1, 4) if chance.random() < 0.1 else 0
        if not alive:
            continue
        me = chance.choice(sorted(alive))
        after = plan(document, alive, me, partitions)
        check(after)
        check_change(document, after, me)
        assert plan(after, alive | {me}, me, partitions) == after, "who plans again changes nothing"
        document = after
        for member in document.hosts:
            some = {n: e for n, e in closed(document, member).items() if chance.random() < 0.5}
            after = give_away(document, member, some)
            check_change(document, after, member)
            document = after
    if alive:
        owned = {n: document.owner(n) for n in document.partitions}
        document = settled(document, alive, partitions)
        assert is_settled(document)
        most = math.ceil(partitions / len(alive))
        kept = Counter(o for n, o in owned.items() if o in alive and document.owner(n) == o)
        had = Counter(o for o in owned.values() if o in alive)
        assert all(kept[o] >= min(had[o], most - 1) for o in alive), "some moved in vain"


def test_a_change_that_steals_is_found() -> None:
    document = group_of("a", "b", partitions=2)
    stolen = replace(
        document,
        partitions={
            n: Share("b", share.epoch + (share.owner != "b"), None)
            for n, share in document.partitions.items()
        },
    )
    with pytest.raises(AssertionError, match="stolen by b"):
        check_change(document, stolen, "b")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, "has left the document"),
        ({0: Share("a", 2, None)}, "another epoch"),
        ({0: Share("b", 1, None)}, "not the next epoch"),
        ({0: Share("b", 3, None)}, "not the next epoch"),
        ({0: Share(None, 2, None)}, "not the next epoch"),
    ],
)
def test_a_change_that_breaks_an_epoch_is_found(changed: dict[int, Share], why: str) -> None:
    document = replace(EMPTY, hosts=["a", "b"], partitions={0: Share("a", 1, None)})
    with pytest.raises(AssertionError, match=why):
        check_change(document, replace(document, partitions=changed))


def test_only_an_owner_may_take_what_it_owns_with_a_later_epoch() -> None:
    document = replace(
        EMPTY, hosts=["a", "b"], partitions={0: Share("a", 1, "b"), 1: Share("b", 9)}
    )
    risen = rise_above(document, "a", {0: 4, 1: 9, 2: 4})
    assert risen.partitions == {0: Share("a", 5, "b"), 1: Share("b", 9)}
    check_change(document, risen, "a")
    with pytest.raises(AssertionError, match="another epoch"):
        check_change(document, risen, "b")
    with pytest.raises(AssertionError, match="another epoch"):
        check_change(risen, document, "a")
    assert rise_above(document, "a", {0: 0}) is document


@pytest.mark.parametrize(
    "share", [Share("x", 1, None), Share("a", 1, "x"), Share("a", 1, "a"), Share(None, 1, "a")]
)
def test_a_document_that_names_who_cannot_be_named_is_found(share: Share) -> None:
    with pytest.raises(AssertionError):
        check(replace(EMPTY, hosts=["a"], partitions={0: share}))


def test_names_of_heartbeats_and_members_are_each_others_inverse() -> None:
    ids = GroupIds("log", "cars", "1", "fraud")
    assert ids.member(ids.heartbeat("web-1-0a1b2c3d")) == "web-1-0a1b2c3d"
    assert ids.member(ids.document) is None
    assert ids.member(ids.checkpoint(3)) is None
