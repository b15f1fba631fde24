"""What the tests of copies share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import eventlog
from eventlog import EventLog
from eventlog.copying import partition
from tests.copying.logs import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(clock: Clock) -> Iterator[EventLog]:
    with eventlog.open("memory:", clock=clock) as log:
        yield log


@pytest.fixture
def target(clock: Clock) -> Iterator[EventLog]:
    with eventlog.open("memory:", clock=clock) as log:
        yield log
        assert log.check().damaged == []


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "STORE_EVENTS", 10)
