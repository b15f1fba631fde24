"""Checks of what a topic can be made and configured with; the limits are in docs/limits.md."""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal

from eventlog.checks import check_count, seconds

__all__ = [
    "Compression",
    "check_bytes",
    "check_compression",
    "check_count",
    "duration_text",
    "retention_us",
    "seconds",
    "setting_text",
]

Compression = Literal["zstd", "none"]

MAX_PARTITIONS: Final = 10_000
MAX_EVENT_BYTES: Final = 64 * 1024 * 1024
MAX_APPEND_BYTES: Final = 128 * 1024 * 1024

_MICROSECOND: Final = timedelta(microseconds=1)
_DURATION_UNITS: Final = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}


def check_bytes(value: object, what: str) -> int | None:
    """`value`, if it is None or a positive number of bytes."""
    return None if value is None else check_count(value, what, 2**62)


def check_compression(value: object) -> Compression:
    """`value`, if it names a compression."""
    if value == "zstd":
        return "zstd"
    if value == "none":
        return "none"
    raise ValueError(f"compression is 'zstd' or 'none', not {value!r:.80}")


def retention_us(value: object) -> int | None:
    """A retention time in microseconds."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(
            "retention is seconds, a timedelta (timedelta(days=7)) or None, "
            f"not {type(value).__name__}: {value!r:.80}"
        )
    try:
        length = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise ValueError(f"{value!r} seconds is no retention time") from None
    if length <= timedelta(0):
        raise ValueError(f"retention is more than 0 seconds, not {value!r}; None keeps for ever")
    return length // _MICROSECOND


def duration_text(length: timedelta) -> str:
    """In the largest unit it is a whole number of: ``7d``, ``36h``, ``90s``."""
    for unit, one in _DURATION_UNITS.items():
        if not length % one:
            return f"{length // one}{unit}"
    milliseconds, rest = divmod(length // _MICROSECOND, 1000)
    return f"{milliseconds}.{rest:03}ms"


def setting_text(value: timedelta | str | int | None) -> str:
    """What a topic is set to, for people: ``3d``, ``1048576``; ``none`` is no limit."""
    if isinstance(value, timedelta):
        return duration_text(value)
    return "none" if value is None else str(value)
