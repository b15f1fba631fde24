"""What the consumers of one log have in common, and what becomes of their groups when it closes."""

from __future__ import annotations

import gc
import itertools
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import pytest

import eventlog
from eventlog import ClosedError, EventLog, LogBusyError, StoreUnavailableError, Topic
from eventlog.blobs.memory import MemoryBlobs
from eventlog.consumer import Consumer
from eventlog.consuming.source import Look, Request
from eventlog.group import group_store
from eventlog.groups.checkpoints import GroupStore
from tests.conftest import Start
from tests.test_consumer import PATIENCE, SpySource, fill, result_of

GROUP = "fraud"


class Blobs(MemoryBlobs):
    """A store in which something can happen before a put, or instead."""

    def __init__(self) -> None:
        super().__init__()
        self.before_put: Callable[[str], object] = lambda _: None

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        self.before_put(name)
        return super().put(name, data, if_match=if_match, if_absent=if_absent)


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture
def log(blobs: Blobs) -> Iterator[EventLog]:
    """A log whose groups are elsewhere, and can be looked at when it is closed."""
    with eventlog.open("memory:", blobs=blobs) as log:
        yield log


@pytest.fixture
def topic(log: EventLog) -> Topic:
    """Three partitions of five events."""
    topic = log.create_topic("cars", partitions=3)
    fill(topic)
    return topic


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who closes a log waits for nothing that takes any time."""
    monkeypatch.setattr("eventlog.consuming.readership.RELEASE_SECONDS", 0.05)
    monkeypatch.setattr("eventlog.embedded.engine.RELEASE_SECONDS", 0.05)


def store_of(topic: Any) -> GroupStore:
    return group_store(topic, GROUP, topic.log.blobs)


def owners(group: GroupStore) -> set[str | None]:
    return {one.owner for one in group.checkpoints().values()}


# Closing the log


@pytest.mark.parametrize("order", ["partition", "time"])
def test_a_closed_log_lets_go_of_what_all_its_consumers_claimed(topic: Topic, order: Any) -> None:
    """Whether anybody still has them; nothing that they handed out counts as finished."""
    group = store_of(topic)
    consumer = topic.consumer(group=GROUP, partitions=[0, 1], order=order)
    list(itertools.islice(consumer, 7))
    next(topic.consumer(group=GROUP, partitions=2))
    gc.collect()
    before = group.checkpoints()
    assert len(owners(group)) == 2
    topic.log.close()
    assert owners(group) == {None}
    assert group.members() == []
    assert {n: one.offset for n, one in group.checkpoints().items()} == dict.fromkeys(before, -1)
    for use in (list, Consumer.checkpoint):
        with pytest.raises(ClosedError):
            use(consumer)


def test_a_consumer_whose_thread_waits_is_let_go_of(
    topic: Any, threads: ThreadPoolExecutor
) -> None:
    source, group = SpySource(topic), store_of(topic)
    consumer = Consumer(source, group=group, readership=topic.log.readership)
    assert len(list(itertools.islice(consumer, 15))) == 15
    waiting = threads.submit(next, consumer)
    source.await_wait()
    topic.log.close()
    assert owners(group) == {None}
    with pytest.raises(ClosedError, match="log"):
        result_of(waiting)


@pytest.mark.anyio
async def test_a_consumer_whose_task_waits_is_let_go_of(topic: Any) -> None:
    source, group = SpySource(topic), store_of(topic)
    consumer = Consumer(source, group=group, start="latest", readership=topic.log.readership)

    async def follow() -> None:
        with pytest.raises(ClosedError):
            await anext(consumer)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.to_thread.run_sync(source.await_wait)
            await topic.log.aio.close()
            assert owners(group) == {None}


def test_what_another_took_over_is_left_to_it(topic: Topic, blobs: Blobs, tmp_path: Path) -> None:
    """Of another log handle, or process."""
    group = store_of(topic)
    next(topic.consumer(group=GROUP))
    later = topic.consumer(group=GROUP, partitions=1)
    next(later)
    topic.log.close()
    assert owners(group) == {None}
    with eventlog.open(tmp_path, blobs=blobs) as log:
        first = log.create_topic("cars", partitions=2)
        fill(first)
        with eventlog.open(tmp_path, blobs=blobs) as other:
            next(first.consumer(group=GROUP))
            taker = other.topic("cars").consumer(group=GROUP, partitions=1)
            next(taker)
            log.close()
            assert owners(taker.claims.store) == {None, taker.claims.owner}


def test_closing_again_and_at_the_same_time_is_fine(
    topic: Topic, blobs: Blobs, threads: ThreadPoolExecutor
) -> None:
    """Whoever comes second waits for what the first one does."""
    group = store_of(topic)
    next(topic.consumer(group=GROUP))
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        begun.set()
        assert go_on.wait(PATIENCE)

    blobs.before_put = hold
    closing = [threads.submit(topic.log.close)]
    assert begun.wait(PATIENCE)
    closing.append(threads.submit(topic.log.close))
    go_on.set()
    assert [result_of(one) for one in closing] == [None, None]
    assert owners(group) == {None}
    topic.log.close()


# A store that does not answer


def test_a_store_that_does_not_answer_does_not_hold_up_who_closes_the_log(
    topic: Topic, blobs: Blobs, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor what another consumer has. What was not done is told, and comes to nothing later."""
    group = store_of(topic)
    consumer = topic.consumer(group=GROUP)
    next(consumer)
    go_on = threading.Event()
    blobs.before_put = lambda _: go_on.wait(PATIENCE)
    with caplog.at_level(logging.WARNING):
        topic.log.close()
    (record,) = caplog.records
    assert record.getMessage() == (
        "group 'fraud': closing the log, a consumer could not be taken out within 0.05 s; it is "
        "shown as a member a little longer"
    )
    assert owners(group) == {consumer.claims.owner}
    go_on.set()
    consumer.close()  # waits for nobody, but tries again
    assert owners(group) == {None}


