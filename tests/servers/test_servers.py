"""The servers themselves: they keep their data over an outage, and end with the tests."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.servers import Server, require, url_at
from tests.servers.programs import Program, tree

if TYPE_CHECKING:
    from tests.conftest import Start

SLEEPS = "import time; print('ready', flush=True); time.sleep(3600)"


def test_a_stopped_server_refuses_and_listens_again_at_the_same_port(remote: Server) -> None:
    remote.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", remote.port), timeout=10)
    remote.start()
    socket.create_connection(("127.0.0.1", remote.port), timeout=10).close()


def test_a_server_gives_every_store_a_place_of_its_own(remote: Server) -> None:
    first, second = remote.store_url(), remote.store_url()
    assert first != second
    assert first.startswith(remote.scheme + ":")
    assert all(any(secret in url for secret in remote.secrets) for url in (first, second))
    assert str(remote.port) not in url_at(first, remote.port, 1)


def test_a_paused_program_does_nothing_until_it_is_resumed() -> None:
    program = Program([sys.executable, "-c", SLEEPS], "ready")
    program.pause()
    if sys.platform == "linux":
        assert Path(f"/proc/{program.pid}/stat").read_text().split()[2] == "T"
    program.resume()
    program.close()
    assert not program.is_running


def test_a_program_ends_with_who_started_it(start: Start, tmp_path: Path) -> None:
    source = f"""
import sys
from tests.servers.programs import Program
program = Program(
    [sys.executable, "-c", {SLEEPS!r}], "ready", directory=sys.argv[1]
)
print(program.pid, flush=True)
sys.stdin.read()
"""
    directory = tmp_path / "data"
    directory.mkdir()
    child = start(source, directory)
    program = int(child.line())
    child.kill()
    deadline = time.monotonic() + 60
    while directory.exists() and time.monotonic() < deadline:
        os.sched_yield()
    assert not directory.exists()
    assert not any(tree(program, signal.SIGURG))


def test_a_missing_server_is_a_skip_at_home_and_a_failure_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    require(None)
    outcomes = (pytest.skip.Exception, pytest.fail.Exception)
    for ci, outcome in (("", outcomes[0]), ("true", outcomes[1])):
        monkeypatch.setenv("CI", ci)
        with pytest.raises(outcomes, match="it is not installed") as caught:
            require("it is not installed")
        assert caught.type is outcome
