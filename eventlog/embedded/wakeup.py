"""Waking readers, in every process, when something was committed that they wait for.

Who commits announces it in the wakeup file (`eventlog.embedded.wakeup_file`). Who waits hears of
that through a listener (`eventlog.embedded.listening`), compares counters, and looks at the log.

Who waits alone in a process listens itself: being woken by another thread would cost as much again
as being woken by the kernel (60 to 100 microseconds, measured). As soon as there are two, they are
*parked* under the counters they watch, and one thread, the watcher, listens for all of them and
wakes those whose counters were raised: no thread and no descriptor for each. It comes with the
second waiter, goes when there is at most one again, and rests while nobody waits.

Behind it all is a slow poll, once a second: a writer may be killed after its commit and before
the announcement. Then everybody is woken to look.

Invariants:

1. A waiter looks at its counters after it was parked, or was given the listener. What is announced
   before that it sees; what is announced later is seen by who listens.
2. Who drained the kernel's reports looks on behalf of all who are parked.
3. However a waiter goes, Ctrl-C at any place included, nobody else depends on it: there is only one
   that listens itself, it is dismissed when a second comes, and the watcher is a thread that no
   signal handler runs in.
4. The mutex is reentrant, and `Waiter.wake` takes none: a signal handler may close or interrupt
   what the thread it interrupted was about to wait for.

What this module deliberately does not do: look at events. Who is woken may find nothing new.
"""

from __future__ import annotations

import _thread
import abc
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eventlog.embedded.directory import WAKEUP_NAME
from eventlog.embedded.listening import KernelListener, Listener, Notification, PollingListener
from eventlog.embedded.wakeup_file import ANNOUNCED, EVERYTHING, Place, WakeupFile, slot_of

if TYPE_CHECKING:
    from eventlog.embedded.watch import PlacesWatch

__all__ = ["Waiter", "Wakeup"]

POLL_SECONDS: Final = 1.0
"""How often is looked for commits that nobody announced."""

_EVERYBODY: Final = slot_of(EVERYTHING)


class Waiter(abc.ABC):
    """One wait that is under way, of a thread or of a task.

    Attributes:
        watch: what it waits for.
        listener: what it listens with, if it does so itself.
    """

    needs_descriptor = False
    """Whether it can listen itself only where there is a descriptor to wait for."""

    def __init__(self, watch: PlacesWatch) -> None:
        self.watch = watch
        self.listener: Listener | None = None

    @abc.abstractmethod
    def awaken(self) -> None:
        """Let it look again, if it is parked; twice is fine. From any thread."""

    def wake(self) -> None:
        """Let it look again, whatever it waits with. May be called in a signal handler."""
        self.awaken()
        listener = self.listener
        if listener is not None:
            listener.ring()


class _Parked:
    """The waiters that are parked under one counter, and its value when it was last looked at."""

    __slots__ = ("seen", "waiters")

    def __init__(self, seen: int) -> None:
        self.seen = seen
        self.waiters: set[Waiter] = set()


class _Watcher:
    """The thread that listens for all: its listener, and whether it may be spared for now."""

    __slots__ = ("listener", "resting")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.resting = False


