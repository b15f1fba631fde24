"""What people write on the command line, and the values it stands for.

Each is a function that click calls with the text; what it cannot take is a usage error.
"""

from __future__ import annotations

import enum
import re
import time
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import click

from eventlog.positions import Anchor, parse

__all__ = [
    "NO_LIMIT",
    "NoLimit",
    "duration",
    "position",
    "seconds",
    "size",
    "size_limit",
    "text_property",
]


class NoLimit(enum.Enum):
    """``none`` where a limit could stand; not the same as an option that was not given."""

    NO_LIMIT = "none"


NO_LIMIT: Final = NoLimit.NO_LIMIT

_AMOUNT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")
_OFFSET: Final = re.compile(r"[0-9]+")
_MICROSECONDS: Final = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_BYTES: Final = {"": 1, "b": 1} | {
    f"{prefix}{unit}": base**power
    for unit, base in (("b", 1000), ("ib", 1024))
    for power, prefix in enumerate("kmgt", start=1)
}


def _amount(text: str, units: dict[str, int], wanted: str) -> int:
    """A number times its unit, if that is a whole number."""
    match = _AMOUNT.fullmatch(text.strip())
    factor = units.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise click.BadParameter(f"{text!r} is no {wanted}")
    amount = Decimal(match[1]) * factor
    if amount != int(amount):
        raise click.BadParameter(f"{text!r} is no whole number of the smallest unit")
    return int(amount)


def duration(text: str) -> timedelta | NoLimit:
    """A length of time such as ``7d``, or ``none``."""
    if text.lower() == "none":
        return NO_LIMIT
    units = ", ".join(_MICROSECONDS)
    microseconds = _amount(text, _MICROSECONDS, f"length of time: '7d', say (units: {units})")
    try:
        return timedelta(microseconds=microseconds)
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer than can be counted") from None


def seconds(text: str) -> float:
    """A length of time such as ``30s``, or a number of seconds."""
    units = {"": _MICROSECONDS["s"], **_MICROSECONDS}
    wanted = f"length of time: '30s', or 30, say (units: {', '.join(_MICROSECONDS)})"
    return _amount(text, units, wanted) / 1e6


def size(text: str) -> int:
    """A number of bytes, such as ``1048576`` or ``10GiB``."""
    return _amount(text, _BYTES, "size: '10GiB', '500MB' or a number of bytes, say")


def size_limit(text: str) -> int | NoLimit:
    """A size, or ``none``."""
    return NO_LIMIT if text.lower() == "none" else size(text)


def position(text: str) -> Anchor | int | datetime:
    """A position as in `eventlog.positions`; an age counts back from now."""
    if _OFFSET.fullmatch(text):
        return int(text)
    try:
        return parse(text, time.time_ns() // 1000)
    except ValueError as error:
        raise click.BadParameter(f"{error} (or an offset)") from None


def text_property(text: str) -> tuple[str, str]:
    """``NAME=VALUE``."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value
