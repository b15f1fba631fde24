"""The store in a log: rows beside its batches, and what that means for either.

What every store does is in `tests/blobs/test_contract.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import eventlog
from eventlog import (
    ClosedError,
    EventLog,
    LogFullError,
    NotALogError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnsupportedOperationError,
)
from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore
from eventlog.embedded import blobs as module
from eventlog.embedded import keys
from eventlog.embedded.blobs import WriterBlobs, damaged_blobs
from eventlog.embedded.engine import EmbeddedLog
from eventlog.embedded.writer import STEP_ROWS, Writer
from tests.embedded.test_full import mounted

if TYPE_CHECKING:
    from tests.conftest import Start

NAME = "groups/cars/group.json"
LARGE = random.Random(0).randbytes(4 * 2**20)
CHUNKS = -(-len(LARGE) // 4080)


@pytest.fixture(params=[2**20, 2**23])
def small_log(fast_path: Path, request: pytest.FixtureRequest) -> Iterator[EmbeddedLog]:
    """A log without room for much; found to be whole after the test."""
    with eventlog.open(fast_path, durability="process", map_size=request.param) as log:
        assert isinstance(log, EmbeddedLog)
        yield log
        assert log.check().ok
        assert log.look(damaged_blobs) == []


@pytest.fixture
def embedded(memory_log: EventLog) -> EmbeddedLog:
    """A log in memory, as its engine's own class."""
    assert isinstance(memory_log, EmbeddedLog)
    return memory_log


@pytest.fixture
def store(embedded: EmbeddedLog) -> BlobStore:
    return embedded.blobs


def blob_at(store: BlobStore, name: str) -> Blob:
    blob = store.get(name)
    assert isinstance(blob, Blob)
    return blob


def rows_of(log: EmbeddedLog, letters: bytes = b"OQR") -> int:
    """How many rows of these kinds there are."""

    def count(transaction: Any) -> int:
        return sum(bytes(key[:1]) in letters for key, _ in transaction.cursor())

    return log.look(count)


def commits(log: EmbeddedLog) -> int:
    """How many commits there were."""
    last: int = log.environment.lmdb.info()["last_txnid"]
    return last


# ---- Commits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_put_is_one_commit_and_a_refused_one_is_none(
    data: bytes, store: BlobStore, embedded: EmbeddedLog
) -> None:
    before = commits(embedded)
    store.put(NAME, data)
    assert commits(embedded) == before + 1
    with pytest.raises(PreconditionFailedError):
        store.put(NAME, data, if_absent=True)
    store.delete("nothing")
    assert commits(embedded) == before + 1


def test_a_transaction_stores_all_of_its_blobs_and_events_or_nothing(
    store: BlobStore, embedded: EmbeddedLog
) -> None:
    store.put("there", b"1")

    def work(writer: Writer) -> None:
        blobs = WriterBlobs(writer)
        blobs.put("a", b"2")
        blobs.put("large", LARGE)
        blobs.delete("there")
        blobs.put("a", b"3", if_match="stale")

    with pytest.raises(PreconditionFailedError):
        embedded.commit(work)
    assert [name for name, _ in store.list("")] == ["there"]


def test_a_transaction_sees_what_it_has_done(store: BlobStore, embedded: EmbeddedLog) -> None:
    store.put("there", b"1")

    def work(writer: Writer) -> list[object]:
        blobs = WriterBlobs(writer)
        with blobs:
            etag = blobs.put("a", b"1", if_absent=True)
            etag = blobs.put("a", LARGE, if_match=etag)
            blobs.delete("there")
            return [
                blobs.get("there"),
                blobs.get("a", if_none_match=etag),
                blobs.list("") == [("a", etag)],
                blob_at(blobs, "a").data == LARGE,
                blobs.put("a", b"3", if_match=etag) != etag,
                blob_at(blobs, "a").data,
            ]

    assert embedded.commit(work) == [None, NOT_MODIFIED, True, True, True, b"3"]
    assert blob_at(store, "a").data == b"3"


