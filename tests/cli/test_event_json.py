"""The JSON of events: its schema, that nothing is lost in it, and what it refuses."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventlog
from eventlog import Event, StoredEvent
from eventlog.cli.event_json import decode_event, encode_events
from eventlog.event import PropertyValue

WHEN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stored(*events: Event, offset: int = 0) -> list[StoredEvent]:
    """The events as read from partition 3 of a topic, stored from `offset` on."""
    clock = int(WHEN.timestamp()) * 1_000_000
    with eventlog.open("memory:", clock=lambda: clock) as log:
        topic = log.create_topic("t", partitions=4)
        topic.append_batch([b""] * offset, partition=3)
        topic.append_batch(events, partition=3)
        return topic.read(3, offset)


def events() -> st.SearchStrategy[Event]:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    values: st.SearchStrategy[PropertyValue] = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        text,
        st.binary(max_size=20),
        st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).map(  # noqa: DTZ001  # bounds are naive
            lambda when: when.replace(tzinfo=UTC, fold=0)
        ),
    )
    return st.builds(
        Event,
        body=st.one_of(st.binary(max_size=50), text.map(str.encode)),
        key=st.one_of(st.none(), text, st.binary(max_size=20)),
        properties=st.dictionaries(text, values, max_size=5),
    )


def parts(event: Event) -> list[object]:
    """All of an event, with types, and so that a nan equals itself."""
    properties = {name: (type(value), repr(value)) for name, value in event.properties.items()}
    return [event.body, type(event.key), event.key, properties]


@settings(deadline=None)  # a log is made for each example
@given(st.lists(events(), max_size=5))
def test_every_event_comes_back_as_it_was(given_events: list[Event]) -> None:
    lines = encode_events(stored(*given_events))
    back = [decode_event(line, {}).event for line in lines.split(b"\n")[:-1]]
    for before, after in zip(given_events, back, strict=True):
        assert isinstance(after, Event)
        assert parts(after) == parts(before)


def test_the_schema_stands_as_documented() -> None:
    event = Event("é".encode(), key="VIN-1", properties={"lap": 3, "share": 1.0, "seen": WHEN})
    line = encode_events(stored(event, offset=41))
    assert line.decode() == (
        '{"partition":3,"offset":41,"enqueued_at":"2026-03-01T12:00:00.000000Z","key":"VIN-1",'
        '"body":"é","properties":{"lap":3,"share":1.0,"seen":{"datetime":"2026-03-01T12:00:00Z"}}}'
        "\n"
    )


def test_bytes_stand_in_fields_of_their_own() -> None:
    line = json.loads(encode_events(stored(Event(b"\xff", key=b"ascii"))))
    assert (line["body_base64"], line["key_base64"]) == ("/w==", "YXNjaWk=")
    assert not {"body", "key"} & line.keys()


def test_no_key_is_null_and_not_an_empty_key() -> None:
    none, empty = encode_events(stored(Event(b""), Event(b"", key=""))).splitlines()
    assert json.loads(none)["key"] is None
    assert json.loads(empty)["key"] == ""


def test_only_a_body_must_be_there_and_where_it_stood_is_passed_on_unjudged() -> None:
    assert decode_event(b'{"body": "x"}', {}) == (Event(b"x"), None)
    line = b'{"partition": 9, "offset": "any", "enqueued_at": 1, "body": "x", "properties": null}'
    assert decode_event(line, {}) == (Event(b"x"), 9)


def test_numbers_outside_json_and_times_in_any_zone_are_taken() -> None:
    line = (
        b'{"body": "", "properties": {"a": {"float": "nan"}, "b": {"float": "-inf"}, '
        b'"c": {"datetime": "2026-03-01T13:00:00+01:00"}, "d": 1e2}}'
    )
    properties = decode_event(line, {}).event.properties  # type: ignore[union-attr]
    assert math.isnan(properties["a"])  # type: ignore[arg-type]
    assert properties["b"] == -math.inf
    assert properties["c"] == WHEN.astimezone(timezone(timedelta(hours=1)))
    assert type(properties["d"]) is float


def test_an_events_own_properties_win_over_those_of_all() -> None:
    event = decode_event(b'{"body": "", "properties": {"a": 1}}', {"a": "x", "b": "y"}).event
    assert isinstance(event, Event)
    assert event.properties == MappingProxyType({"a": 1, "b": "y"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"x", "malformed"),
        (b"[1]", "Expected `object`"),
        (b"{}", "neither 'body' nor 'body_base64'"),
        (b'{"body": "x", "body_base64": ""}', "both 'body' and 'body_base64'"),
        (b'{"body": "x", "key": "x", "key_base64": ""}', "both 'key' and 'key_base64'"),
        (b'{"body": {"a": 1}}', "body"),
        (b'{"body": null}', "body"),
        (b'{"body_base64": "x"}', "base64"),
        (b'{"body": "x", "Key": "x"}', "unknown field `Key`"),
        (b'{"body": "\xff"}', "utf-8"),
        (b'{"body": "x", "key": 1}', "key"),
        (b'{"body": "x", "partition": "1"}', "partition"),
        (b'{"body": "x", "properties": {"a": [1]}}', "properties"),
        (b'{"body": "x", "properties": {"a": {}}}', "one of"),
        (b'{"body": "x", "properties": {"a": {"float": "nan", "base64": ""}}}', "one of"),
        (b'{"body": "x", "properties": {"a": {"datetime": "2026-03-01T12:00:00"}}}', "timezone"),
        (b'{"body": "x", "properties": {"a": 18446744073709551616}}', "64 bits"),
        (b'{"body": "x", "properties": {"a": 1e400}}', "out of range"),
        (b'{"body": "x", "key": "' + b"k" * 1025 + b'"}', "1024 bytes"),
    ],
)
def test_what_would_be_lost_or_guessed_is_refused(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_event(line, {})
