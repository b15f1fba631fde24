"""A simulated host: the real `Membership`, pumps with the real checkpoint, and no process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from eventlog.errors import EventLogError
from eventlog.groups.documents import GroupDocument
from eventlog.processor.checkpoint import GroupLook
from eventlog.processor.membership import Assignment, LapsedError, Membership, Round
from tests.processor.simulation.blobs import Actor
from tests.processor.simulation.pump import Life, Outcome, SimulatedPump, Sleep
from tests.processor.simulation.truth import IDS

if TYPE_CHECKING:
    from tests.processor.simulation.world import World

__all__ = ["BLOCKED_SECONDS", "SimulatedHost", "Task"]

BLOCKED_SECONDS: Final = 15.0
"""For how long a handler blocks its event loop, at most."""


class Task:
    """A life under way: goes on when an answer has come or a sleep is over."""

    def __init__(self, host: SimulatedHost, actor: Callable[[], Actor], life: Life) -> None:
        self._host = host
        self._actor = actor
        self._life = life
        self._waits = 0  # which wait it is in: who comes for an earlier one comes too late
        self._may_be_poked = False
        self._poked = False
        self.is_over = False

    def go_on(self, answer: Any = None, error: Exception | None = None) -> None:
        """Up to its next wait."""
        self._waits += 1
        self._may_be_poked = False
        try:
            wanted = self._life.send(answer) if error is None else self._life.throw(error)
        except StopIteration:
            self.is_over = True
            return
        if self.is_over:
            return  # it was ended by what it did itself
        host, wait = self._host, self._waits
        if isinstance(wanted, Sleep):
            self._may_be_poked = wanted.until_poked
            if self._poked and wanted.until_poked:
                wanted = Sleep(0)
                self._poked = False
            host.after(wanted.seconds, lambda: self._woken(wait))
        else:
            host.world.network.call(
                self._actor(),
                wanted,
                lambda answer, error: host.do(lambda: self._answered(wait, answer, error)),
                cut=host.is_cut_off,
            )

    def _woken(self, wait: int) -> None:
        if wait == self._waits and not self.is_over:
            self.go_on()

    def _answered(self, wait: int, answer: Any, error: Exception | None) -> None:
        if wait == self._waits and not self.is_over:
            self.go_on(answer, error)

    def poke(self) -> None:
        """There are news: a sleep ends that may."""
        if self._may_be_poked and not self.is_over:
            wait = self._waits
            self._host.after(0.0, lambda: self._woken(wait))
        else:
            self._poked = True

    def end(self) -> None:
        """It does nothing more."""
        self.is_over = True


class _News(NamedTuple):
    """What its event loop knows of the group: None for a round, if the member has lapsed."""

    membership: Membership
    round: Round | None


class SimulatedHost:
    """One process.

    As in a real one, rounds are made on their own, and what they bring is acted upon a little
    later, on the event loop: by then it may be old.

    Attributes:
        rate, offset: of its clock, in seconds of its own to one of the true time.
        pumps: those that are open.
        is_dead: nothing more happens.
        is_told_to_leave: it was sent SIGTERM; `is_leaving` when it has noticed, `has_left` when it
            has left.
        is_cut_off: it cannot reach the store.
    """

    def __init__(self, world: World, name: str) -> None:
        chance = world.chance
        self.world: Final = world
        self.look_at_group = GroupLook(IDS)
        self.name: Final = name
        self.rate: Final = 1 + chance.uniform(-1, 1) * world.setting.drift
        self.offset: Final = chance.uniform(0, 1e6)
        self.wall_error: Final = chance.uniform(-90, 90)
        self.pumps: dict[int, SimulatedPump] = {}
        self.is_dead = self.is_leaving = self.has_left = self.is_cut_off = False
        self.is_told_to_leave = False
        self._paused_until: float | None = None
        self._held_up: list[Callable[[], object]] = []
        self._tasks: dict[SimulatedPump, Task] = {}
        self._reported: dict[int, int] = {}
        self._news: _News | None = None
        self._lease_duration = world.lease()
        self._may_restart = self._is_to_act = False
        self._former: list[str] = []
        self._resets = 0
        self._watched: float | None = None
        self.membership = self._join()
        self._coordination = Task(self, self._coordinator, self._coordinate())

    def __repr__(self) -> str:
        return f"<SimulatedHost {self.member}>"

    @property
    def member(self) -> str:
        """Its present name in the group."""
        return self.membership.member

    def was(self, member: str) -> bool:
        """Whether it is that member, or was: in this process."""
        return member in self._former

    @property
    def trusted(self) -> str | None:
        """The member it is, if its lease is held."""
        return self.member if not self.is_dead and self.membership.lease.held() else None

    @property
    def is_running(self) -> bool:
        """Whether it is there to stay."""
        return not (self.is_dead or self.is_told_to_leave)

    @property
    def is_disturbed(self) -> bool:
        """Whether it is paused, or cut off, or about to leave."""
        if self.is_dead:
            return False
        return self._paused_until is not None or self.is_cut_off or self.is_told_to_leave

    # ---- Time ------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Seconds, running through pauses."""
        return self.offset + self.world.timeline.now * self.rate

    def wall_us(self) -> int:
        """Microseconds since 1970, as it believes."""
        return 1_800_000_000_000_000 + int((self.world.timeline.now + self.wall_error) * 1e6)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do it so much later on the own clock, unless it is dead or paused then."""
        self.world.timeline.after(max(seconds, 0.0) / self.rate, lambda: self.do(action))

    def do(self, action: Callable[[], object]) -> None:
        """Do it now; when the pause is over; or never."""
        if self._paused_until is not None:
            self._held_up.append(action)
        elif not self.is_dead and not self.has_left:
            action()

    # ---- What befalls it -------------------------------------------------------------------------

    def start(self) -> None:
        """From here on it does something."""
        self._coordination.go_on()

    def die(self) -> None:
        """SIGKILL."""
        self.world.note(self, "DIES")
        self.is_dead = True
        self._held_up.clear()
        for pump in list(self.pumps.values()):
            pump.end(Outcome.LOST, "its host died")

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        if self._paused_until is not None or self.is_dead:
            return
        self.world.note(self, f"is PAUSED for {seconds:.1f} s")
        self._paused_until = self.world.timeline.now + seconds
        self.world.timeline.after(seconds, self._resume)

    def _resume(self) -> None:
        """What came due meanwhile comes all at once, in any order."""
        if self.is_dead:
            return
        self.world.note(self, "goes on after its pause")
        self._paused_until = None
        held_up, self._held_up = self._held_up, []
        self.world.chance.shuffle(held_up)
        for action in held_up:
            self.world.timeline.after(
                self.world.chance.uniform(0, 0.01),
                lambda action=action: self.do(action),  # type: ignore[misc]
            )

    def cut_off(self, seconds: float) -> None:
        """It cannot reach the store for a while."""
        self.world.note(self, f"is CUT OFF from the store for {seconds:.1f} s")
        self.is_cut_off = True

        def back() -> None:
            self.world.note(self, "reaches the store again")
            self.is_cut_off = False

        self.world.timeline.after(seconds, back)

    def leave(self) -> None:
        """SIGTERM."""
        if self.is_told_to_leave or self.is_dead:
            return
        self.world.note(self, "is to LEAVE")
        self.is_told_to_leave = True

        def leave() -> None:
            self.is_leaving = True
            self.membership.leave()
            self.poke()
            self._look()

        self.do(leave)

    def poke(self) -> None:
        """There is something to look at."""
        self._coordination.poke()

    # ---- Coordination ----------------------------------------------------------------------------

    def _join(self) -> Membership:
        former = list(self._former)
        member = f"{self.name}-{self.world.chance.getrandbits(32):08x}"
        self._former.append(member)
        self.world.truth.hosts[member] = self
        self.look_at_group = GroupLook(IDS)
        self.world.note(member, f"is what {self.name} is now")
        membership = self.world.membership(
            IDS,
            member,
            lease_duration=self._lease_duration,
            renew_interval=self.world.renew_interval,
            partitions=lambda: self.world.partitions,
            clock=self.clock,
            known_dead=former,
            chance=self.world.chance,
            wall_us=self.wall_us,
        )
        if self.is_leaving:
            membership.leave()
        return membership

    def _coordinator(self) -> Actor:
        return Actor(self.name, self.member)

    def _coordinate(self) -> Life:
        while True:
            yield from self._live()
            if self.membership.left:
                self._go()
                return
            while not self._may_restart:
                yield Sleep(1.0)
            self._may_restart = False
            self.membership = self._join()

    def _live(self) -> Life:
        """Rounds, until it has left or lapsed."""
        membership = self.membership
        try:
            while True:
                yield from self._round(membership)
                if membership.left:
                    return
                yield Sleep(membership.next_round_at - self.clock())
        except LapsedError as error:
            self.world.note(self.member, f"LAPSES: {error}")
            membership.lease.lose()
            self._publish(_News(membership, None))

    def _round(self, membership: Membership) -> Life:
        try:
            found = yield from membership.round()
        except EventLogError as error:
            self.world.note(self.member, f"round failed: {error}", dull=True)
        else:
            self._publish(_News(membership, found))
        self._watch_lease()

    def _publish(self, news: _News) -> None:
        self._news = news
        self._look()

    def _go(self) -> None:
        self._close_all("its host has left")
        self.world.note(self, "has left")
        self.has_left = self.is_dead = True

    # ---- The event loop --------------------------------------------------------------------------

    def _look(self) -> None:
        """Act upon what is new, when the loop comes to it: a handler may block it for a while."""
        if self._is_to_act:
            return
        self._is_to_act = True
        chance = self.world.chance
        is_blocked = not self.world.is_calm and chance.random() < 0.02
        self.after(chance.uniform(0, BLOCKED_SECONDS if is_blocked else 0.1), self._act)

    def _act(self) -> None:
        self._is_to_act = False
        news = self._news
        if news is None:
            return
        if news.round is None or news.membership.lease.lost:
            self._close_lost(news)
        else:
            self._attend_all(news.membership, news.round)

    def _close_lost(self, news: _News) -> None:
        self._close_all("the lease is lost")
        if self.is_leaving:
            self._go()
        elif news.round is None and news.membership is self.membership:
            self._news = None
            self._reported.clear()
            self._may_restart = True
            self.poke()

    def _close_all(self, why: str) -> None:
        for pump in list(self.pumps.values()):
            pump.cancel(why)

    def _watch_lease(self) -> None:
        """Handlers are cancelled when the lease ends, whoever is busy with what."""
        lease = self.membership.lease
        if lease.expires_at != self._watched and lease.expires_at > 0:
            self._watched = lease.expires_at
            self.after(lease.expires_at - self.clock(), self._look_at_lease)

    def _look_at_lease(self) -> None:
        if not self.membership.lease.held() and self.pumps:
            self._close_all("the lease has run out")
            self.poke()

    def _attend_all(self, membership: Membership, found: Round) -> None:
        """Close what is to go, open what has come, report what is closed."""
        assigned = found.assigned
        for partition, pump in list(self.pumps.items()):
            assignment = assigned.get(partition)
            if assignment is None or assignment.epoch != pump.epoch:
                pump.cancel("it is not assigned any more")
            elif assignment.next is not None or self.is_leaving:
                self._tell_to_close(pump)
        self._reported = {
            partition: epoch
            for partition, epoch in self._reported.items()
            if partition in assigned and assigned[partition].epoch == epoch
        }
        closed = {
            partition: assignment.epoch
            for partition, assignment in assigned.items()
            if partition not in self.pumps and self._is_closed(membership, partition, assignment)
        }
        new = {
            partition: epoch
            for partition, epoch in closed.items()
            if self._reported.get(partition) != epoch
        }
        if new:
            self._reported.update(new)
            membership.closed(new)
            self.poke()
        for partition in assigned.keys() - self.pumps.keys() - closed.keys():
            self._open(membership, partition, assigned[partition], found.document)
        self._follow_resets(found.document)

    def _is_closed(self, membership: Membership, partition: int, assignment: Assignment) -> bool:
        """Whether it is closed, and is to be given away."""
        if assignment.next is not None or self.is_leaving:
            return True
        if partition in self._reported:
            if not membership.reopen(partition):
                return True
            self.world.note(self.member, f"opens [{partition}] again", partition=partition)
            del self._reported[partition]
        return False

    def _follow_resets(self, document: GroupDocument) -> None:
        if document.resets != self._resets:
            self._resets = document.resets
            for pump in self.pumps.values():
                pump.is_told_to_look = True
                self._tasks[pump].poke()

    def _tell_to_close(self, pump: SimulatedPump) -> None:
        if not pump.is_told_to_stop:
            pump.hand_over()
            self._tasks[pump].poke()

    def _open(
        self,
        membership: Membership,
        partition: int,
        assignment: Assignment,
        document: GroupDocument,
    ) -> None:
        pump = self.world.pump(self, membership, document, partition, assignment.epoch)
        self.pumps[partition] = pump
        task = self._tasks[pump] = Task(self, lambda: pump.actor, pump.life())
        self.after(0.0, task.go_on)

    def pump_ended(self, pump: SimulatedPump) -> None:
        """Nothing more comes of it."""
        self._tasks.pop(pump).end()

    def pump_closed(self, pump: SimulatedPump) -> None:
        """It is this host's no more."""
        del self.pumps[pump.partition]
        if not self.is_dead:
            self._look()
            if pump.outcome is Outcome.LOST:
                if pump.outdone_by is not None and pump.actor.member == self.member:
                    self.membership.outdone(pump.partition, pump.outdone_by)
                self.poke()
