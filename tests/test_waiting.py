"""Waiting for other threads, in threads and on event loops."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import trio

from eventlog import waiting
from eventlog.checks import seconds
from eventlog.waiting import Completion, current_library, current_notifier, on_event_loop, run_soon
from tests.embedded.test_processes import Interrupter

PATIENCE = 30.0
ROOT = Path(__file__).parents[1]


def in_thread(do: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=do)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


# ---- Completion, in threads ----------------------------------------------------------------------


def test_a_completion_hands_its_result_to_who_asks_before_and_after() -> None:
    completion: Completion[str] = Completion()
    found: list[str] = []
    thread = in_thread(lambda: found.append(completion.result(PATIENCE)))
    before = completion.done
    completion.complete("done")
    join(thread)
    assert (before, completion.done) == (False, True)
    assert [*found, completion.result(), completion.result(0)] == ["done"] * 3
    assert completion.exception() is None


def test_a_completion_raises_what_went_wrong() -> None:
    completion: Completion[None] = Completion()
    error = LookupError("nothing there")
    completion.fail(error)
    assert completion.done
    assert completion.exception() is error
    with pytest.raises(LookupError, match="nothing there"):
        completion.result()


def test_the_first_outcome_stands() -> None:
    completion = Completion.of(1)
    completion.complete(2)
    completion.fail(ValueError())
    assert completion.result() == 1


@pytest.mark.parametrize("timeout", [0, 0.001, -1.0])
def test_waiting_ends_with_the_timeout_and_can_be_begun_again(timeout: float) -> None:
    completion: Completion[int] = Completion()
    for _ in range(3):
        with pytest.raises(TimeoutError, match="not done within"):
            completion.result(timeout)
        with pytest.raises(TimeoutError):
            completion.exception(timeout)
    completion.complete(7)
    assert completion.result(timeout) == 7


@pytest.mark.parametrize("timeout", [None, float("inf"), 1e300])
def test_a_timeout_may_be_endless(timeout: float | None) -> None:
    completion: Completion[int] = Completion()
    found: list[int] = []
    thread = in_thread(lambda: found.append(completion.result(timeout)))
    completion.complete(7)
    join(thread)
    assert found == [7]


def test_who_gave_up_waiting_leaves_nothing_behind() -> None:
    completion: Completion[int] = Completion()
    for _ in range(100):
        with pytest.raises(TimeoutError):
            completion.result(0)
    assert not completion._callbacks


def test_many_threads_wait_for_one_completion() -> None:
    completion: Completion[int] = Completion()
    found: list[int] = []
    threads = [in_thread(lambda: found.append(completion.result(PATIENCE))) for _ in range(20)]
    completion.complete(3)
    for thread in threads:
        join(thread)
    assert found == [3] * 20


def test_callbacks_are_called_once_in_order_and_at_once_if_it_is_done() -> None:
    completion: Completion[str] = Completion()
    called: list[tuple[int, str]] = []

    def note(number: int) -> Callable[[Completion[str]], object]:
        return lambda done: called.append((number, done.result(0)))

    twice = note(2)
    for callback in (note(1), twice, twice):
        completion.add_done_callback(callback)
    assert called == []
    completion.complete("x")
    completion.add_done_callback(note(3))
    assert called == [(1, "x"), (2, "x"), (2, "x"), (3, "x")]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_is_logged_and_stops_neither_the_others_nor_the_thread(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    completion: Completion[None] = Completion()
    called: list[bool] = []

    def fail(_: object) -> None:
        raise error("broken")

    def complete() -> None:
        completion.complete(None)
        called.append(True)

    completion.add_done_callback(fail)
    completion.add_done_callback(called.append)  # type: ignore[arg-type]
    join(in_thread(complete))
    assert len(called) == 2
    assert "a callback failed" in caplog.text
    assert "broken" in caplog.text


def test_ctrl_c_in_a_callback_called_at_once_is_the_callers() -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Completion.of(None).add_done_callback(interrupt)


def test_ctrl_c_while_waiting_leaves_a_completion_that_others_wait_for_wherever_it_comes() -> None:
    for number in itertools.count(1):
        completion: Completion[int] = Completion()
        found: list[int] = []
        other = in_thread(lambda c=completion, f=found: f.append(c.result(PATIENCE)))  # type: ignore[misc]
        interrupter = Interrupter(number)
        try:
            with interrupter:
                completion.result(0.001)
        except (KeyboardInterrupt, TimeoutError):
            pass
        completion.complete(5)
        join(other)
        assert found == [5]
        assert completion.result(0) == 5
        if not interrupter.where:
            break
    assert number > 10


# ---- Completion, on event loops ------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_completion_can_be_awaited_before_and_after_it_is_done() -> None:
    completion: Completion[str] = Completion()
    thread: list[threading.Thread] = []

    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            assert await completion == "done"

        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        thread.append(in_thread(lambda: completion.complete("done")))
    assert await completion == "done"
    join(thread[0])


@pytest.mark.anyio
async def test_awaiting_raises_what_went_wrong() -> None:
    completion: Completion[None] = Completion()
    completion.fail(LookupError("nothing there"))
    with pytest.raises(LookupError, match="nothing there"):
        await completion


@pytest.mark.anyio
async def test_who_is_cancelled_while_awaiting_withdraws_nothing_and_leaves_nothing() -> None:
    completion: Completion[int] = Completion()
    for _ in range(3):
        with anyio.move_on_after(0):
            await completion
    assert not completion._callbacks
    completion.complete(1)
    assert await completion == 1


@pytest.mark.anyio
async def test_awaiting_what_is_done_lets_others_run() -> None:
    others: list[int] = []
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            others.append(1)

        tasks.start_soon(run)
        await Completion.of(None)
        await Completion.of(None)
        assert others


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_completed_after_the_loop_was_closed_disturbs_nobody(backend: str) -> None:
    completion: Completion[int] = Completion()
    notified: list[bool] = []

    async def give_up() -> bool:
        notify = current_notifier()
        completion.add_done_callback(lambda _: notified.append(notify(lambda: None)))
        return notify(lambda: None)

    assert anyio.run(give_up, backend=backend)
    completion.complete(1)
    assert notified == [False]
    assert completion.result() == 1


# ---- Event loops ---------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_loop_that_one_is_on_is_known(anyio_backend_name: str) -> None:
    assert current_library() == anyio_backend_name
    assert on_event_loop()
    assert await anyio.to_thread.run_sync(current_library) is None
    assert not await anyio.to_thread.run_sync(on_event_loop)


def test_off_a_loop_there_is_none() -> None:
    assert current_library() is None
    with pytest.raises(RuntimeError, match="no event loop"):
        current_notifier()


def test_a_thread_started_from_a_loop_is_not_on_it() -> None:
    """Whatever context it was given: `asyncio.to_thread` copies that of its caller."""

    async def ask() -> bool:
        return await asyncio.to_thread(on_event_loop)

    assert anyio.run(ask) is False
    assert asyncio.run(ask()) is False


def test_plain_asyncio_and_plain_trio_are_known() -> None:
    async def ask() -> str | None:
        return current_library()

    assert asyncio.run(ask()) == "asyncio"
    assert trio.run(ask) == "trio"


@pytest.mark.anyio
async def test_a_notifier_calls_on_its_loop_from_any_thread() -> None:
    notify, event = current_notifier(), anyio.Event()
    home = threading.get_ident()
    called: list[int] = []

    def note() -> None:
        called.append(threading.get_ident())
        event.set()

    thread = in_thread(lambda: notify(note))
    with anyio.fail_after(PATIENCE):
        await event.wait()
    assert called == [home]
    join(thread)


def test_asyncio_needs_no_trio() -> None:
    source = (
        "import sys, asyncio\n"
        "sys.modules['trio'] = sys.modules['sniffio'] = None\n"
        "import eventlog\n"
        "async def main():\n"
        "    with eventlog.open('memory:') as log:\n"
        "        async with log.create_topic('t').producer() as producer:\n"
        "            await producer.send(b'x')\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", source], check=True, cwd=ROOT)


# ---- The pool ------------------------------------------------------------------------------------


def test_run_soon_runs_in_another_thread_and_hands_back_what_comes_of_it() -> None:
    assert run_soon(threading.get_ident).result(PATIENCE) != threading.get_ident()

    def fail() -> None:
        raise SystemExit(3)

    assert isinstance(run_soon(fail).exception(PATIENCE), SystemExit)
    assert run_soon(lambda: 4).result(PATIENCE) == 4


@pytest.mark.anyio
async def test_run_soon_can_be_awaited() -> None:
    assert await run_soon(lambda: 5) == 5


def test_the_pool_stays_small() -> None:
    held = threading.Event()
    waiting_there = [run_soon(lambda: held.wait(PATIENCE)) for _ in range(100)]
    names = [t.name for t in threading.enumerate() if t.name.startswith("eventlog_")]
    assert len(names) <= waiting._POOL_THREADS
    held.set()
    assert all(each.result(PATIENCE) for each in waiting_there)


# ---- Lengths of time -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0, 0.0), (1, 1.0), (0.5, 0.5), (timedelta(milliseconds=5), 0.005), (float("inf"), None)],
)
def test_a_length_of_time_is_seconds_or_a_timedelta(given: object, expected: float | None) -> None:
    assert seconds(given, "linger") == (float("inf") if expected is None else expected)


@pytest.mark.parametrize("given", [-1, -0.1, timedelta(seconds=-1), float("nan")])
def test_a_negative_length_of_time_is_a_value_error(given: object) -> None:
    with pytest.raises(ValueError, match="linger is 0 seconds or more"):
        seconds(given, "linger")


@pytest.mark.parametrize("given", ["1", None, True, b"two"])
def test_another_type_of_time_is_a_type_error(given: object) -> None:
    with pytest.raises(TypeError, match="linger is seconds or a timedelta"):
        seconds(given, "linger")
