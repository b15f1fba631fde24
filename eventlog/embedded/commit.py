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

For 4, what a signal handler may interrupt is written so that doing it again does no harm, and
state changes by single stores: CPython runs handlers after calls and jumps back, never between
two plain stores.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import lmdb

from eventlog.embedded.growth import RESERVE_PAGES
from eventlog.embedded.ticket import Group, Ticket, Work
from eventlog.embedded.writer import PAGES_BESIDE_CHUNKS, Tails, Writer
from eventlog.errors import ClosedError, EventLogError, LogBusyError, LogFullError

if TYPE_CHECKING:
    from eventlog.embedded.growth import Growth
    from eventlog.embedded.locks import ProcessLock
    from eventlog.embedded.storage import Environment

__all__ = ["Committer"]

T = TypeVar("T")

MAX_COMMIT_BYTES: Final = 64 * 1024 * 1024
"""Bytes that are put into one commit, unless a single caller's are more."""

_RESERVE_PAGES: Final = range(64, 1024)

_STALE_READER_SECONDS: Final = 1.0
"""How often is looked for slots that killed readers have left in the table."""


class Committer:
    """Runs callers' work in write transactions of one environment, many at a time."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._mutex = threading.Lock()
        self._idle = threading.Condition(self._mutex)
        self._queue: deque[Ticket[Any]] = deque()
        self._group: Group | None = None
        self._unflushed: list[Ticket[Any]] = []
        self._leader: Ticket[Any] | None = None
        self._refusal: EventLogError | None = None
        self._failure: EventLogError | None = None
        self._tails = Tails()
        self._stale_readers_after = 0.0

    def run(self, work: Work[T], *, timeout: float, size: int = 0) -> T:
        """Run `work` in a write transaction; return what it returned once that is durable.

        Args:
            work: see `Work`.
            timeout: seconds to wait for other writers.
            size: about how many bytes it writes.

        Raises:
            LogBusyError: others kept the log for `timeout` seconds; nothing was stored.
            LogFullError: no room; nothing was stored.
            ClosedError: the log was closed.
            Exception: what `work` raised.
        """
        return self._submit(Ticket(work, size), timeout)

    def run_alone(self, do: Callable[[], T], *, timeout: float) -> T:
        """Run `do` outside any transaction while no process can write."""
        return self._submit(Ticket(None, exclusive=do), timeout)

    def fail(self, error: EventLogError) -> None:
        """Let nobody write through this committer any more, not even who waits already."""
        self._failure = self._refusal = error

    def close(self) -> None:
        """Take no more work, and wait until what was accepted is done."""
        with self._mutex:
            self._refusal = ClosedError(f"the log at {self._environment.directory} was closed")
            while self._leader is not None:
                self._idle.wait()

    def _submit(self, ticket: Ticket[T], timeout: float) -> T:
        deadline = time.monotonic() + timeout
        try:
            with self._mutex:
                if self._refusal is not None:
                    raise _again(self._refusal)
                self._queue.append(ticket)
                if self._leader is None:
                    self._leader = ticket
            if self._leader is not ticket:
                self._wait(ticket, deadline)
            if not ticket.settled:
                self._lead(ticket, deadline)
        except BaseException:
            try:
                self._desert(ticket)
            except BaseException:  # Ctrl-C on the way out of a time-out
                self._desert(ticket)
                raise
            raise
        return ticket.outcome()

    # Waiting

    def _wait(self, ticket: Ticket[Any], deadline: float) -> None:
        """Until `ticket` is settled, or it is its caller's turn to lead."""
        while not (ticket.settled or self._leader is ticket):
            wait = min(max(deadline - time.monotonic(), 0), threading.TIMEOUT_MAX)
            if ticket.signal.acquire(timeout=wait):
                continue
            with self._mutex:
                if ticket in self._queue and self._leader is not ticket:
                    self._queue.remove(ticket)
                    raise self._busy()
            # It is being committed: that cannot be taken back, and ends soon.
            ticket.signal.acquire()

    def _busy(self) -> LogBusyError:
        holder = self._lock().holder()
        who = "this process" if holder is None else f"process {holder}"
        return LogBusyError(
            f"{who} kept the log at {self._environment.directory} locked", holder=holder
        )

    def _desert(self, ticket: Ticket[Any]) -> None:
        """Its caller gave up or was interrupted: withdraw what is not committed yet.

        If it led, what it held is given back, whether it still held it or not.
        """
        ticket.deserted = True
        if self._leader is ticket:
            self._environment.gate.leave(threading.get_ident())
            if self._environment.process_lock is not None:
                self._environment.process_lock.release()
            self._recover()
        with self._mutex:
            if ticket in self._queue:
                self._queue.remove(ticket)
        self._pass_on(ticket)

    # Leading

    def _lead(self, own: Ticket[Any], deadline: float) -> None:
        """Commit what is queued until `own` is settled; then let another go on."""
        try:
            while not own.settled:
                self._step(time.monotonic() if own.committed else deadline)
        except LogBusyError:
            if not own.committed:
                raise
            self._flush_now()  # others' work can wait for the other process, its own is done
        self._pass_on(own)

    def _pass_on(self, own: Ticket[Any]) -> None:
        """Stop leading, if `own` leads: another whose work is not settled goes on."""
        with self._mutex:
            if self._leader is own:
                waiting = itertools.chain(self._unflushed, self._queue)
                self._leader = next((t for t in waiting if not (t.settled or t.deserted)), None)
            if self._leader is not None:
                self._leader.wake()
            elif self._refusal is not None:
                self._idle.notify_all()

    def _step(self, deadline: float) -> None:
        """One commit of what waits, and a flush if nothing waits by then.

        Work is taken only once the log is ours, so that callers who wait for another process can
        give up in time, and late ones still join.
        """
        gate = self._environment.gate
        thread = threading.get_ident()
        try:
            if self._queue:
                self._commit_queue(deadline)
            gate.enter()
            if self._unflushed and not self._queue:
                self._flush()
        finally:
            gate.leave(thread)

    def _commit_queue(self, deadline: float) -> None:
        lock = self._lock()
        try:
            self._acquire(lock, deadline)
            self._take()
            group = self._group
            if group is not None and group.tickets[0].exclusive is not None:
                self._run_exclusive(group)
            elif group is not None:
                self._commit(group)
            self._group = None
        finally:
            lock.release()

    def _lock(self) -> ProcessLock:
        lock = self._environment.process_lock
        if lock is None:
            raise ClosedError(f"the log at {self._environment.directory} was closed")
        return lock

    def _acquire(self, lock: ProcessLock, deadline: float) -> None:
        """Have the log to ourselves, in its current generation, and be inside the gate."""
        environment = self._environment
        lock.acquire(deadline - time.monotonic())
        environment.gate.enter()
        while not environment.current():
            environment.step_out(environment.reopen)

    def _take(self) -> None:
        """What the next commit is made of: all that waits, up to a size."""
        with self._mutex:
            tickets: list[Ticket[Any]] = []
            size = 0
            for ticket in self._queue:
                if tickets and (ticket.exclusive is not None or size >= MAX_COMMIT_BYTES):
                    break
                tickets.append(ticket)
                size += ticket.bytes
                if ticket.exclusive is not None:
                    break
            self._group = Group(tickets) if tickets else None
            for _ in tickets:
                self._queue.popleft()

    def _recover(self) -> None:
        """The leader was interrupted: put every ticket where the next leader looks for it."""
        group = self._group
        if group is None:
            return
        with self._mutex:
            for ticket in reversed(group.tickets):
                if ticket.settled or ticket in self._unflushed or ticket in self._queue:
                    ticket.wake()
                    continue
                if ticket.committed:
                    self._unflushed.append(ticket)
                else:
                    self._queue.appendleft(ticket)
            self._group = None

    def _run_exclusive(self, group: Group) -> None:
        """Everyone is kept out by the process lock; the gate is left, since `do` may close it."""
        (ticket,) = group.tickets
        if self._unflushed:
            self._flush()
        try:
            assert ticket.exclusive is not None
            self._environment.step_out(lambda: _note(ticket, ticket.exclusive))
        except Exception as error:  # noqa: BLE001 - it is the caller's, and raised there
            ticket.error = error
        group.committed = True
        ticket.settle()

    def _commit(self, group: Group) -> None:
        """Commit a group together or, where that fails for one's sake, one by one."""
        try:
            self._transact(group)
        except Exception as error:
            if group.committed:
                raise
            if len(group.tickets) == 1:
                group.tickets[0].settle(error)
                return
            for ticket in group.tickets:
                self._commit(Group([ticket]))

    def _transact(self, group: Group) -> None:
        """One transaction with the work of a group, which joins those to be flushed."""
        if self._failure is not None:
            raise _again(self._failure)
        environment = self._environment
        transaction = writer = None
        number = 0
        try:
            free_pages = self._provide_room(group)
            transaction = self._begin()
            number = transaction.id()
            tails = self._tails.at(environment.generation, number)
            writer = Writer(environment, transaction, tails, free_pages)
            self._apply_all(group, writer)
            if writer.changes:
                self._commit_transaction(transaction)
                group.committed = True
        except lmdb.Error as error:
            raise environment.translated(error, "an append") from error
        except BaseException:
            # Ctrl-C may come between LMDB's commit and our noticing it. Nobody else can have
            # committed meanwhile: the process lock is ours.
            group.committed = bool(number) and environment.lmdb.info()["last_txnid"] >= number
            raise
        finally:
            if group.committed and writer is not None:
                self._committed(writer, number)
            elif transaction is not None:
                self._give_back(transaction)
        self._join(group)

    def _committed(self, writer: Writer, number: int) -> None:
        """Transaction `number` can be seen: wake who waits for it, and go on from what it left."""
        environment = self._environment
        environment.wakeup.committed(writer.places, number)
        self._tails.committed(environment.generation, number)
        self._flushed()

    def _begin(self) -> lmdb.Transaction:
        """Begin writing; the caller is inside the gate, and is so again when this returns."""
        environment = self._environment
        try:
            try:
                return environment.lmdb.begin(write=True)
            except (lmdb.MapResizedError, lmdb.PanicError):
                # Panic is what LMDB calls a meta page that could not be written; it has put the
                # old one back.
                environment.step_out(environment.reopen)
                return environment.lmdb.begin(write=True)
        except lmdb.Error as error:
            raise environment.translated(error, "beginning a write") from error

    def _give_back(self, transaction: lmdb.Transaction) -> None:
        transaction.abort()
        self._tails.forget()

    def _apply_all(self, group: Group, writer: Writer) -> None:
        """Run the callers' work; what one refuses before its first change is its error alone."""
        for ticket in group.tickets:
            before = writer.changes
            assert ticket.work is not None
            ticket.error = None
            try:
                ticket.result = ticket.work(writer)
            except Exception as error:
                if writer.changes != before or isinstance(error, lmdb.Error):
                    raise
                ticket.error = error
        writer.finish()

    def _commit_transaction(self, transaction: lmdb.Transaction) -> None:
        try:
            transaction.commit()
        except lmdb.Error as error:
            # Whether it was the flush that failed, LMDB does not say. If it was, the commit
            # before it, which waits for this flush, may be lost.
            failure = self._environment.translated(error, "a commit")
            if self._unflushed or not isinstance(failure, LogFullError):
                self._flush_failed(failure)
            raise failure from error

    def _flushed(self) -> None:
        """What was committed before the flush that just ended is durable."""
        unflushed = self._unflushed
        while unflushed:
            unflushed[0].settle()
            del unflushed[0]

    def _join(self, group: Group) -> None:
        """A group is committed; or all of it was refused, or found nothing to change.

        The last wait for a flush too: what they saw may be another's commit that is not durable.
        """
        group.committed = True
        for ticket in group.tickets:
            if ticket.error is not None or self._environment.durability == "process":
                ticket.settle()
            else:
                self._unflushed.append(ticket)

    def _flush_now(self) -> None:
        gate = self._environment.gate
        try:
            gate.enter()
            self._flush()
        finally:
            gate.leave(threading.get_ident())

    def _flush(self) -> None:
        """Make what was committed durable. Inside the gate."""
        try:
            self._environment.lmdb.sync(True)  # noqa: FBT003 - its only parameter
        except lmdb.Error as error:
            self._flush_failed(error)
        else:
            self._flushed()

    def _flush_failed(self, error: Exception) -> None:
        """A flush that failed once may "succeed" the next time with the data lost; so no more."""
        message = (
            f"the disk refused a flush of {self._environment.directory} ({error}): whether the "
            "last appends survive a power cut is uncertain; close the log and open it again"
        )
        self.fail(EventLogError(message))
        while self._unflushed:
            self._unflushed[0].settle(EventLogError(message))
            del self._unflushed[0]

    def _provide_room(self, group: Group) -> int | None:
        """Make sure of room on the disk for a group of appends, and look what the map has.

        Returns: pages of the map that appends may use; None while that is more than enough.

        LMDB counts the pages its one tree is made of. What is neither that nor behind the end is
        free, now or once readers let go of it. A reserve is kept, on the disk as in the map: LMDB
        needs pages to delete. What is no append (it has no size) may use it.
        """
        environment = self._environment
        size = sum(ticket.bytes for ticket in group.tickets)
        last = environment.lmdb.info()["last_pgno"]
        needed = size // environment.chunk_bytes + PAGES_BESIDE_CHUNKS
        if size and environment.growth is not None:
            self._provide_disk(environment.growth, last, needed)
        self._clear_stale_readers()
        pages = environment.map_pages
        reserve = min(max(pages // 16, _RESERVE_PAGES.start), _RESERVE_PAGES.stop)
        if last + 2 * (needed + reserve) < pages:
            return None
        return pages - self._used_pages() - reserve

    def _provide_disk(self, growth: Growth, last_page: int, pages: int) -> None:
        try:
            growth.provide(last_page, pages)
        except OSError as error:
            if last_page - self._used_pages() >= pages + 2 * RESERVE_PAGES:
                return  # the file itself has room enough: free pages
            raise LogFullError(
                f"the disk of {self._environment.directory} is full ({error.strerror}): make room "
                "on it, or expire or delete events"
            ) from error

    def _used_pages(self) -> int:
        stat = self._environment.lmdb.stat()
        return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])

    def _clear_stale_readers(self) -> None:
        now = time.monotonic()
        if now >= self._stale_readers_after:
            self._stale_readers_after = now + _STALE_READER_SECONDS
            self._environment.lmdb.reader_check()


def _again(error: EventLogError) -> EventLogError:
    """The same error anew: one object raised by many threads would collect their tracebacks."""
    return type(error)(*error.args)


def _note(ticket: Ticket[T], do: Callable[[], T] | None) -> None:
    assert do is not None
    ticket.result = do()
