"""The contract of engines, what is to be administered: topics, and the log as a whole."""

from __future__ import annotations

import warnings
from datetime import timedelta
from typing import Final

from eventlog.errors import (
    EventTooLargeError,
    InvalidNameError,
    TopicExistsError,
    TopicNotFoundError,
)
from eventlog.event import Event
from eventlog.log import EventLog
from eventlog.partitioning import KeyPartitioner
from eventlog.testing.engine_base import EngineSuite, bodies, everything
from eventlog.testing.expecting import raises

__all__ = ["TopicsContract"]

_BAD_NAMES: Final = ("", ".", "..", "a/b", "../a", "a b", "-a", "a\n", "ä", "a" * 250)


class TopicsContract(EngineSuite):
    """Topics, and the log as a whole."""

    def test_a_topic_is_as_it_was_made(self, log: EventLog) -> None:
        """However it is got: made, looked up, or listed."""
        made = log.create_topic("cars", partitions=3, retention=timedelta(days=7))
        assert log.topic("cars").id == made.id
        for topic in (made, log.topic("cars"), *log.topics()):
            assert (topic.name, topic.partitions) == ("cars", 3)
            assert topic.retention == timedelta(days=7)
            assert topic.partitioner == "eventhubs"
            assert topic.max_event_bytes == 2**20
            assert topic.created_at.utcoffset() == timedelta(0)
            assert topic.log.id == log.id

    def test_topics_are_listed_in_the_order_of_their_names(self, log: EventLog) -> None:
        """Whatever the order in which they were made; none at first."""
        assert log.topics() == []
        for name in ("b", "a.b", "a"):
            log.create_topic(name, partitions=1)
        assert [topic.name for topic in log.topics()] == ["a", "a.b", "b"]

    def test_a_topic_is_made_once(self, log: EventLog) -> None:
        """It can be taken as it is, but not with other partitions or another partitioner."""
        topic = log.create_topic("cars", partitions=2)
        topic.append(b"kept", partition=0)
        with raises(TopicExistsError):
            log.create_topic("cars", partitions=2)
        assert log.create_topic("cars", partitions=2, exist_ok=True).id == topic.id
        with raises(TopicExistsError):
            log.create_topic("cars", partitions=3, exist_ok=True)
        with raises(TopicExistsError):
            log.create_topic("cars", partitions=2, partitioner="kafka", exist_ok=True)
        assert bodies(log.topic("cars")) == [b"kept"]

    def test_a_topic_that_is_not_there_is_not_found(self, log: EventLog) -> None:
        """Nor is it made by looking."""
        for call in (log.topic, log.delete_topic):
            with raises(TopicNotFoundError):
                call("cars")
        assert log.topics() == []

    def test_bad_names_are_refused(self, log: EventLog) -> None:
        """What would escape a path or a URL, or mean something else elsewhere."""
        for name in _BAD_NAMES:
            with raises(InvalidNameError, about=name):
                log.create_topic(name)
        assert log.topics() == []

    def test_a_topic_made_anew_shares_nothing_with_the_old_one(self, log: EventLog) -> None:
        """And who holds the old one is told."""
        old = log.create_topic("cars", partitions=1)
        old.append(b"old")
        with self.doing("delete_topic"):
            log.delete_topic("cars")
            assert log.topics() == []
            new = log.create_topic("cars", partitions=1)
            assert new.id != old.id
            assert everything(new) == []
            with raises(TopicNotFoundError):
                old.append(b"late")
            assert everything(new) == []

    def test_what_can_be_changed_of_a_topic_is_changed_for_all(self, log: EventLog) -> None:
        """What is not named stays."""
        topic = log.create_topic("cars", partitions=1, retention=60)
        topic.configure(max_event_bytes=100)
        for one in (topic, log.topic("cars")):
            assert (one.max_event_bytes, one.retention) == (100, timedelta(minutes=1))
        topic.configure(retention=None)
        assert log.topic("cars").retention is None
        with raises(EventTooLargeError):
            topic.append(bytes(101))

    def test_partitions_can_be_added_with_a_warning(self, log: EventLog) -> None:
        """Since keys move."""
        topic = log.create_topic("cars", partitions=1)
        topic.append(b"0", partition=0)
        with self.doing("add_partitions"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                topic.add_partitions(2)
            assert caught
            assert log.topic("cars").partitions == topic.partitions == 3
            topic.append(b"2", partition=2)
            assert bodies(log.topic("cars")) == [b"0", b"2"]

    def test_a_key_is_on_the_same_partition_as_on_every_engine(self, log: EventLog) -> None:
        """So a program keeps its partitions when it moves; text and its UTF-8 are one key."""
        topic = log.create_topic("cars", partitions=16)
        expected = KeyPartitioner("eventhubs", 16)
        keys = [f"VIN-{n}" for n in range(50)]
        for key in keys:
            assert topic.append(b"", key=key).partition == expected.partition(key)
            assert topic.append(b"", key=key.encode()).partition == expected.partition(key)
        topic.append_batch([Event(b"", key) for key in keys])
        assert {e.partition == expected.partition(e.key or "") for e in everything(topic)} == {True}

    def test_a_log_is_looked_after(self, log: EventLog) -> None:
        """Each of these leaves the events as they are."""
        topic = log.create_topic("cars", partitions=1)
        topic.append(b"kept")
        with self.doing("check"):
            assert log.check().ok
        with self.doing("compact"):
            log.compact()
        with self.doing("expire"):
            assert topic.expire() == 0
        assert bodies(topic) == [b"kept"]
