"""A proxy before a server, that makes it fail as a test says. It runs in the test's process, and
is a port, so that hosts in other processes can go through it too::

    proxy = through(s3)
    with eventlog.blobs.open(proxy.url(s3.store_url())) as store:
        proxy.add(Fault.LOST, "put", times=1)
        ...
        assert proxy.counts["put"] == 2

What goes through it is counted by kind: "get", "head", "put", "list", "delete", "connect",
"cancel" and "other". `clear` undoes all faults.
"""

from __future__ import annotations

import abc
import collections
import enum
import threading
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.servers.listening import Listener
from tests.servers.server import Server, url_at
from tests.servers.web import Dropped

__all__ = ["Fault", "Proxy", "Ticket"]

_PATIENCE: Final = 60.0  # seconds


class Fault(enum.Enum):
    """What may become of a request.

    `REFUSED`: it is answered with 503, and never reaches the server; with PostgreSQL as `RESET`.
    `RESET`: the connection ends before it reaches the server.
    `LOST`: the connection ends when the server has answered: the effect is there, the answer not.
    `SILENT`: the same, but the client is left waiting.
    """

    REFUSED = enum.auto()
    RESET = enum.auto()
    LOST = enum.auto()
    SILENT = enum.auto()


@dataclass
class _Rule:
    fault: Fault
    kinds: tuple[str, ...]
    every: int
    times: int | None
    seen: int = 0

    def applies(self, kind: str) -> bool:
        if (self.kinds and kind not in self.kinds) or self.times == 0:
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        if self.times is not None:
            self.times -= 1
        return True


class _Gate:
    """What requests are held up at, until it is opened for good."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._drops = False

    def open(self, *, drops: bool) -> None:
        self._drops = drops
        self._opened.set()

    def pass_through(self, timeout: float | None = None) -> None:
        self._opened.wait(timeout)
        if self._drops:
            raise Dropped


class Ticket(NamedTuple):
    """What is to become of a request that goes on."""

    fault: Fault | None
    gate: _Gate

    def lose_answer(self) -> None:
        """Called when the server has answered.

        Raises:
            Dropped: the answer is lost.
        """
        if self.fault is Fault.SILENT:
            self.gate.pass_through()
        if self.fault in (Fault.LOST, Fault.SILENT):
            raise Dropped


class Proxy(abc.ABC):
    """A proxy before `server`; what is not told to fail goes through unchanged.

    Attributes:
        port: where it listens.
        counts: how many requests of each kind have come; may be cleared.
        requests: what they were: method and target, or the statement.
        delay: seconds that every request waits before it goes on to the server.
        stale_lists: seconds that the answer to a list is given again; not with PostgreSQL.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.counts: collections.Counter[str] = collections.Counter()
        self.requests: list[str] = []
        self.delay = 0.0
        self.stale_lists = 0.0
        self._news = threading.Condition()
        self._rules: list[_Rule] = []
        self._held: _Gate | None = None  # while it hangs
        self._waiting = _Gate()  # of who is delayed, or left without an answer
        self._listener = self._listen()
        self.port = self._listener.port

    @abc.abstractmethod
    def _listen(self) -> Listener: ...

    def url(self, url: str) -> str:
        """A store's URL, through the proxy."""
        return url_at(url, self.server.port, self.port)

    def add(self, fault: Fault, *kinds: str, every: int = 1, times: int | None = None) -> None:
        """Break one in `every` requests of these kinds (of any, if none is said), `times` times."""
        with self._news:
            self._rules.append(_Rule(fault, kinds, every, times))

    def cut(self) -> None:
        """Reset all connections and refuse new ones. What was held up is never sent."""
        self._listener.stop()
        self._release(drops=True)
        self._end_waiting()

    def hang(self) -> None:
        """Accept connections and requests, and answer none."""
        with self._news:
            self._held = self._held or _Gate()

    def mend(self) -> None:
        """Undo `cut` and `hang`. What was held up goes on now, whether anybody waits or not."""
        self._release(drops=False)
        self._listener.start()

    def clear(self) -> None:
        """Undo all faults; who is delayed or was left without an answer is reset."""
        with self._news:
            self._rules.clear()
            self.delay = self.stale_lists = 0.0
        self._end_waiting()
        self.mend()

    def close(self) -> None:
        """Be done with it."""
        self.cut()

    def _delay(self, kind: str) -> float:
        """How long a request of that kind waits."""
        return self.delay

    def wait_for(self, kind: str, times: int = 1) -> None:
        """Return when so many requests of that kind have come; fails if there are none."""
        with self._news:
            assert self._news.wait_for(lambda: self.counts[kind] >= times, _PATIENCE), self.counts

    def _release(self, *, drops: bool) -> None:
        with self._news:
            if self._held is not None:
                self._held.open(drops=drops)
            self._held = None

    def _end_waiting(self) -> None:
        with self._news:
            self._waiting.open(drops=True)
            self._waiting = _Gate()

    def _admit(self, kind: str, text: str) -> Ticket:
        """Note that a request has come, and hold it up if it must wait.

        Raises:
            Dropped: it must not go on.
        """
        with self._news:
            self.counts[kind] += 1
            self.requests.append(text)
            fault = next((rule.fault for rule in self._rules if rule.applies(kind)), None)
            held, ticket, delay = self._held, Ticket(fault, self._waiting), self._delay(kind)
            self._news.notify_all()
        if delay:
            ticket.gate.pass_through(delay)
        if held is not None:
            held.pass_through()
        if fault is Fault.RESET:
            raise Dropped
        return ticket
