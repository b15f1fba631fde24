"""What every verb takes: which log, and whether to show tracebacks; before the verb or after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import click

import eventlog

__all__ = ["Invocation", "common_options", "debug_option", "pass_invocation"]

F = TypeVar("F", bound=Callable[..., Any])

LOCATION_VARIABLE: Final = "EVENTLOG_LOG"
DEBUG_VARIABLE: Final = "EVENTLOG_DEBUG"


@dataclass
class Invocation:
    """One call of the command: what its common options and the environment say."""

    location: str | None
    debug: bool

    @classmethod
    def from_environment(cls) -> Invocation:
        """As the environment says; options then override it."""
        location = os.environ.get(LOCATION_VARIABLE) or None
        return cls(location, os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"))

    def open_log(
        self,
        *,
        create: bool = False,
        read_only: bool = False,
        durability: Literal["disk", "process"] | None = None,
    ) -> eventlog.EventLog:
        """Open the log that was named, with the durability it was made with unless told."""
        location = self.require_location()
        return eventlog.open(location, create=create, read_only=read_only, durability=durability)

    def require_location(self) -> str:
        """Which log was named.

        Raises:
            click.UsageError: none was.
        """
        if self.location is None:
            raise click.UsageError(f"no log named: give --log LOCATION or set {LOCATION_VARIABLE}")
        return self.location


pass_invocation = click.make_pass_decorator(Invocation)


def _take_location(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Invocation).location = value


def _take_debug(context: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click's signature
    if value:
        context.ensure_object(Invocation).debug = True


def common_options(command: F) -> F:
    """The options that stand at every level; the innermost one counts."""
    log = click.option(
        "--log",
        metavar="LOCATION",
        expose_value=False,
        callback=_take_location,
        help=f"The log: a directory. Otherwise what {LOCATION_VARIABLE} says.",
    )
    return log(debug_option(command))


def debug_option(command: F) -> F:
    """For a verb that names logs in another way."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_take_debug,
        help=f"Show tracebacks of errors, as {DEBUG_VARIABLE}=1 does.",
    )(command)
