"""What a group's hosts agree on, as pure functions on its document: no store, no clock.

Invariants of the document, which `check` and `check_change` assert:

1. A partition has one owner or none. Its epoch grows by one whenever it gets an owner, and never
   otherwise, but if its owner finds that the store has lost a later one (`rise_above`); a partition
   never leaves the document.
2. A member loses a partition only by giving it away. Only of who is removed, as dead, others take.
3. Owners, and who is next, are members; who is next is not the owner, and does not leave.
4. Once `is_settled`, the shares of the members that stay differ by at most one.

A planned move takes two changes: somebody's `plan` names who is *next*, and the owner, when it has
closed the partition, gives it away (`give_away`). Only a partition without an owner, or with a dead
one, changes hands in the plan itself.

What this module deliberately does not do: know who is alive, or when; that is
`eventlog.processor.membership`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

from msgspec.structs import replace

from eventlog.groups.documents import MAX_COUNT, GroupDocument, Share

__all__ = [
    "check",
    "check_change",
    "give_away",
    "is_settled",
    "leave",
    "owned_by",
    "plan",
    "rise_above",
    "without",
]

_NOBODY: Final = Share()


# ---- Planning ------------------------------------------------------------------------------------


def plan(
    document: GroupDocument, alive: Collection[str], me: str, partitions: int
) -> GroupDocument:
    """The document as `me` would have it: who is dead is out, I am in, and shares are even.

    The same for everybody who sees the same, but for `me`. It moves as few partitions as can be:
    every member keeps what it owns up to its share, and larger shares go to those that own most.
    A hand-over that is under way goes on if it still helps, and is withdrawn if it does not.

    Args:
        alive: the members that live; `me` does in any case.
        partitions: how many the topic has.

    Returns: `document` itself if nothing is to be changed.
    """
    members = [host for host in dict.fromkeys(document.hosts) if host == me or host in alive]
    if me not in document.hosts:
        members.append(me)
    leaving = [host for host in dict.fromkeys(document.leaving) if host in members]
    takers = sorted(set(members).difference(leaving))
    same_members = members == document.hosts and leaving == document.leaving
    if same_members and _is_arranged(document, takers, partitions):
        return document
    shares = _shares(document, set(members), takers, partitions)
    if same_members and shares == document.partitions:
        return document
    return replace(document, hosts=members, leaving=leaving, partitions=shares)


def _is_arranged(document: GroupDocument, takers: Collection[str], partitions: int) -> bool:
    """Whether shares are even, or will be when everybody has handed over what it is to hand over;
    and nothing moves in vain.

    Quick: it is asked in every round, and mostly true.
    """
    shares = document.partitions
    if len(shares) < partitions or not takers:
        return False
    moving = [share for share in shares.values() if share.next is not None]
    owned = Counter([share.owner for share in shares.values()])
    then = owned.copy()
    then.subtract([share.owner for share in moving])
    then.update([share.next for share in moving])
    least, more = divmod(len(shares), len(takers))
    held = sorted([owned[taker] for taker in takers], reverse=True)
    kept = sum(min(count, least + (rank < more)) for rank, count in enumerate(held))
    return (
        len(moving) == len(shares) - kept
        and all(least <= then[taker] <= least + 1 for taker in takers)
        and sum(then[taker] for taker in takers) == len(shares)
    )


def _shares(
    document: GroupDocument, members: Collection[str], takers: list[str], partitions: int
) -> dict[int, Share]:
    before = document.partitions
    shares = {
        partition: before.get(partition, _NOBODY)
        for partition in sorted(before.keys() | set(range(partitions)))
    }
    owned: dict[str | None, list[int]] = {taker: [] for taker in takers}
    moving: list[int] = []  # what has no owner, or has to leave the one it has
    for partition, share in shares.items():
        owned.get(share.owner, moving).append(partition)
    promised = Counter(share.next for share in before.values() if share.next is not None)
    quotas = _quotas({taker: len(owned[taker]) for taker in takers}, promised, len(shares))
    room = {}
    for taker in takers:
        surplus = _surplus(owned[taker], quotas[taker], shares)
        room[taker] = quotas[taker] - len(owned[taker]) + len(surplus)
        moving += surplus
    going = _destinations(moving, room, shares)
    withdrawn = [partition for partition, share in shares.items() if share.next is not None]
    for partition in {*withdrawn, *moving}:
        shares[partition] = _share(shares[partition], members, going.get(partition))
    return shares


def _quotas(
    owned: Mapping[str, int], promised: Mapping[str, int], partitions: int
) -> dict[str, int]:
    """How many partitions each taker is to have.

    Some have one more. Who owns more than the least comes first: that saves a move. Then who was
    promised more, so that the next plan, made when some of the promises are kept, is this one.
    """
    if not owned:
        return {}
    least, more = divmod(partitions, len(owned))

    def rank_of(taker: str) -> tuple[bool, bool, str]:
        count = owned[taker]
        return count <= least, count + promised.get(taker, 0) <= least, taker

    order = sorted(owned, key=rank_of)
    return {taker: least + (rank < more) for rank, taker in enumerate(order)}


def _surplus(held: list[int], quota: int, shares: Mapping[int, Share]) -> list[int]:
    """What a taker has to give: first what is on its way already."""
    count = len(held) - quota
    if count <= 0:
        return []
    leaving = [partition for partition in reversed(held) if shares[partition].next is not None]
    staying = [partition for partition in reversed(held) if shares[partition].next is None]
    return [*leaving, *staying][:count]


def _destinations(
    moving: list[int], room: dict[str, int], shares: Mapping[int, Share]
) -> dict[int, str]:
    """Who gets what moves; who was to get it, if there is room. Uses up the room."""
    going: dict[int, str] = {}
    homeless = []
    for partition in sorted(moving):
        promised = shares[partition].next
        if promised is not None and room.get(promised, 0) > 0:
            going[partition] = promised
            room[promised] -= 1
        else:
            homeless.append(partition)
    places = [taker for taker in sorted(room) for _ in range(room[taker])]
    going.update(zip(homeless, places, strict=False))
    return going


def _share(before: Share, members: Collection[str], going: str | None) -> Share:
    """It is going to somebody, or stays."""
    if before.owner in members:
        return before if before.next == going else Share(before.owner, before.epoch, going)
    if going is not None:  # it belongs to nobody, or to who is dead: no need to ask
        return Share(going, before.epoch + 1, None)
    return before if before.owner is None else Share(None, before.epoch, None)


# ---- Giving away, and leaving --------------------------------------------------------------------


def give_away(document: GroupDocument, me: str, closed: Mapping[int, int]) -> GroupDocument:
    """The document with what `me` has closed handed over to who is next.

    Args:
        closed: by partition, the epoch under which it was closed.

    Returns: `document` itself if there is nothing to hand over.
    """
    given = {}
    for partition, epoch in closed.items():
        share = document.partitions.get(partition)
        if share is None or share.owner != me or share.epoch != epoch:
            continue
        if share.next is not None:
            given[partition] = Share(share.next, share.epoch + 1, None)
        elif me in document.leaving:
            given[partition] = Share(None, share.epoch, None)
    if not given:
        return document
    return replace(document, partitions={**document.partitions, **given})


def leave(document: GroupDocument, me: str) -> GroupDocument:
    """The document in which `me`, a member, is about to leave."""
    if me in document.leaving or me not in document.hosts:
        return document
    return replace(document, leaving=[*document.leaving, me])


def without(document: GroupDocument, me: str) -> GroupDocument:
    """The document without `me`, if that owns nothing any more."""
    if me not in document.hosts or owned_by(document, me):
        return document
    return replace(
        document,
        hosts=[host for host in document.hosts if host != me],
        leaving=[host for host in document.leaving if host != me],
    )


def rise_above(document: GroupDocument, me: str, epochs: Mapping[int, int]) -> GroupDocument:
    """The document in which `me` owns partitions with epochs above these, which it has seen.

    Returns: `document` itself if it does, or does not own them.
    """
    risen = {
        partition: replace(share, epoch=epoch + 1)
        for partition, epoch in epochs.items()
        if (share := document.partitions.get(partition, _NOBODY)).owner == me
        and share.epoch <= epoch < MAX_COUNT
    }
    if not risen:
        return document
    return replace(document, partitions={**document.partitions, **risen})


def owned_by(document: GroupDocument, me: str) -> dict[int, Share]:
    """What a member owns."""
    return {
        partition: share for partition, share in document.partitions.items() if share.owner == me
    }


# ---- What holds ----------------------------------------------------------------------------------


def check(document: GroupDocument) -> None:
    """Assert what holds of every document, whoever wrote it."""
    members, leaving = set(document.hosts), set(document.leaving)
    epochs = [share.epoch for share in document.partitions.values()]
    assert max([document.generation, *epochs]) <= MAX_COUNT, "it counts too far to be read again"
    assert len(members) == len(document.hosts), "a member is named twice"
    assert leaving <= members, "one leaves that is no member"
    strangers = {share.owner for share in document.partitions.values()} - members - {None}
    assert not strangers, f"owners are no members: {sorted(map(str, strangers))}"
    staying = members - leaving
    moving = [item for item in document.partitions.items() if item[1].next is not None]
    for partition, share in moving:
        assert share.owner is not None, f"{partition}: handed over by nobody"
        assert share.next in staying, f"{partition}: next is no member that stays"
        assert share.next != share.owner, f"{partition}: handed over to its owner"


def check_change(old: GroupDocument, new: GroupDocument, by: str | None = None) -> None:
    """Assert what holds between two versions of a group's document.

    Args:
        by: the member that made the change, if it is known.
    """
    staying = set(old.hosts).intersection(new.hosts)
    shares = new.partitions
    differ = [item for item in old.partitions.items() if shares.get(item[0]) is not item[1]]
    for partition, share in differ:
        changed = shares.get(partition)
        assert changed is not None, f"{partition} has left the document"
        if changed.owner == share.owner:
            risen = changed.epoch > share.epoch and share.owner is not None and by == share.owner
            assert changed.epoch == share.epoch or risen, f"{partition}: another epoch"
            continue
        got = changed.owner is not None
        assert changed.epoch == share.epoch + got, f"{partition}: not the next epoch"
        if share.owner is not None and by is not None:
            assert by == share.owner or share.owner not in staying, f"{partition}: stolen by {by}"


def is_settled(document: GroupDocument) -> bool:
    """Whether every partition is owned, none is to move, and shares are even."""
    shares = document.partitions
    takers = set(document.hosts).difference(document.leaving)
    moving = any(share.next is not None for share in shares.values())
    return not moving and _is_arranged(document, takers, len(shares))
