"""A group at one moment, for people and for programs: who is there, owns what, and is how far."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias

from eventlog import Checkpoint, EventLogError, Lag, Topic
from eventlog.blobs import NOT_MODIFIED, BlobStore
from eventlog.cli.display import Value, age_text, instant_text
from eventlog.cli.group.existing import existing, lag_document, no_group, seconds_text
from eventlog.group import group_store
from eventlog.groups.documents import GroupDocument, GroupIds, HostDocument, Share, decode

__all__ = ["MEMBER_COLUMNS", "OPTIONAL_COLUMNS", "PARTITION_COLUMNS", "Picture", "look"]

MEMBER_COLUMNS: Final = (
    *("member", "role", "partitions", "machine", "process"),
    *("started", "last beat"),
)
PARTITION_COLUMNS: Final = (
    *("partition", "checkpoint", "lag", "lag seconds"),
    *("owner", "epoch", "next", "resets", "updated"),
)

OPTIONAL_COLUMNS: Final = (
    *("resets", "updated", "started", "machine", "process"),
    *("epoch", "lag seconds", "checkpoint"),
)
"""What a narrow terminal does without, in either table, the least important first."""

Row: TypeAlias = tuple[Value, ...]

_NO_SHARE: Final = Share()


class Picture(NamedTuple):
    """What the documents of a group say, read one after the other.

    Attributes:
        topic, group: names.
        document: the group document.
        hosts: heartbeats of its hosts; of one that has not written any yet there is none.
        members: hosts, and consumers that live.
        checkpoints, lags: by partition.
    """

    topic: str
    group: str
    document: GroupDocument
    hosts: Mapping[str, HostDocument]
    members: list[str]
    checkpoints: Mapping[int, Checkpoint]
    lags: Mapping[int, Lag]

    def fields(self) -> list[tuple[str, Value]]:
        """What is told of the group as a whole."""
        fields: list[tuple[str, Value]] = [("topic", self.topic), ("group", self.group)]
        if self.document.lease_duration is not None:
            fields.append(("lease", timedelta(seconds=self.document.lease_duration)))
        return fields

    def member_rows(self, now: datetime | None = None) -> list[Row]:
        """The members, in `MEMBER_COLUMNS`; times are ages if `now` is given."""
        owned = Counter(self._share(partition).owner for partition in self.lags)
        return [
            (member, self._role(member), owned[member], *_whereabouts(self.hosts.get(member), now))
            for member in self.members
        ]

    def partition_rows(self, now: datetime | None = None) -> list[Row]:
        """The partitions, in `PARTITION_COLUMNS`; times are ages if `now` is given."""
        return [self._partition_row(partition, now) for partition in self.lags]

    def document_for_programs(self) -> dict[str, Any]:
        """All of it, in JSON."""
        return {
            "topic": self.topic,
            "group": self.group,
            "generation": self.document.generation,
            "lease_seconds": self.document.lease_duration,
            "members": list(map(self._member_document, self.members)),
            "partitions": list(map(self._partition_document, self.lags)),
        }

    def _share(self, partition: int) -> Share:
        """Who has a partition, whether hosts share the topic or consumers read it."""
        share = self.document.partitions.get(partition, _NO_SHARE)
        checkpoint = self.checkpoints.get(partition)
        if share.owner is not None or checkpoint is None:
            return share
        return Share(checkpoint.owner, max(share.epoch, checkpoint.epoch), share.next)

    def _role(self, member: str) -> str:
        if member in self.document.leaving:
            return "leaving"
        return "host" if member in self.document.hosts else "consumer"

    def _member_document(self, member: str) -> dict[str, Any]:
        host = self.hosts.get(member)
        return {
            "member": member,
            "role": self._role(member),
            "partitions": [n for n in self.lags if self._share(n).owner == member],
            **{
                field: _plain(getattr(host, field, None))
                for field in ("machine", "process", "started_at", "beat_at")
            },
        }

    def _partition_row(self, partition: int, now: datetime | None) -> Row:
        share, lag = self._share(partition), self.lags[partition]
        checkpoint = self.checkpoints.get(partition)
        unfinished = (lag.events, seconds_text(lag))
        if checkpoint is None:
            began = share.owner is not None
            owned = (share.owner, share.epoch if began else None, share.next)
            return partition, None, *unfinished, *owned, None, None
        return (
            *(partition, checkpoint.offset, *unfinished),
            *(share.owner, share.epoch, share.next),
            *(checkpoint.reset, _time(checkpoint.updated_at, now)),
        )

    def _partition_document(self, partition: int) -> dict[str, Any]:
        share, checkpoint = self._share(partition), self.checkpoints.get(partition)
        described = {
            field: _plain(getattr(checkpoint, field, None))
            for field in Checkpoint.__struct_fields__
        }
        if share.owner is not None:
            described |= {"owner": share.owner, "epoch": share.epoch}
        lag = lag_document(self.lags[partition])
        return {"partition": partition, **described, "next": share.next, **lag}


def look(topic: Topic, name: str, store: BlobStore | None) -> Picture:
    """The group as it is now.

    Raises:
        Failure: there is none.
    """
    group = existing(topic, name, store)
    blobs = topic.log.blobs if store is None else store
    documents = group_store(topic, name, blobs)
    document = documents.document()
    if document is None:  # deleted since
        raise no_group(topic, name)
    return Picture(
        topic=topic.name,
        group=name,
        document=document,
        hosts=dict(_hosts(documents.ids, document, blobs)),
        members=group.members(),
        checkpoints=group.checkpoints(),
        lags=group.lag(),
    )


def _hosts(
    ids: GroupIds, document: GroupDocument, blobs: BlobStore
) -> Iterator[tuple[str, HostDocument]]:
    """The heartbeats of the hosts that the group document names."""
    for member in document.hosts:
        name = ids.heartbeat(member)
        blob = blobs.get(name)
        if blob is None or blob is NOT_MODIFIED:
            continue
        with contextlib.suppress(EventLogError):  # damaged: its host will write another one
            host = decode(name, blob.data, HostDocument, ids)
            if host is not None and host.group == document.group:
                yield member, host


def _whereabouts(host: HostDocument | None, now: datetime | None) -> Row:
    if host is None:
        return None, None, None, None
    times = (_time(host.started_at, now), _time(host.beat_at, now))
    return host.machine, str(host.process), *times


def _time(when: datetime, now: datetime | None) -> Value:
    return when if now is None else age_text(now - when)


def _plain(value: Any) -> Any:
    return instant_text(value) if isinstance(value, datetime) else value
