"""Logs: opening them wherever they may be, and making, finding and deleting topics in them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import (
    ClosedError,
    Event,
    EventLog,
    InvalidNameError,
    LogNotFoundError,
    NotALogError,
    TopicExistsError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.embedded.engine import EmbeddedLog
from tests.conftest import Start

UNTYPED: Any = eventlog.open
"""For what type checkers refuse, too."""


def by_length(key: bytes, partitions: int) -> int:
    """A partitioner of a program's own."""
    return len(key) % partitions


def astray(key: bytes, partitions: int) -> int:
    """A partitioner that is wrong."""
    return partitions


def entries(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


# Topics


def test_a_topic_is_made_with_the_defaults_agreed(memory_log: EventLog) -> None:
    """Four partitions, kept for ever, compressed, placed as Event Hubs does, a MiB an event."""
    topic = memory_log.create_topic("cars")
    assert (topic.name, topic.partitions, topic.retention, topic.retention_bytes) == (
        "cars",
        4,
        None,
        None,
    )
    assert (topic.compression, topic.partitioner) == ("zstd", "eventhubs")
    assert topic.max_event_bytes == 1024 * 1024


def test_a_topic_is_made_as_asked_for_and_stays_so(log_path: Path) -> None:
    """Every option is there after opening the log again, and the time it was made."""
    made_at = datetime(2024, 2, 29, 1, 2, 3, 4, UTC)
    now_us = (made_at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    with eventlog.open(log_path, clock=lambda: now_us) as log:
        log.create_topic(
            "cars",
            partitions=10_000,
            retention=90.5,
            retention_bytes=2**40,
            compression="none",
            partitioner="kafka",
            max_event_bytes=1,
        )
    with eventlog.open(log_path) as log:
        topic = log.topic("cars")
        assert topic.partitions == 10_000
        assert topic.retention == timedelta(seconds=90.5)
        assert topic.retention_bytes == 2**40
        assert (topic.compression, topic.partitioner) == ("none", "kafka")
        assert topic.max_event_bytes == 1
        assert topic.created_at == made_at


def test_topics_are_listed_by_name(memory_log: EventLog) -> None:
    """Whatever the order they were made in."""
    assert memory_log.topics() == []
    for name in ("b", "a", "_", "B", "a.a", "0"):
        memory_log.create_topic(name, partitions=1)
    assert [topic.name for topic in memory_log.topics()] == ["0", "B", "_", "a", "a.a", "b"]


def test_a_topic_that_is_not_there_is_not_found(memory_log: EventLog) -> None:
    """The error names it."""
    for call in (memory_log.topic, memory_log.delete_topic):
        with pytest.raises(TopicNotFoundError, match="'cars'"):
            call("cars")
        with pytest.raises(InvalidNameError):
            call("../cars")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"partitions": 0}, ValueError),
        ({"partitions": 10_001}, ValueError),
        ({"partitions": True}, TypeError),
        ({"partitions": "4"}, TypeError),
        ({"retention": 0}, ValueError),
        ({"retention": -1}, ValueError),
        ({"retention": float("nan")}, ValueError),
        ({"retention": float("inf")}, ValueError),
        ({"retention": timedelta(0)}, ValueError),
        ({"retention": "24h"}, TypeError),
        ({"retention_bytes": 0}, ValueError),
        ({"retention_bytes": 1.5}, TypeError),
        ({"compression": "gzip"}, ValueError),
        ({"compression": None}, ValueError),
        ({"partitioner": "sha1"}, ValueError),
        pytest.param({"partitioner": lambda key, partitions: 0}, ValueError, id="a lambda"),
        ({"partitioner": 1}, TypeError),
        ({"max_event_bytes": 0}, ValueError),
        ({"max_event_bytes": 2**20 + 0.5}, TypeError),
        ({"name": "no/slash"}, InvalidNameError),
        ({"name": b"cars"}, TypeError),
    ],
    ids=str,
)
def test_what_a_topic_cannot_be_made_with_is_refused(
    memory_log: EventLog, options: dict[str, Any], kind: type[Exception]
) -> None:
    """Wrong types are TypeErrors, wrong values ValueErrors, and no topic is made."""
    with pytest.raises(kind):
        memory_log.create_topic(**{"name": "cars", **options})
    assert memory_log.topics() == []


