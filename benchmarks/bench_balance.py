"""How a group of hosts balances itself: what moves, how soon, and what it asks of its store.

All of it is counted in the simulation of `tests.processor.simulation`: the real protocol under
virtual time. Beside it stands the balancing of azure-eventhub, its own `OwnershipManager` with a
store that counts: one call lists what is owned, and one call each claims, or renews, a partition.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from statistics import fmean
from typing import Any, Final, NamedTuple

import pytest

from benchmarks.measure import Record
from benchmarks.workload import SCALE
from tests.processor.simulation import Setting, World, run
from tests.processor.simulation.pump import LightPump
from tests.processor.simulation.remembering import remembered_documents
from tests.processor.simulation.story import MEMBERS_ONLY, calm, change, told

_HOSTS: Final = 10
_PARTITIONS: Final = 1000
_MOST_INTERVALS: Final = 2
_MOST_CALLS: Final = 3
_INTERVALS: Final = 30
_ROUNDS: Final = 5
_LARGE: Final = Setting(hosts=100, most_hosts=110, partitions=10_000, accidents=0.5)
_LARGE_SECONDS: Final = 60


class Change(NamedTuple):
    """What one change of members brings about."""

    moved: int
    intervals: float


def settled(hosts: int, partitions: int, seed: int = 1) -> World:
    """A group in which nothing changes any more."""
    setting = Setting(hosts=hosts, partitions=partitions, drift=0.0)
    world = World(seed, setting, kept=False, pump=LightPump)
    with told(world):
        world.timeline.run_until(60)
        calm(world)
    return world


def ours(kind: str, seed: int) -> Change:
    """One of ten hosts of a thousand partitions joins, or leaves."""
    with remembered_documents():
        world = settled(_HOSTS, _PARTITIONS, seed)
        taken, began = world.truth.taken, world.timeline.now
        change(world, kind)
    lasted = world.truth.changed_at - began
    return Change(world.truth.taken - taken, lasted / world.renew_interval)


def our_calls(hosts: int, partitions: int) -> float:
    """Store calls per host and interval when nothing changes."""
    with remembered_documents():
        world = settled(hosts, partitions)
        before = world.blobs.calls
        world.timeline.run_until(world.timeline.now + _INTERVALS * world.renew_interval)
    return (world.blobs.calls - before) / (hosts * _INTERVALS)


# ---- azure-eventhub ------------------------------------------------------------------------------


class _Address(NamedTuple):
    hostname: str = "namespace"


class _Client:
    """As much of a client as an `OwnershipManager` asks for."""

    _address = _Address()
    eventhub_name = "cars"

    def __init__(self, partitions: int) -> None:
        self._partitions = [str(partition) for partition in range(partitions)]

    def get_partition_ids(self) -> list[str]:
        return self._partitions


class _CountingStore:
    """A checkpoint store in memory: who owns what; and how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.thefts = 0
        self.owned: dict[str, dict[str, Any]] = {}

    def list_ownership(self, *_: object) -> list[dict[str, Any]]:
        self.calls += 1
        return [dict(ownership) for ownership in self.owned.values()]

    def claim_ownership(self, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.calls += len(wanted)
        for ownership in wanted:
            before = self.owned.get(ownership["partition_id"])
            self.thefts += before is not None and before["owner_id"] != ownership["owner_id"]
            claimed = {**ownership, "last_modified_time": time.time(), "etag": str(self.calls)}
            self.owned[ownership["partition_id"]] = claimed
        return wanted

    def is_even(self, hosts: int) -> bool:
        counts = Counter(ownership["owner_id"] for ownership in self.owned.values())
        return len(counts) == hosts and max(counts.values()) - min(counts.values()) <= 1


class _Group:
    """Hosts that balance as azure-eventhub does, settled to begin with."""

    def __init__(self, hosts: int, partitions: int) -> None:
        self.store = _CountingStore()
        self._client = _Client(partitions)
        self._managers: list[Any] = []
        for host in range(hosts):
            self.join(f"host-{host}")
        for partition in range(partitions):
            self.store.owned[str(partition)] = {
                "fully_qualified_namespace": "namespace",
                "eventhub_name": "cars",
                "consumer_group": "fraud",
                "partition_id": str(partition),
                "owner_id": f"host-{partition % hosts}",
                "last_modified_time": time.time(),
                "etag": "0",
            }

    def join(self, name: str) -> None:
        from azure.eventhub import LoadBalancingStrategy
        from azure.eventhub._eventprocessor.ownership_manager import OwnershipManager

        self._managers.append(
            OwnershipManager(
                self._client,  # type: ignore[arg-type]
                "fraud",
                name,
                self.store,  # type: ignore[arg-type]
                ownership_timeout=1e6,
                load_balancing_strategy=LoadBalancingStrategy.BALANCED,
                partition_id=None,
            )
        )

    def interval(self) -> int:
        """Each host balances once; the calls that takes."""
        before = self.store.calls
        for manager in self._managers:
            manager.claim_ownership()
        return self.store.calls - before

    def intervals_until_even(self) -> int:
        """How many pass until it is settled."""
        intervals = 0
        while not self.store.is_even(len(self._managers)):
            self.interval()
            intervals += 1
        return intervals


_with_azure: Final = pytest.mark.skipif(
    importlib.util.find_spec("azure") is None or importlib.util.find_spec("azure.eventhub") is None,
    reason="azure-eventhub is not installed",
)


# ---- The rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "fewest"), [("join", 90), ("leave", 100)])
def test_one_host_among_ten(record: Record, kind: str, fewest: int) -> None:
    found = [ours(kind, seed) for seed in range(_ROUNDS)]
    for what, amounts, limit in (
        ("moved", [one.moved for one in found], fewest),
        ("intervals", [one.intervals for one in found], _MOST_INTERVALS),
    ):
        record(
            f"balance-{kind}-{what}",
            ours=fmean(amounts),
            limit=limit,
            rounds=[amount / limit for amount in amounts],
        )


@_with_azure
def test_one_host_among_ten_beside_azure(record: Record) -> None:
    found = [ours("join", seed).intervals for seed in range(_ROUNDS)]
    azure = _Group(_HOSTS, _PARTITIONS)
    azure.join("another")
    intervals = azure.intervals_until_even()
    record(
        "balance-join-azure",
        ours=fmean(found),
        limit=intervals,
        rounds=[one / intervals for one in found],
        note=f"azure-eventhub takes {azure.store.thefts} partitions from live owners; we none",
    )


@pytest.mark.parametrize(("hosts", "partitions"), [(4, 16), (10, 1000), (10, 10_000)])
def test_store_calls(record: Record, hosts: int, partitions: int) -> None:
    record(f"store-calls-{partitions}", ours=our_calls(hosts, partitions), limit=_MOST_CALLS)


@_with_azure
@pytest.mark.parametrize(("hosts", "partitions"), [(4, 16), (10, 1000), (10, 10_000)])
def test_store_calls_beside_azure(record: Record, hosts: int, partitions: int) -> None:
    azure = _Group(hosts, partitions)
    intervals = [azure.interval() for _ in range(3)]
    record(
        f"store-calls-{partitions}-azure",
        ours=our_calls(hosts, partitions),
        limit=sum(intervals) / len(intervals) / hosts,
        note=f"{hosts} hosts; of all together {intervals[0]:,} in an interval of azure-eventhub's",
    )


def test_a_large_group_for_an_hour(record: Record) -> None:
    minutes = 60 * min(SCALE, 1)
    began = time.perf_counter()
    with remembered_documents():
        world = run(1, _LARGE, minutes=minutes, kinds=MEMBERS_ONLY, kept=False, pump=LightPump)
    seconds = time.perf_counter() - began
    document = world.truth.document
    assert document is not None
    record(
        "simulation-large",
        ours=seconds,
        limit=_LARGE_SECONDS,
        note=f"{minutes:g} minutes of virtual time, {len(world.truth.hosts)} members one after the "
        f"other, {world.truth.taken:,} partitions taken in {document.generation:,} versions of "
        f"the group document, {world.blobs.calls:,} store calls",
    )
