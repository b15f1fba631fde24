"""librdkafka's clients as this engine has them: what they raise keeps nothing alive.

A client ends, with its threads, when the last reference to it is gone. So an exception that nobody
lets go of would keep it, by way of its traceback, for good.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from eventlog.kafka.failures import error_of

__all__ = ["Administrator", "Consumer", "Producer", "empty_frames", "let_go", "reporting"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

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


def empty_frames(error: KafkaException) -> None:
    """Have an error, should somebody keep it, not keep the clients that were asked."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__


def reporting(callback: F) -> F:
    """A callback for librdkafka. What it raises is raised by the client's method that called it.

    Be it Ctrl-C: confluent-kafka would lose that, or never free it.
    """

    @functools.wraps(callback)
    def call(*args: Any) -> None:
        try:
            callback(*args)
        except SystemError:  # librdkafka has broken down, and confluent-kafka goes on calling back
            raise
        except BaseException as error:  # noqa: BLE001 - see above
            held = _raised.__dict__.get("error")
            if held is None or isinstance(held, Exception):
                _raised.error = error

    return cast(F, call)


_raised: Final = threading.local()
"""By a callback in this thread: the last, but nothing comes after Ctrl-C."""


def _letting_go(method: F) -> F:
    """A client's method that raises what callbacks did, and nothing that keeps others alive.

    It raises no `SystemError`: as what librdkafka said it is a `KafkaException`, too.
    """

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except KafkaException as error:
            let_go(error)
            raise
        except SystemError as error:
            raise _cause_of(error) from None
        finally:
            raised = _raised.__dict__.pop("error", None)
            if raised is not None:
                try:
                    raise raised
                finally:
                    del raised, args, kwargs  # the error has this frame now

    return cast(F, call)


def _cause_of(error: SystemError) -> KafkaException:
    """What librdkafka said when it broke down while it called back: fenced, most likely.

    It seems then that the callback has returned with an error. Up to Python 3.11 that is never
    freed, so it is emptied.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KafkaException):
        seen = seen.__cause__ or seen.__context__
    error.__traceback__ = error.__cause__ = error.__context__ = None
    if seen is None:
        return KafkaException(KafkaError(KafkaError._FAIL, str(error)))  # noqa: SLF001 - its name
    let_go(seen)
    return KafkaException(*seen.args)


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
