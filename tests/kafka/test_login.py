"""Getting in: passwords, encryption and rights, and what is said where they do not suffice."""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import quote

import pytest

import eventlog
from eventlog import EventLogError, LogNotFoundError
from tests.servers.kafka import GUEST, USER, Kafka

LISTENERS = ("PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL")
IMPATIENT = 1.0


def fresh() -> str:
    return f"test-{os.urandom(4).hex()}"


def address(kafka: Kafka, listener: str) -> str:
    return kafka.options(listener)["bootstrap.servers"]


@pytest.mark.parametrize("listener", LISTENERS)
def test_whoever_may_come_in_works_as_everybody_else(kafka: Kafka, listener: str) -> None:
    """By a location alone, whatever the password consists of; and it is not shown."""
    location = kafka.location_at(listener)
    with eventlog.open(location) as log:
        topic = log.create_topic(fresh(), partitions=1)
        assert topic.append(b"in").offset == 0
        assert [event.body for event in topic.read(0)] == [b"in"]
        shown = f"{log!r} {log.location} {topic!r} {log.cluster!r} {log.settings!r}"  # type: ignore[attr-defined]
    assert not any(secret in shown for secret in kafka.secrets)


def test_user_password_and_certificate_may_be_options(kafka: Kafka) -> None:
    """As they are, without any %XX."""
    place = f"kafka://{address(kafka, 'SASL_SSL')}"
    password = kafka.options("SASL_SSL")["sasl.password"]
    for mechanism in ("PLAIN", "SCRAM-SHA-256"):
        with eventlog.open(
            place,
            user=USER,
            password=password,
            sasl_mechanism=mechanism,
            ssl_ca_location=str(kafka.certificate),
        ) as log:
            assert log.location == place


@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_wrong_password_is_refused_at_once(kafka: Kafka, listener: str) -> None:
    """Librdkafka would try it again and again."""
    started = time.monotonic()
    with pytest.raises(EventLogError, match="refuses user 'eventlog': check user") as raised:
        eventlog.open(
            f"kafka://{address(kafka, listener)}",
            user=USER,
            password="s3cr3t",
            tls=listener == "SASL_SSL",
            ssl_ca_location=str(kafka.certificate),
            timeout=30,
        )
    assert time.monotonic() - started < 15
    assert "s3cr3t" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_broker_that_nobody_vouches_for_is_not_trusted(kafka: Kafka) -> None:
    """The error names the options that matter."""
    with pytest.raises(EventLogError, match=r"ssl\.ca\.location"):
        eventlog.open(f"kafka://{address(kafka, 'SSL')}?tls=true", timeout=10)


@pytest.mark.parametrize(
    ("listener", "options"),
    [("SSL", ""), ("SASL_PLAINTEXT", ""), ("PLAINTEXT", "?tls=true")],
)
def test_the_wrong_way_of_connecting_is_no_endless_wait(
    kafka: Kafka, listener: str, options: str
) -> None:
    """A broker only hangs up, and librdkafka does not say more: the error says what it may be."""
    with pytest.raises(LogNotFoundError, match="whether it wants tls or a login") as raised:
        eventlog.open(f"kafka://{address(kafka, listener)}{options}", timeout=IMPATIENT)
    assert address(kafka, listener) in str(raised.value)
    assert "brokers are down" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_not_allowed_is_named(kafka: Kafka) -> None:
    """With the operation, so that somebody can grant it."""
    name = kafka.create_topic()
    with eventlog.open(kafka.location_at("SASL_PLAINTEXT", GUEST)) as log:
        assert log.topics() == []
        for call, doing in (
            (lambda: log.topic(name), f"looking up topic '{name}'"),
            (lambda: log.create_topic(fresh()), "topic"),
            (lambda: log.delete_topic(name), "topic"),
        ):
            with pytest.raises(EventLogError, match=doing) as raised:
                call()
            assert "does not allow user 'guest' that" in str(raised.value)
            assert not any(secret in str(raised.value) for secret in kafka.secrets)


def test_a_certificate_that_is_not_there_is_a_wrong_value(kafka: Kafka, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ssl\.ca\.location"):
        eventlog.open(f"{kafka.location}?ssl.ca.location={quote(str(tmp_path / 'none'))}")


@pytest.mark.parametrize(
    ("listener", "mechanism", "words"),
    [
        ("PLAINTEXT", "PLAIN", "this port takes no login"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512", r"check sasl\.mechanism, and the port"),
    ],
)
def test_a_login_of_another_kind_is_not_blamed_on_the_password(
    kafka: Kafka, listener: str, mechanism: str, words: str
) -> None:
    with pytest.raises(EventLogError, match=f"refuses user 'eventlog': {words}"):
        eventlog.open(
            f"kafka://{address(kafka, listener)}",
            user=USER,
            password="s3cr3t",
            sasl_mechanism=mechanism,
            timeout=10,
        )
