"""The workers of ``eventlog run --processes``, as processes of this machine.

A worker gets its settings as one line of JSON on its standard input. The pipe then stays open for
as long as it is to run: that it ends tells the worker to end too, whether this process asks it to
or was killed. So nothing but the pipe has to be looked after, on any system; and a worker that is
told twice, as when somebody signals all processes at once, is told nothing new.

Processes are started afresh, never forked: what is open here is open here only. Each has a process
group of its own, so that Ctrl-C reaches this process alone.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, Final, TypeAlias

import click

from eventlog.cli.supervisor import Event, Supervisor, supervise

__all__ = ["WORKER_VERB", "run_workers"]

WORKER_VERB: Final = "run-worker"

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_workers(settings: bytes, count: int, *, patience: float, debug: bool) -> int:
    """Run worker processes until this one is signalled; the exit code. In the main thread.

    Args:
        settings: what each of them gets: one line.
        count: how many.
        patience: seconds that they have to end.
        debug: whether they show tracebacks of errors.
    """
    argv = [sys.executable, "-m", "eventlog", *(["--debug"] if debug else []), WORKER_VERB]
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def start(number: int) -> WorkerProcess:
        return WorkerProcess(argv, settings, lambda code: events.put(ended(number, code)))

    def ended(number: int, code: int) -> Event:
        return partial(supervisor.ended, number, code)

    supervisor = Supervisor(start, count, patience=patience, clock=time.monotonic, say=_say)
    with _signals(supervisor, events):
        return supervise(supervisor, events)


def _say(line: str) -> None:
    click.echo(f"eventlog: {line}", err=True)


@contextmanager
def _signals(supervisor: Supervisor, events: queue.SimpleQueue[Event]) -> Iterator[None]:
    """Signals become events, but for those that are ignored (as by ``nohup``)."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in taken:
        signal.signal(
            number, lambda number, _frame: events.put(partial(supervisor.signalled, number))
        )
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


_Ended: TypeAlias = Callable[[int], object]


class WorkerProcess:
    """One process.

    Args:
        argv: how to start it.
        settings: the line it is given.
        ended: called, in a thread, with its exit code; negative if a signal killed it.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, argv: Sequence[str], settings: bytes, ended: _Ended) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, process_group=0)  # noqa: S603
        threading.Thread(
            target=lambda: ended(self._process.wait()), name=f"worker {self.pid}", daemon=True
        ).start()
        with contextlib.suppress(OSError):  # it has ended already
            self._pipe.write(settings)
            self._pipe.flush()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def drain(self) -> None:
        """See `eventlog.cli.supervisor.Worker.drain`."""
        with contextlib.suppress(OSError):
            self._pipe.close()

    def kill(self) -> None:
        """See `eventlog.cli.supervisor.Worker.kill`."""
        self._process.kill()
