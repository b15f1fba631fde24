"""Topics: what an append stores and where, and what a read returns, in every corner."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

import eventlog
from eventlog import (
    EARLIEST,
    LATEST,
    CorruptBatchError,
    Event,
    EventLog,
    EventTooLargeError,
    OffsetOutOfRangeError,
    PartitionInfo,
    PartitionNotFoundError,
    Topic,
    UnexpectedOffsetError,
)
from eventlog.embedded import keys
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.writer import Writer
from eventlog.partitioning import PARTITIONERS
from tests.conftest import Start

SECOND = 1_000_000
NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
NO_PARTITION = [-1, 3, 10**9]
NO_INT = [None, "0", 1.0, True, b"0"]


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return (self.now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Iterator[EventLog]:
    """A log in memory whose time is the test's, whole after the test."""
    with eventlog.open("memory:", clock=clock) as log:
        yield log
        assert log.check().ok


@pytest.fixture
def topic(log: EventLog) -> Topic:
    """Three partitions."""
    return log.create_topic("cars", partitions=3)


@pytest.fixture
def untyped(topic: Topic) -> Any:
    """The topic, for what type checkers refuse, too."""
    return topic


def bodies(topic: Topic, partition: int = 0, start: Any = EARLIEST, **options: Any) -> list[bytes]:
    return [event.body for event in topic.read(partition, start, **options)]


def next_offsets(topic: Topic) -> list[int]:
    return [topic.partition_info(number).next_offset for number in range(topic.partitions)]


# Appending one event


def test_a_receipt_says_where_an_event_stands(topic: Topic, clock: Clock) -> None:
    """Partition, offset, and the time the log took it."""
    for offset in range(3):
        receipt = topic.append(b"a", partition=1)
        assert (receipt.partition, receipt.offset, receipt.count) == (1, offset, 1)
        assert receipt.enqueued_at == clock.now
        (event,) = topic.read(1, offset)
        assert (event.offset, event.enqueued_at) == (offset, clock.now)
        clock.advance(1)


def test_an_event_goes_where_its_key_says(topic: Topic) -> None:
    """A str and the bytes of its UTF-8 are the same key."""
    for key in ("7", b"7", "\u043a\u043b\u044e\u0447", "", "$0cb"):
        encoded = key.encode() if isinstance(key, str) else key
        expected = PARTITIONERS["eventhubs"](encoded, 3)
        assert topic.append(b"", key=key).partition == expected


def test_a_partition_that_is_named_wins_over_the_key(topic: Topic) -> None:
    """The key is stored all the same."""
    for partition in range(3):
        receipt = topic.append(b"a", key="k", partition=partition)
        assert receipt.partition == partition
        assert topic.read(partition)[-1].key == "k"


def test_events_without_a_key_go_to_each_partition_in_turn(topic: Topic) -> None:
    """One append, one turn, wherever it begins."""
    first = topic.append(b"").partition
    assert [topic.append(b"").partition for _ in range(6)] == [
        (first + step) % 3 for step in range(1, 7)
    ]


def test_appends_that_name_their_place_take_no_turn(topic: Topic) -> None:
    """Only events without a key and a partition do."""
    first = topic.append(b"").partition
    topic.append(b"", key="k")
    topic.append(b"", partition=0)
    topic.append_batch([Event(b"", "k")])
    topic.append_batch([])
    assert topic.append_batch([b"", b""])[0].partition == (first + 1) % 3


def test_append_takes_what_an_event_takes(topic: Topic) -> None:
    """Text, a bytearray, properties; and refuses what an event refuses."""
    topic.append("Gr\u00fc\u00dfe", partition=0)
    topic.append(bytearray(b"b"), partition=0, properties={"p": 1})
    topic.append(memoryview(b"c"), partition=0, properties=None)
    events = topic.read(0)
    assert [event.body for event in events] == ["Gr\u00fc\u00dfe".encode(), b"b", b"c"]
    assert [event.properties for event in events] == [{}, {"p": 1}, {}]


