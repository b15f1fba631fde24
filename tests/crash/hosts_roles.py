"""What a host does in a process of its own, until it is killed or told to stop.

The parent says how it is in a `Part`. Its processors note what they are given and what they
finish (see `tests.history`); what is to become of the process itself, some events say: those whose
label begins with one of the words below, and ``@`` and the name of a process if it is for no other.

``poison``
    Kills the process when it is handed over.
``hang``
    Is never done.
``block``
    Blocks the event loop until the parent says something.
``stop-commit``
    Stops the process inside its next commit, mostly that of what was handed over with it; once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec

import eventlog
from eventlog import (
    CloseReason,
    Event,
    EventLog,
    EventProcessor,
    EventProcessorHost,
    ProcessorOptions,
    RetryPolicy,
    StoredEvent,
)
from eventlog.embedded.commit import Committer
from tests.history import Recorder
from tests.history.contents import body_of, label_of
from tests.history.witnesses import OwnerWitness, TransactionWitness

__all__ = ["PLAY", "Part", "main"]

PLAY = "from tests.crash.hosts_roles import main; main()"
"""The program; its argument is a `Part` as JSON."""

IN_GOOD_ORDER = {CloseReason.SHUTDOWN, CloseReason.HANDED_OVER}


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to do.

    Attributes:
        path: of the log.
        histories: the directory where to note things.
        name: tells this process from all others there ever are.
        store: URL of the group's store, if it is not the log's own.
        output: to which topic it writes an event for each, in transactions; none if it is empty.
        backend, plain, auto: which event loop, handlers that are plain functions, checkpoints that
            the host makes.
        first: where the group begins.
        pause: seconds that a batch takes at most.
        failures: how probable it is that a batch fails before its half, and again after it.
        attempts: after how many a poisonous event is put aside, into the topic "dead".
        lock_timeout: seconds that it waits for others to write to the log.
    """

    path: str
    histories: str
    name: str
    topic: str = "in"
    group: str = "g"
    store: str = ""
    output: str = ""
    backend: Literal["asyncio", "trio"] = "asyncio"
    plain: bool = False
    auto: bool = False
    start: str = "earliest"
    first: int = 0
    lease: float = 2.0
    renew: float = 0.5
    grace: float = 20.0
    max_batch: int = 50
    pause: float = 0.0
    failures: float = 0.0
    attempts: int = 0
    handler_timeout: float | None = None
    lock_timeout: float = 30.0

    @property
    def options(self) -> ProcessorOptions:
        """Those of its host."""
        return ProcessorOptions(
            lease_duration=self.lease,
            renew_interval=self.renew,
            max_batch=self.max_batch,
            max_wait=0.2,
            start=self.start,
            checkpoint="auto" if self.auto else "manual",
            checkpoint_interval=2.0,
            retry=RetryPolicy(
                max_attempts=self.attempts or None, initial_delay=0.01, max_delay=0.1
            ),
            dead_letter="dead" if self.attempts else None,
            handler_timeout=self.handler_timeout,
            grace=self.grace,
        )


def say(line: str) -> None:
    """Tell the parent something, whole."""
    os.write(1, f"{line}\n".encode())


class Stage:
    """Where a part is played: what all its processors share."""

    def __init__(self, part: Part, log: EventLog) -> None:
        self.part = part
        self.log = log
        self.recorder = Recorder(Path(part.histories))
        self.rng = random.Random(part.name)
        self.numbers = itertools.count()
        self.has_stopped = False


class Work:
    """What one processor notes of its partition."""

    def __init__(self, stage: Stage, context: Any) -> None:
        self.part = stage.part
        self._stage = stage
        self._partition = context.partition
        self._epoch = context.epoch
        self._topic = stage.log.topic(context.topic)
        self._failed = False
        self._finished = stage.part.first - 1
        self._witness: OwnerWitness | None = None

    @property
    def witness(self) -> OwnerWitness:
        """The one that is noted by now."""
        if self._witness is None:
            part = self.part
            self._witness = OwnerWitness(
                self._stage.recorder,
                part.name,
                self._topic,
                group=part.group,
                partition=self._partition,
                epoch=self._epoch,
                number=next(self._stage.numbers),
                start=part.first,
            )
        return self._witness

    @contextlib.contextmanager
    def at_work(self, events: list[StoredEvent]) -> Iterator[None]:
        """Around what is done with a batch: it goes on behind the last one, unless that failed,
        or events in between were put aside.
        """
        last = self.witness.last.get(self._partition)
        if last is not None and events[0].offset != last + 1:
            passed_by = self.part.attempts and events[0].offset > last
            assert self._failed or passed_by, f"{events[0].offset} after {last}"
            self._witness = None
        self._failed = True
        yield
        self._failed = False

    def given(self, events: list[StoredEvent]) -> None:
        """Some of the batch is begun."""
        self.witness.given(events)
        for event in events:
            self._obey(label_of(event.body))

    def _obey(self, label: str) -> None:
        order = self._order(label)
        if order == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        elif order == "block":
            say(f"blocking {self._partition}")
            sys.stdin.readline()
        elif order == "stop-commit" and not self._stage.has_stopped:
            # Only once: was it a heartbeat's commit, the event comes again, perhaps to this one.
            self._stage.has_stopped = True
            _stop_in_commit()

    def _order(self, label: str) -> str:
        order, _, name = label.partition(":")[0].partition("@")
        return order if name in ("", self.part.name) else ""

    def hangs(self, events: list[StoredEvent]) -> bool:
        """Whether it is never to be done with them."""
        found = any(self._order(label_of(event.body)) == "hang" for event in events)
        if found:
            say(f"hanging {self._partition}")
        return found

    def finished(self, event: StoredEvent) -> None:
        """All up to that one is."""
        self._finished = event.offset

    def moment(self) -> float:
        """How long a part of a batch takes."""
        return self._stage.rng.uniform(0, self.part.pause)

    def perhaps_fail(self) -> None:
        """Now and then it fails."""
        if self._stage.rng.random() < self.part.failures:
            raise RuntimeError("by chance")

    def transaction(self) -> TransactionWitness:
        """What notes the next transaction."""
        output = self._stage.log.topic(self.part.output)
        name = f"{self.witness.actor}.{next(self._stage.numbers)}"
        return TransactionWitness(self._stage.recorder, self.witness, name, output)

    def closed(self, reason: CloseReason) -> None:
        """It is closed."""
        say(f"closed {self._partition} {reason.name}")
        if self._witness is not None and reason in IN_GOOD_ORDER:
            self._witness.closed(self._partition, self._finished)


