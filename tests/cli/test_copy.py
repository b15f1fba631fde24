"""``copy``: what it prints, how it ends, and what it says when something is not as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import eventlog
from eventlog import Event
from tests.cli.running import Command, environment, flip_bits
from tests.copying.logs import contents


@pytest.fixture
def target(tmp_path: Path) -> Command:
    """The command on the log that is copied to."""
    return Command(tmp_path / "target")


@pytest.fixture
def there(target: Command) -> str:
    """Where that is."""
    return str(target.location)


@pytest.fixture
def here(command: Command) -> str:
    """Where a log is with topics of 10 and of 20 events, and of none; groups are in two of them."""
    with eventlog.open(command.location) as log:
        for name, count in (("cars", 10), ("lorries", 20), ("none", 0)):
            topic = log.create_topic(name, partitions=2)
            topic.append_batch([Event(f"{n}", key=f"k{n}") for n in range(count)])
        log.topic("cars").group("fraud").reset(2)
        log.topic("lorries").group("fraud").reset(3)
        log.topic("lorries").group("tax").reset(0, partitions=[1])
    return str(command.location)


def test_all_topics_are_copied_with_their_groups_and_once(
    target: Command, here: str, there: str
) -> None:
    outcome = target.bare("copy", here, there)
    assert outcome.code == 0
    assert outcome.lines == ["cars\t10\t1\t2", "lorries\t20\t2\t3", "none\t0\t0\t0"]
    assert outcome.err.startswith("30 events copied in ")
    assert target.bare("copy", here, there, "-q") == (
        0,
        b"cars\t0\t1\t2\nlorries\t0\t2\t3\nnone\t0\t0\t0\n",
        "",
    )
    with eventlog.open(here) as source, target.open() as made:
        for topic in source.topics():
            assert contents(made.topic(topic.name)) == contents(topic)
        assert made.topic("cars").group("fraud").checkpoints()[1].offset == 1


def test_topics_and_groups_are_selected_and_a_topic_renamed(
    target: Command, here: str, there: str
) -> None:
    outcome = target.bare(
        "copy", here, there, "--topic", "lorries", "--as", "vans", "--group", "tax"
    )
    assert outcome.lines == ["vans\t20\t1\t1"]
    assert target.bare("copy", here, there, "--topic", "cars", "--no-groups").lines == [
        "cars\t10\t0\t0"
    ]
    assert target.bare("copy", there, there, "--topic", "cars", "--as", "c", "-q").lines == [
        "c\t10\t0\t0"
    ]
    assert [line.split("\t")[0] for line in target.done("topic", "list").lines] == [
        "c",
        "cars",
        "vans",
    ]


def test_groups_move_between_stores(target: Command, here: str, there: str, tmp_path: Path) -> None:
    stores = [f"file:{tmp_path / 'a'}", f"file:{tmp_path / 'b'}"]
    with eventlog.open(here) as log:
        log.topic("cars").group("g", stores[0]).reset(1)
    arguments = ["--topic", "cars", "--store", stores[0], "--target-store", stores[1]]
    assert target.bare("copy", here, there, *arguments).lines == ["cars\t10\t1\t2"]
    (shown,) = target.done("group", "list", "cars", "--store", stores[1]).lines
    assert shown.startswith("cars\tg\t")


def test_json_says_where_checkpoints_went(target: Command, here: str, there: str) -> None:
    with eventlog.open(here) as source, eventlog.open(there) as log:
        made = log.create_topic("cars", partitions=2)
        made.append(b"other", partition=1)
        ends = [source.topic("cars").partition_info(number).next_offset for number in range(2)]
    outcome = target.bare("copy", here, there, "--topic", "cars", "--mix", "--json")
    assert outcome.json() == [
        {
            "topic": "cars",
            "copy": "cars",
            "events": 10,
            "partitions": [
                {
                    "partition": number,
                    "events": ends[number],
                    "copied_to": ends[number] - 1,
                    "target_end": [ends[0] - 1, None][number],
                    "lost": [],
                    "damaged": [],
                }
                for number in range(2)
            ],
            "groups": [
                {
                    "group": "fraud",
                    "checkpoints": [{"partition": 0, "source": 1, "target": 1}],
                    "left": [
                        {
                            "partition": 1,
                            "reason": "the target has events there that are not the copy's",
                        }
                    ],
                }
            ],
        }
    ]
    assert outcome.err == (
        "eventlog: warning: topic 'cars': group 'fraud', partition 1 is not carried over: the "
        "target has events there that are not the copy's\n"
    )


@pytest.mark.parametrize(
    ("arguments", "ending"),
    [
        (["--topic", "nope"], (1, "has no topic 'nope'")),
        (["--topic", "cars", "--group", "nope"], (1, "no group 'nope'")),
        (["--as", "x"], (2, "--as needs exactly one --topic")),
        (["--topic", "a", "--topic", "b", "--as", "x"], (2, "--as needs exactly one --topic")),
        (["--group", "fraud", "--no-groups"], (2, "--no-groups, not both")),
        (["--topic", "cars", "--as", "a/b"], (1, "a/b")),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    arguments: list[str], ending: tuple[int, str], target: Command, here: str, there: str
) -> None:
    outcome = target.bare("copy", here, there, *arguments)
    assert outcome.failed(*ending), outcome
    assert not target.location.exists() or target.done("topic", "list").lines == []


def test_a_source_that_is_not_there_is_not_made_and_neither_is_the_target(
    target: Command, there: str, tmp_path: Path
) -> None:
    assert target.bare("copy", str(tmp_path / "nope"), there).failed(1, "nope")
    assert not (tmp_path / "nope").exists()
    assert not target.location.exists()


def test_nothing_is_copied_if_one_topic_is_refused(target: Command, here: str, there: str) -> None:
    with eventlog.open(there) as log:
        log.create_topic("lorries", partitions=2).append(b"other", partition=0)
    outcome = target.bare("copy", here, there)
    assert outcome.failed(1, "partition 0", "no copies of topic 'lorries'", "--as", "--mix")
    (line,) = target.done("topic", "list").lines
    assert line.startswith("lorries\t2\t1\t")
    assert target.bare("copy", here, there, "--mix").lines[1].startswith("lorries\t20\t")


def test_a_topic_with_other_partitions_is_refused(target: Command, here: str, there: str) -> None:
    target.done("topic", "create", "cars", "--partitions", "3")
    outcome = target.bare("copy", here, there)
    assert outcome.failed(1, "partitions 3", "only with 2")


def test_others_events_behind_a_copy_are_said_with_what_to_do(
    target: Command, here: str, there: str
) -> None:
    target.bare("copy", here, there)
    for location in (there, here):
        with eventlog.open(location) as log:
            log.topic("cars").append(f"from {location}", partition=0)
    outcome = target.bare("copy", here, there)
    assert outcome.failed(1, "partition 0", "--mix", "0 events were copied")


def test_damage_is_said_with_what_to_do(target: Command, tmp_path: Path, there: str) -> None:
    with eventlog.open(tmp_path / "log") as log:
        cars = log.create_topic("cars", partitions=1, compression="none")
        for body in (b"first", b"DAMAGED" * 50, b"third"):
            cars.append(body)
    flip_bits(tmp_path / "log", b"DAMAGED" * 50)
    here = str(tmp_path / "log")
    outcome = target.bare("copy", here, there)
    assert outcome.failed(1, "go on at 2, which --skip-damaged does; 1 event was copied")
    outcome = target.bare("copy", here, there, "--skip-damaged")
    assert outcome.lines == ["cars\t1\t0\t0"]
    assert "warning: topic 'cars': partition 0: offsets 1 to 1 are damaged" in outcome.err
    assert [event.body for event in target.events("cars")] == [b"first", b"third"]


def test_a_new_log_gets_the_durability_that_is_asked_for(
    target: Command, here: str, there: str
) -> None:
    target.bare("copy", here, there, "--durability", "process")
    with eventlog.open(there, durability="process") as log:
        assert len(log.topics()) == 3


def test_a_terminal_gets_a_table(target: Command, here: str, there: str) -> None:
    code, shown = target.on_terminal("copy", here, there, "--topic", "cars")
    assert code == 0
    assert "events copied" in shown
    assert "10 events copied in" in shown


def test_ctrl_c_says_how_much_is_copied_and_the_next_goes_on(
    command: Command, target: Command, there: str
) -> None:
    with eventlog.open(command.location, durability="process") as log:
        cars = log.create_topic("cars", partitions=3000)
        cars.append_batch([Event(f"{n}", key=f"{n}") for n in range(6000)])
        filled = sum(not cars.partition_info(number).is_empty for number in range(3000))
    here = str(command.location)
    with eventlog.open(there), target.started("copy", here, there) as process:
        with eventlog.open(there) as log:
            while not log.topics() or not log.topic("cars").partition_info(20).next_offset:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            made = log.topic("cars")
            stored = sum(made.partition_info(number).next_offset for number in range(3000))
        assert process.stderr is not None
        assert process.stderr.read().decode() == (
            f"eventlog: interrupted; {stored:,} events were copied; repeat it to go on: nothing "
            "is copied twice\n"
        )
    assert filled > 2000
    assert target.bare("copy", here, there).lines == [f"cars\t{6000 - stored}\t0\t0"]
    with eventlog.open(here, durability=None) as source, target.open() as log:
        assert contents(log.topic("cars")) == contents(source.topic("cars"))


# Ctrl-C comes when the first step is stored, and not accounted for yet.
INTERRUPTED = """
import os, signal, sys
from eventlog.cli import main
from eventlog.copying import partition
from eventlog.embedded.intake import EmbeddedInlet

partition.STORE_EVENTS = 1
store = EmbeddedInlet.store
def interrupted(self, events):
    taken = store(self, events)
    os.kill(os.getpid(), signal.SIGINT)
    return taken
EmbeddedInlet.store = interrupted
sys.argv = ["eventlog", "copy", *sys.argv[1:]]
main()
"""


def test_ctrl_c_does_not_come_between_storing_and_counting(
    target: Command, here: str, there: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, here, there],
        env=environment(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 130
    assert ended.stderr.startswith(b"eventlog: interrupted; 1 event was copied; ")
    assert len(target.events("cars")) == 1
