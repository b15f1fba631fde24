"""What a member's rounds bring."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from eventlog.groups.documents import GroupDocument

__all__ = ["Assignment", "LapsedError", "Round"]


class LapsedError(Exception):
    """This member is none any more: its lease has run out, or it was removed, or the group was."""


class Assignment(NamedTuple):
    """A partition this member owns.

    Attributes:
        epoch: under which.
        next: whom to hand it over to, when it is closed; None: nobody.
    """

    epoch: int
    next: str | None


class Round(NamedTuple):
    """What came of a round.

    Attributes:
        document: the group's, as last seen.
        assigned: what this member owns, by partition.
        removed: members that were found dead, and removed.
    """

    document: GroupDocument
    assigned: Mapping[int, Assignment]
    removed: Collection[str]
