"""Events: what can be in one, what is refused, and that it stays as it was made."""

from __future__ import annotations

import copy
import enum
import gc
import pickle
from collections import UserDict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog import Event, EventLog, EventTooLargeError, StoredEvent, Topic
from eventlog.event import MAX_KEY_BYTES, MAX_PROPERTIES_BYTES, MAX_PROPERTY_NAME_BYTES

repeatable = settings(derandomize=True, deadline=None)

UNTYPED: Any = Event
"""For what type checkers refuse, too."""

WHEN = datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=UTC)


class Text(str):
    """A str that is not quite one."""

    __slots__ = ()


class Number(enum.IntEnum):
    ONE = 1


# Bodies


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (b"bytes", b"bytes"),
        pytest.param(b"", b"", id="no bytes"),
        ("Gr\u00fc\u00dfe", b"Gr\xc3\xbc\xc3\x9fe"),
        pytest.param("", b"", id="no text"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"view")[1:3], b"ie"),
        (memoryview(b"abcdef")[::2], b"ace"),
        (Text("text"), b"text"),
    ],
)
def test_a_body_is_kept_as_bytes(given: Any, stored: bytes) -> None:
    """Text becomes UTF-8; whatever holds bytes is copied."""
    event = Event(given)
    assert event.body == stored
    assert type(event.body) is bytes


def test_a_body_given_as_a_bytearray_is_a_copy() -> None:
    """What the caller does to the array afterwards does not change the event."""
    array = bytearray(b"before")
    event = Event(array)
    array[:] = b"after!"
    assert event.body == b"before"


@pytest.mark.parametrize("body", [{"a": 1}, [b"a"]])
def test_a_body_that_looks_like_json_is_refused_with_a_hint(body: object) -> None:
    """The error says what to write instead."""
    with pytest.raises(TypeError, match=r"Event\.from_json"):
        UNTYPED(body)


@pytest.mark.parametrize("body", [None, 1, 1.5, object(), Event(b"")])
def test_a_body_of_another_type_is_refused_by_its_name(body: object) -> None:
    """The error names the type that was given."""
    with pytest.raises(TypeError, match=type(body).__name__):
        UNTYPED(body)


def test_text_that_is_no_unicode_is_refused() -> None:
    """A lone surrogate has no UTF-8: in a body, a key, a property's name or value."""
    for arguments in (
        ("\ud800",),
        (b"", "\ud800"),
        (b"", None, {"\ud800": 1}),
        (b"", None, {"a": "\ud800"}),
    ):
        with pytest.raises(ValueError, match="Unicode"):
            UNTYPED(*arguments)


# JSON and text


def test_a_body_can_be_made_of_json_and_read_as_it() -> None:
    """Compact JSON in UTF-8, with whatever JSON can say."""
    value = {"a": [1, 2.5, None, True], "b": "\u00e9"}
    event = Event.from_json(value, key="k", properties={"p": 1})
    assert event.body == '{"a":[1,2.5,null,true],"b":"\u00e9"}'.encode()
    assert event.json() == value
    assert event.text() == event.body.decode()
    assert (event.key, event.properties) == ("k", {"p": 1})


def test_what_has_no_json_form_is_refused() -> None:
    """Making such an event is a TypeError; reading bytes that are no JSON a ValueError."""
    with pytest.raises(TypeError):
        Event.from_json({"a": object()})
    with pytest.raises(ValueError, match="truncated"):
        Event(b"{").json()
    with pytest.raises(UnicodeDecodeError):
        Event(b"\xff").text()


# Keys


@pytest.mark.parametrize(
    "key",
    [
        "text",
        b"bytes",
        pytest.param("", id="no text"),
        pytest.param(b"", id="no bytes"),
        "\u043a\u043b\u044e\u0447",
    ],
)
def test_a_key_comes_back_as_it_was_given(key: str | bytes) -> None:
    """A str stays a str, bytes stay bytes."""
    event = Event(b"", key)
    assert event.key == key
    assert type(event.key) is type(key)


def test_a_key_of_a_subclass_becomes_a_plain_one() -> None:
    """It is stored as text or bytes, and looks the same before and after."""
    assert type(Event(b"", Text("k")).key) is str


@pytest.mark.parametrize("key", [1, 1.5, ("a",), bytearray(b"k"), {}])
def test_a_key_of_another_type_is_refused(key: object) -> None:
    """The error names the value."""
    with pytest.raises(TypeError, match="key is str or bytes"):
        UNTYPED(b"", key)


