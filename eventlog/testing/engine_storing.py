"""The contract of engines, first part of the data path: appending, one fetch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from eventlog.errors import (
    ClosedError,
    EventTooLargeError,
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    UnexpectedOffsetError,
)
from eventlog.event import Event
from eventlog.log import EventLog
from eventlog.positions import EARLIEST, LATEST
from eventlog.testing.engine_base import EngineSuite, bodies, everything
from eventlog.testing.expecting import raises

__all__ = ["StoringContract"]

_PROPERTIES: Final = {
    "none": None,
    "bool": True,
    "int": -(2**63),
    "large": 2**64 - 1,
    "float": 0.1,
    "str": "ä\0z",
    "bytes": b"\x00\xff",
    "datetime": datetime(2024, 2, 29, 12, 0, 0, 123456, UTC),
}


class StoringContract(EngineSuite):
    """Appending, one fetch."""

    # Appending

    def test_an_event_comes_back_as_it_was_appended(self, log: EventLog) -> None:
        """With its place, and the types of its key and of its properties."""
        topic = self.make_topic(log, "cars", partitions=2)
        before = datetime.now(UTC) - timedelta(seconds=1)
        topic.append(bytes(range(256)), key="ä", properties=_PROPERTIES, partition=1)
        topic.append("text", key=b"\xff", partition=1)
        topic.append(b"", partition=1)
        first, second, third = topic.read(1)
        assert (first.body, first.key) == (bytes(range(256)), "ä")
        assert dict(first.properties) == _PROPERTIES
        for name, value in _PROPERTIES.items():
            assert type(first.properties[name]) is type(value), name
        assert (second.body, second.key, dict(second.properties)) == (b"text", b"\xff", {})
        assert (third.body, third.key, dict(third.properties)) == (b"", None, {})
        self.check_offsets([event.offset for event in (first, second, third)])
        assert {(event.topic, event.partition) for event in (first, second)} == {("cars", 1)}
        assert before <= first.enqueued_at <= second.enqueued_at
        assert first.enqueued_at.utcoffset() == timedelta(0)

    def test_a_receipt_says_where_an_event_is(self, log: EventLog) -> None:
        """Partition, offset and time are those that are read."""
        topic = self.make_topic(log, "cars", partitions=2)
        for number in range(4):
            receipt = topic.append(b"%d" % number, partition=number % 2)
            (event,) = topic.read(receipt.partition, receipt.offset)
            assert event.body == b"%d" % number
            assert (event.partition, event.offset) == (number % 2, receipt.offset)
            assert receipt.count == 1
            assert abs(event.enqueued_at - receipt.enqueued_at) < self.resolution
            assert not receipt.duplicate

    def test_a_batch_keeps_its_order_and_has_a_receipt_for_each_partition(
        self, log: EventLog
    ) -> None:
        """Those with keys go where they say; those without go together."""
        topic = self.make_topic(log, "cars", partitions=4)
        events = [Event(b"%d" % n, key=f"k{n % 7}" if n % 3 else None) for n in range(60)]
        receipts = topic.append_batch(events)
        assert len({receipt.partition for receipt in receipts}) == len(receipts)
        assert sum(receipt.count for receipt in receipts) == 60
        for receipt in receipts:
            stored = topic.read(receipt.partition, receipt.offset)
            self.check_offsets([event.offset for event in stored], receipt.offset)
            numbers = [int(event.body) for event in stored]
            assert numbers == sorted(numbers)
            assert len(numbers) == receipt.count
        unkeyed = {event.partition for event in everything(topic) if event.key is None}
        assert len(unkeyed) == 1
        assert sorted(map(int, bodies(topic))) == list(range(60))

    def test_events_without_a_key_take_turns(self, log: EventLog) -> None:
        """Call by call, over all partitions."""
        topic = self.make_topic(log, "cars", partitions=4)
        for _ in range(2):
            assert {topic.append(b"x").partition for _ in range(4)} == set(range(4))

    def test_a_partition_that_is_named_gets_all(self, log: EventLog) -> None:
        """Whatever the keys."""
        topic = self.make_topic(log, "cars", partitions=3)
        (receipt,) = topic.append_batch([b"a", Event(b"b", "k"), "c"], partition=2)
        assert (receipt.partition, receipt.count) == (2, 3)
        assert bodies(topic, 2) == [b"a", b"b", b"c"]
        assert topic.append_batch([]) == []

    def test_nothing_of_a_call_that_is_refused_is_stored(self, log: EventLog) -> None:
        """Not even what came before the event at fault."""
        topic = self.make_topic(log, "cars", partitions=2)
        too_large = bytes(topic.max_event_bytes + 1)
        wrong: Any = {"a": 1}
        calls: list[tuple[type[Exception], Callable[[], object]]] = [
            (EventTooLargeError, lambda: topic.append_batch([b"a", too_large])),
            (EventTooLargeError, lambda: topic.append(b"a", key="k" * 1025)),
            (PartitionNotFoundError, lambda: topic.append(b"a", partition=2)),
            (PartitionNotFoundError, lambda: topic.append_batch([b"a"], partition=-1)),
            (TypeError, lambda: topic.append_batch([b"a", wrong])),
            (TypeError, lambda: topic.append(b"a", properties={"list": wrong})),
            (ValueError, lambda: topic.append(b"a", properties={"n": 2**64})),
        ]
        for kind, call in calls:
            with raises(kind):
                call()
        assert everything(topic) == []

    def test_an_append_can_depend_on_the_next_offset(self, log: EventLog) -> None:
        """So of two that have seen the same, one is refused, and told why."""
        topic = self.make_topic(log, "cars", partitions=1)
        with self.doing("expect_next"):
            receipt = topic.append(b"a", partition=0, expect_next=0)
            with raises(UnexpectedOffsetError) as raised:
                topic.append(b"b", partition=0, expect_next=0)
            following = topic.partition_info(0).next_offset
            assert (raised.error.expected, raised.error.actual) == (0, following)
            assert topic.append(b"c", partition=0, expect_next=following).offset > receipt.offset
        assert b"b" not in bodies(topic)

    def test_threads_that_append_at_once_lose_and_mix_up_nothing(self, log: EventLog) -> None:
        """Each one's events are in its order, and each receipt is its own."""
        topic = self.make_topic(log, "cars", partitions=1)

        def append(writer: int) -> list[tuple[int, bytes]]:
            written = []
            for number in range(20):
                body = b"%d %d" % (writer, number)
                written.append((topic.append(body, partition=0).offset, body))
            return written

        with ThreadPoolExecutor(4) as threads:
            written = [one for some in threads.map(append, range(4)) for one in some]
        stored = topic.read(0)
        self.check_offsets([event.offset for event in stored])
        assert sorted(written) == [(event.offset, event.body) for event in stored]

    # Reading

    def test_a_fetch_is_bounded(self, log: EventLog) -> None:
        """By a number of events, by bytes (but one event in any case), and by an end."""
        topic = self.make_topic(log, "cars", partitions=1)
        topic.append_batch([b"%03d" % n for n in range(50)], partition=0)
        events = topic.read(0)
        assert topic.read(0, max_events=7) == events[:7]
        assert topic.read(0, max_bytes=10) == events[:3]
        assert topic.read(0, max_bytes=1) == events[:1]
        assert topic.read(0, end=events[5].offset) == events[:5]
        assert topic.read(0, events[5].offset, end=events[9].offset) == events[5:9]
        assert topic.read(0, events[9].offset, end=events[5].offset) == []

    def test_a_position_can_be_said_in_many_ways(self, log: EventLog) -> None:
        """All of them find the same events."""
        topic = self.make_topic(log, "cars", partitions=2)
        topic.append_batch([b"a", b"b"], partition=0)
        events = topic.read(0)
        first = events[0].enqueued_at
        elsewhere = first.astimezone(timezone(timedelta(hours=5)))
        all_of_it: list[Any] = [EARLIEST, "earliest", first, elsewhere, first.isoformat(), "-1h"]
        for start in [*all_of_it, {0: events[0].offset}, {1: LATEST}]:
            assert topic.read(0, start) == events, start
        later = datetime.now(UTC) + timedelta(hours=1)
        for nothing in (LATEST, "latest", later, {0: LATEST}):
            assert topic.read(0, nothing) == [], nothing
        with raises(ValueError):
            topic.read(0, datetime(2024, 1, 1))  # noqa: DTZ001 - a naive one is refused

    def test_reading_out_of_range_tells_the_range(self, log: EventLog) -> None:
        """The next offset is in range: there is nothing there yet."""
        topic = self.make_topic(log, "cars", partitions=1)
        topic.append_batch([b"a", b"b"], partition=0)
        following = topic.partition_info(0).next_offset
        assert topic.read(0, following) == []
        for offset in (-1, following + 1):
            with raises(OffsetOutOfRangeError) as raised:
                topic.read(0, offset)
            error = raised.error
            assert (error.offset, error.next_offset) == (offset, following)
            assert error.beginning_offset == topic.partition_info(0).beginning_offset
        with raises(PartitionNotFoundError):
            topic.read(1)

    def test_a_partition_says_what_is_in_it(self, log: EventLog) -> None:
        """From empty on."""
        topic = self.make_topic(log, "cars", partitions=2)
        empty = topic.partition_info(0)
        assert (empty.beginning_offset, empty.next_offset) == (0, 0)
        assert (empty.last_enqueued_offset, empty.last_enqueued_at) == (-1, None)
        assert empty.is_empty
        topic.append_batch([b"a", b"b"], partition=0)
        info, last = topic.partition_info(0), topic.read(0)[-1]
        assert (info.beginning_offset, info.is_empty) == (0, False)
        assert (info.last_enqueued_offset, info.last_enqueued_at) == (last.offset, last.enqueued_at)
        assert info.next_offset > last.offset
        assert not self.gapless or info.next_offset == 2
        assert topic.partition_info(1).is_empty
        with raises(PartitionNotFoundError):
            topic.partition_info(2)

    def test_an_offset_is_found_by_time(self, log: EventLog) -> None:
        """The first at or after it; the next offset, if there is none yet."""
        topic = self.make_topic(log, "cars", partitions=1)
        for number in range(5):
            topic.append(b"%d" % number, partition=0)
        events = topic.read(0)
        times = [event.enqueued_at for event in events]
        assert times == sorted(times)
        for when in times:
            first = next(event for event in events if event.enqueued_at >= when)
            assert topic.offset_at(0, when) == first.offset
        later = topic.offset_at(0, datetime.now(UTC) + timedelta(hours=1))
        assert later == topic.partition_info(0).next_offset

    # The log

    def test_what_is_stored_is_there_for_who_opens_the_log_again(self, log: EventLog) -> None:
        """Topics as they were made, events as they were read, and the log's own id."""
        opener = self.opener(log)
        if opener is not None:
            topic = self.make_topic(log, "cars", partitions=2)
            topic.append_batch([Event(b"a", "k", {"n": 1}), b"b"])
            stored = everything(topic)
            with opener() as again:
                assert again.id == log.id
                assert again.topic("cars").id == topic.id
                assert everything(again.topic("cars")) == stored

    def test_a_closed_log_says_so(self, log: EventLog) -> None:
        """Whatever it is asked; closing it again is fine."""
        topic = self.make_topic(log, "cars", partitions=1)
        with log as entered:
            assert entered is log
        log.close()
        calls: list[Callable[[], object]] = [
            lambda: log.topic("cars"),
            log.topics,
            lambda: log.create_topic("bikes"),
            lambda: topic.append(b"late"),
            lambda: topic.read(0),
            lambda: topic.partition_info(0),
        ]
        for call in calls:
            with raises(ClosedError):
                call()
