"""``eventlog dead-letters`` on engines with and without room for documents: each goes back once."""

from __future__ import annotations

import contextlib
import random
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventlog
from eventlog import EventLog, LogBusyError
from eventlog.cli.dead_letters.replayed import AlreadyReplayedError, Replayed, Replaying
from eventlog.processor.dead_letters import Attempts, dead_letter
from tests.cli.running import Command

LETTERS = 6


class Place:
    """A log, with topics ``cars`` and ``dead`` of names of their own; all letters are in one
    partition.
    """

    def __init__(self, location: str, store: str) -> None:
        self.location = location
        self.store = store
        self.log: EventLog = eventlog.open(location, blobs=store or None)
        self.cars, self.dead = (
            self.log.create_topic(f"{name}-{secrets.token_hex(4)}", partitions=1)
            for name in ("cars", "dead")
        )
        self.cars.append_batch([b"%d" % number for number in range(LETTERS)])
        letters = [
            dead_letter(event, "fraud", "as it is", Attempts(1)) for event in self.cars.read(0)
        ]
        self.dead.append_batch(letters)
        self.offsets = [event.offset for event in self.dead.read(0)]

    def command(self, *arguments: str) -> list[str]:
        store = ["--store", self.store] if self.store else []
        return ["dead-letters", *arguments, *store, "--log", self.location]

    def replayed(self) -> Counter[bytes]:
        """What was appended beside the first events."""
        return Counter(event.body for event in self.cars.read(0)[LETTERS:])

    def memory(self) -> Replayed:
        store = self.log.own_blobs or self.log.store(self.store)
        return Replayed(self.dead, 0, store)

    def replay(self, memory: Replayed, *rows: int) -> None:
        """What the command does with these letters."""
        letters = self.dead.read(0)
        with self.log.transaction() as tx:
            replaying = memory.replaying([self.offsets[row] for row in rows], again=False)
            tx.attach(replaying, self.log.own_blobs or self.log.store(self.store))
            tx.append_batch(self.cars, [letters[row].body for row in rows])


@pytest.fixture
def place(each_engine: tuple[str, str]) -> Iterator[Place]:
    made = Place(*each_engine)
    with made.log:
        yield made


def bodies(*rows: int) -> Counter[bytes]:
    return Counter(b"%d" % row for row in rows)


def test_letters_go_back_once_however_often_it_is_said(place: Place) -> None:
    run = Command(Path()).bare
    one, dead = f"0:{place.offsets[2]}", place.dead.name
    assert run(*place.command("replay", dead, one)).lines == [f"{place.cars.name}\t1\t0"]
    assert run(*place.command("replay", dead)).lines == [f"{place.cars.name}\t5\t1"]
    assert run(*place.command("replay", dead)).lines == [f"{place.cars.name}\t0\t6"]
    assert place.replayed() == bodies(*range(LETTERS))
    listed = run(*place.command("list", dead)).lines
    assert [line.split("\t")[-1] for line in listed] == ["yes"] * LETTERS
    assert b"replayed\tyes" in run(*place.command("show", dead, one)).out
    assert place.dead.groups(place.store or None) == []


def test_many_who_replay_at_once_replay_each_letter_once(place: Place) -> None:
    replay = place.command("replay", place.dead.name)
    assert Command(Path(place.location)).all_at_once(3, *replay) == [0] * 3
    assert place.replayed() == bodies(*range(LETTERS))


def test_who_is_killed_behind_the_commit_has_replayed_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Replaying, "committed", lambda self: None)
        place.replay(place.memory(), 0, 1)
    with pytest.raises(AlreadyReplayedError):
        place.replay(place.memory(), 1, 2)
    place.replay(place.memory(), 2)
    assert place.replayed() == bodies(0, 1, 2)
    assert place.offsets[0] in place.memory()


def test_who_is_killed_before_the_commit_has_replayed_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = Replayed.attempt

    def and_fail(self: Replayed, *arguments: Any, **more: Any) -> None:
        attempt(self, *arguments, **more)
        raise LogBusyError("on purpose")

    with monkeypatch.context() as patched:
        patched.setattr(Replayed, "attempt", and_fail)
        for _ in range(2):
            with pytest.raises(LogBusyError):
                place.replay(place.memory(), 0, 1)
    memory = place.memory()
    assert place.offsets[0] not in memory
    place.replay(memory, 1, 2)
    assert place.replayed() == bodies(1, 2)
    now = place.memory()
    assert [place.offsets[row] in now for row in range(4)] == [False, True, True, False]


def test_one_who_was_overtaken_replays_nothing(place: Place) -> None:
    early = place.memory()
    place.replay(place.memory(), 0, 1)
    with pytest.raises(AlreadyReplayedError):
        place.replay(early, 1)
    place.replay(early, 2)
    place.replay(place.memory(), 3)
    assert place.replayed() == bodies(0, 1, 2, 3)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_whoever_is_killed_at_whatever_moment_each_letter_goes_back_once(
    place: Place, seed: int
) -> None:
    chance = random.Random(seed)
    command = Command(Path(place.location))
    for offset in place.offsets:
        verb = place.command("replay", place.dead.name, f"0:{offset}")
        for _ in range(3):
            with command.started(*verb) as one, command.started(*verb) as other:
                for process in (one, other):
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(chance.uniform(0.2, 1.2))
    assert command.bare(*place.command("replay", place.dead.name)).code == 0
    assert place.replayed() == bodies(*range(LETTERS))
