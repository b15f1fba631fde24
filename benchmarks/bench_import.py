"""What ``import eventlog`` costs a program."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Final

from benchmarks.measure import Record
from benchmarks.report import ROOT

_LIMIT_MS: Final = 100.0
_RUNS: Final = 11
_OPTIONAL: Final = ("azure", "click", "confluent_kafka", "obstore", "rich")
_PROGRAM: Final = f"""
import json, sys, time
begin = time.perf_counter()
import eventlog
imported = time.perf_counter() - begin
begin = time.perf_counter()
eventlog.open("memory:").close()
opened = time.perf_counter() - begin
loaded = [name for name in {_OPTIONAL!r} if name in sys.modules]
print(json.dumps([imported, opened, loaded]))
"""


def test_import(record: Record) -> None:
    """In processes of their own; the first may still compile, which the median does not see."""
    runs = [_run() for _ in range(_RUNS)]
    imported = statistics.median(run[0] for run in runs)
    opened = statistics.median(run[1] for run in runs)
    record(
        "import",
        ours=1e3 * imported,
        limit=_LIMIT_MS,
        note=f"median of {_RUNS} processes; the first open, of a log in memory, took another "
        f"{1e3 * opened:.1f} ms; optional dependencies loaded: {', '.join(runs[0][2]) or 'none'}",
    )


def _run() -> tuple[float, float, list[str]]:
    command = [sys.executable, "-c", _PROGRAM]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    imported, opened, loaded = json.loads(output)
    return imported, opened, loaded
