"""The thread in which a host is a member of its group: rounds, in time, whatever handlers do.

Nothing here runs on the event loop, and nothing of the user's runs here: a handler that blocks its
event loop for minutes costs no lease. What a round brings is *published*, for the loop to act on;
what the loop has done it reports to the `Membership`, and rings.

A member ends by lapsing, or with its topic. Then the loop closes everything, and has this go on as
another member (`restart`): only then is the former one dead for the others too, whose lock is let
go and which the new one removes. If the topic was made anew meanwhile, the new member is one of the
new topic's group.

What this module deliberately does not do: decide anything about partitions.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from eventlog.blobs import NOT_MODIFIED
from eventlog.errors import (
    ClosedError,
    EventLogError,
    LogBusyError,
    TopicNotFoundError,
    UnsupportedOperationError,
)
from eventlog.groups.documents import GroupIds
from eventlog.groups.steps import perform
from eventlog.processor.lifeline import Lifeline, is_dead
from eventlog.processor.membership import LapsedError, Membership, Round
from eventlog.processor.topic_look import TopicLook

if TYPE_CHECKING:
    from pathlib import Path

    from eventlog.blobs import BlobStore
    from eventlog.log import Topic
    from eventlog.processor.options import ProcessorOptions
    from eventlog.waiting import Watch

__all__ = ["Coordination", "News", "is_of_this_process"]

_logger: Final = logging.getLogger("eventlog")

PROBE_SECONDS: Final = 0.25
"""How often is looked whether other members' locks were let go by the kernel."""

_LISTEN_SECONDS: Final = 0.02
"""How often at most is looked whether the document has changed. When one host joins, every other
one changes it soon after: what they do within this time is read, and planned for, once."""

_MOST_GAP_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 1.0

_here: Final[set[str]] = set()
"""All members that hosts of this process are or were."""

os.register_at_fork(after_in_child=_here.clear)


def is_of_this_process(member: str) -> bool:
    """Whether a member is one that this process is, or was: it has not ended the process."""
    return member in _here


class News(NamedTuple):
    """How things stand.

    Attributes:
        topic: the one that is there under the name.
        membership: the member this host is.
        round: what its last round has brought; None if it has lapsed.
    """

    topic: Topic
    membership: Membership
    round: Round | None


class Bell:
    """Wakes a thread. (An Event could be interrupted by Ctrl-C with its own lock held.)"""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake it, or have it not wait next time. From any thread, and from signal handlers."""
        with contextlib.suppress(RuntimeError):  # it rings already
            self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Wait until it rings; whether it did."""
        return self._lock.acquire(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))


