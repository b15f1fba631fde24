"""The checker names what is wrong with a history, and finds nothing wrong with a good one."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import pytest

import eventlog
from tests.history import (
    Fault,
    Finding,
    Kind,
    LogContents,
    PartitionContents,
    Record,
    Recorder,
    Stored,
    check,
    read_log,
    read_records,
)
from tests.history.check import RULES
from tests.history.contents import body_of, label_of, name_of
from tests.history.evidence import Evidence

if TYPE_CHECKING:
    from tests.conftest import Start
    from tests.history.records import Source

TOPIC, OUTPUT, BRIEF = "t#1", "out#2", "brief#3"
GROUP = "g"

# ---- A world that can be told to go wrong --------------------------------------------------------


class Place(NamedTuple):
    topic: str = TOPIC
    partition: int = 0


HERE = Place()


def named(label: str) -> tuple[str, int]:
    """Producer and sequence: labels of producers with names are like ``p:7``."""
    producer, colon, number = label.partition(":")
    return (producer, int(number)) if colon else ("", -1)


class World:
    """A log that does as it is told, and the records of those who use it, on a clock that ticks."""

    def __init__(self) -> None:
        self.now = 0.0
        self.records: list[Record] = []
        self.events: dict[Place, list[str]] = {}
        self.beginning: dict[Place, int] = {}
        self.checkpoints: dict[tuple[str, str, int], int] = {}

    def note(self, kind: Kind, actor: str, **fields: str | float | Source | None) -> float:
        at = self.tick()
        self.records.append(Record(kind=kind, actor=actor, at=at, **fields))  # type: ignore[arg-type]
        return at

    def tick(self) -> float:
        self.now += 1
        return self.now

    def contents(self) -> LogContents:
        partitions = {}
        for place, labels in self.events.items():
            begin = self.beginning.get(place, 0)
            kept = [Stored(n, label, n) for n, label in enumerate(labels) if n >= begin]
            partitions[place.topic, place.partition] = PartitionContents(
                begin, len(labels), kept, keeps=place.topic != BRIEF
            )
        return LogContents(partitions, dict(self.checkpoints))

    def findings(self) -> list[Finding]:
        return check(self.records, self.contents())

    def faults(self) -> set[Fault]:
        return {finding.fault for finding in self.findings()}

    # What producers do

    def store(self, label: str, place: Place = HERE) -> int:
        labels = self.events.setdefault(place, [])
        labels.append(label)
        return len(labels) - 1

    def sending(self, label: str, actor: str = "a", place: Place = HERE) -> float:
        return self.about_event(Kind.SENDING, label, actor, topic=place.topic)

    def acknowledge(
        self, label: str, since: float, offset: int, actor: str = "a", place: Place = HERE
    ) -> None:
        topic, partition = place
        self.about_event(
            Kind.ACKNOWLEDGED,
            label,
            actor,
            since=since,
            topic=topic,
            partition=partition,
            offset=offset,
        )

    def answer(self, kind: Kind, label: str, actor: str = "a") -> None:
        """A duplicate, or refused."""
        self.about_event(kind, label, actor, topic=TOPIC)

    def about_event(self, kind: Kind, label: str, actor: str, **fields: str | float) -> float:
        producer_id, sequence = named(label)
        return self.note(
            kind, actor, label=label, producer_id=producer_id, sequence=sequence, **fields
        )

    def send(self, label: str, actor: str = "a", place: Place = HERE) -> int:
        since = self.sending(label, actor, place)
        offset = self.store(label, place)
        self.acknowledge(label, since, offset, actor, place)
        return offset

    def resume(self, producer: str, actor: str, sequence: int) -> None:
        since = self.tick()
        self.note(
            Kind.RESUMED, actor, since=since, topic=TOPIC, producer_id=producer, sequence=sequence
        )

    # What readers do

    def start(
        self,
        actor: str,
        group: str = GROUP,
        place: Place = HERE,
        offset: int = 0,
        epoch: int = 0,
    ) -> None:
        since = self.tick()
        self.note(
            Kind.STARTED,
            actor,
            since=since,
            topic=place.topic,
            partition=place.partition,
            group=group,
            offset=offset,
            epoch=epoch,
        )

    def read(self, actor: str, *offsets: int, place: Place = HERE) -> None:
        for offset in offsets:
            self.given(Kind.READ, actor, offset, place=place, label=self.events[place][offset])

    def given(
        self, kind: Kind, actor: str, offset: int, *, place: Place = HERE, **fields: str | float
    ) -> None:
        self.note(
            kind,
            actor,
            topic=place.topic,
            partition=place.partition,
            offset=offset,
            **fields,
        )

    def about_group(self, kind: Kind, actor: str, offset: int, since: float = -1.0) -> float:
        return self.note(
            kind, actor, since=since, topic=TOPIC, partition=0, group=GROUP, offset=offset
        )

    def checkpoint(self, actor: str, offset: int) -> None:
        since = self.about_group(Kind.CHECKPOINTING, actor, offset)
        self.checkpoints[TOPIC, GROUP, 0] = offset
        self.about_group(Kind.CHECKPOINTED, actor, offset, since)

    def reset(self, offset: int) -> None:
        since = self.about_group(Kind.RESETTING, "person", offset)
        self.checkpoints[TOPIC, GROUP, 0] = offset
        self.about_group(Kind.RESET, "person", offset, since)

    def observe(self) -> None:
        since = self.tick()
        offset = self.checkpoints.get((TOPIC, GROUP, 0), -1)
        self.about_group(Kind.OBSERVED, "watcher", offset, since)

    # What pipelines do

    def prepare(self, actor: str, name: str, offsets: list[int]) -> float:
        """A transaction that makes one event of each input, up to where its commit begins."""
        for offset in offsets:
            self.note(
                Kind.SENDING,
                actor,
                topic=OUTPUT,
                label=f"{name}/{offset}",
                transaction=name,
                group=GROUP,
                source=(TOPIC, 0, offset),
            )
        self.note(
            Kind.CHECKPOINTING,
            actor,
            topic=TOPIC,
            partition=0,
            group=GROUP,
            offset=offsets[-1],
            transaction=name,
        )
        return self.note(Kind.COMMITTING, actor, transaction=name)

    def apply(self, name: str, offsets: list[int]) -> None:
        for offset in offsets:
            self.store(f"{name}/{offset}", Place(OUTPUT))
        self.checkpoints[TOPIC, GROUP, 0] = offsets[-1]

    def process(self, actor: str, name: str, offsets: list[int]) -> None:
        self.read(actor, *offsets)
        since = self.prepare(actor, name, offsets)
        self.apply(name, offsets)
        self.note(Kind.COMMITTED, actor, since=since, transaction=name)


def busy_world() -> World:
    """Everything that may happen to a good log."""
    world = World()
    produce_busily(world)
    consume_busily(world)
    expire_busily(world)
    return world


def produce_busily(world: World) -> None:
    world.resume("p", "p1", -1)
    for number in range(3):
        world.send(f"p:{number}", "p1")
        world.send(f"plain-{number}")
    world.sending("p:3", "p1")  # killed: stored, and not acknowledged
    world.store("p:3")
    world.sending("p:4", "p1")  # not even stored
    world.resume("p", "p2", 3)
    world.sending("p:3", "p2")
    world.answer(Kind.DUPLICATE, "p:3", "p2")
    world.send("p:4", "p2")
    world.send("p:5", "p2", Place(TOPIC, 1))
    world.sending("retried")  # a lost acknowledgement, and no name: it may be there twice
    world.store("retried")
    world.send("retried")
    world.sending("refused")
    world.answer(Kind.REFUSED, "refused")
    for number in range(3, 5):
        world.send(f"plain-{number}")


def consume_busily(world: World) -> None:
    world.start("r1")
    world.read("r1", 0, 1, 2, 3)
    world.checkpoint("r1", 1)
    world.observe()
    world.start("r2")
    world.read("r2", 2, 3, 4)
    world.checkpoint("r2", 4)
    world.start("r3")
    world.process("r3", "tx1", [5, 6])
    world.observe()
    world.read("r3", 7)
    world.prepare("r3", "tx2", [7])  # killed before it was committed
    world.start("r4")
    world.process("r4", "tx3", [7, 8])
    world.start("whole", group="")
    world.read("whole", *range(len(world.events[HERE])))
    world.given(Kind.ENDED, "whole", len(world.events[HERE]))


def expire_busily(world: World) -> None:
    brief = Place(BRIEF)
    for number in range(6):
        world.send(f"brief-{number}", place=brief)
    world.start("slow", group="", place=brief)
    world.read("slow", 0, place=brief)
    world.beginning[brief] = 4
    world.given(Kind.LOST, "slow", 1, last=3, place=brief)
    world.read("slow", 4, 5, place=brief)


def test_nothing_is_found_wrong_with_a_busy_log_in_order() -> None:
    assert busy_world().findings() == []


# ---- Each kind of fault --------------------------------------------------------------------------

Break: TypeAlias = Callable[[World], None]
BREAKS: list[tuple[Break, set[Fault]]] = []


def breaks(*faults: Fault) -> Callable[[Break], Break]:
    """Note what a fault is found to be; all of that and nothing else."""

    def note(do: Break) -> Break:
        BREAKS.append((do, set(faults)))
        return do

    return note


@breaks(Fault.LOST)
def the_last_event_acknowledged_is_not_there(world: World) -> None:
    world.send("x", place=Place(TOPIC, 1))
    world.events[Place(TOPIC, 1)].pop()


@breaks(Fault.LOST, Fault.MISPLACED)
def the_next_event_was_given_the_place_of_one_that_was_acknowledged(world: World) -> None:
    since = world.sending("x")
    world.acknowledge("x", since, len(world.events[HERE]))
    world.send("y")


@breaks(Fault.MISPLACED)
def an_event_was_acknowledged_at_the_place_of_the_next(world: World) -> None:
    since = world.sending("x")
    offset = world.store("x")
    world.acknowledge("x", since, offset + 1)


@breaks(Fault.LOST, Fault.HOLE)
def a_duplicate_was_never_stored(world: World) -> None:
    world.sending("p:6", "p2")
    world.answer(Kind.DUPLICATE, "p:6", "p2")


@breaks(Fault.LOST)
def a_transaction_was_committed_and_has_no_output(world: World) -> None:
    world.note(Kind.SENDING, "tx", topic=OUTPUT, label="tx", transaction="tx")
    since = world.note(Kind.COMMITTING, "tx", transaction="tx")
    world.note(Kind.COMMITTED, "tx", since=since, transaction="tx")


@breaks(Fault.STORED_TWICE)
def a_producer_with_a_name_sent_again_and_it_was_stored_again(world: World) -> None:
    world.send("p:6", "p2")
    world.send("p:6", "p2")


@breaks(Fault.STORED_TWICE)
def an_event_that_was_sent_once_is_there_twice(world: World) -> None:
    world.send("x")
    world.store("x", Place(TOPIC, 1))


@breaks(Fault.STORED_TWICE)
def an_event_is_there_and_was_acknowledged_where_it_has_expired(world: World) -> None:
    since = world.sending("x", place=Place(BRIEF))
    world.acknowledge("x", since, 2, place=Place(BRIEF))
    world.store("x", Place(BRIEF))


@breaks(Fault.STORED_THOUGH_REFUSED)
def an_event_that_was_refused_is_there(world: World) -> None:
    world.sending("x")
    world.store("x")
    world.answer(Kind.REFUSED, "x")


@breaks(Fault.STORED_THOUGH_REFUSED)
def what_a_transaction_took_back_is_there(world: World) -> None:
    world.note(Kind.SENDING, "tx", topic=OUTPUT, label="tx", transaction="tx")
    world.note(Kind.COMMITTING, "tx", transaction="tx")
    world.store("tx", Place(OUTPUT))
    world.note(Kind.ROLLED_BACK, "tx", transaction="tx")


@breaks(Fault.INVENTED)
def an_event_is_there_that_nobody_sent(world: World) -> None:
    world.store("x")


@breaks(Fault.REORDERED)
def two_events_of_a_producer_with_a_name_are_out_of_order(world: World) -> None:
    for number in (6, 7):
        world.sending(f"p:{number}", "p2")
    world.store("p:7")
    world.store("p:6")


@breaks(Fault.REORDERED)
def two_events_of_a_thread_are_out_of_order(world: World) -> None:
    for label in ("x", "y"):
        world.sending(label)
    world.store("y")
    world.store("x")


@breaks(Fault.HOLE)
def an_event_is_stored_without_the_one_before_it(world: World) -> None:
    world.sending("p:6", "p2")
    world.send("p:7", "p2")


@breaks(Fault.HOLE)
def a_producer_is_told_to_go_on_behind_what_is_not_stored(world: World) -> None:
    world.sending("p:6", "p2")
    world.resume("p", "p3", 6)


@breaks(Fault.PRODUCER_NOT_FENCED)
def a_producer_goes_on_though_another_has_its_name(world: World) -> None:
    world.resume("p", "p3", 5)
    world.send("p:6", "p2")


@breaks(Fault.READ_BUT_NEVER_STORED)
def a_reader_was_given_something_else(world: World) -> None:
    world.start("x", group="")
    world.given(Kind.READ, "x", 0, label="plain-0")


@breaks(Fault.READ_BUT_NEVER_STORED)
def a_reader_was_given_what_is_not_there(world: World) -> None:
    world.sending("x", place=Place(TOPIC, 1))
    world.start("x", group="", place=Place(TOPIC, 1))
    world.read("x", 0, place=Place(TOPIC, 1))
    world.given(Kind.READ, "x", 1, label="x", place=Place(TOPIC, 1))


@breaks(Fault.READ_BUT_NEVER_STORED)
def a_reader_was_given_what_nobody_sent_and_it_has_expired(world: World) -> None:
    world.events[Place(BRIEF, 1)] = ["x", "y"]
    world.start("x", group="", place=Place(BRIEF, 1))
    world.read("x", 0, place=Place(BRIEF, 1))
    world.beginning[Place(BRIEF, 1)] = 2


@breaks(Fault.READ_BUT_NEVER_STORED)
def a_reader_of_a_deleted_topic_was_given_an_event_of_another(world: World) -> None:
    world.note(Kind.DELETING, "person", topic="doomed#9")
    world.start("x", group="", place=Place("doomed#9"))
    world.given(Kind.READ, "x", 0, label="plain-0", place=Place("doomed#9"))


@breaks(Fault.SKIPPED)
def a_reader_was_not_given_an_event(world: World) -> None:
    world.start("x", group="")
    world.read("x", 0, 1, 3)


@breaks(Fault.SKIPPED)
def a_reader_began_too_late(world: World) -> None:
    world.start("x", group="")
    world.read("x", 1)


@breaks(Fault.SKIPPED)
def a_reader_ended_too_early(world: World) -> None:
    world.start("x", group="")
    world.read("x", 0)
    world.given(Kind.ENDED, "x", 1)


@breaks(Fault.SKIPPED)
def nobody_of_a_group_was_given_an_event(world: World) -> None:
    world.start("r5")
    world.read("r5", 10)


@breaks(Fault.READ_TWICE)
def a_reader_was_given_an_event_twice(world: World) -> None:
    world.start("x", group="")
    world.read("x", 0, 1, 1)


@breaks(Fault.READ_OUT_OF_ORDER)
def a_reader_was_given_an_event_after_the_one_behind_it(world: World) -> None:
    world.start("x", group="", offset=1)
    world.read("x", 1, 2, 0)


@breaks(Fault.NOT_LOST)
def a_reader_was_told_that_an_event_is_lost_that_is_not(world: World) -> None:
    world.start("x", group="", place=Place(BRIEF))
    world.given(Kind.LOST, "x", 0, last=4, place=Place(BRIEF))
    world.read("x", 5, place=Place(BRIEF))


@breaks(Fault.DELIVERED_AGAIN)
def a_group_was_given_an_event_that_it_had_finished(world: World) -> None:
    world.start("r5")
    world.read("r5", 8)


@breaks(Fault.CHECKPOINT_BEYOND_READS)
def a_checkpoint_is_beyond_what_was_read(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.checkpoint("r5", 10)


@breaks(Fault.CHECKPOINT_WENT_BACK, Fault.TORN)
def a_checkpoint_is_seen_before_where_a_transaction_put_it(world: World) -> None:
    world.checkpoint("r4", 7)


@breaks(Fault.CHECKPOINT_WENT_BACK)
def a_checkpoint_that_was_seen_is_gone(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.about_group(Kind.CHECKPOINTING, "r5", 9)
    world.about_group(Kind.OBSERVED, "watcher", 9)


@breaks(Fault.CHECKPOINT_WENT_BACK)
def a_checkpoint_is_gone_though_a_reset_was_over_before(world: World) -> None:
    world.reset(4)
    world.start("r5")
    world.read("r5", 5)
    world.about_group(Kind.CHECKPOINTED, "r5", 5)


@breaks(Fault.CHECKPOINT_INVENTED)
def a_checkpoint_is_one_that_nobody_made(world: World) -> None:
    world.start("r5")
    world.read("r5", 9, 10)
    world.checkpoints[TOPIC, GROUP, 0] = 9


@breaks(Fault.CONSUMER_NOT_FENCED)
def a_consumer_makes_checkpoints_though_another_has_taken_over(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.start("r6")
    world.read("r6", 9, 10)
    world.checkpoint("r5", 9)


@breaks(Fault.OWNED_TWICE)
def two_hosts_own_a_partition_under_one_epoch(world: World) -> None:
    world.start("h1/0", epoch=1)
    world.start("h2/0", epoch=1)


@breaks(Fault.OWNED_TWICE)
def a_host_is_given_events_though_a_later_owner_was(world: World) -> None:
    world.start("h1/0", epoch=1)
    world.read("h1/0", 9)
    world.start("h2/0", epoch=2)
    world.read("h2/0", 9)
    world.read("h1/0", 10)


@breaks(Fault.FORMER_OWNER)
def a_checkpoint_on_its_way_is_stored_when_the_next_owner_has_begun(world: World) -> None:
    world.start("h1/0", epoch=1)
    world.read("h1/0", 9)
    since = world.about_group(Kind.CHECKPOINTING, "h1/0", 9)
    world.start("h2/0", epoch=2)
    world.about_group(Kind.CHECKPOINTED, "h1/0", 9, since)
    world.read("h2/0", 9, 10)
    world.checkpoint("h2/0", 10)


@breaks(Fault.MOVED_AND_GIVEN_AGAIN)
def a_partition_moved_in_good_order_without_its_checkpoint(world: World) -> None:
    world.start("h1/0", epoch=1)
    world.read("h1/0", 9)
    world.about_group(Kind.CLOSED, "h1/0", 9)
    world.start("h2/0", epoch=2)
    world.read("h2/0", 9, 10)


@breaks(Fault.TORN)
def half_of_a_transaction_is_there(world: World) -> None:
    for label in ("tx/x", "tx/y"):
        world.note(Kind.SENDING, "tx", topic=OUTPUT, label=label, transaction="tx")
    world.note(Kind.COMMITTING, "tx", transaction="tx")
    world.store("tx/x", Place(OUTPUT))


@breaks(Fault.TORN)
def the_output_of_a_transaction_is_there_without_its_checkpoint(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.prepare("r5", "tx", [9])
    world.store("tx/9", Place(OUTPUT))


@breaks(Fault.TORN)
def the_checkpoint_of_a_transaction_is_there_without_its_output(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.prepare("r5", "tx", [9])
    world.checkpoints[TOPIC, GROUP, 0] = 9


@breaks(Fault.TORN)
def a_later_transaction_went_past_one_that_was_not_committed(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.prepare("r5", "tx", [9])
    world.process("r5", "ty", [10])


@breaks(Fault.PROCESSED_TWICE, Fault.DELIVERED_AGAIN)
def two_transactions_processed_the_same_event(world: World) -> None:
    world.start("r5")
    world.process("r5", "tx", [9])
    world.start("r6")
    world.process("r6", "ty", [9, 10])


@pytest.mark.parametrize(
    ("do", "faults"), BREAKS, ids=[do.__name__.replace("_", " ") for do, _ in BREAKS]
)
def test_a_fault_is_found_and_named(do: Break, faults: set[Fault]) -> None:
    world = busy_world()
    do(world)
    assert world.faults() == faults


GAPS = {
    "in the middle": PartitionContents(0, 3, [Stored(0, "x"), Stored(2, "z")]),
    "at the end": PartitionContents(0, 3, [Stored(0, "x"), Stored(1, "z")]),
    "at the beginning": PartitionContents(1, 3, [Stored(1, "x"), Stored(2, "z")]),
    "twice": PartitionContents(0, 2, [Stored(0, "x"), Stored(1, "y"), Stored(1, "z")]),
}


def sent(*labels: str) -> list[Record]:
    return [
        Record(kind=Kind.SENDING, actor=label, at=0, topic=TOPIC, label=label) for label in labels
    ]


@pytest.mark.parametrize("contents", GAPS.values(), ids=GAPS)
def test_offsets_that_are_missing_or_there_twice_are_a_gap(contents: PartitionContents) -> None:
    findings = check(sent("x", "y", "z"), LogContents({(TOPIC, 0): contents}))
    assert {finding.fault for finding in findings} == {Fault.GAP}


def test_time_that_goes_back_along_a_partition_is_found() -> None:
    events = [Stored(0, "x", 5), Stored(1, "y", 5), Stored(2, "z", 4)]
    log = LogContents({(TOPIC, 0): PartitionContents(0, 3, events)})
    assert [one.fault for one in check(sent("x", "y", "z"), log)] == [Fault.TIME_WENT_BACK]


def test_every_fault_there_is_has_a_history_that_it_is_found_in() -> None:
    shown = set().union(*(faults for _, faults in BREAKS), {Fault.GAP, Fault.TIME_WENT_BACK})
    assert shown == set(Fault)


@functools.cache
def faults_by_rule(do: Break) -> dict[str, set[Fault]]:
    world = busy_world()
    do(world)
    evidence = Evidence(world.records, world.contents())
    return {rule.__name__: {finding.fault for finding in rule(evidence)} for rule in RULES}


@pytest.mark.parametrize("rule", [rule.__name__ for rule in RULES])
def test_no_rule_could_be_left_out(rule: str) -> None:
    needed = {"gaps", "time_order"}  # by the tests of contents that a world never has
    for do, faults in BREAKS:
        by_rule = faults_by_rule(do)
        others = set().union(*(found for other, found in by_rule.items() if other != rule))
        if faults - others:
            needed.add(rule)
    assert rule in needed


# ---- What is no fault ----------------------------------------------------------------------------

Allowed: TypeAlias = Callable[[World], None]


def a_group_that_was_reset_is_given_events_again(world: World) -> None:
    world.reset(3)
    world.start("r5")
    world.read("r5", 4, 5)
    world.checkpoint("r5", 5)
    world.observe()


def a_reader_that_was_reset_goes_back(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.reset(3)
    world.observe()
    world.read("r5", 4, 5)


def a_reader_that_was_reset_checkpoints_in_vain(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.reset(3)
    since = world.about_group(Kind.CHECKPOINTING, "r5", 9)
    world.about_group(Kind.CHECKPOINTED, "r5", 9, since)
    world.observe()
    world.read("r5", 4)


def a_group_that_was_reset_forwards_leaves_events_out(world: World) -> None:
    world.reset(9)
    world.start("r5")
    world.read("r5", 10)
    world.checkpoint("r5", 10)


def a_reset_that_nobody_heard_the_end_of_may_have_been_made(world: World) -> None:
    world.about_group(Kind.RESETTING, "person", 3)
    world.start("r5")
    world.read("r5", 4)
    world.checkpoints[TOPIC, GROUP, 0] = 3
    world.observe()


def a_consumer_checkpoints_what_it_was_told_is_lost(world: World) -> None:
    place = Place(BRIEF, 1)
    for number in range(4):
        world.send(f"other-{number}", place=place)
    world.start("r5", group="h", place=place)
    world.beginning[place] = 4
    world.given(Kind.LOST, "r5", 0, last=3, place=place)
    world.checkpoints[BRIEF, "h", 1] = 3


def a_consumer_began_before_the_other_checkpointed(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.start("r6")
    world.checkpoint("r5", 9)
    world.read("r6", 9)


def nothing_is_known_of_a_commit_whose_answer_was_lost(world: World) -> None:
    world.start("r5")
    world.read("r5", 9)
    world.prepare("r5", "tx", [9])
    world.apply("tx", [9])


def a_topic_is_gone_that_was_deleted(world: World) -> None:
    place = Place("doomed#9")
    world.send("x", place=place)
    world.start("r5", group="h", place=place)
    world.read("r5", 0, place=place)
    world.note(Kind.DELETING, "person", topic=place.topic)
    del world.events[place]


def a_fenced_producer_sends_and_is_refused(world: World) -> None:
    world.resume("p", "p3", 5)
    world.sending("p:6", "p2")
    world.answer(Kind.REFUSED, "p:6", "p2")
    world.send("p:6", "p3")


def a_producer_with_a_name_leaves_numbers_out(world: World) -> None:
    world.send("p:9", "p2")
    world.sending("p:7", "p2")
    world.answer(Kind.DUPLICATE, "p:9", "p2")


def a_partition_is_handed_over(world: World) -> None:
    world.start("h1/0", epoch=1)
    world.read("h1/0", 9)
    world.checkpoint("h1/0", 9)
    world.about_group(Kind.CLOSED, "h1/0", 9)
    world.start("h2/0", epoch=2)
    world.read("h2/0", 10)


def a_host_that_closed_in_good_order_was_reset(world: World) -> None:
    a_partition_is_handed_over(world)
    world.reset(8)
    world.start("h3/0", epoch=3)
    world.read("h3/0", 9, 10)


def a_dead_host_leaves_a_batch_to_the_next_one(world: World) -> None:
    world.start("h1/0", epoch=1)
    world.read("h1/0", 9)
    world.start("h2/0", epoch=2)
    world.read("h2/0", 9, 10)


def a_host_is_given_its_batch_again(world: World) -> None:
    for number in range(2):
        world.start(f"h1/0.{number}", epoch=1)
        world.read(f"h1/0.{number}", 9)
    world.checkpoint("h1/0.1", 9)


def a_host_that_was_paused_is_given_what_was_on_its_way(world: World) -> None:
    world.note(Kind.PAUSED, "h1")
    a_host_is_given_events_though_a_later_owner_was(world)


ALLOWED: tuple[Allowed, ...] = (
    a_group_that_was_reset_is_given_events_again,
    a_reader_that_was_reset_goes_back,
    a_reader_that_was_reset_checkpoints_in_vain,
    a_group_that_was_reset_forwards_leaves_events_out,
    a_reset_that_nobody_heard_the_end_of_may_have_been_made,
    a_consumer_checkpoints_what_it_was_told_is_lost,
    a_consumer_began_before_the_other_checkpointed,
    nothing_is_known_of_a_commit_whose_answer_was_lost,
    a_topic_is_gone_that_was_deleted,
    a_fenced_producer_sends_and_is_refused,
    a_producer_with_a_name_leaves_numbers_out,
    a_partition_is_handed_over,
    a_host_that_closed_in_good_order_was_reset,
    a_dead_host_leaves_a_batch_to_the_next_one,
    a_host_is_given_its_batch_again,
    a_host_that_was_paused_is_given_what_was_on_its_way,
)


@pytest.mark.parametrize("do", ALLOWED, ids=[do.__name__.replace("_", " ") for do in ALLOWED])
def test_what_may_happen_to_a_good_log_is_no_fault(do: Allowed) -> None:
    world = busy_world()
    do(world)
    assert world.findings() == []


# ---- Histories at random, and what becomes of them -----------------------------------------------


def random_world(rng: random.Random) -> World:
    """A good log with a producer, a pipeline and readers, killed at random and started again."""
    world = World()
    number = incarnation = 0
    while number < 40:
        incarnation += 1
        world.resume("p", f"p{incarnation}", number - 1)
        for _ in range(rng.randint(1, 10)):
            since = world.sending(f"p:{number}", f"p{incarnation}")
            outcome = rng.choices(("acknowledged", "stored", "killed"), (8, 1, 1))[0]
            if outcome == "killed":
                break
            offset = world.store(f"p:{number}")
            number += 1
            if outcome == "stored":
                break
            world.acknowledge(f"p:{number - 1}", since, offset, f"p{incarnation}")
        process_some(world, f"r{incarnation}", rng)
    return world


def process_some(world: World, actor: str, rng: random.Random) -> None:
    """A few transactions, the last of which may be killed before or after its commit."""
    world.start(actor)
    at = world.checkpoints.get((TOPIC, GROUP, 0), -1) + 1
    end = len(world.events.get(HERE, []))
    while at < end:
        offsets = list(range(at, min(at + rng.randint(1, 4), end)))
        at = offsets[-1] + 1
        name = f"{actor}.{at}"
        if rng.random() < 0.2:
            world.read(actor, *offsets)
            world.prepare(actor, name, offsets)
            if rng.random() < 0.5:
                world.apply(name, offsets)
            return
        world.process(actor, name, offsets)
        if rng.random() < 0.3:
            world.observe()


def drop_a_stored_event(world: World, rng: random.Random) -> None:
    labels = world.events[HERE]
    del labels[rng.randrange(len(labels))]


def drop_an_output(world: World, rng: random.Random) -> None:
    labels = world.events[Place(OUTPUT)]
    del labels[rng.randrange(len(labels))]


def repeat_a_stored_event(world: World, rng: random.Random) -> None:
    labels = world.events[HERE]
    labels.insert(rng.randint(0, len(labels)), rng.choice(labels))


def repeat_an_output(world: World, rng: random.Random) -> None:
    labels = world.events[Place(OUTPUT)]
    labels.append(rng.choice(labels))


def swap_two_events(world: World, rng: random.Random) -> None:
    labels = world.events[HERE]
    at = rng.randrange(len(labels) - 1)
    labels[at], labels[at + 1] = labels[at + 1], labels[at]


def drop_a_read(world: World, rng: random.Random) -> None:
    """Not the first or last of a reader: nobody could tell that from a kill."""
    actors = [record.actor if record.kind is Kind.READ else "" for record in world.records]
    inner = [
        number
        for number, actor in enumerate(actors)
        if actor and actor in actors[:number] and actor in actors[number + 1 :]
    ]
    del world.records[rng.choice(inner)]


def repeat_a_read(world: World, rng: random.Random) -> None:
    at = rng.choice([n for n, record in enumerate(world.records) if record.kind is Kind.READ])
    world.records.insert(at, world.records[at])


def move_the_checkpoint_back(world: World, rng: random.Random) -> None:
    world.checkpoints[TOPIC, GROUP, 0] -= rng.randint(1, 3)


def move_the_checkpoint_on(world: World, rng: random.Random) -> None:
    world.checkpoints[TOPIC, GROUP, 0] += rng.randint(1, 3)


MUTATIONS: tuple[Callable[[World, random.Random], None], ...] = (
    drop_a_stored_event,
    drop_an_output,
    repeat_a_stored_event,
    repeat_an_output,
    swap_two_events,
    drop_a_read,
    repeat_a_read,
    move_the_checkpoint_back,
    move_the_checkpoint_on,
)
SEEDS = range(30)


def test_nothing_is_found_wrong_with_good_logs_at_random() -> None:
    assert {seed: random_world(random.Random(seed)).findings() for seed in SEEDS} == {
        seed: [] for seed in SEEDS
    }


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_no_change_to_a_good_log_goes_unnoticed(
    mutate: Callable[[World, random.Random], None],
) -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        world = random_world(rng)
        mutate(world, rng)
        assert world.findings(), f"seed {seed}"


# ---- Records and contents ------------------------------------------------------------------------


def test_records_come_back_as_they_were_written_merged_by_time(tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path / "history") for _ in range(2)]
    for number in range(6):
        recorders[number % 2].note(Kind.SENDING, f"a{number}", source=("t", 0, number), sequence=5)
    for recorder in recorders:
        recorder.close()
    records = read_records(tmp_path / "history")
    assert [record.actor for record in records] == [f"a{number}" for number in range(6)]
    assert [record.source for record in records] == [("t", 0, number) for number in range(6)]
    assert {record.sequence for record in records} == {5}


def test_what_a_killed_process_was_writing_is_left_out_and_nothing_else(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for number in range(3):
        recorder.note(Kind.SENDING, "a", label=f"label-{number}")
    recorder.close()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert [record.label for record in read_records(tmp_path)] == ["label-0", "label-1"]


KILLED = """
import os, pathlib, signal, sys
from tests.history import Kind, Recorder

