"""Hosts, a store, a network, people, and what befalls them: all of it as a seed decides."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from eventlog.blobs import Blob, BlobStore, Listing, NotModified
from eventlog.errors import EventLogError, StoreUnavailableError
from eventlog.groups.checkpoints import GroupStore
from eventlog.groups.documents import GroupDocument
from eventlog.processor.membership import Membership
from tests.processor.simulation.blobs import PEOPLE, Actor, SimulatedBlobs
from tests.processor.simulation.history import History, difference
from tests.processor.simulation.host import SimulatedHost
from tests.processor.simulation.network import FINE, Network, Weather
from tests.processor.simulation.pump import SimulatedPump
from tests.processor.simulation.timeline import Timeline
from tests.processor.simulation.truth import IDS, Truth, whose

__all__ = ["Setting", "World", "drawn"]


@dataclass(frozen=True)
class Setting:
    """What a world is like.

    Attributes:
        hosts: how many there are at first, and `most_hosts` at any time.
        partitions: how many there are at first.
        lease_duration, renew_interval: as hosts are configured, in seconds.
        drift: how much slower or faster than the true time the clocks of hosts run, of 1.
        mixed: some hosts are configured with another lease, and adopt the group's.
        stubborn: handlers cannot be cancelled: they go on when the lease is lost, and only the
            checkpoint stops them.
        hashed: etags are hashes of the content.
        latest: groups begin at the end of what there is.
        signals: the store tells hosts of changes.
        lifelines: hosts learn within a second that another has died.
        weather: between the hosts and the store, until it is calm.
        accidents: how many there are in a minute.
        slowest_batch: what a handler takes at most, in seconds.
    """

    hosts: int = 4
    most_hosts: int = 6
    partitions: int = 16
    lease_duration: float = 30.0
    renew_interval: float = 10.0
    drift: float = 0.005
    mixed: bool = False
    stubborn: bool = False
    hashed: bool = False
    latest: bool = False
    signals: bool = False
    lifelines: bool = False
    weather: Weather = FINE
    accidents: float = 2.0
    slowest_batch: float = 25.0


def drawn(chance: random.Random) -> Setting:
    """One of many."""
    lease, interval = chance.choice(((30.0, 10.0), (30.0, 10.0), (20.0, 5.0), (12.0, 4.0)))
    weather = chance.choice(
        (
            FINE,
            Weather(faults=0.02, slow=0.01, slowest=5.0),
            Weather(faults=0.1, slow=0.05, slowest=lease),
            Weather(faults=0.3, slow=0.1, slowest=2 * lease),
        )
    )
    if weather is not FINE and chance.random() < 0.5:
        lag = chance.uniform(0, lease)
        weather = weather._replace(stale=chance.choice((0.05, 0.5, 1.0)), lag=lag)
    return Setting(
        hosts=chance.randint(2, 5),
        partitions=chance.choice((1, 3, 7, 16, 16, 16)),
        lease_duration=lease,
        renew_interval=interval,
        drift=chance.choice((0.005, 0.005, 0.005, 0.05)),
        mixed=chance.random() < 0.1,
        stubborn=chance.random() < 0.2,
        hashed=chance.random() < 0.5,
        latest=chance.random() < 0.3,
        signals=chance.random() < 0.2,
        lifelines=chance.random() < 0.2,
        weather=weather,
        accidents=chance.choice((0.5, 2.0, 5.0)),
        slowest_batch=chance.choice((4.0, 10.0, 25.0)),
    )


_OTHER_LEASE: Final = 3.0
"""How much longer the other lease is, where leases are mixed."""


class World:
    """All there is.

    Args:
        setting: what it is like; unless it is given, the seed says.
        kept: whether its history is.
        host, membership, pump: what is simulated: in tests of the simulation something worse.

    Attributes:
        again: how to see its history once more.
        partitions: how many the topic has.
        slowest_batch: what a handler takes at most, in seconds.
        is_calm: nothing goes wrong any more, and there is not much to do.
    """

    def __init__(
        self,
        seed: int,
        setting: Setting | None = None,
        *,
        kept: bool = True,
        host: Callable[[World, str], SimulatedHost] = SimulatedHost,
        membership: Callable[..., Membership] = Membership,
        pump: Callable[..., SimulatedPump] = SimulatedPump,
    ) -> None:
        self.again: Final = (
            f"all of it: python -m tests.processor.simulation {seed}"
            if setting is None
            else f"seed {seed} of that setting"
        )
        self.chance: Final = random.Random(seed)
        self.setting: Final = setting or drawn(self.chance)
        self.timeline: Final = Timeline()
        self.history: Final = History(kept=kept)
        self.truth: Final = Truth(
            self.timeline,
            thorough=self.setting.partitions < 1000,
            stubborn=self.setting.stubborn,
        )
        self.blobs: Final = SimulatedBlobs(
            self.timeline,
            self.chance,
            self._changed,
            hashed=self.setting.hashed,
            memory=self.setting.weather.lag,
        )
        self.network: Final = Network(self.timeline, self.chance, self.blobs, self.history)
        self.network.weather = self.setting.weather
        self.hosts: list[SimulatedHost] = []
        self.partitions = self.setting.partitions
        self.slowest_batch = self.setting.slowest_batch
        self.is_calm = False
        self.lease_duration = self.setting.lease_duration
        self.renew_interval = self.setting.renew_interval
        if self.setting.mixed:
            self.lease_duration *= _OTHER_LEASE
        self.host: Final = host
        self.membership: Final = membership
        self.pump: Final = pump
        self._rates = [self.chance.choice((0.3, 2.0, 10.0)) for _ in range(7)]
        self._names = 0
        self._documents: list[tuple[float, Blob]] = []
        for _ in range(self.setting.hosts):
            self.timeline.after(self.chance.uniform(0, 15), self.join)

    # ---- What hosts ask for ----------------------------------------------------------------------

    def events(self, partition: int) -> int:
        """How many there are in a partition."""
        return int(self.timeline.now * self._rates[partition % len(self._rates)])

    def start(self, partition: int, document: GroupDocument) -> int:
        """Where a group begins in a partition."""
        added_since = partition >= document.topic_partitions
        return 0 if added_since or not self.setting.latest else self.events(partition)

    def lease(self) -> float:
        """What a host that starts now is configured with."""
        other = self.setting.mixed and self.chance.random() < 0.5
        return self.setting.lease_duration * (_OTHER_LEASE if other else 1.0)

    def batch_seconds(self) -> float:
        """How long a handler takes."""
        chance = self.chance
        longest = self.slowest_batch if chance.random() < 0.2 else min(self.slowest_batch, 6.0)
        return chance.uniform(0, longest)

    def note(
        self,
        who: object,
        what: str | Callable[[], str],
        *,
        partition: int | None = None,
        dull: bool = False,
    ) -> None:
        """Keep it for who wants to know what happened."""
        if isinstance(who, SimulatedHost):
            who = who.member
        self.history.note(self.timeline.now, who, what, partition=partition, dull=dull)

    # ---- What changes ----------------------------------------------------------------------------

    def _changed(self, actor: Actor, name: str, old: Blob | None, new: Blob | None) -> None:
        if self.history.kept:
            self._note_change(actor, name, old, new)
        self.truth.changed(actor, name, old, new)
        if name == IDS.document and new is not None:
            self._documents.append((self.timeline.now, new))
        if self.setting.signals and name == IDS.document:
            for host in self.running():
                soon = self.chance.uniform(0, 0.05)
                self.timeline.after(soon, functools.partial(host.do, host.poke))

    def _note_change(self, actor: Actor, name: str, old: Blob | None, new: Blob | None) -> None:
        member, partition = whose(name)
        self.note(
            actor,
            lambda: f"{name.removeprefix(IDS.place)}: {difference(old, new)}",
            partition=partition,
            dull=member is not None and old is not None and new is not None,
        )

    # ---- What befalls them -----------------------------------------------------------------------

    def running(self) -> list[SimulatedHost]:
        """Hosts that are there to stay."""
        return [host for host in self.hosts if host.is_running]

    def is_disturbed(self) -> bool:
        """Whether something of an accident is still to come."""
        away = self.network.busy_until > self.timeline.now + 1
        return away or any(host.is_disturbed for host in self.hosts)

    def join(self, name: str = "") -> SimulatedHost:
        """Another host; or a dead one's process is started again."""
        self._names += not name
        host = self.host(self, name or f"host-{self._names}")
        self.hosts.append(host)
        host.start()
        return host

    def die(self, host: SimulatedHost) -> None:
        """It is killed; where there are lifelines the others learn of it."""
        member = host.member
        host.die()
        if self.setting.lifelines:
            for other in self.hosts:
                self.timeline.after(
                    self.chance.uniform(0, 1),
                    lambda other=other: other.do(lambda: self._tell(other, member)),  # type: ignore[misc]
                )

    def _tell(self, host: SimulatedHost, member: str) -> None:
        host.membership.found_dead([member])
        host.poke()

    def reset(self) -> None:
        """A person has the group go on elsewhere, whoever works there."""
        partitions = self.chance.sample(
            range(self.partitions), self.chance.randint(1, self.partitions)
        )
        starts = {
            partition: self.chance.randint(0, self.events(partition)) for partition in partitions
        }
        self.note(PEOPLE, f"RESETS the group to {starts}")
        self._ask_people(lambda group: group.reset(starts, force=True))

    def delete_group(self) -> None:
        """A person deletes it under its hosts."""
        self.note(PEOPLE, "DELETES the group")
        self._ask_people(lambda group: group.delete())

    def _ask_people(self, do: Callable[[GroupStore], None]) -> None:
        store = _Peoples(self)
        group = GroupStore(
            store,
            IDS,
            clock=lambda: 1_800_000_000_000_000 + int(self.timeline.now * 1e6),
            pause=lambda _: store.wait(0.5),
        )
        with contextlib.suppress(EventLogError):
            do(group)

    def lose_writes(self, seconds: float) -> None:
        """The store loses what was written to the group document in the last seconds, as a database
        that fails over to a copy; and nothing else, which is the worst.
        """
        then = self.timeline.now - seconds
        first, *others = self._documents
        when, blob = max(
            [first, *(one for one in others if one[0] <= then)], key=lambda one: one[0]
        )
        self.note(PEOPLE, f"THE STORE LOSES all changes of the document since {when:.3f}")
        self.blobs.lose_writes(blob)
        self.truth.lost_writes(blob)

    def add_partitions(self) -> None:
        """The topic gets more."""
        self.partitions += self.chance.randint(1, 3)
        self.note(PEOPLE, f"ADDS PARTITIONS: there are {self.partitions}")


class _Peoples(BlobStore):
    """The store as people reach it: hosts go on between their calls."""

    def __init__(self, world: World) -> None:
        self._world = world

    def wait(self, most: float) -> None:
        """Others go on."""
        timeline = self._world.timeline
        timeline.run_until(timeline.now + self._world.chance.uniform(0, most))

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        return self._ready().get(name, if_none_match=if_none_match)

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        etag = self._ready().put(name, data, if_match=if_match, if_absent=if_absent)
        if self._world.chance.random() < self._world.network.weather.faults:
            raise StoreUnavailableError("the answer was lost")
        return etag

    def list(self, prefix: str) -> Listing:
        return self._ready().list(prefix)

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self._ready().delete(name, if_match=if_match)

    def close(self) -> None:
        """Nothing to let go of."""

    def _ready(self) -> SimulatedBlobs:
        self.wait(0.1)
        blobs = self._world.blobs
        blobs.actor = PEOPLE
        blobs.lag = 0.0
        return blobs
