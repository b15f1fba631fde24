"""What users write to process a partition: an `EventProcessor`, or a function.

An instance is asked for each partition that a host owns, and each time it comes to own it; so it
may keep what it likes about its partition. Its methods may be plain functions or coroutine
functions, each for itself: coroutines run on the host's event loop, plain functions in a thread of
their own, one call at a time. Coroutines get a `PartitionContext`, plain functions a
`BlockingPartitionContext`.
"""

# ruff: noqa: ARG002 - the methods that may be left out do nothing with what they are given

from __future__ import annotations

import abc
import enum
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

if TYPE_CHECKING:
    from eventlog.event import StoredEvent

__all__ = [
    "DEAD_LETTER",
    "NOTHING",
    "RETRY",
    "SKIP",
    "STOP",
    "CloseReason",
    "ErrorAction",
    "EventFailed",
    "EventProcessor",
    "Factory",
    "Method",
    "Methods",
    "ProcessFunction",
    "factory_of",
]

T = TypeVar("T")

MaybeAwaitable: TypeAlias = Awaitable[T] | T


class CloseReason(enum.Enum):
    """Why a processor is closed."""

    SHUTDOWN = "shutdown"
    """Its host stops."""

    HANDED_OVER = "handed over"
    """Another host gets the partition, in good order: what was finished is checkpointed."""

    LEASE_LOST = "lease lost"
    """The partition is not this host's any more; another may be at work on it already."""

    FAILED = "failed"
    """It ended with an error: `EventProcessor.error` said STOP, or the process is to end."""


class ErrorAction(enum.Enum):
    """What to do about events that could not be processed."""

    RETRY = "retry"
    """Hand them over again, after a delay, as the `RetryPolicy` says."""

    DEAD_LETTER = "dead letter"
    """Put them aside in the dead-letter topic, now, and go on behind them."""

    SKIP = "skip"
    """Go on behind them, now; they are logged and not processed."""

    STOP = "stop"
    """Stop the host; they stay where they are."""


RETRY: Final = ErrorAction.RETRY
DEAD_LETTER: Final = ErrorAction.DEAD_LETTER
SKIP: Final = ErrorAction.SKIP
STOP: Final = ErrorAction.STOP


class EventFailed(Exception):  # noqa: N818 - it tells of an event, `raise EventFailed(event) from error`
    """Raised by a handler: of the batch it was given, this event is the one at fault.

    Those before it are handed over again unless they are checkpointed; those behind it follow when
    it has succeeded, or was put aside.

    Attributes:
        event: one of those that the handler was given.
    """

    def __init__(self, event: StoredEvent, message: str = "") -> None:
        super().__init__(message or f"offset {event.offset} could not be processed")
        self.event = event
        self.message = str(self)

    def __reduce__(self) -> tuple[type[EventFailed], tuple[StoredEvent, str]]:
        return type(self), (self.event, self.message)


class _Nothing:
    """What the optional methods return: ``super().open(context)`` may be awaited, or not."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


NOTHING: Final = _Nothing()


class EventProcessor(abc.ABC):
    """Processes the events of one partition, batch by batch, in order. To be derived from.

    All methods but `process` are optional, and each may be plain or a coroutine function. They are
    called one at a time. What was not checkpointed when a processor is closed, or its process
    ends, is handed to the next one: to do each event once and no more, checkpoint in the
    transaction that stores what came of it.
    """

    def open(self, context: Any) -> MaybeAwaitable[None]:
        """Get ready: called once, before anything else."""
        return NOTHING

    @abc.abstractmethod
    def process(self, context: Any, events: list[StoredEvent]) -> MaybeAwaitable[None]:
        """Process events: at least one, in the order of the partition, without gaps.

        What it raises goes to `error`. Events are finished when they are checkpointed, by the
        context or, if the host is to do that, some time after `process` has returned.
        """

    def idle(self, context: Any) -> MaybeAwaitable[None]:
        """No event came for `max_wait`."""
        return NOTHING

    def close(self, context: Any, reason: CloseReason) -> MaybeAwaitable[None]:
        """Finish: called once, last; not if the process ends without notice, or `open` failed.

        There may still be a checkpoint made here, unless the lease is lost.
        """
        return NOTHING

    def error(
        self, context: Any, exception: BaseException, events: list[StoredEvent]
    ) -> MaybeAwaitable[ErrorAction | None]:
        """Something failed; what is to be done about it? None means RETRY.

        Args:
            exception: what `process`, `idle` or reading raised.
            events: those that are concerned: what is left of the batch behind the checkpoint.
                None are if reading failed, or `idle`.
        """
        return NOTHING


ProcessFunction: TypeAlias = Callable[[Any, "list[StoredEvent]"], MaybeAwaitable[None]]
"""What stands in for an `EventProcessor`: ``async def handle(context, events)``, or plain."""

Factory: TypeAlias = Callable[[], Any]
"""Makes a processor: an `EventProcessor`, or whatever has its methods; `process` at least."""


class _Handler:
    """A function as a processor."""

    def __init__(self, function: ProcessFunction) -> None:
        self.process = function


def factory_of(processor: Factory | None, handler: ProcessFunction | None) -> Factory:
    """What a host was given, as a factory of processors.

    Raises:
        TypeError: it is not exactly one of the two, or cannot be called.
    """
    if (processor is None) == (handler is None):
        which = "neither" if handler is None else "both"
        raise TypeError(
            f"give a processor (a class or factory) or a handler (a function), not {which}"
        )
    if handler is not None:
        given: Any = handler
        if isinstance(given, type) or not callable(given):
            raise TypeError(
                f"a handler is a function, not {handler!r:.80}: a class is given as processor"
            )
        function = handler
        return lambda: _Handler(function)
    if not callable(processor):
        raise TypeError(
            "a processor is a class, or another factory without arguments that makes one for each "
            f"partition, not {type(processor).__name__}: {processor!r:.80}"
        )
    if inspect.isabstract(processor):
        raise TypeError(f"{processor!r:.80} has no method `process`")
    return processor


class Method(NamedTuple):
    """A method of a processor, and whether it is a coroutine function."""

    function: Callable[..., Any]
    is_async: bool


class Methods:
    """What a processor can do; what it leaves to `EventProcessor`, or has not, is None.

    Raises:
        TypeError: it has no `process`, or one of its methods is none.
    """

    def __init__(self, processor: Any) -> None:
        process = _method(processor, "process")
        if process is None:
            raise TypeError(f"a processor has a method `process`: {processor!r:.80} has none")
        self.process = process
        self.open = _method(processor, "open")
        self.idle = _method(processor, "idle")
        self.close = _method(processor, "close")
        self.error = _method(processor, "error")


def _method(processor: Any, name: str) -> Method | None:
    function = getattr(processor, name, None)
    if function is None or getattr(function, "__func__", None) is vars(EventProcessor)[name]:
        return None
    if not callable(function):
        raise TypeError(f"`{name}` of a processor is a method, not {type(function).__name__}")
    return Method(function, _is_async(function))


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - an object whose `__call__` is one
    )
