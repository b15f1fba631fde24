"""Where a stored event comes from, if it has a time of its own.

On a cluster every event may have one, and a ``datetime`` takes ten times as long to make as what is
here: so there is one only once somebody asks for it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec

from eventlog.event import Origin
from eventlog.positions import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventlog.event import StoredEvent

__all__ = ["OwnOrigin", "instant_ms", "time_of"]

_MILLISECOND: Final = timedelta(milliseconds=1)


class OwnOrigin(msgspec.Struct, frozen=True, gc=False, eq=False):
    """Where one event comes from. It has all that an `eventlog.event.Origin` has, and equals it.

    Attributes:
        enqueued_ms: milliseconds since 1970, not beyond what a datetime holds.
    """

    topic: str
    partition: int
    enqueued_ms: int
    first_offset: int

    @property
    def enqueued_at(self) -> datetime:
        """The time as a datetime."""
        return instant_ms(self.enqueued_ms)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Origin | OwnOrigin):
            return NotImplemented
        return self.plain() == (other.plain() if isinstance(other, OwnOrigin) else other)

    def __hash__(self) -> int:
        return hash(self.plain())

    def plain(self) -> Origin:
        """The same as every engine has it."""
        return Origin(self.topic, self.partition, self.enqueued_at, self.first_offset)


@lru_cache(maxsize=1024)
def instant_ms(milliseconds: int) -> datetime:
    """Milliseconds since 1970 as an aware datetime in UTC."""
    return EPOCH + milliseconds * _MILLISECOND


time_of: Final[Callable[[StoredEvent], datetime]] = attrgetter("_origin.enqueued_at")
"""When an event that was read was enqueued: `StoredEvent.enqueued_at`, for who asks many."""
