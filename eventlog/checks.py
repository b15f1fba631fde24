"""Checks of arguments that many calls share."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["check_count", "check_producer_id", "check_sequence", "seconds"]

MAX_PRODUCER_ID_BYTES = 256
MAX_SEQUENCE = 2**63 - 1


def check_count(value: object, what: str, most: int) -> int:
    """`value`, if it is an integer from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is an int, not {type(value).__name__}: {value!r:.80}")
    if not 1 <= value <= most:
        raise ValueError(f"{what} is from 1 to {most:,}, not {value:,}")
    return value


def seconds(value: object, what: str) -> float:
    """A length of time in seconds, 0 or more."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} is seconds or a timedelta, not {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{what} is 0 seconds or more, not {value!r}")
    return float(value)


def check_producer_id(value: object) -> str:
    """`value`, if it may name a producer: text of 1 to 256 bytes."""
    if not isinstance(value, str):
        raise TypeError(f"a producer_id is a str, not {type(value).__name__}: {value!r:.80}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError(f"a producer_id is valid Unicode, not {value!r:.80}") from None
    if not 1 <= size <= MAX_PRODUCER_ID_BYTES:
        raise ValueError(
            f"a producer_id has 1 to {MAX_PRODUCER_ID_BYTES} bytes of UTF-8, this one {size}: "
            f"{value[:40]!r}"
        )
    return str(value)


def check_sequence(value: object) -> int:
    """`value`, if it may be a sequence: an integer from 0 to 2**63 - 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a sequence is an int, not {type(value).__name__}: {value!r:.80}")
    if not 0 <= value <= MAX_SEQUENCE:
        raise ValueError(f"a sequence is from 0 to {MAX_SEQUENCE}, not {value}")
    return value
