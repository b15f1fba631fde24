"""A process that follows a log: ``python -m benchmarks.follower thread | task | idle``.

``thread PATH COUNT`` and ``task PATH COUNT``: says ``ready``, follows a topic until it got so many
events, with a thread or on an event loop, and answers when it got each, in nanoseconds of the
monotonic clock, which all processes share.

``idle PATH COUNT``: starts so many followers, half of them threads and half of them tasks, and says
``ready``; then answers each line with the seconds of processor time it has used so far.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

import eventlog
from eventlog import EARLIEST, LATEST, Topic

__all__: list[str] = []

_SETTLED: Final = 2.0
"""Seconds until all followers wait, and nothing that starting them did goes on."""


def follow(path: str, count: int) -> None:
    """With a thread."""
    delivered: list[int] = []
    with eventlog.open(path) as log, log.topic("events").consumer(start=EARLIEST) as consumer:
        print("ready", flush=True)
        for _ in consumer:
            delivered.append(time.monotonic_ns())
            if len(delivered) == count:
                break
    print(json.dumps(delivered))


def follow_as_task(path: str, count: int) -> None:
    """On an event loop."""
    delivered: list[int] = []

    async def run(topic: Topic) -> None:
        async with topic.consumer(start=EARLIEST) as consumer:
            print("ready", flush=True)
            async for _ in consumer:
                delivered.append(time.monotonic_ns())
                if len(delivered) == count:
                    break

    with eventlog.open(path) as log:
        asyncio.run(run(log.topic("events")))
    print(json.dumps(delivered))


def idle(path: str, count: int) -> None:
    """Follow a topic in which nothing happens."""
    with eventlog.open(path) as log:
        topic = log.topic("idle")
        for _ in range(count // 2):
            threading.Thread(target=_wait, args=(topic,), daemon=True).start()
        threading.Thread(target=_wait_as_tasks, args=(topic, count // 2), daemon=True).start()
        time.sleep(_SETTLED)
        print("ready", flush=True)
        for _ in sys.stdin:
            print(time.process_time(), flush=True)


def _wait(topic: Topic) -> None:
    for event in topic.consumer(start=LATEST):
        raise AssertionError(f"somebody appended {event}")


def _wait_as_tasks(topic: Topic, count: int) -> None:
    async def wait() -> None:
        async for event in topic.consumer(start=LATEST):
            raise AssertionError(f"somebody appended {event}")

    async def run() -> None:
        await asyncio.gather(*(wait() for _ in range(count)))

    asyncio.run(run())


if __name__ == "__main__":
    roles: dict[str, Callable[[str, int], None]] = {
        "thread": follow,
        "task": follow_as_task,
        "idle": idle,
    }
    roles[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
