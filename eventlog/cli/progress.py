"""How far a long verb has come: a line on a terminal that is written over and over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

__all__ = ["Progress", "rate_text", "shown_progress"]

FIRST_SECONDS: Final = 1.0
"""Shorter input needs no progress."""

NEXT_SECONDS: Final = 0.2

_CLEAR: Final = "\r\x1b[K"


class Terminal(Protocol):
    """What is needed of a stream."""

    def write(self, text: str, /) -> object:
        """Write `text`."""

    def flush(self) -> None:
        """Hand it over."""


class Progress:
    """Shows a count and a rate.

    Args:
        terminal: where to; None to show nothing.
        clock: seconds.
    """

    def __init__(
        self, terminal: Terminal | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._terminal = terminal
        self._clock = clock
        self._began = clock()
        self._due = self._began + FIRST_SECONDS
        self._visible = False

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self._clock() - self._began

    def show(self, count: int, *, of: int | None = None) -> None:
        """Show `count`, and of how many it is if that is known, if it is time to."""
        now = self._clock()
        if self._terminal is None or now < self._due:
            return
        self._due = now + NEXT_SECONDS
        all_ = "" if of is None else f" of {of:,}"
        self._write(f"{_CLEAR}{count:,}{all_} events, {rate_text(count, self.seconds)}")
        self._visible = True

    def clear(self) -> None:
        """Take the line away; what is written next begins in its place."""
        if self._visible:
            self._write(_CLEAR)
            self._visible = False

    def _write(self, text: str) -> None:
        assert self._terminal is not None
        self._terminal.write(text)
        self._terminal.flush()


def rate_text(count: int, seconds: float) -> str:
    """Events per second, for a person."""
    return f"{count / max(seconds, 0.001):,.0f}/s"


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[Progress]:
    """Progress on standard error, where a person is looking; gone when the block ends."""
    shown = not quiet and sys.stderr is not None and sys.stderr.isatty()
    progress = Progress(sys.stderr if shown else None)
    try:
        yield progress
    finally:
        progress.clear()
