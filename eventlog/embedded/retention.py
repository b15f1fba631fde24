"""What has expired, and removing it in steps that are small enough to share a commit.

Expired events are never returned, even before they are removed: readers judge by the same rules
(`PartitionView.has_expired`). Removal follows appending: each append to a topic with a retention
removes what has expired in the partitions it touches, at most about twice as much as it adds, so
that a log under rolling retention keeps its size and no commit is ever long. `expire` does the
rest, step by step, with other writers' commits in between.
"""

from __future__ import annotations

from typing import NamedTuple

from eventlog.embedded import keys
from eventlog.embedded.partition import Batch, PartitionView, Retention, Tail
from eventlog.embedded.writer import Writer

__all__ = ["Removed", "remove_deleted", "trim"]


class Removed(NamedTuple):
    """What a step removed, and whether there is more to remove."""

    events: int
    more: bool


def trim(
    writer: Writer, topic_id: int, partition: int, retention: Retention, most_rows: int
) -> Removed:
    """Remove expired batches from the beginning of a partition: `most_rows` rows at most."""
    writer.store(topic_id, partition)
    view = PartitionView(writer.transaction, topic_id, partition)
    tail = writer.tail(topic_id, partition)
    begin = end = view.first_offset(tail)
    while (batch := view.batch_at(0)) is not None and _is_over(view, batch, retention, tail):
        removed = writer.remove_rows_backwards(
            view.key(batch.filed_under), view.key(batch.filed_under + 1), most_rows
        )
        if not removed:
            # The step is full; or the row stands where its damaged key does not find it, and stays.
            return Removed(end - begin, more=most_rows <= 0 or not writer.may_remove)
        most_rows -= removed
        end = batch.last_offset + 1
        _keep_floor(writer, view, keys.floor_key(topic_id, partition), batch, tail)
    return Removed(end - begin, more=False)


def _is_over(view: PartitionView, batch: Batch, retention: Retention, tail: Tail) -> bool:
    """Whether the first batch may go: it has expired, or a part of it went in a step before.

    A damaged one has expired when the next readable one has.
    """
    if batch.last_offset < view.first_offset(tail):
        return True
    if batch.header is None:
        return view.has_expired(view.readable_at(batch.last_offset + 1), retention, tail)
    return view.has_expired(batch, retention, tail)


def _keep_floor(
    writer: Writer, view: PartitionView, floor_key: bytes, batch: Batch, tail: Tail
) -> None:
    """After rows of `batch` were removed: note what its batches do not say any more."""
    following = view.batch_at(0)
    if following is None:
        writer.put(floor_key, keys.Floor(tail.next_offset, *tail).encode())
    elif following.filed_under == batch.filed_under or view.floor() is None:
        writer.put(floor_key, keys.Floor(batch.last_offset + 1, *tail).encode())


def remove_deleted(writer: Writer, most_rows: int) -> bool:
    """Remove rows of deleted topics, `most_rows` at most; whether there are more."""
    found = writer.first_key(keys.DELETED_PREFIX)
    if found is None:
        return False
    topic_id = int.from_bytes(found[1:5])
    for first, behind in (
        (keys.encode_batch_key(topic_id, 0, 0), keys.encode_batch_key(topic_id + 1, 0, 0)),
        (keys.floor_key(topic_id, 0), keys.floor_key(topic_id + 1, 0)),
        (keys.producer_key(topic_id, ""), keys.producer_key(topic_id + 1, "")),
    ):
        most_rows -= writer.remove_rows(first, behind, most_rows)
        if not writer.is_empty(first, behind):
            return True
    writer.delete(found)
    return writer.first_key(keys.DELETED_PREFIX) is not None
