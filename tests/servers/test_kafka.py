"""The broker for tests: it keeps what it is given over an outage, and lets in whom it should."""

from __future__ import annotations

import signal
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from tests.servers import Fault, kafka_jars, require
from tests.servers.programs import Program, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.conftest import Start
    from tests.servers.kafka import Kafka
    from tests.servers.kafka_mock import MockCluster

PATIENCE = 30.0  # seconds
A_MOMENT = 0.3  # seconds that a client waits for what never comes
OK = KafkaError.NO_ERROR
PRODUCE, LIST_GROUPS = 0, 16  # requests, in the protocol


def produce(options: Mapping[str, Any], topic: str, *bodies: bytes) -> list[int]:
    """The error code of each. A `KafkaError` must not be compared with None: it breaks."""
    producer = Producer({"log_level": 0, **options})
    outcomes: list[int] = []

    def note(error: KafkaError | None, message: Message) -> None:
        outcomes.append(OK if error is None else error.code())

    for body in bodies:
        producer.produce(topic, body, on_delivery=note)
    assert producer.flush(PATIENCE) == 0
    return outcomes


def consume(options: Mapping[str, Any], topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"group.id": "test", "auto.offset.reset": "earliest", **options})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages: list[Message] = consumer.consume(count, PATIENCE)
    consumer.close()
    assert len(messages) == count
    assert all(message.error() is None for message in messages)
    return [message.value() for message in messages]


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_a_broker_that_comes_back_has_its_place_its_data_and_its_groups(
    kafka: Kafka, end: str
) -> None:
    topic, options = kafka.create_topic(), kafka.options()
    assert produce(options, topic, b"before") == [OK]
    cluster = kafka.admin().list_topics(timeout=PATIENCE).cluster_id
    consumer = Consumer({**options, "group.id": topic})
    consumer.commit(offsets=[TopicPartition(topic, 0, 7, "said")], asynchronous=False)
    consumer.close()
    getattr(kafka, end)()
    with pytest.raises(KafkaException):
        kafka.admin().list_topics(timeout=A_MOMENT)
    kafka.start()
    assert kafka.admin().list_topics(timeout=PATIENCE).cluster_id == cluster
    assert produce(options, topic, b"after") == [OK]
    assert consume(options, topic, 2) == [b"before", b"after"]
    consumer = Consumer({**options, "group.id": topic})
    (committed,) = consumer.committed([TopicPartition(topic, 0)], timeout=PATIENCE)
    consumer.close()
    assert (committed.offset, committed.metadata) == (7, "said")


def test_a_paused_broker_answers_when_it_is_resumed(kafka: Kafka) -> None:
    topic = kafka.create_topic()
    kafka.pause()
    with pytest.raises(KafkaException):
        Producer(kafka.options()).list_topics(topic, timeout=A_MOMENT)
    kafka.resume()
    assert produce(kafka.options(), topic, b"body") == [OK]


def test_what_a_test_has_made_is_gone_after_it(kafka: Kafka) -> None:
    mine = kafka.create_topic()
    before = kafka.topics()
    kafka.create_topic(partitions=3, retention_ms=1000)
    kafka.stop()
    kafka.restore(before)
    assert mine in before
    assert kafka.topics() == before


@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SSL", "SASL_SSL"])
def test_a_broker_is_known_by_its_certificate_and_knows_whom_it_lets_in(
    kafka: Kafka, listener: str
) -> None:
    topic, right = kafka.create_topic(), kafka.options(listener)
    assert produce(right, topic, b"body") == [OK]
    wrong = right | {"message.timeout.ms": 500}
    if listener == "SSL":
        del wrong["ssl.ca.location"]
    else:
        wrong["sasl.password"] = "wrong"
        assert produce(right | {"sasl.mechanism": "SCRAM-SHA-256"}, topic, b"body") == [OK]
        assert produce(kafka.options(listener, "guest"), topic, b"body") == [
            KafkaError.TOPIC_AUTHORIZATION_FAILED
        ]
    assert produce(wrong, topic, b"body") == [KafkaError._MSG_TIMED_OUT]


def test_a_location_holds_all_it_takes(kafka: Kafka) -> None:
    location = kafka.location_at("SASL_SSL")
    assert "security.protocol=SASL_SSL" in location
    assert any(secret in location for secret in kafka.secrets)
    assert not any(secret in kafka.location for secret in kafka.secrets)


def test_who_begins_at_the_proxy_stays_there(kafka: Kafka) -> None:
    proxy, topic = kafka.proxy, kafka.create_topic()
    options = {"bootstrap.servers": proxy.bootstrap, "client.id": "me"}
    assert produce(options, topic, b"body") == [OK]
    assert proxy.counts["produce"] == 1
    assert proxy.requests[-1].split()[::2] == ["produce", "me"]
    assert proxy.location == proxy.url(kafka.location)


def test_a_lost_answer_is_asked_for_again_and_nothing_is_doubled(kafka: Kafka) -> None:
    proxy, topic = kafka.proxy, kafka.create_topic()
    proxy.add(Fault.LOST, "produce", times=1)
    options = {"bootstrap.servers": proxy.bootstrap, "enable.idempotence": True}
    assert produce(options, topic, b"body", b"next") == [OK, OK]
    assert proxy.counts["produce"] > 1
    assert consume(kafka.options(), topic, 2) == [b"body", b"next"]


