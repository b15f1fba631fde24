"""Retention: what has expired is gone for readers at once, and from the file in bounded steps.

Time is the test's own: the clock moves only when told to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import Event, OffsetOutOfRangeError, Topic
from eventlog.appending import gather_one
from eventlog.embedded import keys
from eventlog.embedded.append import prepare
from eventlog.embedded.commit import Committer
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.writer import STEP_ROWS, Writer

SECOND = 1_000_000
RETENTION = 10  # seconds
FLOOR_ROWS = 1
"""What a removal may add: a partition's floor, which tells where it goes on."""


class Clock:
    """Microseconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now_us = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND)

    @property
    def now(self) -> datetime:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.now_us)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def embedded(log: eventlog.EventLog) -> EmbeddedLog:
    assert isinstance(log, EmbeddedLog)
    return log


@pytest.fixture
def log(clock: Clock) -> Iterator[EmbeddedLog]:
    """A log in memory, whole after the test."""
    with eventlog.open("memory:", clock=clock) as log:
        yield embedded(log)
        assert log.check().ok


@pytest.fixture
def committer(log: EmbeddedLog) -> Committer:
    return log.environment.committer


def kept(log: EmbeddedLog, **options: Any) -> Topic:
    """A topic of one partition whose batches are stored as long as they are."""
    return log.create_topic(
        "cars", **{"partitions": 1, "compression": "none", "max_event_bytes": 2**24, **options}
    )


def rows(log: EmbeddedLog) -> int:
    """All rows of the database."""
    count = log.environment.lmdb.stat()["entries"]
    assert isinstance(count, int)
    return count


def offsets(topic: Topic, partition: int = 0) -> list[int]:
    return [event.offset for event in topic.read(partition, max_events=1_000_000)]


# By time


def test_an_event_can_be_read_until_it_is_exactly_as_old_as_the_retention(
    log: EmbeddedLog, clock: Clock
) -> None:
    """A microsecond before it is there; at that age it has expired."""
    topic = kept(log, retention=RETENTION)
    topic.append(b"a")
    clock.now_us += RETENTION * SECOND - 1
    assert offsets(topic) == [0]
    clock.now_us += 1
    assert offsets(topic) == []


@pytest.mark.parametrize(
    ("retention", "expired_us"),
    [(0.25, 250_000), (timedelta(microseconds=1), 1), (timedelta(days=1), 86_400 * SECOND)],
)
def test_a_retention_is_exact_to_the_microsecond(
    log: EmbeddedLog, clock: Clock, retention: float | timedelta, expired_us: int
) -> None:
    """Seconds with a fraction and timedeltas mean the same length of time."""
    topic = kept(log, retention=retention)
    topic.append(b"a")
    clock.now_us += expired_us - 1
    assert offsets(topic) == [0]
    clock.now_us += 1
    assert offsets(topic) == []


def test_expired_events_are_not_returned_though_they_are_still_stored(
    log: EmbeddedLog, clock: Clock
) -> None:
    """Nothing was removed yet, and no way of reading shows any of it."""
    topic = kept(log, retention=RETENTION)
    for body in (b"0", b"1", b"2"):
        topic.append(body)
        clock.advance(4)
    stored = rows(log)
    assert offsets(topic) == [1, 2]
    assert offsets(topic, 0) == [event.offset for event in topic.read(0, "-1d")]
    with pytest.raises(OffsetOutOfRangeError) as caught:
        topic.read(0, 0)
    assert (caught.value.beginning_offset, caught.value.next_offset) == (1, 3)
    assert topic.offset_at(0, "-1d") == 1
    info = topic.partition_info(0)
    assert (info.beginning_offset, info.next_offset, info.is_empty) == (1, 3, False)
    assert rows(log) == stored


def test_events_of_one_append_expire_together(log: EmbeddedLog, clock: Clock) -> None:
    """They have one time, also where the append was stored as several batches."""
    topic = kept(log, retention=RETENTION)
    topic.append_batch([bytes(1000)] * 500)
    clock.advance(1)
    topic.append(b"later")
    clock.now_us += (RETENTION - 1) * SECOND - 1
    assert len(offsets(topic)) == 501
    clock.now_us += 1
    assert offsets(topic) == [500]


def test_a_new_retention_holds_for_what_is_there_already(log: EmbeddedLog, clock: Clock) -> None:
    """Shorter hides at once; longer shows again what was not removed yet."""
    topic = kept(log)
    topic.append(b"0")
    clock.advance(5)
    topic.append(b"1")
    topic.configure(retention=5)
    assert offsets(topic) == [1]
    topic.configure(retention=None)
    assert offsets(topic) == [0, 1]


# By size


def sizes(topic: Topic, count: int) -> list[int]:
    """Append `count` events, each in a batch of its own; their sizes as stored."""
    result = []
    for number in range(count):
        before = topic.partition_info(0).size_bytes
        topic.append(bytes(10 * number))
        result.append(topic.partition_info(0).size_bytes - before)
    return result


def test_a_partition_keeps_exactly_as_many_bytes_as_it_may(log: EmbeddedLog) -> None:
    """The bound itself is kept; with a byte less the oldest batch goes."""
    topic = kept(log)
    stored = sizes(topic, 5)
    for first in range(5):
        topic.configure(retention_bytes=sum(stored[first:]))
        assert offsets(topic) == list(range(first, 5))
        topic.configure(retention_bytes=sum(stored[first:]) - 1)
        assert offsets(topic) == list(range(min(first + 1, 4), 5))
        assert topic.partition_info(0).size_bytes == sum(stored[min(first + 1, 4) :])


def test_the_newest_batch_is_kept_however_large_it_is(log: EmbeddedLog) -> None:
    """A bound smaller than one append does not make appending pointless."""
    topic = kept(log, retention_bytes=1)
    for number in range(3):
        topic.append(bytes(1000))
        assert offsets(topic) == [number]


def test_size_is_counted_for_each_partition(log: EmbeddedLog) -> None:
    """One partition's flood expires nothing of another."""
    topic = kept(log, partitions=2, retention_bytes=500)
    topic.append(b"alone", partition=1)
    for _ in range(20):
        topic.append(bytes(100), partition=0)
    assert len(offsets(topic, 0)) == 500 // (100 + 48 + 6)
    assert offsets(topic, 1) == [0]