def test_a_topic_that_exists_is_not_made_again(memory_log: EventLog) -> None:
    """Unless that is said to be all right."""
    memory_log.create_topic("cars").append(b"kept", partition=0)
    with pytest.raises(TopicExistsError, match="'cars' exists"):
        memory_log.create_topic("cars")
    again = memory_log.create_topic("cars", exist_ok=True)
    assert again.read(0)[0].body == b"kept"


def test_exist_ok_does_not_take_a_topic_that_places_keys_elsewhere(memory_log: EventLog) -> None:
    """With other partitions or another partitioner it is another topic: the error names both."""
    memory_log.create_topic("cars", partitions=4)
    with pytest.raises(TopicExistsError, match=r"4 partitions.*asked for were 8"):
        memory_log.create_topic("cars", partitions=8, exist_ok=True)
    with pytest.raises(TopicExistsError, match=r"'eventhubs'.*'kafka'"):
        memory_log.create_topic("cars", partitioner="kafka", exist_ok=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retention": 60}, "retention is none, not 1m"),
        ({"retention_bytes": 5}, "retention_bytes is none, not 5"),
        ({"compression": "none"}, "compression is zstd, not none"),
        ({"max_event_bytes": 7}, "max_event_bytes is 1048576, not 7"),
    ],
    ids=str,
)
def test_exist_ok_warns_of_other_differences(
    memory_log: EventLog, options: dict[str, Any], said: str
) -> None:
    """The topic stays as it is; the warning names what differs and points at the caller."""
    memory_log.create_topic("cars")
    with pytest.warns(UserWarning, match=f"stays as it is: {said}") as caught:
        topic = memory_log.create_topic("cars", exist_ok=True, **options)
    assert caught[0].filename == __file__
    (name,) = options
    assert getattr(topic, name) == getattr(memory_log.topic("cars"), name) != options[name]


def test_exist_ok_is_silent_about_a_topic_that_is_the_same(memory_log: EventLog) -> None:
    """A program may say at every start what topics it needs."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            memory_log.create_topic("cars", retention=60, partitioner=by_length, exist_ok=True)


# Deleting


def test_a_deleted_topic_is_gone_with_its_events(memory_log: EventLog) -> None:
    """One of the same name that is made later begins anew; other topics stay as they are."""
    memory_log.create_topic("other", partitions=1).append(b"kept")
    memory_log.create_topic("cars", partitions=1).append_batch([b"gone"] * 1000)
    memory_log.delete_topic("cars")
    assert [topic.name for topic in memory_log.topics()] == ["other"]
    with pytest.raises(TopicNotFoundError):
        memory_log.topic("cars")
    again = memory_log.create_topic("cars", partitions=1)
    assert again.read(0) == []
    assert again.append(b"new").offset == 0
    assert memory_log.topic("other").read(0)[0].body == b"kept"


def test_a_handle_of_a_deleted_topic_stays_of_that_one(memory_log: EventLog) -> None:
    """It never reads from or writes to another topic that has the same name by chance."""
    old = memory_log.create_topic("cars", partitions=1)
    memory_log.delete_topic("cars")
    for _ in range(2):
        uses: list[Callable[[], object]] = [
            lambda: old.append(b""),
            lambda: old.append_batch([b""]),
            lambda: old.read(0),
            lambda: old.partition_info(0),
            lambda: old.offset_at(0, "-1h"),
            lambda: old.configure(retention=1),
            lambda: old.add_partitions(1),
            old.expire,
        ]
        for use in uses:
            with pytest.raises(TopicNotFoundError, match="'cars' was deleted"):
                use()
        memory_log.create_topic("cars", partitions=1, exist_ok=True)
    assert memory_log.topic("cars").partition_info(0).is_empty


# Partitioners


def test_keys_are_placed_by_a_function_of_ones_own(memory_log: EventLog) -> None:
    """It is remembered by module and name."""
    topic = memory_log.create_topic("cars", partitions=4, partitioner=by_length)
    assert topic.partitioner == f"{by_length.__module__}:by_length"
    for key in ("", "a", "ab", b"abc", "abcd", "\u00e9\u00e9"):
        encoded = key.encode() if isinstance(key, str) else key
        assert topic.append(b"", key=key).partition == len(encoded) % 4


def test_without_its_function_a_topic_can_be_read_and_appended_to_without_keys(
    log_path: Path,
) -> None:
    """A process that does not have the function never places a key by another one."""
    with eventlog.open(log_path) as log:
        log.create_topic("cars", partitions=4, partitioner=by_length).append(b"a", key="k")
    with eventlog.open(log_path) as log:
        topic = log.topic("cars")
        assert topic.read(1)[0].key == "k"
        assert topic.append(b"b").offset >= 0
        assert topic.append(b"c", key="k", partition=3).partition == 3
        uses: list[Callable[[], object]] = [
            lambda: topic.append(b"", key="k"),
            lambda: topic.append_batch([b"", Event(b"", "k")]),
            lambda: topic.append_batch([b""], key="k"),
        ]
        for use in uses:
            with pytest.raises(UnsupportedOperationError, match=r"by_length.*exist_ok"):
                use()
        log.create_topic("cars", partitioner=by_length, exist_ok=True)
        assert log.topic("cars").append(b"", key="k").partition == 1


def test_a_handle_from_before_learns_the_function(log_path: Path) -> None:
    """Handing it in once is enough for the whole log, as the error says."""
    with eventlog.open(log_path) as log:
        log.create_topic("cars", partitions=4, partitioner=by_length)
    with eventlog.open(log_path) as log:
        topic = log.topic("cars")
        log.create_topic("cars", partitioner=by_length, exist_ok=True)
        assert topic.append(b"", key="k").partition == 1


def test_a_function_that_gives_no_partition_is_an_error(memory_log: EventLog) -> None:
    """And nothing is stored."""
    topic = memory_log.create_topic("cars", partitions=2, partitioner=astray)
    with pytest.raises(ValueError, match="astray gave 2"):
        topic.append_batch([Event(b"", "k"), b"unkeyed"])
    assert [topic.partition_info(number).next_offset for number in range(2)] == [0, 0]


# Where logs are


def test_a_log_is_made_where_there_is_none_with_the_directories_above(tmp_path: Path) -> None:
    """One call is all it takes."""
    path = tmp_path / "a" / "b"
    with eventlog.open(path) as log:
        log.create_topic("cars")
    with eventlog.open(path, create=False) as log:
        assert [topic.name for topic in log.topics()] == ["cars"]


@pytest.mark.parametrize(
    "location",
    [
        "data",
        "./data",
        Path("data"),
        "file:data",
        "file:./data",
        "C:data",
        "x:data",
        "./memory:data",
        Path("memory:data"),
        Path("kafka:data"),
        "with space/\u00fcml\u00e4ut",
        "~/data",
    ],
    ids=repr,
)
def test_a_path_is_a_path_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str | Path
) -> None:
    """A scheme of one letter is a drive; a slash before a colon, or a `Path`, is no scheme."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with eventlog.open(location) as log:
        assert log.location == str(location).removeprefix("file:")
        assert str(location).removeprefix("file:") in repr(log)
    path = str(location).removeprefix("file:").replace("~", str(tmp_path))
    assert (tmp_path / path / "eventlog.control").exists()


