"""What it means when PostgreSQL says no: which failures pass, and how they are told."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["Refusal", "is_for_good", "one_line"]

_PASSING: Final = (
    "08",  # the connection
    "40",  # rolled back for another transaction's sake
    "53",  # no memory, disk or connection left
    "55P03",  # a lock
    "57",  # timed out, cancelled, shutting down, starting up
    "58",  # the server's system
)
_READ_ONLY: Final = "25006"
_OF_SERVER: Final = ("08", _READ_ONLY, "57P")
_NEXT_TRY: Final = ("40001", "40P01")

# Whoever is not let in is told so in words only: libpq passes on no code. Of a server that speaks
# another language than English these are taken for passing, and tried again in vain.
_FOR_GOOD: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|does not exist"
    r"|no such (user|database)|is not permitted|is not allowed|permission denied"
    r"|not currently accepting|certificate|does not support SSL"
    r"|invalid .* value|invalid connection option",
    re.IGNORECASE,
)


class Refusal(Exception):  # noqa: N818 - it never leaves the store
    """The server refused a statement, which has changed nothing.

    Args:
        code: PostgreSQL's, of five letters and digits.
        message: the server's.
        of_primary: whether the server is known to be no standby.
    """

    def __init__(self, code: str, message: str, *, of_primary: bool) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self._of_primary = of_primary

    @property
    def is_passing(self) -> bool:
        """Whether it is worth to try again in a moment."""
        if self.code == _READ_ONLY:
            return not self._of_primary  # a primary is read-only because somebody has set it so
        return self.code.startswith(_PASSING)

    @property
    def is_of_server(self) -> bool:
        """Whether the server is going, or is the wrong one: another connection may be better."""
        return self.code.startswith(_OF_SERVER)

    @property
    def is_collision(self) -> bool:
        """Whether it is worth to try again at once: of two transactions, the other was served."""
        return self.code in _NEXT_TRY


def is_for_good(message: str) -> bool:
    """Whether a connection that was refused with this message will be refused again."""
    return _FOR_GOOD.search(message) is not None


def one_line(message: bytes | None) -> str:
    """Some text from a server or from libpq, fit to be a part of an error's."""
    try:
        text = (message or b"").decode()
    except UnicodeDecodeError:
        text = (message or b"").decode("latin-1")  # a server's, that speaks no UTF-8
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "; ".join(filter(None, lines))
