"""``read``: which events are printed, and how."""

from __future__ import annotations

import base64
import csv
import io
import json
from datetime import timedelta
from pathlib import Path

import pytest

import eventlog
from eventlog import EARLIEST, LATEST, Event
from eventlog.cli.event_ranges import Range, fetches, resolve
from tests.cli.running import Command, flip_bits


@pytest.fixture
def filled(command: Command) -> Command:
    """Ten events on each of three partitions."""
    command.done("topic", "create", "t", "--partitions", "3")
    with command.open() as log:
        for partition in range(3):
            bodies = [f"{partition}-{number}".encode() for number in range(10)]
            log.topic("t").append_batch(bodies, partition=partition)
    return command


def bodies(*partitions: int, numbers: range = range(10)) -> list[str]:
    return [f"{partition}-{number}" for partition in partitions for number in numbers]


def test_all_partitions_are_read_one_after_the_other(filled: Command) -> None:
    assert filled.done("read", "t").lines == bodies(0, 1, 2)


def test_partitions_are_read_in_the_order_given_and_once(filled: Command) -> None:
    arguments = ["--partition", "2", "--partition", "0", "--partition", "2"]
    assert filled.done("read", "t", *arguments).lines == bodies(2, 0)


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--from", "3"], range(3, 10)),
        (["--to", "3"], range(3)),
        (["--from", "3", "--to", "5"], range(3, 5)),
        (["--from", "5", "--to", "3"], range(0)),
        (["--from", "10"], range(0)),
        (["--to", "99"], range(10)),
        (["--from", "latest"], range(0)),
        (["--to", "earliest"], range(0)),
        (["--from", "-1h"], range(10)),
        (["--to", "-1h"], range(0)),
        (["--from", "2026-01-01T00:00Z", "--to", "9999-01-01T00:00Z"], range(10)),
        (["--max", "4"], range(4)),
        (["--max", "0"], range(0)),
    ],
)
def test_from_to_and_max_bound_what_is_read(
    filled: Command, arguments: list[str], numbers: range
) -> None:
    read = filled.done("read", "t", "--partition", "1", *arguments)
    assert read.lines == bodies(1, numbers=numbers)


def test_max_counts_over_all_partitions(filled: Command) -> None:
    assert filled.done("read", "t", "--max", "15").lines == bodies(0, 1)[:15]


def test_a_time_is_that_of_each_event(command: Command) -> None:
    command.done("topic", "create", "t", "--partitions", "1")
    with command.open() as log:
        topic = log.topic("t")
        receipts = [topic.append(str(number)) for number in range(3)]
    when = receipts[1].enqueued_at
    assert command.done("read", "t", "--from", when.isoformat()).lines[-2:] == ["1", "2"]
    after = when + timedelta(microseconds=1)
    assert command.done("read", "t", "--to", after.isoformat()).lines[:2] == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["t", "--from", "11"], 1, ["no offset 11", "partition 0"]),
        (["t", "--partition", "3"], 1, ["no partition 3"]),
        (["u"], 1, ["no topic 'u'"]),
        (["t", "--from", "soon"], 2, ["'--from'", "'soon' is no position"]),
        (["t", "--to", "2026-01-01T00:00"], 2, ["'--to'", "no timezone"]),
        (["t", "--format", "xml"], 2, ["'xml'"]),
        (["t", "--max", "-1"], 2, ["'--max'"]),
        (["t", "--format", "json", "--with-key"], 2, ["json has offsets and keys"]),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything_is_printed(
    filled: Command, arguments: list[str], code: int, words: list[str]
) -> None:
    outcome = filled("read", *arguments)
    assert outcome.failed(code, *words)
    assert outcome.out == b""


def test_reading_does_not_make_a_log(tmp_path: Path) -> None:
    assert Command(tmp_path / "none")("read", "t").failed(1, "no log")
    assert not (tmp_path / "none").exists()


def test_the_end_is_where_it_was_when_reading_began(command: Command) -> None:
    command.done("topic", "create", "t", "--partitions", "1")
    with command.open() as log:
        topic = log.topic("t")
        topic.append_batch([b"x"] * 10)
        wanted = resolve(topic, 0, EARLIEST, LATEST)
        count = 0
        for events in fetches(topic, wanted):
            topic.append_batch([b"more"] * 100)
            count += len(events)
        assert count == 10


def test_much_is_read_some_at_a_time(command: Command) -> None:
    command.done("topic", "create", "t", "--partitions", "1")
    with command.open() as log:
        topic = log.topic("t")
        for _ in range(6):
            topic.append_batch([bytes(500_000)] * 4)
        topic.append_batch([b""] * 25_000)
        sizes = [
            (len(events), sum(len(event.body) for event in events))
            for events in fetches(topic, resolve(topic, 0, EARLIEST, LATEST))
        ]
    assert sum(count for count, _ in sizes) == 25_024
    assert max(count for count, _ in sizes) <= 10_000
    assert max(size for _, size in sizes) <= 4 * 2**20


