"""``eventlog group``: listing, showing, moving and deleting consumer groups."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from eventlog.blobs import Blob
from eventlog.cli.group.picture import PARTITION_COLUMNS
from eventlog.groups.documents import GroupDocument, GroupIds, decode, encode
from tests.cli.running import Command

INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def finish(command: Command, topic: str, group: str, partition: int, offset: int) -> None:
    """Somebody checkpoints."""
    with command.open() as log, log.transaction() as transaction:
        transaction.checkpoint(topic, group, partition=partition, offset=offset)


def checkpoints(command: Command, group: str = "fraud") -> dict[int, int]:
    with command.open(read_only=True) as log:
        found = log.topic("cars").group(group).checkpoints()
    return {partition: checkpoint.offset for partition, checkpoint in found.items()}


@pytest.fixture
def cars(command: Command) -> Command:
    """A topic of two partitions, the first with five events; a group that has finished two."""
    command.done("topic", "create", "cars", "--partitions", "2")
    command.done("append", "cars", "--partition", "0", given="1\n2\n3\n4\n5\n")
    finish(command, "cars", "fraud", 0, 1)
    return command


def columns(line: str) -> list[str]:
    return line.split("\t")


# Looking


def test_list_is_a_line_for_each_group_of_each_topic(cars: Command) -> None:
    cars.done("topic", "create", "bikes")
    cars.done("append", "bikes", "--partition", "0", given="1\n")
    finish(cars, "bikes", "b", 0, 0)
    finish(cars, "bikes", "a", 0, 0)
    lines = [columns(line) for line in cars.done("group", "list").lines]
    assert [line[:4] for line in lines] == [
        ["bikes", "a", "0", "0"],
        ["bikes", "b", "0", "0"],
        ["cars", "fraud", "0", "3"],
    ]
    assert [line[4] for line in lines[:2]] == ["0.000", "0.000"]
    assert re.fullmatch(r"\d+\.\d{3}", lines[2][4])
    assert [columns(line)[1] for line in cars.done("group", "list", "cars").lines] == ["fraud"]


def test_list_of_a_log_or_topic_without_groups_is_empty(command: Command) -> None:
    command.done("topic", "create", "cars")
    assert command.done("group", "list").out == b""
    assert command.done("group", "list", "cars", "--json").json() == []


def test_list_as_json(cars: Command) -> None:
    (listed,) = cars.done("group", "list", "--json").json()
    assert listed.pop("lag_seconds") > 0
    assert listed == {"topic": "cars", "group": "fraud", "members": [], "lag_events": 3}


def test_show_is_the_group_and_a_line_for_each_partition(cars: Command) -> None:
    shown = cars.done("group", "show", "cars", "fraud").lines
    assert shown[:4] == [
        "topic\tcars",
        "group\tfraud",
        "",
        "\t".join(PARTITION_COLUMNS),
    ]
    first, second = (columns(line) for line in shown[4:])
    assert first[:3] + first[4:8] == ["0", "1", "3", "none", "0", "none", "0"]
    assert INSTANT.fullmatch(first[8])
    assert second == ["1", "none", "0", "0.000", *["none"] * 5]


def test_show_as_json_has_every_field_of_a_checkpoint(cars: Command) -> None:
    shown = cars.done("group", "show", "cars", "fraud", "--json").json()
    first, second = shown.pop("partitions")
    assert shown == {
        "topic": "cars",
        "group": "fraud",
        "generation": 0,
        "lease_seconds": None,
        "members": [],
    }
    assert first.pop("lag_seconds") > 0
    assert INSTANT.fullmatch(first.pop("updated_at"))
    assert INSTANT.fullmatch(first.pop("enqueued_at"))
    assert first == {
        "partition": 0,
        "offset": 1,
        "epoch": 0,
        "owner": None,
        "reset": 0,
        "crashes": 0,
        "attempts": 0,
        "next": None,
        "lag_events": 3,
    }
    fields = (*first.keys() - {"partition", "lag_events"}, "enqueued_at", "updated_at")
    unbegun = dict.fromkeys(fields)
    assert second == {"partition": 1, **unbegun, "lag_events": 0, "lag_seconds": 0.0}


def test_who_reads_is_shown(cars: Command) -> None:
    with cars.open() as log, log.topic("cars").consumer(group="fraud", follow=False) as consumer:
        next(iter(consumer))
        (member,) = log.topic("cars").group("fraud").members()
        shown = [columns(line) for line in cars.done("group", "show", "cars", "fraud").lines]
        assert [member, "consumer", "2", *["none"] * 4] in shown
        (listed,) = cars.done("group", "list").lines
        assert columns(listed)[2] == "1"
        refused = cars("group", "reset", "cars", "fraud", "--to", "earliest")
        assert refused.failed(1, "partition 0 of topic 'cars'", "in use", member)
        assert checkpoints(cars) == {0: 1, 1: -1}
        cars.done("group", "reset", "cars", "fraud", "--to", "earliest", "--force")
        assert checkpoints(cars) == {0: -1, 1: -1}


def test_lag_is_a_line_for_each_partition(cars: Command) -> None:
    first, second = (columns(line) for line in cars.done("group", "lag", "cars", "fraud").lines)
    assert first[:2] == ["0", "3"]
    assert float(first[2]) > 0
    assert second == ["1", "0", "0.000"]
    first, second = cars.done("group", "lag", "cars", "fraud", "--json").json()
    assert first["lag_seconds"] > 0
    assert {**first, "lag_seconds": 0} == {"partition": 0, "lag_events": 3, "lag_seconds": 0}
    assert second == {"partition": 1, "lag_events": 0, "lag_seconds": 0.0}


@pytest.mark.parametrize("verb", ["show", "lag", "delete"])
def test_a_group_or_topic_that_is_not_there_is_one_line(cars: Command, verb: str) -> None:
    assert cars("group", verb, "cars", "fruad").failed(1, "topic 'cars' has no group 'fruad'")
    assert cars("group", verb, "cras", "fraud").failed(1, "has no topic 'cras'")
    assert cars("group", verb, "cars", "../x").failed(1, "'../x' cannot name a group")


def test_looking_changes_nothing(cars: Command) -> None:
    with cars.open() as log:
        before = log.blobs.list("")
    for verb in (["list"], ["show", "cars", "fraud"], ["lag", "cars", "fraud"]):
        cars.done("group", *verb)
    with cars.open() as log:
        assert log.blobs.list("") == before


def test_a_damaged_group_hides_no_other_and_can_be_deleted(cars: Command) -> None:
    finish(cars, "cars", "other", 0, 1)
    with cars.open() as log:
        name = f"groups/{log.id}/cars/fraud/checkpoints/0.json"
        log.blobs.put(name, b"nonsense")
    listed = cars.done("group", "list")
    assert listed.err.startswith(f"eventlog: warning: the blob '{name}' is no document")
    first, second = (columns(line) for line in listed.lines)
    assert first == ["cars", "fraud", "none", "none", "none"]
    assert second[:4] == ["cars", "other", "0", "3"]
    damaged, other = cars.done("group", "list", "--json").json()
    assert (damaged["members"], damaged["lag_events"], other["lag_events"]) == (None, None, 3)
    assert cars("group", "show", "cars", "fraud").failed(1, name)
    assert cars("group", "reset", "cars", "fraud", "--to", "earliest").failed(1, name)
    cars.done("group", "delete", "cars", "fraud")
    assert len(cars.done("group", "list").lines) == 1


# Changing


@pytest.mark.parametrize(
    ("position", "expected"),
    [("earliest", -1), ("latest", 4), ("3", 2), ("-1h", -1), ("2001-01-01T00:00:00Z", -1)],
)
def test_reset_goes_to_any_position(cars: Command, position: str, expected: int) -> None:
    outcome = cars.done("group", "reset", "cars", "fraud", "--to", position, "--partition", "0")
    assert (outcome.out, outcome.err) == (b"", "")
    assert checkpoints(cars) == {0: expected}


def test_reset_is_of_all_partitions_unless_some_are_named(cars: Command) -> None:
    cars.done("group", "reset", "cars", "fraud", "--to", "latest")
    assert checkpoints(cars) == {0: 4, 1: -1}
    named = ["--partition", "1", "--partition", "0"]
    cars.done("group", "reset", "cars", "fraud", "--to", "0", *named)
    assert checkpoints(cars) == {0: -1, 1: -1}


def test_reset_makes_a_group_that_begins_there(cars: Command) -> None:
    cars.done("group", "reset", "cars", "new", "--to", "latest")
    assert checkpoints(cars, "new") == {0: 4, 1: -1}


def test_reset_to_where_nothing_is_changes_nothing(cars: Command) -> None:
    reset = ["group", "reset", "cars", "fraud"]
    assert cars(*reset, "--to", "3").failed(1, "partition 1", "there is no offset 3")
    assert cars(*reset, "--to", "0", "--partition", "7").failed(1, "partition 7")
    assert cars(*reset, "--to", "yesterday").failed(2, "'--to'", "'yesterday' is no position")
    assert cars(*reset).failed(2, "Missing option '--to'")
    assert checkpoints(cars) == {0: 1}


def test_delete_forgets_a_group_and_leaves_others(cars: Command) -> None:
    finish(cars, "cars", "other", 0, 1)
    outcome = cars.done("group", "delete", "cars", "fraud")
    assert (outcome.out, outcome.err) == (b"", "")
    assert [columns(line)[1] for line in cars.done("group", "list").lines] == ["other"]
    assert cars("group", "delete", "cars", "fraud").failed(1, "no group 'fraud'")


def test_delete_of_a_group_with_members_has_to_be_forced(cars: Command) -> None:
    """A consumer that was killed is one, for a while."""
    with cars.open() as log:
        consumer = log.topic("cars").consumer(group="fraud")
        next(consumer.batches())
        (member,) = log.topic("cars").group("fraud").members()
        refused = cars("group", "delete", "cars", "fraud")
        assert refused.failed(1, f"is in use by {member}: stop that first", "--force", "start")
        assert checkpoints(cars)[0] == 1
        cars.done("group", "delete", "cars", "fraud", "--force")
        assert cars("group", "show", "cars", "fraud").failed(1, "no group 'fraud'")
        consumer.close()


def test_of_many_members_delete_names_some(cars: Command) -> None:
    with cars.open() as log:
        ids = GroupIds(log.id, "cars", log.topic("cars").id, "fraud")
        blob = log.blobs.get(ids.document)
        assert isinstance(blob, Blob)
        document = decode(ids.document, blob.data, GroupDocument, ids)
        assert document is not None
        hosts = [f"host-{n}" for n in range(5)]
        log.blobs.put(ids.document, encode(replace(document, hosts=hosts)))
    refused = cars("group", "delete", "cars", "fraud")
    assert refused.failed(1, "in use by host-0, host-1, host-2 and 2 more: stop")
    code, shown = cars.on_terminal("group", "delete", "cars", "fraud", "--yes")
    assert (code, "in use by" in shown, "[y/N]" in shown) == (1, True, False)


def test_delete_asks_on_a_terminal(cars: Command) -> None:
    delete = ["group", "delete", "cars", "fraud"]
    code, shown = cars.on_terminal(*delete, typed=b"n\n")
    assert code == 1
    assert "Delete group fraud of topic cars? [y/N]" in shown
    assert "group fraud of topic cars was not deleted" in shown
    assert checkpoints(cars) == {0: 1}
    code, shown = cars.on_terminal(*delete, typed=b"y\n")
    assert code == 0
    assert shown.endswith("group fraud of topic cars deleted\r\n")
    assert checkpoints(cars) == {}
    finish(cars, "cars", "fraud", 0, 1)
    assert cars.on_terminal(*delete, "--yes") == (0, "group fraud of topic cars deleted\r\n")


def test_a_terminal_gets_tables_and_is_told_what_was_done(cars: Command) -> None:
    code, shown = cars.on_terminal("group", "list")
    assert code == 0
    assert "lag seconds" in shown
    code, shown = cars.on_terminal("group", "show", "cars", "fraud")
    assert code == 0
    assert "group  fraud" in shown
    assert "checkpoint" in shown
    assert cars.on_terminal("group", "reset", "cars", "fraud", "--to", "earliest") == (
        0,
        "group fraud of topic cars reset\r\n",
    )


# Stores elsewhere


def test_every_verb_takes_a_store_of_its_own(cars: Command, tmp_path: Path) -> None:
    store = ["--store", f"file:{tmp_path}/groups"]
    assert cars.done("group", "list", *store).out == b""
    cars.done("group", "reset", "cars", "there", "--to", "2", "--partition", "0", *store)
    (listed,) = cars.done("group", "list", *store).lines
    assert columns(listed)[:4] == ["cars", "there", "0", "3"]
    (first, _) = cars.done("group", "lag", "cars", "there", *store).lines
    assert columns(first)[:2] == ["0", "3"]
    assert "group\tthere" in cars.done("group", "show", "cars", "there", *store).lines
    assert [columns(line)[1] for line in cars.done("group", "list").lines] == ["fraud"]
    cars.done("group", "delete", "cars", "there", *store)
    assert cars.done("group", "list", *store).out == b""
    assert checkpoints(cars) == {0: 1}


def test_a_store_that_is_none_is_one_line(cars: Command) -> None:
    assert cars("group", "list", "--store", "gopher://x").failed(1, "no store for gopher")


def test_a_log_that_can_only_be_read_takes_groups_elsewhere(cars: Command, tmp_path: Path) -> None:
    """The log is not written to: nothing of it changes."""
    store = ["--store", f"{tmp_path}/groups"]
    files = {path: path.stat().st_mtime_ns for path in cars.location.iterdir()}
    cars.done("group", "reset", "cars", "there", "--to", "2", "--partition", "0", *store)
    cars.done("group", "delete", "cars", "there", *store)
    data = [path for path in cars.location.iterdir() if path.suffix == ".mdb"]
    assert [files[path] for path in data] == [path.stat().st_mtime_ns for path in data]


def test_groups_need_a_log_that_is_there(command: Command) -> None:
    assert command("group", "list").failed(1, "there is no log")
    assert command("group", "reset", "cars", "x", "--to", "0").failed(1, "there is no log")
    assert not command.location.exists()


def test_the_help_names_every_verb(command: Command) -> None:
    shown = command.bare("group", "--help").out.decode()
    for verb in ("list", "show", "lag", "reset", "delete"):
        assert re.search(rf"^  {verb}\b", shown, re.MULTILINE), verb
        assert command.bare("group", verb, "--help").code == 0
