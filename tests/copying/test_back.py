"""A target that does not remember the copy tells by what is in it how far it came."""

from __future__ import annotations

import pytest

from eventlog import Event, EventLog, Topic
from eventlog.copying import OthersEventsError
from tests.copying.logs import Clock, Made, contents, copied, numbered


def there_and_back(source: EventLog, target: EventLog, clock: Clock) -> tuple[Topic, Topic]:
    """A topic and its copy, with which programs have gone on since."""
    cars = source.create_topic("cars", partitions=2)
    for beginning in (0, 200):
        cars.append_batch(numbered(beginning, beginning + 200))
        clock.advance(1)
    copied(cars, target)
    made = target.topic("cars")
    made.append_batch(numbered(400, 450))
    return cars, made


def test_what_was_appended_to_a_copy_is_copied_back_behind_the_original(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars, made = there_and_back(source, target, clock)
    made.group("g").reset({0: made.partition_info(0).next_offset - 5, 1: 100})
    back = copied(made, source)
    assert sum(partition.events for partition in back.partitions) == 50
    assert contents(cars) == contents(made)
    assert {n: one.offset for n, one in cars.group("g").checkpoints().items()} == {
        0: cars.partition_info(0).next_offset - 6,
        1: 99,
    }
    assert Made(made, source).events() == 0


def test_who_mixes_does_not_copy_again_what_came_from_there(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars, made = there_and_back(source, target, clock)
    assert Made(made, source, mix=True).events() == 50
    assert contents(cars) == contents(made)


def test_a_topic_goes_to_and_fro(source: EventLog, target: EventLog, clock: Clock) -> None:
    cars, made = there_and_back(source, target, clock)
    for number in range(3):
        clock.advance(1)
        copied(made, source)
        cars.append(b"here %d" % number, partition=number % 2)
        clock.advance(1)
        copied(cars, target)
        made.append(b"there %d" % number, partition=0)
    copied(made, source)
    assert contents(cars) == contents(made)
    assert len(cars.read(0)) + len(cars.read(1)) == 456


def test_an_original_that_others_went_on_with_is_not_added_to(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars, made = there_and_back(source, target, clock)
    cars.append(b"others'", partition=1)
    with pytest.raises(OthersEventsError, match="partition 1"):
        Made(made, source).check()


def test_a_copy_whose_beginning_has_expired_is_gone_on_with(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars, made = there_and_back(source, target, clock)
    made.configure(retention=2.5)
    clock.advance(1)
    assert made.partition_info(0).beginning_offset > 50
    assert Made(made, source).events() == 50
    assert [event.body for event in cars.read(0)][-10:] == [event.body for event in made.read(0)][
        -10:
    ]


@pytest.mark.parametrize(
    "last", [Event(b"x", key="other"), Event(b"x", properties={"p": 1}), Event(b"y")]
)
def test_events_that_differ_in_anything_are_no_copies(
    last: Event, source: EventLog, target: EventLog
) -> None:
    source.create_topic("cars", partitions=1).append_batch([b"x", Event(b"x")])
    target.create_topic("cars", partitions=1).append_batch([b"x", last])
    with pytest.raises(OthersEventsError):
        Made(source.topic("cars"), target).check()


def test_equal_events_of_another_time_are_no_copies(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    source.create_topic("cars", partitions=1).append_batch(numbered(0, 5))
    clock.advance(0.001)
    target.create_topic("cars", partitions=1).append_batch(numbered(0, 5))
    with pytest.raises(OthersEventsError):
        Made(source.topic("cars"), target).check()


def test_of_several_equal_events_those_before_them_tell(
    source: EventLog, target: EventLog, clock: Clock
) -> None:
    cars, made = (log.create_topic("cars", partitions=1) for log in (source, target))
    events = [b"a", b"same", b"b", b"same", b"c", b"same"]
    cars.append_batch(events)
    made.append_batch(events[:4])
    assert Made(cars, target).events() == 2
    assert contents(made) == contents(cars)


def test_where_it_cannot_be_told_nothing_is_added(source: EventLog, target: EventLog) -> None:
    cars, made = (log.create_topic("cars", partitions=1) for log in (source, target))
    cars.append_batch([b"same"] * 6)
    made.append_batch([b"same"] * 4)
    with pytest.raises(OthersEventsError):
        Made(cars, target).check()