@pytest.mark.parametrize(
    ("arguments", "options", "kind"),
    [
        (({"a": 1},), {}, TypeError),
        ((None,), {}, TypeError),
        ((1,), {}, TypeError),
        ((b"", "positional"), {}, TypeError),
        ((b"",), {"key": 1}, TypeError),
        ((b"",), {"properties": [1]}, TypeError),
        ((b"",), {"properties": []}, TypeError),
        ((b"",), {"properties": {"a": []}}, TypeError),
        ((b"",), {"partition": "0"}, TypeError),
        ((b"",), {"partition": True}, TypeError),
        ((b"",), {"partition": 1.0}, TypeError),
        ((b"",), {"partition": 0, "expect_next": "0"}, TypeError),
        ((b"",), {"partition": 0, "expect_next": False}, TypeError),
        ((b"",), {"expect_next": 0}, ValueError),
        ((b"",), {"key": "\ud800"}, ValueError),
        (("\ud800",), {}, ValueError),
        ((b"",), {"properties": {"a": 2**64}}, ValueError),
        ((b"",), {"key": "k" * 1025}, EventTooLargeError),
        ((b"x" * (2**20 + 1),), {}, EventTooLargeError),
        ((b"",), {"partition": 3}, PartitionNotFoundError),
        ((b"",), {"partition": -1}, PartitionNotFoundError),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_an_append_that_is_wrong_stores_nothing(
    untyped: Any, arguments: tuple[Any, ...], options: dict[str, Any], kind: type[Exception]
) -> None:
    """Wrong types are TypeErrors, wrong values ValueErrors, what is not there a LookupError."""
    with pytest.raises(kind):
        untyped.append(*arguments, **options)
    assert next_offsets(untyped) == [0, 0, 0]


def test_appending_an_event_object_names_what_takes_it(untyped: Any) -> None:
    """`append` takes a body; the error says `append_batch`."""
    with pytest.raises(TypeError, match="append_batch"):
        untyped.append(Event(b"a"))


# Optimistic concurrency


def test_an_append_may_expect_the_next_offset(topic: Topic) -> None:
    """It is stored if it is that one; else the error tells which it is, and nothing is stored."""
    for offset in range(3):
        assert topic.append(b"%d" % offset, partition=1, expect_next=offset).offset == offset
    for wrong in (-1, 0, 2, 4, 2**70):
        with pytest.raises(UnexpectedOffsetError, match=f"is 3, not {wrong}") as caught:
            topic.append(b"wrong", partition=1, expect_next=wrong)
        assert (caught.value.expected, caught.value.actual) == (wrong, 3)
    assert bodies(topic, 1) == [b"0", b"1", b"2"]


def test_the_partition_that_is_expected_something_of_may_be_the_keys(topic: Topic) -> None:
    """A stream of events under one key needs no partition number."""
    partition = topic.append(b"0", key="k", expect_next=0).partition
    topic.append(b"1", partition=partition)
    with pytest.raises(UnexpectedOffsetError):
        topic.append(b"2", key="k", expect_next=1)
    assert topic.append(b"2", key="k", expect_next=2).offset == 2


def test_what_is_expected_of_an_emptied_partition_is_where_it_goes_on(
    log: EventLog, clock: Clock
) -> None:
    """Expiry does not make an offset free again."""
    topic = log.create_topic("short", partitions=1, retention=1)
    topic.append_batch([b""] * 5)
    clock.advance(1)
    topic.expire()
    with pytest.raises(UnexpectedOffsetError):
        topic.append(b"", partition=0, expect_next=0)
    assert topic.append(b"", partition=0, expect_next=5).offset == 5


# Appending several


def test_a_batch_gives_a_receipt_for_each_partition_it_touches(topic: Topic, clock: Clock) -> None:
    """In the order of partitions, each with as many events as went there."""
    events = [Event(b"%d" % number, key=str(number % 7)) for number in range(70)]
    places = [PARTITIONERS["eventhubs"](str(number % 7).encode(), 3) for number in range(70)]
    receipts = topic.append_batch(events)
    assert [receipt.partition for receipt in receipts] == sorted(set(places))
    for receipt in receipts:
        assert (receipt.offset, receipt.enqueued_at) == (0, clock.now)
        assert receipt.count == places.count(receipt.partition)
        assert bodies(topic, receipt.partition) == [
            event.body
            for event, place in zip(events, places, strict=True)
            if place == receipt.partition
        ]


def test_events_without_a_key_of_one_call_go_together_to_the_next_in_turn(topic: Topic) -> None:
    """As an Event Hubs batch does: keyed ones between them go their own way."""
    turns = []
    for call in range(6):
        before = next_offsets(topic)
        topic.append_batch([b"1", Event(b"keyed", "k"), b"2", Event(b"3")])
        keyed = PARTITIONERS["eventhubs"](b"k", 3)
        added = [now - then for now, then in zip(next_offsets(topic), before, strict=True)]
        added[keyed] -= 1
        assert sorted(added) == [0, 0, 3]
        turns.append(added.index(3))
        stored = [body for body in bodies(topic, turns[-1]) if body != b"keyed"]
        assert stored[-3:] == [b"1", b"2", b"3"]
        assert turns[-1] == (turns[0] + call) % 3


def test_the_key_of_a_batch_is_that_of_events_without_their_own(topic: Topic) -> None:
    """An event's own key wins."""
    topic.append_batch([b"a", Event(b"b"), Event(b"c", "own"), "d"], key="all")
    stored = {event.body: event.key for number in range(3) for event in topic.read(number)}
    assert stored == {b"a": "all", b"b": "all", b"c": "own", b"d": "all"}


def test_a_batch_for_one_partition_goes_there_whatever_the_keys(topic: Topic) -> None:
    """In the order given."""
    events = [Event(b"%d" % number, key=str(number)) for number in range(10)]
    (receipt,) = topic.append_batch(events, partition=2)
    assert (receipt.partition, receipt.count) == (2, 10)
    assert bodies(topic, 2) == [event.body for event in events]


def test_equal_keys_keep_their_order_over_many_batches(topic: Topic) -> None:
    """Within a partition nothing overtakes anything."""
    for call in range(20):
        topic.append_batch(
            [Event(b"%d" % (call * 10 + step), key=str(step % 3)) for step in range(10)]
        )
    for number in range(3):
        for key in "012":
            own = [int(event.body) for event in topic.read(number) if event.key == key]
            assert own == sorted(own)


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda events: (event for event in events)])
def test_a_batch_may_be_any_iterable_of_events_and_bodies(topic: Topic, kind: Any) -> None:
    """Mixed as one likes; a stored event is taken like any other."""
    topic.append(b"stored", partition=2)
    mixed = [b"bytes", "text", bytearray(b"array"), memoryview(b"view"), Event(b"event")]
    mixed += topic.read(2)
    (receipt,) = topic.append_batch(kind(mixed), partition=0)
    assert receipt.count == 6
    assert bodies(topic) == [b"bytes", b"text", b"array", b"view", b"event", b"stored"]


