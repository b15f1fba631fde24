"""The rows of the benchmarks: what each is called, what it is held against, and how it is shown.

A row is ``ours`` over ``limit``, both measured in one run, and a floor that the ratio must reach
(or, where less is better, a ceiling that it must keep under). Run as a script, this writes the
rows of the last runs into the table of docs/benchmarks.md::

    python benchmarks/report.py [--print] [RESULTS.json]

The results file keeps the last measurement of every row: rows that were measured again, alone,
take the place of older ones. Delete it to start afresh.

What this module deliberately does not do: measure, or import eventlog.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["RESULTS", "SPECS", "Row", "Spec", "load", "markdown", "save", "terminal"]

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = Path(
    os.environ.get("EVENTLOG_BENCH_RESULTS") or ROOT / ".benchmarks" / "results.json"
)
PAGE: Final = ROOT / "docs" / "benchmarks.md"
AIM: Final = 0.9

_BEGIN: Final = "<!-- results: written by benchmarks/report.py -->"
_END: Final = "<!-- end of results -->"


class Spec(NamedTuple):
    """What a row is: its title, the unit of both its numbers, and what their ratio should be."""

    title: str
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None

    @property
    def bound(self) -> str:
        """What the ratio must reach, or keep under."""
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "-" if self.at_most is None else f"<= {self.at_most:g}"

    def met(self, ratio: float) -> str:
        """Whether it does."""
        if self.aim is not None and ratio >= self.aim:
            return "yes, aim"
        if self.at_least is not None:
            return "yes" if ratio >= self.at_least else "NO"
        if self.at_most is not None:
            return "yes" if ratio <= self.at_most else "NO"
        return "-"


_RATE: Final = "events/s"


def _of_kafka(row: str, title: str) -> dict[str, Spec]:
    """The two rows of what is measured with one partition, and with eight."""
    return {
        f"kafka-{row}-1": Spec(f"Kafka: {title}, 1 partition", _RATE, at_least=0.7, aim=AIM),
        f"kafka-{row}-8": Spec("... 8 partitions", _RATE, at_least=0.7, aim=AIM),
    }


SPECS: Final[Mapping[str, Spec]] = {
    "append-1": Spec("append, 1 event", _RATE, at_least=0.5, aim=AIM),
    "append-100": Spec("append_batch, 100 events", _RATE, aim=AIM),
    "append-1000-growing": Spec(
        "append_batch, 1000 events, file growing", _RATE, at_least=0.5, aim=AIM
    ),
    "append-1000-reusing": Spec(
        "append_batch, 1000 events, reusing pages", _RATE, at_least=0.6, aim=AIM
    ),
    "append-10000": Spec("append_batch, 10,000 events", _RATE, at_least=0.6, aim=AIM),
    "append-1000-uncompressed": Spec(
        "... 1000 events, growing, uncompressed", _RATE, at_least=0.5, aim=AIM
    ),
    "append-10000-uncompressed": Spec(
        "... 10,000 events, uncompressed", _RATE, at_least=0.6, aim=AIM
    ),
    "threads-4": Spec("4 threads, 1000 events each call", _RATE, at_least=0.8, aim=AIM),
    "threads-4-uncompressed": Spec("... uncompressed", _RATE, at_least=0.8, aim=AIM),
    "threads-16": Spec("16 threads, 1 event each call, to 1 thread", _RATE, at_least=5.0),
    "producer-send": Spec(
        "producer.send, event by event, 500 keys, flushed", _RATE, at_least=0.8, aim=1.0
    ),
    "read-events": Spec("reading Event objects", _RATE, at_least=2.0),
    "read-bodies": Spec("reading bodies", _RATE, at_least=2.0),
    "read-events-uncompressed": Spec("reading Event objects, uncompressed", _RATE, at_least=2.0),
    "consumer-lists": Spec(
        "consumer of 16 partitions, to reading one by one", _RATE, at_least=0.8, aim=AIM
    ),
    "consumer-events": Spec("... event by event, both", _RATE, at_least=0.8, aim=AIM),
    "consumer-time": Spec("... merged by time", _RATE, aim=AIM),
    "transaction": Spec(
        "transaction: read 1000, append them, checkpoint; to the append", _RATE, at_least=0.8
    ),
    "transaction-unread": Spec("... of what was read before", _RATE, at_least=0.8),
    "read-memory": Spec("a reader's memory, all read to 1/10 read", "MB", at_most=1.1),
    "growth-append": Spec("append rate, large log to small", _RATE, at_least=0.9),
    "open-large": Spec("opening the large log", "ms", at_most=1.0),
    "open-small": Spec("opening the small log", "ms", at_most=1.0),
    "open-partitions": Spec("opening a log of 3 x 10,000 partitions", "ms", at_most=1.0),
    "retention-compressible": Spec("file to retained data, compressible", "MB", at_most=1.2),
    "retention-incompressible": Spec("file to retained data, incompressible", "MB", at_most=1.2),
    "deleted-15": Spec("append of 15 KB, after deletion to before", "ms", at_most=2.0),
    "deleted-100": Spec("append of 100 KB, after deletion to before", "ms", at_most=2.0),
    "deleted-300": Spec("append of 300 KB, after deletion to before", "ms", at_most=2.0),
    "expired-15": Spec("append of 15 KB, after expiry to before", "ms", at_most=2.0),
    "expired-100": Spec("append of 100 KB, after expiry to before", "ms", at_most=2.0),
    "expired-300": Spec("append of 300 KB, after expiry to before", "ms", at_most=2.0),
    "processes-1000": Spec("4 processes, 1000 events each call, to 1", _RATE),
    "processes-1000-fair": Spec("smallest share of the 4 to largest, 1000 events", _RATE),
    "processes-1": Spec("4 processes, 1 event each call, to 1", _RATE),
    "processes-1-fair": Spec("smallest share of the 4 to largest, 1 event", _RATE),
    "delivery-thread-median": Spec("commit to another process's thread, median", "ms", at_most=1.0),
    "delivery-thread-99": Spec("... 99th percentile", "ms", at_most=1.0),
    "delivery-task-median": Spec(
        "commit to another process's event loop, median", "ms", at_most=1.0
    ),
    "delivery-task-99": Spec("... 99th percentile", "ms", at_most=1.0),
    "idle-followers": Spec("100 idle followers in a process", "% of a core", at_most=1.0),
    "host-16-async": Spec("host, 16 partitions, coroutine that does nothing", _RATE, at_least=1.0),
    "host-16-plain": Spec("... plain function", _RATE, at_least=1.0),
    "host-1-async": Spec("host, 1 partition, coroutine that does nothing", _RATE, at_least=1.0),
    "host-1-plain": Spec("... plain function", _RATE, at_least=1.0),
    "host-join": Spec("a host joins 10 others: settled", "ms", at_most=1.0),
    "host-join-moved": Spec("... partitions moved, to those that must", "moves", at_most=1.0),
    "host-leave": Spec("one of 11 hosts leaves: settled", "ms", at_most=1.0),
    "host-leave-moved": Spec("... partitions moved, to those that must", "moves", at_most=1.0),
    "balance-join-moved": Spec(
        "simulated: a host joins 10, 1000 partitions: moved, to the fewest",
        "partitions",
        at_most=1.0,
    ),
    "balance-join-intervals": Spec("... settled after", "intervals", at_most=1.0),
    "balance-leave-moved": Spec(
        "simulated: one of 10 leaves: moved, to the fewest", "partitions", at_most=1.0
    ),
    "balance-leave-intervals": Spec("... settled after", "intervals", at_most=1.0),
    "balance-join-azure": Spec(
        "simulated: a host joins 10: settled after, to azure-eventhub", "intervals", at_most=1.0
    ),
    "store-calls-16": Spec(
        "simulated: store calls per host and interval, 16 partitions, to 3", "calls", at_most=1.0
    ),
    "store-calls-1000": Spec("... 1000 partitions", "calls", at_most=1.0),
    "store-calls-10000": Spec("... 10,000 partitions", "calls", at_most=1.0),
    "store-calls-16-azure": Spec("... 16 partitions, to azure-eventhub", "calls", at_most=1.0),
    "store-calls-1000-azure": Spec("... 1000 partitions, to azure-eventhub", "calls", at_most=1.0),
    "store-calls-10000-azure": Spec(
        "... 10,000 partitions, to azure-eventhub", "calls", at_most=1.0
    ),
    "simulation-large": Spec(
        "an hour of 100 hosts and 10,000 partitions, simulated", "s", at_most=1.0
    ),
    "import": Spec("import eventlog", "ms", at_most=1.0),
    **_of_kafka("publish-bodies", "producer.send, bodies"),
    **_of_kafka("publish-properties", "producer.send, key and 2 properties"),
    **_of_kafka("publish-unique", "producer.send, properties of which none is like another"),
    **_of_kafka("lists-bodies", "consumer.batches, bodies"),
    **_of_kafka("lists-properties", "consumer.batches, key and 2 properties"),
    **_of_kafka("events-bodies", "consumer, event by event, bodies"),
    **_of_kafka("events-properties", "consumer, event by event, key and 2 properties"),
}
"""Every row there is, in the order of the table."""


class Row(NamedTuple):
    """One measured row.

    Attributes:
        low, high: the smallest and the largest ratio that a single round gave; None where there
            were no rounds. Far apart, they tell of a machine that was not quiet.
        note: what else is worth knowing of this measurement.
        events: the size of the run (EVENTLOG_BENCH_EVENTS).
        measured_at: when, as ISO time.
    """

    name: str
    ours: float
    limit: float
    low: float | None
    high: float | None
    note: str
    events: int
    measured_at: str

    @property
    def spec(self) -> Spec:
        """What it is held against."""
        return SPECS[self.name]

    @property
    def ratio(self) -> float:
        """Ours over the limit."""
        return self.ours / self.limit if self.limit else float("inf")

    def cells(self) -> list[str]:
        """It as the columns of `HEADINGS`."""
        spec = self.spec
        rounds = "-" if self.low is None else f"{self.low:.2f}-{self.high:.2f}"
        return [
            spec.title,
            _amount(self.ours, spec.unit),
            _amount(self.limit, spec.unit),
            f"{self.ratio:.2f}",
            rounds,
            spec.bound,
            "-" if spec.aim is None else f"{spec.aim:g}",
            spec.met(self.ratio),
        ]


HEADINGS: Final = ("row", "ours", "limit", "ratio", "rounds", "floor", "aim", "met")


def _amount(value: float, unit: str) -> str:
    if unit == _RATE:
        return f"{value:,.0f}/s"
    return f"{value:,.1f} {unit}" if value >= 10 else f"{value:.2f} {unit}"


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of the table."""
    places = {name: place for place, name in enumerate(SPECS)}
    return sorted(rows, key=lambda row: places[row.name])


