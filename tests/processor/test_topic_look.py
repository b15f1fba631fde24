"""A round asks for the partitions of its topic, and is not late because nobody answers."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from eventlog.errors import LogBusyError, TopicNotFoundError
from eventlog.processor.topic_look import TopicLook

PATIENCE = 30.0


class FakeTopic:
    """Answers as it is told to, when it is told to."""

    name = "cars"

    def __init__(self) -> None:
        self.partitions = 4
        self.error: Exception | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0

    def partition_info(self, _partition: int) -> None:
        self.asked += 1
        assert self.may_answer.wait(PATIENCE)
        if self.error is not None:
            raise self.error


def made(lease_duration: float = 100.0) -> tuple[Any, TopicLook]:
    topic: Any = FakeTopic()
    return topic, TopicLook(topic, lease_duration)


def test_what_is_answered_in_time_counts() -> None:
    topic, look = made()
    assert look.partitions() == 4
    topic.partitions = 5
    assert look.partitions() == 5
    assert not look.late
    assert topic.asked == 2


def test_nobody_waits_for_long_and_one_question_is_enough() -> None:
    """Whoever asks meanwhile goes by what is known."""
    topic, look = made(lease_duration=0.2)
    topic.may_answer.clear()
    for _ in range(3):
        assert look.partitions() == 4
        assert look.late
    assert topic.asked == 1
    topic.may_answer.set()
    while look.late:
        assert look.partitions() == 4
    assert topic.asked <= 2


def test_that_the_log_is_busy_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """And again when it was reached in between."""
    topic, look = made()
    for _ in range(2):
        topic.error = LogBusyError("looking: no answer: try again")
        for _ in range(3):
            assert look.partitions() == 4
            assert look.late is topic.error
        topic.error = None
        look.partitions()
        assert not look.late
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["looking: no answer; a host of topic 'cars' waits"] * 2


def test_that_the_topic_is_gone_is_an_error_each_time() -> None:
    topic, look = made()
    topic.error = TopicNotFoundError("gone")
    for _ in range(2):
        with pytest.raises(TopicNotFoundError, match="gone"):
            look.partitions()
