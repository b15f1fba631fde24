"""The command on a cluster, which keeps no groups, and does not say how large its topics are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

import eventlog
from eventlog.processor.dead_letters import Attempts, dead_letter
from tests.cli.running import Command, Outcome
from tests.servers.kafka import Kafka

Verb: TypeAlias = Callable[..., Outcome]

RUN = ("run", "operator:eq", "--group", "g", "--topic")


@pytest.fixture
def on_cluster(kafka: Kafka) -> Verb:
    """The command, told no more than where the cluster is."""
    command = Command(Path())
    return lambda *arguments: command.bare(*arguments, "--log", kafka.location)


def test_whoever_needs_a_store_is_told_how_to_name_one(on_cluster: Verb, kafka: Kafka) -> None:
    topic = kafka.create_topic()
    for verb in (
        ("group", "list"),
        ("group", "show", topic, "g"),
        ("group", "lag", topic, "g"),
        ("group", "reset", topic, "g", "--to", "0"),
        ("group", "delete", topic, "g", "--yes"),
        ("store", "ls"),
        ("dead-letters", "replay", topic),
        (*RUN, topic),
        (*RUN, topic, "--processes", "2"),
    ):
        assert on_cluster(*verb).failed(1, "--store URL", "EVENTLOG_STORE"), verb


def test_dead_letters_can_be_looked_at_without_a_store(
    on_cluster: Verb, kafka: Kafka, tmp_path: Path
) -> None:
    """Only in the store it stands whether they were replayed."""
    name = kafka.create_topic()
    with eventlog.open(kafka.location) as log:
        topic = log.topic(name)
        topic.append(b"x")
        letter = dead_letter(topic.read(0)[0], "fraud", "as it is", Attempts(1))
        (receipt,) = topic.append_batch([letter])
    verbs = ("dead-letters", "list", name), ("dead-letters", "show", name, f"0:{receipt.offset}")
    listed, shown = (on_cluster(*verb) for verb in verbs)
    assert [line.split("\t")[-1] for line in listed.lines] == ["-"]
    assert "replayed\t-" in shown.lines
    assert on_cluster(*verbs[0], "--format", "json").json()["replayed"] is None
    named = on_cluster(*verbs[0], "--store", f"file:{tmp_path / 'groups'}")
    assert [line.split("\t")[-1] for line in named.lines] == ["no"]


def test_a_size_that_nobody_knows_is_a_dash(on_cluster: Verb, kafka: Kafka) -> None:
    name = kafka.create_topic()
    with eventlog.open(kafka.location) as log:
        log.topic(name).append(b"x")
    (line,) = (line for line in on_cluster("topic", "list").lines if line.startswith(name))
    assert line.split("\t")[:4] == [name, "1", "1", "-"]
    assert on_cluster("topic", "show", name).lines[-1].endswith("\t-")
