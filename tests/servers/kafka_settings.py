"""How a broker for tests is configured: a single node, small, and quick in all that waits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["write_settings"]

_SMALL: Final = {
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "log.cleaner.threads": 1,
    "log.cleaner.dedupe.buffer.size": 4 << 20,  # of the heap; the default is half of ours
    "log.index.size.max.bytes": 1 << 20,  # of each segment, mapped into memory
    "socket.listen.backlog.size": 1024,  # paused, it has clients call again and again
    "offsets.topic.num.partitions": 4,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
}
_QUICK: Final = {
    "group.initial.rebalance.delay.ms": 0,
    "group.coordinator.append.linger.ms": 0,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 200,
    "log.initial.task.delay.ms": 200,
    "log.retention.check.interval.ms": 500,
    "log.cleaner.backoff.ms": 500,
    "log.segment.delete.delay.ms": 1000,
    # A node that starts again is let in when its former self is taken for dead.
    "broker.session.timeout.ms": 1000,
    "broker.heartbeat.interval.ms": 200,
    "controlled.shutdown.enable": "false",  # there is nobody to hand anything over to
}


def write_settings(
    path: Path, data: Path, listeners: Mapping[str, tuple[int, int]], settings: Mapping[str, object]
) -> None:
    """Write `server.properties`.

    Args:
        path: the file.
        data: where the broker keeps what it is given.
        listeners: by name, which tells the protocol too, where each listens and which port it
            tells its clients to use.
        settings: of the test, which replace others of that name.
    """
    clients = {name: ports for name, ports in listeners.items() if name != "CONTROLLER"}
    node = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{listeners['CONTROLLER'][0]}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listeners": _places({name: port for name, (port, _) in listeners.items()}),
        "advertised.listeners": _places({name: port for name, (_, port) in clients.items()}),
        "listener.security.protocol.map": ",".join(f"{n}:{_protocol(n)}" for n in listeners),
        "log.dirs": data,
        "auto.create.topics.enable": "false",
    }
    everything = {**node, **_SMALL, **_QUICK, **settings}
    path.write_text("".join(f"{name}={value}\n" for name, value in everything.items()))


def _places(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def _protocol(listener: str) -> str:
    return "PLAINTEXT" if listener in ("CONTROLLER", "PROXIED") else listener
