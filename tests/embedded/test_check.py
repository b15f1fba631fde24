"""What check says of rows that do not belong in a log, and of a sound log that is in use."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

import lmdb
import pytest

import eventlog
from eventlog.embedded import check, engine, keys, walk
from eventlog.embedded.catalog import LogRecord, TopicRecord, read_topics
from eventlog.embedded.check import check_log
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.partition import Retention
from eventlog.embedded.retention import remove_deleted, trim
from eventlog.embedded.writer import Writer
from eventlog.log import CheckReport
from tests.embedded.damaging import SEED, Clock

T = TypeVar("T")

RETENTION = 60
SECOND = 1_000_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> Iterator[EmbeddedLog]:
    """A log in memory with one topic: one batch in its first partition, 16 chunks in another."""
    with eventlog.open("memory:", clock=clock) as log:
        assert isinstance(log, EmbeddedLog)
        cars = log.create_topic("cars", partitions=2, compression="none")
        cars.append_batch([b"x", b"y"], partition=0)
        cars.append_batch([bytes(1000)] * 64, partition=1)
        yield log


def put(log: EmbeddedLog, *rows: tuple[bytes, bytes]) -> None:
    """Rows that nothing else would make."""

    def work(writer: Writer) -> None:
        for key, value in rows:
            writer.put(key, value)

    log.commit(work)


def take(log: EmbeddedLog, key: bytes) -> bytes:
    """Remove a row; what stood in it."""

    def work(writer: Writer) -> bytes:
        value = writer.get(key)
        assert value is not None
        writer.delete(key)
        return value

    return log.commit(work)


# ---- Rows that do not belong ---------------------------------------------------------------------


def batch_key(topic_id: int, partition: int, last_offset: int, chunk: int = 0) -> bytes:
    return keys.encode_batch_key(topic_id, partition, last_offset, chunk)


def record(name: str, number: int) -> bytes:
    return TopicRecord(
        id=number,
        name=name,
        partitions=1,
        retention_us=None,
        retention_bytes=None,
        compression="none",
        partitioner="eventhubs",
        max_event_bytes=1,
        created_us=0,
    ).encode()


NOWHERE = ("", -1, -1, -1)
FLOOR = keys.Floor(0, 0, 0, 0).encode()
STRAYS = {
    "an unknown letter": (b"X", b"", NOWHERE, "row 58: its key begins with a letter"),
    "no chunk number": (batch_key(1, 0, 0)[:15], b"", NOWHERE, "its key has 15 bytes"),
    "a byte more": (keys.floor_key(1, 0) + b"\0", FLOOR, NOWHERE, "its key has 8 bytes"),
    "a log's record with a name": (b"Lx", b"", NOWHERE, "its key has 2 bytes"),
    "a batch of no topic": (batch_key(9, 0, 5), b"", NOWHERE, "there is no topic of number 9"),
    "a floor of no topic": (keys.floor_key(9, 0), FLOOR, NOWHERE, "there is no topic of number 9"),
    "a producer of no topic": (
        keys.producer_key(9, "p"),
        keys.sealed(b""),
        NOWHERE,
        "there is no topic of number 9",
    ),
    "a batch of no partition": (
        batch_key(1, 2, 5),
        b"",
        NOWHERE,
        f"row {batch_key(1, 2, 5).hex()}: topic 'cars' has no partition 2",
    ),
    "a floor of no partition": (keys.floor_key(1, 2), FLOOR, NOWHERE, "has no partition 2"),
    "a chunk without a first": (batch_key(1, 0, 5, 1), b"", ("cars", 0, 2, 5), "chunk 0001"),
    "a chunk after a gap": (
        batch_key(1, 1, 63, 99),
        b"",
        ("cars", 1, 63, 63),
        "chunk 99 of it stands without chunk 98",
    ),
    "a batch without a header": (batch_key(1, 0, 5), b"", ("cars", 0, 2, 5), "first chunk has 0"),
    "a producer that is damaged": (
        keys.producer_key(1, "p"),
        b"unsealed",
        ("cars", -1, -1, -1),
        "its record is damaged",
    ),
    "a topic that is damaged": (b"Tbus", b"unsealed", ("bus", -1, -1, -1), "its record is damaged"),
    "a topic under another name": (
        b"Tbus",
        record("cab", 1),
        ("bus", -1, -1, -1),
        "its record is that of topic 'cab', number 1",
    ),
    "a deleted topic of another number": (
        keys.deleted_key(5),
        record("cab", 4),
        NOWHERE,
        "its record is that of topic 'cab', number 4",
    ),
    "a topic whose number will be given again": (
        b"Tbus",
        record("bus", 2),
        ("bus", -1, -1, -1),
        "its number, 2, is going to be given to another topic",
    ),
}


@pytest.mark.parametrize(("key", "value", "place", "reason"), STRAYS.values(), ids=STRAYS)
def test_a_row_that_does_not_belong_is_one_finding(
    log: EmbeddedLog, key: bytes, value: bytes, place: tuple[str, int, int, int], reason: str
) -> None:
    sound = log.check()
    put(log, (key, value))
    report = log.check()
    (damage,) = report.damaged
    assert damage[:4] == place
    assert reason in damage.reason
    assert (report.events, report.rows) == (sound.events, sound.rows + 1)


def test_a_damaged_floor_keeps_its_partition_from_being_read(log: EmbeddedLog) -> None:
    sound = log.check()
    put(log, (keys.floor_key(1, 0), FLOOR[1:]))
    report = log.check()
    assert [damage[:4] for damage in report.damaged] == [("cars", 0, -1, -1)]
    assert report.events == sound.events - 2


def test_the_logs_own_record_is_checked(log: EmbeddedLog) -> None:
    put(log, (keys.LOG_KEY, b"unsealed"))
    assert [damage.reason for damage in log.check().damaged] == [
        "row 4c: its record is damaged",
    ]
    put(log, (keys.LOG_KEY, LogRecord(next_topic_id=2).encode()))
    assert log.check().ok
    take(log, keys.LOG_KEY)
    (damage,) = log.check().damaged
    assert damage.topic == "cars"


def test_what_belongs_to_a_damaged_record_of_a_topic_is_not_told_besides(log: EmbeddedLog) -> None:
    put(log, (b"Tcars", b"unsealed"))
    assert [damage[:2] for damage in log.check().damaged] == [("cars", -1)]


def test_what_a_deleted_topic_left_belongs_to_it(log: EmbeddedLog) -> None:
    """Its rows go from the first on, chunk by chunk."""
    put(log, (keys.deleted_key(1), take(log, b"Tcars")))
    more = True
    while more:
        assert log.check().damaged == []
        more = log.commit(lambda writer: remove_deleted(writer, 1))
    assert all_keys(log) == [keys.LOG_KEY]


def test_a_damaged_blob_is_reported_once(log: EmbeddedLog) -> None:
    log.blobs.put("small", b"{}")
    log.blobs.put("large", bytes(10_000))
    assert log.check().ok
    put(log, (keys.blob_key("small"), b"unsealed"))
    take(log, next(key for key in all_keys(log) if key[:1] == keys.BLOB_CHUNK_PREFIX))
    damaged = log.check().damaged
    assert [damage[:4] for damage in damaged] == [NOWHERE] * 2
    assert "'large'" in damaged[0].reason
    assert "'small'" in damaged[1].reason


def all_keys(log: EmbeddedLog) -> list[bytes]:
    return log.look(lambda look: [bytes(key) for key in look.cursor().iternext(values=False)])


# ---- What floors tell ----------------------------------------------------------------------------


@pytest.fixture
def floored(log: EmbeddedLog, clock: Clock) -> EmbeddedLog:
    """The first partition has lost offsets 0 to 2, when it had 6; it has 9 now."""
    cars = log.topic("cars")
    cars.append(b"2", partition=0)
    clock.now_us += RETENTION * SECOND
    for _ in range(3):
        cars.append(b"young", partition=0)
    keep = Retention(clock.now_us - 1, None)
    log.commit(lambda writer: trim(writer, 1, 0, keep, 10))
    for _ in range(3):
        cars.append(b"younger", partition=0)
    assert cars.partition_info(0).beginning_offset == 3
    assert log.check().ok
    return log


def test_last_batches_that_are_gone_are_missed_if_a_floor_was_written_after_them(
    floored: EmbeddedLog,
) -> None:
    for offset in range(8, 5, -1):
        take(floored, batch_key(1, 0, offset))
        assert floored.check().ok  # nothing tells of it
    take(floored, batch_key(1, 0, 5))
    assert floored.check().damaged == [("cars", 0, 5, 5, "they are missing")]
    take(floored, batch_key(1, 0, 4))
    assert floored.check().damaged == [("cars", 0, 4, 5, "they are missing")]


def test_batches_before_what_their_floor_calls_the_beginning_are_reported(
    floored: EmbeddedLog,
) -> None:
    """As when it is another partition's floor."""
    floor = keys.Floor(6, 6, 0, 0)
    put(floored, (keys.floor_key(1, 0), floor.encode()))
    assert floored.check().damaged == [("cars", 0, 3, 5, "its floor says they were removed")]