def test_size_takes_whole_batches(log: EmbeddedLog) -> None:
    """A batch of which only a part would be too much goes as a whole."""
    topic = kept(log)
    topic.append_batch([b"1234567890"] * 10)
    topic.append_batch([b"1234567890"] * 10)
    whole = topic.partition_info(0).size_bytes
    topic.configure(retention_bytes=whole - 1)
    assert offsets(topic) == list(range(10, 20))


def test_time_and_size_both_bound_what_is_kept(log: EmbeddedLog, clock: Clock) -> None:
    """Whichever is reached first expires an event."""
    topic = kept(log, retention=RETENTION, retention_bytes=3 * (48 + 16))
    for _ in range(5):
        topic.append(b"1234567890")
        clock.advance(1)
    assert offsets(topic) == [2, 3, 4]
    clock.advance(RETENTION - 2)
    assert offsets(topic) == [4]


# Once it is empty


def test_an_emptied_partition_goes_on_where_it_was(clock: Clock, log_path: Path) -> None:
    """Next offset, last time and size survive removal, reopening, compaction and backup."""
    with eventlog.open(log_path, clock=clock) as log:
        topic = kept(embedded(log), retention=RETENTION)
        topic.append_batch([b"a", b"b", b"c"])
        last = clock.now
        clock.advance(RETENTION)
        assert topic.expire() == 3
        log.compact()
        log.backup(log_path.with_name("backup"))
    clock.advance(-5)  # and the clock goes back, too
    for path in (log_path, log_path.with_name("backup")):
        with eventlog.open(path, clock=clock) as log:
            topic = log.topic("cars")
            info = topic.partition_info(0)
            assert (info.beginning_offset, info.next_offset, info.is_empty) == (3, 3, True)
            assert (info.last_enqueued_offset, info.last_enqueued_at) == (2, last)
            assert info.size_bytes == 0
            with pytest.raises(OffsetOutOfRangeError):
                topic.read(0, 2)
            assert topic.read(0, 3) == []
            assert topic.append(b"d").offset == 3
            assert topic.partition_info(0).size_bytes == 48 + 7
            assert log.check().ok


def test_time_does_not_go_back_over_an_emptied_partition(log: EmbeddedLog, clock: Clock) -> None:
    """What is appended with a clock that was set back gets the last time there was."""
    topic = kept(log, retention=RETENTION)
    topic.append(b"a")
    then = clock.now
    clock.advance(RETENTION)
    topic.expire()
    clock.advance(-2 * RETENTION)
    assert topic.append(b"b").enqueued_at == then


# Removing


