"""The engine against a model in plain Python: whatever is done to a log, both say the same.

The model keeps every event ever appended in a list per partition, and works out from times and
sizes what must have expired. Two things it learns from the engine, and then holds it to: into
which batches an append was cut (it checks that their counts, times and sizes fit together), and
how much of what has expired was removed already (it knows at least and at most what).

After every step the log's own `check` must find nothing, and every partition must look as the
model says. A failure prints the steps that lead to it.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import eventlog
from eventlog import (
    EARLIEST,
    LATEST,
    Event,
    EventTooLargeError,
    OffsetOutOfRangeError,
    PartitionInfo,
    Receipt,
    StoredEvent,
    TopicExistsError,
    TopicNotFoundError,
    UnexpectedOffsetError,
)
from eventlog.embedded.partition import PartitionView
from eventlog.partitioning import PARTITIONERS

SECOND = 1_000_000
BEGIN_US = 1_700_000_000 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def instant(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)


# --- the model ------------------------------------------------------------------------------------


class Content(NamedTuple):
    """What an event must come back with; types too, since True == 1 == 1.0."""

    body: bytes
    key: str | bytes | None
    properties: tuple[tuple[str, type, Any], ...]

    @classmethod
    def of(cls, event: Event) -> Content:
        properties = event.properties.items()
        return cls(
            event.body, event.key, tuple((name, type(value), value) for name, value in properties)
        )


class Cut(NamedTuple):
    """A batch as the engine cut it: first and last offset, time, position from and to."""

    first: int
    last: int
    enqueued_us: int
    begin: int
    end: int


@dataclass
class PartitionModel:
    """One partition: what was appended, and what may have been removed of it."""

    contents: list[Content] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    removed_at_least: int = 0
    removed_at_most: int = 0

    @property
    def next_offset(self) -> int:
        return len(self.contents)

    @property
    def last_us(self) -> int | None:
        return self.cuts[-1].enqueued_us if self.cuts else None

    @property
    def end(self) -> int:
        return self.cuts[-1].end if self.cuts else 0

    def expired(self, now_us: int, retention_us: int | None, retention_bytes: int | None) -> int:
        """The first offset that has not expired at `now_us`."""
        for cut in self.cuts:
            too_old = retention_us is not None and cut.enqueued_us <= now_us - retention_us
            too_far = (
                retention_bytes is not None
                and cut is not self.cuts[-1]
                and self.end - cut.begin > retention_bytes
            )
            if not (too_old or too_far):
                return cut.first
        return self.next_offset

    def time_at(self, offset: int) -> int:
        return next(cut.enqueued_us for cut in self.cuts if cut.last >= offset)

    def first_at(self, when_us: int, beginning: int) -> int:
        """The first offset from `beginning` on enqueued at `when_us` or later."""
        for cut in self.cuts:
            if cut.last >= beginning and cut.enqueued_us >= when_us:
                return max(cut.first, beginning)
        return self.next_offset


@dataclass
class TopicModel:
    """One topic: how it was configured, its partitions, and a handle kept since it was made."""

    handle: eventlog.Topic
    partitions: list[PartitionModel]
    retention_us: int | None
    retention_bytes: int | None
    compression: str
    partitioner: str
    max_event_bytes: int

    def expired(self, partition: int, now_us: int) -> int:
        model = self.partitions[partition]
        return model.expired(now_us, self.retention_us, self.retention_bytes)

    def place(self, key: str | bytes) -> int:
        encoded = key.encode() if isinstance(key, str) else key
        return PARTITIONERS[self.partitioner](encoded, len(self.partitions))


# --- what is drawn --------------------------------------------------------------------------------

NAMES = st.sampled_from(["cars", "a.b-C_0", "_"])
KEYS = st.one_of(st.none(), st.sampled_from(["7", "k", "ключ", b"7", b"\xff\x00", "", b""]))
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.datetimes(timezones=st.just(UTC)),
)
PROPERTIES = st.dictionaries(st.text(max_size=5), VALUES, max_size=3)
BODIES = st.binary(max_size=40)
EVENTS = st.builds(Event, BODIES, KEYS, PROPERTIES)
BULKS = st.sampled_from(
    [  # count and size of events, to become ...
        (5000, 20),  # several batches because there are so many
        (300, 1000),  # several batches because of their size
        (40, 9000),  # several batches of many chunks
        (2, 70_000),
        (1, 4032),  # as much as fits one chunk, and a little more
        (3, 1300),
        (1, 3_000_000),  # a batch that takes several commits to remove
    ]
)
RETENTIONS = st.sampled_from([None, None, 1, 10, 60])
RETENTION_BYTES = st.sampled_from([None, None, 1, 150, 5_000, 200_000])
COMPRESSIONS = st.sampled_from(["zstd", "none"])
OPTIONS = st.fixed_dictionaries(
    {
        "partitions": st.integers(1, 4),
        "retention": RETENTIONS,
        "retention_bytes": RETENTION_BYTES,
        "compression": COMPRESSIONS,
        "partitioner": st.sampled_from(["eventhubs", "kafka"]),
        "max_event_bytes": st.sampled_from([2**20, 2**23]),
    }
)
NUMBERS = st.integers(0, 999)
STEPS = st.sampled_from([0, 1, SECOND - 1, SECOND, 10 * SECOND, 60 * SECOND, 61 * SECOND])


def bulk_bodies(count: int, size: int, number: int, *, compressible: bool) -> list[bytes]:
    """`count` bodies that all differ."""
    noise = random.Random(number)
    if compressible:
        return [b"%d-%d " % (number, row) + bytes(size - 12) for row in range(count)]
    return [noise.randbytes(size) for _ in range(count)]


# --- the machine ----------------------------------------------------------------------------------


class LogMachine(RuleBasedStateMachine):
    """Does things to a log and to the model, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = BEGIN_US
        self.home = Path(tempfile.mkdtemp(prefix="eventlog-model-", dir=IN_MEMORY))
        self.logs = 1
        self.place = self.home / "log-1"
        self.topics: dict[str, TopicModel] = {}
        self.deleted: list[eventlog.Topic] = []

    @initialize(durability=st.sampled_from(["process", "disk"]), wanted=OPTIONS)
    def make(self, durability: str, wanted: dict[str, Any]) -> None:
        self.durability: Any = durability
        self.log = self.open()
        self.create("cars", wanted)

    def open(self) -> eventlog.EventLog:
        # A small map: LMDB gets to its end, and pages are reused, in a test already.
        return eventlog.open(
            self.place, durability=self.durability, clock=lambda: self.now_us, map_size=2**28
        )

    def teardown(self) -> None:
        try:
            if hasattr(self, "log"):
                self.compare_all()
                self.log.close()
        finally:
            shutil.rmtree(self.home)

    # Topics

    def create(self, name: str, wanted: dict[str, Any]) -> None:
        retention = wanted["retention"]
        self.topics[name] = TopicModel(
            self.log.create_topic(name, **wanted),
            [PartitionModel() for _ in range(wanted["partitions"])],
            None if retention is None else retention * SECOND,
            wanted["retention_bytes"],
            wanted["compression"],
            wanted["partitioner"],
            wanted["max_event_bytes"],
        )

    @rule(name=NAMES, wanted=OPTIONS, exist_ok=st.booleans())
    def create_topic(self, name: str, wanted: dict[str, Any], exist_ok: bool) -> None:
        there = self.topics.get(name)
        if there is None:
            self.create(name, {**wanted, "exist_ok": exist_ok})
        elif exist_ok and (len(there.partitions), there.partitioner) == (
            wanted["partitions"],
            wanted["partitioner"],
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it stays as it is, where it differs
                self.log.create_topic(name, exist_ok=True, **wanted)
        else:
            with pytest.raises(TopicExistsError):
                self.log.create_topic(name, exist_ok=exist_ok, **wanted)

    @rule(
        number=NUMBERS,
        retention=st.none() | RETENTIONS.map(lambda seconds: (seconds,)),
        retention_bytes=st.none() | RETENTION_BYTES.map(lambda size: (size,)),
        exactly=st.booleans(),
        max_event_bytes=st.sampled_from([None, 30, 2**20, 2**23]),
        compression=st.none() | COMPRESSIONS,
    )
    def configure(
        self,
        *,
        number: int,
        retention: tuple[int | None] | None,
        retention_bytes: tuple[int | None] | None,
        exactly: bool,
        max_event_bytes: int | None,
        compression: str | None,
    ) -> None:
        """Options are None where they shall not be given, and tuples where None is a value.

        With `exactly` a size is given as much as the last few batches of a partition have.
        """
        _, topic, handle = self.pick(number)
        changes: dict[str, Any] = {}
        if retention is not None:
            (seconds,) = retention
            changes["retention"] = seconds
            topic.retention_us = None if seconds is None else seconds * SECOND
        if retention_bytes is not None:
            (size,) = retention_bytes
            cuts = topic.partitions[number % len(topic.partitions)].cuts
            if exactly and size is not None and cuts:
                size = cuts[-1].end - cuts[-1 - number % min(len(cuts), 5)].begin
            changes["retention_bytes"] = topic.retention_bytes = size
        if max_event_bytes is not None:
            changes["max_event_bytes"] = topic.max_event_bytes = max_event_bytes
        if compression is not None:
            changes["compression"] = topic.compression = compression
        handle.configure(**changes)
        kept = None if topic.retention_us is None else timedelta(microseconds=topic.retention_us)
        assert (handle.retention, handle.retention_bytes) == (kept, topic.retention_bytes)
        assert handle.max_event_bytes == topic.max_event_bytes
        assert handle.compression == topic.compression

    @precondition(lambda self: any(len(topic.partitions) < 6 for topic in self.topics.values()))
    @rule(number=NUMBERS, count=st.integers(1, 2))
    def add_partitions(self, number: int, count: int) -> None:
        _, topic, handle = self.pick(number)
        with pytest.warns(UserWarning, match="keys move"):
            handle.add_partitions(count)
        topic.partitions += [PartitionModel() for _ in range(count)]
        assert handle.partitions == len(topic.partitions)

    @rule(number=NUMBERS, wanted=OPTIONS, again=st.booleans())
    def delete_topic(self, number: int, wanted: dict[str, Any], again: bool) -> None:
        """Delete a topic; make it anew if told to, or if it was the only one."""
        name, topic, _ = self.pick(number)
        self.log.delete_topic(name)
        self.deleted.append(topic.handle)
        del self.topics[name]
        with pytest.raises(TopicNotFoundError):
            self.log.delete_topic(name)
        if again or not self.topics:
            self.create(name, wanted)

    @precondition(lambda self: self.deleted)
    @rule(number=NUMBERS)
    def use_deleted(self, number: int) -> None:
        """A handle of a deleted topic stays so, though one of that name may be there again."""
        handle = self.deleted[number % len(self.deleted)]
        uses: list[Callable[[], object]] = [
            lambda: handle.append(b"", partition=0),
            lambda: handle.read(0),
            lambda: handle.partition_info(0),
            lambda: handle.configure(retention=1),
            handle.expire,
        ]
        with pytest.raises(TopicNotFoundError):
            uses[number % len(uses)]()

    # Appending

    @rule(
        number=NUMBERS,
        event=EVENTS,
        partition=st.none() | NUMBERS,
        expect=st.sampled_from([None, None, 0, 0, 1, -1]),
    )
    def append(self, number: int, event: Event, partition: int | None, expect: int | None) -> None:
        """`expect`: how far `expect_next` is off, or None to expect nothing."""
        _, topic, handle = self.pick(number)
        if partition is not None:
            partition %= len(topic.partitions)
        target = topic.place(event.key) if event.key is not None else None
        target = target if partition is None else partition
        expect_next = None
        if expect is not None and target is not None:
            expect_next = topic.partitions[target].next_offset + expect

        def store() -> Receipt:
            return handle.append(
                event.body,
                key=event.key,
                properties=event.properties,
                partition=partition,
                expect_next=expect_next,
            )

        if len(event.body) > topic.max_event_bytes:
            with pytest.raises(EventTooLargeError):
                store()
        elif expect_next is not None and expect:
            with pytest.raises(UnexpectedOffsetError) as caught:
                store()
            assert caught.value.expected == expect_next
            assert caught.value.actual == expect_next - expect
        else:
            receipt = store()
            assert target in (None, receipt.partition)
            self.appended(topic, [event], [receipt], receipt.partition)

    @rule(
        number=NUMBERS,
        events=st.lists(EVENTS | BODIES, max_size=12),
        key=KEYS,
        partition=st.none() | NUMBERS,
    )
    def append_batch(
        self,
        number: int,
        events: list[Event | bytes],
        key: str | bytes | None,
        partition: int | None,
    ) -> None:
        _, topic, handle = self.pick(number)
        if partition is not None:
            partition %= len(topic.partitions)
        whole = [event if isinstance(event, Event) else Event(event) for event in events]
        whole = [
            Event(event.body, key if event.key is None else event.key, event.properties)
            for event in whole
        ]
        if any(len(event.body) > topic.max_event_bytes for event in whole):
            with pytest.raises(EventTooLargeError):
                handle.append_batch(events, key=key, partition=partition)
            return
        receipts = handle.append_batch(events, key=key, partition=partition)
        self.appended(topic, whole, receipts, partition)

    @rule(
        number=NUMBERS,
        shape=BULKS,
        keys=st.integers(0, 3),
        compressible=st.booleans(),
        partition=st.none() | NUMBERS,
    )
    def append_bulk(
        self,
        number: int,
        shape: tuple[int, int],
        keys: int,
        compressible: bool,
        partition: int | None,
    ) -> None:
        """Many or large events, which become several batches, or batches of several chunks."""
        _, topic, handle = self.pick(number)
        if partition is not None:
            partition %= len(topic.partitions)
        bodies = bulk_bodies(*shape, number, compressible=compressible)
        events = [
            Event(body, f"key {row % keys}" if keys else None) for row, body in enumerate(bodies)
        ]
        if max(map(len, bodies)) > topic.max_event_bytes:
            with pytest.raises(EventTooLargeError):
                handle.append_batch(events, partition=partition)
            return
        receipts = handle.append_batch(events, partition=partition)
        self.appended(topic, events, receipts, partition)

    def appended(
        self,
        topic: TopicModel,
        events: list[Event],
        receipts: list[Receipt],
        partition: int | None,
    ) -> None:
        """Check the receipts of an append, and do the same to the model."""
        places = self.places(topic, events, receipts, partition)
        assert [receipt.partition for receipt in receipts] == sorted(set(places))
        for receipt in receipts:
            model = topic.partitions[receipt.partition]
            assert receipt.offset == model.next_offset
            model.contents += [
                Content.of(event)
                for event, place in zip(events, places, strict=True)
                if place == receipt.partition
            ]
            assert receipt.count == model.next_offset - receipt.offset
            enqueued_us = max(self.now_us, model.last_us or self.now_us)
            assert receipt.enqueued_at == instant(enqueued_us)
            self.learn(topic, receipt.partition, receipt.offset, enqueued_us)
            expired = topic.expired(receipt.partition, self.now_us)
            model.removed_at_most = max(model.removed_at_most, expired)
        for receipt in receipts:
            self.compare(topic, topic.handle, receipt.partition)

    def places(
        self,
        topic: TopicModel,
        events: list[Event],
        receipts: list[Receipt],
        partition: int | None,
    ) -> list[int]:
        """Where each event must have gone; those without a key all went to the same partition."""
        if partition is not None:
            return [partition] * len(events)
        keyed = [None if event.key is None else topic.place(event.key) for event in events]
        counts = Counter({receipt.partition: receipt.count for receipt in receipts})
        counts.subtract(place for place in keyed if place is not None)
        (turn, *others) = [number for number, left in counts.items() if left] or [0]
        assert not others
        return [turn if place is None else place for place in keyed]

    def learn(self, topic: TopicModel, partition: int, first: int, enqueued_us: int) -> None:
        """Take over how the engine cut the events from `first` on into batches."""
        model = topic.partitions[partition]
        position = model.end
        for cut in self.cuts(topic, partition, first):
            if cut.first > first:  # retention took the first batches of the append itself
                assert topic.retention_bytes is not None
                assert first == model.next_offset or not model.cuts or model.cuts[-1].last < first
                model.cuts.append(Cut(first, cut.first - 1, enqueued_us, position, cut.begin))
                model.removed_at_least = cut.first
                first, position = cut.first, cut.begin
            assert (cut.first, cut.begin, cut.enqueued_us) == (first, position, enqueued_us)
            model.cuts.append(cut)
            first, position = cut.last + 1, cut.end
        assert first == model.next_offset

    def cuts(self, topic: TopicModel, partition: int, offset: int) -> list[Cut]:
        """The stored batches from `offset` on."""
        log: Any = self.log
        handle: Any = topic.handle

        def look(transaction: lmdb.Transaction) -> list[Cut]:
            cuts: list[Cut] = []
            view = PartitionView(transaction, handle.state.record.id, partition)
            while (batch := view.batch_at(cuts[-1].last + 1 if cuts else offset)) is not None:
                header = batch.header
                assert header is not None
                cuts.append(
                    Cut(
                        batch.last_offset + 1 - header.count,
                        batch.last_offset,
                        header.enqueued_us,
                        header.position,
                        header.end_position,
                    )
                )
            return cuts

        found: list[Cut] = log.look(look)
        return found

    # Time and retention

    @rule(step=STEPS)
    def pass_time(self, step: int) -> None:
        self.now_us += step

    @rule(step=STEPS)
    def turn_the_clock_back(self, step: int) -> None:
        self.now_us = max(self.now_us - step, BEGIN_US - 60 * SECOND)

    @rule(number=NUMBERS, shown_again=st.sampled_from(["by the clock", "by configuring", ""]))
    def begin_to_remove(self, number: int, shown_again: str) -> None:
        """A batch that takes several commits to remove expires; one removes a part of it."""
        _, topic, handle = self.pick(number)
        if topic.max_event_bytes < 2**22:
            handle.configure(max_event_bytes=2**22)
            topic.max_event_bytes = 2**22
        handle.configure(retention=10)
        topic.retention_us = 10 * SECOND
        partition = number % len(topic.partitions)
        for body in (random.Random(number).randbytes(3_000_000), b"", b"small"):
            event = Event(body)
            self.appended(topic, [event], [handle.append(body, partition=partition)], partition)
            self.now_us += 5 * SECOND
        if shown_again == "by the clock":
            self.now_us -= 10 * SECOND
        elif shown_again == "by configuring":
            handle.configure(retention=None)
            topic.retention_us = None

    @rule(number=NUMBERS)
    def expire(self, number: int) -> None:
        _, topic, handle = self.pick(number)
        least = most = 0
        for partition, model in enumerate(topic.partitions):
            expired = topic.expired(partition, self.now_us)
            least += max(expired - model.removed_at_most, 0)
            most += max(expired - model.removed_at_least, 0)
            model.removed_at_least = max(model.removed_at_least, expired)
            model.removed_at_most = max(model.removed_at_most, expired)
        assert least <= handle.expire() <= most
        for partition in range(len(topic.partitions)):
            self.compare(topic, handle, partition)

    # The log as a whole

    @rule(overlap=st.booleans())
    def reopen(self, overlap: bool) -> None:
        """Close it and open it again, or open it once more and close the first."""
        first = self.log
        if not overlap:
            first.close()
        self.log = self.open()
        if overlap:
            first.close()
        self.find_topics()
        self.compare_all()

    @rule()
    def compact(self) -> None:
        self.log.compact()
        self.compare_all()

    @rule(stay=st.booleans())
    def backup(self, stay: bool) -> None:
        """Back it up and go on in the copy, or in the original while the copy is looked at."""
        original, original_place = self.log, self.place
        self.logs += 1
        self.place = self.home / f"log-{self.logs}"
        original.backup(self.place)
        self.log = self.open()
        self.find_topics()
        self.compare_all()
        (self.log if stay else original).close()
        if stay:
            shutil.rmtree(self.place)
            self.log, self.place = original, original_place
            self.find_topics()
        else:
            shutil.rmtree(original_place)

    def find_topics(self) -> None:
        """Handles in the log that is open now; those of deleted topics went with the other."""
        self.deleted.clear()
        for name, topic in self.topics.items():
            topic.handle = self.log.topic(name)

    # Reading

    @rule(
        number=NUMBERS,
        partition=NUMBERS,
        start=st.tuples(st.integers(0, 6), NUMBERS),
        end=st.none() | st.tuples(st.integers(0, 6), NUMBERS),
        max_events=st.sampled_from([1, 2, 7, 1000, 10_000]),
        max_bytes=st.sampled_from([None, 1, 100, 100_000]),
    )
    def read(
        self,
        *,
        number: int,
        partition: int,
        start: tuple[int, int],
        end: tuple[int, int] | None,
        max_events: int,
        max_bytes: int | None,
    ) -> None:
        _, topic, handle = self.pick(number)
        partition %= len(topic.partitions)
        model = topic.partitions[partition]
        beginning = handle.partition_info(partition).beginning_offset
        begin_at, first = self.position(model, partition, beginning, *start)
        end_at, last = None, model.next_offset
        if end is not None:
            end_at, last = self.position(model, partition, beginning, *end)

        def read() -> list[StoredEvent]:
            return handle.read(
                partition, begin_at, end=end_at, max_events=max_events, max_bytes=max_bytes
            )

        if not beginning <= first <= model.next_offset:
            with pytest.raises(OffsetOutOfRangeError) as caught:
                read()
            error = caught.value
            assert error.offset == first
            assert (error.beginning_offset, error.next_offset) == (beginning, model.next_offset)
            return
        stop = min(last, model.next_offset, first + max_events)
        events = read()
        if max_bytes is None:
            assert len(events) == max(stop - first, 0)
        elif stop > first:
            assert 1 <= len(events) <= stop - first
            assert len(events) == 1 or sum(len(event.body) for event in events) <= max_bytes
        self.compare_events(model, partition, first, events)

    def position(
        self, model: PartitionModel, partition: int, beginning: int, kind: int, number: int
    ) -> tuple[Any, int]:
        """A position of some kind, and the offset that it means."""
        around = beginning - 2 + number % (model.next_offset - beginning + 5)
        times = [cut.enqueued_us for cut in model.cuts] or [self.now_us]
        when_us = times[number % len(times)] + number % 3 - 1
        ago = SECOND * (number % 100)
        forms: list[tuple[Any, int]] = [
            (EARLIEST, beginning),
            (LATEST, model.next_offset),
            (around, around),
            ({partition: around, partition + 1: EARLIEST}, around),
            (instant(when_us), model.first_at(when_us, beginning)),
            (instant(when_us).isoformat(), model.first_at(when_us, beginning)),
            (f"-{number % 100}s", model.first_at(self.now_us - ago, beginning)),
        ]
        return forms[kind]

    @rule(number=NUMBERS, partition=NUMBERS, kind=st.integers(4, 6))
    def offset_at(self, number: int, partition: int, kind: int) -> None:
        _, topic, handle = self.pick(number)
        partition %= len(topic.partitions)
        beginning = handle.partition_info(partition).beginning_offset
        when, offset = self.position(
            topic.partitions[partition], partition, beginning, kind, number
        )
        assert handle.offset_at(partition, when) == offset

    # Comparing

    def pick(self, number: int) -> tuple[str, TopicModel, eventlog.Topic]:
        """A topic, and a handle of it: the one kept since it was made, or a new one."""
        names = sorted(self.topics)
        name = names[number % len(names)]
        topic = self.topics[name]
        return name, topic, topic.handle if number % 2 else self.log.topic(name)

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        if not hasattr(self, "log"):
            return
        report = self.log.check()
        assert report.ok, report
        assert [topic.name for topic in self.log.topics()] == sorted(self.topics)
        infos = [
            self.compare_info(topic, topic.handle, partition)
            for topic in self.topics.values()
            for partition in range(len(topic.partitions))
        ]
        assert (report.topics, report.partitions) == (len(self.topics), len(infos))
        readable = sum(info.next_offset - info.beginning_offset for info in infos)
        assert readable <= report.events <= sum(info.next_offset for info in infos)
        assert report.stored_bytes >= sum(info.size_bytes for info in infos)

    def compare_all(self) -> None:
        for topic in self.topics.values():
            for partition in range(len(topic.partitions)):
                self.compare(topic, topic.handle, partition)

    def compare(self, topic: TopicModel, handle: eventlog.Topic, partition: int) -> None:
        """A partition holds what the model says, event for event."""
        info = self.compare_info(topic, handle, partition)
        events = handle.read(partition, max_events=1_000_000)
        assert len(events) == info.next_offset - info.beginning_offset
        self.compare_events(topic.partitions[partition], partition, info.beginning_offset, events)

    def compare_info(
        self, topic: TopicModel, handle: eventlog.Topic, partition: int
    ) -> PartitionInfo:
        """A partition's offsets, times and size are right; take note of what was removed."""
        model = topic.partitions[partition]
        info = handle.partition_info(partition)
        expired = topic.expired(partition, self.now_us)
        beginning = info.beginning_offset
        assert max(expired, model.removed_at_least) <= beginning
        assert beginning <= max(expired, model.removed_at_most)
        model.removed_at_most = min(model.removed_at_most, beginning)
        if beginning > expired:
            model.removed_at_least = beginning
        begin = next((cut.begin for cut in model.cuts if cut.last >= beginning), model.end)
        assert info == PartitionInfo(
            beginning_offset=beginning,
            next_offset=model.next_offset,
            last_enqueued_offset=model.next_offset - 1,
            last_enqueued_at=None if model.last_us is None else instant(model.last_us),
            is_empty=beginning == model.next_offset,
            size_bytes=model.end - begin,
        )
        return info

    def compare_events(
        self, model: PartitionModel, partition: int, first: int, events: list[StoredEvent]
    ) -> None:
        """`events` are those from `first` on."""
        assert [event.offset for event in events] == list(range(first, first + len(events)))
        assert list(map(Content.of, events)) == model.contents[first : first + len(events)]
        for event in (*events[:1], *events[-1:]):
            assert event.partition == partition
            assert event.enqueued_at == instant(model.time_at(event.offset))


COMMON = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


def test_the_engine_does_what_the_model_does() -> None:
    """Whatever is done to a log, it holds and returns what a list per partition would."""
    run_state_machine_as_test(
        LogMachine,
        settings=settings(COMMON, derandomize=True, max_examples=600, stateful_step_count=40),
    )


@pytest.mark.soak
def test_the_engine_does_what_the_model_does_whatever_the_seed() -> None:
    """The same with a seed of the day, much longer: MODEL_SEED=... repeats one."""
    number = int(os.environ.get("MODEL_SEED") or random.SystemRandom().getrandbits(32))
    print(f"MODEL_SEED={number}")
    run_state_machine_as_test(
        seed(number)(LogMachine),
        settings=settings(COMMON, max_examples=1_000, stateful_step_count=80, print_blob=True),
    )
