"""Running a program under strace, and recording what it does to a directory."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.crash.power.calls import STRACE, read_calls
from tests.crash.power.history import History
from tests.crash.power.operations import RecordingError, Tree
from tests.crash.power.replay import Replay

ACK_VARIABLE: Final = "POWER_ACK"
SHARED_MAPS: Final = ("lock.mdb", "*-lock")  # LMDB's lock file, with subdir=True and False


_PRELUDE: Final = f"""
import os, sys
_ack = os.open(os.environ[{ACK_VARIABLE!r}], os.O_WRONLY | os.O_APPEND)
def acknowledge(text):
    os.write(_ack, text.encode() + b"\\n")
"""


def program(source: str, *arguments: str | Path) -> list[str]:
    """The command line of a Python program; it finds `os`, `sys` and `acknowledge(text)` there."""
    return [sys.executable, "-c", _PRELUDE + source, *map(str, arguments)]


def record(
    argv: Sequence[str],
    directory: Path,
    *,
    env: Mapping[str, str] | None = None,
    shared_maps: Sequence[str] = SHARED_MAPS,
    expect: int = 0,
    timeout: float = 120.0,
) -> History:
    """Runs a program and returns what it did to `directory`, which must exist.

    Args:
        argv: the program. Nobody but it and its children may touch the directory meanwhile.
        directory: only files below it are recorded. What it holds already counts as certain.
        env: added to the environment.
        shared_maps: names (patterns) of files that may be mapped shared and writable.
        expect: the exit status wanted; -9 of a program that kills itself.
        timeout: in seconds; then the program is killed.

    Raises:
        RecordingError: another exit status, or something that cannot be modelled faithfully.
    """
    root = directory.resolve(strict=True)
    before = Tree.read(root)
    with tempfile.TemporaryDirectory(prefix="power-") as scratch:
        ack, trace = Path(scratch).resolve() / "ack", Path(scratch) / "trace"
        assert not ack.is_relative_to(root)
        ack.touch()
        _run_strace(
            argv, {**os.environ, **(env or {}), ACK_VARIABLE: str(ack)}, trace, expect, timeout
        )
        after = Tree.read(root)
        # Which of two appends in flight at once came first, only the file can tell. Which file is
        # whose is known once the names have been replayed, hence a second time.
        replay = Replay(root, ack, shared_maps, before, {})
        replay.run(read_calls(trace))
        if replay.difference(after) is not None:
            replay = Replay(root, ack, shared_maps, before, replay.truth(after))
            replay.run(read_calls(trace))
    if (difference := replay.difference(after)) is not None:
        raise RecordingError(
            f"the recorded operations do not add up to the directory: {difference}"
        )
    return replay.history(after)


@functools.cache
def available() -> str | None:
    """None if programs can be recorded here, else the reason why not."""
    if not sys.platform.startswith("linux"):
        return "strace records system calls on Linux only"
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = [*STRACE, "-o", os.devnull, "--", sys.executable, "-S", "-c", ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return None if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()}"


def skip_unless_available() -> None:
    """Skips the calling test where nothing can be recorded; fails it where CI is set."""
    if (reason := available()) is not None:
        if os.environ.get("CI"):
            pytest.fail(f"the power-cut tests must run in CI: {reason}")
        pytest.skip(reason)


def _run_strace(
    argv: Sequence[str], env: Mapping[str, str], trace: Path, expect: int, timeout: float
) -> None:
    command = [*STRACE, "-o", str(trace), "--", *argv]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except BaseException as error:
            # strace alone would leave what it traces running; they are one session of their own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise RecordingError(f"the program still ran after {timeout} s") from None
            raise
        if status != expect:
            output.seek(0)
            said = output.read()[-4000:].decode(errors="replace")
            raise RecordingError(f"the program ended with {status}, not {expect}:\n{said}")
