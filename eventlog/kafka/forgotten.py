"""Clients that have forgotten their brokers.

A broker that has just started, or was fenced for a while, may say that there are none. librdkafka
2.16 then lets go of those that it knows, and does not always begin anew with those it was told of
(its issue 5301): such a client never finds one again, while a new one does at once. Seen from here
it looks like one whose brokers are away. What tells them apart is that others get answers.
"""

from __future__ import annotations

import time
from typing import Final

from confluent_kafka import KafkaError, KafkaException

from eventlog.kafka.failures import error_of
from eventlog.kafka.librdkafka import Consumer, Producer

__all__ = ["BrokerWatch", "has_broker"]

_LOST_SECONDS: Final = 5.0
"""How long a client is given at least to find a broker again when others have: it tries once a
second."""


def has_broker(client: Consumer | Producer, topic: str) -> bool:
    """Whether it is connected to a broker just now; if it is not it will try. Never waits.

    It asks the broker for the topic, and does not wait for the answer: without a broker librdkafka
    says something else than that the time is up. Measured: some 10 us.
    """
    try:
        client.list_topics(topic, timeout=0)
    except KafkaException as error:
        return error_of(error).code() != KafkaError._TRANSPORT  # noqa: SLF001 - its name
    return True


class BrokerWatch:
    """Whether one client has forgotten its brokers. Not thread-safe."""

    def __init__(self) -> None:
        self._without_since: float | None = None

    def is_lost(self, client: Consumer | Producer, topic: str) -> bool:
        """Whether another has to take its place.

        To be called now and then, each time that somebody else has got an answer of the cluster.
        """
        if has_broker(client, topic):
            self._without_since = None
            return False
        now = time.monotonic()
        if self._without_since is None:
            self._without_since = now
        return now - self._without_since >= _LOST_SECONDS
