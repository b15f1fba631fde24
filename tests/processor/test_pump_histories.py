"""Owners come, fail, are handed over, cancelled, overtaken and crash; their handlers raise before
and after what they commit. With transactions every event has its outcome once, in order.
"""

from __future__ import annotations

import random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import eventlog
from eventlog.processor.lease import Lease
from eventlog.processor.options import RetryPolicy
from eventlog.processor.processor import DEAD_LETTER, RETRY, CloseReason, EventFailed
from eventlog.processor.pump import Outcome, Pump
from tests.processor.pumping import LONG, PATIENCE, Rig, bodies, until

pytestmark = pytest.mark.anyio


class History:
    """One topic, and owners one after the other, or at the same time."""

    def __init__(self, log: eventlog.EventLog, chance: random.Random) -> None:
        self.chance = chance
        self.rig = Rig(log)
        self.out = log.create_topic("out", partitions=1)
        self.count = 0
        self.owners = 0
        self.has_errors = True
        self.policy = RetryPolicy(max_attempts=chance.choice([1, 2, 4]), time_limit=100)
        self.max_batch = chance.choice([1, 3, 10])
        self.plain = chance.random() < 0.3
        self.current: list[Pump] = []

    def happens(self, probability: float) -> bool:
        return self.has_errors and self.chance.random() < probability

    # What handlers do

    async def process(self, context: Any, events: Any) -> None:
        await self.maybe_wait()
        self.maybe_raise(events)
        if self.happens(0.3):
            for event in events:
                async with context.transaction(event) as tx:
                    tx.append("out", event.body)
                self.maybe_raise(events)
                await self.maybe_wait()
            return
        async with context.transaction() as tx:
            tx.append_batch("out", [event.body for event in events])
        await self.maybe_wait()
        self.maybe_raise(events)

    def process_plain(self, context: Any, events: Any) -> None:
        self.maybe_raise(events)
        some = self.chance.choice(events)
        with context.transaction(some) as tx:
            tx.append_batch("out", [one.body for one in events if one.offset <= some.offset])
        self.maybe_raise(events)
        rest = [one.body for one in events if one.offset > some.offset]
        if rest:
            with context.transaction() as tx:
                tx.append_batch("out", rest)

    async def maybe_wait(self) -> None:
        while self.happens(0.3):
            await anyio.lowlevel.checkpoint()

    def maybe_raise(self, events: Any) -> None:
        if self.happens(0.1):
            if self.chance.random() < 0.5:
                raise EventFailed(self.chance.choice(events))
            raise ValueError

    async def error(self, context: Any, exception: Any, events: Any) -> Any:
        assert not isinstance(exception, eventlog.LeaseLostError)
        return self.chance.choice([RETRY] * 5 + [DEAD_LETTER])

    # What happens to them

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.let_time_pass)
            for _ in range(self.chance.randint(2, 8)):
                self.append()
                await self.own(tasks)
            self.has_errors = False
            last = self.pump()
            tasks.start_soon(last.run)
            await until(self.rig.topic_is_done)
            for pump in self.current:
                pump.stop()
            await until(lambda: all(pump.outcome for pump in self.current))
            tasks.cancel_scope.cancel()

    def append(self) -> None:
        for _ in range(self.chance.randint(1, 4)):
            size = self.chance.randint(1, 8)
            self.rig.feed(*[str(self.count + number) for number in range(size)])
            self.count += size

    def pump(self) -> Pump:
        history = self
        self.owners += 1

        class Processor:
            process = history.process_plain if history.plain else history.process
            error = history.error

        self.rig.lease = Lease(self.rig.clock.now)
        self.rig.lease.extend(self.rig.clock.now() + LONG)
        pump = self.rig.pump(
            Processor,
            member=f"host-{self.owners}",
            max_batch=self.max_batch,
            retry=self.policy,
            dead_letter="dead",
        )
        self.current.append(pump)
        return pump

    async def own(self, tasks: Any) -> None:
        """One owner, and how it ends: perhaps not before the next one has begun."""
        pump = self.pump()
        tasks.start_soon(pump.run)
        for _ in range(self.chance.randint(0, 60)):
            await anyio.lowlevel.checkpoint()
        end = self.chance.choice(["stop", "hand_over", "cancel", "lose", "lapse", "overtaken"])
        if end in ("stop", "hand_over"):
            getattr(pump, end)()
        elif end == "cancel":
            pump.cancel(CloseReason.SHUTDOWN)
        elif end == "lose":
            pump.cancel(CloseReason.LEASE_LOST)
        elif end == "lapse":
            self.rig.lease.lose()
        if end not in ("lapse", "overtaken"):
            await until(lambda: pump.outcome)
            assert pump.outcome is not Outcome.STOPPED

    async def let_time_pass(self) -> None:
        while True:
            waits = self.rig.clock.waits()
            if waits:
                self.rig.clock.advance(waits[0])
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("seed", range(40))
async def test_every_event_has_its_outcome_once_and_in_order(seed: int) -> None:
    with anyio.fail_after(PATIENCE), eventlog.open("memory:") as log:
        history = History(log, random.Random(seed))
        await history.run()
        done = [int(text) for text in bodies(history.out.read(0, max_events=1000))]
        dead = [int(text) for text in bodies(history.rig.dead.read(0, max_events=1000))]
    assert done == sorted(done)
    assert dead == sorted(dead)
    assert sorted(done + dead) == list(range(history.count))
