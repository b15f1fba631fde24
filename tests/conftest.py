"""Fixtures of general use: logs on disk and in memory, and child processes to break them from."""

from __future__ import annotations

import fcntl
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

import eventlog
from eventlog import EventLog

pytest_plugins = ["tests.servers.fixtures", "tests.servers.kafka_fixtures"]

ROOT = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")
PATIENCE = 60.0  # seconds that a child may take for what takes it milliseconds
PIPE_BYTES = 1 << 20


def seed_of_today(variable: str = "KILL_SEED") -> int:
    """What chance begins with where moments are chosen by it: another one each time.

    It is printed for the report of a failure; the environment variable of that name repeats it.
    """
    seed = int(os.environ.get(variable) or random.SystemRandom().randrange(1 << 32))
    print(f"{variable}={seed}")
    return seed


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """Where a log may be made; nothing is there."""
    return tmp_path / "log"


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """The same in memory, where there is such a place: for who flushes a thousand times."""
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="eventlog-test-", dir=parent) as directory:
        yield Path(directory) / "log"


@pytest.fixture
def log(log_path: Path) -> Iterator[EventLog]:
    """A log on disk, closed after the test, opened again, and found to be whole."""
    with eventlog.open(log_path) as log:
        yield log
    with eventlog.open(log_path, create=False) as again:
        assert again.check().damaged == []


@pytest.fixture
def memory_log() -> Iterator[EventLog]:
    """A log in memory, found to be whole after the test."""
    with eventlog.open("memory:") as log:
        yield log
        assert log.check().damaged == []


class Child:
    """A Python program in a process of its own, spoken with line by line."""

    def __init__(self, source: str, *arguments: object) -> None:
        self._unread = b""
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", source, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            bufsize=0,
        )
        self.pid = self._process.pid
        if sys.platform == "linux":  # it can print a lot before anybody reads it
            assert self._process.stdout is not None
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def line(self, timeout: float = PATIENCE) -> str:
        """The next line it prints; fails if there is none in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            assert self._read_more(deadline), f"it ended or was silent after {self._unread!r}"
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def rest(self, timeout: float = PATIENCE) -> list[str]:
        """What it prints until it ends, whole lines only; fails if it does not end in time."""
        deadline = time.monotonic() + timeout
        while self._read_more(deadline):
            pass
        self.wait(max(deadline - time.monotonic(), 0))
        whole, _, self._unread = self._unread.rpartition(b"\n")
        return whole.decode().splitlines()

    def say(self, text: str = "") -> None:
        """Give it a line to read."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")

    def send(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, when it has ended; minus the signal that killed it."""
        return self._process.wait(timeout)

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self.send(signal.SIGKILL)
        self.wait()

    def close(self) -> int:
        """Be done with it; what it ended with: -9 if it had to be killed."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return self.wait()

    def _read_more(self, deadline: float) -> bool:
        assert self._process.stdout is not None
        waiting = select.poll()  # select() knows no descriptor beyond 1023
        waiting.register(self._process.stdout, select.POLLIN)
        ready = waiting.poll(max(deadline - time.monotonic(), 0) * 1000)
        piece = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
        self._unread += piece
        return bool(piece)


Start: TypeAlias = Callable[..., Child]


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """As many as are needed, up to 12, so that a test can do several things at once."""
    with ThreadPoolExecutor(12) as threads:
        yield threads


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts Python programs, `start(source, *arguments)`; kills what runs after the test."""
    children: list[Child] = []

    def start(source: str, *arguments: object) -> Child:
        children.append(Child(source, *arguments))
        return children[-1]

    yield start
    for child in children:
        child.close()
