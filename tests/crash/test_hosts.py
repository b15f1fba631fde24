"""Hosts in real processes that are killed, stopped, woken and told to leave, under load."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.conftest import seed_of_today
from tests.crash.hosts_theatre import Cast, Theatre
from tests.crash.test_kill import require_sound_tree
from tests.history import Kind, read_records

if TYPE_CHECKING:
    from tests.conftest import Start

ROUGH: Final = ("kill", "kill", "pause", "pause", "pause", "leave", "join", "join", "join")
PEACEFUL: Final = ("leave", "join", "join")


def casts(directory: Path) -> list[Cast]:
    """One that processes exactly once, one in the log's store, one in a store of files."""
    return [
        Cast("once", output="out"),
        Cast("least"),
        Cast("files", store=f"file:{directory / 'store'}"),
    ]


def run_theatre(
    start: Start, directory: Path, moves: tuple[str, ...], strikes: int, failures: float
) -> Theatre:
    theatre = Theatre(
        start,
        directory / "log",
        directory / "histories",
        casts(directory),
        seed=seed_of_today(),
        failures=failures,
    )
    theatre.begin()
    for _ in range(strikes):
        theatre.strike(moves)
    theatre.end()
    theatre.judge(least=strikes)  # how much happens hangs on the machine
    require_sound_tree(directory / "log")
    print(theatre.moves, f"{theatre.in_commits} stops inside a commit")
    return theatre


def test_hosts_that_are_killed_stopped_and_woken_lose_nothing_and_double_nothing_they_finished(
    tmp_path: Path, start: Start
) -> None:
    run_theatre(start, tmp_path, ROUGH, strikes=20, failures=0.01)


def require_given_once(histories: Path) -> None:
    given = Counter(
        (record.group, record.topic, record.partition, record.offset)
        for record in read_records(histories)
        if record.kind is Kind.READ
    )
    assert [place for place, times in given.items() if times > 1] == []


def test_hosts_that_join_and_leave_in_good_order_process_every_event_once(
    tmp_path: Path, start: Start
) -> None:
    run_theatre(start, tmp_path, PEACEFUL, strikes=10, failures=0)
    require_given_once(tmp_path / "histories")


@pytest.mark.soak
def test_hosts_of_which_hundreds_are_killed_stopped_and_woken_lose_and_double_nothing(
    tmp_path: Path, start: Start
) -> None:
    """For an hour or so."""
    for number in range(30):
        directory = tmp_path / str(number)
        directory.mkdir()
        run_theatre(start, directory, ROUGH, strikes=100, failures=0.01)


@pytest.mark.soak
def test_hosts_of_which_hundreds_join_and_leave_in_good_order_process_every_event_once(
    tmp_path: Path, start: Start
) -> None:
    for number in range(10):
        directory = tmp_path / str(number)
        directory.mkdir()
        run_theatre(start, directory, PEACEFUL, strikes=60, failures=0)
        require_given_once(directory / "histories")
