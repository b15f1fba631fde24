"""`Topic.subscribe`: a balanced share of a topic as a loop over batches, without a class.

A host runs behind it, on an event loop in a thread of its own: so the loop over batches may be
plain or asynchronous, may take as long as it likes, and may be left with ``break``. Its handler
*offers* each batch, and stays with it until the next one is asked for: what is to be done with the
batch meanwhile, as checkpointing it, the handler does on the loop's behalf.

Batches come one at a time, of whatever partition has one; while one is out, every other partition
waits with its own.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, overload

import anyio

from eventlog.errors import LeaseLostError
from eventlog.processor.host import EventProcessorHost
from eventlog.waiting import Completion, Notifier, current_notifier

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.event import StoredEvent
    from eventlog.log import Topic
    from eventlog.processor.context import PartitionContext
    from eventlog.processor.options import ProcessorOptions
    from eventlog.transaction import Transaction

__all__ = ["Batch", "Batches", "Subscription"]


class _Request(NamedTuple):
    """What the loop wants done with a batch that is out."""

    do: Callable[[], Awaitable[Any]]
    done: Completion[Any]


class _Queue:
    """Hands things from one thread, or task, to another, in order."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._ready: deque[Any] = deque()
        self._takers: deque[Completion[Any]] = deque()

    def put(self, one: Any) -> None:
        """Hand it to who waits first, or to who comes next."""
        with self._mutex:
            taker = self._takers.popleft() if self._takers else None
            if taker is None:
                self._ready.append(one)
        if taker is not None:
            taker.complete(one)

    def take(self) -> Completion[Any]:
        """What was put first, when there is something."""
        taker: Completion[Any] = Completion()
        with self._mutex:
            if not self._ready:
                self._takers.append(taker)
                return taker
            one = self._ready.popleft()
        taker.complete(one)
        return taker


class Batch(Sequence["StoredEvent"]):
    """Events of one partition, one at least, in order. Made by iterating over a `Subscription`.

    Attributes:
        context: tells topic, group, partition, epoch, lag; see `PartitionContext`. What it can do
            is done by the methods here.
        events: the events.
        lost: whether the host has lost the partition; or the batch was dealt with.
    """

    def __init__(
        self, context: PartitionContext, events: list[StoredEvent], *, asynchronous: bool
    ) -> None:
        self.context: Final = context
        self.events: Final = events
        self._asynchronous = asynchronous
        self._requests = _Queue()
        self.lost = False

    def __repr__(self) -> str:
        first, last = self.events[0].offset, self.events[-1].offset
        return f"<Batch of partition {self.partition}, offsets {first} to {last}>"

    def __len__(self) -> int:
        return len(self.events)

    @overload
    def __getitem__(self, index: int) -> StoredEvent: ...

    @overload
    def __getitem__(self, index: slice) -> list[StoredEvent]: ...

    def __getitem__(self, index: int | slice) -> StoredEvent | list[StoredEvent]:
        return self.events[index]

    def __iter__(self) -> Iterator[StoredEvent]:
        return iter(self.events)

    @property
    def partition(self) -> int:
        """The number of its partition."""
        return self.context.partition

    def checkpoint(self, event: StoredEvent | None = None) -> Any:
        """Note that the group has finished all events up to this one; of the batch, without one.

        In ``async for`` it does not block, and is to be awaited.

        Raises:
            LeaseLostError: the partition is another host's by now.
        """
        return self._ask(lambda: self.context.checkpoint(event))

    def dead_letter(self, event: StoredEvent, reason: str) -> Any:
        """Put an event aside in the dead-letter topic; see `PartitionContext.dead_letter`."""
        return self._ask(lambda: self.context.dead_letter(event, reason))

    def transaction(self) -> Transaction:
        """A transaction that checkpoints the batch too; see `PartitionContext.transaction`."""
        return self.context.transaction()

    def _ask(self, do: Callable[[], Awaitable[Any]]) -> Any:
        request = _Request(do, Completion())
        self._requests.put(request)
        if self.lost:  # by now: then nobody may serve it
            request.done.fail(self._gone())
        if not self._asynchronous:
            request.done.result()
        return request.done

    # The handler's side

    def finish(self) -> None:
        """It was dealt with: the next one was asked for."""
        self._requests.put(None)

    async def serve(self) -> None:
        """Do what is asked for, until it was dealt with; in the handler."""
        try:
            while (request := await self._requests.take()) is not None:
                await self._serve(request)
        finally:
            self.lost = True
            while (left := self._requests.take()).done:
                if left.result() is not None:
                    left.result().done.fail(self._gone())

    async def _serve(self, request: _Request) -> None:
        try:
            request.done.complete(await request.do())
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            request.done.fail(error)
        except BaseException:
            request.done.fail(self._gone())
            raise

    def _gone(self) -> LeaseLostError:
        return LeaseLostError(
            f"partition {self.partition} of topic {self.context.topic!r} is not this host's any "
            "more, or the batch was dealt with"
        )


