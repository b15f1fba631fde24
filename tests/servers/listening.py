"""Listening at a port of the loopback address, with a thread for every connection."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["Listener", "reset"]

_RESET: Final = struct.pack("ii", 1, 0)


class Listener:
    """Listens from the start.

    Args:
        serve: does what there is to do on a connection, in a thread; it is closed afterwards.
        port: where to listen; any free port if 0. It keeps that over `stop` and `start`.
    """

    def __init__(self, serve: Callable[[socket.socket], object], port: int = 0) -> None:
        self.port = port
        self._serve = serve
        self._server: _Server | None = None
        self.start()

    def start(self) -> None:
        """Listen; fine if it does."""
        if self._server is None:
            self._server = _Server(self.port, self._serve)
            self.port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Reset all connections and refuse new ones; fine if it did."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.reset_connections()
            self._server = None


def reset(connection: socket.socket) -> None:
    """End a connection at once, for the other side and for whoever reads from it here."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, port: int, serve: Callable[[socket.socket], object]) -> None:
        self._serve = serve
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), socketserver.BaseRequestHandler)

    def process_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        with contextlib.suppress(OSError):  # clients come and go
            self._serve(request)

    def shutdown_request(self, request: object) -> None:
        assert isinstance(request, socket.socket)
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def reset_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                reset(connection)
