"""What stores behind a network have in common: repeating, and finding out what became of a write.

A request may fail in passing: the server is throttled or away, the connection lost, the answer
late. It is repeated, with pauses that grow, until the time of the call is over. If it was to write,
nobody knows whether it has: it may even take effect later. So every put carries a token of its own,
the *writer*, which the store keeps beside the data, and a conditional put whose fate is unknown is
judged by who wrote what is there now:

- this put did: it has succeeded, and only its answer was lost;
- what was to be replaced is still there (or nothing, if it was to create): it has not happened yet,
  and is tried again. Should the first try take effect after all, the second fails, and finds the
  token;
- another did: it may have come instead, or after. That cannot be told apart, and is said
  (`StoreUnavailableError`), not guessed.

A conditional delete leaves no token behind. Where it is unknown whether it has happened, only the
blob that is still there tells that it has not.

What this module deliberately does not do: know any protocol, or hold a connection.
"""

from __future__ import annotations

import abc
import os
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeVar

from eventlog.blobs.store import (
    NOT_MODIFIED,
    Blob,
    BlobStore,
    Listing,
    NotModified,
    check_etag,
    check_name,
    check_prefix,
    check_put,
    is_name,
)
from eventlog.errors import ClosedError, PreconditionFailedError, StoreUnavailableError

__all__ = [
    "DEFAULT_TIMEOUT",
    "Late",
    "LateUndone",
    "RemoteBlobs",
    "Undone",
    "Unsure",
    "Version",
    "can_be_etag",
    "check_timeout",
]

T = TypeVar("T")

DEFAULT_TIMEOUT: Final = 6.0
"""Seconds."""

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_TOO_SHORT: Final = 0.1
"""Of the time of a request: with less it is not begun."""

_LONGEST_TIMEOUT: Final = 600.0
_ETAG: Final = re.compile(r"[A-Za-z0-9._:+/=-]{1,200}")


class Unsure(Exception):  # noqa: N818 - it never leaves the stores
    """A request failed in passing. If it was to change something, it may have, or may yet.

    Args:
        reason: for people; nothing secret.
    """


class Undone(Unsure):
    """A request failed in passing, and has certainly changed nothing, nor ever will."""


class Late(Unsure):
    """There was no time left. Says less than what failed before."""


class LateUndone(Late, Undone):
    """There was no time left even to ask."""


class Version(NamedTuple):
    """A blob, and who wrote it.

    Attributes:
        writer: the token of the put; empty if it was none of ours.
    """

    blob: Blob
    writer: str


