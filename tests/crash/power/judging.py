"""The judge: an opener over all states of a history."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeAlias

from tests.crash.power.choices import SEED_VARIABLE, choose_seed
from tests.crash.power.history import History, State

Answer: TypeAlias = object  # whatever JSON the opener printed


_CHECKER: Final = """
import json, sys
names, answers, sys.stdout = {}, sys.stdout, sys.stderr
exec(sys.argv[1], names)
for line in sys.stdin:
    try:
        answer = names["check"](json.loads(line))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), file=answers, flush=True)
"""


def checker(source: str) -> list[str]:
    """The command line of an opener: `source` defines `check(directory)`, which returns JSON.

    What it raises is answered as {"error": "Type: message"}; what it prints goes to stderr.
    """
    return [sys.executable, "-c", _CHECKER, source]


@dataclass(frozen=True)
class Failure:
    """A state that breaks a promise, rebuilt at `directory` for a person to look at."""

    state: State
    reason: str
    directory: Path

    def __str__(self) -> str:
        return f"{self.reason}\n{self.state.describe()}\n  rebuilt at: {self.directory}"


@dataclass(frozen=True)
class Report:
    """What became of a history's states."""

    states: int
    seed: int
    seconds: float
    failures: tuple[Failure, ...]

    def require_ok(self) -> None:
        """Raises AssertionError that describes the failures, if there are any."""
        assert not self.failures, f"{self}\n\n" + "\n\n".join(map(str, self.failures))

    def __str__(self) -> str:
        return (
            f"{self.states} states in {self.seconds:.1f} s, {len(self.failures)} failures;"
            f" {SEED_VARIABLE}={self.seed}"
        )


Judge: TypeAlias = Callable[[State, Answer], str | None]


def lost(state: State, answer: Answer) -> str | None:
    """The usual judge: the answer lists what is there, and all that was acknowledged must be.

    A directory that cannot be opened is forgiven as long as nothing was.
    """
    if not isinstance(answer, list):
        return f"acknowledged, but now: {answer}" if state.acknowledged else None
    there = {each for each in answer if isinstance(each, str)}
    missing = [text for text in state.acknowledged if text not in there]
    return f"lost although acknowledged: {missing}" if missing else None


def check_states(
    history: History,
    opener: Sequence[str],
    *,
    judge: Judge = lost,
    scratch: Path | None = None,
    seed: int | None = None,
    failures: int = 1,
    timeout: float = 60.0,
    **options: int,
) -> Report:
    """Rebuilds the states of a history and has each of them opened and judged.

    Args:
        history: what was recorded.
        opener: a program that reads directories from stdin, each a JSON string on a line, and
            prints one line of JSON for each. It serves for many states; one that it does not
            survive is a failure, and a new opener goes on.
        judge: says what is wrong with an answer, or None.
        scratch: where states are rebuilt, and what failed is kept; by default a new directory.
        seed: of the random choices; by default that of `choose_seed`.
        failures: how many are enough to stop.
        timeout: for one state, in seconds.
        options: for `History.states`.
    """
    seed = choose_seed() if seed is None else seed
    place = scratch or Path(tempfile.mkdtemp(prefix="power-states-"))
    found: list[Failure] = []
    count, started = 0, time.monotonic()
    with _Worker(opener, timeout) as worker:
        for state in history.states(seed=seed, **options):
            count += 1
            state.rebuild(place / "state")
            try:
                reason = judge(state, worker.ask(place / "state"))
            except _WorkerDiedError as died:
                reason = str(died)
            if reason is not None:
                kept = place / f"failed-{state.number}"
                state.rebuild(kept)
                found.append(Failure(state, reason, kept))
            if len(found) >= failures:
                break
    shutil.rmtree(place if scratch is None and not found else place / "state", ignore_errors=True)
    return Report(count, seed, time.monotonic() - started, tuple(found))


class _WorkerDiedError(Exception):
    """The opener ended, or did not answer."""


class _Worker:
    """An opener that is started when it is needed, and again after it died."""

    def __init__(self, argv: Sequence[str], timeout: float) -> None:
        self._argv = argv
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._errors.close()

    def ask(self, directory: Path) -> Answer:
        """What the opener says about a directory.

        Raises:
            _WorkerDiedError: it did not survive it, or said nothing in time.
        """
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(str(directory)).encode() + b"\n")
        line = self._read_line(process)
        if line.endswith(b"\n"):
            answer: Answer = json.loads(line)
            return answer
        hung = process.poll() is None and not _ended(process)
        self._stop()
        raise _WorkerDiedError(self._epitaph(process.returncode, hung=hung))

    def _start(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, stderr=self._errors, bufsize=0)

    def _read_line(self, process: subprocess.Popen[bytes]) -> bytes:
        """A whole line; less if the opener ended or the time is up."""
        assert process.stdout is not None
        line, deadline = b"", time.monotonic() + self._timeout
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            if not select.select([process.stdout], [], [], left)[0]:
                return line
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return line
            line += piece
        return line

    def _epitaph(self, status: int, *, hung: bool) -> str:
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 2000))
        said = self._errors.read().decode(errors="replace").strip()
        how = f"did not answer within {self._timeout} s" if hung else f"died with status {status}"
        return f"the opener {how} {said}".rstrip()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                pipe.close()
            self._process = None


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process whose stdout ended is ending too; it may take a moment to be reaped."""
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        return False
    return True
