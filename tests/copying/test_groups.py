"""Groups go on in a copy where they stopped in the source, however offsets shifted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventlog import EventLog, Topic, UnsupportedOperationError, blobs
from eventlog.copying import partition
from eventlog.copying.translation import Translation
from eventlog.group import group_store
from tests.copying.logs import Clock, Made, gappy_log, numbered


def left(topic: Topic, group: str, number: int = 0) -> list[bytes]:
    """What a group comes to in a partition, beginning there where it never was."""
    checkpoint = topic.group(group).checkpoints().get(number)
    beginning = topic.partition_info(number).beginning_offset
    start = beginning if checkpoint is None else max(checkpoint.offset + 1, beginning)
    return [event.body for event in topic.read(number, start, max_events=10**6)]


def offsets(topic: Topic, group: str) -> dict[int, int]:
    found = topic.group(group).checkpoints()
    return {number: checkpoint.offset for number, checkpoint in found.items()}


def test_a_group_goes_on_where_it_stopped(source: EventLog, target: EventLog) -> None:
    cars = source.create_topic("cars", partitions=4)
    cars.append_batch(numbered(0, 400))
    ends = [cars.partition_info(number).next_offset for number in range(4)]
    cars.group("g").reset({0: 0, 1: 17, 2: ends[2]})
    Made(cars, target).events()
    assert offsets(target.topic("cars"), "g") == {0: -1, 1: 16, 2: ends[2] - 1}
    for number in range(4):
        assert left(target.topic("cars"), "g", number) == left(cars, "g", number)


def test_the_time_of_a_checkpoint_is_carried_over(source: EventLog, target: EventLog) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    with cars.consumer(group="g", follow=False) as consumer:
        for event in consumer:
            if event.body == b"4":
                consumer.checkpoint()
                break
    Made(cars, target).events()
    assert target.topic("cars").group("g").checkpoints()[0].enqueued_at == event.enqueued_at


def test_several_groups_are_carried_over_or_those_that_are_named(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append_batch(numbered(0, 100))
    for place, name in enumerate(("a", "b", "c")):
        cars.group(name).reset({0: 3 * place, 1: 20 - place})
    copy = Made(cars, target)
    copy.run()
    assert [one.name for one in copy.carry_groups({"b"})] == ["b"]
    made = target.topic("cars")
    assert [group.name for group in made.groups()] == ["b"]
    copy.carry_groups()
    for name in ("a", "b", "c"):
        assert offsets(made, name) == offsets(cars, name)


def test_an_expired_beginning_shifts_checkpoints(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=1, retention=100)
    cars.append_batch(numbered(0, 10))
    clock.advance(60)
    cars.append_batch(numbered(10, 20))
    for name, place in (("behind", 4), ("at", 10), ("within", 15), ("ahead", 20)):
        cars.group(name).reset(place)
    clock.advance(60)
    copy = Made(cars, target)
    copy.events()
    made = target.topic("cars")
    assert {name: one.carried[0] for name, one in copy.groups.items()} == {
        "behind": (3, -1),
        "at": (9, -1),
        "within": (14, 4),
        "ahead": (19, 9),
    }
    for name in copy.groups:
        assert left(made, name) == left(cars, name)
    assert copy.notes == []


def test_a_group_whose_next_events_expired_in_the_source_alone_begins_where_the_source_does(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    clock.advance(60)
    cars.append_batch(numbered(10, 20))
    Made(cars, target).events()
    cars.group("g").reset(4)
    cars.configure(retention=100)
    clock.advance(60)
    copy = Made(cars, target)
    copy.events()
    assert copy.groups["g"].carried == {0: (3, 9)}
    assert left(target.topic("cars"), "g") == left(cars, "g")


def test_places_are_found_in_any_order(gaps: EventLog, other_gaps: EventLog) -> None:
    cars = gaps.create_topic("cars", partitions=1)
    fill(cars)
    copy = Made(cars, other_gaps)
    copy.events()
    made = other_gaps.topic("cars")
    here = [event.offset for event in cars.read(0)]
    there = [event.offset for event in made.read(0)]
    translation = Translation(cars, made, copy.partitions[0])
    for place in (99, 50, 70, 3, 98, 20, 21, 99):
        assert translation.finished(here[place] - 1) == there[place] - 1


def test_a_group_is_carried_over_again_when_the_copy_is_repeated(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=1)
    made: list[int] = []
    for beginning in range(0, 50, 10):
        cars.append_batch(numbered(beginning, beginning + 10))
        cars.group("g").reset(beginning + 5)
        copy = Made(cars, target)
        copy.events()
        made.append(offsets(target.topic("cars"), "g")[0])
        assert copy.notes == []
    assert made == [4, 14, 24, 34, 44]


def test_a_group_that_is_further_in_the_target_is_left_there(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    cars.group("g").reset(5)
    Made(cars, target).events()
    made = target.topic("cars")
    made.group("g").reset(8)
    copy = Made(cars, target)
    copy.events()
    assert offsets(made, "g") == {0: 7}
    (said,) = copy.notes
    assert "group 'g', partition 0 is not carried over" in said
    assert "is at 7: it cannot be moved to 4" in said


def test_a_group_that_somebody_reads_for_in_the_target_is_left_alone(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    cars.group("g").reset(5)
    Made(cars, target).events()
    made = target.topic("cars")
    cars.group("g").reset(7)
    with made.consumer(group="g", follow=False) as consumer:
        assert next(consumer).body == b"5"
        copy = Made(cars, target)
        copy.events()
        assert "reads for it in the target" in copy.groups["g"].left[0]
        assert len(copy.notes) == 1
        consumer.checkpoint()
    assert offsets(made, "g") == {0: 5}


def test_a_group_that_runs_in_the_source_is_carried_over_and_pointed_out(
    source: EventLog, target: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    with cars.consumer(group="g", follow=False) as consumer:
        next(consumer)
        consumer.checkpoint()
        copy = Made(cars, target)
        copy.events()
    (said,) = copy.notes
    assert "group 'g' is in use by" in said
    assert offsets(target.topic("cars"), "g") == {0: 0}


def test_a_partition_that_a_host_owns_in_the_target_is_left_alone(
    source: EventLog, target: EventLog
) -> None:
    """Also one whose owner has no heartbeat, and so is no member."""
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    cars.group("g").reset(5)
    copy = Made(cars, target)
    copy.run()
    made = target.topic("cars")
    store = group_store(made, "g", target.blobs)
    store.ensure()
    document = store.document()
    assert document is not None
    blob = target.blobs.get(store.ids.document)
    data = blob.data.replace(  # type: ignore[union-attr]
        b'"partitions": {}', b'"partitions": {"0": {"owner": "host", "epoch": 3}}'
    )
    target.blobs.put(store.ids.document, data)
    (group,) = copy.carry_groups()
    assert "owned by host 'host'" in group.left[0]
    assert offsets(made, "g") == {}


def test_checkpoints_in_a_partition_that_others_have_appended_to_are_not_carried_over(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars = source.create_topic("cars", partitions=2)
    cars.append_batch(numbered(0, 20))
    cars.group("g").reset(2)
    copied = Made(cars, target)
    copied.run()
    clock.advance(1)
    target.topic("cars").append(b"other", partition=1)
    copy = Made(cars, target)
    copy.events()
    assert offsets(target.topic("cars"), "g") == {0: 1}
    (said,) = copy.notes
    assert "partition 1 is not carried over: the target has events there that are not" in said


def test_others_that_append_while_it_copies_keep_checkpoints_from_being_carried_over(
    source: EventLog, target: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "STORE_EVENTS", 4)
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    cars.group("g").reset(9)
    copy = Made(cars, target, copied=lambda _: target.topic("cars").append(b"other"))
    copy.events()
    assert "events there that are not the copy's" in copy.groups["g"].left[0]


def test_where_others_were_first_in_a_target_with_gaps_no_checkpoints_are_carried_over(
    source: EventLog, gaps: EventLog
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    cars.group("g").reset(0)
    gaps.create_topic("cars", partitions=1).append(b"other")
    copy = Made(cars, gaps, mix=True)
    copy.events()
    assert "events there that are not the copy's" in copy.groups["g"].left[0]


def test_a_place_that_does_not_hold_the_copy_is_no_checkpoint(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    """Others' events among the copies; the last one is a copy again."""
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    cars.group("g").reset(5)
    Made(cars, target).run()
    clock.advance(1)
    target.topic("cars").append(b"other")
    clock.advance(1)
    cars.append(b"late")
    Made(cars, target, mix=True).run()
    copy = Made(cars, target)
    copy.events()
    assert "no copy of that is at 6" in copy.groups["g"].left[0]


