"""``eventlog run``: in one process, and in several that are looked after."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog.cli.processing import RunSettings
from eventlog.cli.supervisor import CANNOT_BEGIN
from eventlog.processor.options import ProcessorOptions
from tests.cli.running import Command

MODULE = """
import os
import signal
import sys
import time

from eventlog.processor.processor import STOP, EventProcessor


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())


async def handle(context, events):
    say(os.getpid(), context.partition, *(event.offset for event in events))
    await context.checkpoint()


class Polite(EventProcessor):
    def process(self, context, events):
        say(os.getpid(), context.partition, events[-1].offset)
        context.checkpoint()

    def close(self, context, reason):
        say("closed", context.partition, reason.name)


def hang(context, events):
    say(os.getpid(), "hangs")
    time.sleep(1000)


class Stops(EventProcessor):
    async def process(self, context, events):
        raise LookupError("no such car")

    def error(self, context, exception, events):
        return STOP


async def picky(context, events):
    for event in events:
        if event.body == b"bad" and not os.path.exists("mended"):
            raise ValueError("cannot read " + event.text())
        say("took", event.partition, event.offset)
    await context.checkpoint()


async def leave(context, events):
    sys.exit(2)


async def die(context, events):
    say(os.getpid(), "dies")
    os.kill(os.getpid(), signal.SIGKILL)
"""

RUN = ("--topic", "cars", "--group", "fraud")
SOON = ("--lease-duration", "5s", "--renew-interval", "200ms", "--max-wait", "100ms")


@pytest.fixture
def cars(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """A topic of two partitions with an event each, and a module in the working directory."""
    (tmp_path / "shop_run.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with eventlog.open(command.location) as log:
        topic = log.create_topic("cars", partitions=2)
        topic.append(b"first", partition=0)
        topic.append(b"first", partition=1)
    return command


def started(
    command: Command, name: str, *options: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return command.started("run", f"shop_run:{name}", *RUN, *SOON, *options)


def lines(process: subprocess.Popen[bytes], count: int) -> list[list[str]]:
    """The next lines it prints, in words."""
    assert process.stdout is not None
    found = [process.stdout.readline().decode().split() for _ in range(count)]
    assert all(found), found
    return found


def said(process: subprocess.Popen[bytes], words: str) -> str:
    """The next line on standard error that has these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line.decode():
            return line.decode()
    pytest.fail(f"it never said {words!r}")


def rest(process: subprocess.Popen[bytes]) -> list[str]:
    """What it and all that it started print until the last of them has ended."""
    assert process.stdout is not None
    return process.stdout.read().decode().splitlines()


# What it was told


class FakeHost:
    """Notes what it was made with, and does not run."""

    made: list[tuple[eventlog.Topic, dict[str, Any]]]

    def __init__(self, topic: eventlog.Topic, **options: Any) -> None:
        FakeHost.made.append((topic, options))

    def run_sync(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def fake_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHost]]:
    FakeHost.made = []
    monkeypatch.setattr("eventlog.processor.host.EventProcessorHost", FakeHost)
    yield FakeHost
    FakeHost.made = []


def test_options_that_are_not_given_are_the_librarys(
    cars: Command, fake_host: type[FakeHost]
) -> None:
    cars.done("run", "shop_run:handle", *RUN)
    ((topic, made),) = fake_host.made
    assert topic.name == "cars"
    handler = made.pop("handler")
    assert handler.__name__ == "handle"
    assert made == {
        "group": "fraud",
        "processor": None,
        "store": None,
        "host_name": None,
        "options": ProcessorOptions(),
    }


