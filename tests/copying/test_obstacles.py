"""Topics that are there already, events of others, and what is gone or damaged in the source."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import (
    CorruptBatchError,
    EventLog,
    TopicExistsError,
    UnsupportedOperationError,
)
from eventlog.copying import OthersEventsError, partition
from eventlog.embedded import keys
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.intake import EmbeddedIntake
from tests.copying.logs import Clock, Made, contents, copied, gappy_log, numbered

# ---- Topics that are there -----------------------------------------------------------------------


def test_an_empty_topic_that_is_there_is_filled_and_keeps_its_settings(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append_batch(numbered(0, 20))
    made = target.create_topic("cars", partitions=2, compression="none", retention_bytes=10**6)
    copy = Made(cars, target)
    assert copy.events() == 20
    assert contents(made) == contents(cars)
    assert made.compression == "none"
    assert copy.notes == [
        "topic 'cars': its retention_bytes stays 1000000; the source's is none",
        "topic 'cars': its compression stays none; the source's is zstd",
    ]


def test_a_shorter_retention_in_the_target_is_pointed_out(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    clock.advance(100)
    cars.append(b"young")
    cars.group("g").reset(3)
    made = target.create_topic("cars", partitions=1, retention=50)
    copy = Made(cars, target)
    assert copy.events() == 11
    assert [event.body for event in made.read(0)] == [b"young"]
    assert copy.notes[1] == (
        "topic 'cars': what is older than its retention expires in the copy at once"
    )
    assert copy.groups["g"].carried == {0: (2, 9)}
    assert Made(cars, target).events() == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"partitions": 3}, "partitions 3; keys keep their partitions only with 2"),
        ({"partitions": 1}, "partitions 1"),
        ({"partitioner": "kafka"}, "partitioner 'kafka'"),
    ],
)
def test_a_topic_that_keys_would_stand_elsewhere_in_is_refused(
    settings: dict[str, Any], words: str, source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append(b"x")
    made = target.create_topic("cars", **{"partitions": 2, **settings})
    for call in (Made(cars, target).check, Made(cars, target, mix=True).run):
        with pytest.raises(TopicExistsError, match=words):
            call()
    assert contents(made) == [[]] * made.partitions


def test_events_of_others_are_not_mixed_with_copies_unless_that_is_wanted(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append_batch(numbered(0, 20))
    made = target.create_topic("cars", partitions=2)
    made.append(b"other", partition=1)
    for call in (Made(cars, target).check, Made(cars, target).run):
        with pytest.raises(OthersEventsError, match="partition 1"):
            call()
    assert contents(made)[0] == []
    copy = Made(cars, target, mix=True)
    assert copy.events() == 20
    assert [e.body for e in made.read(1)] == [b"other", *(e.body for e in cars.read(1))]


def test_a_copy_that_others_have_appended_to_takes_nothing_more(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append_batch([b"same"] * 4, partition=0)
    cars.append_batch([b"same"] * 4, partition=1)
    copied(cars, target)
    clock.advance(1)
    made = target.topic("cars")
    made.append(b"same", partition=0)
    copied(cars, target)  # there is nothing to add
    cars.append(b"late", partition=0)
    with pytest.raises(OthersEventsError, match="partition 0"):
        Made(cars, target).events()
    assert len(made.read(0)) == 5
    assert Made(cars, target, mix=True).events() == 1
    assert made.read(0)[-1].body == b"late"


def test_a_copy_that_begins_while_another_makes_its_first_step_is_not_refused(
    source: EventLog, target: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sees then is no others' events, though it has asked too early how far they came."""
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 20))
    target.create_topic("cars", partitions=1)
    later = Made(cars, target)
    ask = EmbeddedIntake.last_sequence
    others: list[int] = []

    def overtaken(intake: EmbeddedIntake, name: str) -> int:
        last = ask(intake, name)
        if not others:
            others.append(0)
            others.append(Made(cars, target).events())
        return last

    monkeypatch.setattr(EmbeddedIntake, "last_sequence", overtaken)
    monkeypatch.setattr("eventlog.copying.topic.recollected", lambda *_: -1)
    later.check()
    assert others == [0, 20]
    assert later.remaining == 0
    assert later.run() == 0


def test_a_topic_is_not_copied_onto_itself(source: EventLog) -> None:
    cars = source.create_topic("cars")
    with pytest.raises(ValueError, match="onto itself"):
        Made(cars, source).check()


def by_length(key: bytes, partitions: int) -> int:
    return len(key) % partitions


def test_a_topic_with_a_partitioner_of_its_own_is_copied_into_one_made_with_it(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=3, partitioner=by_length)
    cars.append_batch(numbered(0, 20))
    with pytest.raises(UnsupportedOperationError, match=r"by_length.*create_topic\('cars', "):
        Made(cars, target).check()
    assert target.topics() == []
    target.create_topic("cars", partitions=3, partitioner=by_length)
    copied(cars, target)
    assert contents(target.topic("cars")) == contents(cars)


def test_a_target_that_was_opened_to_be_read_is_refused(tmp_path: Path) -> None:
    with ExitStack() as stack:
        source = stack.enter_context(eventlog.open("memory:"))
        stack.enter_context(eventlog.open(tmp_path / "b"))
        target = stack.enter_context(eventlog.open(tmp_path / "b", read_only=True))
        cars = source.create_topic("cars")
        with pytest.raises(UnsupportedOperationError, match="read_only"):
            Made(cars, target).events()


