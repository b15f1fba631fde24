"""Processes that claim the same partitions at the same time: one wins each version of each."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final, NamedTuple

from eventlog.azure import CheckpointStore
from eventlog.blobs import BlobStore
from eventlog.testing import Opener
from eventlog.testing.races import RACERS, race
from tests.azure.stores import SCOPE, scoped

PARTITIONS: Final = 12
ROUNDS: Final = 10


class Win(NamedTuple):
    """A claim that was won: upon which version, None for none, and what came of it."""

    partition: str
    before: str | None
    after: str


def claim_all(blobs: BlobStore, number: int) -> list[Win]:
    """Claim every partition, again and again, upon what is listed; what was won."""
    store = CheckpointStore(blobs)
    chance = random.Random(number)
    wins = []
    for _ in range(ROUNDS):
        seen = {one["partition_id"]: one for one in store.list_ownership(*SCOPE)}
        claims = [
            {**seen.get(str(partition), scoped(partition)), "owner_id": f"owner {number}"}
            for partition in chance.sample(range(PARTITIONS), PARTITIONS)
        ]
        before = {one["partition_id"]: one.get("etag") for one in claims}
        wins += [
            Win(one["partition_id"], before[one["partition_id"]], one["etag"])
            for one in store.claim_ownership(claims)
        ]
    return wins


def test_each_version_of_each_partition_is_claimed_by_one_process(opener: Opener) -> None:
    with opener() as blobs:
        wins = [win for won in race(blobs, opener, claim_all) for win in won]
        final = {
            one["partition_id"]: one["etag"]
            for one in CheckpointStore(blobs).list_ownership(*SCOPE)
        }
    twice = Counter((win.partition, win.before) for win in wins)
    assert set(twice.values()) == {1}
    assert len(final) == PARTITIONS
    for partition, etag in final.items():
        mine = [win for win in wins if win.partition == partition]
        assert {win.before for win in mine} | {etag} == {win.after for win in mine} | {None}
    assert len(wins) > PARTITIONS * ROUNDS // RACERS  # otherwise they hardly met
