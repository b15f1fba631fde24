"""Every row of docs/limits.md: the limit itself is accepted, what is beyond it is refused.

`@limit` files a test under the id of its row, with the numbers the row must show, in their order.
The errors the row must name are those the test names.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import pytest

import eventlog
from eventlog import (
    BufferFullError,
    Event,
    EventLog,
    EventTooLargeError,
    InvalidNameError,
    LogBusyError,
    LogFullError,
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    Topic,
    UnsupportedOperationError,
)
from eventlog import topic_settings as settings
from eventlog.checks import MAX_PRODUCER_ID_BYTES, MAX_SEQUENCE
from eventlog.embedded import batch, directory, opening, storage
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.keys import MAX_OFFSET, producer_key
from eventlog.embedded.producers import KEPT_US, MAX_PRODUCERS, ProducerRecord
from eventlog.embedded.writer import Writer
from eventlog.event import MAX_KEY_BYTES, MAX_PROPERTIES_BYTES, MAX_PROPERTY_NAME_BYTES
from eventlog.names import MAX_NAME_CHARACTERS
from eventlog.processor.host import EventProcessorHost
from eventlog.processor.options import ProcessorOptions, RetryPolicy
from eventlog.producing.delivery import EVENT_BYTES
from tests.conftest import Start

PAGE: Final = Path(__file__).parents[1] / "docs" / "limits.md"
UNITS: Final = {"KiB": 2**10, "MiB": 2**20, "TiB": 2**40}
MOST_BYTES: Final = 2**62  # of whatever has no smaller limit

NUMBER: Final = re.compile(r"-?\d[\d,]*(?<!,)")
IN_UNITS: Final = re.compile(r"(\d[\d,]*) bytes \((\d+) (KiB|MiB|TiB)\)")

HOLDER: Final = """
import fcntl, sys
lock = open(sys.argv[1], "r+")
fcntl.lockf(lock, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.readline()
"""

T = TypeVar("T", bound=Callable[..., None])


class Row(NamedTuple):
    """A row of the table."""

    id: str
    limit: str
    value: str
    beyond: str


class Limit(NamedTuple):
    """What a row is to say, and the test that it is so."""

    test: Callable[..., None]
    numbers: list[int]

    @property
    def errors(self) -> set[str]:
        """The names of the errors that the test mentions."""
        names = {name for name in self.test.__code__.co_names if name.endswith("Error")}
        return names - {"AssertionError"}  # that is pytest's, of an assert


LIMITS: Final[dict[str, Limit]] = {}


def limit(row: str, *numbers: int) -> Callable[[T], T]:
    """File a test under the id of its row."""

    def file(test: T) -> T:
        assert row not in LIMITS, f"{row} has two tests"
        LIMITS[row] = Limit(test, list(numbers))
        return test

    return file


def rows() -> list[Row]:
    """The rows of the table, from the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [Row(cell[0].strip(" `"), *cell[1:]) for cell in cells]


def default(function: Callable[..., Any], name: str) -> int:
    """A parameter's default."""
    return int(inspect.signature(function).parameters[name].default)


DEFAULT_EVENT_BYTES: Final = default(EventLog.create_topic, "max_event_bytes")
DEFAULT_MAP_BYTES: Final = default(eventlog.open, "map_size")
DEFAULT_LOCK_TIMEOUT: Final = default(eventlog.open, "lock_timeout")
DEFAULT_MAX_EVENTS: Final = default(Topic.read, "max_events")


@pytest.fixture
def topic(memory_log: EventLog) -> Topic:
    """A topic of one partition."""
    return memory_log.create_topic("t", partitions=1)


def embedded(log: EventLog) -> EmbeddedLog:
    """What it is, for who looks inside."""
    assert isinstance(log, EmbeddedLog)
    return log


@contextlib.contextmanager
def refused(error: type[Exception], topic: Topic | None = None) -> Iterator[None]:
    """That error and no subclass, and nothing stored."""
    before = topic and topic.partition_info(0)
    with pytest.raises(error) as raised:
        yield
    assert raised.type is error
    assert before == (topic and topic.partition_info(0))


# ---- The table -----------------------------------------------------------------------------------


def test_every_row_has_a_test_and_every_test_a_row() -> None:
    ids = [row.id for row in rows()]
    assert sorted(ids) == sorted(set(ids)) == sorted(LIMITS)


def test_every_limits_test_is_one_that_pytest_runs() -> None:
    for row, (test, _) in LIMITS.items():
        assert test.__name__.startswith("test_")
        assert globals()[test.__name__] is test, f"{row}: another test has its name"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.id)