class Wakeup:
    """Announces one environment's commits, and lets this process wait for everybody's.

    Args:
        directory: of the log.
        last_transaction: gives the number of the last LMDB transaction that was committed.
        read_only: only wait.
        poll_interval: seconds between looks for commits that nobody announced.

    Attributes:
        file: where commits are announced.
        missed: how often something was found that was not.
        closed: whether the environment is; whoever waits then is to look, and finds out.
    """

    def __init__(
        self,
        directory: Path,
        last_transaction: Callable[[], int],
        *,
        read_only: bool,
        poll_interval: float = POLL_SECONDS,
    ) -> None:
        self.file = WakeupFile(directory / WAKEUP_NAME, read_only=read_only)
        self.missed = 0
        self.closed = False
        self._last_transaction = last_transaction
        self._poll_interval = poll_interval
        self._poll_at = 0.0
        self._polled: tuple[int | None, int] | None = None
        self._notification: Notification | None = None
        self._forget_waiters()

    def _forget_waiters(self) -> None:
        self._mutex = threading.RLock()
        self._parked: dict[int, _Parked] = {}
        self._visitors: set[PlacesWatch] = set()
        self._alone: Waiter | None = None
        self._watcher: _Watcher | None = None
        self._spare: Listener | None = None

    # Committing

    def committed(self, places: Iterable[Place], transaction: int) -> None:
        """Announce a transaction: right after its commit, with the log's write lock held.

        Args:
            places: the partitions it added to, the blobs it changed, `EVERYTHING` if it made,
                changed or deleted a topic.
            transaction: LMDB's number of it.
        """
        self.file.announce(places, transaction)

    # Waiting

    def watch(self, places: Iterable[Place]) -> PlacesWatch:
        """A watch on places."""
        from eventlog.embedded.watch import PlacesWatch  # only who waits needs an event loop

        return PlacesWatch(self, places)

    def enter(self, waiter: Waiter) -> Listener | None:
        """Begin, or go on, waiting.

        Returns: what to listen with; or None, and then `Waiter.awaken` says when to look again.
        """
        with self._mutex:
            listener = self._admit(waiter)
        if not self.file.exists:
            self.poll()  # the counters do not tell what was committed before
        return listener

    def leave(self, waiter: Waiter) -> None:
        """End waiting; twice is fine."""
        with self._mutex:
            self._unpark(waiter)
            listener, waiter.listener = waiter.listener, None
            if self._alone is waiter:
                self._alone = None
                self._spare = listener
            if listener is not None:
                self._wake_concerned()  # as in `_admit`

    def listen(self, listener: Listener, timeout: float) -> None:
        """Wait with a listener, and poll slowly."""
        listener.wait(min(timeout, self.until_poll()))
        if self.poll_is_due() or not self.file.exists:
            self.poll()

    def _admit(self, waiter: Waiter) -> Listener | None:
        if self._alone is waiter and self._watcher is None:
            return waiter.listener
        dismissed, waiter.listener = waiter.listener, None
        if not self.closed and not self._may_listen(waiter):
            self._park(waiter)
            self._engage_watcher()
        if dismissed is not None:
            self._wake_concerned()  # it may have drained what was reported to all
        return waiter.listener

    def _may_listen(self, waiter: Waiter) -> bool:
        """Whether nobody else waits here; then the waiter is given the listener."""
        if self._watcher is not None or self._alone is not None or self._parked:
            return False
        listener, self._spare = self._spare or self._new_listener(), None
        if waiter.needs_descriptor and listener.descriptor is None:
            self._spare = listener
            return False
        waiter.listener = listener
        self._alone = waiter
        return True

    def _new_listener(self) -> Listener:
        if self.file.exists:
            try:
                self._notification = self._notification or Notification(self.file.path)
                return KernelListener(self._notification)
            except OSError:
                pass  # there is none here, or no more of it for this user
        return PollingListener(self._sign)

    def _sign(self) -> int | None:
        """What changes with each announcement or, where nothing is announced, each commit."""
        return self.file.counters[ANNOUNCED] if self.file.exists else self._stored()

    # Who is parked. All of this with the mutex held.

    def _park(self, waiter: Waiter) -> None:
        counters = self.file.counters
        self._visitors.add(waiter.watch)
        for slot in waiter.watch.parked_under:
            parked = self._parked.get(slot)
            if parked is None:
                parked = self._parked[slot] = _Parked(counters[slot])
            parked.waiters.add(waiter)

    def _unpark(self, waiter: Waiter) -> None:
        for slot in waiter.watch.parked_under:
            parked = self._parked.get(slot)
            if parked is not None:
                parked.waiters.discard(waiter)
                if not parked.waiters:
                    del self._parked[slot]

    def _all_parked(self) -> set[Waiter]:
        everybody = self._parked.get(_EVERYBODY)
        return set() if everybody is None else everybody.waiters

    def _wake_concerned(self) -> bool:
        """Wake those whose counters were raised; whether there were any."""
        counters = self.file.counters
        concerned: set[Waiter] = set()
        for slot, parked in list(self._parked.items()):
            value = counters[slot]
            if value != parked.seen:
                parked.seen = value
                concerned |= parked.waiters
        return self._wake(waiter for waiter in concerned if waiter.watch.changed())

    def _wake(self, waiters: Iterable[Waiter]) -> bool:
        woken = False
        for waiter in list(waiters):
            self._unpark(waiter)
            waiter.wake()
            woken = True
        return woken

    def _wake_all(self) -> None:
        self._wake(self._all_parked())
        if self._alone is not None:
            self._alone.wake()

    # The watcher

    def _engage_watcher(self) -> None:
        """See to it that the watcher listens for the parked. With the mutex held.

        Who was alone is dismissed only once there is a watcher: there may be no more threads.
        """
        watcher = self._watcher
        if watcher is None:
            self._start_watcher()
        elif watcher.resting:
            watcher.resting = False
            watcher.listener.ring()
        alone, self._alone = self._alone, None
        if alone is not None:
            alone.wake()

    def _start_watcher(self) -> None:
        """Not a `threading.Thread`: starting one can be interrupted halfway.

        Interrupted here, the thread may run though nobody knows of it: it ends at once.
        """
        listener, self._spare = self._spare or self._new_listener(), None
        self._watcher = watcher = _Watcher(listener)
        try:
            _thread.start_new_thread(self._watch_over, (watcher,))
        except BaseException:
            self._watcher = None
            raise

    def _watch_over(self, watcher: _Watcher) -> None:
        """Listen, and wake whom it concerns, until that is not worth a thread."""
        try:
            while self._employs(watcher):
                wait = watcher.listener.rest if watcher.resting else watcher.listener.wait
                wait(self.until_poll())
                is_due = self.poll_is_due()
                if is_due or not self.file.exists:
                    self.poll()
                with self._mutex:
                    if not self._wake_concerned():
                        watcher.resting = not self._parked
                    if is_due:
                        self._retire_if_idle(watcher)
        finally:
            with self._mutex:
                if self._watcher is watcher:
                    self._watcher = None
                    self._wake_all()

    def _employs(self, watcher: _Watcher) -> bool:
        with self._mutex:
            return self._watcher is watcher and not self.closed

    def _retire_if_idle(self, watcher: _Watcher) -> None:
        """Let the thread end if, for a whole interval, at most one waited who can listen itself."""
        parked = self._all_parked()
        visitors, self._visitors = self._visitors, set()
        most = 0 if watcher.listener.descriptor is None else 1
        if len(parked) > 1 or len(visitors.union(waiter.watch for waiter in parked)) > most:
            return
        self._watcher = None
        self._spare = watcher.listener
        self._wake_all()

    # The slow poll

    def until_poll(self) -> float:
        """Seconds until it is due."""
        return max(self._poll_at - time.monotonic(), 0)

    def poll_is_due(self) -> bool:
        """Whether it is; says so once."""
        now = time.monotonic()
        if now < self._poll_at:
            return False
        self._poll_at = now + self._poll_interval
        return True

    def poll(self) -> None:
        """Look for commits that were not announced; if there may be any, wake everybody."""
        announced = self.file.counters[ANNOUNCED]
        stored = self._stored()
        if self.file.exists and stored == announced:
            return
        with self._mutex:
            if self.file.counters[ANNOUNCED] != announced or self._polled == (stored, announced):
                return  # it is just being announced, or was found before
            self._polled = stored, announced
            self.missed += 1
            self._wake_all()

    def _stored(self) -> int | None:
        """Number of the last transaction; None if it cannot be had, and those woken see why."""
        try:
            return self._last_transaction()
        except Exception:  # noqa: BLE001 - whatever it is, it concerns who reads, and is raised there
            return None

    # Changes of the environment

    def make_writable(self) -> None:
        """From now on the environment is written to in this process too."""
        with self._mutex:
            self.file.open(read_only=False)
            self._spare = None

    def close(self) -> None:
        """Wake everybody for good. Nobody commits any more."""
        self.closed = True
        with self._mutex:
            self.file.close()
            self._notification = self._spare = None
            self._wake_all()
            if self._watcher is not None:
                self._watcher.listener.ring()

    def renew(self) -> None:
        """In a child just forked: who waited is not here, and what they waited with is not ours.

        The mapping and the file are shared with the parent as with any other process.
        """
        for holder in (self._watcher, self._alone):
            if holder is not None and holder.listener is not None:
                holder.listener.close()
        if self._spare is not None:
            self._spare.close()
        if self._notification is not None:
            self._notification.close()
            self._notification = None
        self._forget_waiters()