def test_a_key_has_at_most_1024_bytes() -> None:
    """Bytes count, not characters."""
    Event(b"", "k" * MAX_KEY_BYTES)
    Event(b"", "\u00e9" * (MAX_KEY_BYTES // 2))
    for key in ("k" * (MAX_KEY_BYTES + 1), "\u00e9" * (MAX_KEY_BYTES // 2 + 1)):
        with pytest.raises(EventTooLargeError, match=str(MAX_KEY_BYTES)):
            Event(b"", key)


# Properties


def test_properties_are_an_empty_mapping_where_there_are_none() -> None:
    """Never None, so that nobody need ask first."""
    for event in (Event(b""), Event(b"", None, None), Event(b"", None, {})):
        assert event.properties == {}
        assert isinstance(event.properties, Mapping)


def test_properties_of_every_type_are_kept() -> None:
    """Names to None, bool, int, float, str, bytes and aware datetimes."""
    properties = {
        "none": None,
        "true": True,
        "int": -(2**63),
        "large": 2**64 - 1,
        "float": 1.5,
        "str": "\u00e9",
        "bytes": b"\xff",
        "datetime": WHEN,
        "": "",
    }
    assert Event(b"", None, properties).properties == properties
    assert Event(b"", None, UserDict(properties)).properties == properties


def test_properties_cannot_be_changed_by_anyone() -> None:
    """Neither through the event nor through the mapping it was made from."""
    given = {"a": 1}
    event = Event(b"", None, given)
    given["a"] = 2
    assert event.properties == {"a": 1}
    with pytest.raises(TypeError):
        event.properties["a"] = 2  # type: ignore[index]


@pytest.mark.parametrize(
    "value", [[1], {"a": 1}, (1,), object(), 1 + 2j, WHEN.date(), Text("t"), Number.ONE]
)
def test_a_property_of_another_type_is_refused_by_name(value: object) -> None:
    """The error names the property, the type, and what can be stored."""
    with pytest.raises(TypeError, match=rf"'colour' is of type {type(value).__name__}"):
        UNTYPED(b"", None, {"colour": value})


@pytest.mark.parametrize("name", [1, b"bytes", None, Text("subclass")])
def test_a_property_name_that_is_no_str_is_refused(name: object) -> None:
    """Names are plain text."""
    with pytest.raises(TypeError, match="name is a str"):
        UNTYPED(b"", None, {name: 1})


@pytest.mark.parametrize("properties", [[], 0, "text", [("a", 1)], 1])
def test_properties_that_are_no_mapping_are_refused(properties: object) -> None:
    """Also those that are empty or false."""
    with pytest.raises(TypeError, match="mapping"):
        UNTYPED(b"", None, properties)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_an_int_that_does_not_fit_64_bits_is_refused(value: int) -> None:
    """Rather than stored as something else."""
    with pytest.raises(ValueError, match="'n' does not fit 64 bits"):
        Event(b"", None, {"n": value})


def test_a_naive_datetime_is_refused() -> None:
    """Which instant it is, nobody knows."""
    with pytest.raises(ValueError, match="naive"):
        Event(b"", None, {"at": WHEN.replace(tzinfo=None)})


def test_properties_are_bounded() -> None:
    """All together as stored, and each name."""
    room = MAX_PROPERTIES_BYTES - 6  # the map, the name, the length of the value
    Event(b"", None, {"a": b"x" * room})
    with pytest.raises(EventTooLargeError, match=str(MAX_PROPERTIES_BYTES)):
        Event(b"", None, {"a": b"x" * (room + 1)})
    Event(b"", None, {"\u00e9" * (MAX_PROPERTY_NAME_BYTES // 2): 1})
    with pytest.raises(EventTooLargeError, match=str(MAX_PROPERTY_NAME_BYTES)):
        Event(b"", None, {"\u00e9" * (MAX_PROPERTY_NAME_BYTES // 2) + "x": 1})


# As objects


def test_an_event_cannot_be_changed() -> None:
    """It may be handed to anybody."""
    event = Event(b"a")
    for name in ("body", "key", "properties"):
        with pytest.raises(AttributeError):
            setattr(event, name, None)


def test_events_are_equal_when_all_of_them_is() -> None:
    """Body, key and properties; the type of the key counts."""
    assert Event(b"a", "k", {"p": 1}) == Event("a", "k", {"p": 1})
    assert hash(Event(b"a", "k", {"p": 1})) == hash(Event("a", "k", {"p": 1}))
    different = [Event(b"b", "k"), Event(b"a", b"k"), Event(b"a"), Event(b"a", "k", {"p": 1})]
    assert all(Event(b"a", "k") != other for other in different)
    assert len({Event(b"a"), Event(b"a"), Event(b"b")}) == 2


def test_an_event_shows_what_a_reader_wants_to_see() -> None:
    """Absent parts are left out, and long bodies cut short."""
    assert repr(Event(b"a")) == "Event(b'a')"
    assert repr(Event(b"a", "k", {"p": 1})) == "Event(b'a', key='k', properties={'p': 1})"
    text = repr(Event(b"x" * 1_000_000))
    assert len(text) < 120
    assert "1000000 bytes" in text


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_events_can_be_copied_and_pickled(duplicate: Any, memory_log: EventLog) -> None:
    """To other processes, say; stored ones with their place."""
    event = Event(b"a", "k", {"p": WHEN, "q": None})
    assert duplicate(event) == event
    assert duplicate(event).properties["p"] == WHEN
    topic = memory_log.create_topic("cars", partitions=1)
    topic.append_batch([b"x"] * 300)
    topic.append_batch([event])
    (stored,) = topic.read(0, 300)
    again = duplicate(stored)
    assert again == stored
    assert again.properties == event.properties
    assert (again.topic, again.partition, again.offset) == ("cars", 0, 300)
    assert again.enqueued_at == stored.enqueued_at
    with pytest.raises(TypeError):
        again.properties["p"] = 1


@repeatable
@given(
    body=st.binary(max_size=20),
    key=st.none() | st.text(max_size=20) | st.binary(max_size=20),
    properties=st.dictionaries(
        st.text(max_size=9),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**63), 2**64 - 1),
            st.floats(allow_nan=False),
            st.text(max_size=9),
            st.binary(max_size=9),
            st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14))])),
        ),
        max_size=5,
    ),
)
def test_an_event_read_back_is_the_one_that_was_appended(
    body: bytes, key: str | bytes | None, properties: dict[str, Any], one_log: Topic
) -> None:
    """Body, key and properties with all their types; times in UTC."""
    event = Event(body, key, properties)
    receipts = one_log.append_batch([event, b"something else"], partition=0)
    stored = one_log.read(0, receipts[0].offset)[0]
    assert (stored.body, stored.key, stored.properties) == (body, key, event.properties)
    assert type(stored.key) is type(key)
    for name, value in stored.properties.items():
        assert type(value) is type(properties[name])
        assert not isinstance(value, datetime) or value.tzinfo == UTC


@pytest.fixture(scope="module")
def one_log() -> Any:
    """A topic for many examples."""
    import eventlog

    with eventlog.open("memory:") as log:
        yield log.create_topic("cars", partitions=1)


# Stored


def test_a_stored_event_knows_its_place(memory_log: EventLog) -> None:
    """Topic, partition, offset and time, wherever in however large a batch it was."""
    topic = memory_log.create_topic("cars", partitions=2)
    topic.append_batch([b"%d" % number for number in range(1000)], partition=1)
    (receipt,) = topic.append_batch([b"x"] * 3, partition=1)
    events = topic.read(1, 0, max_events=1003)
    assert [event.offset for event in events] == list(range(1003))
    assert [event.offset for event in topic.read(1, 700, max_events=3)] == [700, 701, 702]
    for event in events:
        assert isinstance(event, StoredEvent)
        assert isinstance(event, Event)
        assert (event.topic, event.partition) == ("cars", 1)
    assert events[-1].enqueued_at == receipt.enqueued_at
    assert events[-1].enqueued_at.tzinfo == UTC


def test_a_stored_event_shows_its_place(memory_log: EventLog) -> None:
    """In a log line, say."""
    topic = memory_log.create_topic("cars", partitions=1)
    topic.append(b"a", key="k")
    (event,) = topic.read(0)
    assert repr(event) == "StoredEvent(b'a', key='k', topic='cars', partition=0, offset=0)"


def test_stored_events_with_the_same_content_differ_by_their_place(memory_log: EventLog) -> None:
    """Two events are not one because they say the same."""
    topic = memory_log.create_topic("cars", partitions=1)
    topic.append_batch([b"a"] * 300)
    events = topic.read(0)
    assert len(set(events)) == 300
    again = topic.read(0)
    assert (events[0], hash(events[299])) == (again[0], hash(again[299]))
    assert events[0] != Event(b"a")


def test_an_event_made_without_a_place_has_none() -> None:
    """Asking for it is an AttributeError, which `hasattr` understands."""
    event = StoredEvent(b"a")
    for name in ("topic", "partition", "offset", "enqueued_at"):
        assert not hasattr(event, name)
    assert repr(event) == "StoredEvent(b'a')"


def test_reading_does_not_check_again_what_was_checked_when_it_was_stored() -> None:
    """No Python code runs for each event read: `StoredEvent` has no `__post_init__`."""
    assert StoredEvent(None).body is None  # type: ignore[arg-type]


def test_events_are_no_work_for_the_garbage_collector(memory_log: EventLog) -> None:
    """However many are held, it need not look at them."""
    topic = memory_log.create_topic("cars", partitions=1)
    topic.append(b"a")
    (stored,) = topic.read(0)
    assert not gc.is_tracked(stored)
    assert not gc.is_tracked(Event(b"a"))
