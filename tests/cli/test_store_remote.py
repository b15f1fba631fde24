"""``eventlog store`` and ``eventlog group`` on the stores behind a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import eventlog
import eventlog.blobs
from eventlog.blobs import Blob
from tests.cli.running import Command
from tests.servers import Server


def test_what_is_stuck_can_be_listed_printed_and_removed(remote: Server, command: Command) -> None:
    url = remote.store_url()
    with eventlog.blobs.open(url) as store:
        etag = store.put("groups/a.json", b'{"owner": "a"}\n')
        store.put("groups/b.json", b"\xff" * 2000)
        assert command.done("store", "ls", "--store", url).lines == [
            "groups/a.json",
            "groups/b.json",
        ]
        (listed,) = command.done("store", "ls", "groups/a", "--json", "--store", url).json()
        assert (listed["etag"], listed["size_bytes"]) == (etag, 15)
        printed = command.done("store", "cat", "groups/a.json", "groups/b.json", "--store", url)
        assert printed.out == b'{"owner": "a"}\n' + b"\xff" * 2000
        refused = command("store", "rm", "groups/b.json", "--if-match", etag, "--store", url)
        assert refused.code == 1
        command.done("store", "rm", "groups/a.json", "--if-match", etag, "--store", url)
        assert store.get("groups/a.json") is None
        assert isinstance(store.get("groups/b.json"), Blob)


def test_a_group_is_shown_and_reset_there(remote: Server, command: Command) -> None:
    url = remote.store_url()
    with eventlog.open(command.location) as log:
        cars = log.create_topic("cars", partitions=2)
        cars.append_batch([b"0", b"1", b"2"], partition=1)
        cars.group("fraud", url).reset({1: 3})
    (group,) = command.done("group", "list", "cars", "--json", "--store", url).json()
    assert group["group"] == "fraud"
    command.done("group", "reset", "cars", "fraud", "--to", "earliest", "--store", url)
    with eventlog.open(command.location) as log:
        assert log.topic("cars").group("fraud", url).checkpoints()[1].offset == -1


def test_a_store_that_is_away_is_one_line_without_secrets(remote: Server, command: Command) -> None:
    url = remote.store_url()
    remote.stop()
    url += f"{'&' if '?' in url else '?'}timeout=0.5"
    failed = command("store", "ls", "--store", url)
    assert failed.code == 1
    assert len(failed.err.splitlines()) == 1
    assert not any(secret in failed.err for secret in remote.secrets)


def test_an_extra_that_is_not_installed_is_named_in_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("eventlog.blobs.postgresql")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    refused = command("store", "ls", "--store", "postgresql://nowhere/db")
    assert refused.failed(1, "embedded-eventlog[postgresql]")


def test_the_store_may_stand_in_the_environment(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eventlog.blobs.open(tmp_path / "store").put("a", b"1")
    monkeypatch.setenv("EVENTLOG_STORE", f"file:{tmp_path / 'store'}")
    assert command.done("store", "ls").lines == ["a"]
