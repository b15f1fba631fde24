"""`Heartbeat`: by which one member of a group shows that it lives."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable

from eventlog.blobs import Blob
from eventlog.errors import PreconditionFailedError
from eventlog.groups import steps
from eventlog.groups.documents import GroupIds, HostDocument, encode, new_revision
from eventlog.groups.steps import Steps
from eventlog.positions import instant

__all__ = ["Heartbeat"]


class Heartbeat:
    """One member's heartbeat. That it changes is all that others go by.

    It is written only in place of the member's own last one: so who was removed, and whose
    heartbeat was deleted with that, finds it out.

    Args:
        ids: which group.
        member: whose it is.
        clock: seconds, running through suspension.
        wall_us: microseconds since 1970, for people to read.

    Attributes:
        due_at: when the next one is to be written, on `clock`; at once before the first.
        written_at: when the last one that succeeded was begun, on `clock`.
    """

    def __init__(
        self,
        ids: GroupIds,
        member: str,
        clock: Callable[[], float],
        wall_us: Callable[[], int],
    ) -> None:
        self.due_at = self.written_at = -math.inf
        self._ids = ids
        self._member = member
        self._clock = clock
        self._wall_us = wall_us
        self._started_us = wall_us()
        self._count = 0
        self._etag: str | None = None
        self._doubtful: dict[bytes, float] = {}

    @property
    def has_begun(self) -> bool:
        """Whether one was tried."""
        return not math.isinf(self.due_at)

    def write(self, group: str, *, sooner: float) -> Steps[float | None]:
        """Write the next one; when the one that stands there now was begun.

        None: another's stands there, or none. The member was removed.

        Args:
            group: the group's own id.
            sooner: after how many seconds it is tried again, if it fails.
        """
        began = self._clock()
        self.due_at = began + sooner
        data = self._document(group)
        name = self._ids.heartbeat(self._member)
        self._doubtful[data] = began
        try:
            etag = yield from steps.put(
                name, data, if_match=self._etag, if_absent=self._etag is None
            )
        except PreconditionFailedError:
            blob = yield from steps.get(name)
            if not isinstance(blob, Blob) or blob.data not in self._doubtful:
                return None
            # One whose answer was lost: the lease counts from when that was begun.
            etag, began = blob.etag, self._doubtful[blob.data]
        self._etag = etag
        self._doubtful.clear()
        return began

    def _document(self, group: str) -> bytes:
        self._count += 1
        return encode(
            HostDocument(
                host=self._member,
                machine=socket.gethostname(),
                process=os.getpid(),
                beat=self._count,
                started_at=instant(self._started_us),
                beat_at=instant(self._wall_us()),
                revision=new_revision(),
                log=self._ids.log,
                topic=self._ids.topic_id,
                group=group,
            )
        )
