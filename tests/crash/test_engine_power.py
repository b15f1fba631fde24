"""The engine under power cuts: whatever it acknowledged at ``durability="disk"`` survives them.

Small programs are recorded, and every state that a cut may leave of them is opened, read, checked
and appended to. The same programs with a flush left out come with them: a test that cannot fail
proves nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Final

import pytest

import eventlog
from eventlog.embedded.directory import WAKEUP_NAME
from tests.crash.power import (
    PAGE,
    SHARED_MAPS,
    Answer,
    History,
    Judge,
    Report,
    State,
    Sync,
    Write,
    check_states,
    checker,
    choose_seed,
    program,
    record,
    skip_unless_available,
)
from tests.crash.test_kill import TOPIC, Label, Promise, append_witnessed, audit

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def seed() -> int:
    """The seed of this test's random choices, printed for the report of a failure."""
    seed = choose_seed()
    print(f"POWER_SEED={seed}")
    return seed


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, where programs can be recorded."""
    skip_unless_available()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "recorded").mkdir()
    return tmp_path / "recorded"


@pytest.fixture
def prepared(directory: Path) -> Path:
    """The same with a log in it, which no cut can undo."""
    with eventlog.open(directory / "log") as log:
        topic = log.create_topic(TOPIC, partitions=3)
        append_witnessed(topic, "before", 0, random.Random(0))
    return directory


# ---- Opening a state -----------------------------------------------------------------------------

# Everything that is there, found to be whole and to stay so when it is appended to.
OPEN: Final = """
import os
import eventlog
from tests.crash.test_kill import TOPIC, contents

def look(log):
    report = log.check()
    assert report.ok, report.damaged
    return {topic.name: contents(topic) for topic in log.topics() if topic.name != "after"}

def use(directory):
    with eventlog.open(directory) as log:
        found = look(log)
        topic = log.create_topic("after", partitions=1)
        for number in range(3):
            assert topic.append_batch([os.urandom(2000)] * 5)[0].offset == 5 * number
        assert look(log) == found
    with eventlog.open(directory, create=False) as log:
        assert look(log) == found
        assert len(log.topic("after").read(0)) == 15
    return found

def check(directory):
    found = {"log": use(directory + "/log")}
    if os.path.exists(directory + "/backup"):
        found["backup"] = use(directory + "/backup")
    return found
"""


def kept(state: State, answer: Answer) -> str | None:
    """The judge: it opened, and everything acknowledged is there, in order, once, and whole."""
    found = topics_of(answer)
    if "log" not in found:
        return f"it cannot be opened: {answer}"
    promises = [Promise.of(line) for line in state.acknowledged if line not in EVENTS]
    there = found["log"].get(TOPIC)
    faults = audit(there, promises) if there else list(map(str, promises))
    return "; ".join(faults[:3]) if faults else None


EVENTS: Final = ("topic deleted", "backed up")
"""What programs acknowledge besides appends."""


def topics_of(answer: Answer) -> dict[str, dict[str, dict[int, list[Label | None]]]]:
    """The answer of `OPEN`, back from JSON; empty where it is an error."""
    if not isinstance(answer, dict) or "log" not in answer:
        return {}
    return {
        place: {
            topic: {
                int(partition): [None if label is None else Label(*label) for label in labels]
                for partition, labels in partitions.items()
            }
            for topic, partitions in topics.items()
        }
        for place, topics in answer.items()
    }


def record_program(source: str, directory: Path) -> History:
    history = record(
        program(PROLOGUE + source, directory / "log"),
        directory,
        shared_maps=(*SHARED_MAPS, WAKEUP_NAME),
    )
    assert history.acknowledged
    return history


def open_states(
    history: History, directory: Path, seed: int, judge: Judge = kept, **options: int
) -> Report:
    """Open all states, in memory, where that is faster; those that failed are kept on disk."""
    parent = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="power-states-", dir=parent) as scratch:
        report = check_states(
            history, checker(OPEN), judge=judge, scratch=Path(scratch), seed=seed, **options
        )
        kept_here = shutil.copytree(scratch, directory.parent / "states", dirs_exist_ok=True)
    print(report, f"what failed is kept in {kept_here}" if report.failures else "")
    return report


# ---- Programs ------------------------------------------------------------------------------------

PROLOGUE: Final = """
import random, signal, threading
import eventlog
from eventlog.embedded import commit, copies, storage
from eventlog.embedded import directory as files
from tests.crash.test_kill import TOPIC, append_witnessed

path = sys.argv[1]

def write(topic, writer, batches):
    rng = random.Random(writer)
    for batch in batches:
        acknowledge(str(append_witnessed(topic, writer, batch, rng)))
"""
ONE_CALLER: Final = """
with eventlog.open(path) as log:
    write(log.topic(TOPIC), "one", range(6))
