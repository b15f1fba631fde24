"""What librdkafka's consumers have in common here."""

from __future__ import annotations

from typing import Any, Final

from confluent_kafka import KafkaError, Message

__all__ = ["COMMON", "is_damage", "is_of_partition"]

COMMON: Final[dict[str, Any]] = {
    "group_id": "eventlog",  # it takes part in no group, but librdkafka wants a name
    "isolation_level": "read_committed",
    "enable_auto_commit": False,
    "enable_auto_offset_store": False,
    "enable_partition_eof": True,
    "check_crcs": True,  # or damage that compression does not notice would be handed out
    "auto_offset_reset": "error",
    "fetch_queue_backoff_ms": 10,
    "fetch_error_backoff_ms": 100,
    "fetch_max_bytes": 2**22,
    # Where a batch does not say how large it was, librdkafka tries with three times as much memory
    # again and again, up to this: so an event of 64 MiB takes nearly 200.
    "receive_message_max_bytes": 2**28,
}


def is_damage(error: KafkaError) -> bool:
    """Whether it says that what is stored cannot be read."""
    return error.code() in (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION)  # noqa: SLF001


def is_of_partition(message: Message) -> bool:
    """Whether an error is one of reading, and not of the group that librdkafka wants a name of.

    Who may read a topic need not have any right to that group.
    """
    return message.topic() is not None
