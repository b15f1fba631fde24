"""What the tests of the object stores share: servers that answer as a test says, and secrets."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hmac
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

import obstore

import eventlog.blobs
from eventlog.blobs.objects.store import ObjectBlobs
from tests.servers import Azurite
from tests.servers.web import Answer, Respond, web_server

__all__ = [
    "SECRET",
    "answer",
    "answering",
    "assert_secret",
    "at",
    "impatient",
    "open_objects",
    "raw",
    "shared_access",
    "store_url",
]

SECRET = "dG9wLXNlY3JldA=="  # what no error may show; base64, as Azure wants it


def open_objects(url: str, **options: object) -> ObjectBlobs:
    """`eventlog.blobs.open`, known to be an object store."""
    return cast("ObjectBlobs", eventlog.blobs.open(url, **options))


def at(url: str, prefix: str) -> str:
    """The same bucket with a prefix in it."""
    path, query = url.split("?")
    return f"{path.rstrip('/')}/{prefix}?{query}"


@contextlib.contextmanager
def answering(respond: Respond) -> Iterator[int]:
    """A web server at a port; all requests that it gets it answers with `respond`."""
    server = web_server(respond)
    try:
        yield server.port
    finally:
        server.stop()


def answer(status: int, code: str = "", headers: Mapping[str, str] | None = None) -> Answer:
    """An answer that says which error it is, and more than anyone should be told."""
    body = f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>" if code else ""
    return Answer(status, list((headers or {}).items()), body.encode())


@contextlib.contextmanager
def impatient(url: str, timeout: float) -> Iterator[ObjectBlobs]:
    """A store that repeats only for so long; but each request has all the time it may need."""
    with open_objects(url) as store:
        store.timeout, store.request_timeout = timeout, timeout / 2
        yield store


def store_url(scheme: str, port: int) -> str:
    """A store at such a server, with credentials that are secret."""
    here = f"http://127.0.0.1:{port}"
    match scheme:
        case "s3":
            return f"s3://bucket/p?endpoint={here}&access_key_id=A&secret_access_key={SECRET}"
        case "az":
            return f"az://bucket/p?endpoint={here}&account_name=a&account_key={SECRET}"
    return f"gs://bucket/p?base_url={here}&bearer_token={SECRET}"


def shared_access(server: Azurite, permissions: str = "rcwdl") -> str:
    """A new container's URL with a shared access signature in place of the account's key."""
    path, query = server.store_url().split("?")
    options = dict(parse_qsl(query))
    account = options["account_name"]
    container = path.removeprefix("az://").partition("/")[0]
    end = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    version = "2021-08-06"
    resource = f"/blob/{account}/{container}"
    signed = [permissions, "", end, resource, "", "", "", version, "c", *[""] * 7]
    key = base64.b64decode(options.pop("account_key"))
    code = base64.b64encode(hmac.digest(key, "\n".join(signed).encode(), "sha256")).decode()
    sas = {"sp": permissions, "se": end, "sv": version, "sr": "c", "sig": code}
    return f"{path}?{urlencode({**options, 'sas_key': urlencode(sas)}, safe=':/')}"


def assert_secret(error: BaseException, *secrets: str) -> None:
    """None of the secrets stands in the error, in what it was raised from, or beside it."""
    shown = "".join(traceback.format_exception(error))
    seen: BaseException | None = error
    while seen is not None:
        shown += f"{seen} {seen!r} {seen.__dict__}"
        seen = seen.__cause__ or seen.__context__
    for secret in (SECRET, *secrets):
        assert secret not in shown


class raw:  # noqa: N801 - reads as a module would
    """The bucket of a store, past the store: keys are whole."""

    @staticmethod
    def put(store: ObjectBlobs, key: str, data: bytes) -> None:
        obstore.put(store.settings.connect(), key, data)

    @staticmethod
    def keys(store: ObjectBlobs) -> list[str]:
        pages: Any = obstore.list(store.settings.connect())
        return sorted(meta["path"] for page in pages for meta in page)
