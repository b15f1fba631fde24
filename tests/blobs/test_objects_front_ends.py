"""Object stores that others answer for: a proxy without a back end, a page about maintenance."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from urllib.parse import unquote

import pytest

import eventlog.blobs
from eventlog import StoreUnavailableError
from eventlog.blobs.objects.failures import Failure, Kind, attempt
from tests.blobs.objects import SECRET, answer, answering, assert_secret, impatient, store_url
from tests.servers.web import Answer, Request

PAGE = [("Content-Type", "text/html"), ("Last-Modified", "Sun, 22 Nov 2026 14:04:04 GMT")]
FRONT_ENDS = [
    Answer(404, [("Content-Type", "text/plain")], b"default backend - 404"),
    Answer(404, [("Content-Type", "application/json")], b'{"error": "no_such_route"}'),
    Answer(405, PAGE, b"<html><body>405 Not Allowed</body></html>"),
    Answer(501, PAGE, b"<html></html>"),
    Answer(200, PAGE, b"<html><body>We are down</body></html>"),
]
CLOUDS = ["s3", "az", "gs"]
MODIFIED = ("Last-Modified", "Sun, 22 Nov 2026 14:04:04 GMT")


class Bucket:
    """A server with one object, before which a front end may stand.

    Attributes:
        instead: answers to requests by their methods, given while there are any.
        page: the answer to everything, if there is one.
        asked: the methods of requests for anything but what proves something.
    """

    def __init__(self) -> None:
        self.instead: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.page: Answer | None = None
        self._there: dict[str, str] = {}

    def respond(self, request: Request) -> Answer:
        if self.page is not None:
            return self.page
        path = request.target.partition("?")[0]
        if ".eventlog-probe" not in unquote(path):
            self.asked.append(request.method)
            if self.instead.get(request.method):
                return self.instead[request.method].pop()
        if request.method == "GET" and (
            "list-type=" in request.target or "comp=" in request.target
        ):
            return Answer(200, [], b"<Result><Blobs></Blobs></Result>")
        return self._object(path, request)

    def _object(self, path: str, request: Request) -> Answer:
        there = self._there.get(path)
        absent = request.headers.get("if-none-match") == "*" or (
            request.headers.get("x-goog-if-generation-match") == "0"
        )
        wanted = request.headers.get("if-match") or request.headers.get(
            "x-goog-if-generation-match"
        )
        if (absent and there) or (not absent and wanted not in (None, '"10"', "10")):
            return answer(412, "PreconditionFailed")
        if request.method == "PUT":
            self._there[path] = "10"
        elif there is None:
            return answer(404, "NoSuchKey")
        elif request.method == "DELETE":
            del self._there[path]
            return answer(204)
        return Answer(200, [("ETag", '"10"'), ("x-goog-generation", "10"), MODIFIED], b"1")


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("page", FRONT_ENDS, ids=["404", "404 json", "405", "501", "200"])
def test_what_a_front_end_says_is_nothing_that_the_store_has_said(cloud: str, page: Answer) -> None:
    """Neither that a blob is not there, nor that it is gone, nor that the store can be none."""
    bucket = Bucket()
    with (
        answering(bucket.respond) as port,
        impatient(store_url(cloud, port), 0.1) as store,
    ):
        etag = store.put("a", b"1")
        bucket.page = page
        calls: list[Callable[[], object]] = [
            lambda: store.get("a"),
            lambda: store.get("a", if_none_match=etag),
            lambda: store.put("a", b"2"),
            lambda: store.put("a", b"2", if_match=etag),
            lambda: store.put("b", b"2", if_absent=True),
            lambda: store.list(""),
            lambda: store.delete("a"),
            lambda: store.delete("a", if_match=etag),
        ]
        for number, call in enumerate(calls):
            with pytest.raises(StoreUnavailableError):
                pytest.fail(f"call {number}: {call()!r}")
        bucket.page = None
        assert store.get("a") is not None


@pytest.mark.parametrize("cloud", CLOUDS)
def test_an_empty_list_is_believed_only_to_who_knows_what_is_not_there(cloud: str) -> None:
    """A page about maintenance lists nothing either."""
    bucket, asked = Bucket(), []

    def respond(request: Request) -> Answer:
        asked.append(request)
        return bucket.respond(request)

    with answering(respond) as port, impatient(store_url(cloud, port), 0.1) as store:
        del asked[:]
        assert store.list("a/") == []
        assert [".eventlog-probe" in unquote(request.target) for request in asked] == [False, True]
        bucket.page = FRONT_ENDS[-1]
        with pytest.raises(StoreUnavailableError):
            store.list("a/")


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("conditional", [False, True])
def test_what_is_deleted_is_seen_to_be_gone(cloud: str, conditional: bool) -> None:
    """Whoever said that it is."""
    bucket = Bucket()
    with (
        answering(bucket.respond) as port,
        eventlog.blobs.open(store_url(cloud, port)) as store,
    ):
        etag = store.put("a", b"1")
        del bucket.asked[:]
        bucket.instead = {"DELETE": [FRONT_ENDS[-1]]}
        store.delete("a", if_match=etag if conditional else None)
        assert bucket.asked.count("DELETE") == 2
        assert bucket.asked[:2] == ["DELETE", "GET"]
        assert store.get("a") is None


# Lists that do not end


def _page(entries: int) -> Answer:
    entry = "<Contents><Key>p/a</Key><Size>1</Size><ETag>1</ETag>"
    entry += "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
    more = "<NextContinuationToken>more</NextContinuationToken>"
    return Answer(200, [], f"<R>{entry * entries}{more}</R>".encode())


@pytest.mark.parametrize("entries", [0, 1, 100])
def test_a_list_without_end_ends_in_time(entries: int) -> None:
    """Also where obstore itself waits for more of a page than ever comes."""
    bucket, ended = Bucket(), threading.Event()

    def respond(request: Request) -> Answer:
        if ended.is_set():
            return answer(403)
        return _page(entries) if "list-type=2" in request.target else bucket.respond(request)

    with (
        answering(respond) as port,
        impatient(store_url("s3", port), 0.2) as store,
        contextlib.ExitStack() as at_the_end,
    ):
        at_the_end.callback(ended.set)
        with pytest.raises(StoreUnavailableError, match=r"list  within 0\.2 s: "):
            store.list("")


def test_a_list_whose_second_page_does_not_come_ends_in_time() -> None:
    bucket, ended = Bucket(), threading.Event()

    def respond(request: Request) -> Answer:
        if "continuation-token=" in request.target:
            ended.wait(60)
            return answer(403)
        return _page(100) if "list-type=2" in request.target else bucket.respond(request)

    with answering(respond) as port, impatient(store_url("s3", port), 4.0) as store:
        began = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"within 4 s: "):
            store.list("")
        assert time.monotonic() - began < 5.9  # obstore itself waits for 6 seconds for each page
        ended.set()


def test_a_request_that_began_late_is_not_waited_for_beyond_the_call() -> None:
    """It is refused until half of the time is over, and then there is no answer."""
    bucket, ended, began = Bucket(), threading.Event(), [0.0]

    def respond(request: Request) -> Answer:
        if ".eventlog-probe" in unquote(request.target):
            return bucket.respond(request)
        if time.monotonic() - began[0] > 2.2:
            ended.wait(60)
        return answer(503, "SlowDown")

    with answering(respond) as port, impatient(store_url("s3", port), 4.0) as store:
        began[0] = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"within 4 s: it answered 503 SlowDown"):
            store.get("a")
        assert time.monotonic() - began[0] < 5.9  # obstore itself waits for 6 seconds
        ended.set()


# What obstore does not survive


class PanicException(BaseException):
    """As that of Rust's bugs is called."""


def test_a_bug_of_obstore_is_a_failure_and_not_shown() -> None:
    def fail() -> None:
        raise PanicException(SECRET)

    failure = attempt(fail)
    assert isinstance(failure, Failure)
    assert failure.kind is Kind.FINAL
    assert SECRET not in failure.reason


def test_an_interruption_is_none() -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(fail)


def test_a_credential_that_no_request_can_carry_makes_the_store_unavailable() -> None:
    """A token with a line feed behind, as files have them: obstore panics."""
    with (
        answering(Bucket().respond) as port,
        pytest.raises(StoreUnavailableError, match="obstore gave up") as raised,
    ):
        eventlog.blobs.open(store_url("s3", port), session_token=f"{SECRET}\n")
    assert_secret(raised.value)
