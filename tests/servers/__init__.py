"""Servers that tests of the stores run against, and a proxy that makes them fail.

Each is a program on this machine, at a port of the loopback address, and ends with the tests. The
fixtures are in `fixtures`. What is not installed skips the test by name; with CI set it fails it.
"""

from __future__ import annotations

from tests.servers.azurite import Azurite
from tests.servers.google import Google
from tests.servers.postgresql import PostgreSQL
from tests.servers.programs import require
from tests.servers.proxy import Fault, Proxy
from tests.servers.proxy_postgresql import PostgreSQLProxy
from tests.servers.proxy_web import WebProxy
from tests.servers.s3 import S3
from tests.servers.server import Server, url_at

__all__ = [
    "S3",
    "Azurite",
    "Fault",
    "Google",
    "PostgreSQL",
    "Proxy",
    "Server",
    "require",
    "through",
    "url_at",
]


def through(server: Server) -> Proxy:
    """A proxy before a server; to be closed."""
    return (PostgreSQLProxy if isinstance(server, PostgreSQL) else WebProxy)(server)
