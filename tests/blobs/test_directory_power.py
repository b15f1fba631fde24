"""The directory store under power cuts: what a put or delete returned for survives them.

Small programs are recorded, every state that a cut may leave of their files is rebuilt, and the
store is opened there. See `tests.crash.power`, which also says what a cut may leave.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from tests.crash.power import (
    Answer,
    History,
    Report,
    State,
    check_states,
    checker,
    choose_seed,
    program,
    record,
    skip_unless_available,
)

ROOT = Path(__file__).parents[2]

# Every change is acknowledged with all that is there after it.
PROLOGUE: Final = """
import json
from eventlog.blobs import directory

path = sys.argv[1]
store = directory.DirectoryBlobs(path)
there = {}

def put(name, text, **condition):
    store.put(name, text.encode(), **condition)
    there[name] = text
    acknowledge(json.dumps(there))

def delete(name):
    store.delete(name)
    del there[name]
    acknowledge(json.dumps(there))
"""

CHANGES: Final = """
put("a/b/one", "1" * 2000)
put("a/b/one", "2")
put("a/b/two", "1", if_absent=True)
delete("a/b/two")
put("c", "1")
delete("a/b/one")
put("a/b/one", "3" * 5000)
put("a/d", "1")
put("c", "2" * 700)
"""

# A child dies between the call that makes something and the flush that makes it durable.
DYING: Final = """
def dying(name, number):
    calls = iter(range(number - 1, -1, -1))
    function = getattr(os, name)
    def call(*arguments, **options):
        if not next(calls):
            os._exit(0)
        return function(*arguments, **options)
    setattr(os, name, call)

def in_child(name, number, do):
    if not os.fork():
        dying(name, number)
        do()
        os._exit(1)
    assert os.wait()[1] == 0

put("other", "1")
in_child("fsync", 1, lambda: store.put("a/b/one", b"lost"))  # a is made
in_child("fsync", 2, lambda: store.put("a/b/one", b"lost"))  # b is made
put("a/b/one", "1")
in_child("fsync", 2, lambda: store.put("a/b/one", b"seen"))  # it is renamed
assert store.get("a/b/one").data == b"seen"
there["a/b/one"] = "seen"
put("a/b/two", "2")
"""

OPEN: Final = """
from eventlog.blobs import directory

def check(path):
    with directory.DirectoryBlobs(path + "/store") as store:
        found = {name: store.get(name).data.decode() for name, _ in store.list("")}
        for name in (*found, "a/b/new", "z"):
            store.put(name, b"new")
        assert {store.get(name).data for name, _ in store.list("")} == {b"new"}
    return found
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, where programs can be recorded."""
    skip_unless_available()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "recorded").mkdir()
    return tmp_path / "recorded"


def open_states(source: str, directory: Path) -> tuple[History, Report]:
    history = record(program(PROLOGUE + source, directory / "store"), directory)
    seed = choose_seed()
    print(f"POWER_SEED={seed}")
    states = directory.parent / "states"
    report = check_states(
        history,
        checker(OPEN),
        judge=kept,
        scratch=states,
        seed=seed,
        exhaustive=6,
        sampled=24,
        torn=8,
    )
    print(report)
    return history, report


def kept(state: State, answer: Answer) -> str | None:
    """The judge: it is as after the last change that was acknowledged, or the one under way.

    What a killed writer put was never acknowledged; it is there if what was put beside it is.
    """
    count = len(state.acknowledged)
    before = json.loads(state.acknowledged[-1]) if count else {}
    possible = [before, *map(json.loads, state.history.acknowledged[count : count + 1])]
    if "a/b/one" in before:
        possible.append({**before, "a/b/one": "seen"})
    return None if answer in possible else f"{answer} is none of {possible}"


def test_what_one_writer_put_and_deleted_survives(directory: Path) -> None:
    history, report = open_states(CHANGES, directory)
    assert len(history.acknowledged) == 9
    report.require_ok()


def test_what_a_killed_writer_left_undone_costs_the_next_one_nothing(directory: Path) -> None:
    """Directories that it made, and the name it gave, become durable with what is put there."""
    history, report = open_states(DYING, directory)
    assert len(history.acknowledged) == 3
    report.require_ok()


@pytest.mark.parametrize(
    "left_out",
    [
        "directory.sync_with_ancestors = lambda path: None",
        "directory.DirectoryBlobs._make_durable = lambda self, folders: None",
        "sync = os.fsync; os.fsync = lambda file: os.path.isdir(f'/dev/fd/{file}') and sync(file)",
        "sync = os.fsync; os.fsync = lambda file: os.path.isfile(f'/dev/fd/{file}') and sync(file)",
    ],
    ids=["the way to the store", "directories", "files", "names"],
)
def test_a_flush_that_is_left_out_is_missed(left_out: str, directory: Path) -> None:
    assert open_states(left_out + CHANGES, directory)[1].failures
