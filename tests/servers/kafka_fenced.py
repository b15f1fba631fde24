"""What a broker answers that has just started, and that its controller does not count yet: it is
*fenced*, and as it is the only one, there are no brokers, and no partition has a leader.

https://kafka.apache.org/protocol#The_Messages_Metadata, the versions whose lengths are varints.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["without_brokers"]

_OLDEST: Final = 10
_LEADER_NOT_AVAILABLE: Final = 5
_NOBODY: Final = -1


def without_brokers(message: bytes, version: int) -> bytes:
    """An answer to a Metadata request, with its size, as a fenced broker would give it."""
    assert version >= _OLDEST, version
    answer = _Answer(message)
    answer.at = 8  # the size, and the correlation id
    answer.skip_tags()
    answer.skip(4)  # how long it is throttled
    start = answer.at
    for _ in range(answer.count()):
        answer.skip(4)  # its id
        answer.skip_text()
        answer.skip(4)  # its port
        answer.skip_text()
        answer.skip_tags()
    end = answer.at
    answer.skip_text()  # the cluster's id
    answer.put("!i", _NOBODY)  # the controller
    for _ in range(answer.count()):
        _fence_topic(answer)
    body = bytes(answer.data[4:start]) + b"\x01" + bytes(answer.data[end:])
    return struct.pack("!i", len(body)) + body


def _fence_topic(answer: _Answer) -> None:
    answer.skip(2)  # its error
    answer.skip_text()
    answer.skip(16 + 1)  # its id, and whether it is internal
    for _ in range(answer.count()):
        answer.put("!h", _LEADER_NOT_AVAILABLE)
        answer.skip(4)  # its number
        answer.put("!i", _NOBODY)  # the leader
        answer.skip(4)  # the leader's epoch
        for _ in range(3):  # replicas: all, those in sync, those that are away
            answer.skip(4 * answer.count())
        answer.skip_tags()
    answer.skip(4)  # what may be done with it
    answer.skip_tags()


class _Answer:
    """Bytes, and a place in them."""

    def __init__(self, message: bytes) -> None:
        self.data = bytearray(message)
        self.at = 0

    def put(self, form: str, value: int) -> None:
        struct.pack_into(form, self.data, self.at, value)
        self.at += struct.calcsize(form)

    def number(self) -> int:
        """A varint."""
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def count(self) -> int:
        """How many follow."""
        return max(self.number() - 1, 0)

    def skip(self, size: int) -> None:
        self.at += size

    def skip_text(self) -> None:
        self.skip(self.count())

    def skip_tags(self) -> None:
        for _ in range(self.number()):
            self.number()
            self.skip(self.number())
