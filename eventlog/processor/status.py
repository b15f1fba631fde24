"""What a host tells of itself."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventlog.processor.pump import PartitionStatus

__all__ = ["Health", "HostStatus"]

Health: TypeAlias = Literal["starting", "running", "degraded", "lapsed", "stopping", "stopped"]


class HostStatus(NamedTuple):
    """How a host is.

    Attributes:
        health: ``stopped`` before it runs, and after; ``starting`` until it is a member of its
            group; ``degraded`` while the store, or
            the log, cannot be reached, or a partition does not get on or cannot be opened;
            ``lapsed`` while it closes what it has lost, to go on as another member.
        member: what it is called in the group's documents: its name, and what is random; None
            before it is a member.
        partitions: those it works on, by number.
        last_renewal_at: when it last renewed its lease, by this machine's clock.
        last_error: the last one, of a partition or of none; None if there was none.
    """

    health: Health
    member: str | None
    partitions: Mapping[int, PartitionStatus]
    last_renewal_at: datetime | None
    last_error: BaseException | None
