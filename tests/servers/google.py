"""A stand-in for Google Cloud Storage: for ``gs:`` URLs.

Of its XML API it has what a store needs (https://cloud.google.com/storage/docs/xml-api/overview):
objects are put, got, listed and deleted, with generations. Where that is strict, so is this: it
takes conditions on writes as generations only, lists 1000 names at most, and wants every request
signed, with all headers that begin with ``x-goog-``. Every bucket whose name begins with ``test-``
is there.
"""

from __future__ import annotations

import collections
import functools
import importlib.util
import json
import os
import threading
from collections.abc import Mapping
from typing import ClassVar, Final, TypeAlias
from urllib.parse import parse_qsl, quote, unquote

from tests.servers.emulated import Emulated
from tests.servers.google_objects import Failure, Objects
from tests.servers.google_signatures import Signatures, new_key
from tests.servers.server import fresh_name
from tests.servers.web import Answer, Request, Respond

__all__ = ["Google"]

Buckets: TypeAlias = collections.defaultdict[str, Objects]

_PUBLIC_KEY: Final = "EVENTLOG_TEST_PUBLIC_KEY"


class Google(Emulated):
    """See `Server`."""

    scheme: ClassVar[str] = "gs"
    module = "tests.servers.google"

    def __init__(self) -> None:
        private_key, self._public_key = new_key()
        self._account = {
            "type": "service_account",
            "private_key": private_key,
            "private_key_id": "1",
            "client_email": "eventlog@test.invalid",
        }
        line = private_key.splitlines()[5]
        self.secrets = (line, quote(line, safe=""))
        super().__init__()

    @staticmethod
    def missing() -> str | None:
        if importlib.util.find_spec("cryptography") is None:
            return "cryptography is not installed: pip install 'moto[s3]'"
        return None

    def store_url(self, prefix: str = "") -> str:
        key = quote(json.dumps(self._account), safe="")
        base = f"http://127.0.0.1:{self.port}"
        return f"gs://{fresh_name()}/{prefix}?base_url={base}&service_account_key={key}"

    def environment(self) -> Mapping[str, str]:
        return {_PUBLIC_KEY: self._public_key}


def emulate() -> Respond:
    """What answers requests as Google would."""
    return functools.partial(
        _respond,
        collections.defaultdict(Objects),
        Signatures(os.environ[_PUBLIC_KEY]),
        threading.Lock(),
    )


def _respond(
    buckets: Buckets, signatures: Signatures, lock: threading.Lock, request: Request
) -> Answer:
    try:
        signatures.check(request)
        with lock:  # no other request comes between a condition and its effect
            return _answer(buckets, request)
    except Failure as failure:
        text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{failure.code}</Code></Error>"
        headers = [("Content-Type", "application/xml; charset=UTF-8")]
        return Answer(failure.status, headers, text.encode())


def _answer(buckets: Buckets, request: Request) -> Answer:
    path, _, text = request.target.partition("?")
    query = dict(parse_qsl(text, keep_blank_values=True))
    bucket, _, name = unquote(path).lstrip("/").partition("/")
    if not bucket.startswith("test-"):
        raise Failure(404, "NoSuchBucket")
    objects = buckets[bucket]
    if not name:
        if request.method != "GET":
            raise Failure(405, "MethodNotAllowed")
        return objects.list(query)
    match request.method:
        case "GET" | "HEAD":
            return objects.get(name, query, request)
        case "PUT":
            return objects.put(name, request)
        case "DELETE":
            return objects.delete(name, query, request)
    raise Failure(405, "MethodNotAllowed")
