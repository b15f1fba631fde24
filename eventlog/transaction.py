"""The contract of transactions: appends and checkpoints that stand or fall together."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import anyio
import anyio.to_thread

from eventlog.errors import ClosedError, PreconditionFailedError

if TYPE_CHECKING:
    from eventlog.blobs import BlobStore
    from eventlog.event import Event, Key, PropertyValue
    from eventlog.log import Body, Receipt, Topic

__all__ = ["Fence", "NotCommittedError", "Participant", "Transaction"]


class NotCommittedError(PreconditionFailedError):
    """Others came before a commit with checkpoints: nothing was stored. Try again."""


class Fence(Protocol):
    """What a reader adds to a transaction: its own checkpoints, if it still may write them."""

    def check(self, blobs: BlobStore) -> None:
        """Look at the log's own store, and write to it, inside the commit.

        What it raises undoes the transaction. It may be called more than once, in any thread, and
        must not wait for anything.
        """

    def committed(self) -> None:
        """What the last `check` wrote is durable."""


class Participant(Protocol):
    """A reader that takes part in a transaction."""

    def fence(self) -> Fence:
        """Its checkpoints, when the block has ended."""

    def failed(self) -> None:
        """Nothing was stored. May block."""


class Transaction(abc.ABC):
    """Collects appends and checkpoints, and commits them together when its block ends.

    Made by `EventLog.transaction`; used with ``with`` or ``async with``. Until the block ends it
    only collects, and holds up nobody, however long that takes; nothing is stored if the block
    raises. What it was given is checked when it commits: then all of it is stored or, with an
    error, nothing.

    Attributes:
        entered: whether its block was begun.
    """

    def __init__(self) -> None:
        self.entered = False
        self._mutex = threading.Lock()
        self._ended = False
        self._receipts: list[Receipt] = []
        self._participants: list[Participant] = []
        self._store: BlobStore | None = None

    @abc.abstractmethod
    def append(
        self,
        topic: str | Topic,
        body: Body,
        *,
        key: Key | None = None,
        properties: Mapping[str, PropertyValue] | None = None,
        partition: int | None = None,
        expect_next: int | None = None,
    ) -> None:
        """Append one event to a topic of the log, given by name or itself; see `Topic.append`.

        Raises:
            TopicNotFoundError, TypeError, ValueError: at once.
            EventLogError: what depends on the log, when the transaction commits.
        """

    @abc.abstractmethod
    def append_batch(
        self,
        topic: str | Topic,
        events: Iterable[Event | Body],
        *,
        key: Key | None = None,
        partition: int | None = None,
    ) -> None:
        """Append several; see `Topic.append_batch`."""

    @abc.abstractmethod
    def checkpoint(self, topic: str | Topic, group: str, *, partition: int, offset: int) -> None:
        """Note that a group has finished the event at `offset`; its group goes on behind it.

        At the offset where the checkpoint stands already nothing changes. When the transaction
        commits, a checkpoint further back is an `UnexpectedOffsetError`, and one in a partition
        that a host owns a `LeaseLostError`.
        """

    @abc.abstractmethod
    def _commit(self) -> list[Receipt]:
        """Store everything; the receipts of the appends in their order."""

    def attach(self, participant: Participant, store: BlobStore | None = None) -> None:
        """Have a reader's checkpoints join.

        Args:
            store: where they are, if not in the log's own: see `EventLog.joins_transactions`.
        """
        with self._mutex:
            self._check_open()
            self._participants.append(participant)
            self._store = store or self._store

    @property
    def receipts(self) -> list[Receipt]:
        """Receipts of the appends in the order they were made, once it is committed."""
        return list(self._receipts)

    def _check_open(self) -> None:
        if self._ended:
            raise ClosedError("the transaction has ended")

    def _end(self) -> None:
        with self._mutex:
            self._check_open()
            self._ended = True

    def _finish(self) -> None:
        try:
            self._receipts = self._commit()
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        for participant in self._participants:
            participant.failed()

    def __enter__(self) -> Self:
        self._check_open()
        self.entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if error is None:
            self._finish()
        else:
            self._give_up()

    async def __aenter__(self) -> Self:
        self._check_open()
        self.entered = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()
        if error is None:
            await _outlasting(self._finish)
        elif self._participants:
            await _outlasting(self._give_up)


async def _outlasting(do: Callable[[], None]) -> None:
    """Run what blocks in a thread, and go on only when it has ended, even if cancelled.

    In a task of its own: asyncio's own cancelling pierces what is shielded, but not a group that
    waits for its tasks. So nobody processes anew what may be stored in the same moment.
    """
    failure: BaseException | None = None

    async def run() -> None:
        nonlocal failure
        with anyio.CancelScope(shield=True):
            try:
                await anyio.to_thread.run_sync(do)
            except BaseException as error:  # noqa: BLE001 - raised below, not in a group
                failure = error

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
    if failure is not None:
        try:
            raise failure
        finally:
            failure = None  # it has this frame now
