"""Where a log may be, and opening it: from a location to an engine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from eventlog.errors import UnsupportedOperationError
from eventlog.log import Duration, EventLog

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore

__all__ = ["open"]


def open(
    location: str | os.PathLike[str],
    *,
    create: bool = True,
    read_only: bool = False,
    durability: Literal["disk", "process"] | None = "disk",
    blobs: str | BlobStore | None = None,
    lock_timeout: Duration = 30.0,
    map_size: int = 2**40,
    **engine_options: Any,
) -> EventLog:
    """Open a log, and make it if it is not there.

    Args:
        location: a path; ``file:PATH``; ``memory:`` (a new log in memory each time) or
            ``memory:NAME`` (one the process shares);
            ``kafka://[user:password@]host:port[,host:port][?option=value]`` (a Kafka cluster).
        create: make a log where there is none. A cluster is never made.
        read_only: do not write. A log must be there.
        durability: ``"disk"``: what is acknowledged survives a power cut. ``"process"``: it
            survives killed processes only, and a power cut may damage the whole log. Fixed when
            a log is made, and another is refused; None takes what it was made with.
        blobs: where consumer groups keep their checkpoints, instead of in the log itself: a
            store, or a URL for `eventlog.blobs.open`.
        lock_timeout: seconds an append waits for other writers; on a cluster, that it or a
            transaction takes at most.
        map_size: bytes the log may grow to; so much address space is taken, no more is used
            than needed. Where the machine has less to give, it is halved until it fits. The
            first `open` of a log in a process decides.
        engine_options: what only one engine knows. Embedded: ``clock``, a function that gives
            microseconds since 1970 instead of the system's clock, for tests. Kafka: ``timeout``,
            the seconds that calls other than appends take at most (10); ``replication_factor`` of
            topics that are made; ``tls``, ``user`` and ``password``; and any option of librdkafka,
            with underscores for dots. They may stand in the location's query as well.

    Raises:
        LogNotFoundError: nothing is there, and `create` is false or `read_only` true; no cluster
            answers there.
        NotALogError: something else is there, or it is too damaged to open.
        FormatVersionError: a newer version wrote it.
        UnsupportedOperationError: the log has another durability, the location is on a network
            file system, or there is no engine for such a location.
        LogBusyError: another process kept it locked.
    """
    options = {
        "create": create,
        "read_only": read_only,
        "durability": durability,
        "blobs": blobs,
        "lock_timeout": lock_timeout,
        "map_size": map_size,
        **engine_options,
    }
    kind, place = _split_location(location)
    if kind == "kafka":
        return _open_kafka(place, options)
    from eventlog.embedded.engine import open_embedded

    return open_embedded(kind, place, **options)


def _open_kafka(place: str, options: dict[str, Any]) -> EventLog:
    try:
        from eventlog.kafka.engine import open_kafka
    except ModuleNotFoundError as error:
        if error.name != "confluent_kafka":
            raise
        raise ImportError(
            'kafka: locations need confluent-kafka: pip install "embedded-eventlog[kafka]"'
        ) from None
    return open_kafka(place, **options)


def _split_location(location: str | os.PathLike[str]) -> tuple[str, str]:
    """``("file", path)``, ``("memory", name)`` or ``("kafka", place)``.

    No error shows a place that may hold a password.
    """
    text = os.fspath(location)
    if not isinstance(text, str):
        raise TypeError(f"a location is a str or a path of str, not {type(text).__name__}")
    scheme, colon, rest = text.partition(":")
    if not isinstance(location, str) or not colon or len(scheme) < 2 or "/" in scheme:
        if not text:
            raise ValueError("an empty location names no log")
        return "file", text
    scheme = scheme.lower()
    if scheme == "file" and rest.removeprefix("//"):
        return "file", rest.removeprefix("//")
    if scheme == "file":
        raise ValueError(f"{text!r} names no directory")
    if scheme in ("memory", "kafka"):
        return scheme, rest
    raise UnsupportedOperationError(
        f"there is no engine for {scheme}: locations; known are paths, file:, memory: and kafka://"
    )
