"""The producer: replays the year, at the pace it is told.

    python -m examples.balancing.producer DIRECTORY FILE SECONDS

Its input has a number per line: up to how many flights it goes on at full pace, which is that of
the whole year in so many seconds. Beyond that it slows down to a tenth, so that something flows
however long the others take. It ends with the last flight, or with its input.
"""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

import eventlog
from eventlog import Event, Topic
from examples.balancing.flights import TOPIC, in_time_order
from examples.balancing.reports import Loaded, Replayed, send

__all__ = ["Orders", "replay"]

TICK_SECONDS = 0.05
SLOW = 0.1
MOST_EVENTS = 5000  # per append


class Orders:
    """The lines of the input. `limit` is the last number; None when there are no more."""

    def __init__(self) -> None:
        self.limit: int | None = 0
        self._input = os.fdopen(sys.stdin.fileno(), "rb", buffering=0)

    def wait(self, timeout: float | None) -> None:
        """Wait for the next one, or until the time is over."""
        if select.select([self._input], [], [], timeout)[0]:
            line = self._input.readline()
            self.limit = int(line) if line else None


def replay(topic: Topic, due: list[str], events: list[Event], seconds: float) -> None:
    """Append all events, in their order."""
    pace = len(events) / seconds
    orders = Orders()
    orders.wait(None)
    sent, earned, last = 0, 0.0, time.monotonic()
    while orders.limit is not None and sent < len(events):
        now = time.monotonic()
        earned += (now - last) * pace * (1 if sent < orders.limit else SLOW)
        last = now
        chunk = events[sent : sent + min(int(earned), MOST_EVENTS)]
        if chunk:
            topic.append_batch(chunk)
            sent += len(chunk)
            earned = 0.0 if len(chunk) == MOST_EVENTS else earned - len(chunk)
            send(Replayed(flights=sent, due=due[sent - 1]))
        orders.wait(TICK_SECONDS)


def main(directory: str, file: str, seconds: float) -> None:
    """Read the file, and replay it."""
    due, events = in_time_order(Path(file))
    with eventlog.open(directory, create=False) as log:
        send(Loaded(flights=len(events)))
        replay(log.topic(TOPIC), due, events, seconds)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
