"""Copies killed at moments that chance chooses, and made again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from tests.conftest import Child, seed_of_today

__all__ = ["kill_again_and_again"]


def kill_again_and_again(
    copy: Callable[[], Child],
    grow: Callable[[], object],
    kills: int,
    *,
    start: float,
    step: float,
) -> None:
    """Kill copies while their source grows, then let one come to its end.

    Args:
        copy: starts one, which prints a line for each of its steps, and "done" in the end.
        start, step: seconds that its start may take, and a step.
    """
    chance = random.Random(seed_of_today())
    unfinished = 0
    for _ in range(kills):
        copying = copy()
        lines = [] if chance.random() < 0.3 else _lines(copying, chance.randint(1, 6))
        # Not to wait for anything: to choose the moment.
        time.sleep(chance.uniform(0, step if lines else start))
        copying.kill()
        unfinished += "done" not in [*lines, *copying.rest()]
        grow()
    assert unfinished >= kills // 4
    assert copy().rest()[-1] == "done"


def _lines(copying: Child, most: int) -> list[str]:
    """The first lines it prints, or all."""
    lines: list[str] = []
    while len(lines) < most and "done" not in lines:
        lines.append(copying.line())
    return lines