def test_what_expires_before_it_is_read_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1_000_000_000_000_000]
    with eventlog.open(tmp_path / "log", clock=lambda: now[0]) as log:
        topic = log.create_topic("t", partitions=1, retention=10)
        topic.append_batch([b"old"] * 3)
        wanted = resolve(topic, 0, EARLIEST, LATEST)._replace(stop=5)
        now[0] += 20_000_000
        topic.append_batch([b"new"] * 3)
        found = [event.body for events in fetches(topic, wanted) for event in events]
        assert found == [b"new"] * 2
        assert list(fetches(topic, Range(0, 0, 2))) == []
    warned = "eventlog: warning: partition 0: offsets 0 to {} expired before they were read\n"
    assert capsys.readouterr().err == warned.format(2) + warned.format(1)


# Formats

ODD = [
    Event(b"plain"),
    Event(b'a,"b"\n\r', key="tab\tkey", properties={"n": 1}),
    Event(b"\xff\x00\n", key=b"\xfe"),
    Event(b"", key=""),
    Event(b"\r", key="é"),
]


@pytest.fixture
def odd(command: Command) -> Command:
    """Events that a careless format would garble."""
    command.done("topic", "create", "t", "--partitions", "1")
    with command.open() as log:
        log.topic("t").append_batch(ODD)
    return command


def test_text_is_the_bodies_as_they_are(odd: Command) -> None:
    assert odd.done("read", "t").out == b"".join(event.body + b"\n" for event in ODD)


def test_text_may_have_partition_and_offset_and_key_before_the_body(odd: Command) -> None:
    key = odd.done("read", "t", "--with-key", "--to", "3").out
    assert key == b'\tplain\ntab\tkey\ta,"b"\n\r\n\xfe\t\xff\x00\n\n'
    both = odd.done("read", "t", "--with-key", "--with-offset", "--from", "3").out
    assert both == b"0\t3\t\t\n0\t4\t" + "é".encode() + b"\t\r\n"
    offset = odd.done("read", "t", "--with-offset", "--max", "1").out
    assert offset == b"0\t0\tplain\n"


def test_json_is_an_object_a_line(odd: Command) -> None:
    lines = [json.loads(line) for line in odd.done("read", "t", "--format", "json").lines]
    assert [line["offset"] for line in lines] == list(range(5))
    assert {line["partition"] for line in lines} == {0}
    assert lines[1]["body"] == 'a,"b"\n\r'
    assert lines[2]["key_base64"] == "/g=="


def test_csv_reads_back_with_a_header(odd: Command) -> None:
    text = odd.done("read", "t", "--format", "csv").out.decode()
    assert text.startswith(
        "partition,offset,enqueued_at,key,key_base64,body,body_base64,properties\n"
    )
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    for event, row in zip(ODD, rows, strict=True):
        body = base64.b64decode(row["body_base64"]) or row["body"].encode()
        key = base64.b64decode(row["key_base64"]) or row["key"].encode()
        plain = event.key or b""
        assert (body, key) == (event.body, plain.encode() if isinstance(plain, str) else plain)
        assert json.loads(row["properties"] or "{}") == event.properties


def test_csv_of_nothing_is_its_header(odd: Command) -> None:
    assert len(odd.done("read", "t", "--format", "csv", "--from", "latest").lines) == 1


# Damage


@pytest.fixture(params=["payload", "header"])
def damaged(command: Command, request: pytest.FixtureRequest) -> Command:
    """Three batches of ten, the one in the middle damaged."""
    command.done("topic", "create", "t", "--partitions", "1", "--compression", "none")
    with command.open() as log:
        for number in range(3):
            log.topic("t").append_batch([f"marker-{number}"] * 10)
    marker = (
        b"marker-1" if request.param == "payload" else _header_of(command.location, b"marker-1")
    )
    flip_bits(command.location, marker)
    return command


def _header_of(location: Path, marker: bytes) -> bytes:
    """Some bytes of the header of the batch that begins with `marker`."""
    (path,) = location.glob("events-*.mdb")
    data = path.read_bytes()
    at = data.index(marker)
    return data[at - 24 : at - 8]


def test_damage_ends_reading_behind_what_comes_before_it(damaged: Command) -> None:
    outcome = damaged("read", "t")
    assert outcome.lines == ["marker-0"] * 10
    assert outcome.failed(1, "partition 0", "offsets 10 to 19", "--skip-damaged")


def test_damage_can_be_skipped_with_a_warning(damaged: Command) -> None:
    outcome = damaged("read", "t", "--skip-damaged")
    assert outcome.lines == ["marker-0"] * 10 + ["marker-2"] * 10
    assert outcome.failed(0, "warning: skipped: ", "offsets 10 to 19")


def test_max_does_not_count_what_is_damaged(damaged: Command) -> None:
    outcome = damaged("read", "t", "--skip-damaged", "--max", "15")
    assert outcome.lines == ["marker-0"] * 10 + ["marker-2"] * 5


def test_check_names_what_is_damaged_and_fails(damaged: Command) -> None:
    outcome = damaged("check")
    assert (outcome.code, outcome.err) == (1, "")
    first, last = outcome.lines
    assert first.startswith("damaged: topic t, partition 0, offsets 10 to 19: ")
    assert last.startswith("1 damaged: 1 topics, 1 partitions, 3 batches, ")
    report = damaged("check", "--json")
    assert report.code == 1
    assert report.json()["ok"] is False
    (damage,) = report.json()["damaged"]
    assert (damage["topic"], damage["partition"]) == ("t", 0)
    assert (damage["first_offset"], damage["last_offset"]) == (10, 19)
    assert damage["reason"]
