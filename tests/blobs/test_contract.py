"""Every store keeps the contract, test by test: see `eventlog.testing.BlobStoreContract`."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventlog.blobs
from eventlog.blobs import BlobStore
from eventlog.blobs import directory as directory_store
from eventlog.testing import BlobStoreContract, Opener
from tests.blobs.stores import embedded_store


class TestEmbeddedStoreOnDisk(BlobStoreContract):
    """The default store: rows in the log."""

    closes = False

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[BlobStore]:
        self.path = tmp_path / "log"
        with embedded_store(self.path) as store:
            yield store

    def opener(self, store: BlobStore) -> Opener:
        return functools.partial(embedded_store, self.path)


class TestEmbeddedStoreInMemory(BlobStoreContract):
    """The same in a log that one process has to itself."""

    closes = False

    @pytest.fixture
    def store(self) -> Iterator[BlobStore]:
        with embedded_store("memory:") as store:
            yield store


class TestDirectoryStore(BlobStoreContract):
    """Files on a disk."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[BlobStore]:
        self.url = f"file:{tmp_path / 'store'}"
        with eventlog.blobs.open(self.url) as store:
            yield store

    def opener(self, store: BlobStore) -> Opener:
        return functools.partial(eventlog.blobs.open, self.url)


class TestDirectoryStoreInMemory(TestDirectoryStore):
    """Files on a file system that has nothing to wait for, so that there are more races."""

    @pytest.fixture
    def store(self, fast_path: Path) -> Iterator[BlobStore]:
        self.url = f"file:{fast_path}"
        with eventlog.blobs.open(self.url) as store:
            yield store


class TestDirectoryStoreWhereCaseDoesNotCount(BlobStoreContract):
    """File names as they are chosen where the file system takes "A" and "a" for the same."""

    @pytest.fixture
    def store(self, fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlobStore]:
        monkeypatch.setattr(directory_store, "_folds_case", lambda directory: True)
        with eventlog.blobs.open(fast_path) as store:
            yield store


class TestMemoryStore(BlobStoreContract):
    """A dict."""

    @pytest.fixture
    def store(self) -> Iterator[BlobStore]:
        with eventlog.blobs.open("memory:") as store:
            yield store


def test_the_suite_can_be_imported_without_pytest() -> None:
    """It only needs it where it is run."""
    source = "import sys; from eventlog.testing import *; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