def test_an_empty_batch_is_nothing(topic: Topic) -> None:
    """No receipts, no commit, no error."""
    assert topic.append_batch([]) == []
    assert topic.append_batch(iter(())) == []
    assert next_offsets(topic) == [0, 0, 0]


@pytest.mark.parametrize("one", [b"bytes", "text", bytearray(b"a"), Event(b""), {"a": 1}, None, 1])
def test_one_event_is_no_batch(untyped: Any, one: object) -> None:
    """Text is not taken for a batch of letters, nor bytes for one of numbers."""
    with pytest.raises(TypeError):
        untyped.append_batch(one)
    assert next_offsets(untyped) == [0, 0, 0]


@pytest.mark.parametrize(
    "bad",
    [None, 1, {"a": 1}, [b"nested"], "\ud800", b"x" * (2**20 + 1), array.array("d", [1.0])],
    ids=lambda bad: type(bad).__name__,
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_event_spoils_its_whole_batch(untyped: Any, bad: object, place: int) -> None:
    """An append is all or nothing, over partitions, too."""
    batch: list[object] = [b"good", Event(b"good", "k")]
    batch.insert(place, bad)
    with pytest.raises((TypeError, ValueError)):
        untyped.append_batch(batch)
    assert next_offsets(untyped) == [0, 0, 0]


def test_the_event_that_is_too_large_is_named(topic: Topic) -> None:
    """By its place in the batch, with its size and the limit."""
    with pytest.raises(EventTooLargeError, match=r"event 2 of.*1,048,577.*1,048,576"):
        topic.append_batch([b"", b"", bytes(2**20 + 1)])
    with pytest.raises(EventTooLargeError, match=r"the event has.*1,048,577"):
        topic.append(bytes(2**20 + 1))
    topic.append(bytes(2**20))


def test_a_body_is_measured_in_bytes_whatever_it_is_given_as(untyped: Any) -> None:
    """A memoryview of eight-byte items has eight times its length."""
    wide = memoryview(array.array("Q", range(2**17 + 1)))
    for batch in ([wide], [b"", wide], [Event(b""), wide]):
        with pytest.raises(EventTooLargeError):
            untyped.append_batch(batch, partition=0)
    assert next_offsets(untyped) == [0, 0, 0]


# Configuring


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("retention", 60, timedelta(minutes=1)),
        ("retention", timedelta(days=1), timedelta(days=1)),
        ("retention", None, None),
        ("retention_bytes", 10**6, 10**6),
        ("retention_bytes", None, None),
        ("max_event_bytes", 5, 5),
        ("compression", "none", "none"),
    ],
)
def test_what_is_configured_changes_and_the_rest_stays(
    log: EventLog, name: str, value: Any, shown: object
) -> None:
    """None is a value of its own for retention; what is not given is left alone."""
    topic = log.create_topic("other", retention=5, retention_bytes=7)
    fields = ("retention", "retention_bytes", "max_event_bytes", "compression", "partitions")
    before = {field: getattr(topic, field) for field in fields}
    options: dict[str, Any] = {name: value}
    topic.configure(**options)
    for handle in (topic, log.topic("other")):
        assert {field: getattr(handle, field) for field in fields} == {**before, name: shown}


