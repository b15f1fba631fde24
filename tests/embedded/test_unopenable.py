"""What is no log of ours is refused and left alone: files cut short, foreign or of newer versions.

What LMDB might die of is opened in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lmdb
import pytest
import xxhash

import eventlog
from eventlog import NotALogError, UnsupportedOperationError
from eventlog.embedded import directory as files
from tests.embedded.damaging import DATA, NEXT_OFFSET, SEED, TOPIC, make

if TYPE_CHECKING:
    from tests.conftest import Child, Start

PAGE_BYTES = 4096
CONTROL = "eventlog.control"
LOCK = "eventlog.lock"
NEW = "eventlog.control-new"

# ---- What cannot be opened -----------------------------------------------------------------------

OPENER = """
import json, sys
import eventlog

for line in sys.stdin:
    location, options = json.loads(line)
    try:
        with eventlog.open(location, **options) as log:
            assert log.check().ok
            found = [[t.name, [t.partition_info(p).next_offset for p in range(t.partitions)]]
                     for t in log.topics()]
        print(json.dumps(["ok", found]), flush=True)
    except Exception as error:
        print(json.dumps([type(error).__name__, str(error)]), flush=True)
"""


class Opener:
    """Opens logs in a process that may die of it."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def open(self, path: Path, **options: Any) -> tuple[str, Any]:
        """``("ok", topics)``, or the name of the error and its message."""
        self._child.say(json.dumps([str(path), options]))
        kind, what = json.loads(self._child.line())
        return kind, what


@pytest.fixture
def opener(start: Start) -> Iterator[Opener]:
    """One process for all openings of a test; it has survived them all."""
    child = start(OPENER)
    yield Opener(child)
    child.say("no JSON: that ends it")
    assert child.wait() == 1


WHOLE = ("ok", [[TOPIC, [1, NEXT_OFFSET]]])


@pytest.fixture
def dense(fast_path: Path) -> Path:
    """A closed log whose file has no free pages and nothing behind its last one."""
    make(fast_path)
    copy = fast_path.with_name("dense")
    with eventlog.open(fast_path) as log:
        log.backup(copy)
    return copy


