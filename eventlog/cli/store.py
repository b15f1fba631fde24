"""``eventlog store``: the documents that groups keep in a blob store, as they are.

This is for looking, and for mending what a person has broken. How far a group is, and moving it,
is ``eventlog group``: it keeps what belongs together together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from eventlog.blobs import NOT_MODIFIED, Blob, BlobStore, Listing
from eventlog.cli import output
from eventlog.cli.display import Size, Value, instant_text, show_table
from eventlog.cli.failures import Failure
from eventlog.cli.invocation import Invocation, common_options, pass_invocation
from eventlog.cli.stores import only_store, store_option

__all__ = ["store"]

LONG_COLUMNS: Final = ("size", "modified", "etag", "name")


@click.group
@common_options
def store() -> None:
    """List, print and remove the documents in which groups keep what they know."""


@store.command("ls")
@common_options
@click.argument("prefix", metavar="[PREFIX]", default="")
@click.option("--long", "-l", "is_long", is_flag=True, help="With sizes, times and etags.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@store_option
@pass_invocation
def list_names(
    invocation: Invocation,
    /,
    *,
    prefix: str,
    is_long: bool,
    as_json: bool,
    store_url: str | None,
) -> None:
    """List the names that begin with PREFIX, or all, in their order.

    With --long, where the output is no terminal: a line for each, without a header, columns
    separated by tabs: bytes, when it was last written, etag, name.
    """
    with only_store(invocation, store_url) as found:
        listing = found.list(prefix)
        blobs = list(_read(found, listing)) if is_long or as_json else []
    if as_json:
        output.write_json([_document(blob) for blob in blobs])
    elif is_long:
        show_table(LONG_COLUMNS, [_row(blob) for blob in blobs])
    else:
        for name, _ in listing:
            output.write_line(name)


def _read(found: BlobStore, listing: Listing) -> Iterator[Blob]:
    """What was listed, as it is now; not what was deleted since."""
    for name, _ in listing:
        blob = found.get(name)
        if blob is not None and blob is not NOT_MODIFIED:
            yield blob


def _row(blob: Blob) -> Sequence[Value]:
    return Size(len(blob.data)), blob.modified_at, blob.etag, blob.name


def _document(blob: Blob) -> dict[str, Any]:
    return {
        "name": blob.name,
        "etag": blob.etag,
        "modified_at": instant_text(blob.modified_at),
        "size_bytes": len(blob.data),
    }


@store.command()
@common_options
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@store_option
@pass_invocation
def cat(invocation: Invocation, /, *, names: tuple[str, ...], store_url: str | None) -> None:
    """Print the document NAME as it is; several, one after the other."""
    with only_store(invocation, store_url) as found:
        for name in names:
            output.write(_existing(found, name).data)


@store.command()
@common_options
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--if-match", metavar="ETAG", help="Only if this is its etag, as 'ls --long' shows.")
@store_option
@pass_invocation
def rm(
    invocation: Invocation,
    /,
    *,
    names: tuple[str, ...],
    if_match: str | None,
    store_url: str | None,
) -> None:
    """Remove the document NAME, for good; several, one after the other.

    Whoever relies on it finds it gone: without its checkpoint, a group begins a partition anew.
    """
    if if_match is not None and len(names) > 1:
        raise click.UsageError("--if-match is for one NAME: no two have the same etag")
    with only_store(invocation, store_url, to_change=True) as found:
        for name in names:
            _existing(found, name)
            found.delete(name, if_match=if_match)
            output.announce(f"{name} removed")


def _existing(found: BlobStore, name: str) -> Blob:
    blob = found.get(name)
    if blob is None or blob is NOT_MODIFIED:
        raise Failure(f"there is no {name!r} in the store")
    return blob
