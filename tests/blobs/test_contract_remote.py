"""The stores behind a network keep the contract: see `eventlog.testing.BlobStoreContract`.

The servers are real, or emulators of them: see `tests.servers`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import ClassVar

import pytest

import eventlog.blobs
from eventlog.blobs import BlobStore
from eventlog.testing import BlobStoreContract, Opener
from tests.servers import Server


class RemoteContract(BlobStoreContract):
    """The contract of a store in the server that the fixture named `server` starts."""

    server: ClassVar[str]

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest) -> Iterator[BlobStore]:
        server = request.getfixturevalue(self.server)
        assert isinstance(server, Server)
        self.url = server.store_url()
        with eventlog.blobs.open(self.url) as store:
            yield store

    def opener(self, store: BlobStore) -> Opener:
        return functools.partial(eventlog.blobs.open, self.url)


class TestAzureBlobStorage(RemoteContract):
    """Azurite."""

    server = "azurite"


class TestAmazonS3(RemoteContract):
    """moto."""

    server = "s3"
    new_etag_with_every_put = False


class TestGoogleCloudStorage(RemoteContract):
    """A stand-in."""

    server = "google"
    new_etag_with_every_put = False


class TestPostgreSQL(RemoteContract):
    """PostgreSQL itself."""

    server = "postgresql"


@pytest.mark.parametrize("server", ["azurite", "s3", "google"])
def test_stores_with_prefixes_share_a_bucket(server: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(server).store_url("a/b")
    with eventlog.blobs.open(url) as store:
        store.put("c/d", b"1")
        for other in ("/a?", "/a/b/c?", "/a/bc?"):
            with eventlog.blobs.open(url.replace("/a/b?", other)) as beside:
                assert [name for name, _ in beside.list("")] == [
                    name for name in ("b/c/d", "d") if f"{other[1:-1]}/{name}" == "a/b/c/d"
                ]
