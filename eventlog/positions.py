"""Positions: where reading begins or ends, said in any of the ways people say it."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

__all__ = ["EARLIEST", "LATEST", "Anchor", "Position", "PositionMap"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
LAST_INSTANT_US: Final = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND


class Anchor(enum.Enum):
    """The two positions every partition has."""

    EARLIEST = "earliest"
    LATEST = "latest"

    def __repr__(self) -> str:
        return self.name


EARLIEST: Final = Anchor.EARLIEST
"""The first event that is there."""

LATEST: Final = Anchor.LATEST
"""Behind the last event that is there: only what is appended from now on."""

Position: TypeAlias = int | datetime | str | Anchor
"""An offset, an instant (the first event at or after it), ``"-24h"``, an ISO time, or an anchor."""

PositionMap: TypeAlias = Mapping[int, Position]
"""Positions by partition."""

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_AGO: Final = re.compile(r"-(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")


def parse(position: object, now_us: int) -> Anchor | int | datetime:
    """Bring any position to one of three forms; ages count back from `now_us`.

    Raises:
        TypeError: it is of no type a position can be of.
        ValueError: a string that says no position, or a naive datetime.
    """
    if isinstance(position, Anchor):
        return position
    if isinstance(position, int) and not isinstance(position, bool):
        return position
    if isinstance(position, str):
        return _parse_text(position, now_us)
    if isinstance(position, datetime):
        return aware(position)
    raise TypeError(
        "a position is an offset, a datetime, a string like '-1h', EARLIEST, LATEST, or a mapping "
        "from partitions to these, "
        f"not {type(position).__name__}: {position!r:.80}"
    )


def of_partition(position: object, partition: int, missing: Anchor | None) -> object:
    """The position a mapping gives for `partition`, or `missing`; others are for all partitions.

    Raises:
        TypeError: a key of the mapping is no number of a partition: JSON makes strings of them.
    """
    if not isinstance(position, Mapping):
        return position
    for key in position:
        if isinstance(key, bool) or not isinstance(key, int):
            raise TypeError(f"positions are given by partition, an int, not {key!r:.80}")
    return position.get(partition, missing)


def _parse_text(text: str, now_us: int) -> Anchor | datetime:
    if text.lower() in ("earliest", "latest"):
        return Anchor(text.lower())
    try:
        if match := _AGO.fullmatch(text):
            return instant(now_us) - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
        when = datetime.fromisoformat(text)
    except OverflowError:
        raise ValueError(f"{text!r} is before the year 1") from None
    except ValueError:
        raise ValueError(
            f"{text!r} is no position: give an ISO time with a timezone, an age such as '-24h' "
            f"(units: {', '.join(_UNITS)}), 'earliest' or 'latest'"
        ) from None
    return aware(when)


def aware(when: datetime) -> datetime:
    """`when` in UTC.

    Raises:
        ValueError: it has no timezone.
    """
    if when.tzinfo is None:
        raise ValueError(f"{when.isoformat()} has no timezone; UTC would be {when.isoformat()}Z")
    try:
        return when.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{when.isoformat()} in UTC is outside the years 1 to 9999") from None


def instant(microseconds: int) -> datetime:
    """Microseconds since 1970 as an aware datetime in UTC."""
    return EPOCH + timedelta(microseconds=microseconds)


def microseconds(when: datetime) -> int:
    """The inverse of `instant`, exactly."""
    return (when - EPOCH) // _MICROSECOND
