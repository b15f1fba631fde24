"""The example that loads a file, killed at random moments, over and over."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import eventlog
from eventlog import LATEST
from examples import load_file
from tests.conftest import ROOT

LINES = 60_000
KILLS = 12


def test_every_line_is_there_once_and_in_order_however_often_loading_is_killed(
    fast_path: Path, tmp_path: Path
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    dice = random.Random(seed)
    file = tmp_path / "lines.txt"
    file.write_text("".join(f"line {number}\n" for number in range(LINES)))
    with eventlog.open(fast_path) as log:
        topic = log.create_topic("lines")
        for _ in range(KILLS):
            # Killed once so many more batches are there: somewhere amid its commits.
            with topic.consumer(start=LATEST, max_wait=0.05) as watching:
                watching.lag()
                process = subprocess.Popen(
                    [sys.executable, ROOT / "examples/load_file.py", file, fast_path],
                    stdout=subprocess.DEVNULL,
                )
                batches = dice.randint(0, 3)
                while batches and process.poll() is None:
                    batches -= len(list(itertools.islice(watching.batches(), 1)))
            process.send_signal(signal.SIGKILL)
            process.wait()
        load_file.load(file, str(fast_path))
        found = [event.text() for event in topic.consumer(end=LATEST)]
        assert sorted(found, key=lambda line: int(line[5:])) == file.read_text().splitlines()
        for partition in range(topic.partitions):
            numbers = [
                int(event.text()[5:]) for event in topic.consumer(partitions=partition, end=LATEST)
            ]
            assert numbers == sorted(numbers)
        assert load_file.load(file, str(fast_path)) == 0
