"""What has expired, and removing it in steps that are small enough to share a commit.

Expired events are never returned, even before they are removed: readers judge by the same rules
(`PartitionView.has_expired`). Removal follows appending: each append to a topic with a retention
removes what has expired in the partitions it touches, at most about twice as much as it adds, so
that a log under rolling retention keeps its size and no commit is ever long. `expire` does the
rest, step by step, with other writers' commits in between.

A step frees fewer pages than fit one page of LMDB's free list (some 500): a longer record of
freed pages would itself need adjacent pages, and adjacent pages are what a log never needs.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from eventlog.embedded import keys
from eventlog.embedded.partition import Batch, PartitionView, Retention, Tail
from eventlog.embedded.writer import Writer

__all__ = ["STEP_ROWS", "Removed", "remove_deleted", "trim"]

STEP_ROWS: Final = 384
"""Rows (chunks of batches) that one commit removes at most."""


class Removed(NamedTuple):
    """What a step removed: rows of the database, and the events they were."""

    rows: int
    events: int


def trim(
    writer: Writer, topic_id: int, partition: int, retention: Retention, most_rows: int
) -> Removed:
    """Remove expired batches from the beginning of a partition, whole ones, about `most_rows`."""
    view = PartitionView(writer.transaction, topic_id, partition)
    tail = writer.tail(topic_id, partition)
    rows = events = 0
    begin = None
    while rows < most_rows:
        batch = view.batch_at(0)
        if batch is None or not _is_over(view, batch, retention, tail):
            break
        begin = view.first_offset(tail) if begin is None else begin
        rows += writer.remove_rows_backwards(
            view.key(batch.last_offset), view.key(batch.last_offset + 1), STEP_ROWS
        )
        if view.batch_at(batch.last_offset) == batch:
            break  # larger than a step: its header, which goes last, is still there
        _keep_end(writer, view, keys.floor_key(topic_id, partition), batch, tail)
        events = batch.last_offset + 1 - begin
    return Removed(rows, events)


def _is_over(view: PartitionView, batch: Batch, retention: Retention, tail: Tail) -> bool:
    """Whether the first batch has expired; a damaged one has when the next readable one has."""
    if batch.header is None:
        return view.has_expired(view.readable_at(batch.last_offset + 1), retention, tail)
    return view.has_expired(batch, retention, tail)


def _keep_end(
    writer: Writer, view: PartitionView, floor_key: bytes, batch: Batch, tail: Tail
) -> None:
    """A batch was removed: note that one was or, with the last, where the partition goes on."""
    if batch.last_offset + 1 == tail.next_offset:
        writer.put(floor_key, keys.Floor(*tail).encode())
    elif view.floor() is None:
        writer.put(floor_key, keys.Floor().encode())


def remove_deleted(writer: Writer, most_rows: int) -> int:
    """Remove rows of deleted topics, `most_rows` at most; how many it were, 0 when all are gone."""
    found = writer.first_key(keys.DELETED_PREFIX)
    if found is None:
        return 0
    topic_id = int.from_bytes(found[1:5])
    rows = writer.remove_rows(
        keys.encode_batch_key(topic_id, 0, 0), keys.encode_batch_key(topic_id + 1, 0, 0), most_rows
    )
    if rows < most_rows:
        rows += writer.remove_rows(
            keys.floor_key(topic_id, 0), keys.floor_key(topic_id + 1, 0), most_rows - rows
        )
    if rows < most_rows:
        writer.delete(found)
        rows += 1
    return rows
