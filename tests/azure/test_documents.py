"""Names that any names of Event Hubs give, and what of a blob is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventlog import EventLogError
from eventlog.azure.documents import Checkpoint, Ownership, Place, decode, encode
from eventlog.blobs.store import MAX_SEGMENT_BYTES, is_name

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
PLACE = Place("azure", "ns.servicebus.windows.net", "cars", "$Default", Ownership)


@given(NAMES, NAMES, NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@example("ns", "h" * 256, "g" * 256, "0")
@example("ns", "..", ".", "..")
@example("ns", "hub", "group", "X24")
def test_any_names_make_the_name_of_a_blob_and_the_partition_is_found_again(
    namespace: str, event_hub: str, group: str, partition: str
) -> None:
    place = Place("azure", namespace, event_hub, group, Checkpoint)
    name = place.name(partition)
    assert is_name(name) or partition == ""
    assert place.partition(name) == partition


@given(NAMES, NAMES)
@example("X24", "$")
@example("a" * 300, "a" * 299)
@example("a.b", "aX2eb")
def test_different_names_make_different_places(one: str, other: str) -> None:
    places = [Place("azure", "ns", hub, "g", Ownership).beginning for hub in (one, other)]
    assert (places[0] == places[1]) == (one.lower() == other.lower())


@pytest.mark.parametrize(
    ("text", "segment"),
    [
        ("$Default", "X24default"),
        ("fleet.servicebus.windows.net", "fleet.servicebus.windows.net"),
        ("my-hub_1", "my-hub_1"),
        (".hidden", "X2Ehidden"),
        ("a/b", "aX2Fb"),
        ("K\u00d6LN", "kXC3XB6ln"),
    ],
)
def test_names_are_plain_where_they_can_be(text: str, segment: str) -> None:
    assert (
        Place("azure", "ns", text, "g", Ownership).beginning == f"azure/ns/{segment}/g/ownership/"
    )


def test_names_that_are_too_long_are_cut_off() -> None:
    segment = Place("azure", "ns", "h" * 256, "g", Ownership).beginning.split("/")[2]
    assert len(segment) == MAX_SEGMENT_BYTES
    assert segment.startswith("h" * 200)


@pytest.mark.parametrize("name", ["0", "../0", "0/1", "X30", "XZZ", "XFF", "A", "\u00e9"])
def test_other_names_are_no_partitions(name: str) -> None:
    assert PLACE.partition(PLACE.beginning + name) == ("0" if name == "0" else None)


@pytest.mark.parametrize(
    "document",
    [Ownership("", "1f"), Ownership("a" * 1024, "1f"), Checkpoint("0", -1, "2a")],
)
def test_documents_are_json_and_come_back_as_they_were(document: Ownership | Checkpoint) -> None:
    data = encode(document)
    kind: Any = type(document)
    assert json.loads(data) == {key: getattr(document, key) for key in kind.__struct_fields__}
    assert decode("x", data, kind) == document


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{}",
        b'{"owner_id": null, "revision": "1"}',
        b'{"owner_id": "\xff", "revision": "1"}',
        b'{"owner_id": "a"}',
        b'{"owner_id": "' + b"a" * 1025 + b'", "revision": "1"}',
        b'{"owner_id": "a", "revision": "1"}' + b" " * 65536,
        b"[" * 10_000,
    ],
    ids=["empty", "null", "nothing", "no text", "no UTF-8", "half", "long", "huge", "deep"],
)
def test_what_is_damaged_is_said_to_be_by_its_name(data: bytes) -> None:
    with pytest.raises(EventLogError, match=r"blob 'the/name' is no ownership .* claims the"):
        decode("the/name", data, Ownership)


def test_fields_of_a_later_version_are_passed_over() -> None:
    document = decode("x", b'{"owner_id": "a", "revision": "1", "host": "b"}', Ownership)
    assert document == Ownership("a", "1")
