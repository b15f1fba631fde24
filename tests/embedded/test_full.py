"""No room: a full disk, a full map, too little address space, and disks that fail.

Everything stored is kept, the error says what to do, and when there is room again appends go on.
Programs that meet a full disk run in processes of their own, which must not die of it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import eventlog
from eventlog import EventLog, LogFullError, Topic
from tests.crash.power import skip_unless_available

if TYPE_CHECKING:
    from tests.conftest import Start

ROOT = Path(__file__).parents[2]
MIB = 2**20


# ---- A full disk ---------------------------------------------------------------------------------


@contextmanager
def mounted(place: Path, *arguments: str | Path) -> Iterator[Path]:
    """A file system mounted at `place`; the test is skipped where mounting is not permitted."""
    place.mkdir()
    mount = ["mount", *map(str, arguments), str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    place = tmp_path / "disk"
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    if request.param == "tmpfs":
        with mounted(place, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
            yield place
        return
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image = tmp_path / "image"
    image.write_bytes(bytes(8 * MIB))
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    with mounted(place, "-o", "loop", image):
        yield place


# What every program below begins with. Bodies are random, so that nothing gets smaller, and kept
# in `stored`, so that nothing gets lost.
FILL = """
import contextlib, os, pathlib, sys, time
import eventlog
from eventlog import LogFullError

disk, durability = pathlib.Path(sys.argv[1]), sys.argv[2]
filler = disk / "filler"

def open_log():
    return eventlog.open(disk / "log", durability=durability)

stored = []

def append(topic, size):
    body = os.urandom(size)
    topic.append(body)
    stored.append(body)

def append_until_full(topic, sizes=(20_000, 1000, 1000, 50)):
    error = None
    for size in sizes:
        try:
            while True:
                append(topic, size)
        except LogFullError as caught:
            error = caught
    assert error is not None and "full" in str(error), error
    return error

def eat_the_rest():
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        for size in (4096, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))

def bodies(topic):
    at = topic.partition_info(0).beginning_offset
    found = []
    while events := topic.read(0, at, max_events=500):
        found += [event.body for event in events]
        at += len(events)
    return found

def require_kept(log):
    report = log.check()
    assert report.ok, report.damaged
    assert bodies(log.topic("t")) == stored

def make(**options):
    log = open_log()
    return log, log.create_topic("t", partitions=1, compression="none", **options)
"""


def run_on(start: Start, disk: Path, durability: str, source: str) -> None:
    """Run a program on a disk to its end; it must not die, of SIGBUS say."""
    child = start(FILL + source, disk, durability)
    child.rest()
    assert child.wait() == 0


DURABILITIES = pytest.mark.parametrize("durability", ["disk", "process"])


@DURABILITIES
def test_a_full_disk_is_an_error_that_loses_nothing_and_appends_go_on_when_there_is_room(
    durability: str, small_disk: Path, start: Start
) -> None:
    source = """
filler.write_bytes(bytes(1_000_000))
log, topic = make()
append_until_full(topic)
require_kept(log)
append_until_full(topic)
filler.unlink()
for _ in range(50):
    append(topic, 5000)
require_kept(log)
append_until_full(topic)
log.close()
with open_log() as log:
    require_kept(log)
"""
    run_on(start, small_disk, durability, source)


@DURABILITIES
def test_with_the_disk_full_expired_events_make_room_for_new_ones(
    durability: str, small_disk: Path, start: Start
) -> None:
    source = """
log, topic = make(retention=3600)
for _ in range(3):
    append_until_full(topic)
    eat_the_rest()
    require_kept(log)
    topic.configure(retention=0.000001)
    time.sleep(0.001)
    assert topic.expire() == len(stored)
    stored.clear()
    topic.configure(retention=3600)
    for _ in range(100):
        append(topic, 20_000)
    require_kept(log)
log.close()
with open_log() as log:
    require_kept(log)
"""
    run_on(start, small_disk, durability, source)


@DURABILITIES
def test_with_the_disk_full_a_deleted_topic_makes_room_for_others(
    durability: str, small_disk: Path, start: Start
) -> None:
    source = """
log, topic = make()
for number in range(3):
    other = log.create_topic("other", partitions=1, compression="none")
    with contextlib.suppress(LogFullError):
        while True:
            other.append(os.urandom(20_000))
    eat_the_rest()
    log.delete_topic("other")
    for _ in range(10):
        append(topic, 20_000)
    require_kept(log)
