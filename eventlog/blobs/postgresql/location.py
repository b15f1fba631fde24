"""Where a store is: its URL and options, read and checked.

What cannot be read is never shown: it may be a part of a password.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from eventlog.blobs.remote import DEFAULT_TIMEOUT, check_timeout

__all__ = ["Location", "locate"]

_DEFAULT_TABLE: Final = "eventlog_blobs"
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_URL: Final = re.compile(r"postgres(ql)?://([^/@]*@)?[^/@]*(/[^@]*)?")
_PORTS: Final = re.compile(r"[0-9,]*")
"""Stricter than libpq, to which a half of a password may be a port or a database."""

_PRIMARIES: Final = ("primary", "read-write")


class Location(NamedTuple):
    """Where a store is.

    Attributes:
        place: host, database and table; nothing secret.
        parameters: what libpq takes; also secrets.
        table: its quoted name.
    """

    place: str
    parameters: Mapping[str, str]
    table: str
    timeout: float

    def __repr__(self) -> str:
        return f"<Location {self.place}>"


def locate(url: str, options: Mapping[str, object]) -> Location:
    """Read `url`, in which an option may stand as well as in `options`, which win.

    Raises:
        ValueError, TypeError: an option there is not, or that cannot be so.
    """
    address, asked = _split(url)
    given: dict[str, object] = {**asked, **options}
    timeout = check_timeout(_number(given.pop("timeout", DEFAULT_TIMEOUT)))
    table = given.pop("table", _DEFAULT_TABLE)
    if not isinstance(table, str) or not all(map(_IDENTIFIER.fullmatch, table.split(".", 1))):
        raise ValueError("table is the name of a table, or SCHEMA.TABLE: letters, digits and '_'")
    parameters = _parse(address) | {key: _text(key, value) for key, value in given.items()}
    _refuse_urls(parameters)
    parameters.setdefault("target_session_attrs", _PRIMARIES[0])
    if parameters["target_session_attrs"] not in _PRIMARIES:
        raise ValueError(f"target_session_attrs of a store is one of {', '.join(_PRIMARIES)}")
    parameters.setdefault("fallback_application_name", "eventlog")
    place = f"{_address(parameters)} table {table}"
    return Location(place, parameters, ".".join(f'"{part}"' for part in table.split(".")), timeout)


def _split(url: str) -> tuple[str, dict[str, str]]:
    """The URL without its query, and what that asks for."""
    address, _, query = url.partition("?")
    asked = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if not _IDENTIFIER.fullmatch(key):
            raise _unreadable()
        asked[key] = unquote(value)
    if asked.get("ssl") == "true":  # as JDBC says it, and libpq understands
        del asked["ssl"]
        asked.setdefault("sslmode", "require")
    return address, asked


def _parse(address: str) -> dict[str, str]:
    parameters = None
    with contextlib.suppress(psycopg.Error, UnicodeError):  # no error has theirs beside it
        parameters = {key: str(value) for key, value in conninfo_to_dict(address).items()}
    if parameters is None or not _URL.fullmatch(address):
        raise _unreadable()
    if not _PORTS.fullmatch(parameters.get("port", "")):
        raise _unreadable()
    return parameters


def _unreadable() -> ValueError:
    return ValueError(
        "the URL of the PostgreSQL store cannot be read: postgresql://USER:PASSWORD@HOST/DATABASE, "
        "in which '/', '@', ':', '?', '#' and '%' within a part are percent-encoded"
    )


def _text(key: str, value: object) -> str:
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    if key not in known:
        raise ValueError(f"a store in PostgreSQL has no option {key!r:.80}")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError(f"the option {key} is a str or a number, not {type(value).__name__}")
    text = str(value)
    if "\0" in text or text.encode(errors="ignore").decode() != text:
        raise ValueError(f"the option {key} has a character that is none")
    return text


def _refuse_urls(parameters: Mapping[str, str]) -> None:
    """What is shown to people must not be what libpq would look for a password in."""
    for key in ("host", "hostaddr", "dbname"):
        value = parameters.get(key, "")
        if "=" in value or "://" in value or "@" in value[1:]:  # "@name" is a socket on Linux
            raise ValueError(f"{key} of a store in PostgreSQL is a plain name, no URL")


def _number(value: object) -> object:
    """What a query says is text."""
    if not isinstance(value, str):
        return value
    with contextlib.suppress(ValueError):  # which would show it
        return float(value)
    raise ValueError("timeout is a number of seconds")


def _address(parameters: Mapping[str, str]) -> str:
    """For people, who are not to see who logs in, and how."""
    host, port, database = (parameters.get(key, "") for key in ("host", "port", "dbname"))
    where = f"{host}:{port}" if port and "," not in host else host
    return f"postgresql://{quote(where, safe='/,:')}/{quote(database)}"