@pytest.mark.parametrize(
    "options",
    [
        {"retention": 0},
        {"retention": "1h"},
        {"retention_bytes": 0},
        {"max_event_bytes": 0},
        {"max_event_bytes": None},
        {"compression": "lz4"},
        {"partitions": 4},
    ],
    ids=str,
)
def test_a_configuration_that_is_wrong_changes_nothing(
    untyped: Any, options: dict[str, Any]
) -> None:
    """Not even what was right in it."""
    with pytest.raises((TypeError, ValueError)):
        untyped.configure(**{"retention": 5, **options})
    assert untyped.retention is None


def test_a_new_limit_holds_for_every_handle(log: EventLog, topic: Topic) -> None:
    """Also for one that has not looked since: it neither refuses nor takes what is outdated."""
    other = log.topic("cars")
    topic.configure(max_event_bytes=5)
    with pytest.raises(EventTooLargeError):
        other.append(b"123456", partition=0)
    topic.configure(max_event_bytes=2**21)
    assert log.topic("cars").max_event_bytes == 2**21
    assert other.append(bytes(2**21), partition=0).offset == 0


def test_compression_may_be_changed_at_any_time(topic: Topic) -> None:
    """What is stored stays as it is, and all of it can be read."""
    compressions: list[Literal["zstd", "none"]] = ["zstd", "none", "zstd"]
    for compression in compressions:
        topic.configure(compression=compression)
        topic.append(b"x" * 1000, partition=0)
    assert bodies(topic) == [b"x" * 1000] * 3
    assert 1000 < topic.partition_info(0).size_bytes < 2000


# Adding partitions


def test_added_partitions_are_there_for_every_handle(log: EventLog, topic: Topic) -> None:
    """Also for one that has not looked since; those that were there stay as they were."""
    other, another = log.topic("cars"), log.topic("cars")
    topic.append(b"before", partition=2)
    with pytest.warns(UserWarning, match="'cars' has 5 partitions now: keys move") as caught:
        topic.add_partitions(2)
    assert caught[0].filename == __file__
    assert topic.partitions == 5
    assert other.read(4) == []
    assert other.append(b"x", partition=4).offset == 0
    assert another.append_batch([b"x"], partition=3)[0].offset == 0
    assert another.partition_info(4).next_offset == 1
    assert bodies(topic, 2) == [b"before"]
    assert {other.append(b"").partition for _ in range(5)} == set(range(5))


