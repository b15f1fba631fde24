"""A consumer that is moved to where its lane ends, which is full of what it does not want."""

from __future__ import annotations

import eventlog
from tests.kafka.reading import Writer, fetchers_of, made, until
from tests.servers.kafka import Kafka


def test_who_is_moved_behind_what_was_read_ahead_gets_what_is_there(kafka: Kafka) -> None:
    """Although all that waits for it is before that place, and takes all the room there is."""
    with eventlog.open(kafka.location, timeout=5) as log:
        topic = made(log)
        Writer(kafka, topic.name).write([bytes(1000)] * 50_000)
        with topic.consumer(prefetch_bytes=2**16) as consumer:
            assert next(consumer).offset == 0
            (fetcher,) = fetchers_of(topic)
            lane = fetcher.lanes[0]
            until(lambda: lane.is_full)
            behind = -1
            while behind != lane.next:  # it may still be filled
                behind = lane.next
                consumer.seek(0, behind)
            assert next(consumer).offset == behind
