"""What the URL of a store in PostgreSQL says, and what nobody gets to see of it."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import quote

import pytest

import eventlog.blobs
from eventlog.blobs.postgresql.location import locate
from eventlog.errors import StoreUnavailableError
from tests.blobs.objects import assert_secret
from tests.servers import PostgreSQL


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.store_url()


def test_the_store_says_where_it_is_and_nothing_more(postgresql: PostgreSQL, url: str) -> None:
    """Neither the user nor the password nor what stands in the query."""
    with eventlog.blobs.open(f"{url}?application_name=secret-name") as store:
        place = f"postgresql://127.0.0.1:{postgresql.port}/{url.rpartition('/')[2]}"
        assert repr(store) == f"<BlobStore at {place} table eventlog_blobs>"
    assert repr(locate(url, {})) == f"<Location {place} table eventlog_blobs>"


def test_who_has_no_psycopg_is_told_how_to_get_it() -> None:
    """When a store is opened, and not before."""
    source = """
import sys; sys.modules["psycopg"] = None
import eventlog, eventlog.blobs
try:
    eventlog.blobs.open("postgresql://host/db")
except ImportError as error:
    sys.exit("embedded-eventlog[postgresql]" not in str(error))
sys.exit(2)
"""
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_options_may_stand_in_the_url_and_keywords_win(postgresql: PostgreSQL, url: str) -> None:
    """Ours, and all that libpq knows."""
    asked = f"{url}?timeout=9.5&table=one&application_name=me&keepalives=1"
    with eventlog.blobs.open(asked, table="two", application_name="you & me") as store:
        assert repr(store).endswith("table two>")
        assert getattr(store, "timeout") == 9.5  # noqa: B009 - of these stores only
        names = "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
        assert ("you & me",) in postgresql.execute(names, url=url)
    parts = {"host": "127.0.0.1", "port": postgresql.port, "dbname": url.rpartition("/")[2]}
    secret = postgresql.secrets[0]
    with eventlog.blobs.open("postgres://", user="eventlog", password=secret, **parts) as store:
        store.put("a", b"1")
        assert secret not in repr(store)


def test_who_insists_on_encryption_gets_no_other_connection(url: str) -> None:
    """In the words of libpq, and in those of JDBC."""
    for words in ("ssl=true", "sslmode=require"):
        with pytest.raises(StoreUnavailableError, match="does not support SSL"):
            eventlog.blobs.open(f"{url}?{words}", timeout=60)


def test_what_is_no_option_is_named_and_its_value_is_not(url: str) -> None:
    """It may be a secret that was given the wrong name."""
    wrong: list[tuple[type[Exception], str, object]] = [
        (ValueError, "pasword", "s3cret"),
        (ValueError, "timeout", "s3cret"),
        (ValueError, "timeout", 0),
        (TypeError, "timeout", None),
        (TypeError, "sslmode", True),
        (TypeError, "port", b"1"),
        (ValueError, "target_session_attrs", "standby"),
    ]
    for error, option, value in wrong:
        with pytest.raises(error, match=option) as caught:
            eventlog.blobs.open(url, **{option: value})
        assert "s3cret" not in str(caught.value)
    with pytest.raises(ValueError, match="'pasword'") as in_url:
        eventlog.blobs.open(f"{url}?pasword=s3cret")
    assert "s3cret" not in str(in_url.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3c/ret@host/db",
        "postgresql://me:s3c?ret@host/db",
        "postgresql://me:s3c?ret=1@host/db&x@s3c",
        "postgresql://me:s3c@ret@host/db",
        "postgresql://me:s3c%zz@host/db",
        "postgresql://me:s3c%00@host/db",
        "postgresql://me:ret@[s3c/db",
        "postgresql://me:s3cret/db",
        "postgresql:me:s3c@host",
        "postgresql://me:s3c\ud800@host/db",
    ],
)
def test_no_error_shows_a_url_that_cannot_be_read(url: str) -> None:
    """Half of a password may be taken for a host, a port or a database."""
    with pytest.raises(ValueError, match=r"cannot be read|option") as caught:
        eventlog.blobs.open(url, timeout=0.2)
    assert_secret(caught.value, "s3c")


@pytest.mark.parametrize(
    "given",
    [
        {"password": "s3cret\udcff"},
        {"password": "s3cret\0"},
        {"timeout": "s3cret"},
        {"dbname": "postgresql://me:s3cret@host/db"},
        {"dbname": "host=127.0.0.1 password=s3cret"},
        {"host": "me:s3cret@host"},
        {"hostaddr": "me:s3cret@host"},
    ],
)
@pytest.mark.parametrize("in_url", [False, True])
def test_no_error_shows_an_option_that_cannot_be_so(given: dict[str, str], *, in_url: bool) -> None:
    """Nor is a place shown that has a password in it."""
    url = "postgresql://127.0.0.1:1/db?timeout=0.2"
    if in_url:
        given = {key: quote(text, errors="replace") for key, text in given.items()}
        url, given = "postgresql://127.0.0.1:1/db?" + "&".join(map("=".join, given.items())), {}
    with pytest.raises((ValueError, StoreUnavailableError)) as caught:
        eventlog.blobs.open(url, **given)
    assert_secret(caught.value, "s3c")


def test_a_password_may_have_any_character(postgresql: PostgreSQL, url: str) -> None:
    """Also such as separate the parts of a URL, or of what libpq takes."""
    odd = "a'b\\c d=e@f/g:h?i#j%k\nl\u00e9"
    text = odd.replace("'", "''")
    postgresql.execute("DROP ROLE IF EXISTS odd", f"CREATE ROLE odd LOGIN PASSWORD '{text}'")
    try:
        where = url.replace(url.partition("//")[2].partition("@")[0], "odd", 1)
        with eventlog.blobs.open(where, password=odd) as store:
            assert store.get("a") is None
    finally:
        postgresql.execute("DROP ROLE odd")