def test_expire_says_how_many_events_it_removed(log: EmbeddedLog, clock: Clock) -> None:
    """Those of all partitions, once, and of this topic only."""
    topic = kept(log, partitions=3, retention=RETENTION)
    other = log.create_topic("other", partitions=1, retention=RETENTION)
    for partition in range(3):
        topic.append_batch([b"x"] * (partition + 1), partition=partition)
    other.append(b"x")
    clock.advance(RETENTION)
    before = rows(log)
    assert topic.expire() == 6
    assert rows(log) == before - 3 + 3 * FLOOR_ROWS
    assert topic.expire() == 0
    assert other.expire() == 1


def test_expire_removes_nothing_that_can_be_read(log: EmbeddedLog, clock: Clock) -> None:
    """On a topic that keeps for ever, or with nothing expired, it does nothing."""
    topic = kept(log)
    topic.append(b"a")
    clock.advance(1e9)
    assert topic.expire() == 0
    topic.configure(retention=2e9)
    assert topic.expire() == 0
    assert offsets(topic) == [0]


def test_a_handle_that_has_not_looked_yet_expires_added_partitions_too(
    log: EmbeddedLog, clock: Clock
) -> None:
    """`expire` goes by the topic as it is now, not as the handle saw it last."""
    topic = kept(log, retention=RETENTION)
    old = log.topic("cars")
    with pytest.warns(UserWarning, match="keys move"):
        topic.add_partitions(1)
    topic.append(b"a", partition=1)
    clock.advance(RETENTION)
    assert old.expire() == 1


def test_appending_removes_what_expires(log: EmbeddedLog, clock: Clock) -> None:
    """Nobody need call `expire`: with steady appends the rows stay as many as are kept."""
    topic = kept(log, retention=RETENTION)
    highest = 0
    for _ in range(5 * RETENTION):
        topic.append_batch([bytes(100)] * 100)
        highest = max(highest, rows(log))
        clock.advance(1)
    others = 2 + FLOOR_ROWS  # the log's and the topic's record
    chunks = -(-(100 * 102 + 48) // 4080)
    assert highest <= others + (RETENTION + 1) * chunks


def removed_by_each_commit(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]
) -> list[int]:
    """How many rows fewer there are after each commit that `call` makes."""
    removed: list[int] = []
    transact = Committer._transact

    def counted(self: Committer, group: Any) -> None:
        before = rows(log)
        transact(self, group)
        removed.append(before - rows(log))

    with monkeypatch.context() as patch:
        patch.setattr(Committer, "_transact", counted)
        call()
    return removed


