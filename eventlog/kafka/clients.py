"""librdkafka's clients: made, heard and asked again in one place, and never touched after a fork.

A forked child has the memory of its parent's clients but not their threads, and would wait for
those without end, even where it only frees one.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException

from eventlog.errors import ClosedError, UnsupportedOperationError
from eventlog.kafka.asking import never_came, pauses
from eventlog.kafka.deadline import Deadline
from eventlog.kafka.failures import Kind, error_of, is_transient, kind_of, translate
from eventlog.kafka.librdkafka import (
    Administrator,
    Consumer,
    Producer,
    empty_frames,
    let_go,
    reporting,
)
from eventlog.kafka.location import Settings, explained

__all__ = ["Clients"]

T = TypeVar("T")

_TELLING: Final = frozenset({Kind.NO_ANSWER, Kind.LOGIN, Kind.ENCRYPTION, Kind.NOT_ALLOWED})
"""What may be the reason why something else gets no answer."""

_logger: Final = logging.getLogger("eventlog")

_STALE_SECONDS: Final = 60.0

_RENEWAL_SECONDS: Final = 5.0
"""How long an administrator is given at least to find a broker again."""

_FIRST_PATIENCE: Final = 2.0
"""Seconds until what may be asked again is, when the cluster was looked at anew: who has met a
broker that was just coming back may wait for a controller that it has never heard of.
"""

_LOOK_AROUND: Final = 1.0


class _Librdkafka:
    """What librdkafka would write to stderr: whoever calls it is told by an exception."""

    def log(self, _level: int, text: str, *arguments: object) -> None:
        """What it asks of a logger."""
        _logger.debug("librdkafka: %s", text % arguments)


_LIBRDKAFKA: Final = _Librdkafka()


class _Complaint(NamedTuple):
    error: KafkaError
    at: float


class Clients:
    """Makes clients of one cluster, hears their complaints, and has them try again. Thread-safe.

    Attributes:
        settings: how the cluster was opened.

    Raises:
        ValueError: librdkafka does not know an option.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings: Final = settings
        self._process: Final = os.getpid()
        self._complaint: _Complaint | None = None
        self._renewing: Final = threading.Lock()
        self._renewed_at = time.monotonic()
        self._administrator: Administrator | None = self._new_administrator()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.settings.place}>"

    def consumer(self, **config: Any) -> Consumer:
        """A consumer with these settings; underscores in their names stand for dots."""
        self.check_process()
        return self._made(Consumer, self.settings.client(**config))

    def producer(self, **config: Any) -> Producer:
        """A producer with these settings; underscores in their names stand for dots."""
        self.check_process()
        return self._made(Producer, self.settings.client(**config))

    @property
    def _admin(self) -> Administrator:
        administrator = self._administrator
        if administrator is None:
            raise self._was_closed()
        return administrator

    def _new_administrator(self) -> Administrator:
        return self._made(Administrator, self.settings.client())

    def renew_administrator(self) -> None:
        """Take another one: after an outage an old one may find no broker for minutes, when a new
        one does at once. Those who ask the old one go on doing so.
        """
        with self._renewing:
            now = time.monotonic()
            if self._administrator is None or now - self._renewed_at < _RENEWAL_SECONDS:
                return
            self._renewed_at = now
            self._administrator = self._new_administrator()

    def _was_closed(self) -> ClosedError:
        return ClosedError(f"the log at {self.settings.place} was closed")

    def _made(self, kind: Callable[[dict[str, Any]], T], config: dict[str, Any]) -> T:
        try:
            heard = reporting(self._heard)
            client = kind({**config, "error_cb": heard, "logger": _LIBRDKAFKA})
        except KafkaException as error:
            let_go(error)
            problem = error_of(error)
            if problem.code() == KafkaError._INVALID_ARG:  # noqa: SLF001 - that is its name
                reason = explained(problem.str(), config)
                raise ValueError(f"{self.settings.place}: {reason}") from None
            raise self.error(error, "making a client") from error
        with _clients_mutex:
            _clients.add(client)
        return client

    def _heard(self, error: KafkaError) -> None:
        """What librdkafka complains of comes in, in whichever thread polls."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN and self._complained():  # noqa: SLF001 - its name
            return  # it comes after what says why
        if kind_of(error) in _TELLING:
            self._complaint = _Complaint(error, time.monotonic())

    def _complained(self) -> KafkaError | None:
        """Why nothing can be reached, as far as librdkafka has said so lately."""
        heard = self._complaint
        if heard is None or time.monotonic() - heard.at > _STALE_SECONDS:
            return None
        return heard.error

    def check_process(self) -> None:
        """Refuse to work in a child of the process that opened the log, or once it is closed.

        Raises:
            UnsupportedOperationError: it is another process.
            ClosedError: it was closed.
        """
        if self.is_abandoned:
            raise UnsupportedOperationError(
                f"the log at {self.settings.place} was opened before fork(): open it anew in the "
                "child"
            )
        if self._administrator is None:
            raise self._was_closed()

    @property
    def is_abandoned(self) -> bool:
        """Whether this is a child of the process that opened it."""
        return os.getpid() != self._process

    def error(
        self,
        error: KafkaError | KafkaException,
        doing: str,
        *,
        within: float | None = None,
        topic: str = "",
        partition: int | None = None,
        maybe: bool = False,
    ) -> Exception:
        """What to raise; see `eventlog.kafka.failures.translate`.

        Where no answer came, what librdkafka last complained of says why.
        """
        problem = error_of(error)
        heard = self._complained()
        if heard is not None and kind_of(problem) is Kind.NO_ANSWER:
            problem = heard
        return translate(
            problem,
            doing,
            place=self.settings.place,
            user=self.settings.user,
            within=within,
            topic=topic,
            partition=partition,
            maybe=maybe,
        )

    def retried(
        self,
        doing: str,
        ask: Callable[[float], T],
        *,
        timeout: float | None = None,
        again: Callable[[KafkaException], bool] = is_transient,
    ) -> T:
        """What `ask` returns, given the seconds that are left; tried again within the time limit.

        Raises:
            LogBusyError: there was no answer in time.
            Exception: what else librdkafka's error means.
        """
        deadline = Deadline(self.settings.timeout if timeout is None else timeout)
        administrator = self._admin  # if the log is closed meanwhile it still has to answer
        patience = deadline.seconds if again is never_came else _FIRST_PATIENCE
        try:
            for pause in pauses():
                self.check_process()
                try:
                    result = ask(max(min(deadline.left(), patience), 0.001))
                except KafkaException as error:
                    administrator.poll(0)
                    if deadline.left() <= pause or not again(error):
                        if kind_of(error) is Kind.NO_ANSWER:
                            self.renew_administrator()
                        empty_frames(error)
                        raise self.error(error, doing, within=deadline.seconds) from error
                    if error_of(error).code() == KafkaError._TIMED_OUT:  # noqa: SLF001 - its name
                        patience *= 2
                        administrator = self._look_around(administrator, deadline)
                else:
                    self._complaint = None
                    administrator.poll(0)
                    return result
                time.sleep(pause)
            raise AssertionError
        finally:
            del administrator  # which an error that is kept would keep

    def _look_around(self, administrator: Administrator, deadline: Deadline) -> Administrator:
        """Have the cluster be looked at anew, and by another administrator if this one finds none.

        Returns: who is asked next.
        """
        try:
            administrator.list_topics(timeout=min(deadline.left(), _LOOK_AROUND))
        except KafkaException:
            self.renew_administrator()
        return self._administrator or administrator

    def close(self) -> None:
        """Close it; its clients are closed by who had them made. Closing twice is fine."""
        with self._renewing:
            self._administrator = None  # its threads end when nobody uses it any more


_clients: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_clients_mutex = threading.Lock()


def _abandon_clients() -> None:
    """In a forked child: clients must never be freed, since freeing one waits for its threads."""
    global _clients_mutex  # noqa: PLW0603 - its copy may be held by a thread of the parent's
    _clients_mutex = threading.Lock()
    for client in _clients:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
    _clients.clear()


os.register_at_fork(after_in_child=_abandon_clients)
