"""Calling what users hand in, plain or asynchronous, and surviving what it does."""

from __future__ import annotations

import functools
import threading
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from eventlog.callbacks import Caller
from eventlog.waiting import current_library

PATIENCE = 30.0


def in_thread(do: Callable[[], object]) -> None:
    """Run it in another thread, as a producer's does."""
    thread = threading.Thread(target=do)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# ---- Plain functions -----------------------------------------------------------------------------


def test_a_function_is_called_with_each_value_in_order_where_the_caller_is() -> None:
    called: list[tuple[int, int]] = []
    caller: Caller[int] = Caller(lambda value: called.append((value, threading.get_ident())))
    caller.call(0)
    caller.call_all([1, 2, 3])
    assert called == [(value, threading.get_ident()) for value in range(4)]
    assert caller.finished().done


def test_without_a_function_nothing_is_called() -> None:
    caller: Caller[int] = Caller(None)
    caller.call(0)
    caller.call_all([1])
    assert caller.finished().done


@pytest.mark.parametrize("function", [1, "print", ()])
def test_what_cannot_be_called_is_a_type_error(function: object) -> None:
    with pytest.raises(TypeError, match="a callback is a function, not"):
        Caller(function)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_a_function_raises_is_logged_and_the_next_value_follows(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    called: list[int] = []

    def fail(value: int) -> None:
        called.append(value)
        if value == 1:
            raise error("broken")

    in_thread(lambda: Caller(fail).call_all([0, 1, 2]))
    assert called == [0, 1, 2]
    assert caplog.text.count("a callback failed") == 1
    assert "broken" in caplog.text


def test_what_is_called_can_tell() -> None:
    found: list[bool] = []
    caller: Caller[int] = Caller(lambda _: found.append(caller.is_calling))
    other: Caller[int] = Caller(None)
    assert not caller.is_calling
    caller.call(0)
    assert found == [True]
    assert not caller.is_calling
    assert not other.is_calling


# ---- Coroutines without a loop -------------------------------------------------------------------


def test_coroutines_run_on_a_loop_of_their_own_where_there_is_none() -> None:
    called: list[tuple[int, str | None]] = []

    async def note(value: int) -> None:
        await anyio.lowlevel.checkpoint()
        called.append((value, current_library()))

    in_thread(lambda: Caller(note).call_all([1, 2]))
    assert called == [(1, "asyncio"), (2, "asyncio")]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_what_a_coroutine_raises_without_a_loop_is_logged(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(value: int) -> None:
        raise error("broken")

    in_thread(lambda: Caller(fail).call(0))
    assert "a callback failed" in caplog.text


# ---- Coroutines on a loop ------------------------------------------------------------------------


class Called:
    """A coroutine function that is an object, and remembers."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.threads: set[int] = set()
        self.at_once = 0

    async def __call__(self, value: int) -> None:
        self.at_once += 1
        assert self.at_once == 1
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        self.at_once -= 1
        self.values.append(value)
        self.threads.add(threading.get_ident())


@pytest.mark.anyio
async def test_coroutines_run_on_the_loop_one_after_the_other_in_order() -> None:
    called = Called()
    caller: Caller[int] = Caller(called)
    caller.use_current_loop()
    for value in range(5):
        await anyio.to_thread.run_sync(caller.call, value)
    await anyio.to_thread.run_sync(caller.call_all, range(5, 50))
    await caller.finished()
    assert called.values == [*range(50)]
    assert called.threads == {threading.get_ident()}
    caller.call(50)
    await caller.finished()
    assert called.values == [*range(51)]


@pytest.mark.anyio
async def test_a_function_that_returns_what_can_be_awaited_will_do() -> None:
    called = Called()

    def plain(offset: int, value: int) -> Awaitable[None]:
        return called(offset + value)

    caller: Caller[int] = Caller(functools.partial(plain, 10))
    caller.use_current_loop()
    await anyio.to_thread.run_sync(caller.call_all, [1, 2])
    await caller.finished()
    assert called.values == [11, 12]


@pytest.mark.anyio
async def test_what_a_coroutine_raises_is_logged_and_the_next_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[int] = []

    async def fail(value: int) -> None:
        await anyio.lowlevel.checkpoint()
        called.append(value)
        raise ValueError("broken")

    caller: Caller[int] = Caller(fail)
    caller.use_current_loop()
    await anyio.to_thread.run_sync(caller.call_all, [0, 1])
    await caller.finished()
    assert called == [0, 1]
    assert caplog.text.count("a callback failed") == 2


@pytest.mark.anyio
async def test_a_coroutine_that_is_called_can_tell() -> None:
    found: list[bool] = []

    async def ask(value: int) -> None:
        await anyio.lowlevel.checkpoint()
        found.append(caller.is_calling)

    caller: Caller[int] = Caller(ask)
    caller.use_current_loop()
    caller.call(1)
    await caller.finished()
    assert found == [True]
    assert not caller.is_calling


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_its_loop_has_no_time_for_any_more_is_logged_and_not_waited_for(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait_for_ever(value: int) -> None:
        started.append(value)
        await anyio.sleep_forever()

    started: list[int] = []
    caller: Caller[int] = Caller(wait_for_ever)

    async def main() -> None:
        caller.use_current_loop()
        await anyio.to_thread.run_sync(caller.call_all, [0, 1, 2])
        while not started:
            await anyio.lowlevel.checkpoint()

    anyio.run(main, backend=backend)
    assert started == [0]
    assert "the event loop ended before 2 calls" in caplog.text
    assert caller.finished().done
    caller.call(3)
    assert "the event loop ended before 1 calls" in caplog.text
    assert caller.finished().done
