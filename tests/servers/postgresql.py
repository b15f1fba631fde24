"""PostgreSQL, in a directory of its own: for ``postgresql:`` URLs."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote

from tests.servers.programs import Program, as_whom, free_port
from tests.servers.server import Server, fresh_name

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgreSQL"]

_USER: Final = "eventlog"
_PLACES: Final = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/*/bin")


class PostgreSQL(Server):
    """See `Server`. Each store has a database of its own, which `restore` drops.

    Args:
        fsync: whether commits outlive a power cut; slower, and seldom what a test is about.
        settings: of the server, as in its configuration file.
    """

    scheme: ClassVar[str] = "postgresql"

    def __init__(self, *, fsync: bool = False, **settings: object) -> None:
        self._password = f"p@ss/{secrets.token_hex(8)}:%?"
        self.secrets = (self._password, quote(self._password, safe=""))
        self.port = free_port()
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "on" if fsync else "off",
            "max_connections": 200,
            **settings,
        }
        self._directory = Path(tempfile.mkdtemp(prefix="eventlog-postgresql-"))
        self._databases: list[str] = []
        self._initialize()
        self.start()

    @staticmethod
    def missing() -> str | None:
        if _binary("initdb") is None:
            return "the PostgreSQL server is not installed (Debian: apt-get install postgresql)"
        if importlib.util.find_spec("psycopg") is None:
            return "psycopg is not installed: pip install 'psycopg[binary]'"
        return None

    def store_url(self, prefix: str = "") -> str:
        assert not prefix, "there are no buckets"
        name = fresh_name()
        self.execute(f'CREATE DATABASE "{name}"')
        self._databases.append(name)
        return self.url(name)

    def url(self, database: str = "postgres", user: str = _USER) -> str:
        """Where a database is, with what it takes to use it."""
        password = quote(self._password, safe="")
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def connect(self, url: str = "") -> psycopg.Connection[Any]:
        """A connection of the superuser, past the store and any proxy."""
        import psycopg

        return psycopg.connect(url or self.url(), autocommit=True, connect_timeout=30)

    def execute(self, *statements: str, url: str = "") -> list[Any]:
        """Runs statements as the superuser; the rows of the last one, if it has any."""
        with self.connect(url) as connection:
            cursor = connection.cursor()
            for statement in statements:
                cursor.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        binary = _binary("postgres")
        assert binary is not None
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        self._program = Program(
            [binary, "-D", self._data, "-p", str(self.port), *options],
            "ready to accept connections",
            directory=self._directory,
            env={"LC_ALL": "C"},
            user=as_whom(),
            ends_with=signal.SIGINT,  # a fast shutdown: it waits for no client
        )

    def stop(self) -> None:
        self._program.close()

    def crash(self) -> None:
        """SIGKILL to all its processes. It recovers with the next `start`."""
        self._program.kill()

    def pause(self) -> None:
        self._program.pause()

    def resume(self) -> None:
        self._program.resume()

    def restore(self) -> None:
        self.resume()
        if not self._program.is_running:
            self.start()
        if self._databases:
            self.execute(*(f'DROP DATABASE "{name}" WITH (FORCE)' for name in self._databases))
            self._databases.clear()

    def close(self) -> None:
        self._program.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _initialize(self) -> None:
        binary = _binary("initdb")
        assert binary is not None
        password = self._directory / "password"
        password.write_text(self._password + "\n")
        user: dict[str, Any] = {}
        if (who := as_whom()) is not None:
            user = {"user": who[0], "group": who[1], "extra_groups": []}
            for path in (self._directory, password):
                os.chown(path, *who)
        command: list[str | Path] = [binary, "-D", self._data]
        command += [f"--pwfile={password}", "--auth=scram-sha-256"]
        command += [f"--username={_USER}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(
            command, cwd="/", capture_output=True, text=True, check=False, timeout=120, **user
        )
        assert done.returncode == 0, done.stderr
        password.unlink()


def _binary(name: str) -> Path | None:
    """A program of the newest server installed. Debian keeps them out of the PATH."""
    found = [
        directory / name
        for place in _PLACES
        for directory in Path("/").glob(place.lstrip("/"))
        if (directory / name).exists()
    ]
    if found:
        return max(found, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])
    in_path = shutil.which(name)
    return Path(in_path) if in_path else None
