"""The contract of a blob store: small named documents with compare-and-swap.

What every store promises:

1. A put is there whole or not at all, and when it has returned it is durable, as far as the store
   is at all.
2. ``if_match`` and ``if_absent`` are looked at and acted on in one step, whoever else puts.
3. An *etag* stands for one version of a blob. It is compared for equality, and says nothing more.
4. What was put, and the put has returned, every get and list that begins afterwards sees.

The checks of arguments are here too, so that all stores take and refuse the same.
"""

from __future__ import annotations

import abc
import enum
import re
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import msgspec

from eventlog.errors import InvalidNameError, PreconditionFailedError

if TYPE_CHECKING:
    from pathlib import Path

    from eventlog.waiting import Watch

__all__ = [
    "MAX_DATA_BYTES",
    "MAX_NAME_BYTES",
    "MAX_SEGMENT_BYTES",
    "NOT_MODIFIED",
    "Blob",
    "BlobStore",
    "Listing",
    "NotModified",
    "check_name",
    "check_prefix",
    "check_put",
    "is_name",
    "require",
]

MAX_DATA_BYTES: Final = 4 * 1024 * 1024
MAX_NAME_BYTES: Final = 1024
MAX_SEGMENT_BYTES: Final = 255
"""As long as a file's name may be."""

_SEGMENT: Final = rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{MAX_SEGMENT_BYTES - 1}}}"
_NAME: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_PREFIX: Final = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT})?")

Listing: TypeAlias = list[tuple[str, str]]
"""Names and etags, in the order of the names."""


class Blob(msgspec.Struct, frozen=True, gc=False):
    """One version of a blob.

    Attributes:
        name: its name.
        data: all of it.
        etag: what to give as ``if_match`` to replace or delete this version only.
        modified_at: when it was put, in UTC, by the clock of who stored it.
    """

    name: str
    data: bytes
    etag: str
    modified_at: datetime


class NotModified(enum.Enum):
    """The type of `NOT_MODIFIED`, which is its only member."""

    NOT_MODIFIED = "not modified"

    def __repr__(self) -> str:
        return self.name


NOT_MODIFIED: Final = NotModified.NOT_MODIFIED
"""What `BlobStore.get` answers when the blob is still the version the caller knows."""