def outputs(labels: list[str]) -> list[Event]:
    """What a transaction appends."""
    return [Event(body_of(label), key=label[-1]) for label in labels]


@contextlib.contextmanager
def noted(witness: TransactionWitness) -> Iterator[None]:
    """Around a transaction: how it failed, if it did."""
    try:
        yield
    except Exception as error:
        witness.failed(error)
        raise


def halves(events: list[StoredEvent]) -> list[list[StoredEvent]]:
    """A batch, in two parts if it can be."""
    middle = len(events) // 2
    return [half for half in (events[:middle], events[middle:]) if half]


class AsyncWorker(EventProcessor):
    """One whose methods are coroutines."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def open(self, context: Any) -> None:
        self._work = Work(self._stage, context)
        say(f"opened {context.partition} {context.epoch}")

    async def process(self, context: Any, events: list[StoredEvent]) -> None:
        work = self._work
        with work.at_work(events):
            if work.part.output:
                await self._transact(context, events)
                return
            for half in halves(events):
                work.given(half)
                if work.hangs(half):
                    await anyio.sleep_forever()
                work.perhaps_fail()
                await anyio.sleep(work.moment())
                work.witness.checkpointing()
                if not work.part.auto:
                    await context.checkpoint(half[-1])
                    work.witness.checkpointed()
                    work.finished(half[-1])
        work.finished(events[-1])

    async def _transact(self, context: Any, events: list[StoredEvent]) -> None:
        work = self._work
        work.given(events)
        if work.hangs(events):
            await anyio.sleep_forever()
        await anyio.sleep(work.moment())
        witness = work.transaction()
        with noted(witness):
            async with context.transaction() as transaction:
                for event in outputs(witness.committing(events)):
                    transaction.append(work.part.output, event.body, key=event.key)
                work.perhaps_fail()
        witness.committed(transaction.receipts)
        work.finished(events[-1])
        work.perhaps_fail()

    async def close(self, context: Any, reason: CloseReason) -> None:
        self._work.closed(reason)


class PlainWorker(EventProcessor):
    """One whose methods are plain functions."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def open(self, context: Any) -> None:
        self._work = Work(self._stage, context)
        say(f"opened {context.partition} {context.epoch}")

    def process(self, context: Any, events: list[StoredEvent]) -> None:
        work = self._work
        with work.at_work(events):
            if work.part.output:
                self._transact(context, events)
                return
            for half in halves(events):
                work.given(half)
                if work.hangs(half):
                    threading.Event().wait()
                work.perhaps_fail()
                time.sleep(work.moment())
                work.witness.checkpointing()
                if not work.part.auto:
                    context.checkpoint(half[-1])
                    work.witness.checkpointed()
                    work.finished(half[-1])
        work.finished(events[-1])

    def _transact(self, context: Any, events: list[StoredEvent]) -> None:
        work = self._work
        work.given(events)
        if work.hangs(events):
            threading.Event().wait()
        time.sleep(work.moment())
        witness = work.transaction()
        with noted(witness), context.transaction() as transaction:
            for event in outputs(witness.committing(events)):
                transaction.append(work.part.output, event.body, key=event.key)
            work.perhaps_fail()
        witness.committed(transaction.receipts)
        work.finished(events[-1])
        work.perhaps_fail()

    def close(self, context: Any, reason: CloseReason) -> None:
        self._work.closed(reason)


def _stop_in_commit() -> None:
    """The next commit of this process stops it."""
    commit = Committer._commit_transaction

    def stop(self: Any, transaction: Any) -> None:
        Committer._commit_transaction = commit  # type: ignore[method-assign]
        # This very thread: sent to the process, the others would take it, and this one go on.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        commit(self, transaction)

    Committer._commit_transaction = stop  # type: ignore[method-assign]


def _tell_when_it_runs(host: EventProcessorHost) -> None:
    while host.status().health == "starting" or host.status().member is None:
        time.sleep(0.005)
    say("playing")


def play(part: Part, log: EventLog) -> None:
    """Be a host until SIGTERM."""
    stage = Stage(part, log)
    worker = PlainWorker if part.plain else AsyncWorker
    host = EventProcessorHost(
        log.topic(part.topic),
        group=part.group,
        processor=lambda: worker(stage),
        store=part.store or None,
        host_name=part.name,
        options=part.options,
    )
    threading.Thread(target=_tell_when_it_runs, args=(host,), daemon=True).start()
    if part.backend == "asyncio":
        host.run_sync()
    else:
        anyio.run(host._run_until_signalled, backend=part.backend)
    say("ended")


def main() -> None:
    """Play the part that the argument describes."""
    part = msgspec.json.decode(sys.argv[1], type=Part)
    with eventlog.open(part.path, lock_timeout=part.lock_timeout) as log:
        play(part, log)
