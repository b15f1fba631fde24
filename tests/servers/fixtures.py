"""The servers as fixtures: each is started once for all tests that ask for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, TypeVar

import pytest

from tests import servers
from tests.servers import S3, Azurite, Google, PostgreSQL, Proxy, Server, require

ServerType = TypeVar("ServerType", bound=Server)

Through: TypeAlias = Callable[[Server], Proxy]


def _run(kind: type[ServerType]) -> Iterator[ServerType]:
    require(kind.missing())
    with contextlib.closing(kind()) as server:
        yield server


def _lend(server: ServerType) -> Iterator[ServerType]:
    yield server
    server.restore()


@pytest.fixture(scope="session")
def azurite_of_session() -> Iterator[Azurite]:
    yield from _run(Azurite)


@pytest.fixture(scope="session")
def s3_of_session() -> Iterator[S3]:
    yield from _run(S3)


@pytest.fixture(scope="session")
def google_of_session() -> Iterator[Google]:
    yield from _run(Google)


@pytest.fixture(scope="session")
def postgresql_of_session() -> Iterator[PostgreSQL]:
    yield from _run(PostgreSQL)


@pytest.fixture
def azurite(azurite_of_session: Azurite) -> Iterator[Azurite]:
    """Azure Blob Storage, emulated by Azurite."""
    yield from _lend(azurite_of_session)


@pytest.fixture
def s3(s3_of_session: S3) -> Iterator[S3]:
    """Amazon S3, emulated by moto."""
    yield from _lend(s3_of_session)


@pytest.fixture
def google(google_of_session: Google) -> Iterator[Google]:
    """Google Cloud Storage: a stand-in."""
    yield from _lend(google_of_session)


@pytest.fixture
def postgresql(postgresql_of_session: PostgreSQL) -> Iterator[PostgreSQL]:
    """A PostgreSQL server."""
    yield from _lend(postgresql_of_session)


REMOTE: Final = ("azurite", "s3", "google", "postgresql")


def on(*names: str) -> pytest.MarkDecorator:
    """Has a test run on these servers as its `remote`, and on the others only in a soak."""
    soak = pytest.mark.soak
    every = [pytest.param(name, marks=() if name in names else soak) for name in REMOTE]
    return pytest.mark.parametrize("remote", every, indirect=True)


@pytest.fixture(params=REMOTE)
def remote(request: pytest.FixtureRequest) -> Server:
    """Every one of these, one after the other."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Server)
    return server


@pytest.fixture
def through() -> Iterator[Through]:
    """Puts proxies before servers, `through(server)`; closes them after the test."""
    with contextlib.ExitStack() as proxies:

        def through(server: Server) -> Proxy:
            return proxies.enter_context(contextlib.closing(servers.through(server)))

        yield through
