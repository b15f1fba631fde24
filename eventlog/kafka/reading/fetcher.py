"""Who reads ahead: one consumer of librdkafka and one thread for many lanes.

Only the fetcher's thread calls its consumer, and it changes what that reads only between polls.
So every message it gets belongs to the lane that the partition had when it was asked for: that
librdkafka throws away what it had fetched for another place was measured under load, but who calls
it while another thread polls could not tell the one from the other.

A lane that is full is paused only when others have need of messages: librdkafka then throws away
what it has fetched for it. When nobody needs any it is simply not polled.

Measured (librdkafka 2.16), and why the settings are what they are: behind a full queue librdkafka
waits for ``fetch.queue.backoff.ms``, by default a second, which costs it half its rate. And a
broker's thread that has nothing to fetch sleeps for up to a second, whatever it is told to fetch
meanwhile: any other request to that broker wakes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Spot

from eventlog.consuming.source import corrupt
from eventlog.errors import EventLogError, LogBusyError
from eventlog.kafka.failures import Kind, is_transient, kind_of
from eventlog.kafka.reading.config import COMMON, is_damage, is_of_partition
from eventlog.kafka.reading.lane import Lane
from eventlog.kafka.reading.news import Bell, News
from eventlog.kafka.records import Decoded, decoded

if TYPE_CHECKING:
    from eventlog.kafka.cluster import Cluster, Consumer
    from eventlog.kafka.engine import KafkaLog
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["Fetcher", "Fetchers", "TopicFetchers"]

_FOLLOWING: Final[dict[str, Any]] = {
    **COMMON,
    "fetch_wait_max_ms": 100,  # so long a new lane may have to wait for others' fetch
    "fetch_message_max_bytes": 2**18,  # as stored: of what compresses well many times as much
    "queued_min_messages": 50_000,
    "queued_max_messages_kbytes": 8192,
}

_POLL_SECONDS: Final = 0.1
"""How long the fetcher waits for messages before it looks what else has changed for it."""
_POLL_MESSAGES: Final = 250
"""How many messages are taken of librdkafka at a time. They are objects that the garbage collector
counts until events are made of them: it would run all the time if there were more at once."""
_POLLS: Final = 16
"""So many times before readers are told."""

_ENOUGH_BYTES: Final = 2**20
"""When so much waits for a reader the rest is left to librdkafka: what was made long before it is
used has left the processor's caches by then."""

_KICK_SECONDS: Final = 0.5
_CHECK_SECONDS: Final = 1.0
"""How often it is looked whether the topic has changed, while it is read."""

_IDLE_SECONDS: Final = 30.0
"""How long a fetcher without lanes is kept."""

_MOST_BYTES: Final = 32 * 2**20
_MOST_ROOMS: Final = 4
"""When as much waits in one fetcher, or so many times what its lanes should hold, it pauses those
that are full."""

_CLOSE_SECONDS: Final = 5.0

_logger: Final = logging.getLogger("eventlog")


