"""Ctrl-C while a verb reads: it ends reading, and never cuts an append in two.

An append that is interrupted may or may not have been stored, and nobody can say which. So the
first Ctrl-C interrupts only waiting for input. One that comes at another moment is remembered
until input is next asked for. The second interrupts whatever is under way.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

__all__ = ["Interrupts"]


class Interrupts:
    """Takes SIGINT over, in a ``with`` block, unless it is ignored (as by ``nohup``)."""

    def __init__(self) -> None:
        self._waiting = False
        self._arrived = False
        self._taken = False

    def __enter__(self) -> Self:
        self._taken = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._taken:
            signal.signal(signal.SIGINT, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._taken:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def wait_for(self, read: Callable[[], bytes]) -> bytes:
        """What `read` returns.

        Raises:
            KeyboardInterrupt: Ctrl-C, now or since input was last asked for.
        """
        try:
            # In this order, so that no signal is missed: from here on one raises by itself.
            self._waiting = True
            if self._arrived:
                raise KeyboardInterrupt
            return read()
        finally:
            self._waiting = False

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        again, self._arrived = self._arrived, True
        if self._waiting or again:
            raise KeyboardInterrupt
