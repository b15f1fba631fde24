"""How the command ends: exit codes, and one line on standard error for what went wrong.

==== =============================================================================
0    done
1    failed; or `check` found damage
2    the command was called wrongly
130  interrupted (Ctrl-C); but `run` ends in good order then, with 0, unless it is pressed twice
141  whoever read the output has gone (``| head``)
==== =============================================================================
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from eventlog.errors import EventLogError

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "USAGE",
    "Failure",
    "Interrupted",
    "ReaderGone",
    "describe",
    "one_line",
    "warn",
    "warnings_as_lines",
]

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
READER_GONE: Final = 141


class Failure(click.ClickException):
    """Ends the command: with a line on standard error, unless `message` is empty."""

    exit_code = FAILED

    def __init__(self, message: str = "") -> None:
        super().__init__(message)


class Interrupted(Failure):
    """Ctrl-C ended it."""

    exit_code = INTERRUPTED


class ReaderGone(Failure):
    """Nobody reads the output any more."""

    exit_code = READER_GONE


def describe(error: BaseException) -> str:
    """One line that says what is wrong, for a person."""
    if isinstance(error, OSError) and not isinstance(error, EventLogError) and error.strerror:
        named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return one_line(f"{named}{error.strerror}")
    return one_line(str(error)) or type(error).__name__


def one_line(text: str) -> str:
    """`text` without line breaks; and without the full stop that click's messages end in."""
    return " ".join(text.split()).removesuffix(".")


def warn(message: str) -> None:
    """Say what does not stop the command."""
    click.echo(f"eventlog: warning: {one_line(message)}", err=True)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """While this lasts, what the library warns of is said in lines like any other."""

    def show(message: Warning | str, *_where: object, **_more: object) -> None:
        warn(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
