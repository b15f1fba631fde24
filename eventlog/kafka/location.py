"""Where a cluster is and how to get in: from ``kafka://...`` and options to librdkafka's settings.

Nothing here shows a user name or a password, and no error quotes a location that may hold one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from eventlog.checks import check_count, seconds

__all__ = ["Settings", "explained", "parse_location"]

_FORM: Final = (
    "a cluster's location is kafka://[user:password@]host:port[,host:port][?option=value]; "
    "write what is not a letter or digit in user and password as %XX, or give the options "
    "user= and password="
)
_DEFAULT_PORT: Final = 9092
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_EVENT_HUBS: Final = ".servicebus."  # of Azure's public cloud and of the national ones
_DEFAULT_TIMEOUT: Final = 10.0
_LONGEST_WAIT: Final = 86_400.0
"""In seconds: nothing waits without end."""

_OURS: Final = frozenset(
    {
        "acks",
        "allow.auto.create.topics",
        "auto.offset.reset",
        "bootstrap.servers",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "isolation.level",
        "metadata.broker.list",
        "partitioner",
        "request.required.acks",
        "transactional.id",
    }
)
"""What librdkafka is told by the engine: its promises rest on these."""

_COMMON: Final[Mapping[str, Any]] = {
    "client.id": "eventlog",
    "allow.auto.create.topics": False,
    "log_level": 2,  # failures become exceptions; what librdkafka logs would repeat them on stderr
    # A broker that has just started may say that there are none, and then librdkafka forgets those
    # that it knows (its issue 5301). Mostly it begins anew then; with "none" it never does.
    "metadata.recovery.strategy": "rebootstrap",
    "reconnect.backoff.max.ms": 1000,  # a broker that was restarted is found within a second
    # A connection that was begun while a broker was away may hang for as long once it is back.
    "socket.connection.setup.timeout.ms": 5000,
    "socket.keepalive.enable": True,
}
_BY_PASSWORD: Final = re.compile("PLAIN$|SCRAM-", re.IGNORECASE)
"""Ways to log in that take a user and a password."""

_FILE_FAILED: Final = re.compile(r"(ssl\.[a-z.]+\.location) failed")

_QUOTED: Final = re.compile('(?<=Invalid value) ".*"(?= for configuration property)', re.DOTALL)
_NO_MECHANISM: Final = "Unsupported SASL mechanism"

_AS_WRITTEN: Final = frozenset({"log_level", "oauth_cb", "on_commit"})
"""The names librdkafka's options have that are spelled with an underscore."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a log on a cluster was opened.

    Attributes:
        config: what every client of librdkafka is made with; it may hold a password.
        place: the location without user, password and options.
        user: who logs in; empty if nobody does. For errors.
        timeout: seconds that calls other than appends take at most.
        lock_timeout: seconds that appends and transactions take at most.
        read_only: whether nothing may be written.
        replication_factor: of topics that are made; None leaves it to the cluster.
        publish_checkpoints: whether each is shown to Kafka's own tools.
    """

    config: Mapping[str, Any] = field(repr=False)
    place: str
    user: str = ""
    timeout: float = _DEFAULT_TIMEOUT
    lock_timeout: float = 30.0
    read_only: bool = False
    replication_factor: int | None = None
    publish_checkpoints: bool = False

    def client(self, **more: Any) -> dict[str, Any]:
        """The settings of one client, with `more`: dots in names are written as underscores."""
        return {**self.config, **{_dotted(name): value for name, value in more.items()}}


def parse_location(
    rest: str,
    options: Mapping[str, Any],
    *,
    lock_timeout: object = 30.0,
    read_only: bool = False,
) -> Settings:
    """Settings from what stands behind ``kafka:`` and from keyword options, which win.

    Args:
        options: ``timeout`` (seconds), ``replication_factor``, ``tls`` (whether to encrypt),
            ``publish_checkpoints``, ``user``, ``password``; every other is librdkafka's, with
            underscores for dots.

    Raises:
        ValueError: the location is of another form; an option is out of range, or set by the
            engine itself. What librdkafka does not know it says when a client is made.
    """
    body, _, query = rest.removeprefix("//").partition("?")
    login, at, hosts = body.rpartition("@")
    servers = [_server(host) for host in hosts.removesuffix("/").split(",")]
    user, colon, password = login.partition(":")
    if at and not (user and colon and password):
        raise ValueError(_FORM)
    given = {**_queried(query), **{_dotted(name): value for name, value in options.items()}}
    if at:
        given = {"user": unquote(user), "password": unquote(password), **given}
    timeout = seconds(_number(given.pop("timeout", _DEFAULT_TIMEOUT), "timeout"), "timeout")
    if timeout > _LONGEST_WAIT:
        raise ValueError(f"timeout is at most {_LONGEST_WAIT:,.0f} seconds, not {timeout:,}")
    replication = given.pop("replication.factor", None)
    if replication is not None:
        replication = check_count(
            _number(replication, "replication_factor"), "replication_factor", 1000
        )
    publish = _flag(given.pop("publish.checkpoints", False), "publish_checkpoints")
    config = _config(servers, given)
    return Settings(
        config=config,
        place=f"kafka://{','.join(servers)}",
        user=str(config.get("sasl.username", "")),
        timeout=timeout,
        lock_timeout=min(seconds(lock_timeout, "lock_timeout"), _LONGEST_WAIT),
        read_only=read_only,
        replication_factor=replication,
        publish_checkpoints=publish,
    )


def _server(text: str) -> str:
    match = _HOST.fullmatch(text)
    if match is None or not 0 < int(match[2] or _DEFAULT_PORT) < 2**16:
        raise ValueError(_FORM)
    default = 9093 if _EVENT_HUBS in text else _DEFAULT_PORT
    return f"{match[1]}:{match[2] or default}"


def _queried(query: str) -> dict[str, Any]:
    if "@" in query:  # the '?' was part of a password
        raise ValueError(_FORM)
    try:
        options = parse_qsl(query, strict_parsing=bool(query))
    except ValueError:
        raise ValueError(_FORM) from None
    return {_dotted(name): value for name, value in options}


def _dotted(name: str) -> str:
    return name if name in _AS_WRITTEN else name.replace("_", ".")


def _config(servers: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Librdkafka's settings; `given` wins, but for what the engine sets itself."""
    for own, theirs in (("user", "sasl.username"), ("password", "sasl.password")):
        if own in given:
            given.setdefault(theirs, given.pop(own))
    tls = given.pop("tls", None)
    encrypted = _wants_tls(servers, given) if tls is None else _flag(tls, "tls")
    if refused := sorted(_OURS & given.keys()):
        raise ValueError(f"{', '.join(refused)}: the engine sets that itself")
    known = "sasl.username" in given or "sasl.mechanism" in given or "sasl.mechanisms" in given
    defaults: dict[str, Any] = {"bootstrap.servers": ",".join(servers), **_COMMON}
    if known:
        defaults["security.protocol"] = "SASL_SSL" if encrypted else "SASL_PLAINTEXT"
        if "sasl.mechanism" not in given and "sasl.mechanisms" not in given:
            defaults["sasl.mechanism"] = "PLAIN"
    elif encrypted:
        defaults["security.protocol"] = "SSL"
    config = {**defaults, **given}
    _check_login(config)
    return config


