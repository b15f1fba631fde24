"""Who reads ahead: one consumer of librdkafka and one thread for many lanes.

librdkafka itself reads ahead, as much as its settings say. The fetcher's thread tells it what to
read, and waits for what comes while readers wait for it. A reader that has got something takes what
follows itself (`eventlog.kafka.reading.drain`), and for as long the thread stands back; of a reader
that does not come back soon it takes on what has come, so that others can tell that something has.

What is read is changed only by who has the turn to call the consumer. So every message belongs to
the lane that the partition had when it was asked for: that librdkafka throws away what it had
fetched for another place was measured under load, but who calls it while another thread polls could
not tell the one from the other.

A lane that is full is paused only when others have need of messages: librdkafka then throws away
what it has fetched for it. When nobody needs any it is simply not polled.

Measured (librdkafka 2.16), and why the settings are what they are: behind a full queue librdkafka
waits for ``fetch.queue.backoff.ms``, by default a second, which costs it half its rate. Of what it
has fetched it hands out nothing before all of that is unpacked, which takes 0.3 us an event; but
where a broker is far away, as much comes with each round trip: a fetch is something between. And a
broker's thread that has nothing to fetch sleeps for up to a second, whatever it is told to fetch
meanwhile: any other request to that broker wakes it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Spot

from eventlog.errors import EventLogError, LogBusyError
from eventlog.kafka.forgotten import BrokerWatch
from eventlog.kafka.reading.config import COMMON
from eventlog.kafka.reading.drain import Drain
from eventlog.kafka.reading.lane import Lane
from eventlog.kafka.reading.news import Bell, News

if TYPE_CHECKING:
    from eventlog.kafka.reading.fetchers import TopicFetchers

__all__ = ["Fetcher"]

_FOLLOWING: Final[dict[str, Any]] = {
    **COMMON,
    "fetch_wait_max_ms": 100,  # so long a new lane may have to wait for others' fetch
    "fetch_message_max_bytes": 2**18,  # as stored: of what compresses well many times as much
    "fetch_max_bytes": 2**20,
    "queued_min_messages": 50_000,
    "queued_max_messages_kbytes": 8192,
}

_ENOUGH_BYTES: Final = 2**20
"""When so much waits for a reader the rest is left to librdkafka: what was made long before it is
used has left the processor's caches by then."""

_STAND_BACK_SECONDS: Final = 0.02
"""For so long after a reader took something, or was told of it, it is left to take on itself."""

_POLL_SECONDS: Final = 0.1
"""How long the thread waits for messages before it looks what else has changed for it."""

_KICK_SECONDS: Final = 0.5
_CHECK_SECONDS: Final = 1.0
"""How often it is looked whether the topic has changed, while it is read."""

_IDLE_SECONDS: Final = 30.0
"""How long a fetcher without lanes is kept."""

