"""What a copy has on a cluster, and how a topic is stamped before, meanwhile and afterwards."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import eventlog
from eventlog import EventLog, ProducerFencedError, Topic, UnsupportedOperationError
from eventlog.copying import OthersEventsError
from eventlog.copying.partition import copy_name
from eventlog.kafka.cluster import Cluster
from eventlog.kafka.stamping import Stamping
from eventlog.kafka.topic import KafkaTopic
from tests.copying.logs import SECOND, Clock, Made, contents, numbered, to_the_millisecond
from tests.kafka.reading import Writer, until
from tests.kafka.writing import PATIENCE, as_kafka, messages
from tests.servers.kafka import Kafka

TYPE = "message.timestamp.type"
BEFORE = "message.timestamp.before.max.ms"
AFTER = "message.timestamp.after.max.ms"


@pytest.fixture
def source(clock: Clock) -> Iterator[EventLog]:
    """Its clock is many years behind."""
    clock.now_us = 1_000_000_000 * SECOND + 123_456
    with eventlog.open("memory:", clock=clock) as log:
        yield log


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventlog.copying.partition.STORE_EVENTS", 10)


def filled(source: EventLog, clock: Clock, *, partitions: int = 2) -> Topic:
    """A new topic with events of several times, and all that an event may have."""
    cars = source.create_topic(f"copied-{secrets.token_hex(4)}", partitions=partitions)
    for beginning in range(0, 60, 20):
        cars.append_batch(numbered(beginning, beginning + 20))
        clock.advance(1.0015)
    for number in range(partitions):
        cars.append(b"\xff", key=b"k", properties={"i": 1, "n": None}, partition=number)
    return cars


def require_copy(cars: Topic, made: Topic) -> None:
    assert contents(made) == to_the_millisecond(contents(cars))


def config(topic: Topic) -> dict[str, str]:
    return as_kafka(topic.log).cluster.configs([topic.name])[topic.name]


def copy_to(log: EventLog, cars: Topic, **options: Any) -> Topic:
    Made(cars, log, **options).events()
    return log.topic(options.get("name", cars.name))


# ---- Times ---------------------------------------------------------------------------------------


def test_events_keep_their_times_for_any_client_and_later_ones_are_stamped(
    kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    cars = filled(source, clock)
    copy = Made(cars, kafka_log)
    assert copy.events() == 62
    made = kafka_log.topic(cars.name)
    require_copy(cars, made)
    first = cars.read(0)[0].enqueued_at
    assert messages(made)[0].timestamp()[1] == int(first.timestamp() * 1000)
    assert copy.notes[0].endswith("times of events are kept in steps of 1ms")
    last = cars.read(0)[-1].enqueued_at
    assert made.offset_at(0, last - timedelta(milliseconds=1)) == cars.offset_at(0, last)
    receipt = made.append(b"now", partition=0)
    assert abs(receipt.enqueued_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert config(made)[TYPE] == "LogAppendTime"


def test_events_are_found_by_their_times_among_the_marks_of_the_copy(
    kafka_log: EventLog, source: EventLog, clock: Clock, small_steps: None
) -> None:
    """Kafka's marks between them are as late as the copy was made."""
    cars = source.create_topic(f"copied-{secrets.token_hex(4)}", partitions=1)
    for number in range(50):
        cars.append(f"{number}")
        clock.advance(1)
    made = copy_to(kafka_log, cars)
    events = made.read(0)
    for number in (0, 9, 10, 27, 49):
        at = events[number].enqueued_at
        assert made.read(0, made.offset_at(0, at))[0].offset == events[number].offset
        assert made.read(0, at, max_events=1) == [events[number]]
        assert made.read(0, end=at, max_events=100) == events[:number]
        later = at + timedelta(milliseconds=1)
        with made.consumer(start=at, end=later) as consumer:
            assert list(consumer) == [events[number]]
    assert made.offset_at(0, events[-1].enqueued_at + timedelta(seconds=1)) > events[-1].offset
    with made.consumer(start=datetime.now(UTC) + timedelta(days=1), follow=False) as consumer:
        assert list(consumer) == []