log.close()
with open_log() as log:
    require_kept(log)
"""
    run_on(start, small_disk, durability, source)


@DURABILITIES
def test_rolling_retention_goes_on_while_others_fill_the_disk(
    durability: str, small_disk: Path, start: Start
) -> None:
    source = """
log, topic = make(retention_bytes=300_000)
for _ in range(200):
    topic.append(os.urandom(10_000))
eat_the_rest()
for _ in range(200):
    topic.append(os.urandom(10_000))
assert log.check().ok
assert 20 < len(bodies(topic)) < 40
"""
    run_on(start, small_disk, durability, source)


def test_a_log_on_a_full_disk_can_be_read_by_many_and_opened_anew(
    small_disk: Path, start: Start
) -> None:
    source = """
log, topic = make()
append_until_full(topic)
eat_the_rest()
with contextlib.ExitStack() as readers:
    for _ in range(500):
        readers.enter_context(log.environment.lmdb.begin())
log.close()
for _ in range(2):
    with open_log() as log:
        require_kept(log)
with eventlog.open(disk / "log", read_only=True) as log:
    require_kept(log)
"""
    run_on(start, small_disk, "disk", source)


def test_a_log_on_a_full_disk_without_its_lock_files_is_opened_or_refused(
    small_disk: Path, start: Start
) -> None:
    source = """
log, topic = make()
append_until_full(topic)
log.close()
for name in ("eventlog.lock", "events-1.mdb-lock"):
    (disk / "log" / name).unlink()
eat_the_rest()
try:
    with open_log() as log:
        require_kept(log)
except OSError as error:
    assert error.errno == 28, error
filler.unlink()
with open_log() as log:
    require_kept(log)
"""
    run_on(start, small_disk, "disk", source)


def test_making_a_log_on_a_full_disk_is_an_error_and_can_be_done_again(
    small_disk: Path, start: Start
) -> None:
    source = """
for room in (0, 4096, 8192, 16384, 65536, 262144, 300_000):
    eat_the_rest()
    os.truncate(filler, filler.stat().st_size - room)
    try:
        with open_log() as log:
            log.create_topic("t", partitions=1, exist_ok=True).append(b"x")
    except OSError as error:
        assert error.errno == 28, error
    filler.unlink()
with open_log() as log:
    log.create_topic("t", partitions=1, exist_ok=True).append(b"x")
    assert log.check().ok
"""
    run_on(start, small_disk, "disk", source)


def test_a_compaction_and_a_backup_without_room_leave_the_log_as_it_was_and_no_litter(
    small_disk: Path, start: Start
) -> None:
    source = """
log, topic = make()
append_until_full(topic)
eat_the_rest()
before = sorted(disk.rglob("*"))
for copy in (log.compact, lambda: log.backup(disk / "backup")):
    try:
        copy()
    except OSError as error:
        assert error.errno == 28, error
    else:
        raise AssertionError("there was room")
    assert sorted(disk.rglob("*")) == before
    require_kept(log)
filler.unlink()
with contextlib.suppress(LogFullError):
    append(topic, 100)
require_kept(log)
"""
    run_on(start, small_disk, "disk", source)


# ---- A disk that fails ---------------------------------------------------------------------------

FAILING = """
import os, sys
import eventlog

topic = eventlog.open(sys.argv[1], create=False).topic("t")
for number in range(12):
    try:
        topic.append(b"%03d" % number * 1000)
        print(number)
    except eventlog.LogFullError as error:
        print("full", error)
    except eventlog.EventLogError as error:
        print("failed", error)
