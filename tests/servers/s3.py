"""moto, an emulator of Amazon S3: for ``s3:`` URLs.

moto looks whether a condition holds and then writes, without a lock: of two clients that swap at
the same time both may win. Real S3 never does that. So requests come in here one by one.
"""

from __future__ import annotations

import importlib.util
import io
import secrets
import threading
import urllib.request
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes

from tests.servers.emulated import Emulated
from tests.servers.server import fresh_name
from tests.servers.web import Answer, Request, Respond

__all__ = ["S3"]


class S3(Emulated):
    """See `Server`. It takes any key: it does not look at signatures."""

    scheme: ClassVar[str] = "s3"
    module = "tests.servers.s3"

    def __init__(self) -> None:
        self._key_id, self._key = secrets.token_hex(10).upper(), secrets.token_hex(20)
        self.secrets = (self._key,)
        super().__init__()

    @staticmethod
    def missing() -> str | None:
        for name in ("moto", "flask", "flask_cors"):
            if importlib.util.find_spec(name) is None:
                return f"{name} is not installed: pip install 'moto[s3]' flask flask-cors"
        return None

    def store_url(self, prefix: str = "") -> str:
        bucket, endpoint = fresh_name(), f"http://127.0.0.1:{self.port}"
        request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        return (
            f"s3://{bucket}/{prefix}?endpoint={endpoint}&region=us-east-1"
            f"&access_key_id={self._key_id}&secret_access_key={self._key}"
        )


def emulate() -> Respond:
    """What answers requests as S3 would, one at a time."""
    from moto.moto_server.werkzeug_app import create_backend_app

    application = create_backend_app("s3")
    lock = threading.Lock()

    def respond(request: Request) -> Answer:
        with lock:
            return _ask(application, request)

    return respond


def _ask(application: Any, request: Request) -> Answer:
    """Ask a WSGI application."""
    heads: list[tuple[str, list[tuple[str, str]]]] = []
    pieces = application(
        _environ(request), lambda status, headers, _=None: heads.append((status, headers))
    )
    try:
        body = b"".join(pieces)
    finally:
        pieces.close()
    status, headers = heads[0]
    return Answer(int(status.split()[0]), headers, body)


def _environ(request: Request) -> dict[str, object]:
    path, _, query = request.target.partition("?")
    host, _, port = request.headers["host"].partition(":")
    return {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "RAW_URI": request.target,
        "REQUEST_URI": request.target,
        "QUERY_STRING": query,
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(request.body)),
        "SERVER_NAME": host,
        "SERVER_PORT": port or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **{f"HTTP_{k.upper().replace('-', '_')}": v for k, v in request.headers.items()},
    }
