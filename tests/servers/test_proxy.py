"""The proxy: every fault does what it says, and nothing else is touched."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import Fault, PostgreSQL, Proxy, Server
from tests.servers.proxy_web import WebProxy
from tests.servers.web import Answer, Request, web_server

if TYPE_CHECKING:
    from tests.servers.fixtures import Through

LIST = "/bucket?list-type=2&prefix=a"
LOST = (http.client.HTTPException, OSError)


class Echo:
    """A web server that says how many requests have reached it, and keeps them."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.arrived = threading.Semaphore(0)
        self.listener = web_server(self._respond)
        self.port = self.listener.port

    def _respond(self, request: Request) -> Answer:
        self.requests.append(request)
        self.arrived.release()
        return Answer(200, [("ETag", '"1"')], b"%d" % len(self.requests))


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.listener.stop()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    server: Any = echo
    with closing(WebProxy(server)) as proxy:
        yield proxy


@pytest.fixture
def connection(proxy: Proxy) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as connection:
        yield connection


def ask(
    connection: http.client.HTTPConnection, method: str = "GET", target: str = "/bucket/a"
) -> tuple[int, bytes]:
    try:
        connection.request(method, target, b"body" if method == "PUT" else None)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except LOST:
        connection.close()
        raise


def test_requests_go_through_as_they_are(
    echo: Echo, proxy: Proxy, connection: http.client.HTTPConnection
) -> None:
    headers = {"Host": "signed.example:1", "x-amz-date": "now", "If-Match": '"0"'}
    connection.request("PUT", "/bucket/a%2Fb?x=1&y", b"body", headers)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("ETag"), answer.read()) == (200, '"1"', b"1")
    (request,) = echo.requests
    assert request[:2] == ("PUT", "/bucket/a%2Fb?x=1&y")
    assert request.body == b"body"
    assert {name: request.headers[name.lower()] for name in headers} == headers
    connection.request("GET", "/bucket/a", iter([b"in ", b"pieces"]), encode_chunked=True)
    assert connection.getresponse().read() == b"2"
    assert echo.requests[1].body == b"in pieces"


def test_requests_are_counted_by_kind(proxy: Proxy, connection: http.client.HTTPConnection) -> None:
    for method in ("GET", "PUT", "DELETE", "HEAD", "GET"):
        ask(connection, method)
    ask(connection, "GET", LIST)
    ask(connection, "GET", "/account/container?restype=container&comp=list")
    ask(connection, "POST", "/bucket?delete")
    assert proxy.counts == {"get": 2, "head": 1, "put": 1, "list": 2, "delete": 2}
    assert proxy.requests[0] == "GET /bucket/a"


def test_one_in_three_is_refused_and_never_arrives(
    echo: Echo, proxy: Proxy, connection: http.client.HTTPConnection
) -> None:
    proxy.add(Fault.REFUSED, "put", every=3)
    assert [ask(connection, "PUT")[0] for _ in range(6)] == [200, 200, 503] * 2
    assert [ask(connection)[0] for _ in range(3)] == [200] * 3
    assert len(echo.requests) == 7
    proxy.clear()
    assert [ask(connection, "PUT")[0] for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(("fault", "arrives"), [(Fault.RESET, 0), (Fault.LOST, 1)])
def test_a_connection_ends_before_or_after_the_effect(
    echo: Echo,
    proxy: Proxy,
    connection: http.client.HTTPConnection,
    fault: Fault,
    arrives: int,
) -> None:
    proxy.add(fault, "put", times=1)
    with pytest.raises(LOST):
        ask(connection, "PUT")
    assert len(echo.requests) == arrives
    assert ask(connection, "PUT")[0] == 200


def test_an_answer_may_never_come(
    echo: Echo, proxy: Proxy, connection: http.client.HTTPConnection
) -> None:
    proxy.add(Fault.SILENT, "put")
    with (
        ThreadPoolExecutor(1) as thread,
        closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)) as other,
    ):
        waiting = thread.submit(ask, connection, "PUT")
        assert echo.arrived.acquire(timeout=30)
        for _ in range(50):
            ask(other)
        assert not waiting.done()
        proxy.clear()
        assert isinstance(waiting.exception(30), LOST)


def test_what_hangs_goes_on_when_it_is_mended(
    echo: Echo, proxy: Proxy, connection: http.client.HTTPConnection
) -> None:
    proxy.hang()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ask, connection, "PUT")
        proxy.wait_for("put")
        assert echo.requests == []
        proxy.mend()
        assert waiting.result(30) == (200, b"1")


