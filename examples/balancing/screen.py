"""The terminal: what happens scrolls, and below it a table shows who works on what.

In a pipe, or a file, there are only lines.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import TextIO

from examples.balancing.record import Host, Record, Span

__all__ = ["Screen", "table"]

COLORS = (117, 214, 78, 227, 218, 180)
"""Backgrounds of hosts, of the 256 colours of terminals; the text on them is black."""

LINES_SECONDS = 5.0
"""Where there is no table: how often a line says how things are."""

NAME_WIDTH = 6
MARGIN = 7  # of what is said: when it was


class Screen:
    """Shows it.

    Args:
        output: where; the standard output if it is not given.
    """

    def __init__(self, output: TextIO | None = None) -> None:
        self._output = output or sys.stdout
        self._is_terminal = self._output.isatty() and os.environ.get("TERM") != "dumb"
        self._has_colors = self._is_terminal and "NO_COLOR" not in os.environ
        self._height = 0
        self._last_line = 0.0

    def say(self, at: float, text: str) -> None:
        """One line about something that has happened; it stays."""
        if self._is_terminal:
            width = max(shutil.get_terminal_size().columns - MARGIN, MARGIN)
            text = f"\n{'':{MARGIN}}".join(textwrap.wrap(text, width))
        self._write(f"{self._clear()}{at:5.1f}  {text}\n")

    def show(self, record: Record) -> None:
        """How things are; to be called again and again."""
        if self._is_terminal:
            self._redraw(table(record, colors=self._has_colors))
        elif record.now() >= self._last_line + LINES_SECONDS:
            self._last_line = record.now()
            self.say(self._last_line, f"    {summary(record)}")

    def _redraw(self, lines: list[str]) -> None:
        size = shutil.get_terminal_size()
        kept = lines[: size.lines - 1]
        text = "".join(f"{line}\n" for line in kept)
        self._write(self._clear() + f"\x1b[?7l{text}\x1b[?7h")  # too long a line is cut off
        self._height = len(kept)

    def _clear(self) -> str:
        """Takes away the table; the next line begins where it was."""
        height, self._height = self._height, 0
        return f"\x1b[{height}A\x1b[J" if height else ""

    def _write(self, text: str) -> None:
        self._output.write(text)
        self._output.flush()


def summary(record: Record) -> str:
    """How far the replay is, and the group, and who has how many partitions."""
    shares = ", ".join(
        f"{host.name} {len(working)}"
        for host in record.hosts.values()
        if (working := [p for p in record.owned_by(host.name) if record.current[p].end is None])
    )
    return f"{progress(record)}   {shares}"


def progress(record: Record) -> str:
    """How far the replay is, and the group."""
    behind = sum(record.samples[-1].lags) if record.samples else 0
    pace = record.pace.per_second(record.now())
    return (
        f"{record.due:<16}{record.replayed:>9,} flights{pace:>8,.0f}/s{behind:>8,} not counted yet"
    )


def table(record: Record, *, colors: bool) -> list[str]:
    """Hosts below each other, and partitions side by side: the epoch, where a host works."""
    numbers = range(record.partitions)
    lines = ["", f"{'host':<{NAME_WIDTH}}" + "".join(f"{number:>3} " for number in numbers)]
    for index, host in enumerate(record.hosts.values()):
        color = COLORS[index % len(COLORS)] if colors else None
        cells = "".join(cell(record.current.get(number), host, color) for number in numbers)
        lines.append(f"{host.name:<{NAME_WIDTH}}{cells} {state(host, record.now())}")
    lags = record.samples[-1].lags if record.samples else [0] * record.partitions
    lines.append(f"{'lag':<{NAME_WIDTH}}" + "".join(f"{short(lag):>3} " for lag in lags))
    return [*lines, progress(record)]


def cell(span: Span | None, host: Host, color: int | None) -> str:
    """Four characters: the epoch of a host that works; with ``?``, of one that cannot any more."""
    if span is None or span.host != host.name:
        return "  · "
    if span.end is not None:
        return f"{span.epoch:>3}?"
    text = f"{span.epoch:>3} "
    return text if color is None else f"\x1b[30;48;5;{color}m{text}\x1b[0m"


def state(host: Host, now: float) -> str:
    """What a host does, and how fast."""
    if host.state != "working":
        return f" {host.state}"
    if host.health != "running":
        return f" {host.health}"
    return f"{host.counted.per_second(now):>6,.0f}/s"


def short(count: int) -> str:
    """A number in three characters."""
    return str(count) if count < 1000 else f"{min(count // 1000, 99)}k"
