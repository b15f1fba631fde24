"""What a copy of a topic has in common with it, and what it adds when it is repeated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import (
    Event,
    EventLog,
    EventLogError,
    ProducerFencedError,
)
from eventlog.copying import OthersEventsError
from eventlog.embedded.engine import EmbeddedLog
from tests.copying.logs import Clock, Made, contents, copied, gappy_log, numbered

WHEN = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
EVENTS = [
    Event(b"text", key="k", properties={"n": None, "t": True, "i": 1, "f": 1.0, "s": "\xe9"}),
    Event(b"\xff\x00", key=b"utf-8 bytes", properties={"b": b"\xff", "d": WHEN}),
    Event(b"", key=""),
    Event(b"x", properties={"big": 2**64 - 1, "small": -(2**63), "inf": float("-inf")}),
    Event(b"plain"),
]


# ---- What is the same ----------------------------------------------------------------------------


def test_events_keep_all_they_have_and_their_times_to_the_microsecond(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=3)
    for number in range(3):
        cars.append_batch(EVENTS, partition=number)
        cars.append_batch(EVENTS)
        clock.advance(0.000001)
    clock.advance(3600)
    copy = Made(cars, target)
    assert copy.events() == 30
    assert contents(target.topic("cars")) == contents(cars)
    assert [e.offset for e in target.topic("cars").read(1)] == [e.offset for e in cars.read(1)]
    assert copy.notes == []


def test_a_directory_is_copied_to_a_directory(tmp_path: Path) -> None:
    with eventlog.open(tmp_path / "a") as source, eventlog.open(tmp_path / "b") as target:
        cars = source.create_topic("cars")
        cars.append_batch(numbered(0, 25_000))
        for event in EVENTS:
            cars.append(event.body, key=event.key, properties=event.properties)
        copied(cars, target)
    with eventlog.open(tmp_path / "a") as source, eventlog.open(tmp_path / "b") as target:
        assert contents(target.topic("cars")) == contents(source.topic("cars"))
        assert target.check().damaged == []


def test_a_topic_is_made_with_the_settings_of_its_source(
    source: EventLog, target: EventLog
) -> None:
    settings: dict[str, Any] = {
        "partitions": 7,
        "retention": timedelta(days=7),
        "retention_bytes": 10**9,
        "compression": "none",
        "partitioner": "kafka",
        "max_event_bytes": 1234,
    }
    copied(source.create_topic("cars", **settings), target)
    made = target.topic("cars")
    assert {name: getattr(made, name) for name in settings} == settings


def test_keys_appended_to_the_copy_go_where_they_went_in_the_source(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=16, partitioner="kafka")
    places = [cars.append(b"x", key=f"k{n}").partition for n in range(50)]
    copied(cars, target)
    made = target.topic("cars")
    assert [made.append(b"y", key=f"k{n}").partition for n in range(50)] == places


def test_topics_and_partitions_without_events_are_copied(
    source: EventLog, target: EventLog
) -> None:
    copied(source.create_topic("empty", partitions=2), target)
    one = source.create_topic("one", partitions=3)
    one.append(b"x", partition=1)
    copied(one, target)
    assert contents(target.topic("empty")) == [[], []]
    assert contents(target.topic("one")) == contents(one)


def test_an_event_larger_than_its_topic_takes_by_now_is_copied(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append(b"x" * 1000)
    cars.configure(max_event_bytes=10)
    copied(cars, target)
    assert contents(target.topic("cars")) == contents(cars)


def test_a_topic_is_copied_under_another_name_into_its_own_log(source: EventLog) -> None:
    cars = source.create_topic("cars")
    cars.append_batch(numbered(0, 100))
    copied(cars, source, name="lorries")
    assert contents(source.topic("lorries")) == contents(cars)


def test_what_is_copied_is_counted(source: EventLog, target: EventLog, small_steps: None) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 25))
    steps: list[int] = []
    copy = Made(cars, target, copied=steps.append)
    assert copy.events() == 25
    assert copy.remaining == 25
    assert steps == [10, 10, 5]
    assert copy.events() == 0
    assert copy.remaining == 0


def test_large_events_are_stored_a_few_at_a_time(source: EventLog, target: EventLog) -> None:
    cars = source.create_topic("cars", partitions=1)
    for _ in range(10):
        cars.append(b"x" * 2**20)
    steps: list[int] = []
    Made(cars, target, copied=steps.append).events()
    assert steps == [8, 2]


# ---- Time ----------------------------------------------------------------------------------------


def test_a_copy_expires_when_its_source_does(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=1, retention=100)
    cars.append_batch(numbered(0, 10))
    clock.advance(60)
    cars.append_batch(numbered(10, 15))
    copied(cars, target)
    made = target.topic("cars")
    assert len(made.read(0)) == 15
    clock.advance(41)
    assert (
        [e.text() for e in made.read(0)]
        == [e.text() for e in cars.read(0)]
        == [f"{number}" for number in range(10, 15)]
    )


def test_what_is_appended_to_a_copy_is_not_older_than_what_was_copied(
    source: EventLog, clock: Clock
) -> None:
    late = Clock()
    cars = source.create_topic("cars", partitions=1)
    clock.advance(1000)
    cars.append(b"ahead")
    with eventlog.open("memory:", clock=late) as target:
        copied(cars, target)
        made = target.topic("cars")
        made.append(b"now")
        first, second = made.read(0)
        assert first.enqueued_at == cars.read(0)[0].enqueued_at
        assert second.enqueued_at == first.enqueued_at


def test_an_event_that_is_older_than_the_one_before_it_gets_that_ones_time(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 3))
    clock.advance(10)
    others = target.create_topic("cars", partitions=1)
    others.append(b"others'")
    clock.advance(10)
    cars.append(b"newer")
    Made(cars, target, mix=True).events()
    events = others.read(0)
    assert [e.body for e in events] == [b"others'", b"0", b"1", b"2", b"newer"]
    assert len({e.enqueued_at for e in events[:4]}) == 1
    assert events[4].enqueued_at == cars.read(0, 3)[0].enqueued_at
    assert others.offset_at(0, events[4].enqueued_at) == 4


def test_appends_that_share_a_commit_with_a_copy_keep_their_own_times(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    """The writer stores what has one time before what has another."""
    assert isinstance(target, EmbeddedLog)
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 3))
    old = cars.read(0)
    clock.advance(100)
    made = target.create_topic("cars", partitions=1)
    intake = made.intake()
    assert intake is not None
    inlet = intake.open("copy", 0)
    committer = target.environment.committer
    works: list[Any] = []

    def collect(work: Any, **_: object) -> list[tuple[int, int]]:
        works.append(work)
        return [(0, 0)]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(committer, "run", collect)
        inlet.store(old)
        made.append(b"new")
        made.append(b"new")
    committer.run(lambda writer: [work(writer) for work in works], timeout=10)
    events = made.read(0)
    assert [e.body for e in events] == [b"0", b"1", b"2", b"new", b"new"]
    assert [e.enqueued_at for e in events[:3]] == [e.enqueued_at for e in old]
    now = old[0].enqueued_at + timedelta(seconds=100)
    assert [e.enqueued_at for e in events[3:]] == [now, now]


# ---- Repeating -----------------------------------------------------------------------------------


def test_a_copy_is_repeated_to_catch_up(source: EventLog, target: EventLog, clock: Clock) -> None:
    cars = source.create_topic("cars", partitions=3)
    for beginning in range(0, 90, 30):
        cars.append_batch(numbered(beginning, beginning + 30))
        clock.advance(1)
        assert Made(cars, target).events() == 30
        assert Made(cars, target).events() == 0
        assert contents(target.topic("cars")) == contents(cars)


def test_what_is_appended_while_it_copies_is_left_to_the_next(
    source: EventLog, target: EventLog, small_steps: None
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append_batch(numbered(0, 30), partition=0)
    cars.append_batch(numbered(0, 30), partition=1)
    copy = Made(cars, target, copied=lambda _: cars.append_batch([b"new"] * 5, partition=1))
    assert copy.events() == 60
    assert Made(cars, target).events() == 30
    assert contents(target.topic("cars")) == contents(cars)


def test_partitions_that_were_added_since_are_added_to_the_copy(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append_batch(numbered(0, 20))
    copied(cars, target)
    with pytest.warns(UserWarning, match="keys move"):
        cars.add_partitions(3)
    cars.append_batch(numbered(20, 60))
    with pytest.warns(UserWarning, match="keys move"):
        assert Made(cars, target).events() == 40
    assert contents(target.topic("cars")) == contents(cars)


def test_a_copy_that_was_interrupted_goes_on(
    source: EventLog, target: EventLog, small_steps: None
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append_batch(numbered(0, 200))

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    interrupted = 0
    copy = Made(cars, target, copied=interrupt)
    copy.check()
    while copy.remaining:
        with pytest.raises(KeyboardInterrupt):
            copy.run()
        interrupted += 1
        copy.check()
    assert interrupted >= 20
    assert contents(target.topic("cars")) == contents(cars)


def test_a_topic_that_was_made_anew_is_another_source(source: EventLog, target: EventLog) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 20))
    copied(cars, target)
    source.delete_topic("cars")
    again = source.create_topic("cars", partitions=1)
    again.append(b"x")
    with pytest.raises(OthersEventsError, match=r"partition 0.*no copies"):
        Made(again, target).check()


def test_a_copy_shuts_out_the_one_before(
    source: EventLog, target: EventLog, small_steps: None
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 100))
    later = Made(cars, target)
    with pytest.raises(ProducerFencedError):
        Made(cars, target, copied=lambda _: later.run()).events()
    assert contents(target.topic("cars")) == contents(cars)


def test_a_source_restored_from_a_backup_that_is_older_than_the_copy_is_refused(
    tmp_path: Path, target: EventLog
) -> None:
    with eventlog.open(tmp_path / "log") as source:
        cars = source.create_topic("cars", partitions=1)
        cars.append_batch(numbered(0, 10))
        source.backup(tmp_path / "backup")
        cars.append_batch(numbered(10, 20))
        copied(cars, target)
    with eventlog.open(tmp_path / "backup") as restored:
        cars = restored.topic("cars")
        with pytest.raises(EventLogError, match="ends before offset 10, and was copied up to 19"):
            Made(cars, target).events()
        cars.append_batch(numbered(100, 120))
        with pytest.raises(OthersEventsError):
            Made(cars, target).events()


# ---- Engines without an intake, and with gaps ----------------------------------------------------


def test_gaps_in_a_source_are_closed(target: EventLog) -> None:
    with gappy_log() as source:
        cars = source.create_topic("cars", partitions=2)
        for beginning in range(0, 50, 10):
            cars.append_batch(numbered(beginning, beginning + 10))
        assert cars.partition_info(0).next_offset + cars.partition_info(1).next_offset > 50
        copied(cars, target)
        made = target.topic("cars")
        assert contents(made) == contents(cars)
        assert [event.offset for event in made.read(0)] == list(range(len(made.read(0))))
        cars.append_batch(numbered(50, 60))
        copied(cars, target)
        assert contents(made) == contents(cars)


def test_a_target_that_keeps_no_times_says_so_and_has_all_else(
    source: EventLog, clock: Clock, small_steps: None
) -> None:
    cars = source.create_topic("cars", partitions=2)
    with gappy_log() as target:
        for beginning in (0, 45):
            cars.append_batch(numbered(beginning, beginning + 45))
            copy = Made(cars, target)
            assert copy.events() == 45
            assert [said for said in copy.notes if "events get new times" in said]
            assert contents(target.topic("cars"), times=False) == contents(cars, times=False)
        assert target.topic("cars").partition_info(0).next_offset > len(cars.read(0))


def test_a_topic_of_gaps_alone_is_empty(target: EventLog) -> None:
    with gappy_log() as source, gappy_log() as other:
        cars = source.create_topic("cars", partitions=1)
        cars.mark(0, 5)  # type: ignore[attr-defined]
        other.create_topic("cars", partitions=1).mark(0, 5)  # type: ignore[attr-defined]
        assert Made(cars, target).events() == 0
        assert Made(cars, other).events() == 0
        cars.append(b"x")
        assert Made(cars, target).events() == 1
        assert Made(cars, other).events() == 1