def test_the_numbers_of_a_row_are_those_in_the_code(row: Row) -> None:
    shown = re.sub(r"\([^)]*\)|`[^`]*`|UTF-8", "", row.value)
    assert [int(number.replace(",", "")) for number in NUMBER.findall(shown)] == (
        LIMITS[row.id].numbers
    )


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.id)
def test_the_errors_a_row_names_are_those_its_test_sees(row: Row) -> None:
    assert set(re.findall(r"`(\w+Error)`", row.beyond)) == LIMITS[row.id].errors


def test_sizes_in_larger_units_are_those_in_bytes() -> None:
    sizes = IN_UNITS.findall(PAGE.read_text())
    assert len(sizes) >= 8
    for exact, count, unit in sizes:
        assert int(exact.replace(",", "")) == int(count) * UNITS[unit], exact


# ---- Events --------------------------------------------------------------------------------------


@limit("body", 0, DEFAULT_EVENT_BYTES)
def test_a_body_has_at_most_max_event_bytes(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("t", partitions=1)
    assert topic.max_event_bytes == DEFAULT_EVENT_BYTES
    topic.append(b"")
    topic.append(bytes(DEFAULT_EVENT_BYTES), key="k", properties={"a": 1})
    for too_large in (bytes(DEFAULT_EVENT_BYTES + 1), "é" * (DEFAULT_EVENT_BYTES // 2 + 1)):
        with refused(EventTooLargeError, topic):
            topic.append(too_large)
        with refused(EventTooLargeError, topic):
            topic.append_batch([b"small", too_large])
    assert [len(event.body) for event in topic.read(0)] == [0, DEFAULT_EVENT_BYTES]


@limit("max_event_bytes", 1, settings.MAX_EVENT_BYTES)
def test_max_event_bytes_has_a_range(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("t", partitions=1, max_event_bytes=1)
    topic.append(b"1")
    topic.configure(max_event_bytes=settings.MAX_EVENT_BYTES)
    topic.append(bytes(settings.MAX_EVENT_BYTES))
    for wrong in (0, -1, settings.MAX_EVENT_BYTES + 1):
        with refused(ValueError):
            memory_log.create_topic("u", max_event_bytes=wrong)
        with refused(ValueError):
            topic.configure(max_event_bytes=wrong)
    assert topic.max_event_bytes == settings.MAX_EVENT_BYTES


@limit("append", settings.MAX_APPEND_BYTES)
def test_one_append_has_a_largest_size(topic: Topic) -> None:
    topic.configure(max_event_bytes=settings.MAX_EVENT_BYTES)
    half = bytes(settings.MAX_APPEND_BYTES // 2)
    with refused(EventTooLargeError, topic):
        topic.append_batch([half, half, b"x"])
    with refused(EventTooLargeError, topic):
        topic.append_batch([half, Event(half, key="k")])
    with refused(EventTooLargeError, topic):
        topic.append_batch([half, Event(half, properties={"a": None})])
    assert topic.append_batch([half, half])[0].count == 2


@limit("key", 0, MAX_KEY_BYTES)
def test_a_key_has_a_greatest_length_in_bytes(topic: Topic) -> None:
    keys: list[str | bytes] = [
        "",
        b"",
        "k" * MAX_KEY_BYTES,
        b"k" * MAX_KEY_BYTES,
        "é" * (MAX_KEY_BYTES // 2),
    ]
    for key in keys:
        topic.append(b"", key=key)
    assert [event.key for event in topic.read(0)] == keys
    too_long: str | bytes
    for too_long in ("k" * (MAX_KEY_BYTES + 1), b"k" * (MAX_KEY_BYTES + 1), "é" * MAX_KEY_BYTES):
        with refused(EventTooLargeError, topic):
            topic.append(b"", key=too_long)
        with refused(EventTooLargeError, topic):
            topic.append_batch([b""], key=too_long)
        with refused(EventTooLargeError):
            Event(b"", key=too_long)


@limit("text")
def test_text_without_utf8_is_refused_wherever_it_stands(topic: Topic) -> None:
    lone = "a\ud800"
    wrong: list[dict[str, Any]] = [
        {"body": lone},
        {"body": b"", "key": lone},
        {"body": b"", "properties": {lone: 1}},
        {"body": b"", "properties": {"a": lone}},
    ]
    for event in wrong:
        with refused(ValueError, topic):
            topic.append(**event)
        with refused(ValueError):
            Event(**event)
    topic.append("\U0010ffff", key="\0")


@limit("property_name", 0, MAX_PROPERTY_NAME_BYTES)
def test_the_name_of_a_property_has_a_greatest_length_in_bytes(topic: Topic) -> None:
    properties = {"": 1, "n" * MAX_PROPERTY_NAME_BYTES: 2, "é" * (MAX_PROPERTY_NAME_BYTES // 2): 3}
    topic.append(b"", properties=properties)
    assert topic.read(0)[0].properties == properties
    for name in ("n" * (MAX_PROPERTY_NAME_BYTES + 1), "é" * MAX_PROPERTY_NAME_BYTES):
        with refused(EventTooLargeError, topic):
            topic.append(b"", properties={name: 1})
    wrong: Any = {b"n": 1}
    with refused(TypeError, topic):
        topic.append(b"", properties=wrong)


@limit("property_types")
def test_properties_are_of_seven_types(topic: Topic) -> None:
    when = datetime(2024, 2, 29, 23, 59, 59, 999_999, UTC)
    properties = {"n": None, "t": True, "i": 7, "f": 0.1, "s": "s", "b": b"b", "d": when}
    topic.append(b"", properties=properties)
    again = topic.read(0)[0].properties
    assert again == properties
    assert [type(value) for value in again.values()] == list(map(type, properties.values()))

    class Text(str):
        __slots__ = ()

    wrong: list[Any] = [[], {}, object(), when.date(), timedelta(1), 1j, Text("x"), bytearray()]
    for value in wrong:
        with refused(TypeError, topic):
            topic.append(b"", properties={"a": value})


@limit("property_int", -(2**63), 2**64 - 1)
def test_an_int_as_property_fits_64_bits(topic: Topic) -> None:
    least, most = LIMITS["property_int"].numbers
    topic.append(b"", properties={"least": least, "most": most})
    assert topic.read(0)[0].properties == {"least": least, "most": most}
    for wrong in (least - 1, most + 1):
        with refused(ValueError, topic):
            topic.append(b"", properties={"a": wrong})


@limit("property_datetime")
def test_a_datetime_as_property_has_a_timezone(topic: Topic) -> None:
    when = datetime(2024, 1, 1, 2, 3, 4, 5, timezone(timedelta(hours=5, minutes=30)))
    topic.append(b"", properties={"when": when})
    again = topic.read(0)[0].properties["when"]
    assert again == when
    assert isinstance(again, datetime)
    assert again.utcoffset() == timedelta(0)
    with refused(ValueError, topic):
        topic.append(b"", properties={"when": when.replace(tzinfo=None)})


@limit("properties", MAX_PROPERTIES_BYTES)
def test_the_properties_of_an_event_have_a_largest_size(topic: Topic) -> None:
    most = MAX_PROPERTIES_BYTES - 1 - 2 - 3  # what msgpack adds: to the map, the name, the value
    topic.append(b"", properties={"a": b"x" * most})
    assert topic.read(0)[0].properties == {"a": b"x" * most}
    with refused(EventTooLargeError, topic):
        topic.append(b"", properties={"a": b"x" * (most + 1)})
    with refused(EventTooLargeError, topic):
        topic.append(b"", properties={f"{number:05}": 1 for number in range(10_000)})


# ---- Topics --------------------------------------------------------------------------------------


@limit("topic_name", 1, MAX_NAME_CHARACTERS)
def test_a_topics_name_has_rules(memory_log: EventLog) -> None:
    names = ["a", "Z", "0", "_", "a.b-c_d", "0-0", "__x", "A" * MAX_NAME_CHARACTERS]
    for name in names:
        assert memory_log.create_topic(name, partitions=1).name == name
    assert [topic.name for topic in memory_log.topics()] == sorted(names)
    wrong = [
        "",
        ".",
        "..",
        "-a",
        ".a",
        "a b",
        "a/b",
        "é",
        "a\n",
        "a\0",
        "\u0131",
        "\u0661",
        "a" * 250,
    ]
    for name in wrong:
        for use in (memory_log.create_topic, memory_log.topic, memory_log.delete_topic):
            with refused(InvalidNameError):
                use(name)
    no_name: Any
    for no_name in (None, b"a", 1):
        with refused(TypeError):
            memory_log.create_topic(no_name)


@limit("partitions", 1, settings.MAX_PARTITIONS)
def test_a_topic_has_a_greatest_number_of_partitions(memory_log: EventLog) -> None:
    for wrong in (0, -1, settings.MAX_PARTITIONS + 1):
        with refused(ValueError):
            memory_log.create_topic("t", partitions=wrong)
    topic = memory_log.create_topic("t", partitions=settings.MAX_PARTITIONS)
    assert topic.append(b"", partition=settings.MAX_PARTITIONS - 1).offset == 0
    with refused(ValueError):
        topic.add_partitions(1)
    assert memory_log.topic("t").partitions == settings.MAX_PARTITIONS
    small = memory_log.create_topic("small", partitions=1)
    with pytest.warns(UserWarning, match="keys move"):
        small.add_partitions(settings.MAX_PARTITIONS - 1)
    assert small.partitions == settings.MAX_PARTITIONS


@limit("partition", 0)
def test_partitions_are_numbered_from_0(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("t", partitions=3)
    now = datetime.now(UTC)
    uses: list[Callable[[int], object]] = [
        lambda number: topic.append(b"", partition=number),
        lambda number: topic.append_batch([b""], partition=number),
        topic.read,
        topic.partition_info,
        lambda number: topic.offset_at(number, now),
    ]
    for use in uses:
        for number in (0, 2):
            use(number)
        for number in (-1, 3, 2**64):
            with refused(PartitionNotFoundError, topic):
                use(number)


@limit("retention", 1)
def test_a_retention_has_a_range(memory_log: EventLog) -> None:
    least = timedelta(microseconds=1)
    topic = memory_log.create_topic("t", partitions=1, retention=1e-6)
    assert topic.retention == least
    topic.configure(retention=timedelta.max)
    topic.append(b"kept")
    assert memory_log.topic("t").retention == timedelta.max
    assert [event.body for event in topic.read(0)] == [b"kept"]
    too_short: list[float | timedelta] = [0, -1, timedelta(0), -least, 1e-7]
    for wrong in (*too_short, 1e300, float("inf"), float("nan")):
        with refused(ValueError):
            memory_log.create_topic("u", retention=wrong)
        with refused(ValueError):
            topic.configure(retention=wrong)
    assert topic.retention == timedelta.max
    assert memory_log.create_topic("for-ever", retention=None).retention is None


@limit("retention_bytes", 1, MOST_BYTES)
def test_retention_bytes_has_a_range(memory_log: EventLog) -> None:
    topic = memory_log.create_topic("t", partitions=1, retention_bytes=1)
    for body in (b"expired", b"kept"):
        topic.append(body)
    assert [event.body for event in topic.read(0, 1)] == [b"kept"]
    topic.configure(retention_bytes=MOST_BYTES)
    assert memory_log.topic("t").retention_bytes == MOST_BYTES
    for wrong in (0, -1, MOST_BYTES + 1):
        with refused(ValueError):
            memory_log.create_topic("u", retention_bytes=wrong)
        with refused(ValueError):
            topic.configure(retention_bytes=wrong)
    assert memory_log.create_topic("no-limit", retention_bytes=None).retention_bytes is None


# ---- Partitions and reading ----------------------------------------------------------------------


@limit("offsets", 0, MAX_OFFSET, 1_000_000, 292_000)
def test_offsets_are_from_0_to_what_fits_63_bits(topic: Topic) -> None:
    assert topic.append(b"").offset == 0
    for start in (-1, 2, MAX_OFFSET, MAX_OFFSET + 1):
        with pytest.raises(OffsetOutOfRangeError) as raised:
            topic.read(0, start)
        assert raised.value.offset == start
    seconds_a_year = 365.2425 * 86_400
    assert MAX_OFFSET / 1_000_000 / seconds_a_year == pytest.approx(292_000, rel=0.01)


@limit("stored_batch", batch.TARGET_EVENTS, batch.TARGET_RAW_BYTES)
def test_a_large_append_is_stored_as_several_batches(memory_log: EventLog) -> None:
    for number, (events, batches) in enumerate(
        [
            ([b""] * batch.TARGET_EVENTS, 1),
            ([b""] * (batch.TARGET_EVENTS + 1), 2),
            ([bytes(batch.TARGET_RAW_BYTES)], 1),
            ([bytes(batch.TARGET_RAW_BYTES)] * 2, 2),
            ([bytes(DEFAULT_EVENT_BYTES)], 1),
        ]
    ):
        before = memory_log.check().batches
        topic = memory_log.create_topic(f"t{number}", partitions=1)
        (receipt,) = topic.append_batch(events)
        assert (receipt.offset, receipt.count) == (0, len(events))
        assert memory_log.check().batches - before == batches
        assert len(topic.read(0, max_events=10_000)) == len(events)


@limit("max_events", 1, MOST_BYTES, DEFAULT_MAX_EVENTS)
def test_max_events_has_a_range(topic: Topic) -> None:
    topic.append_batch([b""] * (DEFAULT_MAX_EVENTS + 1))
    assert len(topic.read(0)) == DEFAULT_MAX_EVENTS
    assert len(topic.read(0, max_events=1)) == 1
    assert len(topic.read(0, max_events=MOST_BYTES)) == DEFAULT_MAX_EVENTS + 1
    for wrong in (0, -1, MOST_BYTES + 1):
        with refused(ValueError):
            topic.read(0, max_events=wrong)


@limit("max_bytes", 1, MOST_BYTES)
def test_max_bytes_has_a_range(topic: Topic) -> None:
    topic.append_batch([b"12"] * 3)
    assert len(topic.read(0, max_bytes=1)) == 1
    assert len(topic.read(0, max_bytes=MOST_BYTES)) == 3
    assert len(topic.read(0, max_bytes=None)) == 3
    for wrong in (0, -1, MOST_BYTES + 1):
        with refused(ValueError):
            topic.read(0, max_bytes=wrong)


@limit("positions", 1, 9999)
def test_positions_are_instants_of_the_years_1_to_9999(topic: Topic) -> None:
    topic.append(b"")
    west, east = timezone(timedelta(hours=-1)), timezone(timedelta(hours=1))
    right: list[str | datetime] = [
        "earliest",
        "-1h",
        "0001-01-01T00:00:00Z",
        datetime.min.replace(tzinfo=UTC),
        "2020-02-02T02:02:02+02:00",
    ]
    for position in right:
        assert len(topic.read(0, position)) == 1
    late: list[str | datetime] = [
        "latest",
        "9999-12-31T23:59:59.999999Z",
        datetime.max.replace(tzinfo=UTC),
    ]
    for position in late:
        assert topic.read(0, position) == []
    wrong: list[str | datetime] = [
        "",
        "yesterday",
        "-1",
        "-24 h",
        "2020-02-02",
        "-99999999999w",
        datetime(2020, 2, 2),  # noqa: DTZ001 - that is what is wrong with it
        datetime.min.replace(tzinfo=east),
        datetime.max.replace(tzinfo=west),
    ]
    for position in wrong:
        with refused(ValueError):
            topic.read(0, position)
        with refused(ValueError):
            topic.read(0, end=position)
        with refused(ValueError):
            topic.offset_at(0, position)
    no_position: Any
    for no_position in (1.5, None, True, b"-1h", [0]):
        with refused(TypeError):
            topic.read(0, no_position)


# ---- Processes -----------------------------------------------------------------------------------


@limit("reads", storage.MAX_READS_PER_PROCESS)
def test_so_many_threads_may_read_at_once_and_one_more_when_one_has_ended(
    memory_log: EventLog, topic: Topic
) -> None:
    gate = embedded(memory_log).environment.gate
    others = range(-storage.MAX_READS_PER_PROCESS, 0)  # threads that there are not
    assert all(gate._admits(thread) for thread in others)
    try:
        assert not gate._admits(threading.get_ident())
        gate.leave(others[0])
        assert topic.read(0) == []
    finally:
        for thread in others:
            gate.leave(thread)


@limit("reader_slots", opening.MAX_READERS)
def test_a_log_has_a_slot_for_each_read_of_all_processes() -> None:
    with eventlog.open("memory:", lock_timeout=0) as log:
        topic = log.create_topic("t", partitions=1)
        environment = embedded(log).environment.lmdb
        with contextlib.ExitStack() as stack:
            for _ in range(opening.MAX_READERS - 1):
                stack.enter_context(environment.begin())
            assert topic.read(0) == []
            stack.enter_context(environment.begin())
            with refused(LogBusyError):
                topic.read(0)
        assert topic.read(0) == []


@limit("map_size", opening.MIN_MAP_BYTES, opening.MAX_MAP_BYTES, DEFAULT_MAP_BYTES)
def test_a_log_grows_up_to_its_map_size(log_path: Path) -> None:
    for wrong in (0, -1, opening.MIN_MAP_BYTES - 1, opening.MAX_MAP_BYTES + 1, 2**64):
        with refused(ValueError):
            eventlog.open(log_path, map_size=wrong)
    with eventlog.open(log_path, map_size=opening.MIN_MAP_BYTES) as log:
        topic = log.create_topic("t", partitions=1, compression="none")
        with refused(LogFullError, topic):
            topic.append(bytes(DEFAULT_EVENT_BYTES))
        assert topic.append(b"small").offset == 0
    with eventlog.open(log_path, map_size=opening.MAX_MAP_BYTES) as log:
        assert log.topic("t").append(bytes(DEFAULT_EVENT_BYTES)).offset == 1


@contextlib.contextmanager
def held_by_another(path: Path, start: Start) -> Iterator[int]:
    """A log that another process keeps locked; the process's id."""
    child = start(HOLDER, path / directory.LOCK_NAME)
    assert child.line() == "locked"
    yield child.pid
    child.say()
    child.wait()


@limit("lock_timeout", 0, DEFAULT_LOCK_TIMEOUT)
def test_lock_timeout_is_how_long_a_writer_waits_for_others(log_path: Path, start: Start) -> None:
    assert default(eventlog.open, "lock_timeout") == DEFAULT_LOCK_TIMEOUT
    lengths: list[float | timedelta] = [-1, -1e-9, timedelta(seconds=-1), float("nan")]
    for wrong in lengths:
        with refused(ValueError):
            eventlog.open(log_path, lock_timeout=wrong)
    with eventlog.open(log_path, lock_timeout=0) as log:
        topic = log.create_topic("t", partitions=1)
        with held_by_another(log_path, start) as holder:
            with pytest.raises(LogBusyError) as raised:
                topic.append(b"")
            assert raised.value.holder == holder
            assert topic.partition_info(0).is_empty
        assert topic.append(b"").offset == 0
    with eventlog.open(log_path, lock_timeout=float("inf")) as log:
        assert log.topic("t").append(b"").offset == 1


@limit("timeout", 0)
def test_timeout_is_lock_timeout_for_one_append(log: EventLog, start: Start) -> None:
    topic = log.create_topic("t", partitions=1)
    wrongs: list[float | timedelta] = [-1, timedelta(seconds=-1), float("nan")]
    for wrong in wrongs:
        with refused(ValueError, topic):
            topic.append(b"", timeout=wrong)
        with refused(ValueError, topic):
            topic.append_batch([b""], timeout=wrong)
    with held_by_another(Path(log.location), start) as holder:
        short: list[float | timedelta] = [0, 0.01, timedelta(milliseconds=1)]
        for timeout in short:
            with pytest.raises(LogBusyError) as raised:
                topic.append(b"", timeout=timeout)
            assert raised.value.holder == holder
            with refused(LogBusyError, topic):
                topic.append_batch([b""], timeout=timeout)
    right: list[float | timedelta] = [float("inf"), timedelta.max, 0]
    for offset, length in enumerate(right):
        assert topic.append(b"", timeout=length).offset == offset


@limit("group_name", 1, MAX_NAME_CHARACTERS)
def test_a_group_name_follows_the_rules_of_topics(topic: Topic) -> None:
    for right in ("a", "_", "fraud-2.b_C", "g" * MAX_NAME_CHARACTERS):
        assert topic.group(right).name == right
    for wrong in ("", ".", "-a", "../x", "a/b", "a b", "ж", "g" * (MAX_NAME_CHARACTERS + 1)):
        with refused(InvalidNameError, topic):
            topic.group(wrong)
        with refused(InvalidNameError, topic):
            topic.consumer(group=wrong)
    with refused(TypeError, topic):
        topic.group(7)  # type: ignore[arg-type]


@limit("transaction", settings.MAX_APPEND_BYTES)
def test_a_transaction_takes_what_one_append_takes(memory_log: EventLog, topic: Topic) -> None:
    topic.configure(max_event_bytes=settings.MAX_EVENT_BYTES)
    half = bytes(settings.MAX_APPEND_BYTES // 2)
    with memory_log.transaction() as tx:
        tx.append(topic, half)
        tx.append(topic, half)
        with refused(EventTooLargeError):
            tx.append(topic, b"x")
    assert [receipt.offset for receipt in tx.receipts] == [0, 1]


@limit("producer_id", 1, MAX_PRODUCER_ID_BYTES)
def test_a_producer_id_is_short_text(topic: Topic) -> None:
    for right in ("a", "load:../some file", "ж" * (MAX_PRODUCER_ID_BYTES // 2)):
        topic.producer(producer_id=right).close()
    for wrong in ("", "a" * (MAX_PRODUCER_ID_BYTES + 1), "ж" * MAX_PRODUCER_ID_BYTES, "\ud800"):
        with refused(ValueError, topic):
            topic.producer(producer_id=wrong)
    with refused(TypeError, topic):
        topic.producer(producer_id=7)  # type: ignore[arg-type]


@limit("sequence", 0, MAX_SEQUENCE)
def test_a_sequence_grows_from_0_on(topic: Topic) -> None:
    with topic.producer(producer_id="p") as producer:
        for wrong in (-1, MAX_SEQUENCE + 1):
            with refused(ValueError, topic):
                producer.send(b"x", sequence=wrong)
        with refused(ValueError, topic):
            producer.send(b"x")
        offsets = [producer.send(b"x", sequence=right).result() for right in (0, MAX_SEQUENCE, 0)]
    assert [(receipt.offset, receipt.duplicate) for receipt in offsets] == [
        (0, False),
        (1, False),
        (-1, True),
    ]


@limit("producers", MAX_PRODUCERS, KEPT_US // 86_400_000_000)
def test_a_topic_knows_so_many_producers_that_were_active_of_late() -> None:
    now = [10**15]
    with eventlog.open("memory:", clock=lambda: now[0]) as log:
        topic = log.create_topic("t", partitions=1)
        record = ProducerRecord(1, 0, now[0]).encode()

        def fill(writer: Writer) -> None:
            number = embedded(log).handle("t").state.record.id
            for name in range(MAX_PRODUCERS):
                writer.put(producer_key(number, f"p{name}"), record)

        embedded(log).commit(fill)
        with pytest.raises(UnsupportedOperationError):
            topic.producer(producer_id="one more")
        topic.producer(producer_id="p7").close()
        now[0] += KEPT_US + 1
        with topic.producer(producer_id="one more") as producer:
            assert producer.last_sequence == -1


@limit("buffer", default(Topic.producer, "max_buffered_bytes"))
def test_a_producer_accepts_no_more_than_its_buffer_holds(topic: Topic) -> None:
    most = 1000
    with topic.producer(max_buffered_bytes=most, linger=3600) as producer:
        producer.send(bytes(10 * most))  # a single one always
        with pytest.raises(BufferFullError):
            producer.send(b"", timeout=0)
        producer.flush()
        for _ in range(most // (36 + EVENT_BYTES)):
            producer.send(bytes(36))
        with pytest.raises(BufferFullError):
            producer.send(b"", timeout=0)
    assert topic.partition_info(0).next_offset == 1 + most // (36 + EVENT_BYTES)


# ---- Hosts ---------------------------------------------------------------------------------------


@limit("host_name", 1, 200)
def test_a_host_name_is_short_and_safe(topic: Topic) -> None:
    for right in ("a", "worker_1.example-2", "h" * 200):
        EventProcessorHost(topic, group="g", handler=print, host_name=right)
    with refused(ValueError, topic):
        EventProcessorHost(topic, group="g", handler=print, host_name="h" * 201)
    for wrong in ("", "../h", "a b", "é", ".h"):
        with refused(InvalidNameError, topic):
            EventProcessorHost(topic, group="g", handler=print, host_name=wrong)
    with refused(TypeError, topic):
        EventProcessorHost(topic, group="g", handler=print, host_name=7)  # type: ignore[arg-type]


@limit("max_batch", 1, 1_000_000, ProcessorOptions().max_batch)
def test_a_batch_of_a_host_has_at_most_max_batch_events() -> None:
    for right in (1, 1_000_000):
        assert ProcessorOptions(max_batch=right).max_batch == right
    for wrong in (0, -1, 1_000_001):
        with refused(ValueError):
            ProcessorOptions(max_batch=wrong)


@limit(
    "renew_interval",
    0,
    int(ProcessorOptions().renew_interval),
    int(ProcessorOptions().lease_duration),
)
def test_heartbeats_come_twice_in_a_lease_at_least() -> None:
    ProcessorOptions(renew_interval=15)
    ProcessorOptions(renew_interval=0.001, lease_duration=timedelta(milliseconds=2))
    for wrong in (0, -1, 15.001):
        with refused(ValueError):
            ProcessorOptions(renew_interval=wrong)


@limit("max_attempts", 1, 2_147_483_648)
def test_max_attempts_has_a_range() -> None:
    for right in (1, 2_147_483_648, None):
        assert RetryPolicy(max_attempts=right).max_attempts == right
    for wrong in (0, -1, 2_147_483_649):
        with refused(ValueError):
            RetryPolicy(max_attempts=wrong)
