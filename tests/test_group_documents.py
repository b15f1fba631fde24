"""The documents of a group: what they look like, nonsense in them, deleting, topics made again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from eventlog import (
    ConsumerDisconnectedError,
    EventLogError,
    TopicNotFoundError,
)
from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, NotModified
from eventlog.blobs import open as open_blobs
from eventlog.groups.checkpoints import GroupStore
from tests.group_stores import (
    GROUP,
    IDS,
    PLACE,
    WHEN,
    Clock,
    Unreliable,
    a_store,
    checkpoint_name,
    edit,
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


# The documents


def test_a_group_appears_with_its_first_claim_and_not_before(
    store: GroupStore, blobs: BlobStore
) -> None:
    assert store.document() is None
    assert store.checkpoints() == {}
    assert store.checkpoint(0) is None
    assert store.members() == []
    assert store.owner(0) is None
    assert blobs.list("") == []
    store.claim(0, "reader", 5)
    assert [name for name, _ in blobs.list("")] == [checkpoint_name(0), GROUP]


def test_documents_are_json_for_people_and_name_what_they_belong_to(
    store: GroupStore, blobs: BlobStore
) -> None:
    _, etag = store.claim(3, "reader", 5)
    store.advance(3, "reader", 8, WHEN, etag)
    group = store.ensure().group
    blob = blobs.get(checkpoint_name(3))
    assert isinstance(blob, Blob)
    assert blob.data.decode().splitlines()[:3] == [
        "{",
        '  "offset": 8,',
        '  "enqueued_at": "2026-03-01T12:00:00Z",',
    ]
    revision = stored(blobs, checkpoint_name(3))["revision"]
    assert json.loads(blob.data) == {
        "offset": 8,
        "enqueued_at": "2026-03-01T12:00:00Z",
        "epoch": 0,
        "owner": "reader",
        "updated_at": "2023-11-14T22:13:20Z",
        "reset": 0,
        "crashes": 0,
        "attempts": 0,
        "noticed": 0,
        "consumer": 1,
        "alive_at": "2023-11-14T22:13:20Z",
        "opened": None,
        "attempted": None,
        "alone_until": 0,
        "revision": revision,
        "log": "log-1",
        "topic": "7",
        "group": group,
    }
    assert stored(blobs, GROUP) == {
        "generation": 1,
        "lease_duration": None,
        "consumers": 1,
        "topic_partitions": 0,
        "hosts": [],
        "leaving": [],
        "partitions": {},
        "resets": 0,
        "revision": stored(blobs, GROUP)["revision"],
        "log": "log-1",
        "topic": "7",
        "group": group,
    }


def test_two_who_make_a_group_at_once_agree_on_one(blobs: BlobStore, clock: Clock) -> None:
    between = Unreliable(blobs)
    between.before[GROUP] = a_store(blobs, clock).ensure
    made = a_store(between, clock).ensure()
    assert made == a_store(blobs, clock).document()


def test_groups_made_at_different_times_have_different_ids(store: GroupStore) -> None:
    first = store.ensure().group
    store.delete()
    assert store.document() is None
    assert store.ensure().group != first


NONSENSE = [
    b"",
    b"nonsense",
    b"\xff",
    b"[]",
    b"null",
    b"{}",
    b'{"x": ' + b"[" * 200_000,
]


@pytest.mark.parametrize("data", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize("name", [GROUP, checkpoint_name(0)])
def test_nonsense_in_a_document_is_an_error_that_names_the_blob(
    store: GroupStore, blobs: BlobStore, clock: Clock, name: str, data: bytes
) -> None:
    _, etag = store.claim(0, "reader", 0)
    blobs.put(name, data)
    for use in (
        lambda other: other.claim(0, "other", 0),
        lambda other: other.checkpoint(0),
        lambda other: other.checkpoints(),
        lambda other: other.members(),
        lambda other: other.advance_unowned(0, 9),
        lambda other: other.reset({0: 0}),
        lambda other: store.still_mine("reader", {0: etag}),
    ):
        with pytest.raises(EventLogError, match=name):
            use(a_store(blobs, clock))
    store.release(0, "reader", etag)
    store.delete()
    assert blobs.list("") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": -2},
        {"offset": 2**63},
        {"offset": "3"},
        {"offset": 1.5},
        {"epoch": -1},
        {"owner": ""},
        {"owner": "x" * 1025},
        {"owner": 7},
        {"updated_at": "yesterday"},
        {"updated_at": "2026-03-01T12:00:00"},
        {"enqueued_at": 5},
        {"reset": None},
        {"group": None},
        {"log": "another"},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_an_error_that_names_the_blob(
    store: GroupStore, blobs: BlobStore, clock: Clock, changes: dict[str, Any]
) -> None:
    store.claim(0, "reader", 0)
    edit(blobs, checkpoint_name(0), **changes)
    with pytest.raises(EventLogError, match=checkpoint_name(0)):
        a_store(blobs, clock).claim(0, "other", 0)


def test_what_a_later_version_adds_to_a_document_is_no_damage(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    store.claim(0, "reader", 4)
    edit(blobs, checkpoint_name(0), mood="sunny")
    edit(blobs, GROUP, mood="sunny")
    assert a_store(blobs, clock).claim(0, "other", 0)[0].offset == 3


def test_blobs_that_are_no_checkpoints_are_passed_over(store: GroupStore, blobs: BlobStore) -> None:
    store.claim(0, "reader", 0)
    for name in ("00.json", "1.json.old", "-1.json", "x.json", "1/2.json", "1234567.json"):
        blobs.put(f"{PLACE}checkpoints/{name}", b"nonsense")
    assert list(store.checkpoints()) == [0]


def test_checkpoints_come_in_the_order_of_partitions(store: GroupStore) -> None:
    for partition in (10, 2, 0):
        store.claim(partition, "reader", partition)
    assert {n: c.offset for n, c in store.checkpoints().items()} == {0: -1, 2: 1, 10: 9}
    assert list(store.checkpoints()) == [0, 2, 10]


# Deleting, and topics made again


def test_deleting_a_group_removes_everything_of_it_and_nothing_else(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    others = [
        IDS._replace(group="fraud-2"),
        IDS._replace(topic_name="cars-2"),
        IDS._replace(log="l"),
    ]
    for ids in others:
        a_store(blobs, clock, ids).claim(0, "x", 0)
    kept = blobs.list("")
    store.claim(0, "a", 0)
    blobs.put(f"{PLACE}hosts/h.json", b'{"group": "?"}')
    blobs.put(f"{PLACE}hosts/damaged.json", b"\xff")
    store.delete()
    assert blobs.list("") == kept
    store.delete()


def test_the_consumers_of_a_deleted_group_are_disconnected(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 0)
    a_store(blobs, clock).delete()
    for use in (
        lambda: store.advance(0, "a", 3, None, etag),
        lambda: store.still_mine("a", {0: etag}),
    ):
        with pytest.raises(ConsumerDisconnectedError, match="'fraud' of topic 'cars' was deleted"):
            use()
    store.release(0, "a", etag)
    assert blobs.list("") == []


def test_a_group_that_was_made_again_begins_anew_and_knows_no_earlier_consumer(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 50)
    new = a_store(blobs, clock)
    new.delete()
    assert new.claim(0, "b", 7)[0].offset == 6
    with pytest.raises(ConsumerDisconnectedError):
        store.advance(0, "a", 60, None, etag)
    with pytest.raises(ConsumerDisconnectedError):
        store.still_mine("a", {0: etag})


def test_what_a_deletion_left_behind_counts_as_absent(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    """It was killed after its first step."""
    _, etag = store.claim(0, "a", 50)
    blobs.delete(GROUP)
    other = a_store(blobs, clock)
    assert other.checkpoints() == {}
    assert other.checkpoint(0) is None
    with pytest.raises(ConsumerDisconnectedError, match="deleted"):
        store.still_mine("a", {0: etag})
    other.ensure()
    assert other.checkpoints() == {}
    with pytest.raises(ConsumerDisconnectedError, match="deleted"):
        store.still_mine("a", {0: etag})
    assert other.claim(0, "b", 3)[0].offset == 2
    assert other.checkpoint(0) is not None


def test_a_claim_that_a_deletion_overtakes_is_made_again_in_the_new_group(
    blobs: BlobStore, clock: Clock
) -> None:
    between = Unreliable(blobs)
    store = a_store(between, clock)
    first = store.ensure().group
    between.before[checkpoint_name(0)] = a_store(blobs, clock).delete
    store.claim(0, "a", 3)
    group = store.document()
    assert group is not None
    assert group.group != first
    assert stored(blobs, checkpoint_name(0))["group"] == group.group
    assert stored(blobs, checkpoint_name(0))["consumer"] == group.consumers == 1


def test_a_deletion_spares_a_group_that_is_made_meanwhile(blobs: BlobStore, clock: Clock) -> None:
    class Overtaken(Unreliable):
        def list(self, prefix: str) -> list[tuple[str, str]]:
            listed = super().list(prefix)
            if self.before:
                self.before.popitem()[1]()
            return listed

    between, other = Overtaken(blobs), a_store(blobs, clock)
    for partition in (0, 1):
        other.claim(partition, "a", 0)
    between.before["list"] = lambda: other.claim(0, "b", 7)
    a_store(between, clock).delete()
    assert {n: c.offset for n, c in other.checkpoints().items()} == {0: 6}
    assert [name for name, _ in blobs.list("")] == [checkpoint_name(0), GROUP]


def test_a_deletion_spares_what_is_written_while_it_deletes(blobs: BlobStore, clock: Clock) -> None:
    class Overtaken(Unreliable):
        def delete(self, name: str, *, if_match: str | None = None) -> None:
            self.before.pop(name, lambda: None)()
            super().delete(name, if_match=if_match)

    between, other = Overtaken(blobs), a_store(blobs, clock)
    other.claim(0, "a", 0)
    between.before[checkpoint_name(0)] = lambda: other.claim(0, "b", 7)
    a_store(between, clock).delete()
    assert other.checkpoints()[0].owner == "b"


def test_documents_of_an_earlier_topic_of_the_name_count_as_absent(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    _, etag = store.claim(0, "a", 50)
    new = a_store(blobs, clock, IDS._replace(topic_id="8"))
    assert new.document() is None
    assert new.checkpoint(0) is None
    assert new.checkpoints() == {}
    assert new.members() == []
    assert new.claim(0, "b", 7)[0].offset == 6
    for use in (
        lambda: store.advance(0, "a", 60, None, etag),
        lambda: store.still_mine("a", {0: etag}),
    ):
        with pytest.raises(ConsumerDisconnectedError, match="deleted"):
            use()
    assert new.checkpoints()[0].offset == 6


def test_who_holds_a_deleted_topic_cannot_replace_what_belongs_to_the_new_one(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    def gone() -> None:
        raise TopicNotFoundError("it was deleted")

    store.claim(0, "a", 50)
    old = a_store(blobs, clock, require_topic=gone)
    old.advance_unowned(0, 60)
    new = a_store(blobs, clock, IDS._replace(topic_id="8"))
    new.claim(0, "b", 7)
    for use in (
        lambda: old.claim(0, "c", 0),
        lambda: old.advance_unowned(0, 70),
        lambda: old.reset({0: 0}, force=True),
    ):
        with pytest.raises(TopicNotFoundError):
            use()
    assert new.checkpoints()[0].owner == "b"


def test_a_topic_that_is_made_again_while_its_group_is_replaced_wins(
    blobs: BlobStore, clock: Clock
) -> None:
    """The topic is looked at after the document: whatever replaces it meanwhile is newer."""
    a_store(blobs, clock, IDS._replace(topic_id="6")).claim(0, "a", 50)
    newer = a_store(blobs, clock, IDS._replace(topic_id="8"))
    looks: list[object] = []

    def look_at_the_topic() -> None:
        looks.append(newer.claim(0, "b", 7) if not looks else None)
        if len(looks) > 1:
            raise TopicNotFoundError("it was deleted")

    with pytest.raises(TopicNotFoundError):
        a_store(blobs, clock, require_topic=look_at_the_topic).claim(0, "c", 0)
    assert newer.checkpoints()[0].owner == "b"


def test_deleting_the_group_of_a_new_topic_removes_what_the_old_one_left(
    store: GroupStore, blobs: BlobStore, clock: Clock
) -> None:
    store.claim(0, "a", 50)
    a_store(blobs, clock, IDS._replace(topic_id="8")).delete()
    assert blobs.list("") == []


# What is read again


def test_what_has_not_changed_is_not_read_again(blobs: BlobStore, clock: Clock) -> None:
    class Reads(Unreliable):
        read = 0

        def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
            found = super().get(name, if_none_match=if_none_match)
            self.read += found is not NOT_MODIFIED
            return found

    writer = a_store(blobs, clock)
    etags = {partition: writer.claim(partition, "a", 0)[1] for partition in range(4)}
    reads = Reads(blobs)
    store = a_store(reads, clock)
    store.checkpoints()
    assert reads.read == 5
    writer.advance(2, "a", 3, None, etags[2])
    assert store.checkpoints()[2].offset == 3
    assert reads.read == 6
    store.checkpoints()
    assert reads.read == 6
