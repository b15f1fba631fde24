"""A server that cannot compare and swap is refused on opening, and so are writes without access."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPConnection

import pytest

from eventlog import PreconditionFailedError, StoreUnavailableError, UnsupportedOperationError
from eventlog.blobs.objects.proving import find_ignored
from tests.blobs.objects import answer, open_objects, raw, shared_access
from tests.servers import S3, Azurite, Server
from tests.servers.proxy_web import WebProxy
from tests.servers.web import Answer, Request

CONDITIONS = {"if-match", "if-none-match", "x-goog-if-generation-match"}


class Changed(WebProxy):
    """A proxy that passes on what `change` makes of each request, or answers as it says."""

    def __init__(self, server: Server, change: Callable[[Request], Request | Answer]) -> None:
        self.change = change
        super().__init__(server)

    def _respond(self, server: HTTPConnection, request: Request) -> Answer:
        changed = self.change(request)
        return changed if isinstance(changed, Answer) else super()._respond(server, changed)


@pytest.fixture(params=["s3", "azurite", "google"])
def server(request: pytest.FixtureRequest) -> Server:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


def _without(method: str, *values: str) -> Callable[[Request], Request]:
    """What ignores the conditions of requests of a method: with one of the values, or any other."""

    def change(request: Request) -> Request:
        found = next(iter(CONDITIONS & request.headers.keys()), "")
        value = request.headers.get(found, "")
        creates = value in ("*", "0")
        if request.method != method or not found or creates != ("*" in values):
            return request
        headers = {key: text for key, text in request.headers.items() if key != found}
        return request._replace(headers=headers)

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_without("PUT", "*"), "it creates what is there"),
        (_without("PUT"), "it replaces another version"),
        (_without("DELETE"), "it deletes another version"),
    ],
    ids=["create", "replace", "delete"],
)
def test_a_server_that_ignores_a_condition_is_refused(
    server: Server, change: Callable[[Request], Request], text: str
) -> None:
    """And what it was found out with is gone."""
    url = server.store_url()
    if isinstance(server, Azurite):  # where keys sign the conditions
        url = shared_access(server)
    proxy = Changed(server, change)
    with pytest.raises(UnsupportedOperationError, match=text) as raised:
        open_objects(proxy.url(url))
    assert "cannot compare and swap" in str(raised.value)
    with open_objects(url) as store:
        assert raw.keys(store) == []
    proxy.close()


def test_what_looked_ignored_once_is_looked_at_again(s3: S3) -> None:
    """It may have been a put that took effect late."""
    ignore, times = _without("PUT", "*"), [1]

    def change(request: Request) -> Request:
        changed = ignore(request)
        if changed is request or not times:
            return request
        times.pop()
        return changed

    proxy = Changed(s3, change)
    open_objects(proxy.url(s3.store_url())).close()
    assert times == []
    assert proxy.counts["put"] == 6
    proxy.close()


def test_a_server_that_does_not_know_conditions_is_refused(server: Server) -> None:
    """It says so itself."""

    def change(request: Request) -> Request | Answer:
        known = not CONDITIONS & request.headers.keys()
        return request if known else answer(501, "NotImplemented")

    proxy = Changed(server, change)
    with pytest.raises(UnsupportedOperationError, match="cannot be a store: it answered 501"):
        open_objects(proxy.url(server.store_url()))
    proxy.close()


def test_a_server_that_deletes_nothing_conditionally_is_refused(server: Server) -> None:
    def change(request: Request) -> Request | Answer:
        return answer(412, "PreconditionFailed") if request.method == "DELETE" else request

    proxy = Changed(server, change)
    with pytest.raises(UnsupportedOperationError, match="does not delete the version that is"):
        open_objects(proxy.url(server.store_url()))
    proxy.close()


def test_who_may_only_read_may_read(server: Server) -> None:
    """And once they may write, the server is asked before they do."""
    url = server.store_url()
    with open_objects(url) as store:
        etag = store.put("a", b"1")

    def change(request: Request) -> Request | Answer:
        return answer(403, "AccessDenied") if request.method in denied else request

    denied = ["PUT", "DELETE"]
    proxy = Changed(server, change)
    with open_objects(proxy.url(url)) as store:
        assert store.list("") == [("a", etag)]
        for call in (lambda: store.put("a", b"2"), lambda: store.delete("a", if_match=etag)):
            with pytest.raises(StoreUnavailableError, match=r"cannot put .* access denied \(403"):
                call()
        denied.clear()
        proxy.counts.clear()
        store.put("a", b"2", if_match=etag)
        assert sum(proxy.counts.values()) >= 6
        store.delete("a")
    proxy.close()


def test_who_may_not_even_read_is_told(server: Server) -> None:
    proxy = Changed(server, lambda _: answer(403, "AccessDenied"))
    with pytest.raises(StoreUnavailableError, match=r"cannot get .* access denied"):
        open_objects(proxy.url(server.store_url()))
    proxy.close()


# The steps by themselves


def _refuse(*_: str) -> None:
    raise PreconditionFailedError


def _find(mark: str, deleted: Callable[[str], None], *, is_there: bool) -> tuple[str | None, str]:
    wrong = []

    def replace(mark: str) -> None:
        wrong.append(mark)
        raise PreconditionFailedError

    found = find_ignored(
        mark, create=_refuse, replace=replace, delete=deleted, is_there=lambda: is_there
    )
    return found, wrong[0]


@pytest.mark.parametrize("mark", ["0", "1", "10", "1a", "0x8DE1F"])
def test_a_wrong_mark_looks_like_a_right_one(mark: str) -> None:
    """A server may refuse others for their look."""

    def delete(given: str) -> None:
        if given != mark:
            _refuse()

    found, wrong = _find(mark, delete, is_there=False)
    assert found is None
    assert wrong != mark
    assert len(wrong) == len(mark)


def test_a_deletion_that_was_repeated_is_none_that_was_refused() -> None:
    """The answer to the first was lost."""
    assert _find("1", _refuse, is_there=False)[0] is None
    assert _find("1", _refuse, is_there=True)[0] is not None


def test_a_server_without_versions_is_none() -> None:
    found = find_ignored(
        None, create=_refuse, replace=_refuse, delete=_refuse, is_there=lambda: False
    )
    assert found == "it gives no versions"