def test_many_threads_share_commits_and_a_refused_put_spoils_no_others_work(
    log: EventLog,
) -> None:
    store = log.blobs
    topic = log.create_topic("t", partitions=1)
    store.put("taken", b"1")

    def use(number: int) -> None:
        for each in range(20):
            store.put(f"{number}/{each}", b"1", if_absent=True)
            with pytest.raises(PreconditionFailedError):
                store.put("taken", b"2", if_absent=True)
            topic.append(b"1")

    run_in_threads(use, 8)
    assert len(store.list("")) == 8 * 20 + 1
    assert topic.partition_info(0).next_offset == 8 * 20


def test_an_unchanged_blob_is_not_read_and_a_list_reads_none(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    etag = store.put(NAME, LARGE)

    def fail(*_: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(module, "_data", fail)
    assert store.get(NAME, if_none_match=etag) is NOT_MODIFIED
    assert store.list("") == [(NAME, etag)]


# ---- Rows ----------------------------------------------------------------------------------------


def test_the_bytes_of_keys_stay_as_they_are() -> None:
    """The format cannot change unnoticed: these are the keys of logs written today."""
    assert keys.blob_key("groups/a") == b"Ogroups/a"
    assert keys.blob_key("x" * 510) == b"O" + b"x" * 510
    assert keys.blob_key("x" * 511) == b"O" + b"x" * 493 + b"\0" + bytes.fromhex(
        "e3c880edc7d485292543fd8a497ef729"
    )
    assert keys.blob_chunk_key(0x0123456789ABCDEF, 2).hex() == "510123456789abcdef0002"
    assert keys.blob_rest_key(0x0123456789ABCDEF).hex() == "520123456789abcdef"


def test_no_key_is_longer_than_lmdb_allows() -> None:
    for length in (509, 510, 511, 512, 1024):
        assert len(keys.blob_key("x" * length)) <= 511


def test_no_value_needs_adjacent_pages(store: BlobStore, embedded: EmbeddedLog) -> None:
    chunk_bytes = embedded.environment.chunk_bytes
    for size in range(chunk_bytes - 100, chunk_bytes + 20):
        store.put(NAME, LARGE[:size])
    store.put("x" * 255, LARGE[: chunk_bytes - 255 - 32])
    store.put("large", LARGE)
    lengths = embedded.look(lambda transaction: [len(value) for _, value in transaction.cursor()])
    assert max(lengths) == chunk_bytes


def test_the_rows_of_a_version_go_with_it(store: BlobStore, embedded: EmbeddedLog) -> None:
    for _ in range(3):
        store.put(NAME, LARGE)
        assert rows_of(embedded) == 1 + CHUNKS
    store.put(NAME, b"small")
    assert rows_of(embedded) == 1
    store.put(NAME, LARGE)
    store.delete(NAME)
    assert rows_of(embedded) == 0


def test_no_commit_removes_more_rows_than_its_share(
    store: BlobStore, embedded: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NAME, LARGE)
    removed = []
    remove_rows = Writer.remove_rows

    def counted(writer: Writer, first: bytes, behind: bytes, most: int) -> int:
        removed.append((commits(embedded), remove_rows(writer, first, behind, most)))
        return removed[-1][1]

    monkeypatch.setattr(Writer, "remove_rows", counted)
    store.delete(NAME)
    by_commit = [sum(n for at, n in removed if at == each) for each in sorted(dict(removed))]
    assert by_commit == [STEP_ROWS, STEP_ROWS, CHUNKS - 2 * STEP_ROWS]


def test_what_a_killed_writer_left_to_remove_goes_with_the_next_puts(
    store: BlobStore, embedded: EmbeddedLog
) -> None:
    store.put(NAME, LARGE)
    store.put("other", LARGE)
    embedded.commit(lambda writer: WriterBlobs(writer).delete(NAME))
    embedded.commit(lambda writer: WriterBlobs(writer).put("other", b"small"))
    assert [name for name, _ in store.list("")] == ["other"]
    assert rows_of(embedded, b"R") == 2
    assert embedded.look(damaged_blobs) == []
    store.put("third", b"1")
    assert rows_of(embedded) == 2


def test_that_rows_cannot_be_removed_now_does_not_fail_the_put(
    store: BlobStore, embedded: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(NAME, LARGE)
    commit = embedded.commit
    calls = []

    def once(work: Any, **options: Any) -> Any:
        calls.append(work)
        if len(calls) > 1:
            raise LogFullError("full")
        return commit(work, **options)

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "commit", once)
        store.put(NAME, b"small")
    assert len(calls) == 2
    assert blob_at(store, NAME).data == b"small"
    store.put(NAME, b"smaller")
    assert rows_of(embedded) == 1


def test_times_are_the_logs(fast_path: Path) -> None:
    with eventlog.open(fast_path, clock=lambda: 1_700_000_000_000_000) as log:
        store = log.blobs
        store.put("a", b"1")
        assert blob_at(store, "a").modified_at.isoformat() == "2023-11-14T22:13:20+00:00"


# ---- Copies --------------------------------------------------------------------------------------


def contents(store: BlobStore) -> list[Blob]:
    return [blob_at(store, name) for name, _ in store.list("")]


def fill(store: BlobStore) -> list[Blob]:
    store.put(NAME, b"{}")
    store.put("large", LARGE)
    store.put("/".join(["long"] * 200), b"long")
    store.put("empty", b"")
    return contents(store)


def test_a_compaction_keeps_blobs(log: EventLog) -> None:
    store = log.blobs
    before = fill(store)
    log.compact()
    assert contents(store) == before
    store.put(NAME, b"2", if_match=dict(store.list(""))[NAME])


def test_a_backup_has_the_blobs(log: EventLog, tmp_path: Path) -> None:
    before = fill(log.blobs)
    log.backup(tmp_path / "backup")
    with eventlog.open(tmp_path / "backup", create=False) as copy:
        assert contents(copy.blobs) == before


def test_a_log_opened_again_has_its_blobs(log_path: Path) -> None:
    with eventlog.open(log_path) as log:
        before = fill(log.blobs)
    with eventlog.open(log_path, read_only=True) as log:
        store = log.blobs
        assert contents(store) == before
        for change in (lambda: store.put("a", b"1"), lambda: store.delete(NAME)):
            with pytest.raises(UnsupportedOperationError, match="read_only"):
                change()


def test_a_forked_child_and_its_parent_share_the_store(log: EventLog) -> None:
    store = log.blobs
    etag = store.put(NAME, b"parent")
    child = os.fork()
    if not child:
        store.put(NAME, b"child", if_match=etag)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert blob_at(store, NAME).data == b"child"


def test_hosts_keep_their_locks_in_the_log_and_no_copy_has_them(
    log: EventLog, log_path: Path, tmp_path: Path
) -> None:
    store = log.blobs
    store.put(NAME, b"1")
    hosts = store.shared_directory
    assert hosts == log_path / "eventlog.hosts"
    assert not hosts.exists()
    hosts.mkdir()
    (hosts / "host.lock").write_bytes(b"")
    log.backup(tmp_path / "backup")
    log.compact()
    assert not (tmp_path / "backup" / hosts.name).exists()
    assert (hosts / "host.lock").exists()
    assert log.check().ok
    with eventlog.open(log_path) as again:
        assert blob_at(again.blobs, NAME).data == b"1"


def test_a_log_in_memory_has_no_directory_for_hosts(memory_log: EventLog) -> None:
    """It goes with its last user, and with it would go what others still look at."""
    assert memory_log.blobs.shared_directory is None


def test_a_store_ends_with_its_log_and_a_log_not_with_its_store(fast_path: Path) -> None:
    with eventlog.open(fast_path) as log:
        store = log.blobs
        with log.blobs as other:
            other.put("a", b"1")
        assert blob_at(store, "a").data == b"1"
    for do in (lambda: store.get("a"), lambda: store.put("a", b"2"), lambda: store.list("")):
        with pytest.raises(ClosedError):
            do()


# ---- A full log ----------------------------------------------------------------------------------


def fill_up(log: EventLog) -> eventlog.Topic:
    """Append until nothing more fits."""
    topic = log.create_topic("t", partitions=1, compression="none", exist_ok=True)
    for size in (20_000, 1000, 50):
        with contextlib.suppress(LogFullError):
            while True:
                topic.append(os.urandom(size))
    return topic


def put_until_full(store: BlobStore) -> int:
    """Put new blobs until no more fit; how many that were."""
    with contextlib.suppress(StoreUnavailableError):
        for number in itertools.count():
            store.put(f"new/{number}", bytes(300))
    return len(store.list("new/"))


def test_a_full_map_takes_checkpoints_and_leases_and_not_too_much(small_log: EmbeddedLog) -> None:
    store = small_log.blobs
    topic = fill_up(small_log)
    etags = {name: store.put(name, b"{}") for name in ("group", "host", "checkpoint")}
    for number in range(500):
        for name, etag in etags.items():
            etags[name] = store.put(name, b"%0300d" % number, if_match=etag)
    with pytest.raises(StoreUnavailableError, match="full"):
        store.put("large", LARGE)
    before = put_until_full(store)
    for name, etag in etags.items():
        store.put(name, b"still", if_match=etag)
    topic.configure(retention_bytes=50_000)
    assert topic.expire() > 0
    topic.append(bytes(20_000))
    store.put("large", LARGE[:100_000])
    assert len(store.list("new/")) == before > 50


def test_a_transaction_on_a_full_map_says_that_the_log_is_full(small_log: EmbeddedLog) -> None:
    fill_up(small_log)
    with pytest.raises(LogFullError):
        small_log.commit(lambda writer: WriterBlobs(writer).put("large", LARGE))


def test_many_new_blobs_of_one_commit_leave_room_to_remove_events(small_log: EmbeddedLog) -> None:
    fill_up(small_log)

    def put_many(writer: Writer) -> None:
        for number in range(1000):
            WriterBlobs(writer).put(f"new/{number}", bytes(3000))

    with pytest.raises(LogFullError):
        small_log.commit(put_many)
    assert small_log.blobs.list("new/") == []
    for topic in small_log.topics():
        small_log.delete_topic(topic.name)
    small_log.blobs.put("new/0", b"there is room")


ON_A_FULL_DISK = """
import contextlib, io, itertools, os, sys, time
import eventlog
from eventlog import LogFullError, StoreUnavailableError

with eventlog.open(sys.argv[1] + "/log", durability=sys.argv[2]) as log:
    topic = log.create_topic("t", partitions=1, compression="none")
    store = log.blobs
    for size in (20_000, 1000, 50):
        with contextlib.suppress(LogFullError):
            while True:
                topic.append(os.urandom(size))
    with contextlib.suppress(OSError), io.open(sys.argv[1] + "/filler", "wb", buffering=0) as file:
        for size in (4096, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    with contextlib.suppress(StoreUnavailableError):
        for number in itertools.count():
            store.put(f"new/{number}", bytes(300))
    assert 50 < number < 5000, number
    for _ in range(500):
        store.put("new/1", os.urandom(300))
    try:
        store.put("large", bytes(2**20))
    except StoreUnavailableError as error:
        print(error)
    topic.configure(retention=0.000001)
    time.sleep(0.001)
    assert topic.expire() > 100
    store.put("large", bytes(2**20))
    assert log.check().ok and len(store.list("new/")) == number
print("end")
"""


@pytest.mark.parametrize("durability", ["disk", "process"])
def test_a_full_disk_takes_checkpoints_and_leases_and_not_too_much(
    durability: str, tmp_path: Path, start: Start
) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as disk:
        child = start(ON_A_FULL_DISK, disk, durability)
        refused, end = child.rest()
        assert "full" in refused
        assert end == "end"
        assert child.wait() == 0


# ---- Others --------------------------------------------------------------------------------------

HOLDER = """
import fcntl, os, sys
lock = os.open(sys.argv[1] + "/eventlog.lock", os.O_RDWR)
fcntl.lockf(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_log_that_another_process_keeps_is_a_store_that_is_unavailable(
    log_path: Path, start: Start
) -> None:
    with eventlog.open(log_path, lock_timeout=0.02) as log:
        store = log.blobs
        store.put("a", b"1")
        holder = start(HOLDER, log_path)
        assert holder.line() == "held"
        with pytest.raises(StoreUnavailableError, match=str(holder.pid)):
            store.put("a", b"2")
        with pytest.raises(StoreUnavailableError):
            store.delete("a")
        assert blob_at(store, "a").data == b"1"
        holder.kill()
        store.put("a", b"2")


KILLED = """
import itertools, sys
import eventlog

store = eventlog.open(sys.argv[1], durability=None).blobs
for number in itertools.count():
    text = b"%d," % number
    store.put("small", text)
    store.put("large", text * (2**22 // len(text)))
    store.put("large", text)
    store.put("coming", text * 2000)
    store.delete("coming")
    print(number, flush=True)
"""


def test_a_writer_killed_anywhere_leaves_whole_blobs(fast_path: Path, start: Start) -> None:
    rng = random.Random(3)
    with eventlog.open(fast_path, durability="process") as log:
        assert isinstance(log, EmbeddedLog)
        store = log.blobs
        for _ in range(8):
            child = start(KILLED, fast_path)
            last = max(int(child.line()) for _ in range(rng.randrange(1, 8)))
            child.kill()
            for blob in contents(store):
                number = blob.data.split(b",")[0]
                assert blob.data == (number + b",") * blob.data.count(b",")
                assert int(number) >= last or blob.name == "coming"
            assert log.look(damaged_blobs) == []
            store.delete("coming")
        store.put("large", b"small")
        assert rows_of(log) == 2


# ---- Damage --------------------------------------------------------------------------------------


def damage(log: EmbeddedLog, key: bytes, position: int) -> None:
    """Flip a bit of a value, where it is stored."""

    def flip(writer: Writer) -> None:
        value = bytearray(writer.get(key) or b"")
        value[position] ^= 1
        writer.put(key, bytes(value))

    log.commit(flip)


@pytest.mark.parametrize("position", [0, 8, 16, 24, 31, 35, -1])
def test_a_damaged_blob_is_an_error_that_names_it_and_can_be_put_anew(
    position: int, store: BlobStore, embedded: EmbeddedLog
) -> None:
    etag = store.put(NAME, b"data")
    store.put("other", b"fine")
    damage(embedded, keys.blob_key(NAME), position)
    for do in (
        lambda: store.get(NAME),
        lambda: store.get(NAME, if_none_match=etag),
        lambda: store.list("groups/"),
        lambda: store.put(NAME, b"new", if_match=etag),
        lambda: store.delete(NAME, if_match=etag),
    ):
        with pytest.raises(NotALogError, match=NAME):
            do()
    with pytest.raises(PreconditionFailedError):
        store.put(NAME, b"new", if_absent=True)
    assert [name for name, _ in embedded.look(damaged_blobs)] == [NAME]
    assert store.list("o") != []
    store.put(NAME, b"new")
    assert blob_at(store, NAME).data == b"new"
    assert embedded.look(damaged_blobs) == []
    damage(embedded, keys.blob_key(NAME), position)
    store.delete(NAME)
    assert [name for name, _ in store.list("")] == ["other"]


@pytest.mark.parametrize("what", ["a flipped bit", "a missing chunk", "a longer chunk"])
def test_damaged_chunks_are_found(what: str, store: BlobStore, embedded: EmbeddedLog) -> None:
    etag = store.put(NAME, LARGE)
    key = keys.blob_chunk_key(int(etag, 16), 500)
    if what == "a flipped bit":
        damage(embedded, key, 17)
    elif what == "a missing chunk":
        embedded.commit(lambda writer: writer.delete(key))
    else:
        embedded.commit(lambda writer: writer.put(key, bytes(4079)))
    assert store.get(NAME, if_none_match=etag) is NOT_MODIFIED
    with pytest.raises(NotALogError, match=NAME):
        store.get(NAME)
    ((name, reason),) = embedded.look(damaged_blobs)
    assert name == NAME
    assert "checksum" in reason
    store.put(NAME, b"small", if_match=etag)
    assert rows_of(embedded) == 1


def test_the_chunks_of_a_damaged_row_go_with_it(store: BlobStore, embedded: EmbeddedLog) -> None:
    for _ in range(2):
        store.put(NAME, LARGE)
        damage(embedded, keys.blob_key(NAME), -1)
        store.put(NAME, b"small")
        assert rows_of(embedded) == 1


def test_a_row_in_anothers_place_is_found(store: BlobStore, embedded: EmbeddedLog) -> None:
    store.put("a", b"1")
    store.put("b", b"2")

    def mistake(writer: Writer) -> None:
        writer.put(keys.blob_key("b"), writer.get(keys.blob_key("a")) or b"")

    embedded.commit(mistake)
    with pytest.raises(NotALogError, match="'b'"):
        store.get("b")
    assert [name for name, _ in embedded.look(damaged_blobs)] == ["b"]
    store.delete("b")


def run_in_threads(use: Any, count: int) -> None:
    """Run `use` with 0, 1 and on, in as many threads; raises what any of them raised."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(use, range(count)))
