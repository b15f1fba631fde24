"""Blob stores: small named documents with compare-and-swap, where groups keep what they know.

`BlobStore` is the contract, and `open` opens a store of its own. A log has one too, in itself.
"""

from __future__ import annotations

import os

from eventlog.blobs.store import NOT_MODIFIED, Blob, BlobStore, Listing, NotModified
from eventlog.errors import UnsupportedOperationError

__all__ = ["NOT_MODIFIED", "Blob", "BlobStore", "Listing", "NotModified", "open"]


def open(url: str | os.PathLike[str]) -> BlobStore:
    """Open a store.

    Args:
        url: a path or ``file:PATH``: a directory, made with the first put. ``memory:``: a new
            store in memory; ``memory:NAME``: one that the process shares.

    Raises:
        UnsupportedOperationError: there is no store for such a URL; or the directory is on a
            network file system, or is a log, which has a store in itself.
        NotADirectoryError: there is a file at that path.
    """
    kind, place = _split(url)
    if kind == "memory":
        from eventlog.blobs.memory import MemoryBlobs

        return MemoryBlobs(place)
    from eventlog.blobs.directory import DirectoryBlobs

    return DirectoryBlobs(place)


def _split(url: str | os.PathLike[str]) -> tuple[str, str]:
    """``("file", path)`` or ``("memory", name)``. No error shows a URL: it may hold a password."""
    text = os.fspath(url)
    if not isinstance(text, str):
        raise TypeError(f"the URL of a store is a str or a path of str, not {type(text).__name__}")
    scheme, colon, rest = text.partition(":")
    if not isinstance(url, str) or not colon or len(scheme) < 2 or "/" in scheme:
        scheme, rest = "file", text
    elif scheme == "file":
        rest = rest.removeprefix("//")
    if scheme == "file" and not rest:
        raise ValueError(f"{text!r} names no directory")
    if scheme not in ("file", "memory"):
        raise UnsupportedOperationError(
            f"there is no store for {scheme:.40}: URLs; known are paths, file: and memory:"
        )
    return scheme, rest
