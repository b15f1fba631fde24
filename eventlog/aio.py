"""The same methods as coroutines: each runs in a worker thread, and the event loop goes on.

What is handed out is the same too: `AsyncLog.topic` gives a `Topic`, whose own view is
``topic.aio``. A call that was cancelled while it ran still ends first: whether it was stored is
never in doubt for longer than that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import anyio.to_thread

from eventlog.group import ConsumerGroup
from eventlog.log import EventLog, Topic

__all__ = ["AsyncGroup", "AsyncLog", "AsyncTopic"]

P = ParamSpec("P")
R = TypeVar("R")


def _threaded(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """`method` of what a view is a view of, as a coroutine."""
    name: Final = method.__name__

    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        plain = functools.partial(getattr(self.plain, name), *args, **kwargs)
        return await anyio.to_thread.run_sync(plain)

    functools.update_wrapper(call, method)
    return call


class AsyncLog:
    """`EventLog` for event loops: ``log.aio``."""

    def __init__(self, plain: EventLog) -> None:
        self.plain: Final = plain

    create_topic = _threaded(EventLog.create_topic)
    topic = _threaded(EventLog.topic)
    topics = _threaded(EventLog.topics)
    delete_topic = _threaded(EventLog.delete_topic)
    check = _threaded(EventLog.check)
    backup = _threaded(EventLog.backup)
    compact = _threaded(EventLog.compact)
    close = _threaded(EventLog.close)


class AsyncTopic:
    """`Topic` for event loops: ``topic.aio``."""

    def __init__(self, plain: Topic) -> None:
        self.plain: Final = plain

    configure = _threaded(Topic.configure)
    add_partitions = _threaded(Topic.add_partitions)
    append = _threaded(Topic.append)
    append_batch = _threaded(Topic.append_batch)
    read = _threaded(Topic.read)
    partition_info = _threaded(Topic.partition_info)
    offset_at = _threaded(Topic.offset_at)
    expire = _threaded(Topic.expire)
    groups = _threaded(Topic.groups)


class AsyncGroup:
    """`ConsumerGroup` for event loops: ``group.aio``."""

    def __init__(self, plain: ConsumerGroup) -> None:
        self.plain: Final = plain

    checkpoints = _threaded(ConsumerGroup.checkpoints)
    lag = _threaded(ConsumerGroup.lag)
    members = _threaded(ConsumerGroup.members)
    reset = _threaded(ConsumerGroup.reset)
    delete = _threaded(ConsumerGroup.delete)
