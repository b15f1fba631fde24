"""What the stores of all clouds have in common: one request to obstore for each call.

An object's key is the prefix of the store and the name of the blob. The token of who wrote it
stands in its metadata. obstore gives etags in quotes, in some lists without; ours have none.

What a condition is about is called a *mark* here: the etag, or on Google the generation.
"""

from __future__ import annotations

import abc
import contextlib
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import obstore

from eventlog.blobs.aside import Aside
from eventlog.blobs.objects import forking
from eventlog.blobs.objects.failures import Failure, Kind, attempt
from eventlog.blobs.objects.proving import find_ignored
from eventlog.blobs.objects.settings import Settings, Store
from eventlog.blobs.remote import Late, RemoteBlobs, Undone, Unsure, Version
from eventlog.blobs.store import MAX_DATA_BYTES, NOT_MODIFIED, Blob, Listing, NotModified
from eventlog.errors import (
    ClosedError,
    EventLogError,
    InvalidNameError,
    PreconditionFailedError,
    StoreUnavailableError,
    UnsupportedOperationError,
)

if TYPE_CHECKING:
    from obstore import GetOptions, PutMode, PutResult

__all__ = ["ObjectBlobs", "bare"]

T = TypeVar("T")

_MAX_KEY_BYTES: Final = 1024
_WRITER: Final = "eventlogwriter"  # Azure takes letters, digits and "_", some proxies no "_"
_PAGE: Final = 100

_ERRORS: Final[dict[Kind, tuple[type[Exception], str]]] = {
    Kind.PASSING: (Unsure, "{reason}"),
    Kind.UNDONE: (Undone, "{reason}"),
    Kind.DENIED: (StoreUnavailableError, "cannot {what} in {place}: {reason}"),
    Kind.NAME: (InvalidNameError, "cannot {what} in {place}, which has no such names: {reason}"),
    Kind.UNSUPPORTED: (
        UnsupportedOperationError,
        "the server of {place} cannot be a store: {reason}",
    ),
}
_UNUSABLE: Final = (StoreUnavailableError, "{place} cannot be used: {reason}")


