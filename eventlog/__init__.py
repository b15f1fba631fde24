"""An embeddable, partitioned, append-only event log with consumer groups.

An *event log* (`EventLog`) is a directory that holds *topics*. A `Topic` is a named stream with a
fixed number of *partitions* and a retention time; a partition is an ordered, append-only sequence
of *events*. An `Event` is body bytes with an optional *key* and properties; events with equal keys
land on the same partition, in order. Once stored, an event also has its *offset*, its position in
its partition (0, 1, 2, ... with no gaps), and the time it was enqueued. `open` opens a log.

A `Producer` sends events to a topic, many at a time; a `Consumer` reads on and on, and follows what
is appended. A *consumer group* (`ConsumerGroup`) is an independent view of a topic with its own
*checkpoints*: the offsets of the last events it has finished. A `Transaction` stores events and
checkpoints together or not at all.

An `EventProcessorHost` is one process's share of a group: it owns some of the partitions, under a
*lease*, and runs an `EventProcessor` on each. Hosts that come and go share the partitions anew.
"""

import importlib as _importlib
import typing as _typing

from eventlog.errors import (
    BufferFullError,
    ClosedError,
    ConsumerDisconnectedError,
    CorruptBatchError,
    DeliveryError,
    EventLogError,
    EventsExpiredError,
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
from eventlog.locations import open
from eventlog.log import (
    CheckReport,
    Damage,
    EventLog,
    PartitionInfo,
    Receipt,
    Topic,
)
from eventlog.positions import EARLIEST, LATEST

if _typing.TYPE_CHECKING:
    from eventlog import blobs as blobs
    from eventlog.consumer import Consumer
    from eventlog.consuming.source import LostRange
    from eventlog.group import ConsumerGroup, Lag
    from eventlog.groups.checkpoints import Checkpoint
    from eventlog.processor.context import BlockingPartitionContext, PartitionContext
    from eventlog.processor.host import EventProcessorHost
    from eventlog.processor.options import ProcessorOptions, RetryPolicy
    from eventlog.processor.processor import (
        DEAD_LETTER,
        RETRY,
        SKIP,
        STOP,
        CloseReason,
        ErrorAction,
        EventFailed,
        EventProcessor,
    )
    from eventlog.processor.pump import PartitionStatus
    from eventlog.processor.status import HostStatus
    from eventlog.processor.subscription import Batch, Subscription
    from eventlog.producer import Producer, ProducerMetrics
    from eventlog.producing.delivery import Delivery
    from eventlog.transaction import Transaction

__version__ = "0.1.0.dev0"

__all__ = [
    "DEAD_LETTER",
    "EARLIEST",
    "LATEST",
    "RETRY",
    "SKIP",
    "STOP",
    "Batch",
    "BlockingPartitionContext",
    "BufferFullError",
    "CheckReport",
    "Checkpoint",
    "CloseReason",
    "ClosedError",
    "Consumer",
    "ConsumerDisconnectedError",
    "ConsumerGroup",
    "CorruptBatchError",
    "Damage",
    "Delivery",
    "DeliveryError",
    "ErrorAction",
    "Event",
    "EventFailed",
    "EventLog",
    "EventLogError",
    "EventProcessor",
    "EventProcessorHost",
    "EventTooLargeError",
    "EventsExpiredError",
    "FormatVersionError",
    "HostStatus",
    "InvalidNameError",
    "Lag",
    "LeaseLostError",
    "LogBusyError",
    "LogFullError",
    "LogNotFoundError",
    "LostRange",
    "NotALogError",
    "OffsetOutOfRangeError",
    "PartitionContext",
    "PartitionInfo",
    "PartitionNotFoundError",
    "PartitionStatus",
    "PreconditionFailedError",
    "ProcessorOptions",
    "Producer",
    "ProducerFencedError",
    "ProducerMetrics",
    "Receipt",
    "RetryPolicy",
    "StoreUnavailableError",
    "StoredEvent",
    "Subscription",
    "Topic",
    "TopicExistsError",
    "TopicNotFoundError",
    "Transaction",
    "UnexpectedOffsetError",
    "UnsupportedOperationError",
    "open",
]

_LATER = {
    "DEAD_LETTER": "eventlog.processor.processor",
    "RETRY": "eventlog.processor.processor",
    "SKIP": "eventlog.processor.processor",
    "STOP": "eventlog.processor.processor",
    "Batch": "eventlog.processor.subscription",
    "BlockingPartitionContext": "eventlog.processor.context",
    "Checkpoint": "eventlog.groups.checkpoints",
    "CloseReason": "eventlog.processor.processor",
    "Consumer": "eventlog.consumer",
    "ConsumerGroup": "eventlog.group",
    "Delivery": "eventlog.producing.delivery",
    "ErrorAction": "eventlog.processor.processor",
    "EventFailed": "eventlog.processor.processor",
    "EventProcessor": "eventlog.processor.processor",
    "EventProcessorHost": "eventlog.processor.host",
    "HostStatus": "eventlog.processor.status",
    "Lag": "eventlog.group",
    "LostRange": "eventlog.consuming.source",
    "PartitionContext": "eventlog.processor.context",
    "PartitionStatus": "eventlog.processor.pump",
    "ProcessorOptions": "eventlog.processor.options",
    "Producer": "eventlog.producer",
    "ProducerMetrics": "eventlog.producer",
    "RetryPolicy": "eventlog.processor.options",
    "Subscription": "eventlog.processor.subscription",
    "Transaction": "eventlog.transaction",
}
"""Where those are that are loaded when first asked for: importing the package stays fast."""


def __getattr__(name: str) -> object:
    if name in ("blobs", "testing"):
        return _importlib.import_module(f"eventlog.{name}")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_importlib.import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
