"""Events that may end their process have their turns, one alone or several together."""

from __future__ import annotations

import pytest

from eventlog.processor.suspects import Turns

A, B, C = "a", "b", "c"


@pytest.fixture
def turns() -> Turns:
    return Turns()


def test_several_may_be_at_work_of_which_nothing_is_noted(turns: Turns) -> None:
    assert all(turns.take(who, 0, alone=False) for who in (A, B, C))


def test_a_suspect_is_at_work_alone(turns: Turns) -> None:
    assert turns.take(A, 0, alone=True)
    assert not turns.take(B, 0, alone=True)
    assert not turns.take(C, 0, alone=False)
    turns.give_back(A)
    assert turns.take(B, 0, alone=True)


def test_a_suspect_waits_for_those_who_are_at_work_and_nobody_else_begins(turns: Turns) -> None:
    assert turns.take(A, 0, alone=False)
    assert not turns.take(B, 0, alone=True)
    assert not turns.take(C, 0, alone=False)
    turns.give_back(A)
    assert not turns.take(C, 0, alone=False)
    assert turns.take(B, 0, alone=True)
    turns.give_back(B)
    assert turns.take(C, 0, alone=False)


def test_who_has_the_turn_may_take_it_again(turns: Turns) -> None:
    assert turns.take(A, 0, alone=True)
    assert turns.take(A, 1, alone=True)


def test_one_that_takes_long_is_not_heeded_any_more(turns: Turns) -> None:
    assert turns.take(A, 0, alone=True)
    assert not turns.take(B, 9, alone=True)
    assert turns.take(B, 11, alone=True)


def test_one_that_waited_and_has_gone_holds_up_nobody(turns: Turns) -> None:
    assert turns.take(A, 0, alone=False)
    assert not turns.take(B, 0, alone=True)
    turns.give_back(A)
    assert not turns.take(C, 0.5, alone=False)
    assert turns.take(C, 2, alone=False)


def test_to_give_back_what_one_does_not_have_changes_nothing(turns: Turns) -> None:
    assert turns.take(A, 0, alone=True)
    turns.give_back(B)
    assert not turns.take(B, 0, alone=True)