def entries(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("options", [{}, {"read_only": True}], ids=["to write", "to read"])
def test_a_truncated_data_file_is_refused_at_any_length_and_not_touched(
    dense: Path, opener: Opener, options: dict[str, Any]
) -> None:
    data = dense / DATA
    whole = data.read_bytes()
    assert len(whole) % PAGE_BYTES == 0
    lengths = [0, 1, 100, 4095, PAGE_BYTES, 2 * PAGE_BYTES - 1, 2 * PAGE_BYTES, 3 * PAGE_BYTES]
    lengths += [len(whole) // 2, len(whole) - PAGE_BYTES, len(whole) - 1]
    for length in lengths:
        data.write_bytes(whole[:length])
        kind, message = opener.open(dense, **options)
        assert kind == "NotALogError", (length, message)
        assert DATA in message, length
        assert data.read_bytes() == whole[:length]
    data.write_bytes(whole)
    assert opener.open(dense, **options) == WHOLE


def test_a_data_file_that_is_no_environment_is_refused(dense: Path, opener: Opener) -> None:
    data = dense / DATA
    whole = data.read_bytes()
    for junk in (
        random.Random(SEED).randbytes(16 * PAGE_BYTES),
        bytes(16 * PAGE_BYTES),
        b"SQLite format 3\0" + bytes(PAGE_BYTES * 4 - 16),
        bytes(2 * PAGE_BYTES) + whole[2 * PAGE_BYTES :],
    ):
        data.write_bytes(junk)
        for read_only in (False, True):
            kind, message = opener.open(dense, read_only=read_only)
            assert (kind, DATA in message) == ("NotALogError", True)
        assert data.read_bytes() == junk


def test_a_missing_data_file_is_refused_and_not_made_anew(dense: Path, opener: Opener) -> None:
    (dense / DATA).unlink()
    for options in ({}, {"create": False}, {"read_only": True}):
        kind, message = opener.open(dense, **options)
        assert (kind, "is missing" in message) == ("NotALogError", True)
    assert not (dense / DATA).exists()


def test_a_directory_in_place_of_the_data_file_is_refused(dense: Path, opener: Opener) -> None:
    (dense / DATA).unlink()
    (dense / DATA).mkdir()
    kind, message = opener.open(dense)
    assert (kind, DATA in message) == ("NotALogError", True)


def test_a_control_file_that_is_damaged_or_none_is_refused_and_nothing_is_touched(
    dense: Path, opener: Opener
) -> None:
    control = (dense / CONTROL).read_bytes()
    source = random.Random(SEED)
    damaged = [b"", control[:20], control[:47], bytes(48), source.randbytes(48), b"x" * 4096]
    for at in [*range(8), *range(11, 48)]:  # 8 to 10 would make it a newer version's
        flipped = bytearray(control)
        flipped[at] ^= 1 << source.randrange(1 if at == 11 else 8)
        damaged.append(bytes(flipped))
    for data in damaged:
        (dense / CONTROL).write_bytes(data)
        before = entries(dense)
        kind, message = opener.open(dense, read_only=data[-1:] == b"x")
        assert (kind, CONTROL in message) == ("NotALogError", True), data
        assert entries(dense) == before
    (dense / CONTROL).write_bytes(control)
    assert opener.open(dense) == WHOLE


@pytest.mark.parametrize("version", [2, 3, 2**32 - 1])
@pytest.mark.parametrize("digest", ["right", "wrong"])
def test_a_newer_format_is_refused_by_name_and_nothing_is_touched(
    dense: Path, opener: Opener, version: int, digest: str
) -> None:
    """Whatever else a newer version writes there, its checksum included."""
    control = (dense / CONTROL).read_bytes()
    fields = control[:8] + struct.pack(">I", version) + control[12:40]
    sum_of = xxhash.xxh3_64_intdigest(fields) ^ (digest == "wrong")
    (dense / CONTROL).write_bytes(fields + struct.pack(">Q", sum_of))
    before = entries(dense)
    for options in ({}, {"create": False}, {"read_only": True}):
        kind, message = opener.open(dense, **options)
        assert kind == "FormatVersionError"
        assert f"format {version}" in message
        assert "up to 1" in message
    assert entries(dense) == before


def test_an_unknown_durability_in_the_control_file_is_refused(dense: Path, opener: Opener) -> None:
    control = (dense / CONTROL).read_bytes()
    fields = control[:12] + struct.pack(">I", 7) + control[16:40]
    (dense / CONTROL).write_bytes(fields + struct.pack(">Q", xxhash.xxh3_64_intdigest(fields)))
    kind, message = opener.open(dense)
    assert (kind, "durability 7" in message) == ("NotALogError", True)


def test_a_missing_control_file_beside_commits_is_refused_and_nothing_is_deleted(
    dense: Path, opener: Opener
) -> None:
    control = (dense / CONTROL).read_bytes()
    (dense / CONTROL).unlink()
    (dense / "events-2.mdb-copy").write_bytes(b"half")
    before = entries(dense)
    kind, message = opener.open(dense)
    assert kind == "NotALogError"
    assert CONTROL in message
    assert DATA in message
    for options in ({"create": False}, {"read_only": True}):
        assert opener.open(dense, **options)[0] == "LogNotFoundError"
    assert entries(dense) == before
    (dense / CONTROL).write_bytes(control)
    assert opener.open(dense) == WHOLE


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path, opener: Opener) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    for options in ({}, {"create": False}, {"read_only": True}):
        assert opener.open(file, **options)[0] == "NotALogError"
    assert opener.open(file / "below")[0] == "NotALogError"
    assert opener.open(file / "below", create=False)[0] == "LogNotFoundError"
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}], ids=str)
def test_where_no_log_is_none_is_found_and_none_is_made(
    tmp_path: Path, opener: Opener, options: dict[str, Any]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert opener.open(empty, **options)[0] == "LogNotFoundError"
    assert opener.open(tmp_path / "nothing", **options)[0] == "LogNotFoundError"
    assert list(tmp_path.rglob("*")) == [empty]


@pytest.mark.parametrize(
    "name", ["notes.txt", "events-1.mdb.bak", "events-x.mdb", "data.mdb", ".hidden", "sub/file"]
)
def test_no_log_is_made_among_foreign_files(tmp_path: Path, opener: Opener, name: str) -> None:
    foreign = tmp_path / "foreign"
    (foreign / name).parent.mkdir(parents=True)
    (foreign / name).write_bytes(b"mine")
    kind, message = opener.open(foreign)
    assert kind == "NotALogError"
    assert name.partition("/")[0] in message
    assert opener.open(foreign, create=False)[0] == "LogNotFoundError"
    assert entries(foreign) == {name: b"mine"}


def test_no_log_is_made_beside_a_directory_that_is_called_like_an_environment(
    tmp_path: Path,
) -> None:
    (tmp_path / DATA).mkdir()
    with pytest.raises(NotALogError):
        eventlog.open(tmp_path)


# ---- Network file systems ------------------------------------------------------------------------


def mounts_file(directory: Path, kind: str, *, device: str = "") -> Path:
    """A /proc/self/mountinfo where `directory` is on a file system of that kind."""
    number = directory.stat().st_dev
    device = device or f"{os.major(number)}:{os.minor(number)}"
    mounts = directory / "mountinfo"
    mounts.write_text(
        "22 1 0:999 / /proc rw,nosuid - proc proc rw\n"
        f"36 35 {device} /root /mnt/a\\040b rw,noatime master:1 shared:2 - {kind} host:/dir rw\n"
    )
    return mounts


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs"])
def test_a_network_file_system_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=rf"\({kind}\)"):
        files.refuse_network(tmp_path, mounts_file(tmp_path, kind))


