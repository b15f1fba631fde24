"""What the processes tell the one that started them, a line of JSON each, on their output.

Times are those of `time.monotonic`, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import os
import sys
import time

import msgspec

__all__ = ["Closed", "Loaded", "Opened", "Refused", "Replayed", "Report", "Status", "Stopping"]
__all__ += ["decode", "send"]


class _Report(msgspec.Struct, kw_only=True, tag=True):
    at: float = msgspec.field(default_factory=time.monotonic)


class Loaded(_Report):
    """The producer has read the file."""

    flights: int


class Replayed(_Report):
    """The producer has appended so many flights, the last of them due then."""

    flights: int
    due: str


class Opened(_Report):
    """A worker owns a partition, and begins there."""

    partition: int
    epoch: int


class Closed(_Report):
    """A worker is done with a partition."""

    partition: int
    epoch: int
    reason: str


class Stopping(_Report):
    """A worker stops itself (SIGSTOP) right after this, with a batch in its hands."""

    partition: int


class Refused(_Report):
    """A worker was not allowed to commit a batch."""

    partition: int
    epoch: int
    error: str


class Status(_Report):
    """How a worker is, a few times a second."""

    health: str
    counted: int


Report = Loaded | Replayed | Opened | Closed | Stopping | Refused | Status

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def send(report: Report) -> None:
    """Tell; from any thread, since a short line goes into a pipe whole.

    Raises:
        BrokenPipeError: nobody listens any more.
    """
    os.write(sys.stdout.fileno(), _encoder.encode(report) + b"\n")


def decode(line: bytes) -> Report:
    """What a line tells."""
    return _decoder.decode(line)
