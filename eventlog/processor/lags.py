"""How far the partitions of a host are behind: looked at aside, since the log may not answer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from eventlog.processor.threads import in_thread

if TYPE_CHECKING:
    from eventlog.processor.pump import Pump
    from eventlog.waiting import Completion

__all__ = ["Lags"]

_MOMENT: Final = 1.0


class Lags:
    """See the module. Thread-safe enough: who asks at the same time sees less at worst."""

    def __init__(self) -> None:
        self._found: dict[int, int | None] = {}
        self._under_way: Completion[None] | None = None

    def look(self, pumps: Mapping[int, Pump]) -> dict[int, int | None]:
        """By partition, as many as are known within a moment."""
        if self._under_way is None or self._under_way.done:
            found = self._found = {}

            def look() -> None:
                for number, pump in pumps.items():
                    found[number] = pump.lag()

            self._under_way = in_thread(look)
        with contextlib.suppress(TimeoutError):
            self._under_way.exception(_MOMENT)
        return dict(self._found)