class BlobStore(abc.ABC):
    """Small named documents. Thread-safe; use it with ``with``, or close it.

    A name is one or more segments joined by ``/``, at most 1,024 bytes together. A segment has 1
    to 255 letters, digits, ``.``, ``_`` and ``-``, and does not begin with ``.``. Letters that
    differ in case differ. No name should go on where another ends, as ``a/b`` does behind ``a``:
    a store of files cannot hold both.

    After an error that leaves it open whether a put or delete has happened, it may happen yet, and
    undo what others have put since, unless it has a condition; so may an earlier try of a call that
    was repeated behind the scenes and has succeeded. What must not go backwards is swapped.

    Every method may raise

        InvalidNameError: the name, or prefix, breaks the rules.
        StoreUnavailableError: the store cannot be reached or used now. A put or delete may have
            happened all the same.
        ClosedError: the store was closed.
        TypeError: an argument is of a wrong type.
    """

    @abc.abstractmethod
    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        """The blob of that name; None if there is none.

        Args:
            if_none_match: an etag the caller knows: if it is still the blob's, the answer is
                `NOT_MODIFIED`, and the data are not read.
        """

    @abc.abstractmethod
    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """Store a blob, in place of what is there; its etag.

        Args:
            data: at most 4 MiB.
            if_match: only if this is the etag of what is there.
            if_absent: only if nothing is there.

        Raises:
            PreconditionFailedError: it is not; nothing was changed.
            ValueError: too much data, or both conditions.
        """

    @abc.abstractmethod
    def list(self, prefix: str) -> Listing:
        """Names that begin with `prefix`, and their etags, in the order of the names.

        The data are not read. What is put or deleted meanwhile may be listed or not; what is there
        all the time is.

        Args:
            prefix: the beginning of a name, which need not end with a segment; ``""`` for all.
        """

    @abc.abstractmethod
    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """Delete a blob. That there is none is no error, unless there is a condition.

        Args:
            if_match: only if this is the etag of what is there.

        Raises:
            PreconditionFailedError: it is not; nothing was changed.
        """

    def apart(self) -> BlobStore:
        """The same store, whose calls do not wait for those of others.

        For what must not be late. Close it when it is not needed any more, unless it is this one;
        it is closed with this one in any case.
        """
        return self

    @property
    def calls_at_a_time(self) -> int:
        """How many calls are worth making at the same time: more would wait for each other."""
        return 16

    def watch(self, name: str) -> Watch | None:
        """What tells of changes of one blob; None if the store cannot tell.

        The order is: `Watch.mark`, get the blob, and wait if it is the one that is known. A watch
        may also tell of other blobs, or tell in vain. Once the store is closed it has changed for
        good, whatever is marked. Close it when it is not needed any more.
        """
        check_name(name)
        return None

    @property
    def shared_directory(self) -> Path | None:
        """A directory on this machine that all who use the store share; None if there is none.

        For locks that the kernel lets go when a process ends. It may have to be made. What is in it
        is nobody's blob.
        """
        return None

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, and is of no use any more."""
        return False

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of what it holds. Closing twice is fine.

        The store in a log stays as it is: it is closed with the log.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def is_name(text: str) -> bool:
    """Whether a blob can have that name."""
    return len(text) <= MAX_NAME_BYTES and _NAME.fullmatch(text) is not None


def check_name(name: object) -> str:
    """`name`, if a blob can have it.

    Raises:
        TypeError: it is not a str.
        InvalidNameError: it breaks the rules.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a blob is a str, not {type(name).__name__}: {name!r:.80}")
    if not is_name(name):
        raise InvalidNameError(
            f"{name!r:.300} cannot name a blob: use segments joined by '/', each of 1 to "
            f"{MAX_SEGMENT_BYTES} letters, digits, '.', '_' and '-', none beginning with '.', and "
            f"{MAX_NAME_BYTES} bytes together at most"
        )
    return name


def check_prefix(prefix: object) -> str:
    """`prefix`, if a blob's name can begin so.

    Raises:
        TypeError: it is not a str.
        InvalidNameError: no name begins so.
    """
    if not isinstance(prefix, str):
        raise TypeError(f"a prefix is a str, not {type(prefix).__name__}: {prefix!r:.80}")
    if len(prefix) > MAX_NAME_BYTES or not _PREFIX.fullmatch(prefix):
        raise InvalidNameError(f"no blob has a name that begins with {prefix!r:.300}")
    return prefix


def check_put(name: object, data: object, if_match: object, *, if_absent: bool) -> None:
    """Refuse what cannot be put, whatever is there.

    Raises:
        TypeError, ValueError, InvalidNameError: see `BlobStore.put`.
    """
    check_name(name)
    check_etag(if_match)
    if not isinstance(data, bytes):
        raise TypeError(f"the data of a blob are bytes, not {type(data).__name__}")
    if len(data) > MAX_DATA_BYTES:
        raise ValueError(f"a blob has at most {MAX_DATA_BYTES:,} bytes, not {len(data):,}")
    if if_absent and if_match is not None:
        raise ValueError("if_match and if_absent exclude each other")


def check_etag(etag: object) -> None:
    """Refuse what is neither None nor an etag.

    Raises:
        TypeError: it is of another type: a `Blob`, perhaps.
    """
    if etag is not None and not isinstance(etag, str):
        raise TypeError(f"an etag is a str, not {type(etag).__name__}")


def require(
    name: str, etag: str | None, *, if_match: str | None = None, if_absent: bool = False
) -> None:
    """Refuse what a condition forbids; `etag` is that of what is there, None if nothing is.

    Raises:
        PreconditionFailedError: it forbids it.
    """
    if if_absent and etag is not None:
        raise PreconditionFailedError(f"the blob {name!r} is there, with etag {etag}")
    if if_match is not None and if_match != etag:
        there = "is not there" if etag is None else f"has etag {etag}"
        raise PreconditionFailedError(f"the blob {name!r} {there}; expected was etag {if_match}")
