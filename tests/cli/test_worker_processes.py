"""A worker process: what it is given, how it is asked to end, and how it is known that it has."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from eventlog.cli.worker_processes import WorkerProcess

PATIENCE = 60.0

COPY = """
import sys
from pathlib import Path
copy = Path(sys.argv[1])
copy.write_bytes(sys.stdin.buffer.readline())
assert sys.stdin.buffer.read() == b""
sys.exit(7)
"""

Start: TypeAlias = Callable[..., WorkerProcess]


@pytest.fixture
def codes() -> queue.SimpleQueue[int]:
    """Exit codes of processes that have ended."""
    return queue.SimpleQueue()


@pytest.fixture
def start(codes: queue.SimpleQueue[int]) -> Iterator[Start]:
    """Starts Python programs as workers; kills what runs after the test."""
    workers = []

    def start(program: str, *arguments: object) -> WorkerProcess:
        argv = [sys.executable, "-c", program, *map(str, arguments)]
        workers.append(WorkerProcess(argv, b"settings\n", codes.put))
        return workers[-1]

    yield start
    for worker in workers:
        worker.drain()
        worker.kill()
        worker._process.wait()


def test_it_gets_its_settings_and_ends_when_the_pipe_does(
    start: Start, codes: queue.SimpleQueue[int], tmp_path: Path
) -> None:
    worker = start(COPY, tmp_path / "copy")
    while not (tmp_path / "copy").exists():
        assert codes.empty()
    worker.drain()
    worker.drain()
    assert codes.get(timeout=PATIENCE) == 7
    assert (tmp_path / "copy").read_bytes() == b"settings\n"


def test_it_can_be_killed_and_that_is_told(start: Start, codes: queue.SimpleQueue[int]) -> None:
    worker = start("import time; time.sleep(1000)")
    assert worker.pid != os.getpid()
    worker.kill()
    assert codes.get(timeout=PATIENCE) == -9
    worker.kill()
    worker.drain()


def test_one_that_ends_before_it_reads_its_settings_is_no_error(
    start: Start, codes: queue.SimpleQueue[int]
) -> None:
    start("import os; os.close(0); os._exit(3)")
    assert codes.get(timeout=PATIENCE) == 3


def test_ctrl_c_does_not_reach_it(start: Start) -> None:
    """It is not in the process group that a terminal would signal."""
    worker = start("import time; time.sleep(1000)")
    assert os.getpgid(worker.pid) == worker.pid != os.getpgid(0)


def test_what_cannot_be_started_is_said_at_once(codes: queue.SimpleQueue[int]) -> None:
    with pytest.raises(FileNotFoundError):
        WorkerProcess(["/nowhere/python"], b"", codes.put)