# The results file


def load(path: Path) -> tuple[dict[str, str], list[Row]]:
    """The machine and the rows that a results file holds; nothing where there is none."""
    if not path.exists():
        return {}, []
    stored = json.loads(path.read_text())
    rows = [
        Row(*(row[field] for field in Row._fields))
        for row in stored["rows"]
        if row["name"] in SPECS
    ]
    return stored["machine"], in_order(rows)


def save(path: Path, machine: Mapping[str, str], rows: Iterable[Row]) -> None:
    """Put rows into a results file, in place of what it has of the same names."""
    kept = {row.name: row for row in load(path)[1]} | {row.name: row for row in rows}
    stored = {
        "machine": dict(machine),
        "rows": [
            {**row._asdict(), "ratio": row.ratio, "met": row.spec.met(row.ratio)}
            for row in in_order(kept.values())
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1) + "\n")


# The tables


def terminal(rows: Sequence[Row]) -> list[str]:
    """Rows as lines of a table for a terminal, and the notes behind it."""
    cells = [list(HEADINGS), *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place in (0, len(widths) - 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "-" * sum(widths, 2 * (len(widths) - 1)))
    return [*lines, "", *(f"{row.name}: {row.note}" for row in rows if row.note)]


def markdown(machine: Mapping[str, str], rows: Sequence[Row]) -> str:
    """All rows as a markdown table; those that were not measured with dashes."""
    measured = {row.name: row for row in rows}
    lines = [
        "| " + " | ".join(HEADINGS) + " |",
        "|---|" + "--:|" * (len(HEADINGS) - 2) + "---|",
    ]
    for name, spec in SPECS.items():
        row = measured.get(name)
        aim = "-" if spec.aim is None else f"{spec.aim:g}"
        absent = [spec.title, "-", "-", "-", "-", spec.bound, aim, "-"]
        cells = absent if row is None else row.cells()
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join([*_caption(machine, rows), *lines, "", *_notes(rows)]).rstrip()


def _caption(machine: Mapping[str, str], rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["Not measured yet.", ""]
    days = sorted({row.measured_at[:10] for row in rows})
    sizes = sorted({row.events for row in rows})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    scale = " and ".join(f"{size:,}" for size in sizes)
    measured = f"Measured {when} with EVENTLOG_BENCH_EVENTS of {scale}, on:"
    return [measured, "", *(f"- {what}: {value}" for what, value in machine.items()), ""]


def _notes(rows: Sequence[Row]) -> list[str]:
    return [f"- {row.spec.title}: {row.note}" for row in rows if row.note]


def put_into(page: str, table: str) -> str:
    """`page` with `table` between its two marks."""
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has no place for results: {_BEGIN} ... {_END}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def main(arguments: Sequence[str]) -> int:
    """Write the results into the page, or print them."""
    parser = argparse.ArgumentParser(description="Put benchmark results into docs/benchmarks.md.")
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("--print", action="store_true", help="print the table instead")
    options = parser.parse_args(arguments)
    machine, rows = load(options.results)
    if options.print:
        print(markdown(machine, rows))
        return 0
    if not rows:
        print(f"{options.results} holds no results: run `make bench` first", file=sys.stderr)
        return 1
    PAGE.write_text(put_into(PAGE.read_text(), markdown(machine, rows)))
    print(f"{len(rows)} of {len(SPECS)} rows put into {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
