"""Azurite, Microsoft's emulator of Azure Blob Storage: for ``az:`` URLs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import shutil
import tempfile
import urllib.request
from email.utils import formatdate
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import quote

from tests.servers.programs import Program, free_port, installed
from tests.servers.server import Server, fresh_name

__all__ = ["Azurite"]

_ACCOUNT: Final = "eventlog"


class Azurite(Server):
    """See `Server`. What it holds is on a disk, so that it survives a stop."""

    scheme: ClassVar[str] = "az"

    def __init__(self) -> None:
        self._key = base64.b64encode(secrets.token_bytes(64)).decode()
        self.secrets = (self._key, quote(self._key, safe=""))
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="eventlog-azurite-"))
        self.start()

    @staticmethod
    def missing() -> str | None:
        if installed("azurite-blob") is None:
            return "azurite is not installed: make servers"
        if shutil.which("node") is None:
            return "node, which runs azurite, is not installed"
        return None

    def store_url(self, prefix: str = "") -> str:
        container, key = fresh_name(), quote(self._key, safe="")
        self._make(container)
        return (
            f"az://{container}/{prefix}?endpoint={self._endpoint}"
            f"&account_name={_ACCOUNT}&account_key={key}"
        )

    def start(self) -> None:
        program = installed("azurite-blob")
        assert program is not None
        self._program = Program(
            [
                *(program, "--silent", "--disableTelemetry", "--skipApiVersionCheck"),
                *("--blobPort", str(self.port), "--location", self._directory),
            ],
            "successfully listens",
            directory=self._directory,
            env={"AZURITE_ACCOUNTS": f"{_ACCOUNT}:{self._key}"},
        )

    def stop(self) -> None:
        self._program.close()

    def pause(self) -> None:
        self._program.pause()

    def resume(self) -> None:
        self._program.resume()

    def restore(self) -> None:
        self.resume()
        if not self._program.is_running:
            self.start()

    def close(self) -> None:
        self._program.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{_ACCOUNT}"

    def _make(self, container: str) -> None:
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        signed = "PUT" + "\n" * 12 + "".join(f"{key}:{headers[key]}\n" for key in sorted(headers))
        signed += f"/{_ACCOUNT}/{_ACCOUNT}/{container}\nrestype:container"
        code = hmac.digest(base64.b64decode(self._key), signed.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(code).decode()}"
        url = f"{self._endpoint}/{container}?restype=container"
        request = urllib.request.Request(url, method="PUT", headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 201
