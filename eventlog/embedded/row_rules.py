"""What every row of a log keeps to, by its key and its value, as one transaction sees it.

1. Its first letter is known, and its key as long as keys of that letter are.
2. There is a topic of its number, or one that is being deleted, and the topic has its partition.
3. A chunk of a batch stands behind the chunk before it.
4. A sealed value matches its seal, and its key.

Of a topic that is being deleted the rows go from the first on, so 3 does not hold there. Retention
removes the chunks of a batch from the last to the first, so 3 holds for what it leaves.

Payloads of batches and blobs are not looked at here: `eventlog.embedded.check` reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import lmdb

from eventlog.embedded import keys
from eventlog.embedded.batch import BatchDamagedError, Header
from eventlog.embedded.catalog import LogRecord, TopicRecord, read_topics
from eventlog.errors import NotALogError

__all__ = ["NOWHERE", "Place", "Rules"]

_CHECKED_ELSEWHERE: Final = (keys.BATCH_PREFIX, keys.BLOB_PREFIX)
_BATCH_KEY_BYTES: Final = len(keys.encode_batch_key(0, 0, 0))

Read: TypeAlias = Callable[[], bytes | memoryview]
"""Gives a row's value. It reads pages that its key does without: it is called where it must be."""


class Place(NamedTuple):
    """Where a row belongs by its key, as far as that can be told; see `eventlog.log.Damage`."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int


NOWHERE: Final = Place("", -1, -1, -1)


class Rules:
    """The rules, as the topics of one transaction make them."""

    def __init__(self, transaction: lmdb.Transaction) -> None:
        records, damaged = read_topics(transaction)
        self._topics = {record.id: record for record in records}
        self._deleted = _deleted_ids(transaction)
        self._all_known = not damaged
        self._partition = b""
        """How the keys of batches of a topic begin; most keys begin like the one before."""

    def fault_of_key(self, key: bytes, previous: bytes) -> str | None:
        """What is wrong with a key that stands behind `previous`; None if nothing is."""
        if key[:7] == self._partition and len(key) == _BATCH_KEY_BYTES:
            return _fault_of_chunk(key, previous)
        kind = keys.KINDS.get(key[:1])
        if kind is None:
            return "its key begins with a letter that none has"
        if len(key) not in kind.key_bytes:
            return f"its key has {len(key)} bytes, which none of its letter has"
        if kind.has_topic and (fault := self._fault_of_topic(kind, key)) is not None:
            return fault
        return _fault_of_chunk(key, previous) if key[:7] == self._partition else None

    def _fault_of_topic(self, kind: keys.Kind, key: bytes) -> str | None:
        topic_id = int.from_bytes(key[1:5])
        record = self._topics.get(topic_id)
        if record is None:
            # Where a topic's record is damaged, these may be its rows.
            is_known = topic_id in self._deleted or not self._all_known
            return None if is_known else f"there is no topic of number {topic_id}"
        if kind.has_partition and (partition := int.from_bytes(key[5:7])) >= record.partitions:
            return f"topic {record.name!r} has no partition {partition}"
        if key[:1] == keys.BATCH_PREFIX:
            self._partition = key[:7]
        return None

    def fault_of_value(self, key: bytes, read: Read) -> str | None:
        """What is wrong with the value of a record; None if nothing is, or if it is none."""
        if key[:1] in _CHECKED_ELSEWHERE or not keys.KINDS[key[:1]].is_sealed:
            return None
        try:
            return _fault_of_record(key, read())
        except NotALogError:
            return "its record is damaged"

    def place(self, key: bytes, read: Read) -> Place:
        """Where a row belongs. Its value is read if it is a batch's, for the count of events."""
        if key[:1] == keys.TOPIC_PREFIX:
            return NOWHERE._replace(topic=key[1:].decode(errors="replace"))
        kind = keys.KINDS.get(key[:1])
        record = self._topics.get(int.from_bytes(key[1:5]))
        if kind is None or record is None or not kind.has_topic or len(key) not in kind.key_bytes:
            return NOWHERE
        partition = int.from_bytes(key[5:7]) if kind.has_partition else -1
        if partition >= record.partitions:
            return NOWHERE
        if key[:1] != keys.BATCH_PREFIX:
            return Place(record.name, partition, -1, -1)
        last = keys.BatchKey.decode(key).last_offset
        return Place(record.name, partition, last + 1 - _count(key, read()), last)


def _fault_of_chunk(key: bytes, previous: bytes) -> str | None:
    number = int.from_bytes(key[-keys.CHUNK_NUMBER_BYTES :])
    batch = key[: -keys.CHUNK_NUMBER_BYTES]
    if not number or previous == batch + keys.encode_chunk_number(number - 1):
        return None
    return f"chunk {number} of it stands without chunk {number - 1}"


def _fault_of_record(key: bytes, value: bytes | memoryview) -> str | None:
    """What is wrong with a sealed value; it may be whole, and stand under another's key.

    Raises:
        NotALogError: it does not match its seal, or cannot be read.
    """
    if key[:1] == keys.TOPIC_PREFIX:
        record = TopicRecord.decode(value)
        return _fault_of_number(record, is_own=keys.topic_key(record.name) == key)
    if key[:1] == keys.DELETED_PREFIX:
        record = TopicRecord.decode(value)
        return _fault_of_number(record, is_own=keys.deleted_key(record.id) == key)
    if key == keys.LOG_KEY:
        LogRecord.decode(value)
    else:
        keys.unsealed(value)
    return None


def _fault_of_number(record: TopicRecord, *, is_own: bool) -> str | None:
    return None if is_own else f"its record is that of topic {record.name!r}, number {record.id}"


def _count(key: bytes, value: bytes | memoryview) -> int:
    """How many events a batch has; 1 if that cannot be told."""
    try:
        return Header.decode(key, value).count
    except BatchDamagedError:
        return 1


def _deleted_ids(transaction: lmdb.Transaction) -> set[int]:
    cursor = transaction.cursor()
    found = set()
    if cursor.set_range(keys.DELETED_PREFIX):
        for key in cursor.iternext(values=False):
            if bytes(key[:1]) != keys.DELETED_PREFIX:
                break
            found.add(int.from_bytes(key[1:5]))
    return found
