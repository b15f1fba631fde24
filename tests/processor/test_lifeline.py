"""Locks that say who is dead: by any death, between processes and within one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventlog import InvalidNameError
from eventlog.processor.lifeline import Lifeline, is_dead
from tests.conftest import Start

HOLD = """
import sys
from pathlib import Path
from eventlog.processor.lifeline import Lifeline

lifeline = Lifeline(Path(sys.argv[1]), "host")
print("held", flush=True)
sys.stdin.read()
"""

HOLD_AND_FORK = """
import os, sys
from pathlib import Path
from eventlog.processor.lifeline import Lifeline

lifeline = Lifeline(Path(sys.argv[1]), "host")
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, b"x")
    sys.stdin.read()
    os._exit(0)
os.read(read, 1)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "hosts"


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_member_is_alive_until_it_is_closed(directory: Path) -> None:
    """Also to other hosts of its own process, and to all of them."""
    lifeline = Lifeline(directory, "host-1")
    other = Lifeline(directory, "host-2")
    assert not is_dead(directory, "host-1")
    assert not is_dead(directory, "host-2")
    lifeline.close()
    lifeline.close()
    assert is_dead(directory, "host-1")
    assert is_dead(directory, "host-1"), "everybody may find out"
    assert not is_dead(directory, "host-2")
    other.close()


def test_of_who_is_not_there_nothing_is_known(directory: Path) -> None:
    assert not is_dead(directory, "host")
    directory.mkdir()
    assert not is_dead(directory, "host")


def test_a_killed_process_is_dead_at_once(directory: Path, start: Start) -> None:
    child = start(HOLD, directory)
    assert child.line() == "held"
    assert not is_dead(directory, "host")
    child.kill()
    assert is_dead(directory, "host")


def test_a_stopped_process_is_not_dead(directory: Path, start: Start) -> None:
    child = start(HOLD, directory)
    assert child.line() == "held"
    child.send(signal.SIGSTOP)
    assert not is_dead(directory, "host")
    child.send(signal.SIGCONT)


def test_a_forked_child_that_outlives_its_parent_keeps_nothing_alive(
    directory: Path, start: Start
) -> None:
    """And that it closes what it inherited does its parent no harm."""
    parent = start(HOLD_AND_FORK, directory)
    assert parent.line() == "held"
    assert not is_dead(directory, "host")
    parent.kill()
    assert is_dead(directory, "host")


def test_a_program_that_was_started_keeps_nothing_alive(directory: Path) -> None:
    lifeline = Lifeline(directory, "host")
    with subprocess.Popen(
        [sys.executable, "-c", "print(input(), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=False,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(b"running\n")
        program.stdin.flush()
        assert program.stdout.readline() == b"running\n"
        lifeline.close()
        assert is_dead(directory, "host")
        program.stdin.write(b"\n")


@pytest.mark.parametrize("member", ["", "../host", "a/b", ".host", "x" * 251, "a\0b", "a b"])
def test_what_cannot_name_a_file_is_refused(directory: Path, member: str) -> None:
    with pytest.raises(InvalidNameError, match="cannot name a host"):
        Lifeline(directory, member)
    assert not directory.exists()
    assert not is_dead(directory, member)


def test_what_cannot_be_looked_at_says_nothing(directory: Path) -> None:
    Lifeline(directory, "host").close()
    (directory / "link.lock").symlink_to(directory / "host.lock")
    (directory / "folder.lock").mkdir()
    assert not is_dead(directory, "link")
    assert not is_dead(directory, "folder")
    Lifeline(directory, "other").close()


def test_who_looked_before_it_was_locked_has_noticed_nothing(directory: Path) -> None:
    directory.mkdir()
    (directory / "host.lock").write_bytes(b"over\n")
    os.utime(directory / "host.lock", (0, 0))
    Lifeline(directory, "host").close()
    Lifeline(directory, "next").close()
    assert is_dead(directory, "host")


def test_files_are_kept_for_an_hour_from_when_somebody_noticed(directory: Path) -> None:
    """However old they were then: others have to find out too."""
    Lifeline(directory, "old").close()
    lifeline = Lifeline(directory, "alive")
    long_ago = time.time() - 4000
    for path in directory.iterdir():
        path.write_bytes(b"")
        os.utime(path, (long_ago, long_ago))
    Lifeline(directory, "next").close()
    assert files(directory) == ["alive.lock", "next.lock", "old.lock"]
    assert is_dead(directory, "old")
    for path in directory.iterdir():
        os.utime(path, (long_ago, long_ago))
    Lifeline(directory, "last").close()
    assert files(directory) == ["alive.lock", "last.lock", "next.lock"]
    assert not is_dead(directory, "alive")
    lifeline.close()
