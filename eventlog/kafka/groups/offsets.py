"""What a log has of its groups' checkpoints: stores with the offsets in front of them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from eventlog.kafka.groups.blobs import GroupBlobs
from eventlog.kafka.groups.published import PublishedCheckpoints
from eventlog.kafka.later import Later

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.kafka.engine import KafkaLog
    from eventlog.kafka.groups.checkpoint import Producers
    from eventlog.kafka.groups.commit_view import CommitView

__all__ = ["GroupOffsets"]


class GroupOffsets:
    """The checkpoints of a log's groups, as far as they stand in Kafka's own group offsets."""

    def __init__(self, log: KafkaLog) -> None:
        self._log = log
        self._mutex = threading.Lock()
        self._over: dict[int, GroupBlobs] = {}
        self._later = Later()
        self._published: PublishedCheckpoints | None = None
        if log.settings.publish_checkpoints:
            self._published = PublishedCheckpoints(log.cluster, self._later)

    def over(self, store: BlobStore) -> GroupBlobs:
        """A store, with the offsets in front; the same one each time."""
        if isinstance(store, GroupBlobs):
            return store
        with self._mutex:
            found = self._over.get(id(store))
            if found is None:
                log = self._log
                found = GroupBlobs(
                    store,
                    log.id,
                    log.cluster,
                    lambda: log.writers.transactional,
                    later=self._later,
                    published=self._published,
                )
                self._over[id(store)] = found
            return found

    def view(self, producers: Producers, store: BlobStore | None = None) -> CommitView:
        """A group's store inside one commit.

        Args:
            store: which; the log's own if it is None.

        Raises:
            UnsupportedOperationError: there is none.
        """
        from eventlog.kafka.groups.commit_view import CommitView

        return CommitView(self.over(self._log.store(store)), producers)

    def close(self) -> None:
        """Write down and show what is still to be, if that can be done in a moment."""
        if self._published is None:
            self._later.close()
        else:
            self._published.close()
