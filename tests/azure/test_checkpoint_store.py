"""What the SDK relies on: claims, ownership and checkpoints, as in Azure's own stores."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import eventlog.blobs
from eventlog import ClosedError
from eventlog.blobs import Blob, BlobStore
from tests.azure.stores import NAMESPACE, SCOPE, Face, owners, scoped


def checkpoint(partition: int, number: int) -> dict[str, object]:
    return scoped(partition, offset=str(number * 40), sequence_number=number)


# Claims


def test_at_first_nobody_owns_anything(face: Face, blobs: BlobStore) -> None:
    assert face(blobs).list_ownership(*SCOPE) == []


def test_a_partition_that_nobody_ever_claimed_is_won_without_an_etag(
    face: Face, blobs: BlobStore
) -> None:
    began = time.time()
    [won] = face(blobs).claim_ownership([scoped(0, owner_id="a")])
    assert won == scoped(
        0, owner_id="a", etag=won["etag"], last_modified_time=won["last_modified_time"]
    )
    assert began <= won["last_modified_time"] <= time.time()


def test_others_see_who_owns_what_by_which_etag(face: Face, blobs: BlobStore) -> None:
    began = time.time()
    [won] = face(blobs).claim_ownership([scoped(0, owner_id="a")])
    [seen] = face(blobs).list_ownership(*SCOPE)
    modified = seen.pop("last_modified_time")  # by the store's clock, some of which tell seconds
    assert began - 1.1 <= modified <= time.time() + 1.1
    del won["last_modified_time"]
    assert seen == won


def test_a_claim_without_an_etag_of_what_was_claimed_is_left_out(
    face: Face, blobs: BlobStore
) -> None:
    face(blobs).claim_ownership([scoped(0, owner_id="a")])
    assert face(blobs).claim_ownership([scoped(0, owner_id="b")]) == []
    assert face(blobs).claim_ownership([scoped(0, owner_id="b", etag=None)]) == []
    assert owners(face(blobs)) == {"0": "a"}


def test_of_two_claims_upon_one_etag_the_first_wins(face: Face, blobs: BlobStore) -> None:
    one, other = face(blobs), face(blobs)
    one.claim_ownership([scoped(0, owner_id="a")])
    [seen], [same] = one.list_ownership(*SCOPE), other.list_ownership(*SCOPE)
    [won] = other.claim_ownership([{**same, "owner_id": "b"}])
    assert one.claim_ownership([{**seen, "owner_id": "c"}]) == []
    assert owners(one) == owners(other) == {"0": "b"}
    assert won["etag"] != seen["etag"]


def test_a_claim_of_what_is_gone_is_lost_if_it_has_an_etag(face: Face, blobs: BlobStore) -> None:
    store = face(blobs)
    [won] = store.claim_ownership([scoped(0, owner_id="a")])
    [(name, _)] = blobs.list("azure/")
    blobs.delete(name)
    assert store.claim_ownership([won]) == []
    assert owners(store) == {}


def test_every_renewal_has_another_etag_and_a_later_time(face: Face, blobs: BlobStore) -> None:
    store = face(blobs)
    claims = [store.claim_ownership([scoped(0, owner_id="a")])]
    for _ in range(3):
        claims.append(store.claim_ownership(claims[-1]))
    assert len({won["etag"] for [won] in claims}) == 4
    times = [won["last_modified_time"] for [won] in claims]
    assert times == sorted(times)


def test_what_its_owner_releases_is_nobodys_and_anybody_takes_it(
    face: Face, blobs: BlobStore
) -> None:
    store = face(blobs)
    [won] = store.claim_ownership([scoped(0, owner_id="a")])
    store.claim_ownership([{**won, "owner_id": ""}])
    [seen] = face(blobs).list_ownership(*SCOPE)
    assert seen["owner_id"] == ""
    assert face(blobs).claim_ownership([{**seen, "owner_id": "b"}])
    assert owners(store) == {"0": "b"}


def test_of_many_claims_those_that_won_are_the_result_in_their_order(
    face: Face, blobs: BlobStore
) -> None:
    store = face(blobs)
    store.claim_ownership([scoped(number, owner_id="a") for number in (3, 7)])
    wanted = [scoped(number, owner_id="b") for number in reversed(range(10))]
    won = store.claim_ownership(wanted)
    assert [int(one["partition_id"]) for one in won] == [9, 8, 6, 5, 4, 2, 1, 0]
    assert owners(store) == {str(number): "a" if number in (3, 7) else "b" for number in range(10)}


def test_dictionaries_are_the_callers_to_change(face: Face, blobs: BlobStore) -> None:
    store = face(blobs)
    asked = scoped(0, owner_id="a")
    [won] = store.claim_ownership([asked])
    assert asked == scoped(0, owner_id="a")
    won["owner_id"] = "changed"
    store.list_ownership(*SCOPE)[0]["owner_id"] = "changed"
    assert owners(store) == {"0": "a"}


# Checkpoints


def test_at_first_there_is_no_checkpoint(face: Face, blobs: BlobStore) -> None:
    face(blobs).claim_ownership([scoped(0, owner_id="a")])
    assert face(blobs).list_checkpoints(*SCOPE) == []


def test_the_last_checkpoint_of_each_partition_counts_whoever_wrote_it(
    face: Face, blobs: BlobStore
) -> None:
    one, other = face(blobs), face(blobs)
    one.update_checkpoint(checkpoint(0, 5))
    one.update_checkpoint(checkpoint(1, 9))
    assert one.list_checkpoints(*SCOPE) == [checkpoint(0, 5), checkpoint(1, 9)]
    other.update_checkpoint(checkpoint(0, 3))  # also backwards, as there
    assert one.list_checkpoints(*SCOPE) == [checkpoint(0, 3), checkpoint(1, 9)]


def test_an_offset_that_is_a_number_is_stored_as_text(face: Face, blobs: BlobStore) -> None:
    face(blobs).update_checkpoint(scoped(0, offset=4096, sequence_number=7))
    assert face(blobs).list_checkpoints(*SCOPE) == [scoped(0, offset="4096", sequence_number=7)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": None, "sequence_number": 1},
        {"offset": "", "sequence_number": 1},
        {"offset": "x" * 2000, "sequence_number": 1},
        {"offset": "1", "sequence_number": None},
        {"offset": "1", "sequence_number": 2**63},
    ],
)
def test_what_no_event_can_have_is_no_checkpoint(face: Face, wrong: dict[str, Any]) -> None:
    with eventlog.blobs.open("memory:") as blobs:
        with pytest.raises(ValueError, match="no checkpoint"):
            face(blobs).update_checkpoint(scoped(0, **wrong))
        assert blobs.list("") == []


def test_if_one_claim_is_none_nothing_is_claimed(face: Face) -> None:
    with eventlog.blobs.open("memory:") as blobs:
        with pytest.raises(ValueError, match="no ownership"):
            face(blobs).claim_ownership([scoped(0, owner_id="a"), scoped(1, owner_id=None)])
        assert blobs.list("") == []


# Places


def test_groups_event_hubs_and_namespaces_are_apart(face: Face, blobs: BlobStore) -> None:
    store = face(blobs)
    scopes = [SCOPE, (NAMESPACE, "Cars", "b"), (NAMESPACE, "c", "$Default"), ("d", *SCOPE[1:])]
    for number, scope in enumerate(scopes):
        store.claim_ownership([scoped(0, scope, owner_id=f"owner {number}")])
        store.update_checkpoint(scoped(0, scope, offset=str(number + 1), sequence_number=number))
    assert [owners(store, scope) for scope in scopes] == [
        {"0": f"owner {number}"} for number in range(4)
    ]
    assert [store.list_checkpoints(*scope)[0]["sequence_number"] for scope in scopes] == [*range(4)]


def test_prefixes_are_apart(face: Face, blobs: BlobStore) -> None:
    face(blobs, prefix="teams/one").claim_ownership([scoped(0, owner_id="a")])
    assert owners(face(blobs, prefix="teams/two")) == owners(face(blobs)) == {}
    assert owners(face(blobs, prefix="teams/one")) == {"0": "a"}


def test_names_that_differ_in_case_are_the_same_and_come_back_as_they_were_asked_for(
    face: Face, blobs: BlobStore
) -> None:
    face(blobs).claim_ownership([scoped(0, owner_id="a")])
    scope = (NAMESPACE.upper(), "CARS", "$default")
    [seen] = face(blobs).list_ownership(*scope)
    assert seen["eventhub_name"] == "CARS"
    assert face(blobs).claim_ownership([{**seen, "owner_id": "b"}])
    assert owners(face(blobs)) == {"0": "b"}


def test_a_person_can_read_what_is_stored_and_where(face: Face) -> None:
    with eventlog.blobs.open("memory:") as blobs:
        face(blobs).claim_ownership([scoped(3, owner_id="a")])
        face(blobs).update_checkpoint(checkpoint(3, 5))
        place = "azure/fleet.servicebus.windows.net/cars/X24default"
        assert [name for name, _ in blobs.list("")] == [
            f"{place}/checkpoint/3",
            f"{place}/ownership/3",
        ]
        blob = blobs.get(f"{place}/checkpoint/3")
        assert isinstance(blob, Blob)
        beginning = b'{\n  "offset": "200",\n  "sequence_number": 5,\n  "revision": "'
        assert blob.data.startswith(beginning)


def test_what_else_is_in_the_place_is_nobodys(face: Face, blobs: BlobStore) -> None:
    store = face(blobs)
    store.claim_ownership([scoped(0, owner_id="a")])
    place = "azure/fleet.servicebus.windows.net/cars/X24default/ownership/"
    for name in ("notes.TXT", "X30", "XFF", "deeper/0"):
        blobs.put(place + name, b"not ours")
    assert owners(store) == {"0": "a"}


# The SDK's way


def test_keywords_for_azures_stores_are_ignored(face: Face, blobs: BlobStore) -> None:
    store = face(blobs)
    assert store.claim_ownership([scoped(0, owner_id="a")], timeout=3)
    assert store.list_ownership(*SCOPE, timeout=3)
    store.update_checkpoint(checkpoint(0, 1), timeout=3)
    assert store.list_checkpoints(*SCOPE, timeout=3)


def test_a_store_that_is_given_stays_open(face: Face) -> None:
    with eventlog.blobs.open("memory:") as blobs:
        face(blobs).close()
        assert blobs.list("") == []


def test_a_store_that_was_opened_by_its_url_is_closed_with_it(face: Face, tmp_path: Path) -> None:
    for url in (f"file:{tmp_path}/store", tmp_path / "store"):
        store = face(url)
        assert "store" in repr(store)
        store.update_checkpoint(checkpoint(0, 1))
        store.close()
        store.close()
        with pytest.raises(ClosedError):
            store.list_ownership(*SCOPE)
        assert store.claim_ownership([scoped(0, owner_id="a")]) == []  # as a client does that ends