def test_every_option_reaches_the_host(
    cars: Command, fake_host: type[FakeHost], tmp_path: Path
) -> None:
    cars.done("topic", "create", "dead")
    cars.done(
        *("run", "shop_run:Polite", *RUN, "--dead-letter", "dead", "--start", "latest"),
        *("--checkpoint", "auto", "--checkpoint-interval", "250ms", "--max-batch", "17"),
        *("--max-wait", "2", "--max-attempts", "5", "--handler-timeout", "1m"),
        *("--lease-duration", "10s", "--renew-interval", "1.5s", "--grace", "2m"),
        *("--host-name", "here", "--store", f"file:{tmp_path}/groups"),
    )
    ((_, made),) = fake_host.made
    assert made["processor"].__name__ == "Polite"
    assert made["host_name"] == "here"
    assert repr(made["store"]) == f"<BlobStore at {tmp_path}/groups>"
    options = made["options"]
    assert (options.dead_letter, options.start) == ("dead", "latest")
    assert (options.checkpoint, options.checkpoint_interval) == ("auto", 0.25)
    assert (options.max_batch, options.max_wait, options.retry.max_attempts) == (17, 2, 5)
    assert (options.handler_timeout, options.grace) == (60, 120)
    assert (options.lease_duration, options.renew_interval) == (10, 1.5)


def test_the_heartbeats_follow_the_lease_that_is_given(
    cars: Command, fake_host: type[FakeHost]
) -> None:
    cars.done("run", "shop_run:Polite", *RUN, "--lease-duration", "6")
    ((_, made),) = fake_host.made
    assert made["options"].renew_interval == 2


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ("7", 7),
        ("earliest", "earliest"),
        ("2026-03-01T12:00Z", "2026-03-01T12:00:00+00:00"),
    ],
)
def test_a_start_is_the_same_for_all_workers(
    cars: Command, fake_host: type[FakeHost], given: str, start: object
) -> None:
    cars.done("run", "shop_run:Polite", *RUN, "--start", given)
    ((_, made),) = fake_host.made
    assert made["options"].start == start


def test_an_age_counts_from_when_the_command_began(
    cars: Command, fake_host: type[FakeHost]
) -> None:
    before = datetime.now(UTC)
    cars.done("run", "shop_run:Polite", *RUN, "--start", "-24h")
    ((_, made),) = fake_host.made
    assert datetime.fromisoformat(made["options"].start) >= before - timedelta(hours=24)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_what_no_host_could_begin_with_is_one_line(
    cars: Command, fake_host: type[FakeHost], processes: str
) -> None:
    def run(*arguments: str) -> Any:
        return cars("run", "shop_run:handle", "--processes", processes, *arguments)

    assert run("--group", "g").failed(2, "--topic")
    assert run("--topic", "cars").failed(2, "--group")
    assert run("--topic", "cras", "--group", "g").failed(1, "no topic 'cras'")
    assert run(*RUN, "--dead-letter", "dead").failed(1, "no topic 'dead'")
    assert run(*RUN, "--store", "ftp://x").failed(1, "no store for ftp")
    assert run(*RUN, "--renew-interval", "20s").failed(2, "renew_interval is at most half")
    assert run(*RUN, "--lease-duration", "soon").failed(2, "'soon' is no length of time")
    assert fake_host.made == []
    unnamed = cars.bare("run", "shop_run:handle", *RUN, "--processes", processes)
    assert unnamed.failed(2, "give --log LOCATION")


def test_a_processor_that_is_not_there_is_one_line(cars: Command) -> None:
    assert cars("run", "shop_run:Fruad", *RUN).failed(2, "has no 'Fruad'")
    assert cars("run", "shop_nun:Fraud", *RUN).failed(2, "no module 'shop_nun'")
    assert cars("run", "shop_run", *RUN).failed(2, "'shop_run' is not MODULE:PROCESSOR")


def test_a_topic_is_not_its_own_dead_letter_topic(cars: Command, fake_host: type[FakeHost]) -> None:
    for processes in ("1", "2"):
        run = ("run", "shop_run:handle", *RUN, "--processes", processes)
        assert cars(*run, "--dead-letter", "cars").failed(2, "--dead-letter is another topic")


def test_what_no_host_can_be_made_with_is_told_as_called_wrongly(cars: Command) -> None:
    run = ("run", "shop_run:handle", "--topic", "cars", "--group", "$Default")
    assert cars(*run).failed(2, "$Default")