# ---- A sound log in use --------------------------------------------------------------------------


def check_beside(log: EmbeddedLog, act: Callable[[], None]) -> CheckReport:
    """A check in which something happens after each of its transactions."""

    def look(do: Callable[[lmdb.Transaction], T], /) -> T:
        found = log.look(do)
        act()
        return found

    return check_log(look, log.now_us)


class Users:
    """Who uses a log: writes, removes, deletes and makes topics, a little at a time."""

    def __init__(
        self, log: EmbeddedLog, clock: Clock, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._log = log
        self._clock = clock
        self._source = random.Random(seed)
        self._topics = 0
        self.done = 0
        monkeypatch.setattr(engine, "remove_deleted", lambda *_: False)  # leave it to `remove`
        self._actions = (
            *([self.append] * 8),
            *([self.append_long] * 3),
            *([self.expire] * 8),
            *([self.remove] * 6),
            *([self.delete, self.create, self.grow, self.put_blob] * 2),
            self.compact,
        )
        for _ in range(5):
            self.create()
        for _ in range(60):
            self.append_long()

    def act(self) -> None:
        """Something, 300 times at most: then the check comes to its end."""
        if self.done < 300:
            self.done += 1
            self._source.choice(self._actions)()

    def append(self) -> None:
        topic = self._topic()
        topic.append(b"short", partition=self._source.randrange(topic.partitions))

    def append_long(self) -> None:
        topic = self._topic()
        bodies = [self._source.randbytes(5000) for _ in range(self._source.randrange(1, 5))]
        topic.append_batch(bodies, partition=self._source.randrange(topic.partitions))

    def expire(self) -> None:
        """In small steps, so that batches are there in part."""
        self._clock.now_us += self._source.randrange(10) * SECOND
        record = self._source.choice(self._log.look(read_topics)[0])
        partition, rows = self._source.randrange(record.partitions), self._source.randrange(1, 5)
        retention = record.retention(self._clock.now_us)
        self._log.commit(lambda writer: trim(writer, record.id, partition, retention, rows))

    def remove(self) -> None:
        """Some rows of a deleted topic."""
        rows = self._source.randrange(1, 8)
        self._log.commit(lambda writer: remove_deleted(writer, rows))

    def delete(self) -> None:
        if len(self._log.topics()) > 3:
            self._log.delete_topic(self._topic().name)

    def create(self) -> None:
        self._topics += 1
        name = f"{self._source.randrange(100)}-{self._topics}"
        self._log.create_topic(name, partitions=2, retention=RETENTION, compression="none")

    def grow(self) -> None:
        topic = self._topic()
        with pytest.warns(UserWarning, match="key"):
            topic.add_partitions(1)
        topic.append(b"first", partition=topic.partitions - 1)

    def put_blob(self) -> None:
        self._log.blobs.put(f"blob {self._source.randrange(5)}".replace(" ", "/"), bytes(9000))

    def compact(self) -> None:
        self._log.compact()

    def _topic(self) -> eventlog.Topic:
        return self._source.choice(self._log.topics())


@pytest.mark.parametrize("seed", range(SEED, SEED + 6))
def test_a_sound_log_in_use_is_never_found_damaged(
    log: EmbeddedLog, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(walk, "_ROWS_PER_TRANSACTION", 3)
    monkeypatch.setattr(check, "_BATCHES_PER_TRANSACTION", 2)
    users = Users(log, clock, seed, monkeypatch)
    for _ in range(4):
        users.done = 0
        assert check_beside(log, users.act).damaged == []
        assert users.done > 50
    assert log.check().damaged == []


def test_a_walk_that_nothing_disturbs_counts_every_row(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = len(all_keys(log))
    for pause in (1, 2, 5, 1000):
        monkeypatch.setattr(walk, "_ROWS_PER_TRANSACTION", pause)
        assert log.check().rows == rows
