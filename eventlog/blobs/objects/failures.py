"""What obstore says about a request that failed, read in one place.

Its errors show whole answers and URLs, signatures and all. Nothing of that goes any further than
this module: what is passed on is a `Kind`, and a reason in our own words with the HTTP status and
the server's code of the error.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from obstore.exceptions import BaseError

__all__ = ["Failure", "Kind", "attempt"]

T = TypeVar("T")


class Kind(enum.Enum):
    """What a failure means, whoever failed."""

    ABSENT = enum.auto()  # there is no such object
    NOT_MODIFIED = enum.auto()
    CONDITION = enum.auto()  # it is not as it should be, or there it is
    PASSING = enum.auto()  # try again; the request may have done its work, or may yet
    UNDONE = enum.auto()  # try again; it has done nothing, and never will
    DENIED = enum.auto()
    NAME = enum.auto()  # the server takes no such name
    UNSUPPORTED = enum.auto()  # the server cannot do that
    FINAL = enum.auto()  # anything else that would be the same again


class Failure(NamedTuple):
    """Why a request failed.

    Attributes:
        reason: for people; nothing secret.
        code: the server's word for it; may be empty.
    """

    kind: Kind
    reason: str
    code: str = ""


def attempt(request: Callable[[], T]) -> T | Failure:
    """What a request to obstore answers, or why it failed; no error is left behind."""
    try:
        return request()
    except (BaseError, OSError, ValueError, NotImplementedError) as error:
        text = str(error)
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        return Failure(Kind.FINAL, "obstore gave up: is there a control character in a credential?")
    return _read(text)


_PANIC: Final = "PanicException"
"""What Rust's bugs are to Python: no `Exception`, and in no module that could be imported."""


_STATUS: Final = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE: Final = re.compile(
    r"<Code>\s*([A-Za-z0-9.]{1,60})\s*</Code>|\"error\":\s*\"([a-z_]{1,60})\""
)
_CREDENTIALS: Final = re.compile(
    r"Error performing (?:token request|[A-Z]+ https?://(?:(?:169\.254\.|metadata\.google|sts\."
    r"|login\.microsoft|oauth2\.googleapis|iamcredentials)|[^/]+/(?:latest/api/token"
    r"|latest/meta-data/|computeMetadata/|metadata/identity/)))"
)
"""Requests that are not to the store, but to whoever gives credentials."""

_SIGNS: Final = (
    # What stands in the structure that obstore shows, never in the name of a blob; what it means.
    (r"InvalidCertificate\(", Kind.FINAL, "its certificate is not to be trusted"),
    (r"source: BadScheme", Kind.FINAL, "its URL is no https: URL, and allow_http is not set"),
    (r"inner: BareRedirect", Kind.FINAL, "it is elsewhere: the region or the endpoint is wrong"),
    (r'"dns error"', Kind.UNDONE, "its name cannot be resolved"),
    (r"kind: ConnectionRefused", Kind.UNDONE, "it refuses connections"),
    (r"kind: Timeout", Kind.PASSING, "it did not answer in time"),
    (r"kind: Connect,", Kind.UNDONE, "it cannot be reached"),
    (r"HttpError {", Kind.PASSING, "the connection was lost"),
    (
        r'InvalidPath {[^"]*path: "([^"\n]{1,300})"',
        Kind.FINAL,
        "it holds an object that is none of its own, and whose name is no path: {}",
    ),
    (r"source: MissingEtag", Kind.UNSUPPORTED, "it gives no etags"),
    (r"source: SAS(?:forSAS|with)", Kind.UNSUPPORTED, "there is nothing to sign with"),
    (r"^Not(?:Implemented|Supported) {", Kind.UNSUPPORTED, "not with these options"),
    (
        r"source: (?:Invalid\w+Response {|Missing\w+[ ,])",
        Kind.FINAL,
        "its answer is none of an object store",
    ),
)

_CODES: Final = {
    "BlobAlreadyExists": Kind.CONDITION,
    "BlobNotFound": Kind.ABSENT,
    "NoSuchKey": Kind.ABSENT,
    "KeyTooLongError": Kind.NAME,
    "KeyTooLong": Kind.NAME,
    "InvalidResourceName": Kind.NAME,
    "InvalidUri": Kind.NAME,
    "NoSuchBucket": Kind.FINAL,
    "ContainerNotFound": Kind.FINAL,
    "ExpiredToken": Kind.DENIED,
    "InvalidToken": Kind.DENIED,
    "TokenRefreshRequired": Kind.DENIED,
    "RequestTimeout": Kind.PASSING,
    "SlowDown": Kind.UNDONE,
    "ServerBusy": Kind.UNDONE,
    "ThrottlingException": Kind.UNDONE,
    "ConditionalRequestConflict": Kind.UNDONE,
    "BlobImmutableDueToPolicy": Kind.DENIED,
    "LeaseIdMissing": Kind.DENIED,  # somebody holds a lease on it in the sense of Azure
    "NotImplemented": Kind.UNSUPPORTED,
}
"""Where the code says more than the status."""

_SERVER_ERRORS: Final = 500

_STATUSES: Final = {
    304: Kind.NOT_MODIFIED,
    401: Kind.DENIED,
    403: Kind.DENIED,
    404: Kind.PASSING,  # a store's says what is not there; a front end's, that the store is not
    405: Kind.UNSUPPORTED,
    408: Kind.PASSING,
    409: Kind.PASSING,  # two changes at the same time; the server wants one of them again
    412: Kind.CONDITION,
    425: Kind.PASSING,
    429: Kind.UNDONE,
    501: Kind.UNSUPPORTED,
}

_WORDS: Final = {
    "NoSuchBucket": "there is no such bucket",
    "ContainerNotFound": "there is no such container",
    "ExpiredToken": "the credentials have expired",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "AuthorizationHeaderMalformed": "the region is wrong",
    "LeaseIdMissing": "the blob is leased",
}


def _read(text: str) -> Failure:
    said, _, source = text.partition("\n\nDebug source:\n")
    status = _STATUS.search(said)
    failure = _of_answer(int(status[1]), said) if status else _of_connection(source or said)
    if _CREDENTIALS.search(said):
        return _of_credentials(failure)
    return failure


def _of_answer(status: int, said: str) -> Failure:
    found = _CODE.search(said)
    code = (found[1] or found[2]) if found else ""
    kind = _CODES.get(code) or _STATUSES.get(status)
    if kind is None:
        kind = Kind.PASSING if status >= _SERVER_ERRORS else Kind.FINAL
    answer = f"{status} {code}".strip()
    words = _WORDS.get(code) or ("access denied" if kind is Kind.DENIED else "")
    return Failure(kind, f"{words} ({answer})" if words else f"it answered {answer}", code)


def _of_connection(source: str) -> Failure:
    for pattern, kind, reason in _SIGNS:
        found = re.search(pattern, source)
        if found:
            return Failure(kind, reason.format(*found.groups()))
    known = ", ".join(re.findall(r"(?:source|inner|kind): ([A-Z][A-Za-z]{1,40})\b", source))
    return Failure(Kind.FINAL, f"obstore could not do it ({known or 'and does not say why'})")


def _of_credentials(failure: Failure) -> Failure:
    passes = failure.kind in (Kind.PASSING, Kind.UNDONE)
    kind = Kind.UNDONE if passes else Kind.DENIED  # the store has not even been asked
    reason = f"no credentials were given, and whoever gives this machine its own: {failure.reason}"
    return Failure(kind, reason)
