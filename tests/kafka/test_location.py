"""Where a cluster is and how to get in: what is taken from a location, and what is never shown."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog.kafka.location import Settings, parse_location

SECRET = "s3cr3t!"


def parsed(location: str, **options: Any) -> Settings:
    return parse_location(location.removeprefix("kafka:"), options)


def test_hosts_are_taken_as_they_are_written() -> None:
    for location, servers in {
        "kafka://broker": "broker:9092",
        "kafka://broker:1234/": "broker:1234",
        "kafka:broker:1234": "broker:1234",
        "kafka://a:1,b,10.0.0.1:3": "a:1,b:9092,10.0.0.1:3",
        "kafka://[::1]:9092": "[::1]:9092",
        "kafka://NAME.servicebus.windows.net": "NAME.servicebus.windows.net:9093",
    }.items():
        settings = parsed(location)
        assert settings.config["bootstrap.servers"] == servers
        assert settings.place == f"kafka://{servers}"


def test_a_user_logs_in_with_a_plain_password_unless_said_otherwise() -> None:
    settings = parsed("kafka://me:p%40ss%2F@broker")
    config = settings.config
    assert (config["sasl.username"], config["sasl.password"]) == ("me", "p@ss/")
    assert (config["security.protocol"], config["sasl.mechanism"]) == ("SASL_PLAINTEXT", "PLAIN")
    assert settings.user == "me"
    other = parsed("kafka://broker", user="me", password=SECRET, sasl_mechanism="SCRAM-SHA-256")
    assert other.config["sasl.mechanism"] == "SCRAM-SHA-256"
    assert other.config["sasl.password"] == SECRET
    assert "user" not in other.config


def test_a_connection_is_encrypted_where_that_is_wished() -> None:
    for location, options, protocol in (
        ("kafka://broker", {}, None),
        ("kafka://broker?tls=true", {}, "SSL"),
        ("kafka://me:pw@broker?tls=true", {}, "SASL_SSL"),
        ("kafka://me:pw@broker", {"tls": True}, "SASL_SSL"),
        ("kafka://broker", {"ssl_ca_location": "/ca.pem"}, "SSL"),
        ("kafka://me:pw@broker", {"ssl_ca_location": "/ca.pem", "tls": False}, "SASL_PLAINTEXT"),
        ("kafka://me:pw@broker", {"security_protocol": "ssl"}, "ssl"),
    ):
        assert parsed(location, **options).config.get("security.protocol") == protocol


def test_an_event_hubs_namespace_needs_only_its_connection_string() -> None:
    string = "Endpoint=sb://n.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=a+b/c="
    settings = parsed(
        "kafka://n.servicebus.windows.net:9093", user="$ConnectionString", password=string
    )
    assert settings.config["security.protocol"] == "SASL_SSL"
    assert settings.config["sasl.mechanism"] == "PLAIN"
    assert settings.config["sasl.password"] == string
    assert "SharedAccess" not in repr(settings)


def test_options_stand_in_the_query_or_beside_it_and_those_beside_it_win() -> None:
    location = "kafka://broker?timeout=2.5&replication_factor=3&client.id=a&fetch_max_bytes=1000"
    settings = parsed(location)
    assert (settings.timeout, settings.replication_factor) == (2.5, 3)
    assert settings.config["client.id"] == "a"
    assert settings.config["fetch.max.bytes"] == "1000"
    again = parsed(location, timeout=7, client_id="b", log_level=7)
    assert (again.timeout, again.replication_factor) == (7.0, 3)
    assert (again.config["client.id"], again.config["log_level"]) == ("b", 7)


def test_a_client_may_be_given_more_options() -> None:
    config = parsed("kafka://broker").client(group_id="g", log_level=1)
    assert (config["group.id"], config["log_level"]) == ("g", 1)
    assert config["bootstrap.servers"] == "broker:9092"


@pytest.mark.parametrize(
    "location",
    [
        "kafka:",
        "kafka://",
        "kafka://,",
        "kafka://broker:0",
        "kafka://broker:99999",
        "kafka://broker:port",
        "kafka://broker/topic",
        f"kafka://me@broker?{SECRET}",
        f"kafka://:{SECRET}@broker",
        f"kafka://me:{SECRET}@",
        f"kafka://me:{SECRET}?x@broker",
        f"kafka://me:1234?{SECRET}=@broker",
        f"kafka://me:{SECRET}@broker:port",
        f"kafka://me:{SECRET}@broker?timeout",
    ],
)
def test_a_location_of_another_form_is_refused_and_never_shown(location: str) -> None:
    with pytest.raises(ValueError, match="kafka://") as raised:
        parsed(location)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"replication_factor": 0}, "replication_factor"),
        ({"tls": "perhaps"}, "tls"),
        ({"acks": "1"}, "acks"),
        ({"enable_idempotence": False}, "enable.idempotence"),
        ({"bootstrap_servers": "elsewhere"}, "bootstrap.servers"),
    ],
)
def test_an_option_that_cannot_be_so_is_refused_by_its_name(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        parsed("kafka://broker", **options)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("timeout", "timeout is a number"),
        ("replication_factor", "replication_factor is a number"),
        ("tls", "tls is true or false"),
        ("publish_checkpoints", "publish_checkpoints is true or false"),
        ("sasl_mechanism", "sasl.mechanism: librdkafka knows none"),
        ("security_protocol", r"security\.protocol"),
        ("compression_type", "compression.codec"),
    ],
)
def test_what_an_option_was_given_is_not_quoted(option: str, named: str) -> None:
    """It may have been meant for another, and be a secret."""
    login = {"user": "me", "password": "pw"} if option == "sasl_mechanism" else {}
    for value in (SECRET, f"SCRAM-{SECRET}"):
        options = {"timeout": 0.05, option: value, **login}
        with pytest.raises(ValueError, match=named) as raised:
            eventlog.open("kafka://127.0.0.1:1", **options)  # type: ignore[arg-type]
        assert SECRET not in str(raised.value)


def test_an_option_librdkafka_does_not_know_is_refused_by_its_name() -> None:
    """Before anything is looked for."""
    for options in ({"no_such_thing": 1}, {"clock": 1}):
        (name,) = options
        with pytest.raises(ValueError, match=name.replace("_", ".")) as raised:
            eventlog.open(f"kafka://me:{SECRET}@127.0.0.1:1", **options)  # type: ignore[arg-type]
        assert SECRET not in str(raised.value)


def test_the_engine_is_imported_only_for_such_a_location() -> None:
    """And says what to install where it cannot be."""
    program = """
        import sys

        import eventlog

        eventlog.open("memory:").close()
        assert not any("kafka" in name for name in sys.modules)
        sys.modules["confluent_kafka"] = None
        try:
            eventlog.open("kafka://127.0.0.1:1")
        except ImportError as error:
            assert 'pip install "embedded-eventlog[kafka]"' in str(error), error
        else:
            raise AssertionError
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


