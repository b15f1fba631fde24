"""Events as Kafka's messages and back: nothing is lost, and nothing strange makes reading fail."""

from __future__ import annotations

import json
import operator
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any, cast

import pytest
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import Event, UnsupportedOperationError
from eventlog.event import NO_PROPERTIES, PropertyValue, StoredEvent, pack_properties
from eventlog.kafka.properties import pack
from eventlog.kafka.records import (
    KEY_HEADER,
    RESERVED,
    TYPES_HEADER,
    Headers,
    all_headers,
    all_headers_packed,
    from_messages,
    to_headers,
    to_key,
)
from eventlog.positions import microseconds

repeatable = settings(derandomize=True, deadline=None)

NOON_MS = 1_700_000_000_123
PROPERTIES = {
    "none": None,
    "bool": True,
    "int": -(2**63),
    "large": 2**64 - 1,
    "float": 0.1,
    "str": "ä",
    "bytes": b"\x00\xff",
    "text as bytes": b"abc",
    "datetime": datetime(2024, 2, 29, 12, 0, 0, 123456, UTC),
    "": "empty",
}


def message(
    value: bytes | None = b"",
    key: bytes | None = None,
    headers: Any = None,
    offset: int = 0,
    timestamp: int = NOON_MS,
) -> Message:
    return Message("cars", 3, offset, key, value, headers, None, (1, timestamp))


def sent(headers: Headers | None) -> Any:
    """Headers as a consumer of librdkafka gives them: bytes."""
    return headers and [
        (name, value.encode() if isinstance(value, str) else value)
        for name, value in headers.items()
    ]


def round_trip(event: Event) -> StoredEvent:
    key, headers = written(event)
    (back,) = from_messages("cars", 3, [message(event.body, key, sent(headers))])
    return back


def written(event: Event) -> tuple[bytes | None, Headers | None]:
    """The key and the headers of its message."""
    return to_key(event.key, to_headers(event.properties) if event.properties else None)


def test_an_event_comes_back_with_its_types() -> None:
    for key in (None, "ä", b"ascii", b"\xff", "", b""):
        event = Event(b"\x00\xff", key, PROPERTIES)
        back = round_trip(event)
        assert (back.body, back.key) == (event.body, key)
        assert type(back.key) is type(key)
        assert dict(back.properties) == PROPERTIES
        for name, value in PROPERTIES.items():
            assert type(back.properties[name]) is type(value), name


@repeatable
@given(
    st.binary(),
    st.none() | st.text(max_size=100) | st.binary(max_size=100),
    st.dictionaries(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20).filter(
            lambda name: name not in RESERVED
        ),
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats(allow_nan=False)
        | st.text(st.characters(codec="utf-8"))
        | st.binary()
        | st.datetimes(timezones=st.just(UTC)),
        max_size=5,
    ),
)
def test_whatever_an_event_is_it_comes_back(body: bytes, key: Any, properties: Any) -> None:
    back = round_trip(Event(body, key, properties))
    assert (back.body, back.key, dict(back.properties)) == (body, key, properties)
    assert {name: type(v) for name, v in back.properties.items()} == {
        name: type(v) for name, v in properties.items()
    }


def test_other_clients_read_text() -> None:
    """And need not know of types to do so."""
    key, headers = written(Event(b"body", "käy", PROPERTIES))
    assert key == "käy".encode()
    read = dict(sent(headers))
    types = json.loads(read.pop(TYPES_HEADER))
    assert read == {
        "none": None,
        "bool": b"true",
        "int": b"-9223372036854775808",
        "large": b"18446744073709551615",
        "float": b"0.1",
        "str": "ä".encode(),
        "bytes": b"\x00\xff",
        "text as bytes": b"abc",
        "datetime": b"2024-02-29T12:00:00.123456+00:00",
        "": b"empty",
    }
    assert types == {
        "bool": "bool",
        "int": "int",
        "large": "int",
        "float": "float",
        "bytes": "bytes",
        "text as bytes": "bytes",
        "datetime": "datetime",
    }


def test_what_needs_no_header_has_none() -> None:
    """Sending without headers is several times faster."""
    for key in (None, "key", b"\xff\xfe"):
        assert written(Event(b"", key))[1] is None
    assert written(Event(b"", b"text"))[1] == {KEY_HEADER: b"bytes"}
    assert written(Event(b"", "key", {"only": "text"}))[1] == {"only": b"text"}


def test_a_name_no_header_can_have_is_refused() -> None:
    for name in (*RESERVED, "cut\0off"):
        with pytest.raises(UnsupportedOperationError, match="no property can be named"):
            to_headers({name: 1})
        with pytest.raises(UnsupportedOperationError, match="no property can be named"):
            all_headers_packed([pack_properties({name: 1})])


def meaning(headers: Headers | None) -> Any:
    """Headers, in which it does not matter in what order types are told."""
    if headers is None or TYPES_HEADER not in headers:
        return headers
    return {**headers, TYPES_HEADER: json.loads(headers[TYPES_HEADER] or "")}


