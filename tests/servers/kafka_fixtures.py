"""The broker as fixtures: one is started for all tests that ask for it.

What they need is imported by who asks: other tests need not wait for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import eventlog
from tests.servers import kafka_jars
from tests.servers.programs import require

if TYPE_CHECKING:
    from eventlog import EventLog
    from tests.servers.kafka import Kafka
    from tests.servers.kafka_mock import MockCluster


@pytest.fixture(scope="session")
def kafka_of_session() -> Iterator[Kafka]:
    """For fixtures of a wider scope than a test; nothing is put right afterwards."""
    require(kafka_jars.missing())
    from tests.servers.kafka import Kafka

    with contextlib.closing(Kafka()) as kafka:
        yield kafka


@pytest.fixture
def kafka(kafka_of_session: Kafka) -> Iterator[Kafka]:
    """Apache Kafka. After the test it runs, whatever became of it, and its new topics are gone."""
    topics = kafka_of_session.topics()
    yield kafka_of_session
    kafka_of_session.restore(topics)


@pytest.fixture
def kafka_log(kafka: Kafka) -> Iterator[EventLog]:
    """A log on it."""
    with eventlog.open(kafka.location) as log:
        yield log


@pytest.fixture(params=["embedded", "kafka"])
def each_engine(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """For a test that runs on both engines: a log's location, and where its groups are to be kept;
    that is empty where it is the log itself.
    """
    if request.param == "embedded":
        return str(tmp_path / "log"), ""
    kafka: Kafka = request.getfixturevalue("kafka")
    return kafka.location, f"file:{tmp_path / 'store'}"


@pytest.fixture
def mock_cluster() -> Iterator[MockCluster]:
    """The mock cluster of librdkafka: the data path, and nothing of administration."""
    from tests.servers.kafka_mock import MockCluster

    with contextlib.closing(MockCluster()) as cluster:
        yield cluster