_MOST_BYTES: Final = 32 * 2**20
_MOST_ROOMS: Final = 4
"""When as much waits in one fetcher, or so many times what its lanes should hold, it pauses those
that are full."""

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
        consumer = owner.cluster.consumer(**_FOLLOWING)
        self._drain = Drain(owner.cluster, consumer, self._name, self.lanes, owner.mutex)
        self._unheard: deque[Lane] = deque()
        self._watch = BrokerWatch()
        self._taken_at = -_STAND_BACK_SECONDS
        self._idle_since = time.monotonic()
        self._next_check = time.monotonic() + _CHECK_SECONDS
        self.thread = threading.Thread(
            target=self._run, name=f"eventlog fetcher {self._name}", daemon=True
        )

    def ring(self) -> None:
        """Have it look at what has changed for it."""
        self._bell.ring()

    def take(self, lane: Lane, timeout: float) -> bool:
        """For the thread of a lane's reader: take what has come, or comes within so many seconds.

        Returns: whether anything has, for whichever lane.
        """
        drain = self._drain
        is_read = drain.read.get(lane.partition) is lane
        if not (is_read and drain.is_free) or self._is_too_much(self.lanes.values()):
            return False
        with drain.turn:
            drain.holder = threading.get_ident()
            try:
                if drain.in_hand or drain.is_over or not drain.take(timeout):
                    return False
            finally:
                drain.holder = None
        self._taken_at = time.monotonic()
        return True

    @property
    def is_held_here(self) -> bool:
        """Whether it cannot go on before the thread that asks does, or is that thread."""
        here = threading.get_ident()
        return here in (self._drain.holder, self.thread.ident)

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except Exception as error:  # readers are told: they would wait for nothing
            _logger.exception("a fetcher of topic %r failed", self._name)
            self._fail(error)
        finally:
            self._owner.remove(self)
            with self._drain.turn:
                self._drain.is_over = True
                self._drain.consumer.close()

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
        with self._drain.turn:
            self._follow(wanted)
            self._resume_free(wanted.values())
            pause = self._pause_before_polling(wanted.values())
            if not pause:
                self._wait_for_messages(wanted.values())
        if pause:
            self._bell.wait(pause)
        if wanted:
            self._check_topic()
        return True

    def _pause_before_polling(self, lanes: Collection[Lane]) -> float:
        """For how many seconds nobody needs this thread to poll."""
        if not lanes:
            return _IDLE_SECONDS / 2
        if any(lane.news.is_awaited for lane in lanes):
            return 0.0
        if _is_enough(lanes):
            return _POLL_SECONDS
        return max(self._taken_at + _STAND_BACK_SECONDS - time.monotonic(), 0.0)

    def _wait_for_messages(self, lanes: Collection[Lane]) -> None:
        self._pause(lanes)
        if self._drain.take(_POLL_SECONDS):
            self._taken_at = time.monotonic()
        else:
            self._kick_unheard()

    # What is read

    def _follow(self, wanted: dict[int, Lane]) -> None:
        """Have librdkafka read what is wanted, and anew what somebody had in hand and lost."""
        read, consumer = self._drain.read, self._drain.consumer
        lost = self._drain.in_hand
        left = [n for n, lane in read.items() if lost or wanted.get(n) is not lane]
        if left:
            self._resume([read[number] for number in left if read[number].paused])
            consumer.incremental_unassign([Spot(self._name, number) for number in left])
            for number in left:
                lane = read.pop(number)
                if lost:  # who waits for what was put may not have been told
                    with self._mutex:
                        lane.news.tell()
        self._drain.in_hand = False
        added = [lane for number, lane in wanted.items() if number not in read]
        if added:
            consumer.incremental_assign(
                [Spot(self._name, lane.partition, lane.next) for lane in added]
            )
            read.update({lane.partition: lane for lane in added})
            self._unheard.extend(added)
            self._kick(added[0].partition)

    def _pause(self, lanes: Collection[Lane]) -> None:
        """Pause lanes that hold too much."""
        is_too_much = self._is_too_much(lanes)
        full = [lane for lane in lanes if is_too_much and lane.is_full and not lane.paused]
        if full:
            self._drain.consumer.pause([Spot(self._name, lane.partition) for lane in full])
            for lane in full:
                lane.paused = True

    def _resume_free(self, lanes: Collection[Lane]) -> None:
        """Go on with those that have room again."""
        free = [lane for lane in lanes if lane.paused and lane.size <= lane.room // 2]
        if free:
            self._resume(free)
            self._kick(free[0].partition)

    @staticmethod
    def _is_too_much(lanes: Iterable[Lane]) -> bool:
        """Whether so much waits that those that are full have to be paused."""
        room = waiting = 0
        for lane in tuple(lanes):
            room += lane.room
            waiting += lane.size
        return waiting > min(_MOST_ROOMS * room, _MOST_BYTES)

    def _resume(self, lanes: list[Lane]) -> None:
        """Undo a pause, which otherwise outlasts the assignment."""
        if lanes:
            self._drain.consumer.resume([Spot(self._name, lane.partition) for lane in lanes])
            for lane in lanes:
                lane.paused = False

    def _kick(self, partition: int) -> None:
        """Wake the thread that fetches from its broker; see the module."""
        spot = Spot(self._name, partition)
        with contextlib.suppress(KafkaException):  # then it comes when it comes
            self._drain.consumer.get_watermark_offsets(spot, timeout=_KICK_SECONDS)

    def _kick_unheard(self) -> None:
        while self._unheard:
            lane = self._unheard.popleft()
            if not lane.heard and self._drain.read.get(lane.partition) is lane:
                self._kick(lane.partition)
                return

    # What went wrong, or has changed

    def _fail(self, error: Exception) -> None:
        with self._mutex:
            for lane in self.lanes.values():
                lane.error = error
                lane.news.tell()

    def _check_topic(self) -> None:
        """Tell readers when the topic has changed; what it is now they find out themselves."""
        if time.monotonic() < self._next_check:
            return
        topic = self._owner.topic
        try:
            found = self._owner.cluster.look_up(topic.name, timeout=_CHECK_SECONDS)
            now: Any = found.id, found.partitions
            self._renew_if_lost()
        except LogBusyError:
            now = self._owner.seen
        except EventLogError as error:
            now = type(error)
        self._next_check = time.monotonic() + _CHECK_SECONDS
        if now != self._owner.seen:
            self._owner.seen = now
            self._owner.tell_all()

    def _renew_if_lost(self) -> None:
        """Have another consumer read on, if this one has forgotten its brokers.

        Called when the cluster has answered somebody else.
        """
        with self._drain.turn:
            old = self._drain.consumer
            if not self._watch.is_lost(old, self._name):
                return
            self._drain.consumer = self._owner.cluster.consumer(**_FOLLOWING)
            self._watch = BrokerWatch()
            for lane in self._drain.read.values():
                lane.paused = False
            self._drain.read.clear()  # so all are read anew
            with self._mutex:
                wanted = dict(self.lanes)
            self._follow(wanted)
        old.close()


def _is_enough(lanes: Iterable[Lane]) -> bool:
    """Whether every reader has plenty to take, of every lane.

    Of one that is empty something may be waiting behind others' in librdkafka's queue: only
    polling tells.
    """
    waiting: dict[News, int] = {}
    room: dict[News, int] = {}
    for lane in lanes:
        if not lane.size:
            return False
        waiting[lane.news] = waiting.get(lane.news, 0) + lane.size
        room[lane.news] = room.get(lane.news, 0) + lane.room
    return all(size > min(room[news], _ENOUGH_BYTES) for news, size in waiting.items())
