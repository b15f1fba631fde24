"""``eventlog group show`` of a group that hosts share, once and again and again."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from rich.console import Console

import eventlog
from eventlog.cli.display import Value, age_text, rich_table
from eventlog.cli.group.picture import MEMBER_COLUMNS, OPTIONAL_COLUMNS, PARTITION_COLUMNS
from eventlog.groups.documents import GroupDocument, GroupIds, HostDocument, Share, decode, encode
from tests.cli.running import Command, environment

SHOW = ("group", "show", "cars", "fraud")
STARTED = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ids_of(log: eventlog.EventLog) -> GroupIds:
    return GroupIds(log.id, "cars", log.topic("cars").id, "fraud")


def group_document(log: eventlog.EventLog) -> GroupDocument:
    name = ids_of(log).document
    blob = log.blobs.get(name)
    assert isinstance(blob, eventlog.blobs.Blob)
    found = decode(name, blob.data, GroupDocument, ids_of(log))
    assert found is not None
    return found


def heartbeat(log: eventlog.EventLog, member: str, *, process: int) -> None:
    document = HostDocument(
        host=member,
        machine="big.example",
        process=process,
        beat=7,
        started_at=STARTED,
        beat_at=STARTED + timedelta(seconds=70),
        log=log.id,
        topic=log.topic("cars").id,
        group=group_document(log).group,
    )
    log.blobs.put(ids_of(log).heartbeat(member), encode(document))


@pytest.fixture
def shared(command: Command) -> Command:
    """A group of two hosts: one owns two partitions, and one of these goes to the other."""
    command.done("topic", "create", "cars", "--partitions", "3")
    command.done("append", "cars", "--partition", "1", given="1\n2\n3\n")
    with command.open() as log:
        with log.transaction() as transaction:
            transaction.checkpoint("cars", "fraud", partition=1, offset=0)
        document = replace(
            group_document(log),
            generation=12,
            lease_duration=1.5,
            hosts=["a-1", "b-2"],
            leaving=["b-2"],
            partitions={0: Share("a-1", 3), 1: Share("a-1", 4, "b-2"), 2: Share(None, 2)},
        )
        log.blobs.put(ids_of(log).document, encode(document))
        heartbeat(log, "a-1", process=12345)
    return command


def columns(line: str) -> list[str]:
    return line.split("\t")


# Once


def test_members_and_owners_are_shown_and_who_is_next(shared: Command) -> None:
    lines = shared.done(*SHOW).lines
    assert lines[:5] == [
        "topic\tcars",
        "group\tfraud",
        "lease\t1500ms",
        "",
        "\t".join(MEMBER_COLUMNS),
    ]
    started, beat = "2026-03-01T12:00:00.000000Z", "2026-03-01T12:01:10.000000Z"
    assert columns(lines[5]) == ["a-1", "host", "2", "big.example", "12345", started, beat]
    assert columns(lines[6]) == ["b-2", "leaving", "0", "none", "none", "none", "none"]
    assert lines[7:9] == ["", "\t".join(PARTITION_COLUMNS)]
    first, second, third = (columns(line) for line in lines[9:])
    assert first == ["0", "none", "0", "0.000", "a-1", "3", "none", "none", "none"]
    assert second[:3] + second[4:8] == ["1", "0", "2", "a-1", "4", "b-2", "0"]
    assert third == ["2", "none", "0", "0.000", *["none"] * 5]


def test_all_of_it_is_in_json(shared: Command) -> None:
    shown = shared.done(*SHOW, "--json").json()
    assert (shown["generation"], shown["lease_seconds"]) == (12, 1.5)
    assert shown["members"] == [
        {
            "member": "a-1",
            "role": "host",
            "partitions": [0, 1],
            "machine": "big.example",
            "process": 12345,
            "started_at": "2026-03-01T12:00:00.000000Z",
            "beat_at": "2026-03-01T12:01:10.000000Z",
        },
        {
            "member": "b-2",
            "role": "leaving",
            "partitions": [],
            **dict.fromkeys(("machine", "process", "started_at", "beat_at")),
        },
    ]
    parts = shown["partitions"]
    assert [part["owner"] for part in parts] == ["a-1", "a-1", None]
    assert [part["epoch"] for part in parts] == [3, 4, None]
    assert [part["next"] for part in parts] == [None, "b-2", None]
    assert [part["offset"] for part in parts] == [None, 0, None]


def test_a_heartbeat_of_a_deleted_group_or_a_damaged_one_is_none(shared: Command) -> None:
    with shared.open() as log:
        name = ids_of(log).document
        log.blobs.put(name, encode(replace(group_document(log), group="another")))
    assert "big.example" not in shared.done(*SHOW).out.decode()
    with shared.open() as log:
        log.blobs.put(ids_of(log).heartbeat("a-1"), b"nonsense")
    assert "a-1\thost\t2\tnone" in shared.done(*SHOW).out.decode()


def test_a_terminal_gets_tables_and_ages_instead_of_times(shared: Command) -> None:
    code, shown = shared.on_terminal(*SHOW)
    assert code == 0
    assert "lease  1500ms" in shown
    assert "d ago" in shown
    assert "12345" in shown
    assert "leaving" in shown
    assert "2026-03" not in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0.0 s ago"),
        (0.42, "0.4 s ago"),
        (59.94, "59.9 s ago"),
        (59.96, "1 m ago"),
        (3599, "60 m ago"),
        (3600, "1 h ago"),
        (86_399, "23 h ago"),
        (86_400 * 2000, "2,000 d ago"),
    ],
)
def test_ages_are_in_one_unit(seconds: float, text: str) -> None:
    assert age_text(timedelta(seconds=seconds)) == text


def drawn(rows: Sequence[Sequence[Value]], width: int) -> list[str]:
    """The lines of a table of partitions on a terminal."""
    console = Console(file=io.StringIO(), width=width)
    table = rich_table(console, PARTITION_COLUMNS, rows, optional=OPTIONAL_COLUMNS)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


ROW = (0, 81_204, 96, "0.112", "vm-aaab1221", 12, "vm-aaab1222", 0, "0.1 s ago")


@pytest.mark.parametrize(
    ("width", "last"),
    [
        (120, ["0", "81,204", "96", "0.112", "vm-aaab1221", "12", "vm-aaab1222", "0", "0.1 s ago"]),
        (80, ["0", "81,204", "96", "0.112", "vm-aaab1221", "12", "vm-aaab1222"]),
        (60, ["0", "81,204", "96", "vm-aaab1221", "vm-aaab1222"]),
        (50, ["0", "96", "vm-aaab1221", "vm-aaab1222"]),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_and_whole_names(width: int, last: list[str]) -> None:
    lines = drawn([ROW], width)
    assert max(map(len, lines)) <= width
    assert re.split("  +", lines[-2].strip()) == last


def test_titles_are_wrapped_before_a_column_is_left_out() -> None:
    lines = drawn([ROW], 90)
    assert "resets" in lines[2]
    assert (lines[1].strip(), "seconds" in lines[2]) == ("lag", True)


def test_where_nothing_more_can_be_left_out_values_are_folded() -> None:
    lines = drawn([ROW], 30)
    assert max(map(len, lines)) <= 30
    assert not any("vm-aaab1221" in line for line in lines)


# Again and again


def block(process: subprocess.Popen[bytes], last: bytes) -> list[bytes]:
    """The lines a process prints, up to the one that begins so."""
    assert process.stdout is not None
    lines: list[bytes] = []
    while not lines or not lines[-1].startswith(last):
        lines.append(process.stdout.readline())
        assert lines[-1], lines
    return lines


def test_watching_prints_a_block_each_time_into_a_pipe(shared: Command) -> None:
    with shared.started(*SHOW, "--watch", "0.05") as process:
        first = block(process, b"2\t")
        assert first[0] == b"topic\tcars\n"
        shared.done("append", "cars", "--partition", "1", given="4\n")
        for _ in range(1000):
            again = block(process, b"2\t")
            assert again[:2] == [b"\n", b"topic\tcars\n"]
            if again[-2].startswith(b"1\t0\t3\t"):
                break
        else:
            pytest.fail("what was appended is not shown")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_watching_in_json_is_a_document_each_time(shared: Command) -> None:
    with shared.started(*SHOW, "--json", "--watch", "0.05") as process:
        documents = [block(process, b"}") for _ in range(3)]
        assert [document[0] for document in documents] == [b"{\n"] * 3


def test_watching_ends_when_the_group_is_deleted(shared: Command) -> None:
    with shared.started(*SHOW, "--watch", "0.05") as process:
        block(process, b"2\t")
        shared.done("group", "delete", "cars", "fraud", "--force")
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read()
        assert process.wait(60) == 1
        assert process.stderr.read() == b"eventlog: topic 'cars' has no group 'fraud'\n"


def test_watching_what_is_not_there_is_one_line(shared: Command) -> None:
    assert shared("group", "show", "cars", "no", "--watch").failed(1, "no group 'no'")
    assert shared(*SHOW, "--watch", "0").failed(2, "--watch")


@contextmanager
def on_terminal(
    command: Command, *arguments: str, lines: int = 40
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A verb on a terminal that goes on, and what reads the terminal."""
    ours, theirs = pty.openpty()
    argv = command.argv(*arguments)
    with subprocess.Popen(
        argv, env=environment(LINES=str(lines)), stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.parametrize(
    "arguments",
    [
        (*SHOW, "--watch", "0.05"),
        ("group", "show", "--watch", "0.05", "cars", "fraud"),
        (*SHOW, "--watch"),
        ("group", "show", "--watch", "cars", "fraud"),
    ],
)
def test_watching_redraws_a_terminal_until_ctrl_c(
    shared: Command, arguments: tuple[str, ...]
) -> None:
    with on_terminal(shared, *arguments) as (process, terminal):
        shown = b""
        while shown.count(b"partition") < 2 or b"big.example" not in shown:
            shown += os.read(terminal, 65536)
        assert b"Ctrl-C ends" in shown
        assert b"\x1b[?1049h" in shown
        process.send_signal(signal.SIGINT)
        rest = b""
        while b"\x1b[?1049l" not in rest:
            rest += os.read(terminal, 65536)
        assert process.wait(60) == 130
        assert b"Traceback" not in shown + rest


def test_watching_says_what_there_is_no_room_for(shared: Command) -> None:
    shared.done("topic", "set", "cars", "--add-partitions", "97")
    with on_terminal(shared, *SHOW, "--watch", "0.05", lines=24) as (_, terminal):
        shown = b""
        while b"there is no room" not in shown:
            shown += os.read(terminal, 65536)
        (left_out,) = re.findall(rb"(\d+) more partitions", shown)
        # Of 24 lines 5 are about the group, 6 about its members, and 5 about its partitions.
        assert int(left_out) == 100 - (24 - 5 - 6 - 5)
        assert b"more members" not in shown