OTHER_PROCESS = """
import sys
import eventlog

with eventlog.open(sys.argv[1], durability=None) as log:
    topic = log.topic("cars")
    print(topic.partitions, flush=True)
    sys.stdin.readline()
    print(topic.append(b"theirs", partition=3).offset, flush=True)
    print([topic.append(b"", key=key).partition for key in "abcdefgh"], flush=True)
"""


def test_added_partitions_are_there_for_every_process(log_path: Path, start: Start) -> None:
    """One that had the topic open before places keys like everybody else from now on."""
    with eventlog.open(log_path) as log:
        topic = log.create_topic("cars", partitions=1)
        child = start(OTHER_PROCESS, log_path)
        assert child.line() == "1"
        with pytest.warns(UserWarning, match="keys move"):
            topic.add_partitions(3)
        assert topic.append(b"ours", partition=3).offset == 0
        child.say("go on")
        placed = [PARTITIONERS["eventhubs"](key.encode(), 4) for key in "abcdefgh"]
        assert child.rest() == ["1", str(placed)]
        assert bodies(topic, 3)[:2] == [b"ours", b"theirs"]


def test_keys_are_placed_on_the_partitions_there_are_now(log: EventLog, topic: Topic) -> None:
    """By handles from before as well, or a key's events would be on two partitions."""
    other = log.topic("cars")
    other.append(b"", key="remembered")
    with pytest.warns(UserWarning, match="keys move"):
        topic.add_partitions(13)
    for key in ("remembered", "7", "k"):
        expected = PARTITIONERS["eventhubs"](key.encode(), 16)
        assert other.append(b"", key=key).partition == expected


@pytest.mark.parametrize(
    ("count", "kind"), [(0, ValueError), (-1, ValueError), (9_998, ValueError), (1.0, TypeError)]
)
def test_partitions_are_not_taken_away_nor_added_beyond_the_limit(
    untyped: Any, count: Any, kind: type[Exception]
) -> None:
    """There are at most 10,000."""
    with pytest.raises(kind):
        untyped.add_partitions(count)
    assert untyped.partitions == 3


# Where reading begins and ends


@pytest.fixture
def timed(topic: Topic, clock: Clock) -> Topic:
    """Partition 0 has ten events in batches of two, ten seconds apart; it is then 12:00:50."""
    for number in range(0, 10, 2):
        topic.append_batch([b"%d" % number, b"%d" % (number + 1)], partition=0)
        clock.advance(10)
    return topic


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


POSITIONS: list[tuple[Any, int]] = [
    (EARLIEST, 0),
    ("earliest", 0),
    (LATEST, 10),
    ("latest", 10),
    (0, 0),
    (3, 3),
    (9, 9),
    (10, 10),
    (datetime.min.replace(tzinfo=UTC), 0),
    (at(0), 0),
    (at(0.000001), 2),
    (at(10), 2),
    (at(39.999999), 8),
    (at(40), 8),
    (at(40.000001), 10),
    (datetime.max.replace(tzinfo=UTC), 10),
    ("2024-02-29T12:00:15Z", 4),
    ("2024-02-29T13:00:20+01:00", 4),
    ("-50s", 0),
    ("-49s", 2),
    ("-25s", 6),
    ("-0s", 10),
    ("-1w", 0),
    ({0: 4}, 4),
    ({0: "-25s", 1: LATEST}, 6),
    ({1: LATEST, 2: 5}, 0),
    ({}, 0),
]


@pytest.mark.parametrize(("start", "first"), POSITIONS, ids=repr)
def test_reading_begins_where_it_is_told(timed: Topic, start: Any, first: int) -> None:
    """At an offset, a time, an age, an anchor, or what a mapping says for the partition."""
    assert [event.offset for event in timed.read(0, start)] == list(range(first, 10))


@pytest.mark.parametrize(("end", "stop"), [*POSITIONS[:-2], ({1: 5}, 10), ({}, 10)], ids=repr)
def test_reading_stops_before_where_it_is_told(timed: Topic, end: Any, stop: int) -> None:
    """In all the same ways; a partition that a mapping leaves out is read to its end."""
    assert [event.offset for event in timed.read(0, end=end)] == list(range(stop))


