"""Group commit: many callers, one durable write.

A caller hands in a function of a `Writer` and waits. The first to come becomes the *leader*: it
takes all that has queued up, runs it in one LMDB transaction and commits. Who arrives meanwhile
shares the next commit. A lone caller leads itself and never changes threads.

When something is durable. LMDB commits in two steps: data pages and a flush, then the meta page.
With ``metasync=False`` the meta page is written without a flush of its own, so commit N may be
acknowledged as soon as *any* flush begun after it has ended:

* the data flush of commit N + 1, if there is work for one: one flush then serves two commits;
* otherwise one made for it alone.

What a power cut leaves meanwhile is commit N - 1 or N, each whole: the data of N was flushed
before its meta page was written, and N + 1 overwrites no page that N - 1 or N can see, nor (until
its own flush has ended) the meta page of N. A killed process loses nothing that was committed.

Invariants:

1. One leader at a time; a leader that leaves with work left names the next.
2. A transaction begins and ends on one thread: from another, LMDB says nothing and every later
   writer hangs.
3. A ticket is settled once: its outcome is set, and its caller woken, after its commit became
   durable or was given up.
4. Whatever interrupts the leader (Ctrl-C), the others' work is committed once, by someone.

For 4, state changes in steps that a signal handler cannot come between: CPython runs handlers
after calls and jumps back, never between two plain stores.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import lmdb

from eventlog.embedded.writer import Tails, Writer
from eventlog.errors import ClosedError, EventLogError, LogBusyError, LogFullError

if TYPE_CHECKING:
    from eventlog.embedded.storage import Environment

__all__ = ["Committer", "Work"]

T = TypeVar("T")

Work = Callable[[Writer], T]
"""Runs inside the write transaction, possibly twice (after a commit that failed for another's
sake). Must refuse before its first change, and must not wait, log or call users' code."""

MAX_COMMIT_BYTES: Final = 64 * 1024 * 1024
"""Bytes that are put into one commit, unless a single caller's are more."""

_RESERVE_PAGES: Final = range(64, 1024)

_AMPLE_PAGES: Final = 2**22
_AMPLE_SECONDS: Final = 1.0
"""With so much room nobody looks again for a second: no disk fills 16 GiB in one."""


