"""librdkafka's clients: made in one place, heard in one place, and never touched after a fork.

A forked child has the memory of its parent's clients but not their threads, and would wait for
those without end, even where it only frees one.

What they raise keeps nothing alive. A client ends, with its threads, when the last reference to it
is gone, so an exception that nobody lets go of would keep it, by way of its traceback, for good.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar, cast

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from eventlog.errors import ClosedError, UnsupportedOperationError
from eventlog.kafka.failures import Kind, error_of, kind_of, translate
from eventlog.kafka.location import Settings, explained

__all__ = ["Administrator", "Clients", "Consumer", "Producer", "let_go", "reporting"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_TELLING: Final = frozenset({Kind.NO_ANSWER, Kind.LOGIN, Kind.ENCRYPTION, Kind.NOT_ALLOWED})
"""What may be the reason why something else gets no answer."""

_logger: Final = logging.getLogger("eventlog")

_STALE_SECONDS: Final = 60.0

_RENEWAL_SECONDS: Final = 5.0
"""How long an administrator is given at least to find a broker again."""


_HAS_CONTEXT: Final = (
    sys.version_info < (3, 12)
    and bool(KafkaError.__flags__ & 1 << 30)  # CPython's Py_TPFLAGS_BASE_EXC_SUBCLASS
    and KafkaError.__basicsize__ >= BaseException.__basicsize__
)
"""Whether CPython takes a `KafkaError` for an exception, and it has the room that these have."""


def let_go(error: KafkaException) -> None:
    """Have an exception that a client has just raised not keep the one being handled meanwhile.

    confluent-kafka 2.16 gives its `KafkaError` the flag of an exception without freeing what
    exceptions have. Up to Python 3.11 a `KafkaException` that is raised while another exception is
    handled, by whomever in this thread, leaves that one to it as its context: for good.
    """
    if _HAS_CONTEXT:
        ctypes.pythonapi.PyException_SetContext(ctypes.py_object(error_of(error)), None)


def reporting(callback: F) -> F:
    """A callback for librdkafka. What it raises is raised by the client's method that called it.

    Be it Ctrl-C: confluent-kafka would lose that, or never free it.
    """

    @functools.wraps(callback)
    def call(*args: Any) -> None:
        try:
            callback(*args)
        except BaseException as error:  # noqa: BLE001 - see above
            _raised.error = error

    return cast(F, call)


_raised: Final = threading.local()
"""By a callback in this thread."""


def _letting_go(method: F) -> F:
    """A client's method that raises what callbacks did, and nothing that keeps others alive."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except KafkaException as error:
            let_go(error)
            raise
        except SystemError as error:
            cause = _cause_of(error)
            if cause is None:
                raise
            let_go(cause)
            raise KafkaException(*cause.args) from None
        finally:
            raised = getattr(_raised, "error", None)
            if raised is not None:
                del _raised.error
                raise raised

    return cast(F, call)


def _cause_of(error: SystemError) -> KafkaException | None:
    """What librdkafka said when it broke down while it called back: fenced, most likely.

    It seems then that the callback has returned with an error. Up to Python 3.11 that is never
    freed, so it is emptied.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KafkaException):
        seen = seen.__cause__ or seen.__context__
    if seen is not None:
        error.__traceback__ = error.__cause__ = error.__context__ = None
    return seen


def _each_letting_go(client: type[T]) -> type[T]:
    """A kind of client, all of whose methods are such; besides `produce`, which is called too often
    for that: who calls it has to `let_go` of what it raises.
    """
    for name in dir(client):
        method = getattr(client, name)
        if callable(method) and not name.startswith("_") and name != "produce":
            setattr(client, name, _letting_go(method))
    return client


@_each_letting_go
class Consumer(confluent_kafka.Consumer):
    """A consumer of librdkafka that can be referred to weakly."""


@_each_letting_go
class Producer(confluent_kafka.Producer):
    """A producer of librdkafka that can be referred to weakly."""


@_each_letting_go
class Administrator(AdminClient):
    """An administrator of librdkafka."""


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
    """Makes clients of one cluster, and knows what they complain of. Thread-safe.

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
