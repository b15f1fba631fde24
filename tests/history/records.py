"""What processes note: one line per record, each process in a file of its own.

A record is handed to the kernel before the program goes on, so SIGKILL loses none that was
written. What takes a moment is noted twice: before it begins, and when its outcome is known, then
with the time at which it had begun. So a process that dies in between leaves its intention behind,
and the checker knows that the thing may have happened or not.
"""

from __future__ import annotations

import enum
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import msgspec

__all__ = ["Kind", "Record", "Recorder", "Source", "read_records"]

Source: TypeAlias = tuple[str, int, int]
"""The event that another one was made from: topic, partition, offset."""

_SUFFIX = ".history"


class Kind(enum.StrEnum):
    """What a record tells of."""

    SENDING = enum.auto()
    """An event is handed to the log: `label`, and what it belongs to."""
    ACKNOWLEDGED = enum.auto()
    """It is stored, at `partition` and `offset`."""
    DUPLICATE = enum.auto()
    """It was stored before, says the log."""
    REFUSED = enum.auto()
    """It is not stored, says the log."""
    RESUMED = enum.auto()
    """The actor is the producer `producer_id` from now on, and was told the last `sequence`."""

    STARTED = enum.auto()
    """The actor begins to read a partition; at `offset`, unless its group has a checkpoint. -1:
    nobody knows where."""
    READ = enum.auto()
    """It was given the event at `offset`, with `label`."""
    LOST = enum.auto()
    """It was told that events `offset` to `last` are lost."""
    ENDED = enum.auto()
    """It was told that nothing was there from `offset` on."""

    CHECKPOINTING = enum.auto()
    """`offset` is to become the checkpoint of `group`; with `transaction`, when that commits."""
    CHECKPOINTED = enum.auto()
    """It has."""
    OBSERVED = enum.auto()
    """Somebody who looked was told that `group` is at `offset`; -1: at no event yet."""
    RESETTING = enum.auto()
    """A person makes `offset` the checkpoint."""
    RESET = enum.auto()
    """It was."""

    CLOSED = enum.auto()
    """The actor, a host, is done with `partition` in good order, and has finished all up to
    `offset`."""
    PAUSED = enum.auto()
    """Somebody stops the process whose actors' names begin with this one's and a ``/``."""

    COMMITTING = enum.auto()
    """The `transaction` is complete, and its commit begins."""
    COMMITTED = enum.auto()
    """It has been committed."""
    ROLLED_BACK = enum.auto()
    """Nothing of it was."""

    DELETING = enum.auto()
    """Somebody deletes the topic."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that an actor noted.

    Attributes:
        actor: who: one thread of a process, one consumer. A restarted one is another actor.
        at: when it was noted, on the machine's monotonic clock.
        since: when that which it is the outcome of was begun.
        label: what tells an event from all others; its body begins with it.
        source: the event it was made from, by a pipeline that makes one of each exactly once.
        epoch: of a host that begins to read a partition that it owns.
    """

    kind: Kind
    actor: str
    at: float
    since: float = -1.0
    topic: str = ""
    partition: int = -1
    offset: int = -1
    last: int = -1
    label: str = ""
    sequence: int = -1
    producer_id: str = ""
    group: str = ""
    transaction: str = ""
    source: Source | None = None
    epoch: int = 0

    @property
    def begun(self) -> float:
        """When what it tells of began."""
        return self.at if self.since < 0 else self.since

    def __str__(self) -> str:
        fields = msgspec.to_builtins(self)
        fields.pop("kind")
        return f"{self.kind}({', '.join(f'{name}={value}' for name, value in fields.items())})"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)


class Recorder:
    """Writes records of this process into a file of its own in `directory`. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        path = directory / f"{os.getpid()}-{uuid.uuid4().hex}{_SUFFIX}"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def close(self) -> None:
        """Nothing more will be written."""
        os.close(self._file)

    def write(self, records: Iterable[Record]) -> None:
        """Write records, with one call of the kernel."""
        lines = bytearray()
        for record in records:
            lines += _encoder.encode(record)
            lines += b"\n"
        written = os.write(self._file, lines)
        assert written == len(lines), "the disk that histories are written to is full"

    def note(self, kind: Kind, actor: str, **fields: str | float | Source | None) -> float:
        """Write one record; its time, for the `since` of the record of its outcome."""
        at = time.monotonic()
        self.write([Record(kind=kind, actor=actor, at=at, **fields)])  # type: ignore[arg-type]
        return at


def read_records(directory: Path) -> list[Record]:
    """All records of all processes, in the order of their times.

    A process may have been killed in the middle of its last line; any other line that is not whole
    is an error.
    """
    records: list[Record] = []
    for path in sorted(directory.glob(f"*{_SUFFIX}")):
        *lines, _ = path.read_bytes().split(b"\n")
        records += map(_decoder.decode, lines)
    records.sort(key=lambda record: record.at)
    return records