@pytest.mark.parametrize(
    "options",
    [
        {"security_protocol": "SASL_SSL"},
        {"sasl_mechanism": "SCRAM-SHA-256"},
        {"sasl_mechanism": "plain", "tls": True},
        {"user": "me"},
        {"password": SECRET},
    ],
)
def test_who_is_to_log_in_gives_a_user_and_a_password(options: dict[str, Any]) -> None:
    if options != {"password": SECRET}:
        with pytest.raises(ValueError, match="give user= and password=") as raised:
            parsed("kafka://broker", **options)
        assert not any(value in str(raised.value) for value in ("SASL_SSL", "SCRAM", "plain"))
    parsed("kafka://broker", **{"user": "me", "password": SECRET, **options})
    parsed("kafka://broker", security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Librdkafka says only what OpenSSL says, which is nothing."""
    (tmp_path / "other").write_text("no certificate")
    for option in ("ssl.ca.location", "ssl.key.location"):
        for name, words in (("none", "there is no file"), ("other", "is not what it should be")):
            with pytest.raises(ValueError, match=f"{option}: .*{words}") as raised:
                eventlog.open(f"kafka://127.0.0.1:1?{option}={tmp_path / name}", timeout=1)
            assert str(tmp_path / name) in str(raised.value)


def test_it_is_said_where_options_are_listed() -> None:
    with pytest.raises(ValueError, match=r'"bogus": options are those of docs/kafka\.md'):
        eventlog.open("kafka://127.0.0.1:1?bogus=1", timeout=1)


def test_the_scheme_may_be_written_in_capitals(tmp_path: Path) -> None:
    for location in ("Kafka://", "KAFKA:"):
        with pytest.raises(ValueError, match="a cluster's location is"):
            eventlog.open(location)
    eventlog.open("Memory:").close()
    eventlog.open(f"FILE:{tmp_path / 'log'}").close()
    assert (tmp_path / "log").is_dir()
