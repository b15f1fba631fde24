"""``copy`` to a cluster and from it, where groups need a store of their own."""

from __future__ import annotations

import secrets
from pathlib import Path

import eventlog
from tests.cli.running import Command
from tests.copying.logs import numbered
from tests.servers.kafka import Kafka


def test_the_command_refuses_to_leave_groups_behind_that_nobody_spoke_of(
    kafka: Kafka, command: Command, tmp_path: Path
) -> None:
    name = f"copied-{secrets.token_hex(4)}"
    with eventlog.open(command.location) as log:
        cars = log.create_topic(name, partitions=1)
        cars.append_batch(numbered(0, 10))
        cars.group("g").reset(4)
    arguments = ["copy", str(command.location), kafka.location]
    outcome = command.bare(*arguments)
    assert outcome.failed(1, "--target-store")
    with eventlog.open(kafka.location) as log:
        assert name not in [topic.name for topic in log.topics()]
    store = f"file:{tmp_path / 'groups'}"
    assert command.bare(*arguments, "--no-groups").lines == [f"{name}\t10\t0\t0"]
    assert command.bare(*arguments, "--target-store", store).lines == [f"{name}\t0\t1\t1"]
    back = ["copy", kafka.location, str(command.location), "--topic", name, "--group", "g"]
    assert command.bare(*back).failed(1, "--store")
    assert command.bare(*back, "--store", store).lines == [f"{name}\t0\t1\t1"]


def test_what_is_the_same_of_all_topics_is_said_once_and_no_groups_are_not_missed(
    kafka: Kafka, command: Command
) -> None:
    names = [f"copied-{secrets.token_hex(4)}" for _ in range(2)]
    with eventlog.open(command.location) as log:
        for name in names:
            log.create_topic(name, partitions=1).append(b"x")
    there = command.bare("copy", str(command.location), kafka.location, "--quiet")
    assert there.failed(0, "times of events are kept in steps of 1ms")
    topics = [word for name in names for word in ("--topic", name)]
    back = command.bare("copy", kafka.location, str(command.location), *topics, "--quiet")
    assert back.failed(0, "groups are not carried over", "--store")
