"""What is left for later is done when its time has come, in a thread that ends."""

from __future__ import annotations

import functools
import queue
import threading

import pytest

from eventlog.kafka.later import Later

PATIENCE = 30.0


def tell_thread(began: queue.Queue[threading.Thread]) -> None:
    began.put(threading.current_thread())


def test_what_is_due_first_is_done_first_and_a_key_once() -> None:
    later, done = Later(), threading.Event()
    order: list[str] = []
    later.after(0.05, "b", lambda: order.append("never"))
    later.after(0.02, "b", lambda: order.append("b"))
    later.within(PATIENCE, "a", lambda: order.append("never"))
    later.within(0.0, "a", lambda: order.append("a"))
    later.after(0.1, "c", done.set)
    assert done.wait(PATIENCE)
    assert order == ["a", "b"]


def test_sooner_stays_sooner() -> None:
    later, done = Later(), threading.Event()
    later.within(0.01, "a", done.set)
    later.within(PATIENCE, "a", done.set)
    assert done.wait(PATIENCE / 2)


def test_the_thread_ends_when_there_is_nothing_left_and_comes_again() -> None:
    later = Later()
    for _ in range(3):
        began: queue.Queue[threading.Thread] = queue.Queue()
        later.after(0, "a", functools.partial(tell_thread, began))
        thread = began.get(timeout=PATIENCE)
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_failure_does_not_keep_the_next_from_being_done() -> None:
    later, done = Later(), threading.Event()

    def fail() -> None:
        raise ValueError("as it should")

    later.after(0, "a", fail)
    later.after(0.01, "b", done.set)
    assert done.wait(PATIENCE)


def test_closing_does_at_once_what_is_planned_and_nothing_that_comes_then() -> None:
    later = Later()
    order: list[str] = []
    for name in "ab":
        later.after(PATIENCE, name, functools.partial(order.append, name))
    later.close()
    later.after(0, "c", functools.partial(order.append, "c"))
    later.close()
    assert order == ["a", "b"]


def test_closing_waits_a_moment_and_what_has_not_begun_by_then_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("eventlog.kafka.later._PATIENCE", 0.01)
    later, go_on, began = Later(), threading.Event(), queue.Queue[threading.Thread]()
    order: list[str] = []

    def hold_up() -> None:
        tell_thread(began)
        assert go_on.wait(PATIENCE)

    later.after(0, "a", hold_up)
    later.after(PATIENCE, "b", functools.partial(order.append, "b"))
    thread = began.get(timeout=PATIENCE)
    later.close()
    go_on.set()
    thread.join(PATIENCE)
    assert order == []
