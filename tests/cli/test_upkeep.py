"""``check``, ``expire``, ``backup`` and ``compact``."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventlog
from tests.cli.running import Command


def test_check_of_a_sound_log_is_one_line(command: Command) -> None:
    command.done("topic", "create", "t", "--partitions", "2")
    command.done("append", "t", "--partition", "0", given="x\ny\n")
    (line,) = command.done("check").lines
    assert line.startswith("sound: 1 topics, 2 partitions, 1 batches, 2 events, ")
    report = command.done("check", "--json").json()
    assert report["ok"] is True
    assert (report["damaged"], report["notes"]) == ([], [])


def test_check_prints_what_is_worth_knowing(command: Command) -> None:
    with eventlog.open(command.location, clock=lambda: 2**55) as log:
        log.create_topic("t", partitions=1).append(b"x")
    note, summary = command.done("check").lines
    assert note.startswith("note: topic 't', partition 0: ")
    assert summary.startswith("sound: ")


@pytest.fixture
def expired(command: Command) -> Command:
    """Topics a and b with three and two events from 1970, c with one that is kept for ever."""
    with eventlog.open(command.location, clock=lambda: 1_000_000) as log:
        for name, count in (("a", 3), ("b", 2)):
            log.create_topic(name, partitions=1, retention=3600).append_batch([b"x"] * count)
        log.create_topic("c", partitions=1).append(b"x")
    return command


def test_expire_prints_how_much_it_removed_from_each_topic(expired: Command) -> None:
    assert expired.done("expire").lines == ["a\t3", "b\t2", "c\t0"]
    assert expired.done("expire").lines == ["a\t0", "b\t0", "c\t0"]


def test_expire_takes_topics_and_refuses_all_if_one_is_not_there(expired: Command) -> None:
    outcome = expired("expire", "a", "nope")
    assert outcome.failed(1, "'nope'")
    assert outcome.out == b""
    assert expired.done("expire", "b", "a").lines == ["b\t2", "a\t3"]


def test_a_backup_is_a_log_and_overwrites_nothing(command: Command, tmp_path: Path) -> None:
    command.done("topic", "create", "t", "--partitions", "1")
    command.done("append", "t", given="x\n")
    copy = tmp_path / "copy"
    with command.open():
        assert command.done("backup", str(copy)) == (0, b"", "")
    assert Command(copy).done("read", "t").out == b"x\n"
    assert command("backup", str(copy)).failed(1, "exists")


def test_compact_makes_the_file_smaller(command: Command) -> None:
    command.done("topic", "create", "t", "--partitions", "1", "--compression", "none")
    command.done("append", "t", given=b"x" * 2**20)
    command.done("topic", "delete", "t", "--yes")
    before = sum(path.stat().st_size for path in command.location.iterdir())
    assert command.done("compact") == (0, b"", "")
    after = sum(path.stat().st_size for path in command.location.iterdir())
    assert after < before - 2**19
    assert command.done("topic", "list").lines == []
