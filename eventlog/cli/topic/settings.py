"""The settings of a topic: as options, and as something to print."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict, TypeVar

import click

from eventlog import Topic
from eventlog.cli import arguments
from eventlog.cli.arguments import NO_LIMIT, NoLimit
from eventlog.cli.display import Size, Value, instant_text

__all__ = ["Settings", "given_settings", "setting_options", "settings_document", "settings_fields"]

F = TypeVar("F", bound=Callable[..., Any])

SIZE_HELP: Final = "such as 10GiB or 500MB"


class Settings(TypedDict, total=False):
    """What `EventLog.create_topic` and `Topic.configure` both take; only what was given."""

    retention: timedelta | None
    retention_bytes: int | None
    max_event_bytes: int
    compression: Literal["zstd", "none"]


def setting_options(command: F) -> F:
    """The options that `given_settings` gathers."""
    options = [
        click.option(
            "--retention",
            type=arguments.duration,
            metavar="TIME",
            help="How long events can be read, such as 7d or 36h; none keeps for ever.",
        ),
        click.option(
            "--retention-bytes",
            type=arguments.size_limit,
            metavar="SIZE",
            help=f"What each partition keeps at most, {SIZE_HELP}; none sets no limit.",
        ),
        click.option(
            "--max-event-bytes",
            type=arguments.size,
            metavar="SIZE",
            help="The largest body an event may have; 1MiB unless given.",
        ),
        click.option(
            "--compression",
            type=click.Choice(["zstd", "none"]),
            help="How batches are compressed; zstd unless given.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def given_settings(
    retention: timedelta | NoLimit | None,
    retention_bytes: int | NoLimit | None,
    max_event_bytes: int | None,
    compression: Literal["zstd", "none"] | None,
) -> Settings:
    """Only the options that were given, as the library takes them."""
    settings = Settings()
    if retention is not None:
        settings["retention"] = None if retention is NO_LIMIT else retention
    if retention_bytes is not None:
        settings["retention_bytes"] = None if retention_bytes is NO_LIMIT else retention_bytes
    if max_event_bytes is not None:
        settings["max_event_bytes"] = max_event_bytes
    if compression is not None:
        settings["compression"] = compression
    return settings


def settings_fields(topic: Topic) -> list[tuple[str, Value]]:
    """A topic's settings, to be shown."""
    limit = topic.retention_bytes
    return [
        ("name", topic.name),
        ("partitions", topic.partitions),
        ("retention", topic.retention),
        ("retention bytes", None if limit is None else Size(limit)),
        ("compression", topic.compression),
        ("partitioner", topic.partitioner),
        ("max event bytes", Size(topic.max_event_bytes)),
        ("created", topic.created_at),
    ]


def settings_document(topic: Topic) -> dict[str, Any]:
    """A topic's settings, for programs."""
    retention = topic.retention
    return {
        "name": topic.name,
        "partitions": topic.partitions,
        "retention_seconds": None if retention is None else retention.total_seconds(),
        "retention_bytes": topic.retention_bytes,
        "compression": topic.compression,
        "partitioner": topic.partitioner,
        "max_event_bytes": topic.max_event_bytes,
        "created_at": instant_text(topic.created_at),
    }
