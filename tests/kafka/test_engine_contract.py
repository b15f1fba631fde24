"""The engine on a Kafka cluster keeps the contract of engines; where it differs, it says how."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest

import eventlog
from eventlog import EventLog
from eventlog.testing import EngineContract, LogOpener
from tests.servers.kafka import Kafka


class TestKafkaEngine(EngineContract):
    """A real broker, and a directory for what groups keep."""

    gapless: ClassVar[bool] = False
    resolution: ClassVar[timedelta] = timedelta(milliseconds=1)
    unsupported: ClassVar[frozenset[str]] = frozenset(
        {"backup", "check", "compact", "expect_next", "expire"}
    )

    @pytest.fixture
    def log(self, kafka: Kafka, tmp_path: Path) -> Iterator[EventLog]:
        self.open = functools.partial(
            eventlog.open, kafka.location, blobs=f"file:{tmp_path / 'store'}"
        )
        with self.open() as log:
            yield log

    def opener(self, log: EventLog) -> LogOpener:
        return self.open
