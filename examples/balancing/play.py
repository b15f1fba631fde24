"""What happens: a scene after the other, each when the replay has come to its day.

Nothing here depends on how fast the machine is. A scene begins when enough flights are replayed,
and goes on when what it waits for is there; while it is late, the replay slows down. Only a wait
without end is given up.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from anyio.to_thread import run_sync as in_thread

from eventlog import EventLog, LogBusyError
from examples.balancing.flights import TOPIC
from examples.balancing.record import Host, Record, Sample
from examples.balancing.screen import Screen
from examples.balancing.stage import Actor, Stage, StageError
from examples.balancing.worker import GROUP

__all__ = ["NOTES", "Play"]

NOTES = "notes"
SAMPLE_SECONDS = 0.25
PATIENCE_SECONDS = 120.0
PROBE_SECONDS = 1.0


class Play:
    """Performs it. What it tells is appended to the topic of notes too.

    Args:
        log: with the topics of flights, figures and notes.
        file: the flights.
        seconds: how long the replay of the year takes.
        lease: of the workers, in seconds.
    """

    def __init__(
        self,
        log: EventLog,
        file: Path,
        seconds: float,
        lease: float,
        *,
        stage: Stage,
        record: Record,
        screen: Screen,
    ) -> None:
        self._log = log
        self._file = file
        self._seconds = seconds
        self._lease = lease
        self._stage = stage
        self._record = record
        self._screen = screen
        self._workers: dict[str, Actor] = {}
        self._stopped: dict[str, Actor] = {}
        self._producer: Actor | None = None

    async def perform(self) -> None:
        """All of it, until every flight is counted and everybody has gone.

        Raises:
            StageError: something went wrong.
        """
        await self._begin()
        ends = [share for share, _ in SCENES[1:]] + [1.0]
        await self._replay_to(SCENES[0][0])
        for (share, scene), end in zip(SCENES, ends, strict=True):
            await self._until_replayed(share)
            await self._replay_to(end)
            await scene(self)
        await self._finish()

    async def watch(self) -> None:
        """Take samples of the lag, on and on."""
        group = self._log.topic(TOPIC).group(GROUP)
        while True:
            at = self._record.now()
            lags = await in_thread(group.lag)
            behind = [lags[number].events for number in sorted(lags)]
            self._record.samples.append(Sample(at, behind))
            await anyio.sleep(SAMPLE_SECONDS)

    # The beginning and the end

    async def _begin(self) -> None:
        record = self._record
        self._producer = await self._stage.start(
            "producer", "producer", self._log.location, self._file, self._seconds
        )
        await self.join("ada")
        await self._until(lambda: record.flights > 0, "the producer has read the file")
        await self._note(f"the producer has {record.flights:,} flights of 2013, and begins")

    async def _replay_to(self, share: float) -> None:
        assert self._producer is not None
        self._producer.may_end = share == 1.0
        await self._producer.write(str(round(share * self._record.flights)))

    async def _until_replayed(self, share: float) -> None:
        record = self._record
        await self._until(
            lambda: record.replayed >= round(share * record.flights),
            f"{share:.0%} of the year were replayed",
        )

    async def _finish(self) -> None:
        await self._until_replayed(1.0)
        await self._note("the year is over")
        done, samples = self._record.now(), self._record.samples
        await self._until(
            lambda: samples[-1].at > done and not any(samples[-1].lags), "every flight is counted"
        )
        await self._end(list(self._workers), signal.SIGTERM)
        await self._note("every flight is counted, and the others have left, too: now the proof")

    # The scenes

    async def join(self, name: str) -> None:
        """Another worker comes."""
        self._workers[name] = await self._stage.start(
            name, "worker", self._log.location, name, self._lease
        )
        host = self._record.hosts[name] = Host(name)
        await self._until_balanced()
        assert host.came is not None
        mine = self._record.owned_by(name)
        self._record.mark(f"{name} joins", host.came)
        how = "given to it" if len(self._workers) == 1 else "handed over to it, between batches"
        await self._note(
            f"{name} joins: {partitions(mine)} {how}, "
            f"within {duration(self._record.taken_after(mine, host.came))}"
        )

    async def kill(self, name: str) -> None:
        """A worker is killed: it can tell nobody."""
        record = self._record
        at = record.mark(f"{name} killed")
        await self._end([name], signal.SIGKILL)
        record.ends(name, at)
        lost = record.lost_by(name)
        await self._note(f"{name} is killed (SIGKILL), amid the work on {partitions(lost)}")
        await self._until_balanced()
        await self._note(
            "the kernel lets go of its lock: the others have taken over, "
            f"within {duration(record.taken_after(lost, at))}"
        )

    async def stop(self, name: str) -> None:
        """A worker is stopped, with a batch in its hands: to the others it looks dead, too."""
        actor = self._stopped[name] = self._workers.pop(name)
        await self._suspend(actor)
        record = self._record
        stopping = record.hosts[name].stopping
        assert stopping is not None
        at = record.mark(f"{name} stopped", record.time_of(stopping))
        lost = record.lost_by(name)
        await self._note(
            f"{name} is stopped (SIGSTOP), with a batch of partition {stopping.partition} in its "
            f"hands; it owns {partitions(lost)}, and keeps its lock"
        )
        await self._until_balanced()
        await self._note(
            f"its lease, {self._lease:g} s from its last heartbeat on, is over: the others have "
            f"taken over, within {duration(record.taken_after(lost, at))}"
        )

    async def _suspend(self, actor: Actor) -> None:
        """Have a worker stop itself, and be sure that it holds up nobody.

        It does not stop while it commits a batch. Its host may still be amid a commit of its own,
        a heartbeat say: then nobody else can commit, and it has to go on and try again.
        """
        record, host = self._record, self._record.hosts[actor.name]
        while True:
            host.stopping = None
            actor.signal(signal.SIGUSR1)
            await self._until(lambda: host.stopping is not None, f"{actor.name} stops itself")
            await self._until(actor.stands_still, f"{actor.name} stands still")
            try:
                await self._append(f"{actor.name} is stopped", wait=PROBE_SECONDS)
            except LogBusyError:
                record.goes_on(actor.name)
                actor.signal(signal.SIGCONT)
            else:
                host.state = "stopped"
                return

    async def wake(self, name: str) -> None:
        """It goes on where it was, and knows nothing; but what it does is refused."""
        actor = self._stopped.pop(name)
        record, host = self._record, self._record.hosts[name]
        record.mark(f"{name} wakes")
        actor.signal(signal.SIGCONT)
        await self._until(lambda: host.refused is not None, f"{name} is refused")
        refused = host.refused
        assert refused is not None
        host.state = "working"
        self._workers[name] = actor
        now = record.current[refused.partition]
        await self._note(
            f"{name} wakes (SIGCONT), a zombie: it would commit its batch of partition "
            f"{refused.partition}, in epoch {refused.epoch}; but {now.host} owns that by now, in "
            f"epoch {now.epoch}"
        )
        await self._note(f"nothing of it is stored: {refused.error}")
        await self._until_balanced()
        mine = record.owned_by(name)
        await self._note(f"{name} is back, as a new member, with {partitions(mine)}")

    async def leave(self, name: str) -> None:
        """A worker leaves in good order."""
        record = self._record
        given = record.owned_by(name)
        at = record.mark(f"{name} leaves")
        await self._end([name], signal.SIGTERM)
        await self._until_balanced()
        await self._note(
            f"{name} leaves (SIGTERM): {partitions(given)} given to the others, "
            f"within {duration(record.taken_after(given, at))}"
        )

    async def _end(self, names: list[str], number: signal.Signals) -> None:
        """End workers, whether they can do something about that or not."""
        actors = [self._workers.pop(name) for name in names]
        for actor in actors:
            actor.may_end = True
            actor.signal(number)
        await self._until(lambda: all(actor.has_ended for actor in actors), f"{names} have ended")
        for actor in actors:
            status = actor.process.returncode
            if status not in (0, -signal.SIGKILL):
                raise StageError(f"{actor.name} has ended with {status}:\n{actor.last_words()}")
            self._record.hosts[actor.name].state = "killed" if status else "left"

    # Telling and waiting

    async def _note(self, text: str) -> None:
        self._screen.say(self._record.now(), text)
        await self._append(text)

    async def _append(self, text: str, wait: float | None = None) -> None:
        topic = self._log.topic(NOTES)
        await in_thread(functools.partial(topic.append, text, timeout=wait))

    async def _until_balanced(self) -> None:
        names = list(self._workers)
        await self._until(
            lambda: self._record.is_balanced(names), f"{', '.join(names)} share the partitions"
        )

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for it.

        Raises:
            StageError: it did not come about.
        """
        with anyio.move_on_after(PATIENCE_SECONDS):
            while not condition():
                await self._stage.news()
            return
        raise StageError(f"after {PATIENCE_SECONDS:g} s it is still not so that {what}")


def partitions(numbers: list[int]) -> str:
    """How many they are, in words."""
    return "1 partition" if len(numbers) == 1 else f"{len(numbers)} partitions"


def duration(seconds: float) -> str:
    """How long something took, in words."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


Scene = Callable[[Play], Awaitable[None]]

SCENES: list[tuple[float, Scene]] = [
    (0.08, lambda play: play.join("bob")),
    (0.16, lambda play: play.join("cleo")),
    (0.24, lambda play: play.join("dora")),
    (0.36, lambda play: play.kill("bob")),
    (0.48, lambda play: play.join("eve")),
    (0.58, lambda play: play.stop("cleo")),
    (0.72, lambda play: play.wake("cleo")),
    (0.86, lambda play: play.leave("ada")),
]
"""At which share of the year what happens."""
