"""One processor at work: its calls, one at a time, on the event loop or in its thread.

Invariants:

1. One method of a processor runs at a time. One that was left behind in a thread is the last to
   run, but for `close` behind it in the same thread.
2. Whatever a method raises is an answer, never an error of whoever calls it: so are exceptions that
   are none (`SystemExit`), and a cancellation that nobody asked for.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio

from eventlog.errors import LeaseLostError, StoreUnavailableError
from eventlog.processor.context import BlockingPartitionContext, PartitionContext
from eventlog.processor.hold import Hold, Place, Site
from eventlog.processor.processor import NOTHING, CloseReason, Method, Methods
from eventlog.processor.threads import HandlerThread
from eventlog.waiting import Completion, current_notifier

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["Answer", "Session"]

_logger: Final = logging.getLogger("eventlog")


class Answer(NamedTuple):
    """What came of a call.

    Attributes:
        value: what was returned.
        error: what was raised.
        given_up: whether it was not waited for.
    """

    value: Any = None
    error: BaseException | None = None
    given_up: bool = False


class _Call:
    """A call that runs.

    Attributes:
        scope: what it is awaited in.
        timer: what its time is taken in.
        overdue: whether it has taken longer than it may.
        trouble: with the store, that kept it from being done in time.
    """

    def __init__(self, method: Method) -> None:
        self.is_async = method.is_async
        self.scope = anyio.CancelScope()
        self.timer = anyio.CancelScope()
        self.overdue = False
        self.trouble: StoreUnavailableError | None = None

    def late(self, message: str, error: BaseException | None = None) -> TimeoutError:
        """That it took too long; and what it has raised then."""
        late = TimeoutError(message)
        late.__cause__ = self.trouble or error
        late.__context__ = error
        return late


class Session:
    """A processor, from `open` to `close`. Made and used on one event loop.

    Args:
        processor: made by the user's factory.
        finished: where the checkpoint is.
        on_end: called on the event loop when the hold ends.
        on_overdue: called when a plain function has run for longer than it may.

    Attributes:
        hold: what it may do to the partition.
        abandoned: whether one of its plain functions was left behind and may still run.

    Raises:
        TypeError: it is no processor.
    """

    def __init__(
        self,
        site: Site,
        processor: Any,
        finished: Place,
        tasks: TaskGroup,
        *,
        on_end: Callable[[], object],
        on_overdue: Callable[[float], object],
    ) -> None:
        self.methods: Final = Methods(processor)
        self.hold: Final = Hold(site, finished, self._hold_ended)
        self.abandoned = False
        self._site = site
        self._tasks = tasks
        self._on_end = on_end
        self._on_overdue = on_overdue
        self._notify = current_notifier()
        self._lost = anyio.Event()
        self._lost_in_threads = threading.Event()
        self._context = PartitionContext(self.hold, self._lost)
        self._blocking_context = BlockingPartitionContext(self.hold, self._lost_in_threads)
        self._thread = HandlerThread(f"eventlog-{site.topic.name}-{site.partition}")
        self._call: _Call | None = None

    # What runs now

    @property
    def in_thread(self) -> bool:
        """Whether a plain function runs now: it cannot be interrupted."""
        return self.abandoned or (self._call is not None and not self._call.is_async)

    @property
    def is_overdue(self) -> bool:
        """Whether a plain function has run for longer than it may."""
        return self._call is not None and self._call.overdue and not self._call.is_async

    def give_up(self) -> None:
        """Cancel what runs, if it is a coroutine; wait no longer for a plain function."""
        if self._call is not None:
            self._call.scope.cancel()

    def lose(self) -> None:
        """The partition is not this owner's any more: whatever the processor tries is refused."""
        self.hold.lose(LeaseLostError(f"{self._site} is not this host's any more"))
        self._lost.set()  # at once: a handler that is cancelled next can see why

    @property
    def thread_ended(self) -> Completion[None]:
        """Done when no plain function of it runs any more, nor will."""
        return self._thread.ended

    def end(self) -> None:
        """No method is called any more, and its contexts are of no use."""
        self.hold.end()
        self._thread.end()

    # Calling

    async def call(self, method: Method | None, *arguments: Any, limit: float | None) -> Answer:
        """Call a method; nothing if there is none.

        Args:
            limit: seconds after which a coroutine is cancelled, and a plain function overdue.
        """
        if method is None:
            return Answer()
        call = self._call = _Call(method)
        self.hold.trouble = None
        if limit is not None:
            self._tasks.start_soon(self._time, call, limit, self._site.clock.now())
        try:
            with call.scope:
                return await self._answer(call, method, arguments)
        finally:
            call.timer.cancel()
            self._call = None
        if call.overdue and call.is_async:
            return Answer(error=call.late(f"not done within {limit:g} s"))
        if not call.is_async:
            # At once: whoever goes on here changes what a checkpoint would mean to what was left
            # behind, which may be about to make one.
            self.hold.end()
            self.abandoned = True
        return Answer(given_up=True)

    async def _answer(self, call: _Call, method: Method, arguments: tuple[Any, ...]) -> Answer:
        try:
            if method.is_async:
                return Answer(await method.function(self._context, *arguments))
            return Answer(await self._in_thread(method, arguments))
        except GeneratorExit:
            raise  # the event loop itself was thrown away
        except anyio.get_cancelled_exc_class() as error:
            # Whoever is awaited in a handler may have been cancelled, which is not to cancel us.
            if anyio.current_effective_deadline() == -math.inf:
                raise
            return Answer(error=error)
        except BaseException as error:  # noqa: BLE001 - it is the answer
            if call.overdue and call.is_async:
                what = "it raised when it was cancelled, since it took too long"
                return Answer(error=call.late(what, error))
            return Answer(error=error)

    async def _in_thread(self, method: Method, arguments: tuple[Any, ...]) -> Any:
        do = functools.partial(method.function, self._blocking_context, *arguments)
        value = await self._thread.call(do)
        if value is NOTHING:
            return None
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise TypeError(
                f"{method.function!r:.200} is a plain function and has returned an awaitable: "
                "write it with async def"
            )
        return value

    async def _time(self, call: _Call, limit: float, began: float) -> None:
        clock = self._site.clock
        with call.timer:
            await clock.sleep(max(began + limit - clock.now(), 0))
            call.overdue = True
            if call.is_async:
                call.trouble = self.hold.trouble
                if self.hold.waits:
                    call.trouble = StoreUnavailableError(f"{self._site}: its store was waited for")
                call.scope.cancel()
            else:
                self._on_overdue(limit)

    def close_behind(self, reason: CloseReason) -> None:
        """Have `close` called behind the function that was left behind, if it is plain too."""
        close = self.methods.close
        if close is None or close.is_async:
            return
        do = functools.partial(close.function, self._blocking_context, reason)
        self._thread.call(do).add_done_callback(
            lambda done: _log_late(self._site, done.exception())
        )

    # The hold

    def _hold_ended(self) -> None:
        """In any thread."""
        if self.hold.lost is not None:
            self._lost_in_threads.set()
        self._notify(self._note_end)

    def _note_end(self) -> None:
        if self.hold.lost is not None:
            self._lost.set()
        self._on_end()


def _log_late(site: Site, error: BaseException | None) -> None:
    if error is not None:
        _logger.error("%s: closing it failed", site, exc_info=error)
