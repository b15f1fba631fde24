"""Which dead letters of a topic a verb is about, and reading them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import click

from eventlog import EARLIEST, LATEST, StoredEvent, Topic
from eventlog.cli import arguments
from eventlog.cli.event_ranges import Position, Range, fetches, resolve
from eventlog.cli.failures import Failure, warn
from eventlog.processor.dead_letters import DeadLetter, read_dead_letter

__all__ = ["Letter", "Place", "Selection", "letters", "place", "selection_options"]

F = TypeVar("F", bound=Callable[..., Any])

_PLACE: Final = re.compile(r"([0-9]{1,6}):([0-9]{1,19})")


class Place(NamedTuple):
    """Where a dead letter stands in its topic."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


class Letter(NamedTuple):
    """A dead letter, and what it says of itself."""

    event: StoredEvent
    says: DeadLetter

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.event.partition, self.event.offset)


class Selection(NamedTuple):
    """What was asked for.

    Attributes:
        places: these and no others, if there are any.
        partitions: otherwise those in these partitions, or in all of them,
        start, end: between these positions;
        reason: whose reason has this text in it,
        origin: and that are from this topic.
        most: as many at most.
    """

    places: tuple[Place, ...] = ()
    partitions: tuple[int, ...] = ()
    start: Position | None = None
    end: Position | None = None
    reason: str | None = None
    origin: str | None = None
    most: int | None = None

    def has(self, letter: Letter) -> bool:
        """Whether a letter of one of the ranges is meant."""
        says = letter.says
        return (self.reason is None or self.reason.casefold() in says.reason.casefold()) and (
            self.origin is None or self.origin == says.topic
        )

    def ranges(self, topic: Topic) -> list[Range]:
        """What is to be read.

        Raises:
            click.UsageError: places and positions were given.
            Failure, OffsetOutOfRangeError, PartitionNotFoundError: there is no such place.
        """
        start = EARLIEST if self.start is None else self.start
        end = LATEST if self.end is None else self.end
        if self.places:
            if self.partitions or self.start is not None or self.end is not None:
                raise click.UsageError("give places, or --partition, --from and --to, not both")
            return [_one(topic, one) for one in dict.fromkeys(self.places)]
        numbers = dict.fromkeys(self.partitions) or range(topic.partitions)
        return [resolve(topic, number, start, end) for number in numbers]


def place(text: str) -> Place:
    """``PARTITION:OFFSET``."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not PARTITION:OFFSET, as in 0:41")
    return Place(int(match[1]), int(match[2]))


def _one(topic: Topic, one: Place) -> Range:
    if not topic.read(one.partition, one.offset, max_events=1):
        raise Failure(f"there is nothing at {one} in topic {topic.name!r} yet")
    return Range(one.partition, one.offset, one.offset + 1)


def selection_options(command: F) -> F:
    """The options of a `Selection`; the verb gets them by the names of its attributes."""
    for option in reversed(
        [
            click.option(
                "--partition",
                "partitions",
                type=int,
                metavar="N",
                multiple=True,
                help="Only those in this one; may be given several times.",
            ),
            click.option(
                "--from",
                "start",
                type=arguments.position,
                metavar="POSITION",
                help="The first one: an offset, a time, an age such as -24h, earliest, latest.",
            ),
            click.option(
                "--to",
                "end",
                type=arguments.position,
                metavar="POSITION",
                help="The one to stop before.",
            ),
            click.option("--reason", metavar="TEXT", help="Only those with TEXT in their reason."),
            click.option("--origin", metavar="TOPIC", help="Only those that are from TOPIC."),
        ]
    ):
        command = option(command)
    return command


def letters(topic: Topic, selection: Selection) -> Iterator[Sequence[Letter]]:
    """The dead letters of a selection, some at a time, each time of one partition.

    Other events are passed over, with a warning at the end.

    Raises:
        click.UsageError, Failure, EventLogError: see `Selection.ranges`; at once, before anything
            is read.
    """
    return _letters(topic, selection, selection.ranges(topic))


def _letters(
    topic: Topic, selection: Selection, ranges: Sequence[Range]
) -> Iterator[Sequence[Letter]]:
    others, left = 0, selection.most
    for wanted in ranges:
        for events in fetches(topic, wanted):
            found = [_letter(event) for event in events]
            others += found.count(None)
            some = [one for one in found if one is not None and selection.has(one)][:left]
            if some:
                yield some
            left = None if left is None else left - len(some)
            if left == 0:
                break
    if others:
        what = (
            "1 event is no dead letter" if others == 1 else f"{others:,} events are no dead letters"
        )
        warn(f"{what}, and passed over")


def _letter(event: StoredEvent) -> Letter | None:
    says = read_dead_letter(event)
    return None if says is None else Letter(event, says)
