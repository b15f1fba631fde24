"""An HTTP server whose requests a function answers: what emulators and the proxy are made of."""

from __future__ import annotations

import http.server
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, NamedTuple, TypeAlias

from tests.servers.listening import Listener, reset

__all__ = ["HOP_BY_HOP", "Answer", "Dropped", "Request", "Respond", "serve", "web_server"]

HOP_BY_HOP: Final = {"connection", "content-length", "expect", "keep-alive", "transfer-encoding"}
"""Headers that are between two neighbours."""


class Request(NamedTuple):
    """A whole request."""

    method: str
    target: str  # path and query, as they were sent
    headers: dict[str, str]  # names in lower case
    body: bytes = b""


class Answer(NamedTuple):
    """A whole answer. One to HEAD has the length of what it does not send."""

    status: int
    headers: list[tuple[str, str]] = []  # noqa: RUF012 - nobody changes it
    body: bytes = b""
    length: int | None = None


class Dropped(Exception):  # noqa: N818 - no error
    """The connection is to be reset, without an answer."""


Respond: TypeAlias = Callable[[Request], Answer]


def web_server(respond: Respond, port: int = 0) -> Listener:
    """Listens, and has `respond` answer the requests; it may raise `Dropped`."""
    return Listener(lambda connection: serve(connection, respond), port)


def serve(connection: socket.socket, respond: Respond) -> None:
    """Have `respond` answer the requests that come on one connection."""
    _Connection(connection, respond)


class _Connection(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, connection: socket.socket, respond: Respond) -> None:
        self._respond = respond
        server: Any = None  # it is asked for nothing
        super().__init__(connection, ("127.0.0.1", 0), server)

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        names = {name.lower() for name in self.headers}
        headers = {name: ", ".join(self.headers.get_all(name, [])) for name in names}
        request = Request(self.command, self.path, headers, self._body())
        try:
            answer = self._respond(request)
        except Dropped:
            reset(self.connection)
            self.close_connection = True
        else:
            self._send(answer)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _send(self, answer: Answer) -> None:
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
        lines += [f"{k}: {v}" for k, v in answer.headers if k.lower() not in HOP_BY_HOP]
        if answer.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            length = len(answer.body) if answer.length is None else answer.length
            lines.append(f"Content-Length: {length}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.wfile.write(head if self.command == "HEAD" else head + answer.body)

    def log_message(self, *_: object) -> None:
        """It keeps no log."""
