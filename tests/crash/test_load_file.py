"""examples/load_file.py: killed anywhere and started again, it stores every line once."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import eventlog
from eventlog import Topic
from examples import load_file
from tests.conftest import seed_of_today

if TYPE_CHECKING:
    from tests.conftest import Child, Start

PROGRAM = """
import sys
from examples import load_file

sys.exit(load_file.main())
"""
LINES = 300_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Numbered lines, and now and then an empty one."""
    path = tmp_path / "lines.txt"
    path.write_bytes(b"".join(line + b"\n" for line in numbered(LINES)))
    return path


def numbered(count: int) -> list[bytes]:
    """As many lines, of which those that are not empty say which they are."""
    return [b"" if n % 1000 == 7 else b"line %d %s" % (n, b"x" * (n % 30)) for n in range(count)]


def run(start: Start, file: Path, log_path: Path) -> Child:
    return start(PROGRAM, file, log_path)


def stored(topic: Topic) -> list[list[bytes]]:
    """Bodies of each partition."""
    return [
        [event.body for event in topic.read(partition, max_events=10 * LINES)]
        for partition in range(topic.partitions)
    ]


def require_lines(log_path: Path, expected: list[bytes] | None = None) -> int:
    """The first lines of the file are there, each once, in order in each partition; how many."""
    with eventlog.open(log_path, create=False) as log:
        assert log.check().ok
        partitions = stored(log.topic(load_file.TOPIC))
    count = sum(map(len, partitions))
    lines = numbered(count) if expected is None else expected
    assert Counter(body for bodies in partitions for body in bodies) == Counter(lines)
    for bodies in partitions:
        numbers = [int(body.split()[1]) for body in bodies if body]
        assert numbers == sorted(numbers)
    return count


def kill_again_and_again(start: Start, file: Path, log_path: Path, kills: int) -> int:
    """Kill it at random moments, then let it come to its end; how many kills left it half done."""
    rng = random.Random(seed_of_today())
    under_way = 0
    for number in range(kills):
        child = run(start, file, log_path)
        if number % 4 == 3:  # anywhere from its first instruction on
            time.sleep(rng.uniform(0, 0.5))  # not to wait for anything: to choose the moment
        else:
            child.line()
            time.sleep(rng.uniform(0, 0.2))
        child.send(signal.SIGKILL)
        child.rest()
        if number % 4 == 0:
            under_way += 0 < require_lines(log_path) < LINES
    last = run(start, file, log_path).rest()
    assert last[-1] == f"{LINES:,} lines are there now"
    assert require_lines(log_path) == LINES
    return under_way


def test_killed_at_random_moments_and_started_again_it_stores_every_line_once(
    file: Path, log_path: Path, start: Start
) -> None:
    assert kill_again_and_again(start, file, log_path, kills=12) > 0


@pytest.mark.soak
def test_killed_at_very_many_moments_it_stores_every_line_once(
    file: Path, tmp_path: Path, start: Start
) -> None:
    for number in range(20):
        kill_again_and_again(start, file, tmp_path / f"log-{number}", kills=40)


def test_it_stops_on_ctrl_c_and_goes_on_when_it_is_started_again(
    file: Path, log_path: Path, start: Start
) -> None:
    child = run(start, file, log_path)
    assert child.line() == "0 lines are there"
    child.send(signal.SIGINT)
    child.rest()
    assert child.wait() == 130
    begun = require_lines(log_path)
    assert run(start, file, log_path).rest()[0] == f"{begun:,} lines are there"
    assert require_lines(log_path) == LINES


def test_a_second_load_of_the_file_fences_the_first(
    file: Path, log_path: Path, start: Start
) -> None:
    first, second = run(start, file, log_path), run(start, file, log_path)
    first.rest()
    second.rest()
    statuses = sorted([first.wait(), second.wait()])
    assert statuses in ([0, 0], [0, 1])
    assert require_lines(log_path) == LINES


def test_a_file_that_has_grown_is_loaded_from_where_it_had_ended(
    file: Path, log_path: Path, start: Start
) -> None:
    printed: list[str] = []
    for more in (0, 5000):
        with file.open("ab") as lines:
            lines.writelines(line + b"\n" for line in numbered(LINES + more)[LINES:])
        printed = run(start, file, log_path).rest()
        assert printed[-1] == f"{LINES + more:,} lines are there now"
    assert printed[0] == f"{LINES:,} lines are there"
    assert require_lines(log_path) == LINES + 5000


def test_a_file_that_is_not_there_is_said_to_be(
    tmp_path: Path, log_path: Path, start: Start
) -> None:
    child = run(start, tmp_path / "missing", log_path)
    child.rest()
    assert child.wait() == 1
