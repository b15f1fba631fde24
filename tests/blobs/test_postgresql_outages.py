"""The store in PostgreSQL when its server ends, stands still, is full, or is a standby."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import eventlog.blobs
from eventlog.blobs import Blob, BlobStore
from eventlog.blobs.postgresql import connecting
from eventlog.blobs.postgresql.connection import Connection
from eventlog.blobs.postgresql.failures import one_line
from eventlog.blobs.remote import Unsure
from eventlog.errors import StoreUnavailableError
from tests.servers import PostgreSQL
from tests.servers import postgresql as postgresql_server
from tests.servers.programs import Program

PATIENCE = 60.0
SOON = 8.0  # seconds; never, if nobody looked at the time
OURS = "application_name = 'eventlog' AND datname = current_database()"


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.store_url()


@pytest.fixture
def store(url: str) -> Iterator[BlobStore]:
    with eventlog.blobs.open(url) as store:
        yield store


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whatever is asked of the server from now on."""
    asked: list[object] = []
    ask = Connection.ask

    def note(self: Connection, statement: object, *others: object) -> object:
        asked.append(statement)
        return ask(self, statement, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "ask", note)
    return asked


def _data(store: BlobStore, name: str) -> bytes | None:
    blob = store.get(name)
    assert blob is None or isinstance(blob, Blob)
    return blob.data if blob else None


def _wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.01)


def _count(postgresql: PostgreSQL, url: str, condition: str = "true") -> int:
    """Connections of stores."""
    count = f"SELECT count(*) FROM pg_stat_activity WHERE {OURS} AND {condition}"
    ((number,),) = postgresql.execute(count, url=url)
    assert isinstance(number, int)
    return number


def _use_all(store: BlobStore) -> None:
    """Have it make all the connections that it may."""
    meeting = threading.Barrier(4)
    ask = Connection.ask

    def meet(self: Connection, *args: object) -> object:
        meeting.wait(PATIENCE)
        return ask(self, *args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(4) as threads:
        patch.setattr(Connection, "ask", meet)
        list(threads.map(store.get, "abcd"))


# ---- The server ends -----------------------------------------------------------------------------


def test_a_server_that_was_started_again_costs_nothing(
    postgresql: PostgreSQL, url: str, store: BlobStore, asked: list[object]
) -> None:
    """Connections that have ended are seen to have, and nothing is asked of them."""
    etag = store.put("a", b"1")
    _use_all(store)
    postgresql.stop()
    postgresql.start()
    del asked[:]
    store.put("a", b"2", if_match=etag)
    assert len(asked) == 1
    assert _data(store, "a") == b"2"


def test_while_there_is_no_server_the_store_is_unavailable(
    postgresql: PostgreSQL, url: str
) -> None:
    """For every call, in time, and for who opens it; afterwards all goes on."""
    with eventlog.blobs.open(url, timeout=0.5) as store:
        etag = store.put("a", b"1")
        postgresql.stop()
        for call in (
            lambda: store.get("a"),
            lambda: store.list(""),
            lambda: store.put("a", b"2"),
            lambda: store.put("a", b"2", if_match=etag),
            lambda: store.put("b", b"2", if_absent=True),
            lambda: store.delete("a"),
            lambda: store.delete("a", if_match=etag),
            lambda: eventlog.blobs.open(url, timeout=0.5),
        ):
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match=r"refused|shutting down"):
                call()
            assert time.monotonic() - began < SOON
        postgresql.start()
        store.put("a", b"2", if_match=etag)


def test_a_socket_that_is_not_there_may_come(tmp_path: Path) -> None:
    """It goes with the server: who opens the store meanwhile waits for it."""
    with pytest.raises(StoreUnavailableError, match=r"within 0.2 s.*No such file"):
        eventlog.blobs.open("postgresql:///db", host=f"{tmp_path}", timeout=0.2)


