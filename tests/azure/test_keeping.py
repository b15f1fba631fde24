"""What reaches the store, and what comes of a store that fails, lags behind or is damaged."""

from __future__ import annotations

import functools
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import eventlog.blobs
from eventlog import (
    EventLogError,
    InvalidNameError,
    PreconditionFailedError,
    StoreUnavailableError,
)
from eventlog.azure import CheckpointStore, keeping
from eventlog.blobs import BlobStore, Listing
from tests.azure.stores import SCOPE, owners, scoped
from tests.group_stores import Unreliable

PLACE = "azure/fleet.servicebus.windows.net/cars/X24default"
OWN = f"{PLACE}/ownership/"
MANY = 1000


class Lagging(Unreliable):
    """A store whose listings are as they were when `stop_listing` was called."""

    listing: Listing | None = None

    def list(self, prefix: str) -> Listing:
        return super().list(prefix) if self.listing is None else self.listing

    def stop_listing(self) -> None:
        self.listing = self.real.list("")


@pytest.fixture
def blobs() -> Lagging:
    return Lagging(eventlog.blobs.open("memory:"))


@pytest.fixture
def store(blobs: BlobStore) -> CheckpointStore:
    return CheckpointStore(blobs)


def calls(blobs: Unreliable) -> Counter[str]:
    """How many of each kind there were since it was last asked."""
    counted = Counter(method for method, _ in blobs.calls)
    blobs.calls.clear()
    return counted


def claim(store: CheckpointStore, owner: str, *partitions: int) -> list[dict[str, object]]:
    return store.claim_ownership([scoped(number, owner_id=owner) for number in partitions])


# What is read


def test_what_was_seen_or_written_is_not_read_again(
    blobs: Unreliable, store: CheckpointStore
) -> None:
    assert len(claim(store, "a", *range(MANY))) == MANY
    assert calls(blobs) == {"put": MANY}
    assert len(store.list_ownership(*SCOPE)) == MANY
    assert calls(blobs) == {"list": 1}
    other = CheckpointStore(blobs)
    for reads in (MANY, 0):
        assert len(other.list_ownership(*SCOPE)) == MANY
        assert calls(blobs) == Counter(list=1, get=reads)


def test_only_what_changed_is_read(blobs: Unreliable, store: CheckpointStore) -> None:
    claim(store, "a", *range(10))
    other = CheckpointStore(blobs)
    seen = other.list_ownership(*SCOPE)
    assert other.claim_ownership([{**one, "owner_id": "b"} for one in seen[:3]])
    calls(blobs)
    assert Counter(owners(store).values()) == {"a": 7, "b": 3}
    assert calls(blobs) == {"list": 1, "get": 3}


def test_checkpoints_are_not_read_again_either(blobs: Unreliable, store: CheckpointStore) -> None:
    other = CheckpointStore(blobs)
    for number in range(10):
        store.update_checkpoint(scoped(number, offset="40", sequence_number=1))
    assert store.list_checkpoints(*SCOPE) == other.list_checkpoints(*SCOPE)
    assert calls(blobs) == {"put": 10, "list": 2, "get": 10}
    assert len(other.list_checkpoints(*SCOPE)) == 10
    assert calls(blobs) == {"list": 1}


def test_what_was_deleted_is_forgotten(blobs: Unreliable, store: CheckpointStore) -> None:
    claim(store, "a", 0, 1)
    blobs.delete(f"{OWN}0")
    assert owners(store) == owners(store) == {"1": "a"}
    assert calls(blobs)["get"] == 1  # to make sure that it is gone


# Listings that lag behind


def test_what_was_claimed_is_known_before_it_is_listed(
    blobs: Lagging, store: CheckpointStore
) -> None:
    blobs.stop_listing()
    [won] = claim(store, "a", 0)
    [seen] = store.list_ownership(*SCOPE)
    assert seen == won
    assert store.claim_ownership([seen])


