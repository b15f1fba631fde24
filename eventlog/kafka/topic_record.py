"""What a topic on a cluster is: from Kafka's settings and what is remembered, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from eventlog import topic_settings as settings
from eventlog.kafka.catalog import Remembered
from eventlog.kafka.cluster import Described
from eventlog.partitioning import KeyPartitioner, RoundRobin
from eventlog.positions import microseconds
from eventlog.topic_settings import Compression

__all__ = ["TopicRecord", "TopicState", "config_of", "record_of"]

_UNCHANGED: Final[Any] = object()

HEADROOM_BYTES: Final = 2**20
"""What a message may have beyond its body: key, headers, and what else goes with it in a batch.

64 KiB of properties may take five times that as headers, and librdkafka makes batches of up to a
million bytes whatever the topic.
"""

_FOREIGN_HEADROOM_BYTES: Final = 4096
"""Of topics that others made, or have set to less than that: enough for a key and a few headers."""

_KAFKA_MESSAGE_BYTES: Final = 1_048_588
"""What a topic takes unless somebody said otherwise."""


class TopicRecord(NamedTuple):
    """A topic as it is in the cluster. Times are in microseconds.

    Attributes:
        id: 32 hex digits; of a topic made anew another one.
        max_event_bytes: the largest body it is meant to take.
        max_message_bytes: the largest batch of messages the brokers take.
    """

    name: str
    id: str
    partitions: int
    retention_us: int | None
    retention_bytes: int | None
    compression: Compression
    partitioner: str
    max_event_bytes: int
    max_message_bytes: int
    created_us: int


class TopicState(NamedTuple):
    """A topic as this process knows it; replaced whole when it has changed."""

    record: TopicRecord
    partitioner: KeyPartitioner | None
    turns: RoundRobin


def config_of(
    *,
    retention_us: int | None = _UNCHANGED,
    retention_bytes: int | None = _UNCHANGED,
    compression: Compression = _UNCHANGED,
    max_event_bytes: int = _UNCHANGED,
) -> dict[str, str]:
    """Kafka's settings for what was given."""
    config: dict[str, str] = {}
    if retention_us is not _UNCHANGED:
        config["retention.ms"] = str(-1 if retention_us is None else -(-retention_us // 1000))
    if retention_bytes is not _UNCHANGED:
        config["retention.bytes"] = str(-1 if retention_bytes is None else retention_bytes)
    if compression is not _UNCHANGED:
        config["compression.type"] = "zstd" if compression == "zstd" else "uncompressed"
    if max_event_bytes is not _UNCHANGED:
        config["max.message.bytes"] = str(max_event_bytes + HEADROOM_BYTES)
    return config


def record_of(
    found: Described, config: Mapping[str, str], remembered: Remembered | None
) -> TopicRecord:
    """What a topic is, from what the cluster says of it."""
    retention_ms = int(config.get("retention.ms", -1))
    retention_bytes = int(config.get("retention.bytes", -1))
    largest = int(config.get("max.message.bytes", _KAFKA_MESSAGE_BYTES))
    is_ours = remembered is not None and largest > HEADROOM_BYTES
    headroom = HEADROOM_BYTES if is_ours else _FOREIGN_HEADROOM_BYTES
    return TopicRecord(
        name=found.name,
        id=found.id,
        partitions=found.partitions,
        retention_us=None if retention_ms < 0 else retention_ms * 1000,
        retention_bytes=None if retention_bytes < 0 else retention_bytes,
        compression="none" if config.get("compression.type") == "uncompressed" else "zstd",
        partitioner="kafka" if remembered is None else remembered.partitioner,
        max_event_bytes=max(1, min(largest - headroom, settings.MAX_EVENT_BYTES)),
        max_message_bytes=largest,
        created_us=0 if remembered is None else microseconds(remembered.created_at),
    )