def test_of_what_is_reset_the_broker_hears_nothing(kafka: Kafka) -> None:
    proxy, topic = kafka.proxy, kafka.create_topic()
    proxy.add(Fault.RESET, "produce")
    options = {"bootstrap.servers": proxy.bootstrap, "message.timeout.ms": 500}
    assert produce(options, topic, b"body") == [KafkaError._MSG_TIMED_OUT]
    assert produce(kafka.options(), topic, b"only") == [OK]
    assert consume(kafka.options(), topic, 1) == [b"only"]


def test_a_client_is_cut_off_and_another_is_not(kafka: Kafka) -> None:
    proxy, topic = kafka.proxy, kafka.create_topic()
    client = Producer({"bootstrap.servers": proxy.bootstrap, "log_level": 0})
    client.list_topics(topic, timeout=PATIENCE)
    for fail in (proxy.cut, proxy.hang):
        fail()
        with pytest.raises(KafkaException):
            client.list_topics(topic, timeout=A_MOMENT)
        assert produce(kafka.options(), topic, b"body") == [OK]
        proxy.mend()
        client.list_topics(topic, timeout=PATIENCE)
    proxy.delay = PATIENCE
    with pytest.raises(KafkaException):
        client.list_topics(topic, timeout=A_MOMENT)


def test_while_the_proxy_hangs_nothing_is_heard_even_of_what_was_asked_before(
    kafka: Kafka,
) -> None:
    """By who asks on a connection that stays: librdkafka may connect anew at any moment."""
    proxy, number = kafka.proxy, 1122
    kafka.pause()
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(struct.pack("!ihhih2s", 12, LIST_GROUPS, 0, number, 2, b"me"))
        proxy.wait_for(f"api_{LIST_GROUPS}")  # which nobody else asks
        proxy.hang()
        kafka.resume()
        client.settimeout(A_MOMENT)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.mend()
        client.settimeout(PATIENCE)
        assert client.recv(8)[4:] == struct.pack("!i", number)


def test_the_mock_cluster_keeps_what_any_client_gives_it(mock_cluster: MockCluster) -> None:
    topic, options = mock_cluster.create_topic(3), {"bootstrap.servers": mock_cluster.bootstrap}
    assert produce(options, topic, b"body") == [OK]
    found = Producer(options).list_topics(topic, timeout=PATIENCE).topics[topic]
    assert len(found.partitions) == 3


def test_the_mock_cluster_fails_as_it_is_told(mock_cluster: MockCluster) -> None:
    topic, options = mock_cluster.create_topic(), {"bootstrap.servers": mock_cluster.bootstrap}
    mock_cluster.fail(PRODUCE, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    assert produce(options, topic, b"body") == [KafkaError.TOPIC_AUTHORIZATION_FAILED]
    mock_cluster.stop()
    assert produce({**options, "message.timeout.ms": 500}, topic, b"body") == [
        KafkaError._MSG_TIMED_OUT
    ]
    mock_cluster.start()
    mock_cluster.delay(0.001)
    assert produce(options, topic, b"body") == [OK]


def test_one_for_people_says_where_it_is_and_ends_with_control_c(start: Start) -> None:
    require(kafka_jars.missing())
    port = free_port()
    child = start(f"from tests.servers.kafka import main; main({port})")
    assert child.line() == f"kafka://127.0.0.1:{port}"
    child.send(signal.SIGINT)
    assert child.wait(PATIENCE) == 0


def test_one_for_people_that_ends_by_itself_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers import kafka

    monkeypatch.setattr(kafka, "Kafka", _Killed)
    monkeypatch.setattr(kafka_jars, "missing", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match="the broker has ended"):
        kafka.main(0)


class _Killed:
    """A broker that was killed as soon as it ran."""

    location = "kafka://nowhere"

    def __init__(self, port: int) -> None:
        assert port == 0
        self._program = Program([sys.executable, "-c", "print('ready'); input()"], "ready")

    def wait(self) -> None:
        self._program.wait()

    def close(self) -> None:
        self._program.close()


@pytest.mark.parametrize("arguments", [["foo"], ["-1"], ["0"], ["65536"], ["9092", "9093"]])
def test_one_for_people_says_what_is_no_port(arguments: list[str]) -> None:
    from tests.servers.kafka import port_of

    with pytest.raises(SystemExit, match=f"not a port: {arguments[0]}"):
        port_of(arguments)
    assert [port_of([]), port_of(["9092"])] == [0, 9092]


def test_one_for_people_says_that_a_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.servers import kafka

    monkeypatch.setattr(kafka_jars, "missing", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"port {port} of 127.0.0.1: Address already in use"):
            kafka.main(port)


def test_what_is_missing_is_named_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    java = tmp_path / "bin" / "java"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install default-jre-headless" in str(kafka_jars.missing())
    java.parent.mkdir()
    for version, reason in (("11.0.2", "Java 17"), ("21.0.1", "install maven")):
        java.write_text(
            f"#!{sys.executable}\nimport sys\nsys.stderr.write('version \"{version}\"')"
        )
        java.chmod(0o755)
        assert reason in str(kafka_jars.missing())