def test_headers_of_many_events_are_those_of_each() -> None:
    """Whether they are made one by one, name by name, or once for all that are alike."""
    several: list[list[dict[str, PropertyValue]]] = [
        [{"n": number, "unit": "km"} for number in range(1000)],
        [{"n": number % 7, "unit": "km"} for number in range(1000)],
        [{"n": number if number % 2 else None} for number in range(1000)],
        [{"n": number} if number % 2 else {"m": True} for number in range(1000)],
        [{"n": 1, "m": number} if number % 2 else {"m": number, "n": 1} for number in range(1000)],
        [{"n": number} if number % 2 else {"n": number, "m": 0.5} for number in range(1000)],
        [{"n": number} if number % 2 else {} for number in range(1000)],
        [{}] * 1000,
        [PROPERTIES] * 3,
        [PROPERTIES],
    ]
    for properties in several:
        expected = [to_headers(own) if own else None for own in properties]
        packed = [pack_properties(own) if own else None for own in properties]
        assert all_headers(properties) == expected
        together = all_headers_packed(packed)
        assert together is not None
        assert list(map(meaning, together)) == list(map(meaning, expected))
    assert all_headers(None) is None
    assert all_headers_packed(None) is None


def test_a_time_in_another_zone_comes_back_in_utc() -> None:
    when = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    back = round_trip(Event(b"", properties={"when": when})).properties["when"]
    assert back == when
    assert isinstance(back, datetime)
    assert back.utcoffset() == timedelta(0)


def test_messages_of_other_clients_are_read_as_far_as_they_can_be() -> None:
    headers = [("text", "ä".encode()), ("binary", b"\xff"), ("twice", b"1"), ("twice", b"2")]
    text, binary, empty = from_messages(
        "cars",
        3,
        [message(b"v", b"key", headers), message(None, b"\xff", offset=1), message(offset=2)],
    )
    assert dict(text.properties) == {"text": "ä", "binary": b"\xff", "twice": "2"}
    assert (text.key, binary.key, empty.key) == ("key", b"\xff", None)
    assert (binary.body, binary.properties) == (b"", NO_PROPERTIES)


@pytest.mark.parametrize(
    ("types", "value", "expected"),
    [
        (b"not json", b"1", "1"),
        (b"\xff", b"1", "1"),
        (b"[" * 100_000, b"1", "1"),
        (b'{"p":1}', b"1", "1"),
        (b'{"p":"list"}', b"1", "1"),
        (b'{"p":"int"}', b"one", "one"),
        (b'{"p":"int"}', b"9" * 10_000, "9" * 10_000),
        (b'{"p":"int"}', b"18446744073709551616", "18446744073709551616"),
        (b'{"p":"int"}', b"\xff", b"\xff"),
        (b'{"p":"int"}', None, None),
        (b'{"p":"bool"}', b"yes", "yes"),
        (b'{"p":"float"}', b"many", "many"),
        (b'{"p":"datetime"}', b"2024-01-01", "2024-01-01"),
        (b'{"p":"datetime"}', b"0001-01-01T00:00:00+23:00", "0001-01-01T00:00:00+23:00"),
        (b'{"q":"int"}', b"1", "1"),
        (None, b"1", "1"),
    ],
)
def test_headers_that_make_no_sense_are_text_or_bytes(
    types: bytes | None, value: bytes | None, expected: object
) -> None:
    headers = [("p", value), (TYPES_HEADER, types)]
    (event,) = from_messages("cars", 3, [message(headers=headers)])
    assert dict(event.properties) == {"p": expected}
    assert type(event.properties["p"]) is type(expected)


@repeatable
@given(
    st.none() | st.binary(),
    st.none() | st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.none() | st.binary())),
    st.integers(-(2**63), 2**63 - 1),
)
def test_no_message_makes_reading_fail(key: Any, headers: Any, timestamp: int) -> None:
    (event,) = from_messages("cars", 3, [message(b"", key, headers, timestamp=timestamp)])
    assert event.enqueued_at.utcoffset() == timedelta(0)


