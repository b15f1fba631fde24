"""Stores in object storage, on servers of each kind."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventlog import (
    ClosedError,
    InvalidNameError,
    PreconditionFailedError,
    StoreUnavailableError,
)
from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore
from eventlog.blobs.objects import clouds
from eventlog.blobs.objects.settings import read_settings
from tests.blobs.objects import answering, assert_secret, at, open_objects, raw
from tests.servers import S3, Fault, Google, Proxy, Server
from tests.servers.fixtures import Through
from tests.servers.web import Answer, Request


@pytest.fixture(params=["s3", "azurite", "google"])
def server(request: pytest.FixtureRequest) -> Server:
    """Of every cloud."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


@pytest.fixture
def proxy(server: Server, through: Through) -> Proxy:
    """Through which requests can be counted and broken."""
    return through(server)


def _blob(store: BlobStore, name: str) -> Blob:
    blob = store.get(name)
    assert isinstance(blob, Blob)
    return blob


def _counted(proxy: Proxy) -> dict[str, int]:
    counted = dict(proxy.counts)
    proxy.counts.clear()
    return counted


# Requests


def test_opening_a_store_takes_five_requests(server: Server, proxy: Proxy) -> None:
    open_objects(proxy.url(server.store_url())).close()
    assert _counted(proxy) == {"put": 3, "delete": 2}


def test_every_call_is_one_request(server: Server, proxy: Proxy) -> None:
    """But for deletions, and lists of nothing."""
    with open_objects(proxy.url(server.store_url())) as store:
        _counted(proxy)
        etag = store.put("a", b"1")
        assert _counted(proxy) == {"put": 1}
        etag = store.put("a", b"2", if_match=etag)
        assert _counted(proxy) == {"put": 1}
        store.put("b", b"3", if_absent=True)
        assert _counted(proxy) == {"put": 1}
        assert isinstance(store.get("a"), Blob)
        assert store.get("a", if_none_match=etag) is NOT_MODIFIED
        assert store.get("none") is None
        assert _counted(proxy) == {"get": 3}
        assert len(store.list("")) == 2
        assert _counted(proxy) == {"list": 1}
        store.delete("a", if_match=etag)
        store.delete("b")
        store.delete("none")
        assert _counted(proxy) == {"delete": 3, "get": 3}  # to see that they are gone
        assert store.list("none/") == []
        assert _counted(proxy) == {"list": 1, "get": 1}  # to see that it was the store that said so


def test_what_is_refused_is_one_request(server: Server, proxy: Proxy) -> None:
    """On Google a second one tells whether it must be."""
    with open_objects(proxy.url(server.store_url())) as store:
        old = store.put("a", b"1")
        store.put("a", b"2", if_match=old)
        _counted(proxy)
        with pytest.raises(PreconditionFailedError, match="put a"):
            store.put("a", b"3", if_absent=True)
        assert _counted(proxy) == {"put": 1}
        for name in ("a", "b"):
            with pytest.raises(PreconditionFailedError, match=name):
                store.put(name, b"3", if_match=old)
            with pytest.raises(PreconditionFailedError, match=name):
                store.delete(name, if_match=old)
        asked: dict[str, int] = (
            {"get": 4} if isinstance(server, Google) else {"put": 2, "delete": 2}
        )
        assert _counted(proxy) == asked


def test_a_list_of_a_segment_asks_for_its_directory_only(server: Server, proxy: Proxy) -> None:
    with open_objects(proxy.url(server.store_url())) as store:
        for name in ("groups/a/1", "groups/a/2", "groups/ab/1", "groups/b/1", "other"):
            store.put(name, b"")
        proxy.requests.clear()
        assert [name for name, _ in store.list("groups/a/")] == ["groups/a/1", "groups/a/2"]
        assert "groups%2Fa%2F" in proxy.requests[-1]
        assert [name for name, _ in store.list("groups/a")] == [
            *("groups/a/1", "groups/a/2", "groups/ab/1")
        ]
        assert "groups%2F&" in f"{proxy.requests[-1]}&"


def test_a_lost_answer_is_read_back(server: Server, proxy: Proxy) -> None:
    """The put has its own token beside it; obstore repeats nothing."""
    with open_objects(proxy.url(server.store_url())) as store:
        etag = store.put("a", b"1")
        _counted(proxy)
        for number, fault in enumerate((Fault.LOST, Fault.RESET, Fault.REFUSED)):
            proxy.add(fault, "put", times=1)
            etag = store.put("a", b"%d" % number, if_match=etag)
            assert _blob(store, "a").etag == etag
        # Lost: put, get. The others: put, get, put. And the three gets above.
        assert _counted(proxy) == {"put": 5, "get": 6}


