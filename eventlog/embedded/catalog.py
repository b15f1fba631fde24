"""The records of a log's topics, and of the log itself, as they are stored: JSON one can read."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import lmdb
import msgspec

from eventlog.embedded import keys
from eventlog.embedded.partition import Retention
from eventlog.errors import NotALogError
from eventlog.topic_settings import Compression

__all__ = [
    "LogRecord",
    "TopicRecord",
    "has_deleted",
    "read_log_record",
    "read_topics",
]

_R = TypeVar("_R")


class TopicRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a topic; see `EventLog.create_topic`. Times are in microseconds."""

    id: int
    name: str
    partitions: int
    retention_us: int | None
    retention_bytes: int | None
    compression: Compression
    partitioner: str
    max_event_bytes: int
    created_us: int

    def encode(self) -> bytes:
        """Its bytes."""
        return keys.sealed(msgspec.json.encode(self))

    @classmethod
    def decode(cls, value: bytes | memoryview) -> TopicRecord:
        """The inverse of `encode`."""
        return _decode(value, cls)

    def retention(self, now_us: int) -> Retention:
        """What may still be read at `now_us`."""
        cutoff = None if self.retention_us is None else now_us - self.retention_us
        return Retention(cutoff, self.retention_bytes)


class LogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored of a log itself."""

    next_topic_id: int = 1

    def encode(self) -> bytes:
        """Its bytes."""
        return keys.sealed(msgspec.json.encode(self))

    @classmethod
    def decode(cls, value: bytes | memoryview | None) -> LogRecord:
        """The inverse of `encode`; a log without topics has none yet."""
        return cls() if value is None else _decode(value, cls)


def _decode(value: bytes | memoryview, kind: type[_R]) -> _R:
    try:
        record: _R = _decoders[kind].decode(keys.unsealed(value))
    except msgspec.MsgspecError as error:
        raise NotALogError(f"a record of the log is damaged: {error}") from error
    return record


# Made here, since msgspec crashes if two threads are the first to decode a type at the same time.
_decoders: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (TopicRecord, LogRecord)
}


def read_log_record(transaction: lmdb.Transaction) -> LogRecord:
    """The log's own record."""
    return LogRecord.decode(transaction.get(keys.LOG_KEY))


def read_topics(transaction: lmdb.Transaction) -> tuple[list[TopicRecord], list[str]]:
    """The records of all topics in the order of their names, and the names of damaged ones."""
    cursor = transaction.cursor()
    records, damaged = [], []
    if cursor.set_range(keys.TOPIC_PREFIX):
        for key, value in cursor.iternext():
            if bytes(key[:1]) != keys.TOPIC_PREFIX:
                break
            try:
                records.append(TopicRecord.decode(value))
            except NotALogError:
                damaged.append(bytes(key[1:]).decode(errors="replace"))
    return records, damaged


def has_deleted(transaction: lmdb.Transaction) -> bool:
    """Whether a deleted topic has left anything that is still to be removed."""
    cursor = transaction.cursor()
    found = cursor.set_range(keys.DELETED_PREFIX)
    return found and bytes(cursor.key()).startswith(keys.DELETED_PREFIX)
