"""What is stored for each partition of an event hub: the names of the blobs, and their JSON.

::

    <prefix>/<namespace>/<event hub>/<consumer group>/ownership/<partition>     an `Ownership`
    <prefix>/<namespace>/<event hub>/<consumer group>/checkpoint/<partition>    a `Checkpoint`

Names on Event Hubs do not differ by case, so namespace, event hub and group are in lower case, as
in Azure's own store. What no blob can be named stands as ``X`` and two hexadecimal digits for each
byte of its UTF-8: the group ``$Default`` is ``X24default``. A segment that would be too long is cut
off, and ``H`` and a hash of all of it take the place of its end.

Structs and functions: nothing here does input or output.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from eventlog.blobs.store import MAX_SEGMENT_BYTES
from eventlog.errors import EventLogError
from eventlog.groups.documents import new_revision

__all__ = ["Checkpoint", "Ownership", "Place", "checkpoint", "decode", "encode", "ownership"]

MAX_DOCUMENT_BYTES: Final = 64 * 1024
"""Far more than any document has; more is not even looked at."""

_HASH_DIGITS: Final = 32
_TO_ESCAPE: Final = re.compile(rb"^\.|[^a-z0-9._-]")
_ESCAPED: Final = re.compile("X([0-9A-F]{2})")

Text: TypeAlias = Annotated[str, Meta(max_length=1024)]


class Ownership(Struct, frozen=True):
    """Who owns a partition. When it was claimed, the store knows.

    Attributes:
        owner_id: of an event processor; ``""`` once it has released the partition.
        revision: another one with every write; see `new_revision`.
    """

    owner_id: Text
    revision: str


class Checkpoint(Struct, frozen=True):
    """The last event of a partition that was finished.

    Attributes:
        offset: what Event Hubs calls so, which is for Event Hubs to understand.
        sequence_number: its number in the partition.
        revision: another one with every write.
    """

    offset: Annotated[Text, Meta(min_length=1)]
    sequence_number: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    revision: str


D = TypeVar("D", Ownership, Checkpoint)

# Made here, since msgspec crashes if two threads are the first to decode a type at the same time.
_decoders: Final[dict[type[Any], msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Ownership, Checkpoint)
}

_IF_LOST: Final[dict[type[Any], str]] = {
    Ownership: "some processor claims the partition anew",
    Checkpoint: "the group begins the partition anew",
}


class Place(NamedTuple):
    """Where the documents of one kind are, of one consumer group of one event hub."""

    prefix: str
    namespace: str
    event_hub: str
    group: str
    kind: type[Ownership | Checkpoint]

    @property
    def beginning(self) -> str:
        """What all their names begin with."""
        names = (_segment(name.lower()) for name in self[1:4])
        return "/".join((self.prefix, *names, self.kind.__name__.lower(), ""))

    def name(self, partition: str) -> str:
        """The name of a partition's document."""
        return self.beginning + _escaped(partition)

    def partition(self, name: str) -> str | None:
        """The inverse of `name`; None for the name of anything else."""
        escaped = name.removeprefix(self.beginning)
        try:
            octets = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), escaped)
            partition = octets.encode("latin-1").decode()
        except UnicodeError:
            return None
        return partition if name == self.name(partition) else None


def _escaped(text: str) -> str:
    return _TO_ESCAPE.sub(lambda match: b"X%02X" % ord(match[0]), text.encode()).decode()


@functools.lru_cache(maxsize=256)
def _segment(text: str) -> str:
    escaped = _escaped(text)
    if len(escaped) <= MAX_SEGMENT_BYTES:
        return escaped
    digest = hashlib.sha256(escaped.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{escaped[: MAX_SEGMENT_BYTES - 1 - _HASH_DIGITS]}H{digest}"


def ownership(given: dict[str, Any]) -> Ownership:
    """What is to be stored of an ownership as the SDK gives it; unlike all stored before.

    Raises:
        ValueError: it is none.
    """
    return _converted(Ownership, {"owner_id": given["owner_id"]})


def checkpoint(given: dict[str, Any]) -> Checkpoint:
    """What is to be stored of a checkpoint as the SDK gives it; unlike all stored before.

    Raises:
        ValueError: it is none.
    """
    offset, sequence_number = given["offset"], given["sequence_number"]
    if isinstance(offset, int):  # as older versions of the SDK have it
        offset = str(offset)
    return _converted(Checkpoint, {"offset": offset, "sequence_number": sequence_number})


def _converted(kind: type[D], fields: dict[str, Any]) -> D:
    try:
        return msgspec.convert({**fields, "revision": new_revision()}, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{fields!r:.300} is no {kind.__name__.lower()}: {error}") from None


def encode(document: Ownership | Checkpoint) -> bytes:
    """Its JSON, as a person can read it."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def decode(name: str, data: bytes, kind: type[D]) -> D:
    """The document in a blob.

    Raises:
        EventLogError: it is none.
    """
    try:
        if len(data) > MAX_DOCUMENT_BYTES:
            raise msgspec.ValidationError(f"it has {len(data):,} bytes")
        document: D = _decoders[kind].decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EventLogError(
            f"the blob {name!r} is no {kind.__name__.lower()} of a partition: {error}; mend it, or "
            f"delete it: then {_IF_LOST[kind]}"
        ) from error
    return document
