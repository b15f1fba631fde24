"""The URL and the options of an object store, checked and made into obstore's.

No error shows the value of an option: it may be a key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from eventlog.blobs.remote import DEFAULT_TIMEOUT, check_timeout
from eventlog.blobs.store import check_name

__all__ = ["CLOUDS", "Settings", "Store", "read_settings"]

Store = S3Store | AzureStore | GCSStore

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
_KEY: Final = re.compile(r"[A-Za-z][a-z0-9_]{0,60}|[A-Z][A-Z0-9_]{0,60}")  # a secret is mixed
_NO_RETRIES: Final[Any] = {"max_retries": 0}  # `RemoteBlobs` repeats, and knows how long
_CLIENT: Final = frozenset(
    {
        *("allow_http", "allow_invalid_certificates", "root_certificate", "user_agent"),
        *("proxy_url", "proxy_ca_certificate", "proxy_excludes", "pool_idle_timeout"),
    }
)
"""Options of obstore's HTTP client, the same for every cloud."""


class _Cloud(NamedTuple):
    make: Callable[..., Store]
    endpoints: tuple[str, ...]  # options that are URLs of servers
    variables: tuple[str, ...]  # the same in the environment


CLOUDS: Final = {
    "s3": _Cloud(
        S3Store,
        ("endpoint", "endpoint_url", "endpoint_url_s3"),
        ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    ),
    "az": _Cloud(AzureStore, ("endpoint",), ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT")),
    "gs": _Cloud(GCSStore, ("base_url",), ("GOOGLE_BASE_URL",)),
}


class Settings:
    """What it takes to make obstore's client of one bucket.

    Attributes:
        scheme: ``s3``, ``az`` or ``gs``.
        bucket: its name; that of a container on Azure.
        prefix: of all names, without a slash behind; may be empty.
        timeout: see `RemoteBlobs`.
        config: what obstore takes for the cloud, as it was given.
    """

    def __init__(
        self, scheme: str, bucket: str, prefix: str, options: Mapping[str, object]
    ) -> None:
        self.scheme = scheme
        self.bucket = bucket
        self.prefix = prefix
        config = dict(options)
        timeout = config.pop("timeout", DEFAULT_TIMEOUT)
        self.timeout = check_timeout(_to_number(timeout) if isinstance(timeout, str) else timeout)
        self._client = {key: config.pop(key) for key in _CLIENT & config.keys()}
        self._providers = {key: config.pop(key) for key in {"credential_provider"} & config.keys()}
        self.config = config
        if self._is_plain_http():
            self._client.setdefault("allow_http", True)

    @property
    def place(self) -> str:
        """The URL without anything secret."""
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    @property
    def server(self) -> str:
        """Host and port of the endpoint, if one was given; nothing else of it."""
        for endpoint in self._endpoints():
            parts = urlsplit(str(endpoint))
            return parts.netloc.rpartition("@")[2]
        return ""

    def connect(self, headers: Mapping[str, str] | None = None, **others: object) -> Store:
        """A client of the bucket.

        Args:
            headers: go with every request.
            others: what to set instead of what was given.

        Raises:
            ValueError: obstore does not take the options.
        """
        arguments: dict[str, Any] = {
            "config": {**self.config, **others},
            "client_options": self._client_options(headers),
            "retry_config": _NO_RETRIES,
            **self._providers,
        }
        try:
            return CLOUDS[self.scheme].make(self.bucket, **arguments)
        except Exception as error:  # noqa: BLE001 - obstore raises any; none may be shown
            reason = _without_values(str(error))
            if "Account must be specified" in reason:
                reason = "give account_name, or set AZURE_STORAGE_ACCOUNT_NAME"
        raise ValueError(f"{self.place} cannot be opened with these options: {reason}")

    def connect_to(self, url: str, headers: Mapping[str, str]) -> HTTPStore:
        """A client of one directory of the same server, with the same options."""
        options: Any = self._client_options(headers)
        if url.startswith("http:"):  # it was allowed, if only by use_emulator
            options["allow_http"] = True
        return HTTPStore(url, client_options=options, retry_config=_NO_RETRIES)

    def _client_options(self, headers: Mapping[str, str] | None) -> dict[str, object]:
        longest = timedelta(seconds=self.timeout / 2)
        options = {**self._client, "timeout": longest, "connect_timeout": longest}
        return {**options, "default_headers": dict(headers)} if headers else options

    def _endpoints(self) -> list[object]:
        """As options say; or else, the environment."""
        given = [self.config[key] for key in self._endpoint_options() if key in self.config]
        variables = CLOUDS[self.scheme].variables
        return given or [os.environ[name] for name in variables if name in os.environ]

    def _is_plain_http(self) -> bool:
        endpoints = self._endpoints()
        for endpoint in endpoints:
            if not re.match(r"https?://[^/]", str(endpoint)):
                raise ValueError(f"the endpoint of {self.place} is no http: or https: URL")
        return any(str(endpoint).startswith("http:") for endpoint in endpoints)

    def _endpoint_options(self) -> Iterator[str]:
        """They may be spelled as the variables of the environment are."""
        cloud = CLOUDS[self.scheme]
        yield from cloud.endpoints
        yield from map(str.lower, cloud.variables)


def read_settings(scheme: str, rest: str, options: Mapping[str, object]) -> Settings:
    """Read ``//BUCKET[/PREFIX][?OPTION=VALUE&...]``; `options` come before those in there.

    Raises:
        TypeError, ValueError: something is wrong.
        InvalidNameError: the prefix is none.
    """
    path, _, query = rest.partition("?")
    bucket, slash, prefix = path.removeprefix("//").partition("/")
    if not path.startswith("//") or not _BUCKET.fullmatch(bucket) or "#" in rest:
        what = "CONTAINER" if scheme == "az" else "BUCKET"
        raise ValueError(f"the URL of such a store is {scheme}://{what}/PREFIX?OPTION=VALUE")
    prefix = prefix.removesuffix("/")
    if slash and prefix:
        check_name(prefix)
    given = dict(_of_query(query))
    for key, value in options.items():
        given[_to_key(key)] = value
    return Settings(scheme, bucket, prefix, given)


def _of_query(query: str) -> Iterator[tuple[str, object]]:
    """Percent-encoded; a plus sign is one, since keys often have some."""
    seen = set()
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        key = _to_key(unquote(key))
        if not equals:
            raise ValueError(f"the option {key!r} in the URL has no value")
        if key in seen:
            raise ValueError(f"the option {key!r} is twice in the URL")
        seen.add(key)
        yield key, unquote(value)


def _to_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError("the name of an option has a-z, 0-9 and '_' only: is '&' or '?' encoded?")
    return key.lower()


def _to_number(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", text):
        raise ValueError("timeout is a number of seconds")
    return float(text)


def _without_values(text: str) -> str:
    """The first line of an error of obstore, without what it quotes; but the name of an option."""
    line = text.partition("\n")[0]
    key = re.match(r"Configuration key: '([a-z0-9_]{1,60})' is not valid", line)
    if key:
        return f"there is no option {key[1]!r}"
    return re.sub(r"\"[^\"]*\"|'[^']*'|`[^`]*`|\S+://\S+", "...", line)[:300]
