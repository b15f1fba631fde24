"""Events become messages in sets, none of them too large for the brokers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from eventlog.kafka.records import all_headers
from eventlog.kafka.topic_record import TopicRecord
from eventlog.kafka.writing.shipment import SET_EVENTS, Run, Shipment

RECORD = TopicRecord("cars", "0" * 32, 1, None, None, "zstd", "eventhubs", 2**20, 2**21, 0)
THEN = datetime(2024, 2, 29, tzinfo=UTC)


def shipment(bodies: list[bytes], keys: Any = None, properties: Any = None) -> Shipment:
    return Shipment(RECORD, 0, bodies, keys, all_headers(properties))


def cuts(bodies: list[bytes], keys: Any = None, properties: Any = None) -> list[tuple[int, int]]:
    return shipment(bodies, keys, properties).cuts(SET_EVENTS)


def largest(cuts: list[tuple[int, int]]) -> int:
    return max(end - start for start, end in cuts)


def test_small_events_are_one_set() -> None:
    assert cuts([b"a"]) == [(0, 1)]
    assert cuts([b"a" * 100] * 4000, [f"VIN-{n}" for n in range(4000)]) == [(0, 4000)]


def test_many_events_are_cut_evenly() -> None:
    count = 2 * SET_EVENTS + 1
    expected = [(0, SET_EVENTS), (SET_EVENTS, 2 * SET_EVENTS), (2 * SET_EVENTS, count)]
    assert cuts([b"a"] * count) == expected
    assert cuts([b"a"] * count, ["k", None, b"\xff"] * (count // 3)) == expected


def test_no_set_is_larger_than_brokers_take() -> None:
    for size in (300, 5_000, 400_000, 999_000):
        found = cuts([bytes(size)] * (50_000 if size == 300 else 500))
        assert largest(found) * size <= 1_000_000
        assert [start for start, _ in found[1:]] == [end for _, end in found[:-1]]


def test_larger_events_are_cut_evenly_into_sets_of_fewer() -> None:
    """Only sets of the same number of events go out one after the other without a pause."""
    for size, expected in ((100, SET_EVENTS), (600, 1000), (3000, 250), (10_000, SET_EVENTS)):
        some = shipment([bytes(size)] * 4100)
        assert some.set_events == expected
        lengths = [end - start for start, end in some.cuts(some.set_events)]
        if size < 10_000:
            assert {*lengths[:-1]} == {expected}
        assert sum(lengths) == 4100
        assert max(lengths) * size <= 1_000_000


def test_sets_may_be_smaller_than_they_need_be() -> None:
    """As they are when they go out with those of a partition whose events are larger."""
    assert shipment([b"a"] * 600).cuts(250) == [(0, 250), (250, 500), (500, 600)]
    uneven = shipment([bytes(10_000)] * 5 + [b"a"] * 995).cuts(250)
    assert largest(uneven) <= 250
    assert largest(shipment([bytes(999_000), *[b"a"] * 999]).cuts(250)) == 250


def test_keys_and_headers_count() -> None:
    assert largest(cuts([b""] * 2000, ["ä" * 500] * 2000)) <= 1000
    assert largest(cuts([b""] * 2000, ["a" * 500, b"\xff" * 500] * 1000)) <= 2000
    assert largest(cuts([b""] * 2000, None, [{"p": "ä" * 500}] * 2000)) <= 1000


def test_an_event_that_is_too_large_for_others_goes_alone() -> None:
    assert cuts([b"a", bytes(1_000_000), b"b", b"c"]) == [(0, 1), (1, 2), (2, 4)]


def test_a_topic_that_takes_less_gets_smaller_sets() -> None:
    small = RECORD._replace(max_message_bytes=10_512)
    found = Shipment(small, 0, [bytes(936)] * 100, None, None).cuts(SET_EVENTS)
    assert found == [(start, start + 10) for start in range(0, 100, 10)]


def test_only_what_needs_headers_has_some() -> None:
    assert shipment([b"a"], ["k"]).headers is None
    assert shipment([b"a", b"b"], [None, b"\xff"]).headers is None
    assert shipment([b"a", b"b"], ["k", b"k"]).headers is not None
    rich = shipment([b"a", b"b"], None, [None, {"n": "1"}])
    assert (rich.keys, rich.headers) == (None, [None, {"n": b"1"}])


def test_a_key_of_a_derived_class_is_its_text() -> None:
    class Text(str):
        __slots__ = ()

    assert shipment([b"a"], [Text("k")]).keys == [b"k"]


def test_each_event_has_the_place_of_its_set() -> None:
    some = shipment([b"a"] * 10)
    some.runs += [Run(0, 100, THEN), Run(4, 200, THEN), Run(8, 300, THEN)]
    assert [some.run_at(row).offset for row in range(10)] == [
        *(100, 101, 102, 103, 200, 201, 202, 203, 300, 301)
    ]
    assert some.end == 302
    assert [(run.row, run.offset) for run in some.breaks(2, 6)] == [(2, 200)]
    assert [(run.row, run.offset) for run in some.breaks(2, 7)] == [(2, 200), (6, 300)]
    assert some.breaks(4, 4) == []
    assert (some.receipt(5, 2).offset, some.receipt(5, 2).count) == (201, 2)
