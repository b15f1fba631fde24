"""Which store a verb works on: the log's own, or the one that ``--store`` names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from eventlog import EventLog, UnsupportedOperationError, blobs
from eventlog.blobs import BlobStore
from eventlog.cli.failures import Failure
from eventlog.cli.invocation import Invocation

__all__ = ["log_and_store", "only_store", "own_store", "store_option"]

F = TypeVar("F", bound=Callable[..., Any])


def store_option(command: F) -> F:
    """Where the documents of groups are; the verb gets it as `store_url`."""
    return click.option(
        "--store",
        "store_url",
        metavar="URL",
        envvar="EVENTLOG_STORE",
        help="Where the groups are: file:PATH, s3://BUCKET/PREFIX, az://, gs://, postgresql://; "
        "otherwise in the log itself.",
    )(command)


def own_store(log: EventLog) -> BlobStore:
    """The log's own store, where none was named.

    Raises:
        Failure: it has none; says how to name one.
    """
    try:
        return log.blobs
    except UnsupportedOperationError as error:
        raise Failure(
            f"groups on the log at {log.location} need a store for their leases and checkpoints: "
            "name the one that all its hosts share with --store URL, or in EVENTLOG_STORE"
        ) from error


@contextmanager
def log_and_store(
    invocation: Invocation, store_url: str | None, *, to_change: bool = False
) -> Iterator[tuple[EventLog, BlobStore | None]]:
    """The log, and the store if one was named; the log is written to only if it is the store."""
    with contextlib.ExitStack() as stack:
        read_only = not to_change or store_url is not None
        log = stack.enter_context(invocation.open_log(read_only=read_only))
        if store_url is None:
            own_store(log)
            yield log, None
        else:
            yield log, stack.enter_context(blobs.open(store_url))


@contextmanager
def only_store(
    invocation: Invocation, store_url: str | None, *, to_change: bool = False
) -> Iterator[BlobStore]:
    """The store that was named, for which no log is needed; otherwise the log's own."""
    if store_url is not None:
        with blobs.open(store_url) as store:
            yield store
    else:
        with invocation.open_log(read_only=not to_change) as log:
            yield own_store(log)
