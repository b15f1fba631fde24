"""What opens the stores that the contract suite runs on, also in other processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import eventlog
from eventlog.blobs import BlobStore


@contextlib.contextmanager
def embedded_store(path: Path | str) -> Iterator[BlobStore]:
    """The store in the log at `path`; the log is found to be whole when it is closed."""
    with eventlog.open(path) as log:
        yield log.blobs
        assert log.check().ok
