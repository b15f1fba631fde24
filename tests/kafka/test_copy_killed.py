"""Copies to, from and within a cluster, killed and made again: nothing is lost, or there twice."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import eventlog
from eventlog import Event, EventLog, Topic
from tests.conftest import Child, Start
from tests.copying.killing import kill_again_and_again
from tests.copying.logs import contents, to_the_millisecond
from tests.kafka.test_copy import TYPE, config
from tests.servers.kafka import Kafka

PROGRAM = "from tests.kafka.test_copy_killed import copy; copy()"

STEPS = {
    "a commit": "writing.transactional_sender.TransactionalSender._commit",
    "the topic's being stamped again": "stamping.Stamping.stamp",
}


class Place(NamedTuple):
    """Where a topic is, and its groups."""

    location: str
    topic: str
    store: str

    def open(self, **options: object) -> EventLog:
        if self.location.startswith("kafka:"):
            options["blobs"] = self.store
        return eventlog.open(self.location, **options)  # type: ignore[arg-type]


def copy() -> None:
    """A process that copies, and dies before a step if it is told to."""
    import sys

    from eventlog.copying import TopicCopy, partition

    source, target = Place(*sys.argv[1:4]), Place(*sys.argv[4:7])
    partition.STORE_EVENTS = 40  # type: ignore[misc]
    if sys.argv[7]:
        die_before(STEPS[sys.argv[7]], int(sys.argv[8]))
    with source.open(read_only=True) as here, target.open() as there:
        made = TopicCopy(
            here.topic(source.topic),
            there,
            name=target.topic,
            copied=lambda count: print(count, flush=True),
        )
        made.check()
        made.run()
        made.carry_groups()
    print("done", flush=True)


def die_before(step: str, at: int) -> None:
    """End as `at` calls of it would have been begun."""
    import importlib

    module, kind, name = f"eventlog.kafka.{step}".rsplit(".", 2)
    owner = getattr(importlib.import_module(module), kind)
    original = getattr(owner, name)
    calls = 0

    def dies(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    setattr(owner, name, dies)


class Pair:
    """A topic and where its copy goes."""

    def __init__(self, source: Place, target: Place, start: Start) -> None:
        self.source, self.target = source, target
        self._start = start
        self.log = source.open()
        self.cars = self.log.create_topic(source.topic, partitions=2)
        self._count = 0

    def fill(self, count: int) -> None:
        """Append events that differ, one by one and together; the group moves on."""
        events = [Event(f"{n}", key=f"k{n % 17}") for n in range(self._count, self._count + count)]
        self._count += count
        for event in events[:10]:
            self.cars.append(event.body, key=event.key)
        self.cars.append_batch(events[10:])
        self.cars.group("g").reset(
            {number: self.cars.read(number, max_events=10**6)[-3].offset for number in range(2)}
        )

    def copy(self, step: str = "", at: int = 0) -> Child:
        return self._start(PROGRAM, *self.source, *self.target, step, at)

    def require_copy(self) -> None:
        """Each event is there once, in order, and the group goes on where it stopped."""
        with self.target.open() as log:
            made = log.topic(self.target.topic)
            expected = contents(self.cars)
            if self.target.location.startswith("kafka:"):
                expected = to_the_millisecond(expected)
                assert config(made)[TYPE] == "LogAppendTime"
            assert contents(made) == expected
            assert left(made) == left(self.cars)


def left(topic: Topic) -> list[list[bytes]]:
    found = topic.group("g").checkpoints()
    return [
        [event.body for event in topic.read(number, found[number].offset + 1)]
        for number in range(2)
    ]


@pytest.fixture(params=["to", "from", "within"])
def pair(
    request: pytest.FixtureRequest, kafka: Kafka, tmp_path: Path, start: Start
) -> Iterator[Pair]:
    name = f"copied-{secrets.token_hex(4)}"
    directory = Place(str(tmp_path / "log"), name, "")
    on_cluster = Place(kafka.location, name, f"file:{tmp_path / 'groups'}")
    places = {
        "to": (directory, on_cluster),
        "from": (on_cluster, directory),
        "within": (on_cluster, on_cluster._replace(topic=f"{name}-copy")),
    }
    pair = Pair(*places[request.param], start)
    with pair.log:
        yield pair


def require_whole_after(kills: int, pair: Pair) -> None:
    pair.fill(400)
    kill_again_and_again(pair.copy, lambda: pair.fill(200), kills, start=1, step=0.02)
    pair.require_copy()


@pytest.mark.parametrize("pair", ["to", "from"], indirect=True)
def test_a_copy_that_is_killed_while_its_source_grows_is_whole_in_the_end(pair: Pair) -> None:
    require_whole_after(2, pair)


@pytest.mark.soak
def test_a_copy_that_is_killed_many_times_is_whole_in_the_end(pair: Pair) -> None:
    require_whole_after(40, pair)


@pytest.mark.parametrize("pair", ["to"], indirect=True)
def test_a_copy_that_is_killed_in_its_steps_is_gone_on_with_at_once(pair: Pair) -> None:
    """Though a transaction is open, and though the topic takes the times it is given."""
    pair.fill(200)
    assert pair.copy("a commit", 3).wait() == -signal.SIGKILL
    assert pair.copy("the topic's being stamped again", 1).wait() == -signal.SIGKILL
    with pair.target.open() as log:
        assert config(log.topic(pair.target.topic))[TYPE] == "CreateTime"
    assert pair.copy().rest()[-1] == "done"
    pair.require_copy()
