"""A user with a password, encrypted, through everything there is; and on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import eventlog
from eventlog import LATEST, Event, EventLog, EventProcessorHost, Topic
from tests.kafka.reading import PATIENCE, made
from tests.servers.kafka import GUEST, Kafka


def command(location: str, *arguments: str, given: str = "") -> tuple[int, str, str]:
    """Exit status and output of the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "eventlog", *arguments],
        env={**os.environ, "EVENTLOG_LOG": location},
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


def use_everything(log: EventLog, topic: Topic, out: Topic) -> None:
    """Store in all ways, read in all ways, and process."""
    topic.append(b"0", partition=0)
    topic.append_batch([Event(b"1", key=f"{number}") for number in range(8)])
    with topic.producer(producer_id="me") as producer:
        producer.send(b"2", sequence=1)
    with log.transaction() as tx:
        tx.append(topic, b"3", partition=0)
        tx.append(topic, b"3", partition=1)
    assert topic.read(0)[0].body == b"0"
    events = list(topic.consumer(end=LATEST))
    assert len(events) == 12
    with topic.consumer(group="readers", max_wait=0) as consumer:
        assert len(list(consumer)) == 12
        consumer.checkpoint()
    assert all(lag.events == 0 for lag in topic.group("readers").lag().values())

    async def copy(context: Any, batch: Any) -> None:
        async with context.transaction() as tx:
            tx.append_batch(out.name, [event.body for event in batch])

    async def process() -> None:
        async with (
            EventProcessorHost(topic, group="copiers", handler=copy),
            out.consumer() as copied,
        ):
            with anyio.fail_after(PATIENCE):
                for _ in range(12):
                    await anext(copied)

    anyio.run(process)


def test_everything_works_with_a_login(kafka: Kafka, tmp_path: Path) -> None:
    """As without one: each client that is made for something logs in, too."""
    location = kafka.location_at("SASL_SSL").replace("=PLAIN", "=SCRAM-SHA-256")
    with eventlog.open(location, blobs=f"file:{tmp_path / 'store'}") as log:
        topic, out = made(log, 2), made(log)
        use_everything(log, topic, out)
    assert command(location, "append", out.name, given="by hand\n")[0] == 0
    status, shown, _ = command(location, "read", out.name)
    assert status == 0
    assert shown.splitlines()[-1].endswith("by hand")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"password": "s3cr3t"}, "refuses user 'eventlog': check user name and password"),
        ({"listener": "SSL", "ca": ""}, "ssl.ca.location"),
        ({"listener": "PLAINTEXT"}, "whether it wants tls or a login"),
        ({"user": GUEST}, "does not allow user 'guest' that: have the right granted"),
        ({"port": "1"}, "check the address, that it runs"),
    ],
    ids=["password", "certificate", "encryption", "right", "address"],
)
def test_the_command_line_says_in_one_line_what_is_wrong(
    kafka: Kafka, kafka_log: EventLog, options: dict[str, str], words: str
) -> None:
    """And nothing else: neither a trace nor what a library says, and no password."""
    topic = made(kafka_log)
    user = options.get("user", "eventlog")
    location = kafka.location_at("SASL_SSL", user)
    place = kafka.options("SASL_SSL")["bootstrap.servers"]
    other = kafka.options(options.get("listener", "SASL_SSL"))["bootstrap.servers"]
    if "port" in options:
        other = f"127.0.0.1:{options['port']}"
    location = location.replace(place, other) + "&timeout=3"
    if "password" in options:
        login, _, rest = location.removeprefix("kafka://").rpartition("@")
        location = f"kafka://{login.partition(':')[0]}:{options['password']}@{rest}"
    if "ca" in options:
        location = f"kafka://{other}?tls=true&timeout=3"
    status, shown, said = command(location, "append", topic.name, given="x\n")
    assert status not in (0, -6, -11)
    assert not shown
    assert words in said
    assert len(said.splitlines()) == 1, said
    assert not any(secret in said for secret in (*kafka.secrets, "s3cr3t"))
