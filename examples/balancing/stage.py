"""The processes: started, listened to, signalled, and ended, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal as signals
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import anyio
from anyio.abc import Process, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from examples.balancing.reports import Report, decode

__all__ = ["Actor", "Stage", "StageError"]

ROOT = Path(__file__).parents[2]
MOST_LINE_BYTES = 65536
TAIL_LINES = 20


class StageError(Exception):
    """The show cannot go on."""


class Actor:
    """A process.

    Attributes:
        may_end: whether it is no accident if it ends.
        has_ended: whether it has, and all that it told was heard.
    """

    def __init__(self, name: str, process: Process, errors: Path) -> None:
        self.name = name
        self.process = process
        self.may_end = False
        self.has_ended = False
        self._errors = errors

    def signal(self, number: signals.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def stands_still(self) -> bool:
        """Whether it has stopped, all of it. Says so once."""
        process, status = os.waitpid(self.process.pid, os.WUNTRACED | os.WNOHANG)
        return process != 0 and os.WIFSTOPPED(status)

    async def write(self, line: str) -> None:
        """Write a line to its input."""
        assert self.process.stdin is not None
        await self.process.stdin.send(line.encode() + b"\n")

    def last_words(self) -> str:
        """The end of what it wrote to its standard error."""
        return "\n".join(self._errors.read_text().splitlines()[-TAIL_LINES:])


class Stage:
    """Starts processes, and passes on what they tell.

    Args:
        tasks: where they are listened to.
        directory: for what they write to their standard error, a file each.
        hear: called with the name of a process, and what it tells.
    """

    def __init__(
        self, tasks: TaskGroup, directory: Path, hear: Callable[[str, Report], object]
    ) -> None:
        self._tasks = tasks
        self._directory = directory
        self._hear = hear
        self._actors: list[Actor] = []
        self._told = anyio.Event()

    async def start(self, name: str, module: str, *arguments: object) -> Actor:
        """Start a module of this package as a process."""
        errors = self._directory / f"{name}.txt"
        with errors.open("wb") as stderr:
            process = await anyio.open_process(
                [sys.executable, "-m", f"{__package__}.{module}", *map(str, arguments)],
                stdin=PIPE,
                stdout=PIPE,
                stderr=stderr,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,  # Ctrl-C is for the one who directs
            )
        actor = Actor(name, process, errors)
        self._actors.append(actor)
        self._tasks.start_soon(self._listen, actor)
        return actor

    async def _listen(self, actor: Actor) -> None:
        assert actor.process.stdout is not None
        lines = BufferedByteReceiveStream(actor.process.stdout)
        with contextlib.suppress(
            anyio.EndOfStream, anyio.IncompleteRead, anyio.ClosedResourceError
        ):
            while True:
                line = await lines.receive_until(b"\n", MOST_LINE_BYTES)
                self._hear(actor.name, decode(line))
                self._ring()
        status = await actor.process.wait()
        actor.has_ended = True
        self._ring()
        if not actor.may_end:
            raise StageError(f"{actor.name} has ended with status {status}:\n{actor.last_words()}")

    async def news(self) -> None:
        """Wait until one of them tells something."""
        await self._told.wait()

    def _ring(self) -> None:
        self._told.set()
        self._told = anyio.Event()

    async def close(self) -> None:
        """End what still runs, or is stopped."""
        with anyio.CancelScope(shield=True):
            for actor in self._actors:
                actor.may_end = True
                if actor.process.returncode is None:
                    actor.signal(signals.SIGKILL)
                await actor.process.aclose()