@pytest.mark.parametrize("end", [-1, 0, 3, at(10), EARLIEST, "-1w", {0: 1}], ids=repr)
def test_an_end_at_or_before_the_start_is_an_empty_read(timed: Topic, end: Any) -> None:
    """Not an error: it says what it says."""
    assert timed.read(0, 3, end=end) == []


def test_an_end_behind_the_last_event_is_the_end(timed: Topic) -> None:
    """However far behind."""
    assert len(timed.read(0, end=2**70)) == 10


@pytest.mark.parametrize("start", [-1, 11, 2**70, {0: 12}], ids=repr)
def test_a_start_that_is_not_there_is_an_error_with_the_range(timed: Topic, start: Any) -> None:
    """It says which offsets there are and where reading can go on."""
    wanted = start[0] if isinstance(start, dict) else start
    with pytest.raises(OffsetOutOfRangeError, match=f"no offset {wanted}") as caught:
        timed.read(0, start)
    error = caught.value
    assert (error.offset, error.beginning_offset, error.next_offset) == (wanted, 0, 10)
    assert isinstance(error, LookupError)


def test_what_has_expired_is_out_of_range_too(log: EventLog, clock: Clock) -> None:
    """The range begins with the first event that is still there."""
    topic = log.create_topic("short", partitions=1, retention=15)
    for number in range(3):
        topic.append(b"%d" % number)
        clock.advance(10)
    with pytest.raises(OffsetOutOfRangeError, match="offsets 2 to 2 and goes on at 3") as caught:
        topic.read(0, 1)
    assert (caught.value.beginning_offset, caught.value.next_offset) == (2, 3)
    assert bodies(topic) == [b"2"]
    assert bodies(topic, 0, end=1) == []


def test_an_empty_partition_can_be_read(topic: Topic) -> None:
    """From anywhere that makes sense; there is nothing."""
    starts: list[Any] = [EARLIEST, LATEST, 0, NOW, "-1h", {}]
    for start in starts:
        assert topic.read(1, start) == []
    with pytest.raises(OffsetOutOfRangeError, match="no offset 1"):
        topic.read(1, 1)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (None, TypeError),
        (1.5, TypeError),
        (True, TypeError),
        (timedelta(hours=1), TypeError),
        ("soon", ValueError),
        (NOW.replace(tzinfo=None), ValueError),
        ({0: 1.5}, TypeError),
        ({0: "soon"}, ValueError),
    ],
    ids=repr,
)
def test_what_is_no_position_is_refused(untyped: Any, start: object, kind: type[Exception]) -> None:
    """As start and as end; None is an end, but no start."""
    with pytest.raises(kind):
        untyped.read(0, start)
    if start is not None:
        with pytest.raises(kind):
            untyped.read(0, end=start)


def test_reading_leaves_everything_as_it_was(timed: Topic) -> None:
    """The same read gives the same events, as often as one likes."""
    assert timed.read(0) == timed.read(0)
    assert timed.read(1) == []


# How much is read


@pytest.mark.parametrize("most", [1, 2, 3, 9, 10, 11, 2**62])
def test_a_read_returns_at_most_so_many_events(timed: Topic, most: int) -> None:
    """Counted over batches, from wherever it starts."""
    assert len(timed.read(0, max_events=most)) == min(most, 10)
    assert [event.offset for event in timed.read(0, 5, max_events=most)] == list(
        range(5, min(5 + most, 10))
    )


def test_a_read_returns_a_thousand_events_unless_told_otherwise(topic: Topic) -> None:
    """One fetch has a bound; the next goes on behind it."""
    topic.append_batch([b"x"] * 2500, partition=0)
    first = topic.read(0)
    assert len(first) == 1000
    assert topic.read(0, first[-1].offset + 1)[0].offset == 1000


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (99, 1), (100, 1), (199, 1), (200, 2), (5000, 50), (10**6, 205)]
)
@pytest.mark.parametrize("properties", [None, {"p": "x" * 300}])
def test_a_read_stops_before_its_bodies_have_too_many_bytes(
    topic: Topic, size: int, count: int, properties: Any
) -> None:
    """But after one event; whatever batches they stand in, and whatever stands beside them."""
    topic.append_batch([Event(b"x" * 100, None, properties)] * 100, partition=0)
    topic.append_batch([Event(b"y" * 100, None, properties)] * 200, partition=0)
    assert len(topic.read(0, 95, max_bytes=size)) == count


