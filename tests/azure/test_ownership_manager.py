"""The SDK's balancing over our stores, round by round."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Final

import pytest
from azure.eventhub import LoadBalancingStrategy
from azure.eventhub._eventprocessor.ownership_manager import OwnershipManager
from azure.eventhub.aio._eventprocessor._ownership_manager import (
    OwnershipManager as AsyncOwnershipManager,
)

import eventlog.azure.aio
from eventlog.azure import CheckpointStore
from eventlog.blobs import BlobStore
from tests.azure.hub import AsyncClient, Client, Hub
from tests.azure.stores import SCOPE, owners, scoped

PARTITIONS: Final = 16
ROUNDS: Final = 100


class Manager:
    """One processor's balancing."""

    def __init__(self, name: str, blobs: BlobStore, strategy: LoadBalancingStrategy) -> None:
        self._manager: Any = OwnershipManager(
            Client(Hub(PARTITIONS, 0)),  # type: ignore[arg-type]
            *(SCOPE[2], name, CheckpointStore(blobs), 30.0, strategy, None),
        )

    def claim(self) -> list[str]:
        found: list[str] = self._manager.claim_ownership()
        return found

    def checkpoints(self) -> Any:
        return self._manager.get_checkpoints()

    def release(self, partition: str) -> None:
        self._manager.release_ownership(partition)


class AsyncManager(Manager):
    """The same, of the SDK's asynchronous half."""

    def __init__(self, name: str, blobs: BlobStore, strategy: LoadBalancingStrategy) -> None:
        self._manager = AsyncOwnershipManager(
            AsyncClient(Hub(PARTITIONS, 0)),  # type: ignore[arg-type]
            *(SCOPE[2], name, eventlog.azure.aio.CheckpointStore(blobs), 30.0, strategy, None),
        )

    def claim(self) -> list[str]:
        return asyncio.run(self._manager.claim_ownership())

    def checkpoints(self) -> Any:
        return asyncio.run(self._manager.get_checkpoints())

    def release(self, partition: str) -> None:
        asyncio.run(self._manager.release_ownership(partition))


pytestmark = pytest.mark.parametrize(
    "blobs", ["content etags", "embedded", "azurite", "postgresql"], indirect=True
)
each_kind = pytest.mark.parametrize("kind", [Manager, AsyncManager], ids=["sync", "async"])


@each_kind
@pytest.mark.parametrize("strategy", LoadBalancingStrategy)
def test_managers_come_to_even_shares_and_stay_there(
    kind: type[Manager], strategy: LoadBalancingStrategy, blobs: BlobStore
) -> None:
    managers = {name: kind(name, blobs, strategy) for name in "abcde"}
    shares: dict[str, set[str]] = {}
    for _ in range(ROUNDS):
        shares = {name: set(manager.claim()) for name, manager in managers.items()}
        if sorted(map(len, shares.values())) == [3, 3, 3, 3, 4]:
            break
    assert sorted(map(len, shares.values())) == [3, 3, 3, 3, 4]
    assert {name: set(manager.claim()) for name, manager in managers.items()} == shares
    owned = owners(CheckpointStore(blobs))
    assert {name: {p for p, owner in owned.items() if owner == name} for name in shares} == shares


@each_kind
def test_a_released_partition_is_taken_in_the_next_round(
    kind: type[Manager], blobs: BlobStore
) -> None:
    one, other = (kind(name, blobs, LoadBalancingStrategy.GREEDY) for name in "ab")
    owned = one.claim()
    assert len(owned) == PARTITIONS
    one.release("5")
    assert owners(CheckpointStore(blobs))["5"] == ""
    assert other.claim() == ["5"]
    assert Counter(owners(CheckpointStore(blobs)).values()) == {"a": PARTITIONS - 1, "b": 1}


@each_kind
def test_a_manager_finds_the_checkpoints_by_partition(
    kind: type[Manager], blobs: BlobStore
) -> None:
    CheckpointStore(blobs).update_checkpoint(scoped(4, offset="7", sequence_number=3))
    found = kind("a", blobs, LoadBalancingStrategy.GREEDY).checkpoints()
    assert found == {"4": scoped(4, offset="7", sequence_number=3)}
