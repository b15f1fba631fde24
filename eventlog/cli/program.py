"""The program: its verbs, and the one place where every way a verb can end becomes an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import Any, Final, NoReturn

import click

import eventlog
from eventlog.cli import output
from eventlog.cli.append import append
from eventlog.cli.backup import backup
from eventlog.cli.check import check
from eventlog.cli.compact import compact
from eventlog.cli.copy import copy
from eventlog.cli.dead_letters import dead_letters
from eventlog.cli.expire import expire
from eventlog.cli.failures import (
    FAILED,
    INTERRUPTED,
    USAGE,
    Failure,
    Interrupted,
    ReaderGone,
    describe,
    one_line,
    warnings_as_lines,
)
from eventlog.cli.group import group
from eventlog.cli.invocation import Invocation, common_options
from eventlog.cli.read import read
from eventlog.cli.run import run
from eventlog.cli.store import store
from eventlog.cli.topic import topic
from eventlog.cli.worker import run_worker

__all__ = ["Program", "program"]

_NAME: Final = "eventlog"


class Program(click.Group):
    """A group of verbs that ends as a Unix tool does; see `eventlog.cli.failures`."""

    def main(self, *arguments: Any, **extra: Any) -> NoReturn:
        """Run one verb and exit. Takes what `click.Command.main` takes."""
        invocation = Invocation.from_environment()
        extra |= {"prog_name": _NAME, "standalone_mode": False, "obj": invocation}
        try:
            with warnings_as_lines():
                code = super().main(*arguments, **extra) or 0
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = USAGE
        except (click.ClickException, click.Abort) as error:
            if invocation.debug:
                traceback.print_exception(error.__cause__ or error)
            code = _report(error)
        output.finish()
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; what the library or the system refuses becomes a `Failure`."""
        try:
            result = super().invoke(ctx)
            output.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error
        except KeyboardInterrupt as error:
            raise Interrupted from error
        except (eventlog.EventLogError, OSError, ValueError) as error:
            raise Failure(describe(error)) from error
        except ImportError as error:
            if "embedded-eventlog[" not in str(error):
                raise
            raise Failure(str(error)) from error  # an extra is not installed, and it says which
        return result


def _report(error: click.ClickException | click.Abort) -> int:
    """Say in one line what went wrong; the exit code."""
    if isinstance(error, click.Abort):
        return INTERRUPTED if isinstance(error.__context__, KeyboardInterrupt) else FAILED
    message = one_line(error.format_message())
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message += f" (see '{error.ctx.command_path} --help')"
    if message:
        click.echo(f"{_NAME}: {message}", err=True)
    return error.exit_code


@click.group(
    cls=Program,
    name=_NAME,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@common_options
@click.version_option(eventlog.__version__, prog_name=_NAME, message="%(prog)s %(version)s")
def program() -> None:
    """Write, read and look after an event log.

    A log is a directory that holds topics; a topic has partitions; a partition is a sequence of
    events with offsets 0, 1, 2 and on. Name the log with --log, before or after the verb, or in
    the variable EVENTLOG_LOG.
    """


for _verb in (
    *(append, backup, check, compact, copy, dead_letters, expire),
    *(group, read, run, run_worker, store, topic),
):
    program.add_command(_verb)
