"""Carrying the checkpoints of a topic's groups over to a copy of it.

A checkpoint in the target is only ever moved forward, and never under a host or a consumer that
reads there: once a group goes on in the target, what the source says of it is the past.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from eventlog.copying.partition import CopiedPartition
from eventlog.copying.translation import Translation, UntranslatableError
from eventlog.errors import LeaseLostError, UnexpectedOffsetError, UnsupportedOperationError
from eventlog.group import ConsumerGroup, group_store
from eventlog.groups.checkpoints import Checkpoint, GroupStore
from eventlog.log import Topic

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore

__all__ = ["CarriedGroup", "carry"]


@dataclass
class CarriedGroup:
    """What became of a group's checkpoints.

    Attributes:
        name: the group's.
        carried: by partition, the offset in the source, and the one that stands for it in the
            target, where the group is now, or was already.
        left: by partition, why nothing was carried over.
    """

    name: str
    carried: dict[int, tuple[int, int]] = field(default_factory=dict)
    left: dict[int, str] = field(default_factory=dict)


class _Group(NamedTuple):
    """A group that may be carried over: where it is, and where it is to go."""

    checkpoints: dict[int, Checkpoint]
    store: GroupStore
    outcome: CarriedGroup


def carry(
    source: Topic,
    target: Topic,
    partitions: Sequence[CopiedPartition],
    names: Collection[str] | None,
    *,
    store: BlobStore | str | None,
    target_store: BlobStore | str | None,
    keeps_times: bool,
    note: Callable[[str], object],
) -> list[CarriedGroup]:
    """Move the groups of the target to where those of the source are.

    Args:
        partitions: what became of the topic's partitions.
        names: of which groups; None means all.
        store, target_store: where the groups are, and go, if not in the logs' own stores.
        keeps_times: whether events have the times in the target that they have in the source.
        note: called with a sentence on each thing that is not carried over.

    Raises:
        UnsupportedOperationError: groups were named, and one of the logs has no store for them.
    """
    try:
        found = [one.name for one in source.groups(store) if names is None or one.name in names]
        if not found:
            return []
        blobs = target.log.store(target_store)
    except UnsupportedOperationError as error:
        if names is not None:
            raise
        note(f"its groups are not carried over: {error}")
        return []
    groups = []
    for name in found:
        here, there = source.group(name, store), target.group(name, target_store)
        groups.append(_looked_at(here, there, group_store(target, name, blobs), note))
    for copied in partitions:
        _carry_partition(source, target, copied, groups, keeps_times=keeps_times)
    for one in groups:
        for partition, why in one.outcome.left.items():
            note(f"group {one.outcome.name!r}, partition {partition} is not carried over: {why}")
    return [one.outcome for one in groups]


def _looked_at(
    group: ConsumerGroup, there: ConsumerGroup, store: GroupStore, note: Callable[[str], object]
) -> _Group:
    """A group, without checkpoints if somebody reads for it in the target already."""
    outcome = CarriedGroup(group.name)
    checkpoints = group.checkpoints()
    if members := there.members():
        why = f"{', '.join(members)} reads for it in the target"
        outcome.left = dict.fromkeys(checkpoints, why)
        return _Group({}, store, outcome)
    if members := group.members():
        note(
            f"group {group.name!r} is in use by {', '.join(members)}: what it finishes from now on "
            "is not carried over, unless it is stopped and the copy repeated"
        )
    return _Group(checkpoints, store, outcome)


def _carry_partition(
    source: Topic,
    target: Topic,
    copied: CopiedPartition,
    groups: Sequence[_Group],
    *,
    keeps_times: bool,
) -> None:
    translation = Translation(source, target, copied)
    number = copied.partition
    there = [(one.checkpoints[number], one) for one in groups if number in one.checkpoints]
    # The last one first: the others are counted for from there.
    for checkpoint, group in sorted(there, key=lambda pair: pair[0].offset, reverse=True):
        enqueued_at = checkpoint.enqueued_at if keeps_times else None
        try:
            offset = translation.finished(checkpoint.offset)
            group.store.advance_unowned(number, offset, enqueued_at)
        except (UntranslatableError, LeaseLostError, UnexpectedOffsetError) as error:
            group.outcome.left[number] = str(error)
        else:
            group.outcome.carried[number] = checkpoint.offset, offset
