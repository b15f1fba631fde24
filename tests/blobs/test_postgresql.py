"""The store in PostgreSQL: its table, what is asked of it, and the rights it takes."""

from __future__ import annotations

import functools
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

import eventlog.blobs
from eventlog.blobs import Blob, BlobStore
from eventlog.blobs.postgresql.connection import Connection
from eventlog.blobs.postgresql.statements import Statements, upper_bound
from eventlog.blobs.postgresql.store import PostgreSQLBlobs
from eventlog.blobs.remote import Unsure
from eventlog.errors import PreconditionFailedError, StoreUnavailableError
from eventlog.testing.races import RACERS, increment
from tests.servers import PostgreSQL

RIGHTS = "SELECT, INSERT, UPDATE, DELETE ON eventlog_blobs"


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.store_url()


@pytest.fixture
def store(url: str) -> Iterator[BlobStore]:
    with eventlog.blobs.open(url) as store:
        yield store


@pytest.fixture
def role(postgresql: PostgreSQL) -> Iterator[Callable[..., str]]:
    """Makes a role that may log in, `role(url, *what_more)`; the URL for it."""
    made: list[str] = []

    def make(url: str, *statements: str) -> str:
        name = f"role{len(made)}"
        made.append(name)
        password = postgresql.secrets[0]
        statements = tuple(statement.replace("ROLE", f"ROLE {name}") for statement in statements)
        postgresql.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}'",
            *(statement.replace("TO ME", f"TO {name}") for statement in statements),
            url=url,
        )
        return url.replace("eventlog:", f"{name}:", 1)

    yield make
    for name in made:
        for (database,) in postgresql.execute("SELECT datname FROM pg_database WHERE datallowconn"):
            postgresql.execute(f"DROP OWNED BY {name}", url=postgresql.url(database))
        postgresql.execute(f"DROP ROLE {name}")


# ---- The table -----------------------------------------------------------------------------------


def test_a_person_can_look_at_it_and_change_it(
    postgresql: PostgreSQL, url: str, store: BlobStore
) -> None:
    """With the SQL of the package's docstring. A change by hand is another version."""
    etag = store.put("a/b.json", b'{"n": 1}')
    select = "SELECT name, convert_from(data, 'UTF8'), etag, modified_at FROM eventlog_blobs"
    ((name, text, seen, modified_at),) = postgresql.execute(select, url=url)
    assert (name, text, seen) == ("a/b.json", '{"n": 1}', etag)
    blob = store.get("a/b.json")
    assert isinstance(blob, Blob)
    assert blob.modified_at == modified_at
    assert abs(datetime.now(UTC) - modified_at).total_seconds() < 60
    update = "UPDATE eventlog_blobs SET data = '{}', etag = md5(random()::text) WHERE name = '{}'"
    postgresql.execute(update.format("{}", "a/b.json"), url=url)
    with pytest.raises(PreconditionFailedError):
        store.put("a/b.json", b"2", if_match=etag)
    changed = store.get("a/b.json")
    assert isinstance(changed, Blob)
    store.put("a/b.json", b"2", if_match=changed.etag)


def test_who_only_looks_makes_no_table(postgresql: PostgreSQL, url: str, store: BlobStore) -> None:
    """It is made by the first put; until then nothing is there, and nothing is any version."""
    assert store.get("a") is None
    assert store.list("") == []
    store.delete("a")
    with pytest.raises(PreconditionFailedError):
        store.delete("a", if_match="0123")
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"1", if_match="0123")
    tables = "SELECT 1 FROM pg_tables WHERE tablename = 'eventlog_blobs'"
    assert postgresql.execute(tables, url=url) == []
    store.put("a", b"1", if_absent=True)
    assert postgresql.execute(tables, url=url) == [(1,)]


def test_many_may_make_the_table_at_once(url: str) -> None:
    """All of their puts happen."""
    for number in range(5):
        start = threading.Barrier(RACERS)

        def put(racer: int, table: str, start: threading.Barrier) -> None:
            with eventlog.blobs.open(url, table=table) as store:
                start.wait()
                store.put(f"{racer}", b"1")

        with ThreadPoolExecutor(RACERS) as threads:
            table = f"blobs_{number}"
            list(threads.map(lambda racer: put(racer, table, start), range(RACERS)))  # noqa: B023
        with eventlog.blobs.open(url, table=table) as store:
            assert [name for name, _ in store.list("")] == [f"{n}" for n in range(RACERS)]


def test_a_table_that_was_dropped_is_made_again(
    postgresql: PostgreSQL, url: str, store: BlobStore
) -> None:
    """Its blobs are gone, and nothing else happens."""
    store.put("a", b"1")
    postgresql.execute("DROP TABLE eventlog_blobs", url=url)
    assert store.get("a") is None
    store.put("b", b"1")
    assert [name for name, _ in store.list("")] == ["b"]


