"""Measuring: two or more things in turns (A B A B ...), so that a change of the machine's mood
meets them alike. Means are over all rounds, with everything counted: flushes, garbage, outliers.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from benchmarks.workload import SCALE

__all__ = ["Benchmark", "Comparison", "Record", "Side", "calls_of", "compare", "in_turns"]

T = TypeVar("T")

SECONDS: Final = min(max(4 * SCALE, 0.1), 10)
"""About how long a comparison takes."""

_ROUNDS: Final = range(3, 100)


class Benchmark(Protocol):
    """What is used of pytest-benchmark's fixture."""

    extra_info: dict[str, Any]

    def pedantic(self, target: Callable[[], object], **options: Any) -> object:
        """Call `target` in rounds, with ``setup`` before each, which is not counted."""


class Record(Protocol):
    """The fixture that takes a row's numbers into the table."""

    def __call__(
        self,
        name: str,
        *,
        ours: float,
        limit: float,
        rounds: Sequence[float] = (),
        note: str = "",
    ) -> None:
        """Give what was measured; `rounds` are the ratios that single rounds gave."""


class Side(NamedTuple):
    """One side of a comparison: what a turn of it does, and how many events that are."""

    turn: Callable[[], object]
    events: int


class Comparison(NamedTuple):
    """Events per second of two sides, and the ratios of single rounds."""

    ours: float
    limit: float
    rounds: list[float]


def timed(run: Callable[[], object]) -> float:
    """How many seconds a call takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def in_turns(
    benchmark: Benchmark,
    ours: Callable[[], object],
    *others: Callable[[], object],
    most_rounds: int = _ROUNDS.stop,
) -> list[list[float]]:
    """The seconds that each took in each round; pytest-benchmark sees those of the first.

    There are as many rounds as fit `SECONDS`, and at most `most_rounds`. All are called once
    before, which does not count: what a process does once (starting threads, filling caches)
    would otherwise stand in a mean of a few seconds as if it came every time.
    """
    expected = sum(timed(run) for run in (*others, ours))
    rounds = max(min(round(SECONDS / expected), most_rounds, _ROUNDS.stop), _ROUNDS.start)
    seconds: list[list[float]] = [[] for _ in range(1 + len(others))]

    def measure_others() -> None:
        for times, run in zip(seconds[1:], others, strict=True):
            times.append(timed(run))

    benchmark.pedantic(lambda: seconds[0].append(timed(ours)), setup=measure_others, rounds=rounds)
    return seconds


def compare(benchmark: Benchmark, ours: Side, limit: Side) -> Comparison:
    """Both sides in turns, as rates."""
    of_ours, of_limit = in_turns(benchmark, ours.turn, limit.turn)
    share = ours.events / limit.events
    return Comparison(
        ours.events / statistics.fmean(of_ours),
        limit.events / statistics.fmean(of_limit),
        [share * theirs / own for own, theirs in zip(of_ours, of_limit, strict=True)],
    )


def calls_of(do: Callable[[T], object], given: Iterable[T], calls: int) -> Callable[[], None]:
    """A turn of as many calls, which goes through what is `given` again and again."""
    endless: Iterator[T] = itertools.cycle(given)

    def turn() -> None:
        for argument in itertools.islice(endless, calls):
            do(argument)

    return turn