class _Run:
    """The host behind a subscription, in its thread. It knows nothing of who iterates: a loop that
    was left, and is forgotten, ends it.
    """

    def __init__(self, make_host: Callable[[Callable[..., Any]], EventProcessorHost]) -> None:
        self.asynchronous = False
        self.ended: Final[Completion[None]] = Completion()
        self.offers: Final = _Queue()
        self._host = make_host(self._offer)
        self._mutex = threading.Lock()
        self._cancelled = False
        self._thread: threading.Thread | None = None
        self._notify: Notifier | None = None
        self._scope: anyio.CancelScope | None = None

    def start(self) -> None:
        """Begin; once."""
        with self._mutex:
            if self._thread is not None or self._cancelled:
                raise RuntimeError("a subscription is for one loop")
            self._thread = threading.Thread(
                target=self._run, name="eventlog-subscription", daemon=True
            )
        self._thread.start()

    def cancel(self) -> None:
        """End, whatever is out. Does not wait."""
        with self._mutex:
            self._cancelled = True
            notify, scope = self._notify, self._scope
            began = self._thread is not None
        if notify is not None and scope is not None:
            notify(scope.cancel)
        if not began:
            self.ended.complete(None)

    def _run(self) -> None:
        try:
            anyio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - raised where the loop ends
            self.ended.fail(error)
        self.ended.complete(None)
        self.offers.put(None)

    async def _main(self) -> None:
        with anyio.CancelScope() as scope:
            with self._mutex:
                self._notify, self._scope = current_notifier(), scope
                if self._cancelled:
                    return
            await self._host.run()

    async def _offer(self, context: PartitionContext, events: list[StoredEvent]) -> None:
        batch = Batch(context, events, asynchronous=self.asynchronous)
        self.offers.put(batch)
        await batch.serve()


class Batches:
    """The loop over a `Subscription`. When it is forgotten, the host behind it ends."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._out: Batch | None = None
        self._started = False
        self._coming: Completion[Batch | None] | None = None
        weakref.finalize(self, run.cancel).atexit = False

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        while (batch := self._next_offer().result()) is not None:
            if self._is_out(batch):
                return batch
        self._run.ended.result()
        raise StopIteration

    async def __anext__(self) -> Batch:
        while (batch := await self._next_offer()) is not None:
            if self._is_out(batch):
                return batch
        await self._run.ended
        raise StopAsyncIteration

    def _next_offer(self) -> Completion[Batch | None]:
        """The last one was dealt with. Whoever was cancelled while it waited, waits on for the same
        one when it comes back.
        """
        if not self._started:
            self._started = True
            self._run.start()
        if self._out is not None:
            self._out.finish()
            self._out = None
        if self._coming is None:
            self._coming = self._run.offers.take()
        return self._coming

    def _is_out(self, batch: Batch) -> bool:
        """Whether it can be handed out: not if it was lost while it waited."""
        self._coming = None
        if batch.lost:
            return False
        self._out = batch
        return True


class Subscription:
    """Batches of a balanced share of a topic, with ``for`` or ``async for``.

    Made by `Topic.subscribe`. It begins with iteration, and is for one loop. Asking for the next
    batch says that the last one was dealt with. It ends when the loop is left, or by `close`; used
    with ``with`` or ``async with`` it has given its partitions away when the block has ended. What
    was not checkpointed goes to another host, or comes again.
    """

    def __init__(
        self,
        topic: Topic,
        *,
        group: str,
        store: BlobStore | str | None,
        host_name: str | None,
        options: ProcessorOptions,
    ) -> None:
        def make_host(offer: Callable[..., Any]) -> EventProcessorHost:
            return EventProcessorHost(
                topic,
                group=group,
                handler=offer,
                store=store,
                host_name=host_name,
                options=options,
            )

        self._of = f"group {group!r}, topic {topic.name!r}"
        self._run = _Run(make_host)

    def __repr__(self) -> str:
        return f"<Subscription of {self._of}>"

    def __iter__(self) -> Batches:
        return Batches(self._run)

    def __aiter__(self) -> Batches:
        self._run.asynchronous = True
        return Batches(self._run)

    def close(self) -> Any:
        """End: whoever waits for a batch gets none. Thread-safe; closing twice is fine.

        Blocks until the partitions are given away; in ``async with`` and ``async for`` it does not,
        and is to be awaited.
        """
        self._run.cancel()
        if not self._run.asynchronous:
            self._run.ended.exception()
        return self._run.ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._run.asynchronous = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True), contextlib.suppress(Exception):
            await self.close()
