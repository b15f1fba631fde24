"""Every engine keeps the contract, test by test: see `eventlog.testing.EngineContract`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

import eventlog
from eventlog import EventLog, UnsupportedOperationError
from eventlog.testing import EngineContract, LogOpener


@contextlib.contextmanager
def whole(location: Path | str) -> Iterator[EventLog]:
    """A log that is found to be whole after the test, unless that has closed it."""
    with eventlog.open(location) as log:
        yield log
        with contextlib.suppress(eventlog.ClosedError):
            assert log.check().ok


class TestEmbeddedEngineOnDisk(EngineContract):
    """A directory."""

    @pytest.fixture
    def log(self, log_path: Path) -> Iterator[EventLog]:
        self.path = log_path
        with whole(log_path) as log:
            yield log

    def opener(self, log: EventLog) -> LogOpener:
        return functools.partial(eventlog.open, self.path)


class TestEmbeddedEngineInMemory(EngineContract):
    """The same, gone with the process."""

    @pytest.fixture
    def log(self) -> Iterator[EventLog]:
        with whole("memory:") as log:
            yield log


class TestAnEngineThatDeclines:
    """What an engine is declared not to do, it must decline: not do it, and not fail otherwise."""

    class Declining(EngineContract):
        unsupported: ClassVar[frozenset[str]] = frozenset({"expect_next"})

    def test_what_is_declined_raises(self) -> None:
        with self.Declining().doing("expect_next"):
            raise UnsupportedOperationError

    def test_what_is_done_although_it_was_to_be_declined_fails(self) -> None:
        with (
            pytest.raises(AssertionError, match="no UnsupportedOperationError 'expect_next'"),
            self.Declining().doing("expect_next"),
        ):
            pass

    def test_what_is_declined_although_it_was_to_be_done_fails(self) -> None:
        with pytest.raises(UnsupportedOperationError), self.Declining().doing("producer_id"):
            raise UnsupportedOperationError

    def test_gaps_are_seen_where_there_are_to_be_none(self) -> None:
        suite = EngineContract()
        suite.check_offsets([3, 4, 5], 3)
        with pytest.raises(AssertionError):
            suite.check_offsets([3, 5], 3)
