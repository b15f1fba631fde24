"""The proxy before Kafka. It knows as much of the protocol as it takes to tell one request from the
next, and which answer is whose: https://kafka.apache.org/protocol#protocol_messages

A request's kind is the name of its API in small letters: "produce", "fetch", "end_txn"; "api_99" if
it is none of those below.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Final, Protocol, Self, cast

from tests.servers.kafka_fenced import without_brokers
from tests.servers.listening import Listener, reset
from tests.servers.proxy import Fault, Proxy, Ticket
from tests.servers.server import Server
from tests.servers.web import Dropped

__all__ = ["KafkaProxy"]

_PATIENCE: Final = 60.0  # seconds
_METADATA: Final = 3
_KINDS: Final = {
    0: "produce",
    1: "fetch",
    2: "list_offsets",
    3: "metadata",
    8: "offset_commit",
    9: "offset_fetch",
    10: "find_coordinator",
    11: "join_group",
    12: "heartbeat",
    13: "leave_group",
    14: "sync_group",
    18: "api_versions",
    19: "create_topics",
    20: "delete_topics",
    21: "delete_records",
    22: "init_producer_id",
    23: "offset_for_leader_epoch",
    24: "add_partitions_to_txn",
    25: "add_offsets_to_txn",
    26: "end_txn",
    28: "txn_offset_commit",
    32: "describe_configs",
    37: "create_partitions",
    44: "incremental_alter_configs",
    60: "describe_cluster",
    75: "describe_topic_partitions",
}


class _Broker(Protocol):
    port: int


class KafkaProxy(Proxy):
    """See `Proxy`. Clients that begin here stay here: the broker tells them its port.

    Faults break the connection of the request, and so whatever else is under way on it; `REFUSED`
    is the same as `RESET`. `delay` is of each request in turn. While it hangs, answers are held up
    too, whenever they were asked for.

    Args:
        broker: what it stands before.
        target: where the broker listens for what comes from the proxy.

    Attributes:
        fenced: whether the broker is to seem one that has just started: see
            `tests.servers.kafka_fenced`. Each answer that says so counts as "fenced".
    """

    def __init__(self, broker: _Broker, target: int) -> None:
        self.target = target
        self.fenced = False
        super().__init__(cast("Server", broker))  # whose port is all it asks of it

    @property
    def bootstrap(self) -> str:
        """Where it is, as other clients are told."""
        return f"127.0.0.1:{self.port}"

    @property
    def location(self) -> str:
        """Where it is, as `eventlog.open` is told."""
        return f"kafka://{self.bootstrap}"

    def clear(self) -> None:
        """Undo all faults, and count from 0."""
        self.fenced = False
        super().clear()
        self.counts.clear()
        self.requests.clear()

    def _listen(self) -> Listener:
        return Listener(self._serve)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(Dropped), _Session(self, client) as session:
            session.run()
        reset(client)

    def _fence(self, answer: bytes, version: int) -> bytes:
        """What is answered to a Metadata request of this version."""
        if not self.fenced:
            return answer
        with self._news:
            self.counts["fenced"] += 1
            self._news.notify_all()
        return without_brokers(answer, version)

    def _hold_answer(self) -> None:
        with self._news:
            held = self._held
        if held is not None:
            held.pass_through()


class _Session:
    """One connection, and that to the broker. Answers are passed on by another thread."""

    def __init__(self, proxy: KafkaProxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._broker = socket.socket()
        self._tickets: dict[int, Ticket] = {}  # by correlation id; those with a fault
        self._versions: dict[int, int] = {}  # the same; those of Metadata
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        reset(self._broker)
        self._broker.close()

    def run(self) -> None:
        """Pass on what comes from the client, until one side ends it."""
        self._broker.settimeout(_PATIENCE)
        self._broker.connect(("127.0.0.1", self._proxy.target))
        self._broker.settimeout(None)
        self._broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = threading.Thread(target=self._pass_answers, daemon=True)
        answers.start()
        try:
            while (message := _message(self._client)) is not None:
                self._admit(message)
                self._broker.sendall(message)
        finally:
            reset(self._broker)
            answers.join(_PATIENCE)

    def _admit(self, message: bytes) -> None:
        """A request's head: its API, the version of that, the correlation id, the client's id."""
        api, version, number, length = struct.unpack_from("!hhih", message, 4)
        if api == _METADATA:
            self._versions[number] = version
        client = message[14 : 14 + max(length, 0)].decode(errors="replace")
        kind = _KINDS.get(api, f"api_{api}")
        ticket = self._proxy._admit(kind, f"{kind} {version} {client}")
        if ticket.fault is Fault.REFUSED:
            raise Dropped
        if ticket.fault is not None:
            with self._lock:
                self._tickets[number] = ticket

    def _pass_answers(self) -> None:
        with contextlib.suppress(OSError, Dropped):
            while (message := _message(self._broker)) is not None:
                self._proxy._hold_answer()
                (number,) = struct.unpack_from("!i", message, 4)
                with self._lock:
                    ticket = self._tickets.pop(number, None)
                if ticket is not None:
                    ticket.lose_answer()
                version = self._versions.pop(number, None)
                if version is not None:
                    message = self._proxy._fence(message, version)
                self._client.sendall(message)
        reset(self._client)


def _message(source: socket.socket) -> bytes | None:
    """The next one with its size, or None at the end."""
    head = _exactly(source, 4)
    if head is None:
        return None
    body = _exactly(source, struct.unpack("!i", head)[0])
    return None if body is None else head + body


def _exactly(source: socket.socket, size: int) -> bytes | None:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = source.recv_into(view[filled:])
        if not count:
            return None
        filled += count
    return bytes(data)
