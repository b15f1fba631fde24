"""``eventlog dead-letters``: looking at what was put aside, and giving it back exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventlog
from eventlog import Event, EventLog
from eventlog.cli.dead_letters.replayed import AlreadyReplayedError, Replayed, merged
from eventlog.processor.dead_letters import Attempts, dead_letter
from tests.cli.running import Command

FIRST = datetime(2026, 3, 1, 12, tzinfo=UTC)
LAST = FIRST + timedelta(minutes=1)


def put_aside(
    log: EventLog,
    place: tuple[str, int, int],
    reason: str = "out of attempts",
    *,
    partition: int = 0,
    error: BaseException | None = None,
) -> None:
    """As a host does with the event at some place (topic, partition, offset)."""
    topic, number, offset = place
    (event,) = log.topic(topic).read(number, offset, max_events=1)
    attempts = Attempts(3, FIRST, LAST, error)
    letter = dead_letter(event, "fraud", reason, attempts)
    log.topic("dead").append_batch([letter], partition=partition)


@pytest.fixture
def dead(command: Command) -> Command:
    """Two topics of two partitions, and one with dead letters of both, in two partitions too."""
    with eventlog.open(command.location) as log:
        for name in ("cars", "bikes", "dead"):
            log.create_topic(name, partitions=2)
        log.topic("cars").append_batch(
            [Event(b"a", "VIN-1", {"lap": 3}), Event(b"b", b"\xff"), b"c"], partition=1
        )
        log.topic("bikes").append(b"d", partition=0)
        put_aside(log, ("cars", 1, 0), error=ValueError("no such\tcar\n"))
        put_aside(log, ("cars", 1, 1), "EventFailed")
        put_aside(log, ("bikes", 0, 0))
        put_aside(log, ("cars", 1, 2), partition=1)
    return command


def columns(line: str) -> list[str]:
    return line.split("\t")


def places(lines: Sequence[str]) -> list[str]:
    return [columns(line)[0] for line in lines]


def bodies(command: Command, topic: str) -> list[bytes]:
    """What was appended to a topic behind what the fixture did."""
    there = {"cars": 3, "bikes": 1}.get(topic, 0)
    return [event.body for event in command.events(topic)][there:]


# Looking


def test_list_is_a_line_for_each_letter(dead: Command) -> None:
    first, second, third, fourth = (
        columns(line) for line in dead.done("dead-letters", "list", "dead").lines
    )
    assert first == [
        *("0:0", "cars 1:0", "fraud", "out of attempts", "3"),
        "ValueError: no such car",
        *("2026-03-01T12:00:00.000000Z", "2026-03-01T12:01:00.000000Z", "no"),
    ]
    assert second[:6] == ["0:1", "cars 1:1", "fraud", "EventFailed", "3", "none"]
    assert third[:2] == ["0:2", "bikes 0:0"]
    assert fourth[:2] == ["1:0", "cars 1:2"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ["0:0", "0:1", "0:2", "1:0"]),
        (("--partition", "1"), ["1:0"]),
        (("--from", "1", "--partition", "0"), ["0:1", "0:2"]),
        (("--partition", "0", "--from", "1", "--to", "2"), ["0:1"]),
        (("--reason", "EVENTfailed"), ["0:1"]),
        (("--reason", "attempts"), ["0:0", "0:2", "1:0"]),
        (("--origin", "bikes"), ["0:2"]),
        (("--origin", "cars", "--reason", "out of"), ["0:0", "1:0"]),
        (("--from", "latest"), []),
        (("--from", "-1h"), ["0:0", "0:1", "0:2", "1:0"]),
        (("--max", "2"), ["0:0", "0:1"]),
        (("--max", "1", "--origin", "bikes"), ["0:2"]),
        (("--max", "0"), []),
    ],
)
def test_a_selection_is_listed(
    dead: Command, options: tuple[str, ...], expected: list[str]
) -> None:
    assert places(dead.done("dead-letters", "list", "dead", *options).lines) == expected


def test_list_as_json_is_an_object_a_line(dead: Command) -> None:
    listed = dead.done("dead-letters", "list", "dead", "--format", "json").lines
    assert len(listed) == 4
    with dead.open(read_only=True) as log:
        (letter,) = log.topic("dead").read(0, 0, max_events=1)
        (event,) = log.topic("cars").read(1, 0, max_events=1)
    times = {"enqueued_at": letter.enqueued_at, "origin_enqueued_at": event.enqueued_at}
    found: dict[str, Any] = dead.bare(
        *("dead-letters", "list", "dead", "--format", "json", "--max", "1"),
        *("--log", str(dead.location)),
    ).json()
    for name, when in times.items():
        assert datetime.fromisoformat(found.pop(name)) == when
    assert found == {
        "partition": 0,
        "offset": 0,
        "origin_topic": "cars",
        "origin_partition": 1,
        "origin_offset": 0,
        "group": "fraud",
        "reason": "out of attempts",
        "attempts": 3,
        "last_error": "ValueError: no such car",
        "first_attempt_at": "2026-03-01T12:00:00.000000Z",
        "last_attempt_at": "2026-03-01T12:01:00.000000Z",
        "replayed": False,
    }


def test_events_that_are_no_dead_letters_are_passed_over_with_a_warning(dead: Command) -> None:
    with dead.open() as log:
        log.topic("dead").append_batch([b"x", b"y"], partition=0)
    listed = dead.done("dead-letters", "list", "dead")
    assert len(listed.lines) == 4
    assert listed.err == "eventlog: warning: 2 events are no dead letters, and passed over\n"
    one = dead.done("dead-letters", "replay", "dead", "0:3", "--dry-run")
    assert one.err == "eventlog: warning: 1 event is no dead letter, and passed over\n"
    refused = dead("dead-letters", "show", "dead", "0:3")
    assert "what stands at 0:3 in topic 'dead' is no dead letter" in refused.err
    assert refused.code == 1


def test_a_reason_has_no_power_over_a_table_or_a_terminal(dead: Command) -> None:
    with dead.open() as log:
        put_aside(log, ("bikes", 0, 0), "two\tcolumns\n\x1b[2Jé", partition=1)
    listed = dead.done("dead-letters", "list", "dead", "--partition", "1", "--from", "1")
    (line,) = listed.lines
    assert columns(line)[3] == "two\\tcolumns\\n\\x1b[2Jé"


def test_show_is_all_of_one_letter_and_the_body_as_it_was(dead: Command) -> None:
    shown = dead.done("dead-letters", "show", "dead", "0:0").lines
    assert shown[0] == "place\t0:0"
    for line in (
        "reason\tout of attempts",
        "last error\tValueError: no such car",
        "attempts\t3",
        "first attempt\t2026-03-01T12:00:00.000000Z",
        "last attempt\t2026-03-01T12:01:00.000000Z",
        "group\tfraud",
        "origin topic\tcars",
        "origin partition\t1",
        "origin offset\t0",
        "replayed\tno",
        "key\tVIN-1",
        'properties\t{"lap":3}',
    ):
        assert line in shown
    assert shown[-2:] == ["", "a"]


def test_show_as_json_is_the_event_as_read_prints_it(dead: Command) -> None:
    read = dead.done("read", "dead", "--partition", "1", "--format", "json").out
    assert dead.done("dead-letters", "show", "dead", "1:0", "--format", "json").out == read


def test_a_place_that_is_not_there_is_one_line(dead: Command) -> None:
    for verb in ("show", "replay"):
        outside = dead("dead-letters", verb, "dead", "0:9")
        assert outside.failed(1, "partition 0", "9")
        assert "repeat" not in outside.err
        assert dead("dead-letters", verb, "dead", "0:3").failed(1, "0:3")
        assert dead("dead-letters", verb, "dead", "7:0").failed(1, "partition 7")
        assert dead("dead-letters", verb, "dead", "7").failed(2, "PARTITION:OFFSET", "0:41")
        assert dead("dead-letters", verb, "daed", "0:0").failed(1, "no topic 'daed'")


def test_looking_changes_nothing(dead: Command) -> None:
    dead.done("dead-letters", "list", "dead")
    dead.done("dead-letters", "show", "dead", "0:0")
    dead.done("dead-letters", "replay", "dead", "--dry-run")
    assert dead.done("store", "ls").out == b""


def test_a_terminal_gets_a_table_and_ages(dead: Command) -> None:
    code, shown = dead.on_terminal("dead-letters", "list", "dead")
    assert code == 0
    assert "last error" in shown.replace("\r\n", " ") or "last" in shown
    assert " d ago" in shown
    assert "2026-03" not in shown


# Replaying


def test_replay_appends_the_originals_where_they_came_from(dead: Command) -> None:
    outcome = dead.done("dead-letters", "replay", "dead")
    assert outcome.lines == ["bikes\t1\t0", "cars\t3\t0"]
    first, second, third = dead.events("cars")[3:]
    assert (first.partition, first.body, first.key) == (1, b"a", "VIN-1")
    assert dict(first.properties) == {"lap": 3}
    assert (second.partition, second.body, second.key) == (1, b"b", b"\xff")
    assert (third.partition, third.body, third.key) == (1, b"c", None)
    assert bodies(dead, "bikes") == [b"d"]
    assert len(dead.events("dead")) == 4


def test_what_was_replayed_is_not_replayed_again_unless_it_is_asked_for(dead: Command) -> None:
    dead.done("dead-letters", "replay", "dead", "0:1", "1:0")
    assert bodies(dead, "cars") == [b"b", b"c"]
    again = dead.done("dead-letters", "replay", "dead")
    assert again.lines == ["bikes\t1\t0", "cars\t1\t2"]
    assert bodies(dead, "cars") == [b"b", b"c", b"a"]
    again = dead.done("dead-letters", "replay", "dead")
    assert again.lines == ["bikes\t0\t1", "cars\t0\t3"]
    assert len(bodies(dead, "cars")) == 3
    again = dead.done("dead-letters", "replay", "dead", "0:0", "--again")
    assert again.lines == ["cars\t1\t0"]
    assert bodies(dead, "cars") == [b"b", b"c", b"a", b"a"]


def test_letters_say_that_they_were_replayed(dead: Command) -> None:
    dead.done("dead-letters", "replay", "dead", "0:1")
    listed = dead.done("dead-letters", "list", "dead").lines
    assert [columns(line)[-1] for line in listed] == ["no", "yes", "no", "no"]
    assert "replayed\tyes" in dead.done("dead-letters", "show", "dead", "0:1").lines


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("0:0",), [b"a"]),
        (("0:0", "0:1", "0:0"), [b"a", b"b"]),
        (("--reason", "eventfailed"), [b"b"]),
        (("--partition", "1"), [b"c"]),
        (("--from", "1", "--partition", "0"), [b"b"]),
        (("--to", "1", "--origin", "cars"), [b"a", b"c"]),
    ],
)
def test_a_selection_is_replayed(
    dead: Command, options: tuple[str, ...], expected: list[bytes]
) -> None:
    dead.done("dead-letters", "replay", "dead", *options)
    assert bodies(dead, "cars") == expected


def test_places_and_ranges_exclude_each_other(dead: Command) -> None:
    refused = dead("dead-letters", "replay", "dead", "0:0", "--from", "1")
    assert refused.failed(2, "--from")


def test_a_dry_run_says_what_would_be_done_and_does_nothing(dead: Command) -> None:
    outcome = dead.done("dead-letters", "replay", "dead", "--dry-run", "--origin", "cars")
    assert outcome.lines == ["cars\t3\t0"]
    assert bodies(dead, "cars") == []
    assert dead.done("dead-letters", "replay", "dead", "0:0").lines == ["cars\t1\t0"]
    outcome = dead.done("dead-letters", "replay", "dead", "--dry-run", "--origin", "cars")
    assert outcome.lines == ["cars\t2\t1"]


def test_another_topic_takes_them_where_their_keys_say(dead: Command) -> None:
    dead.done("topic", "create", "other", "--partitions", "8")
    outcome = dead.done("dead-letters", "replay", "dead", "--into", "other")
    assert outcome.lines == ["other\t4\t0"]
    assert sorted(bodies(dead, "other")) == [b"a", b"b", b"c", b"d"]
    with dead.open() as log:
        receipt = log.topic("other").append(b"", key="VIN-1")
    (keyed,) = [event for event in dead.events("other") if event.body == b"a"]
    assert keyed.partition == receipt.partition
    assert dead.done("dead-letters", "replay", "dead").lines == ["bikes\t0\t1", "cars\t0\t3"]


def test_another_topic_must_be_there_even_if_there_is_nothing_to_append(dead: Command) -> None:
    for _ in range(2):
        for options in ((), ("--dry-run",)):
            refused = dead("dead-letters", "replay", "dead", "--into", "nope", *options)
            assert refused.failed(1, "no topic 'nope'")
            assert "repeat" not in refused.err
        dead.done("dead-letters", "replay", "dead")


def test_where_the_origin_is_gone_nothing_of_the_partition_is_replayed(dead: Command) -> None:
    dead.done("topic", "delete", "bikes", "--yes")
    refused = dead("dead-letters", "replay", "dead")
    assert refused.failed(1, "no topic 'bikes'", "0 events were replayed", "repeat it")
    assert bodies(dead, "cars") == []
    assert dead.done("dead-letters", "replay", "dead", "--origin", "cars").lines == ["cars\t3\t0"]


def test_a_topic_made_anew_has_replayed_nothing(dead: Command) -> None:
    dead.done("dead-letters", "replay", "dead")
    with dead.open() as log:
        log.delete_topic("dead")
        log.create_topic("dead", partitions=2)
        put_aside(log, ("cars", 1, 0))
    assert dead.done("dead-letters", "replay", "dead").lines == ["cars\t1\t0"]
    assert dead.done("dead-letters", "replay", "dead").lines == ["cars\t0\t1"]


def test_a_damaged_memory_replays_nothing(dead: Command) -> None:
    with dead.open() as log:
        name = f"dead-letters/{log.id}/dead/0.json"
        log.blobs.put(name, b"nonsense")
    refused = dead("dead-letters", "replay", "dead")
    assert refused.failed(1, name, "0 events were replayed")
    assert bodies(dead, "cars") == bodies(dead, "bikes") == []
    dead.done("store", "rm", name)
    dead.done("dead-letters", "replay", "dead")
    assert len(bodies(dead, "cars")) == 3


# Exactly once


def test_what_another_replays_meanwhile_undoes_the_whole_transaction(dead: Command) -> None:
    with dead.open() as log:
        topic = log.topic("dead")
        mine, theirs = (Replayed(topic, 0, log.blobs) for _ in range(2))
        with log.transaction() as transaction:
            transaction.attach(theirs.replaying([1], again=False))
            transaction.append("cars", b"theirs", partition=1)
        transaction = log.transaction()
        transaction.attach(mine.replaying([0, 1], again=False))
        transaction.append("cars", b"mine", partition=1)
        with pytest.raises(AlreadyReplayedError), transaction:
            pass
        mine.look()
        assert 1 in mine
        assert 0 not in mine
    assert bodies(dead, "cars") == [b"theirs"]


def test_many_who_replay_at_once_replay_each_letter_once(dead: Command) -> None:
    with dead.open() as log:
        for _ in range(20):
            put_aside(log, ("cars", 1, 0))
    assert dead.all_at_once(4, "dead-letters", "replay", "dead") == [0] * 4
    assert sorted(bodies(dead, "cars")) == [b"a"] * 21 + [b"b", b"c"]


@given(st.lists(st.lists(st.integers(0, 30), max_size=5)))
def test_ranges_have_all_offsets_that_were_merged_and_no_others(
    additions: list[list[int]],
) -> None:
    ranges: list[tuple[int, int]] = []
    for offsets in additions:
        ranges = list(merged(ranges, offsets))
    had = {offset for offsets in additions for offset in offsets}
    assert {o for first, last in ranges for o in range(first, last + 1)} == had
    assert all(a[1] + 1 < b[0] for a, b in pairwise(ranges))


def test_what_has_expired_is_forgotten(dead: Command) -> None:
    dead.done("dead-letters", "replay", "dead")
    with dead.open() as log:
        name = f"dead-letters/{log.id}/dead/0.json"
        log.topic("dead").configure(retention_bytes=1)
        put_aside(log, ("cars", 1, 0))
        assert log.topic("dead").partition_info(0).beginning_offset == 3
    dead.done("dead-letters", "replay", "dead")
    with dead.open() as log:
        blob = log.blobs.get(name)
    assert isinstance(blob, eventlog.blobs.Blob)
    assert b'"replayed":[[3,3]]' in blob.data
