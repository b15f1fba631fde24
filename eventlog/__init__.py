"""An embeddable, partitioned, append-only event log with consumer groups.

An *event log* (`EventLog`) is a directory that holds *topics*. A `Topic` is a named stream with a
fixed number of *partitions* and a retention time; a partition is an ordered, append-only sequence
of *events*. An `Event` is body bytes with an optional *key* and properties; events with equal keys
land on the same partition, in order. Once stored, an event also has its *offset*, its position in
its partition (0, 1, 2, ... with no gaps), and the time it was enqueued. `open` opens a log.
"""

from eventlog import blobs as blobs
from eventlog.errors import (
    BufferFullError,
    ClosedError,
    ConsumerDisconnectedError,
    CorruptBatchError,
    DeliveryError,
    EventLogError,
    EventTooLargeError,
    FormatVersionError,
    InvalidNameError,
    LeaseLostError,
    LogBusyError,
    LogFullError,
    LogNotFoundError,
    NotALogError,
    OffsetOutOfRangeError,
    PartitionNotFoundError,
    PreconditionFailedError,
    ProducerFencedError,
    StoreUnavailableError,
    TopicExistsError,
    TopicNotFoundError,
    UnexpectedOffsetError,
    UnsupportedOperationError,
)
from eventlog.event import Event, StoredEvent
from eventlog.log import (
    CheckReport,
    Damage,
    EventLog,
    PartitionInfo,
    Receipt,
    Topic,
    open,
)
from eventlog.positions import EARLIEST, LATEST

__version__ = "0.1.0.dev0"

__all__ = [
    "EARLIEST",
    "LATEST",
    "BufferFullError",
    "CheckReport",
    "ClosedError",
    "ConsumerDisconnectedError",
    "CorruptBatchError",
    "Damage",
    "DeliveryError",
    "Event",
    "EventLog",
    "EventLogError",
    "EventTooLargeError",
    "FormatVersionError",
    "InvalidNameError",
    "LeaseLostError",
    "LogBusyError",
    "LogFullError",
    "LogNotFoundError",
    "NotALogError",
    "OffsetOutOfRangeError",
    "PartitionInfo",
    "PartitionNotFoundError",
    "PreconditionFailedError",
    "ProducerFencedError",
    "Receipt",
    "StoreUnavailableError",
    "StoredEvent",
    "Topic",
    "TopicExistsError",
    "TopicNotFoundError",
    "UnexpectedOffsetError",
    "UnsupportedOperationError",
    "open",
]