def test_a_store_that_is_away_is_asked_and_left(topic: Topic, blobs: Blobs) -> None:
    consumer = topic.consumer(group=GROUP)
    next(consumer)

    def fail(_: str) -> None:
        raise StoreUnavailableError("away")

    blobs.before_put = fail
    topic.log.close()
    with pytest.raises(ClosedError):
        list(consumer)


def test_a_log_that_another_process_keeps_locked_is_closed_all_the_same(
    log_path: Path, start: Start, impatient: None
) -> None:
    """Though the consumer could write to it only in ten minutes."""
    with eventlog.open(log_path, lock_timeout=600) as log:
        topic = log.create_topic("cars", partitions=3)
        fill(topic)
        next(topic.consumer(group=GROUP))
        holder = start(
            "import sys, pathlib\n"
            "from eventlog.embedded.directory import LOCK_NAME\n"
            "from eventlog.embedded.locks import ProcessLock\n"
            "ProcessLock(pathlib.Path(sys.argv[1]) / LOCK_NAME).acquire(60)\n"
            "print('locked', flush=True)\n"
            "input()",
            log_path,
        )
        assert holder.line() == "locked"
        before = time.monotonic()
        log.close()
        assert time.monotonic() - before < PATIENCE
    holder.kill()
    with eventlog.open(log_path) as log:
        assert len(log.topic("cars").group(GROUP).members()) == 1


@pytest.mark.parametrize("claim", [1, 2, 3])
def test_what_is_being_claimed_when_the_log_closes_is_given_back(
    topic: Any, blobs: Blobs, threads: ThreadPoolExecutor, impatient: None, claim: int
) -> None:
    """By who claims it, if nobody waited so long; and no more is claimed."""
    group = store_of(topic)
    numbers = itertools.count(1)
    begun, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if "/checkpoints/" in name and next(numbers) == claim:
            begun.set()
            assert go_on.wait(PATIENCE)

    blobs.before_put = hold
    beginning = threads.submit(next, topic.consumer(group=GROUP))
    assert begun.wait(PATIENCE)
    topic.log.close()
    go_on.set()
    with pytest.raises(ClosedError, match="log"):
        result_of(beginning)
    assert owners(group) == {None}
    assert len(group.checkpoints()) == claim


# Signal handlers, and forks


@pytest.mark.parametrize("what", ["log", "consumer"])
@pytest.mark.parametrize("claim", [1, 2, 3])
def test_a_signal_handler_may_close_it_while_it_claims(
    topic: Topic, blobs: Blobs, what: str, claim: int
) -> None:
    """Just then: nothing stays claimed; iteration ends as it does when others close it."""
    group = store_of(topic)
    consumer = topic.consumer(group=GROUP, follow=False)
    numbers = itertools.count(1)

    def close(_signal: int, _frame: FrameType | None) -> None:
        blobs.before_put = lambda _: None
        (topic.log if what == "log" else consumer).close()

    def interrupt(name: str) -> None:
        if "/checkpoints/" in name and next(numbers) == claim:
            signal.raise_signal(signal.SIGUSR1)

    blobs.before_put = interrupt
    before = signal.signal(signal.SIGUSR1, close)
    try:
        if what == "log":
            with pytest.raises(ClosedError):
                next(consumer)
        else:
            assert list(consumer) == []
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert owners(group) == {None}


