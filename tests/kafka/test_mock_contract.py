"""The data path of the engine on Kafka keeps the contract on librdkafka's mock cluster, too.

So it does not rest on how one kind of broker answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

import eventlog
from eventlog import EventLog, Topic
from eventlog.testing import DataPathContract
from tests.servers.kafka_mock import MockCluster

NOT_THERE: Any = None


class TestMockCluster(DataPathContract):
    """It has no controller: topics are made past the engine."""

    gapless: ClassVar[bool] = False
    resolution: ClassVar[timedelta] = timedelta(milliseconds=1)
    unsupported: ClassVar[frozenset[str]] = frozenset({"expect_next"})

    # It acknowledges events with a made-up time, and looks up no offsets by time.
    test_a_receipt_says_where_an_event_is = NOT_THERE
    test_an_offset_is_found_by_time = NOT_THERE
    test_a_position_can_be_said_in_many_ways = NOT_THERE

    # It acknowledges offsets in transactions, and forgets them; and it fences nobody.
    test_a_producer_with_a_name_stores_nothing_twice = NOT_THERE
    test_a_second_producer_of_a_name_fences_the_first = NOT_THERE

    @pytest.fixture
    def log(self, mock_cluster: MockCluster, tmp_path: Path) -> Iterator[EventLog]:
        self.cluster = mock_cluster
        with eventlog.open(mock_cluster.location, blobs=f"file:{tmp_path / 'store'}") as log:
            yield log

    def make_topic(self, log: EventLog, name: str, *, partitions: int) -> Topic:
        self.cluster.create_topic(partitions, name)
        return log.topic(name)