print("end")
"""


def append_while(fault: str, log_path: Path) -> list[str]:
    """Append while system calls fail, one fault of strace's; what each of the appends said.

    What was acknowledged is there afterwards, and the rest whole or not at all.
    """
    with eventlog.open(log_path) as log:
        log.create_topic("t", partitions=1, compression="none")
    call = fault.partition(":")[0]
    strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
    program = [sys.executable, "-c", FAILING, str(log_path)]
    done = subprocess.run(
        [*strace, "-e", f"inject={fault}", *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    *said, end = done.stdout.splitlines() or [""]
    assert end == "end", done.stderr
    with eventlog.open(log_path, create=False) as log:
        assert log.check().ok
        bodies = [event.body for event in log.topic("t").read(0)]
        log.topic("t").append(b"after")
    numbers = [int(body[:3]) for body in bodies]
    assert bodies == [b"%03d" % number * 1000 for number in numbers]
    assert numbers == sorted(set(numbers) | {int(each) for each in said if each.isdigit()})
    return said


@pytest.mark.parametrize("when", range(1, 9))
def test_after_a_flush_that_failed_nothing_is_acknowledged_until_the_log_is_opened_again(
    when: int, log_path: Path
) -> None:
    skip_unless_available()
    said = append_while(f"fdatasync:error=EIO:when={when}", log_path)
    first = next(n for n, each in enumerate(said) if each.startswith("failed"))
    assert all("close the log and open it again" in each for each in said[first + 1 :])


@pytest.mark.parametrize("when", range(1, 13))
def test_appends_go_on_after_a_write_for_which_the_disk_had_no_room(
    when: int, log_path: Path
) -> None:
    skip_unless_available()
    said = append_while(f"pwrite64:error=ENOSPC:when={when}", log_path)
    assert sum(each.startswith("full") for each in said) <= 1
    assert not any(each.startswith("failed") for each in said)


@pytest.mark.parametrize("when", range(1, 13))
def test_a_write_that_failed_is_an_error_and_loses_nothing(when: int, log_path: Path) -> None:
    skip_unless_available()
    append_while(f"pwrite64:error=EIO:when={when}", log_path)


# ---- A full map ----------------------------------------------------------------------------------


@pytest.fixture
def small_log(fast_path: Path) -> Iterator[EventLog]:
    """A log that may grow to 1 MiB; whole after the test."""
    with eventlog.open(fast_path, map_size=MIB) as log:
        yield log
        assert log.check().damaged == []


def fill(topic: Topic, size: int = 5000) -> list[bytes]:
    """Append until there is no room; what was stored."""
    stored = []
    while (body := append(topic, size)) is not None:
        stored.append(body)
    return stored


def append(topic: Topic, size: int = 5000) -> bytes | None:
    """What was stored; nothing if there was no room."""
    body = os.urandom(size)
    try:
        topic.append(body)
    except LogFullError as error:
        if error.errno != errno.ENOSPC:
            raise
        return None
    return body


def bodies(topic: Topic) -> list[bytes]:
    return [event.body for event in topic.read(0, max_events=100_000)]


def test_a_full_map_is_an_error_that_says_what_to_do_and_loses_nothing(small_log: EventLog) -> None:
    topic = small_log.create_topic("t", partitions=1)
    stored = fill(topic) + fill(topic, 100) + fill(topic, 1)
    assert sum(map(len, stored)) > MIB // 2
    with pytest.raises(LogFullError, match=r"expire or delete .* larger map_size"):
        topic.append(b"x")
    with pytest.raises(LogFullError):
        topic.append_batch([os.urandom(2000)] * 1000)
    assert bodies(topic) == stored


def test_the_error_of_a_full_log_crosses_processes(small_log: EventLog) -> None:
    topic = small_log.create_topic("t", partitions=1)
    with pytest.raises(LogFullError) as caught:
        topic.append_batch([os.urandom(10_000) for _ in range(200)])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.errno) == (str(caught.value), errno.ENOSPC)


@pytest.mark.parametrize("size", [10, 500, 5000, 100_000])
def test_with_the_map_full_expiry_makes_room_again_and_again(
    size: int, small_log: EventLog
) -> None:
    topic = small_log.create_topic("t", partitions=1, compression="none")
    counts = []
    for _ in range(5):
        counts.append(len(fill(topic, size)))
        topic.configure(retention_bytes=1)
        assert topic.expire() in (counts[-1], counts[-1] - 1)
        topic.configure(retention_bytes=None)
    assert min(counts) > 0.8 * max(counts) - 2


def test_with_the_map_full_topics_are_deleted_and_made(small_log: EventLog) -> None:
    kept = fill(small_log.create_topic("kept", partitions=1))
    for _ in range(5):
        assert append(small_log.topic("kept")) is None
        small_log.create_topic("made", partitions=1)
        small_log.delete_topic("made")
    assert bodies(small_log.topic("kept")) == kept
    small_log.delete_topic("kept")
    assert len(fill(small_log.create_topic("kept", partitions=1))) > 0.8 * len(kept)


def test_topics_made_until_the_map_is_full_leave_room_to_expire_and_delete(
    small_log: EventLog,
) -> None:
    topic = small_log.create_topic("t", partitions=1, compression="none")
    fill(topic)
    names = (f"{number:0240}" for number in itertools.count())
    made = []
    with contextlib.suppress(LogFullError):
        for name in names:
            small_log.create_topic(name)
            made.append(name)
    topic.configure(retention_bytes=1)
    assert topic.expire() > 0
    topic.append(b"x")
    for name in made:
        small_log.delete_topic(name)
    assert [each.name for each in small_log.topics()] == ["t"]


def test_rolling_retention_in_a_small_map_never_fills_it(small_log: EventLog) -> None:
    topic = small_log.create_topic("t", partitions=1, retention_bytes=300_000)
    for number in range(1000):
        assert topic.append(os.urandom(3000)).offset == number


def test_pages_a_reader_keeps_are_no_room_until_it_ends(small_log: EventLog) -> None:
    topic = small_log.create_topic("t", partitions=1, retention_bytes=100_000, compression="none")
    with small_log.environment.lmdb.begin():  # type: ignore[attr-defined]
        stored = fill(topic)
        assert len(stored) > 30
        assert bodies(topic) == stored[-len(bodies(topic)) :]
    for _ in range(1000):
        topic.append(os.urandom(3000))


def test_a_log_that_was_full_goes_on_with_a_larger_map(log_path: Path) -> None:
    with eventlog.open(log_path, map_size=MIB) as log:
        stored = fill(log.create_topic("t", partitions=1))
    with eventlog.open(log_path, map_size=4 * MIB) as log:
        topic = log.topic("t")
        stored += fill(topic)
        assert sum(map(len, stored)) > 2 * MIB
        assert bodies(topic) == stored


APPENDS_MORE = """
import os, sys
import eventlog

