"""What happened: who worked on which partition when, and how far everything has come."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from examples.balancing.reports import (
    Closed,
    Loaded,
    Opened,
    Refused,
    Replayed,
    Report,
    Status,
    Stopping,
)

__all__ = ["Host", "Mark", "Rate", "Record", "Sample", "Span"]

RATE_SECONDS = 1.0


@dataclass
class Span:
    """A host works on a partition, from `start` to `end`; None while it does.

    If it was `cut` off, it is the owner even after that, until another comes.
    """

    partition: int
    host: str
    epoch: int
    start: float
    end: float | None = None
    cut: bool = False


class Mark(NamedTuple):
    """Something that was done to a host."""

    at: float
    text: str


class Sample(NamedTuple):
    """How many flights of each partition were not counted yet, at some time after `at`."""

    at: float
    lags: list[int]


class Rate:
    """How fast a number grows, over the last second or so."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, at: float, count: int) -> None:
        """It is so much now."""
        self._seen.append((at, count))
        while self._seen[0][0] < at - RATE_SECONDS:
            self._seen.popleft()

    def per_second(self, now: float) -> float:
        """By how much it grows in a second."""
        recent = [pair for pair in self._seen if pair[0] >= now - 2 * RATE_SECONDS]
        if len(recent) < 2 or recent[-1][0] == recent[0][0]:
            return 0.0
        return (recent[-1][1] - recent[0][1]) / (recent[-1][0] - recent[0][0])


@dataclass
class Host:
    """A worker, as it is known from outside. `came` is when it was heard first."""

    name: str
    state: str = "working"
    health: str = "starting"
    came: float | None = None
    counted: Rate = field(default_factory=Rate)
    stopping: Stopping | None = None
    refused: Refused | None = None


class Record:
    """All of it; times are seconds since it `began`.

    Attributes:
        hosts: by name, in the order in which they were started.
        spans: in the order in which they were heard of.
        current: the last one of each partition.
        months: when the replay reached a month, and which.
    """

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.hosts: dict[str, Host] = {}
        self.spans: list[Span] = []
        self.current: dict[int, Span] = {}
        self.marks: list[Mark] = []
        self.samples: list[Sample] = []
        self.months: list[tuple[float, str]] = []
        self.flights = self.replayed = 0
        self.due = ""
        self.pace = Rate()
        self.began = time.monotonic()

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def time_of(self, report: Report) -> float:
        """When something was reported."""
        return report.at - self.began

    def mark(self, text: str, at: float | None = None) -> float:
        """Note what was done; when it was."""
        at = self.now() if at is None else at
        self.marks.append(Mark(at, text))
        return at

    # What the processes tell

    def take(self, name: str, report: Report) -> None:
        """Take notice of a report."""
        at = self.time_of(report)
        match report:
            case Loaded():
                self.flights = report.flights
            case Replayed():
                self._take_replayed(at, report)
            case Status():
                self._take_status(at, self.hosts[name], report)
            case Opened():
                self._take_opened(Span(report.partition, name, report.epoch, at))
            case Closed():
                self._take_closed(at, name, report)
            case Stopping():
                self.hosts[name].stopping, self.hosts[name].refused = report, None
                self.ends(name, at)
            case Refused():
                self.hosts[name].refused = report

    def _take_replayed(self, at: float, report: Replayed) -> None:
        if report.due[:7] != self.due[:7]:
            self.months.append((at, report.due[:7]))
        self.replayed, self.due = report.flights, report.due
        self.pace.note(at, report.flights)

    def _take_status(self, at: float, host: Host, report: Status) -> None:
        if host.came is None:
            host.came = at
        host.health = report.health
        host.counted.note(at, report.counted)

    def _take_opened(self, span: Span) -> None:
        self.spans.append(span)
        before = self.current.get(span.partition)
        if before is None or before.epoch < span.epoch:
            self.current[span.partition] = span

    def _take_closed(self, at: float, name: str, report: Closed) -> None:
        for span in self.spans:
            if (span.partition, span.host, span.epoch) == (report.partition, name, report.epoch):
                span.end = at if span.end is None else span.end

    def ends(self, name: str, at: float) -> None:
        """A host works no more, whether it could tell or not."""
        for span in self.spans:
            if span.host == name and span.end is None:
                span.end, span.cut = at, True

    def goes_on(self, name: str) -> None:
        """It was stopped, for so short a time that everything is still its own."""
        for span in self.current.values():
            if span.host == name:
                span.end, span.cut = None, False

    # How things stand

    def owned_by(self, name: str) -> list[int]:
        """Partitions that a host works on, or did when it was killed or stopped."""
        return sorted(span.partition for span in self.current.values() if span.host == name)

    def is_balanced(self, names: Collection[str]) -> bool:
        """Whether these hosts, and no other, work on all partitions, with fair shares."""
        working = [span.host for span in self.current.values() if span.end is None]
        shares = Counter(working)
        return (
            len(working) == self.partitions
            and shares.keys() == set(names)
            and max(shares.values()) - min(shares.values()) <= 1
        )

    def taken_after(self, partitions: Collection[int], since: float) -> float:
        """After how many seconds the last of these partitions was worked on again."""
        starts = (self.current[partition].start for partition in partitions)
        return max(starts, default=since) - since

    def lost_by(self, name: str) -> list[int]:
        """Partitions in which a host was cut off when it was cut off last."""
        cut = [span for span in self.spans if span.host == name and span.cut]
        last = max((span.end for span in cut if span.end is not None), default=None)
        return sorted(span.partition for span in cut if span.end == last)
