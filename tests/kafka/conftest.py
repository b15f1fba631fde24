"""What the tests of the Kafka engine share: logs with a store for groups, and a user's rights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import eventlog
from eventlog import EventLog

if TYPE_CHECKING:
    from tests.kafka.rights import Rights
    from tests.servers.kafka import Kafka


@pytest.fixture
def opened(kafka: Kafka, tmp_path: Path) -> Callable[..., EventLog]:
    """Opens a log on the broker; the directory of its store may be named, and options given."""

    def open_with(store: str = "store", **options: Any) -> EventLog:
        return eventlog.open(kafka.location, blobs=f"file:{tmp_path / store}", **options)

    return open_with


@pytest.fixture
def log(opened: Callable[..., EventLog]) -> Iterator[EventLog]:
    """Such a log, as it is without options."""
    with opened() as log:
        yield log


@pytest.fixture
def rights(kafka: Kafka) -> Iterator[Rights]:
    """Granted to the guest for one test."""
    from tests.kafka.rights import Rights

    found = Rights(kafka)
    yield found
    found.withdraw()
