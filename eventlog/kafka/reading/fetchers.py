"""The fetchers of a log: which of them reads what for whom."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from eventlog.kafka.reading.fetcher import Fetcher
from eventlog.kafka.reading.lane import Lane
from eventlog.kafka.reading.news import News

if TYPE_CHECKING:
    from eventlog.kafka.cluster import Cluster
    from eventlog.kafka.engine import KafkaLog
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["Fetchers", "TopicFetchers"]

_CLOSE_SECONDS: Final = 5.0


class TopicFetchers:
    """The fetchers of one topic. Thread-safe.

    Attributes:
        mutex: what all lanes are used under.
        seen: what the topic was when that was last looked at.
    """

    def __init__(self, topic: KafkaTopic) -> None:
        self.topic: Final = topic
        self.cluster: Final[Cluster] = topic.log.cluster
        self.mutex: Final = threading.RLock()
        self.seen: Any = topic.id, topic.partitions
        self.is_closed = False
        self._fetchers: list[Fetcher] = []

    def lane(self, news: News, partition: int, offset: int, room: int) -> Lane:
        """Read a partition from an offset on, instead of what this reader read of it before."""
        lane = Lane(news, partition, offset, room)
        with self.mutex:
            fetcher = self._free_for(news, partition)
            fetcher.lanes[partition] = lane
        fetcher.ring()
        return lane

    def _free_for(self, news: News, partition: int) -> Fetcher:
        """The fetcher that reads a partition for this reader, or else one that does not read it."""
        free = None
        for fetcher in self._fetchers:
            lane = fetcher.lanes.get(partition)
            if lane is not None and lane.news is news:
                return fetcher
            if free is None and (lane is None or lane.news.is_over):
                free = fetcher
        if free is None:
            self.cluster.check_process()
            free = Fetcher(self)
            free.thread.start()  # whatever interrupts this: none is without a thread
            self._fetchers.append(free)
        return free

    def release(self, lane: Lane) -> None:
        """Nobody reads that lane any more."""
        with self.mutex:
            fetcher = self._fetcher_of(lane)
            if fetcher is not None:
                del fetcher.lanes[lane.partition]
                fetcher.ring()

    def remove(self, fetcher: Fetcher) -> None:
        """It has ended."""
        with self.mutex:
            if fetcher in self._fetchers:
                self._fetchers.remove(fetcher)

    def take(self, lanes: Iterable[Lane], timeout: float) -> bool:
        """For a reader's thread: take what has come, or comes within so many seconds; if any.

        Not for more fetchers than one: their own threads take what comes for the others.
        """
        for lane in lanes:
            fetcher = self._fetcher_of(lane)
            if fetcher is not None:
                return fetcher.take(lane, timeout)
        return False

    def is_read(self, lane: Lane) -> bool:
        """Whether a fetcher reads for this lane."""
        return self._fetcher_of(lane) is not None

    def _fetcher_of(self, lane: Lane) -> Fetcher | None:
        for fetcher in tuple(self._fetchers):
            if fetcher.lanes.get(lane.partition) is lane:
                return fetcher
        return None

    def ring(self) -> None:
        """Something has changed for the fetchers. Takes no lock."""
        for fetcher in tuple(self._fetchers):
            fetcher.ring()

    def tell_all(self) -> None:
        """The topic has changed."""
        with self.mutex:
            for news in {lane.news for one in self._fetchers for lane in one.lanes.values()}:
                news.tell()

    def close(self, timeout: float) -> None:
        """End all, as far as that can be done in so many seconds."""
        self.is_closed = True
        fetchers = tuple(self._fetchers)
        self.ring()
        end = time.monotonic() + timeout
        # In a signal handler they may be waiting for this very thread: they end when it goes on.
        if self.mutex._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001 - has no other name
            return
        for fetcher in fetchers:
            if not fetcher.is_held_here:
                fetcher.thread.join(max(0.0, end - time.monotonic()))


class Fetchers:
    """What reads for all topics of a log. Thread-safe.

    Attributes:
        readers: what single fetches are made with.
    """

    def __init__(self, log: KafkaLog) -> None:
        from eventlog.kafka.reading.read import Readers

        self.readers: Final = Readers(log.cluster)
        self._mutex = threading.Lock()
        self._topics: dict[str, TopicFetchers] = {}
        self._process = os.getpid()

    def of(self, topic: KafkaTopic) -> TopicFetchers:
        """Those of one topic; another of the same name has others."""
        with self._mutex:
            found = self._topics.get(topic.id)
            if found is None:
                found = self._topics[topic.id] = TopicFetchers(topic)
            return found

    def close(self) -> None:
        """End them all; who reads is told otherwise."""
        if os.getpid() != self._process:
            return
        end = time.monotonic() + _CLOSE_SECONDS
        for fetchers in list(self._topics.values()):
            fetchers.close(max(0.0, end - time.monotonic()))
        self.readers.close()
