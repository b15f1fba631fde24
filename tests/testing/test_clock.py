"""`VirtualClock`: time that passes when it is moved, for coroutines and for threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from eventlog.testing import VirtualClock

PATIENCE = 60.0
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


def test_time_stands_still_until_it_is_moved() -> None:
    clock = VirtualClock(NOON)
    assert (clock.now(), clock.time()) == (0.0, NOON)
    clock.move_to(90.5)
    assert (clock.now(), clock.time()) == (90.5, NOON + timedelta(seconds=90.5))
    assert clock.wall_us() == int(clock.time().timestamp()) * 10**6 + 500_000
    clock.move_to(1)
    assert clock.now() == 90.5


def test_a_clock_that_is_told_nothing_begins_at_the_same_time() -> None:
    assert VirtualClock().time() == VirtualClock().time()


@pytest.mark.anyio
async def test_who_sleeps_is_woken_in_order_of_time() -> None:
    clock, woken = VirtualClock(), list[tuple[str, float]]()

    async def sleep(name: str, duration: Any) -> None:
        await clock.sleep(duration)
        woken.append((name, clock.now()))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            for name, duration in (("c", timedelta(seconds=3)), ("a", 1), ("b", 2.5), ("d", 9)):
                tasks.start_soon(sleep, name, duration)
            await anyio.wait_all_tasks_blocked()
            for number in range(1, 4):
                assert clock.wake_next(8)
                await anyio.wait_all_tasks_blocked()
                assert len(woken) == number
            assert not clock.wake_next(8)
            assert not clock.is_waking
            tasks.cancel_scope.cancel()
    assert woken == [("a", 1.0), ("b", 2.5), ("c", 3.0)]


@pytest.mark.anyio
async def test_sums_of_seconds_need_not_be_exact() -> None:
    clock = VirtualClock()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(clock.sleep, 0.1 + 0.2)
            await anyio.wait_all_tasks_blocked()
            assert clock.wake_next(0.3)


@pytest.mark.anyio
async def test_who_is_cancelled_waits_no_more() -> None:
    clock = VirtualClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep, 1)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert not clock.wake_next(10)


@pytest.mark.anyio
async def test_who_sleeps_for_no_time_goes_on_at_once() -> None:
    with anyio.fail_after(PATIENCE):
        await VirtualClock().sleep(0)


def test_threads_can_wait_too() -> None:
    clock, waits = VirtualClock(), threading.Event()
    clock._changed = waits.set  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(clock.block, timedelta(minutes=1))
        assert waits.wait(PATIENCE)
        assert not waiting.done()
        assert clock.wake_next(60)
        assert waiting.result(PATIENCE) is None
    clock.block(0)


@pytest.mark.parametrize("wrong", [-1, "1", float("nan")])
def test_no_time_can_be_negative(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        VirtualClock().block(wrong)
