"""The command as a process: pipes, signals, terminals, exit codes, errors in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import eventlog
from eventlog import Event
from tests.cli.running import ROOT, Command, environment


@pytest.fixture
def large(command: Command) -> Command:
    """A topic of more than a pipe holds."""
    command.done("topic", "create", "t", "--partitions", "2")
    command.done("append", "t", given=b"a line that is repeated\n" * 50_000)
    return command


def test_what_read_prints_append_takes_unchanged(command: Command) -> None:
    """Bodies, keys, properties and their types survive ``read | append``."""
    when = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    properties = {"n": None, "t": True, "i": 1, "f": 1.0, "s": "é", "b": b"\xff", "d": when}
    given = [
        Event(b"text", key="k", properties=properties),
        Event(b"\xff\x00", key=b"utf-8 bytes"),
        Event(b"two\nlines", key=""),
        Event(b""),
        Event(b"x", properties={"big": 2**64 - 1, "small": -(2**63), "inf": float("-inf")}),
    ]
    command.done("topic", "create", "t", "--partitions", "3")
    command.done("topic", "create", "u", "--partitions", "3")
    with command.open() as log:
        log.topic("t").append_batch(given)
        log.topic("t").append_batch(given, partition=2)
    with command.started("read", "t", "--format", "json") as reader:
        appended = command.process(
            *("append", "u", "--format", "json", "--keep-partitions", "--batch", "3"),
            stdin=reader.stdout,
        )
        assert reader.wait(60) == 0
    assert appended.returncode == 0
    assert appended.stderr.startswith(b"10 events stored in ")

    def parts(topic: str) -> list[object]:
        return [
            (e.partition, e.offset, e.body, type(e.key), e.key, repr(dict(e.properties)))
            for e in command.events(topic)
        ]

    assert parts("u") == parts("t")
    assert len(parts("u")) == 10


def test_a_reader_that_goes_away_is_no_error(large: Command) -> None:
    with large.started("read", "t") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"a line that is repeated\n"
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_ctrl_c_ends_reading_without_a_word(large: Command) -> None:
    with large.started("read", "t") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b""


def test_ctrl_c_in_append_says_exactly_what_is_stored(command: Command) -> None:
    command.done("topic", "create", "t", "--partitions", "1")
    with command.open() as log, command.started("append", "t", "--batch", "1000") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"x\n" * 2500)
        process.stdin.flush()
        while log.topic("t").partition_info(0).next_offset < 2000:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        stored = log.topic("t").partition_info(0).next_offset
        assert 2000 <= stored <= 2500
        said = f"eventlog: interrupted; {stored:,} events were stored, up to line {stored}\n"
        assert process.stderr.read().decode() == said


def test_append_stores_what_has_come_when_its_input_ends(command: Command) -> None:
    command.done("topic", "create", "t", "--partitions", "1")
    with command.started("append", "t") as process:
        assert process.communicate(b"one\ntwo\nthree", timeout=60)[0] == b""
        assert process.returncode == 0
    assert [event.body for event in command.events()] == [b"one", b"two", b"three"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["read", "t"], ["topic", "list"], ["check", "--json"]])
def test_output_that_cannot_be_written_is_one_line(large: Command, arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = large.process(*arguments, capture_output=False, stdout=full, stderr=-1)
    assert ended.stderr == b"eventlog: standard output: No space left on device\n"
    assert ended.returncode == 1


def test_streams_that_are_closed_are_one_line(large: Command) -> None:
    run = ["sh", "-c", 'exec "$@" <&- >&-', "sh"]
    for verb, words in ((["read"], b"standard output"), (["append"], b"standard input")):
        argv = [*run, *large.argv(*verb, "t")]
        ended = subprocess.run(argv, env=environment(), stderr=-1, timeout=60, check=False)
        assert ended.returncode == 1
        assert ended.stderr == b"eventlog: " + words + b": it is closed\n"


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["read", "nope"], 1, "has no topic 'nope'"),
        (["read"], 2, "Missing argument 'TOPIC' (see 'eventlog read --help')"),
        (["sing"], 2, "No such command 'sing' (see 'eventlog --help')"),
        (["read", "t", "--sing"], 2, "No such option"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    large: Command, arguments: list[str], code: int, line: str
) -> None:
    ended = large.process(*arguments)
    assert ended.returncode == code
    assert ended.stdout == b""
    assert ended.stderr.startswith(b"eventlog: ")
    assert ended.stderr.count(b"\n") == 1
    assert line in ended.stderr.decode()


def test_debug_shows_the_traceback_too(command: Command) -> None:
    for ended in (
        command.process("--debug", "read", "t"),
        command.process("read", "t", "--debug"),
        subprocess.run(
            command.argv("read", "t"),
            env=environment(EVENTLOG_DEBUG="1"),
            capture_output=True,
            timeout=60,
            check=False,
        ),
    ):
        assert ended.returncode == 1
        assert b"Traceback (most recent call last)" in ended.stderr
        assert ended.stderr.splitlines()[-1].startswith(b"eventlog: there is no log at ")


def test_the_log_is_named_before_or_after_the_verb_or_in_the_environment(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command.done("topic", "create", "t")
    here, elsewhere = str(command.location), str(tmp_path / "elsewhere")
    for arguments in (
        ["--log", here, "topic", "list"],
        ["topic", "--log", here, "list"],
        ["topic", "list", "--log", here],
        ["--log", elsewhere, "topic", "list", f"--log={here}"],
    ):
        assert command.bare(*arguments).lines == ["t\t4\t0\t0\tnone\tnone"]
    monkeypatch.setenv("EVENTLOG_LOG", elsewhere)
    assert command.bare("topic", "list").failed(1, "elsewhere")
    assert command.bare("topic", "list", "--log", here).code == 0
    monkeypatch.setenv("EVENTLOG_LOG", here)
    assert command.bare("topic", "list").code == 0


def test_no_log_named_is_a_usage_error(command: Command) -> None:
    outcome = command.bare("topic", "list")
    assert outcome.failed(2, "give --log LOCATION or set EVENTLOG_LOG")


def test_version_and_help_need_no_log(command: Command) -> None:
    assert command.bare("--version").out.decode() == f"eventlog {eventlog.__version__}\n"
    for verb in ([], ["topic"], ["topic", "create"], ["append"], ["read"], ["check"]):
        for option in ("--help", "-h"):
            outcome = command.bare(*verb, option)
            assert (outcome.code, outcome.err) == (0, "")
            assert outcome.out.startswith(b"Usage: eventlog")


def test_no_verb_is_a_usage_error_that_shows_the_help(command: Command) -> None:
    outcome = command.bare()
    assert (outcome.code, outcome.out) == (2, b"")
    assert outcome.err.startswith("Usage: eventlog [OPTIONS] COMMAND")


@pytest.mark.parametrize("package", ["click", "rich"])
def test_a_missing_extra_says_what_to_install(command: Command, package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "sys.stdout.isatty = lambda: True\n"
        "from eventlog.cli import main; main()"
    )
    command.done("topic", "create", "t")
    ended = subprocess.run(
        [sys.executable, "-c", program, "--log", str(command.location), "topic", "list"],
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.decode() == (
        f'eventlog: the command line needs {package}: pip install "embedded-eventlog[cli]"\n'
    )


def test_rich_is_imported_only_for_a_terminal(command: Command) -> None:
    command.done("topic", "create", "t")
    program = (
        "import sys\n"
        "from eventlog.cli import main\n"
        "try: main()\n"
        "finally: print('rich' in sys.modules, file=sys.stderr)"
    )
    for verb in (["topic", "list"], ["topic", "show", "t"], ["read", "t"], ["expire"]):
        ended = subprocess.run(
            [sys.executable, "-c", program, "--log", str(command.location), *verb],
            env=environment(),
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert ended.stderr == b"False\n"


def test_a_terminal_gets_tables_with_headers_and_units(command: Command) -> None:
    command.done("topic", "create", "cars", "--retention-bytes", "10GiB", "--partitions", "2")
    command.done("append", "cars", given="x\n" * 1500)
    code, shown = command.on_terminal("topic", "list")
    assert code == 0
    assert "topic" in shown.splitlines()[1]
    assert "1,500" in shown
    assert "10 GiB" in shown
    code, shown = command.on_terminal("topic", "show", "cars")
    assert code == 0
    assert "max event bytes  1 MiB" in shown
    assert "last enqueued" in shown


def test_a_terminal_is_told_what_was_done(command: Command) -> None:
    assert command.on_terminal("topic", "create", "t") == (0, "topic t created\r\n")
    assert command.on_terminal("topic", "create", "t", "--exist-ok") == (0, "topic t exists\r\n")
    assert command.on_terminal("compact") == (0, "compacted\r\n")


def test_binary_bodies_and_nothing_else_reach_a_pipe(command: Command) -> None:
    body = bytes(range(256)).replace(b"\n", b"")
    command.done("topic", "create", "t", "--partitions", "1")
    command.process("append", "t", stdin=None, input=body + b"\n")
    environment_c = {**environment(), "LC_ALL": "C", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        command.argv("read", "t"), env=environment_c, capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, body + b"\n", b"")


def test_the_module_runs_like_the_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "eventlog", "--version"],
        env=environment(),
        cwd=os.sep,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.decode() == f"eventlog {eventlog.__version__}\n"
    assert (ROOT / "eventlog" / "__main__.py").exists()
