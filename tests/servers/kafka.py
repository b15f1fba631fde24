"""Apache Kafka: one node that is broker and controller, in a directory of its own.

`python -m tests.servers.kafka [PORT]` runs one for people, until Control-C.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import KafkaException, NewTopic

from tests.servers import kafka_jars
from tests.servers.kafka_proxy import KafkaProxy
from tests.servers.kafka_security import GUEST, USER, Security
from tests.servers.kafka_settings import write_settings
from tests.servers.programs import Program, free_port
from tests.servers.server import fresh_name

__all__ = ["GUEST", "USER", "Kafka"]

_PATIENCE: Final = 60.0  # seconds
_TRIES: Final = 3
_LISTENERS: Final = ("CONTROLLER", "SASL_PLAINTEXT", "SSL", "SASL_SSL")  # besides "PLAINTEXT"
_SAYS: Final = {  # which loggers say what, on stderr
    "defaultLogLevel": "error",
    "log.kafka.server.KafkaRaftServer": "info",
}


class Kafka:
    """A broker. Stopped and started, or crashed, it keeps its ports and its data.

    Args:
        port: where it listens; any free port if 0.
        settings: of the broker, as in its configuration file, with ``_`` for each dot.

    Attributes:
        port: where it listens, for clients with neither name nor encryption; the same as long as
            there is the broker. There are further ports for others: see `options`.
        proxy: what clients may go through, to be cut off.
        certificate: the broker's, as a file.
        secrets: what no error, log or repr may ever show.
    """

    def __init__(self, port: int = 0, **settings: object) -> None:
        self._chosen = port
        self._class_path = kafka_jars.class_path()
        self._directory = Path(tempfile.mkdtemp(prefix="eventlog-kafka-"))
        self._security = Security(self._directory)
        self._choose_ports()
        self._admin: AdminClient | None = None
        self.proxy = KafkaProxy(self, free_port())
        self.certificate = self._security.certificate
        self.secrets = tuple(
            text for word in self._security.passwords.values() for text in (word, quote(word, ""))
        )
        try:
            given = {name.replace("_", "."): value for name, value in settings.items()}
            self._write_settings(given)
            self._format()
            self._start_first(given)
        except BaseException:
            self._remove()
            raise

    def _choose_ports(self) -> None:
        self.port = self._chosen or free_port()
        self._ports = {"PLAINTEXT": self.port} | {name: free_port() for name in _LISTENERS}

    def _start_first(self, settings: Mapping[str, object]) -> None:
        """A port that was free may be somebody's by then: take others."""
        for left in reversed(range(_TRIES)):
            try:
                self.start()
            except AssertionError as error:
                if not left or "already in use" not in str(error):
                    raise
                self._choose_ports()
                self._write_settings(settings)
            else:
                return

    @property
    def bootstrap(self) -> str:
        """Where it is, as other clients are told."""
        return f"127.0.0.1:{self.port}"

    @property
    def location(self) -> str:
        """Where it is, as `eventlog.open` is told."""
        return f"kafka://{self.bootstrap}"

    def options(self, listener: str = "PLAINTEXT", user: str = USER) -> dict[str, str]:
        """What any client of librdkafka must be told to come in.

        Args:
            listener: or "SASL_PLAINTEXT", "SSL", "SASL_SSL".
            user: where it has a name: `USER`, or `GUEST`, who may do nothing.
        """
        place = f"127.0.0.1:{self._ports[listener]}"
        return {"bootstrap.servers": place, **self._security.options(listener, user)}

    def location_at(self, listener: str, user: str = USER) -> str:
        """The same for `eventlog.open`, all in the URL."""
        options = self.options(listener, user)
        place, name = options.pop("bootstrap.servers"), options.pop("sasl.username", None)
        if name is not None:
            place = f"{quote(name, '')}:{quote(options.pop('sasl.password'), '')}@{place}"
        return f"kafka://{place}?{urlencode(options)}"

    def wait(self) -> None:
        """Return when it has ended, by whomever."""
        self._program.wait()

    @property
    def pid(self) -> int:
        """The process; another after each `start`."""
        return self._program.pid

    def create_topic(self, partitions: int = 1, **config: object) -> str:
        """A new topic of a fresh name, made past our engine.

        Args:
            partitions: how many.
            config: of the topic, with ``_`` for each dot.
        """
        name = fresh_name()
        told = {key.replace("_", "."): str(value) for key, value in config.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=told)
        _await(self.admin().create_topics([topic], operation_timeout=_PATIENCE))
        self._until(lambda found: name in found)
        return name

    def delete_topics(self, *names: str) -> None:
        """Delete topics, past our engine."""
        _await(self.admin().delete_topics(list(names), operation_timeout=_PATIENCE))
        self._until(lambda found: found.isdisjoint(names))

    def _until(self, condition: Callable[[set[str]], bool]) -> None:
        """What the controller has done, the broker tells its clients a little later."""
        deadline = time.monotonic() + _PATIENCE
        while not condition(topics := self.topics()):
            assert time.monotonic() < deadline, topics

    def topics(self) -> set[str]:
        """The names of all topics, except Kafka's own and the engine's.

        A broker that was paused answers before it is one of the cluster's again; who asked it for a
        change then would wait for a controller, and librdkafka looks for one only once.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            assert time.monotonic() < deadline, "the broker does not answer"
            try:
                found = self.admin().list_topics(timeout=_PATIENCE / 10)
            except KafkaException:
                self._admin = None  # an old one may not find a broker that has come back
            else:
                if found.controller_id >= 0:
                    return {name for name in found.topics if not name.startswith("__")}

    def admin(self) -> AdminClient:
        """A client for whatever else there is to do past our engine; another after each `start`."""
        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self._admin

    def start(self) -> None:
        """Listen, at the same ports and with what was there before."""
        says = [f"-Dorg.slf4j.simpleLogger.{name}={level}" for name, level in _SAYS.items()]
        self._program = Program(
            [*self._java(), *says, "kafka.Kafka", self._properties],
            "Kafka Server started",
            directory=self._directory,
        )

    def stop(self) -> None:
        """End in its own way, and refuse connections."""
        self._admin = None
        self._program.close()

    def crash(self) -> None:
        """SIGKILL. What it had acknowledged is there again after `start`."""
        self._admin = None
        self._program.kill()

    def pause(self) -> None:
        """Answer nothing any more: SIGSTOP. Connections stay, and new ones are still accepted."""
        self._program.pause()

    def resume(self) -> None:
        """Go on where it was paused; fine if it was not."""
        self._program.resume()

    def restore(self, topics: Collection[str] | None = None) -> None:
        """After a test: it runs, and nothing is in the way to it.

        Args:
            topics: those that were there before; all others are deleted.
        """
        self.proxy.clear()
        self.resume()
        if not self._program.is_running:
            self.start()
        if topics is not None:
            self._admin = None  # that of a test may not have found the broker again
            if rest := self.topics().difference(topics):
                self.delete_topics(*rest)

    def close(self) -> None:
        """Be done with it; what it holds is gone."""
        self.stop()
        self._remove()

    def _remove(self) -> None:
        self.proxy.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _write_settings(self, settings: Mapping[str, object]) -> None:
        listeners = {name: (port, port) for name, port in self._ports.items()}
        listeners["PROXIED"] = (self.proxy.target, self.proxy.port)
        everything = {**self._security.settings(), **settings}
        write_settings(self._properties, self._directory / "data", listeners, everything)

    @property
    def _properties(self) -> Path:
        return self._directory / "server.properties"

    def _java(self) -> list[str]:
        java = [kafka_jars.java(), "-Xms64m", "-Xmx320m", "-XX:+UseSerialGC", "-Xshare:auto"]
        return [*java, "-cp", self._class_path]

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        storage = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
        storage += self._security.scram()
        done = subprocess.run(
            [*self._java(), "-XX:TieredStopAtLevel=1", *storage, "-c", str(self._properties)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _await(futures: Mapping[str, Any]) -> None:
    for future in futures.values():
        future.result(_PATIENCE)


def main(port: int) -> None:
    """Run a broker until Control-C."""
    reason = kafka_jars.missing() or _occupied(port)
    if reason is not None:
        sys.exit(reason)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(Kafka(port)) as kafka:
        print(kafka.location, flush=True)
        print("Control-C ends it, and deletes what it holds.", flush=True)
        kafka.wait()
        sys.exit("the broker has ended, and not by Control-C: what it held is deleted")


def _occupied(port: int) -> str | None:
    """Why nobody can listen there; None if one can."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        return f"port {port} of 127.0.0.1: {error.strerror}; choose another, as ARGS=19092"
    return None


def port_of(arguments: Sequence[str]) -> int:
    """The port that was asked for; 0 if none was."""
    match arguments:
        case []:
            return 0
        case [text] if text.isdecimal() and 0 < int(text) < 65_536:
            return int(text)
    sys.exit(f"not a port: {' '.join(arguments)}; give a number such as 9092, or nothing")


if __name__ == "__main__":
    main(port_of(sys.argv[1:]))
