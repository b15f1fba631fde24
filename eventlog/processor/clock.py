"""The clock that hosts live by, and the seam at which tests put another one."""

from __future__ import annotations

import sys
import time
from typing import Final, Protocol

import anyio

__all__ = ["Clock", "SystemClock", "monotonic"]

# A lease goes on running while the machine sleeps. On Linux only this clock does too; on macOS
# CLOCK_MONOTONIC does.
_ID: Final[int] = (
    time.CLOCK_BOOTTIME if sys.platform == "linux" else time.CLOCK_MONOTONIC  # type: ignore[attr-defined, unused-ignore]
)


def monotonic() -> float:
    """Seconds on a clock that never goes back, and that runs while the machine is suspended."""
    return time.clock_gettime(_ID)


class Clock(Protocol):
    """What a host asks for the time, and waits by."""

    def now(self) -> float:
        """Seconds since some moment; see `monotonic`."""

    def wall_us(self) -> int:
        """Microseconds since 1970, for people to read: nothing is decided by them."""

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        """See `Clock.now`."""
        return monotonic()

    def wall_us(self) -> int:
        """See `Clock.wall_us`."""
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        await anyio.sleep(seconds)
