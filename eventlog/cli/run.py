"""``eventlog run``: process a topic with what somebody wrote, in one process or in several."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import click
import msgspec

from eventlog.cli import arguments
from eventlog.cli.failures import warn
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.processing import LOG_LEVELS, OVERTIME, RunSettings, check, process
from eventlog.cli.stores import store_option
from eventlog.cli.worker_processes import run_workers
from eventlog.positions import Anchor

__all__ = ["run"]

_encode: Final = msgspec.json.Encoder().encode


@click.command(short_help="Process the events of a topic, as a group.")
@common_options
@click.argument("target", metavar="MODULE:PROCESSOR")
@click.option("--topic", metavar="TOPIC", required=True, help="The topic.")
@click.option("--group", metavar="GROUP", required=True, help="The consumer group; made if new.")
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="With more than one, worker processes are started and looked after.",
)
@click.option(
    "--dead-letter", metavar="TOPIC", help="Where events go that keep failing; it must be there."
)
@click.option(
    "--start",
    type=arguments.position,
    metavar="POSITION",
    help="Where the group begins if it never did: an offset, a time, an age such as -24h, "
    "earliest (if not given) or latest.",
)
@click.option(
    "--checkpoint",
    type=click.Choice(["manual", "auto"]),
    help="manual (if not given): the processor checkpoints. auto: it is done behind what it has "
    "returned from.",
)
@click.option("--checkpoint-interval", type=arguments.seconds, metavar="TIME", help="Of auto.")
@click.option(
    "--max-batch", type=click.IntRange(min=1), metavar="N", help="Events in a batch, at most."
)
@click.option(
    "--max-wait", type=arguments.seconds, metavar="TIME", help="How long 'idle' is waited for."
)
@click.option(
    "--max-attempts",
    type=click.IntRange(min=1),
    metavar="N",
    help="How often a batch is tried before its events go one at a time, and to --dead-letter.",
)
@click.option(
    "--handler-timeout", type=arguments.seconds, metavar="TIME", help="How long a call may take."
)
@click.option("--lease-duration", type=arguments.seconds, metavar="TIME", help="Of the group.")
@click.option(
    "--renew-interval",
    type=arguments.seconds,
    metavar="TIME",
    help="Of heartbeats; a third of --lease-duration if only that is given.",
)
@click.option(
    "--grace",
    type=arguments.seconds,
    metavar="TIME",
    help="How long running handlers are waited for when it is to end.",
)
@click.option("--host-name", metavar="NAME", help="For people; otherwise the machine's name.")
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="info",
    show_default=True,
    help="What is logged to standard error, unless MODULE sets up logging itself.",
)
@store_option
@pass_invocation
def run(
    invocation: Invocation,
    /,
    *,
    target: str,
    topic: str,
    group: str,
    processes: int,
    start: Anchor | int | datetime | None,
    max_attempts: int | None,
    host_name: str | None,
    log_level: Literal["debug", "info", "warning", "error"],
    store_url: str | None,
    **options: Any,
) -> int:
    """Process the events of TOPIC for GROUP with PROCESSOR, which MODULE defines.

    MODULE is found as 'python -m' finds it, in the working directory too. PROCESSOR is a class
    derived from EventProcessor, another factory without arguments, or a function of (context,
    events). The partitions are shared with all other hosts of the group, wherever they run.

    SIGTERM and Ctrl-C end it in good order, with exit code 0: running handlers are waited for, for
    up to --grace, and partitions are given away. With --processes a second one kills the workers;
    a worker that dies is replaced, and when this process dies they end in good order themselves.

    TIME is a number of seconds, or has a unit: 500ms, 30s, 5m.
    """
    if processes > 1 and store_url is not None and store_url.startswith("memory:"):
        raise click.UsageError("a store in memory is not shared by --processes: each has its own")
    given = {name: value for name, value in options.items() if value is not None}
    _warn_of_what_does_nothing(given, max_attempts)
    if "lease_duration" in given:
        given.setdefault("renew_interval", given["lease_duration"] / 3)
    settings = RunSettings(
        target=target,
        location=invocation.require_location(),
        topic=topic,
        group=group,
        store=store_url,
        host_name=host_name,
        log_level=log_level,
        start=_fixed(start),
        options=given,
        max_attempts=max_attempts,
    )
    if processes == 1:
        process(settings, attend=lambda _stop: None)
        return 0
    check(settings)
    patience = settings.processor_options().grace + OVERTIME
    line = _encode(settings) + b"\n"
    return run_workers(line, processes, patience=patience, debug=invocation.debug)


def _warn_of_what_does_nothing(given: Mapping[str, Any], max_attempts: int | None) -> None:
    if max_attempts is not None and "dead_letter" not in given:
        warn(
            "--max-attempts without --dead-letter: there is nowhere to put what keeps failing, so "
            "it goes on being tried"
        )
    if "checkpoint_interval" in given and given.get("checkpoint") != "auto":
        warn("--checkpoint-interval does nothing without --checkpoint auto")


def _fixed(start: Anchor | int | datetime | None) -> int | str | None:
    """A position in JSON; an age was made a time of when the command began."""
    if isinstance(start, Anchor):
        return start.value
    return start.isoformat() if isinstance(start, datetime) else start
