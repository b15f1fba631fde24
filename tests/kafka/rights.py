"""What the cluster allows a user to do whom it allows nothing otherwise."""

from __future__ import annotations

from typing import Any, Final

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from eventlog.kafka.catalog import CATALOG
from tests.servers.kafka import GUEST, Kafka

__all__ = ["Rights"]

_PATIENCE: Final = 60.0  # seconds
_USER: Final = f"User:{GUEST}"
_TO_SEE: Final = (AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)


class Rights:
    """Of `GUEST`, who has none but those that were granted here."""

    def __init__(self, kafka: Kafka) -> None:
        self._admin = kafka.admin()

    def grant(
        self,
        kind: ResourceType,
        name: str,
        *operations: AclOperation,
        pattern: ResourcePatternType = ResourcePatternType.LITERAL,
    ) -> None:
        """Allow operations on what is of that name, or begins with it."""
        rules = [
            AclBinding(kind, name, pattern, _USER, "*", operation, AclPermissionType.ALLOW)
            for operation in operations
        ]
        for done in self._admin.create_acls(rules).values():
            done.result(_PATIENCE)

    def on_topic(self, name: str, *operations: AclOperation) -> None:
        """What it takes to find the topic, and more."""
        self.grant(ResourceType.TOPIC, name, *_TO_SEE, *operations)
        self.grant(ResourceType.TOPIC, CATALOG, AclOperation.DESCRIBE, AclOperation.READ)

    def withdraw(self) -> None:
        """All of them."""
        any_name: Any = None  # the stubs take no None
        everything = AclBindingFilter(
            ResourceType.ANY,
            any_name,
            ResourcePatternType.ANY,
            _USER,
            any_name,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        for done in self._admin.delete_acls([everything]).values():
            done.result(_PATIENCE)