@pytest.mark.parametrize("prefix", ["", "file:", "file://"])
def test_an_absolute_path_may_be_a_file_url(log_path: Path, prefix: str) -> None:
    """`file:/a/b` and `file:///a/b` are the same place."""
    with eventlog.open(f"{prefix}{log_path}"):
        assert (log_path / "eventlog.control").exists()


def test_a_log_stays_where_it_is_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is resolved once."""
    monkeypatch.chdir(tmp_path)
    with eventlog.open("data") as log:
        topic = log.create_topic("cars", partitions=1)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        log.compact()
        topic.append(b"x")
        assert len(topic.read(0)) == 1
    assert entries(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("location", ["s3://bucket", "http:data", "ab:c"])
def test_a_scheme_without_an_engine_is_refused_by_name(location: str) -> None:
    """Rather than a directory of that name made."""
    with pytest.raises(UnsupportedOperationError, match=location.partition(":")[0] + ":"):
        eventlog.open(location)


@pytest.mark.parametrize("location", ["", "file:", "file://"])
def test_an_empty_location_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    """Rather than a log made in whatever directory this is."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="names no"):
        eventlog.open(location)
    assert entries(tmp_path) == []


@pytest.mark.parametrize("location", [b"data", 5, None])
def test_a_location_of_another_type_is_refused(location: object) -> None:
    """A str, or a path of str."""
    with pytest.raises(TypeError):
        UNTYPED(location)


def test_logs_in_memory_are_new_each_time() -> None:
    """Two that are open at once share nothing."""
    with eventlog.open("memory:") as one, eventlog.open("memory:") as other:
        one.create_topic("cars")
        assert other.topics() == []
        assert one.location == other.location == "memory:"