def test_a_table_has_the_name_it_was_given(postgresql: PostgreSQL, url: str) -> None:
    """In letters of either case, in another schema too; tables know nothing of each other."""
    postgresql.execute("CREATE SCHEMA other", url=url)
    for table in ("Blobs", "blobs", "other.Blobs", "select"):
        with eventlog.blobs.open(f"{url}?table={table}") as store:
            assert repr(store).endswith(f"table {table}>")
            store.put("a", table.encode(), if_absent=True)
    assert postgresql.execute('SELECT data FROM other."Blobs"', url=url) == [(b"other.Blobs",)]
    with (
        eventlog.blobs.open(url, table="nowhere.blobs") as store,
        pytest.raises(StoreUnavailableError, match='schema "nowhere" does not exist'),
    ):
        store.put("a", b"1")
    for bad in ("", 'a"b', "a b", "a.b.c", "a;", "1a", ".a", "a.", "a" * 64, 1, None):
        with pytest.raises(ValueError, match="table"):
            eventlog.blobs.open(url, table=bad)


@pytest.mark.parametrize(
    "columns",
    [
        "name text PRIMARY KEY, data text, etag text, modified_at timestamptz",
        "name text PRIMARY KEY, data bytea, etag bigint, modified_at timestamptz",
        "name text PRIMARY KEY, data bytea, etag text, modified_at timestamp",
        "name text PRIMARY KEY, data bytea, etag text",
        "id int",
    ],
)
def test_a_table_of_another_shape_is_refused(
    postgresql: PostgreSQL, url: str, columns: str
) -> None:
    """On opening, with the SQL that makes a right one."""
    postgresql.execute(f"CREATE TABLE eventlog_blobs ({columns})", url=url)
    with pytest.raises(StoreUnavailableError, match=r"not as it should be.*CREATE TABLE"):
        eventlog.blobs.open(url)


def test_a_table_that_cannot_compare_and_swap_is_refused(postgresql: PostgreSQL, url: str) -> None:
    """With the first put: two blobs could have one name in it."""
    columns = "name text, data bytea, etag text, modified_at timestamptz"
    postgresql.execute(f"CREATE TABLE eventlog_blobs ({columns})", url=url)
    with eventlog.blobs.open(url) as store:
        for put in (store.put, functools.partial(store.put, if_absent=True)):
            with pytest.raises(StoreUnavailableError, match=r"not as it should be.*CREATE TABLE"):
                put("a", b"1")


def test_what_a_person_put_there_can_be_listed_and_read(
    postgresql: PostgreSQL, url: str, store: BlobStore
) -> None:
    """What is no name is passed over, a time outside of Python's is the last of these."""
    store.put("m", b"1")
    for name in ("é", "a b", "", "zzz~", "{", ".x"):
        row = f"('{name}', '', 'x', 'infinity')"
        postgresql.execute(f"INSERT INTO eventlog_blobs VALUES {row}", url=url)
    postgresql.execute("UPDATE eventlog_blobs SET modified_at = 'infinity'", url=url)
    assert [name for name, _ in store.list("")] == ["m"]
    blob = store.get("m")
    assert isinstance(blob, Blob)
    assert blob.modified_at.year == 9999
    postgresql.execute("UPDATE eventlog_blobs SET modified_at = '-infinity', etag = 'y'", url=url)
    blob = store.get("m")
    assert isinstance(blob, Blob)
    assert (blob.modified_at.year, blob.data) == (1, b"1")


@pytest.mark.parametrize("etag", ["", "a b", "*", "é"])
def test_an_etag_that_can_be_none_is_told(
    postgresql: PostgreSQL, url: str, store: BlobStore, etag: str
) -> None:
    """Nobody could ever swap that blob: who has edited it is to give it another."""
    store.put("a", b"1")
    postgresql.execute(f"UPDATE eventlog_blobs SET etag = '{etag}'", url=url)
    with pytest.raises(StoreUnavailableError, match=r"'a' .*SET etag = md5\(random\(\)::text\)"):
        store.get("a")
    postgresql.execute("UPDATE eventlog_blobs SET etag = md5(random()::text)", url=url)
    blob = store.get("a")
    assert isinstance(blob, Blob)
    store.put("a", b"2", if_match=blob.etag)