def test_groups_are_carried_from_one_store_to_another(
    source: EventLog, target: EventLog, tmp_path: Path
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append_batch(numbered(0, 10))
    here, there = f"file:{tmp_path / 'here'}", f"file:{tmp_path / 'there'}"
    cars.group("g", here).reset(5)
    copy = Made(cars, target)
    copy.run()
    assert copy.carry_groups() == []
    (group,) = copy.carry_groups(store=here, target_store=there)
    assert group.carried == {0: (4, 4)}
    made = target.topic("cars")
    assert made.groups() == []
    assert made.group("g", there).checkpoints()[0].offset == 4


def test_where_a_log_has_no_store_that_is_said_unless_groups_were_named(
    source: EventLog, target: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    cars = source.create_topic("cars", partitions=1)
    cars.append(b"x")
    cars.group("g").reset(1)

    def refuse(_: object = None) -> blobs.BlobStore:
        raise UnsupportedOperationError("the log needs blobs=")

    monkeypatch.setattr(target, "store", refuse)
    copy = Made(cars, target)
    assert copy.events() == 1
    assert copy.notes == ["topic 'cars': its groups are not carried over: the log needs blobs="]
    with pytest.raises(UnsupportedOperationError, match="needs blobs="):
        copy.carry_groups(["g"])


# ---- Gaps ----------------------------------------------------------------------------------------


@pytest.fixture
def gaps() -> Iterator[EventLog]:
    with gappy_log() as log:
        yield log


@pytest.fixture
def other_gaps() -> Iterator[EventLog]:
    with gappy_log() as log:
        yield log


PLACES = [0, 1, 7, 33, 50, 89, 97, 98, 99]


def carry_everything(cars: Topic, target: EventLog, step: Callable[[], object]) -> Made:
    """Groups that have finished so many of 100 events; how they go on in the target."""
    events = [event.offset for event in cars.read(0, max_events=1000)]
    assert len(events) == 100
    for place in PLACES:
        cars.group(f"g{place}").reset(events[place])
        cars.group(f"after{place}").reset(events[place] + 1)
    cars.group("end").reset("latest")
    step()
    copy = Made(cars, target)
    copy.events()
    made = target.topic("cars")
    assert len(copy.groups) == 2 * len(PLACES) + 1
    for name, group in copy.groups.items():
        assert group.left == {}
        assert left(made, name) == left(cars, name), name
    return copy


def fill(cars: Topic) -> None:
    for beginning in range(0, 100, 4):
        cars.append_batch(numbered(beginning, beginning + 4), partition=0)


def test_checkpoints_are_counted_for_in_a_source_with_gaps(
    gaps: EventLog, target: EventLog
) -> None:
    cars = gaps.create_topic("cars", partitions=1)
    fill(cars)
    carry_everything(cars, target, lambda: None)


def test_checkpoints_are_counted_for_in_a_target_with_gaps(
    source: EventLog, gaps: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "STORE_EVENTS", 7)
    cars = source.create_topic("cars", partitions=1)
    fill(cars)
    carry_everything(cars, gaps, lambda: None)
    assert gaps.topic("cars").partition_info(0).next_offset > 110


def test_checkpoints_are_counted_for_with_gaps_on_both_sides_and_over_several_copies(
    gaps: EventLog, other_gaps: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "STORE_EVENTS", 7)
    cars = gaps.create_topic("cars", partitions=1)
    for beginning in range(0, 100, 20):
        cars.append_batch(numbered(beginning, beginning + 20), partition=0)
        cars.mark(0, beginning)  # type: ignore[attr-defined]
        if beginning < 80:
            Made(cars, other_gaps).run()
            other_gaps.topic("cars").mark(0, 300)  # type: ignore[attr-defined]
    carry_everything(cars, other_gaps, lambda: None)
    carry_everything(cars, other_gaps, lambda: None)
