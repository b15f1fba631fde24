"""Consumer groups as people see them: checkpoints, lag, resetting, deleting, listing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import (
    EARLIEST,
    LATEST,
    ConsumerDisconnectedError,
    CorruptBatchError,
    EventLog,
    EventLogError,
    InvalidNameError,
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    PreconditionFailedError,
    StoredEvent,
    Topic,
    TopicNotFoundError,
)
from eventlog.blobs import Blob
from eventlog.blobs import open as open_blobs
from eventlog.group import ConsumerGroup, Lag, group_store, groups_of

START_US = 1_700_000_000_000_000
START = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.us = START_US

    def __call__(self) -> int:
        return self.us

    def forward(self, seconds: float) -> None:
        self.us += round(seconds * 1_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Iterator[EventLog]:
    with eventlog.open("memory:", clock=clock) as log:
        yield log
        assert log.check().damaged == []


@pytest.fixture
def cars(log: EventLog, clock: Clock) -> Topic:
    """Two partitions: 10 events, one a second, in the first; nothing in the second."""
    topic = log.create_topic("cars", partitions=2, retention=timedelta(hours=1))
    for number in range(10):
        topic.append(str(number), partition=0)
        clock.forward(1)
    return topic


def finish(topic: Topic, group: str, partition: int, offset: int) -> None:
    """Somebody checkpoints."""
    with topic.log.transaction() as transaction:
        transaction.checkpoint(topic, group, partition=partition, offset=offset)


def offsets(group: ConsumerGroup) -> dict[int, int]:
    return {partition: found.offset for partition, found in group.checkpoints().items()}


# What a group is


def test_asking_for_a_group_makes_nothing(cars: Topic) -> None:
    group = cars.group("fraud")
    assert group.name == "fraud"
    assert repr(group) == "<ConsumerGroup 'fraud' of topic 'cars'>"
    assert group.checkpoints() == {}
    assert group.members() == []
    group.lag()
    group.delete()
    assert cars.groups() == []
    assert cars.log.blobs.list("") == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 250, "é"])
def test_a_name_no_group_can_have_is_refused(cars: Topic, name: str) -> None:
    with pytest.raises(InvalidNameError, match="cannot name a group"):
        cars.group(name)


def test_a_name_that_is_no_text_is_refused(cars: Topic) -> None:
    with pytest.raises(TypeError, match="the name of a group is a str"):
        cars.group(7)  # type: ignore[arg-type]


def test_names_of_groups_may_be_as_long_and_odd_as_those_of_topics(log: EventLog) -> None:
    name = "_" + "x.Y-9" * 49 + "z_z"
    assert len(name) == 249
    topic = log.create_topic("t" * 249)
    topic.append(b"x", partition=3)
    finish(topic, name, 3, 0)
    assert offsets(topic.group(name)) == {3: 0}
    assert [group.name for group in topic.groups()] == [name]


def test_groups_of_a_topic_are_independent(cars: Topic) -> None:
    finish(cars, "fraud", 0, 5)
    finish(cars, "alerts", 0, 2)
    assert offsets(cars.group("fraud")) == {0: 5}
    assert offsets(cars.group("alerts")) == {0: 2}


def test_a_group_of_one_name_is_another_in_another_topic_and_log(
    log: EventLog, cars: Topic, tmp_path: Path
) -> None:
    with open_blobs("memory:") as store, eventlog.open(tmp_path / "log") as other_log:
        topics = [cars, log.create_topic("bikes"), other_log.create_topic("cars")]
        for number, topic in enumerate(topics):
            topic.append("x", partition=0)
            topic.group("fraud", store).reset({0: number % 2})
        for number, topic in enumerate(topics):
            group = topic.group("fraud", store)
            assert offsets(group) == {0: number % 2 - 1}
            assert [found.name for found in topic.groups(store)] == ["fraud"]
        cars.group("fraud", store).delete()
        assert [len(topic.groups(store)) for topic in topics] == [0, 1, 1]


def test_groups_are_where_they_are_told_to_be(cars: Topic, tmp_path: Path) -> None:
    with open_blobs(f"file:{tmp_path}/groups") as store:
        cars.group("fraud", store).reset(3, partitions=[0])
        assert offsets(cars.group("fraud", store)) == {0: 2}
    assert cars.group("fraud").checkpoints() == {}
    (path,) = tmp_path.glob("groups/groups/*/cars/fraud/checkpoints/0.json")
    assert json.loads(path.read_text())["offset"] == 2


# Lag


def test_lag_counts_what_is_not_finished_and_how_old_it_is(cars: Topic, clock: Clock) -> None:
    group = cars.group("fraud")
    assert group.lag() == {0: Lag(10, 10.0), 1: Lag(0, 0.0)}
    finish(cars, "fraud", 0, 6)
    clock.forward(0.5)
    assert group.lag() == {0: Lag(3, 3.5), 1: Lag(0, 0.0)}
    finish(cars, "fraud", 0, 9)
    assert group.lag() == {0: Lag(0, 0.0), 1: Lag(0, 0.0)}
    cars.append("x", partition=1)
    assert group.lag()[1] == Lag(1, 0.0)


def test_what_has_expired_unread_is_no_lag(cars: Topic, clock: Clock) -> None:
    """It counts from the first event that can be read, whatever the checkpoint says."""
    finish(cars, "fraud", 0, 2)
    clock.forward(3594.5)
    assert cars.group("fraud").lag()[0] == Lag(5, 3599.5)
    assert cars.group("none").lag()[0] == Lag(5, 3599.5)
    clock.forward(3600)
    assert cars.group("fraud").lag()[0] == Lag(0, 0.0)


def test_a_checkpoint_beyond_the_end_is_no_lag(cars: Topic) -> None:
    """The log was restored from an older backup, and its groups are elsewhere."""
    group_store(cars, "fraud", cars.log.blobs).advance_unowned(0, 500)
    assert cars.group("fraud").lag()[0] == Lag(0, 0.0)


def test_a_clock_that_went_back_makes_nothing_younger_than_new(cars: Topic, clock: Clock) -> None:
    clock.forward(-100)
    assert cars.group("fraud").lag()[0] == Lag(10, 0.0)


def test_lag_knows_partitions_that_others_have_added(log: EventLog, cars: Topic) -> None:
    with pytest.warns(UserWarning, match="keys move"):
        log.topic("cars").add_partitions(2)
    assert list(cars.group("fraud").lag()) == [0, 1, 2, 3]
    cars.group("fraud").reset("latest")
    assert list(cars.group("fraud").checkpoints()) == [0, 1, 2, 3]


class Reading:
    """A topic whose reads fail as they do when retention or a disk was faster."""

    def __init__(self, topic: Topic, *failures: EventLogError) -> None:
        self._topic = topic
        self._failures = list(failures)
        self.starts: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._topic, name)

    def read(self, partition: int, start: Any, **options: Any) -> list[StoredEvent]:
        self.starts.append(start)
        if self._failures:
            raise self._failures.pop(0)
        return self._topic.read(partition, start, **options)


def lag_of(reading: Reading, clock: Clock) -> Lag:
    topic: Any = reading
    return ConsumerGroup(topic, "fraud", topic.log.blobs, clock=clock).lag()[0]


def test_what_expires_while_lag_is_counted_is_passed_over(cars: Topic, clock: Clock) -> None:
    reading = Reading(cars, OffsetOutOfRangeError("expired", offset=0, beginning_offset=4))
    assert lag_of(reading, clock) == Lag(10, 6.0)
    assert reading.starts == [0, 4]


def test_damage_does_not_hide_lag(cars: Topic, clock: Clock) -> None:
    """The age is that of the first event behind it; if there is none, of the last of all."""
    reading = Reading(cars, CorruptBatchError("damaged", first_offset=0, last_offset=6))
    assert lag_of(reading, clock) == Lag(10, 3.0)
    reading = Reading(cars, CorruptBatchError("damaged", first_offset=0, last_offset=9))
    assert lag_of(reading, clock) == Lag(10, 1.0)


def test_errors_that_tell_no_offset_end_nothing_in_a_loop(cars: Topic, clock: Clock) -> None:
    failures = [OffsetOutOfRangeError("?") for _ in range(20)]
    assert lag_of(Reading(cars, *failures), clock) == Lag(10, 1.0)


# Resetting


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (EARLIEST, 0),
        ("earliest", 0),
        (LATEST, 10),
        ("latest", 10),
        (0, 0),
        (7, 7),
        (10, 10),
        (START + timedelta(seconds=4), 4),
        (START + timedelta(seconds=3.5), 4),
        ("2023-11-14T22:13:26Z", 6),
        ("-3s", 7),
        (START + timedelta(days=1), 10),
        ({0: 7}, 7),
        ({0: "-3s"}, 7),
    ],
    ids=str,
)
def test_a_reset_goes_to_any_position(cars: Topic, position: Any, expected: int) -> None:
    finish(cars, "fraud", 0, 4)
    cars.group("fraud").reset(position, partitions=[0])
    assert offsets(cars.group("fraud")) == {0: expected - 1}
    assert cars.group("fraud").checkpoints()[0].reset == 1


def test_a_reset_is_of_all_partitions_unless_told(cars: Topic) -> None:
    group = cars.group("fraud")
    group.reset("latest")
    assert offsets(group) == {0: 9, 1: -1}
    group.reset({0: 3})
    assert offsets(group) == {0: 2, 1: -1}
    group.reset("earliest", [1, 1])
    assert [found.reset for found in group.checkpoints().values()] == [2, 2]


def test_a_reset_of_a_group_that_never_was_lets_it_begin_there(cars: Topic) -> None:
    cars.group("new").reset(6, partitions=[0])
    with cars.consumer(group="new", partitions=0, follow=False) as consumer:
        assert [event.offset for event in consumer] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("position", "partitions", "error"),
    [
        (11, None, OffsetOutOfRangeError),
        (-1, None, OffsetOutOfRangeError),
        (0, [0, 2], PartitionNotFoundError),
        ({0: 0, 2: 0}, None, PartitionNotFoundError),
        ({0: 0, 1: 5}, None, OffsetOutOfRangeError),
        ({0: 0}, [0, 1], ValueError),
        ({"0": 0}, None, TypeError),
        ("yesterday", None, ValueError),
        (datetime(2026, 1, 1), None, ValueError),  # noqa: DTZ001 - it is refused
        (None, None, TypeError),
        (1.5, None, TypeError),
        (True, None, TypeError),
    ],
    ids=str,
)
def test_a_reset_to_where_nothing_is_changes_nothing(
    cars: Topic, position: Any, partitions: list[int] | None, error: type[Exception]
) -> None:
    finish(cars, "fraud", 0, 4)
    with pytest.raises(error):
        cars.group("fraud").reset(position, partitions)
    assert offsets(cars.group("fraud")) == {0: 4}


def test_a_reset_cannot_go_to_what_has_expired(cars: Topic, clock: Clock) -> None:
    clock.forward(3595)
    with pytest.raises(OffsetOutOfRangeError) as caught:
        cars.group("fraud").reset(0, [0])
    assert (caught.value.beginning_offset, caught.value.next_offset) == (6, 10)
    cars.group("fraud").reset("earliest", [0])
    assert offsets(cars.group("fraud")) == {0: 5}


def test_a_reset_is_refused_under_a_consumer_unless_forced(cars: Topic) -> None:
    group = cars.group("fraud")
    with cars.consumer(group="fraud", follow=False) as consumer:
        assert len(list(consumer)) == 10
        consumer.checkpoint()
        (member,) = group.members()
        with pytest.raises(PreconditionFailedError, match=member):
            group.reset("earliest")
        assert offsets(group) == {0: 9, 1: -1}
        group.reset(3, [0], force=True)
        assert offsets(group) == {0: 2, 1: -1}
    assert group.members() == []
    group.reset("earliest")
    assert offsets(group) == {0: -1, 1: -1}


# Deleting, and topics made again


def test_a_deleted_group_begins_anew(cars: Topic) -> None:
    finish(cars, "fraud", 0, 6)
    finish(cars, "other", 0, 6)
    cars.group("fraud").delete()
    assert [group.name for group in cars.groups()] == ["other"]
    assert cars.group("fraud").checkpoints() == {}
    assert cars.group("fraud").lag()[0].events == 10


def test_a_topic_made_again_has_no_groups(log: EventLog, cars: Topic) -> None:
    group = cars.group("fraud")
    finish(cars, "fraud", 0, 6)
    log.delete_topic("cars")
    again = log.create_topic("cars", partitions=2)
    again.append("x", partition=0)
    assert again.groups() == []
    assert again.group("fraud").checkpoints() == {}
    assert again.group("fraud").lag()[0].events == 1
    with pytest.raises(TopicNotFoundError):
        group.reset("earliest")
    with pytest.raises(TopicNotFoundError):
        group.lag()
    finish(again, "fraud", 0, 0)
    assert offsets(again.group("fraud")) == {0: 0}


def test_who_still_holds_a_deleted_topic_cannot_claim_for_the_new_one(
    log: EventLog, cars: Topic
) -> None:
    old = group_store(cars, "fraud", log.blobs)
    log.delete_topic("cars")
    new = group_store(log.create_topic("cars"), "fraud", log.blobs)
    new.claim(0, "reader", 7)
    with pytest.raises(TopicNotFoundError):
        old.claim(0, "stale", 0)
    assert new.checkpoints()[0].owner == "reader"


def test_deleting_the_group_of_a_new_topic_removes_what_the_old_one_left(
    log: EventLog, cars: Topic
) -> None:
    finish(cars, "fraud", 0, 6)
    log.delete_topic("cars")
    log.create_topic("cars").group("fraud").delete()
    assert log.blobs.list("") == []


def test_the_consumer_of_a_deleted_group_is_disconnected(cars: Topic) -> None:
    with cars.consumer(group="fraud", follow=False) as consumer:
        next(iter(consumer))
        cars.group("fraud").delete()
        with pytest.raises(ConsumerDisconnectedError, match="was deleted"):
            consumer.checkpoint()


# Listing


def test_groups_are_listed_in_the_order_of_their_names(cars: Topic) -> None:
    for name in ("b", "a", "B", "a-1", "a.1"):
        finish(cars, name, 0, 0)
    assert [group.name for group in cars.groups()] == ["B", "a", "a-1", "a.1", "b"]


def test_what_is_no_group_is_not_listed(cars: Topic) -> None:
    place = f"groups/{cars.log.id}/cars"
    for name in ("group.json", "-x/group.json", "x/group.yaml", "x/y/group.json"):
        cars.log.blobs.put(f"{place}/{name}", b"{}")
    assert cars.groups() == []


def test_a_damaged_group_is_listed_named_and_can_be_deleted(cars: Topic) -> None:
    finish(cars, "fraud", 0, 0)
    finish(cars, "other", 0, 0)
    name = f"groups/{cars.log.id}/cars/fraud/group.json"
    cars.log.blobs.put(name, b"{nonsense")
    damaged, other = cars.groups()
    uses: list[Callable[[], object]] = [
        damaged.checkpoints,
        damaged.lag,
        damaged.members,
        lambda: damaged.reset("earliest"),
        lambda: finish(cars, "fraud", 0, 1),
        lambda: list(cars.consumer(group="fraud", follow=False)),
    ]
    for use in uses:
        with pytest.raises(EventLogError, match=name):
            use()
    assert offsets(other) == {0: 0}
    damaged.delete()
    assert [group.name for group in cars.groups()] == ["other"]


def test_a_group_that_is_deleted_while_groups_are_listed_is_not_there(cars: Topic) -> None:
    class Vanishing:
        def __getattr__(self, name: str) -> Any:
            return getattr(cars.log.blobs, name)

        def get(self, name: str) -> Blob | None:
            return None

    finish(cars, "fraud", 0, 0)
    store: Any = Vanishing()
    assert groups_of(cars, store) == []


def test_members_are_the_hosts_of_the_group(cars: Topic) -> None:
    finish(cars, "fraud", 0, 0)
    name = f"groups/{cars.log.id}/cars/fraud/group.json"
    blob = cars.log.blobs.get(name)
    assert isinstance(blob, Blob)
    document = {**json.loads(blob.data), "hosts": ["b-2", "a-1"]}
    cars.log.blobs.put(name, json.dumps(document).encode())
    assert cars.group("fraud").members() == ["a-1", "b-2"]


# On an event loop


@pytest.mark.anyio
async def test_everything_a_group_does_it_does_on_an_event_loop(cars: Topic) -> None:
    group = cars.group("fraud").aio
    await group.reset(4, partitions=[0])
    assert (await group.checkpoints())[0].offset == 3
    assert (await group.lag())[0].events == 6
    assert await group.members() == []
    await group.delete()
    assert await group.checkpoints() == {}
