"""What a log keeps of a topic's producers with names: who is the live one, and how far it came.

One record for each, written in the transaction that stores the producer's events: what it says is
stored is stored, whatever was acknowledged. A topic keeps at most 10,000; when it has as many, the
one that was not written for longest makes room for the next, if that is longer than a week.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from eventlog.embedded import keys
from eventlog.embedded.writer import Writer
from eventlog.errors import EventLogError, ProducerFencedError, UnsupportedOperationError
from eventlog.producing.outlet import Identity

__all__ = ["KEPT_US", "MAX_PRODUCERS", "ProducerRecord", "check", "note", "register"]

MAX_PRODUCERS: Final = 10_000
KEPT_US: Final = 7 * 24 * 3600 * 1_000_000

_record = struct.Struct(">Qqq")


class ProducerRecord(NamedTuple):
    """What is kept of one producer.

    `epoch` grows with each that registers under its name; the first one's is when that was, in
    microseconds. `stored_us` is when it last stored something, or registered first.
    """

    epoch: int
    last_sequence: int = -1
    stored_us: int = 0

    def encode(self) -> bytes:
        """Its 32 bytes, sealed."""
        return keys.sealed(_record.pack(*self))

    @classmethod
    def decode(cls, value: bytes) -> ProducerRecord:
        """The inverse of `encode`."""
        return cls._make(_record.unpack(keys.unsealed(value)))


def register(writer: Writer, topic_id: int, producer_id: str) -> ProducerRecord:
    """Let a new producer be the live one of its name.

    Raises:
        UnsupportedOperationError: the topic has as many as it keeps.
    """
    key = keys.producer_key(topic_id, producer_id)
    value = writer.get(key)
    if value is None:
        _make_room(writer, topic_id)
    if value is None:  # a time, since one that was dropped may live on: it had a lower epoch
        record = ProducerRecord(max(writer.now_us, 1), stored_us=writer.now_us)
    else:
        record = ProducerRecord.decode(value)
        record = record._replace(epoch=record.epoch + 1, stored_us=writer.now_us)
    writer.put(key, record.encode())
    return record


def _make_room(writer: Writer, topic_id: int) -> None:
    """Where there are as many records as are kept, remove one that nobody wrote for long."""
    rows = [
        (ProducerRecord.decode(value).stored_us, key)
        for key, value in writer.rows(keys.producer_key(topic_id, ""))
    ]
    if len(rows) < MAX_PRODUCERS:
        return
    stored_us, oldest = min(rows)
    if writer.now_us - stored_us <= KEPT_US:
        raise UnsupportedOperationError(
            f"a topic keeps the state of at most {MAX_PRODUCERS:,} producers with names; that of "
            "one may be dropped when it has stored nothing for a week"
        )
    writer.delete(oldest)


def check(writer: Writer, topic_id: int, identity: Identity) -> None:
    """Refuse a producer that is not the live one of its name any more.

    Raises:
        ProducerFencedError: it is not; or it was idle for so long that it is not known any more.
        EventLogError: more is stored of it than it was told; nothing may be stored twice.
    """
    value = writer.get(keys.producer_key(topic_id, identity.producer_id))
    if value is None:
        raise ProducerFencedError(
            f"the producer_id {identity.producer_id!r} was not used for so long that others took "
            "its place: this producer stores nothing more; open another"
        )
    record = ProducerRecord.decode(value)
    if record.epoch != identity.epoch:
        raise ProducerFencedError(
            f"a later producer was opened with the producer_id {identity.producer_id!r}: this one "
            "stores nothing more"
        )
    if record.last_sequence != identity.last_sequence:
        raise EventLogError(
            f"producer {identity.producer_id!r} has stored up to {record.last_sequence}, and not "
            f"{identity.last_sequence} as it was told: open it again to go on"
        )


def note(writer: Writer, topic_id: int, producer_id: str, record: ProducerRecord) -> None:
    """Keep how far a producer came."""
    writer.put(keys.producer_key(topic_id, producer_id), record.encode())
