"""``eventlog run-worker``: one of the processes that ``eventlog run --processes`` starts.

Not for people: see `eventlog.cli.worker_processes` for what comes on standard input.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Final

import click
import msgspec

from eventlog.cli.failures import Failure
from eventlog.cli.invocation import common_options
from eventlog.cli.processing import OVERTIME, RunSettings, process
from eventlog.cli.supervisor import CANNOT_BEGIN
from eventlog.cli.worker_processes import WORKER_VERB

__all__ = ["run_worker"]

_STANDARD_INPUT: Final = 0
_READ_BYTES: Final = 65536

_decode: Final = msgspec.json.Decoder(RunSettings).decode


@click.command(WORKER_VERB, hidden=True)
@common_options
def run_worker() -> None:
    """Be started by ``eventlog run``."""
    pipe = _taken_pipe()
    settings = _settings(_line(pipe))
    try:
        patience = settings.processor_options().grace + OVERTIME
        process(settings, attend=lambda stop: _end_with(pipe, stop, patience))
    except click.UsageError as error:
        raise _CannotBegin(error.format_message()) from error


class _CannotBegin(Failure):
    """It was told something wrong: what people told `run`."""

    exit_code = CANNOT_BEGIN


def _settings(line: bytes) -> RunSettings:
    try:
        return _decode(line)
    except msgspec.MsgspecError as error:
        raise _CannotBegin("this is started by 'eventlog run', not by people") from error


def _taken_pipe() -> int:
    """Standard input, for this module alone: a processor's own programs inherit nothing of it."""
    pipe = os.dup(_STANDARD_INPUT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STANDARD_INPUT)
    os.close(nothing)
    return pipe


def _line(pipe: int) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (data := os.read(pipe, _READ_BYTES)):
        line += data
    return line


def _end_with(pipe: int, stop: Callable[[], None], patience: float) -> None:
    """From now on, when whoever started this process has closed the pipe or died, call `stop`.

    Then nobody may be left who would kill a process that does not end: it does so itself.
    """

    def watch() -> None:
        while os.read(pipe, _READ_BYTES):
            pass
        stop()
        time.sleep(patience)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="watches the supervisor", daemon=True).start()
