"""Ctrl-C interrupts waiting for input at once, and work only when it is pressed twice."""

from __future__ import annotations

import signal

import pytest

from eventlog.cli.interrupts import Interrupts


def interrupted_read() -> bytes:
    signal.raise_signal(signal.SIGINT)
    return b"never returned"


def test_waiting_for_input_is_interrupted_at_once() -> None:
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        interrupts.wait_for(interrupted_read)


def test_work_goes_on_and_the_next_wait_for_input_is_interrupted() -> None:
    with Interrupts() as interrupts:
        assert interrupts.wait_for(lambda: b"input") == b"input"
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interrupts.wait_for(lambda: b"more input")


def test_a_second_one_interrupts_work() -> None:
    with Interrupts():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_handler_is_given_back() -> None:
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_ignores_it_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert interrupts.wait_for(interrupted_read) == b"never returned"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