class ObjectBlobs(RemoteBlobs):
    """See `RemoteBlobs`. Who derives from it knows what a cloud compares, and how it deletes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.place, timeout=settings.timeout, server=settings.server)
        self.settings = settings
        self._beginning = f"{settings.prefix}/" if settings.prefix else ""
        self._store: Store | None = settings.connect()
        self._proving = threading.Lock()
        self._is_proven = False
        self._is_opened = False
        self._aside = Aside("request")
        self._is_denied = False  # something was, as soon as it was asked for

    def open(self) -> None:
        """Refuse what cannot be a store. Who may not write may still read from one."""
        try:
            self._prove()
        except StoreUnavailableError:
            if not self._is_denied:
                raise
            self._ask("open", lambda until: self._read(_probe_name(), None, until))
        self._is_opened = True

    # What a cloud says

    @abc.abstractmethod
    def _swap(self, name: str, data: bytes, writer: str, if_match: str) -> str:
        """Put a blob in place of a version; its etag."""

    @abc.abstractmethod
    def _delete(self, name: str, if_match: str) -> None:
        """Delete a version."""

    @abc.abstractmethod
    def _delete_object(self, name: str, mark: str | None) -> None:
        """One request to delete, if the mark is that of what is there."""

    @abc.abstractmethod
    def _mode(self, mark: str) -> PutMode:
        """To put only where the mark is that of what is there."""

    @abc.abstractmethod
    def _mark(self, result: PutResult) -> str | None:
        """The mark of what was put."""

    def _note(self, name: str, etag: str, version: str | None) -> None:
        """That is what is there; for clouds whose marks are not in etags."""

    # Requests

    def _request(self, request: Callable[[float], T], until: float) -> T:
        """Each is ended by obstore after its time, which is the same for all."""
        left = until - self._clock()
        if left >= self.request_timeout:
            return request(until)
        return self._aside.run(lambda: request(until), left)

    def _read(
        self,
        name: str,
        if_none_match: str | None,
        until: float,  # noqa: ARG002 - see `_request`; so below
    ) -> Version | NotModified | None:
        store, key = self._connected(), self._key(name)
        options: GetOptions = {}
        if if_none_match is not None:
            options["if_none_match"] = f'"{if_none_match}"'
        found = attempt(lambda: obstore.get(store, key, options=options))
        if isinstance(found, Failure):
            if found.kind is Kind.ABSENT:
                return None
            if found.kind is Kind.NOT_MODIFIED:
                return NOT_MODIFIED
            raise self._error(found, f"get {name}")
        meta = found.meta
        if meta["size"] > MAX_DATA_BYTES:
            raise StoreUnavailableError(
                f"the object of the blob {name!r} in {self.place} has {meta['size']:,} bytes; a "
                f"blob has at most {MAX_DATA_BYTES:,}"
            )
        data = self._certain(attempt(lambda: found.bytes().to_bytes()), f"get {name}")
        etag = self._etag(meta["e_tag"])
        self._note(name, etag, meta["version"])
        writer = found.attributes.get(_WRITER, "")
        return Version(Blob(name, data, etag, meta["last_modified"]), writer)

    def _write(
        self,
        name: str,
        data: bytes,
        writer: str,
        until: float,  # noqa: ARG002
        *,
        if_match: str | None,
        if_absent: bool,
    ) -> str:
        self._prove()
        if if_match is not None:
            return self._swap(name, data, writer, if_match)
        return self._put(name, data, writer, "create" if if_absent else "overwrite")

    def _put(self, name: str, data: bytes, writer: str, mode: PutMode) -> str:
        """One request to put; the etag."""
        result = self._put_object(name, data, writer, mode)
        etag = self._etag(result["e_tag"])
        self._note(name, etag, result["version"])
        return etag

    def _put_object(self, name: str, data: bytes, writer: str, mode: PutMode) -> PutResult:
        store, key = self._connected(), self._key(name)
        put = attempt(
            lambda: obstore.put(
                *(store, key, data),
                attributes={_WRITER: writer},
                mode=mode,
                use_multipart=False,
            )
        )
        if isinstance(put, Failure) and put.kind is Kind.ABSENT and isinstance(mode, dict):
            raise self._unexpected(f"put {name}")
        return self._certain(put, f"put {name}")

    def _remove(self, name: str, if_match: str | None, until: float) -> None:
        self._prove()
        if if_match is not None:
            self._delete(name, if_match)
        else:
            self._delete_object(name, None)
        # Success may have been the word of some front end, with a page about its troubles.
        left = self._read(name, None, until)
        if isinstance(left, Version) and if_match in (None, left.blob.etag):
            raise Unsure("it has deleted the object, it said, but it is there")

    def _deleted(self, name: str, mark: str | None, done: Failure | None) -> None:
        """What a request to delete has come to."""
        if isinstance(done, Failure) and done.kind is Kind.ABSENT:
            if mark is not None:
                raise self._unexpected(f"delete {name}")
        else:
            self._certain(done, f"delete {name}")

    def _names(self, prefix: str, until: float) -> Listing:
        """By obstore that is a whole directory: the one in which the prefix ends.

        It asks for one page after the other, as long as there are more, and cannot be stopped.
        """
        store = self._connected()
        folder = (self._beginning + prefix.rpartition("/")[0]).removesuffix("/")
        found: Listing = []

        def read() -> None:
            for page in obstore.list(store, folder or None, chunk_size=_PAGE):
                found.extend((meta["path"], bare(meta["e_tag"] or "")) for meta in page)
                if self._clock() > until:
                    raise Late("there are more pages")

        def list_all() -> Failure | None:
            return attempt(read)

        try:
            ended = self._aside.run(list_all, until - self._clock())
        except Late:
            if not found:
                raise
            raise Unsure(
                f"it has listed {len(found):,} objects by then, and there are more"
            ) from None
        self._certain(ended, f"list {prefix}")
        if not found:
            # A page about some front end's troubles lists nothing either; a server knows that
            # there is no such object.
            self._read(_probe_name(), None, until)
        start = len(self._beginning)
        return [(path[start:], etag) for path, etag in found]

    def _disconnect(self) -> None:
        self._store = None

    def _after_fork(self) -> None:
        raise forking.refuse()

    # Whether it is a store at all

    def _prove(self) -> None:
        """Before the first write: see `find_ignored`."""
        if self._is_proven:
            return
        with self._proving:
            if not self._is_proven:
                self._require_conditions()
                self._is_proven = True

    def _require_conditions(self) -> None:
        # A put that was given up and takes effect late looks like a server that ignores; not twice.
        ignored = self._find_ignored() and self._find_ignored()
        if ignored:
            raise UnsupportedOperationError(
                f"the server of {self.place} cannot compare and swap ({ignored}): two hosts would "
                "own one partition; use another store, a PostgreSQL database for example"
            )

    def _find_ignored(self) -> str | None:
        name, writer = _probe_name(), secrets.token_hex(8)

        def put(mode: PutMode) -> PutResult:
            return self._ask("open", lambda _: self._put_object(name, b"", writer, mode))

        def look(until: float) -> Version | NotModified | None:
            return self._read(name, None, until)

        mark = self._mark(put("overwrite"))
        ignored = find_ignored(
            mark,
            create=lambda: put("create"),
            replace=lambda mark: put(self._mode(mark)),
            delete=lambda mark: self._ask("open", lambda _: self._delete_object(name, mark)),
            is_there=lambda: self._ask("open", look) is not None,
        )
        if ignored:
            with contextlib.suppress(Unsure, EventLogError):
                self._delete_object(name, None)
        return ignored

    # What went wrong

    def _connected(self) -> Store:
        store = self._store
        if store is None:
            raise ClosedError(f"the store at {self.place} was closed")
        return store

    def _key(self, name: str) -> str:
        key = self._beginning + name
        if len(key) > _MAX_KEY_BYTES:
            raise InvalidNameError(
                f"{name!r:.300} is too long for {self.place}: with the prefix, a name has at most "
                f"{_MAX_KEY_BYTES:,} bytes"
            )
        return key

    def _etag(self, e_tag: str | None) -> str:
        if e_tag is None:
            raise self._error(Failure(Kind.UNSUPPORTED, "it gives no etags"), "")
        return bare(e_tag)

    def _certain(self, answer: T | Failure, what: str) -> T:
        """The answer, if it is one."""
        if isinstance(answer, Failure):
            raise self._error(answer, what)
        return answer

    def _unexpected(self, what: str) -> PreconditionFailedError:
        return PreconditionFailedError(
            f"cannot {what:.300}: the blob is not as expected; another has changed it"
        )

    def _error(self, failure: Failure, what: str) -> Exception:
        if failure.kind is Kind.CONDITION:
            return self._unexpected(what)
        if failure.kind is Kind.DENIED:
            self._is_denied = True
        if failure.kind is Kind.UNSUPPORTED and self._is_opened:
            return Unsure(failure.reason)  # it was a store: something else has answered
        kind, text = _ERRORS.get(failure.kind, _UNUSABLE)
        return kind(text.format(what=_shown(what), place=self.place, reason=failure.reason))


def bare(e_tag: str) -> str:
    """An etag without quotes."""
    return e_tag.strip('"')


_PROBE: Final = ".eventlog-probe-"
"""What the names of objects begin with that only prove something."""


def _probe_name() -> str:
    """No blob has such a name."""
    return f"{_PROBE}{secrets.token_hex(8)}"


def _shown(what: str) -> str:
    """Of what was asked for, without the names of objects that only prove something."""
    verb, _, rest = what.partition(" ")
    return f"{verb} objects" if rest.startswith(_PROBE) else f"{what:.300}"