@pytest.mark.parametrize(
    ("kind", "device"), [("ext4", ""), ("tmpfs", ""), ("fuse.other", ""), ("nfs4", "0:998")]
)
def test_a_local_file_system_is_not_refused(tmp_path: Path, kind: str, device: str) -> None:
    files.refuse_network(tmp_path, mounts_file(tmp_path, kind, device=device))


def test_where_the_system_names_no_mounts_nothing_is_refused(tmp_path: Path) -> None:
    files.refuse_network(tmp_path, tmp_path / "nothing")


@pytest.mark.parametrize("read_only", [False, True])
def test_open_refuses_a_log_on_a_network_file_system(
    log_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    log_path.mkdir()
    mounts = mounts_file(log_path.parent, "nfs4")
    assert log_path.stat().st_dev == log_path.parent.stat().st_dev
    monkeypatch.setattr(files.refuse_network, "__defaults__", (mounts,))
    with pytest.raises(UnsupportedOperationError, match="network file system"):
        eventlog.open(log_path, read_only=read_only)
    assert list(log_path.iterdir()) == []


# ---- Killed while it was made --------------------------------------------------------------------


def fresh_environment(path: Path) -> None:
    """What creation leaves before the control file: an environment without commits."""
    with lmdb.open(str(path), subdir=False, map_size=2**20, lib_version=0):
        pass


def control_bytes() -> bytes:
    return files.Control("disk", 1, uuid.UUID(int=1)).encode()


STEPS = [
    "directory",
    "lock",
    "empty environment",
    "fresh environment",
    "half control",
    "whole control",
]


def leave(path: Path, step: str) -> None:
    """What is there when whoever makes a log at `path` is killed after that step."""
    done = STEPS[: STEPS.index(step) + 1]
    path.mkdir()
    if "lock" in done:
        (path / LOCK).touch()
    if "empty environment" in done:
        (path / DATA).touch()
        (path / f"{DATA}-lock").touch()
    if "fresh environment" in done:
        (path / DATA).unlink()
        fresh_environment(path / DATA)
    if "half control" in done:
        (path / NEW).write_bytes(control_bytes()[:20])
    if "whole control" in done:
        (path / NEW).write_bytes(control_bytes())


@pytest.mark.parametrize("step", STEPS)
def test_what_a_killed_creation_left_is_no_log_but_is_made_into_one(
    fast_path: Path, opener: Opener, step: str
) -> None:
    leave(fast_path, step)
    for options in ({"create": False}, {"read_only": True}):
        assert opener.open(fast_path, **options)[0] == "LogNotFoundError"
    assert opener.open(fast_path) == ("ok", [])
    make(fast_path)
    assert opener.open(fast_path, create=False) == WHOLE
    assert not (fast_path / NEW).exists()


CREATOR = """
import os, pathlib, sys
import eventlog
from eventlog.embedded import directory, opening, storage

path, step = sys.argv[1:]
def die(*_, **__):
    os._exit(9)
if step == "write":
    directory._write_durably = die
elif step == "rename":
    pathlib.Path.rename = die
elif step == "sync":
    directory.sync_directory = die
elif step == "open":
    storage.open_lmdb = die
else:
    assert hasattr(opening, step)
    setattr(opening, step, die)
eventlog.open(path)
"""


@pytest.mark.parametrize("step", ["_allocate_lock_file", "open", "write", "rename", "sync"])
def test_a_creation_killed_at_any_step_leaves_a_log_or_what_is_made_into_one(
    fast_path: Path, opener: Opener, start: Start, step: str
) -> None:
    assert start(CREATOR, fast_path, step).wait() == 9
    left = files.read_control(fast_path)
    assert (left is None) == (step != "sync")
    assert opener.open(fast_path) == ("ok", [])
    make(fast_path)
    assert opener.open(fast_path, create=False) == WHOLE


@pytest.mark.parametrize("step", STEPS)
def test_leftovers_of_creation_do_not_make_foreign_files_ours(
    fast_path: Path, opener: Opener, step: str
) -> None:
    leave(fast_path, step)
    (fast_path / "notes.txt").write_bytes(b"mine")
    before = entries(fast_path)
    assert opener.open(fast_path)[0] == "NotALogError"
    assert entries(fast_path) == before


def test_a_copy_of_a_closed_log_made_by_other_means_opens_elsewhere(
    fast_path: Path, opener: Opener
) -> None:
    make(fast_path)
    copy = fast_path.with_name("copy")
    shutil.copytree(fast_path, copy)
    assert opener.open(copy, create=False) == WHOLE
