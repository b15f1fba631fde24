"""Stores in Amazon S3, Azure Blob Storage and Google Cloud Storage, and in what speaks like them.

A blob is an object under a prefix of a bucket. The requests are those of `obstore`, one each: it
signs them, finds credentials and keeps connections. Conditions are the server's own: ``If-Match``
and ``If-None-Match`` on S3 and Azure, generations on Google. A server that ignores one of them is
refused on opening (`proving`): with it, two hosts would own one partition.

What this package deliberately does not do: make buckets, set up how long what is deleted is kept,
or work in a process that was forked from one that used it (`forking`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog.blobs.store import BlobStore

__all__ = ["open_objects"]


def open_objects(scheme: str, rest: str, options: Mapping[str, object]) -> BlobStore:
    """Open the store at the URL ``scheme:rest``; its server is asked whether it can be one.

    Args:
        scheme: ``s3``, ``az`` or ``gs``.
        rest: ``//BUCKET[/PREFIX][?OPTION=VALUE&...]``.
        options: what obstore takes for that cloud, and for its HTTP client, and ``timeout``; they
            come before those of the URL, and these before the environment.

    Raises:
        ModuleNotFoundError: obstore is not installed.
        TypeError, ValueError: an option is wrong; the error does not show its value.
        InvalidNameError: the prefix is none.
        StoreUnavailableError: it cannot be reached, there is no such bucket, or no access to it.
        UnsupportedOperationError: the server cannot compare and swap; or this process was forked
            from one that used obstore.
    """
    try:
        import obstore  # noqa: F401 - whether it is there
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f'{scheme}: stores need obstore: pip install "embedded-eventlog[objects]"',
            name="obstore",
        ) from None
    from eventlog.blobs.objects.clouds import open_cloud

    return open_cloud(scheme, rest, options)
