"""Which names topics may have: those that are safe in a path, in a URL and in Kafka."""

from __future__ import annotations

import re
from typing import Final

from eventlog.errors import InvalidNameError

__all__ = ["check_name"]

MAX_NAME_CHARACTERS: Final = 249
_NAME: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{MAX_NAME_CHARACTERS - 1}}}")


def check_name(name: object, what: str) -> str:
    """`name`, if it may name a `what`.

    Raises:
        TypeError: it is not a str.
        InvalidNameError: it breaks the rules.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a {what} is a str, not {type(name).__name__}: {name!r:.80}")
    if not _NAME.fullmatch(name):
        raise InvalidNameError(
            f"{name!r:.300} cannot name a {what}: use 1 to {MAX_NAME_CHARACTERS} letters, digits, "
            "'.', '_' and '-', beginning with a letter, a digit or '_'"
        )
    return name
