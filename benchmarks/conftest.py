"""What every benchmark gets: a directory on a disk, a way to hand in its row; and the table."""

from __future__ import annotations

import gc
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

import eventlog
from benchmarks import report
from benchmarks.measure import Benchmark, Record
from benchmarks.workload import EVENTS, LARGE, SMALL, build, file_system, require_disk
from benchmarks.workload import work_directory as make_work_directory

_ROWS = pytest.StashKey[list[report.Row]]()
_MACHINE = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_ROWS] = []
    # The table of ratios takes the place of pytest-benchmark's own (--benchmark-verbose shows it).
    config.option.benchmark_quiet = True


@pytest.fixture(scope="session")
def work_directory(pytestconfig: pytest.Config) -> Iterator[Path]:
    """A directory on a disk for everything of this run."""
    with make_work_directory() as path:
        pytestconfig.stash[_MACHINE] = _machine(path)
        yield path


@pytest.fixture
def directory(work_directory: Path) -> Iterator[Path]:
    """A directory for one benchmark, removed after it: logs are large."""
    with tempfile.TemporaryDirectory(dir=work_directory) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def large_log(work_directory: Path) -> Path:
    """Where the large log lies, closed."""
    path = work_directory / "large"
    require_disk(work_directory, 40 * LARGE)
    build(path, LARGE)
    return path


@pytest.fixture(scope="session")
def small_log(work_directory: Path) -> Path:
    """Where the small log lies, closed."""
    path = work_directory / "small"
    build(path, SMALL)
    return path


@pytest.fixture(autouse=True)
def _settled_heap() -> Iterator[None]:
    """What pytest and earlier benchmarks keep is no garbage collection's business here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def record(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Record:
    """See `Record`."""

    def take(
        name: str,
        *,
        ours: float,
        limit: float,
        rounds: Sequence[float] = (),
        note: str = "",
    ) -> None:
        low, high = (min(rounds), max(rounds)) if rounds else (None, None)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        row = report.Row(name, ours, limit, low, high, note, EVENTS, now)
        pytestconfig.stash[_ROWS].append(row)
        if "benchmark" in request.fixturenames:
            benchmark: Benchmark = request.getfixturevalue("benchmark")
            benchmark.extra_info[name] = {
                "ours": ours,
                "limit": limit,
                "ratio": row.ratio,
                "floor": row.spec.bound,
                "aim": row.spec.aim,
            }

    return take


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    measured = config.stash[_ROWS]
    if not measured:
        return
    rows = report.in_order(measured)
    machine = config.stash.get(_MACHINE, {}) or _machine(Path.cwd())
    report.save(report.RESULTS, machine, rows)
    terminalreporter.section(f"ours / limit, at EVENTLOG_BENCH_EVENTS={EVENTS:,}")
    for what, value in machine.items():
        terminalreporter.line(f"{what}: {value}")
    terminalreporter.line("")
    for line in report.terminal(rows):
        terminalreporter.line(line, red=line.endswith("  NO"))
    terminalreporter.line("")
    terminalreporter.line(f"kept in {report.RESULTS}; into docs/: python benchmarks/report.py")


def _machine(path: Path) -> dict[str, str]:
    """The machine a run is made on, before it adds to its load."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": f"{os.cpu_count()} CPUs, {memory / 2**30:.0f} GiB, {_processor()}",
        "system": f"{platform.system()} {platform.release()}, {file_system(path)} at {path.parent}",
        "software": f"Python {platform.python_version()}, eventlog {eventlog.__version__}, "
        + ", ".join(f"{name} {version(name)}" for name in ("lmdb", "msgspec", "zstandard")),
        "load when it began": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
