"""``eventlog group``: how far consumer groups are, moving them, and deleting them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

import click

from eventlog import EventLog, EventLogError, Topic, TopicNotFoundError, blobs
from eventlog.blobs import BlobStore
from eventlog.cli import arguments, output
from eventlog.cli.display import Value, instant_text, show_fields, show_table
from eventlog.cli.failures import Failure, describe, warn
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.group import ConsumerGroup, Lag
from eventlog.groups.documents import Checkpoint
from eventlog.positions import Anchor

__all__ = ["group"]

F = TypeVar("F", bound=Callable[..., Any])

LIST_COLUMNS: Final = ("topic", "group", "members", "lag", "lag seconds")
SHOW_COLUMNS: Final = (
    *("partition", "checkpoint", "lag", "lag seconds"),
    *("owner", "epoch", "resets", "updated"),
)
LAG_COLUMNS: Final = ("partition", "lag", "lag seconds")


def store_option(command: F) -> F:
    """Where the documents of groups are; the verb gets it as `store_url`."""
    return click.option(
        "--store",
        "store_url",
        metavar="URL",
        help="Where the groups are, such as file:PATH; otherwise in the log itself.",
    )(command)


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for programs."
)


@contextmanager
def _opened(
    invocation: Invocation, store_url: str | None, *, to_change: bool = False
) -> Iterator[tuple[EventLog, BlobStore | None]]:
    """The log, and the store if one was named; the log is written to only if it is the store."""
    with contextlib.ExitStack() as stack:
        read_only = not to_change or store_url is not None
        log = stack.enter_context(invocation.open_log(read_only=read_only))
        if store_url is None:
            yield log, None
        else:
            yield log, stack.enter_context(blobs.open(store_url))


def _existing(topic: Topic, name: str, store: BlobStore | None) -> ConsumerGroup:
    """The group of that name.

    Raises:
        Failure: there is none.
    """
    wanted = topic.group(name, store)
    if name not in {there.name for there in topic.groups(store)}:
        raise Failure(f"topic {topic.name!r} has no group {name!r}")
    return wanted


@click.group
@common_options
def group() -> None:
    """List, show, move and delete consumer groups."""


# Looking


class _Summary(NamedTuple):
    """A group in a list; what cannot be told is None."""

    topic: str
    group: str
    members: list[str] | None = None
    lag: Lag | None = None

    def row(self) -> tuple[Value, ...]:
        members = None if self.members is None else len(self.members)
        if self.lag is None:
            return self.topic, self.group, members, None, None
        return self.topic, self.group, members, self.lag.events, _seconds(self.lag)

    def document(self) -> dict[str, Any]:
        return {
            "topic": self.topic,
            "group": self.group,
            "members": self.members,
            **_lag_document(self.lag),
        }


@group.command("list")
@common_options
@click.argument("name", metavar="[TOPIC]", required=False)
@store_option
@json_option
@pass_invocation
def list_groups(
    invocation: Invocation, /, *, name: str | None, store_url: str | None, as_json: bool
) -> None:
    """List the groups of TOPIC, or of all topics, in the order of their names.

    Where the output is no terminal: a line for each, without a header, columns separated by tabs:
    topic, group, number of members, events not finished, age of the oldest of them in seconds.
    """
    with _opened(invocation, store_url) as (log, store):
        topics = log.topics() if name is None else [log.topic(name)]
        found = [summary for topic in topics for summary in _summaries(topic, store)]
    if as_json:
        output.write_json([summary.document() for summary in found])
    else:
        show_table(LIST_COLUMNS, [summary.row() for summary in found])


def _summaries(topic: Topic, store: BlobStore | None) -> Iterator[_Summary]:
    with contextlib.suppress(TopicNotFoundError):  # deleted since
        for found in topic.groups(store):
            try:
                yield _Summary(topic.name, found.name, found.members(), _total(found.lag()))
            except TopicNotFoundError:
                raise
            except EventLogError as error:  # one damaged document does not hide other groups
                warn(describe(error))
                yield _Summary(topic.name, found.name)


def _total(lags: Mapping[int, Lag]) -> Lag:
    return Lag(
        sum(lag.events for lag in lags.values()),
        max((lag.seconds for lag in lags.values()), default=0.0),
    )


@group.command()
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@store_option
@json_option
@pass_invocation
def show(
    invocation: Invocation,
    /,
    *,
    name: str,
    group_name: str,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Print the members of GROUP, and how far it is in each partition of TOPIC.

    A checkpoint is the offset of the last event that was finished: -1 before the first, none where
    the group never began.
    """
    with _opened(invocation, store_url) as (log, store):
        found = _existing(log.topic(name), group_name, store)
        members, checkpoints, lags = found.members(), found.checkpoints(), found.lag()
    if as_json:
        parts = [_part_document(number, checkpoints.get(number), lags[number]) for number in lags]
        output.write_json(
            {"topic": name, "group": group_name, "members": members, "partitions": parts}
        )
        return
    named: list[tuple[str, Value]] = [("topic", name), ("group", group_name)]
    show_fields([*named, *(("member", member) for member in members)])
    output.write_line("")
    rows = [_part_row(number, checkpoints.get(number), lags[number]) for number in lags]
    show_table(SHOW_COLUMNS, rows, header=True)