class Fetcher:
    """One consumer of librdkafka, its thread, and its lanes. Its owner starts the thread.

    Attributes:
        lanes: what is to be read, by partition; under the mutex.
    """

    def __init__(self, owner: TopicFetchers) -> None:
        self.lanes: dict[int, Lane] = {}
        self._owner = owner
        self._mutex = owner.mutex
        self._name = owner.topic.name
        self._bell = Bell()
        self._consumer: Consumer = owner.cluster.consumer(**_FOLLOWING)
        self._read: dict[int, Lane] = {}  # what librdkafka was told to read
        self._unheard: deque[Lane] = deque()
        self._idle_since = time.monotonic()
        self._next_check = time.monotonic() + _CHECK_SECONDS
        self.thread = threading.Thread(
            target=self._run, name=f"eventlog fetcher {self._name}", daemon=True
        )

    def ring(self) -> None:
        """Have it look at what has changed for it."""
        self._bell.ring()

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except Exception as error:  # readers are told: they would wait for nothing
            _logger.exception("a fetcher of topic %r failed", self._name)
            self._fail(error)
        finally:
            self._owner.remove(self)
            self._consumer.close()

    def _step(self) -> bool:
        """Whether to go on."""
        with self._mutex:
            if self._owner.is_closed:
                return False
            gone = [number for number, lane in self.lanes.items() if lane.news.is_over]
            for number in gone:
                del self.lanes[number]
            if self.lanes:
                self._idle_since = time.monotonic()
            elif time.monotonic() - self._idle_since > _IDLE_SECONDS:
                self._owner.remove(self)
                return False
            wanted = dict(self.lanes)
        self._follow(wanted)
        if not wanted:
            self._bell.wait(_IDLE_SECONDS / 2)
        elif _is_enough(wanted.values()):
            self._bell.wait(_CHECK_SECONDS)
        else:
            self._pause(wanted.values())
            self._poll()
        if wanted:
            self._check_topic()
        return True

    # What is read

    def _follow(self, wanted: dict[int, Lane]) -> None:
        """Have librdkafka read what is wanted."""
        left = [n for n, lane in self._read.items() if wanted.get(n) is not lane]
        if left:
            self._resume([self._read[number] for number in left if self._read[number].paused])
            self._consumer.incremental_unassign([Spot(self._name, number) for number in left])
            for number in left:
                del self._read[number]
        added = [lane for number, lane in wanted.items() if number not in self._read]
        if added:
            self._consumer.incremental_assign(
                [Spot(self._name, lane.partition, lane.next) for lane in added]
            )
            self._read.update({lane.partition: lane for lane in added})
            self._unheard.extend(added)
            self._kick(added[0].partition)

    def _pause(self, lanes: Collection[Lane]) -> None:
        """Pause lanes that hold too much, and go on with those that have room again."""
        room = _MOST_ROOMS * sum([lane.room for lane in lanes])
        is_too_much = sum([lane.size for lane in lanes]) > min(room, _MOST_BYTES)
        full = [lane for lane in lanes if is_too_much and lane.is_full and not lane.paused]
        free = [lane for lane in lanes if lane.paused and lane.size <= lane.room // 2]
        if full:
            self._consumer.pause([Spot(self._name, lane.partition) for lane in full])
            for lane in full:
                lane.paused = True
        if free:
            self._resume(free)
            self._kick(free[0].partition)

    def _resume(self, lanes: list[Lane]) -> None:
        """Undo a pause, which otherwise outlasts the assignment."""
        if lanes:
            self._consumer.resume([Spot(self._name, lane.partition) for lane in lanes])
            for lane in lanes:
                lane.paused = False

    def _kick(self, partition: int) -> None:
        """Wake the thread that fetches from its broker; see the module."""
        spot = Spot(self._name, partition)
        with contextlib.suppress(KafkaException):  # then it comes when it comes
            self._consumer.get_watermark_offsets(spot, timeout=_KICK_SECONDS)

    # What comes

    def _poll(self) -> None:
        messages = self._consumer.consume(_POLL_MESSAGES, 0)
        if not messages:
            message = self._consumer.poll(_POLL_SECONDS)
            if message is None:
                self._kick_unheard()
                return
            messages = [message, *self._consumer.consume(_POLL_MESSAGES, 0)]
        found: list[tuple[int, Decoded]] = []
        self._take_in(messages, found)
        for _ in range(_POLLS - 1):
            if len(messages) < _POLL_MESSAGES:
                break
            messages = self._consumer.consume(_POLL_MESSAGES, 0)
            self._take_in(messages, found)
        self._put(found)

    def _kick_unheard(self) -> None:
        while self._unheard:
            lane = self._unheard.popleft()
            if not lane.heard and self._read.get(lane.partition) is lane:
                self._kick(lane.partition)
                return

    def _take_in(self, messages: list[Message], found: list[tuple[int, Decoded]]) -> None:
        """Find events in messages; errors among them are told when what came before them was."""
        if not any(map(Message.error, messages)):
            self._decode(messages, found)
            return
        for is_error, some in groupby(messages, lambda one: one.error() is not None):
            if not is_error:
                self._decode(list(some), found)
                continue
            self._put(found)
            found.clear()
            for message in some:
                self._take_note(message)

    def _decode(self, messages: list[Message], found: list[tuple[int, Decoded]]) -> None:
        """Find events, by partition."""
        for number, some in groupby(messages, Message.partition):
            assert number is not None
            try:
                found.append((number, decoded(self._name, number, list(some))))
            except Exception as error:  # other partitions are read on
                _logger.exception("reading partition %d of topic %r failed", number, self._name)
                self._put(found)
                found.clear()
                self._fail_at(number, error)

    def _put(self, found: list[tuple[int, Decoded]]) -> None:
        told: set[News] = set()
        with self._mutex:
            for number, events in found:
                lane = self._lane(number)
                if lane is not None:
                    lane.put(events)
                    told.add(lane.news)
            for news in told:
                news.tell()

    def _lane(self, number: int | None) -> Lane | None:
        """The lane of a partition, unless its reader has left it."""
        lane = None if number is None else self._read.get(number)
        return lane if lane is not None and self.lanes.get(lane.partition) is lane else None

    def _take_note(self, message: Message) -> None:
        """Of what is not a message: an end, or an error."""
        error = message.error()
        assert error is not None
        if not is_of_partition(message):
            return
        with self._mutex:
            lane = self._lane(message.partition())
            if lane is None:
                return
            if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - that is its name
                lane.news.tell(looked_for=lane.put_end(message.offset() or 0))
                return
            if kind_of(error) is Kind.OUT_OF_RANGE:
                lane.is_expired = True
            elif is_transient(error):
                return  # librdkafka tries again
            else:
                lane.error = self._error(error, lane, message.offset())
            lane.news.tell()

    def _error(self, error: KafkaError, lane: Lane, offset: int | None) -> Exception:
        if is_damage(error):
            at = lane.next if offset is None or offset < lane.next else offset
            return corrupt((self._name, lane.partition), lane.next, at, error.str())
        return self._owner.cluster.error(
            error,
            f"reading partition {lane.partition} of topic {self._name!r}",
            topic=self._name,
            partition=lane.partition,
        )

    def _fail_at(self, number: int, error: Exception) -> None:
        """One lane cannot go on: what comes behind would leave a gap in it."""
        with self._mutex:
            lane = self._lane(number)
            if lane is not None:
                del self.lanes[number]
                lane.error = error
                lane.news.tell()

    def _fail(self, error: Exception) -> None:
        with self._mutex:
            for lane in self.lanes.values():
                lane.error = error
                lane.news.tell()

    # The topic

    def _check_topic(self) -> None:
        """Tell readers when the topic has changed; what it is now they find out themselves."""
        if time.monotonic() < self._next_check:
            return
        topic = self._owner.topic
        try:
            found = self._owner.cluster.look_up(topic.name, timeout=_CHECK_SECONDS)
            now: Any = found.id, found.partitions
        except LogBusyError:
            now = self._owner.seen
        except EventLogError as error:
            now = type(error)
        self._next_check = time.monotonic() + _CHECK_SECONDS
        if now != self._owner.seen:
            self._owner.seen = now
            self._owner.tell_all()


def _is_enough(lanes: Iterable[Lane]) -> bool:
    """Whether every reader has plenty to take, and waits for nothing else."""
    waiting: dict[News, int] = {}
    room: dict[News, int] = {}
    for lane in lanes:
        if lane.is_awaited:
            return False
        waiting[lane.news] = waiting.get(lane.news, 0) + lane.size
        room[lane.news] = room.get(lane.news, 0) + lane.room
    return all(size > min(room[news], _ENOUGH_BYTES) for news, size in waiting.items())


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
            self._fetchers.append(free)
            free.thread.start()
        return free

    def release(self, lane: Lane) -> None:
        """Nobody reads that lane any more."""
        with self.mutex:
            for fetcher in self._fetchers:
                if fetcher.lanes.get(lane.partition) is lane:
                    del fetcher.lanes[lane.partition]
                    fetcher.ring()

    def remove(self, fetcher: Fetcher) -> None:
        """It has ended."""
        with self.mutex:
            if fetcher in self._fetchers:
                self._fetchers.remove(fetcher)

    def is_read(self, lane: Lane) -> bool:
        """Whether a fetcher reads for this lane."""
        return any(one.lanes.get(lane.partition) is lane for one in self._fetchers)

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
        threads = [fetcher.thread for fetcher in tuple(self._fetchers)]
        self.ring()
        end = time.monotonic() + timeout
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))


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