def test_a_large_event_is_returned_though_it_is_over_the_bytes_asked_for(topic: Topic) -> None:
    """Or reading would never get past it; only the first one is."""
    topic.append_batch([bytes(10), bytes(500_000), bytes(10)], partition=0)
    assert [len(body) for body in bodies(topic, 0, 0, max_bytes=100)] == [10]
    assert [len(body) for body in bodies(topic, 0, 1, max_bytes=100)] == [500_000]
    assert [len(body) for body in bodies(topic, 0, 2, max_bytes=100)] == [10]


def test_events_with_empty_bodies_count_as_nothing(topic: Topic) -> None:
    """`max_bytes` bounds bodies; `max_events` is there for the rest."""
    topic.append_batch([b""] * 500, partition=0)
    assert len(topic.read(0, max_bytes=1)) == 500


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_events": 0}, ValueError),
        ({"max_events": -1}, ValueError),
        ({"max_events": 1.0}, TypeError),
        ({"max_events": True}, TypeError),
        ({"max_bytes": 0}, ValueError),
        ({"max_bytes": "1k"}, TypeError),
    ],
    ids=str,
)
def test_bounds_that_make_no_sense_are_refused(
    topic: Topic, options: dict[str, Any], kind: type[Exception]
) -> None:
    """Nothing at all cannot be asked for."""
    with pytest.raises(kind):
        topic.read(0, **options)


def test_reading_in_pieces_gives_every_event_once(topic: Topic) -> None:
    """However large appends were cut into batches, and however small the pieces are."""
    topic.append_batch([b"%d" % number for number in range(10_000)], partition=0)
    topic.append_batch([b"%d" % number + bytes(600) for number in range(1000)], partition=0)
    read: list[bytes] = []
    while some := topic.read(0, len(read), max_events=777, max_bytes=40_000):
        assert some[0].offset == len(read)
        read += [event.body.rstrip(b"\0") for event in some]
    assert read == [b"%d" % number for number in (*range(10_000), *range(1000))]


# Partitions that are not there


@pytest.mark.parametrize("partition", NO_PARTITION)
def test_a_partition_that_is_not_there_is_not_found(untyped: Any, partition: int) -> None:
    """The error says which ones there are."""
    for call in calls_with(untyped, partition):
        with pytest.raises(PartitionNotFoundError, match=f"0 to 2, no partition {partition}"):
            call()


@pytest.mark.parametrize("partition", NO_INT, ids=repr)
def test_a_partition_is_an_int(untyped: Any, partition: object) -> None:
    """True is not partition 1. (None lets an append choose.)"""
    for call in calls_with(untyped, partition):
        with pytest.raises(TypeError, match="partition is an int"):
            call()


def calls_with(topic: Any, partition: Any) -> list[Callable[[], object]]:
    calls: list[Callable[[], object]] = [
        lambda: topic.read(partition),
        lambda: topic.partition_info(partition),
        lambda: topic.offset_at(partition, NOW),
        lambda: topic.append(b"", partition=partition),
        lambda: topic.append_batch([b""], partition=partition),
    ]
    return calls if partition is not None else calls[:3]


# Looking at a partition


def test_a_partition_that_was_never_written_has_nothing_to_tell(topic: Topic) -> None:
    """It begins at 0, and there is no last event."""
    assert topic.partition_info(0) == PartitionInfo(
        beginning_offset=0,
        next_offset=0,
        last_enqueued_offset=-1,
        last_enqueued_at=None,
        is_empty=True,
        size_bytes=0,
    )


def test_a_partition_tells_of_its_last_event(timed: Topic) -> None:
    """Offsets, time, and how many bytes its events take."""
    info = timed.partition_info(0)
    assert (info.beginning_offset, info.next_offset, info.last_enqueued_offset) == (0, 10, 9)
    assert info.last_enqueued_at == at(40)
    assert not info.is_empty
    assert info.size_bytes == 5 * (48 + 10)


