"""What the test servers have in common."""

from __future__ import annotations

import abc
import itertools
import secrets
from typing import ClassVar, Final

__all__ = ["Server", "url_at"]

_NUMBERS: Final = itertools.count(1)


class Server(abc.ABC):
    """A server at a port of the loopback address, with a place for blobs.

    Attributes:
        scheme: what the URLs of its stores begin with.
        port: where it listens; the same as long as there is the server.
        secrets: what no error, log or repr may ever show.
    """

    scheme: ClassVar[str]
    port: int
    secrets: tuple[str, ...]

    @staticmethod
    @abc.abstractmethod
    def missing() -> str | None:
        """None if it can be run here, else the reason why not, and what helps."""

    @abc.abstractmethod
    def store_url(self, prefix: str = "") -> str:
        """Where there is an empty store, another with every call, and all it takes to open it.

        Args:
            prefix: what the names of its blobs begin with in the bucket, which it has to itself.
        """

    @abc.abstractmethod
    def start(self) -> None:
        """Listen, at the same port and with what was there before."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End all connections and refuse new ones."""

    @abc.abstractmethod
    def pause(self) -> None:
        """Answer nothing any more: SIGSTOP. Connections stay, and new ones are still accepted."""

    @abc.abstractmethod
    def resume(self) -> None:
        """Go on where it was paused; fine if it was not."""

    @abc.abstractmethod
    def restore(self) -> None:
        """After a test: it runs, and what takes much room is deleted."""

    @abc.abstractmethod
    def close(self) -> None:
        """Be done with it; what it holds is gone."""


def fresh_name() -> str:
    """A name that no other test uses, of a bucket or a database."""
    return f"test-{next(_NUMBERS)}-{secrets.token_hex(4)}"


def url_at(url: str, port: int, other: int) -> str:
    """The same store through another port: a proxy's."""
    here = f"127.0.0.1:{port}"
    assert here in url
    return url.replace(here, f"127.0.0.1:{other}")
