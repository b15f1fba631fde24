"""``append``: what becomes of lines, and that everything read is stored or accounted for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eventlog import LogFullError
from eventlog.cli.append import _store
from eventlog.cli.batch_writer import MAX_BATCH_BYTES, BatchWriter, Store
from eventlog.cli.event_json import Incoming
from eventlog.cli.failures import Failure, Interrupted
from eventlog.cli.line_formats import body_lines
from tests.cli.running import Command


@pytest.fixture(autouse=True)
def _topic(command: Command) -> None:
    command.done("topic", "create", "t", "--partitions", "4")


def test_a_line_is_a_body_without_its_newline_and_otherwise_unchanged(command: Command) -> None:
    outcome = command.done("append", "t", given=b"one\n\ntwo \r\n\xff\x00\nlast")
    assert [event.body for event in command.events()] == [
        b"one",
        b"",
        b"two \r",
        b"\xff\x00",
        b"last",
    ]
    assert outcome.out == b""
    assert outcome.err.startswith("5 events stored in ")
    assert outcome.err.count("\n") == 1


def test_input_may_be_a_file(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"a\nb\n")
    command.done("append", "t", str(path))
    command.done("append", "t", "-", given="c\n")
    assert sorted(event.body for event in command.events()) == [b"a", b"b", b"c"]


def test_nothing_to_append_is_not_a_failure(command: Command) -> None:
    assert command.done("append", "t").err.startswith("0 events stored in ")


def test_quiet_says_nothing(command: Command) -> None:
    assert command.done("append", "t", "--quiet", given="x\n") == (0, b"", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], ["no topic 'nope'"]),
        (["t", "/no/such/file"], ["/no/such/file: No such file"]),
        (["t", "--partition", "4"], ["no partition 4"]),
        (["t", "--partition", "-1"], ["no partition -1"]),
    ],
)
def test_what_is_not_there_is_a_failure_even_without_input(
    command: Command, arguments: list[str], words: list[str]
) -> None:
    assert command("append", *arguments).failed(1, *words)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "json", "--key-field", "k"],
        ["--keep-partitions"],
        ["--format", "json", "--keep-partitions", "--partition", "1"],
        ["--property", "novalue"],
        ["--batch", "0"],
        ["--format", "csv"],
    ],
)
def test_options_that_make_no_sense_together_are_usage_errors(
    command: Command, arguments: list[str]
) -> None:
    assert command("append", "t", *arguments, given="x\n").failed(2, "eventlog append --help")
    assert command.events() == []


def test_append_does_not_make_a_log(command: Command, tmp_path: Path) -> None:
    outcome = Command(tmp_path / "none")("append", "t", given="x\n")
    assert outcome.failed(1, "no log")
    assert not (tmp_path / "none").exists()


# Keys, partitions, properties


def test_the_key_is_a_field_of_the_line_as_text(command: Command) -> None:
    lines = [
        '{"id": "VIN-1\\n", "other": [1, {"id": 2}]}',
        '{"id": 1.50}',
        '{"id": true}',
        '{"id": ""}',
        '{"other": 1}',
        '{"id": null}',
    ]
    command.done("append", "t", "--key-field", "id", given="\n".join(lines))
    keys = {event.text(): event.key for event in command.events()}
    assert keys == dict(zip(lines, ["VIN-1\n", "1.50", "true", "", None, None], strict=True))


@pytest.mark.parametrize("line", ["plain", '["id"]', '{"id": [1]}', '{"id": {}}', '{"id": "x"', ""])
def test_a_line_that_cannot_have_the_key_is_named_and_ends_it(command: Command, line: str) -> None:
    good = '{"id": 1}'
    given = "\n".join([good, good, line, good]) + "\n"
    outcome = command("append", "t", "--key-field", "id", given=given)
    assert outcome.failed(1, "line 3: ", "2 events were stored, up to line 2")
    assert [event.text() for event in command.events()] == [good, good]


def test_key_is_for_events_that_have_none(command: Command) -> None:
    given = '{"id": "own"}\n{}\n'
    command.done("append", "t", "--key-field", "id", "--key", "rest", given=given)
    assert {event.text(): event.key for event in command.events()} == {
        '{"id": "own"}': "own",
        "{}": "rest",
    }


def test_equal_keys_keep_their_order_on_one_partition(command: Command) -> None:
    given = "".join(f'{{"id": {number % 7}, "n": {number}}}\n' for number in range(500))
    command.done("append", "t", "--key-field", "id", "--batch", "30", given=given)
    of_key: dict[object, list[tuple[int, int]]] = {}
    for event in command.events():
        of_key.setdefault(event.key, []).append((event.partition, event.json()["n"]))
    assert len(of_key) == 7
    for stood in of_key.values():
        assert len({partition for partition, _ in stood}) == 1
        assert [number for _, number in stood] == sorted(number for _, number in stood)


def test_partition_takes_all_events_whatever_their_keys(command: Command) -> None:
    command.done("append", "t", "--partition", "2", "--key", "k", given="a\nb\n")
    assert [(event.partition, event.key) for event in command.events()] == [(2, "k"), (2, "k")]


def test_properties_are_text_on_every_event(command: Command) -> None:
    arguments = ["--property", "a=1", "--property", "b="]
    command.done("append", "t", *arguments, given="x\ny\n")
    assert [dict(event.properties) for event in command.events()] == [{"a": "1", "b": ""}] * 2


# Batches


@pytest.mark.parametrize(("arguments", "batches"), [([], 3), (["--batch", "500"], 5)])
def test_a_batch_has_as_many_events_as_asked_for(
    command: Command, arguments: list[str], batches: int
) -> None:
    command.done("append", "t", *arguments, given="x\n" * 2100)
    report = command.done("check", "--json").json()
    assert (report["events"], report["batches"]) == (2100, batches)


def test_a_batch_of_large_events_is_smaller() -> None:
    appends: list[int] = []
    writer = BatchWriter(lambda events, _named: appends.append(len(events)), most=1000)
    for number in range(10):
        writer.add(number + 1, Incoming(bytes(2**20)), 2**20)
    writer.flush()
    assert max(appends) * 2**20 == MAX_BATCH_BYTES
    assert sum(appends) == 10


# Whole events


def test_json_takes_whole_events_and_skips_blank_lines(command: Command) -> None:
    given = b'{"body": "a", "key": "k", "properties": {"n": 1}}\n \n\n{"body_base64": "/w=="}\n'
    arguments = ["--format", "json", "--property", "n=0"]
    command.done("append", "t", *arguments, given=given)
    found = {event.body: (event.key, dict(event.properties)) for event in command.events()}
    assert found == {b"a": ("k", {"n": 1}), b"\xff": (None, {"n": "0"})}


def test_a_bad_event_is_named_by_its_line_blank_ones_counted(command: Command) -> None:
    given = '{"body": "a"}\n\n{"body": "b"}\n{"bodi": "c"}\n{"body": "d"}\n'
    outcome = command("append", "t", "--format", "json", given=given)
    assert outcome.failed(1, "line 4: ", "`bodi`", "2 events were stored, up to line 3")
    assert [event.body for event in command.events()] == [b"a", b"b"]


def test_the_partition_an_event_names_counts_only_if_it_is_to_be_kept(command: Command) -> None:
    given = "".join(
        json.dumps({"body": str(number), "key": "k", "partition": number % 4}) + "\n"
        for number in range(20)
    )
    arguments = ["--format", "json", "--batch", "7"]
    command.done("append", "t", *arguments, given=given)
    assert len({event.partition for event in command.events()}) == 1
    command.done("topic", "create", "kept", "--partitions", "4")
    command.done("append", "kept", *arguments, "--keep-partitions", given=given)
    for partition in range(4):
        bodies = [e.text() for e in command.events("kept") if e.partition == partition]
        assert bodies == [str(number) for number in range(partition, 20, 4)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [('{"body": ""}', "names no partition"), ('{"body": "", "partition": 4}', "no partition 4")],
)
def test_partitions_cannot_be_kept_where_there_are_none(
    command: Command, line: str, reason: str
) -> None:
    arguments = ["--format", "json", "--keep-partitions"]
    outcome = command("append", "t", *arguments, given=line + "\n")
    assert outcome.failed(1, "line 1: ", reason, "nothing was stored")


# What goes wrong on the way


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], b"x" * 101),
        (["--format", "json"], json.dumps({"body": "x" * 101}).encode()),
        (["--format", "json"], json.dumps({"body": "", "key": "k" * 1025}).encode()),
        (["--format", "json"], b'{"body": "' + b" " * 2**21),
    ],
)
def test_a_line_that_is_too_large_ends_it_and_is_named(
    command: Command, arguments: list[str], line: bytes
) -> None:
    command.done("topic", "set", "t", "--max-event-bytes", "100")
    good = b'{"body": ""}\n'
    outcome = command("append", "t", *arguments, given=good * 3 + line + b"\n" + good)
    assert outcome.failed(1, "line 4: ", "3 events were stored, up to line 3")
    assert len(command.events()) == 3


def failing(error: BaseException, after: int) -> Store:
    """Appends that raise `error` from the one after `after` on."""
    appends: list[int] = []

    def store(events: Sequence[object], _named: int | None) -> None:
        appends.append(len(events))
        if len(appends) > after:
            raise error

    return store


LINES = [(number, b"x") for number in range(1, 26)]


def test_an_append_that_fails_says_what_was_stored_before() -> None:
    writer = BatchWriter(failing(LogFullError("the disk is full"), after=2), most=10)
    with pytest.raises(Failure, match="the disk is full; 20 events were stored, up to line 20"):
        _store(iter(LINES), body_lines({}), writer)


def test_an_append_that_fails_between_partitions_says_that_it_is_part_of_the_lines() -> None:
    writer = BatchWriter(failing(LogFullError("full"), after=3), most=10)

    def two_partitions(line: bytes) -> Incoming:
        turns.append(len(turns))
        return Incoming(line, turns[-1] % 2)

    turns: list[int] = []
    with pytest.raises(
        Failure, match="full; 15 events were stored: all up to line 10, and some up to line 20"
    ):
        _store(iter(LINES), two_partitions, writer)


def test_ctrl_c_while_reading_stores_what_was_read() -> None:
    writer = BatchWriter(lambda _events, _named: None, most=10)

    def lines() -> Any:
        yield from LINES
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="interrupted; 25 events were stored, up to line 25"):
        _store(lines(), body_lines({}), writer)
    assert writer.stored == 25


def test_ctrl_c_twice_in_an_append_says_what_is_not_known_and_appends_nothing_again() -> None:
    appends: list[int] = []

    def store(events: Sequence[object], _named: int | None) -> None:
        appends.append(len(events))
        if len(appends) == 2:
            raise KeyboardInterrupt

    writer = BatchWriter(store, most=10)
    with pytest.raises(
        Interrupted,
        match="10 events were stored, up to line 10; whether lines 11 to 20 were is not known",
    ):
        _store(iter(LINES), body_lines({}), writer)
    assert appends == [10, 10]
