"""The mock cluster of librdkafka: brokers in this process, which any client can reach.

They know how to produce, fetch, and commit, in transactions too; of administration, nothing. There
is no Python interface to it: this is the C one, of the library that confluent-kafka brings along.
https://github.com/confluentinc/librdkafka/blob/master/src/rdkafka_mock.h
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Final

import confluent_kafka
from confluent_kafka import KafkaError

from tests.servers.server import fresh_name

__all__ = ["MockCluster"]

_PRODUCER: Final = 0
_POINTER: Final = ctypes.c_void_p
_INT: Final = ctypes.c_int
_SIGNATURES: Final[dict[str, tuple[object, ...]]] = {  # what comes back, and what is passed
    "conf_new": (_POINTER,),
    "conf_set": (_INT, _POINTER, *[ctypes.c_char_p] * 3, ctypes.c_size_t),
    "new": (_POINTER, _INT, _POINTER, ctypes.c_char_p, ctypes.c_size_t),
    "destroy": (None, _POINTER),
    "mock_cluster_new": (_POINTER, _POINTER, _INT),
    "mock_cluster_destroy": (None, _POINTER),
    "mock_cluster_bootstraps": (ctypes.c_char_p, _POINTER),
    "mock_topic_create": (_INT, _POINTER, ctypes.c_char_p, _INT, _INT),
    "mock_broker_set_down": (_INT, _POINTER, ctypes.c_int32),
    "mock_broker_set_up": (_INT, _POINTER, ctypes.c_int32),
    "mock_broker_set_rtt": (_INT, _POINTER, ctypes.c_int32, _INT),
    "mock_push_request_errors_array": (
        None,
        _POINTER,
        ctypes.c_int16,
        ctypes.c_size_t,
        ctypes.POINTER(_INT),
    ),
}


class MockCluster:
    """Brokers with the ids 1, 2, ...

    Attributes:
        bootstrap: where they are, as clients are told.
    """

    def __init__(self, brokers: int = 1) -> None:
        reason = ctypes.create_string_buffer(512)
        configuration = _call("conf_new")
        _require(_call("conf_set", configuration, b"log_level", b"3", reason, len(reason)))
        self._client = _call("new", _PRODUCER, configuration, reason, len(reason))
        assert self._client, reason.value
        self._cluster = _call("mock_cluster_new", self._client, brokers)
        self._brokers = range(1, brokers + 1)
        self.bootstrap: str = _call("mock_cluster_bootstraps", self._cluster).decode()

    @property
    def location(self) -> str:
        """Where it is, as `eventlog.open` is told."""
        return f"kafka://{self.bootstrap}"

    def create_topic(self, partitions: int = 1, name: str = "") -> str:
        """A new topic, of a fresh name if none is given."""
        name = name or fresh_name()
        _require(_call("mock_topic_create", self._cluster, name.encode(), partitions, 1))
        return name

    def fail(self, api: int, *codes: int) -> None:
        """Answer the next requests with errors.

        Args:
            api: which requests: their number in the protocol; 0 is Produce, 26 EndTxn.
            codes: one for each, of `KafkaError`; `KafkaError._TRANSPORT` ends the connection.
        """
        errors = (_INT * len(codes))(*codes)
        _call("mock_push_request_errors_array", self._cluster, api, len(codes), errors)

    def stop(self) -> None:
        """Refuse connections."""
        for broker in self._brokers:
            _require(_call("mock_broker_set_down", self._cluster, broker))

    def start(self) -> None:
        """Accept them again."""
        for broker in self._brokers:
            _require(_call("mock_broker_set_up", self._cluster, broker))

    def delay(self, seconds: float) -> None:
        """From now on answer so late."""
        for broker in self._brokers:
            _require(_call("mock_broker_set_rtt", self._cluster, broker, int(seconds * 1000)))

    def close(self) -> None:
        """Be done with it. Clients come first: who closes later may find no more answers."""
        _call("mock_cluster_destroy", self._cluster)
        _call("destroy", self._client)


def _require(code: int) -> None:
    assert code == KafkaError.NO_ERROR, KafkaError(code).str()


def _call(name: str, *arguments: object) -> Any:
    function = getattr(_library(), f"rd_kafka_{name}")
    function.restype, *function.argtypes = _SIGNATURES[name]
    return function(*arguments)


@cache
def _library() -> ctypes.CDLL:
    """The one that confluent-kafka has loaded: wheels have it beside the package, or in it."""
    package = Path(confluent_kafka.__file__).parent
    for place in (package.with_name("confluent_kafka.libs"), package / ".dylibs"):
        for library in place.glob("librdkafka*"):
            return ctypes.CDLL(str(library))
    return ctypes.CDLL(None)
