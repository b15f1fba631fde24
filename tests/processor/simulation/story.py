"""What befalls a world: accidents at random, then calm, then one change of members at a time.

In the calm there is an end to everything that moves:

5. Shares are even once it is settled.
7. Two intervals after a change, and after running handlers have returned, nothing moves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from eventlog.groups.documents import Share
from eventlog.processor import group
from tests.processor.simulation.host import BLOCKED_SECONDS
from tests.processor.simulation.network import FINE, Weather
from tests.processor.simulation.pump import LightPump
from tests.processor.simulation.truth import BrokenError, fewest_moves, require
from tests.processor.simulation.world import Setting, World

__all__ = [
    "ACCIDENTS",
    "MEMBERS_ONLY",
    "MINUTES",
    "calm",
    "change",
    "run",
    "run_and_lose_writes",
    "told",
]

MINUTES: Final = 5.0
"""How long there are accidents."""

ACCIDENTS: Final[Mapping[str, float]] = {
    "join": 6,
    "leave": 4,
    "die": 4,
    "pause": 5,
    "cut off": 4,
    "die and restart": 2,
    "reset": 2,
    "add partitions": 1,
    "delete group": 0.5,
}
"""All that befalls a world, and how often."""

MEMBERS_ONLY: Final = {kind: ACCIDENTS[kind] for kind in ("join", "leave", "die", "pause")}
"""What befalls the members of a group."""

_TRIPS: Final = 2.0
"""What calls take, and a batch, once it is calm; in seconds."""


def run(
    seed: int,
    setting: Setting | None = None,
    *,
    minutes: float = MINUTES,
    kinds: Mapping[str, float] = ACCIDENTS,
    **options: Any,
) -> World:
    """One world, from its beginning to its end.

    Args:
        minutes: how long there are accidents.
        kinds: which, and how often compared to each other.
        options: see `World`.

    Raises:
        BrokenError: an invariant does not hold; with the history, and how to see it again.
    """
    world = World(seed, setting, **options)
    with told(world):
        _accidents(world, minutes, kinds)
        calm(world)
        for kind in world.chance.sample(("join", "leave", "die"), 3):
            change(world, kind)
    return world


def run_and_lose_writes(seed: int, setting: Setting | None = None, **options: Any) -> World:
    """One world, whose store loses what was agreed on last; it is mended three leases later."""
    world = World(seed, setting, **options)
    with told(world):
        _accidents(world, MINUTES / 2, {**MEMBERS_ONLY, "reset": 2, "add partitions": 1})
        world.lose_writes(world.chance.uniform(0, 30 * MINUTES))
        _accidents(world, (world.timeline.now + 2 * world.lease_duration) / 60, MEMBERS_ONLY)
        world.network.weather = FINE
        world.timeline.run_until(world.timeline.now + 3 * world.lease_duration)
        calm(world)
        world.truth.mended()
        for kind in world.chance.sample(("join", "leave", "die"), 3):
            change(world, kind)
    return world


def bury_many_dead(seed: int, setting: Setting | None = None, **options: Any) -> World:
    """Most of many hosts die at once, and the store is slow: the others keep their leases."""
    setting = setting or Setting(hosts=20, most_hosts=20, partitions=40)
    world = World(seed, setting, pump=LightPump, **options)
    with told(world):
        world.timeline.run_until(60)
        calm(world)
        world.network.weather = Weather(slow=1.0, slowest=2.0)
        living = [host.member for host in world.running()[:2]]
        for host in world.running()[2:]:
            world.die(host)
        world.timeline.run_until(world.timeline.now + 10 * setting.lease_duration)
        assert world.truth.document is not None
        require(sorted(world.truth.document.hosts) == sorted(living), "7: the dead are members")
    return world


@contextmanager
def told(world: World) -> Iterator[None]:
    """What goes wrong is raised together with the history."""
    try:
        yield
    except Exception as error:
        partition = error.partition if isinstance(error, BrokenError) else None
        error.add_note(
            f"{world.setting}\n{world.history.told(partition)}\n"
            f"at {world.timeline.now:.3f}: {error}\n"
            f"{world.again}"
        )
        raise


# ---- Accidents -----------------------------------------------------------------------------------


def _accidents(world: World, minutes: float, kinds: Mapping[str, float]) -> None:
    chance, timeline = world.chance, world.timeline
    end = 60 * minutes
    while True:
        when = timeline.now + chance.expovariate(world.setting.accidents / 60)
        if when >= end:
            break
        timeline.run_until(when)
        (kind,) = chance.choices(list(kinds), list(kinds.values()))
        _accident(world, kind)
    timeline.run_until(max(end, timeline.now))


def _accident(world: World, kind: str) -> None:
    chance, running = world.chance, world.running()
    if kind == "join" or not running:
        if len(running) < world.setting.most_hosts:
            world.join()
        return
    host = chance.choice(running)
    lease = world.lease_duration
    if kind == "leave":
        host.leave()
    elif kind == "die":
        world.die(host)
    elif kind == "pause":
        host.pause(chance.uniform(0.05, 2.5) * lease)
    elif kind == "cut off":
        host.cut_off(chance.uniform(0.05, 2.5) * lease)
    elif kind == "die and restart":
        world.die(host)
        world.timeline.after(chance.uniform(0.1, 5), lambda: world.join(host.name))
    elif kind == "reset":
        world.reset()
    elif kind == "add partitions":
        world.add_partitions()
    else:
        world.delete_group()


# ---- Calm ----------------------------------------------------------------------------------------


def calm(world: World) -> None:
    """From now on nothing goes wrong; and soon nothing moves."""
    world.note("", "it is CALM")
    timeline, slowest, slow = world.timeline, world.slowest_batch, 1 + 2 * world.setting.drift
    world.network.weather = FINE
    world.is_calm = True
    world.slowest_batch = 1.0
    while world.is_disturbed():
        timeline.run_until(timeline.now + 1)
    if not world.running():
        world.join()
    patience = slow * (world.lease_duration + 3 * world.renew_interval) + _TRIPS
    timeline.run_until(timeline.now + patience + slowest + BLOCKED_SECONDS)
    check_settled(world)


def change(world: World, kind: str) -> None:
    """One host joins, leaves or dies; raises unless it has settled two intervals later."""
    running, began, slow = world.running(), world.timeline.now, 1 + 2 * world.setting.drift
    if kind != "join" and len(running) < 2:
        return
    world.note("", f"one change: {kind}")
    before, taken = world.truth.document, world.truth.taken
    patience = slow * 2 * world.renew_interval + _TRIPS
    if kind == "join":
        world.join()
    elif kind == "leave":
        world.chance.choice(running).leave()
    else:
        world.die(world.chance.choice(running))
        patience += slow * world.lease_duration
    world.timeline.run_until(began + patience)
    check_settled(world)
    after, moved = world.truth.document, world.truth.taken - taken
    assert before is not None
    assert after is not None
    fewest = fewest_moves(before, after)
    require(moved == fewest, f"6: {kind} moves {moved} partitions, and not {fewest}")


def check_settled(world: World) -> None:
    """Who is there has even shares and works on them, and nothing moves any more."""
    timeline, changed_at = world.timeline, world.truth.changed_at
    timeline.run_until(timeline.now + 2 * world.renew_interval)
    require(world.truth.changed_at == changed_at, "7: it does not come to rest")
    document = world.truth.document
    assert document is not None
    running = {host.member: host for host in world.running()}
    require(
        sorted(document.hosts) == sorted(running),
        f"7: members are {document.hosts}, and there are {sorted(running)}",
    )
    require(len(document.partitions) == world.partitions, "5: partitions are missing")
    require(group.is_settled(document), f"5: {_shares(document.partitions)} is not even")
    moved, fewest = world.truth.moved, world.truth.fewest
    require(moved == fewest, f"6: {moved} partitions have moved, and not {fewest}")
    for partition, share in document.partitions.items():
        assert share.owner is not None
        pump = running[share.owner].pumps.get(partition)
        require(
            pump is not None and pump.working and pump.epoch == share.epoch,
            f"7: {share.owner} does not work on [{partition}]",
            partition,
        )


def _shares(partitions: Mapping[int, Share]) -> dict[str | None, int]:
    return dict(Counter(share.owner for share in partitions.values()))
