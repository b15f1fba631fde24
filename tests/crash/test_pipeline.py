"""The example of exactly once, killed at random moments, over and over."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import eventlog
from examples import pipeline
from tests.conftest import ROOT

TRANSFERS = 30_000
KILLS = 12


def run(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, ROOT / "examples/pipeline.py", "run", path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_every_transfer_leads_to_one_balance_however_often_the_pipeline_is_killed(
    fast_path: Path,
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    dice = random.Random(seed)
    with eventlog.open(fast_path) as log:
        pipeline.fill(log, TRANSFERS)
        balances = log.topic("balances")
        for _ in range(KILLS):
            # Killed once so many more batches are there: somewhere amid its transactions.
            with balances.consumer(start="latest", max_wait=0.05) as watching:
                assert set(watching.lag().values()) == {0}
                process = run(fast_path)
                batches = dice.randint(0, 6)
                while batches and process.poll() is None:
                    batches -= len(list(itertools.islice(watching.batches(), 1)))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if process.returncode == 0:
                break
        last = run(fast_path)
        _, errors = last.communicate(timeout=60)
        assert last.returncode == 0, errors.decode()
        assert pipeline.prove(log) == TRANSFERS


def test_the_proof_notices_a_balance_too_many(fast_path: Path) -> None:
    with eventlog.open(fast_path) as log:
        pipeline.fill(log, 100)
        pipeline.run(log)
        balances = log.topic("balances")
        again = next(event for n in range(4) for event in balances.read(n))
        balances.append(again.body, partition=again.partition)
        with pytest.raises(SystemExit, match="belongs to no transfer"):
            pipeline.prove(log)


def test_the_proof_notices_a_balance_too_few(fast_path: Path) -> None:
    with eventlog.open(fast_path) as log:
        pipeline.fill(log, 100)
        pipeline.run(log)
        log.topic("transfers").append(b'{"account": "account-0", "amount": 1}', partition=0)
        with pytest.raises(SystemExit, match="None"):
            pipeline.prove(log)
