"""The proxy before servers that speak HTTP.

Requests are passed on with the headers they came with, also Host: signatures cover it.
"""

from __future__ import annotations

import functools
import select
import socket
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Final
from urllib.parse import parse_qs

from tests.servers.listening import Listener
from tests.servers.proxy import Fault, Proxy
from tests.servers.server import Server
from tests.servers.web import HOP_BY_HOP, Answer, Dropped, Request, serve

__all__ = ["WebProxy"]

_PATIENCE: Final = 60.0  # seconds
_REFUSAL: Final = Answer(
    503,
    [("Content-Type", "application/xml"), ("x-ms-error-code", "ServerBusy")],
    b"<Error><Code>ServiceUnavailable</Code><Message>as the test says</Message></Error>",
)


class WebProxy(Proxy):
    """See `Proxy`."""

    def __init__(self, server: Server) -> None:
        self._lists: dict[str, tuple[float, Answer]] = {}
        super().__init__(server)

    def _listen(self) -> Listener:
        return Listener(self._serve)

    def _serve(self, client: socket.socket) -> None:
        with closing(_to(self.server)) as server:
            serve(client, functools.partial(self._respond, server))

    def _respond(self, server: HTTPConnection, request: Request) -> Answer:
        kind = _kind(request)
        ticket = self._admit(kind, f"{request.method} {request.target}")
        if ticket.fault is Fault.REFUSED:
            return _REFUSAL
        answer = self._list(server, request) if kind == "list" else _forward(server, request)
        ticket.lose_answer()
        return answer

    def _list(self, server: HTTPConnection, request: Request) -> Answer:
        since, answer = self._lists.get(request.target, (0.0, None))
        now = time.monotonic()
        if answer is None or now >= since + self.stale_lists:
            answer = _forward(server, request)
            self._lists[request.target] = now, answer
        return answer


def _to(server: Server) -> HTTPConnection:
    return HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE)


def _forward(server: HTTPConnection, request: Request) -> Answer:
    if server.sock is not None and select.select([server.sock], [], [], 0)[0]:
        server.close()  # it has ended it meanwhile
    try:
        return _ask(server, request)
    except (OSError, HTTPException):
        server.close()
        raise Dropped from None


def _ask(server: HTTPConnection, request: Request) -> Answer:
    server.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        if name not in HOP_BY_HOP:
            server.putheader(name, value)
    server.putheader("Content-Length", str(len(request.body)))
    server.endheaders(request.body)
    with closing(server.getresponse()) as answer:
        body = answer.read()
        size = answer.getheader("Content-Length") if request.method == "HEAD" else None
        length = None if size is None else int(size)
        return Answer(answer.status, answer.getheaders(), body, length)


def _kind(request: Request) -> str:
    query = parse_qs(request.target.partition("?")[2], keep_blank_values=True)
    if request.method == "GET" and ("list-type" in query or query.get("comp") == ["list"]):
        return "list"
    if request.method == "POST" and ("delete" in query or query.get("comp") == ["batch"]):
        return "delete"
    return {"GET": "get", "HEAD": "head", "PUT": "put", "DELETE": "delete"}.get(
        request.method, "other"
    )
