"""What one process of ``eventlog run`` does: it runs a host until that is told to stop.

Its settings are a struct that goes through a pipe to worker processes, as JSON.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
import msgspec

import eventlog
from eventlog import EventLog, EventLogError, Topic, blobs
from eventlog.cli.failures import Failure, describe
from eventlog.cli.stores import own_store
from eventlog.cli.targets import load
from eventlog.processor.options import ProcessorOptions, RetryPolicy

__all__ = ["LOG_LEVELS", "OVERTIME", "RunSettings", "check", "process"]

OVERTIME: Final = 5.0
"""Seconds beyond the grace in which a host has to end; then nothing can be expected of it."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_LOG_FORMAT: Final = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What ``eventlog run`` was told.

    Attributes:
        target: see `eventlog.cli.targets`.
        location: of the log.
        topic, group: names.
        store: the URL of the groups' store; None for the log's own.
        host_name: see `EventProcessorHost`.
        log_level: one of `LOG_LEVELS`.
        start: where the group begins, the same moment for all workers; None as the library does.
        options: of `ProcessorOptions`, as far as they were given.
        max_attempts: of the `RetryPolicy`.
    """

    target: str
    location: str
    topic: str
    group: str
    store: str | None = None
    host_name: str | None = None
    log_level: str = "info"
    start: int | str | None = None
    options: dict[str, int | float | str] = {}
    max_attempts: int | None = None

    def __repr__(self) -> str:
        return f"<RunSettings of {self.target!r}>"  # a URL may hold a password

    def processor_options(self) -> ProcessorOptions:
        """Options of the host.

        Raises:
            click.UsageError: a value is out of range, or two do not go together.
        """
        given: dict[str, Any] = dict(self.options)
        if self.start is not None:
            given["start"] = self.start
        try:
            if self.max_attempts is not None:
                given["retry"] = RetryPolicy(max_attempts=self.max_attempts)
            return ProcessorOptions(**given)
        except (TypeError, ValueError) as error:
            raise click.UsageError(describe(error)) from error


def check(settings: RunSettings) -> None:
    """Refuse what no worker could begin with, as far as can be told without the target.

    Raises:
        click.UsageError, EventLogError, Failure: see `process`.
    """
    with _opened(settings, settings.processor_options()):
        pass


def process(settings: RunSettings, *, attend: Callable[[Callable[[], None]], object]) -> None:
    """Run a host, in the main thread, until it is told to stop and has ended.

    Args:
        attend: is given, before the host runs, what stops it; from any thread.

    Raises:
        click.UsageError: the target, or an option, is wrong.
        EventLogError: there is no such log or topic, for example.
        Failure: groups need a store and none was named; or an error that a processor's `error`
            answered with STOP.
    """
    from eventlog.processor.host import EventProcessorHost

    options = settings.processor_options()
    target = load(settings.target)
    _log_to_standard_error(settings.log_level)
    with _opened(settings, options) as (topic, store):
        try:
            host = EventProcessorHost(
                topic,
                group=settings.group,
                processor=target.processor,
                handler=target.handler,
                store=store,
                host_name=settings.host_name,
                options=options,
            )
        except (TypeError, ValueError) as error:
            raise click.UsageError(describe(error)) from error
        attend(host.stop)
        try:
            host.run_sync()
        except EventLogError:
            raise
        except Exception as error:
            raise Failure(f"{type(error).__name__} ended it: {describe(error)}") from error


@contextmanager
def _opened(
    settings: RunSettings, options: ProcessorOptions
) -> Iterator[tuple[Topic, blobs.BlobStore | None]]:
    with contextlib.ExitStack() as stack:
        log: EventLog = stack.enter_context(
            eventlog.open(settings.location, create=False, durability=None)
        )
        topic = log.topic(settings.topic)
        if options.dead_letter == settings.topic:
            raise click.UsageError("--dead-letter is another topic than --topic")
        if options.dead_letter is not None:
            log.topic(options.dead_letter)
        if settings.store is None:
            own_store(log)
            yield topic, None
        else:
            yield topic, stack.enter_context(blobs.open(settings.store))


def _log_to_standard_error(level: str) -> None:
    """Unless the target has set up logging its own way."""
    logging.basicConfig(level=level.upper(), format=_LOG_FORMAT, stream=sys.stderr)
