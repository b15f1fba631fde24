"""What the tests of the command line share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import Command


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVENTLOG_LOG", "EVENTLOG_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _ctrl_c_is_not_ignored() -> Iterator[None]:
    """As in the foreground: here, and in the processes that are started.

    A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """Where a log may be made."""
    return tmp_path / "log"


@pytest.fixture
def command(location: Path) -> Command:
    """The command, on the log at `location`."""
    return Command(location)