def test_a_signal_handler_may_close_the_log_while_its_consumer_waits(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose claims are in the log itself."""
    log: Any
    with eventlog.open(log_path) as kept, eventlog.open(log_path) as log:
        source = SpySource(log.create_topic("cars", partitions=2))
        consumer = Consumer(source, group=store_of(source._topic), readership=log.readership)
        group = kept.topic("cars").group(GROUP)
        monkeypatch.setattr(source.waits, "release", lambda: signal.raise_signal(signal.SIGUSR1))
        before = signal.signal(signal.SIGUSR1, lambda *_: log.close())
        try:
            with pytest.raises(ClosedError):
                next(consumer)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert len(group.checkpoints()) == 2
        assert group.members() == []


def test_an_interrupted_claim_is_given_back_too(topic: Topic, blobs: Blobs) -> None:
    """By Ctrl-C when it was made, and before that was known."""
    group = store_of(topic)
    with topic.consumer(group=GROUP) as consumer:

        class Interrupted(GroupStore):
            def claim(self, *arguments: Any) -> Any:
                super().claim(*arguments)
                raise KeyboardInterrupt

        consumer.claims.store.__class__ = Interrupted
        with pytest.raises(KeyboardInterrupt):
            next(consumer)
        assert owners(group) == {consumer.claims.owner}
    assert owners(group) == {None}


FORK = """
import os, sys
import eventlog

log = eventlog.open(sys.argv[1])
topic = log.create_topic("cars", partitions=2)
topic.append(b"a", partition=0)
topic.append(b"b", partition=1)
group = topic.group("fraud")

def in_child(do):
    child = os.fork()
    if not child:
        status = 1
        try:
            do()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0

consumer = topic.consumer(group="fraud", partitions=0)
unused = topic.consumer(group="audit")
next(consumer)
members = group.members()
assert len(members) == 1

in_child(consumer.close)
in_child(log.close)

def claim():
    next(unused)
    assert len(topic.group("audit").members()) == 1
    with eventlog.open(sys.argv[1]) as other:
        log.close()
        assert other.topic("cars").group("audit").members() == []

in_child(claim)
assert group.members() == members
consumer.checkpoint()
assert group.checkpoints()[0].offset == 0
with eventlog.open(sys.argv[1]) as other:
    log.close()
    assert other.topic("cars").group("fraud").members() == []
print("ended")
"""


def test_a_forked_child_gives_back_what_it_has_claimed_itself_and_nothing_else(
    log_path: Path, start: Start
) -> None:
    """Whether it closes the log or the consumer; its parent goes on."""
    child = start(FORK, log_path)
    assert child.rest() == ["ended"]
    assert child.wait() == 0


# What is told of a log that does not answer


class AwaySource(SpySource):
    """Does not answer, the first time it is asked."""

    def fetch(self, request: Request) -> Look:
        if not self.requests:
            self.requests.append(request)
            raise LogBusyError("reading 'cars': no answer: try again")
        return super().fetch(request)


def test_that_a_topic_does_not_answer_is_told_once_for_each_log(
    topic: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many read it; a topic of that name in another log is another."""
    monkeypatch.setattr("eventlog.consuming.reading._AWAY_SECONDS", 0.0)
    with eventlog.open("memory:") as log:
        other: Any = log.create_topic("cars", partitions=3)
        fill(other)
        with caplog.at_level(logging.WARNING):
            for told, each in zip((1, 1, 2, 2), (topic, topic, other, other), strict=True):
                with Consumer(AwaySource(each), readership=each.log.readership) as consumer:
                    next(consumer)
                message = "reading 'cars': no answer; who follows the topic waits, and goes on"
                assert [record.getMessage() for record in caplog.records] == [
                    f"{message} where it was"
                ] * told


def test_an_answer_to_who_was_cancelled_is_not_taken_for_the_one_that_did_not_come(
    topic: Any,
) -> None:
    """Step by step, as an event loop does it: the threads of cancelled tasks go on."""
    source = AwaySource(topic)
    source.requests.append(Request([], 0, 0, each=False))
    with Consumer(source) as consumer:
        _ = consumer.positions
        cancelled = next(consumer._reading.steps())
        source.requests.clear()
        steps = consumer._reading.steps()
        answer = next(steps).run()
        assert cancelled.run() is not None
        steps.send(answer)  # it waits a moment
        steps.close()
        assert next(consumer).offset == 0