def test_a_time_before_that_of_the_event_before_it_is_raised_to_it(
    kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    cars = filled(source, clock, partitions=1)
    made = kafka_log.create_topic(cars.name, partitions=1)
    others = made.append(b"others'")
    copy_to(kafka_log, cars, mix=True)
    assert {event.enqueued_at for event in made.read(0)} == {others.enqueued_at}
    assert Made(cars, kafka_log).events() == 0


def test_events_of_others_are_seen_however_much_was_aborted_behind_them(
    kafka: Kafka, kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    """Nothing is copied behind them without leave, nor with times before theirs."""
    cars = filled(source, clock, partitions=1)
    made = kafka_log.create_topic(cars.name, partitions=1)
    others = made.append(b"others'")
    with Writer(kafka, made.name).transaction(*[b"aborted"] * 4200, commit=False):
        pass
    until(lambda: made.partition_info(0).next_offset == 4202)
    assert made.partition_info(0).last_enqueued_at is None
    for copy in (Made(cars, kafka_log).check, Made(cars, kafka_log).run):
        with pytest.raises(OthersEventsError, match="no copies"):
            copy()
    copy_to(kafka_log, cars, mix=True)
    assert {event.enqueued_at for event in made.read(0)} == {others.enqueued_at}


# ---- How the topic is stamped --------------------------------------------------------------------


def test_the_topic_takes_times_while_a_copy_is_made_and_is_as_it_was_when_that_fails(
    kafka_log: EventLog, source: EventLog, clock: Clock, small_steps: None
) -> None:
    cars = filled(source, clock)
    seen: list[str] = []

    def fail(_: int) -> None:
        seen.append(config(kafka_log.topic(cars.name))[TYPE])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Made(cars, kafka_log, copied=fail).events()
    assert seen == ["CreateTime"]
    made = kafka_log.topic(cars.name)
    assert config(made)[TYPE] == "LogAppendTime"
    require_copy(cars, copy_to(kafka_log, cars))


def test_a_killed_copy_that_had_copied_all_is_put_right_by_the_next(
    kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    cars = filled(source, clock)
    made = copy_to(kafka_log, cars)
    assert isinstance(made, KafkaTopic)
    Stamping(made).keep()
    assert config(made)[TYPE] == "CreateTime"
    assert Made(cars, kafka_log).events() == 0
    assert config(made)[TYPE] == "LogAppendTime"


def test_settings_of_others_do_not_keep_old_events_out(
    kafka: Kafka, kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    name = kafka.create_topic(
        retention_ms=-1,
        message_timestamp_type="LogAppendTime",
        **{setting.replace(".", "_"): 1000 for setting in (BEFORE, AFTER)},
    )
    cars = source.create_topic("cars", partitions=1, partitioner="kafka")
    cars.append_batch(numbered(0, 20))
    made = copy_to(kafka_log, cars, name=name)
    require_copy(cars, made)
    assert config(made)[TYPE] == "LogAppendTime"
    assert int(config(made)[AFTER]) > 1000


def test_a_topic_of_others_that_takes_times_is_left_as_it_is(
    kafka: Kafka, kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    name = kafka.create_topic(retention_ms=-1)
    before = config(kafka_log.topic(name))
    cars = source.create_topic("cars", partitions=1, partitioner="kafka")
    cars.append_batch(numbered(0, 20))
    require_copy(cars, copy_to(kafka_log, cars, name=name))
    assert config(kafka_log.topic(name)) == before
    assert before[TYPE] == "CreateTime"


def test_what_brokers_stamp_all_the_same_is_taken_back_and_stored_once_more(
    kafka_log: EventLog,
    source: EventLog,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broker hears late what becomes of a topic; or another copy, that has ended, told it."""
    keep = Stamping.keep
    calls: list[Stamping] = []

    def keep_later(stamping: Stamping) -> None:
        calls.append(stamping)
        if len(calls) > 1:
            keep(stamping)

    monkeypatch.setattr(Stamping, "keep", keep_later)
    cars = filled(source, clock)
    require_copy(cars, copy_to(kafka_log, cars))
    assert len(calls) == 2


@pytest.mark.parametrize("cluster", ["refuses", "says nothing"])
def test_where_a_topic_cannot_be_changed_new_times_are_said_aloud(
    cluster: str,
    kafka_log: EventLog,
    source: EventLog,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedOperationError("refused")

    def nothing(_: object, names: list[str]) -> dict[str, dict[str, str]]:
        return {name: {} for name in names}

    if cluster == "refuses":
        monkeypatch.setattr(Cluster, "set_configs", refuse)
    else:
        monkeypatch.setattr(Cluster, "configs", nothing)
    cars = filled(source, clock)
    copy = Made(cars, kafka_log)
    assert copy.events() == 62
    assert "events get new times" in " ".join(copy.notes)
    made = kafka_log.topic(cars.name)
    assert contents(made, times=False) == contents(cars, times=False)
    cars.append(b"late")
    assert copy.events() == 1


# ---- Repeating -----------------------------------------------------------------------------------


def test_a_copy_to_a_cluster_shuts_out_the_one_before(
    kafka_log: EventLog, source: EventLog, clock: Clock, small_steps: None
) -> None:
    """And what the one before puts back when it ends is not in the way of the later."""
    cars = filled(source, clock)
    later = Made(cars, kafka_log)
    with pytest.raises(ProducerFencedError):
        Made(cars, kafka_log, copied=lambda _: later.partitions or later.run()).events()
    require_copy(cars, kafka_log.topic(cars.name))


def forget(kafka: Kafka, cars: Topic) -> None:
    """What a cluster does by itself after `offsets.retention.minutes`."""
    names = [
        quote(copy_name(cars, number), safe=" +,:;=@[]{}") for number in range(cars.partitions)
    ]
    groups = [f"eventlog.producer.{name}" for name in names]
    for future in kafka.admin().delete_consumer_groups(groups).values():
        future.result(PATIENCE)


def test_a_copy_that_was_forgotten_is_gone_on_with_and_nothing_is_there_twice(
    kafka: Kafka, kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    cars = filled(source, clock)
    made = copy_to(kafka_log, cars)
    cars.append_batch(numbered(100, 120))
    forget(kafka, cars)
    assert Made(cars, kafka_log).events() == 20
    require_copy(cars, made)


def test_a_forgotten_copy_of_equal_events_is_refused_with_what_to_do(
    kafka: Kafka, kafka_log: EventLog, source: EventLog
) -> None:
    cars = source.create_topic(f"copied-{secrets.token_hex(4)}", partitions=1)
    cars.append_batch([b"same"] * 20)
    copy_to(kafka_log, cars)
    forget(kafka, cars)
    with pytest.raises(OthersEventsError, match=r"no copies.*forgotten"):
        Made(cars, kafka_log).check()


def test_what_is_appended_on_the_cluster_goes_back_behind_the_original(
    kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    """Whose times are more exact than those of the copy."""
    cars = filled(source, clock)
    made = copy_to(kafka_log, cars)
    made.append(b"new", partition=1)
    assert Made(made, source).events() == 1
    assert [event.body for event in cars.read(1)] == [event.body for event in made.read(1)]
    assert Made(cars, kafka_log).events() == 0
    cars.append(b"newer", partition=1)
    assert Made(cars, kafka_log).events() == 1
    assert [event.body for event in made.read(1)][-2:] == [b"new", b"newer"]


# ---- Groups --------------------------------------------------------------------------------------


def place_of(topic: Topic, store: str | None) -> list[list[bytes]]:
    """What a group has left to do."""
    found = topic.group("g", store).checkpoints()
    return [
        [event.body for event in topic.read(number, found[number].offset + 1)]
        for number in sorted(found)
    ]


def test_groups_whose_checkpoints_are_offsets_of_kafka_are_carried_over(
    kafka: Kafka, source: EventLog, clock: Clock, tmp_path: Path
) -> None:
    """From a directory to a cluster, on within it, and back: transactions move them each time."""
    stores = [f"file:{tmp_path / name}" for name in ("first", "second")]
    cars = filled(source, clock)
    with (
        eventlog.open(kafka.location, blobs=stores[0]) as log,
        eventlog.open(kafka.location, blobs=stores[1]) as other,
        eventlog.open("memory:") as back,
    ):
        places = [
            (source, cars.name),
            (log, cars.name),
            (other, f"{cars.name}-again"),
            (back, cars.name),
        ]
        for (here, name), (there, new_name) in itertools.pairwise(places):
            finish_some(here.topic(name), 2)
            copy = Made(here.topic(name), there, name=new_name)
            copy.events()
            assert copy.groups["g"].left == {}
            assert place_of(there.topic(new_name), None) == place_of(here.topic(name), None)
        # The group has gone on in the target: what the source says of it is the past.
        finish_some(other.topic(places[2][1]), 1)
        expected = place_of(other.topic(places[2][1]), None)
        copy = Made(log.topic(cars.name), other, name=places[2][1])
        copy.events()
        assert place_of(other.topic(places[2][1]), None) == expected


def finish_some(topic: Topic, count: int) -> None:
    """Have a group finish so many of each partition, with transactions."""
    done: dict[int, int] = dict.fromkeys(range(topic.partitions), 0)
    options = eventlog.ProcessorOptions(lease_duration=30, max_batch=1, max_wait=1)
    with topic.subscribe(group="g", options=options) as batches:
        for batch in batches:
            if done[batch.partition] < count:
                with batch.transaction():
                    done[batch.partition] += 1
            if set(done.values()) == {count}:
                break


def test_an_event_that_the_topic_does_not_take_ends_the_copy_with_what_to_do(
    kafka_log: EventLog, source: EventLog
) -> None:
    cars = source.create_topic(
        f"copied-{secrets.token_hex(4)}", partitions=1, max_event_bytes=4 * 2**20
    )
    cars.append_batch([b"small", secrets.token_bytes(3 * 2**20)])
    kafka_log.create_topic(cars.name, partitions=1)
    with pytest.raises(eventlog.EventTooLargeError, match=r"max\.message\.bytes"):
        Made(cars, kafka_log).events()
    made = kafka_log.topic(cars.name)
    assert made.read(0) == []
    made.configure(max_event_bytes=4 * 2**20)
    assert Made(cars, kafka_log).events() == 2


def test_events_of_others_are_seen_behind_the_marks_of_transactions(
    kafka_log: EventLog, source: EventLog, clock: Clock
) -> None:
    cars = filled(source, clock, partitions=1)
    made = copy_to(kafka_log, cars)
    with kafka_log.transaction() as tx:
        tx.append(made, b"others'")
        tx.append(made, b"others'")
    cars.append(b"late")
    with pytest.raises(OthersEventsError, match="partition 0"):
        Made(cars, kafka_log).events()
