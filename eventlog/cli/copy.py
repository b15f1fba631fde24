"""``eventlog copy``: copy topics, and how far their groups are, from one log to another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Final, Literal

import click

import eventlog
from eventlog import (
    CorruptBatchError,
    EventLog,
    EventLogError,
    ProducerFencedError,
    Topic,
    UnsupportedOperationError,
)
from eventlog.cli import output
from eventlog.cli.display import show_table
from eventlog.cli.failures import Failure, Interrupted, describe, warn
from eventlog.cli.interrupts import Interrupts
from eventlog.cli.invocation import debug_option
from eventlog.cli.progress import Progress, rate_text, shown_progress
from eventlog.copying import CarriedGroup, OthersEventsError, TopicCopy

__all__ = ["copy"]

COLUMNS: Final = ("topic", "events copied", "groups", "checkpoints")


@click.command(short_help="Copy topics from one log to another.")
@debug_option
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option(
    "--topic",
    "topics",
    metavar="TOPIC",
    multiple=True,
    help="Copy this one; may be given several times. Otherwise all.",
)
@click.option("--as", "name", metavar="NAME", help="The name of the one topic in TARGET.")
@click.option(
    "--group",
    "groups",
    metavar="GROUP",
    multiple=True,
    help="Carry this one over; may be given several times. Otherwise all.",
)
@click.option("--no-groups", is_flag=True, help="Copy events only.")
@click.option(
    "--store", "store_url", metavar="URL", help="Where the groups are, if not in SOURCE itself."
)
@click.option(
    "--target-store", metavar="URL", help="Where the groups go, if not into TARGET itself."
)
@click.option(
    "--mix", is_flag=True, help="Also copy behind events of TARGET that are not copies of SOURCE's."
)
@click.option("--skip-damaged", is_flag=True, help="Warn of damaged batches and go on behind them.")
@click.option(
    "--durability",
    type=click.Choice(["disk", "process"]),
    help="For a new log: what an acknowledged append survives, a power cut (disk, unless given) "
    "or killed processes only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary.")
def copy(
    *,
    source: str,
    target: str,
    topics: tuple[str, ...],
    name: str | None,
    groups: tuple[str, ...],
    no_groups: bool,
    store_url: str | None,
    target_store: str | None,
    mix: bool,
    skip_damaged: bool,
    durability: Literal["disk", "process"] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Copy the topics of the log at SOURCE to the log at TARGET, which is made if it is not there.

    Events keep their partitions, order, keys, properties and, where TARGET can, their times; the
    topics are made with the settings they have. What is in SOURCE when the command begins is
    copied, even if others go on appending. Run it again to copy what has come since, or to go on
    where it was interrupted or killed: nothing is lost and nothing copied twice.

    Checkpoints of groups are carried over to the events that stand for theirs, and only ever
    forward. What could not be kept as it was, is said on standard error.

    Prints a line for each topic: its name in TARGET, how many events were copied, of how many
    groups how many checkpoints stand in TARGET; where the output is no terminal separated by tabs.
    """
    if no_groups and groups:
        raise click.UsageError("give --group or --no-groups, not both")
    if name is not None and len(topics) != 1:
        raise click.UsageError("--as needs exactly one --topic")
    work = _Work(
        names=None if no_groups else groups or (),
        store=store_url,
        target_store=target_store,
        options={"name": name, "mix": mix, "skip_damaged": skip_damaged},
    )
    with ExitStack() as stack:
        log = eventlog.open(source, create=False, read_only=True, durability=None)
        stack.enter_context(log)
        wanted = [log.topic(each) for each in dict.fromkeys(topics)] or log.topics()
        # Nothing is made before it is known that there is something to copy.
        target_log = stack.enter_context(eventlog.open(target, durability=durability))
        progress = stack.enter_context(shown_progress(quiet=quiet))
        work.prepare(wanted, target_log, progress)
        work.run()
    if as_json:
        output.write_json(work.document())
    else:
        show_table(COLUMNS, work.rows())
    if not quiet and not as_json:
        _summarise(work.copied, progress.seconds)


