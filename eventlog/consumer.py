"""Reading on and on: following a topic, its partitions merged, and checkpoints for a group.

Invariants:

1. Events of a partition come in order, each once, unless the consumer is moved (`Consumer.seek`, a
   reset of the group). None is left out but what has expired, which is reported.
2. What was handed out is what counts for `Consumer.positions` and `Consumer.checkpoint`; what was
   only read ahead never does. A call that was cancelled has handed out nothing.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from operator import length_hint
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self

import anyio
import anyio.lowlevel

from eventlog.callbacks import Callback, Caller
from eventlog.checks import check_count, seconds
from eventlog.consuming.claims import Claims, ClaimsFence, Yielded, was_moved
from eventlog.consuming.reader import Reader
from eventlog.consuming.readership import Readership
from eventlog.consuming.reading import Reading
from eventlog.consuming.scope import Scope, check_range
from eventlog.consuming.source import LostRange, Source
from eventlog.errors import ClosedError, PreconditionFailedError, UnsupportedOperationError
from eventlog.event import StoredEvent
from eventlog.positions import EARLIEST, Position, PositionMap, instant, parse
from eventlog.waiting import Completion, run_soon

if TYPE_CHECKING:
    from eventlog.groups.checkpoints import GroupStore
    from eventlog.log import Duration
    from eventlog.transaction import Transaction

__all__ = ["Batches", "Consumer", "LostRange", "Source"]

_logger: Final = logging.getLogger("eventlog")


class Consumer:
    """Reads the events of a topic. Made by `Topic.consumer`; use it with ``with``, or close it.

    Iterate over it with ``for`` or ``async for``, or over its `batches`. Iteration ends at the end
    that was asked for, when nothing came for `max_wait`, or when the consumer is closed. After
    `max_wait`, and after an error, it can be iterated again and goes on where it was.

    One thread, or one task, iterates. Others may call `close`, `lag` and `positions`.

    Iterating raises:
        OffsetOutOfRangeError: an offset to begin at is not there.
        CorruptBatchError: the next events are damaged; `seek` goes on behind them.
        ConsumerDisconnectedError: another consumer, or a host, reads for the group now.
        PartitionNotFoundError, TopicNotFoundError: there is none, or none any more.
        ClosedError: the log was closed, or the consumer before iteration began.
    """

    def __init__(
        self,
        source: Source,
        *,
        partitions: int | Iterable[int] | None = None,
        start: Position | PositionMap = EARLIEST,
        end: Position | PositionMap | None = None,
        follow: bool | None = None,
        group: GroupStore | None = None,
        order: Literal["partition", "time"] = "partition",
        max_wait: Duration | None = None,
        prefetch_bytes: int = 8 * 2**20,
        on_lost: Callback[LostRange] | None = None,
        readership: Readership | None = None,
    ) -> None:
        if order not in ("partition", "time"):
            raise ValueError(f"order is 'partition' or 'time', not {order!r:.80}")
        prefetch = check_count(prefetch_bytes, "prefetch_bytes", 2**40)
        self._source = source
        self._caller = Caller(on_lost)
        self._lost_events = 0
        readership = Readership() if readership is None else readership
        self._claims = None if group is None else Claims(group, readership.claimed)
        self._reader = Reader(source.name, by_time=order == "time", prefetch_bytes=prefetch)
        self._reading = Reading(
            source,
            Scope(partitions, start, end, follow, source.now_us()),
            self._claims,
            self._reader,
            readership,
            max_wait=None if max_wait is None else seconds(max_wait, "max_wait"),
            report=self._report,
        )
        self._asynchronous = False
        self._under_way: list[Completion[None]] = []
        self._participant: _InTransaction | None = None
        readership.add(self)

    def __repr__(self) -> str:
        return f"<Consumer of topic {self._source.name!r}>"

    def _report(self, lost: LostRange) -> None:
        self._lost_events += lost.events
        _logger.warning(
            "topic %r, partition %d: events %d to %d expired before they were read",
            self._source.name,
            lost.partition,
            lost.first,
            lost.last,
        )
        self._caller.call(lost)

    # Iterating

    def __iter__(self) -> Iterator[StoredEvent]:
        # Events come out of a list at C's speed; `_following` is called once for each list.
        self._refuse_closed()
        return itertools.chain.from_iterable(iter(self._following, None))

    def _following(self) -> Iterator[StoredEvent] | None:
        """The next events, or what raises the error; None at the end.

        An error that came out of here would end the iterator for good.
        """
        try:
            return self._advance()
        except BaseException as error:  # noqa: BLE001 - it is raised by what is returned
            return map(_raise, [error])

    def __next__(self) -> StoredEvent:
        for event in self._reader.current.iterator:
            return event
        self._refuse_closed()
        while (events := self._advance()) is not None:
            for event in events:
                return event
        raise StopIteration

    def __aiter__(self) -> AsyncEvents:
        self._refuse_closed()
        return AsyncEvents(self._advance_async)

    async def __anext__(self) -> StoredEvent:
        for event in self._reader.current.iterator:
            return event
        self._refuse_closed()
        return await AsyncEvents(self._advance_async).__anext__()

    def batches(self) -> Batches:
        """Iterates lists of events, with ``for`` or ``async for``; none is empty.

        By partition each is of one partition; by time of several. All of the list that was got
        last counts as handed out.
        """
        self._refuse_closed()
        return Batches(self._batch, self._batch_async)

    def _batch(self) -> list[StoredEvent] | None:
        while self._advance() is not None:
            if batch := self._reader.whole():
                return batch
        return None

    async def _batch_async(self) -> list[StoredEvent] | None:
        while await self._advance_async() is not None:
            if batch := self._reader.whole():
                return batch
        return None

    def _advance(self) -> Iterator[StoredEvent] | None:
        """What is left to hand out, or else what comes next; None when iteration ends."""
        if length_hint(self._reader.current.iterator):
            return self._reader.current.iterator
        steps = self._reading.steps()
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return self._reader.current.iterator if end.value else None
            answer = step.run()

    async def _advance_async(self) -> Iterator[StoredEvent] | None:
        """`_advance` on an event loop. Once events were taken nothing is awaited any more."""
        self._use_current_loop()
        await anyio.lowlevel.checkpoint()
        if length_hint(self._reader.current.iterator):
            return self._reader.current.iterator
        steps = self._reading.steps()
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return self._reader.current.iterator if end.value else None
            answer = await step.run_async()

    # Positions

    @property
    def positions(self) -> dict[int, int]:
        """By partition, the offset of the next event that is handed out."""
        self._reading.begin()
        return self._reader.positions()

    def position(self, partition: int) -> int:
        """That of one partition.

        Raises:
            PartitionNotFoundError: it is not read here.
        """
        self._reading.begin()
        return self._reader.positions()[self._reader.check_partition(partition)]

    @property
    def lost_events(self) -> int:
        """How many events expired before they were read."""
        return self._lost_events

    def lag(self) -> dict[int, int]:
        """By partition, how many events there are now that were not handed out."""
        self._refuse_closed()
        positions = self.positions
        spans = self._source.resolve(dict.fromkeys(positions, EARLIEST), {})
        return {number: spans[number].next_offset - at for number, at in positions.items()}

    def seek(self, partition: int, position: Position) -> None:
        """Go on elsewhere in a partition; for whoever iterates.

        Raises:
            OffsetOutOfRangeError: there is no such offset.
            PartitionNotFoundError: the partition is not read here.
        """
        self._refuse_closed()
        parsed = parse(position, self._source.now_us())
        self._reading.begin()
        self._reader.check_partition(partition)
        span = self._source.resolve({partition: parsed}, {})[partition]
        check_range(self._source, partition, span)
        self._reader.seek(partition, span.start)

    # For a group

    def checkpoint(self) -> Any:
        """Note for the group that all events handed out until now are finished.

        Used with ``async with`` or ``async for`` it does not block, and is to be awaited:
        ``await consumer.checkpoint()``.

        Raises:
            ConsumerDisconnectedError: another consumer, or a host, reads for the group now.
            PreconditionFailedError: a `transaction` has not ended, or was interrupted.
            UnsupportedOperationError: the consumer reads for no group.
        """
        self._refuse_closed()
        claims = self.claims
        self._refuse_unfinished()
        yielded = self.yielded()
        completion = self._finish(lambda: claims.advance(yielded))
        self._under_way = [one for one in self._under_way if not one.done] + [completion]
        return completion

    @property
    def claims(self) -> Claims:
        """What it holds of its group.

        Raises:
            UnsupportedOperationError: it reads for no group.
        """
        if self._claims is None:
            raise UnsupportedOperationError(
                f"the consumer of topic {self._source.name!r} reads for no group: give it one"
            )
        return self._claims

    @property
    def held(self) -> Claims | None:
        """The same, or None if it reads for no group."""
        return self._claims

    def yielded(self) -> list[Yielded]:
        """What a checkpoint would note. Does not block; see also `Claims.note`."""
        claims = self.claims
        self._reading.follow_resets()
        return [
            Yielded(number, last.offset, instant(last.enqueued_us), claims.era(number))
            for number, last in self._reader.finished().items()
            if last.offset > claims.offset(number)
        ]

    def transaction(self) -> Transaction:
        """A transaction that also checkpoints what was handed out when its block ends.

        What is made of the events and the checkpoint behind them are stored together or not at
        all, and not if the consumer was disconnected: each event is processed exactly once. ::

            for events in consumer.batches():
                with consumer.transaction() as tx:
                    tx.append_batch("alerts", judged(events))

        If it fails, or its block raises, the consumer goes back to the checkpoint: what was handed
        out behind it is handed out again, to whoever goes on iterating. There is one at a time.

        Raises:
            UnsupportedOperationError: the consumer reads for no group, or for one that keeps its
                checkpoints elsewhere than in the log.
            PreconditionFailedError: the group was reset, or the last transaction was interrupted
                (Ctrl-C) before it knew what became of it; iterating goes on there.
        """
        self._refuse_closed()
        claims = self.claims
        self._refuse_unfinished()
        participant = _InTransaction(self, self._reading, claims)
        transaction = self._source.transaction()
        transaction.attach(participant)
        participant.transaction = transaction
        self._participant = participant
        return transaction

    def _refuse_unfinished(self) -> None:
        """What the last transaction was for is not finished, unless that was committed or has gone
        back. Ctrl-C may come before it could do either: then this does.
        """
        participant = self._participant
        if participant is None or not participant.is_begun:
            return
        participant.failed()
        if participant.goes_back:
            raise PreconditionFailedError(
                f"a transaction of the consumer of topic {self._source.name!r} has not ended, or "
                "was interrupted: nothing of this was stored, and the consumer goes on behind the "
                "checkpoint"
            )

    # The end

    def close(self) -> Any:
        """Stop; whoever waits in it stops at once. Thread-safe; closing twice is fine.

        Used with ``async with`` or ``async for`` it does not block, and may be awaited.
        """
        self._reading.stop()
        return self._finish(self._let_go)

    def _let_go(self) -> None:
        for checkpoint in self._under_way:
            checkpoint.exception()
        self._reading.let_go()

    def log_closed(self) -> None:
        """The log was closed: have iteration raise `ClosedError`, at once. Thread-safe."""
        self._reading.log_closed()

    def _refuse_closed(self) -> None:
        if self._reading.stopped:
            raise ClosedError(f"the consumer of topic {self._source.name!r} was closed")

    def _finish(self, do: Callable[[], None]) -> Completion[None]:
        if self._asynchronous:
            return run_soon(do)
        do()
        return Completion.of(None)

    def _use_current_loop(self) -> None:
        if not self._asynchronous:
            self._caller.use_current_loop()
            self._asynchronous = True

    def __enter__(self) -> Self:
        self._refuse_closed()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._refuse_closed()
        self._use_current_loop()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()


class _InTransaction:
    """A consumer's part in a transaction: what it has handed out, finished or to be done again.

    Attributes:
        transaction: until it is either.
        goes_back: whether there is anything to be done again.
    """

    def __init__(self, consumer: Consumer, reading: Reading, claims: Claims) -> None:
        self.transaction: Transaction | None = None
        self.goes_back = False
        self._consumer = consumer
        self._reading = reading
        self._claims = claims
        self._refuse_reset()
        self._eras = claims.eras()

    @property
    def is_begun(self) -> bool:
        """Whether its block was, and nobody knows yet what becomes of it."""
        return self.transaction is not None and self.transaction.entered

    def _refuse_reset(self) -> None:
        """What was handed out before a reset is not to be processed."""
        if self._reading.follow_resets():
            raise was_moved(f"topic {self._reading.topic!r}")

    def fence(self) -> ClaimsFence:
        """What was handed out is finished."""
        self._refuse_reset()
        eras = self._claims.eras().items()
        if any(era != self._eras.get(partition, 0) for partition, era in eras):
            raise was_moved(f"topic {self._reading.topic!r}")
        return ClaimsFence(self._claims, self._consumer.yielded(), self._committed)

    def _committed(self) -> None:
        self.transaction = None

    def failed(self) -> None:
        """It is not, and is handed out again. May be repeated."""
        yielded = self._consumer.yielded()
        self.goes_back = self.goes_back or bool(yielded)
        self._claims.go_back(yielded)
        self._reading.follow_resets()
        self.transaction = None


class Batches:
    """Lists of events, with ``for`` or ``async for``; see `Consumer.batches`."""

    def __init__(
        self,
        take: Callable[[], list[StoredEvent] | None],
        take_async: Callable[[], Awaitable[list[StoredEvent] | None]],
    ) -> None:
        self._take = take
        self._take_async = take_async

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[StoredEvent]:
        batch = self._take()
        if batch is None:
            raise StopIteration
        return batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[StoredEvent]:
        batch = await self._take_async()
        if batch is None:
            raise StopAsyncIteration
        return batch


class AsyncEvents:
    """One ``async for`` over the events of a `Consumer`."""

    def __init__(self, advance: Callable[[], Awaitable[Iterator[StoredEvent] | None]]) -> None:
        self._advance = advance
        self._events: Iterator[StoredEvent] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StoredEvent:
        for event in self._events:
            return event
        while (events := await self._advance()) is not None:
            self._events = events
            for event in events:
                return event
        raise StopAsyncIteration


def _raise(error: BaseException) -> NoReturn:
    try:
        raise error
    finally:
        del error  # which has this frame now
