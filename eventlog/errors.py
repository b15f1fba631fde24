"""What can go wrong, drawn once.

::

    EventLogError
    |-- the call is wrong
    |   |-- InvalidNameError          (ValueError)         a name breaks the rules
    |   |-- PartitionNotFoundError    (LookupError)        the topic has no such partition
    |   |-- TopicNotFoundError        (LookupError)        no such topic, or it was deleted
    |   |-- TopicExistsError                               made before, and differently
    |   |-- LogNotFoundError          (FileNotFoundError)  nothing here, and create=False
    |   |-- EventTooLargeError        (ValueError)         a body, key or append is too large
    |   |-- UnexpectedOffsetError                          expect_next was not the next offset
    |   |-- OffsetOutOfRangeError     (LookupError)        before the beginning or past the end
    |   |-- UnsupportedOperationError                      this log or engine cannot do that
    |   `-- ClosedError                                    used after close()
    |-- try again
    |   |-- BufferFullError                                a producer's buffer had no room in time
    |   |-- DeliveryError                                  a producer could not store some events
    |   |-- LogBusyError              (TimeoutError)       another writer held the log too long
    |   |-- PreconditionFailedError                        a blob is not as a put or delete expected
    |   `-- StoreUnavailableError                          a blob store cannot be used now
    |-- you are not the owner any more
    |   |-- ConsumerDisconnectedError                      another reads for the group now
    |   |-- LeaseLostError                                 a host owns the partition
    |   `-- ProducerFencedError                            a later producer has the same producer_id
    |-- make room
    |   `-- LogFullError              (OSError)            the disk or the map is full
    `-- the data is damaged, gone or not ours
        |-- CorruptBatchError                              a stored batch does not check out
        |-- EventsExpiredError                             gone before a group came to them
        |-- FormatVersionError                             written by a newer version
        `-- NotALogError                                   not a log, or a damaged one

The branches follow what a caller can do next. A wrong type is a plain ``TypeError`` and a wrong
value a plain ``ValueError``, wherever no class above says it better.

Every class takes one message and keeps what a program may want to act on as attributes, all of
which survive pickling (an error often crosses a process boundary).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog.producing.delivery import Delivery

__all__ = [
    "BufferFullError",
    "ClosedError",
    "ConsumerDisconnectedError",
    "CorruptBatchError",
    "DeliveryError",
    "EventLogError",
    "EventTooLargeError",
    "EventsExpiredError",
    "FormatVersionError",
    "InvalidNameError",
    "LeaseLostError",
    "LogBusyError",
    "LogFullError",
    "LogNotFoundError",
    "NotALogError",
    "OffsetOutOfRangeError",
    "PartitionNotFoundError",
    "PreconditionFailedError",
    "ProducerFencedError",
    "StoreUnavailableError",
    "TopicExistsError",
    "TopicNotFoundError",
    "UnexpectedOffsetError",
    "UnsupportedOperationError",
]


class EventLogError(Exception):
    """The root of every error that is this package's own."""


class InvalidNameError(EventLogError, ValueError):
    """A name that breaks the rules of docs/limits.md."""


class PartitionNotFoundError(EventLogError, LookupError):
    """The topic has no partition of that number."""


class TopicNotFoundError(EventLogError, LookupError):
    """The log has no topic of that name, or the one held was deleted."""


class TopicExistsError(EventLogError):
    """A topic of that name exists, and what was asked for differs from it."""


class LogNotFoundError(EventLogError, FileNotFoundError):
    """There is no log at that place, and none was to be made."""


class EventTooLargeError(EventLogError, ValueError):
    """A body, key, properties or whole append is over its limit."""


