"""A file into a topic, line by line, each line once: killed anywhere and started again.

Every line becomes one event, and the number of the line is its sequence. The log remembers, with
the events themselves, the last sequence that was stored under a name (``producer_id``; here the
file's path, unless another is given). So this script keeps no state of its own: started again, it
asks where to go on, and goes on there. What was stored just before it was killed, and never
acknowledged, is not stored twice. A file that has grown is loaded from where it had ended.

Run it with ``python examples/load_file.py FILE DIRECTORY``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import eventlog
from eventlog import Topic

TOPIC = "lines"
PARTITIONS = 4


def main() -> int:
    """Load a file; the exit status is 0 only if all of it is in the topic."""
    parser = argparse.ArgumentParser(description="Load the lines of a file into a topic.")
    parser.add_argument("file", type=Path)
    parser.add_argument("directory", type=Path, help="the log's; made if there is none")
    parser.add_argument("--name", help="of the load (default: the file's path)")
    arguments = parser.parse_args()
    name = arguments.name or str(arguments.file.resolve())
    try:
        with eventlog.open(arguments.directory) as log:
            topic = log.create_topic(TOPIC, partitions=PARTITIONS, exist_ok=True)
            load(topic, arguments.file, name)
    except (OSError, eventlog.EventLogError) as error:
        print(f"load_file: {error}; start it again to go on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("load_file: interrupted; start it again to go on", file=sys.stderr)
        return 130
    return 0


def load(topic: Topic, file: Path, name: str) -> None:
    """Send the lines that are not in the topic yet.

    Raises:
        DeliveryError: some were not stored: the disk may be full, or the log busy.
        ProducerFencedError: the same load was started a second time, and goes on there.
    """
    with topic.producer(producer_id=name) as producer:
        loaded = producer.last_sequence + 1
        print(f"{loaded:,} lines are there", flush=True)
        for number, line in enumerate(islice(read_lines(file), loaded, None), loaded):
            producer.send(line, sequence=number)
            loaded = number + 1
    print(f"{loaded:,} lines are there now", flush=True)


def read_lines(file: Path) -> Iterator[bytes]:
    """The lines of a file, without their ends."""
    with file.open("rb") as lines:
        for line in lines:
            yield line.removesuffix(b"\n")


if __name__ == "__main__":
    sys.exit(main())
