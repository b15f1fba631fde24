"""The proxy before PostgreSQL. It knows as much of the protocol as it takes to tell one statement
from the next: https://www.postgresql.org/docs/current/protocol-message-formats.html

A request is a statement: what comes with Parse or Query, until the server is ready for the next.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final, Self

from tests.servers.listening import Listener, reset
from tests.servers.proxy import Fault, Proxy, Ticket
from tests.servers.web import Dropped

__all__ = ["PostgreSQLProxy"]

_WANTS_ENCRYPTION: Final = (80877103, 80877104)  # TLS, GSSAPI
_CANCELS: Final = 80877102
_PATIENCE: Final = 60.0  # seconds


class PostgreSQLProxy(Proxy):
    """See `Proxy`. Connecting is a request of kind "connect"."""

    def _listen(self) -> Listener:
        return Listener(self._serve)

    def _delay(self, kind: str) -> float:
        return 0.0 if kind == "other" else self.delay  # settings come along with a statement

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(Dropped), _Session(self, client) as session:
            session.run()
        reset(client)


class _Session:
    """One connection, and that to the server. Answers are passed on by another thread."""

    def __init__(self, proxy: PostgreSQLProxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = socket.socket()
        self._tickets: list[Ticket] = []  # of the requests that are not answered yet
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        reset(self._server)
        self._server.close()

    def run(self) -> None:
        """Pass on what comes from the client, until one side ends it."""
        start = self._begin()
        if start is None:
            return
        self._server.settimeout(_PATIENCE)
        self._server.connect(("127.0.0.1", self._proxy.server.port))
        self._server.settimeout(None)
        self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server.sendall(start)
        answers = threading.Thread(target=self._pass_answers, daemon=True)
        answers.start()
        try:
            self._pass_requests()
        finally:
            reset(self._server)
            answers.join(_PATIENCE)

    def _begin(self) -> bytes | None:
        while (head := _exactly(self._client, 8)) is not None:
            length, code = struct.unpack("!ii", head)
            if code in _WANTS_ENCRYPTION:
                self._client.sendall(b"N")
                continue
            kind = "cancel" if code == _CANCELS else "connect"
            self._note(self._proxy._admit(kind, kind))
            rest = _exactly(self._client, length - 8)
            return None if rest is None else head + rest
        return None

    def _pass_requests(self) -> None:
        while (message := _message(self._client)) is not None:
            if message[:1] in (b"Q", b"P"):
                statement = _statement(message)
                self._note(self._proxy._admit(_kind(statement), statement))
            self._server.sendall(message)

    def _note(self, ticket: Ticket) -> None:
        if ticket.fault is Fault.REFUSED:
            raise Dropped
        with self._lock:
            self._tickets.append(ticket)

    def _pass_answers(self) -> None:
        held = b""
        with contextlib.suppress(OSError, Dropped):
            while (message := _message(self._server)) is not None:
                held += message
                if self._is_doomed():
                    if message[:1] == b"Z":
                        self._answered()
                else:
                    self._client.sendall(held)
                    held = b""
                    if message[:1] == b"Z":
                        self._answered()
        reset(self._client)

    def _is_doomed(self) -> bool:
        with self._lock:
            return any(ticket.fault for ticket in self._tickets)

    def _answered(self) -> None:
        with self._lock:
            tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            ticket.lose_answer()


def _message(source: socket.socket) -> bytes | None:
    head = _exactly(source, 5)
    if head is None:
        return None
    body = _exactly(source, struct.unpack("!i", head[1:])[0] - 4)
    return None if body is None else head + body


def _exactly(source: socket.socket, size: int) -> bytes | None:
    """So many bytes, or None at the end."""
    data = bytearray()
    while len(data) < size:
        piece = source.recv(min(size - len(data), 1 << 16))
        if not piece:
            return None
        data += piece
    return bytes(data)


def _statement(message: bytes) -> str:
    """Of Query, or of Parse, where the name of a prepared statement comes first."""
    texts = message[5:].split(b"\0")
    return (texts[0] if message[:1] == b"Q" else texts[1]).decode()


def _kind(statement: str) -> str:
    words = statement.lower().replace("(", " ").split()
    for word, kind in (("delete", "delete"), ("insert", "put"), ("update", "put")):
        if word in words:
            return kind
    if "select" in words and "from" in words:
        return "get" if any("data" in word for word in words) else "list"
    return "other"
