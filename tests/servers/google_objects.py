"""The objects of a bucket of Google's, and what may be asked of them. For one caller at a time."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from tests.servers.web import Answer, Request

__all__ = ["Failure", "Objects"]

_PAGE: Final = 1000
_KEPT: Final = ("content-type", "cache-control", "content-encoding")
_GENERATION: Final = "x-goog-if-generation-match"


class Failure(Exception):  # noqa: N818 - an answer
    """A request is not granted."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


class _Object(NamedTuple):
    data: bytes
    generation: int
    modified_at: datetime
    headers: list[tuple[str, str]]

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'

    def head(self) -> list[tuple[str, str]]:
        return [
            ("ETag", self.etag),
            ("Last-Modified", format_datetime(self.modified_at, usegmt=True)),
            ("x-goog-generation", str(self.generation)),
            ("x-goog-metageneration", "1"),
            *self.headers,
        ]


class Objects:
    """The live versions; others are not kept."""

    def __init__(self) -> None:
        self._objects: dict[str, _Object] = {}
        self._generation = 1_700_000_000_000_000

    def get(self, name: str, query: Mapping[str, str], request: Request) -> Answer:
        found = self._find(name, query)
        self._check_generation(name, request)
        if found.etag in request.headers.get("if-none-match", ""):
            return Answer(304, [("ETag", found.etag)])
        if found.etag not in request.headers.get("if-match", found.etag):
            raise Failure(412, "PreconditionFailed")
        return Answer(200, found.head(), found.data)

    def put(self, name: str, request: Request) -> Answer:
        self._check_generation(name, request)
        self._generation += 1
        kept = [
            (key, value)
            for key, value in request.headers.items()
            if key in _KEPT or key.startswith("x-goog-meta-")
        ]
        put = _Object(request.body, self._generation, datetime.now(UTC), kept)
        self._objects[name] = put
        return Answer(200, put.head())

    def delete(self, name: str, query: Mapping[str, str], request: Request) -> Answer:
        self._find(name, query)
        self._check_generation(name, request)
        del self._objects[name]
        return Answer(204)

    def list(self, query: Mapping[str, str]) -> Answer:
        """A page: https://cloud.google.com/storage/docs/xml-api/get-bucket-list"""
        if query.get("list-type") != "2":
            raise Failure(400, "InvalidArgument")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = base64.b64decode(query.get("continuation-token", "")).decode()
        after = max(after, query.get("start-after", ""), key=str.encode)
        size = min(int(query.get("max-keys", _PAGE)), _PAGE)
        entries: dict[str, str] = {}
        for name in sorted(self._objects, key=str.encode):
            if name.startswith(prefix) and name.encode() > after.encode():
                end = name.find(delimiter, len(prefix)) if delimiter else -1
                key = name if end < 0 else name[: end + len(delimiter)]
                entries.setdefault(key, self._entry(key, is_prefix=end >= 0))
        page = [key for key in entries if key.encode() > after.encode()]
        more = page[size:]
        text = "".join(entries[key] for key in page[:size])
        if more:
            token = base64.b64encode(page[size - 1].encode()).decode()
            text += f"<NextContinuationToken>{token}</NextContinuationToken>"
        text = f"<ListBucketResult><IsTruncated>{more != []}</IsTruncated>{text}</ListBucketResult>"
        return Answer(200, [("Content-Type", "application/xml; charset=UTF-8")], text.encode())

    def _entry(self, key: str, *, is_prefix: bool) -> str:
        if is_prefix:
            return f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
        found = self._objects[key]
        when = found.modified_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return (
            f"<Contents><Key>{escape(key)}</Key><Generation>{found.generation}</Generation>"
            f"<MetaGeneration>1</MetaGeneration><LastModified>{when}</LastModified>"
            f"<ETag>{escape(found.etag)}</ETag><Size>{len(found.data)}</Size></Contents>"
        )

    def _find(self, name: str, query: Mapping[str, str]) -> _Object:
        found = self._objects.get(name)
        if found is None or query.get("generation", str(found.generation)) != str(found.generation):
            raise Failure(404, "NoSuchKey")
        return found

    def _check_generation(self, name: str, request: Request) -> None:
        wanted = request.headers.get(_GENERATION)
        found = self._objects.get(name)
        if wanted is not None and int(wanted) != (found.generation if found else 0):
            raise Failure(412, "PreconditionFailed")