def test_options_that_do_nothing_are_warned_of(cars: Command, fake_host: type[FakeHost]) -> None:
    run = ("run", "shop_run:handle", *RUN)
    cars.done("topic", "create", "dead")
    attempts, interval = ("--max-attempts", "3"), ("--checkpoint-interval", "1s")
    assert "--max-attempts without --dead-letter" in cars.done(*run, *attempts).err
    assert "nothing without --checkpoint auto" in cars.done(*run, *interval).err
    assert cars.done(*run, *attempts, "--dead-letter", "dead").err == ""
    assert cars.done(*run, *interval, "--checkpoint", "auto").err == ""


def test_settings_do_not_show_the_url_of_a_store() -> None:
    settings = RunSettings(
        target="a:B", location="x", topic="t", group="g", store="postgresql://u:secret@h/d"
    )
    assert "secret" not in repr(settings)


# In one process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_process_works_until_it_is_told_to_end_and_ends_in_good_order(
    cars: Command, number: int
) -> None:
    with started(cars, "Polite") as process:
        found = lines(process, 2)
        assert sorted(words[1:] for words in found) == [["0", "0"], ["1", "0"]]
        assert {words[0] for words in found} == {str(process.pid)}
        cars.done("append", "cars", "--partition", "1", given="second\n")
        assert lines(process, 1) == [[str(process.pid), "1", "1"]]
        process.send_signal(number)
        assert sorted(rest(process)) == ["closed 0 SHUTDOWN", "closed 1 SHUTDOWN"]
        assert process.wait(60) == 0
    shown = cars.done("group", "show", "cars", "fraud", "--json").json()
    assert shown["members"] == []
    assert [part["offset"] for part in shown["partitions"]] == [0, 1]


def test_what_a_processor_stops_for_is_the_last_line_and_the_exit_code(cars: Command) -> None:
    with started(cars, "Stops") as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.decode().splitlines()[-1] == "eventlog: LookupError ended it: no such car"


