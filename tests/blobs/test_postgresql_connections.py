"""The connections of a store in PostgreSQL: how many, whose, and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

import eventlog.blobs
from eventlog.blobs import Blob, BlobStore
from eventlog.blobs.postgresql import connecting, pool
from eventlog.blobs.postgresql.connection import Connection
from eventlog.blobs.postgresql.pool import Pool
from eventlog.blobs.postgresql.store import PostgreSQLBlobs
from eventlog.blobs.remote import LateUndone, Unsure
from eventlog.errors import ClosedError, StoreUnavailableError
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
    _wait_until(lambda: first not in pids())


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


# ---- Taking turns --------------------------------------------------------------------------------


class Lent:
    """What a pool takes for a connection."""

    has_ended = False
    used_at = float("inf")

    def close(self) -> None:
        pass

    abort = forget = close


def _pool(most: int) -> Pool:
    connect: Any = lambda until: Lent()  # noqa: E731
    return Pool(connect, most)


def test_who_asks_first_is_served_first() -> None:
    """Who gives a connection back and wants it again waits behind the others."""
    one = _pool(1)
    served: list[int] = []

    def use(number: int) -> None:
        with one.lend(time.monotonic() + PATIENCE):
            served.append(number)

    with ThreadPoolExecutor(10) as threads:
        with one.lend(time.monotonic() + PATIENCE):
            for number in range(10):
                threads.submit(use, number)
                _wait_until(lambda: len(one._waiting) == number + 1)  # noqa: B023
        use(10)
    assert served == list(range(11))


def test_who_has_waited_too_long_leaves_its_place_to_the_next() -> None:
    one = _pool(1)
    with ThreadPoolExecutor(1) as threads:
        with one.lend(time.monotonic() + PATIENCE):
            with pytest.raises(LateUndone, match="all its connections are in use, 1 at most"):
                one.lend(time.monotonic() + 0.05).__enter__()
            next_one = threads.submit(one.lend(time.monotonic() + PATIENCE).__enter__)
            _wait_until(lambda: len(one._waiting) == 1)
        assert next_one.result() is not None


def test_to_wait_takes_of_the_time_of_the_call(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose turn comes too late for a whole request asks no more: it would only be given up, and
    its connection with it.
    """
    with eventlog.blobs.open(url) as store, ExitStack() as taken:
        assert isinstance(store, PostgreSQLBlobs)
        began: list[float] = []
        turns: list[float] = []
        in_turn = store._pool._in_turn

        def clock() -> float:
            began.append(time.monotonic())
            return began[-1]

        def note(until: float) -> Connection | None:
            turns.append(until)
            return in_turn(until)

        for _ in range(pool.MAX_CONNECTIONS):
            taken.enter_context(store._pool.lend(time.monotonic() + PATIENCE))
        monkeypatch.setattr(store, "timeout", 0.3)
        monkeypatch.setattr(store, "request_timeout", 0.15)
        monkeypatch.setattr(store, "_clock", clock)
        monkeypatch.setattr(store._pool, "_in_turn", note)
        with pytest.raises(StoreUnavailableError, match="all its connections are in use"):
            store.get("a")
        assert turns[0] == began[0] + store.timeout - store.request_timeout


def test_nothing_is_asked_beyond_the_time_of_the_call(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow it was to connect.

    Everything fails at once here, and notes until when it might have taken.
    """
    untils: list[float] = []
    spans: list[float] = []
    began: list[float] = []
    make = connecting._connect

    def clock() -> float:
        began.append(time.monotonic())
        return began[-1]

    def connect(address: Mapping[str, Any], until: float) -> Connection:
        note(until)
        return make(address, began[0] + PATIENCE)

    def ask(*_: object) -> None:
        note(_[-1])
        raise Unsure("the answer is lost")

    def note(until: Any) -> None:
        spans.append(until - time.monotonic())
        untils.append(until)

    with eventlog.blobs.open(url, timeout=1) as opened:
        store: Any = opened
        store._clock = clock
        monkeypatch.setattr(connecting, "_connect", connect)
        monkeypatch.setattr(Connection, "ask", ask)
        calls: list[Callable[[], object]] = [
            lambda: store.get("a"),
            lambda: store.list(""),
            lambda: store.put("a", b"1"),
            lambda: store.delete("a"),
        ]
        for call in calls:
            for notes in (untils, spans, began):
                notes.clear()
            with pytest.raises(StoreUnavailableError):
                call()
            assert len(untils) >= 2
            assert max(untils) <= began[0] + 1
            assert max(spans) <= 0.5


def test_a_store_apart_does_not_wait_for_the_others(
    url: str, store: BlobStore, pids: Callable[[], list[int]]
) -> None:
    """It has one connection of its own."""
    etag = store.put("a", b"1")
    apart = store.apart()
    assert isinstance(store, PostgreSQLBlobs)
    with ExitStack() as taken:
        for _ in range(pool.MAX_CONNECTIONS):
            taken.enter_context(store._pool.lend(time.monotonic() + PATIENCE))
        changed = apart.put("a", b"2", if_match=etag)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(apart.get, "abcdefgh"))
        assert len(pids()) == pool.MAX_CONNECTIONS + 1
    apart.close()
    _wait_until(lambda: len(pids()) == pool.MAX_CONNECTIONS)
    assert store.list("") == [("a", changed)]
    assert not store.is_closed


def test_a_store_apart_is_closed_with_the_store(
    store: BlobStore, pids: Callable[[], list[int]]
) -> None:
    apart = store.apart()
    assert apart.get("a") is None
    store.close()
    with pytest.raises(ClosedError):
        apart.get("a")
    with pytest.raises(ClosedError):
        store.apart()
    _wait_until(lambda: not pids())


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
