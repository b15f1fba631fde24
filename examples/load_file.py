"""Load the lines of a file into a topic, each once, however often this is killed and started again.

    python examples/load_file.py FILE DIRECTORY [TOPIC]

The producer has a name, and a line's number is its sequence. The log stores the last number with
the lines, so whoever starts again knows where to go on; and what was stored but never acknowledged
is not stored twice.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import eventlog


def load(file: Path, directory: str, topic: str = "lines") -> int:
    """Load what is not there yet; how many lines that were."""
    name = f"load:{file.name}"
    with (
        eventlog.open(directory) as log,
        log.create_topic(topic, exist_ok=True).producer(producer_id=name) as producer,
        file.open("rb") as lines,
    ):
        first = producer.last_sequence + 1
        count = 0
        for number, line in enumerate(islice(lines, first, None), first):
            producer.send(line.rstrip(b"\n"), sequence=number)
            count += 1
        return count


def main() -> None:
    """Do what the command line says."""
    if not 3 <= len(sys.argv) <= 4:
        raise SystemExit("usage: load_file.py FILE DIRECTORY [TOPIC]")
    file, *rest = sys.argv[1:]
    print(f"{load(Path(file), *rest):,} lines loaded")


if __name__ == "__main__":
    main()