def _check_login(config: Mapping[str, Any]) -> None:
    """Without user and password librdkafka would speak of a mechanism that nobody has named."""
    protocol = str(config.get("security.protocol", ""))
    mechanism = config.get("sasl.mechanism", config.get("sasl.mechanisms", "PLAIN"))
    if not protocol.upper().startswith("SASL") or not _BY_PASSWORD.match(str(mechanism)):
        return
    if not (config.get("sasl.username") and config.get("sasl.password")):
        raise ValueError(
            "security.protocol and sasl.mechanism ask for a login by password: give user= and "
            "password="
        )


def explained(reason: str, config: Mapping[str, Any]) -> str:
    """Why librdkafka takes no client of these settings, for people; values are left out."""
    reason = _QUOTED.sub("", reason.strip())
    if _NO_MECHANISM in reason:
        return "sasl.mechanism: librdkafka knows none of that name"
    if "No such configuration property" in reason:
        return f"{reason}: options are those of docs/kafka.md, and librdkafka's own"
    named = _FILE_FAILED.search(reason)
    if named is None:
        return reason
    path = str(config.get(named[1], ""))
    if os.access(path, os.R_OK):
        return f"{named[1]}: the file {path!r} is not what it should be ({reason})"
    return f"{named[1]}: there is no file {path!r} that can be read"


def _wants_tls(servers: list[str], given: Mapping[str, Any]) -> bool:
    """Event Hubs takes nothing else, and who says how to encrypt wants it."""
    return any(name.startswith("ssl.") for name in given) or any(
        _EVENT_HUBS in server for server in servers
    )


def _number(value: object, name: str) -> object:
    """A number that may stand in a query."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        raise ValueError(f"{name} is a number, and what was given is none") from None


def _flag(value: object, name: str) -> bool:
    words = {"true": True, "1": True, "false": False, "0": False}
    flag = words.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(flag, bool):
        raise ValueError(f"{name} is true or false")  # noqa: TRY004 - mostly a word in a query
    return flag