def test_a_server_that_answers_late_is_not_waited_for(server: Server, proxy: Proxy) -> None:
    with open_objects(proxy.url(server.store_url()), timeout=0.8) as store:
        store.put("a", b"1")
        proxy.hang()
        for call in (lambda: store.get("a"), lambda: store.list(""), lambda: store.put("a", b"2")):
            with pytest.raises(StoreUnavailableError, match="did not answer in time") as raised:
                call()
            assert_secret(raised.value, *server.secrets)
        proxy.cut()
        with pytest.raises(StoreUnavailableError, match=r"within 0\.8 s: it refuses connections"):
            store.delete("a", if_match="0")


# Names


def test_a_prefix_is_a_directory_of_its_own(server: Server) -> None:
    url = server.store_url()
    with open_objects(url) as store, open_objects(at(url, "in/side/")) as inner:
        inner.put("a", b"1")
        store.put("in/b", b"2")
        store.put("in/sides", b"3")
        assert [name for name, _ in inner.list("")] == ["a"]
        assert [name for name, _ in store.list("")] == ["in/b", "in/side/a", "in/sides"]
        assert repr(inner) == f"<BlobStore at {url.split('?')[0]}in/side>"


def test_a_name_that_is_too_long_with_the_prefix_is_refused(server: Server, proxy: Proxy) -> None:
    with open_objects(proxy.url(at(server.store_url(), "p" * 255))) as store:
        name = "/".join(["n" * 200] * 5)[: 1024 - 256 - 2] + "/x"
        store.put(name, b"1")
        assert _blob(store, name).data == b"1"
        _counted(proxy)
        for call in (store.get, store.delete, lambda name: store.put(name, b"2")):
            with pytest.raises(InvalidNameError, match="too long"):
                call(name + "x")
        assert _counted(proxy) == {}


def test_what_is_no_blob_is_not_listed(server: Server) -> None:
    """Opening leaves nothing behind."""
    with open_objects(at(server.store_url(), "p")) as store:
        assert raw.keys(store) == []
        for key in ("p/.hidden", "p/a b", "p/~", "px/c", "y", "p"):
            raw.put(store, key, b"1")
        store.put("a", b"1")
        assert [name for name, _ in store.list("")] == ["a"]


def test_a_blob_that_others_wrote_is_read(server: Server) -> None:
    with open_objects(server.store_url()) as store:
        raw.put(store, "a", b"by hand")
        etag = _blob(store, "a").etag
        assert store.list("") == [("a", etag)]
        store.put("a", b"2", if_match=etag)


def test_an_object_too_large_for_a_blob_is_not_read(server: Server) -> None:
    with open_objects(server.store_url()) as store:
        raw.put(store, "a", bytes(4 * 1024 * 1024 + 1))
        with pytest.raises(StoreUnavailableError, match="has 4,194,305 bytes"):
            store.get("a")


def test_a_signed_url_is_sent_as_it_is() -> None:
    """Where the bucket stands in the name of the host, a blob is in the root of the server."""
    asked = []

    def respond(request: Request) -> Answer:
        asked.append(f"{request.method} {request.target}")
        return Answer(204)

    with answering(respond) as port:
        blobs = clouds.S3Blobs(read_settings("s3", f"//b?endpoint=http://127.0.0.1:{port}", {}))
        for path in ("/a", "/x/.eventlog-probe-0", "/b/c/a.b_c-d"):
            blobs._send_delete(f"http://127.0.0.1:{port}{path}?x=%2F%3D&y=1", None)
    assert asked == [
        "DELETE /a?x=%2F%3D&y=1",
        "DELETE /x/.eventlog-probe-0?x=%2F%3D&y=1",
        "DELETE /b/c/a.b_c-d?x=%2F%3D&y=1",
    ]


def test_what_is_signed_is_valid_for_longer_than_clocks_may_differ() -> None:
    """A server takes requests of a clock that is 15 minutes behind: these too."""
    keys = {"endpoint": "http://127.0.0.1:1", "access_key_id": "A", "secret_access_key": "B"}
    blobs = clouds.S3Blobs(read_settings("s3", "//b", {**keys, "region": "r"}))
    assert "X-Amz-Expires=3600&" in f"{blobs._sign('a')}&"


# Opening and closing