@pytest.mark.parametrize(("level", "is_logged"), [("error", False), ("info", True)])
def test_what_is_logged_has_a_level(cars: Command, level: str, is_logged: bool) -> None:
    with started(cars, "handle", "--log-level", level) as process:
        lines(process, 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert (b"SIGTERM" in process.stderr.read()) is is_logged


def test_what_keeps_failing_is_put_aside_and_can_be_given_back(
    cars: Command, tmp_path: Path
) -> None:
    cars.done("topic", "create", "dead", "--partitions", "1")
    cars.done("append", "cars", "--partition", "0", given="bad\ngood\n")
    with started(cars, "picky", "--dead-letter", "dead", "--max-attempts", "2") as process:
        while not cars.done("read", "dead").lines:
            assert process.poll() is None
        (letter,) = cars.done("dead-letters", "list", "dead").lines
        origin, group, reason, attempts, error = letter.split("\t")[1:6]
        assert (origin, group, error) == ("cars 0:1", "fraud", "ValueError: cannot read bad")
        assert int(attempts) >= 2
        assert reason
        (tmp_path / "mended").touch()
        assert cars.done("dead-letters", "replay", "dead").lines == ["cars\t1\t0"]
        took: list[list[str]] = []
        while ["took", "0", "3"] not in took:
            took += lines(process, 1)
        assert ["took", "0", "1"] not in took
        assert took.count(["took", "0", "2"]) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


# In several


IN_GOOD_ORDER = {"SHUTDOWN", "HANDED_OVER"}


def reasons(printed: Sequence[str]) -> set[str]:
    """Why processors were closed."""
    return {line.split()[-1] for line in printed if line.startswith("closed")}


def workers(found: Sequence[list[str]]) -> set[int]:
    return {int(words[0]) for words in found}


def test_workers_share_the_partitions_and_end_together(cars: Command) -> None:
    with started(cars, "Polite", "--processes", "2") as process:
        shown: dict[str, Any] = {"partitions": []}
        while len({part["owner"] for part in shown["partitions"]} - {None}) < 2:
            outcome = cars("group", "show", "cars", "fraud", "--json")
            shown = outcome.json() if outcome.code == 0 else shown
        assert sorted(host["partitions"] for host in shown["members"]) == [[0], [1]]
        assert process.pid not in {host["process"] for host in shown["members"]}
        process.send_signal(signal.SIGTERM)
        assert "SIGTERM: the workers finish" in said(process, "SIGTERM")
        assert reasons(rest(process)) <= IN_GOOD_ORDER
        assert process.wait(60) == 0
    assert cars.done("group", "show", "cars", "fraud", "--json").json()["members"] == []


def test_a_worker_that_is_killed_is_replaced(cars: Command) -> None:
    with started(cars, "handle", "--processes", "2") as process:
        (victim,) = workers(lines(process, 1))
        os.kill(victim, signal.SIGKILL)
        line = said(process, "was killed")
        assert f"(process {victim}) was killed by SIGKILL; another is started in 0.5 s" in line
        cars.done("append", "cars", "--partition", "0", given="second\n")
        cars.done("append", "cars", "--partition", "1", given="second\n")
        seen: set[tuple[str, str]] = set()
        while not {("0", "1"), ("1", "1")} <= seen:
            ((_, partition, *offsets),) = lines(process, 1)
            seen |= {(partition, offset) for offset in offsets}
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_workers_end_in_good_order_when_their_supervisor_is_killed(cars: Command) -> None:
    with started(cars, "Polite", "--processes", "2") as process:
        lines(process, 2)
        process.kill()
        found = reasons(rest(process))
        assert found
        assert found <= IN_GOOD_ORDER
    assert cars.done("group", "show", "cars", "fraud", "--json").json()["members"] == []


def test_a_second_ctrl_c_kills_at_once(cars: Command) -> None:
    with started(cars, "hang", "--processes", "2", "--grace", "1h") as process:
        lines(process, 2)
        process.send_signal(signal.SIGINT)
        said(process, "SIGINT: the workers finish")
        while process.poll() is None:  # the same one again, for as long as it is taken for that
            process.send_signal(signal.SIGINT)
        assert process.wait(60) in (130, -signal.SIGINT)  # one may come when all is done
        assert rest(process) == []


def test_handlers_that_do_not_return_are_waited_for_as_long_as_the_grace(cars: Command) -> None:
    with started(cars, "hang", "--processes", "2", "--grace", "100ms") as process:
        lines(process, 2)
        process.send_signal(signal.SIGTERM)
        assert rest(process) == []
        assert process.wait(60) == 0


def test_a_store_in_memory_is_not_for_several_processes(cars: Command) -> None:
    ended = cars.process("run", "shop_run:Fraud", *RUN, "--processes", "2", "--store", "memory:x")
    assert ended.returncode == 2
    assert "memory" in ended.stderr.decode()


def test_workers_that_cannot_begin_are_not_started_again(cars: Command) -> None:
    ended = cars.process("run", "shop_run:Fruad", *RUN, "--processes", "2")
    assert ended.returncode == 2
    errors = ended.stderr.decode().splitlines()
    assert "eventlog: module 'shop_run' has no 'Fruad'" in errors
    assert any("could not begin: the others end too" in line for line in errors)
    assert not any("another is started" in line for line in errors)


def test_a_handler_that_kills_its_process_is_started_again_later_and_later(cars: Command) -> None:
    with started(cars, "die", "--processes", "2") as process:
        assert "another is started in 0.5 s" in said(process, "was killed by SIGKILL")
        assert "another is started in 1 s" in said(process, "another is started in 1 s")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_handler_that_exits_as_a_wrong_call_does_ends_its_own_worker_only(
    cars: Command,
) -> None:
    with started(cars, "leave", "--processes", "2") as process:
        line = said(process, "ended with exit code")
        assert "ended with exit code 2; another is started in 0.5 s" in line
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_a_worker_is_nothing_for_people(cars: Command) -> None:
    assert "run-worker" not in cars.bare("--help").out.decode()
    ended = cars.process("run-worker")
    assert ended.returncode == CANNOT_BEGIN
    assert ended.stderr == b"eventlog: this is started by 'eventlog run', not by people\n"
