"""The connections of a store in PostgreSQL: how many, whose, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import eventlog.blobs
from eventlog.blobs import Blob, BlobStore
from eventlog.blobs.postgresql import pool
from eventlog.blobs.postgresql.connection import Connection
from eventlog.errors import ClosedError
from tests.conftest import PATIENCE, Child, Start
from tests.servers import PostgreSQL

PIDS = """
SELECT pid FROM pg_stat_activity
WHERE application_name = 'eventlog' AND datname = current_database() ORDER BY pid
"""


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.store_url()


@pytest.fixture
def store(url: str) -> Iterator[BlobStore]:
    with eventlog.blobs.open(url) as store:
        yield store


@pytest.fixture
def pids(postgresql: PostgreSQL, url: str) -> Callable[[], list[int]]:
    """The server's processes, one for each connection of a store."""
    return lambda: [pid for (pid,) in postgresql.execute(PIDS, url=url)]


def _wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


# ---- Threads -------------------------------------------------------------------------------------


def test_many_threads_share_a_few_connections(
    store: BlobStore, pids: Callable[[], list[int]]
) -> None:
    """Each call is answered with what it asked for."""

    def use(thread: int) -> None:
        for number in range(50):
            data = b"%d of %d" % (number, thread)
            etag = store.put(f"{thread}", data)
            blob = store.get(f"{thread}")
            assert isinstance(blob, Blob)
            assert (blob.data, blob.etag) == (data, etag)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(use, range(16)))
    assert len(store.list("")) == 16
    assert 1 <= len(pids()) <= pool.MAX_CONNECTIONS


def test_one_thread_needs_one_connection(store: BlobStore, pids: Callable[[], list[int]]) -> None:
    """The same all the time, so that there is nothing to set up."""
    (first,) = pids()
    for _ in range(10):
        store.put("a", b"1")
    assert pids() == [first]


def test_a_connection_that_was_idle_for_long_is_replaced(
    store: BlobStore, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something on the way may have forgotten it, without telling."""
    (first,) = pids()
    monkeypatch.setattr(pool, "_MAX_IDLE_SECONDS", -1.0)
    assert store.get("a") is None
    _wait_until(lambda: len(pids()) == 1)
    assert first not in pids()


def test_an_interrupted_call_leaves_nothing_behind(
    store: BlobStore, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer is never taken for that to the next call."""
    (first,) = pids()
    store.put("a", b"1")
    with monkeypatch.context() as patch:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Connection, "_receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.get("a")
    assert store.get("b") is None
    assert first not in pids()


def test_a_closed_store_has_no_connections(
    url: str, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in use end with their call."""
    store = eventlog.blobs.open(url)
    asked, go_on = threading.Event(), threading.Event()
    ask = Connection.ask

    def pause(self: Connection, *args: object) -> object:
        asked.set()
        go_on.wait(PATIENCE)
        return ask(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "ask", pause)
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(store.put, "a", b"1")
        asked.wait(PATIENCE)
        store.close()
        go_on.set()
        assert call.result()
    _wait_until(lambda: not pids())
    with pytest.raises(ClosedError):
        store.get("a")


# ---- Processes -----------------------------------------------------------------------------------

FORKING = """
import gc, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import eventlog.blobs
from eventlog.blobs.postgresql.connection import Connection

store = eventlog.blobs.open(sys.argv[1])
store.put("parent", b"1")
ask = Connection.ask

def use_all():
    meeting = threading.Barrier(4)
    def meet(self, *args):
        meeting.wait(60)
        return ask(self, *args)
    Connection.ask = meet
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(store.get, "abcd"))
    Connection.ask = ask

def finished(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""


def _forked(start: Start, url: str, source: str) -> Child:
    return start(f"{FORKING}\n{source}", url)


def test_a_forked_child_has_connections_of_its_own(
    start: Start, url: str, store: BlobStore, pids: Callable[[], list[int]]
) -> None:
    """The parent's hear nothing of it, whatever the child does, and however it ends."""
    store.close()
    _wait_until(lambda: not pids())
    child = _forked(
        start,
        url,
        """
use_all()
print("used", flush=True); input()
for end in ("store.close()", "sys.exit()", "os._exit(0)", "del store; gc.collect()"):
    if (child := os.fork()) == 0:
        exec(end)
        sys.exit()
    assert finished(child) == 0
    if (child := os.fork()) == 0:
        etag = store.put("child", b"2")
        assert store.get("child").etag == etag
        assert store.get("parent").data == b"1"
        exec(end)
        sys.exit()
    assert finished(child) == 0
    assert store.get("parent").data == b"1"
print("forked", flush=True); input()
use_all()
print("used again", flush=True); input()
""",
    )
    assert child.line() == "used"
    before = pids()
    assert len(before) == pool.MAX_CONNECTIONS
    child.say()
    assert child.line() == "forked"
    _wait_until(lambda: len(pids()) == len(before))
    assert pids() == before
    child.say()
    assert child.line() == "used again"
    assert pids() == before
    child.say()
    child.rest()
    _wait_until(lambda: not pids())


def test_a_process_may_fork_while_its_store_is_in_use(start: Start, url: str) -> None:
    """No lock is held for ever in the child, and no answer gets lost."""
    child = _forked(
        start,
        url,
        """
stopped = threading.Event()
def keep_using(number):
    while not stopped.is_set():
        etag = store.put(f"{number}", b"%d" % number)
        blob = store.get(f"{number}")
        assert (blob.data, blob.etag) == (b"%d" % number, etag)
with ThreadPoolExecutor(8) as threads:
    using = [threads.submit(keep_using, number) for number in range(8)]
    for _ in range(40):
        if (child := os.fork()) == 0:
            assert store.get("parent").data == b"1"
            os._exit(0)
        assert finished(child) == 0
    stopped.set()
    for each in using:
        each.result()
print("well", flush=True)
""",
    )
    assert child.line() == "well"


def test_connections_end_with_the_parent_although_a_child_lives_on(
    start: Start, url: str, store: BlobStore, pids: Callable[[], list[int]]
) -> None:
    """The child has let go of them, even if it never uses the store."""
    store.close()
    _wait_until(lambda: not pids())
    parent = _forked(
        start,
        url,
        """
use_all()
if (child := os.fork()) == 0:
    input()
    assert store.get("parent").data == b"1"
    print("well", flush=True)
    os._exit(0)
print(child, flush=True)
threading.Event().wait()
""",
    )
    assert int(parent.line()) > 0
    assert len(pids()) == pool.MAX_CONNECTIONS
    parent.kill()
    _wait_until(lambda: not pids())
    parent.say()
    assert parent.line() == "well"
