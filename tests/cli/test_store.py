"""``eventlog store``: listing, printing and removing the documents in a blob store."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import eventlog
from eventlog.blobs import Blob
from tests.cli.running import Command

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@pytest.fixture
def filled(command: Command) -> Command:
    """A log with three documents in its own store."""
    with eventlog.open(command.location) as log:
        log.blobs.put("a/one.json", b"{}\n")
        log.blobs.put("a/two.json", b"\xff" * 2000)
        log.blobs.put("b", b"")
    return command


def stored(command: Command, name: str) -> Blob:
    with command.open(read_only=True) as log:
        blob = log.blobs.get(name)
    assert isinstance(blob, Blob)
    return blob


def names(command: Command) -> list[str]:
    with command.open(read_only=True) as log:
        return [name for name, _ in log.blobs.list("")]


def test_ls_is_a_line_for_each_name(filled: Command) -> None:
    assert filled.done("store", "ls").lines == ["a/one.json", "a/two.json", "b"]
    assert filled.done("store", "ls", "a/t").lines == ["a/two.json"]
    assert filled.done("store", "ls", "c").out == b""


def test_a_long_listing_has_sizes_times_and_etags(filled: Command) -> None:
    first, second = (line.split("\t") for line in filled.done("store", "ls", "-l", "a/").lines)
    assert [first[0], second[0]] == ["3", "2000"]
    assert INSTANT.fullmatch(first[1])
    assert first[2:] == [stored(filled, "a/one.json").etag, "a/one.json"]


def test_a_listing_in_json(filled: Command) -> None:
    (listed,) = filled.done("store", "ls", "b", "--json").json()
    assert INSTANT.fullmatch(listed.pop("modified_at"))
    assert listed == {"name": "b", "etag": stored(filled, "b").etag, "size_bytes": 0}
    assert filled.done("store", "ls", "c", "--json").json() == []


def test_cat_prints_bytes_as_they_are(filled: Command) -> None:
    assert filled.done("store", "cat", "a/two.json").out == b"\xff" * 2000
    assert filled.done("store", "cat", "a/one.json", "b", "a/one.json").out == b"{}\n{}\n"


def test_rm_removes_what_is_named_and_nothing_else(filled: Command) -> None:
    assert filled.done("store", "rm", "a/one.json", "b") == (0, b"", "")
    assert names(filled) == ["a/two.json"]


def test_rm_with_an_etag_removes_only_that_version(filled: Command) -> None:
    etag = stored(filled, "b").etag
    with filled.open() as log:
        log.blobs.put("b", b"newer")
    refused = filled("store", "rm", "b", "--if-match", etag)
    assert refused.failed(1, "'b'", etag)
    filled.done("store", "rm", "b", "--if-match", stored(filled, "b").etag)
    assert names(filled) == ["a/one.json", "a/two.json"]
    assert filled("store", "rm", "a/one.json", "a/two.json", "--if-match", etag).failed(
        2, "one NAME"
    )


@pytest.mark.parametrize("verb", ["cat", "rm"])
def test_a_name_that_is_not_there_is_one_line(filled: Command, verb: str) -> None:
    assert filled("store", verb, "a/three.json").failed(1, "there is no 'a/three.json'")
    assert filled("store", verb, "../x").failed(1, "'../x' cannot name a blob")
    assert filled("store", verb).failed(2, "Missing argument 'NAME...'")
    assert len(names(filled)) == 3


def test_what_comes_before_a_name_that_is_not_there_is_removed(filled: Command) -> None:
    assert filled("store", "rm", "b", "c", "a/one.json").failed(1, "there is no 'c'")
    assert names(filled) == ["a/one.json", "a/two.json"]


def test_a_prefix_that_no_name_has_is_refused(filled: Command) -> None:
    assert filled("store", "ls", "../").failed(1, "'../'")


def test_another_store_needs_no_log(command: Command, tmp_path: Path) -> None:
    store = ["--store", f"file:{tmp_path}/blobs"]
    assert command.bare("store", "ls", *store).out == b""
    with eventlog.blobs.open(store[1]) as blobs:
        blobs.put("a/b", b"text")
    assert command.bare("store", "ls", *store).lines == ["a/b"]
    assert command.bare("store", "cat", "a/b", *store).out == b"text"
    assert command.bare("store", "rm", "a/b", *store).code == 0
    assert command.bare("store", "ls", *store).out == b""


def test_without_a_store_a_log_is_needed(command: Command) -> None:
    assert command.bare("store", "ls").failed(2, "--log")
    assert command("store", "ls").failed(1, "there is no log")
    assert not command.location.exists()


def test_looking_leaves_the_log_as_it_is(filled: Command) -> None:
    before = stored(filled, "a/one.json")
    for verb in (["ls"], ["ls", "-l"], ["cat", "a/one.json"]):
        filled.done("store", *verb)
    assert stored(filled, "a/one.json") == before


def test_a_terminal_gets_a_table_and_is_told_what_was_removed(filled: Command) -> None:
    code, shown = filled.on_terminal("store", "ls", "--long")
    assert code == 0
    assert "modified" in shown
    assert "2 KiB" in shown
    assert filled.on_terminal("store", "rm", "b") == (0, "b removed\r\n")