topic = eventlog.open(sys.argv[1], create=False).topic("t")
for _ in range(400):
    topic.append(os.urandom(10_000))
print("grown", flush=True)
sys.stdin.readline()
"""


def test_a_process_with_a_smaller_map_goes_on_with_what_another_has_made_of_the_log(
    small_log: EventLog, start: Start
) -> None:
    topic = small_log.create_topic("t", partitions=1)
    topic.append(b"before")
    other = start(APPENDS_MORE, small_log.location)
    assert other.line() == "grown"
    with contextlib.suppress(LogFullError):
        assert topic.append(b"after").offset == 401
    assert len(topic.read(0)) >= 401
    topic.configure(retention_bytes=20_000)
    assert topic.expire() >= 399
    topic.append(b"after")


# ---- Too little address space --------------------------------------------------------------------

LIMITED = """
import resource, sys
import eventlog

space, map_size = map(int, sys.argv[2:])
resource.setrlimit(resource.RLIMIT_AS, (space, space))
try:
    with eventlog.open(sys.argv[1], map_size=map_size) as log:
        topic = log.create_topic("t", partitions=1, exist_ok=True)
        topic.append_batch([b"x" * 1000] * 1000)
        print(len(topic.read(0)), log.environment.map_pages * log.environment.page_bytes < space)
except OSError as error:
    print(type(error).__name__, error.errno)
"""


@pytest.mark.parametrize(
    ("space", "map_size"),
    [(8 * 2**30, 2**40), (900 * MIB, 2**40), (400 * MIB, 2**40), (400 * MIB, 2**29)],
)
def test_with_less_address_space_than_map_size_a_smaller_map_is_used(
    space: int, map_size: int, log_path: Path, start: Start
) -> None:
    for _ in range(2):  # made, and opened again
        assert start(LIMITED, log_path, space, map_size).rest() == ["1000 True"]


def test_without_address_space_for_what_is_stored_opening_is_an_os_error(
    log_path: Path, start: Start
) -> None:
    with eventlog.open(log_path) as log:
        log.create_topic("t", partitions=1, compression="none").append_batch(
            [os.urandom(1_000_000) for _ in range(120)]
        )
    assert start(LIMITED, log_path, 130 * MIB, 2**40).rest() == [f"OSError {errno.ENOMEM}"]
    with eventlog.open(log_path) as log:
        assert log.check().ok
