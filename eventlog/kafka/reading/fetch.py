"""One look at what was read ahead, which waits for as long as nothing is known.

That a partition has nothing more is said only after the cluster was asked where it ends, since the
look began: what was appended before a look is found by it. By time, such a look goes only as far as
the partitions then went: what comes later may come before what another one still holds back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from confluent_kafka import KafkaError

from eventlog.consuming.source import Found, Look, Request, Run, Wanted, out_of_range
from eventlog.errors import CorruptBatchError, TopicNotFoundError
from eventlog.kafka.cluster import EARLIEST as FIRST
from eventlog.kafka.cluster import LATEST as LAST
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.reading.lane import Lane, Taken
from eventlog.kafka.reading.news import News
from eventlog.kafka.reading.runs import KafkaRun, runs_of

if TYPE_CHECKING:
    from eventlog.kafka.reading.fetchers import TopicFetchers
    from eventlog.kafka.topic import KafkaTopic

__all__ = ["Fetch", "ReaderLanes"]

_LOOK_AGAIN_SECONDS: Final = 1.0
"""How often who waits looks whether the topic is still there."""

_SOON_SECONDS: Final = 0.005
"""How long who waits for events gives them before the cluster is asked whether there are any."""

_LEAST_SECONDS: Final = 0.1
"""A look that has no time left asks all the same, in vain mostly: the error says more then."""


class ReaderLanes:
    """The lanes of one reader.

    Attributes:
        current: by partition; under the fetchers' mutex.
        times_us: by partition, when its last event that was taken was enqueued.
    """

    def __init__(self, fetchers: TopicFetchers) -> None:
        self.fetchers: Final = fetchers
        self.news: Final = News()
        self.current: dict[int, Lane] = {}
        self.times_us: dict[int, int] = {}
        self._most_doubts: dict[int, int] = {}

    def lane(self, wanted: Wanted, room: int) -> Lane:
        """What is read for `wanted`, from now on at the latest."""
        with self.fetchers.mutex:
            lane = self.current.get(wanted.partition)
            if lane is None or not self._suits(lane, wanted):
                lane = self.fetchers.lane(self.news, wanted.partition, wanted.offset, room)
                self.current[wanted.partition] = lane
            return lane

    def _suits(self, lane: Lane, wanted: Wanted) -> bool:
        """Whether what is wanted is in it, or comes next: into one that is full nothing does."""
        is_next = lane.is_empty or lane.has(wanted)
        return lane.holds(wanted.offset) and is_next and self.fetchers.is_read(lane)

    def is_current(self, lane: Lane) -> bool:
        """Whether it was not replaced, by another look of the same reader."""
        return self.current.get(lane.partition) is lane

    def drop(self, lane: Lane) -> None:
        """It is not read on; another look may want another."""
        with self.fetchers.mutex:
            if self.is_current(lane):
                del self.current[lane.partition]
            self.fetchers.release(lane)

    def doubt(self, lane: Lane) -> None:
        """A look has found nothing in it, although there is something.

        It may be on its way through a long stretch of what was aborted, which librdkafka says
        nothing of: another lane would begin there anew. Or librdkafka hangs, and only another lane
        helps. So each lane that is made is given twice as long as the one before.
        """
        lane.doubts += 1
        most = self._most_doubts.get(lane.partition, 1)
        if lane.doubts >= most:
            self._most_doubts[lane.partition] = 2 * most
            self.drop(lane)

    def trust(self, partition: int) -> None:
        """Something has come."""
        self._most_doubts.pop(partition, None)

    def end(self) -> None:
        """The reader is gone. Takes no lock: it may be called by a signal handler."""
        self.news.is_over = True
        self.news.tell()
        self.fetchers.ring()


class Fetch:
    """A look that is under way."""

    def __init__(self, topic: KafkaTopic, reader: ReaderLanes, request: Request) -> None:
        self._topic = topic
        self._reader = reader
        self._request = request
        self._lanes: dict[int, Lane] = {}
        self._ends: dict[int, int] = {}
        self._grown: set[int] = set()  # while the ends were asked for
        self._found: dict[int, Found] = {}
        self._is_patient = True

    def run(self) -> Look:
        """What was found.

        Raises:
            LogBusyError: for as long as a call may take, nothing was known of a partition.
            TopicNotFoundError: the topic was deleted.
        """
        topic, reader = self._topic, self._reader
        deadline = Deadline(topic.log.settings.timeout)
        record = topic.current().record
        reader.news.is_awaited = False
        for wanted in self._request.wanted:
            self._lanes[wanted.partition] = reader.lane(wanted, self._request.share)
        while True:
            seen = reader.news.steps
            if self._is_enough():
                break
            if self._troubled():
                continue
            soon = _SOON_SECONDS if self._may_come_soon() else 0.0
            if self._take(soon) and self._is_enough():
                break
            if self._request.hurried:
                self._leave()
                break
            if not self._ends:
                if soon:
                    self._wait(seen, _SOON_SECONDS)
                    self._is_patient = False
                else:
                    self._ask_for_ends(deadline)
                continue
            if deadline.passed:
                raise self._gave_up(deadline)
            self._wait(seen, min(deadline.left(), _LOOK_AGAIN_SECONDS))
            record = topic.current(max(deadline.left(), _LEAST_SECONDS)).record
        return Look(record.partitions, self._taken())

    # What is known

    def _open(self) -> list[Wanted]:
        """What there is nothing found of yet."""
        return [one for one in self._request.wanted if one.partition not in self._found]

    def _is_enough(self) -> bool:
        """Whether what is known will do."""
        if self._found or self._reader.news.is_over:
            return True
        wanted = self._request.wanted
        current = self._reader.current
        for number, lane in self._lanes.items():
            if current.get(number) is not lane:
                return True  # the reader is elsewhere: this look was given up
        if self._request.each:
            return all(self._has(one) or self._is_at_end(one) for one in wanted)
        return any(map(self._has, wanted)) or all(map(self._is_at_end, wanted))

    def _has(self, wanted: Wanted) -> bool:
        return self._lanes[wanted.partition].has(wanted)

    def _wait(self, seen: int, timeout: float) -> None:
        """Wait until something comes that is missing, or for so many seconds."""
        news = self._reader.news
        news.is_awaited = True
        self._reader.fetchers.ring()
        news.wait_for_step(seen, timeout)
        news.is_awaited = False

    def _leave(self) -> None:
        """Nothing has come, and the reader need not wait for it."""
        for wanted in self._open():
            self._found[wanted.partition] = Found(wanted.offset, [], None, at_end=False, late=True)

    def _may_come_soon(self) -> bool:
        """Whether to wait a moment before the cluster is asked: where events flow they come."""
        if self._request.hurried:
            return False
        return self._is_patient and not all(lane.end_seen for lane in self._lanes.values())

    def _is_at_end(self, wanted: Wanted) -> bool:
        end = self._ends.get(wanted.partition)
        return end is not None and end <= wanted.offset

    def _ask_for_ends(self, deadline: Deadline) -> None:
        """By time twice: while they were asked for one after the other, partitions may have grown,
        and one that ends now may hold back what came before the last event of another. Such a one
        is not at its end: what is known of the others goes no further than what it has.
        """
        wanted = self._request.wanted
        self._ends = self._asked_ends(deadline)
        while self._request.each and len(wanted) > 1:
            later = self._asked_ends(deadline)
            self._grown = {number for number, end in later.items() if end != self._ends[number]}
            if not any(self._is_at_end(one) and one.partition in self._grown for one in wanted):
                break
            self._ends = later

    def _asked_ends(self, deadline: Deadline) -> dict[int, int]:
        numbers = [wanted.partition for wanted in self._request.wanted]
        cluster = self._topic.log.cluster
        ends = cluster.offsets(
            self._topic.name,
            [(number, LAST) for number in numbers],
            timeout=max(deadline.left(), _LEAST_SECONDS),
        )
        return {number: at.offset for number, at in zip(numbers, ends, strict=True)}

    def _gave_up(self, deadline: Deadline) -> Exception:
        """The error; whoever looks again goes on with the lanes there are, mostly."""
        late = [one.partition for one in self._open() if not self._is_at_end(one)]
        for number in late:
            self._reader.doubt(self._lanes[number])
        open_ = map(str, late)
        return self._topic.log.cluster.error(
            KafkaError(KafkaError._TIMED_OUT),  # noqa: SLF001 - that is its name
            f"reading topic {self._topic.name!r}, partition {', '.join(open_)}",
            within=deadline.seconds,
        )

    def _take(self, timeout: float) -> bool:
        """Take what comes, unless another thread is at it; whether anything has come."""
        lanes = [self._lanes[wanted.partition] for wanted in self._request.wanted]
        return self._reader.fetchers.take(lanes, timeout)

    # What went wrong

    def _troubled(self) -> bool:
        """See to a lane that does not go on, if there is one."""
        for wanted in self._open():
            lane = self._lanes[wanted.partition]
            if lane.has(wanted) or not (lane.is_expired or lane.error):
                continue
            self._reader.drop(lane)
            if lane.error is not None:
                self._failed(wanted, lane.error)
            else:
                self._expired(wanted)
            if wanted.partition not in self._found:
                self._lanes[wanted.partition] = self._reader.lane(wanted, self._request.share)
            return True
        return False

    def _failed(self, wanted: Wanted, error: Exception) -> None:
        if isinstance(error, CorruptBatchError):
            self._found[wanted.partition] = Found(wanted.offset, [], error, at_end=False)
        elif isinstance(error, TopicNotFoundError):
            self._topic.refresh()  # says so, unless the topic moves just now
        else:
            raise error

    def _expired(self, wanted: Wanted) -> None:
        """Its offset is not there: events have expired, or the cluster has lost some."""
        self._topic.refresh()  # another topic of that name would have other offsets
        name, number = self._topic.name, wanted.partition
        beginning, following = [
            at.offset
            for at in self._topic.log.cluster.offsets(name, [(number, FIRST), (number, LAST)])
        ]
        if beginning > wanted.offset:
            self._found[number] = Found(beginning, [], None, at_end=False)
        elif wanted.offset > following:
            raise out_of_range(name, number, wanted.offset, beginning, following)

    # What is given

    def _taken(self) -> dict[int, Found]:
        taken: list[tuple[Wanted, Taken]] = []
        request = self._request
        left = request.max_bytes
        least = True
        with self._reader.fetchers.mutex:
            for wanted in self._open():
                if not (request.each or least or left > 0):
                    break
                lane = self._lanes[wanted.partition]
                if not (self._reader.is_current(lane) and lane.holds(wanted.offset)):
                    break  # another look of this reader has gone on
                lane.room = max(lane.room, request.share)
                if lane.next <= wanted.offset and not (lane.end_seen or self._ends):
                    continue  # nothing is known of it
                room = request.share if request.each else min(request.share, left)
                one = lane.take(self._limited(wanted), room, least=least)
                taken.append((wanted, one))
                left -= one.body_bytes
                least = request.each or (least and not one.pieces)
        for wanted, one in taken:
            found = self._found_of(wanted, one)
            if found is not None:
                self._found[wanted.partition] = found
        if not request.hurried and not any(one.pieces for _, one in taken):
            self._reader.news.is_awaited = True  # now it waits by its watch
            self._reader.fetchers.ring()
        elif any(lane.paused for lane in self._lanes.values()):
            self._reader.fetchers.ring()
        return self._found

    def _limited(self, wanted: Wanted) -> Wanted:
        """By time, a look goes up to the ends that it has asked for."""
        end = self._ends.get(wanted.partition)
        if not self._request.each or end is None:
            return wanted
        return wanted._replace(stop=end if wanted.stop is None else min(wanted.stop, end))

    def _found_of(self, wanted: Wanted, taken: Taken) -> Found | None:
        number = wanted.partition
        runs: list[Run] = []
        if taken.pieces:
            self._reader.trust(number)
            runs.extend(runs_of(taken.pieces, taken.stop, by_time=self._request.by_time))
            self._reader.times_us[number] = runs[-1].enqueued_us
        elif taken.stop > wanted.offset:
            time_us = self._reader.times_us.get(number) or self._topic.log.now_us()
            runs.append(KafkaRun([], wanted.offset, taken.stop, time_us, 0))
        end = self._ends.get(number)
        if self._request.each:
            is_last = end is not None and end <= max(taken.stop, wanted.offset)
            at_end = is_last and number not in self._grown
        else:
            at_end = taken.at_end or (end is not None and end <= taken.stop)
        if wanted.stop is not None and taken.stop >= wanted.stop:
            self._reader.drop(self._lanes[number])
        elif wanted.stop is not None and at_end and not (end is not None and end <= taken.stop):
            at_end = False  # the end that is wanted may be there since
        return Found(wanted.offset, runs, None, at_end) if runs or at_end else None