class _Ticket(Generic[T]):
    """One caller's work, and its outcome."""

    __slots__ = (
        "bytes",
        "deserted",
        "error",
        "exclusive",
        "group",
        "lead",
        "result",
        "settled",
        "signal",
        "work",
    )

    def __init__(self, work: Work[T] | None, size: int, exclusive: Callable[[], T] | None) -> None:
        self.work = work
        self.exclusive = exclusive
        self.bytes = size
        self.signal = threading.Lock()
        self.signal.acquire()
        self.lead = False  # it falls to its caller to lead
        self.deserted = False  # its caller was interrupted and will not come back for it
        self.group: _Group | None = None
        self.settled = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def settle(self, error: BaseException | None = None) -> None:
        """Wake the caller: the outcome stands."""
        if not self.settled:
            self.error = error or self.error
            self.settled = True
            self.signal.release()

    @property
    def committed(self) -> bool:
        """Whether its work is done and cannot be taken back."""
        return self.group is not None and self.group.committed

    def outcome(self) -> T:
        """The work's result, or its error."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class _Group:
    """The tickets of one transaction; one store says that all of them are committed."""

    __slots__ = ("committed", "tickets")

    def __init__(self, tickets: list[_Ticket[Any]]) -> None:
        self.tickets = tickets
        self.committed = False
        for ticket in tickets:
            ticket.group = self


class Committer:
    """Runs callers' work in write transactions of one environment, many at a time."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._mutex = threading.Lock()
        self._idle = threading.Condition(self._mutex)
        self._queue: deque[_Ticket[Any]] = deque()
        self._unflushed: list[_Ticket[Any]] = []
        self._leading = False
        self._refusal: EventLogError | None = None
        self._tails = Tails()
        self._room_known_until = 0.0

    def run(self, work: Work[T], *, timeout: float, size: int = 0) -> T:
        """Run `work` in a write transaction; return what it returned once that is durable.

        Args:
            work: see `Work`.
            timeout: seconds to wait for other writers.
            size: about how many bytes it writes.

        Raises:
            LogBusyError: others kept the log for `timeout` seconds; nothing was stored.
            LogFullError: no room; nothing was stored.
            Exception: what `work` raised.
        """
        return self._submit(_Ticket(work, size, None), timeout)

    def run_alone(self, do: Callable[[], T], *, timeout: float) -> T:
        """Run `do` outside any transaction while no process can write."""
        return self._submit(_Ticket(None, 0, do), timeout)

    def refuse(self, error: EventLogError) -> None:
        """Let nobody write through this committer any more."""
        self._refusal = error

    def close(self) -> None:
        """Take no more work, and wait until what was accepted is done."""
        with self._mutex:
            self._refusal = ClosedError(f"the log at {self._environment.directory} was closed")
            while self._leading:
                self._idle.wait()

    def _submit(self, ticket: _Ticket[T], timeout: float) -> T:
        deadline = time.monotonic() + timeout
        with self._mutex:
            if self._refusal is not None:
                raise type(self._refusal)(*self._refusal.args)
            self._queue.append(ticket)
            lead = not self._leading
            self._leading = True
        if not lead:
            self._wait(ticket, deadline)  # settled, or to lead
        if not ticket.settled:
            self._lead(ticket, deadline)
        return ticket.outcome()

    # Waiting

    def _wait(self, ticket: _Ticket[Any], deadline: float) -> None:
        """Until `ticket` is settled, or it falls to its caller to lead."""
        try:
            wait = min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
            if ticket.signal.acquire(timeout=wait):
                return
            with self._mutex:
                if ticket in self._queue and not ticket.lead:
                    self._queue.remove(ticket)
                    raise self._busy()
            # It is being committed: that cannot be taken back, and ends soon.
            ticket.signal.acquire()
        except LogBusyError:
            raise
        except BaseException:
            self._desert(ticket)
            raise

    def _busy(self) -> LogBusyError:
        lock = self._environment.process_lock
        holder = lock.holder() if lock is not None else None
        who = "this process" if holder is None else f"process {holder}"
        return LogBusyError(
            f"{who} kept the log at {self._environment.directory} locked", holder=holder
        )

    def _desert(self, ticket: _Ticket[Any]) -> None:
        """Its caller was interrupted (Ctrl-C): withdraw what is not committed yet."""
        with self._mutex:
            ticket.deserted = True
            if ticket in self._queue:
                self._queue.remove(ticket)
            was_to_lead = ticket.lead
        if was_to_lead:
            self._pass_on()

    # Leading

    def _lead(self, own: _Ticket[Any], deadline: float) -> None:
        """Commit what is queued until `own` is settled; then let another go on."""
        own.lead = False
        try:
            while not own.settled:
                self._step(0.0 if own.committed else deadline)
        except LogBusyError as error:
            self._give_up(own, error)
        except BaseException:
            self._desert(own)
            raise
        finally:
            self._pass_on()

    def _step(self, deadline: float) -> None:
        """One commit, or a flush where there is nothing to commit.

        Work is taken only once the log is ours, so that callers who wait for another process can
        give up in time, and late ones still join.
        """
        if not self._queue:
            self._flush()
            return
        self._acquire(deadline)
        group = self._take()
        try:
            if group.tickets:
                if group.tickets[0].exclusive is not None:
                    self._run_exclusive(group)
                else:
                    self._commit(group)
        except BaseException:
            self._recover(group)
            raise
        finally:
            self._release()

    def _recover(self, group: _Group) -> None:
        """The leader was interrupted: put every ticket where the next leader looks for it."""
        with self._mutex:
            for ticket in reversed(group.tickets):
                if ticket.settled or ticket in self._unflushed:
                    continue
                if ticket.committed:
                    self._unflushed.append(ticket)
                elif not ticket.deserted:
                    self._queue.appendleft(ticket)

    def _take(self) -> _Group:
        """What the next commit is made of: all that waits, up to a size."""
        taken: list[_Ticket[Any]] = []
        size = 0
        with self._mutex:
            while self._queue and size < MAX_COMMIT_BYTES:
                if self._queue[0].exclusive is not None and taken:
                    break
                ticket = self._queue.popleft()
                taken.append(ticket)
                size += ticket.bytes
                if ticket.exclusive is not None:
                    break
        return _Group(taken)

    def _give_up(self, own: _Ticket[Any], error: LogBusyError) -> None:
        """The leader has waited long enough for another process; who came later may wait on."""
        if own.committed:
            self._flush()
            return
        with self._mutex:
            self._queue.remove(own)
        own.settle(error)

    def _pass_on(self) -> None:
        """Stop leading: another whose work is not settled goes on, if there is one."""
        with self._mutex:
            for ticket in (*self._unflushed, *self._queue):
                if not (ticket.settled or ticket.deserted):
                    ticket.lead = True
                    ticket.signal.release()
                    return
            self._unflushed.clear()
            self._leading = False
            self._idle.notify_all()

    def _acquire(self, deadline: float) -> None:
        environment = self._environment
        lock = environment.process_lock
        if lock is None:
            raise ClosedError(f"the log at {environment.directory} was closed")
        lock.acquire(max(deadline - time.monotonic(), 0))
        try:
            while True:
                environment.gate.enter()
                if environment.current():
                    return
                environment.gate.leave()
                environment.reopen()
        except BaseException:
            lock.release()
            raise

    def _release(self) -> None:
        self._environment.gate.leave()
        assert self._environment.process_lock is not None
        self._environment.process_lock.release()

    def _run_exclusive(self, group: _Group) -> None:
        """Everyone is kept out by the process lock; the gate is left, since `do` may close it."""
        (ticket,) = group.tickets
        self._flush()
        self._environment.gate.leave()
        try:
            assert ticket.exclusive is not None
            ticket.result = ticket.exclusive()
        except Exception as error:  # noqa: BLE001 - it is the caller's, and raised there
            ticket.error = error
        finally:
            self._environment.gate.enter()
        group.committed = True
        ticket.settle()

    def _commit(self, group: _Group) -> None:
        """Commit a group together or, where that fails for one's sake, one by one."""
        try:
            self._transact(group)
        except Exception as error:  # noqa: BLE001 - it is the callers', and raised there
            if len(group.tickets) == 1:
                group.tickets[0].settle(error)
                return
            for ticket in group.tickets:
                self._commit(_Group([ticket]))

    def _transact(self, group: _Group) -> None:
        """One transaction with the work of a group, which joins those to be flushed."""
        environment = self._environment
        transaction = self._begin()
        env = environment.lmdb
        number = transaction.id()
        try:
            tails = self._tails.at(environment.generation, number)
            free_pages = self._free_pages(env, sum(ticket.bytes for ticket in group.tickets))
            writer = Writer(environment, transaction, tails, free_pages)
            for ticket in group.tickets:
                self._apply(ticket, writer)
            if writer.changes:
                self._commit_transaction(transaction)
                group.committed = True
        except lmdb.Error as error:
            raise environment.translated(error, "an append") from error
        except BaseException:
            # Ctrl-C may come between LMDB's commit and our noticing it. Nobody else can have
            # committed meanwhile: the process lock is ours.
            group.committed = env.info()["last_txnid"] >= number
            raise
        finally:
            if group.committed:
                self._tails.committed(environment.generation, number)
                self._flushed()
            else:
                transaction.abort()
                self._tails.forget()
        self._join(group)

    def _begin(self) -> lmdb.Transaction:
        """Begin writing; the caller is inside the gate, and is so again when this returns."""
        environment = self._environment
        try:
            try:
                return environment.lmdb.begin(write=True)
            except lmdb.MapResizedError:
                environment.step_out(environment.reopen)
                return environment.lmdb.begin(write=True)
        except lmdb.Error as error:
            raise environment.translated(error, "beginning a write") from error

    def _apply(self, ticket: _Ticket[Any], writer: Writer) -> None:
        """Run one caller's work; what it refuses before its first change is its error alone."""
        before = writer.changes
        assert ticket.work is not None
        ticket.error = None
        try:
            ticket.result = ticket.work(writer)
        except Exception as error:
            if writer.changes != before or isinstance(error, lmdb.Error):
                raise
            ticket.error = error

    def _commit_transaction(self, transaction: lmdb.Transaction) -> None:
        try:
            transaction.commit()
        except lmdb.Error as error:
            failure = self._environment.translated(error, "a commit")
            if not isinstance(failure, LogFullError):
                self._flush_failed(failure)
            raise failure from error

    def _flushed(self) -> None:
        """What was committed before the flush that just ended is durable."""
        unflushed = self._unflushed
        while unflushed:
            unflushed[0].settle()
            del unflushed[0]

    def _join(self, group: _Group) -> None:
        """A group is committed; or all of it was refused, or found nothing to change.

        The last wait for a flush too: what they saw may be another's commit that is not durable.
        """
        group.committed = True
        for ticket in group.tickets:
            if ticket.error is not None or self._environment.durability == "process":
                ticket.settle()
            else:
                self._unflushed.append(ticket)

    def _flush(self) -> None:
        """Make what was committed durable."""
        environment = self._environment
        try:
            environment.gate.enter()
            try:
                environment.lmdb.sync(True)  # noqa: FBT003 - its only parameter: even if not asked to
            finally:
                environment.gate.leave()
        except (lmdb.Error, EventLogError) as error:
            self._flush_failed(error)
        else:
            self._flushed()

    def _flush_failed(self, error: Exception) -> None:
        """A flush that failed once may "succeed" the next time with the data lost; so no more."""
        message = (
            f"the disk refused a flush of {self._environment.directory} ({error}): whether the "
            "last appends survive a power cut is uncertain; close the log and open it again"
        )
        self.refuse(EventLogError(message))
        while self._unflushed:
            self._unflushed[0].settle(EventLogError(message))
            del self._unflushed[0]

    def _free_pages(self, env: lmdb.Environment, size: int) -> int | None:
        """Pages that appends may use; None while that is more than enough.

        LMDB counts the pages its one tree is made of. What is neither that nor behind the end is
        free, now or once readers let go of it. A reserve is kept: LMDB needs pages to delete.
        """
        now = time.monotonic()
        if now < self._room_known_until:
            return None
        environment = self._environment
        environment.clear_stale_readers()
        pages = environment.map_pages
        reserve = min(max(pages // 16, _RESERVE_PAGES.start), _RESERVE_PAGES.stop)
        room = pages - env.info()["last_pgno"]
        if room > _AMPLE_PAGES:
            self._room_known_until = now + _AMPLE_SECONDS
            return None
        if room > 2 * (size // environment.chunk_bytes) + 2 * reserve:
            return None
        stat = env.stat()
        used = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return int(pages - used - reserve)
