"""A processor under observation: what a pump calls, and what goes through its hands.

A pump is given an `_Observed` in place of the user's processor. It has the same methods, plain ones
plain and coroutine functions as such, and does the same; besides it says when a call begins and
ends. It always has `error`, so that no exception goes unseen.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Final

from eventlog.errors import CorruptBatchError, EventsExpiredError
from eventlog.event import StoredEvent
from eventlog.processor.checkpoint import PartitionCheckpoint
from eventlog.processor.dead_letters import DeadLetter
from eventlog.processor.processor import ErrorAction, Factory, Method, Methods
from eventlog.testing.clock import at_work

__all__ = ["Call", "ObservedCheckpoint", "Observer", "PutAside", "Record"]


class PutAside(DeadLetter, frozen=True):
    """A dead letter: what it says of itself, and the event that was put aside.

    Attributes:
        event: the dead letter as it is stored, with all properties; `eventlog.Event` has the rest.
    """

    event: StoredEvent

    @property
    def body(self) -> bytes:
        """That of the event that was put aside."""
        return self.event.body

    @property
    def key(self) -> str | bytes | None:
        """Likewise."""
        return self.event.key

    @property
    def properties(self) -> Any:
        """Those of the dead letter: of the event, and ``deadLetterReason`` and so on."""
        return self.event.properties


@dataclasses.dataclass
class Record:
    """What has happened, over all instances of the processor. Lists only grow.

    Attributes:
        checkpoints: offsets, in the order in which they were checkpointed.
        errors: what was handed to `error`.
        reported: what is not the processor's to judge: what `open`, `close` or `error` raised.
        processor: the last instance that was made.
    """

    checkpoints: list[int] = dataclasses.field(default_factory=list)
    errors: list[BaseException] = dataclasses.field(default_factory=list)
    reported: list[BaseException] = dataclasses.field(default_factory=list)
    processor: Any = None


class Call:
    """A call of a method of a processor that is under way.

    Attributes:
        name: of the method.
        is_async: whether it can be cancelled.
        began_at: when, on the virtual clock.
    """

    def __init__(self, name: str, *, is_async: bool, began_at: float) -> None:
        self.name: Final = name
        self.is_async: Final = is_async
        self.began_at: Final = began_at


class Observer:
    """Observes the processors of one pump.

    Args:
        factory: the user's.
        now: the virtual clock's time.
        tell: called, in any thread, when a call begins or ends.

    Attributes:
        call: what is under way; None if nothing is.
        handled: the highest offset that the current instance was given, or told to be lost.
    """

    def __init__(
        self,
        factory: Factory,
        record: Record,
        now: Callable[[], float],
        tell: Callable[[], object],
    ) -> None:
        self.call: Call | None = None
        self.handled = -1
        self._factory = factory
        self._record = record
        self._now = now
        self._tell = tell

    def make(self) -> _Observed:
        """A processor for the pump. Raises what the user's factory raises."""
        self.handled = -1
        processor = self._factory()
        observed = _Observed(self, Methods(processor))
        self._record.processor = processor
        return observed

    @contextlib.contextmanager
    def calling(self, name: str, *, is_async: bool) -> Iterator[None]:
        """While a method runs."""
        call = self.call = Call(name, is_async=is_async, began_at=self._now())
        token = at_work.set(call)
        self._tell()
        try:
            yield
        finally:
            at_work.reset(token)
            self.call = None
            self._tell()

    def got(self, events: list[StoredEvent]) -> None:
        """Events are handed over."""
        self.handled = max(self.handled, events[-1].offset)

    def failed(self, exception: BaseException) -> None:
        """An exception is handed to `error`."""
        self._record.errors.append(exception)
        if isinstance(exception, EventsExpiredError):
            self.handled = max(self.handled, exception.last)

    def answered(self, exception: BaseException, answer: object) -> None:
        """`error` has said what is to be done."""
        passed_by = answer in (ErrorAction.SKIP, ErrorAction.DEAD_LETTER)
        if passed_by and isinstance(exception, CorruptBatchError):
            self.handled = max(self.handled, exception.last_offset)


class _Observed:
    """Has the methods of a processor, as functions that observe them."""

    def __init__(self, observer: Observer, methods: Methods) -> None:
        self.process = _observed(observer, "process", methods.process, before=observer.got)
        error = methods.error or Method(_no_answer, is_async=True)
        self.error = _observed(
            observer,
            "error",
            error,
            before=lambda exception, _: observer.failed(exception),
            after=lambda answer, exception, _: observer.answered(exception, answer),
        )
        if methods.open:
            self.open = _observed(observer, "open", methods.open)
        if methods.idle:
            self.idle = _observed(observer, "idle", methods.idle)
        if methods.close:
            self.close = _observed(observer, "close", methods.close)


def _observed(
    observer: Observer,
    name: str,
    method: Method,
    *,
    before: Callable[..., object] | None = None,
    after: Callable[..., object] | None = None,
) -> Callable[..., Any]:
    """A method that tells of itself; `before` gets its arguments, `after` what it returns too."""

    async def call(context: Any, *arguments: Any) -> Any:
        with observer.calling(name, is_async=True):
            if before:
                before(*arguments)
            answer = await method.function(context, *arguments)
            if after:
                after(answer, *arguments)
            return answer

    def call_plain(context: Any, *arguments: Any) -> Any:
        with observer.calling(name, is_async=False):
            if before:
                before(*arguments)
            answer = method.function(context, *arguments)
            if after:
                after(answer, *arguments)
            return answer

    return call if method.is_async else call_plain


async def _no_answer(context: Any, exception: BaseException, events: list[StoredEvent]) -> None:
    """`error` of a processor that has none."""


class ObservedCheckpoint(PartitionCheckpoint):
    """Notes where it comes to stand.

    Args:
        checkpoints: gets the offsets.
    """

    def __init__(self, *arguments: Any, checkpoints: list[int], clock: Callable[[], int]) -> None:
        super().__init__(*arguments, clock=clock)
        self._checkpoints = checkpoints

    def stand(self, stored: Any, etag: str) -> None:
        """See `PartitionCheckpoint.stand`."""
        before = self._stored
        super().stand(stored, etag)
        if before is not None and before.reset == stored.reset and stored.offset > before.offset:
            self._checkpoints.append(stored.offset)