class RemoteBlobs(BlobStore):
    """A store that is asked by requests. See `BlobStore` for the contract.

    Who derives from it implements single requests, none of which may take much longer than
    `request_timeout`, nor than `until`: by the clock, when the time of the call is over. Besides
    what stands with each they raise `Unsure` if it is worth to try again, and
    `StoreUnavailableError` if it is not (no access, no such bucket).

    Args:
        place: its URL without anything secret.
        server: its address, if the URL does not say it.
        timeout: seconds that a call takes at most, repetitions included; 0.1 to 600. Reading back
            what became of a write may take half of that again.

    Attributes:
        request_timeout: seconds that one request may take: half of `timeout`, so that one that
            hangs can be repeated.
    """

    def __init__(self, place: str, *, timeout: float = DEFAULT_TIMEOUT, server: str = "") -> None:
        self.place = place
        self.server = server
        self.timeout = check_timeout(timeout)
        self.request_timeout = self.timeout / 2
        self._is_closed = False
        self._process = os.getpid()
        self._clock: Callable[[], float] = time.monotonic
        self._sleep: Callable[[float], object] = time.sleep

    def __repr__(self) -> str:
        return f"<BlobStore at {self.place}>"

    # Requests

    @abc.abstractmethod
    def _read(
        self, name: str, if_none_match: str | None, until: float
    ) -> Version | NotModified | None:
        """Get a blob; None if it is not there."""

    @abc.abstractmethod
    def _write(
        self,
        name: str,
        data: bytes,
        writer: str,
        until: float,
        *,
        if_match: str | None,
        if_absent: bool,
    ) -> str:
        """Put a blob; its etag. Raises `PreconditionFailedError`."""

    @abc.abstractmethod
    def _remove(self, name: str, if_match: str | None, until: float) -> None:
        """Delete a blob, if it is there. Raises `PreconditionFailedError`."""

    @abc.abstractmethod
    def _names(self, prefix: str, until: float) -> Listing:
        """Names and etags, in any order; others, and what is no blob, may be among them."""

    @abc.abstractmethod
    def _disconnect(self) -> None:
        """The store is closed: let go of everything."""

    @abc.abstractmethod
    def _after_fork(self) -> None:
        """This is a child of the process that made the store: go on, or refuse to.

        Raises:
            UnsupportedOperationError: it cannot go on.
        """

    # The contract

    def get(self, name: str, *, if_none_match: str | None = None) -> Blob | NotModified | None:
        """See `BlobStore.get`."""
        check_name(name)
        check_etag(if_none_match)
        self._require_open()
        known = if_none_match if can_be_etag(if_none_match) else None
        found = self._ask(f"get {name}", lambda until: self._read(name, known, until))
        return found.blob if isinstance(found, Version) else found

    def put(
        self, name: str, data: bytes, *, if_match: str | None = None, if_absent: bool = False
    ) -> str:
        """See `BlobStore.put`."""
        check_put(name, data, if_match, if_absent=if_absent)
        self._require_open()
        _refuse_no_etag(name, if_match)
        writer = secrets.token_hex(8)

        def write(until: float) -> str:
            return self._write(name, data, writer, until, if_match=if_match, if_absent=if_absent)

        if if_match is None and not if_absent:
            return self._ask(f"put {name}", write)

        def look(until: float) -> str | None:
            version = self._read(name, None, until)
            if isinstance(version, Version) and version.writer == writer:
                return version.blob.etag
            _refuse_other(version, if_match)
            return None

        return self._change(f"put {name}", write, look)

    def list(self, prefix: str) -> Listing:
        """See `BlobStore.list`."""
        check_prefix(prefix)
        self._require_open()
        found = self._ask(f"list {prefix}", lambda until: self._names(prefix, until))
        return sorted(entry for entry in found if entry[0].startswith(prefix) and is_name(entry[0]))

    def delete(self, name: str, *, if_match: str | None = None) -> None:
        """See `BlobStore.delete`."""
        check_name(name)
        check_etag(if_match)
        self._require_open()
        _refuse_no_etag(name, if_match)
        if if_match is None:
            self._ask(f"delete {name}", lambda until: self._remove(name, None, until))
            return

        def remove(until: float) -> None:
            self._remove(name, if_match, until)

        def look(until: float) -> None:
            _refuse_other(self._read(name, None, until), if_match)

        self._change(f"delete {name}", remove, look)

    @property
    def is_closed(self) -> bool:
        """See `BlobStore.is_closed`."""
        return self._is_closed

    def close(self) -> None:
        """See `BlobStore.close`."""
        if not self._is_closed:
            self._is_closed = True
            if os.getpid() == self._process:
                self._disconnect()

    # Trying

    def _request(self, request: Callable[[float], T], until: float) -> T:
        """Make one request; for stores whose requests do not look at the time themselves."""
        return request(until)

    def _ask(self, what: str, request: Callable[[float], T]) -> T:
        """Repeat what may be repeated: the answer."""
        failure = None
        for until in self._attempts():
            try:
                return self._request(request, until)
            except Unsure as error:
                failure = _of_both(failure, error)
        raise self._given_up(what, failure)

    def _change(
        self, what: str, request: Callable[[float], T], look: Callable[[float], T | None]
    ) -> T:
        """Make a conditional change.

        Args:
            look: finds out what became of it: its answer; None if it has not happened yet; raises
                `_Ambiguous` if nobody knows.
        """
        failure: Unsure | None = None
        is_doubtful = False
        for until in self._attempts():
            try:
                answer = self._request(look, until) if is_doubtful else None
                return self._request(request, until) if answer is None else answer
            except Unsure as error:
                failure = _of_both(failure, error)
                is_doubtful = is_doubtful or not isinstance(error, Undone)
            except PreconditionFailedError:
                if not is_doubtful:
                    raise
                # An earlier try of this change, or another's, has come before: to be looked at.
            except _Ambiguous:
                raise self._doubted(what) from None
        return self._judge(what, look if is_doubtful else None, failure)

    def _judge(
        self, what: str, look: Callable[[float], T | None] | None, failure: Unsure | None
    ) -> T:
        """The time is over: one last look, if there is any doubt."""
        answer = None
        try:
            if look is not None:
                answer = self._request(look, self._clock() + self.request_timeout)
        except Unsure:
            pass
        except _Ambiguous:
            raise self._doubted(what) from None
        if answer is None:
            raise self._given_up(what, failure)
        return answer

    def _attempts(self) -> Iterator[float]:
        """When the call is over; as often as there is time to try, with pauses in between."""
        end = self._clock() + self.timeout
        pause = _FIRST_PAUSE
        while True:
            yield end
            # At random, so that those who were turned away together do not come back together.
            moment = random.uniform(pause / 2, pause)  # noqa: S311 - no secret
            if self._clock() + moment >= end - self.request_timeout * _TOO_SHORT:
                return
            self._sleep(moment)
            self._require_open()
            pause = min(2 * pause, _LONGEST_PAUSE)

    @property
    def _where(self) -> str:
        return f"{self.place} ({self.server})" if self.server else self.place

    def _given_up(self, what: str, failure: Unsure | None) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"the store at {self._where} could not {what:.300} within {self.timeout:g} s: {failure}"
        )

    def _doubted(self, what: str) -> StoreUnavailableError:
        return StoreUnavailableError(
            f"the answer of the store at {self._where} to {what:.300} was lost, and others have "
            "changed the blob: whether it had happened before cannot be told"
        )

    def _require_open(self) -> None:
        if self._is_closed:
            raise ClosedError(f"the store at {self.place} was closed")
        if os.getpid() != self._process:
            self._after_fork()
            self._process = os.getpid()