def test_time_never_goes_back_along_a_partition(topic: Topic, clock: Clock) -> None:
    """A clock that is set back gives events the last time there was, until it has caught up."""
    topic.append(b"0", partition=0)
    clock.advance(-60)
    assert topic.append(b"1", partition=0).enqueued_at == NOW
    assert topic.append(b"other", partition=1).enqueued_at == at(-60)
    clock.advance(61)
    assert topic.append(b"2", partition=0).enqueued_at == at(1)


def test_check_says_that_a_clock_was_ahead(log: EventLog, topic: Topic, clock: Clock) -> None:
    """It is no damage, but worth knowing: events have that time until it has passed."""
    topic.append(b"0", partition=1)
    assert log.check().notes == []
    clock.advance(-60)
    report = log.check()
    assert report.ok
    assert len(report.notes) == 1
    assert "'cars', partition 1" in report.notes[0]


@pytest.mark.parametrize(
    ("when", "offset"),
    [(when, offset) for when, offset in POSITIONS if isinstance(when, datetime | str)],
    ids=repr,
)
def test_the_offset_at_a_time_is_that_of_the_first_event_then_or_later(
    timed: Topic, when: datetime | str, offset: int
) -> None:
    """The next offset if there is none yet; the same that reading from that time begins with."""
    assert timed.offset_at(0, when) == offset


def test_the_offset_at_a_time_is_never_of_an_expired_event(log: EventLog, clock: Clock) -> None:
    """It is one that can be read."""
    topic = log.create_topic("short", partitions=1, retention=15)
    for number in range(3):
        topic.append(b"%d" % number)
        clock.advance(10)
    assert topic.offset_at(0, at(0)) == 2
    clock.advance(60)
    assert topic.offset_at(0, at(0)) == topic.offset_at(0, "-1s") == 3


@pytest.mark.parametrize(
    ("when", "kind"),
    [(0, TypeError), (None, TypeError), (1.5, TypeError), (NOW.replace(tzinfo=None), ValueError)],
    ids=repr,
)
def test_an_offset_is_asked_for_by_time(untyped: Any, when: object, kind: type[Exception]) -> None:
    """An int is no time."""
    with pytest.raises(kind):
        untyped.offset_at(0, when)


# Damage


@pytest.fixture
def damaged(clock: Clock) -> Iterator[Topic]:
    """A topic of three batches of ten, the second of which is damaged."""
    with eventlog.open("memory:", clock=clock) as log:
        topic = log.create_topic("cars", partitions=1)
        for _ in range(3):
            topic.append_batch([b"x"] * 10)

        def damage(writer: Writer) -> None:
            key = keys.encode_batch_key(1, 0, 19)
            value = writer.get(key)
            assert value is not None
            writer.put(key, value[:-1] + bytes([value[-1] ^ 1]))

        assert isinstance(log, EmbeddedLog)
        log.environment.committer.run(damage, timeout=10)
        yield topic


def test_what_comes_before_a_damaged_batch_is_read_and_then_what_comes_behind(
    damaged: Topic,
) -> None:
    """The read that begins with it says which offsets are lost, and where to go on."""
    assert [event.offset for event in damaged.read(0, 5)] == [5, 6, 7, 8, 9]
    for start in (10, 15, 19):
        with pytest.raises(CorruptBatchError, match=r"'cars', partition 0.*go on at 20") as caught:
            damaged.read(0, start)
        error = caught.value
        assert (error.topic, error.partition, error.last_offset) == ("cars", 0, 19)
        assert error.first_offset in (10, start)
    assert [event.offset for event in damaged.read(0, 20)] == list(range(20, 30))


def test_a_damaged_batch_stops_nothing_but_its_own_reading(damaged: Topic) -> None:
    """Appending, looking and finding by time go on."""
    assert damaged.append(b"next").offset == 30
    assert damaged.partition_info(0).next_offset == 31
    assert damaged.offset_at(0, NOW) == 0
    assert damaged.read(0, 0, end=10, max_events=10)[-1].offset == 9
    assert damaged.read(0, 10, end=10) == []