class UnexpectedOffsetError(EventLogError):
    """The partition's next offset was not the one the caller expected.

    Attributes:
        expected: what ``expect_next`` said.
        actual: the partition's next offset at that moment.
    """

    def __init__(self, message: str = "", *, expected: int = -1, actual: int = -1) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class OffsetOutOfRangeError(EventLogError, LookupError):
    """The offset is before the beginning or behind the end of the partition.

    Attributes:
        offset: the offset that was asked for.
        beginning_offset: the first offset that can be read.
        next_offset: the offset the next event will get; reading may start there.
    """

    def __init__(
        self,
        message: str = "",
        *,
        offset: int = -1,
        beginning_offset: int = -1,
        next_offset: int = -1,
    ) -> None:
        super().__init__(message)
        self.offset = offset
        self.beginning_offset = beginning_offset
        self.next_offset = next_offset


class UnsupportedOperationError(EventLogError):
    """This log, as it was opened or made, cannot do that."""


class ClosedError(EventLogError):
    """The log was closed."""


class LogBusyError(EventLogError, TimeoutError):
    """Another writer kept the log longer than the caller was willing to wait. Nothing was stored.

    On a cluster: there was no answer in time. Then what was to be stored may be, even later, if the
    message says so.

    Attributes:
        holder: process id of the writer that holds the log, or None where it cannot be told.
    """

    def __init__(self, message: str = "", *, holder: int | None = None) -> None:
        super().__init__(message)
        self.holder = holder


class BufferFullError(EventLogError):
    """A producer's buffer had no room in time. The event was not accepted."""


class DeliveryError(EventLogError):
    """A producer could not store events it had accepted, and nobody had looked at that yet.

    Attributes:
        failed: the deliveries, in the order they were sent; each has its ``exception()``. At most
            10,000 are kept; ``count`` tells how many there were.
        count: how many events were not stored.
    """

    def __init__(
        self, message: str = "", *, failed: Sequence[Delivery] = (), count: int = 0
    ) -> None:
        super().__init__(message)
        self.failed = list(failed)
        self.count = count

    def __reduce__(self) -> tuple[type[DeliveryError], tuple[object, ...], dict[str, object]]:
        # A delivery belongs to the process that sent the event.
        return type(self), self.args, {"count": self.count}


class ConsumerDisconnectedError(EventLogError):
    """Another consumer or a host reads for the group now, or the group was deleted."""


class LeaseLostError(EventLogError):
    """A host owns the partition in the group: nobody else may move its checkpoint."""


class ProducerFencedError(EventLogError):
    """A later producer was opened with the same ``producer_id``: this one stores nothing more."""


class PreconditionFailedError(EventLogError):
    """A blob was not as the caller expected: another put or deleted it. Nothing was changed."""


class StoreUnavailableError(EventLogError):
    """A blob store could not be reached, or could not do it now.

    What was to be stored may have been, where the answer was lost: look before trying again.
    """


class LogFullError(EventLogError, OSError):
    """The disk or the map is full. Nothing was stored; appends work again when there is room."""

    def __init__(self, message: str = "", *_ignored: object) -> None:
        super().__init__(errno.ENOSPC, message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[LogFullError], tuple[str]]:
        return type(self), (self.message,)


class CorruptBatchError(EventLogError):
    """A stored batch does not check out. Reading can go on at ``last_offset + 1``.

    Attributes:
        topic: name of the topic.
        partition: the partition's number.
        first_offset: first offset the batch should hold.
        last_offset: last offset the batch should hold.
    """

    def __init__(
        self,
        message: str = "",
        *,
        topic: str = "",
        partition: int = -1,
        first_offset: int = -1,
        last_offset: int = -1,
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.first_offset = first_offset
        self.last_offset = last_offset


class EventsExpiredError(EventLogError):
    """Events of a partition expired before a group came to them. It goes on behind them.

    Attributes:
        topic: name of the topic.
        partition: the partition's number.
        first: the first offset that is gone unread.
        last: the last one.
    """

    def __init__(
        self,
        message: str = "",
        *,
        topic: str = "",
        partition: int = -1,
        first: int = -1,
        last: int = -1,
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.first = first
        self.last = last


class FormatVersionError(EventLogError):
    """The log was written in a newer format than this version knows."""


class NotALogError(EventLogError):
    """What stands at that place is no log, or is too damaged to be opened as one."""