def test_what_others_append_to_the_copy_of_an_empty_partition_is_no_hindrance(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append(b"x", partition=0)
    copied(cars, target)
    target.topic("cars").append(b"other", partition=1)
    cars.append(b"y", partition=0)
    assert Made(cars, target).events() == 1
    cars.append(b"z", partition=1)
    with pytest.raises(OthersEventsError, match="partition 1"):
        Made(cars, target).events()


def test_a_copy_that_got_a_later_time_is_known_for_one(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 3))
    clock.advance(10)
    made = target.create_topic("cars", partitions=1)
    made.append(b"other")
    Made(cars, target, mix=True).events()
    cars.append(b"newer")
    copy = Made(cars, target)
    assert copy.events() == 1
    assert copy.partitions[0].target_end == 4


def test_events_of_others_are_found_behind_offsets_of_no_events(source: EventLog) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 3))
    with gappy_log() as target:
        Made(cars, target).events()
        made = target.topic("cars")
        made.append_batch([b"other"], partition=0)
        made.mark(0, 50)  # type: ignore[attr-defined]
        cars.append(b"late")
        with pytest.raises(OthersEventsError, match="partition 0"):
            Made(cars, target).events()


def test_an_intake_is_told_when_all_is_copied_also_if_there_was_nothing_left(
    source: EventLog, target: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(EmbeddedIntake, "finish", lambda _: told.append("finished"))
    cars = source.create_topic("cars", partitions=1)
    cars.append(b"x")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Made(cars, target, copied=interrupt).events()
    assert told == []
    assert Made(cars, target).events() == 0
    assert told == ["finished"]


# ---- What is gone, or damaged --------------------------------------------------------------------


def test_an_expired_beginning_shifts_offsets_and_no_times(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=1, retention=100)
    cars.append_batch(numbered(0, 10))
    clock.advance(60)
    cars.append_batch(numbered(10, 20))
    clock.advance(60)
    copied(cars, target)
    made = target.topic("cars")
    assert contents(made) == contents(cars)
    assert [event.offset for event in cars.read(0)] == list(range(10, 20))
    assert [event.offset for event in made.read(0)] == list(range(10))


def test_what_expires_before_it_is_copied_is_said(
    source: EventLog, target: EventLog, clock: Clock, small_steps: None
) -> None:
    cars = source.create_topic("cars", partitions=1, retention=100)
    cars.append_batch(numbered(0, 10))
    copied(cars, target)
    cars.append_batch(numbered(10, 20))
    clock.advance(60)
    cars.append_batch(numbered(20, 30))
    clock.advance(60)
    copy = Made(cars, target)
    assert copy.events() == 10
    (said,) = copy.notes
    assert said.startswith("topic 'cars': partition 0: offsets 10 to 19 expired in the source")
    assert copy.partitions[0].lost == [(10, 19)]
    assert [event.text() for event in target.topic("cars").read(0)] == [
        f"{number}" for number in range(20, 30)
    ]


def test_what_expires_while_it_copies_is_said(
    source: EventLog, target: EventLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "STORE_BYTES", 2**20)
    monkeypatch.setattr("eventlog.copying.reading._PREFETCH_BYTES", 2**20)
    cars = source.create_topic("cars", partitions=1, retention=100, compression="none")
    for _ in range(8):
        cars.append_batch([b"x" * 2**20], partition=0)
        clock.advance(10)
    gone: list[int] = []

    def expire(_: int) -> None:
        if not gone:
            clock.advance(70)
            gone.append(cars.expire())

    copy = Made(cars, target, copied=expire)
    events = copy.events()
    lost = sum(last + 1 - first for first, last in copy.partitions[0].lost)
    assert lost >= 3
    assert events == 8 - lost
    assert [said for said in copy.notes if "expired in the source" in said]
    made = target.topic("cars")
    assert made.partition_info(0).next_offset == events


def damage(log: EventLog, last_offset: int) -> None:
    assert isinstance(log, EmbeddedLog)
    key = keys.encode_batch_key(1, 0, last_offset)

    def work(writer: Any) -> None:
        value = writer.get(key)
        writer.put(key, value[:-1] + bytes([value[-1] ^ 1]))

    log.environment.committer.run(work, timeout=10)


def test_damage_stops_a_copy_unless_it_is_to_be_passed_over(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=1)
    for beginning in (0, 10, 20):
        cars.append_batch(numbered(beginning, beginning + 10))
    cars.group("g").reset(25)
    damage(source, 19)
    with pytest.raises(CorruptBatchError, match="offsets 10 to 19"):
        Made(cars, target).events()
    made = target.topic("cars")
    assert [e.text() for e in made.read(0)] == [f"{n}" for n in range(10)]
    copy = Made(cars, target, skip_damaged=True)
    assert copy.events() == 10
    assert [e.text() for e in made.read(0)] == [f"{n}" for n in (*range(10), *range(20, 30))]
    assert copy.notes == [
        "topic 'cars': partition 0: offsets 10 to 19 are damaged in the source and were not copied"
    ]
    assert copy.groups["g"].carried == {0: (24, 14)}


def test_a_damaged_end_is_passed_over(source: EventLog, target: EventLog) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    cars.append_batch(numbered(10, 20))
    damage(source, 19)
    assert Made(cars, target, skip_damaged=True).events() == 10
    assert Made(cars, target, skip_damaged=True).events() == 0
