"""What a `Consumer` of a topic on a cluster reads from."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eventlog.appending import check_partition
from eventlog.consuming.source import Look, ParsedPosition, Request, Source, Span
from eventlog.kafka.cluster import EARLIEST as FIRST
from eventlog.kafka.cluster import LATEST as LAST
from eventlog.kafka.cluster import Spec
from eventlog.kafka.reading.fetch import Fetch, ReaderLanes
from eventlog.kafka.reading.news import KafkaWatch
from eventlog.kafka.reading.positions import offset_for, spec_for

if TYPE_CHECKING:
    from eventlog.kafka.topic import KafkaTopic
    from eventlog.transaction import Transaction
    from eventlog.waiting import Watch

__all__ = ["KafkaSource"]


class KafkaSource(Source):
    """See `Source`."""

    def __init__(self, topic: KafkaTopic) -> None:
        self._topic = topic
        self._reader = ReaderLanes(topic.log.fetchers.of(topic))
        self._release = weakref.finalize(self, self._reader.end)
        self._release.atexit = False

    @property
    def name(self) -> str:
        return self._topic.name

    @property
    def brief_bytes(self) -> int:
        return 0

    def check_open(self) -> None:
        self._topic.log.check_open()

    def now_us(self) -> int:
        return self._topic.log.now_us()

    def partitions(self) -> int:
        return self._topic.refresh().record.partitions

    def resolve(
        self,
        starts: Mapping[int, ParsedPosition],
        ends: Mapping[int, ParsedPosition],
    ) -> dict[int, Span]:
        topic = self._topic
        record = topic.current().record
        if any(partition >= record.partitions for partition in starts):
            record = topic.refresh().record
        asked: list[tuple[int, Spec]] = []
        for partition, start in starts.items():
            check_partition(record, partition)
            asked += [(partition, FIRST), (partition, LAST), (partition, spec_for(start))]
            if partition in ends:
                asked.append((partition, spec_for(ends[partition])))
        answers = iter(topic.log.cluster.offsets(topic.name, asked))
        spans = {}
        for partition, start in starts.items():
            beginning, following = next(answers).offset, next(answers).offset
            begin = offset_for(topic, partition, start, next(answers), following)
            stop = None
            if partition in ends:
                stop = offset_for(topic, partition, ends[partition], next(answers), following)
            spans[partition] = Span(beginning, following, begin, stop)
        return spans

    def transaction(self) -> Transaction:
        return self._topic.log.transaction()

    def watch(self, partitions: Sequence[int]) -> Watch:  # noqa: ARG002 - it reads no others
        return KafkaWatch(self._reader.news, self._release)

    # Fetching

    def fetch(self, request: Request) -> Look:
        return Fetch(self._topic, self._reader, request).run()
