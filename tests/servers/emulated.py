"""Servers written in Python, each in a process of its own, where stopping one keeps its data.

`python -m tests.servers.emulated MODULE PORT` listens at the port and has `MODULE.emulate()` answer
the requests. SIGUSR1 ends all connections and refuses new ones, SIGUSR2 listens again.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Mapping
from typing import Any

from tests.servers.programs import ROOT, Program, free_port
from tests.servers.server import Server
from tests.servers.web import web_server

__all__ = ["Emulated"]


class Emulated(Server):
    """See `Server`. What it holds is in the memory of its process."""

    module: str

    def __init__(self) -> None:
        self.port = free_port()
        self._is_stopped = False
        self._times = 1
        self._program = self._launch()

    def _launch(self) -> Program:
        return Program(
            [sys.executable, "-m", "tests.servers.emulated", self.module, str(self.port)],
            "listening",
            env={"PYTHONPATH": str(ROOT), **self.environment()},
        )

    def environment(self) -> Mapping[str, str]:
        """What `emulate` finds in the environment."""
        return {}

    def start(self) -> None:
        self._program.send(signal.SIGUSR2)
        self._times += 1
        self._program.wait_for("listening", self._times)
        self._is_stopped = False

    def stop(self) -> None:
        self._program.send(signal.SIGUSR1)
        self._program.wait_for("stopped", self._times)
        self._is_stopped = True

    def pause(self) -> None:
        self._program.pause()

    def resume(self) -> None:
        self._program.resume()

    def restore(self) -> None:
        self.resume()
        if self._is_stopped:
            self.start()

    def close(self) -> None:
        self._program.close()


def main(module: str, port: int) -> None:
    """Listen, stop and listen, as the signals say."""
    numbers = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    emulated: Any = importlib.import_module(module)
    server = web_server(emulated.emulate(), port)
    print("listening", flush=True)
    while True:
        if signal.sigwait(numbers) == signal.SIGUSR1:
            server.stop()
            print("stopped", flush=True)
        else:
            server.start()
            print("listening", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
