"""What the tests of groups' documents share: a clock, a store where things go wrong, edits."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from eventlog.blobs import Blob, BlobStore, NotModified
from eventlog.groups.checkpoints import GroupIds, GroupStore
from eventlog.positions import instant

IDS = GroupIds("log-1", "cars", "7", "fraud")
PLACE = "groups/log-1/cars/fraud/"
GROUP = f"{PLACE}group.json"
START_US = 1_700_000_000_000_000
WHEN = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.us = START_US

    def __call__(self) -> int:
        return self.us

    @property
    def now(self) -> datetime:
        return instant(self.us)

    def forward(self, seconds: float) -> None:
        self.us += round(seconds * 1_000_000)


class Unreliable(BlobStore):
    """A store that counts, whose answers get lost, and where others come in between.

    Attributes:
        calls: (method, name) of each.
        before: called once before a put of a name.
        fail: what the next puts raise instead of being done.
        lose: what the next puts raise after they were done.
    """

    def __init__(self, real: BlobStore) -> None:
        self.real = real
        self.calls: list[tuple[str, str]] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.fail: list[Exception] = []
        self.lose: list[Exception] = []

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        self.calls.append(("get", name))
        return self.real.get(name, if_none_match=if_none_match)

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        self.calls.append(("put", name))
        self.before.pop(name, lambda: None)()
        if self.fail:
            raise self.fail.pop(0)
        etag = self.real.put(name, data, if_match=if_match, if_absent=if_absent)
        if self.lose:
            raise self.lose.pop(0)
        return etag

    def list(self, prefix: str) -> list[tuple[str, str]]:
        self.calls.append(("list", prefix))
        return self.real.list(prefix)

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        self.calls.append(("delete", name))
        self.real.delete(name, if_match=if_match)

    def close(self) -> None:
        self.real.close()


def a_store(blobs: BlobStore, clock: Clock, ids: GroupIds = IDS, **options: Any) -> GroupStore:
    """What another process would have; it never sleeps."""
    options.setdefault("pause", lambda repetition: None)
    return GroupStore(blobs, ids, clock, **options)


def stored(blobs: BlobStore, name: str) -> dict[str, Any]:
    """A document as it is in the store."""
    blob = blobs.get(name)
    assert isinstance(blob, Blob)
    document = json.loads(blob.data)
    assert isinstance(document, dict)
    return document


def edit(blobs: BlobStore, name: str, **changes: Any) -> None:
    """What another program, or a person with an editor, does to a document."""
    blobs.put(name, json.dumps({**stored(blobs, name), **changes}).encode())


def own(blobs: BlobStore, host: str | None, partition: int = 0, epoch: int = 1) -> None:
    """The first half of a host's take-over; or of its giving away."""
    edit(blobs, GROUP, partitions={partition: {"owner": host, "epoch": epoch, "next": None}})


def checkpoint_name(partition: int) -> str:
    return f"{PLACE}checkpoints/{partition}.json"
