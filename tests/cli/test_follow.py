"""``read --follow``: what is there, then what comes, until it is told to stop."""

from __future__ import annotations

import signal

import pytest

from tests.cli.running import Command, flip_bits
from tests.conftest import Start

FOLLOW = """
import sys
from eventlog.cli import main
sys.argv = ["eventlog", "read", "--follow", *sys.argv[1:]]
main()
"""


@pytest.fixture
def filled(command: Command) -> Command:
    """Three events on each of two partitions."""
    command.done("topic", "create", "t", "--partitions", "2")
    with command.open() as log:
        for partition in range(2):
            log.topic("t").append_batch([b"a", b"b", b"c"], partition=partition)
    return command


def test_it_goes_on_with_what_is_appended_until_it_is_interrupted(
    filled: Command, start: Start
) -> None:
    child = start(FOLLOW, "t", "--log", filled.location, "--with-offset")
    there = {child.line() for _ in range(6)}
    assert there == {f"{p}\t{n}\t{body}" for p in (0, 1) for n, body in enumerate("abc")}
    for number in range(3):
        filled.done("append", "t", "--partition", "1", given=f"new {number}\n")
        assert child.line() == f"1\t{3 + number}\tnew {number}"
    child.send(signal.SIGINT)
    assert child.wait() == 130


def test_it_ends_where_to_says(filled: Command, start: Start) -> None:
    child = start(FOLLOW, "t", "--log", filled.location, "--to", "4", "--partition", "0")
    assert [child.line() for _ in range(3)] == ["a", "b", "c"]
    filled.done("append", "t", "--partition", "0", given="d\ne\n")
    assert child.rest() == ["d"]
    assert child.wait() == 0


def test_it_ends_after_as_many_as_were_asked_for(filled: Command) -> None:
    assert len(filled.done("read", "t", "-f", "--max", "4").lines) == 4
    assert filled.done("read", "t", "-f", "--max", "0").lines == []


def test_it_begins_where_from_says(filled: Command) -> None:
    assert filled.done("read", "t", "-f", "--from", "2", "--max", "2").lines == ["c", "c"]


def test_a_topic_deleted_meanwhile_ends_it_with_an_error(filled: Command, start: Start) -> None:
    child = start(FOLLOW, "t", "--log", filled.location, "--partition", "0")
    assert [child.line() for _ in range(3)] == ["a", "b", "c"]
    filled.done("topic", "delete", "t", "--yes")
    assert child.rest() == []
    assert child.wait() == 1


def test_a_damaged_batch_ends_it_unless_it_is_to_be_skipped(filled: Command) -> None:
    filled.done("append", "t", "--partition", "0", given="unique text that is long enough\n")
    filled.done("append", "t", "--partition", "0", given="last\n")
    flip_bits(filled.location, b"unique text")
    arguments = ["read", "t", "-f", "--partition", "0", "--max", "4"]
    outcome = filled(*arguments)
    assert outcome.lines == ["a", "b", "c"]
    assert outcome.failed(1, "damaged", "--skip-damaged")
    outcome = filled.done(*arguments, "--skip-damaged")
    assert outcome.lines == ["a", "b", "c", "last"]
    assert "skipped" in outcome.err
