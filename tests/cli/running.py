"""Running the command: in this process, as a process of its own, and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

import eventlog
from eventlog.cli.program import program

ROOT = Path(__file__).parents[2]


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """What it printed."""
        return self.out.decode().splitlines()

    def json(self) -> Any:
        """What it printed, one JSON document."""
        return json.loads(self.out)

    def failed(self, code: int, *words: str) -> bool:
        """It ended with `code` and said so in one line that has all `words`."""
        one_line = self.err.count("\n") == 1 and self.err.startswith("eventlog: ")
        return self.code == code and one_line and all(word in self.err for word in words)


class Command:
    """The command on one log."""

    def __init__(self, location: Path) -> None:
        self.location = location

    def __call__(self, *arguments: str, given: bytes | str = b"") -> Outcome:
        """Run a verb in this process."""
        return self.bare(*arguments, "--log", str(self.location), given=given)

    def done(self, *arguments: str, given: bytes | str = b"") -> Outcome:
        """Run a verb that must succeed."""
        outcome = self(*arguments, given=given)
        assert outcome.code == 0, outcome
        return outcome

    def bare(self, *arguments: str, given: bytes | str = b"") -> Outcome:
        """Run a verb without naming the log."""
        result = CliRunner().invoke(program, arguments, input=given, catch_exceptions=False)
        return Outcome(result.exit_code, result.stdout_bytes, result.stderr)

    def open(self, **options: Any) -> eventlog.EventLog:
        """The log, opened to look at."""
        return eventlog.open(self.location, create=False, durability=None, **options)

    def events(self, topic: str = "t") -> list[eventlog.StoredEvent]:
        """Everything in a topic, partition after partition."""
        with self.open(read_only=True) as log:
            found = log.topic(topic)
            return [
                event
                for partition in range(found.partitions)
                for event in found.read(partition, max_events=10**6)
            ]

    def process(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a verb as a process of its own, to its end."""
        given: dict[str, Any] = {"capture_output": True, "stdin": subprocess.DEVNULL, **options}
        argv = self.argv(*arguments)
        return subprocess.run(argv, env=environment(), timeout=60, check=False, **given)

    @contextmanager
    def started(self, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A verb as a process that runs during the block, with pipes to all its streams."""
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        argv = self.argv(*arguments)
        with subprocess.Popen(argv, env=environment(), **(pipes | options)) as process:
            try:
                yield process
            finally:
                process.kill()

    def all_at_once(self, count: int, *arguments: str) -> list[int]:
        """A verb as so many processes at the same time: the exit code of each."""
        with ExitStack() as stack:
            processes = [stack.enter_context(self.started(*arguments)) for _ in range(count)]
            for process in processes:
                process.communicate(timeout=60)
        return [process.returncode for process in processes]

    def argv(self, *arguments: str) -> list[str]:
        """The arguments of such a process."""
        return [sys.executable, "-m", "eventlog", "--log", str(self.location), *arguments]

    def on_terminal(self, *arguments: str, typed: bytes = b"") -> tuple[int, str]:
        """Run a verb whose standard streams are a terminal: its exit code, what was shown."""
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "r+b", buffering=0) as terminal:
            terminal.write(typed)
            with self.started(*arguments, stdin=theirs, stdout=theirs, stderr=theirs) as process:
                os.close(theirs)
                shown = b"".join(_until_closed(terminal.fileno()))
                return process.wait(60), shown.decode()


def _until_closed(descriptor: int) -> Iterator[bytes]:
    """What is written to a terminal until nobody has it open; Linux ends that with an error."""
    try:
        while data := os.read(descriptor, 65536):
            yield data
    except OSError:
        return


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process that finds this checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTLOG_")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm", **variables}


def flip_bits(location: Path, marker: bytes) -> None:
    """Damage every stored copy of `marker` in a log that is not compressed."""
    (path,) = location.glob("events-*.mdb")
    data = path.read_bytes()
    assert marker in data
    flipped = bytes(byte ^ 0xFF for byte in marker)
    with path.open("r+b") as file:
        start = 0
        while (start := data.find(marker, start)) >= 0:
            file.seek(start)
            file.write(flipped)
            start += len(marker)
