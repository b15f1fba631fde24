"""Random histories of a group of hosts under virtual time; see `tests.processor.simulation`.

``EVENTLOG_SIMULATION_SEEDS`` says how many there are (1200 unless given; 50,000 in `make soak`).
What fails prints its history, and the command that shows all of it again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import Final

import pytest

from eventlog.groups.documents import StoredCheckpoint
from eventlog.processor.lease import Lease
from tests.conftest import ROOT
from tests.processor.simulation import BrokenError, Setting, World, run
from tests.processor.simulation.pump import LightPump
from tests.processor.simulation.remembering import remembered_documents
from tests.processor.simulation.story import (
    MEMBERS_ONLY,
    bury_many_dead,
    calm,
    change,
    run_and_lose_writes,
    told,
)
from tests.processor.simulation.truth import IDS, decoded
from tests.processor.test_simulation_mutations import COMING_AND_GOING, MIXED

GIVEN: Final = os.environ.get("EVENTLOG_SIMULATION_SEEDS")
SEEDS: Final = int(GIVEN or 1200)
SEEDS_OF_SOAK: Final = int(GIVEN or 50_000)
AT_A_TIME: Final = 100


@pytest.mark.parametrize("first", range(0, SEEDS, AT_A_TIME))
def test_the_invariants_hold_whatever_happens(first: int) -> None:
    for seed in range(first, min(first + AT_A_TIME, SEEDS)):
        run(seed)


@pytest.mark.soak
def test_the_invariants_hold_in_histories_that_nobody_has_seen() -> None:
    begin = random.randrange(1_000_000, 1_000_000_000)
    for seed in range(begin, begin + SEEDS_OF_SOAK):
        run(seed)


def test_the_invariants_hold_for_hours() -> None:
    for seed in range(3):
        run(seed, minutes=60)


def test_the_invariants_hold_where_hosts_are_configured_with_several_leases() -> None:
    for seed in range(100):
        run(seed, MIXED, **COMING_AND_GOING)


def test_a_group_recovers_from_a_store_that_loses_its_last_writes() -> None:
    for seed in range(SEEDS // 40):
        run_and_lose_writes(seed)


def test_who_buries_many_dead_through_a_slow_store_does_not_lapse() -> None:
    assert "LAPSES" not in bury_many_dead(1).history.told(whole=True)


def test_a_lease_that_runs_out_in_an_outage_is_no_crash() -> None:
    setting = Setting(hosts=1, partitions=4)
    world = World(1, setting)
    with told(world):
        world.timeline.run_until(60)
        (host,) = world.running()
        for _ in range(3):
            host.cut_off(2 * world.lease_duration)
            world.timeline.run_until(world.timeline.now + 4 * world.lease_duration)
    assert world.history.told(whole=True).count("LAPSES") == 3
    for partition in range(setting.partitions):
        stored = decoded(world.blobs.look(IDS.checkpoint(partition)), StoredCheckpoint)
        assert stored is not None
        assert (stored.crashes, stored.attempts, stored.alone_until) == (0, 0, 0)
        assert stored.offset > 0


@pytest.mark.soak
def test_the_invariants_hold_for_days() -> None:
    for seed in range(10):
        run(seed, minutes=3 * 24 * 60)


def test_they_hold_for_many_hosts_and_partitions() -> None:
    setting = Setting(hosts=20, most_hosts=25, partitions=2000, accidents=1.0)
    with remembered_documents():
        run(1, setting, minutes=20, kinds=MEMBERS_ONLY, kept=False, pump=LightPump)


@pytest.mark.parametrize("kind", ["join", "leave", "die"])
def test_one_change_among_ten_hosts_moves_the_fewest_partitions_within_two_intervals(
    kind: str,
) -> None:
    world = World(1, Setting(hosts=10, partitions=1000), pump=LightPump)
    with told(world):
        world.timeline.run_until(60)
        calm(world)
        taken = world.truth.taken
        change(world, kind)
    assert world.truth.taken - taken == {"join": 90, "leave": 100, "die": 100}[kind]


@pytest.mark.parametrize("partitions", [16, 1000])
def test_a_host_makes_three_store_calls_in_an_interval_when_nothing_changes(
    partitions: int,
) -> None:
    world = World(1, Setting(hosts=5, partitions=partitions), pump=LightPump)
    with told(world):
        world.timeline.run_until(60)
        calm(world)
        before, intervals = world.blobs.calls, 20
        world.timeline.run_until(world.timeline.now + intervals * world.renew_interval)
    each = (world.blobs.calls - before) / (5 * intervals)
    assert each == pytest.approx(3, rel=0.05)


# ---- The simulation itself -----------------------------------------------------------------------


def outline(world: World) -> list[str]:
    """A history without what is random in documents."""
    return [f"{entry.at:.6f} {entry.who} {entry.partition}" for entry in world.history.entries]


def test_a_seed_tells_the_whole_history_in_every_process() -> None:
    seed = 7
    program = (
        "from tests.processor.test_simulation import outline, run\n"
        f"print('\\n'.join(outline(run({seed}))))"
    )
    lines = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for hash_seed in ("1", "2")
    ]
    assert len(lines[0]) > 1000
    assert lines[0] == lines[1] == outline(run(seed))


def test_what_fails_tells_its_history_and_how_to_see_all_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Lease, "held", lambda lease: lease._expires_at > 0)
    with pytest.raises(BrokenError, match="holds its lease") as caught:
        list(map(run, range(100)))
    (note,) = caught.value.__notes__
    assert "group.json: generation: " in note
    assert "python -m tests.processor.simulation " in note


def test_most_of_what_can_happen_does() -> None:
    """Lest the simulation goes on finding nothing because nothing happens."""
    wanted = [
        "DIES",
        "PAUSED",
        "CUT OFF",
        "is to LEAVE",
        "has left",
        "RESETS",
        "DELETES",
        "ADDS PARTITIONS",
        "LAPSES",
        "LATE",
        "its answer is lost",
        "sent it twice",
        "s old",
        "REFUSED",
        "opens [",
        "=>",
        "lost its lease",
    ]
    for seed in range(200):
        whole = run(seed).history.told(whole=True)
        wanted = [what for what in wanted if what not in whole]
        if not wanted:
            return
    pytest.fail(f"never seen: {wanted}")