def test_more_data_than_a_blob_can_have_are_not_read(
    postgresql: PostgreSQL, url: str, store: BlobStore
) -> None:
    """Only a person can put them there."""
    store.put("a", b"1")
    size = 4 * 1024 * 1024 + 1
    postgresql.execute(
        f"UPDATE eventlog_blobs SET data = convert_to(repeat('x', {size}), 'UTF8')", url=url
    )
    with pytest.raises(StoreUnavailableError, match=r"'a'.* has more than 4,194,304 bytes"):
        store.get("a")


# ---- What is asked of the database ---------------------------------------------------------------


def test_a_call_is_one_request(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is, and whether it is refused or not."""
    etag = store.put("a", b"1")
    asked = []
    ask = Connection.ask

    def count(self: Connection, *args: object) -> object:
        asked.append(args)
        return ask(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "ask", count)
    store.get("a")
    store.get("a", if_none_match=etag)
    store.get("b")
    store.put("a", b"2")
    store.put("b", b"1", if_absent=True)
    store.list("")
    store.delete("b")
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"3", if_match=etag)
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"3", if_absent=True)
    with pytest.raises(PreconditionFailedError):
        store.delete("a", if_match=etag)
    assert len(asked) == 10


def test_a_list_reads_no_more_than_it_lists(
    postgresql: PostgreSQL, url: str, store: BlobStore
) -> None:
    """The index leads to it; '_' stands for itself only."""
    for name in ("a_b/1", "a_b/2", "axb/1", "a-b/1"):
        store.put(name, b"1")
    assert isinstance(store, PostgreSQLBlobs)
    assert sorted(name for name, _ in store._names("a_b", time.monotonic() + 60)) == [
        "a_b/1",
        "a_b/2",
    ]
    postgresql.execute(
        "INSERT INTO eventlog_blobs SELECT 'many/' || n, '', 'x', now() "
        "FROM generate_series(1, 20000) n",
        "ANALYZE eventlog_blobs",
        url=url,
    )
    names = Statements("eventlog_blobs").names.text.decode()
    names = names.replace("$1", "'a_'").replace("$2", f"'{upper_bound('a_')}'")
    plan = "\n".join(row for (row,) in postgresql.execute(f"EXPLAIN {names}", url=url))
    assert "Index Scan" in plan
    assert "Index Cond" in plan
    get = Statements("eventlog_blobs").get.text.decode()
    get = get.replace("$1", "'a_b/1'").replace("$2", "NULL")
    assert "Index Scan" in postgresql.execute(f"EXPLAIN {get}", url=url)[0][0]


def test_heartbeats_touch_no_index(postgresql: PostgreSQL, url: str) -> None:
    """All are HOT updates, and the table stays as large as it was: see the package's docstring."""
    with eventlog.blobs.open(url) as store:
        names = [f"groups/0/g/hosts/{number}" for number in range(60)]
        etags = {name: store.put(name, bytes(500)) for name in names}
        size = "SELECT pg_relation_size('eventlog_blobs'), pg_indexes_size('eventlog_blobs')"
        before = postgresql.execute(size, url=url)
        for beat in range(20):
            for name, etag in etags.items():
                etags[name] = store.put(name, b"%500d" % beat, if_match=etag)
        assert postgresql.execute(size, url=url) == before
    updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
    end = time.monotonic() + 60
    while (counted := postgresql.execute(updates, url=url)[0])[0] < 1200:  # soon after the close
        assert time.monotonic() < end
    assert counted == (1200, 1200)


@pytest.mark.parametrize(
    "database",
    [
        "ENCODING 'LATIN1' LOCALE 'C'",
        "ENCODING 'SQL_ASCII' LOCALE 'C'",
        "ENCODING 'EUC_JP' LOCALE 'C'",
        "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C'",
    ],
)
def test_encodings_and_collations_make_no_difference(
    postgresql: PostgreSQL, url: str, database: str
) -> None:
    """Names are listed in the order of their bytes, by prefixes of bytes."""
    made = f"{url.rpartition('/')[2]}-other"
    postgresql.execute(f"""CREATE DATABASE "{made}" TEMPLATE template0 {database}""")
    try:
        with eventlog.blobs.open(f"{url}-other") as store:
            names = ["A/b", "B", "_", "a-b", "a.b", "a/B", "a/b", "aB", "a_b", "b"]
            for name in reversed(names):
                store.put(name, b"\xff\x00\xe9")
            assert [name for name, _ in store.list("")] == sorted(names)
            assert [name for name, _ in store.list("a")] == [n for n in names if n[0] == "a"]
            blob = store.get("a_b")
            assert isinstance(blob, Blob)
            assert blob.data == b"\xff\x00\xe9"
        postgresql.execute(
            """INSERT INTO eventlog_blobs VALUES ('b' || chr(122) || convert_from('\\x7ae9', """
            """'LATIN1'), '', 'x', now())"""
            if "LATIN1" in database
            else "SELECT 1",
            url=f"{url}-other",
        )
        with eventlog.blobs.open(f"{url}-other") as store:
            assert len(store.list("")) == len(names)
    finally:
        postgresql.execute(f'DROP DATABASE "{made}" WITH (FORCE)')


def test_a_table_with_names_in_another_order_will_do(postgresql: PostgreSQL, url: str) -> None:
    """Made by somebody who left out the collation: it is only slower."""
    columns = "name text COLLATE und PRIMARY KEY, data bytea, etag text, modified_at timestamptz"
    postgresql.execute(
        "CREATE COLLATION und (provider = icu, locale = 'und')",
        f"CREATE TABLE eventlog_blobs ({columns})",
        url=url,
    )
    with eventlog.blobs.open(url) as store:
        names = ["A", "B", "a", "b", "b-c", "b/a", "bc"]
        for name in names:
            store.put(name, b"1")
        assert [name for name, _ in store.list("")] == names
        assert [name for name, _ in store.list("b")] == names[3:]


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
def test_a_stricter_isolation_makes_no_difference(
    postgresql: PostgreSQL, url: str, isolation: str
) -> None:
    """Who loses a race is asked again at once, and never told that it cannot be told who won."""
    database = url.rpartition("/")[2]
    postgresql.execute(
        f"""ALTER DATABASE "{database}" SET default_transaction_isolation = '{isolation}'"""
    )
    with eventlog.blobs.open(url) as store, ThreadPoolExecutor(RACERS) as threads:
        list(threads.map(lambda n: increment(store, n, times=25), range(RACERS)))
        blob = store.get("counter")
        assert isinstance(blob, Blob)
        assert int(blob.data) == 25 * RACERS


# ---- Rights --------------------------------------------------------------------------------------


def test_who_may_not_make_the_table_is_told_how_to(
    postgresql: PostgreSQL, url: str, role: Callable[..., str]
) -> None:
    """What the error says is what its owner has to run."""
    with eventlog.blobs.open(role(url)) as store:
        assert store.list("") == []
        with pytest.raises(StoreUnavailableError, match="permission denied") as caught:
            store.put("a", b"1")
        advice = str(caught.value).partition("Have it made: ")[2].partition("; and be granted")[0]
        postgresql.execute(advice, url=url)
        with pytest.raises(StoreUnavailableError, match=r"permission denied.*SELECT, INSERT"):
            store.get("a")
        postgresql.execute(f"GRANT {RIGHTS} TO PUBLIC", url=url)
        etag = store.put("a", b"1", if_absent=True)
        etag = store.put("a", b"2", if_match=etag)
        store.put("a", b"3")
        assert [name for name, _ in store.list("")] == ["a"]
        store.delete("a")


def test_who_may_only_look_can_look(
    postgresql: PostgreSQL, url: str, store: BlobStore, role: Callable[..., str]
) -> None:
    """And is told at once when it cannot do more."""
    store.put("a", b"1")
    reader = role(url, "GRANT SELECT ON eventlog_blobs TO ME")
    read_only = role(
        url,
        f"GRANT {RIGHTS} TO ME",
        "ALTER ROLE SET default_transaction_read_only = on",
    )
    for who, why in ((reader, "permission denied"), (read_only, "read-only transaction")):
        with eventlog.blobs.open(who, timeout=60) as looking:
            assert looking.get("a") == store.get("a")
            assert looking.list("") == store.list("")
            began = time.monotonic()
            for change in (
                lambda: looking.put("a", b"2"),
                lambda: looking.put("b", b"2", if_absent=True),
                lambda: looking.delete("a"),
            ):
                with pytest.raises(StoreUnavailableError, match=why):
                    change()
            assert time.monotonic() - began < 30


def test_who_is_not_let_in_is_told_why_at_once(postgresql: PostgreSQL, url: str) -> None:
    """A wrong password, database or role is as wrong in a moment; and no error shows the right."""
    wrong_password = "Wr0ng-" + "f" * 20
    url_of = url.replace
    right = postgresql.secrets[1]
    for wrong, why in (
        (url_of(right, wrong_password), "password authentication failed"),
        (f"{url}-not", "does not exist"),
        (url_of("eventlog:", "nobody:", 1), "password authentication failed"),
        (url_of(f":{right}@", "@"), "no password supplied"),
    ):
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=why) as caught:
            eventlog.blobs.open(wrong, timeout=60)
        assert time.monotonic() - began < 30
        assert "\n" not in str(caught.value)
        told = "".join(traceback.format_exception(caught.value))
        for secret in (*postgresql.secrets, wrong_password):
            assert secret not in told
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None or isinstance(caught.value.__context__, Unsure)
