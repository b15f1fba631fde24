"""A reader that is interrupted while it takes events of librdkafka skips none."""

from __future__ import annotations

import linecache
import random
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Final, Self

from eventlog import EventLog
from eventlog.kafka.reading import drain, lane
from tests.kafka.reading import Writer, made
from tests.servers.kafka import Kafka

_INTERRUPTED: Final = {drain.__file__, lane.__file__}
_EVENTS: Final = 20_000


class Interrupted(BaseException):
    """As from a signal handler."""


class Interruption:
    """A block in whose thread the n-th line raises that is run for taking events."""

    def __init__(self, lines: int) -> None:
        self._left = lines

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> bool:
        sys.settrace(self._before)
        return kind is Interrupted

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._ran if frame.f_code.co_filename in _INTERRUPTED else None

    def _ran(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line" and not _is_with(frame):
            self._left -= 1
            if not self._left:
                raise Interrupted
        return self._ran


def _is_with(frame: FrameType) -> bool:
    """Whether a block begins or ends there: no signal handler is run before a lock is let go."""
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return line.lstrip().startswith("with ")


def test_no_event_is_skipped_wherever_a_signal_handler_raises(
    kafka: Kafka, kafka_log: EventLog
) -> None:
    """Nor handed out twice, to whoever goes on iterating afterwards."""
    chance = random.Random(20261122)
    topic = made(kafka_log, partitions=2)
    for partition in range(2):
        Writer(kafka, topic.name).write([bytes(1000)] * _EVENTS, partition)
    following = [0, 0]
    with topic.consumer(end=dict.fromkeys(range(2), _EVENTS), prefetch_bytes=2**17) as consumer:
        events: Iterator[Any] = iter(consumer)
        interrupted = 0
        while following != [_EVENTS, _EVENTS]:
            with Interruption(chance.randrange(1, 300)):
                for event in events:
                    assert event.offset == following[event.partition]
                    following[event.partition] += 1
                events = iter(consumer)
                continue
            interrupted += 1
            events = iter(consumer)
    assert interrupted > 50
