"""Stores under the SDK, and checkpoint stores of both kinds on them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventlog.blobs
from eventlog.blobs import BlobStore
from eventlog.testing import Opener
from tests.azure.stores import FACES, REMOTE, SHARED, ContentEtags, Face
from tests.servers import Server


@pytest.fixture(params=[*SHARED, *REMOTE])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens a store that is new, in any process."""
    return _opener(request, request.param, tmp_path)


@pytest.fixture(params=["memory", "content etags", *SHARED])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    """A new store: one on this machine, unless the test names others."""
    if request.param == "content etags":
        yield ContentEtags()
    elif request.param == "memory":
        with eventlog.blobs.open("memory:") as store:
            yield store
    else:
        with _opener(request, request.param, tmp_path)() as store:
            yield store


def _opener(request: pytest.FixtureRequest, kind: str, path: Path) -> Opener:
    if kind in SHARED:
        return SHARED[kind](path)
    server = request.getfixturevalue(kind)
    assert isinstance(server, Server)
    return functools.partial(eventlog.blobs.open, server.store_url())


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    """Makes a checkpoint store: a synchronous one, or an asynchronous one that is waited for."""
    return FACES[request.param]
