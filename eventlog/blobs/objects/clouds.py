"""How each cloud compares: S3 and Azure by etags, Google by generations.

obstore has no conditional delete. On S3 and Azure it signs the URL of one, and sends it as a
client of a plain web server, which adds the header ``If-Match`` to every request: signatures of
URLs cover the name of the host and no other header. So the request has the same proxies,
certificates and time-outs as all others, and costs a connection of its own; conditional deletes
are rare. On Google, where not all credentials can sign, a client of the bucket is made that adds
the generation.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, unquote

import obstore

from eventlog.blobs.objects import forking
from eventlog.blobs.objects.failures import Failure, Kind, attempt
from eventlog.blobs.objects.settings import Settings, read_settings
from eventlog.blobs.objects.store import ObjectBlobs, bare
from eventlog.blobs.remote import Undone
from eventlog.blobs.store import require
from eventlog.errors import PreconditionFailedError

if TYPE_CHECKING:
    from obstore import PutMode, PutResult

__all__ = ["AzureBlobs", "GoogleBlobs", "S3Blobs", "open_cloud"]

T = TypeVar("T")

_SIGNED_FOR: Final = timedelta(hours=1)
"""By the clock of this machine; the server looks at its own. They may differ by 15 minutes, as they
may for other requests."""

_IF_GENERATION: Final = "x-goog-if-generation-match"
_MAX_KNOWN: Final = 10_000
_SENT_AGAIN_FOR: Final = 60.0  # seconds
_SAS_BEFORE: Final = ("", "azure_storage_")


def open_cloud(scheme: str, rest: str, options: Mapping[str, object]) -> ObjectBlobs:
    """See `open_objects`."""
    forking.claim()
    blobs = _BLOBS[scheme](read_settings(scheme, rest, options))
    blobs.open()
    return blobs


class S3Blobs(ObjectBlobs):
    """Amazon S3, and what speaks its protocol."""

    def _swap(self, name: str, data: bytes, writer: str, if_match: str) -> str:
        return self._put(name, data, writer, self._mode(if_match))

    def _delete(self, name: str, if_match: str) -> None:
        self._delete_object(name, if_match)

    def _mode(self, mark: str) -> PutMode:
        return {"e_tag": f'"{mark}"'}

    def _mark(self, result: PutResult) -> str | None:
        return bare(result["e_tag"] or "")

    def _delete_object(self, name: str, mark: str | None) -> None:
        url = self._certain(self._sign(name), f"delete {name}")
        self._deleted(name, mark, self._send_delete(url, mark))

    def _sign(self, name: str) -> str | Failure:
        """The URL of a request to delete."""
        store, key = self._connected(), self._key(name)
        return attempt(lambda: obstore.sign(store, "DELETE", key, _SIGNED_FOR))

    def _send_delete(self, url: str, mark: str | None) -> Failure | None:
        path, _, query = url.partition("?")
        folder, _, last = path.rpartition("/")
        headers = {"If-Match": f'"{mark}"'} if mark is not None else {}
        client = self.settings.connect_to(f"{folder}?{query}", headers)
        return attempt(lambda: obstore.delete(client, last))


class AzureBlobs(S3Blobs):
    """Azure Blob Storage.

    What is signed is valid from the second on in which it was, by the clock of this machine. Where
    that is ahead of Azure's, it is not valid yet; so the URL is kept, and sent again.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._early: dict[str, tuple[str, float]] = {}

    def _delete_object(self, name: str, mark: str | None) -> None:
        url, end = self._early.pop(name, ("", 0.0))
        if time.monotonic() >= end:
            url = self._certain(self._sign(name), f"delete {name}")
            end = time.monotonic() + _SENT_AGAIN_FOR
        done = self._send_delete(url, mark)
        if done is not None and done.code == "AuthenticationFailed":
            self._forget_early()
            self._early[name] = url, end
            raise Undone(f"{done.reason}; is the clock of this machine right?")
        self._deleted(name, mark, done)

    def _forget_early(self) -> None:
        now = time.monotonic()
        for name, (_, end) in list(self._early.items()):
            if now >= end:
                self._early.pop(name, None)

    def _sign(self, name: str) -> str | Failure:
        """With the key of the account, or one that Azure gives for that; or a SAS is one itself."""
        signed = super()._sign(name)
        sas = _shared_access_signature(self.settings.config)
        if not isinstance(signed, Failure) or signed.kind is not Kind.UNSUPPORTED or not sas:
            return signed
        # A signature that is good for nothing; but its URL is the blob's.
        signer: Any = self.settings.connect(account_key="AAAA", credential_type="access_key")
        url = attempt(lambda: obstore.sign(signer, "DELETE", self._key(name), _SIGNED_FOR))
        return url if isinstance(url, Failure) else f"{url.partition('?')[0]}?{sas}"


class GoogleBlobs(ObjectBlobs):
    """Google Cloud Storage.

    Its etags are hashes of the data, and conditions are about generations. The latest generation
    that was seen of each blob is remembered with its etag. Where it is not that of the etag in the
    condition, or the condition fails by it, the server is asked for the present one.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._known: dict[str, tuple[str, str]] = {}

    def _swap(self, name: str, data: bytes, writer: str, if_match: str) -> str:
        return self._at(
            name, if_match, lambda mark: self._put(name, data, writer, self._mode(mark))
        )

    def _delete(self, name: str, if_match: str) -> None:
        self._at(name, if_match, lambda mark: self._delete_object(name, mark))

    def _at(self, name: str, if_match: str, request: Callable[[str], T]) -> T:
        """Make a request that takes a generation, with that of an etag."""
        etag, generation = self._known.get(name, ("", ""))
        if etag == if_match:
            with contextlib.suppress(PreconditionFailedError):  # the same data, put again?
                return request(generation)
        # Not by HEAD, whose answer has no body: it would not tell who says 404.
        if self._read(name, None, time.monotonic() + self.request_timeout) is None:
            raise self._unexpected(f"change {name}")
        etag, generation = self._known[name]
        require(name, etag, if_match=if_match)
        return request(generation)

    def _note(self, name: str, etag: str, version: str | None) -> None:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[name] = etag, version or ""

    def _mode(self, mark: str) -> PutMode:
        return {"version": mark}

    def _mark(self, result: PutResult) -> str | None:
        return result["version"]

    def _delete_object(self, name: str, mark: str | None) -> None:
        key = self._key(name)
        headers = {_IF_GENERATION: mark} if mark is not None else None
        store = self.settings.connect(headers) if headers else self._connected()
        self._deleted(name, mark, attempt(lambda: obstore.delete(store, key)))


_BLOBS: Final = {"s3": S3Blobs, "az": AzureBlobs, "gs": GoogleBlobs}


def _shared_access_signature(config: Mapping[str, object]) -> str:
    """As it was given, in the options or the environment, percent-encoded; empty if it was not."""
    names = [f"{before}{after}" for before in _SAS_BEFORE for after in ("sas_key", "sas_token")]
    given = [config.get(name) for name in names] + [os.environ.get(n.upper()) for n in names]
    sas = unquote(str(next(filter(None, given), "")).removeprefix("?"))
    pairs = [part.partition("=") for part in sas.split("&") if part]
    return "&".join(f"{key}={quote(value, safe='')}" for key, _, value in pairs)