def test_a_named_log_in_memory_is_shared_as_long_as_anybody_has_it_open() -> None:
    """And is new for who comes after that."""
    with eventlog.open("memory:shared") as one:
        one.create_topic("cars", partitions=1).append(b"x")
        with eventlog.open("memory:shared") as other:
            assert other.topic("cars").read(0)[0].body == b"x"
        with eventlog.open("memory:other") as another:
            assert another.topics() == []
        assert one.topic("cars").append(b"still open").offset == 1
        with eventlog.open("memory:shared", read_only=True) as reader:
            assert len(reader.topic("cars").read(0)) == 2
    with eventlog.open("memory:shared") as new:
        assert new.topics() == []


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
def test_a_log_in_memory_that_is_not_there_is_not_found(options: dict[str, Any]) -> None:
    """Named or not."""
    for location in ("memory:", "memory:nobody"):
        with pytest.raises(LogNotFoundError):
            eventlog.open(location, **options)


# What is not there, or is something else


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}])
def test_a_log_that_is_not_there_is_not_found_nor_made(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Not even a lock file is left in the place."""
    with pytest.raises(LogNotFoundError, match="nowhere") as caught:
        eventlog.open(tmp_path / "nowhere", **options)
    assert isinstance(caught.value, FileNotFoundError)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LogNotFoundError):
        eventlog.open(tmp_path / "empty", **options)
    assert entries(tmp_path) == ["empty"]
    assert entries(tmp_path / "empty") == []


def test_a_log_is_not_made_among_other_files(tmp_path: Path) -> None:
    """A mistyped path does not litter somebody's directory."""
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(NotALogError, match=r"holiday\.jpg"):
        eventlog.open(tmp_path)
    assert entries(tmp_path) == ["holiday.jpg"]


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_is_no_log(tmp_path: Path, below: str) -> None:
    """Nor is anything below it."""
    (tmp_path / "file").write_bytes(b"not a log")
    with pytest.raises(NotALogError):
        eventlog.open(tmp_path / "file" / below)
    assert (tmp_path / "file").read_bytes() == b"not a log"


# Options


@pytest.mark.parametrize(("made", "asked"), [("disk", "process"), ("process", "disk")])
def test_the_durability_of_a_log_is_fixed(log_path: Path, made: Any, asked: Any) -> None:
    """Opening it with another is an error that names both, also while it is open."""
    with eventlog.open(log_path, durability=made) as log:
        log.create_topic("cars")
        with pytest.raises(UnsupportedOperationError, match=f"'{made}'.*'{asked}'"):
            eventlog.open(log_path, durability=asked)
    with pytest.raises(UnsupportedOperationError, match=f"'{made}'.*'{asked}'"):
        eventlog.open(log_path, durability=asked)
    for durability in (made, None):
        with eventlog.open(log_path, durability=durability) as log:
            log.topic("cars").append(b"x")


def test_an_open_that_was_refused_leaves_nothing_open(log_path: Path) -> None:
    """The place can be cleared and used for another log at once."""
    from eventlog.embedded import storage

    with eventlog.open(log_path):
        pass
    before = set(storage._registry)  # other tests may have left some to the garbage collector
    with pytest.raises(UnsupportedOperationError):
        eventlog.open(log_path, durability="process")
    assert set(storage._registry) == before


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"durability": "none"}, ValueError),
        ({"durability": True}, ValueError),
        ({"lock_timeout": -1}, ValueError),
        ({"lock_timeout": float("nan")}, ValueError),
        ({"lock_timeout": "30"}, TypeError),
        ({"map_size": 2**20 - 1}, ValueError),
        ({"map_size": 2**64}, ValueError),
        ({"map_size": "1T"}, TypeError),
        ({"no_such_option": 1}, TypeError),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(
    log_path: Path, options: dict[str, Any], kind: type[Exception]
) -> None:
    """Before anything is made."""
    with pytest.raises(kind):
        eventlog.open(log_path, **options)
    assert not log_path.exists()


@pytest.mark.parametrize("timeout", [0, 0.5, float("inf"), timedelta(seconds=1), 10**9])
def test_a_lock_timeout_may_be_any_length_of_time(memory_log: EventLog, timeout: Any) -> None:
    """Seconds or a timedelta, none at all or for ever."""
    topic = memory_log.create_topic("cars", partitions=1)
    assert topic.append(b"", timeout=timeout).offset == 0
    with eventlog.open("memory:", lock_timeout=timeout) as log:
        log.create_topic("cars").append(b"")


