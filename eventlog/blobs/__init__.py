"""Blob stores: small named documents with compare-and-swap, where groups keep what they know.

`BlobStore` is the contract, and `open` opens a store of its own. A log has one too, in itself.
"""

from __future__ import annotations

import os
from typing import Final

from eventlog.blobs.store import NOT_MODIFIED, Blob, BlobStore, Listing, NotModified
from eventlog.errors import UnsupportedOperationError

__all__ = ["NOT_MODIFIED", "Blob", "BlobStore", "Listing", "NotModified", "open"]

_OBJECT_SCHEMES: Final = ("s3", "az", "gs")
_DATABASE_SCHEMES: Final = ("postgresql", "postgres")


def open(url: str | os.PathLike[str], **options: object) -> BlobStore:
    """Open a store.

    Args:
        url: a path or ``file:PATH``: a directory, made with the first put. ``memory:``: a new
            store in memory; ``memory:NAME``: one that the process shares. ``s3://BUCKET/PREFIX``,
            ``az://CONTAINER/PREFIX``, ``gs://BUCKET/PREFIX``: an object store.
            ``postgresql://USER:PASSWORD@HOST/DATABASE``: a table.
        options: of a store behind a network, which may as well stand in the URL's query:
            `timeout`, the seconds that a call takes at most, and what docs/stores.md lists.

    Raises:
        UnsupportedOperationError: there is no store for such a URL; the directory is on a network
            file system, or is a log, which has a store in itself; the object store cannot compare
            and swap.
        StoreUnavailableError: an object store or database does not answer, or lets nobody in.
        NotADirectoryError: there is a file at that path.
        ValueError: an option there is not, or that cannot be so.
        ImportError: what such a store needs is not installed.
    """
    scheme, place = _split(url)
    if scheme in _OBJECT_SCHEMES:
        from eventlog.blobs.objects import open_objects

        return open_objects(scheme, place, options)
    if scheme in _DATABASE_SCHEMES:
        from eventlog.blobs.postgresql import open_postgresql

        return open_postgresql(f"{scheme}:{place}", options)
    if options:
        raise ValueError(f"a {scheme}: store has no options; given: {', '.join(options)}")
    if "?" in place and isinstance(url, str) and url.startswith(f"{scheme}:"):
        raise ValueError(f"a {scheme}: store has no options, and its URL no '?'")
    if scheme == "memory":
        from eventlog.blobs.memory import MemoryBlobs

        return MemoryBlobs(place)
    from eventlog.blobs.directory import DirectoryBlobs

    return DirectoryBlobs(place)


def _split(url: str | os.PathLike[str]) -> tuple[str, str]:
    """The scheme, and what comes after its colon. No error shows that: it may hold a password."""
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
    if scheme not in ("file", "memory", *_OBJECT_SCHEMES, *_DATABASE_SCHEMES):
        raise UnsupportedOperationError(
            f"there is no store for {scheme:.40}: URLs; known are paths, file:, memory:, s3://, "
            "az://, gs:// and postgresql://"
        )
    return scheme, rest