def test_an_etag_of_the_past_is_not_taken_for_the_present(
    blobs: Lagging, store: CheckpointStore
) -> None:
    [won] = claim(store, "a", 0)
    blobs.stop_listing()
    [renewed] = store.claim_ownership([won])
    assert store.list_ownership(*SCOPE) == [renewed]


def test_who_lost_a_claim_looks_though_the_listing_shows_what_it_knows(
    blobs: Lagging, store: CheckpointStore
) -> None:
    [won] = claim(store, "a", 0)
    blobs.stop_listing()
    assert CheckpointStore(blobs).claim_ownership([{**won, "owner_id": "b"}])
    assert store.claim_ownership([won]) == []
    assert owners(store) == {"0": "b"}


# Failures


def test_a_claim_whose_answer_was_lost_is_won(blobs: Unreliable, store: CheckpointStore) -> None:
    blobs.lose = [StoreUnavailableError("the answer was lost")]
    [won] = claim(store, "a", 0)
    [seen] = CheckpointStore(blobs).list_ownership(*SCOPE)
    assert (seen["owner_id"], seen["etag"]) == ("a", won["etag"])


def test_what_cannot_be_renewed_is_kept_and_what_is_anothers_is_not_given(
    blobs: Unreliable, store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    own, others = claim(store, "a", 0), claim(CheckpointStore(blobs), "b", 1)
    seen = store.list_ownership(*SCOPE)
    assert [one["etag"] for one in seen] == [one["etag"] for one in own + others]
    claims = [{**one, "owner_id": "a"} for one in seen] + [scoped(2, owner_id="a")]
    blobs.fail = [StoreUnavailableError("no route")] * 3
    assert store.claim_ownership(claims) == [claims[0]]
    assert "some of 3 partitions could not be claimed" in caplog.text
    assert "no route" in caplog.text
    blobs.fail = []
    assert len(store.claim_ownership(claims)) == 3


def test_once_the_store_has_failed_the_round_begins_no_other_claim(
    blobs: Unreliable, store: CheckpointStore
) -> None:
    owned = claim(store, "a", *range(MANY))
    calls(blobs)
    blobs.fail = [OSError("the disk is gone")] * MANY
    assert store.claim_ownership(owned) == owned
    assert calls(blobs)["put"] <= blobs.calls_at_a_time


def test_no_more_claims_are_under_way_than_the_store_serves_at_a_time(
    blobs: Unreliable, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait for each other would come too late."""
    monkeypatch.setattr(Lagging, "calls_at_a_time", 3)
    pools = []

    def pool(at_a_time: int, name: str) -> ThreadPoolExecutor:
        pools.append(at_a_time)
        return ThreadPoolExecutor(at_a_time, name)

    monkeypatch.setattr(keeping, "ThreadPoolExecutor", pool)
    assert len(claim(store, "a", *range(10))) == 10
    assert len(CheckpointStore(blobs).list_ownership(*SCOPE)) == 10
    assert pools == [3, 3]


def test_what_its_owner_claims_upon_a_former_version_is_no_renewal(
    blobs: Unreliable, store: CheckpointStore
) -> None:
    [former] = claim(store, "a", 0)
    assert store.claim_ownership([former])
    blobs.fail = [StoreUnavailableError("no route")] * 2
    assert store.claim_ownership([former]) == claim(store, "a", 0) == []


def test_what_was_released_is_kept_by_nobody(blobs: Unreliable, store: CheckpointStore) -> None:
    [won] = claim(store, "a", 0)
    blobs.fail = [StoreUnavailableError("no route")]
    assert store.claim_ownership([{**won, "owner_id": ""}]) == []


def test_a_checkpoint_that_cannot_be_stored_raises(
    blobs: Unreliable, store: CheckpointStore
) -> None:
    blobs.fail = [StoreUnavailableError("no route")]
    with pytest.raises(StoreUnavailableError):
        store.update_checkpoint(scoped(0, offset="40", sequence_number=1))
    assert store.list_checkpoints(*SCOPE) == []


class Overtaken(Unreliable):
    """A store to which puts come late.

    Attributes:
        late: while it is a list, puts go there, and are unanswered.
    """

    late: list[Callable[[], object]] | None = None

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        if self.late is None:
            return super().put(name, data, if_match=if_match, if_absent=if_absent)
        conditions: Any = {"if_match": if_match, "if_absent": if_absent}
        self.late.append(functools.partial(self.real.put, name, data, **conditions))
        raise StoreUnavailableError("no answer")


@pytest.mark.parametrize("is_first", [False, True])
def test_a_checkpoint_that_comes_late_does_not_replace_a_later_one(is_first: bool) -> None:
    blobs = Overtaken(eventlog.blobs.open("memory:"))
    store = CheckpointStore(blobs)
    if not is_first:
        store.update_checkpoint(scoped(0, offset="1", sequence_number=1))
    late = blobs.late = []
    with pytest.raises(StoreUnavailableError):
        store.update_checkpoint(scoped(0, offset="100", sequence_number=100))
    blobs.late = None
    store.update_checkpoint(scoped(0, offset="200", sequence_number=200))
    assert len(late) == 1
    with pytest.raises(PreconditionFailedError):
        late[0]()
    [checkpoint] = CheckpointStore(blobs).list_checkpoints(*SCOPE)
    assert checkpoint["sequence_number"] == 200


def test_a_checkpoint_that_came_late_is_replaced() -> None:
    blobs = Overtaken(eventlog.blobs.open("memory:"))
    store = CheckpointStore(blobs)
    late = blobs.late = []
    with pytest.raises(StoreUnavailableError):
        store.update_checkpoint(scoped(0, offset="100", sequence_number=100))
    blobs.late = None
    late[0]()
    store.update_checkpoint(scoped(0, offset="200", sequence_number=200))
    [checkpoint] = CheckpointStore(blobs).list_checkpoints(*SCOPE)
    assert checkpoint["sequence_number"] == 200


def test_what_is_listed_but_not_there_is_not_taken_for_nothing(blobs: Lagging) -> None:
    """Its reader would begin the partition anew."""
    CheckpointStore(blobs).update_checkpoint(scoped(0, offset="40", sequence_number=1))
    blobs.stop_listing()
    blobs.delete(f"{PLACE}/checkpoint/0")
    store = CheckpointStore(blobs)
    with pytest.raises(StoreUnavailableError, match=r"checkpoint/0.* is listed .* is not there"):
        store.list_checkpoints(*SCOPE)
    blobs.listing = None
    assert store.list_checkpoints(*SCOPE) == []


def test_a_damaged_blob_is_named(blobs: Unreliable, store: CheckpointStore) -> None:
    claim(store, "a", 0, 1)
    blobs.put(f"{OWN}1", b'{"owner_id"')
    blobs.put(f"{PLACE}/checkpoint/0", b'{"offset": 7}')
    with pytest.raises(EventLogError, match=f"{OWN}1"):
        store.list_ownership(*SCOPE)
    with pytest.raises(EventLogError, match=r"checkpoint/0.* begins the partition anew"):
        store.list_checkpoints(*SCOPE)


def test_a_damaged_blob_can_be_claimed_by_nobody_and_mended_by_deleting_it(
    blobs: Unreliable, store: CheckpointStore
) -> None:
    blobs.put(f"{OWN}0", b"damaged")
    assert claim(store, "a", 0) == []
    blobs.delete(f"{OWN}0")
    assert claim(store, "a", 0)


def test_a_lost_claim_is_logged_with_who_lost_what(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "eventlog")
    claim(store, "a", 0)
    claim(store, "b", 0)
    assert "processor 'b' lost a claim of partition '0' of 'Cars' in group '$Default'" in (
        caplog.messages
    )


@pytest.mark.parametrize("prefix", ["", "/", "a/", ".a", "a b"])
def test_a_prefix_that_no_blob_can_have_is_refused_at_once(blobs: BlobStore, prefix: str) -> None:
    with pytest.raises(InvalidNameError):
        CheckpointStore(blobs, prefix=prefix)