class Coordination:
    """Keeps a host a member of its group. The methods are thread-safe, and do not block.

    Args:
        topic: whose group; looked up by its name again if it is deleted and made anew.
        group: the group's name.
        store: where its documents are.
        host_name: what the members' names begin with.
        publish: called in the thread with what is new, and with None when nothing more will be;
            must not wait.
        report: called in the thread with errors that are no partition's.
        clock: seconds, running through suspension.

    Attributes:
        failing: whether the last round has failed.
        failure: what ended it for good.
        done: whether it has ended.
    """

    def __init__(
        self,
        topic: Topic,
        group: str,
        store: BlobStore,
        *,
        host_name: str,
        options: ProcessorOptions,
        publish: Callable[[News | None], object],
        report: Callable[[Exception], object],
        clock: Callable[[], float],
    ) -> None:
        self.failing = False
        self.failure: BaseException | None = None
        self.done = False
        self._topic = topic
        self._group = group
        self._store = self._own_store = store
        self._directory: Path | None = store.shared_directory
        self._host_name = host_name
        self._options = options
        self._publish = publish
        self._report = report
        self._clock = clock
        self._bell = Bell()
        self._probe_at = -math.inf
        self._leaving = False
        self._ended = False
        self._restart = False
        self._has_joined = False
        self._membership: Membership | None = None
        self._look: TopicLook | None = None
        self._lifelines: list[Lifeline] = []
        self._former: list[str] = []
        self._watch: Watch | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"eventlog-group-{group}", daemon=True
        )

    # From other threads

    @property
    def log_late(self) -> LogBusyError | None:
        """Why the log is taken to be away: it has not answered lately. None if it has."""
        return None if self._look is None else self._look.late

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ring(self) -> None:
        """Have a round made now: there is something new."""
        self._bell.ring()

    def restart(self) -> None:
        """All partitions of the member that has lapsed are closed: go on as another one."""
        self._restart = True
        self._bell.ring()

    def leave(self) -> None:
        """Give away what is closed, and end when nothing is left to give."""
        self._leaving = True
        membership = self._membership
        if membership is not None:
            membership.leave()
        self._bell.ring()

    def end(self) -> None:
        """End, whatever is left."""
        self._ended = True
        self._bell.ring()

    def let_go(self) -> None:
        """Nothing of this host's runs any more: others need not wait for its lease to know that."""
        lifelines, self._lifelines = self._lifelines, []
        for lifeline in lifelines:
            lifeline.close()

    # In the thread

    def _run(self) -> None:
        try:
            # Rounds must not be late because pumps make many calls.
            self._own_store = self._store.apart()
            while not self._ended:
                membership = self._join()
                if membership is None:
                    break
                self._live(membership)
                if membership.left:
                    break
                self._await_restart()
        except BaseException as error:
            # Whatever it is: nobody else is told of it in this thread. A panic in a client that is
            # written in Rust, for example, is no Exception.
            _logger.exception("the coordination of group %r has failed", self._group)
            self.failure = error
        finally:
            self._unwatch()
            if self._own_store is not self._store:
                self._own_store.close()
            self.done = True
            self._publish(None)

    def _join(self) -> Membership | None:
        """Become another member; None if it is to end before it could."""
        while not self._ended and not self._leaving:
            try:
                return self._member()
            except ClosedError as error:
                self.failure = error
                return None
            except Exception as error:  # noqa: BLE001 - reported, and tried again
                self._fail(error)
                self._bell.wait(_PATIENCE_SECONDS)
        return None

    def _member(self) -> Membership:
        topic = self._topic = self._topic.log.topic(self._topic.name)
        name = f"{self._host_name}-{secrets.token_hex(4)}"
        look = self._look = TopicLook(topic, self._options.lease_duration)
        membership = Membership(
            GroupIds(topic.log.id, topic.name, topic.id, self._group),
            name,
            lease_duration=self._options.lease_duration,
            renew_interval=self._options.renew_interval,
            partitions=look.partitions,
            clock=self._clock,
            known_dead=self._former,
            require_topic=lambda: topic.partition_info(0),
        )
        self._watch_document(membership)
        if self._directory is not None:
            self._lifelines.append(Lifeline(self._directory, name))
        self._former.append(name)
        _here.add(name)
        self._has_joined = False
        self._membership = membership
        if self._leaving:
            membership.leave()
        return membership

    def _live(self, membership: Membership) -> None:
        """Rounds, until it has left or lapsed, or is to end."""
        try:
            while not self._ended:
                began = self._clock()
                self._round(membership)
                if membership.left:
                    return
                self._rest(membership, self._clock() - began)
        except LapsedError as error:
            _logger.warning("%s", error)
            membership.lease.lose()
            self._publish(News(self._topic, membership, None))

    def _round(self, membership: Membership) -> None:
        try:
            found = perform(membership.round(), self._own_store)
        except LapsedError:
            raise
        except TopicNotFoundError as error:
            self._fail(error)
            raise LapsedError(f"{membership.member}: {error}") from error
        except (ClosedError, UnsupportedOperationError) as error:
            self.failure = error
            self._ended = True
            raise LapsedError(f"{membership.member}: {error}") from error
        except Exception as error:  # noqa: BLE001 - whatever a store raises: it is tried again
            self._fail(error)
            return
        if self.failing:
            _logger.info("host %s reaches its group %r again", membership.member, self._group)
        self.failing = False
        if not self._has_joined:
            self._has_joined = True
            _logger.info("host %s has joined group %r", membership.member, self._group)
        for member in set(found.removed).difference(self._former):
            _logger.info("host %s was found dead, and removed", member)
        self._publish(News(self._topic, membership, found))

    def _fail(self, error: Exception) -> None:
        if not self.failing or not isinstance(error, EventLogError):
            _logger.warning("group %r: %s: %s", self._group, type(error).__name__, error)
        self.failing = True
        self._report(error)

    def _rest(self, membership: Membership, took: float) -> None:
        """Until the next round is due, or something is new.

        After a round it rests for as long as that took, but for little: what pumps close meanwhile
        is given away together, and a slow store gets fewer swaps.
        """
        self._pause(min(took, _MOST_GAP_SECONDS))
        if membership.backs_off:
            # Whoever rings, the winner's swap above all, would have all who lost collide again.
            self._pause(membership.next_round_at - self._clock())
            return
        while not self._ended:
            now = self._clock()
            if now >= self._probe_at:  # by the clock, however often it rings
                self._probe_at = now + PROBE_SECONDS
                if self._probe(membership):
                    return
            due = min(membership.next_round_at, self._probe_at)
            if self._bell.wait(due - now) or membership.next_round_at <= self._clock():
                return

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        rung = False
        while not self._ended and (left := end - time.monotonic()) > 0:
            rung = self._bell.wait(left) or rung
        if rung:
            self._bell.ring()

    def _probe(self, membership: Membership) -> bool:
        """Whether the kernel says of others that they are dead."""
        directory, document = self._directory, membership.document
        if directory is None or document is None:
            return False
        dead = [
            member
            for member in document.hosts
            if member != membership.member and is_dead(directory, member)
        ]
        membership.found_dead(dead)
        return bool(dead)

    def _await_restart(self) -> None:
        self._unwatch()
        while not (self._restart or self._ended):
            self._bell.wait(_PATIENCE_SECONDS)
        self._restart = False
        if not self._ended:
            self.let_go()

    # Changes of the document that the store tells of

    def _watch_document(self, membership: Membership) -> None:
        watch = self._watch = self._store.watch(membership.ids.document)
        if watch is not None:
            threading.Thread(
                target=self._listen,
                args=(watch, membership),
                name="eventlog-group-watch",
                daemon=True,
            ).start()

    def _listen(self, watch: Watch, membership: Membership) -> None:
        """Ring when the document has changed: the watch may also tell of other blobs, in vain, and
        as often as those are written.
        """
        try:
            while not self._ended and self._watch is watch:
                watch.mark()
                if self._is_news(membership):
                    self._bell.ring()
                if not watch.changed():
                    watch.wait()
                time.sleep(_LISTEN_SECONDS)
        except Exception:
            _logger.exception("group %r: changes are not told of any more", self._group)
        finally:
            watch.close()

    def _is_news(self, membership: Membership) -> bool:
        """Whether the document is another one than the member has seen."""
        try:
            known = membership.etag
            blob = self._store.get(membership.ids.document, if_none_match=known)
        except EventLogError:
            return True  # a round will find out what it is
        return blob is not NOT_MODIFIED

    def _unwatch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.interrupt()