def test_headers_that_the_client_cannot_make_are_asked_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It fails at a name that is no UTF-8, and what it gives afterwards is not fit for use."""
    asked: list[int | None] = []

    class Choosy(Message):
        def headers(self) -> Any:
            asked.append(self.offset())
            if self.value() == b"strange":
                raise SystemError("returned a result with an exception set")
            return super().headers()

    monkeypatch.setattr("eventlog.kafka.records.Message", Choosy)
    bodies = [b"strange", b"a", b"strange", b"strange", b"b", b"strange"]
    events = from_messages(
        "cars",
        3,
        [
            Choosy("cars", 3, n, b"k", body, [("p", b"%d" % n)], None, (1, NOON_MS))
            for n, body in enumerate(bodies)
        ],
    )
    assert asked == [*range(6)]
    assert [dict(event.properties) for event in events] == [{}, {"p": "1"}, {}, {}, {"p": "4"}, {}]
    assert {event.key for event in events} == {"k"}


def test_events_with_and_without_headers_may_be_mixed() -> None:
    several: list[list[Any]] = [
        [None, None, [("p", b"1")], None],
        [[("p", b"1")], None, [("p", b"2")], []],
        [[], None, [("p", None)], [("p", b"3")]],
        [None, [], None, []],
    ]
    for headers in several:
        messages = [message(b"", b"k", own, offset=n) for n, own in enumerate(headers)]
        events = from_messages("cars", 3, messages)
        assert [dict(event.properties) for event in events] == [
            {name: value and value.decode() for name, value in own or []} for own in headers
        ]
        assert [event.offset for event in events] == [0, 1, 2, 3]


def test_a_key_is_bytes_only_where_its_own_header_says_so() -> None:
    """What looks like that header inside another one does not."""
    told = (KEY_HEADER, b"bytes")
    several: list[Any] = [[told], [("p", pack(told))], None, [told, ("p", b"")]]
    messages = [message(b"", b"k", headers, offset=n) for n, headers in enumerate(several)]
    assert [event.key for event in from_messages("cars", 3, messages)] == [b"k", "k", "k", "k"]


def test_events_know_where_they_stand_across_gaps_and_times() -> None:
    places = [(5, 1), (6, 1), (255, 1), (256, 1), (257, 2), (10_000, 2), (10_001, -1), (10_002, 0)]
    messages = [message(b"%d" % n, offset=n, timestamp=time) for n, time in places]
    events = from_messages("cars", 3, messages)
    assert [event.offset for event in events] == [offset for offset, _ in places]
    assert {(event.topic, event.partition) for event in events} == {("cars", 3)}
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert [(event.enqueued_at - epoch) / timedelta(milliseconds=1) for event in events] == [
        max(time, 0) for _, time in places
    ]
    assert from_messages("cars", 3, []) == []


def test_what_brokers_have_timed_is_not_asked_one_by_one_for_its_time() -> None:
    """Their times do not decrease: where the first and the last are the same, so are all."""
    for times in ([5, 5, 5], [5, 6, 6, 7]):
        messages = [
            Message("cars", 3, 250 + n, None, b"", None, None, (TIMESTAMP_LOG_APPEND_TIME, time))
            for n, time in enumerate(times)
        ]
        events = from_messages("cars", 3, messages)
        assert [event.offset for event in events] == [250 + n for n in range(len(times))]
        found = [microseconds(event.enqueued_at) // 1000 for event in events]
        assert found == times


def test_properties_are_a_mapping_that_does_not_change() -> None:
    """The same can be done with them as with those of other engines."""
    plain: Mapping[str, Any] = MappingProxyType({"n": 1, "text": "ä"})
    mine = round_trip(Event(b"", "key", plain)).properties
    assert isinstance(mine, Mapping)
    for same in (
        lambda one: one["n"],
        lambda one: (one.get("n"), one.get("m"), one.get("m", 3)),
        lambda one: ("n" in one, "m" in one, len(one), bool(one)),
        lambda one: ([*one], [*reversed(one)], [*one.keys()], [*one.values()], [*one.items()]),
        lambda one: (one | {"n": 2}, {"n": 2} | one, one | plain, plain | one, one.copy()),
        lambda one: {**one},
        lambda one: (one == plain, plain == one, one == {"n": 1}, one == 5),
    ):
        assert same(mine) == same(plain)
        assert repr(same(mine)) == repr(same(plain))
    assert repr(mine) == repr({"n": 1, "text": "ä"})
    match mine:
        case {"n": number}:
            assert number == 1
        case _:
            pytest.fail("it matches no mapping")
    for change in (lambda: hash(mine), lambda: operator.setitem(cast("Any", mine), "n", 2)):
        with pytest.raises(TypeError):
            change()
    with pytest.raises(KeyError):
        mine["m"]


def test_an_event_is_the_same_in_whatever_company_it_was_read() -> None:
    """With others of its time, of other times, with gaps between them; and in another process."""
    many = [message(b"%d" % n, offset=n, timestamp=NOON_MS + n // 3) for n in range(6)]
    alone = [event for one in many for event in from_messages("cars", 3, [one])]
    shared = from_messages("cars", 3, many)
    apart = from_messages("cars", 3, many[::2])
    assert alone == shared
    assert apart == alone[::2]
    assert shared[0] != from_messages("cars", 3, [message(b"0", timestamp=NOON_MS + 1)])[0]
    assert shared[0] != from_messages("vans", 3, many)[0]
    for events in (alone, shared, apart):
        copies = pickle.loads(pickle.dumps(events))
        assert copies == events
        assert [copy.enqueued_at for copy in copies] == [event.enqueued_at for event in events]
        assert set(map(hash, copies)) == set(map(hash, events))