recorder = Recorder(pathlib.Path(sys.argv[1]))
for number in range(100):
    recorder.note(Kind.SENDING, "a", label=str(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_all_that_it_has_noted(tmp_path: Path, start: Start) -> None:
    start(KILLED, tmp_path).wait()
    assert [record.label for record in read_records(tmp_path)] == [*map(str, range(100))]


def test_labels_come_back_from_bodies() -> None:
    assert label_of(body_of("p:7", os.urandom(50))) == "p:7"
    assert label_of(b"no label\xff") == "no label\ufffd"


def test_the_contents_of_a_log_are_read_as_they_are(memory_log: eventlog.EventLog) -> None:
    topic = memory_log.create_topic("t", partitions=2)
    for number in range(3):
        topic.append(body_of(f"x{number}", b"filler"), partition=1)
    contents = read_log(memory_log).partitions
    assert contents[name_of(topic), 0] == PartitionContents(0, 0, [])
    there = contents[name_of(topic), 1]
    assert there._replace(events=[]) == PartitionContents(0, 3, [])
    assert [event[:2] for event in there.events] == [(0, "x0"), (1, "x1"), (2, "x2")]


def test_a_recreated_topic_is_another_one(memory_log: eventlog.EventLog) -> None:
    before = name_of(memory_log.create_topic("t"))
    memory_log.delete_topic("t")
    assert name_of(memory_log.create_topic("t")) != before
