"""Programs that a test starts, and that end when it does, whatever becomes of it."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

__all__ = ["ROOT", "Program", "as_whom", "free_port", "require", "tree"]

ROOT: Final = Path(__file__).parents[2]
_PATIENCE: Final = 60.0  # seconds that a program may take to start or to end
_given: Final[set[int]] = set()

# It outlives neither the test nor the program. It is no part of the program, so that it can still
# end one that has been stopped (SIGSTOP). Who closes the program says so; if whoever started it has
# died instead, nobody else is left to remove the program's directory.
_KEEPER: Final = """
import shutil, signal, subprocess, sys, threading
number, directory, user, group, *argv = sys.argv[1:]
identity = {"user": int(user), "group": int(group), "extra_groups": []} if user else {}
program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, **identity)
print(program.pid, flush=True)
orphaned = threading.Event()
def end():
    if not sys.stdin.read():
        orphaned.set()
    program.send_signal(signal.SIGCONT)
    program.send_signal(int(number))
    try:
        program.wait(10)
    except subprocess.TimeoutExpired:
        program.kill()
threading.Thread(target=end, daemon=True).start()
program.wait()
if orphaned.is_set() and directory:
    shutil.rmtree(directory, ignore_errors=True)
"""


class Program:
    """A program that runs until it is closed.

    Args:
        argv: what to run.
        ready: what it prints when it can be used.
        env: what its environment has besides that of the test.
        directory: its own; removed should whoever started it die without closing it.
        user: who runs it, with which group; None for whoever runs the test.
        ends_with: the signal that tells it to end.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        ready: str,
        *,
        env: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: tuple[int, int] | None = None,
        ends_with: signal.Signals = signal.SIGTERM,
    ) -> None:
        who = user or ("", "")
        kept = map(str, (int(ends_with), directory or "", *who, *argv))
        self._keeper = subprocess.Popen(
            [sys.executable, "-IS", "-c", _KEEPER, *kept],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            cwd="/",
            start_new_session=True,  # Control-C is for the test, which then closes it
            text=True,
            errors="replace",
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._keeper.stdout is not None
        self.pid = int(self._keeper.stdout.readline())
        try:
            self.wait_for(ready)
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self._keeper.stderr is not None
        for line in self._keeper.stderr:
            with self._news:
                self._lines.append(line)
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def is_running(self) -> bool:
        """Whether it is."""
        return self._keeper.poll() is None

    def wait(self) -> None:
        """Return when it has ended."""
        self._keeper.wait()

    def output(self) -> str:
        """All that it has printed."""
        with self._news:
            return "".join(self._lines)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Return when it has printed `text` so often; fails if it ends before, or in a minute."""
        with self._news:
            self._news.wait_for(lambda: self._ended or self._count(text) >= times, _PATIENCE)
            enough = self._count(text) >= times
        assert enough, f"never said {text!r}:\n{self.output()[-2000:]}"

    def _count(self, text: str) -> int:
        return sum(text in line for line in self._lines)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def pause(self) -> None:
        """SIGSTOP to it and to all that it has started."""
        for process in tree(self.pid, number=signal.SIGSTOP):
            _await_stopped(process)

    def resume(self) -> None:
        """And on."""
        list(tree(self.pid, number=signal.SIGCONT))

    def kill(self) -> None:
        """SIGKILL, without farewell."""
        list(tree(self.pid, number=signal.SIGKILL))
        self.close()

    def close(self) -> None:
        """End it in its own way, and wait until it has."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        assert self._keeper.stderr is not None
        if self.is_running:
            self.resume()
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended; or was closed
            self._keeper.stdin.write("closed\n")
            self._keeper.stdin.close()
        self._keeper.wait(_PATIENCE)
        self._reader.join(_PATIENCE)
        self._keeper.stdout.close()
        self._keeper.stderr.close()


def tree(pid: int, number: signal.Signals) -> Iterator[int]:
    """Signals a process, then its children, and theirs; those that it reached.

    The parent comes first: once it is stopped it starts no more of them.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        yield pid
    for child in _children(pid):
        yield from tree(child, number)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, check=False)
    return [int(child) for child in found.stdout.split()]


def _await_stopped(pid: int) -> None:
    """A signal that was sent takes effect a little later."""
    deadline = time.monotonic() + _PATIENCE
    while sys.platform == "linux" and time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state in "TtZX":
            return
        os.sched_yield()


def free_port() -> int:
    """A port of the loopback address that nobody listens at, another one at each call.

    Below those that the system gives to clients: one of them might take it while the server that
    listens there is away.
    """
    while True:
        port = random.SystemRandom().randrange(16_384, 32_768)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _given:
                _given.add(port)
                return port


def as_whom() -> tuple[int, int] | None:
    """Who runs what refuses to be run by root; None if that is not who runs the test."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return entry.pw_uid, entry.pw_gid
    raise AssertionError("there is no user to run a server as")


def require(reason: str | None) -> None:
    """Skips the calling test if there is a reason to; fails it where CI is set."""
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"tests with real servers must run in CI: {reason}")
        pytest.skip(reason)


def installed(name: str) -> Path | None:
    """A program that `make servers` has installed, or that is in the PATH."""
    ours = ROOT / ".servers" / "node_modules" / ".bin" / name
    if ours.exists():
        return ours
    found = shutil.which(name)
    return Path(found) if found else None
