"""``topic create``, ``list``, ``show``, ``set`` and ``delete``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import eventlog
from tests.cli.running import Command

SETTINGS = (
    "partitions",
    "retention",
    "retention_bytes",
    "compression",
    "partitioner",
    "max_event_bytes",
)


def test_create_makes_the_log_and_the_topic_with_its_settings(command: Command) -> None:
    options = (
        "--partitions 3 --retention 36h --retention-bytes 10GiB --compression none "
        "--partitioner kafka --max-event-bytes 2MiB"
    )
    assert command.done("topic", "create", "cars", *options.split()) == (0, b"", "")
    with command.open() as log:
        cars = log.topic("cars")
        assert cars.partitions == 3
        assert cars.retention == timedelta(hours=36)
        assert cars.retention_bytes == 10 * 2**30
        assert cars.compression == "none"
        assert cars.partitioner == "kafka"
        assert cars.max_event_bytes == 2 * 2**20


def test_create_without_options_makes_what_the_library_makes(command: Command) -> None:
    command.done("topic", "create", "ours")
    with command.open() as log:
        theirs = log.create_topic("theirs")
        for setting in SETTINGS:
            assert getattr(log.topic("ours"), setting) == getattr(theirs, setting)


@pytest.mark.parametrize("durability", ["disk", "process"])
def test_a_new_log_has_the_durability_asked_for_and_keeps_it(
    command: Command, durability: str
) -> None:
    command.done("topic", "create", "a", "--durability", durability)
    command.done("topic", "create", "b")
    with eventlog.open(command.location, durability=durability):  # type: ignore[arg-type]
        pass
    other = "process" if durability == "disk" else "disk"
    outcome = command("topic", "create", "c", "--durability", other)
    assert outcome.failed(1, repr(durability), repr(other))


def test_create_again_fails_and_with_exist_ok_does_not(command: Command) -> None:
    command.done("topic", "create", "cars", "--retention", "7d")
    assert command("topic", "create", "cars").failed(1, "topic 'cars' exists")
    again = command.done("topic", "create", "cars", "--exist-ok", "--retention", "7d")
    assert again.err == ""


def test_create_with_exist_ok_warns_of_other_settings_and_refuses_other_partitions(
    command: Command,
) -> None:
    command.done("topic", "create", "cars", "--retention", "7d")
    outcome = command("topic", "create", "cars", "--exist-ok")
    said = "warning: topic 'cars' exists and stays as it is: retention is 7d, not none"
    assert outcome.failed(0, said)
    outcome = command("topic", "create", "cars", "--exist-ok", "--partitions", "5")
    assert outcome.failed(1, "4 partitions", "5")


def test_a_name_or_number_the_library_refuses_is_one_line(command: Command) -> None:
    assert command("topic", "create", "../x").failed(1, "'../x' cannot name a topic")
    assert command("topic", "create", "x", "--partitions", "0").failed(1, "partitions is from 1")
    assert command("topic", "create", "x", "--retention", "0s").failed(1, "retention")


def test_a_setting_that_cannot_be_read_is_a_usage_error(command: Command) -> None:
    outcome = command("topic", "create", "x", "--retention", "7 days")
    assert outcome.failed(2, "'--retention'", "'7 days'", "eventlog topic create --help")
    assert not command.location.exists()


def test_list_in_a_pipe_is_a_line_of_columns_for_each_topic(command: Command) -> None:
    command.done("topic", "create", "b", "--retention", "7d", "--retention-bytes", "1KiB")
    command.done("topic", "create", "a", "--partitions", "2")
    command.done("append", "a", given="x\ny\n")
    with command.open() as log:
        size = sum(log.topic("a").partition_info(number).size_bytes for number in range(2))
    assert command.done("topic", "list").lines == [
        f"a\t2\t2\t{size}\tnone\tnone",
        "b\t4\t0\t0\t7d\t1024",
    ]


def test_list_of_a_log_without_topics_is_empty(command: Command) -> None:
    with eventlog.open(command.location):
        pass
    assert command.done("topic", "list").out == b""
    assert command.done("topic", "list", "--json").json() == []


def test_list_and_show_as_json_have_the_same_settings(command: Command) -> None:
    command.done("topic", "create", "cars", "--partitions", "2", "--retention", "90s")
    command.done("append", "cars", "--partition", "1", given="x\ny\n")
    (listed,) = command.done("topic", "list", "--json").json()
    shown = command.done("topic", "show", "cars", "--json").json()
    settings = {
        "name": "cars",
        "partitions": 2,
        "retention_seconds": 90.0,
        "retention_bytes": None,
        "compression": "zstd",
        "partitioner": "eventhubs",
        "max_event_bytes": 2**20,
    }
    assert listed | settings == listed
    assert shown | settings == shown
    assert listed["created_at"] == shown["created_at"]
    assert listed["events"] == 2
    empty, filled = shown["partition_info"]
    assert empty == {
        "partition": 0,
        "beginning_offset": 0,
        "next_offset": 0,
        "last_enqueued_offset": -1,
        "last_enqueued_at": None,
        "is_empty": True,
        "size_bytes": 0,
    }
    assert filled["next_offset"] == 2
    assert filled["size_bytes"] == listed["size_bytes"] > 0
    assert filled["last_enqueued_at"].endswith("Z")


def test_show_in_a_pipe_is_settings_then_partitions(command: Command) -> None:
    command.done("topic", "create", "cars", "--partitions", "1", "--retention", "7d")
    command.done("append", "cars", given="x\n")
    lines = command.done("topic", "show", "cars").lines
    assert lines[:3] == ["name\tcars", "partitions\t1", "retention\t7d"]
    blank = lines.index("")
    assert lines[blank + 1] == "partition\tbeginning\tnext\tlast enqueued\tsize"
    assert lines[blank + 2].split("\t")[:3] == ["0", "0", "1"]
    assert len(lines) == blank + 3


def test_show_does_not_make_a_log(command: Command) -> None:
    assert command("topic", "show", "cars").failed(1, "no log")
    assert not command.location.exists()


def test_set_changes_what_is_given_and_nothing_else(command: Command) -> None:
    command.done("topic", "create", "cars", "--retention", "7d", "--retention-bytes", "1MiB")
    command.done("topic", "set", "cars", "--retention", "none", "--max-event-bytes", "10")
    with command.open() as log:
        cars = log.topic("cars")
        assert (cars.retention, cars.retention_bytes) == (None, 2**20)
        assert (cars.max_event_bytes, cars.compression) == (10, "zstd")
    command.done("topic", "set", "cars", "--retention-bytes", "none", "--compression", "none")
    with command.open() as log:
        cars = log.topic("cars")
        assert (cars.retention_bytes, cars.compression) == (None, "none")


def test_set_adds_partitions_and_warns_that_keys_move(command: Command) -> None:
    command.done("topic", "create", "cars")
    outcome = command("topic", "set", "cars", "--add-partitions", "2")
    assert outcome.failed(0, "warning: ", "6 partitions", "keys move")
    with command.open() as log:
        assert log.topic("cars").partitions == 6


def test_set_without_anything_to_set_is_a_usage_error(command: Command) -> None:
    command.done("topic", "create", "cars")
    assert command("topic", "set", "cars").failed(2, "nothing to set")


def test_delete_without_a_terminal_wants_yes(command: Command) -> None:
    command.done("topic", "create", "cars")
    assert command("topic", "delete", "cars").failed(2, "--yes")
    command.done("topic", "delete", "cars", "--yes")
    assert command("topic", "show", "cars").failed(1, "no topic 'cars'")
    assert command("topic", "delete", "cars", "--yes").failed(1, "no topic 'cars'")


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1), (b"\x04", 1)])
def test_delete_asks_on_a_terminal_and_takes_only_yes_for_a_yes(
    command: Command, answer: bytes, code: int
) -> None:
    command.done("topic", "create", "cars")
    ended, shown = command.on_terminal("topic", "delete", "cars", typed=answer)
    assert "Delete topic cars and all its events? [y/N]" in shown
    assert ended == code
    assert bool(command.done("topic", "list").lines) is (code == 1)


def test_locations_of_other_kinds_are_taken_as_the_library_takes_them(
    command: Command, tmp_path: Path
) -> None:
    outcome = command.bare("topic", "create", "t", "--log", f"file:{tmp_path / 'other'}")
    assert outcome.code == 0
    outcome = command.bare("topic", "list", "--log", "pigeons://x:1")
    assert outcome.failed(1, "no engine for pigeons:")
