"""Progress is shown only when input is long, not too often, and leaves no trace."""

from __future__ import annotations

import io

from eventlog.cli.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_short_input_shows_nothing() -> None:
    terminal, clock = io.StringIO(), Clock()
    progress = Progress(terminal, clock)
    clock.now += 0.9
    progress.show(1000)
    progress.clear()
    assert terminal.getvalue() == ""


def test_long_input_shows_count_and_rate_a_few_times_a_second_and_is_wiped() -> None:
    terminal, clock = io.StringIO(), Clock()
    progress = Progress(terminal, clock)
    clock.now += 2
    progress.show(5000)
    clock.now += 0.1
    progress.show(6000)
    clock.now += 0.4
    progress.show(10_000)
    progress.clear()
    shown = terminal.getvalue().split("\r\x1b[K")
    assert shown == ["", "5,000 events, 2,500/s", "10,000 events, 4,000/s", ""]


def test_of_how_many_it_is_is_shown_where_that_is_known() -> None:
    terminal, clock = io.StringIO(), Clock()
    progress = Progress(terminal, clock)
    clock.now += 2
    progress.show(5000, of=20_000)
    assert terminal.getvalue() == "\r\x1b[K5,000 of 20,000 events, 2,500/s"


def test_without_a_terminal_it_only_measures() -> None:
    clock = Clock()
    progress = Progress(None, clock)
    clock.now += 5
    progress.show(1)
    progress.clear()
    assert progress.seconds == 5
