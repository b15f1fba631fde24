"""What contract suites expect, said without pytest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Generic, TypeVar

__all__ = ["Raised", "raises"]

E = TypeVar("E", bound=BaseException)


class Raised(Generic[E]):
    """What was raised, once it was."""

    error: E


@contextlib.contextmanager
def raises(*kinds: type[E], about: object = "") -> Iterator[Raised[E]]:
    """Fails unless the block raises one of these; anything else comes through.

    Args:
        about: what was tried, for the message.
    """
    raised: Raised[E] = Raised()
    try:
        yield raised
    except kinds as error:
        raised.error = error
        return
    names = " or ".join(kind.__name__ for kind in kinds)
    raise AssertionError(f"no {names} {about!r:.100}")