"""
THREE_THREADS: Final = """
with eventlog.open(path) as log:
    topic = log.topic(TOPIC)
    threads = [
        threading.Thread(target=write, args=(topic, f"thread-{each}", range(12)))
        for each in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
TWO_PROCESSES: Final = """
child = os.fork()
with eventlog.open(path) as log:
    write(log.topic(TOPIC), "parent" if child else "child", range(12))
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
CREATION: Final = """
with eventlog.open(path) as log:
    write(log.create_topic(TOPIC, partitions=3), "one", range(2))
"""
COMPACTION: Final = """
with eventlog.open(path) as log:
    topic = log.topic(TOPIC)
    write(topic, "one", range(3))
    log.compact()
    write(topic, "one", range(3, 6))
"""
COMPACTION_ELSEWHERE: Final = """
with eventlog.open(path) as log:
    topic = log.topic(TOPIC)
    write(topic, "parent", range(3))
    child = os.fork()
    if not child:
        log.compact()
        write(topic, "child", range(2))
        log.close()
        os._exit(0)
    write(topic, "parent", range(3, 6))
    assert os.waitpid(child, 0)[1] == 0
    write(topic, "parent", range(6, 8))
"""


def test_what_one_caller_appended_survives(prepared: Path, seed: int) -> None:
    history = record_program(ONE_CALLER, prepared)
    open_states(history, prepared, seed).require_ok()


def test_what_three_threads_appended_in_shared_and_pipelined_commits_survives(
    prepared: Path, seed: int
) -> None:
    history = record_program(THREE_THREADS, prepared)
    commits, flushes = commits_and_flushes(history)
    assert commits < len(history.acknowledged), "commits were shared"
    assert flushes < 2 * commits, "one flush served two commits"
    open_states(history, prepared, seed, exhaustive=4, sampled=8, torn=4).require_ok()


def test_what_two_processes_appended_survives(prepared: Path, seed: int) -> None:
    history = record_program(TWO_PROCESSES, prepared)
    open_states(history, prepared, seed, exhaustive=4, sampled=8, torn=4).require_ok()


def commits_and_flushes(history: History) -> tuple[int, int]:
    """How many meta pages were written to the environment, and how often it was flushed."""
    (environment,) = (n for n, name in history.names.items() if name.endswith("events-1.mdb"))
    writes = [each for each in history.operations if isinstance(each, Write)]
    metas = [each for each in writes if each.file == environment and each.offset < 2 * PAGE]
    syncs = [each for each in history.operations if isinstance(each, Sync)]
    return len(metas), sum(sync.node == environment for sync in syncs)


def test_a_log_that_is_being_made_can_be_opened_whatever_is_left_of_it(
    directory: Path, seed: int
) -> None:
    history = record_program(CREATION, directory)
    open_states(history, directory, seed, exhaustive=6, sampled=24).require_ok()


@pytest.mark.parametrize("source", [COMPACTION, COMPACTION_ELSEWHERE], ids=["here", "elsewhere"])
def test_what_was_appended_before_and_after_a_compaction_survives(
    source: str, prepared: Path, seed: int
) -> None:
    history = record_program(source, prepared)
    open_states(history, prepared, seed, exhaustive=6, sampled=16).require_ok()


RETENTION: Final = """
with eventlog.open(path) as log:
    write(log.topic(TOPIC), "one", range(15))
"""


def test_what_retention_trimmed_and_left_is_the_same_after_a_cut(
    directory: Path, seed: int
) -> None:
    with eventlog.open(directory / "log") as log:
        log.create_topic(TOPIC, partitions=1, retention_bytes=5_000)
    with eventlog.open("memory:") as log:
        topic = log.create_topic(TOPIC, partitions=1, retention_bytes=5_000)
        rng = random.Random("one")
        beginnings = {0: 0}
        for batch in range(15):
            append_witnessed(topic, "one", batch, rng)
            info = topic.partition_info(0)
            beginnings[info.next_offset] = info.beginning_offset
    assert len(set(beginnings.values())) > 3

    def judge(state: State, answer: Answer) -> str | None:
        if fault := kept(state, answer):
            return fault
        labels = topics_of(answer)["log"][TOPIC][0]
        expected = beginnings[len(labels)]
        there = labels.count(None)
        return None if there == expected else f"it begins at {there}, not at {expected}"

    history = record_program(RETENTION, directory)
    open_states(history, directory, seed, judge, exhaustive=5, sampled=12, torn=6).require_ok()


DELETION: Final = """
from eventlog.embedded import engine

engine.STEP_ROWS = 20
with eventlog.open(path) as log:
    write(log.topic(TOPIC), "one", range(2))
    log.delete_topic("doomed")
    acknowledge("topic deleted")
    write(log.topic(TOPIC), "one", range(2, 4))
"""


def test_a_deleted_topic_is_there_whole_or_not_at_all(prepared: Path, seed: int) -> None:
    with eventlog.open(prepared / "log") as log:
        doomed = log.create_topic("doomed", partitions=2, compression="none")
        rng = random.Random(1)
        for batch in range(100):
            append_witnessed(doomed, "doomed", batch, rng)

    def judge(state: State, answer: Answer) -> str | None:
        if fault := kept(state, answer):
            return fault
        there = topics_of(answer)["log"].get("doomed")
        if there is None:
            return None
        if "topic deleted" in state.acknowledged:
            return "the deleted topic is back"
        batches = {label.batch for labels in there.values() for label in labels if label}
        return "; ".join(audit(there, ())) or (None if len(batches) == 100 else "it is in part")

    history = record_program(DELETION, prepared)
    assert commits_and_flushes(history)[0] > 5, "it takes several steps"
    open_states(history, prepared, seed, judge, exhaustive=4, sampled=8, torn=4).require_ok()


BACKUP: Final = """
with eventlog.open(path) as log:
    write(log.topic(TOPIC), "one", range(3))
    log.backup(os.path.dirname(path) + "/backup")
    acknowledge("backed up")
    write(log.topic(TOPIC), "one", range(3, 5))
"""


def test_a_backup_is_there_whole_or_not_at_all(prepared: Path, seed: int) -> None:
    def judge(state: State, answer: Answer) -> str | None:
        if fault := kept(state, answer):
            return fault
        backup = topics_of(answer).get("backup")
        if backup is None:
            return "the backup is gone" if "backed up" in state.acknowledged else None
        batches = {label.batch for labels in backup[TOPIC].values() for label in labels if label}
        return None if batches == {0, 1, 2} else f"the backup has batches {batches}"

    history = record_program(BACKUP, prepared)
    open_states(history, prepared, seed, judge, exhaustive=5, sampled=16).require_ok()


# ---- A process killed in the middle of it, another that goes on, and then the power cut ----------

# Whoever is killed here has written, and not synced, what the next process builds on.
DIES_BEFORE_SYNCING: Final = """
def die(descriptor):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at_sync_of(number):
    sync = os.fsync
    syncs = iter(range(1, number + 1))
    os.fsync = lambda descriptor: die(descriptor) if next(syncs) == number else sync(descriptor)

child = os.fork()
if not child:
    die_at_sync_of(int(os.environ["DIES_AT"]))
    with eventlog.open(path) as log:
        ACT
assert os.waitpid(child, 0)[1] == 9
with eventlog.open(path) as log:
    write(log.create_topic(TOPIC, partitions=3, exist_ok=True), "next", range(2))
"""


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_log_survives_that_one_process_began_to_make_and_another_went_on_with(
    number: int, directory: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES_AT", str(number))
    source = DIES_BEFORE_SYNCING.replace("ACT", "pass")
    history = record_program(source, directory)
    open_states(history, directory, seed, exhaustive=6, sampled=24).require_ok()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_log_survives_whose_compaction_was_killed_and_that_another_process_went_on_with(
    number: int, prepared: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIES_AT", str(number))
    source = DIES_BEFORE_SYNCING.replace("ACT", "log.compact()")
    history = record_program(source, prepared)
    open_states(history, prepared, seed, exhaustive=6, sampled=24).require_ok()


# ---- Programs that must be caught ----------------------------------------------------------------

ACKNOWLEDGES_BEFORE_THE_FLUSH: Final = """
commit.Committer._flush = commit.Committer._flushed
"""
ACKNOWLEDGES_THE_COMMIT_THAT_WAS_JUST_MADE: Final = """
join = commit.Committer._join
def join_and_settle(self, group):
    join(self, group)
    self._flushed()
commit.Committer._join = join_and_settle
"""
NEVER_FLUSHES: Final = """
open_lmdb = storage.open_lmdb
storage.open_lmdb = lambda *args, synced, **options: open_lmdb(*args, synced=False, **options)
"""


@pytest.mark.parametrize(
    "patch",
    [ACKNOWLEDGES_BEFORE_THE_FLUSH, ACKNOWLEDGES_THE_COMMIT_THAT_WAS_JUST_MADE, NEVER_FLUSHES],
    ids=["no flush of its own", "commit just made", "no flush"],
)
@pytest.mark.parametrize("source", [ONE_CALLER, THREE_THREADS], ids=["one", "three"])
def test_an_append_acknowledged_too_early_is_caught(
    patch: str, source: str, prepared: Path, seed: int
) -> None:
    history = record_program(patch + source, prepared)
    report = open_states(history, prepared, seed, exhaustive=4, sampled=8, torn=4)
    assert report.failures, report


NO_DIRECTORY: Final = """
files.sync_directory = lambda directory: None
"""
NO_FILE: Final = """
sync = os.fsync
def sync_directories_only(descriptor):
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):
        sync(descriptor)
os.fsync = sync_directories_only
"""


@pytest.mark.parametrize("patch", [NO_DIRECTORY, NO_FILE], ids=["directory", "control file"])
def test_a_log_made_without_syncing_what_it_stands_on_is_caught(
    patch: str, directory: Path, seed: int
) -> None:
    history = record_program(patch + CREATION, directory)
    assert open_states(history, directory, seed).failures


@pytest.mark.parametrize("patch", [NO_DIRECTORY, NO_FILE], ids=["directory", "copy"])
def test_a_compaction_without_syncing_the_copy_or_its_name_is_caught(
    patch: str, prepared: Path, seed: int
) -> None:
    history = record_program(patch + COMPACTION, prepared)
    assert open_states(history, prepared, seed).failures