@pytest.mark.parametrize(
    ("timeout", "kind"), [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError)]
)
def test_a_timeout_that_is_no_length_of_time_is_refused(
    memory_log: EventLog, timeout: Any, kind: type[Exception]
) -> None:
    """And nothing is stored."""
    topic = memory_log.create_topic("cars", partitions=1)
    with pytest.raises(kind):
        topic.append(b"", timeout=timeout)
    with pytest.raises(kind):
        topic.append_batch([b""], timeout=timeout)
    assert topic.partition_info(0).is_empty


# Read only


def test_a_log_opened_to_be_read_is_not_written(log_path: Path) -> None:
    """Reading, checking and backing up work; whatever would write says why it does not."""
    with eventlog.open(log_path) as log:
        log.create_topic("cars", partitions=1).append(b"x")
    with eventlog.open(log_path, read_only=True) as log:
        topic = log.topic("cars")
        assert topic.read(0)[0].body == b"x"
        assert topic.partition_info(0).next_offset == 1
        assert log.check().ok
        log.backup(log_path.with_name("backup"))
        writes: list[Callable[[], object]] = [
            lambda: topic.append(b""),
            lambda: topic.append_batch([b""]),
            lambda: topic.configure(retention=1),
            lambda: topic.add_partitions(1),
            topic.expire,
            lambda: log.create_topic("other"),
            lambda: log.delete_topic("cars"),
            log.compact,
        ]
        for write in writes:
            with pytest.raises(UnsupportedOperationError, match="read_only"):
                write()
        assert log.create_topic("cars", partitions=1, exist_ok=True).partitions == 1
    with eventlog.open(log_path.with_name("backup")) as log:
        assert log.topic("cars").read(0)[0].body == b"x"


@pytest.mark.parametrize("writer_first", [True, False])
def test_a_log_may_be_open_to_be_read_and_to_be_written_at_once(
    log_path: Path, writer_first: bool
) -> None:
    """In one process, whichever came first; each can do what it was opened for."""
    with eventlog.open(log_path) as log:
        log.create_topic("cars", partitions=1)
    first = eventlog.open(log_path, read_only=not writer_first)
    second = eventlog.open(log_path, read_only=writer_first)
    writer, reader = (first, second) if writer_first else (second, first)
    writer.topic("cars").append(b"x")
    assert reader.topic("cars").read(0)[0].body == b"x"
    with pytest.raises(UnsupportedOperationError):
        reader.topic("cars").append(b"")
    first.close()
    assert second.topic("cars").read(0)[0].body == b"x"
    second.close()


# Closing


def test_a_log_opened_twice_is_closed_twice(log_path: Path) -> None:
    """Each `open` gives a log of its own; what one appends the other reads."""
    one, other = eventlog.open(log_path), eventlog.open(log_path)
    topic = one.create_topic("cars", partitions=1)
    one.close()
    with pytest.raises(ClosedError):
        topic.append(b"")
    assert other.topic("cars").append(b"x").offset == 0
    other.close()
    with eventlog.open(log_path) as again:
        assert again.topic("cars").read(0)[0].body == b"x"


def test_what_is_used_after_closing_says_so(log_path: Path) -> None:
    """Every method of the log and of its topics; closing again is fine."""
    with eventlog.open(log_path) as log:
        topic = log.create_topic("cars", partitions=1)
    log.close()
    uses: list[Callable[[], object]] = [
        log.topics,
        lambda: log.topic("cars"),
        lambda: log.create_topic("other"),
        lambda: log.delete_topic("cars"),
        log.check,
        log.compact,
        lambda: log.backup(log_path.with_name("backup")),
        lambda: topic.append(b""),
        lambda: topic.append_batch([b""]),
        lambda: topic.read(0),
        lambda: topic.partition_info(0),
        lambda: topic.offset_at(0, "-1h"),
        lambda: topic.configure(retention=1),
        lambda: topic.add_partitions(1),
        topic.expire,
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="log"):
            use()
    assert not log_path.with_name("backup").exists()
    assert topic.name == "cars"
    assert log.location == str(log_path)


def test_an_error_in_a_with_block_closes_the_log_too(log_path: Path) -> None:
    """And is not swallowed."""
    with pytest.raises(KeyError), eventlog.open(log_path) as log:
        raise KeyError
    with pytest.raises(ClosedError):
        log.topics()


# Copies