class _Ambiguous(Exception):  # noqa: N818 - see `Unsure`
    """Nobody can tell any more whether a change has happened."""


def _of_both(before: Unsure | None, now: Unsure) -> Unsure:
    """The failure that says more."""
    return before if before is not None and isinstance(now, Late) else now


def check_timeout(timeout: object) -> float:
    """`timeout`, if a store may have it.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is a number of seconds, not {type(timeout).__name__}")
    if not 0.1 <= timeout <= _LONGEST_TIMEOUT:
        raise ValueError(f"timeout is 0.1 to {_LONGEST_TIMEOUT:g} seconds, not {timeout!r}")
    return float(timeout)


def can_be_etag(etag: str | None) -> bool:
    """Whether a store takes it for one; what it does not is not sent."""
    return etag is not None and _ETAG.fullmatch(etag) is not None


def _refuse_no_etag(name: str, if_match: str | None) -> None:
    """What cannot be an etag is not sent: to a server, ``*`` would be any."""
    if if_match is not None and not can_be_etag(if_match):
        raise PreconditionFailedError(f"no version of the blob {name!r} has etag {if_match!r:.100}")


def _refuse_other(version: Version | NotModified | None, if_match: str | None) -> None:
    """If what was to be changed is there no more, the change may have happened, or another."""
    assert version is not NOT_MODIFIED
    if (version.blob.etag if version else None) != if_match:
        raise _Ambiguous