def test_a_bucket_that_is_not_there_is_told_at_once(server: Server, proxy: Proxy) -> None:
    url = proxy.url(server.store_url())
    missing = f"{server.scheme}://no-such-bucket/p"
    with pytest.raises(
        StoreUnavailableError, match=r"there is no such (bucket|container)"
    ) as raised:
        open_objects(f"{missing}?{url.split('?')[1]}")
    assert missing in str(raised.value)
    assert_secret(raised.value, *server.secrets)
    assert _counted(proxy) == {"put": 1}


def test_a_server_that_is_not_there_is_told_in_time(server: Server, proxy: Proxy) -> None:
    proxy.cut()
    with pytest.raises(StoreUnavailableError, match=r"open within 0\.1 s: it refuses connections"):
        open_objects(proxy.url(server.store_url()), timeout=0.1)


def test_opening_survives_lost_answers(server: Server, proxy: Proxy) -> None:
    """Also that of the deletion that ends it, which is then not there to be deleted."""
    proxy.add(Fault.LOST, every=2)
    open_objects(proxy.url(server.store_url())).close()


def test_a_closed_store_says_so_to_whoever_is_using_it(server: Server) -> None:
    store = open_objects(server.store_url())
    store.close()
    with pytest.raises(ClosedError, match="was closed"):
        store._read("a", None, 0.0)


def test_threads_share_a_store(server: Server) -> None:
    with open_objects(server.store_url()) as store, ThreadPoolExecutor(16) as pool:
        names = [f"t/{number}" for number in range(64)]
        etags = list(pool.map(lambda name: store.put(name, name.encode(), if_absent=True), names))
        assert list(pool.map(store.list, ["t/"] * 8)) == [store.list("t/")] * 8
        assert dict(store.list("t/")) == dict(zip(names, etags, strict=True))
        list(pool.map(lambda name, etag: store.delete(name, if_match=etag), names, etags))
        assert store.list("") == []


_FORKING = """
import os, signal, sys
import eventlog.blobs
from eventlog import UnsupportedOperationError

url, how = sys.argv[1:]
signal.alarm(30)  # a child begins without
if how == "before":  # a child of who has not used any
    if os.fork() == 0:
        signal.alarm(30)
        eventlog.blobs.open(url).close()
        os._exit(7)
store = eventlog.blobs.open(url)
store.put("a", b"1")
if how != "before" and os.fork() == 0:
    signal.alarm(30)
    try:
        store.get("a") if how == "inherited" else eventlog.blobs.open(url)
    except UnsupportedOperationError as error:
        assert "forked" in str(error)
        store.close()
        del store
        os._exit(7)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
for number in range(20):
    store.put("a", b"2")
    assert store.get("a").data == b"2"
store.close()
"""


@pytest.mark.parametrize("how", ["inherited", "anew", "before"])
def test_a_forked_process_is_kept_from_obstore(s3: S3, how: str) -> None:
    """It would hang, and its parent crash. Before the first use there is nothing to share."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKING, s3.store_url(), how],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


# Google


def test_google_is_asked_for_a_generation_that_is_not_known(
    google: Google, through: Through
) -> None:
    proxy = through(google)
    url = proxy.url(google.store_url())
    with open_objects(url) as store, open_objects(url) as other:
        etag = store.put("a", b"1")
        _counted(proxy)
        etag = other.put("a", b"2", if_match=etag)
        assert _counted(proxy) == {"get": 1, "put": 1}
        etag = other.put("a", b"3", if_match=etag)
        assert _counted(proxy) == {"put": 1}
        with pytest.raises(PreconditionFailedError):
            store.put("a", b"4", if_match="stale")
        assert _counted(proxy) == {"get": 1}
        store.delete("a", if_match=etag)
        assert _counted(proxy) == {"delete": 1, "get": 1}


def test_google_takes_an_etag_whose_generation_has_changed(google: Google) -> None:
    """The same data were put again: the etag is the same, and so it holds."""
    url = google.store_url()
    with open_objects(url) as store, open_objects(url) as other:
        etag = store.put("a", b"1")
        assert other.put("a", b"1") == etag
        changed = store.put("a", b"2", if_match=etag)
        assert _blob(other, "a").etag == changed
        assert other.put("a", b"2") == changed
        store.delete("a", if_match=changed)


def test_google_forgets_generations_rather_than_grow(
    google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clouds, "_MAX_KNOWN", 3)
    with open_objects(google.store_url()) as store:
        etags = {str(number): store.put(str(number), b"1") for number in range(10)}
        assert isinstance(store, clouds.GoogleBlobs)
        assert len(store._known) <= 3
        for name, etag in etags.items():
            store.put(name, b"2", if_match=etag)