def _part_row(partition: int, checkpoint: Checkpoint | None, lag: Lag) -> tuple[Value, ...]:
    unfinished = (lag.events, _seconds(lag))
    if checkpoint is None:
        return partition, None, *unfinished, None, None, None, None
    return (
        *(partition, checkpoint.offset, *unfinished, checkpoint.owner),
        *(checkpoint.epoch, checkpoint.reset, checkpoint.updated_at),
    )


def _part_document(partition: int, checkpoint: Checkpoint | None, lag: Lag) -> dict[str, Any]:
    return {
        "partition": partition,
        **{
            field: _plain(getattr(checkpoint, field, None))
            for field in Checkpoint.__struct_fields__
        },
        **_lag_document(lag),
    }


def _plain(value: Any) -> Any:
    return instant_text(value) if isinstance(value, datetime) else value


@group.command()
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@store_option
@json_option
@pass_invocation
def lag(
    invocation: Invocation,
    /,
    *,
    name: str,
    group_name: str,
    store_url: str | None,
    as_json: bool,
) -> None:
    """Print how much of each partition of TOPIC the group GROUP has not finished.

    Where the output is no terminal: a line for each, without a header, columns separated by tabs:
    partition, events not finished, age of the oldest of them in seconds.
    """
    with _opened(invocation, store_url) as (log, store):
        lags = _existing(log.topic(name), group_name, store).lag()
    if as_json:
        output.write_json(
            [{"partition": number, **_lag_document(lag)} for number, lag in lags.items()]
        )
    else:
        rows = [(number, lag.events, _seconds(lag)) for number, lag in lags.items()]
        show_table(LAG_COLUMNS, rows)


def _lag_document(lag: Lag | None) -> dict[str, Any]:
    events, seconds = (None, None) if lag is None else lag
    return {"lag_events": events, "lag_seconds": seconds}


def _seconds(lag: Lag) -> str:
    return f"{lag.seconds:.3f}"


# Changing


@group.command()
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.option(
    "--to",
    "position",
    type=arguments.position,
    metavar="POSITION",
    required=True,
    help="Where to go on: an offset, a time, an age such as -24h, earliest or latest.",
)
@click.option(
    "--partition",
    "partitions",
    type=int,
    metavar="N",
    multiple=True,
    help="Only this partition; several may be given.",
)
@click.option("--force", is_flag=True, help="Also where a consumer or host is reading just now.")
@store_option
@pass_invocation
def reset(
    invocation: Invocation,
    /,
    *,
    name: str,
    group_name: str,
    position: Anchor | int | datetime,
    partitions: tuple[int, ...],
    force: bool,
    store_url: str | None,
) -> None:
    """Have the group GROUP go on at another position of TOPIC; it is made if it is not there.

    Refused while it is in use, unless forced: then whoever reads goes on there soon after.
    """
    with _opened(invocation, store_url, to_change=True) as (log, store):
        found = log.topic(name).group(group_name, store)
        found.reset(position, partitions or None, force=force)
    output.announce(f"group {group_name} of topic {name} reset")


@group.command()
@common_options
@click.argument("name", metavar="TOPIC")
@click.argument("group_name", metavar="GROUP")
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
@pass_invocation
def delete(
    invocation: Invocation, /, *, name: str, group_name: str, yes: bool, store_url: str | None
) -> None:
    """Delete the group GROUP of TOPIC: all it has finished is forgotten. Asks first, on a terminal.

    Whoever reads for it is disconnected.
    """
    with _opened(invocation, store_url, to_change=True) as (log, store):
        found = _existing(log.topic(name), group_name, store)
        asked = not yes and sys.stdin is not None and sys.stdin.isatty()
        if asked and not click.confirm(f"Delete group {group_name} of topic {name}?", err=True):
            raise Failure(f"group {group_name} of topic {name} was not deleted")
        found.delete()
    output.announce(f"group {group_name} of topic {name} deleted")
