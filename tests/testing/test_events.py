"""`stored_event`: events as a processor gets them, without a log."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import eventlog
from eventlog import Event, InvalidNameError, StoredEvent
from eventlog.testing import VirtualClock, stored_event

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


def test_an_event_has_the_place_it_was_given() -> None:
    event = stored_event("ä", offset=41, enqueued_at=NOON, topic="cars", partition=3)
    assert isinstance(event, StoredEvent)
    assert event.body == "ä".encode()
    assert (event.topic, event.partition, event.offset) == ("cars", 3, 41)
    assert event.enqueued_at == NOON


def test_an_event_of_which_nothing_is_said_is_always_the_same() -> None:
    event = stored_event(b"a")
    assert (event.key, dict(event.properties), event.offset, event.partition) == (None, {}, 0, 0)
    assert event == stored_event(b"a")
    assert event != stored_event(b"a", offset=1)


def test_an_event_equals_the_one_that_is_read() -> None:
    clock = VirtualClock(NOON)
    with eventlog.open("memory:", clock=clock.wall_us) as log:
        cars = log.create_topic("cars", partitions=2)
        cars.append_batch([b"x"] * 300, partition=1)
        cars.append(b"a", key="k", properties={"n": 1}, partition=1)
        (read,) = cars.read(1, 300)
    made = stored_event(
        b"a",
        key="k",
        properties={"n": 1},
        topic="cars",
        partition=1,
        offset=300,
        enqueued_at=NOON.astimezone(timezone(timedelta(hours=2))),
    )
    assert made == read
    assert hash(made) == hash(read)
    assert pickle.loads(pickle.dumps(made)) == read


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"offset": -1}, ValueError),
        ({"offset": 2**63}, ValueError),
        ({"offset": "1"}, TypeError),
        ({"offset": True}, TypeError),
        ({"partition": -1}, ValueError),
        ({"partition": 1.0}, TypeError),
        ({"enqueued_at": NOON.replace(tzinfo=None)}, ValueError),
        ({"enqueued_at": "now"}, TypeError),
        ({"topic": "a/b"}, InvalidNameError),
        ({"key": 1}, TypeError),
        ({"properties": {"list": []}}, TypeError),
    ],
)
def test_what_no_event_can_have_is_refused(wrong: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        stored_event(b"a", **wrong)


def test_a_body_that_no_event_can_have_is_refused() -> None:
    wrong: Any = {"a": 1}
    with pytest.raises(TypeError, match=r"Event\.from_json"):
        stored_event(wrong)
    assert stored_event(Event.from_json(wrong).body).json() == wrong