def test_a_backup_is_the_log_as_it_was(log_path: Path, tmp_path: Path) -> None:
    """It opens like any log, and what is appended later to either is not in the other."""
    copy = tmp_path / "copies" / "today"
    with eventlog.open(log_path) as log:
        topic = log.create_topic("cars", partitions=2, retention=1e6)
        topic.append_batch([b"%d" % number for number in range(1000)], partition=1)
        log.backup(copy)
        topic.append(b"later", partition=1)
        with eventlog.open(copy) as other:
            assert other.check().events == 1000
            assert other.topic("cars").retention == timedelta(seconds=1e6)
            assert other.topic("cars").append(b"elsewhere", partition=1).offset == 1000
        assert topic.read(1, 1000)[0].body == b"later"


def test_a_backup_overwrites_nothing(log: EventLog, tmp_path: Path) -> None:
    """Neither a file nor a directory, not even an empty one."""
    for name in ("file", "directory"):
        path = tmp_path / name
        path.mkdir() if name == "directory" else path.write_bytes(b"x")
        with pytest.raises(FileExistsError):
            log.backup(path)
    assert entries(tmp_path / "directory") == []
    assert entries(tmp_path) == ["directory", "file", "log"]


def test_compacting_gives_space_back_and_changes_nothing(log_path: Path) -> None:
    """The file gets shorter; events, offsets and times stay, for handles from before, too."""
    with eventlog.open(log_path) as log:
        topic = log.create_topic("cars", partitions=1, compression="none")
        log.create_topic("gone", partitions=1, compression="none").append_batch(
            [os.urandom(1000)] * 5000
        )
        topic.append_batch([b"%d" % number for number in range(1000)])
        log.delete_topic("gone")
        before = topic.read(0)
        size = sum(path.stat().st_size for path in log_path.glob("*.mdb"))
        log.compact()
        assert sum(path.stat().st_size for path in log_path.glob("*.mdb")) < size / 2
        assert topic.read(0) == before
        assert topic.append(b"next").offset == 1000
    with eventlog.open(log_path) as log:
        assert log.topic("cars").read(0)[:1000] == before


OTHER_PROCESS = """
import sys
import eventlog

with eventlog.open(sys.argv[1], create=False) as log:
    topic = log.topic("cars")
    print("open", flush=True)
    for line in sys.stdin:
        if line == "compact\\n":
            log.compact()
            print("compacted", flush=True)
        else:
            print(topic.append(b"theirs", partition=0).offset, flush=True)
"""


@pytest.mark.parametrize("they_compact", [True, False])
@pytest.mark.parametrize("distance", [-1, 0, 1])
def test_after_a_compaction_nobody_overwrites_what_another_appended(
    log_path: Path, start: Start, they_compact: bool, distance: int
) -> None:
    """Offsets go on from what is stored, whatever this process remembers from before.

    The copy counts its transactions anew. When the other process has committed so many that its
    last one has the number of our last one before, ours would seem to be the next.
    """
    with eventlog.open(log_path) as log:
        topic = log.create_topic("cars", partitions=1)
        for _ in range(5):
            topic.append(b"ours")
        remembered = transactions(log)
        child = start(OTHER_PROCESS, log_path)
        assert child.line() == "open"
        if they_compact:
            child.say("compact")
            assert child.line() == "compacted"
        else:
            log.compact()
        theirs = 5
        while len(topic.read(0)) == theirs and transactions(log) < remembered + distance:
            child.say("append")
            assert child.line() == str(theirs)
            theirs += 1
        assert theirs > 5
        assert topic.append(b"ours").offset == theirs
        child.say("append")
        assert child.line() == str(theirs + 1)
        assert [event.body for event in topic.read(0, theirs)] == [b"ours", b"theirs"]


def transactions(log: EventLog) -> int:
    """The number of the last transaction committed."""
    assert isinstance(log, EmbeddedLog)
    return int(log.environment.lmdb.info()["last_txnid"])


@pytest.mark.anyio
async def test_a_log_can_be_opened_with_async_with(log_path: Path) -> None:
    async with eventlog.open(log_path) as log:
        topic = await log.aio.create_topic("cars", partitions=1)
        await topic.aio.append(b"x")
        producer = topic.producer(linger=3600)
        producer.send(b"accepted")
    with pytest.raises(ClosedError):
        log.topics()
    with eventlog.open(log_path) as log:
        assert [event.body for event in log.topic("cars").read(0)] == [b"x", b"accepted"]