@pytest.mark.parametrize("chunks", [1, 7, 100, STEP_ROWS - 1, STEP_ROWS + 1, 3 * STEP_ROWS])
def test_expire_removes_so_many_rows_in_a_commit_and_no_more(
    log: EmbeddedLog, clock: Clock, monkeypatch: pytest.MonkeyPatch, chunks: int
) -> None:
    """However large the batches are, other writers never wait for more than a step."""
    topic = kept(log, retention=RETENTION)
    count = 2 * STEP_ROWS // chunks + 3
    for _ in range(count):
        topic.append(bytes(chunks * 4080 - 60))
    clock.advance(RETENTION)
    before = rows(log)
    expired: list[int] = []
    removed = removed_by_each_commit(log, monkeypatch, lambda: expired.append(topic.expire()))
    assert expired == [count]
    assert sum(removed) == count * chunks - FLOOR_ROWS
    assert before - rows(log) == sum(removed)
    assert max(removed) <= STEP_ROWS
    assert len(removed) <= -(-count * chunks // STEP_ROWS) + 2


def test_an_append_removes_a_bounded_number_of_rows_in_each_commit(
    log: EmbeddedLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small append after a long pause is not the one that pays for it all."""
    topic = kept(log, partitions=4, retention=RETENTION)
    for partition in range(4):
        for _ in range(20):
            topic.append(bytes(200_000), partition=partition)
    clock.advance(RETENTION)
    small = removed_by_each_commit(log, monkeypatch, lambda: topic.append(b"", partition=0))
    assert max(small) <= 3
    for body in (bytes(100_000), bytes(3_000_000)):
        append = partial(topic.append, body, partition=1)
        assert max(removed_by_each_commit(log, monkeypatch, append)) <= STEP_ROWS
    everywhere = [Event(b"", key=str(number)) for number in range(100)]
    many = removed_by_each_commit(log, monkeypatch, lambda: topic.append_batch(everywhere))
    assert max(many) <= STEP_ROWS


def test_appends_that_share_a_commit_share_its_step(
    log: EmbeddedLog, clock: Clock, committer: Committer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many callers at once do not make the commit long for each other."""
    topic: Any = kept(log, partitions=8, retention=RETENTION)
    for partition in range(8):
        for _ in range(4):
            topic.append(bytes(400_000), partition=partition)
    clock.advance(RETENTION)

    def together(writer: Writer) -> None:
        """What a group commit is: several appends in one transaction."""
        state = topic.state
        for partition in range(8):
            parts = prepare(state, gather_one(bytes(400_000), None, None), partition)
            topic.appender.write(writer, state, parts)

    (removed,) = removed_by_each_commit(
        log, monkeypatch, lambda: committer.run(together, timeout=10)
    )
    added = 8 * (-(-(400_000 + 56) // 4080) + FLOOR_ROWS)
    assert removed + added <= STEP_ROWS + 8 * FLOOR_ROWS


def test_deleting_a_topic_removes_a_bounded_number_of_rows_in_each_commit(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it held."""
    topic = kept(log)
    others = rows(log) - 1
    topic.append_batch([bytes(1000)] * 5000)
    removed = removed_by_each_commit(log, monkeypatch, lambda: log.delete_topic("cars"))
    assert rows(log) == others
    assert max(removed) <= STEP_ROWS + 1


def test_what_a_killed_deletion_left_goes_with_later_appends(
    clock: Clock, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A topic marked as deleted is removed bit by bit by whoever writes, or by `expire`."""
    with eventlog.open(log_path, clock=clock) as plain:
        log = embedded(plain)
        log.create_topic("left", partitions=1).append_batch([bytes(1000)] * 5000)
        kept(log)

        def mark(writer: Writer) -> None:
            record = writer.get(keys.topic_key("left"))
            assert record is not None
            writer.put(keys.deleted_key(1), record)
            writer.delete(keys.topic_key("left"))

        log.environment.committer.run(mark, timeout=10)
    with eventlog.open(log_path, clock=clock) as plain:
        log = embedded(plain)
        assert [topic.name for topic in log.topics()] == ["cars"]
        topic = log.topic("cars")
        before = rows(log)
        removed = removed_by_each_commit(
            log, monkeypatch, lambda: [topic.append(b"") for _ in range(5)]
        )
        assert rows(log) < before
        assert max(removed) <= STEP_ROWS
        topic.expire()
        assert rows(log) == 2 + 5


# What takes several steps


def begun_to_remove(log: EmbeddedLog, clock: Clock) -> Topic:
    """A topic whose only old event is larger than a step, one step after it expired."""
    topic = kept(log, retention=RETENTION)
    topic.append(bytes(3 * STEP_ROWS * 4080))
    clock.advance(RETENTION - 1)
    topic.append(b"live")
    clock.advance(1)
    before = rows(log)
    any_topic: Any = topic
    any_topic.appender._expire_step(0)
    assert before - STEP_ROWS <= rows(log) < before
    return topic


def test_an_event_of_which_a_part_was_removed_is_gone_for_good(
    log: EmbeddedLog, clock: Clock
) -> None:
    """Neither a longer retention nor a clock that goes back shows the rest of it."""
    topic = begun_to_remove(log, clock)
    changes: list[Callable[[], None]] = [
        lambda: None,
        lambda: clock.advance(-5),
        lambda: topic.configure(retention=None),
        log.compact,
    ]
    for change in changes:
        change()
        assert offsets(topic) == [1]
        assert topic.partition_info(0).beginning_offset == 1
        assert topic.partition_info(0).size_bytes == 48 + 10
        report = log.check()
        assert report.ok
        assert (report.batches, report.events) == (1, 1)


def test_the_rest_of_an_event_is_removed_later_and_counted_once(
    log: EmbeddedLog, clock: Clock
) -> None:
    """`expire` finishes what an earlier step began, even if nothing would expire any more."""
    topic = begun_to_remove(log, clock)
    topic.configure(retention=None)
    assert topic.expire() in (0, 1)
    assert rows(log) == 2 + FLOOR_ROWS + 1
    assert topic.expire() == 0


# The file


def used_bytes(log: EmbeddedLog) -> int:
    """How long the file must be for what is in it."""
    environment = log.environment.lmdb
    pages, page_bytes = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
    return int(pages * page_bytes)


@pytest.mark.parametrize("by", ["time", "size"])
@pytest.mark.parametrize("partitions", [1, 4])
def test_under_rolling_retention_the_file_keeps_its_size(
    clock: Clock, log_path: Path, by: str, partitions: int
) -> None:
    """With batches of 1000 events it stays within 1.2 times of what is retained."""
    batch = [Event(b"%0100d" % number, key=str(number)) for number in range(1000)]
    retained_batches = 200
    with eventlog.open(log_path, durability="process", clock=clock) as plain:
        log = embedded(plain)
        topic = kept(log, partitions=partitions)
        for _ in range(retained_batches):
            topic.append_batch(batch)
            clock.advance(1)
        infos = [topic.partition_info(number) for number in range(partitions)]
        retained = sum(info.size_bytes for info in infos)
        if by == "time":
            topic.configure(retention=retained_batches)
        else:
            topic.configure(retention_bytes=max(info.size_bytes for info in infos))
        for _ in range(3 * retained_batches):
            topic.append_batch(batch)
            clock.advance(1)
        assert used_bytes(log) <= 1.2 * retained
        assert log_path.joinpath("events-1.mdb").stat().st_size <= 1.2 * retained
        assert log.check().ok


# Damage


def break_row(log: EmbeddedLog, last_offset: int, how: str) -> None:
    """Damage the batch of topic 1, partition 0, that ends at `last_offset`."""
    key = keys.encode_batch_key(1, 0, last_offset)

    def work(writer: Writer) -> None:
        value = writer.get(key)
        assert value is not None
        if how == "header":
            writer.put(key, value[:5] + bytes([value[5] ^ 1]) + value[6:])
        elif how == "payload":
            writer.put(key, value[:-1] + bytes([value[-1] ^ 1]))
        else:
            writer.delete(key)

    log.environment.committer.run(work, timeout=10)


@pytest.mark.parametrize("how", ["header", "payload", "first chunk"])
@pytest.mark.parametrize("size", [10, 3000])
def test_a_damaged_first_batch_expires_like_the_others(
    log: EmbeddedLog, clock: Clock, how: str, size: int
) -> None:
    """It goes when its time has come or, where that cannot be read, with the one behind it."""
    topic = kept(log, retention=RETENTION)
    for _ in range(3):
        topic.append_batch([bytes(size)] * 10)
        clock.advance(1)
    if how != "first chunk" or size > 1000:  # else nothing would be left of it
        break_row(log, 9, how)
        assert not log.check().ok
    clock.advance(RETENTION - 2)
    assert offsets(topic) == list(range(20, 30))
    assert topic.expire() in (11, 20)
    assert topic.partition_info(0).beginning_offset == 20
    assert log.check().ok
    clock.advance(2)
    topic.expire()
    assert rows(log) == 2 + FLOOR_ROWS
    assert topic.append(b"next").offset == 30


@pytest.mark.parametrize("how", ["header", "payload"])
def test_a_damaged_batch_that_is_the_only_one_goes_after_the_next_append(
    log: EmbeddedLog, clock: Clock, how: str
) -> None:
    """As long as nothing tells when it was appended it stays; then it goes with what does."""
    topic = kept(log, retention=RETENTION)
    topic.append_batch([b"x"] * 10)
    break_row(log, 9, how)
    clock.advance(2 * RETENTION)
    topic.expire()
    assert topic.append(b"next").offset == 10
    clock.advance(RETENTION)
    topic.expire()
    assert topic.partition_info(0).is_empty
    assert rows(log) == 2 + FLOOR_ROWS


@pytest.mark.parametrize("last_offset", [13, 25, 3, 0, 19])
def test_a_batch_filed_under_a_damaged_key_is_removed_in_the_end(
    log: EmbeddedLog, clock: Clock, last_offset: int
) -> None:
    """A flipped bit in a key stops neither `expire` nor what is appended later."""
    topic = kept(log, retention=RETENTION)
    for _ in range(3):
        topic.append_batch([b"x"] * 10)
        clock.advance(1)
    right, wrong = (keys.encode_batch_key(1, 0, offset) for offset in (9, last_offset))

    def misfile(writer: Writer) -> None:
        value = writer.get(right)
        assert value is not None
        writer.delete(right)
        if writer.get(wrong) is None:
            writer.put(wrong, value)

    log.environment.committer.run(misfile, timeout=10)
    assert not log.check().ok
    clock.advance(2 * RETENTION)
    topic.expire()
    assert rows(log) == 2 + FLOOR_ROWS
    assert topic.append(b"next").offset == 30
    assert offsets(topic) == [30]