def test_a_call_outlasts_an_outage_that_is_short(
    postgresql: PostgreSQL, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is repeated until the server is back."""
    refused = threading.Semaphore(0)

    def note(text: bytes | None) -> str:
        refused.release()
        return one_line(text)

    monkeypatch.setattr(connecting, "one_line", note)
    with eventlog.blobs.open(url, timeout=60) as store, ThreadPoolExecutor(3) as threads:
        etag = store.put("a", b"1")
        postgresql.stop()
        replacing = threads.submit(store.put, "a", b"2", if_match=etag)
        creating = threads.submit(store.put, "b", b"1", if_absent=True)
        opening = threads.submit(eventlog.blobs.open, url, timeout=60)
        for _ in range(3 * 3):
            assert refused.acquire(timeout=PATIENCE)
        postgresql.start()
        put = {"a": replacing.result(), "b": creating.result()}
        with opening.result() as other:
            assert dict(other.list("")) == put


def test_what_is_put_outlasts_a_crash(postgresql: PostgreSQL) -> None:
    """Although the database is told to promise less: the store asks for more."""
    lazy = PostgreSQL(wal_writer_delay="10s", synchronous_commit="off")
    with (
        contextlib.closing(lazy) as server,
        eventlog.blobs.open(server.store_url()) as store,
    ):
        etag = store.put("a", b"1", if_absent=True)
        for _ in range(3):
            etag = store.put("a", b"2", if_match=etag)
            store.put("b", etag.encode())
            server.crash()
            server.start()
            assert (_data(store, "a"), _data(store, "b")) == (b"2", etag.encode())
            store.delete("a", if_match=etag)
            server.crash()
            server.start()
            assert _data(store, "a") is None
            etag = store.put("a", b"1")


def test_idle_connections_that_were_terminated_are_replaced(
    postgresql: PostgreSQL, url: str, store: BlobStore, asked: list[object]
) -> None:
    """By whoever is in charge of the server."""
    store.put("a", b"1")
    _use_all(store)
    assert _count(postgresql, url) == 4
    postgresql.execute(
        f"SELECT pg_terminate_backend(pid, 9999) FROM pg_stat_activity WHERE {OURS}", url=url
    )
    del asked[:]
    assert _data(store, "a") == b"1"
    assert len(asked) == 1


def test_a_request_that_was_terminated_is_repeated(postgresql: PostgreSQL, url: str) -> None:
    """Or cancelled; it has changed nothing."""
    with eventlog.blobs.open(url, timeout=60) as store:
        etag = store.put("a", b"1")
        for end in ("pg_terminate_backend", "pg_cancel_backend"):
            with postgresql.connect(url) as other, ThreadPoolExecutor(1) as thread:
                with other.transaction():
                    other.execute("SELECT 1 FROM eventlog_blobs FOR UPDATE")
                    put = thread.submit(store.put, "a", b"2", if_match=etag)
                    _wait_until(lambda: _count(postgresql, url, "wait_event_type = 'Lock'"))
                    postgresql.execute(
                        f"SELECT {end}(pid) FROM pg_stat_activity "
                        f"WHERE {OURS} AND wait_event_type = 'Lock'",
                        url=url,
                    )
                etag = put.result()
            assert _data(store, "a") == b"2"


# ---- Answers that do not come --------------------------------------------------------------------


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """While there is something in it: it is taken and called instead of giving an answer."""
    losses: list[Callable[[], object]] = []
    ask = Connection.ask

    def lose(self: Connection, *args: object) -> object:
        answer = ask(self, *args)  # type: ignore[arg-type]
        if losses:
            losses.pop()()
            raise Unsure("the answer is lost")
        return answer

    monkeypatch.setattr(Connection, "ask", lose)
    return losses


def test_a_lost_answer_is_found_out(
    url: str, store: BlobStore, losing: list[Callable[[], object]]
) -> None:
    """What has happened is known by its etag, and happens once."""
    store.put("x", b"1")
    losing.append(lambda: None)
    etag = store.put("a", b"1", if_absent=True)
    assert store.list("a") == [("a", etag)]
    losing.append(lambda: None)
    second = store.put("a", b"2", if_match=etag)
    assert store.list("a") == [("a", second)] != [("a", etag)]
    losing.append(lambda: None)
    store.delete("a")
    assert _data(store, "a") is None


def test_who_comes_after_a_lost_answer_leaves_it_in_doubt(
    url: str, store: BlobStore, losing: list[Callable[[], object]]
) -> None:
    """It is said, and not guessed."""
    with eventlog.blobs.open(url) as other:
        etag = store.put("a", b"1")
        losing.append(lambda: other.put("a", b"other's"))
        with pytest.raises(StoreUnavailableError, match="cannot be told"):
            store.put("a", b"2", if_match=etag)
        assert _data(store, "a") == b"other's"


def test_who_asks_a_server_that_stands_still_is_answered_in_time(
    postgresql: PostgreSQL, url: str
) -> None:
    """By the store, whatever is asked. When the server goes on, so does the store."""
    with eventlog.blobs.open(url, timeout=0.6) as store:
        etag = store.put("a", b"1")
        postgresql.pause()
        for call in (
            lambda: store.get("a"),
            lambda: store.list(""),
            lambda: store.put("a", bytes(4 << 20), if_match=etag),
            lambda: store.delete("a", if_match="0123"),
            lambda: eventlog.blobs.open(url, timeout=0.6),
        ):
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="no answer in time"):
                call()
            assert time.monotonic() - began < SOON
        postgresql.resume()
        _wait_until(lambda: _count(postgresql, url) == 0)
        assert _data(store, "a") == b"1"


def test_a_put_to_a_server_that_stood_still_happens_once(
    postgresql: PostgreSQL, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both tries take effect when it goes on, or one does: its etag tells that this put did it."""
    given_up = threading.Event()
    abort = Connection.abort

    def note(self: Connection) -> None:
        abort(self)
        given_up.set()

    monkeypatch.setattr(Connection, "abort", note)
    with eventlog.blobs.open(url, timeout=6) as store, ThreadPoolExecutor(1) as thread:
        etag = store.put("a", b"1")
        postgresql.pause()
        put = thread.submit(store.put, "a", b"2", if_match=etag)
        assert given_up.wait(PATIENCE)
        postgresql.resume()
        assert store.list("a") == [("a", put.result())]


def test_one_connection_without_an_answer_is_the_end_of_all(
    postgresql: PostgreSQL, url: str
) -> None:
    """They lead to the same server: not each of them is to be waited for."""
    with eventlog.blobs.open(url, timeout=0.6) as store:
        _use_all(store)
        postgresql.pause()
        with pytest.raises(StoreUnavailableError):
            store.get("a")
        postgresql.resume()
        _wait_until(lambda: _count(postgresql, url) == 0)


def test_what_has_not_left_when_it_is_given_up_never_does(postgresql: PostgreSQL, url: str) -> None:
    """The rest of a long put is not sent when the server goes on, so it never happens."""
    with eventlog.blobs.open(url, timeout=0.6) as store:
        store.put("a", b"1")
        for _ in range(3):
            postgresql.pause()
            with pytest.raises(StoreUnavailableError, match="no answer in time"):
                store.put("a", bytes(4 << 20))
            postgresql.resume()
            _wait_until(lambda: _count(postgresql, url) == 0)
            assert _data(store, "a") == b"1"


def test_a_host_whose_address_is_not_found_out_in_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its look-up is left alone."""
    answer = threading.Event()
    monkeypatch.setattr(connecting, "conninfo_attempts", lambda _: answer.wait(PATIENCE))
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="host's address"):
        eventlog.blobs.open(url, timeout=0.2)
    assert time.monotonic() - began < SOON
    answer.set()


def test_of_several_hosts_one_is_enough(
    postgresql: PostgreSQL, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may refuse, or stand still: there is time for each, and once is enough."""
    with contextlib.closing(PostgreSQL()) as deaf:
        deaf.pause()
        where = {"host": "127.0.0.1,localhost", "port": f"{deaf.port},{postgresql.port}"}
        who = {"user": "eventlog", "password": postgresql.secrets[0]}
        with eventlog.blobs.open(
            "postgresql://", dbname=url.rpartition("/")[2], timeout=2, **where, **who
        ) as store:
            assert "//127.0.0.1,localhost/test-" in repr(store)
            tried = []
            make = connecting._connect

            def note(address: Mapping[str, Any], until: float) -> Connection:
                tried.append(address["port"])
                return make(address, until)

            monkeypatch.setattr(connecting, "_connect", note)
            _use_all(store)
            assert tried == [f"{postgresql.port}"] * 3
            assert _count(postgresql, url) == 4


def test_a_standby_is_no_server_until_it_is_promoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads from it might not see what has been put: it is waited for."""
    with contextlib.closing(PostgreSQL()) as server:
        url = server.store_url()
        with eventlog.blobs.open(url, timeout=2) as store:
            store.put("a", b"1")
            server.stop()
            (server._data / "standby.signal").touch()
            monkeypatch.setattr(postgresql_server, "Program", _read_only)
            server.start()
            for call in (
                lambda: store.get("a"),
                lambda: store.put("a", b"2"),
                lambda: eventlog.blobs.open(url, timeout=2),
            ):
                with pytest.raises(StoreUnavailableError, match="hot standby"):
                    call()
            with ThreadPoolExecutor(1) as thread:
                opening = thread.submit(eventlog.blobs.open, url, timeout=60)
                server.execute("SELECT pg_promote()")
                with opening.result() as other:
                    assert _data(other, "a") == b"1"
            store.put("a", b"2")


def _read_only(argv: list[str], _: str, **more: Any) -> Program:
    return Program(argv, "ready to accept read-only connections", **more)


# ---- Others are in the way -----------------------------------------------------------------------


def test_what_a_primary_that_reads_only_is_asked_to_write(postgresql: PostgreSQL, url: str) -> None:
    """It has been set so, and stays so: nobody waits for it."""
    with eventlog.blobs.open(url, timeout=60) as store:
        store.put("a", b"1")
        name = url.rpartition("/")[2]
        postgresql.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        with eventlog.blobs.open(url, timeout=60) as late:
            began = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="read-only transaction"):
                late.put("a", b"2")
            assert time.monotonic() - began < SOON
            assert _data(late, "a") == b"1"


@pytest.mark.parametrize("lock", ["SELECT 1 FROM eventlog_blobs FOR UPDATE", "LOCK eventlog_blobs"])
def test_who_waits_for_a_lock_waits_no_longer_than_the_call(
    postgresql: PostgreSQL, url: str, lock: str
) -> None:
    """Nothing waits on in the server, and nothing is written when the lock is let go."""
    with eventlog.blobs.open(url, timeout=2) as store:
        etag = store.put("a", b"1")
        with postgresql.connect(url) as other, other.transaction():
            other.execute(lock.encode())
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(StoreUnavailableError, match="statement timeout"):
                    store.put("a", b"2")
                assert time.monotonic() - began < SOON
            with pytest.raises(StoreUnavailableError):
                store.put("a", b"2", if_match=etag)
            assert _count(postgresql, url, "state <> 'idle'") == 0
            assert _count(postgresql, url) == 1
        assert _data(store, "a") == b"1"


def test_a_store_makes_do_with_the_connections_it_gets(postgresql: PostgreSQL, url: str) -> None:
    """One is enough for all threads; without any the store is unavailable."""
    secret = postgresql.secrets[0]
    postgresql.execute(
        "DROP ROLE IF EXISTS few", f"CREATE ROLE few LOGIN CONNECTION LIMIT 1 PASSWORD '{secret}'"
    )
    try:
        postgresql.execute("GRANT ALL ON SCHEMA public TO few", url=url)
        few = url.replace("eventlog:", "few:", 1)
        with eventlog.blobs.open(few, timeout=60) as store, ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: store.put(f"{n}", b"1"), range(100)))
            assert len(store.list("")) == 100
            with pytest.raises(StoreUnavailableError, match="too many connections"):
                eventlog.blobs.open(few, timeout=3)
    finally:
        postgresql.execute("DROP OWNED BY few", "DROP ROLE few", url=url)