class _Work:
    """Copies topics, and counts.

    Args:
        names: of groups to carry over; an empty tuple means all, None means none.
        store, target_store: where groups are, and go.
        options: of `TopicCopy`.
    """

    def __init__(
        self,
        *,
        names: Sequence[str] | None,
        store: str | None,
        target_store: str | None,
        options: dict[str, Any],
    ) -> None:
        self.copied = 0
        self._names = names
        self._stores = {"store": store, "target_store": target_store}
        self._options = options
        self._progress = Progress(None)
        self._interrupts = Interrupts()
        self._total = 0
        self._said: set[str] = set()
        self._copies: list[TopicCopy] = []
        self._done: list[tuple[TopicCopy, int, list[CarriedGroup]]] = []

    def prepare(self, topics: Sequence[Topic], target: EventLog, progress: Progress) -> None:
        """Refuse what cannot be copied, all of it before anything is."""
        self._progress = progress
        for topic in topics:
            copy = TopicCopy(topic, target, note=self._warn, copied=self._count, **self._options)
            try:
                copy.check()
            except OthersEventsError as error:
                raise Failure(f"{error}: copy it --as another topic, or --mix them") from error
            self._copies.append(copy)
        if self._names is not None:
            self._require_stores(target, set(self._names))
        self._total = sum(copy.remaining for copy in self._copies)

    def _require_stores(self, target: EventLog, names: set[str]) -> None:
        """Refuse what would leave groups behind that are wanted, or that nobody spoke of."""
        store = self._stores["store"]
        try:
            there = {group.name for copy in self._copies for group in copy.source.groups(store)}
        except UnsupportedOperationError as error:  # a cluster: who knows whether there are any
            if names:
                raise Failure("name the store that SOURCE has its groups in, by --store") from error
            self._warn("groups are not carried over: no --store names where SOURCE has any")
            self._names = None
            return
        if missing := names - there:
            raise Failure(f"there is no group {min(missing)!r} to be carried over")
        try:
            target.store(self._stores["target_store"])
        except UnsupportedOperationError as error:
            if there:
                raise Failure(
                    f"there are groups, and {target.location} keeps none by itself: name the store "
                    "they go to by --target-store, or leave them behind with --no-groups"
                ) from error

    def run(self) -> None:
        """Copy all.

        Raises:
            Failure: something went wrong, or Ctrl-C. It says what was copied.
        """
        try:
            for copy in self._copies:
                events = self._run(copy)
                groups = []
                if self._names is not None:
                    groups = copy.carry_groups(self._names or None, **self._stores)
                self._done.append((copy, events, groups))
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted; {self._account()}") from error
        except CorruptBatchError as error:
            raise Failure(f"{error}, which --skip-damaged does; {self._account()}") from error
        except OthersEventsError as error:
            raise Failure(f"{error}; --mix goes on behind them; {self._account()}") from error
        except ProducerFencedError as error:
            raise Failure(f"another copy of the topic has begun; {self._account()}") from error
        except (EventLogError, OSError, ValueError) as error:
            raise Failure(f"{describe(error)}; {self._account()}") from error

    def _run(self, copy: TopicCopy) -> int:
        """Copy a topic. Ctrl-C ends that between two steps, so that what was copied is known."""
        with self._interrupts:
            events = copy.run()
            self._interrupts.wait_for(bytes)
        return events

    def _count(self, events: int) -> None:
        self.copied += events
        self._progress.show(self.copied, of=max(self._total, self.copied))
        self._interrupts.wait_for(bytes)  # nothing is waited for: it is the moment for Ctrl-C

    def _warn(self, sentence: str) -> None:
        if sentence not in self._said:  # what several topics have to say is said once
            self._said.add(sentence)
            self._progress.clear()
            warn(sentence)

    def _account(self) -> str:
        """What was done until something went wrong."""
        events = "1 event was" if self.copied == 1 else f"{self.copied:,} events were"
        return f"{events} copied; repeat it to go on: nothing is copied twice"

    def rows(self) -> list[tuple[str, int, int, int]]:
        """What was done, for each topic."""
        return [
            (copy.name, events, len(groups), sum(len(group.carried) for group in groups))
            for copy, events, groups in self._done
        ]

    def document(self) -> list[dict[str, Any]]:
        """The same, in full."""
        return [
            {
                "topic": copy.source.name,
                "copy": copy.name,
                "events": events,
                "partitions": [asdict(partition) for partition in copy.partitions],
                "groups": [
                    {
                        "group": group.name,
                        "checkpoints": [
                            {"partition": number, "source": offset, "target": there}
                            for number, (offset, there) in sorted(group.carried.items())
                        ],
                        "left": [
                            {"partition": number, "reason": reason}
                            for number, reason in sorted(group.left.items())
                        ],
                    }
                    for group in groups
                ],
            }
            for copy, events, groups in self._done
        ]


def _summarise(copied: int, seconds: float) -> None:
    events = "1 event" if copied == 1 else f"{copied:,} events"
    click.echo(f"{events} copied in {seconds:.1f} s, {rate_text(copied, seconds)}", err=True)