def test_a_cut_refuses_everything_until_it_is_mended(
    echo: Echo, proxy: Proxy, connection: http.client.HTTPConnection
) -> None:
    ask(connection)
    proxy.cut()
    with pytest.raises(LOST):
        ask(connection)
    with pytest.raises(ConnectionRefusedError):
        ask(connection)
    proxy.mend()
    assert ask(connection) == (200, b"2")


def test_what_hangs_when_it_is_cut_is_never_sent(
    echo: Echo, proxy: Proxy, connection: http.client.HTTPConnection
) -> None:
    proxy.hang()
    with ThreadPoolExecutor(1) as thread:
        held = thread.submit(ask, connection)
        proxy.wait_for("get")
        proxy.cut()
        assert isinstance(held.exception(30), LOST)
    proxy.mend()
    assert ask(connection) == (200, b"1")


def test_lists_may_be_stale_and_nothing_else(
    proxy: Proxy, connection: http.client.HTTPConnection
) -> None:
    proxy.stale_lists = 3600.0
    assert [ask(connection, "GET", LIST)[1] for _ in range(2)] == [b"1", b"1"]
    assert ask(connection, "GET", LIST + "b")[1] == b"2"
    assert [ask(connection)[1] for _ in range(2)] == [b"3", b"4"]
    proxy.clear()
    assert ask(connection, "GET", LIST)[1] == b"5"


def test_who_is_delayed_waits(proxy: Proxy, connection: http.client.HTTPConnection) -> None:
    proxy.delay = 3600.0
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(ask, connection)
        proxy.wait_for("get")
        assert not waiting.done()
        proxy.cut()
        assert isinstance(waiting.exception(30), LOST)
        proxy.clear()
    proxy.delay = 0.001
    assert ask(connection) == (200, b"1")


def test_a_server_that_goes_takes_the_connection_with_it(
    echo: Echo, connection: http.client.HTTPConnection
) -> None:
    ask(connection)
    echo.listener.stop()
    with pytest.raises(LOST):
        ask(connection)
    echo.listener.start()
    assert ask(connection) == (200, b"2")


# ---- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture
def database(postgresql: PostgreSQL) -> str:
    url = postgresql.store_url()
    postgresql.execute("CREATE TABLE blobs (name text, data text)", url=url)
    return url


def failure(call: Callable[[], object]) -> BaseException | None:
    import psycopg

    try:
        call()
    except psycopg.OperationalError as error:
        return error
    return None


def test_statements_are_counted_and_those_told_fail(
    postgresql: PostgreSQL, database: str, through: Through
) -> None:
    def rows() -> list[Any]:
        return postgresql.execute("SELECT count(*) FROM blobs", url=database)

    proxy = through(postgresql)
    url = proxy.url(database)
    insert = "INSERT INTO blobs VALUES ('a', repeat('x', 100000))"
    postgresql.execute(insert, "DELETE FROM blobs WHERE name = 'b'", url=url)
    assert len(postgresql.execute("SELECT data FROM blobs", url=url)[0][0]) == 100000
    with postgresql.connect(url) as connection:
        assert connection.execute("SELECT name FROM blobs WHERE name = %s", ["a"]).rowcount == 1
    assert proxy.counts == {"connect": 3, "put": 1, "delete": 1, "get": 1, "list": 1}
    for fault, count in ((Fault.RESET, 1), (Fault.REFUSED, 1), (Fault.LOST, 2)):
        proxy.add(fault, "put", times=1)
        assert failure(lambda: postgresql.execute(insert, url=url)) is not None
        assert rows() == [(count,)]
    assert failure(lambda: postgresql.execute(insert, url=url)) is None


def test_a_database_hangs_is_cut_and_comes_back(
    postgresql: PostgreSQL, database: str, through: Through
) -> None:
    proxy = through(postgresql)
    url = proxy.url(database)
    with ThreadPoolExecutor(1) as thread, postgresql.connect(url) as connection:
        for end in (proxy.mend, proxy.cut):
            proxy.hang()
            proxy.counts.clear()
            waiting = thread.submit(failure, lambda: connection.execute("SELECT FROM pg_class"))
            proxy.wait_for("list")
            assert not waiting.done()
            end()
            assert (waiting.result(30) is None) == (end == proxy.mend)
    assert "refused" in str(failure(lambda: postgresql.connect(url)))
    proxy.mend()
    assert postgresql.execute("SELECT 1", url=url) == [(1,)]


def test_a_proxy_names_its_port_in_the_url(remote: Server, through: Through) -> None:
    url = through(remote).url(remote.store_url())
    assert str(remote.port) not in url
