"""What only the asynchronous checkpoint store can do wrong: hold up its loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

import eventlog.blobs
from eventlog import ClosedError
from eventlog.azure.aio import CheckpointStore
from eventlog.blobs import BlobStore
from tests.azure.hub import PATIENCE
from tests.azure.stores import SCOPE, scoped
from tests.group_stores import Unreliable


class Slow(Unreliable):
    """A store whose puts wait until they may go on."""

    def __init__(self, real: BlobStore) -> None:
        super().__init__(real)
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        self.entered.set()
        assert self.go_on.wait(PATIENCE)
        return super().put(name, data, if_match=if_match, if_absent=if_absent)


@pytest.fixture
def slow() -> Slow:
    return Slow(eventlog.blobs.open("memory:"))


def test_the_loop_goes_on_while_the_store_is_slow(slow: Slow) -> None:
    async def main() -> None:
        claiming = asyncio.create_task(
            CheckpointStore(slow).claim_ownership([scoped(0, owner_id="a")])
        )
        await asyncio.to_thread(slow.entered.wait, PATIENCE)
        slow.go_on.set()  # were the loop held up, nobody would
        assert await claiming

    asyncio.run(main())


def test_a_claim_is_what_it_was_when_it_was_made(slow: Slow) -> None:
    async def main() -> None:
        store = CheckpointStore(slow)
        given = scoped(0, owner_id="a")
        claiming = asyncio.create_task(store.claim_ownership([given]))
        await asyncio.to_thread(slow.entered.wait, PATIENCE)
        given["owner_id"] = "changed"
        slow.go_on.set()
        [won] = await claiming
        assert won["owner_id"] == "a"

    asyncio.run(main())


def test_a_claim_that_is_cancelled_may_be_won_all_the_same(slow: Slow) -> None:
    async def main() -> None:
        store = CheckpointStore(slow)
        claiming = asyncio.create_task(store.claim_ownership([scoped(0, owner_id="a")]))
        await asyncio.to_thread(slow.entered.wait, PATIENCE)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        slow.go_on.set()

    asyncio.run(main())  # waits for its threads
    [seen] = asyncio.run(CheckpointStore(slow).list_ownership(*SCOPE))
    assert seen["owner_id"] == "a"


def test_it_is_closed_at_the_end_of_its_block() -> None:
    async def main() -> None:
        async with CheckpointStore("memory:") as store:
            assert await store.list_ownership(*SCOPE) == []
        with pytest.raises(ClosedError):
            await store.list_ownership(*SCOPE)

    asyncio.run(main())
